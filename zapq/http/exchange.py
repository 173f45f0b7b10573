"""One request and its answer, between Hypercorn's protocol and Quart's handlers.

Quart-Trio's own connection class cancels the handler whenever Hypercorn says `http.disconnect`, which it also
says after every response. Then Hypercorn is cancelled in the middle of closing the connection, and neither
`Connection: close` nor the keep-alive timeout works. Ours differs in three ways: a disconnect ends only what
waits for the client (its body, a long poll), never the rest of a handler; the body is counted as it arrives; and
a message that was handed over but never reached the socket goes back to its place.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from math import inf
from typing import Protocol

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, HTTPScope
from quart_trio.asgi import TrioASGIHTTPConnection

from zapq import logs
from zapq.access.access import expired
from zapq.access.certificate import Identities
from zapq.access.grant import Grant
from zapq.core.message import Lease
from zapq.errors import ClientGone, MessageTooLarge, ReceivingTooMuch, RequestTimedOut, ZapqError
from zapq.http import tracing
from zapq.http.access_log import AccessLog
from zapq.http.endpoints import Body
from zapq.http.routing import find_route, speaks_sqs
from zapq.limits import MAX_LOGGED_METHOD, MAX_LOGGED_PATH, SMALL_BODY_BYTES
from zapq.service.reservation import Pool, Reservation
from zapq.service.section import Gate
from zapq.service.waiting import Deliveries, Lender

_ORIGIN = re.compile(rb"\A[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
"""What a target that is a whole URL has before its path."""


class Transport(Protocol):
    """What an exchange asks of the connection below it."""

    @property
    def written(self) -> int:
        """Bytes given to the kernel so far, or possibly given."""

    @property
    def broken(self) -> bool:
        """Whether a write has failed."""

    def holding(self, size: int) -> AbstractContextManager[None]:
        """Count an answer of `size` bytes as being sent, for the length of the block."""

    identities: Identities
    """What the client's certificate says, if it has shown one."""
    body_deadline: float | None
    """Until when the body must be complete of a request that began before we knew of it; then None."""
    reserved: Reservation | None
    """What is reserved for that body, for the exchange to take over; then None."""


class RequestBody:
    """A request's body as it arrives, never more than `limit` bytes of it in memory, and those reserved.

    `whole` says that all of it has arrived with its head, and so is on its way already: nothing need be reserved
    for it. What is no message is reserved from `others`.
    """

    def __init__(
        self,
        limit: int,
        deadline: float,
        refusal: type[MessageTooLarge] = MessageTooLarge,
        *,
        others: Pool,
        whole: bool = False,
        reserved: Reservation | None = None,
    ) -> None:
        self.reserved = reserved
        """Given back by the step that stores the body, else at the end."""
        self.whole = whole
        self._limit = limit
        self._too_large = refusal
        self._deadline = deadline
        self._others = others
        self._data = bytearray()
        self._settled = trio.Event()
        self._refusal: ZapqError | None = None
        self._complete = False
        self._closed = False
        self.taken = False
        """Whether all of it was read here: then nothing of it stands in the way of the next request."""

    def feed(self, data: bytes, *, more: bool) -> None:
        """Take the next piece; beyond the limit, and where there is no room, pieces are forgotten."""
        if self._refusal is None and not self._closed:
            total = len(self._data) + len(data)
            if total > self._limit:
                self._refuse(self._too_large(max_bytes=self._limit))
            elif self.reserved is not None and not self.reserved.cover(total):
                self._refuse(self.reserved.refuse(len(data)))
            else:
                self._data += data
        if not more:
            self._complete = True
            self._settled.set()

    def _refuse(self, error: ZapqError) -> None:
        self._refusal = error
        self._settled.set()
        self.close()

    def end(self) -> None:
        """Note that nothing more will come."""
        self._settled.set()

    def reserve(self, reservation: Reservation, size: int) -> None:
        """Let `reservation` be for this body, of `size` bytes as far as is known; raises what it refuses with."""
        self.reserved = reservation
        size = max(size, len(self._data))
        if not reservation.cover(size):
            raise reservation.refuse(size)

    async def read(self) -> bytes:
        """Return the whole body once it is here; once only.

        Raises `MessageTooLarge` as soon as it is over the limit, `QueueFull` or `ReceivingTooMuch` as soon as
        there is no room for it, `RequestTimedOut` at the deadline, and `ClientGone` if the client leaves first.
        """
        if self.reserved is None and not self.whole:
            self.reserve(Reservation(self._others, _refuse_other, free=SMALL_BODY_BYTES), 0)
        with trio.move_on_at(self._deadline):
            await self._settled.wait()
        if self._refusal is not None:
            raise self._refusal
        if self._complete:
            self.taken = True
            data = bytes(self._data)
            self._data.clear()
            return data
        raise ClientGone if self._settled.is_set() else RequestTimedOut

    def close(self) -> None:
        """Forget what is here and what will come, and reserve nothing for it: it will not be read any more."""
        self._closed = True
        self._data.clear()
        if self.reserved is not None:
            self.reserved.release()


