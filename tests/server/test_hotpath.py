"""Bytes in, bytes out: what is hot, what is left to h11, and what becomes of messages whose answers break off.

One file, although it is long: each case is a few bytes for the one hot path that is made here.
"""

from __future__ import annotations

import gc
import logging
import re
import time
from dataclasses import replace

import msgspec
import pytest
import trio
import trio.testing

from tests.engine.fronts import front_ends
from zapq.access.access import Access
from zapq.engine.local import LocalEngine
from zapq.http import render
from zapq.http.guard import Guard
from zapq.http.hosts import Hosts
from zapq.http.metrics import ServerCounts
from zapq.http.tracing import TraceIds
from zapq.limits import (
    FINGERPRINT_SLICE,
    MAX_ANSWERS,
    MAX_ANSWERS_BYTES,
    MAX_BATCH_BYTES,
    MAX_HOT_FIELDS,
    MAX_HOT_HEAD_BYTES,
    MIB,
)
from zapq.logs import Throttle
from zapq.server.hotpath import Answers, HotPath
from zapq.service.service import QueueService
from zapq.settings import Settings


@pytest.fixture
def counts() -> ServerCounts:
    return ServerCounts()


@pytest.fixture
def hot(zapq_service: QueueService, zapq_settings: Settings, counts: ServerCounts) -> HotPath:
    guard = Guard(zapq_settings, Hosts(zapq_settings, "127.0.0.1"), Access(zapq_settings))
    hot = HotPath(LocalEngine(zapq_service), zapq_settings, counts, TraceIds(), Throttle(), guard)
    hot.set_time(1_800_000_000.7, trio.current_time())
    return hot


def enqueue(body: bytes, *fields: bytes) -> bytes:
    lines = [b"POST /enqueue HTTP/1.1", b"Host: localhost", b"Content-Length: %d" % len(body), *fields, b"", b""]
    return b"\r\n".join(lines) + body


HEADERS = (b"Zapq-Header-Order: 17", b"traceparent: 00-1-2-01", b"CE-Id:\t e-1 ")
DEQUEUE = b"GET /dequeue HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def test_an_enqueue_and_a_dequeue_are_answered_from_the_bytes(hot: HotPath, counts: ServerCounts) -> None:
    answers = hot.respond(enqueue(b"hello", b"X-Trace-Id: mine") + DEQUEUE)
    assert re.sub(rb"[0-9]+-[0-9a-f]{6}", b"ID", answers.data) == (
        b"HTTP/1.1 202 Accepted\r\nCache-Control: no-store\r\nZapq-Message-Id: 1\r\nContent-Length: 0\r\n"
        b"X-Trace-Id: mine\r\nDate: Fri, 15 Jan 2027 08:00:00 GMT\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nZapq-Message-Id: 1\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n"
        b"Content-Type: application/octet-stream\r\nContent-Length: 5\r\nX-Trace-Id: ID\r\n"
        b"Date: Fri, 15 Jan 2027 08:00:00 GMT\r\n\r\nhello"
    )
    assert (answers.then, answers.requests, counts.hot_requests) == ("idle", 2, 2)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /snapshots HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /dequeue?wait=%31 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /dequeue HTTP/1.0\r\nHost: localhost\r\n\r\n",
        b"HEAD /dequeue HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://localhost/dequeue HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /%64equeue HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET  /dequeue HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\r\nGET /dequeue HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /dequeue HTTP/1.1\nHost: localhost\n\n",
        b"GET /dequeue HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n",
        b"GET /dequeue HTTP/1.1\r\nHost: localhost\r\n X: y\r\n\r\n",
        b"GET /dequeue HTTP/1.1\r\n Host: localhost\r\nHost: localhost\r\n\r\n",
        b"GET /dequeue HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET /dequeue HTTP/1.1\r\nHost: localhost\r\nX: \0\r\n\r\n",
        b"GET /dequeue HTTP/1.1\r\nHost: localhost\r\nX: \xff\r\n\r\n",
        b"GET /dequeue HTTP/1.1\r\n\r\n",
        b"GET /dequeue HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET /dequeue HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\n\r\n",
        b"GET /dequeue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\na",
        b"GET /dequeue HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * MAX_HOT_HEAD_BYTES + b"\r\n\r\n",
        b"GET /dequeue HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * MAX_HOT_FIELDS + b"\r\n",
        enqueue(b"a", b"Content-Length: 1"),
        enqueue(b"a", b"Content-Length: 2"),
        enqueue(b"a", b"Transfer-Encoding: chunked"),
        enqueue(b"a", b"Transfer-Encoding: identity"),
        enqueue(b"a", b"transfer-encoding:"),
        enqueue(b"a", b"Expect: 100-continue"),
        enqueue(b"a", b"Origin: http://localhost"),
        enqueue(b"a", b"sec-fetch-site: none"),
        enqueue(b"a").replace(b"localhost", b"attacker.example"),
        enqueue(b"a", b"Upgrade: h2c"),
        enqueue(b"a").replace(b"Length: 1", b"Length: +1"),
        enqueue(b"a").replace(b"Length: 1", b"Length: 01"),
        enqueue(b"a").replace(b"Length: 1", b"Length: 1,1"),
        enqueue(b"x" * 131_073),
    ],
)
async def test_what_is_not_plain_is_left_to_h11_and_changes_nothing(
    hot: HotPath, zapq_service: QueueService, request_: bytes
) -> None:
    zapq_service.enqueue_nowait(b"held")
    answers = hot.respond(DEQUEUE + request_ + DEQUEUE)
    assert (answers.then, answers.used, answers.requests) == ("cold", len(DEQUEUE), 1)
    stats = zapq_service.stats()
    assert (stats.queue.enqueued, stats.queue.dequeued, stats.dequeues_empty) == (1, 1, 0)


