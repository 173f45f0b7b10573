"""Settling many leases by one request: what is said of each in a few milliseconds is sent together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import anyio

from zapq.core.settlement import Settlement
from zapq.errors import NoAnswer, ZapqError
from zapq.limits import MAX_BATCH, SETTLE_LINGER

Told: TypeAlias = Callable[[ZapqError | None], None]
"""Is told what became of a settlement: None, or why it was refused."""


class Settles(Protocol):
    """What a settler uses of a client."""

    async def settle(self, queue: str, settlements: Sequence[Settlement]) -> list[ZapqError | None]:
        """See `Client.settle`."""


class Settler:
    """Gathers settlements, and sends those of the last 5 ms together, or at once when it is hurried."""

    def __init__(self, client: Settles, queue: str) -> None:
        self._client = client
        self._queue = queue
        self._gathered: list[tuple[Settlement, Told]] = []
        self._begun = anyio.Event()
        """Set when there is something to send ..."""
        self._due = anyio.Event()
        """... and when it has waited for long enough."""

    def add(self, settlement: Settlement, told: Told) -> None:
        """Have a settlement sent; `told` is called in any case, by `run` or by `give_up`."""
        self._gathered.append((settlement, told))
        self._begun.set()
        if len(self._gathered) >= MAX_BATCH:
            self._due.set()

    def hurry(self) -> None:
        """Have what there is sent without waiting for more."""
        self._due.set()

    async def run(self) -> None:
        """Send what is gathered until cancelled; each of a batch that fails as a whole is told so."""
        while True:
            await self._begun.wait()
            with anyio.move_on_after(SETTLE_LINGER):
                await self._due.wait()
            batch, self._gathered = self._gathered[:MAX_BATCH], self._gathered[MAX_BATCH:]
            self._due = anyio.Event()
            if not self._gathered:
                self._begun = anyio.Event()
            results: Sequence[ZapqError | None] = [_unknown()] * len(batch)
            try:
                results = await self._client.settle(self._queue, [settlement for settlement, _ in batch])
            except ZapqError as error:
                results = [error] * len(batch)
            finally:
                for (_, told), result in zip(batch, results, strict=True):
                    told(result)

    def give_up(self) -> None:
        """Send nothing more: what is gathered is told that it was not sent."""
        batch, self._gathered = self._gathered, []
        for _, told in batch:
            told(_unknown())


def _unknown() -> ZapqError:
    return NoAnswer("The consumer ended before the server answered.")
