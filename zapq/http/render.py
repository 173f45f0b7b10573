"""Answers as bytes: what goes onto the wire, on both roads.

The fast road writes them as they are, with `tail`, the fields every answer ends with. Quart's road takes them
apart again, for there Hypercorn adds those. So there is one place that knows what an answer looks like.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from zapq.access.grant import ROLES, Grant
from zapq.core.message import DEFAULTS, Lease, Message, Properties
from zapq.core.runs import Taken
from zapq.core.stats import MessageView, QueueStats
from zapq.errors import ZapqError
from zapq.http.headers import fields_of
from zapq.http.metrics import AGES, ages
from zapq.http.plan import BodyEncoding, Frame, Plan
from zapq.http.problems import MEDIA_TYPE as PROBLEM
from zapq.http.problems import PHRASES, render_error, render_status
from zapq.limits import MAX_BATCH_BYTES
from zapq.service.history import Samples
from zapq.service.operations import Accepted, Delivery, Enqueue, Nothing, Operation, Put, Settle, SettleOne, Take
from zapq.service.paging import Page
from zapq.service.queue_state import QueueInfo
from zapq.service.snapshots import SnapshotFile

MSGPACK = "application/msgpack"
JSON = "application/json"
NDJSON = "application/x-ndjson"
TEXT = "text/plain; charset=utf-8"
_REPLAYED = b"Idempotency-Replayed: true\r\n"
_UNIQUE = {"": b"", "kept": b"Zapq-Unique: kept\r\n", "replaced": b"Zapq-Unique: replaced\r\n"}
"""What became of a message with a key, where one with that was held."""
_DURABILITY = {
    None: b"",
    "committed": b"Zapq-Durability: committed\r\n",
    "replicated": b"Zapq-Durability: replicated\r\n",
    "memory": b"Zapq-Durability: memory\r\n",
}
"""What a message that was accepted survives. Said where it may be more than memory, and to producers that ask."""


def enqueued(plan: Plan, operation: Operation, accepted: Accepted, frame: Frame) -> bytes:
    """The drop-in answer to a message that was accepted, or had been, under the same key."""
    tail = frame.tail
    if not accepted.replayed and accepted.durability is None:
        return (
            b"HTTP/1.1 202 Accepted\r\nCache-Control: no-store\r\nZapq-Message-Id: %d\r\n"
            b"Content-Length: 0\r\n%b\r\n" % (accepted.id, tail)
        )
    return (
        b"HTTP/1.1 202 Accepted\r\nCache-Control: no-store\r\nZapq-Message-Id: %d\r\n"
        b"%b%bContent-Length: 0\r\n%b\r\n"
        % (accepted.id, _REPLAYED if accepted.replayed else b"", _DURABILITY[accepted.durability], tail)
    )


def enqueued_in(plan: Plan, operation: Put | Enqueue, accepted: Accepted, frame: Frame) -> bytes:
    """The answer to a message that was accepted by a named queue."""
    id, queue, tail = accepted.id, operation.queue, frame.tail
    return (
        b"HTTP/1.1 202 Accepted\r\nCache-Control: no-store\r\nZapq-Message-Id: %d\r\n"
        b"Location: /queues/%b/messages/%d\r\n%b%b%bContent-Length: 0\r\n%b\r\n"
        % (
            id,
            queue.encode(),
            id,
            _REPLAYED if accepted.replayed else b"",
            _UNIQUE[accepted.unique],
            _DURABILITY[accepted.durability],
            tail,
        )
    )


def enqueued_many(count: int, accepted: Accepted, tail: bytes) -> bytes:
    """The answer to a batch that was accepted, or had been, under the same key."""
    body = b'{"count":%d,"first_id":%d}' % (count, accepted.id)
    if accepted.placed:
        # With keys, ids need not follow each other.
        ids, unique = [each.id for each in accepted.placed], [each.how or "stored" for each in accepted.placed]
        shown = {"count": count, "first_id": accepted.id, "ids": ids, "unique": unique}
        body = msgspec.json.encode(shown)
    return (
        b"HTTP/1.1 202 Accepted\r\nCache-Control: no-store\r\nContent-Type: application/json\r\n"
        b"%b%bContent-Length: %d\r\n%b\r\n%b"
        % (_REPLAYED if accepted.replayed else b"", _DURABILITY[accepted.durability], len(body), tail, body)
    )


def dequeued(plan: Plan, operation: Take, outcome: Delivery | Nothing, frame: Frame) -> bytes:
    """The drop-in answer that gives a message away, or says that there is none."""
    if outcome.__class__ is Nothing:
        return empty(frame.tail)
    message: Any = outcome.given[0]  # type: ignore[union-attr]  # it is a delivery
    body, tail, properties = message.body, frame.tail, message.properties
    if properties is not DEFAULTS and (properties.headers or properties.group or properties.origin):
        tail = _fields_of(properties) + tail
    return (
        b"HTTP/1.1 200 OK\r\nZapq-Message-Id: %d\r\nX-Content-Type-Options: nosniff\r\n"
        b"Cache-Control: no-store\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n%b\r\n%b"
        % (message.id, len(body), tail, body)
    )


def _taken(message: Message, tail: bytes) -> bytes:
    """The answer that gives a message away, with its type."""
    body, properties = message.body, message.properties
    if properties is not DEFAULTS and (properties.headers or properties.group or properties.origin):
        tail = _fields_of(properties) + tail
    return (
        b"HTTP/1.1 200 OK\r\nZapq-Message-Id: %d\r\nX-Content-Type-Options: nosniff\r\n"
        b"Cache-Control: no-store\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n%b"
        % (message.id, properties.content_type.encode(), len(body), tail, body)
    )


def _fields_of(properties: Properties) -> bytes:
    fields = fields_of(properties.headers)
    if properties.group:
        fields = b"Zapq-Group: %b\r\n%b" % (properties.group.encode(), fields)
    return (
        fields
        if properties.origin is None
        else b"Zapq-Origin: %b\r\n%b" % (str(properties.origin).encode(), fields)
    )


def received(given: Message | Lease, clock_offset: float, tail: bytes) -> bytes:
    """The answer that gives or leases a message; Trio's clock and `clock_offset` make Unix time."""
    if isinstance(given, Message):
        return _taken(given, tail)
    message, lease = given.message, given
    body, properties, receives = message.body, message.properties, lease.receives
    if properties is not DEFAULTS and (properties.headers or properties.group or properties.origin):
        tail = _fields_of(properties) + tail
        receives += properties.received_before
    return (
        b"HTTP/1.1 200 OK\r\nZapq-Message-Id: %d\r\nZapq-Receipt: %b\r\nZapq-Receive-Count: %d\r\n"
        b"Zapq-Visible-Until: %b\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n"
        b"Content-Type: %b\r\nContent-Length: %d\r\n%b\r\n%b"
        % (
            message.id,
            lease.receipt.encode(),
            receives,
            rfc3339(lease.deadline + clock_offset),
            properties.content_type.encode(),
            len(body),
            tail,
            body,
        )
    )


