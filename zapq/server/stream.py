"""A client's connection as a Trio task uses it: waiting for what the lobby would come back for."""

from __future__ import annotations

import socket
from contextlib import suppress

import trio

from zapq.limits import RECEIVE_BYTES
from zapq.server.tls import TlsSocket, Wire, socket_of


class ClientStream:
    """Reads and writes `wire`, plain or TLS. It does not own it: without `aclose`, the wire stays as it is."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.socket = socket_of(wire)

    async def receive_some(self) -> bytes:
        """Return what comes next, or nothing at the client's end; raises `OSError` if the connection is broken.

        Cancellation: nothing has been received that is not returned.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                data = self.wire.recv(RECEIVE_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.socket)
            else:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return data

    async def send_some(self, data: bytes | memoryview) -> int:
        """Write some of `data`, and return of how much the client may have got any byte; then send the rest.

        Cancellation: the client has got nothing of `data`. But if some of it was encrypted, nothing else can be
        sent. Raises `OSError` if the connection is broken, and then it has got nothing, either.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                sent = self.wire.send(data)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.socket)
            else:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return sent

    async def send_all(self, data: bytes) -> None:
        """Write all of `data`. Cancellation: the client may have got any part of it."""
        rest = memoryview(data)
        while rest:
            rest = rest[await self.send_some(rest) :]

    def send_eof(self) -> None:
        """Say that nothing more will come; `OSError` if that cannot be said without waiting."""
        self.wire.shutdown(socket.SHUT_WR)

    async def wait(self) -> None:
        """Wait until a handshake that has not got further can."""
        if isinstance(self.wire, TlsSocket) and self.wire.has_unsent:
            await trio.lowlevel.wait_writable(self.socket)
        else:
            await trio.lowlevel.wait_readable(self.socket)

    async def aclose(self) -> None:
        """Close the connection, without waiting for the client. Cancellation: it is closed in any case."""
        if self.socket.fileno() != -1:
            with suppress(OSError):
                trio.lowlevel.notify_closing(self.socket)
            self.wire.close()
        await trio.lowlevel.checkpoint()
