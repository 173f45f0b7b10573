"""The endpoints, in one table: how each operation is asked for, who may, and how its outcome is answered.

Whatever else knows endpoints is made from this table: the routes of the Quart app, the grammar of the fast road,
roles, the limits of bodies, the checks for browsers. The tables in the documentation are compared with it. A
request is answered in four steps, the same on both roads:

    read    method, path, query and fields  ->  an `Asked`          (each road in its own way)
    plan    an `Asked`                      ->  a `Plan`: the operation without what differs in each request
    fill    a `Plan`, and body, key, ...    ->  the operation, for `Queues.perform`
    render  its outcome                     ->  bytes               (`zapq/http/render.py`)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from html import escape
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from zapq.access.grant import Role
from zapq.core.message import OCTETS, Lease, Message
from zapq.errors import BatchTooLarge, InvalidParameter, MessageTooLarge, ProblemNotFound
from zapq.http import metrics, render, wire
from zapq.http.plan import Asked, Frame, Plan
from zapq.http.problems import Meaning, meanings
from zapq.http.render import JSON, MSGPACK, NDJSON
from zapq.limits import DEFAULT_QUEUE, MAX_BATCH, MAX_BATCH_BYTES, MAX_DELAY, MAX_VISIBILITY, MAX_WAIT, PEEK
from zapq.service.operations import (
    ChangeSettings,
    Configure,
    Delete,
    Delivery,
    Describe,
    Drain,
    Enqueue,
    Find,
    List,
    ListSnapshots,
    Load,
    Nothing,
    Operation,
    Peek,
    Purge,
    Put,
    Ready,
    Redrive,
    Save,
    SetPaused,
    Settle,
    Settlement,
    SettleOne,
    Stats,
    Take,
    check,
    checked_limit,
    checked_want,
    terms,
)

if TYPE_CHECKING:
    from zapq.service.reservation import Reservation

Scope = Literal["default", "queue", "server", "listed"]
"""Which queue a credential must be good for: the default one, the one in the path, all, or those it then lists."""


class Body(Enum):
    """What the body of a request is."""

    NONE = "refused, unless it is empty"
    IGNORED = "read and ignored, as the original does"
    MESSAGE = "a message"
    BATCH = "a batch of messages"
    SETTLEMENTS = "settlements"
    SETTINGS = "a queue's settings"

    @property
    def stored(self) -> bool:
        """Whether it becomes messages, so that room for it is reserved among them."""
        return self in {Body.MESSAGE, Body.BATCH}

    def limit(self, max_message_bytes: int) -> tuple[int, type[MessageTooLarge]]:
        """Return how long it may be, and how a longer one is refused."""
        if self in {Body.BATCH, Body.SETTLEMENTS}:
            return MAX_BATCH_BYTES, BatchTooLarge
        return max_message_bytes, MessageTooLarge


class Fill(Protocol):
    """Makes the operation."""

    def __call__(
        self,
        plan: Plan,
        body: bytes,
        argument: str,
        key: str,
        *,
        exempt_from_drain: bool = False,
        reserved: Reservation | None = None,
    ) -> Operation:
        """`argument` is the receipt or message id in the path, `key` the Idempotency-Key; see `Offer` for the rest."""


Audit = Callable[[Any, Any], dict[str, object]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One way to ask for one operation."""

    action: str
    """What it does, in a word or two; its name in the log."""
    method: str
    path: str
    """With `{queue}`, `{receipt}`, `{id}`, `{problem}` for what varies."""
    plan: Callable[[Asked], Plan]
    render: Callable[[Plan, Any, Any, Frame], bytes]
    """Gets the plan, the operation, its outcome and the frame."""
    fill: Fill | None = None
    """Adds what differs from request to request; None if the plan is the operation already."""
    role: Role | None = None
    """None: a probe has no credentials, and what the documentation says is no secret."""
    scope: Scope = "queue"
    takes: tuple[str, ...] = ()
    """Query parameters."""
    body: Body = Body.NONE
    keyed: bool = False
    """Whether an Idempotency-Key makes it safe to repeat."""
    changes: bool = True
    """Whether it changes something: then web pages of others must not send it."""
    fast: bool = True
    """Whether the fast road may answer it."""
    large: bool = False
    """Whether its answer may take milliseconds to make."""
    audit: Audit | None = None
    """What the log says of it, if an administrator's action is what it is."""


