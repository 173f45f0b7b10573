"""What engines share whose queues are elsewhere: what is asked travels in batches, and outcomes arrive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from zapq.engine.engine import Outcomes
from zapq.errors import QueueFull
from zapq.service.reservation import Budget, Reservation


class Elsewhere:
    """The front end's side of queues that are not in this process."""

    def __init__(self, max_body_bytes: int) -> None:
        """`max_body_bytes` is the room for messages that are being received."""
        self._room = Budget(max_body_bytes)
        self._corked = self._due = self._is_watched = False
        self._changed = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Have all that is asked in this block travel together; while a batch is under way, with the next one."""
        self._corked = True
        try:
            yield
        finally:
            self._corked = False
            self._flush()

    @contextmanager
    def watched(self) -> Iterator[Outcomes | None]:
        """Have the caller see to outcomes."""
        self._is_watched = True
        try:
            yield self
        finally:
            self._is_watched = False
            self._changed.set()

    def fileno(self) -> int:
        """Return the descriptor that is readable when outcomes have arrived."""
        raise NotImplementedError

    def answer(self) -> None:
        """Have done all that has an outcome by now."""
        raise NotImplementedError

    def reservation(self, queue: str) -> Reservation:
        """Return a reservation, of no bytes yet, for a message that is being received; it counts here only."""
        return Reservation(self._room, lambda size: QueueFull(queue=queue, limit="max_bytes", current=size))

    def _send_gathered(self) -> None:
        """Send the next batch, unless one is under way."""
        raise NotImplementedError

    def _schedule(self) -> None:
        if not (self._corked or self._due):
            self._due = True
            self._token.run_sync_soon(self._flush)

    def _flush(self) -> None:
        self._due = False
        if not self._corked:
            self._send_gathered()

    async def _read(self) -> None:
        """See to outcomes while no lobby does."""
        while True:
            if self._is_watched:
                await self._wait_for_change()
                continue
            await trio.lowlevel.wait_readable(self.fileno())
            if not self._is_watched:
                self.answer()

    async def _wait_for_change(self) -> None:
        if self._changed.is_set():
            self._changed = trio.Event()
        await self._changed.wait()
