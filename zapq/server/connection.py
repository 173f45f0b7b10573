"""One client connection: bytes from the socket to Hypercorn's protocol and back, bounded and contained.

It stands where Hypercorn's own trio `TCPServer` would, with the same parts below and above it. What differs:
any error ends this connection only; every write has a deadline; one task reads, and its deadline is the idle,
head and linger timeout in turn; a closing connection reads on for a moment, so that the client gets our
answer and not a reset.
"""

from __future__ import annotations

import logging
from math import inf

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import parse_socket_addr

from zapq import logs
from zapq.http.metrics import Traffic
from zapq.http.tracing import TraceIds
from zapq.server.protocols import HTTP1, HTTP2
from zapq.settings import (
    GOODBYE_SECONDS,
    HANDSHAKE_SECONDS,
    KIB,
    LINGER_BYTES,
    LINGER_SECONDS,
    SEND_PIECE_BYTES,
    Settings,
)

RECEIVE_BYTES = 64 * KIB

Peer = tuple[str, int] | None
Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class Host:
    """What the connections of one server share."""

    def __init__(self, app: AppWrapper, config: Config, settings: Settings, traffic: Traffic) -> None:
        self.app = app
        self.config = config
        self.settings = settings
        self.traffic = traffic
        self.context = WorkerContext(None)
        self.trace_ids = TraceIds()
        self.throttle = logs.Throttle()
        self.connections: set[Connection] = set()

    async def stop(self) -> None:
        """Let every connection end with the request it is at; those between requests end now."""
        await self.context.terminated.set()
        for connection in list(self.connections):
            connection.close_if_idle()


