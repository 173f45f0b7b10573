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
from collections.abc import Callable, Sequence
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
from zapq.limits import HEADS_REMEMBERED, LENGTHS_REMEMBERED, MAX_HOT_SQS_BYTES, MAX_LOGGED_PATH, MAX_WAIT
from zapq.server.hot_head import FIELD, Head, parse_fields
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
_DATE, _SIGNED = b"\r\nX-Amz-Date: ", b", Signature="
_NUMBER, _CONTENT_LENGTH = b"\r\namz-sdk-invocation-id: ", b"\r\nContent-Length: "
"""What boto3 writes anew, in its order, except the length."""
_CREDENTIAL = b" Credential="
_CREDENTIAL_BYTES = 64
"""So much of it tells clients apart well enough: what is found by it is compared with the whole head."""
_LENGTH = re.compile(rb"[0-9]{1,9}")
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
_REST = b"Content-Length: %d\r\n%b\r\n%b"
_REASONS = {400: b"Bad Request", 403: b"Forbidden", 404: b"Not Found", 429: b"Too Many Requests"}


def cut(head: bytes) -> tuple[bytes, int, bytes]:
    """Cut out of a head what differs from request to request; return the rest, and what is needed of that.

    That is the length of the body, -1 if it cannot be told, or not at once; and the id of the client's trace.
    """
    # As boto3 writes it: to look for that takes a tenth of the time.
    spans = varying_in(head)
    if spans:
        (date, dated), (signature, signed), (number, numbered), (start, end) = spans
        rest = (
            head[: date - len(_DATE)],
            head[dated : signature - len(_SIGNED)],
            head[signed : number - len(_NUMBER)],
            head[numbered : start - len(_CONTENT_LENGTH)],
            head[end:],
        )
        return b"".join(rest), length_of(head[start:end]), b""
    fields = [(match[1].lower(), match[2]) for match in _VARYING.finditer(head)]
    lengths = [value for name, value in fields if name == b"content-length"]
    traces = [tracing.trace_of(value) for name, value in fields if name == tracing.PARENT]
    head = _SIGNATURE.sub(b"", _VARYING.sub(b"", head))
    return head, length_of(lengths[0]) if len(lengths) == 1 else -1, next(filter(None, traces), b"")


def length_of(digits: bytes) -> int:
    """Return what a Content-Length says, or -1 if that is not plain."""
    return int(digits) if _LENGTH.fullmatch(digits) else -1


Span = tuple[int, int]


def varying_in(head: bytes) -> tuple[Span, Span, Span, Span] | None:
    """Return where date, signature, number and length are in a head as boto3 writes it; None for any other."""
    date = head.find(_DATE)
    signature = head.find(_SIGNED, date)
    number = head.find(_NUMBER, signature)
    length = head.find(_CONTENT_LENGTH, number)
    if not 0 <= date < signature < number < length or b"raceparent:" in head:
        return None
    date += len(_DATE)
    signature += len(_SIGNED)
    number += len(_NUMBER)
    length += len(_CONTENT_LENGTH)
    index = head.index
    spans = (
        (date, index(b"\r\n", date)),
        (signature, index(b"\r\n", signature)),
        (number, index(b"\r\n", number)),
        (length, index(b"\r\n", length)),
    )
    return spans if _is_plain(head, spans) else None


def _is_plain(head: bytes, spans: Sequence[Span]) -> bool:
    """Whether there is no more than a word in each of the first three: they are not parsed.

    So no bare LF, and no more of a field, can slip through.
    """
    (date, dated), (signature, signed), (number, numbered), _ = spans
    return (
        head[date:dated].isalnum()
        and head[signature:signed].isalnum()
        and head[number:numbered].replace(b"-", b"").isalnum()
    )


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


class Layout(msgspec.Struct, frozen=True):
    """A head as boto3 writes it: where the next one may differ, and what it means if it differs only there.

    The next is compared with it, which takes less than half the time of cutting it and looking up the rest.
    """

    known: Known
    spans: tuple[Span, Span, Span, Span]
    same: tuple[tuple[bytes, int], ...]
    """The rest, and where it is."""
    heads: dict[bytes, Head] = msgspec.field(default_factory=dict)
    """By what the Content-Length says."""

    def length_in(self, head: bytes) -> bytes:
        """Return what the Content-Length of such a head says; empty if this is another one."""
        for part, at in self.same:
            if not head.startswith(part, at):
                return b""
        if not _is_plain(head, self.spans):
            return b""
        start, end = self.spans[3]
        return head[start:end]


def layout_of(head: bytes, known: Known) -> Layout | None:
    """Return the layout of a head that means `known`; None if it is not as boto3 writes it."""
    spans = varying_in(head)
    if spans is None:
        return None
    starts, ends = [0, *(end for _, end in spans)], [*(start for start, _ in spans), len(head)]
    same = tuple((head[start:end], start) for start, end in zip(starts, ends, strict=True))
    return Layout(known, spans, same)


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
        self._layouts: dict[tuple[int, bytes, Identities], Layout] = {}
        """By length and client: heads with the same are mostly laid out the same."""
        self.performs: dict[type[Any], Callable[[Any, float], Any]] = {
            Call: self._perform,
            Receive: self._receive,
        }
        """What is to be called for each kind of request, beside `Engine.how`."""
        start = secrets.token_hex(8)
        self._request_id = f"{start[:8]}-{start[8:12]}-4{start[12:15]}-8{start[15]}00-%012x"
        self._numbers = count(1)
        self._answer = _OK % self._request_id.encode() + _REST

    def find(self, head: bytes, identities: Identities) -> Head | None:
        """Return what is to be done for a request with this head; None if the other road is to say."""
        at = head.find(_CREDENTIAL)
        key = len(head), head[at : at + _CREDENTIAL_BYTES], identities
        layout = self._layouts.get(key)
        if layout is not None and (digits := layout.length_in(head)):
            found = layout.heads.get(digits)
            if found is None:
                found = self._head(layout.known, length_of(digits))
                if found is not None and len(layout.heads) < LENGTHS_REMEMBERED:
                    layout.heads[digits] = found
            return found
        bare, length, trace = cut(head)
        known = self._remember(bare, identities)
        if known is None:
            return None
        if (layout := layout_of(head, known)) is not None:
            if len(self._layouts) >= HEADS_REMEMBERED:
                self._layouts.clear()
            self._layouts[key] = layout
        return self._head(known, length, trace)

    def _head(self, known: Known, length: int, trace: bytes = b"") -> Head | None:
        """Return what a request is that means `known` and has a body of this length; None if it is not plain."""
        if not 0 <= length <= MAX_HOT_SQS_BYTES:
            return None
        fill = partial(self._fill, known)
        field = tracing.FIELD + trace if trace else b""
        return Head(ANY, "", length, known.last, known.plan, None, False, fill, self._render, False, False, field)

    def forget(self) -> None:
        """Forget what heads mean: to be called when credentials change."""
        self._remember.cache_clear()
        self._layouts.clear()

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
        values = {name.lower(): value for name, value in FIELD.findall(block)}
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
        return self._answer % (next(self._numbers), len(body), frame.tail, body)

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
