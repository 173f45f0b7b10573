"""Headers of messages over a real socket: they come back the same, whichever road a request goes."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import msgspec
import pytest

from tests.http.asking import COLD, JSON, MSGPACK, NDJSON, QUEUE
from tests.http.test_contract import assert_problem
from tests.support.wire import Answer, ask, open_client
from zapq.core.queue_settings import QueueSettings
from zapq.http.headers import fields_of, headers_of
from zapq.testing import ZapqServer

SENT = {
    "Zapq-Header-Order": "17",
    "zapq-header-b.c_d": "two words",
    "Zapq-Header-Empty": "",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "Tracestate": "a=1",
    "baggage": "user=7",
    "ce-id": "e-1",
}
KEPT = {
    "order": "17",
    "b.c_d": "two words",
    "empty": "",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "a=1",
    "baggage": "user=7",
    "ce-id": "e-1",
}
GIVEN = {name.lower(): value for name, value in SENT.items()}
ROADS = pytest.mark.parametrize("road", [{}, COLD], ids=["fast", "long"])


def given(answer: Answer) -> dict[str, str]:
    """The fields of an answer that carry headers of its message."""
    return {
        name: value
        for name, value in answer.headers.items()
        if name.startswith(("zapq-header-", "ce-", "trace", "baggage"))
    }


def test_fields_become_headers_and_headers_fields() -> None:
    fields = [(name.lower().encode(), value.encode()) for name, value in SENT.items()]
    headers = headers_of([(b"host", b"x"), *fields, (b"zapq-headers", b"y"), (b"cee", b"z")])
    assert headers == tuple(KEPT.items())
    assert fields_of(headers).startswith(b"Zapq-Header-Order: 17\r\nZapq-Header-B.C_D: two words\r\n")
    assert fields_of(headers).endswith(b"Baggage: user=7\r\nCe-Id: e-1\r\n")


def test_several_fields_of_one_list_are_one_list() -> None:
    fields = [(b"baggage", b"a=1"), (b"tracestate", b"x=1"), (b"baggage", b"b=2,c=3"), (b"tracestate", b"y=2")]
    assert headers_of(fields) == (("baggage", "a=1,b=2,c=3"), ("tracestate", "x=1,y=2"))


@ROADS
async def test_each_delivery_gives_them_back(zapq_server: ZapqServer, road: dict[str, str]) -> None:
    url = zapq_server.url
    for _ in range(4):
        sent = await ask(url, "POST", f"{QUEUE}/messages", b"x", {**SENT, **road})
        assert sent.status == 202
    for path in (f"{QUEUE}/receive", f"{QUEUE}/receive?ack=auto"):
        assert given(await ask(url, "POST", path, headers=road)) == GIVEN
    in_json = await ask(url, "POST", f"{QUEUE}/receive", headers={"Accept": "application/json", **road})
    assert in_json.json["headers"] == KEPT
    assert given(in_json) == {}
    [one] = (await ask(url, "GET", f"{QUEUE}/messages", headers=road)).json
    assert one["headers"] == KEPT
    assert (await ask(url, "GET", f"{QUEUE}/messages/4", headers=road)).json["headers"] == KEPT


@ROADS
async def test_so_do_the_endpoints_of_the_original(zapq_server: ZapqServer, road: dict[str, str]) -> None:
    await ask(zapq_server.url, "POST", "/enqueue", b"x", {**SENT, **road})
    assert given(await ask(zapq_server.url, "GET", "/dequeue", headers=road)) == GIVEN
    await ask(zapq_server.url, "POST", "/enqueue", b"x", road)
    assert given(await ask(zapq_server.url, "GET", "/dequeue", headers=road)) == {}


@ROADS
@pytest.mark.parametrize("sent_as", [JSON, MSGPACK], ids=["json", "msgpack"])
@pytest.mark.parametrize("accept", ["application/json", "application/msgpack", "application/x-ndjson"])
@pytest.mark.parametrize("parameters", ["", "?ack=auto"])
async def test_messages_of_a_batch_bring_their_own(
    zapq_server: ZapqServer, road: dict[str, str], sent_as: dict[str, str], accept: str, parameters: str
) -> None:
    url, encode = zapq_server.url, (msgspec.json if sent_as == JSON else msgspec.msgpack).encode
    for batch, fields in (
        (
            [{"body": b"a", "headers": {"Order": "17", "ce-id": "1"}}, {"body": b"b"}, b"c"],
            {"Zapq-Header-Of": "all"},
        ),
        ([b"d", b"e"], {"Zapq-Header-Of": "both"}),
        ([b"f"], {}),
    ):
        sent = await ask(url, "POST", f"{QUEUE}/messages/batch", encode(batch), {**sent_as, **fields, **road})
        assert sent.status == 202
    got = await ask(url, "POST", f"{QUEUE}/receive/batch{parameters}", headers={"Accept": accept, **road})
    *headed, last = shapes(got, accept)
    both = {"of": "both"}
    assert [each["headers"] for each in headed] == [
        {"order": "17", "ce-id": "1"},
        {"of": "all"},
        {"of": "all"},
        both,
        both,
    ]
    is_packed = accept == "application/msgpack"
    assert [each["body"] for each in headed] == [
        each if is_packed else b64encode(each).decode() for each in (b"a", b"b", b"c", b"d", b"e")
    ]
    if is_packed and parameters:
        assert last == b"f"  # those that have none are bodies alone
    else:
        assert "headers" not in last


def shapes(answer: Answer, accept: str) -> list[Any]:
    if accept == "application/json":
        return list(answer.json)
    if accept == "application/msgpack":
        return list(msgspec.msgpack.decode(answer.body))
    return [msgspec.json.decode(line) for line in answer.body.splitlines()]


@ROADS
async def test_every_line_has_those_of_the_request(zapq_server: ZapqServer, road: dict[str, str]) -> None:
    url = zapq_server.url
    await ask(url, "POST", f"{QUEUE}/messages/batch", b"1\n2\n", {**NDJSON, "traceparent": "00-1", **road})
    assert given(await ask(url, "POST", f"{QUEUE}/receive", headers=road)) == {"traceparent": "00-1"}
    answer = await ask(url, "POST", f"{QUEUE}/receive?ack=auto", headers=road)
    assert (answer.body, given(answer)) == (b"2", {"traceparent": "00-1"})


BAD = [
    ([("Zapq-Header-", "x")], "", "name of a header"),
    ([("Zapq-Header-A", "\u00fc")], "a", "visible ASCII"),
    ([("traceparent", "\u00fc")], "traceparent", "visible ASCII"),
    ([("Zapq-Header-A", "1"), ("zapq-header-a", "2")], "a", "more than once"),
    ([("traceparent", "1"), ("traceparent", "2")], "traceparent", "more than once"),
    ([("traceparent", "1"), ("Zapq-Header-Traceparent", "2")], "traceparent", "more than once"),
    ([(f"Zapq-Header-{each}", "x") for each in range(17)], "headers", "can have 16"),
    ([("Zapq-Header-A", "x" * 8192)], "headers", "8 KiB"),
    ([("Zapq-Header-" + "n" * 257, "x")], "n" * 100, "name of a header"),
]


@pytest.mark.parametrize("path", ["/enqueue", f"{QUEUE}/messages", f"{QUEUE}/messages/batch"])
@pytest.mark.parametrize(("fields", "parameter", "why"), BAD, ids=lambda value: str(value)[:30])
async def test_bad_ones_are_refused_and_change_nothing(
    zapq_server: ZapqServer, path: str, fields: list[tuple[str, str]], parameter: str, why: str
) -> None:
    async with open_client(zapq_server.url) as client:
        common = [("Host", "localhost"), ("Content-Type", "application/json"), ("Content-Length", "8")]
        await client.send_fields("POST", path, b'["YQ=="]', [*common, *fields])
        answer = await client.answer()
    assert answer.status == 400
    assert_problem(answer, "invalid-parameter")
    assert answer.json["parameter"] == parameter
    assert why in answer.json["detail"]
    assert zapq_server.service.stats().queue.messages == 0


@ROADS
@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"a": "\n"}, "visible ASCII"),
        ({"a": "1", "A": "2"}, "more than once"),
        ({str(each): "" for each in range(17)}, "can have 16"),
        ({"a": 5}, "must be text"),
        (["a"], "must be"),
        ({"a": "x" * 9000}, "8 KiB"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_bad_ones_in_a_batch_are_refused_and_nothing_is_stored(
    zapq_server: ZapqServer, road: dict[str, str], headers: object, why: str
) -> None:
    batch = msgspec.json.encode([{"body": b"a"}, {"body": b"b", "headers": headers}])
    answer = await ask(zapq_server.url, "POST", f"{QUEUE}/messages/batch", batch, {**JSON, **road})
    assert answer.status == 400
    assert_problem(answer, "invalid-parameter")
    assert why in answer.json["detail"]
    assert zapq_server.service.stats().queue.messages == 0


@ROADS
async def test_where_nothing_is_stored_they_mean_nothing(zapq_server: ZapqServer, road: dict[str, str]) -> None:
    answer = await ask(zapq_server.url, "GET", "/dequeue", headers={**SENT, **road})
    assert (answer.status, given(answer)) == (204, {})


@ROADS
async def test_they_count_in_the_caps(zapq_server: ZapqServer, road: dict[str, str]) -> None:
    url, service = zapq_server.url, zapq_server.service
    await service.configure("emails", QueueSettings(max_bytes=10))
    refused = await ask(url, "POST", f"{QUEUE}/messages", b"12345", {"Zapq-Header-Name": "xy", **road})
    assert refused.status == 429
    assert_problem(refused, "queue-full")
    assert (await ask(url, "POST", f"{QUEUE}/messages", b"1234", {"Zapq-Header-Name": "xy", **road})).status == 202
    assert (await ask(url, "GET", QUEUE)).json["bytes"] == 10


@ROADS
async def test_a_key_is_for_the_headers_as_well_but_not_for_how_a_request_is_traced(
    zapq_server: ZapqServer, road: dict[str, str]
) -> None:
    url, key = zapq_server.url, {"Idempotency-Key": "k", **road}
    first = {"Zapq-Header-Order": "17", "traceparent": "00-1", **key}
    assert (await ask(url, "POST", f"{QUEUE}/messages", b"x", first)).status == 202
    again = await ask(url, "POST", f"{QUEUE}/messages", b"x", {**first, "traceparent": "00-2"})
    assert (again.status, again.headers["idempotency-replayed"]) == (202, "true")
    other = await ask(url, "POST", f"{QUEUE}/messages", b"x", {**first, "Zapq-Header-Order": "18"})
    assert other.status == 422
    assert_problem(other, "idempotency-key-reused")