def received_many(
    media_type: str,
    given: Sequence[Message] | Sequence[Lease],
    encoding: BodyEncoding,
    clock_offset: float,
    tail: bytes,
) -> bytes:
    """The answer that gives a batch or leases it.

    In msgpack messages that are given for good are bodies alone: what a batch is sent as. Only those that have
    headers or a group are shown as JSON shows them.
    """
    visible = _visible_until(given[0], clock_offset) if given else b""
    if media_type != MSGPACK:
        shapes = [shape(each, encoding, clock_offset) for each in given]
        body = msgspec.json.encode(shapes) if media_type == JSON else _lines(shapes)
    elif isinstance(given, Taken) and not given.has_more:
        body = given.packed()
    else:
        body = msgspec.msgpack.encode([
            shape(each, None, clock_offset)
            if isinstance(each, Lease) or each.properties.headers or each.properties.group
            else each.body
            for each in given
        ])
    return _ok(body, media_type, tail, b"%bX-Content-Type-Options: nosniff\r\n" % visible)


def received_as_json(given: Message | Lease, encoding: BodyEncoding, clock_offset: float, tail: bytes) -> bytes:
    """The answer that gives or leases a message, with all that is known of it in its body."""
    fields = b"%bX-Content-Type-Options: nosniff\r\n" % _visible_until(given, clock_offset)
    return _ok(msgspec.json.encode(shape(given, encoding, clock_offset)), JSON, tail, fields)


