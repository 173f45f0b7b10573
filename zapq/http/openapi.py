"""The endpoints as OpenAPI 3.1, made from their table: paths, parameters, bodies, roles and answers.

What the table does not say is here: what each operation answers, and what is said about it to people. A test asks
the server and compares its answers with this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from zapq.core.message import Draft
from zapq.core.queue_settings import DURATIONS, QueueSettings
from zapq.core.settlement import Settlement
from zapq.core.stats import STATES, QueueStats
from zapq.http.endpoint import Body, Endpoint
from zapq.http.exposition import OPENMETRICS, TEXT_FORMAT
from zapq.http.problems import MEDIA_TYPE, meanings
from zapq.http.render import JSON, MSGPACK, NDJSON
from zapq.http.wire import media_type
from zapq.limits import (
    HISTORIES,
    MAX_BATCH,
    MAX_PRIORITY,
    MAX_WAIT,
    PEEK,
    QUEUE_NAME,
    REFUSALS_KEPT,
    SNAPSHOT_NAME,
)
from zapq.service.history import COLUMNS
from zapq.service.paging import SORTS
from zapq.version import __version__

Schema = dict[str, Any]
_ANY = "*/*"
_SCHEMAS = "#/components/schemas/"


def _ref(name: str) -> Schema:
    return {"$ref": _SCHEMAS + name}


def _list_of(name: str) -> Schema:
    return {"type": "array", "items": _ref(name)}


def _object(properties: Mapping[str, Schema], optional: Iterable[str] = ()) -> Schema:
    left_out = set(optional)
    return {
        "type": "object",
        "properties": dict(properties),
        "required": [name for name in properties if name not in left_out],
    }


_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer", "minimum": 0}
_NUMBER: Schema = {"type": "number", "minimum": 0}
_FLAG: Schema = {"type": "boolean"}
_BYTES: Schema = {"type": "string", "contentEncoding": "base64"}
_HEADERS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
_BODY: Schema = {"description": "Base64, text or JSON, by the parameter body; base64 if body_encoding says so."}
_DURATION: Schema = {"type": "string", "pattern": r"^[0-9]{1,20}(\.[0-9]{1,20})?[smhdSMHD]?$"}


def _number(low: int, high: int, default: int | None = None) -> Schema:
    given = {} if default is None else {"default": default}
    return {"type": "integer", "minimum": low, "maximum": high, **given}


_PARAMETERS: dict[str, tuple[Schema, str]] = {
    "ack": ({"const": "auto"}, "Let the messages go at once: then a consumer that dies has lost them."),
    "after": (_TEXT, "Where the page before ended: its Zapq-Next."),
    "body": ({"enum": ["base64", "text", "json"]}, "How bodies are written in JSON."),
    "delay": (_DURATION, "Time until consumers can receive the message."),
    "durability": ({"enum": ["memory", "committed"]}, "What the message must survive before the answer."),
    "file": (
        {"type": "string", "pattern": rf"^{SNAPSHOT_NAME}$"},
        "Name of the snapshot, NAME.json (the default queue) or NAME.msgpack (all queues).",
    ),
    "group": (
        {"type": "string", "pattern": r"^[\x21-\x7e]{1,128}$"},
        "Group within which messages are delivered in strict order.",
    ),
    "id": ({"type": "integer", "minimum": 1}, "The one message to send back."),
    "limit": (_number(1, MAX_BATCH), "How many at most."),
    "max": (_number(1, MAX_BATCH, MAX_BATCH), "Messages at most."),
    "on": ({"enum": ["keep", "replace"]}, "What happens to a message that is held with the key of this one."),
    "prefix": (_TEXT, "How the names of the queues begin."),
    "priority": (_number(0, MAX_PRIORITY, 0), "9 is delivered first."),
    "queue": (_TEXT, "Name of a queue, or a pattern: * is any number of characters, ? is one."),
    "seconds": (_DURATION, "By how much."),
    "sort": ({"enum": [sign + key for key in SORTS for sign in ("", "-")]}, "By what the queues are sorted."),
    "state": ({"enum": list(STATES), "default": "ready"}, "Which messages."),
    "ttl": (_DURATION, "Time until the message expires."),
    "unique": (
        {"type": "string", "pattern": r"^[\x21-\x7e]{1,128}$"},
        "Key that at most one message of the queue has at a time.",
    ),
    "visibility": (_DURATION, "How long the lease lasts."),
    "wait": (_DURATION, f"How long to wait, at most {MAX_WAIT:.0f} seconds: for a message, or for room."),
}
_SPECIAL: dict[tuple[str, str], Schema] = {
    ("/stats/history", "limit"): _number(1, HISTORIES, HISTORIES),
    ("/queues/{queue}/messages", "limit"): _number(1, MAX_BATCH, PEEK),
    ("/refusals", "limit"): _number(1, REFUSALS_KEPT, REFUSALS_KEPT),
}
_IN_PATH: dict[str, Schema] = {
    "queue": {"type": "string", "pattern": f"^{QUEUE_NAME}$"},
    "receipt": _TEXT,
    "id": {"type": "integer", "minimum": 0},
    "problem": {"type": "string", "pattern": "^[a-z-]+$"},
    "file": {"type": "string", "pattern": "^[a-z.]+$"},
}
_FIELDS: dict[str, tuple[Schema, str]] = {
    "Idempotency-Replayed": ({"const": "true"}, "It was stored before, under the same key."),
    "Location": (_TEXT, "Path of the message."),
    "Retry-After": (_WHOLE, "Seconds after which trying again makes sense."),
    "X-Trace-Id": (_TEXT, "What the log knows the request by."),
    "Zapq-Durability": ({"enum": ["memory", "committed", "replicated"]}, "What the message survives."),
    "Zapq-Empty": (_TEXT, "Why there is none: empty, delayed, leased, limited, blocked or paused."),
    "Zapq-Group": (_TEXT, "Group of the message."),
    "Zapq-Message-Id": (_WHOLE, "Id of the message."),
    "Zapq-Next": (_TEXT, "Where the next page begins: its parameter after."),
    "Zapq-Next-Visible-In": (_NUMBER, "Seconds until a message may be ready."),
    "Zapq-Origin": (_TEXT, "Queue and id the message was sent to, if it has changed queues."),
    "Zapq-Receipt": (_TEXT, "What acknowledges, releases or extends this delivery."),
    "Zapq-Receive-Count": (_WHOLE, "How often the message was received."),
    "Zapq-Total": (_WHOLE, "How many queues there are on all pages."),
    "Zapq-Unique": ({"enum": ["kept", "replaced"]}, "What a message with the same key was."),
    "Zapq-Visible-Until": ({"type": "string", "format": "date-time"}, "When the lease ends."),
}


class Said(NamedTuple):
    """One answer."""

    status: int
    means: str
    content: Mapping[str, Schema] = {}
    fields: Sequence[str] = ()


class About(NamedTuple):
    """What is said of one operation."""

    summary: str
    answers: Sequence[Said]
    problems: str = ""
    """Those that not every endpoint of its kind has."""


def _json(means: str, schema: Schema, *, status: int = 200, fields: Sequence[str] = ()) -> Said:
    return Said(status, means, {JSON: schema}, fields)


_NOTHING = Said(204, "There is no message.", fields=("Zapq-Empty", "Zapq-Next-Visible-In"))
_DONE = Said(204, "It is done.")
_STORED = "Zapq-Message-Id", "Location", "Idempotency-Replayed", "Zapq-Unique", "Zapq-Durability"
_LEASED = (
    "Zapq-Message-Id",
    "Zapq-Receipt",
    "Zapq-Receive-Count",
    "Zapq-Visible-Until",
    "Zapq-Group",
    "Zapq-Origin",
)
_OF_BATCH = "Zapq-Visible-Until", "Zapq-Empty", "Zapq-Next-Visible-In"
_NO_QUEUE = "queue-not-found"
_KEY = "idempotency-key-reused"
_BACK = f"{_NO_QUEUE} receipt-expired"
_FULL = "queue-full too-many-queues"
_TEXT_ANSWER: Mapping[str, Schema] = {"text/plain": _TEXT}
_LINES: Schema = {"type": "string", "description": "JSON, one message a line."}
_EITHER = {"text/plain": _TEXT, "text/html": _TEXT}

ABOUT: dict[str, About] = {
    "put": About("Send a message", [Said(202, "It is stored.", fields=_STORED)], f"{_KEY} {_FULL} not-durable"),
    "put many": About(
        "Send a batch, all or nothing",
        [_json("They are stored.", _ref("Batch"), status=202, fields=("Idempotency-Replayed", "Zapq-Durability"))],
        f"{_KEY} {_FULL} not-durable unsupported-media-type",
    ),
    "take": About(
        "Receive a message",
        [Said(200, "The message.", {_ANY: {}}, _LEASED), _NOTHING],
        f"{_NO_QUEUE} too-many-waiters",
    ),
    "take many": About(
        "Receive a batch",
        [
            Said(200, "Messages.", {JSON: _list_of("Delivery"), NDJSON: _LINES, MSGPACK: {}}, _OF_BATCH),
            _NOTHING,
        ],
        f"{_NO_QUEUE} too-many-waiters not-acceptable",
    ),
    "ack": About("Acknowledge a message: it is gone", [_DONE], _BACK),
    "release": About("Give a message back, at its original place", [_DONE], _BACK),
    "extend": About("Keep a message longer", [Said(204, "It is.", fields=("Zapq-Visible-Until",))], _BACK),
    "settle": About(
        "Acknowledge, release and extend many",
        [_json("What became of each.", _list_of("Settled"))],
        f"{_NO_QUEUE} unsupported-media-type",
    ),
    "peek": About("Show the first messages, and take none", [_json("Messages.", _list_of("Message"))], _NO_QUEUE),
    "find": About(
        "Show one message, and do not take it",
        [_json("The message.", _ref("Message"))],
        f"{_NO_QUEUE} message-not-found",
    ),
    "describe": About("Show a queue", [_json("Settings and statistics.", _ref("Queue"))], _NO_QUEUE),
    "list": About("List queues", [_json("Queues.", _list_of("Queue"), fields=("Zapq-Total", "Zapq-Next"))]),
    "configure": About(
        "Make a queue, or set all of its settings",
        [_json("It was there.", _ref("Queue")), _json("It was made.", _ref("Queue"), status=201)],
        "too-many-queues queue-in-use",
    ),
    "change-settings": About(
        "Change some settings", [_json("The queue.", _ref("Queue"))], f"{_NO_QUEUE} too-many-queues queue-in-use"
    ),
    "delete": About("Remove a queue with all it holds", [_DONE], f"{_NO_QUEUE} queue-in-use"),
    "delete-message": About(
        "Remove a message that no consumer holds", [_DONE], f"{_NO_QUEUE} message-not-found message-leased"
    ),
    "purge": About(
        "Remove all messages of a queue",
        [_json("How many.", _object({"purged": _WHOLE}))],
        _NO_QUEUE,
    ),
    "pause": About("Stop deliveries", [_json("It is paused.", _object({"paused": _FLAG}))], _NO_QUEUE),
    "resume": About("Go on with deliveries", [_json("It goes on.", _object({"paused": _FLAG}))], _NO_QUEUE),
    "redrive": About(
        "Send dead letters back to the queues they failed in",
        [_json("How many were moved.", _object({"moved": _WHOLE, "left": _WHOLE}))],
        f"{_NO_QUEUE} message-not-found message-leased queue-full",
    ),
    "clear": About("Remove all messages of the default queue", [Said(200, "It is empty.")]),
    "persist": About("Save a snapshot", [Said(200, "It is written.")], "snapshot-failed not-with-engine"),
    "load": About(
        "Load a snapshot",
        [Said(200, "The queues are as it says.")],
        "snapshot-failed snapshot-not-found not-with-engine queue-in-use queue-full",
    ),
    "list-snapshots": About("List snapshots", [_json("Files.", _list_of("Snapshot"))], "snapshot-failed"),
    "drain": About("Take no new messages", [_json("None are.", _object({"draining": _FLAG}))]),
    "advance": About(
        "Move the time of the queues on, for tests",
        [_json("It has moved.", _object({"advanced": _NUMBER}))],
        "no-test-clock",
    ),
    "stats": About(
        "Count what the server holds and does",
        [
            Said(
                200,
                "Figures by name, or by Accept what Prometheus reads.",
                {
                    JSON: {"type": "object", "additionalProperties": {"type": ["number", "string"]}},
                    media_type(TEXT_FORMAT): _TEXT,
                    media_type(OPENMETRICS): _TEXT,
                },
            )
        ],
        _NO_QUEUE,
    ),
    "scrape": About(
        "Count it for Prometheus",
        [Said(200, "What Prometheus reads.", {media_type(TEXT_FORMAT): _TEXT, media_type(OPENMETRICS): _TEXT})],
        _NO_QUEUE,
    ),
    "history": About(
        "What queues held and did in the last ten minutes", [_json("Samples.", _ref("History"))], "not-with-engine"
    ),
    "tell of refusals": About(
        "The requests that were refused last", [_json("The last first.", _list_of("Refusal"))]
    ),
    "whoami": About("What the credential allows", [_json("Roles and queues.", _ref("Grant"))]),
    "show the page": About(
        "The page for a browser",
        [
            Said(
                200,
                "A file of it.",
                dict.fromkeys(("text/html", "text/css", "text/javascript", "image/svg+xml"), _TEXT),
            ),
            Said(304, "The browser has it already."),
        ],
        "file-not-found",
    ),
    "health": About("Whether the server lives", [Said(200, "It does.", _TEXT_ANSWER)]),
    "ready": About("Whether the server takes messages", [Said(200, "It does.", _TEXT_ANSWER)]),
    "openapi": About("This document", [_json("OpenAPI 3.1.", {"type": "object"})]),
    "explain all": About(
        "What all problems mean",
        [Said(200, "Each with what to do.", {JSON: _list_of("Meaning"), **_EITHER})],
        "problem-not-found",
    ),
    "explain": About(
        "What a problem means",
        [Said(200, "With what to do.", {JSON: _ref("Meaning"), **_EITHER})],
        "problem-not-found",
    ),
}
_ALWAYS = (
    "bad-request invalid-parameter uri-too-long request-header-fields-too-large host-not-allowed"
    " internal-server-error"
)
_IDS = {
    ("POST", "/enqueue"): "enqueue",
    ("GET", "/dequeue"): "dequeueByGet",
    ("POST", "/dequeue"): "dequeue",
    ("GET", "/livez"): "live",
    ("GET", "/ui/"): "showPage",
    ("GET", "/ui/{file}"): "showFile",
}
"""The names of operations whose action is also another's, or no name."""


