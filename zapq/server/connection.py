"""One client connection in a task of its own: bytes from the socket to Hypercorn's protocol and back.

It stands where Hypercorn's own trio `TCPServer` would, with the same parts below and above it. What differs:
any error ends this connection only; every write has a deadline; one task reads, and its deadline is the idle,
head and linger timeout in turn; a closing connection reads on for a moment, so that the client gets our
answer and not a reset. A connection comes from the lobby with the bytes received there, and goes back between two
requests. What its states are, and which may follow which, is in `zapq/server/states.py`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from email.utils import formatdate
from math import inf

import trio
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.task_group import TaskGroup
from hypercorn.typing import ConnectionState as ProtocolState
from hypercorn.utils import parse_socket_addr

from zapq import logs
from zapq.access.certificate import NOBODY
from zapq.http import problems
from zapq.http.exchange import shown_path
from zapq.http.refused import Refused
from zapq.limits import (
    HANDSHAKE_SECONDS,
    LINGER_BYTES,
    LINGER_SECONDS,
    MAX_LOGGED_METHOD,
    SEND_PIECE_BYTES,
)
from zapq.server.hotpath import Answers
from zapq.server.peer_network import peer_of_socket
from zapq.server.protocols import HTTP1, HTTP2
from zapq.server.site import Site
from zapq.server.states import CONNECTION, ConnectionState
from zapq.server.stream import ClientStream
from zapq.server.tls import PlainHTTP, TlsSocket
from zapq.service.reservation import Reservation

_LINE = re.compile(rb"([A-Za-z]{1,%d}) +(/[\x21-\x3e\x40-\x7e]*)" % MAX_LOGGED_METHOD)
_ENDED = {
    ConnectionState.RETURNING,
    ConnectionState.RETURNED,
    ConnectionState.LINGERING,
    ConnectionState.BROKEN,
    ConnectionState.CLOSED,
}
"""Where no further request is read."""
Peer = tuple[str, int] | None


@dataclass(frozen=True, slots=True)
class Handoff:
    """How far a connection had come in the lobby."""

    received: bytes = b""
    """What its client has sent and no answer was given to."""
    head_deadline: float | None = None
    """Until when the head that this begins must be complete, if it was not new."""
    body_deadline: float | None = None
    """Until when the body must be."""
    reserved: Reservation | None = None
    """What is reserved for it, to be given back by the task that takes this over."""
    unsent: Answers | None = None
    """Answers of which the kernel has taken only the first `sent` bytes."""
    sent: int = 0


class Connection:
    """Serves one stream until either side ends it, or until it can go back to the lobby.

    `hand_back` takes what was received of the next request, and the socket with it.
    """

    def __init__(
        self,
        site: Site,
        stream: ClientStream,
        *,
        network: str = "",
        handoff: Handoff = Handoff(),
        hand_back: Callable[[bytes], None] | None = None,
    ) -> None:
        self.written = 0
        self.body_deadline = handoff.body_deadline
        self.identities = NOBODY
        self.reserved = handoff.reserved
        self._site = site
        self._stream = stream
        self._tls = stream.wire if isinstance(stream.wire, TlsSocket) else None
        self._network = network
        self._handoff = handoff
        self._head_deadline = handoff.head_deadline
        self._hand_back = hand_back
        self._rest = b""
        self._send_lock = trio.Lock()
        self._life = trio.CancelScope()
        self._reading: trio.CancelScope | None = None
        self._deadline = inf
        self._state = ConnectionState.IDLE
        if self._tls is not None and not self._tls.established:
            self._state = ConnectionState.HANDSHAKE
        elif handoff.unsent is not None:
            self._state = ConnectionState.FINISHING

    @property
    def broken(self) -> bool:
        """Whether an answer could not be sent."""
        return self._state is ConnectionState.BROKEN

    def _become(self, state: ConnectionState) -> None:
        assert state is self._state or state in CONNECTION[self._state], (
            f"{self._state.name} cannot become {state.name}"
        )
        self._state = state

    async def run(self) -> None:
        """Serve the connection and close it; raises nothing but cancellation.

        An error in Hypercorn, h11, h2, Quart or here is the end of this connection and of no other.
        """
        self._site.connections.add(self)
        try:
            await self._serve_and_close()
        except (Exception, BaseExceptionGroup) as error:
            stop, ours = _split(error)
            if ours is not None:
                self._site.note_failure(ours)
            if stop is not None:
                raise stop from None
        finally:
            if self.reserved is not None:
                self.reserved.release()
            self._site.connections.discard(self)
            if self._state is not ConnectionState.RETURNED:
                self._site.leave(self._network)

    def close_if_idle(self) -> None:
        """End the connection unless a request is under way or begun."""
        match self._state:
            case ConnectionState.IDLE | ConnectionState.RETURNING:
                self._become(ConnectionState.LINGERING)
                self._read_until(-inf)
            case ConnectionState.HANDSHAKE:
                self._life.cancel()

    def holding(self, size: int) -> AbstractContextManager[None]:
        """Count an answer of `size` bytes as being sent, for the length of the block."""
        return self._site.unsent.held(self, size)

    def disconnect(self) -> None:
        """End the connection, in the middle of an answer: others need the room."""
        self._site.throttle.say(
            logging.WARNING, "unsent", "client does not read; connection closed to free memory"
        )
        self._life.cancel()

    async def _serve_and_close(self) -> None:
        try:
            await self._serve()
            if self._state is ConnectionState.RETURNING and self._hand_back is not None and self._may_return():
                self._hand_back(self._rest)
                self._become(ConnectionState.RETURNED)
        finally:
            if self._state is not ConnectionState.RETURNED:
                self._become(ConnectionState.CLOSED)
                await self._stream.aclose()

    async def _serve(self) -> None:
        with self._life:
            # First of all: these answers may hold messages, whatever has become of the client.
            if self._handoff.unsent is not None and await self._finish(self._handoff.unsent):
                return
            await self._site.receiving.enter()
            client: Peer = None
            sock = self._stream.socket
            try:
                client = parse_socket_addr(sock.family, sock.getpeername())
                server = parse_socket_addr(sock.family, sock.getsockname())
                received = self._handoff.received
                if self._tls is not None:
                    if not self._tls.established:
                        received = await self._agree(self._tls)
                    self.identities = self._tls.identities
            except PlainHTTP as error:
                await self._refuse_plain(error.start)
                return
            except (OSError, trio.TooSlowError) as error:
                self._note_no_request(error)
                return
            await self._speak(client, server, received)

    async def _agree(self, tls: TlsSocket) -> bytes:
        """Do the handshake, and return what has arrived behind it."""
        with trio.fail_after(HANDSHAKE_SECONDS):
            while True:
                async with self._site.handshakes:
                    received = tls.handshake()
                if received is not None:
                    self._become(ConnectionState.IDLE)
                    return received
                await self._stream.wait()

    def _note_no_request(self, error: Exception) -> None:
        if isinstance(error, OSError):
            self._site.note_handshake_failed(error, self._stream.socket)
        else:
            logs.say(logging.DEBUG, "client gone before its first request", error=repr(error))

    async def _refuse_plain(self, start: bytes) -> None:
        """Answer a client that sends plain HTTP to a TLS port, in plain HTTP."""
        detail = "This port speaks HTTPS, and the request is plain HTTP. Send it again with https:// in the URL."
        trace_id = self._refuse(400, detail, cause="plain", line=start.partition(b"\r\n")[0])
        body = problems.render_status(400, detail, trace_id)
        stream = ClientStream(self._stream.socket)
        with suppress(OSError), trio.move_on_after(LINGER_SECONDS):
            await stream.send_all(
                b"HTTP/1.1 400 Bad Request\r\nContent-Type: %b\r\nContent-Length: %d\r\nX-Trace-Id: %b\r\n"
                b"Date: %b\r\nConnection: close\r\n\r\n%b"
                % (
                    problems.MEDIA_TYPE.encode(),
                    len(body),
                    trace_id.encode(),
                    formatdate(usegmt=True).encode(),
                    body,
                )
            )
            stream.send_eof()
            # As in `_linger`: a close with unread bytes is a reset, which may overtake the answer.
            discarded = 0
            while discarded <= LINGER_BYTES and (data := await stream.receive_some()):
                discarded += len(data)

    async def _finish(self, answers: Answers) -> bool:
        """Write what the lobby could not, and return whether nothing is left to do here."""
        await self._send_answers(answers, self._handoff.sent)
        if answers.then == "close":
            return True
        if self._may_return():
            self._become(ConnectionState.RETURNING)
            self._rest = self._handoff.received
            return True
        if self._state is ConnectionState.FINISHING:
            self._become(ConnectionState.IDLE)
        return self.broken

    def _may_return(self) -> bool:
        return self._hand_back is not None and not self.broken and not self._site.context.terminated.is_set()

    async def _speak(self, client: Peer, server: Peer, received: bytes) -> None:
        state = ProtocolState({
            "transport": self,
            "trace_ids": self._site.trace_ids,
            "other_bodies": self._site.counts.other_bodies,
            "access_log": self._site.access_log,
            "handling": self._site.handling,
        })
        async with TaskGroup() as tasks:
            common = (self._site.app, self._site.config, self._site.context, tasks, state)
            ends = (self._tls is not None, client, server, self._on_event)
            if self._tls is not None and self._tls.http2:
                self._protocol: HTTP1 | HTTP2 = HTTP2(*common, *ends)
            else:
                self._protocol = HTTP1(*common, *ends, refuse=self._refuse)
            self._read_for(self._site.settings.keep_alive)
            await self._protocol.initiate()
            if self._site.context.terminated.is_set() and not received:
                self.close_if_idle()
            await self._read(received)
            await self._protocol.handle(Closed())

    async def _read(self, received: bytes) -> None:
        """Take what the client sends, until its end or ours, or until the connection goes back to the lobby."""
        discarded = 0
        data = received or await self._receive()
        while data is not None:
            await self._site.receiving.enter()
            if self._state is ConnectionState.RETURNING:
                self._rest += data
                return
            if self._state is ConnectionState.LINGERING:
                discarded += len(data)
                if discarded > LINGER_BYTES:
                    return
            else:
                await self._take(data)
            if not data:
                return
            data = await self._receive()

    async def _receive(self) -> bytes | None:
        """Return what comes next: nothing at the client's end, None if it is not to be waited for any longer."""
        with trio.CancelScope(deadline=self._deadline) as self._reading:
            try:
                return await self._stream.receive_some()
            except (OSError, trio.ClosedResourceError):
                pass
        return None

    async def _take(self, data: bytes) -> None:
        await self._protocol.handle(RawData(data))
        # Not in HTTP/2, where bytes between requests are acknowledgements and pings.
        if data and self._state is ConnectionState.IDLE and isinstance(self._protocol, HTTP1):
            self._become(ConnectionState.HEAD)
            self._read_until(self._head_deadline or trio.current_time() + self._site.settings.head_timeout)

    async def _send_answers(self, answers: Answers, sent: int) -> None:
        if answers.pending is not None and self._site.hot is not None:
            while (pending := answers.awaited()) is not None:
                done = trio.Event()
                pending.when_done(done.set)
                with trio.CancelScope(shield=True):  # bounded by the disk, or `Journal.abandon`
                    await done.wait()
            self._site.hot.complete(answers, self._stream.socket)
        before = self.written - sent
        try:
            with self.holding(len(answers.data)):
                await self._send(answers.data[sent:])
        finally:
            if self._site.hot is not None:
                self._site.hot.reconcile(answers, self.written - before)

    async def _on_event(self, event: Event) -> None:
        """Take what the protocol has to say to the socket."""
        match event:
            case RawData(data=data):
                if data:
                    await self._send(data)
            case Updated(idle=idle):
                self._set_idle(idle)
                at_rest = self._state is ConnectionState.IDLE and self._may_return()
                if at_rest and isinstance(self._protocol, HTTP1):
                    self._become(ConnectionState.RETURNING)
                    self._rest = self._protocol.leave()
                    self._read_until(-inf)
            case Closed():
                await self._linger()
                await self._protocol.handle(Closed())

    def _set_idle(self, idle: bool) -> None:
        if self._state in _ENDED:
            return
        self._become(ConnectionState.IDLE if idle else ConnectionState.BUSY)
        self._head_deadline = None
        self._read_for(self._site.settings.keep_alive if idle else inf)
        if self._site.context.terminated.is_set():
            self.close_if_idle()

    async def _send(self, data: bytes) -> None:
        async with self._send_lock:
            if self.broken:
                return
            try:
                for start in range(0, len(data), SEND_PIECE_BYTES):
                    with trio.fail_after(self._site.settings.send_timeout):
                        await self._send_piece(memoryview(data)[start : start + SEND_PIECE_BYTES])
            except (OSError, trio.ClosedResourceError, trio.TooSlowError) as error:
                self._become(ConnectionState.BROKEN)
                logs.say(logging.DEBUG, "client does not read", error=repr(error))
                # The client will read no answer: neither this one nor those to requests already received.
                self._life.cancel()
            except trio.Cancelled:
                self._become(ConnectionState.BROKEN)
                raise

    async def _send_piece(self, piece: memoryview) -> None:
        while piece:
            sent = await self._stream.send_some(piece)
            self.written += sent
            piece = piece[sent:]
            self._site.unsent.note_progress(self)

    async def _linger(self) -> None:
        """Say that nothing more will come, and go on reading for a moment.

        Closing with unread bytes in the receive buffer makes the kernel send a reset, which may overtake the
        answer the client has not read yet.
        """
        if self._state in {ConnectionState.LINGERING, ConnectionState.BROKEN}:
            return
        self._become(ConnectionState.LINGERING)
        # Whatever still runs for this connection has no client to answer; this is its last call.
        self._life.deadline = trio.current_time() + 2 * LINGER_SECONDS
        try:
            if not self._send_lock.locked():
                self._stream.send_eof()
                self._read_for(LINGER_SECONDS)
                return
        except OSError:
            pass
        self._read_until(-inf)

    def _read_for(self, seconds: float) -> None:
        self._read_until(trio.current_time() + seconds)

    def _read_until(self, deadline: float) -> None:
        if self._state in _ENDED and deadline > self._deadline:
            return  # a connection that closes, or goes back to the lobby, gets no more time
        self._deadline = deadline
        if self._reading is not None:
            self._reading.deadline = deadline

    def _refuse(self, status: int, detail: str, *, line: bytes = b"", left: bool = False, cause: str = "") -> str:
        trace_id = self._site.trace_ids.new()
        if not left:
            self._site.counts.wire_refusals += 1
            method, path = _request(line).values() or ("", "")
            about = Refused(trio.current_time(), problems.name_of(status), status, trace_id, method, path)
            self._site.counts.note_refusal(about)
        level = logging.DEBUG if left else logging.WARNING
        self._site.throttle.say(
            level,
            f"wire-{cause or status}",
            "refused",
            trace_id=trace_id,
            status=status,
            **_request(line),
            **peer_of_socket(self._stream.socket),
            reason=detail,
        )
        return trace_id


def _request(line: bytes) -> dict[str, str]:
    """Return method and path for the log, if `line` begins as that of a request does."""
    match = _LINE.match(line)
    if match is None:
        return {}
    return {"method": match[1].decode(), "path": shown_path(match[2])}


def _split(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Part what must go on up (cancellation, keyboard interrupt) from what ends here."""
    if isinstance(error, BaseExceptionGroup):
        return error.split((trio.Cancelled, KeyboardInterrupt, SystemExit))
    return None, error
