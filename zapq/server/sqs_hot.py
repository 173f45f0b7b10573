"""The fast road of SQS: plainly written requests in JSON, bytes in and bytes out. No socket, no task.

What SDKs write into the head of each request anew (the time, the signature, the number of the attempt) makes no
difference here and is cut out; the rest is repeated, and what it means is remembered. As on the other fast road, a
head that is not plain, an action that is not one of the usual ones and a client that is not let in are left to
Quart's road.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import count
from typing import Any

import msgspec

from zapq import logs
from zapq.access.certificate import Identities
from zapq.access.grant import Grant
from zapq.engine.engine import Engine
from zapq.engine.local import LocalEngine
from zapq.errors import ZapqError
from zapq.http import tracing
from zapq.http.guard import Guard
from zapq.http.plan import Frame, Plan
from zapq.http.sqs import ANY
from zapq.limits import HEADS_REMEMBERED, MAX_HOT_SQS_BYTES, MAX_LOGGED_PATH, MAX_WAIT
from zapq.server.hot_head import Head, parse_fields
from zapq.server.peer_network import Socket, peer_of_socket
from zapq.service.operations import Nothing, Put, Settle, Take
from zapq.service.waiting import ONE
from zapq.settings import Settings
from zapq.sqs import json_protocol
from zapq.sqs.actions import ACTIONS, Action
from zapq.sqs.answer import Answer
from zapq.sqs.credentials import shown
from zapq.sqs.errors import INTERNAL, SqsError, as_sqs
from zapq.sqs.model import ReceiveMessage, ReceiveMessageResult, Request, Result
from zapq.sqs.names import Place
from zapq.sqs.steps import Caller
from zapq.sqs.talk import Said, Talk, converse
from zapq.sqs.tasks import Tasks

START = b"POST / HTTP/1.1\r\n"
_VARYING = re.compile(
    rb"\r\n(x-amz-date|amz-sdk-invocation-id|content-length|traceparent|x-amzn-trace-id):[\t ]*"
    rb"([\x21-\x7e]{1,255})[\t ]*(?=\r\n)",
    re.IGNORECASE,
)
_SIGNATURE = re.compile(rb"[, ]{1,2}Signature=[0-9a-f]+(?=\r\n)")
_LENGTH = re.compile(rb"[0-9]{1,9}")
_FIELD = re.compile(rb"([^:]+):[\t ]*(.*?)[\t ]*\r\n")
_EFFECTS: dict[str, Any] = {
    "SendMessage": Put(b""),
    "SendMessageBatch": Put(()),
    "ReceiveMessage": Take("", ONE),
    "DeleteMessage": Settle("", ()),
    "DeleteMessageBatch": Settle("", ()),
    "ChangeMessageVisibility": Settle("", ()),
    "ChangeMessageVisibilityBatch": Settle("", ()),
}
"""The actions answered here, each with an operation of the kind it needs."""
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nx-amzn-RequestId: %b\r\n"
_REASONS = {400: b"Bad Request", 403: b"Forbidden", 404: b"Not Found", 429: b"Too Many Requests"}


def cut(head: bytes) -> tuple[bytes, int, bytes]:
    """Cut out of a head what differs from request to request; return the rest, and what is needed of that.

    That is the length of the body, -1 if it cannot be told, or not at once; and the id of the client's trace.
    """
    # As boto3 writes them, and in its order: to look for these takes a tenth of the time.
    date = head.find(b"\r\nX-Amz-Date: ")
    signature = head.find(b", Signature=", date)
    number = head.find(b"\r\namz-sdk-invocation-id: ", signature)
    length = head.find(b"\r\nContent-Length: ", number)
    if 0 <= date < signature < number < length and b"raceparent:" not in head:
        index = head.index
        dated = index(b"\r\n", date + 2)
        signed = index(b"\r\n", signature)
        numbered = index(b"\r\n", number + 2)
        # These lines are not parsed: the check keeps a bare LF, or more of a field, from slipping through.
        if (
            head[date + 14 : dated].isalnum()
            and head[signature + 12 : signed].isalnum()
            and head[number + 25 : numbered].replace(b"-", b"").isalnum()
        ):
            end = index(b"\r\n", length + 2)
            digits = head[length + 18 : end]
            rest = (head[:date], head[dated:signature], head[signed:number], head[numbered:length], head[end:])
            return b"".join(rest), int(digits) if _LENGTH.fullmatch(digits) else -1, b""
    fields = [(match[1].lower(), match[2]) for match in _VARYING.finditer(head)]
    lengths = [value for name, value in fields if name == b"content-length"]
    traces = [tracing.trace_of(value) for name, value in fields if name == tracing.PARENT]
    head = _SIGNATURE.sub(b"", _VARYING.sub(b"", head))
    length = int(lengths[0]) if len(lengths) == 1 and _LENGTH.fullmatch(lengths[0]) else -1
    return head, length, next(filter(None, traces), b"")


class Call(msgspec.Struct, frozen=True, gc=False):
    """A request that was read: what performs it is asked as an operation is."""

    action: Action
    asked: Request
    caller: Caller


class Receive(Take, frozen=True, kw_only=True):
    """The same for one that may wait for messages, for `wait` seconds at most.

    Its client may leave meanwhile, as that of any `Take`.
    """

    call: Call


class Known(msgspec.Struct, frozen=True):
    """What the head of a request means, as far as clients repeat it."""

    action: Action
    caller: Caller
    grant: Grant | None
    last: bool
    plan: Plan


class SqsHot:
    """Answers SQS requests of one server; `clock` is Trio's."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        throttle: logs.Throttle,
        guard: Guard,
        tasks: Tasks,
        clock: Callable[[], float],
    ) -> None:
        self._how = engine.how
        self._at_hand = isinstance(engine, LocalEngine)
        """Whether what is looked up is known at once."""
        self._settings = settings
        self._throttle = throttle
        self._guard = guard
        self._tasks = tasks
        self._clock = clock
        self._remember = lru_cache(maxsize=HEADS_REMEMBERED)(self._read)
        self.forget = self._remember.cache_clear
        """To be called when credentials change."""
        self.performs: dict[type[Any], Callable[[Any, float], Any]] = {
            Call: self._perform,
            Receive: self._receive,
        }
        """What is to be called for each kind of request, beside `Engine.how`."""
        start = secrets.token_hex(8)
        self._request_id = f"{start[:8]}-{start[8:12]}-4{start[12:15]}-8{start[15]}00-%012x"
        self._numbers = count(1)

    def find(self, head: bytes, identities: Identities) -> Head | None:
        """Return what is to be done for a request with this head; None if the other road is to say."""
        bare, length, trace = cut(head)
        known = self._remember(bare, identities)
        if known is None or not 0 <= length <= MAX_HOT_SQS_BYTES:
            return None
        return Head(
            ANY,
            "",
            length,
            known.last,
            known.plan,
            None,
            False,
            partial(self._fill, known),
            self._render,
            False,
            False,
            tracing.FIELD + trace if trace else b"",
        )

    def still_lets_in(self, head: bytes, identities: Identities, operation: object) -> bool:
        """Whether a request that waits would be let in now, as it was when it came."""
        known = self._remember(cut(head)[0], identities)
        if known is None or not isinstance(operation, Receive):
            return False
        try:
            known.action.admit(operation.call.asked, known.grant, may_administer=False)
        except ZapqError:
            return False
        return True

    def _read(self, head: bytes, identities: Identities) -> Known | None:
        block = head[len(START) :]
        fields = parse_fields(block)
        if fields is None or b"\ncontent-length:" in block.lower():
            return None
        values = {name.lower(): value for name, value in _FIELD.findall(block)}
        target = values.get(b"x-amz-target", b"").decode("latin-1")
        if tracing.PARENT in values:
            return None  # `cut` has found it too odd
        action = ACTIONS.get(target.removeprefix(json_protocol.TARGET))
        if action is None or action.name not in _EFFECTS or not target.startswith(json_protocol.TARGET):
            return None
        if any(block.lower().count(each) > 1 for each in (b"\nx-amz-target:", b"\nx-amz-security-token:")):
            return None
        if not self._guard.answers_for(fields.host):
            return None
        credential = shown(fields.authorization, values.get(b"x-amz-security-token", b""))
        try:
            grant = self._guard.identify(credential.authorizations, identities)
        except ZapqError:
            return None
        scheme = "https" if self._settings.tls else "http"
        url = self._settings.sqs_url.rstrip("/") or f"{scheme}://{fields.host.decode()}"
        caller = Caller(
            Place(url, self._settings.sqs_account, credential.region),
            self._settings.max_message_bytes,
            self._tasks,
            "*" if grant is None else grant.queues,
        )
        return Known(action, caller, grant, fields.last, Plan(_EFFECTS[action.name]))

    def _fill(self, known: Known, plan: Plan, body: bytes, argument: str, key: str, **_: object) -> Any:
        action = known.action
        asked = action.read(body)
        if known.grant is not None:
            action.admit(asked, known.grant, may_administer=False)
        call = Call(action, asked, known.caller)
        if isinstance(asked, ReceiveMessage):
            # Without a time of its own it waits as the queue is set.
            wait = MAX_WAIT if asked.wait_time_seconds is None else asked.wait_time_seconds
            return Receive((asked.queue_url or "").rpartition("/")[2], ONE, wait, call=call)
        return call

    def _perform(self, call: Call, now: float) -> Said | Talk:
        return converse(call.action.run(call.asked, call.caller), self._how, self._clock, now)

    def _receive(self, receive: Receive, now: float) -> Said | Talk:
        # Where outcomes have to travel, whether it may wait long is to be known before the first has arrived.
        patient = receive.wait > 0 and not self._at_hand
        steps = receive.call.action.run(receive.call.asked, receive.call.caller)
        return converse(steps, self._how, self._clock, now, patient=patient)

    def _render(self, plan: Plan, operation: Any, outcome: Any, frame: Frame) -> bytes:
        # `Nothing` is what becomes of a poll whose client has left.
        result: Result = ReceiveMessageResult() if isinstance(outcome, Nothing) else outcome.result
        body = json_protocol.encode(result)
        request_id = self._request_id % next(self._numbers)
        return b"%bContent-Length: %d\r\n%b\r\n%b" % (_OK % request_id.encode(), len(body), frame.tail, body)

    def refusal(self, error: Exception, trace: bytes, tail: bytes, sock: Socket | None) -> bytes:
        """Return the answer to a request that was refused, and log it."""
        trace_id = tracing.id_in(trace)
        if isinstance(error, ZapqError):
            refused = as_sqs(error)
        elif isinstance(error, SqsError):
            refused = error
        else:
            logs.current_trace_id.set(trace_id)
            logs.log.error("request failed", exc_info=error)
            refused = SqsError(INTERNAL, "The request failed. The log of the server says why.")
        kind = refused.kind
        self._throttle.say_if_let_through(
            logging.WARNING if kind.sender else logging.ERROR,
            kind.code,
            "refused",
            lambda: {
                "trace_id": trace_id,
                "status": kind.status,
                "method": "POST",
                "path": "/",
                **peer_of_socket(sock),
                "reason": refused.message[:MAX_LOGGED_PATH],
            },
        )
        request_id = self._request_id % next(self._numbers)
        answer: Answer = json_protocol.refusal(refused, request_id)
        fields = {"x-amzn-RequestId": request_id, **answer.fields}
        if refused.retry_after is not None:
            fields["Retry-After"] = str(refused.retry_after)
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode()
        return b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\n%bContent-Length: %d\r\n%b\r\n%b" % (
            answer.status,
            _REASONS.get(answer.status, b"Service Unavailable" if answer.status == 503 else b"Error"),
            answer.content_type.encode(),
            lines,
            len(answer.body),
            tail,
            answer.body,
        )


def delivery_of(outcome: object) -> Any:
    """Return the messages in an outcome, as the operation that took them told of them; None if there are none."""
    return outcome.delivery if isinstance(outcome, Said) else outcome
