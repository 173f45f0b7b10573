"""/openapi.json is valid, says of each endpoint what the table does, and the server answers as it says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import validate
from trio.testing import MockClock

from tests.support.wire import Answer, ask
from zapq.http.endpoints import ENDPOINTS, Endpoint
from zapq.http.openapi import ABOUT, describe, document
from zapq.http.problems import meanings
from zapq.http.routing import find_route
from zapq.settings import Settings
from zapq.testing import ZapqServer

DOCUMENT: dict[str, Any] = json.loads(document(ENDPOINTS))


def operation(endpoint: Endpoint) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][endpoint.path][endpoint.method.lower()]
    return found


def resolved(value: Any) -> Any:
    while "$ref" in value:
        found: Any = DOCUMENT
        for part in value["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        value = found
    return value


def test_it_is_valid() -> None:
    validate(DOCUMENT)
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_it_is_made_once() -> None:
    assert document(ENDPOINTS) is document(ENDPOINTS)
    assert json.loads(json.dumps(describe(ENDPOINTS))) == DOCUMENT


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda each: f"{each.method} {each.path}")
def test_it_says_what_the_table_does(endpoint: Endpoint) -> None:
    said = operation(endpoint)
    in_query = [each["name"] for each in said["parameters"] if each["in"] == "query"]
    in_path = [each["name"] for each in said["parameters"] if each["in"] == "path"]
    assert (tuple(in_query), in_path) == (endpoint.takes, re.findall(r"\{(\w+)\}", endpoint.path))
    assert any(each["name"] == "Idempotency-Key" for each in said["parameters"]) == endpoint.keyed
    assert (said["security"] == []) == (endpoint.role is None)
    assert said["tags"] == [endpoint.role or "none"]
    assert ("403" in said["responses"]) == (endpoint.role is not None or endpoint.changes)
    assert said["summary"]


def test_every_operation_has_a_name_of_its_own_and_is_described() -> None:
    names = [operation(each)["operationId"] for each in ENDPOINTS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z][A-Za-z]+", name) for name in names)
    assert ABOUT.keys() == {each.action for each in ENDPOINTS}


def test_every_problem_is_said_of_some_operation() -> None:
    said = {
        name
        for answer in DOCUMENT["components"]["responses"].values()
        for name in answer["description"].split(", ")
    }
    # These are about requests that are none of an endpoint's, or that SQS clients make.
    others = {"method-not-allowed", "not-implemented", "http-version-not-supported", "too-many-deduplication-ids"}
    assert meanings().keys() - said == others


def check(method: str, target: str, answer: Answer) -> None:
    """Fail unless the answer is one that the document has."""
    route = find_route(method, target.partition("?")[0])
    assert route is not None, target
    responses = operation(route.endpoint)["responses"]
    assert str(answer.status) in responses, (method, target, answer)
    said = resolved(responses[str(answer.status)])
    if answer.status >= 400:
        assert answer.json["type"].removeprefix("/problems/") in said["description"].split(", "), (method, target)
    known = {name.lower() for name in said["headers"]} | {
        *("date", "content-length", "content-type", "cache-control", "connection", "x-content-type-options"),
        *("vary", "etag", "content-security-policy", "referrer-policy", "cross-origin-resource-policy"),
        "www-authenticate",
    }
    ours = {name for name in answer.headers if not name.startswith("zapq-header-")}
    assert ours <= known, (method, target, ours - known)
    content = said.get("content", {})
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if kind and answer.body:
        assert kind in content or "*/*" in content, (method, target, kind)
    if kind.endswith(("/json", "+json")) and kind in content:
        schema = {"components": DOCUMENT["components"]} | content[kind]["schema"]
        jsonschema.validate(answer.json, schema)


JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}
AS_JSON = {"Accept": "application/json"}
Q = "/queues/q"
REQUESTS: list[tuple[str, str, bytes, Mapping[str, str]]] = [
    ("POST", "/enqueue", b"x", {"Idempotency-Key": "k"}),
    ("POST", "/enqueue", b"x", {"Idempotency-Key": "k"}),
    ("POST", "/enqueue", b"y", {"Idempotency-Key": "k"}),
    ("GET", "/dequeue", b"", {}),
    ("POST", "/dequeue", b"", {}),
    ("POST", f"{Q}/messages?priority=3&delay=0&ttl=60&unique=u&durability=memory", b"x", {"traceparent": "00-a"}),
    ("POST", f"{Q}/messages?unique=u", b"x", {}),
    ("POST", f"{Q}/messages?unique=u&on=replace", b"x", {}),
    ("POST", f"{Q}/messages?group=g", b'{"a": 1}', JSON | {"Zapq-Header-A": "b"}),
    ("POST", f"{Q}/messages?durability=committed", b"x", {}),
    ("POST", f"{Q}/messages/batch", b'["eA==", null]', JSON),
    ("POST", f"{Q}/messages/batch", b"1\n2\n", NDJSON),
    ("POST", f"{Q}/messages/batch", b"x", {"Content-Type": "text/plain"}),
    ("POST", f"{Q}/messages/batch", b"x", JSON),
    ("GET", f"{Q}/messages?limit=5&body=text", b"", {}),
    ("GET", f"{Q}/messages/1?body=json", b"", {}),
    ("GET", f"{Q}/messages/999", b"", {}),
    ("GET", "/queues/none/messages", b"", {}),
    ("POST", f"{Q}/receive", b"", {}),
    ("POST", f"{Q}/receive", b"", AS_JSON),
    ("POST", f"{Q}/receive/batch?max=2&body=json", b"", AS_JSON),
    ("GET", f"{Q}/messages?state=leased", b"", {}),
    ("POST", f"{Q}/receive/batch?ack=auto&max=1", b"", {}),
    ("POST", f"{Q}/receive/batch", b"", {"Accept": "text/csv"}),
    ("POST", f"{Q}/receive/batch", b"", {"Accept": "application/x-ndjson"}),
    ("POST", f"{Q}/receive/batch", b"", AS_JSON),
    ("POST", f"{Q}/receive/batch", b"", {"Accept": "application/msgpack"}),
    ("POST", f"{Q}/receive", b"", {}),
    ("POST", "/queues/none/receive", b"", {}),
    ("DELETE", f"{Q}/receipts/aa-1-1", b"", {}),
    ("DELETE", f"{Q}/receipts/x", b"", {}),
    ("POST", f"{Q}/receipts/aa-1-1/release", b"", {}),
    ("POST", f"{Q}/receipts/aa-1-1/extend", b"", {}),
    ("POST", f"{Q}/settle", b'[{"receipt": "aa-1-1", "action": "extend"}]', JSON),
    ("GET", Q, b"", {}),
    ("GET", "/queues", b"", {}),
    ("GET", "/queues?limit=1&sort=-name", b"", {}),
    ("GET", "/queues?sort=nonsense", b"", {}),
    ("PUT", "/queues/new", b'{"visibility": "5m", "max_receives": 2, "dead_letter": "dead"}', JSON),
    ("PUT", "/queues/new", b'{"visibility": "5m", "max_receives": 2, "dead_letter": "dead"}', JSON),
    ("PUT", "/queues/new", b'{"nonsense": 1}', JSON),
    ("PATCH", "/queues/new", b'{"max_bytes": null, "rate": 5}', JSON),
    ("PATCH", "/queues/none", b"{}", JSON),
    ("DELETE", "/queues/dead", b"", {}),
    ("DELETE", "/queues/default", b"", {}),
    ("POST", f"{Q}/pause", b"", {}),
    ("POST", f"{Q}/resume", b"", {}),
    ("POST", f"{Q}/redrive", b"", {}),
    ("POST", f"{Q}/redrive?id=1", b"", {}),
    ("DELETE", f"{Q}/messages/3", b"", {}),
    ("DELETE", f"{Q}/messages/999", b"", {}),
    ("POST", f"{Q}/purge", b"", {}),
    ("POST", "/persist?file=a.msgpack", b"", {}),
    ("GET", "/snapshots", b"", {}),
    ("POST", "/load?file=a.msgpack", b"", {}),
    ("POST", "/load?file=b.msgpack", b"", {}),
    ("POST", "/clear", b"", {}),
    ("DELETE", "/queues/new", b"", {}),
    ("GET", "/metrics", b"", {}),
    ("GET", "/metrics", b"", {"Accept": "application/openmetrics-text"}),
    ("GET", "/metrics/prometheus", b"", {}),
    ("GET", "/stats/history", b"", {}),
    ("GET", "/refusals?limit=5", b"", {}),
    ("GET", "/whoami", b"", {}),
    ("GET", "/ui/", b"", {}),
    ("GET", "/ui/nothing.js", b"", {}),
    ("GET", "/health", b"", {}),
    ("GET", "/livez", b"", {}),
    ("GET", "/readyz", b"", {}),
    ("GET", "/openapi.json", b"", {}),
    ("GET", "/problems", b"", AS_JSON),
    ("GET", "/problems", b"", {}),
    ("GET", "/problems/queue-full", b"", AS_JSON),
    ("GET", "/problems/nothing", b"", {}),
    ("POST", "/test/advance?seconds=5", b"", {}),
    ("POST", "/test/advance", b"", {}),
    ("GET", "/health", b"", {"Host": "queue.example.com"}),
    ("POST", "/enqueue", b"x", {"Origin": "https://example.com"}),
    ("POST", "/drain", b"", {}),
    ("GET", "/readyz", b"", {}),
    ("POST", f"{Q}/messages", b"x", {}),
    ("GET", "/dequeue", b"", {}),
]


class TestAnswers:
    @pytest.fixture
    def zapq_settings(self, zapq_settings: Settings) -> Settings:
        return replace(zapq_settings, test_clock=True)

    async def test_the_server_answers_as_it_says(self, zapq_server: ZapqServer, mock_clock: MockClock) -> None:
        asked = set()
        for method, target, body, fields in REQUESTS:
            answer = await ask(zapq_server.url, method, target, body, fields)
            check(method, target, answer)
            route = find_route(method, target.partition("?")[0])
            assert route is not None
            asked.add((route.endpoint.method, route.endpoint.path))
        left_out = {("GET", "/ui/{file}")}
        assert asked | left_out >= {(each.method, each.path) for each in ENDPOINTS}

    async def test_it_is_served_as_it_is(self, zapq_server: ZapqServer, mock_clock: MockClock) -> None:
        answer = await ask(zapq_server.url, "GET", "/openapi.json")
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert answer.body == document(ENDPOINTS)