@pytest.mark.parametrize("end", range(1, len(enqueue(b"hello"))))
async def test_an_incomplete_request_waits_for_the_rest(
    hot: HotPath, zapq_service: QueueService, end: int
) -> None:
    request = enqueue(b"hello")
    answers = hot.respond(request[:end])
    assert answers.then == ("body" if b"\r\n\r\n" in request[:end] else "head")
    assert end < answers.needed <= len(request)
    assert (answers.used, answers.data) == (0, b"")
    assert zapq_service.stats().queue.enqueued == 0


async def test_a_long_poll_is_hot_when_there_is_a_message_or_no_time_to_wait(
    hot: HotPath, zapq_service: QueueService
) -> None:
    poll = DEQUEUE.replace(b"/dequeue", b"/dequeue?wait=20")
    assert hot.respond(poll.replace(b"20", b"0.0")).data.startswith(b"HTTP/1.1 204")
    assert zapq_service.stats().dequeues_empty == 1
    zapq_service.enqueue_nowait(b"here")
    assert hot.respond(poll).data.endswith(b"here")


async def test_a_pipeline_is_answered_in_bounded_portions(hot: HotPath) -> None:
    pipeline = DEQUEUE * (MAX_ANSWERS + 1)
    answers = hot.respond(pipeline)
    assert (answers.then, answers.requests) == ("more", MAX_ANSWERS)
    answers = hot.respond(pipeline[answers.used :])
    assert (answers.then, answers.requests) == ("idle", 1)


