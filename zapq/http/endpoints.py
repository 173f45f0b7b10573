"""The endpoints, in one table: how each operation is asked for, who may, and how its outcome is answered.

All else that knows endpoints is made from this table: the routes of the Quart app, the grammar of the fast road,
roles, the limits of bodies, the checks for browsers. The tables in the documentation are compared with it. A
request is answered in four steps, the same on both roads:

    read    method, path, query and fields  ->  an `Asked`          (each road in its own way)
    plan    an `Asked`                      ->  a `Plan`: the operation without what differs in each request
    fill    a `Plan`, and body, key, ...    ->  the operation, for `Engine.perform`
    render  its outcome                     ->  bytes               (`zapq/http/render.py`)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from zapq.http import metrics, openapi, page, plans, render, scrape
from zapq.http.endpoint import Audit as Audit
from zapq.http.endpoint import Body as Body
from zapq.http.endpoint import Endpoint as Endpoint
from zapq.http.endpoint import Fill as Fill
from zapq.http.endpoint import Scope as Scope
from zapq.http.plan import Asked, Frame, Plan
from zapq.limits import DEFAULT_QUEUE
from zapq.service.operations import (
    Delete,
    Describe,
    Drain,
    ListSnapshots,
    Load,
    Purge,
    Ready,
    Save,
    SetPaused,
    Settlement,
    SettleOne,
)


def _json(show: Callable[[Any, Any, Frame], object]) -> Callable[[Plan, Any, Any, Frame], bytes]:
    return lambda plan, operation, outcome, frame: render.as_json(show(plan, outcome, frame), frame.tail)


def _in_steps(plan: Plan, operation: Any, outcome: Any, frame: Frame) -> bytes:
    raise AssertionError("its steps make the answer")


def _of_queue(operation: Any, outcome: Any) -> dict[str, object]:
    return {"queue": operation.queue}


def _probe(action: str, path: str, plan: Callable[[Asked], Plan]) -> Endpoint:
    return Endpoint(action, "GET", path, plan, render.ok, scope="server", body=Body.IGNORED, changes=False)


_administer = partial(Endpoint, role="admin", fast=False)

_IN_QUEUE = ("priority", "delay", "ttl", "group", "unique", "on", "durability", "wait")
_TAKING = ("visibility", "wait", "ack", "body")

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "put",
        "POST",
        "/enqueue",
        plans.put,
        render.enqueued,
        plans.fill_put,
        "producer",
        "default",
        ("durability", "wait"),
        Body.MESSAGE,
        keyed=True,
    ),
    *(
        Endpoint(
            "take",
            method,
            "/dequeue",
            plans.dequeue,
            render.dequeued,
            role="consumer",
            scope="default",
            takes=("wait",),
            body=Body.IGNORED,
        )
        for method in ("GET", "POST")
    ),
    Endpoint(
        "put",
        "POST",
        "/queues/{queue}/messages",
        plans.put,
        render.enqueued_in,
        plans.fill_put,
        "producer",
        takes=_IN_QUEUE,
        body=Body.MESSAGE,
        keyed=True,
    ),
    Endpoint(
        "put many",
        "POST",
        "/queues/{queue}/messages/batch",
        plans.put_many,
        lambda plan, operation, outcome, frame: render.enqueued_many(len(operation.content), outcome, frame.tail),
        plans.fill_batch,
        "producer",
        takes=("durability", "wait"),
        body=Body.BATCH,
        keyed=True,
        large=True,
    ),
    Endpoint("take", "POST", "/queues/{queue}/receive", plans.take, render.taken, role="consumer", takes=_TAKING),
    Endpoint(
        "take many",
        "POST",
        "/queues/{queue}/receive/batch",
        plans.take_many,
        render.taken_many,
        role="consumer",
        takes=("max", *_TAKING),
        large=True,
    ),
    Endpoint(
        "ack",
        "DELETE",
        "/queues/{queue}/receipts/{receipt}",
        lambda asked: Plan(SettleOne(asked.queue, Settlement(receipt=""))),
        render.one_settled,
        plans.fill_receipt,
        "consumer",
    ),
    Endpoint(
        "release",
        "POST",
        "/queues/{queue}/receipts/{receipt}/release",
        plans.release,
        render.one_settled,
        plans.fill_receipt,
        "consumer",
        takes=("delay",),
    ),
    Endpoint(
        "extend",
        "POST",
        "/queues/{queue}/receipts/{receipt}/extend",
        plans.extend,
        render.one_settled,
        plans.fill_receipt,
        "consumer",
        takes=("visibility",),
    ),
    Endpoint(
        "settle",
        "POST",
        "/queues/{queue}/settle",
        plans.settle,
        render.settled,
        plans.fill_settlements,
        "consumer",
        body=Body.SETTLEMENTS,
        large=True,
    ),
    Endpoint(
        "peek",
        "GET",
        "/queues/{queue}/messages",
        plans.peek,
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
        plans.find,
        _json(lambda plan, seen, frame: render.message(seen, plan.encoding, frame.now)),
        plans.fill_id,
        "consumer",
        takes=("body",),
        changes=False,
    ),
    Endpoint(
        "describe",
        "GET",
        "/queues/{queue}",
        lambda asked: Plan(Describe(asked.queue)),
        _json(lambda plan, info, frame: render.queue(info, frame.now)),
        role="metrics",
        changes=False,
    ),
    Endpoint(
        "list",
        "GET",
        "/queues",
        plans.list_queues,
        render.queues,
        role="metrics",
        scope="listed",
        takes=("prefix", "queue", "sort", "limit", "after"),
        changes=False,
        large=True,
    ),
    _administer(
        "configure",
        "PUT",
        "/queues/{queue}",
        lambda asked: Plan(None, name=asked.queue),
        lambda plan, operation, outcome, frame: render.as_json(
            render.queue(outcome[1], frame.now), frame.tail, status=201 if outcome[0] else 200
        ),
        fill=plans.fill_settings,
        body=Body.SETTINGS,
        audit=lambda operation, outcome: {"queue": operation.queue, "made": outcome[0]},
    ),
    _administer(
        "change-settings",
        "PATCH",
        "/queues/{queue}",
        lambda asked: Plan(None, name=asked.queue),
        _json(lambda plan, info, frame: render.queue(info, frame.now)),
        fill=plans.fill_changes,
        body=Body.SETTINGS,
        audit=lambda operation, outcome: {"queue": operation.queue, "settings": sorted(operation.changes)},
    ),
    _administer(
        "delete",
        "DELETE",
        "/queues/{queue}",
        lambda asked: Plan(Delete(asked.queue)),
        lambda plan, operation, outcome, frame: render.empty(frame.tail),
        audit=_of_queue,
    ),
    _administer(
        "delete-message",
        "DELETE",
        "/queues/{queue}/messages/{id}",
        lambda asked: Plan(None, name=asked.queue),
        lambda plan, operation, outcome, frame: render.empty(frame.tail),
        fill=plans.fill_deletion,
        audit=lambda operation, outcome: {"queue": operation.queue, "message_id": operation.id},
    ),
    _administer(
        "purge",
        "POST",
        "/queues/{queue}/purge",
        lambda asked: Plan(Purge(asked.queue)),
        _json(lambda plan, purged, frame: {"purged": purged}),
        audit=lambda operation, outcome: {"queue": operation.queue, "purged": outcome},
    ),
    _administer(
        "pause",
        "POST",
        "/queues/{queue}/pause",
        lambda asked: Plan(SetPaused(asked.queue, True)),
        _json(lambda plan, outcome, frame: {"paused": True}),
        audit=_of_queue,
    ),
    _administer(
        "resume",
        "POST",
        "/queues/{queue}/resume",
        lambda asked: Plan(SetPaused(asked.queue, False)),
        _json(lambda plan, outcome, frame: {"paused": False}),
        audit=_of_queue,
    ),
    _administer(
        "redrive",
        "POST",
        "/queues/{queue}/redrive",
        plans.redrive,
        _json(lambda plan, redriven, frame: {"moved": redriven.moved, "left": redriven.left}),
        takes=("limit", "id"),
        audit=lambda operation, outcome: {
            "queue": operation.queue,
            **({"message_id": operation.id} if operation.id else {}),
            "moved": outcome.moved,
            "left": outcome.left,
        },
    ),
    _administer(
        "clear",
        "POST",
        "/clear",
        lambda asked: Plan(Purge(DEFAULT_QUEUE)),
        render.nothing_said,
        scope="default",
        body=Body.IGNORED,
        audit=lambda operation, outcome: {"queue": operation.queue, "cleared": outcome},
    ),
    _administer(
        "persist",
        "POST",
        "/persist",
        lambda asked: Plan(Save(plans.file(asked))),
        render.nothing_said,
        scope="server",
        takes=("file",),
        body=Body.IGNORED,
        audit=lambda operation, outcome: {"file": operation.file, "messages": outcome},
    ),
    _administer(
        "load",
        "POST",
        "/load",
        lambda asked: Plan(Load(plans.file(asked))),
        render.nothing_said,
        scope="server",
        takes=("file",),
        body=Body.IGNORED,
        audit=lambda operation, outcome: {"file": operation.file, "messages": outcome},
    ),
    _administer(
        "list-snapshots",
        "GET",
        "/snapshots",
        lambda asked: Plan(ListSnapshots()),
        _json(lambda plan, files, frame: [render.snapshot(file) for file in files]),
        scope="server",
        changes=False,
        audit=lambda operation, outcome: {"files": len(outcome)},
    ),
    _administer(
        "drain",
        "POST",
        "/drain",
        lambda asked: Plan(Drain()),
        _json(lambda plan, outcome, frame: {"draining": True}),
        scope="server",
        audit=lambda operation, outcome: {},
    ),
    _administer(
        "advance",
        "POST",
        "/test/advance",
        plans.advance,
        lambda plan, operation, outcome, frame: render.as_json({"advanced": operation.seconds}, frame.tail),
        scope="server",
        takes=("seconds",),
        audit=lambda operation, outcome: {"seconds": operation.seconds},
    ),
    Endpoint(
        "stats",
        "GET",
        "/metrics",
        scrape.plan_any,
        _json(lambda plan, stats, frame: metrics.as_json(stats, frame.counts, frame.now)),
        role="metrics",
        scope="server",
        takes=("queue",),
        body=Body.IGNORED,
        changes=False,
        large=True,
    ),
    Endpoint(
        "scrape",
        "GET",
        "/metrics/prometheus",
        scrape.plan,
        _in_steps,
        role="metrics",
        scope="listed",
        takes=("queue",),
        changes=False,
        fast=False,
    ),
    Endpoint(
        "history",
        "GET",
        "/stats/history",
        plans.history,
        _json(lambda plan, told, frame: render.history(told, frame)),
        role="metrics",
        scope="listed",
        takes=("queue", "limit"),
        changes=False,
        fast=False,
        large=True,
    ),
    Endpoint(
        "tell of refusals",
        "GET",
        "/refusals",
        plans.refusals,
        _json(lambda plan, outcome, frame: render.refusals(frame, plan.limit)),
        role="metrics",
        scope="server",
        takes=("limit",),
        changes=False,
        fast=False,
    ),
    Endpoint(
        "whoami",
        "GET",
        "/whoami",
        plans.who_am_i,
        _json(lambda plan, outcome, frame: render.grant(plan.grant)),
        role="any",
        scope="listed",
        changes=False,
        fast=False,
    ),
    *(
        Endpoint(
            "show the page",
            "GET",
            path,
            page.plan,
            page.render,
            scope="server",
            changes=False,
            fast=False,
        )
        for path in ("/ui/", "/ui/{file}")
    ),
    _probe("health", "/health", lambda asked: Plan(None)),
    _probe("health", "/livez", lambda asked: Plan(None)),
    _probe("ready", "/readyz", lambda asked: Plan(Ready())),
    Endpoint(
        "openapi",
        "GET",
        "/openapi.json",
        lambda asked: Plan(None),
        lambda plan, operation, outcome, frame: render.text(openapi.document(ENDPOINTS), frame.tail, render.JSON),
        scope="server",
        changes=False,
        fast=False,
    ),
    Endpoint(
        "explain all",
        "GET",
        "/problems",
        plans.explain,
        plans.show_meaning,
        scope="server",
        changes=False,
        fast=False,
    ),
    Endpoint(
        "explain",
        "GET",
        "/problems/{problem}",
        plans.explain,
        plans.show_meaning,
        scope="server",
        changes=False,
        fast=False,
    ),
)
"""HEAD is answered as GET where that changes nothing."""
