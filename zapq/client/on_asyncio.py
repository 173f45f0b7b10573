"""The client's network for asyncio: a protocol of its own, for streams cost several times as much."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from operator import itemgetter
from typing import Any, cast

from zapq.client.network import Place, is_readable
from zapq.limits import NEXT_ADDRESS_SECONDS, RECEIVE_BYTES


class AsyncioConnection(asyncio.Protocol):
    """A connection over a transport of asyncio's."""

    def __init__(self, network: AsyncioNetwork) -> None:
        self._network = network
        self._loop = network.loop
        self._transport: asyncio.Transport | None = None
        self._data = b""
        """What came and was not fetched yet."""
        self._ended = False
        self._finished = False
        """Whether nothing more is sent."""
        self._error: OSError | None = None
        self._full = False
        """Whether the transport wants nothing more for now."""
        self._paused = False
        """Whether the transport reads nothing for now."""
        self._waiter: asyncio.Future[None] | None = None
        """Of the one task that uses the connection; woken by all that happens to it."""

    async def send(self, data: bytes, patience: float) -> None:
        """See `Connection`."""
        if self._finished:
            # asyncio's own word for it is no OSError.
            raise BrokenPipeError("nothing more can be sent on this connection")
        self._check()
        assert self._transport is not None, "it has not ended"
        self._transport.write(data)
        while self._full:
            await self._wait(patience, "it took too long to send the request")
            self._check()

    async def receive(self, patience: float) -> bytes:
        """See `Connection`."""
        while not self._data:
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            await self._wait(patience, "it took too long")
        data, self._data = self._data, b""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    def is_stale(self) -> bool:
        """See `Connection`."""
        if self._ended or self._data or self._transport is None or self.is_closing:
            return True
        return is_readable(self._transport.get_extra_info("socket").fileno())

    @property
    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self._transport is not None and self._transport.is_closing()

    def finish(self) -> None:
        """See `Connection`."""
        if self._finished or self._transport is None or self.is_closing:
            return
        self._finished = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
            return
        # TLS has no half of a connection, but its socket has. uvloop's stand-in for that has only its number.
        number = self._transport.get_extra_info("socket").fileno()
        with suppress(OSError), socket.socket(fileno=os.dup(number)) as below:
            below.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """See `Connection`."""
        if self._transport is not None:
            self._transport.abort()

    def _check(self) -> None:
        if self._ended:
            raise self._error or ConnectionResetError("the server closed the connection")

    async def _wait(self, patience: float, late: str) -> None:
        """Wait until something happens to the connection."""
        self._waiter = waiter = self._loop.create_future()
        timer = self._loop.call_later(patience, _end, waiter, late)
        try:
            await waiter
        finally:
            self._waiter = None
            timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note of the transport."""
        # uvloop's is one by what it can do, not by its class.
        self._transport = cast("asyncio.Transport", transport)
        self._network.open.add(self)

    def data_received(self, data: bytes) -> None:
        """Keep what came."""
        self._data = self._data + data if self._data else data
        if self._waiter is None and len(self._data) > RECEIVE_BYTES and self._transport is not None:
            # Nobody fetches it, maybe nobody asked for it: the rest stays with the system.
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        """Take note of the end."""
        self._ended = True
        self._wake()

    def pause_writing(self) -> None:
        """Take note that much is under way."""
        self._full = True

    def resume_writing(self) -> None:
        """Take note that there is room again."""
        self._full = False
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that it is gone, and why."""
        self._ended, self._full, self._transport = True, False, None
        if isinstance(exc, OSError):
            self._error = exc
        self._network.open.discard(self)
        self._wake()


class AsyncioNetwork:
    """Opens connections in a program of asyncio's."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.open: set[AsyncioConnection] = set()
        """Those that are not gone yet."""

    async def connect(self, place: Place, patience: float) -> AsyncioConnection:
        """See `Network`."""
        name = place.name if place.tls is not None else None
        async with asyncio.timeout(patience):
            if isinstance(place.address, str):
                _, connection = await self.loop.create_unix_connection(
                    lambda: AsyncioConnection(self), place.address
                )
            else:
                host, port = place.address
                where: dict[str, Any] = {"host": host, "port": port}
                # Of a name's addresses uvloop tries one after the other.
                if isinstance(self.loop, asyncio.BaseEventLoop) and not _is_address(host):
                    where = {"sock": await _connected(self.loop, host, port)}
                _, connection = await self.loop.create_connection(
                    lambda: AsyncioConnection(self), **where, ssl=place.tls, server_hostname=name
                )
        return connection

    async def sleep(self, seconds: float) -> None:
        """See `Network`."""
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """See `Network`."""
        # The transport of one that is closed says so in one of the loop's next turns. Those in use belong to tasks
        # that outlive the client, and are closed as these end.
        while any(connection.is_closing for connection in self.open):  # noqa: ASYNC110 - it is the very next turn
            await asyncio.sleep(0)


async def _connected(loop: asyncio.AbstractEventLoop, host: str, port: int) -> socket.socket:
    """Return a socket that is connected to the first address of a name that lets it, tried side by side.

    asyncio has this as well, but loses a socket that is connected in the moment in which it is cancelled.
    """
    ways = _in_turns(await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    trying: dict[asyncio.Task[None], socket.socket] = {}
    error = OSError("its name has no address")
    try:
        while ways or trying:
            if ways:
                family, address = ways.popleft()
                each = socket.socket(family, socket.SOCK_STREAM)
                each.setblocking(False)
                trying[loop.create_task(loop.sock_connect(each, address))] = each
            done, _ = await asyncio.wait(
                trying, timeout=NEXT_ADDRESS_SECONDS if ways else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                refused = task.exception()
                each = trying.pop(task)
                if refused is None:
                    return each
                each.close()
                if not isinstance(refused, OSError):
                    raise refused
                error = refused
    finally:
        for task, each in trying.items():
            # Not by the task, which ends later: its number may be another socket's by then.
            loop.remove_writer(each)
            each.close()
            if not task.cancel() and not task.cancelled():
                task.exception()  # or asyncio says that no one has asked for it
    raise error


def _in_turns(found: Sequence[tuple[Any, ...]]) -> deque[tuple[int, Any]]:
    """Return where to connect to: the first address of each family, then the second ones, and so on."""
    seen: Counter[int] = Counter()
    ways: list[tuple[int, int, Any]] = []
    for family, _, _, _, address in found:
        ways.append((seen[family], family, address))
        seen[family] += 1
    return deque((family, address) for _, family, address in sorted(ways, key=itemgetter(0)))


def _end(waiter: asyncio.Future[None], late: str) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError(late))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