def _refuse_other(size: int) -> ZapqError:
    return ReceivingTooMuch()


class Exchange:
    """What a handler knows about its request beside what Quart tells: credential, connection, if it is alive."""

    def __init__(
        self,
        *,
        trace_id: str,
        transport: Transport,
        body: RequestBody,
        exempt_from_drain: bool = False,
        peer: str = "",
    ) -> None:
        self.trace_id = trace_id
        self.peer = peer
        """Where it comes from, for the log."""
        self.grant: Grant | None = None
        """What the client may do; None where no credential is needed."""
        self.admit: Callable[[], Grant | None] | None = None
        """Looks again what the client may do, or raises why it is not let in."""
        self.body = body
        self.exempt_from_drain = exempt_from_drain
        """Whether its body had begun to arrive before: then a shutdown since does not refuse it."""
        self.answered = False
        self.told: dict[str, str] = {}
        """What the access log is to say of it that its path does not."""
        self._transport = transport
        self._gone = False
        self._waiting: trio.CancelScope | None = None
        self._refusal: ZapqError | None = None
        self._handed_over: tuple[Lender, Deliveries] | None = None
        self._written_before_body: int | None = None

    @property
    def identities(self) -> Identities:
        """What the client's certificate says, if it has shown one."""
        return self._transport.identities

    @contextmanager
    def ends_with_client(self, patient: bool = True) -> Iterator[None]:
        """Cancel the block, and only the block, when the client leaves or its credential ends.

        Raises the refusal then. A block that is not `patient` ends soon by itself, and is not cancelled.
        """
        if not patient:
            yield
            return
        with trio.CancelScope(deadline=self._expiry()) as scope:
            self._waiting = scope
            if self._gone:
                scope.cancel()
            yield
        self._waiting = None
        if not scope.cancelled_caught:
            return
        if self._refusal is not None:
            raise self._refusal
        if not self._gone and self.grant is not None:
            raise expired(self.grant)

    def check_again(self) -> None:
        """End what waits if the client's credential is not good for it any more."""
        if self._waiting is None or self.admit is None:
            return
        try:
            self.grant = self.admit()
        except ZapqError as error:
            self._refusal = error
            self._waiting.cancel()
        else:
            self._waiting.deadline = self._expiry()

    def _expiry(self) -> float:
        """Return when the client's credential ends, as a time of Trio's clock."""
        return inf if self.grant is None else trio.current_time() + self.grant.expires - time.time()

    def client_left(self) -> None:
        """End what waits for the client: its body and its long poll."""
        self._gone = True
        self.body.end()
        if self._waiting is not None:
            self._waiting.cancel()

    def hand_over(self, queue: Lender, given: Deliveries) -> None:
        """Remember the messages this answer carries, to put them back if they never reach the socket."""
        if given:
            self._handed_over = (queue, given)

    def take_back(self) -> None:
        """Put them back: no answer will carry them."""
        if self._handed_over is not None:
            queue, given = self._handed_over
            self._handed_over = None
            queue.return_undelivered(given)

    def head_sent(self, *, written_before: int) -> None:
        """Note that the answer's head was written.

        An empty message is complete with its head, so for that one the head already counts as its body.
        """
        given = self._handed_over[1] if self._handed_over is not None else ()
        empty = len(given) == 1 and not given[0].body
        self._written_before_body = written_before if empty else self._transport.written

    def reconcile(self) -> None:
        """Put the messages back if none reached the kernel; count them if that cannot be known. No checkpoint.

        At most once is the promise: a message some byte of which may have been read is never given again. A lease
        on one runs out.
        """
        if self._handed_over is None or (self.answered and not self._gone and not self._transport.broken):
            return
        queue, given = self._handed_over
        if self._written_before_body in {None, self._transport.written}:
            queue.return_undelivered(given)
        elif self._transport.broken or not self.answered:
            note_uncertain(queue, given, self.trace_id)


def note_uncertain(queue: Lender, given: Deliveries, trace_id: str) -> None:
    """Count and log messages given away of which the client may or may not have read a part."""
    first = given[0]
    if isinstance(first, Lease):
        return
    queue.note_uncertain_delivery(len(given))
    logs.say(
        logging.INFO,
        "delivery uncertain",
        trace_id=trace_id,
        queue=queue.name,
        message_id=first.id,
        messages=len(given),
    )


