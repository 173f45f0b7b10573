"""Long polls of a consumer for asyncio and Trio, which it ends without losing sight of what they bring.

A poll that is cancelled may have been given messages all the same: they would stay leased until their visibility
is over. So its connection is closed for sending only. Then the server answers at once, mostly that there is none.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from zapq.client.calls import Calls
from zapq.client.lease import Lease
from zapq.client.network import Connection, Network, Place
from zapq.client.talk import Talk


class Polls:
    """The long polls of one task, on a connection of their own."""

    def __init__(self, talk: Talk, calls: Calls) -> None:
        self.ended = False
        """Whether nothing more is asked."""
        self._network = _Network(talk.network)
        self._talk = talk.over(self._network)
        self._calls = calls
        self._asking = False

    async def receive_many(
        self, queue: str, limit: int, *, wait: float, visibility: float | None = None
    ) -> list[Lease]:
        """See `Client.receive_many`; there is nothing once it has ended."""
        if self.ended:
            return []
        self._asking = True
        try:
            return await self._talk.do(self._calls.receive_many(queue, limit, wait=wait, visibility=visibility))
        finally:
            self._asking = False

    def end(self) -> bool:
        """Ask for nothing more, and return whether an answer is to come soon: it may have messages."""
        self.ended = True
        self._network.end()
        return self._asking and not self._network.away

    def close(self) -> None:
        """Close the connection."""
        self._talk.close_idle()


class _Network:
    """A network that one task uses, so that one of its connections is open at most."""

    def __init__(self, network: Network) -> None:
        self.away = False
        """Whether no request is under way: it connects or pauses."""
        self._network = network
        self._connection: Connection | None = None
        self._ended = False

    async def connect(self, place: Place, patience: float) -> Connection:
        """See `Network`."""
        if self._ended:
            raise ConnectionAbortedError("the consumer has ended")
        with self._leaving():
            self._connection = await self._network.connect(place, patience)
        return self._connection

    async def sleep(self, seconds: float) -> None:
        """See `Network`."""
        if not self._ended:
            with self._leaving():
                await self._network.sleep(seconds)

    async def close(self) -> None:
        """See `Network`."""

    def end(self) -> None:
        """Send nothing more."""
        self._ended = True
        if self._connection is not None:
            self._connection.finish()

    @contextmanager
    def _leaving(self) -> Generator[None, None, None]:
        self.away = True
        try:
            yield
        finally:
            self.away = False