def nothing_in_batch(nothing: Nothing, media_type: str, tail: bytes) -> bytes:
    """The answer to a consumer that asked for JSON by name and gets nothing: an empty batch."""
    return _ok(b"[]" if media_type == JSON else b"", media_type, tail, _why_nothing(nothing))


def _visible_until(given: Message | Lease, clock_offset: float) -> bytes:
    if isinstance(given, Lease):
        return b"Zapq-Visible-Until: %b\r\n" % rfc3339(given.deadline + clock_offset)
    return b""


def shape(given: Message | Lease, encoding: BodyEncoding | None, clock_offset: float) -> dict[str, object]:
    """Return a message as JSON and msgpack show it; None as `encoding` leaves its body bytes."""
    message = given.message if isinstance(given, Lease) else given
    properties = message.properties
    shown: dict[str, object] = {"id": message.id}
    if isinstance(given, Lease):
        shown |= {"receipt": given.receipt, "receive_count": given.receive_count}
    shown["content_type"] = properties.content_type
    _add_body(shown, message.body, encoding)
    if properties.priority:
        shown["priority"] = properties.priority
    if properties.group:
        shown["group"] = properties.group
    if properties.origin is not None:
        shown["origin"] = str(properties.origin)
    if properties.headers:
        shown["headers"] = dict(properties.headers)
    return shown


def _add_body(shown: dict[str, object], body: bytes, encoding: BodyEncoding | None) -> None:
    shown["body"] = body
    if encoding in {None, "base64"}:
        return
    try:
        text = body.decode()
        if encoding == "json":
            msgspec.json.decode(body)
            shown["body"] = msgspec.Raw(body.replace(b"\n", b" ").replace(b"\r", b" "))
        else:
            shown["body"] = text
    except (ValueError, msgspec.DecodeError, RecursionError):
        # It cannot be written so: then it is as it would be by default, and that is said.
        shown["body_encoding"] = "base64"


def _lines(values: Iterable[object]) -> bytes:
    return b"".join(msgspec.json.encode(value) + b"\n" for value in values)


def extended(lease: Lease, clock_offset: float, tail: bytes) -> bytes:
    """The answer to a consumer that keeps a message longer."""
    # A program that embeds zapq may hold a lease that never ends.
    ends = lease.deadline < math.inf
    visible = b"Zapq-Visible-Until: %b\r\n" % rfc3339(lease.deadline + clock_offset) if ends else b""
    return b"HTTP/1.1 204 No Content\r\nCache-Control: no-store\r\n%b%b\r\n" % (visible, tail)


def empty(tail: bytes) -> bytes:
    """The answer of an empty queue; also the answer where there is nothing to say."""
    return b"HTTP/1.1 204 No Content\r\nCache-Control: no-store\r\n%b\r\n" % tail


def nothing(nothing: Nothing, tail: bytes) -> bytes:
    """The answer to a consumer that gets nothing, and when it may be worth asking again."""
    return b"HTTP/1.1 204 No Content\r\nCache-Control: no-store\r\n%b%b\r\n" % (_why_nothing(nothing), tail)


def _why_nothing(nothing: Nothing) -> bytes:
    soon = b""
    if nothing.next_visible_in < math.inf:
        # Rounded up, so that a consumer that waits for so long finds something.
        soon = b"Zapq-Next-Visible-In: %.1f\r\n" % (math.ceil(nothing.next_visible_in * 10) / 10)
    return b"Zapq-Empty: %b\r\n%b" % (nothing.why.encode(), soon)


def taken(plan: Plan, operation: Take, outcome: Delivery | Nothing, frame: Frame) -> bytes:
    """Return the answer to a consumer that asked for one message of a queue."""
    if isinstance(outcome, Nothing):
        return nothing(outcome, frame.tail)
    first: Message | Lease = outcome.given[0]
    if plan.asks_for_json:
        return received_as_json(first, plan.encoding, frame.clock_offset, frame.tail)
    return received(first, frame.clock_offset, frame.tail)