@lru_cache(1)
def document(endpoints: tuple[Endpoint, ...]) -> bytes:
    """Return the document, as JSON."""
    return msgspec.json.encode(describe(endpoints))


def describe(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Return what the document says."""
    paths: dict[str, dict[str, Any]] = {}
    responses: dict[str, Any] = {}
    for each in endpoints:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, responses)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "zapq",
            "version": __version__,
            "description": "Message queues behind plain HTTP. docs/reference/http.md says what answers promise.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "responses": responses,
            "headers": {name: {"schema": schema, "description": text} for name, (schema, text) in _FIELDS.items()},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A token of the token file."},
                "certificate": {"type": "mutualTLS", "description": "A client certificate the token file names."},
            },
        },
    }


def _operation(endpoint: Endpoint, responses: dict[str, Any]) -> dict[str, Any]:
    """Return what is said of an endpoint; refusals, which many have in common, go to `responses`."""
    about = ABOUT[endpoint.action]
    role = endpoint.role
    needs = {None: "Needs no credential.", "any": "Needs any credential."}.get(role, f"Needs the role {role}.")
    described: dict[str, Any] = {
        "operationId": _IDS.get((endpoint.method, endpoint.path), _camel(endpoint.action)),
        "summary": about.summary,
        "description": needs,
        "tags": [role or "none"],
        # Without credentials configured, none is needed.
        "security": [] if role is None else [{}, {"token": []}, {"certificate": []}],
        "parameters": _parameters(endpoint),
        "responses": {
            **{str(each.status): _answer(each) for each in about.answers},
            **_refusals([*_ALWAYS.split(), *_problems(endpoint), *about.problems.split()], responses),
        },
    }
    content = _BODIES[endpoint.body]
    if endpoint.action == "change-settings":
        content = {JSON: {"schema": _ref("Changes")}}
    if content:
        described["requestBody"] = {"content": content, "required": endpoint.body is not Body.MESSAGE}
    return described


def _camel(action: str) -> str:
    first, *others = re.split(r"[ -]", action)
    return first + "".join(each.capitalize() for each in others)


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    found = [
        {"name": name, "in": "path", "required": True, "schema": _IN_PATH[name]}
        for name in re.findall(r"\{(\w+)\}", endpoint.path)
    ]
    for name in endpoint.takes:
        schema, text = _PARAMETERS[name]
        schema = _SPECIAL.get((endpoint.path, name), schema)
        found.append({
            "name": name,
            "in": "query",
            "schema": schema,
            "description": text,
            "required": name in {"file", "seconds"},
        })
    if endpoint.keyed:
        schema = {"type": "string", "pattern": r"^[\x21-\x7e]{1,255}$"}
        text = "Makes it safe to send the request again: under one key the same content is stored once."
        found.append({"name": "Idempotency-Key", "in": "header", "schema": schema, "description": text})
    return found


def _problems(endpoint: Endpoint) -> list[str]:
    """Return the problems that a request may have because of what it is."""
    found: list[str] = []
    if endpoint.role is not None:
        found += ["unauthenticated", "role-missing"]
        # All that is about the whole server is shown, and nothing is done, besides by probes.
        found += ["draining", "storage-unavailable", "outcome-unknown"]
    if endpoint.role == "admin":
        found.append("admin-loopback-only")
    if endpoint.changes:
        found.append("cross-site")
    if endpoint.action == "ready":
        found += ["draining", "storage-unavailable"]
    if endpoint.role is not None or endpoint.body is not Body.NONE:
        found += ["request-timeout", "client-gone", "content-too-large", "receiving-too-much"]
    else:
        found += ["content-too-large", "request-timeout"]
    if endpoint.body is Body.MESSAGE:
        found.append("message-too-large")
    if endpoint.body in {Body.BATCH, Body.SETTLEMENTS}:
        found.append("batch-too-large")
    if "{" in endpoint.path:
        # What is in the path may be written so that there is no such path.
        found.append("not-found")
    return found


def _refusals(names: Iterable[str], responses: dict[str, Any]) -> dict[str, Any]:
    """Return the answers that are these problems, by status: where they are in `responses`."""
    by_status: dict[int, set[str]] = {}
    known = meanings()
    for name in names:
        by_status.setdefault(known[name].status, set()).add(name)
    found = {}
    for status, same in sorted(by_status.items()):
        answer = {
            "description": ", ".join(sorted(same)),
            "content": {MEDIA_TYPE: {"schema": _ref("Problem")}},
            "headers": _fields(["X-Trace-Id", *(["Retry-After"] if status in {429, 503} else [])]),
        }
        others = [name for name, each in responses.items() if each == answer]
        name = others[0] if others else f"Refused{status}" + (f"-{len(responses)}" if responses else "")
        responses[name] = answer
        found[str(status)] = {"$ref": f"#/components/responses/{name}"}
    return found


def _answer(said: Said) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": said.means, "headers": _fields([*said.fields, "X-Trace-Id"])}
    if said.content:
        answer["content"] = {each: {"schema": schema} for each, schema in said.content.items()}
    return answer


def _fields(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _schemas() -> dict[str, Schema]:
    _, made = msgspec.json.schema_components([QueueSettings, Settlement, Draft], ref_template=_SCHEMAS + "{name}")
    statistics = dict.fromkeys(QueueStats.__struct_fields__, _WHOLE)
    ages = dict.fromkeys(("oldest_ready_age_seconds", "oldest_lease_age_seconds"), _NUMBER)
    delivery = {
        "id": _WHOLE,
        "receipt": _TEXT,
        "receive_count": _WHOLE,
        "content_type": _TEXT,
        "body": _BODY,
        "body_encoding": _TEXT,
        "priority": _WHOLE,
        "group": _TEXT,
        "origin": _TEXT,
        "headers": _HEADERS,
    }
    message = {
        "id": _WHOLE,
        "state": {"enum": list(STATES)},
        "priority": _WHOLE,
        "receive_count": _WHOLE,
        "content_type": _TEXT,
        "body": _BODY,
        **dict.fromkeys(("body_encoding", "group", "unique", "failed_in", "origin"), _TEXT),
        **dict.fromkeys(("visible_in", "expires_in"), _NUMBER),
        "headers": _HEADERS,
    }
    problem = {"type": _TEXT, "title": _TEXT, "status": _WHOLE, "detail": _TEXT, "instance": _TEXT}
    settings = _plain(made["QueueSettings"])
    return {
        **{name: _plain(schema) for name, schema in made.items()},
        "Settings": _written(settings, nullable=False),
        "Changes": _written(settings, nullable=True),
        "Queue": _object(
            {
                "name": _TEXT,
                "paused": _FLAG,
                "waiting": _WHOLE,
                **statistics,
                **ages,
                "settings": _ref("QueueSettings"),
            },
            ages,
        ),
        "Batch": _object(
            {
                "count": _WHOLE,
                "first_id": _WHOLE,
                "ids": {"type": "array", "items": _WHOLE},
                "unique": {"type": "array", "items": {"enum": ["stored", "kept", "replaced"]}},
            },
            ("ids", "unique"),
        ),
        "Delivery": _object(delivery, delivery.keys() - {"id", "content_type", "body"}),
        "Message": _object(
            message, message.keys() - {"id", "state", "priority", "receive_count", "content_type", "body"}
        ),
        "Settled": _object({"receipt": _TEXT, "result": _TEXT}),
        "Snapshot": _object(
            {
                "name": _TEXT,
                "format": _TEXT,
                "bytes": _WHOLE,
                "modified": _TEXT,
                "queues": _WHOLE,
                "messages": _WHOLE,
            },
            ("queues", "messages"),
        ),
        "History": _object({
            "seconds": _NUMBER,
            "at": _TEXT,
            "left_out": _WHOLE,
            "queues": {
                "type": "object",
                "additionalProperties": _object({name: {"type": "array", "items": _WHOLE} for name in COLUMNS}),
            },
        }),
        "Grant": _object(
            {
                "name": {"type": ["string", "null"]},
                "roles": {"type": "array", "items": _TEXT},
                "queues": _TEXT,
                "expires": _TEXT,
            },
            ("expires",),
        ),
        "Meaning": _object({"type": _TEXT, "title": _TEXT, "status": _WHOLE, "meaning": _TEXT}),
        "Problem": _object(problem),
        "Refusal": _object(
            {"status": _WHOLE, **dict.fromkeys(("time", "problem", "trace_id", "method", "path", "queue"), _TEXT)},
            ("method", "path", "queue"),
        ),
    }


def _plain(schema: Any) -> Any:
    """Return a schema with the patterns of ECMAScript: there is no `\\Z`, and `$` is it."""
    if isinstance(schema, dict):
        return {
            name: value.replace(r"\Z", "$") if name == "pattern" else _plain(value)
            for name, value in schema.items()
        }
    if isinstance(schema, list):
        return [_plain(each) for each in schema]
    return schema


def _written(settings: Schema, *, nullable: bool) -> Schema:
    """Return the schema of settings as clients may write them: durations as text as well, None for a default."""
    properties: dict[str, Any] = {}
    for name, schema in settings["properties"].items():
        others = [_DURATION] if name in DURATIONS else []
        others += [{"type": "null"}] if nullable else []
        properties[name] = {"anyOf": [schema, *others]} if others else schema
    return {"type": "object", "properties": properties, "additionalProperties": False}


_BODIES: dict[Body, dict[str, Any]] = {
    Body.NONE: {},
    Body.IGNORED: {},
    Body.MESSAGE: {"application/octet-stream": {"schema": _TEXT}},
    Body.BATCH: {
        JSON: {
            "schema": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_BATCH,
                "items": {"anyOf": [_BYTES, {"type": "null"}]},
            }
        },
        NDJSON: {"schema": _TEXT},
        MSGPACK: {"schema": {"type": "array", "items": {"anyOf": [_TEXT, _ref("Draft")]}}},
    },
    Body.SETTLEMENTS: {
        JSON: {"schema": {"type": "array", "minItems": 1, "maxItems": MAX_BATCH, "items": _ref("Settlement")}},
        MSGPACK: {"schema": _list_of("Settlement")},
    },
    Body.SETTINGS: {JSON: {"schema": _ref("Settings")}},
    Body.SQS: {},
}
