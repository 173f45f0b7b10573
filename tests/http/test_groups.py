"""The contract of groups over a real server, on both roads: what is sent, delivered, held up and refused."""

from __future__ import annotations

import msgspec
import pytest
import trio

from tests.http.asking import JSON, MSGPACK, QUEUE, ROADS, expect_refused, receive
from tests.http.test_contract import assert_problem
from tests.support.serving import until_waiting
from tests.support.wire import Answer, ask
from zapq.testing import ZapqServer


async def send(server: ZapqServer, body: bytes, group: str, fields: dict[str, str] | None = None) -> Answer:
    answer = await ask(server.url, "POST", f"{QUEUE}/messages?group={group}", body, fields)
    assert answer.status == 202
    return answer


async def ack(server: ZapqServer, taken: Answer) -> None:
    assert (await ask(server.url, "DELETE", f"{QUEUE}/receipts/{taken.headers['zapq-receipt']}")).status == 204


@ROADS
async def test_a_group_waits_for_its_earlier_messages_and_the_answer_says_so(
    zapq_server: ZapqServer, fields: dict[str, str]
) -> None:
    for body, group in ((b"a1", "tenant:1"), (b"a2", "tenant:1"), (b"b1", "tenant%202")):
        await send(zapq_server, body, group.replace("%202", "-2"), fields)
    first, other = await receive(zapq_server, "?visibility=60"), await receive(zapq_server, "?visibility=60")
    assert (first.body, first.headers["zapq-group"]) == (b"a1", "tenant:1")
    assert (other.body, other.headers["zapq-group"]) == (b"b1", "tenant-2")
    blocked = await ask(zapq_server.url, "POST", f"{QUEUE}/receive", b"", fields)
    assert (blocked.status, blocked.headers["zapq-empty"]) == (204, "blocked")
    assert 50 < float(blocked.headers["zapq-next-visible-in"]) <= 61
    await ack(zapq_server, first)
    assert (await receive(zapq_server, "?ack=auto")).headers["zapq-group"] == "tenant:1"


@ROADS
async def test_a_message_of_a_group_can_have_headers(zapq_server: ZapqServer, fields: dict[str, str]) -> None:
    await send(zapq_server, b"a1", "a", {"Zapq-Header-Order": "17", **fields})
    taken = await receive(zapq_server)
    assert (taken.headers["zapq-group"], taken.headers["zapq-header-order"]) == ("a", "17")


@ROADS
async def test_an_ack_gives_the_next_message_to_the_consumer_that_waits(
    zapq_server: ZapqServer, fields: dict[str, str]
) -> None:
    for body in (b"a1", b"a2"):
        await send(zapq_server, body, "a", fields)
    first = await receive(zapq_server)
    answers: list[Answer] = []

    async def wait() -> None:
        answers.append(await ask(zapq_server.url, "POST", f"{QUEUE}/receive?wait=60", b"", fields))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await until_waiting(zapq_server.service)
            await ack(zapq_server, first)
    assert [each.body for each in answers] == [b"a2"]


async def test_acks_sent_together_wake_a_consumer_once_all_of_the_group_are_done_with(
    zapq_server: ZapqServer,
) -> None:
    for body in (b"a1", b"a2", b"a3"):
        await send(zapq_server, body, "a")
    batch = (await ask(zapq_server.url, "POST", f"{QUEUE}/receive/batch?max=2", b"", {"Accept": JSON_TYPE})).json
    answers: list[Answer] = []

    async def wait() -> None:
        answers.append(await receive(zapq_server, "?wait=60"))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await until_waiting(zapq_server.service)
            wanted = [{"receipt": each["receipt"], "action": "ack"} for each in reversed(batch)]
            settled = await ask(zapq_server.url, "POST", f"{QUEUE}/settle", msgspec.json.encode(wanted), JSON)
            assert [each["result"] for each in settled.json] == ["ok", "ok"]
    assert answers[0].body == b"a3"


JSON_TYPE = "application/json"