def _put(asked: Asked) -> Plan:
    values = asked.values
    how = terms(
        priority=wire.whole(values, "priority", 0),
        delay=wire.seconds(values, "delay", 0.0),
        ttl=wire.seconds(values, "ttl", None),
        content_type=wire.kept_type(asked.content_type),
        durability=wire.durability(values),
        wait=wire.seconds(values, "wait", 0.0),
    )
    simple = how.ttl is None and how.durability is None and not how.wait
    return Plan(Put(b"", how, queue=asked.queue), simple=simple)


def _fill_put(
    plan: Plan,
    body: bytes,
    argument: str,
    key: str,
    *,
    exempt_from_drain: bool = False,
    reserved: Reservation | None = None,
) -> Put | Enqueue:
    template: Any = plan.operation
    if plan.simple and not key and reserved is None and not exempt_from_drain:
        return Enqueue(template.queue, body, template.terms.properties, template.terms.delay)
    return Put(body, template.terms, key, b"", exempt_from_drain, reserved, template.queue)


def _put_many(asked: Asked) -> Plan:
    media_type = wire.batch_format(asked.content_type)
    content_type = JSON if media_type == NDJSON else OCTETS
    how = terms(
        content_type=content_type,
        durability=wire.durability(asked.values),
        wait=wire.seconds(asked.values, "wait", 0.0),
    )
    return Plan(Put((), how, queue=asked.queue), media_type=media_type)


def _fill_batch(
    plan: Plan,
    body: bytes,
    argument: str,
    key: str,
    *,
    exempt_from_drain: bool = False,
    reserved: Reservation | None = None,
) -> Put:
    template: Any = plan.operation
    batch = wire.decode_batch(plan.media_type, body)
    packed = body if plan.media_type == MSGPACK else b""
    return Put(batch, template.terms, key, packed, exempt_from_drain, reserved, template.queue)


def _dequeue(asked: Asked) -> Plan:
    wait = wire.seconds(asked.values, "wait", 0.0)
    check("wait", wait, 0, MAX_WAIT)
    return Plan(Take(DEFAULT_QUEUE, checked_want(1, lease=False), wait))


def _take(asked: Asked) -> Plan:
    explicit = wire.best_of(asked.accept, [OCTETS, JSON]) == JSON
    return Plan(
        _taking(asked, 1),
        encoding=wire.body_encoding(asked.values, "base64"),
        asks_for_json=explicit,
    )


def _take_many(asked: Asked) -> Plan:
    media_type = wire.answer_format(asked.accept)
    return Plan(
        _taking(asked, wire.whole(asked.values, "max", MAX_BATCH)),
        media_type=media_type,
        encoding=wire.body_encoding(asked.values, "json" if media_type == NDJSON else "base64"),
        asks_for_json=media_type != MSGPACK and asked.accept not in {"", "*/*"},
    )


def _taking(asked: Asked, limit: int) -> Take:
    lease, visibility = wire.leases(asked.values), wire.seconds(asked.values, "visibility", None)
    wait = wire.seconds(asked.values, "wait", 0.0)
    check("wait", wait, 0, MAX_WAIT)
    return Take(asked.queue, checked_want(limit, lease=lease, visibility=visibility), wait)


def _release(asked: Asked) -> Plan:
    delay = wire.seconds(asked.values, "delay", 0.0)
    check("delay", delay, 0, MAX_DELAY)
    return Plan(SettleOne(asked.queue, Settlement(receipt="", action="release", delay=delay)))


def _extend(asked: Asked) -> Plan:
    visibility = wire.seconds(asked.values, "visibility", None)
    check("visibility", visibility, 0, MAX_VISIBILITY)
    return Plan(SettleOne(asked.queue, Settlement(receipt="", action="extend", visibility=visibility)))


def _fill_receipt(plan: Plan, body: bytes, argument: str, key: str, **_: object) -> SettleOne:
    template: Any = plan.operation
    settlement = template.settlement
    return SettleOne(
        template.queue,
        Settlement(
            receipt=argument,
            action=settlement.action,
            delay=settlement.delay,
            visibility=settlement.visibility,
        ),
    )


def _settle(asked: Asked) -> Plan:
    return Plan(Settle(asked.queue, ()), media_type=wire.settlements_format(asked.content_type))


def _fill_settlements(plan: Plan, body: bytes, argument: str, key: str, **_: object) -> Settle:
    template: Any = plan.operation
    return Settle(template.queue, wire.decode_settlements(plan.media_type, body))


def _peek(asked: Asked) -> Plan:
    limit = checked_limit(wire.whole(asked.values, "limit", PEEK), "limit")
    operation = Peek(asked.queue, wire.state(asked.values), limit)
    return Plan(operation, encoding=wire.body_encoding(asked.values, "base64"))