def taken_many(plan: Plan, operation: Take, outcome: Delivery | Nothing, frame: Frame) -> bytes:
    """Return the answer to a consumer that asked for a batch."""
    if not isinstance(outcome, Nothing):
        given = outcome.given
        return received_many(plan.media_type, given, plan.encoding, frame.clock_offset, frame.tail)
    if plan.asks_for_json:
        return nothing_in_batch(outcome, plan.media_type, frame.tail)
    return nothing(outcome, frame.tail)


def settled(plan: Plan, operation: Settle, outcome: list[Any], frame: Frame) -> bytes:
    """Return the answer that says what has become of each settlement."""
    results = [
        {"receipt": settlement.receipt, "result": "ok" if error is None else error.problem}
        for settlement, error in zip(operation.settlements, outcome, strict=True)
    ]
    return as_json(results, frame.tail)


def one_settled(plan: Plan, operation: SettleOne, outcome: Lease | None, frame: Frame) -> bytes:
    """Return the answer to a consumer that settled one lease."""
    return empty(frame.tail) if outcome is None else extended(outcome, frame.clock_offset, frame.tail)


def ok(plan: Plan, operation: None, outcome: None, frame: Frame) -> bytes:
    """Return the answer of a probe that succeeds."""
    return text(b"ok", frame.tail)


def nothing_said(plan: Plan, operation: Any, outcome: Any, frame: Frame) -> bytes:
    """Return the answer to an operation of the original that reports nothing."""
    return done(frame.tail)


def as_json(value: object, tail: bytes, *, status: int = 200) -> bytes:
    """An answer whose body is `value`."""
    return _ok(msgspec.json.encode(value), JSON, tail, status=status)


def text(body: bytes, tail: bytes, media_type: str = TEXT, fields: bytes = b"") -> bytes:
    """An answer whose body is text."""
    return _ok(body, media_type, tail, fields)


def done(tail: bytes) -> bytes:
    """The drop-in answer where there is nothing to say."""
    return b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 0\r\n%b\r\n" % tail


def refused(error: ZapqError, trace_id: str, tail: bytes) -> bytes:
    """The answer to a request that is refused."""
    again = b"" if error.retry_after is None else b"Retry-After: %d\r\n" % error.retry_after
    challenge = b"" if error.challenge is None else b"WWW-Authenticate: %b\r\n" % error.challenge.encode()
    return _ok(render_error(error, trace_id), PROBLEM, tail, again + challenge, status=error.status)


def failed(trace_id: str, tail: bytes) -> bytes:
    """The answer where the server made a mistake."""
    detail = "The server failed because of an error of its own. Its log has the details under this trace id."
    return _ok(render_status(500, detail, trace_id), PROBLEM, tail, status=500)


def _ok(body: bytes, media_type: str, tail: bytes, fields: bytes = b"", *, status: int = 200) -> bytes:
    # It may be megabytes, which % would copy more than once.
    return head(len(body), media_type, tail, fields, status=status) + body


def head(size: int, media_type: str, tail: bytes, fields: bytes = b"", *, status: int = 200) -> bytes:
    """What stands before a body of `size` bytes."""
    return b"HTTP/1.1 %d %b\r\n%bCache-Control: no-store\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n" % (
        status,
        PHRASES[status].encode(),
        fields,
        media_type.encode(),
        size,
        tail,
    )


# A struct, because a thousand dicts of that size take milliseconds.
_Queue: Any = msgspec.defstruct(
    "_Queue",
    ["name", "paused", "waiting", *QueueStats.__struct_fields__, *AGES, "settings"],
    frozen=True,
    gc=False,
)


def queue(info: QueueInfo, now: float) -> object:
    """Return a queue as JSON shows it."""
    stats = msgspec.structs.astuple(info.stats)
    return _Queue(info.name, info.paused, info.waiting, *stats, *ages(info.oldest, now), info.settings)


