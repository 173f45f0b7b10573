"""The road through Quart: reads a request for any endpoint, has it done, and answers.

Every route is this one handler; what differs is in the table (`zapq/http/endpoints.py`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

import trio
from quart import Request, Response, request
from quart.wrappers.response import ResponseBody

from zapq import logs
from zapq.access.access import check
from zapq.engine.engine import Engine
from zapq.errors import ClientGone, InvalidParameter, ZapqError
from zapq.http import wire
from zapq.http.endpoints import Body, Endpoint
from zapq.http.exchange import Exchange, declares_body, shown_path
from zapq.http.headers import headers_of
from zapq.http.metrics import ServerCounts
from zapq.http.plan import Asked, Frame, InPieces, Plan, Steps
from zapq.http.plans import with_headers
from zapq.http.refused import Refused
from zapq.http.series import Series
from zapq.http.sharing import Shared
from zapq.limits import DEFAULT_QUEUE, FINGERPRINT_SLICE, MAX_LOGGED_METHOD
from zapq.service.operations import ChangeSettings, Configure, Delivery, Operation, Put, Take
from zapq.service.pending import Pending
from zapq.service.section import Turns
from zapq.settings import Settings

_LEFT = object()
"""What comes of an operation whose client has left before it began."""


@dataclass(frozen=True, slots=True)
class Answering:
    """Answers the requests of one server that come through Quart."""

    engine: Engine
    settings: Settings
    counts: ServerCounts
    throttle: logs.Throttle
    _series: Series
    _large: Turns = field(default_factory=Turns)
    """For large answers: making one takes milliseconds, for 8 MiB some ten."""
    _fingerprinted: trio.Lock = field(default_factory=trio.Lock)
    """For large offers with a key, whose fingerprint takes as long."""
    _shared: Shared = field(default_factory=Shared)
    _parked: dict[Exchange, None] = field(default_factory=dict)
    """Requests that may wait for long."""

    async def answer(self, endpoint: Endpoint, **arguments: str | int) -> Response:
        """Answer a request for `endpoint`; `arguments` are from its path."""
        exchange = exchange_of(request)
        values = wire.parameters(request.query_string.decode("latin-1"), endpoint.takes)
        asked = Asked(
            queue=str(arguments.get("queue", DEFAULT_QUEUE)),
            values=values,
            content_type=request.headers.get("Content-Type", ""),
            accept=", ".join(request.headers.getlist("Accept")),
            name=str(arguments.get("problem", arguments.get("file", ""))),
            known=", ".join(request.headers.getlist("If-None-Match")),
            queues="*" if exchange.grant is None else exchange.grant.queues,
            grant=exchange.grant,
        )
        plan = endpoint.plan(asked)
        if endpoint.body.stored and (headers := headers_of(request.scope["headers"])):
            plan = with_headers(plan, headers)
        key = _key(request) if endpoint.keyed else ""
        if endpoint.body.stored and not (exchange.exempt_from_drain or key):
            # A key is looked up first: what it led to is answered while draining as well.
            self.engine.check_open()
        body = await self._read(endpoint, plan, asked, exchange)
        if plan.steps is not None:
            make = partial(self._in_steps, exchange, plan)
            return _in_pieces(await self._shared.get(plan.shared, make))
        slow = key and len(body) > FINGERPRINT_SLICE and not _waits_for_room(plan)
        # Decoded, those that wait for the fingerprint of another would take as much memory again.
        async with self._fingerprinted if slow else nullcontext():
            if endpoint.large:
                await self.turn()
            argument = str(arguments.get("receipt", arguments.get("id", "")))
            operation = plan.operation
            if endpoint.fill is not None:
                # What began to be received before we drain is stored all the same.
                reserved = exchange.body.reserved
                operation = endpoint.fill(plan, body, argument, key, exempt_from_drain=not key, reserved=reserved)
            _check_others(exchange, operation)
            outcome = None if operation is None else await self.perform(exchange, operation)
        if endpoint.audit is not None:
            self._audit(exchange, endpoint.action, endpoint.audit(operation, outcome))
        try:
            return self._render(endpoint, plan, operation, outcome)
        except Exception:
            exchange.take_back()
            raise

    async def turn(self) -> None:
        """Return when a request that takes milliseconds may be answered, before its next checkpoint."""
        await self._large.take()

    async def _read(self, endpoint: Endpoint, plan: Plan, asked: Asked, exchange: Exchange) -> bytes:
        """Return the body; refused unread if it is announced too long, or there is no room for it."""
        kind, body = endpoint.body, exchange.body
        if kind is Body.NONE:
            if declares_body(request.scope["headers"]) or request.http_version == "2":
                data = await body.read()
                if data:
                    # Its client believes that what it says there counts.
                    reason = wire.why_no_body(data, wire.media_type(asked.content_type), endpoint.takes)
                    raise InvalidParameter(reason, parameter="body")
            return b""
        if kind is Body.IGNORED:
            # So that the connection can carry the next request.
            return await body.read() if declares_body(request.scope["headers"]) else b""
        limit, refusal = kind.limit(self.settings.max_message_bytes)
        declared = request.content_length
        if declared is not None and declared > limit:
            raise refusal(max_bytes=limit, current=declared)
        # One that waits for room is received beside the messages: among them there may be none yet.
        if kind.stored and body.reserved is None and not body.whole and not _waits_for_room(plan):
            body.reserve(self.engine.reservation(asked.queue), declared or 0)
        return await body.read()

    async def _in_steps(self, exchange: Exchange, plan: Plan) -> InPieces:
        """Do what a plan's steps yield, tell them what came of that or refused it, and return what they return."""
        assert plan.steps is not None
        steps: Steps = plan.steps(self._frame(), self._series)
        try:
            operation = next(steps)
            while True:
                try:
                    outcome = await (
                        self._large.take() if operation is None else self.perform(exchange, operation)
                    )
                except ClientGone:
                    raise
                except ZapqError as error:
                    operation = steps.throw(error)
                else:
                    operation = steps.send(outcome)
        except StopIteration as end:
            answer: InPieces = end.value
            return answer

    async def perform(self, exchange: Exchange, operation: Operation) -> object:
        """Have one operation done for a request, and return its outcome; raises what refuses it."""
        outcome = self.engine.perform(operation, trio.current_time())
        if isinstance(outcome, Pending):
            outcome = await self._wait(exchange, operation, outcome)
        if isinstance(outcome, Delivery):
            exchange.hand_over(outcome.queue, outcome.given)
        return outcome

    async def _wait(self, exchange: Exchange, operation: Operation, pending: Pending[object]) -> object:
        outcome: object = _LEFT
        self._parked[exchange] = None
        try:
            with exchange.ends_with_client(pending.patient):
                outcome = await pending.wait()
        finally:
            del self._parked[exchange]
        if outcome is not _LEFT:
            return outcome
        if isinstance(operation, Take):
            # Its client may have closed only its own half.
            return self.engine.nothing(operation.queue)
        raise ClientGone

    def check_credentials(self) -> None:
        """End what waits for clients whose credentials are not good for it any more."""
        for exchange in list(self._parked):
            exchange.check_again()

    def _render(self, endpoint: Endpoint, plan: Plan, operation: Operation | None, outcome: object) -> Response:
        return as_response(endpoint.render(plan, operation, outcome, self._frame()))

    def _frame(self) -> Frame:
        now = trio.current_time()
        return Frame(b"", now, time.time() - now, self.counts)

    def _audit(self, exchange: Exchange, action: str, facts: dict[str, object]) -> None:
        """Log what an administrator has done: the action, its object, how much, and by which credential."""
        who = {} if exchange.grant is None else {"token": exchange.grant.name}
        self.throttle.say(
            logging.INFO, f"audit-{action}", "administered", action=action, **facts, peer=exchange.peer, **who
        )