class HTTPConnection(TrioASGIHTTPConnection):
    """Runs one request: listens to the client in one task while the handler answers in another."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answer the request; returns when the answer is written or the client is gone."""
        state = self.scope["state"]
        trace_ids: tracing.TraceIds = state["trace_ids"]
        transport: Transport = state["transport"]
        limit, refusal = _body_limit(self.scope, self.app.config["MAX_CONTENT_LENGTH"])
        earlier, transport.body_deadline = transport.body_deadline, None
        reserved, transport.reserved = transport.reserved, None
        deadline = trio.current_time() + self.app.config["BODY_TIMEOUT"] if earlier is None else earlier
        exchange = Exchange(
            trace_id=trace_ids.choose(self.scope["headers"]),
            transport=transport,
            body=RequestBody(
                limit,
                deadline,
                refusal,
                others=state["other_bodies"],
                whole=is_whole(self.scope["headers"], state.get("arrived", 0)),
                reserved=reserved,
            ),
            exempt_from_drain=earlier is not None,
            peer=peer_of(self.scope["client"]),
        )
        logs.current_trace_id.set(exchange.trace_id)
        state["exchange"] = exchange
        gate: Gate | None = state.get("handling")
        log: AccessLog | None = state.get("access_log")
        if log is not None and log.choose(1):
            send = _logged(send, exchange, self.scope, log)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_listen, receive, exchange)
                try:
                    if gate is not None:
                        await gate.enter()
                    await self._answer(_traced(send, exchange, transport, self.scope))
                    exchange.answered = True
                finally:
                    exchange.reconcile()
                nursery.cancel_scope.cancel()
        finally:
            exchange.body.close()

    async def _answer(self, send: ASGISendCallable) -> None:
        request = self._create_request_from_scope(send)
        response = await self.app.handle_request(request)
        transport: Transport = self.scope["state"]["transport"]
        with transport.holding(response.content_length or 0):
            await self._send_response(send, response)


async def _listen(receive: ASGIReceiveCallable, exchange: Exchange) -> None:
    """Take what the client sends, and never stop early: Hypercorn waits for each message to be taken."""
    while True:
        event = await receive()
        if event["type"] == "http.request":
            exchange.body.feed(event["body"], more=event["more_body"])
        elif event["type"] == "http.disconnect":
            exchange.client_left()


def _traced(
    send: ASGISendCallable, exchange: Exchange, transport: Transport, scope: HTTPScope
) -> ASGISendCallable:
    """Wrap `send` so that every answer carries its trace id and says when its connection ends."""

    async def traced(event: ASGISendEvent) -> None:
        if event["type"] != "http.response.start":
            await send(event)
            return
        headers = [*event["headers"], (tracing.HEADER, exchange.trace_id.encode())]
        here = exchange.body.taken or exchange.body.whole
        if declares_body(scope["headers"]) and not here and scope["http_version"] != "2":
            # What may still come of the body stands in the way of the next request.
            headers.append((b"connection", b"close"))
        exchange.body.close()
        before = transport.written
        await send({"type": "http.response.start", "status": event["status"], "headers": headers})
        exchange.head_sent(written_before=before)

    return traced


def _logged(send: ASGISendCallable, exchange: Exchange, scope: HTTPScope, log: AccessLog) -> ASGISendCallable:
    """Wrap `send` so that the access log has a line about the answer, once all of it was sent."""
    started, status, size = time.perf_counter(), 0, 0

    async def logged(event: ASGISendEvent) -> None:
        nonlocal status, size
        await send(event)
        if event["type"] == "http.response.start":
            status = event["status"]
        elif event["type"] == "http.response.body":
            size += len(event["body"])
            if not event["more_body"]:
                more = exchange.told | {"peer": exchange.peer}
                method, path = scope["method"][:MAX_LOGGED_METHOD], shown_path(scope["raw_path"])
                log.note(exchange.trace_id, method, path, status, size, time.perf_counter() - started, more)

    return logged


def _body_limit(scope: HTTPScope, max_message_bytes: int) -> tuple[int, type[MessageTooLarge]]:
    if speaks_sqs(scope["path"]):
        return Body.SQS.limit(max_message_bytes)
    route = find_route(scope["method"], scope["path"])
    return (Body.NONE if route is None else route.endpoint.body).limit(max_message_bytes)


def peer_of(client: tuple[str, int] | None) -> str:
    """Name the peer, for the log; an IPv4 address as such, also on a socket that speaks both."""
    if client is None:
        return "unix"
    host = client[0]
    return host.removeprefix("::ffff:") if "." in host else host


def shown_path(raw_path: bytes) -> str:
    """Return a request's path for the log: as it was sent, with what is not ASCII escaped, and bounded.

    A target may be a whole URL. What stands before its path is left out: there may be a password in it.
    """
    return _ORIGIN.sub(b"", raw_path)[:MAX_LOGGED_PATH].decode("ascii", "backslashreplace")


def declares_body(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the head announces a body that is not empty."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
        for name, value in headers
    )


def is_whole(headers: Iterable[tuple[bytes, bytes]], arrived: int) -> bool:
    """Whether a body of which `arrived` bytes came with the head is complete with them."""
    return any(name == b"content-length" and 0 < int(value) <= arrived for name, value in headers)
