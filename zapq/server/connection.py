"""One client connection in a task of its own: bytes from the socket to Hypercorn's protocol and back.

It stands where Hypercorn's own trio `TCPServer` would, with the same parts below and above it. What differs:
any error ends this connection only; every write has a deadline; one task reads, and its deadline is the idle,
head and linger timeout in turn; a closing connection reads on for a moment, so that the client gets our
answer and not a reset. A plain connection comes from the lobby with the bytes received there, and goes back
between two requests; where there is no lobby (TLS), hot requests are answered here, before Hypercorn sees them.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from email.utils import formatdate
from math import inf
from socket import MSG_PEEK

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import parse_socket_addr

from zapq import logs
from zapq.access.certificate import NOBODY, identities
from zapq.http import problems
from zapq.http.exchange import peer_of, shown_path
from zapq.http.metrics import ServerCounts
from zapq.http.tracing import TraceIds
from zapq.limits import (
    GOODBYE_SECONDS,
    HANDSHAKE_SECONDS,
    LINGER_BYTES,
    LINGER_SECONDS,
    MAX_LOGGED_METHOD,
    MAX_TARGET_BYTES,
    MAX_UNSENT_BYTES,
    RECEIVE_BYTES,
    SEND_PIECE_BYTES,
)
from zapq.server.hotpath import Answers, HotPath
from zapq.server.listeners import Stream
from zapq.server.peer_network import peer_of_socket
from zapq.server.protocols import HTTP1, HTTP2
from zapq.server.unsent import Unsent
from zapq.service.reservation import Reservation
from zapq.settings import Settings

_LINE = re.compile(rb"([A-Za-z]{1,%d}) +(/[\x21-\x3e\x40-\x7e]*)" % MAX_LOGGED_METHOD)
Peer = tuple[str, int] | None


class Site:
    """What the connections of one server share."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        settings: Settings,
        *,
        counts: ServerCounts,
        trace_ids: TraceIds,
        hot: HotPath | None = None,
    ) -> None:
        self.app = app
        self.config = config
        self.settings = settings
        self.counts = counts
        self.trace_ids = trace_ids
        self.hot = hot
        self.context = WorkerContext(None)
        self.throttle = logs.Throttle()
        self._shortage = logs.Throttle(logs.STATE_LINES_PER_SECOND)
        self._networks: dict[str, int] = {}
        """Open connections by where they come from, as far as that is capped."""
        self.connections: set[Connection] = set()
        self.unsent = Unsent(MAX_UNSENT_BYTES)

    def enter(self, network: str) -> bool:
        """Count one more connection from `network` and return True, or count and log that it may not be open."""
        if self.counts.connections >= self.settings.max_connections:
            self._turn_away(network, "max_connections", self.settings.max_connections)
            return False
        most = self.settings.max_connections_per_address
        if most and network:
            number = self._networks.get(network, 0)
            if number >= most:
                self._turn_away(network, "max_connections_per_address", most)
                return False
            self._networks[network] = number + 1
        self.counts.connections += 1
        return True

    def leave(self, network: str) -> None:
        """Note that a connection from `network` is closed."""
        self.counts.connections -= 1
        number = self._networks.get(network)
        if number is not None:
            if number > 1:
                self._networks[network] = number - 1
            else:
                del self._networks[network]

    def _turn_away(self, network: str, cap: str, limit: int) -> None:
        self.counts.connections_refused += 1
        self.throttle.say(logging.WARNING, cap, "connection refused", cap=cap, limit=limit, peer=network or "unix")

    def note_no_resources(self, error: OSError, turned_away: int | None) -> None:
        """Log why clients cannot be accepted, and count those that were turned away; None: they have to wait."""
        self.counts.connections_refused += turned_away or 0
        # Whether a client waits is seen only by accepting.
        if turned_away != 0:
            self._shortage.say(logging.WARNING, "accept", "cannot accept connections", reason=error.strerror)

    def note_failure(self, error: BaseException) -> None:
        """Count and log an error of ours that ended one connection."""
        self.counts.connection_errors += 1
        self.throttle.say(logging.ERROR, "connection-error", "connection failed", error=repr(error))
        logs.log.debug("connection failed", exc_info=error)

    async def stop(self) -> None:
        """Let every connection end with the request it is at; those between requests end now."""
        await self.context.terminated.set()
        for connection in list(self.connections):
            connection.close_if_idle()


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
        stream: Stream,
        *,
        network: str = "",
        handoff: Handoff = Handoff(),
        hand_back: Callable[[bytes], None] | None = None,
    ) -> None:
        self.written = 0
        self.broken = False
        self.body_deadline = handoff.body_deadline
        self.identities = NOBODY
        self.reserved = handoff.reserved
        self._site = site
        self._stream = stream
        self._network = network
        self._handoff = handoff
        self._head_deadline = handoff.head_deadline
        self._hand_back = hand_back
        self._hot = None if hand_back else site.hot
        self._returning = False
        self._handed_back = False
        self._rest = b""
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

        Whatever goes wrong in Hypercorn, h11, h2, Quart or here is the end of this connection and of no other.
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
            self._release_reservation()
            self._site.connections.discard(self)
            if not self._handed_back:
                self._site.leave(self._network)

    def close_if_idle(self) -> None:
        """End the connection unless a request is under way or begun."""
        if self._idle and not self._head_begun:
            self._lingering = True
            self._read_until(-inf)

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
            if self._hand_back is not None and self._returning and self._may_return():
                self._hand_back(self._rest)
                self._handed_back = True
        finally:
            # Closing TLS writes a goodbye, which a client that does not read would hold up.
            with trio.move_on_after(GOODBYE_SECONDS, shield=True) as patience:
                if self.broken or not self._tls:
                    patience.cancel()
                if not self._handed_back:
                    await self._stream.aclose()

    async def _serve(self) -> None:
        alpn = None
        with self._life:
            # First of all: these answers may hold messages, whatever has become of the client.
            if self._handoff.unsent is not None and await self._finish(self._handoff.unsent):
                return
            client: Peer = None
            try:
                client = parse_socket_addr(self._socket.family, self._socket.getpeername())
                server = parse_socket_addr(self._socket.family, self._socket.getsockname())
                if isinstance(self._stream, trio.SSLStream):
                    with trio.fail_after(HANDSHAKE_SECONDS):
                        start = await self._socket.recv(MAX_TARGET_BYTES, MSG_PEEK)
                        if start[:1].isalpha():  # TLS begins with the byte 22, a request with its method
                            await self._refuse_plain(start, self._stream.transport_stream)
                            return
                        await self._stream.do_handshake()
                    alpn = self._stream.selected_alpn_protocol()
                    self.identities = identities(self._stream.getpeercert())
            except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
                self._note_certificate_refused(error, client)
                logs.say(logging.DEBUG, "client gone before its first request", error=repr(error))
                return
            await self._speak(alpn, client, server)

    async def _refuse_plain(self, start: bytes, stream: trio.SocketStream) -> None:
        """Answer a client that sends plain HTTP to a TLS port, in plain HTTP."""
        detail = "This port speaks HTTPS, and the request is plain HTTP. Send it again with https:// in the URL."
        trace_id = self._refuse(400, detail, cause="plain", line=start.partition(b"\r\n")[0])
        body = problems.render_status(400, detail, trace_id)
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
        await stream.send_eof()
        # As in `_linger`: a close with unread bytes is a reset, which may overtake the answer.
        discarded = 0
        with trio.move_on_after(LINGER_SECONDS):
            while discarded <= LINGER_BYTES and (data := await stream.receive_some(RECEIVE_BYTES)):
                discarded += len(data)

    def _note_certificate_refused(self, error: Exception, client: Peer) -> None:
        """Log that a client showed no certificate, or none of an authority we trust, if that is what happened."""
        reason = getattr(error.__cause__, "reason", None)
        if self._site.settings.tls_client_ca and reason is not None and "CERTIFICATE" in reason:
            self._site.throttle.say(
                logging.WARNING,
                "client-certificate",
                "refused",
                reason=f"The client certificate was refused: {reason.replace('_', ' ').lower()}.",
                peer=peer_of(client),
            )

    async def _finish(self, answers: Answers) -> bool:
        """Write what the lobby could not, and return whether nothing is left to do here."""
        await self._send_answers(answers, self._handoff.sent)
        self._returning = self._may_return() and answers.then != "close"
        self._rest = self._handoff.received
        return self._returning or answers.then == "close"

    def _may_return(self) -> bool:
        return self._hand_back is not None and not self.broken and not self._site.context.terminated.is_set()

    async def _speak(self, alpn: str | None, client: Peer, server: Peer) -> None:
        state = ConnectionState({
            "transport": self,
            "trace_ids": self._site.trace_ids,
            "other_bodies": self._site.counts.other_bodies,
        })
        async with TaskGroup() as tasks:
            common = (self._site.app, self._site.config, self._site.context, tasks, state)
            ends = (self._tls, client, server, self._on_event)
            self._protocol = HTTP2(*common, *ends) if alpn == "h2" else HTTP1(*common, *ends, refuse=self._refuse)
            self._read_for(self._site.settings.keep_alive)
            await self._protocol.initiate()
            await self._read()
            await self._protocol.handle(Closed())

    async def _read(self) -> None:
        """Take what the client sends, until its end or ours, or until the connection goes back to the lobby."""
        discarded = 0
        data = self._handoff.received or await self._receive()
        while data is not None:
            if self._returning:
                self._rest += data
                return
            if self._lingering:
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
                return bytes(await self._stream.receive_some(RECEIVE_BYTES))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        return None

    async def _take(self, data: bytes) -> None:
        # What follows unparsed bytes belongs to the same request.
        fresh = self._idle and isinstance(self._protocol, HTTP1) and not self._protocol.has_unparsed
        if self._hot is not None and fresh:
            data = await self._answer_hot(self._hot, data)
            if not data:
                return
        await self._protocol.handle(RawData(data))
        # Not in HTTP/2, where bytes between requests are acknowledgements and pings.
        begun = data and self._idle and isinstance(self._protocol, HTTP1)
        if begun and not self._head_begun and not self._lingering:
            self._begin_head()

    def _begin_head(self) -> None:
        self._head_begun = True
        self._read_until(self._head_deadline or trio.current_time() + self._site.settings.head_timeout)

    async def _answer_hot(self, hot: HotPath, data: bytes) -> bytes:
        """Answer the hot requests `data` begins, receiving what they lack; return what is for Hypercorn."""
        received = bytearray(data)
        while received:
            hot.set_time(time.time(), trio.current_time())
            # If it was for a message, that is complete, and stored or refused now.
            self._release_reservation()
            answers = hot.respond(bytes(received), self.identities, may_wait=False, sock=self._socket)
            await self._send_answers(answers, 0)
            del received[: answers.used]
            if answers.used:
                self._set_idle(True)
                self.body_deadline = None
            if answers.then == "cold":
                break
            if answers.then == "close":
                await self._linger()
                return b""
            if answers.announced is not None:
                self.reserved = hot.reserve(answers.announced)
                if self.reserved is None:
                    break
            if answers.then in {"head", "body"} and not self._head_begun:
                self._begin_head()
            if answers.then == "body" and self.body_deadline is None:
                self.body_deadline = trio.current_time() + self._site.settings.body_timeout
                self._read_until(self.body_deadline)
            while len(received) < answers.needed:
                more = await self._receive()
                if not more:
                    # The client's end, or too late. Hypercorn's way has the answer, where there is one.
                    return bytes(received)
                received += more
        return bytes(received)

    def _release_reservation(self) -> None:
        if self.reserved is not None:
            self.reserved.release()
            self.reserved = None

    async def _send_answers(self, answers: Answers, sent: int) -> None:
        if answers.pending is not None and self._site.hot is not None:
            done = trio.Event()
            answers.pending.when_done(done.set)
            with trio.CancelScope(shield=True):  # bounded by the disk, or `Journal.abandon`
                await done.wait()
            self._site.hot.complete(answers, self._socket)
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
                if idle and self._may_return() and isinstance(self._protocol, HTTP1):
                    self._returning = True
                    self._rest = self._protocol.leave()
                    self._read_until(-inf)
            case Closed():
                await self._linger()
                await self._protocol.handle(Closed())

    def _set_idle(self, idle: bool) -> None:
        self._idle = idle
        self._head_begun = False
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
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
                self.broken = True
                logs.say(logging.DEBUG, "client does not read", error=repr(error))
                # The client will read no answer: neither this one nor those to requests already received.
                self._life.cancel()
            except trio.Cancelled:
                self.broken = True
                raise

    async def _send_piece(self, piece: memoryview) -> None:
        if self._tls:
            # How much of a TLS record the kernel took before an error cannot be known: count it as written.
            self.written += len(piece)
            await self._stream.send_all(piece)
            self._site.unsent.note_progress(self)
            return
        # The socket and not the stream: `send_all` does not tell how much was written before it failed.
        while piece:
            sent = await self._socket.send(piece)
            self.written += sent
            piece = piece[sent:]
            self._site.unsent.note_progress(self)

    async def _linger(self) -> None:
        """Say that nothing more will come, and go on reading for a moment.

        Closing with unread bytes in the receive buffer makes the kernel send a reset, which may overtake the
        answer the client has not read yet.
        """
        if self._lingering:
            return
        self._lingering = True
        # Whatever still runs for this connection has no client to answer; this is its last call.
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
        if (self._lingering or self._returning) and deadline > self._deadline:
            return  # a connection that closes, or goes back to the lobby, gets no more time
        self._deadline = deadline
        if self._reading is not None:
            self._reading.deadline = deadline

    def _refuse(self, status: int, detail: str, *, line: bytes = b"", left: bool = False, cause: str = "") -> str:
        trace_id = self._site.trace_ids.new()
        self._site.counts.wire_refusals += not left
        level = logging.DEBUG if left else logging.WARNING
        self._site.throttle.say(
            level,
            f"wire-{cause or status}",
            "refused",
            trace_id=trace_id,
            status=status,
            **_request(line),
            **peer_of_socket(self._socket),
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