@pytest.mark.parametrize("media_type", ["application/msgpack", JSON_TYPE])
@pytest.mark.parametrize("parameters", ["", "&ack=auto"])
async def test_a_batch_says_and_shows_the_group_of_each_message(
    zapq_server: ZapqServer, media_type: str, parameters: str
) -> None:
    batch = [{"body": b"a1", "group": "a"}, b"-", {"body": b"a2", "group": "a"}]
    sent = await ask(zapq_server.url, "POST", f"{QUEUE}/messages/batch", msgspec.msgpack.encode(batch), MSGPACK)
    assert (sent.status, sent.json["count"]) == (202, 3)
    taken = await ask(
        zapq_server.url, "POST", f"{QUEUE}/receive/batch?max=9{parameters}", b"", {"Accept": media_type}
    )
    shown = taken.json if media_type == JSON_TYPE else msgspec.msgpack.decode(taken.body)
    assert [each.get("group") if isinstance(each, dict) else None for each in shown] == ["a", None, "a"]


async def test_a_look_at_the_messages_shows_their_groups(zapq_server: ZapqServer) -> None:
    sent = await send(zapq_server, b"a1", "a")
    await send(zapq_server, b"a2", "a")
    await receive(zapq_server)
    [ready] = (await ask(zapq_server.url, "GET", f"{QUEUE}/messages")).json
    [leased] = (await ask(zapq_server.url, "GET", f"{QUEUE}/messages?state=leased")).json
    found = (await ask(zapq_server.url, "GET", sent.headers["location"])).json
    assert [each["group"] for each in (ready, leased, found)] == ["a", "a", "a"]
    assert (await ask(zapq_server.url, "GET", QUEUE)).json["ready"] == 1


@ROADS
@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("group=", "group"),
        ("group=a%20b", "group"),
        (f"group={'a' * 129}", "group"),
        ("group=%C3%A4", "group"),
        ("group=a&priority=1", "priority"),
        ("group=a&group=b", "group"),
    ],
)
async def test_a_group_that_cannot_be_is_refused(
    zapq_server: ZapqServer, query: str, parameter: str, fields: dict[str, str]
) -> None:
    await expect_refused(zapq_server, query, parameter, fields)


@pytest.mark.parametrize("draft", [{"group": "a b"}, {"group": "a", "priority": 1}, {"group": 1}])
async def test_so_is_one_in_a_batch_and_nothing_is_stored(
    zapq_server: ZapqServer, draft: dict[str, object]
) -> None:
    batch = msgspec.msgpack.encode([b"good", {"body": b"x", **draft}])
    refused = await ask(zapq_server.url, "POST", f"{QUEUE}/messages/batch", batch, MSGPACK)
    assert refused.status == 400
    assert "group" in refused.json["detail"]
    assert (await ask(zapq_server.url, "POST", f"{QUEUE}/receive")).headers.get("zapq-empty", "empty") == "empty"


async def test_the_same_message_in_another_group_is_another_one_under_an_idempotency_key(
    zapq_server: ZapqServer,
) -> None:
    key = {"Idempotency-Key": "k"}
    first = await send(zapq_server, b"x", "a", key)
    again = await send(zapq_server, b"x", "a", key)
    assert again.headers["zapq-message-id"] == first.headers["zapq-message-id"]
    assert again.headers["idempotency-replayed"] == "true"
    other = await ask(zapq_server.url, "POST", f"{QUEUE}/messages?group=b", b"x", key)
    assert other.status == 422


async def test_groups_take_turns_in_a_queue_that_is_set_to_be_fair(zapq_server: ZapqServer) -> None:
    made = await ask(zapq_server.url, "PUT", QUEUE, b'{"fair": true}', JSON)
    assert made.status in {200, 201}
    assert (await ask(zapq_server.url, "GET", QUEUE)).json["settings"]["fair"] is True
    for body, group in ((b"a1", "a"), (b"a2", "a"), (b"a3", "a"), (b"b1", "b")):
        await send(zapq_server, body, group)
    batch = await ask(
        zapq_server.url, "POST", f"{QUEUE}/receive/batch?max=9&body=text", b"", {"Accept": JSON_TYPE}
    )
    assert [each["body"] for each in batch.json] == ["a1", "b1", "a2", "a3"]
    refused = await ask(zapq_server.url, "PUT", QUEUE, b'{"fair": "yes"}', JSON)
    assert refused.status == 400
    assert_problem(refused, "invalid-parameter")