def as_response(answer: bytes) -> Response:
    """Return the answer `zapq/http/render.py` has made, field for field."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return _response(head, body)


def _in_pieces(answer: InPieces) -> Response:
    return _response(answer.head.removesuffix(b"\r\n\r\n"), _Pieces(answer.body))


class _Pieces(ResponseBody):
    """A body that is sent piece by piece, each as it is: Quart's own ways make a task or a generator for it."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces

    async def __aenter__(self) -> AsyncIterable[bytes]:
        return self._each()

    async def __aexit__(self, *_: object) -> None:
        pass

    async def _each(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


def _response(head: bytes, body: bytes | ResponseBody) -> Response:
    line, *fields = head.decode("latin-1").split("\r\n")
    response = Response(body, status=int(line.split(" ")[1]))
    response.headers.clear()
    for each in fields:
        if each:
            response.headers.add(*each.split(": ", 1))
    return response


def exchange_of(request: Request) -> Exchange:
    """Return the exchange Quart's request belongs to."""
    exchange: Exchange = request.scope["state"]["exchange"]
    return exchange


def refused_now(trace_id: str, problem: str, status: int, queue: str = "") -> Refused:
    """Return what is remembered of the request that Quart is at, which is refused."""
    method, path = request.method[:MAX_LOGGED_METHOD], shown_path(request.scope["raw_path"])
    return Refused(trio.current_time(), problem, status, trace_id, method, path, queue=queue)


def _waits_for_room(plan: Plan) -> bool:
    return isinstance(plan.operation, Put) and plan.operation.terms.wait > 0


def _key(request: Request) -> str:
    keys = request.headers.getlist("Idempotency-Key")
    return wire.check_key(keys[0] if len(keys) == 1 else "") if keys else ""


def _check_others(exchange: Exchange, operation: Operation | None) -> None:
    """Raise `RoleMissing` unless an administrator may also change the queue that dead letters are to go to."""
    other: object = None
    if isinstance(operation, Configure):
        other = operation.settings.dead_letter
    elif isinstance(operation, ChangeSettings):
        other = operation.changes.get("dead_letter")
    if isinstance(other, str) and exchange.grant is not None:
        check(exchange.grant, "admin", other)