class Connection:
    """Serves one stream until either side ends it."""

    def __init__(self, host: Host, stream: Stream) -> None:
        self.written = 0
        self.broken = False
        self._host = host
        self._stream = stream
        self._tls = isinstance(stream, trio.SSLStream)
        self._socket = stream.transport_stream.socket if isinstance(stream, trio.SSLStream) else stream.socket
        self._send_lock = trio.Lock()
        self._life = trio.CancelScope()
        self._reading: trio.CancelScope | None = None
        self._deadline = inf
        self._idle = True
        self._head_begun = False
        self._lingering = False

    async def run(self) -> None:
        """Serve the connection and close it; raises nothing but cancellation.

        Whatever goes wrong in Hypercorn, h11, h2, Quart or here is this connection's end and nobody else's.
        """
        self._host.connections.add(self)
        self._host.traffic.connections += 1
        try:
            await self._serve_and_close()
        except (Exception, BaseExceptionGroup) as error:
            stop, ours = _split(error)
            if ours is not None:
                self._host.traffic.connection_errors += 1
                self._host.throttle.say(logging.ERROR, "connection-error", "connection failed", error=repr(ours))
                logs.log.debug("connection failed", exc_info=ours)
            if stop is not None:
                raise stop from None
        finally:
            self._host.connections.discard(self)
            self._host.traffic.connections -= 1

    def close_if_idle(self) -> None:
        """End the connection unless a request is under way or begun."""
        if self._idle and not self._head_begun:
            self._lingering = True
            self._read_until(-inf)

    async def _serve_and_close(self) -> None:
        try:
            await self._serve()
        finally:
            # Closing TLS writes a goodbye, which a client that does not read would hold up.
            with trio.move_on_after(GOODBYE_SECONDS, shield=True) as patience:
                if self.broken or not self._tls:
                    patience.cancel()
                await self._stream.aclose()

    async def _serve(self) -> None:
        alpn = None
        try:
            if isinstance(self._stream, trio.SSLStream):
                with trio.fail_after(HANDSHAKE_SECONDS):
                    await self._stream.do_handshake()
                alpn = self._stream.selected_alpn_protocol()
            client = parse_socket_addr(self._socket.family, self._socket.getpeername())
            server = parse_socket_addr(self._socket.family, self._socket.getsockname())
        except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
            logs.say(logging.DEBUG, "client gone before its first request", error=repr(error))
            return
        with self._life:
            await self._speak(alpn, client, server)

    async def _speak(self, alpn: str | None, client: Peer, server: Peer) -> None:
        state = ConnectionState({"link": self, "trace_ids": self._host.trace_ids})
        async with TaskGroup() as tasks:
            common = (self._host.app, self._host.config, self._host.context, tasks, state)
            ends = (self._tls, client, server, self._on_event)
            self._protocol = HTTP2(*common, *ends) if alpn == "h2" else HTTP1(*common, *ends, refuse=self._refuse)
            self._read_for(self._host.settings.keep_alive)
            await self._protocol.initiate()
            await self._read()
            await self._protocol.handle(Closed())

    async def _read(self) -> None:
        discarded = 0
        while True:
            with trio.CancelScope(deadline=self._deadline) as self._reading:
                try:
                    data = await self._stream.receive_some(RECEIVE_BYTES)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return
            if self._reading.cancelled_caught:
                return
            if self._lingering:
                discarded += len(data)
                if not data or discarded > LINGER_BYTES:
                    return
                continue
            await self._protocol.handle(RawData(bytes(data)))
            if not data:
                return
            # Not in HTTP/2, where bytes between requests are acknowledgements and pings.
            begun = self._idle and isinstance(self._protocol, HTTP1)
            if begun and not self._head_begun and not self._lingering:
                self._head_begun = True
                self._read_for(self._host.settings.head_timeout)

    async def _on_event(self, event: Event) -> None:
        """Take what the protocol has to say to the socket."""
        match event:
            case RawData(data=data):
                if data:
                    await self._send(data)
            case Updated(idle=idle):
                self._idle = idle
                self._head_begun = False
                self._read_for(self._host.settings.keep_alive if idle else inf)
                if self._host.context.terminated.is_set():
                    self.close_if_idle()
            case Closed():
                await self._linger()
                await self._protocol.handle(Closed())

    async def _send(self, data: bytes) -> None:
        async with self._send_lock:
            if self.broken:
                return
            try:
                for start in range(0, len(data), SEND_PIECE_BYTES):
                    with trio.fail_after(self._host.settings.send_timeout):
                        await self._send_piece(memoryview(data)[start : start + SEND_PIECE_BYTES])
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
                self.broken = True
                logs.say(logging.DEBUG, "client does not read", error=repr(error))
                # Nobody will read an answer: neither this one nor those to requests already received.
                self._life.cancel()
            except trio.Cancelled:
                self.broken = True
                raise

    async def _send_piece(self, piece: memoryview) -> None:
        if self._tls:
            # What of a TLS record the kernel took before an error, nobody can say: count it as written.
            self.written += len(piece)
            await self._stream.send_all(piece)
            return
        # The socket and not the stream: `send_all` does not tell how much was written before it failed.
        while piece:
            sent = await self._socket.send(piece)
            self.written += sent
            piece = piece[sent:]

    async def _linger(self) -> None:
        """Say that nothing more will come, and go on reading for a moment.

        Closing with unread bytes in the receive buffer makes the kernel send a reset, which may overtake the
        answer the client has not read yet.
        """
        if self._lingering:
            return
        self._lingering = True
        # Whatever still runs for this connection has nobody to answer; this is its last call.
        self._life.deadline = trio.current_time() + 2 * LINGER_SECONDS
        if isinstance(self._stream, trio.SocketStream):
            try:
                await self._stream.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
                self._read_until(-inf)
            else:
                self._read_for(LINGER_SECONDS)
        else:
            # TLS has no half-close in Trio: a goodbye is said when the stream is closed.
            self._read_until(-inf)

    def _read_for(self, seconds: float) -> None:
        self._read_until(trio.current_time() + seconds)

    def _read_until(self, deadline: float) -> None:
        if self._lingering and deadline > self._deadline:
            return  # a connection on its way out gets no more time
        self._deadline = deadline
        if self._reading is not None:
            self._reading.deadline = deadline

    def _refuse(self, status: int, detail: str, *, left: bool) -> str:
        trace_id = self._host.trace_ids.new()
        self._host.traffic.wire_refusals += not left
        level = logging.DEBUG if left else logging.WARNING
        self._host.throttle.say(
            level, f"wire-{status}", "refused", trace_id=trace_id, status=status, reason=detail
        )
        return trace_id


def _split(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Part what must go on up (cancellation, keyboard interrupt) from what ends here."""
    if isinstance(error, BaseExceptionGroup):
        return error.split((trio.Cancelled, KeyboardInterrupt, SystemExit))
    return None, error