def queues(plan: Plan, operation: Operation, outcome: Sequence[QueueInfo] | Page, frame: Frame) -> bytes:
    """Return the answer that lists queues; a page also says how many there are, and where the next one begins."""
    if not isinstance(outcome, Page):
        return as_json([queue(info, frame.now) for info in outcome], frame.tail)
    fields = b"Zapq-Total: %d\r\n" % outcome.total
    if outcome.next:
        fields += b"Zapq-Next: %b\r\n" % outcome.next.encode()
    shown = [queue(info, frame.now) for info in outcome.infos]
    return _ok(msgspec.json.encode(shown), JSON, frame.tail, fields)


def history(told: Samples, frame: Frame) -> dict[str, object]:
    """Return what queues held and did as JSON shows it."""
    return {
        "seconds": told.seconds,
        "at": rfc3339(frame.now + frame.clock_offset - told.age).decode(),
        "left_out": told.left_out,
        "queues": told.queues,
    }


def refusals(frame: Frame, limit: int) -> list[dict[str, object]]:
    """Return the requests that were refused last as JSON shows them."""
    return [
        {
            "time": rfc3339(each.at + frame.clock_offset).decode(),
            "problem": each.problem,
            "status": each.status,
            **({"method": each.method, "path": each.shown_path} if each.method else {}),
            **({"queue": each.queue} if each.queue else {}),
            "trace_id": each.trace_id,
        }
        for each in frame.counts.last_refused.latest(limit)
    ]


def grant(grant: Grant | None) -> dict[str, object]:
    """Return what a client may do as JSON shows it."""
    assert grant is not None
    shown: dict[str, object] = {
        "name": grant.name or None,
        "roles": [role for role in ROLES if grant.has_role(role)],
        "queues": grant.queues,
    }
    if grant.expires < math.inf:
        shown["expires"] = rfc3339(grant.expires).decode()
    return shown


def message(seen: MessageView, encoding: BodyEncoding, now: float) -> dict[str, object]:
    """Return a message as a peek shows it."""
    properties = seen.message.properties
    shown: dict[str, object] = {
        "id": seen.message.id,
        "state": seen.state,
        "priority": properties.priority,
        "receive_count": seen.receive_count,
        "content_type": properties.content_type,
    }
    if properties.group:
        shown["group"] = properties.group
    if properties.unique:
        shown["unique"] = properties.unique
    if properties.headers:
        shown["headers"] = dict(properties.headers)
    _add_body(shown, seen.message.body, encoding)
    if seen.due is not None and seen.due < math.inf:
        shown["visible_in"] = round(max(seen.due - now, 0.0), 3)
    if properties.expires < math.inf:
        shown["expires_in"] = round(max(properties.expires - now, 0.0), 3)
    if properties.failed_in:
        shown["failed_in"] = properties.failed_in
    if properties.origin is not None:
        shown["origin"] = str(properties.origin)
    return shown


def messages(seen: list[MessageView], encoding: BodyEncoding, now: float) -> list[dict[str, object]]:
    """Return the first of `seen`, as many as have at most `MAX_BATCH_BYTES` together, but at least one."""
    size = 0
    shown: list[dict[str, object]] = []
    for each in seen:
        size += each.message.size
        if shown and size > MAX_BATCH_BYTES:
            break
        shown.append(message(each, encoding, now))
    return shown


def snapshot(file: SnapshotFile) -> dict[str, object]:
    """Return a snapshot as JSON shows it."""
    modified = datetime.fromtimestamp(file.modified, UTC)
    shown: dict[str, object] = {
        "name": file.name,
        "format": file.name.rpartition(".")[2],
        "bytes": file.bytes,
        "modified": modified.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    if file.totals is not None:
        shown |= {"queues": file.totals.queues, "messages": file.totals.messages}
    return shown


@lru_cache(maxsize=64)  # What is leased in one turn is mostly visible again at one time.
def rfc3339(seconds: float) -> bytes:
    """A time of the world's clock, to the millisecond (RFC 3339)."""
    whole = math.floor(seconds)
    return b"%b.%03dZ" % (_whole_second(whole), (seconds - whole) * 1000)


@lru_cache(maxsize=256)
def _whole_second(seconds: int) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode()
