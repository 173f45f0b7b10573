"""A proxy between a client and its server that spoils connections as it is told."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import trio


@dataclass(frozen=True)
class Cut:
    """Where a connection is cut: after so many bytes of the request, or of the answer; after that in any case."""

    request: int | None = None
    answer: int | None = None
    reset: bool = False
    """Whether it is reset, and not closed."""


@dataclass(frozen=True)
class Say:
    """What is answered instead of asking the server, before the connection is closed."""

    answer: bytes


@dataclass(frozen=True)
class Hang:
    """The request is passed on, and its answer never comes."""


@dataclass(frozen=True)
class Trickle:
    """What is said comes byte by byte."""


@dataclass(frozen=True)
class Once:
    """The connection is closed after its first answer, which does not say so."""

    then_listen: bool = False
    """Whether it is closed only when the next request came, which is not passed on."""


Fault = Cut | Say | Hang | Trickle | Once


class FaultProxy:
    """What happens to connections, in turn; those after them are passed on as they are."""

    def __init__(self, url: str, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.faults: list[Fault] = []
        self.connections = 0
        """Made so far."""
        self.open: set[trio.SocketStream] = set()
        server = urlsplit(url)
        self._server = (server.hostname or "", server.port or 0)

    async def handle(self, client: trio.SocketStream) -> None:
        """Pass on what a client says, until it or the server closes, or it is cut."""
        self.connections += 1
        self.open.add(client)
        fault = self.faults.pop(0) if self.faults else None
        try:
            async with client, await trio.open_tcp_stream(*self._server) as server:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._answers, client, server, fault, nursery.cancel_scope)
                    await self._requests(client, server, fault)
                    nursery.cancel_scope.cancel()
                if isinstance(fault, Cut) and fault.reset:
                    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.socket.close()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.open.discard(client)

    async def _requests(self, client: trio.SocketStream, server: trio.SocketStream, fault: Fault | None) -> None:
        passed = 0
        async for data in client:
            if isinstance(fault, Say):
                await client.send_all(fault.answer)
                return
            if isinstance(fault, Once) and passed:
                return
            if isinstance(fault, Cut) and fault.request is not None and passed + len(data) >= fault.request:
                await server.send_all(data[: fault.request - passed])
                return
            passed += len(data)
            await _send(server, data, fault)

    async def _answers(
        self,
        client: trio.SocketStream,
        server: trio.SocketStream,
        fault: Fault | None,
        scope: trio.CancelScope,
    ) -> None:
        passed = 0
        async for data in server:
            if isinstance(fault, Hang):
                continue
            if isinstance(fault, Cut) and fault.answer is not None and passed + len(data) >= fault.answer:
                await client.send_all(data[: fault.answer - passed])
                break
            passed += len(data)
            await _send(client, data, fault)
            if isinstance(fault, Cut) or (isinstance(fault, Once) and not fault.then_listen):
                break
        scope.cancel()


async def _send(stream: trio.SocketStream, data: bytes | bytearray, fault: Fault | None) -> None:
    pieces = [data]
    if isinstance(fault, Trickle):
        pieces = [data[place : place + 1] for place in range(len(data))]
    for piece in pieces:
        await stream.send_all(piece)


@asynccontextmanager
async def fault_proxy(url: str) -> AsyncGenerator[FaultProxy, None]:
    """Run a proxy before the server at `url`."""
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        proxy = FaultProxy(url, listener.socket.getsockname()[1])
        await nursery.start(trio.serve_listeners, proxy.handle, [listener])
        yield proxy
        nursery.cancel_scope.cancel()
