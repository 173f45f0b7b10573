"""The contract of keys that are unique while held, over a real server, on both roads."""

from __future__ import annotations

import msgspec
import pytest

from tests.http.asking import JSON, MSGPACK, QUEUE, ROADS, expect_refused, receive
from tests.http.test_contract import assert_problem
from tests.support.wire import Answer, ask
from zapq.testing import ZapqServer


async def send(server: ZapqServer, body: bytes, query: str, fields: dict[str, str] | None = None) -> Answer:
    answer = await ask(server.url, "POST", f"{QUEUE}/messages?{query}", body, fields)
    assert answer.status == 202
    return answer


def said(answer: Answer) -> tuple[str, str | None]:
    """The id, and what became of the message."""
    return answer.headers["zapq-message-id"], answer.headers.get("zapq-unique")


@ROADS
async def test_the_answer_says_that_a_message_is_held_and_nothing_was_stored(
    zapq_server: ZapqServer, fields: dict[str, str]
) -> None:
    assert said(await send(zapq_server, b"first", "unique=report:7", fields)) == ("1", None)
    kept = await send(zapq_server, b"second", "unique=report:7&on=keep", fields)
    assert said(kept) == ("1", "kept")
    assert kept.headers["location"] == f"{QUEUE}/messages/1"
    assert said(await send(zapq_server, b"other", "unique=report:8", fields)) == ("2", None)
    assert (await receive(zapq_server, "?ack=auto")).body == b"first"
    assert said(await send(zapq_server, b"third", "unique=report:7", fields)) == ("3", None)


@ROADS
async def test_a_held_message_is_replaced_and_the_answer_says_so(
    zapq_server: ZapqServer, fields: dict[str, str]
) -> None:
    headed = {"Zapq-Header-Order": "17", **fields}
    await send(zapq_server, b"first", "unique=a&group=g", fields)
    replaced = await send(zapq_server, b"second", "on=replace&unique=a&group=g", headed)
    assert said(replaced) == ("1", "replaced")
    leased = await receive(zapq_server)
    assert (leased.body, leased.headers["zapq-header-order"], leased.headers["zapq-group"]) == (
        b"second",
        "17",
        "g",
    )
    assert said(await send(zapq_server, b"third", "unique=a&on=keep", fields)) == ("1", "kept")
    assert said(await send(zapq_server, b"third", "unique=a&on=replace", fields)) == ("2", None)


@ROADS
async def test_a_key_among_other_parameters(zapq_server: ZapqServer, fields: dict[str, str]) -> None:
    await send(zapq_server, b"1", "priority=9&unique=a", fields)
    await send(zapq_server, b"2", "unique=b&group=u&ttl=60", fields)
    await send(zapq_server, b"3", "delay=60&durability=memory&unique=c", fields)
    for key in "abc":
        assert said(await send(zapq_server, b"4", f"unique={key}", fields))[1] == "kept"
    shown = (await ask(zapq_server.url, "GET", f"{QUEUE}/messages")).json
    assert [(each["unique"], each["priority"], each.get("group")) for each in shown] == [
        ("a", 9, None),
        ("b", 0, "u"),
    ]


async def test_a_batch_says_what_became_of_each_message(zapq_server: ZapqServer) -> None:
    batch = [
        {"body": b"a", "unique": "x"},
        b"-",
        {"body": b"b", "unique": "x"},
        {"body": b"c", "unique": "x", "on": "replace"},
    ]
    sent = await ask(zapq_server.url, "POST", f"{QUEUE}/messages/batch", msgspec.msgpack.encode(batch), MSGPACK)
    assert sent.status == 202
    assert sent.json == {
        "count": 4,
        "first_id": 1,
        "ids": [1, 2, 1, 1],
        "unique": ["stored", "stored", "kept", "replaced"],
    }
    assert [(await receive(zapq_server, "?ack=auto")).body for _ in range(2)] == [b"c", b"-"]


async def test_a_batch_without_keys_is_answered_as_ever(zapq_server: ZapqServer) -> None:
    sent = await ask(zapq_server.url, "POST", f"{QUEUE}/messages/batch", b'["YQ==", "Yg=="]', JSON)
    assert sent.json == {"count": 2, "first_id": 1}


@ROADS
@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("unique=", "unique"),
        ("unique=a%20b", "unique"),
        (f"unique={'a' * 129}", "unique"),
        ("unique=a&unique=b", "unique"),
        ("unique=a&on=drop", "on"),
        ("on=replace", "on"),
    ],
)
async def test_a_key_that_cannot_be_is_refused(
    zapq_server: ZapqServer, query: str, parameter: str, fields: dict[str, str]
) -> None:
    await expect_refused(zapq_server, query, parameter, fields)


@pytest.mark.parametrize("draft", [{"unique": "a b"}, {"unique": "a", "on": "drop"}, {"unique": 1}])
async def test_so_is_one_in_a_batch_and_nothing_is_stored(
    zapq_server: ZapqServer, draft: dict[str, object]
) -> None:
    batch = msgspec.msgpack.encode([b"good", {"body": b"x", **draft}])
    refused = await ask(zapq_server.url, "POST", f"{QUEUE}/messages/batch", batch, MSGPACK)
    assert refused.status == 400
    assert (await ask(zapq_server.url, "POST", f"{QUEUE}/receive")).headers.get("zapq-empty", "empty") == "empty"


async def test_an_idempotency_key_answers_a_repetition_whatever_has_become_of_the_message(
    zapq_server: ZapqServer,
) -> None:
    key = {"Idempotency-Key": "k"}
    first = await send(zapq_server, b"x", "unique=a", key)
    await receive(zapq_server, "?ack=auto")
    again = await send(zapq_server, b"x", "unique=a", key)
    assert (said(again), again.headers["idempotency-replayed"]) == (said(first), "true")
    for query in ("unique=b", "unique=a&on=replace", ""):
        other = await ask(zapq_server.url, "POST", f"{QUEUE}/messages?{query}", b"x", key)
        assert other.status == 422, query


async def test_a_full_queue_still_keeps_and_replaces_what_fits(zapq_server: ZapqServer) -> None:
    await ask(zapq_server.url, "PUT", QUEUE, b'{"max_messages": 1, "max_bytes": 3}', JSON)
    await send(zapq_server, b"123", "unique=a")
    assert said(await send(zapq_server, b"4567", "unique=a"))[1] == "kept"
    assert said(await send(zapq_server, b"456", "unique=a&on=replace"))[1] == "replaced"
    full = await ask(zapq_server.url, "POST", f"{QUEUE}/messages?unique=a&on=replace", b"4567")
    assert_problem(full, "queue-full")
    assert (await receive(zapq_server)).body == b"456"