def _find(asked: Asked) -> Plan:
    return Plan(Find(asked.queue), encoding=wire.body_encoding(asked.values, "base64"))


def _redrive(asked: Asked) -> Plan:
    return Plan(Redrive(asked.queue, checked_limit(wire.whole(asked.values, "limit", MAX_BATCH), "limit")))


def _file(asked: Asked) -> str:
    if "file" not in asked.values:
        raise InvalidParameter("file is missing. Give ?file=NAME.json or ?file=NAME.msgpack.", parameter="file")
    return asked.values["file"]


def _fill_settings(plan: Plan, body: bytes, argument: str, key: str, **_: object) -> Configure:
    return Configure(plan.name, wire.decode_settings(body))


def _fill_changes(plan: Plan, body: bytes, argument: str, key: str, **_: object) -> ChangeSettings:
    return ChangeSettings(plan.name, wire.decode_changes(body))


def _fill_id(plan: Plan, body: bytes, argument: str, key: str, **_: object) -> Find:
    template: Any = plan.operation
    return Find(template.queue, int(argument))


_KNOWN = meanings()
_PAGE = '<!doctype html><html lang="en"><title>zapq</title><pre style="white-space: pre-wrap">{}</pre>'


def _explain(asked: Asked) -> Plan:
    if asked.name and asked.name not in _KNOWN:
        raise ProblemNotFound
    best = wire.best_of(asked.accept, ["text/plain", "text/html", JSON]) or "text/plain"
    return Plan(None, media_type=best, name=asked.name)


def _show_meaning(plan: Plan, operation: None, outcome: None, frame: Frame) -> bytes:
    vary = b"Vary: Accept\r\n"
    value = _KNOWN[plan.name] if plan.name else list(_KNOWN.values())
    if plan.media_type == JSON:
        return render.text(msgspec.json.encode(value), frame.tail, JSON, vary)
    text = "\n\n".join(map(_as_text, [value] if isinstance(value, Meaning) else value))
    if plan.media_type == "text/html":
        return render.text(_PAGE.format(escape(text)).encode(), frame.tail, "text/html; charset=utf-8", vary)
    return render.text(f"{text}\n".encode(), frame.tail, fields=vary)


def _as_text(each: Meaning) -> str:
    return f"{each.title} ({each.type}, status {each.status})\n{each.meaning}"


def _taken(plan: Plan, operation: Take, outcome: Delivery | Nothing, frame: Frame) -> bytes:
    if isinstance(outcome, Nothing):
        return render.nothing(outcome, frame.tail)
    first: Message | Lease = outcome.given[0]
    if plan.asks_for_json:
        return render.received_as_json(first, plan.encoding, frame.clock_offset, frame.tail)
    return render.received(first, frame.clock_offset, frame.tail)


def _taken_many(plan: Plan, operation: Take, outcome: Delivery | Nothing, frame: Frame) -> bytes:
    if not isinstance(outcome, Nothing):
        given = outcome.given
        return render.received_many(plan.media_type, given, plan.encoding, frame.clock_offset, frame.tail)
    if plan.asks_for_json:
        return render.nothing_in_batch(outcome, plan.media_type, frame.tail)
    return render.nothing(outcome, frame.tail)


def _settled(plan: Plan, operation: Settle, outcome: list[Any], frame: Frame) -> bytes:
    results = [
        {"receipt": settlement.receipt, "result": "ok" if error is None else error.problem}
        for settlement, error in zip(operation.settlements, outcome, strict=True)
    ]
    return render.as_json(results, frame.tail)


def _one_settled(plan: Plan, operation: SettleOne, outcome: Lease | None, frame: Frame) -> bytes:
    return (
        render.empty(frame.tail) if outcome is None else render.extended(outcome, frame.clock_offset, frame.tail)
    )


def _ok(plan: Plan, operation: None, outcome: None, frame: Frame) -> bytes:
    return render.text(b"ok", frame.tail)


def _done(plan: Plan, operation: Any, outcome: Any, frame: Frame) -> bytes:
    return render.done(frame.tail)


def _json(show: Callable[[Any, Any, Frame], object]) -> Callable[[Plan, Any, Any, Frame], bytes]:
    return lambda plan, operation, outcome, frame: render.as_json(show(plan, outcome, frame), frame.tail)


def _of_queue(operation: Any, outcome: Any) -> dict[str, object]:
    return {"queue": operation.queue}


