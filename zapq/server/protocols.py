"""Hypercorn's two protocols, narrowed to what zapq promises and hardened where clients can hurt.

HTTP/1: heads and the sizes of chunks pass a guard before h11 sees them. Chunked bodies have a bounded number of
chunks, upgrades (h2c, WebSocket) are ignored, and refusals are problem documents with a trace id. HTTP/2: frames
for streams already answered, and extended CONNECT, do no harm.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, Protocol

import h2.errors
import h2.events
import h11
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Request
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import ConnectionState, H11SendableEvent

from zapq.http import problems
from zapq.limits import KIB, MAX_CHUNKS, MAX_HEAD_BYTES, MAX_STREAM_RESETS, MAX_TARGET_BYTES
from zapq.server.wire_guard import check_head

_CHUNK_SIZE = re.compile(rb"[\r\n]{0,2}[0-9A-Fa-f]{1,20}([ \t])?")
"""A chunk's size as it stands in what was received: the end of the line before may be left of the chunk before."""

_ONE_LENGTH = "Content-Length must be given once, as a whole number. Send the number of bytes in the body."
_CODING = "zapq takes no transfer coding but chunked. Send Transfer-Encoding: chunked, or a Content-Length."
_REASONS = {
    "Missing mandatory Host": "The request has no Host field. Send one, such as Host: localhost.",
    "Found multiple Host": "The request has more than one Host field. Send one.",
    "bad Content-Length": _ONE_LENGTH,
    "conflicting Content-Length headers": _ONE_LENGTH,
    "Only Transfer-Encoding": _CODING,
    "multiple Transfer-Encoding headers": _CODING,
}
"""What h11 says of the mistakes that people make, and what to do about each."""


class Refuse(Protocol):
    """Counts and logs a refusal, and returns the trace id to answer with."""

    def __call__(self, status: int, detail: str, *, line: bytes, left: bool) -> str:
        """`line` is the request's first one as far as it is known, for the log.

        `left` says that the client closed in the middle of a request: that is no news.
        """


class GuardedH11(h11.Connection):
    """An h11 connection that raises `RemoteProtocolError` for what the wire guard refuses."""

    def __init__(self) -> None:
        # The guard refuses large heads first, and with a better word.
        super().__init__(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES + 64 * KIB)
        self.reason = ""
        self.line = b""
        """The first line of the request, or the beginning of a long one."""
        self.closing = False
        self.left = False
        self.bodiless = False
        """Whether the request is HEAD, so that its answer, be it a refusal, has no body."""
        self._chunks = 0
        self._at_chunk = False
        """Whether the line that begins a chunk comes next."""

    def next_event(self) -> Any:
        """Return h11's next event."""
        try:
            return self._next_event()
        except h11.RemoteProtocolError:
            if self.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                raise
            # The answer has begun. Hypercorn would close under the task that writes it, which closes anyway
            # when it is done.
            self.left = True
            return h11.NEED_DATA

    def _next_event(self) -> Any:
        if self.left:
            return h11.NEED_DATA
        if self.their_state is h11.IDLE:
            self._chunks = 0
            self._at_chunk = False
            self.bodiless = False
            self.line = self.trailing_data[0][:MAX_TARGET_BYTES].partition(b"\r\n")[0]
            refusal = check_head(self.trailing_data[0])
            if refusal is not None:
                self.reason = refusal.detail
                raise h11.RemoteProtocolError(refusal.detail, error_status_hint=refusal.status)
        if self.their_state is h11.MUST_CLOSE and self.trailing_data[0]:
            # RFC 9112, 9.6: what follows a last request is ignored. h11 calls it an error, and Hypercorn
            # would answer that instead of the request.
            return h11.NEED_DATA if self.closing else h11.PAUSED
        if self._at_chunk:
            self._check_chunk()
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            # Behind the colon h11 shows what it got: that is the client's, and not for our log.
            said = str(error).partition(":")[0]
            self.reason = _REASONS.get(said, f"The request is not valid HTTP/1.1: {said}.")
            raise
        if event is h11.PAUSED and self.closing:
            # Hypercorn would wait here for a turn that never comes, and not read on.
            return h11.NEED_DATA
        if isinstance(event, h11.Request):
            self.bodiless = event.method == b"HEAD"
            self._at_chunk = any(name == b"transfer-encoding" for name, _ in event.headers)
        if isinstance(event, h11.Data):
            self._at_chunk |= event.chunk_end
            self._chunks += event.chunk_start
            if self._chunks > MAX_CHUNKS:
                self._refuse_body(f"The request body has over {MAX_CHUNKS} chunks. Send larger ones.")
        return event

    def _check_chunk(self) -> None:
        """Refuse a blank behind a chunk's size, which h11 takes: proxies disagree about where such a body ends."""
        data = self.trailing_data[0]
        size = _CHUNK_SIZE.match(data)
        if size is None:
            return
        if size[1]:
            self._refuse_body("The request body has a blank after the size of a chunk. Send the size alone.")
        # A whole line is taken by h11 at once, and then the chunk's bytes come, whatever they look like.
        self._at_chunk = data.find(b"\r\n", size.end()) < 0

    def _refuse_body(self, reason: str) -> NoReturn:
        self.reason = reason
        raise h11.RemoteProtocolError(reason, error_status_hint=400)