async def test_what_takes_long_is_begun_once(hot: HotPath, zapq_service: QueueService) -> None:
    batch = msgspec.msgpack.encode([b"x" * 60_000] * (FINGERPRINT_SLICE // 60_000 + 1))
    large = enqueue(batch, b"Idempotency-Key: k", b"Content-Type: application/msgpack")
    large = large.replace(b"/enqueue", b"/queues/jobs/messages/batch", 1)
    much = DEQUEUE * (MAX_HOT_HEAD_BYTES // len(DEQUEUE) + 1)
    for before, then in ((DEQUEUE, "more"), (b"", "cold")):
        answers = hot.respond(before + large + much, large=True)
        assert (answers.then, answers.used) == (then, len(before))
    await trio.testing.wait_all_tasks_blocked()
    assert zapq_service.stats().queue.enqueued == 0
    answers = hot.respond(large + DEQUEUE, large=True)
    assert answers.pending is not None
    await trio.testing.wait_all_tasks_blocked()
    hot.complete(answers)
    assert answers.data.startswith(b"HTTP/1.1 202")
    assert b"Replayed" not in answers.data


async def test_no_further_answer_is_begun_once_there_is_much_to_send(
    hot: HotPath, zapq_service: QueueService
) -> None:
    for _ in range(10):
        zapq_service.enqueue_nowait(bytes(100_000))
    answers = hot.respond(DEQUEUE * 10)
    assert answers.then == "more"
    assert MAX_ANSWERS_BYTES <= len(answers.data) < MAX_ANSWERS_BYTES + 101_000
    assert zapq_service.stats().queue.messages == 10 - answers.requests


async def test_a_pipeline_of_consumers_travels_together_unless_messages_were_large(
    zapq_service: QueueService, zapq_settings: Settings, counts: ServerCounts
) -> None:
    guard = Guard(zapq_settings, Hosts(zapq_settings, "127.0.0.1"), Access(zapq_settings))
    async with front_ends(zapq_service) as [front]:
        hot = HotPath(front.engine, zapq_settings, counts, TraceIds(), Throttle(), guard)

        async def take(number: int) -> Answers:
            answers = hot.respond(DEQUEUE * number)
            assert answers.pending is not None
            await trio.testing.wait_all_tasks_blocked()
            hot.complete(answers)
            return answers

        for size in (10, *[100_000] * 20, *[10] * 200):
            zapq_service.enqueue_nowait(bytes(size))
        assert (await take(16)).requests == 16
        # As many as will be the most of what is made at once.
        answers = await take(16)
        assert (answers.requests, answers.then) == (3, "more")
        assert MAX_ANSWERS_BYTES <= len(answers.data) < MAX_ANSWERS_BYTES + 101_000
        for _ in range(2):
            await take(1)
        # Small ones make up for it.
        while (answers := await take(16)).requests < 16:
            assert answers.requests >= 3
        assert zapq_service.stats().queue.messages > 0
        # However large they turn out to be, they are no more than a batch.
        settings = replace(zapq_settings, max_message_bytes=4 * MIB)
        hot = HotPath(front.engine, settings, counts, TraceIds(), Throttle(), guard)
        assert (await take(16)).requests == MAX_BATCH_BYTES // (4 * MIB)


async def test_while_a_task_holds_the_lock_a_request_waits_for_it(
    hot: HotPath, zapq_service: QueueService
) -> None:
    done = trio.Event()
    async with zapq_service.lock:
        answers = hot.respond(enqueue(b"a"))
        assert (answers.then, answers.data) == ("wait", b"")
        assert answers.pending is not None
        answers.pending.when_done(done.set)
        assert zapq_service.stats().queue.messages == 0
    await done.wait()
    hot.complete(answers)
    assert answers.data.startswith(b"HTTP/1.1 202 Accepted\r\n")
    assert zapq_service.stats().queue.messages == 1


async def test_while_the_service_drains_new_messages_take_the_long_way(
    hot: HotPath, zapq_service: QueueService
) -> None:
    zapq_service.drain()
    assert hot.respond(enqueue(b"a")).then == "cold"
    assert hot.respond(DEQUEUE).data.startswith(b"HTTP/1.1 503")


@pytest.mark.parametrize("bodies", [[b"one", b"two", b"three"], [b"", b"two", b""]])
async def test_of_answers_that_break_off_messages_go_back_unless_a_byte_of_them_was_written(
    hot: HotPath, zapq_service: QueueService, bodies: list[bytes]
) -> None:
    for body in bodies:
        zapq_service.enqueue_nowait(body)
    length = len(hot.respond(DEQUEUE * 3).data)
    await zapq_service.clear()
    for sent in range(length + 1):
        for body in bodies:
            zapq_service.enqueue_nowait(body)
        before = zapq_service.stats()
        answers = hot.respond(DEQUEUE * 3)
        hot.reconcile(answers, sent)
        # An answer without a body is its head.
        begun = [sent > handed.start for handed in answers.taken]
        whole = [sent >= handed.end for handed in answers.taken]
        held = zapq_service.broker.default.bodies()
        assert held == [body for body, gone in zip(bodies, begun, strict=True) if not gone]
        after = zapq_service.stats()
        assert after.delivery_uncertain - before.delivery_uncertain == sum(begun) - sum(whole)
        assert after.queue.returned - before.queue.returned == len(held)
        await zapq_service.clear()


async def test_an_uncertain_delivery_is_logged_under_its_request(
    hot: HotPath, zapq_service: QueueService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="zapq")
    zapq_service.enqueue_nowait(b"hello")
    answers = hot.respond(DEQUEUE.replace(b"Host: localhost", b"Host: localhost\r\nX-Trace-Id: mine"))
    hot.reconcile(answers, len(answers.data) - 1)
    [record] = caplog.records
    assert record.__dict__["fields"] == {
        "trace_id": "mine",
        "queue": "default",
        "message_id": 1,
        "messages": 1,
    }


def put_in(target: str, *fields: bytes) -> bytes:
    return b"\r\n".join([f"POST {target} HTTP/1.1".encode(), b"Host: localhost", *fields, b"", b""])


async def test_heads_are_remembered_however_many_groups_there_are(
    hot: HotPath, zapq_service: QueueService
) -> None:
    keys = [*(f"tenant:{number}" for number in range(50)), "0", "a/b", "messages/7", "x" * 128]
    for key in keys:
        answers = hot.respond(put_in(f"/queues/jobs/messages?delay=0&group={key}&durability=memory"))
        assert answers.data.startswith(b"HTTP/1.1 202 ")
    assert hot._remember.cache_info().misses == 1
    seen = await zapq_service.queue("jobs").peek("ready", limit=len(keys) + 1)
    assert [each.group for each in seen] == keys
    # A key makes another operation of it.
    answers = hot.respond(put_in("/queues/jobs/messages?group=b", b"Idempotency-Key: k"))
    assert answers.data.startswith(b"HTTP/1.1 202 ")
    # What is written otherwise goes the other way.
    for key in ("a%20b", "a+b"):
        assert hot.respond(put_in(f"/queues/jobs/messages?group={key}")).then == "cold", key
    for key in ("", "x" * 129):
        answers = hot.respond(put_in(f"/queues/jobs/messages?group={key}"))
        assert answers.data.startswith(b"HTTP/1.1 400 "), key


async def test_heads_are_remembered_however_many_unique_keys_there_are(
    hot: HotPath, zapq_service: QueueService
) -> None:
    keys = [*(f"report:{number}" for number in range(50)), "0", "a/b", "messages/7", "group", "x" * 128]
    for how in (b"", b"Zapq-Unique: replaced"):
        for key in keys:
            answers = hot.respond(put_in(f"/queues/jobs/messages?priority=3&unique={key}&on=replace"))
            assert answers.data.startswith(b"HTTP/1.1 202 ")
            assert how in answers.data
    assert hot._remember.cache_info().misses == 1
    seen = await zapq_service.queue("jobs").peek("ready", limit=len(keys) + 1)
    assert [(each.message.properties.unique, each.message.priority) for each in seen] == [(key, 3) for key in keys]
    # Of a message in a group, that is what differs.
    for group in ("b", "c"):
        answers = hot.respond(put_in(f"/queues/groups/messages?unique={group}&group={group}"))
        assert answers.data.startswith(b"HTTP/1.1 202 ")
        assert b"Zapq-Unique" not in answers.data
    [first, second] = await zapq_service.queue("groups").peek("ready", limit=3)
    assert (first.message.group, first.message.properties.unique) == ("b", "b")
    assert (second.message.group, second.message.properties.unique) == ("c", "c")
    # What is written otherwise goes the other way.
    for key in ("a%20b", "a+b"):
        assert hot.respond(put_in(f"/queues/jobs/messages?unique={key}")).then == "cold", key
    for query in ("unique=", f"unique={'x' * 129}", "unique=a&group=", "unique=a&on=", "on=keep"):
        answers = hot.respond(put_in(f"/queues/jobs/messages?{query}"))
        assert answers.data.startswith(b"HTTP/1.1 400 "), query


async def test_heads_are_remembered_by_every_byte_of_them(hot: HotPath) -> None:
    for _ in range(3):
        hot.respond(DEQUEUE)
        hot.respond(DEQUEUE.replace(b"Host: localhost", b"Host: localhost:1"))
    assert (hot._remember.cache_info().misses, hot._remember.cache_info().hits) == (2, 4)


async def test_the_date_follows_the_clock_both_ways(hot: HotPath) -> None:
    for seconds, expected in [(0, b"00:00:00"), (61.9, b"00:01:01"), (62, b"00:01:02"), (5, b"00:00:05")]:
        hot.set_time(seconds, 0)
        assert b"Date: Thu, 01 Jan 1970 " + expected + b" GMT\r\n" in hot.respond(DEQUEUE).data


async def test_a_waiting_consumer_is_served_before_a_hot_dequeue(hot: HotPath, zapq_service: QueueService) -> None:
    got: list[bytes] = []

    async def wait() -> None:
        message = await zapq_service.dequeue(wait=60)
        assert message is not None
        got.append(message.body)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        answers = hot.respond(enqueue(b"for who waited") + DEQUEUE)
    assert got == [b"for who waited"]
    assert b"204 No Content" in answers.data


def post(target: str, body: bytes = b"", *fields: bytes) -> bytes:
    lines = [
        b"POST %b HTTP/1.1" % target.encode(),
        b"Host: localhost",
        b"Content-Length: %d" % len(body),
        *fields,
        b"",
        b"",
    ]
    return b"\r\n".join(lines) + body


def ack(receipt: str) -> bytes:
    return b"DELETE /queues/default/receipts/%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % receipt.encode()


SEND = "/queues/default/messages"
RECEIVE = "/queues/default/receive"
MSGPACK = b"application/msgpack"


async def test_a_message_is_sent_leased_and_acknowledged_from_the_bytes(
    hot: HotPath, zapq_service: QueueService, counts: ServerCounts
) -> None:
    answers = hot.respond(
        post(SEND, b"hello", b"Content-Type: text/plain") + post(f"{RECEIVE}?visibility=5&wait=9")
    )
    assert answers.then == "idle"
    assert b"Location: /queues/default/messages/1\r\n" in answers.data
    assert answers.data.endswith(b"\r\n\r\nhello")
    for field in (
        b"Content-Type: text/plain",
        b"Zapq-Receive-Count: 1",
        b"Zapq-Visible-Until: 2027-01-15T08:00:05.7",
    ):
        assert field in answers.data
    [receipt] = re.findall(rb"Zapq-Receipt: (\S+)", answers.data)
    assert b"204 No Content" in hot.respond(ack(receipt.decode()) * 2).data
    assert b"409 Conflict" in hot.respond(ack(receipt.decode() + "0")).data
    assert b"Zapq-Empty: empty\r\n" in hot.respond(post(RECEIVE)).data
    stats = zapq_service.stats().queue
    assert (stats.messages, stats.acked, counts.hot_requests) == (0, 1, 6)


async def test_requests_with_keys_are_hot_and_safe_to_repeat(
    hot: HotPath, zapq_service: QueueService, counts: ServerCounts
) -> None:
    batch = msgspec.msgpack.encode([b"a", b"b"])
    for number, request in enumerate(
        (
            enqueue(b"x", b"Idempotency-Key: one"),
            post(SEND, b"x", b"Content-Type: text/plain", b"idempotency-key:two\t"),
            post(f"{SEND}/batch", batch, b"Content-Type: " + MSGPACK, b"Idempotency-Key: three"),
        ),
        1,
    ):
        first, again = hot.respond(request).data, hot.respond(request).data
        assert b"Idempotency-Replayed" not in first
        assert b"Idempotency-Replayed: true\r\n" in again
        for answer in (first, again):
            assert answer.startswith(b"HTTP/1.1 202 Accepted\r\n")
            assert b"Zapq-Message-Id: %d\r\n" % number in answer or b'{"count":2,"first_id":3}' in answer
    # Under the key of another message.
    assert hot.respond(enqueue(b"y", b"Idempotency-Key: one")).data.startswith(b"HTTP/1.1 422")
    assert (zapq_service.stats().queue.messages, counts.hot_requests) == (4, 7)


async def test_batches_are_hot_in_every_format(
    hot: HotPath, zapq_service: QueueService, counts: ServerCounts
) -> None:
    for media_type, body in (
        (MSGPACK, msgspec.msgpack.encode([b"a", b"b"])),
        (MSGPACK, msgspec.msgpack.encode([{"body": b"c", "priority": 9}])),
        (b"application/json", b'["ZA=="]'),
        (b"application/x-ndjson", b"1\n2\n"),
    ):
        answers = hot.respond(post(f"{SEND}/batch", body, b"Content-Type: " + media_type))
        assert b"202 Accepted" in answers.data
    leased = hot.respond(post(f"{RECEIVE}/batch?max=2", b"", b"Accept: " + MSGPACK)).data
    assert [lease["body"] for lease in msgspec.msgpack.decode(leased.partition(b"\r\n\r\n")[2])] == [b"c", b"a"]
    rest = hot.respond(post(f"{RECEIVE}/batch?ack=auto")).data
    shown = msgspec.json.decode(rest.partition(b"\r\n\r\n")[2])
    assert [each["body"] for each in shown] == ["Yg==", "ZA==", "MQ==", "Mg=="]
    assert (zapq_service.stats().queue.messages, counts.hot_requests) == (2, 6)


@pytest.mark.parametrize(
    "request_",
    [
        post(SEND, b"x", b"Idempotency-Key: k", b"Idempotency-Key: k"),
        post(SEND, b"x", b"Idempotency-Key: two words"),
        post(SEND, b"x", b"Content-Type: a", b"Content-Type: b"),
        post(SEND, b"x" * 131_073),
        post(f"{SEND}/batch", b"", b"Content-Type: " + MSGPACK).replace(b"Length: 0", b"Length: 8388609"),
        post(f"{SEND}?priority=10", b"xyz")[:-1],
        post(RECEIVE, b"body"),
        post(f"{RECEIVE}/batch", b"", b"Accept: */*", b"Accept: text/html"),
        post(f"{RECEIVE}?visibility=5")[:-2].replace(b"Host", b"TE: x\r\nHost") + b"\r\n",
        ack("1-1-1").replace(b"localhost", b"attacker.example"),
        post(SEND, b"x", b"Origin: http://elsewhere"),
        post(RECEIVE).replace(b"localhost", b"attacker.example"),
        ack(""),
        ack("1-1-1 "),
        ack("1-1-1\nX"),
        ack("").replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\nX: receipts/1-1-1 HTTP/1.1\r\n"),
        post("/queues/default/purge"),
    ],
)
async def test_what_is_not_plain_about_a_queue_is_left_to_h11_and_changes_nothing(
    hot: HotPath, zapq_service: QueueService, request_: bytes
) -> None:
    zapq_service.enqueue_nowait(b"held")
    before = zapq_service.stats()
    answers = hot.respond(request_)
    assert (answers.then, answers.used, answers.requests) == ("cold", 0, 0)
    assert zapq_service.stats() == before


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (post("/queues/new/receive"), 404),
        (post(f"{SEND}?priority=10", b"x"), 400),
        (post(f"{SEND}?prio=1", b"x"), 400),
        (post(f"{SEND}/batch", b"x", b"Content-Type: text/plain"), 415),
        (post(f"{SEND}/batch", b"x", b"Content-Type: " + MSGPACK), 400),
        (post(f"{SEND}/batch", msgspec.msgpack.encode([bytes(131_073)]), b"Content-Type: " + MSGPACK), 413),
        (post(f"{RECEIVE}?max=1"), 400),
        (post(f"{RECEIVE}?wait=61"), 400),
        (post(f"{RECEIVE}?visibility=43201"), 400),
        (post(f"{RECEIVE}?visibility=1&visibility=2"), 400),
        (post(f"{RECEIVE}?ack=yes"), 400),
        (post(f"{RECEIVE}/batch?max=1001"), 400),
        (post(f"{RECEIVE}/batch", b"", b"Accept: text/html"), 406),
        (ack("nonsense"), 400),
        (ack("1-1-1").replace(b"default", b"new"), 404),
        (ack("1-1-1").replace(b" HTTP", b"?x=1 HTTP"), 400),
    ],
)
async def test_a_plain_request_is_refused_from_the_bytes(
    hot: HotPath, zapq_service: QueueService, request_: bytes, status: int
) -> None:
    zapq_service.enqueue_nowait(b"held")
    before = zapq_service.stats()
    answers = hot.respond(request_)
    assert answers.data.startswith(b"HTTP/1.1 %d " % status)
    assert (answers.used, answers.requests) == (len(request_), 1)
    assert zapq_service.stats() == before


async def test_a_long_poll_for_a_lease_waits_when_there_is_nothing(
    hot: HotPath, zapq_service: QueueService
) -> None:
    for target in (f"{RECEIVE}?wait=5", f"{RECEIVE}/batch?wait=5"):
        answers = hot.respond(post(target))
        assert (answers.then, answers.data) == ("wait", b"")
        hot.drop(answers)
    assert (zapq_service.stats().dequeues_empty, zapq_service.stats().waiting) == (0, 0)


async def test_of_leases_and_batches_that_break_off_only_what_was_not_begun_goes_back(
    hot: HotPath, zapq_service: QueueService
) -> None:
    queue = zapq_service.default
    for request_, uncertain in (
        (post(RECEIVE), 0),
        (post(f"{RECEIVE}?ack=auto"), 1),
        (post(f"{RECEIVE}/batch?max=2"), 0),
        (post(f"{RECEIVE}/batch?max=2&ack=auto"), 2),
    ):
        for begun in (False, True):
            queue.enqueue_many_nowait([b"aa", b"bb"])
            before = zapq_service.stats()
            answers = hot.respond(request_)
            [handed] = answers.taken
            hot.reconcile(answers, handed.start + begun)
            after = zapq_service.stats()
            assert after.delivery_uncertain - before.delivery_uncertain == uncertain * begun
            if not begun:
                # As if it had never been leased.
                assert after.queue.received == before.queue.received
                assert [each.receives for each in await queue.peek()] == [0, 0]
            assert (after.queue.ready == 2) == (not begun)
            await queue.clear()


async def test_a_batch_in_a_longer_form_is_given_in_the_shortest(hot: HotPath) -> None:
    for form in (
        b"\x91\xc4\x01a",
        b"\xdc\x00\x01\xc4\x01a",
        b"\x91\xc5\x00\x01a",
        b"\xdd\x00\x00\x00\x01\xc6\x00\x00\x00\x01a",
    ):
        hot.respond(post(f"{SEND}/batch", form, b"Content-Type: " + MSGPACK))
    given = hot.respond(post(f"{RECEIVE}/batch?ack=auto", b"", b"Accept: " + MSGPACK)).data
    assert given.endswith(b"\r\n\r\n" + msgspec.msgpack.encode([b"a"] * 4))


async def test_every_lease_has_a_date_of_its_own(hot: HotPath, zapq_service: QueueService) -> None:
    zapq_service.default.enqueue_many_nowait([b"x"] * 3)
    now = trio.current_time()
    for wall, expected in ((0.0, b"00:00:30.000"), (59.9995, b"00:01:29.999"), (86_399.5, b"00:00:29.500")):
        hot.set_time(wall, now)
        assert b"T" + expected + b"Z\r\n" in hot.respond(post(RECEIVE)).data


REFUSED = {
    "a message for a full queue": enqueue(b"second"),
    "a batch for a full queue": (
        b"POST /queues/default/messages/batch HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/x-ndjson\r\nContent-Length: 4\r\n\r\n1\n2\n"
    ),
    "a receipt that is over": b"DELETE /queues/default/receipts/1-1-1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an unknown queue": b"POST /queues/none/receive HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a message too large": enqueue(bytes(200_000)),
}


@pytest.mark.parametrize("zapq_settings", [Settings(max_msgs=1)])
@pytest.mark.parametrize("request_", REFUSED.values(), ids=REFUSED.keys())
async def test_a_refusal_keeps_nothing_until_the_garbage_collector_comes(hot: HotPath, request_: bytes) -> None:
    # It would keep the whole request: in an overload that is hundreds of megabytes beside the cap.
    hot.respond(enqueue(b"first"))
    hot.respond(request_)
    gc.collect()
    gc.disable()
    try:
        hot.respond(request_)
        assert gc.collect() == 0
    finally:
        gc.enable()


async def test_a_message_whose_answer_cannot_be_made_goes_back(
    hot: HotPath, zapq_service: QueueService, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = zapq_service.queue("jobs")
    await jobs.enqueue(b"x")
    receive = b"POST /queues/jobs/receive?wait=9 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with monkeypatch.context() as patch:
        # What a lease needs to be written, and a message that is given for good does not.
        patch.setattr(render, "rfc3339", lambda _: 1 / 0)
        answers = hot.respond(DEQUEUE + receive + DEQUEUE)
        assert answers.requests == 3
        assert re.findall(rb"HTTP/1.1 (\d+)", answers.data) == [b"204", b"500", b"204"]
        assert answers.taken == ()
        assert jobs.info().stats.ready == 1
        # The same, where it had to be waited for.
        await jobs.clear()
        answers = hot.respond(receive)
        assert answers.pending is not None
        await jobs.enqueue(b"y")
        hot.complete(answers)
        assert b" 500 " in answers.data
        assert jobs.info().stats.ready == 1
    assert b"Zapq-Receive-Count: 1\r\n" in hot.respond(receive).data


@pytest.mark.parametrize("id", ["7", "0", "007", "999999999999999999"])
async def test_a_refusal_is_logged_with_the_path_that_was_asked_for(
    hot: HotPath, caplog: pytest.LogCaptureFixture, id: str
) -> None:
    caplog.set_level("INFO", logger="zapq")
    path = f"/queues/default/messages/{id}"
    assert b" 404 " in hot.respond(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()).data
    [record] = caplog.records
    assert vars(record)["fields"]["path"] == path


@pytest.mark.parametrize(
    "line", [b"GET /queues/default/messages/1" + b"0" * 18, b"DELETE /queues/default/receipts/" + b"a" * 65]
)
async def test_an_id_or_receipt_that_is_too_long_to_be_one_is_left_to_h11(hot: HotPath, line: bytes) -> None:
    assert hot.respond(line + b" HTTP/1.1\r\nHost: localhost\r\n\r\n").then == "cold"


async def test_messages_with_headers_are_hot_and_what_varies_in_them_makes_no_head_a_new_one(
    hot: HotPath, counts: ServerCounts, zapq_service: QueueService
) -> None:
    for number in range(3):
        answers = hot.respond(enqueue(b"x", *HEADERS, b"Zapq-Header-Number: %d" % number))
        assert (answers.then, answers.requests) == ("idle", 1)
    # All three were remembered as one, without the fields that vary.
    assert hot._remember_bare.cache_info().misses == 1
    answers = hot.respond(DEQUEUE * 2)
    assert answers.data.count(b"\r\nZapq-Header-Order: 17\r\nTraceparent: 00-1-2-01\r\nCe-Id: e-1\r\n") == 2
    assert [b"Zapq-Header-Number: %d\r\n" % number in answers.data for number in range(3)] == [True, True, False]
    assert counts.hot_requests == 5
    message = await zapq_service.dequeue()
    assert message is not None
    assert message.headers == {"order": "17", "traceparent": "00-1-2-01", "ce-id": "e-1", "number": "2"}


async def test_headers_of_one_message_are_not_those_of_the_next(hot: HotPath, zapq_service: QueueService) -> None:
    hot.respond(enqueue(b"a", *HEADERS) + enqueue(b"b") + enqueue(b"c", HEADERS[0]) + enqueue(b"d"))
    messages = await zapq_service.default.dequeue_many(9)
    assert [len(message.headers) for message in messages] == [3, 0, 1, 0]


@pytest.mark.parametrize(
    "fields",
    [
        [b"Zapq-Header-: x"],
        [b"Zapq-Header-A: \xfc"],
        [b"Zapq-Header-A: 1", b"zapq-header-a: 2"],
        [b"baggage: a=1", b"baggage: b=2"],
        [b"Zapq-Header-%d: x" % number for number in range(17)],
        [b"ce-a: \x01"],
    ],
)
async def test_odd_headers_are_for_the_other_road(
    hot: HotPath, zapq_service: QueueService, fields: list[bytes]
) -> None:
    assert hot.respond(enqueue(b"x", *fields)).then == "cold"
    assert zapq_service.stats().queue.messages == 0


@pytest.mark.parametrize("spaces", [b" ", b"\t"])
async def test_a_field_of_very_many_blanks_costs_no_more_than_its_length(hot: HotPath, spaces: bytes) -> None:
    begun = time.process_time()
    for number in range(50):
        fields = [b"Zapq-Header-A:" + spaces * 1700 + b"\xfc", b"X-Number: %d" % number]
        assert hot.respond(enqueue(b"x", *fields)).then == "cold"
    assert time.process_time() - begun < 0.5  # with a step for each pair of blanks it would be several seconds


async def test_a_message_with_headers_whose_answer_breaks_off_goes_back_with_them(
    hot: HotPath, zapq_service: QueueService
) -> None:
    hot.respond(enqueue(b"hello", *HEADERS))
    answers = hot.respond(DEQUEUE)
    head = answers.data.index(b"\r\n\r\n") + 4
    hot.reconcile(answers, head)
    message = await zapq_service.dequeue()
    assert message is not None
    assert (message.body, len(message.headers)) == (b"hello", 3)
