"""From a request to what is to be done, for each endpoint: the steps `plan` and `fill` of the table."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import msgspec

from zapq.core.headers import Headers
from zapq.core.message import OCTETS, Properties
from zapq.errors import InvalidParameter, ProblemNotFound
from zapq.http import render, wire
from zapq.http.plan import Asked, Frame, Plan
from zapq.http.problems import Meaning, meanings
from zapq.http.render import JSON, MSGPACK, NDJSON
from zapq.limits import (
    DEFAULT_QUEUE,
    HISTORIES,
    MAX_BATCH,
    MAX_DELAY,
    MAX_ID_DIGITS,
    MAX_VISIBILITY,
    MAX_WAIT,
    PEEK,
    REFUSALS_KEPT,
)
from zapq.service.operations import (
    Advance,
    ChangeSettings,
    Configure,
    DeleteMessage,
    Enqueue,
    Find,
    History,
    List,
    ListPage,
    Peek,
    Put,
    Redrive,
    Settle,
    Settlement,
    SettleOne,
    Take,
    Terms,
    check,
    checked_limit,
    checked_want,
    terms,
)
from zapq.service.paging import check_sort

if TYPE_CHECKING:
    from zapq.service.reservation import Reservation


def put(asked: Asked) -> Plan:
    """Plan to store one message, on the terms in the query."""
    values = asked.values
    how = terms(
        priority=wire.whole(values, "priority", 0),
        delay=wire.seconds(values, "delay", 0.0),
        ttl=wire.seconds(values, "ttl", None),
        content_type=wire.kept_type(asked.content_type),
        group=values.get("group"),
        unique=values.get("unique"),
        on=values.get("on"),
        durability=wire.durability(values),
        wait=wire.seconds(values, "wait", 0.0),
    )
    simple = None
    if how.ttl is None and how.durability is None and not how.wait and not how.properties.unique:
        simple = Enqueue(asked.queue, b"", how.properties, how.delay)
    return Plan(Put(b"", how, queue=asked.queue), simple=simple)


def with_headers(plan: Plan, headers: Headers) -> Plan:
    """Return the plan of `put` or `put_many` for messages that have `headers`, unless they bring their own."""
    template: Any = plan.operation
    simple, before = plan.simple, template.terms
    # As `replace` makes them, in half the time: this is done for each message that has headers of its own.
    kind = before.properties
    properties = Properties(
        kind.content_type, kind.priority, headers=headers, group=kind.group, unique=kind.unique
    )
    how = Terms(properties, before.delay, before.ttl, before.durability, before.wait, before.replace)
    if simple is not None:
        simple = Enqueue(simple.queue, b"", properties, simple.delay)
    return Plan(Put(b"", how, queue=template.queue), plan.media_type, simple=simple)


def fill_put(
    plan: Plan,
    body: bytes,
    argument: str,
    key: str,
    *,
    exempt_from_drain: bool = False,
    reserved: Reservation | None = None,
) -> Put | Enqueue:
    """Return the operation that stores `body`, under `key` if there is one.

    `argument` is its group, if any; of a message without one, the key that it is to be unique by.
    """
    simple = plan.simple
    if simple is not None and not key and reserved is None and not exempt_from_drain:
        properties = _with(simple.properties, argument) if argument else simple.properties
        return Enqueue(simple.queue, body, properties, simple.delay)
    template: Any = plan.operation
    how = template.terms
    if argument:
        how = msgspec.structs.replace(how, properties=_with(how.properties, argument))
    return Put(body, how, key, b"", exempt_from_drain, reserved, template.queue)


def _with(planned: Properties, argument: str) -> Properties:
    """Return the properties of a message with this group or key; the plan was made for another in its place."""
    if planned.group:
        return Properties(planned.content_type, headers=planned.headers, group=argument, unique=planned.unique)
    return Properties(planned.content_type, planned.priority, headers=planned.headers, unique=argument)


def put_many(asked: Asked) -> Plan:
    """Plan to store a batch in the format that Content-Type names; `UnsupportedType` for any other."""
    media_type = wire.batch_format(asked.content_type)
    how = terms(
        content_type=wire.type_in_batch(media_type),
        durability=wire.durability(asked.values),
        wait=wire.seconds(asked.values, "wait", 0.0),
    )
    return Plan(Put((), how, queue=asked.queue), media_type=media_type)


def fill_batch(
    plan: Plan,
    body: bytes,
    argument: str,
    key: str,
    *,
    exempt_from_drain: bool = False,
    reserved: Reservation | None = None,
) -> Put:
    """Return the operation that stores the batch in `body`; `InvalidParameter` if it is not valid."""
    template: Any = plan.operation
    batch = wire.decode_batch(plan.media_type, body)
    packed = bytes(body) if plan.media_type == MSGPACK else b""
    return Put(batch, template.terms, key, packed, exempt_from_drain, reserved, template.queue)


def dequeue(asked: Asked) -> Plan:
    """Plan to give one message of the default queue for good, as the original does."""
    wait = wire.seconds(asked.values, "wait", 0.0)
    check("wait", wait, 0, MAX_WAIT)
    return Plan(Take(DEFAULT_QUEUE, checked_want(1, lease=False), wait))


def take(asked: Asked) -> Plan:
    """Plan to lease one message, or to give it for good."""
    explicit = wire.best_of(asked.accept, [OCTETS, JSON]) == JSON
    return Plan(
        _taking(asked, 1),
        encoding=wire.body_encoding(asked.values, "base64"),
        asks_for_json=explicit,
    )


def take_many(asked: Asked) -> Plan:
    """Plan to lease a batch of messages, or to give it for good, in the format that Accept names."""
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


def release(asked: Asked) -> Plan:
    """Plan to give a leased message back."""
    delay = wire.seconds(asked.values, "delay", 0.0)
    check("delay", delay, 0, MAX_DELAY)
    return Plan(SettleOne(asked.queue, Settlement(receipt="", action="release", delay=delay)))


def extend(asked: Asked) -> Plan:
    """Plan to let a lease last longer."""
    visibility = wire.seconds(asked.values, "visibility", None)
    check("visibility", visibility, 0, MAX_VISIBILITY)
    return Plan(SettleOne(asked.queue, Settlement(receipt="", action="extend", visibility=visibility)))


def fill_receipt(plan: Plan, body: bytes, argument: str, key: str, **_: object) -> SettleOne:
    """Return the operation that is planned, for the lease whose receipt is `argument`."""
    template: Any = plan.operation
    return SettleOne(template.queue, msgspec.structs.replace(template.settlement, receipt=argument))


def settle(asked: Asked) -> Plan:
    """Plan to settle many leases, in the format that Content-Type names; `UnsupportedType` for any other."""
    return Plan(Settle(asked.queue, ()), media_type=wire.settlements_format(asked.content_type))


def fill_settlements(plan: Plan, body: bytes, argument: str, key: str, **_: object) -> Settle:
    """Return the operation for the settlements in `body`; `InvalidParameter` if they are not valid."""
    template: Any = plan.operation
    return Settle(template.queue, wire.decode_settlements(plan.media_type, body))


def peek(asked: Asked) -> Plan:
    """Plan to show the first messages in a state."""
    limit = checked_limit(wire.whole(asked.values, "limit", PEEK), "limit")
    operation = Peek(asked.queue, wire.state(asked.values), limit)
    return Plan(operation, encoding=wire.body_encoding(asked.values, "base64"))


def find(asked: Asked) -> Plan:
    """Plan to show one message."""
    return Plan(Find(asked.queue), encoding=wire.body_encoding(asked.values, "base64"))


def redrive(asked: Asked) -> Plan:
    """Plan to send dead letters back, or one of them."""
    values = asked.values
    id = wire.whole(values, "id", 0, digits=MAX_ID_DIGITS)
    if "id" in values and (not id or "limit" in values):
        raise InvalidParameter(
            "id must be the id of one message, without limit: it sends back that one.", parameter="id"
        )
    return Plan(Redrive(asked.queue, checked_limit(wire.whole(values, "limit", MAX_BATCH), "limit"), id))


def list_queues(asked: Asked) -> Plan:
    """Plan to show queues: all of them, or, with a parameter, a page."""
    values = asked.values
    if not values:
        return Plan(List(asked.queues))
    return Plan(
        ListPage(
            pattern=asked.queues,
            like=values.get("queue", "*"),
            prefix=values.get("prefix", ""),
            sort=check_sort(values.get("sort", "name")),
            limit=checked_limit(wire.whole(values, "limit", MAX_BATCH), "limit"),
            after=values.get("after", ""),
        )
    )


def history(asked: Asked) -> Plan:
    """Plan to show what queues held and did in the last minutes."""
    limit = wire.whole(asked.values, "limit", HISTORIES)
    check("limit", limit, 1, HISTORIES)
    patterns = asked.values.get("queue", "*").split(",")
    if len(patterns) > HISTORIES:
        raise InvalidParameter(f"queue must be at most {HISTORIES} names or patterns.", parameter="queue")
    return Plan(History(asked.queues, tuple(patterns), limit))


def refusals(asked: Asked) -> Plan:
    """Plan to show the requests that were refused last."""
    limit = wire.whole(asked.values, "limit", REFUSALS_KEPT)
    check("limit", limit, 1, REFUSALS_KEPT)
    return Plan(None, limit=limit)


def advance(asked: Asked) -> Plan:
    """Plan to move the time of the queues on; `InvalidParameter` if it is not said by how much."""
    seconds = wire.seconds(asked.values, "seconds", None)
    if seconds is None:
        raise InvalidParameter("seconds is missing. Give ?seconds=NUMBER.", parameter="seconds")
    check("seconds", seconds, 0, MAX_DELAY)
    return Plan(Advance(seconds))


def who_am_i(asked: Asked) -> Plan:
    """Plan to tell a client what its credential allows."""
    return Plan(None, grant=asked.grant)


def file(asked: Asked) -> str:
    """Return the name of the snapshot in the query; `InvalidParameter` if there is none."""
    if "file" not in asked.values:
        raise InvalidParameter("file is missing. Give ?file=NAME.json or ?file=NAME.msgpack.", parameter="file")
    return asked.values["file"]


def fill_settings(plan: Plan, body: bytes, argument: str, key: str, **_: object) -> Configure:
    """Return the operation that sets a queue as `body` says; settings it does not name get their defaults."""
    return Configure(plan.name, wire.decode_settings(body))


def fill_changes(plan: Plan, body: bytes, argument: str, key: str, **_: object) -> ChangeSettings:
    """Return the operation that changes those settings of a queue that `body` names."""
    return ChangeSettings(plan.name, wire.decode_changes(body))


def fill_deletion(plan: Plan, body: bytes, argument: str, key: str, **_: object) -> DeleteMessage:
    """Return the operation that lets the message go whose id is `argument`."""
    return DeleteMessage(plan.name, _id(argument))


def fill_id(plan: Plan, body: bytes, argument: str, key: str, **_: object) -> Find:
    """Return the operation that shows the message whose id is `argument`."""
    template: Any = plan.operation
    return Find(template.queue, _id(argument))


_KNOWN = meanings()
_PAGE = '<!doctype html><html lang="en"><title>zapq</title><pre style="white-space: pre-wrap">{}</pre>'


def explain(asked: Asked) -> Plan:
    """Plan to explain one problem, or all of them; `ProblemNotFound` if there is no such one."""
    if asked.name and asked.name not in _KNOWN:
        raise ProblemNotFound
    best = wire.best_of(asked.accept, ["text/plain", "text/html", JSON]) or "text/plain"
    return Plan(None, media_type=best, name=asked.name)


def show_meaning(plan: Plan, operation: None, outcome: None, frame: Frame) -> bytes:
    """Return the answer that explains what was asked for, in the format that was planned."""
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


def _id(digits: str) -> int:
    """Return the id of a message; 0, which no message has, for a number no message can have."""
    # It would not fit where operations travel to another process.
    return int(digits) if len(digits) <= MAX_ID_DIGITS else 0
