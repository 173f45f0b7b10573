"""The client's network for Trio."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress

import trio

from zapq.client.network import Place, is_readable
from zapq.limits import RECEIVE_BYTES


class PlainConnection:
    """A connection over a socket of its own: Trio's streams yield to other tasks twice a request for nothing."""

    __slots__ = ("_socket",)

    def __init__(self, socket: socket.socket) -> None:
        self._socket = socket

    async def send(self, data: bytes, patience: float) -> None:
        """See `Connection`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        sent = self._send(data)
        if sent == len(data):
            return
        # What is left of many megabytes is not copied each time.
        whole = memoryview(data)
        with trio.CancelScope(deadline=trio.current_time() + patience) as scope:
            while sent < len(data):
                await trio.lowlevel.wait_writable(self._socket)
                sent += self._send(whole[sent:])
        if scope.cancelled_caught:
            raise TimeoutError("it took too long to send the request")

    def _send(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    async def receive(self, patience: float) -> bytes:
        """See `Connection`."""
        with trio.CancelScope(deadline=trio.current_time() + patience):
            while True:
                await trio.lowlevel.wait_readable(self._socket)
                try:
                    return self._socket.recv(RECEIVE_BYTES)
                except BlockingIOError:
                    continue
        raise TimeoutError("it took too long")

    def is_stale(self) -> bool:
        """See `Connection`."""
        return is_readable(self._socket.fileno())

    def finish(self) -> None:
        """See `Connection`."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """See `Connection`."""
        self._socket.close()


class TlsConnection:
    """A connection over a stream of Trio's."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream], socket: trio.socket.SocketType) -> None:
        self._stream = stream
        self._socket = socket
        # What came in one piece with the last answer waits here, where the socket no longer shows it.
        self._incoming: ssl.MemoryBIO = stream._incoming

    async def send(self, data: bytes, patience: float) -> None:
        """See `Connection`."""
        try:
            with trio.fail_after(patience):
                await self._stream.send_all(data)
        except trio.TooSlowError:
            raise TimeoutError("it took too long to send the request") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:  # the latter after `finish`
            raise broken(error) from error

    async def receive(self, patience: float) -> bytes:
        """See `Connection`."""
        try:
            with trio.fail_after(patience):
                return bytes(await self._stream.receive_some(RECEIVE_BYTES))
        except trio.TooSlowError:
            raise TimeoutError("it took too long") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            # The latter if TLS itself has something to send after `finish`.
            raise broken(error) from error

    def is_stale(self) -> bool:
        """See `Connection`."""
        return bool(self._incoming.pending) or is_readable(self._socket.fileno())

    def finish(self) -> None:
        """See `Connection`."""
        with suppress(OSError):
            # Not TLS's own goodbye, which would wait.
            self._socket.shutdown(trio.socket.SHUT_WR)

    def close(self) -> None:
        """See `Connection`."""
        self._socket.close()


class TrioNetwork:
    """Opens connections in a Trio program."""

    async def connect(self, place: Place, patience: float) -> PlainConnection | TlsConnection:
        """See `Network`."""
        try:
            with trio.fail_after(patience):
                if isinstance(place.address, str):
                    stream = await trio.open_unix_socket(place.address)
                else:
                    stream = await trio.open_tcp_stream(*place.address)
                if place.tls is None:
                    plain = socket.socket(fileno=stream.socket.detach())
                    plain.setblocking(False)
                    return PlainConnection(plain)
                # Proxies and servers do not always say goodbye, and how long an answer is stands in its head.
                secure = trio.SSLStream(stream, place.tls, server_hostname=place.name, https_compatible=True)
                try:
                    await secure.do_handshake()
                except BaseException:
                    stream.socket.close()
                    raise
                return TlsConnection(secure, stream.socket)
        except trio.TooSlowError:
            raise TimeoutError("it took too long to connect") from None
        except trio.BrokenResourceError as error:
            raise broken(error) from error

    async def sleep(self, seconds: float) -> None:
        """See `Network`."""
        await trio.sleep(seconds)

    async def close(self) -> None:
        """See `Network`."""


def broken(error: trio.BrokenResourceError | trio.ClosedResourceError) -> OSError:
    """Return what the system said, of which Trio made its own error."""
    cause = error.__cause__
    return cause if isinstance(cause, OSError) else ConnectionError(str(error) or "the connection broke")