_IN_QUEUE = ("priority", "delay", "ttl", "durability", "wait")
_TAKING = ("visibility", "wait", "ack", "body")

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "put",
        "POST",
        "/enqueue",
        _put,
        render.enqueued,
        _fill_put,
        "producer",
        "default",
        ("durability", "wait"),
        Body.MESSAGE,
        keyed=True,
    ),
    Endpoint(
        "take",
        "GET",
        "/dequeue",
        _dequeue,
        render.dequeued,
        role="consumer",
        scope="default",
        takes=("wait",),
        body=Body.IGNORED,
    ),
    Endpoint(
        "take",
        "POST",
        "/dequeue",
        _dequeue,
        render.dequeued,
        role="consumer",
        scope="default",
        takes=("wait",),
        body=Body.IGNORED,
    ),
    Endpoint(
        "put",
        "POST",
        "/queues/{queue}/messages",
        _put,
        render.enqueued_in,
        _fill_put,
        "producer",
        takes=_IN_QUEUE,
        body=Body.MESSAGE,
        keyed=True,
    ),
    Endpoint(
        "put many",
        "POST",
        "/queues/{queue}/messages/batch",
        _put_many,
        lambda plan, operation, outcome, frame: render.enqueued_many(len(operation.content), outcome, frame.tail),
        _fill_batch,
        "producer",
        takes=("durability", "wait"),
        body=Body.BATCH,
        keyed=True,
        large=True,
    ),
    Endpoint("take", "POST", "/queues/{queue}/receive", _take, _taken, role="consumer", takes=_TAKING),
    Endpoint(
        "take many",
        "POST",
        "/queues/{queue}/receive/batch",
        _take_many,
        _taken_many,
        role="consumer",
        takes=("max", *_TAKING),
        large=True,
    ),
    Endpoint(
        "ack",
        "DELETE",
        "/queues/{queue}/receipts/{receipt}",
        lambda asked: Plan(SettleOne(asked.queue, Settlement(receipt=""))),
        _one_settled,
        _fill_receipt,
        "consumer",
    ),
    Endpoint(
        "release",
        "POST",
        "/queues/{queue}/receipts/{receipt}/release",
        _release,
        _one_settled,
        _fill_receipt,
        "consumer",
        takes=("delay",),
    ),
    Endpoint(
        "extend",
        "POST",
        "/queues/{queue}/receipts/{receipt}/extend",
        _extend,
        _one_settled,
        _fill_receipt,
        "consumer",
        takes=("visibility",),
    ),
    Endpoint(
        "settle",
        "POST",
        "/queues/{queue}/settle",
        _settle,
        _settled,
        _fill_settlements,
        "consumer",
        body=Body.SETTLEMENTS,
        large=True,
    ),
    Endpoint(
        "peek",
        "GET",
        "/queues/{queue}/messages",
        _peek,
        _json(lambda plan, seen, frame: render.messages(seen, plan.encoding, frame.now)),
        role="consumer",
        takes=("state", "limit", "body"),
        changes=False,
        large=True,
    ),
    Endpoint(
        "find",
        "GET",
        "/queues/{queue}/messages/{id}",
        _find,
        _json(lambda plan, seen, frame: render.message(seen, plan.encoding, frame.now)),
        _fill_id,
        "consumer",
        takes=("body",),
        changes=False,
    ),
    Endpoint(
        "describe",
        "GET",
        "/queues/{queue}",
        lambda asked: Plan(Describe(asked.queue)),
        _json(lambda plan, info, frame: render.queue(info)),
        role="metrics",
        changes=False,
    ),
    Endpoint(
        "list",
        "GET",
        "/queues",
        lambda asked: Plan(List(asked.queues)),
        _json(lambda plan, infos, frame: [render.queue(info) for info in infos]),
        role="metrics",
        scope="listed",
        changes=False,
        large=True,
    ),
    Endpoint(
        "configure",
        "PUT",
        "/queues/{queue}",
        lambda asked: Plan(None, name=asked.queue),
        lambda plan, operation, outcome, frame: render.as_json(
            render.queue(outcome[1]), frame.tail, status=201 if outcome[0] else 200
        ),
        _fill_settings,
        "admin",
        body=Body.SETTINGS,
        fast=False,
        audit=lambda operation, outcome: {"queue": operation.queue, "made": outcome[0]},
    ),
    Endpoint(
        "change-settings",
        "PATCH",
        "/queues/{queue}",
        lambda asked: Plan(None, name=asked.queue),
        _json(lambda plan, info, frame: render.queue(info)),
        _fill_changes,
        "admin",
        body=Body.SETTINGS,
        fast=False,
        audit=lambda operation, outcome: {"queue": operation.queue, "settings": sorted(operation.changes)},
    ),
    Endpoint(
        "delete",
        "DELETE",
        "/queues/{queue}",
        lambda asked: Plan(Delete(asked.queue)),
        lambda plan, operation, outcome, frame: render.empty(frame.tail),
        role="admin",
        fast=False,
        audit=_of_queue,
    ),
    Endpoint(
        "purge",
        "POST",
        "/queues/{queue}/purge",
        lambda asked: Plan(Purge(asked.queue)),
        _json(lambda plan, purged, frame: {"purged": purged}),
        role="admin",
        fast=False,
        audit=lambda operation, outcome: {"queue": operation.queue, "purged": outcome},
    ),
    Endpoint(
        "pause",
        "POST",
        "/queues/{queue}/pause",
        lambda asked: Plan(SetPaused(asked.queue, True)),
        _json(lambda plan, outcome, frame: {"paused": True}),
        role="admin",
        fast=False,
        audit=_of_queue,
    ),
    Endpoint(
        "resume",
        "POST",
        "/queues/{queue}/resume",
        lambda asked: Plan(SetPaused(asked.queue, False)),
        _json(lambda plan, outcome, frame: {"paused": False}),
        role="admin",
        fast=False,
        audit=_of_queue,
    ),
    Endpoint(
        "redrive",
        "POST",
        "/queues/{queue}/redrive",
        _redrive,
        _json(lambda plan, redriven, frame: {"moved": redriven.moved, "left": redriven.left}),
        role="admin",
        takes=("limit",),
        fast=False,
        audit=lambda operation, outcome: {"queue": operation.queue, "moved": outcome.moved, "left": outcome.left},
    ),
    Endpoint(
        "clear",
        "POST",
        "/clear",
        lambda asked: Plan(Purge(DEFAULT_QUEUE)),
        _done,
        role="admin",
        scope="default",
        body=Body.IGNORED,
        fast=False,
        audit=lambda operation, outcome: {"queue": operation.queue, "cleared": outcome},
    ),
    Endpoint(
        "persist",
        "POST",
        "/persist",
        lambda asked: Plan(Save(_file(asked))),
        _done,
        role="admin",
        scope="server",
        takes=("file",),
        body=Body.IGNORED,
        fast=False,
        audit=lambda operation, outcome: {"file": operation.file, "messages": outcome},
    ),
    Endpoint(
        "load",
        "POST",
        "/load",
        lambda asked: Plan(Load(_file(asked))),
        _done,
        role="admin",
        scope="server",
        takes=("file",),
        body=Body.IGNORED,
        fast=False,
        audit=lambda operation, outcome: {"file": operation.file, "messages": outcome},
    ),
    Endpoint(
        "list-snapshots",
        "GET",
        "/snapshots",
        lambda asked: Plan(ListSnapshots()),
        _json(lambda plan, files, frame: [render.snapshot(file) for file in files]),
        role="admin",
        scope="server",
        changes=False,
        fast=False,
        audit=lambda operation, outcome: {"files": len(outcome)},
    ),
    Endpoint(
        "drain",
        "POST",
        "/drain",
        lambda asked: Plan(Drain()),
        _json(lambda plan, outcome, frame: {"draining": True}),
        role="admin",
        scope="server",
        fast=False,
        audit=lambda operation, outcome: {},
    ),
    Endpoint(
        "stats",
        "GET",
        "/metrics",
        lambda asked: Plan(Stats()),
        _json(lambda plan, stats, frame: metrics.as_json(stats, frame.counts)),
        role="metrics",
        scope="server",
        body=Body.IGNORED,
        changes=False,
    ),
    Endpoint(
        "health", "GET", "/health", lambda asked: Plan(None), _ok, scope="server", body=Body.IGNORED, changes=False
    ),
    Endpoint(
        "health", "GET", "/livez", lambda asked: Plan(None), _ok, scope="server", body=Body.IGNORED, changes=False
    ),
    Endpoint(
        "ready",
        "GET",
        "/readyz",
        lambda asked: Plan(Ready()),
        _ok,
        scope="server",
        body=Body.IGNORED,
        changes=False,
    ),
    Endpoint(
        "explain all", "GET", "/problems", _explain, _show_meaning, scope="server", changes=False, fast=False
    ),
    Endpoint(
        "explain", "GET", "/problems/{problem}", _explain, _show_meaning, scope="server", changes=False, fast=False
    ),
)
"""HEAD is answered as GET where that changes nothing."""