class HTTP1(H11Protocol):
    """HTTP/1.0 and 1.1, and nothing one can upgrade to."""

    connection: GuardedH11

    def __init__(self, *args: Any, refuse: Refuse) -> None:
        super().__init__(*args)
        self.connection = GuardedH11()
        self.send = self._note_closing(self.send)
        self._refuse = refuse
        self._over = False

    def _note_closing(self, send: Callable[[Event], Awaitable[None]]) -> Callable[[Event], Awaitable[None]]:
        async def noting(event: Event) -> None:
            if isinstance(event, Closed):
                self.connection.closing = True
            await send(event)

        return noting

    def leave(self) -> bytes:
        """Begin no further request, and return what was received of it."""
        self.connection.left = True
        return self.connection.trailing_data[0]

    async def _check_protocol(self, event: h11.Request) -> None:
        """Ignore offers to upgrade, as RFC 9110 (7.8) allows; stock Hypercorn dies of a malformed one."""

    async def _create_stream(self, request: h11.Request) -> None:
        self.stream = HTTPStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii"),
                raw_path=request.target,
                state=ConnectionState({**self.connection_state, "arrived": len(self.connection.trailing_data[0])}),
            )
        )
        self.keep_alive_requests += 1

    async def _send_error_response(self, status_code: int) -> None:
        trace_id = self._refuse(
            status_code,
            self.connection.reason,
            line=self.connection.line,
            left=self.connection.trailing_data[1],
        )
        body = problems.render_status(status_code, self.connection.reason, trace_id)
        headers = [
            (b"content-type", problems.MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"x-trace-id", trace_id.encode()),
            (b"connection", b"close"),
        ]
        events: list[H11SendableEvent] = [
            _for_people(
                h11.Response(status_code=status_code, headers=headers + self.config.response_headers("h11"))
            ),
            h11.Data(data=b"" if self.connection.bodiless else body),
            h11.EndOfMessage(),
        ]
        # A handler may be at work on the request whose body went wrong. Its answer comes too late, however
        # soon it comes, and it is not to close the connection under this one.
        self._over = True
        await self.send(RawData(data=b"".join(self.connection.send(event) or b"" for event in events)))

    async def _maybe_recycle(self) -> None:
        if self._over:
            await self._close_stream()
        else:
            await super()._maybe_recycle()

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        if isinstance(event, h11.Response) and self.connection.our_state is h11.SEND_BODY:
            # Cancelled while it wrote the head of an answer, Hypercorn does not know that there is one, and would
            # begin another: 500.
            self._over = True
        if self._over:
            return
        if isinstance(event, h11.Response):
            event = _for_people(event)
        await super()._send_h11_event(event)


def _for_people(response: h11.Response) -> h11.Response:
    """Give `response` its reason phrase and the usual spelling of names: curl -i is how people meet zapq."""
    return h11.Response(
        status_code=response.status_code,
        reason=problems.PHRASES.get(response.status_code, "").encode(),
        headers=[(name.title(), value) for name, value in response.headers],
    )


class HTTP2(H2Protocol):
    """HTTP/2 over TLS."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._resets = 0

    async def handle(self, event: Event) -> None:
        """Take bytes, or the news that the connection is closed."""
        await super().handle(event)
        if isinstance(event, Closed):
            for stream_id in list(self.stream_buffers):
                await self._abandon(stream_id)

    async def _abandon(self, stream_id: int) -> None:
        """Wake the task that waits for the client to take this stream's data: it never will."""
        buffer = self.stream_buffers.get(stream_id)
        if buffer is not None:
            await buffer.close()

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        # One at a time: handling one event can end the stream the next one is for.
        for event in events:
            if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
                # Answered before its body was complete. Stock Hypercorn raises KeyError here.
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.RequestReceived) and _is_connect(event):
                self.connection.reset_stream(event.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
            else:
                await super()._handle_events([event])
            if isinstance(event, h2.events.StreamReset):
                await self._abandon(event.stream_id)
                self._resets += 1
                if self._resets > MAX_STREAM_RESETS:
                    await self.send(Closed())
                    return
        await self._flush()


def _is_connect(event: h2.events.RequestReceived) -> bool:
    return any(name == b":method" and value.upper() == b"CONNECT" for name, value in event.headers or ())
