"""What is being received counts against the memory cap before it is read, and does not stay counted."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import h11
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import zapq
from tests.support.serving import WAYS, by
from tests.support.waiting import eventually
from tests.support.wire import Answer, Client, metrics, open_client, until_shown, vanish
from zapq.limits import MIB, SMALL_BODY_BYTES
from zapq.service.open import open_service
from zapq.service.service import QueueService
from zapq.settings import Settings

CAP = 1000
HALF = bytes(300)


@dataclass
class Target:
    """A server, on one of the ways requests can take."""

    url: str
    service: QueueService
    context: ssl.SSLContext | None
    stop: trio.Event
    running: trio.CancelScope

    @property
    def reserved(self) -> int:
        return self.service.stats().bytes_reserved

    def client(self) -> AbstractAsyncContextManager[Client]:
        return open_client(self.url, self.context)

    async def until_reserved(self, size: int) -> None:
        await eventually(lambda: self.reserved == size, f"{size} bytes to be set aside")


@asynccontextmanager
async def served(
    way: str, settings: Settings, patch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncGenerator[Target, None]:
    settings, context = by(way, settings, patch, tmp_path)
    async with open_service(settings) as service, trio.open_nursery() as nursery:
        stop, running = trio.Event(), trio.CancelScope()

        async def serve(*, task_status: trio.TaskStatus[list[str]]) -> None:
            with running:
                await zapq.serve(settings, service=service, shutdown_trigger=stop.wait, task_status=task_status)

        [url] = await nursery.start(serve)
        yield Target(url, service, context, stop, running)
        nursery.cancel_scope.cancel()


@pytest.fixture
def zapq_settings(zapq_settings: Settings) -> Settings:
    return replace(zapq_settings, max_bytes=CAP)


@pytest.fixture(params=WAYS)
async def target(
    request: pytest.FixtureRequest, zapq_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncGenerator[Target, None]:
    async with served(request.param, zapq_settings, monkeypatch, tmp_path) as target:
        yield target


def head(path: str = "/enqueue", length: int = 600, *fields: str, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {length}", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


def chunked(path: str = "/enqueue", method: str = "POST") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()


def chunk(size: int) -> bytes:
    return b"%x\r\n%b\r\n" % (size, bytes(size))


async def finish(client: Client) -> int:
    await client.stream.send_all(HALF)
    return await status_of(client)


async def status_of(client: Client) -> int:
    return int(bytes(await client.stream.receive_some())[9:12])


async def end(client: Client) -> int | None:
    assert isinstance(client.stream, trio.SocketStream)
    await client.stream.send_eof()
    received = bytes(await client.stream.receive_some())
    return int(received[9:12]) if received else None


PATHS = ["/enqueue", "/queues/default/messages", "/queues/new/messages"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_body_counts_once_from_its_head_until_it_is_taken(target: Target, path: str) -> None:
    async with target.client() as client:
        await client.stream.send_all(head(path) + HALF)
        await target.until_reserved(600)
        assert target.service.stats().queue.bytes == 0
        assert await finish(client) == 202
        assert (target.reserved, target.service.stats().queue.bytes) == (0, 600)
    # What it had reserved is held now, and not both: the rest of the room is there for others.
    target.service.enqueue_nowait(bytes(CAP - 600))
    with pytest.raises(zapq.ZapqError):
        target.service.enqueue_nowait(b"x")


async def test_where_there_is_no_room_it_is_refused_unread_and_what_is_being_received_is_taken(
    target: Target,
) -> None:
    async with target.client() as first:
        await first.stream.send_all(head() + HALF)
        await target.until_reserved(600)
        async with target.client() as second:
            # Only the head: were it waited for the body, there would never be an answer.
            await second.stream.send_all(head("/queues/new/messages"))
            answer = await whole_answer(second)
            assert (answer.status, answer.json["type"]) == (429, "/problems/queue-full")
            assert (answer.json["queue"], answer.json["current"], answer.json["max_bytes"]) == ("new", 600, CAP)
            assert answer.headers["connection"] == "close"
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert await second.reads_eof()
        # Not even one that is complete gets room that is promised to another.
        async with target.client() as third:
            assert (await third.request("POST", "/enqueue", bytes(CAP - 599))).status == 429
            assert (await third.request("POST", "/enqueue", bytes(CAP - 600))).status == 202
        assert await finish(first) == 202
    stats = target.service.stats()
    assert (stats.queue.bytes, stats.queue.refused, target.reserved) == (CAP, 2, 0)
    assert set(target.service.broker.queues) == {"default"}


async def whole_answer(client: Client) -> Answer:
    fields = [("Host", "x"), ("Content-Length", "9")]
    client.connection.send(h11.Request(method="POST", target="/", headers=fields))
    return await client.answer("POST")


async def test_a_chunked_body_counts_as_it_arrives_and_is_refused_where_the_room_ends(target: Target) -> None:
    async with target.client() as client:
        await client.stream.send_all(chunked() + chunk(400))
        await target.until_reserved(400)
        await client.stream.send_all(chunk(500))
        await target.until_reserved(900)
        await client.stream.send_all(chunk(200))
        assert await status_of(client) == 429
        assert target.reserved == 0
    async with target.client() as client:
        await client.stream.send_all(chunked() + chunk(400))
        await target.until_reserved(400)
        await client.stream.send_all(b"0\r\n\r\n")
        assert await status_of(client) == 202
    assert (target.reserved, target.service.stats().queue.bytes) == (0, 400)


async def refused_meanwhile(target: Target, client: Client) -> None:
    """Be refused at the end, by a cap that was reached meanwhile."""
    target.service.broker.max_messages = 0
    assert await finish(client) == 429


async def drained_meanwhile(target: Target, client: Client) -> None:
    target.service.drain()
    assert await finish(client) == 202


async def locked_meanwhile(target: Target, client: Client) -> None:
    """Have to wait for the lock, for which it needs a task."""
    async with target.service.lock:
        await client.stream.send_all(HALF)
        await wait_all_tasks_blocked()
    assert await status_of(client) == 202


async def leave(target: Target, client: Client) -> None:
    if isinstance(client.stream, trio.SocketStream):
        assert await end(client) in {None, 400}
    else:
        await client.stream.aclose()


async def reset(target: Target, client: Client) -> None:
    vanish(client.stream)


async def shut_down(target: Target, client: Client) -> None:
    target.stop.set()
    await wait_all_tasks_blocked()
    assert target.reserved == 600
    assert await finish(client) == 202


async def cut_off(target: Target, client: Client) -> None:
    """Be still at it when the server has no more patience."""
    target.running.cancel()
    await wait_all_tasks_blocked()


WAYS_OUT = [refused_meanwhile, drained_meanwhile, locked_meanwhile, leave, reset, shut_down, cut_off]


@pytest.mark.parametrize("way_out", WAYS_OUT, ids=lambda way_out: way_out.__name__)
async def test_whichever_way_a_body_ends_nothing_stays_reserved(
    target: Target, way_out: Callable[[Target, Client], Awaitable[None]]
) -> None:
    async with target.client() as client:
        await client.stream.send_all(head() + HALF)
        await target.until_reserved(600)
        await way_out(target, client)
    await target.until_reserved(0)
    assert target.service.broker.bytes == target.service.stats().queue.bytes


@pytest.mark.parametrize("begun", [b"", HALF], ids=["head alone", "with some of it"])
async def test_a_body_that_begins_after_a_drain_is_refused_before_its_end(target: Target, begun: bytes) -> None:
    target.service.drain()
    async with target.client() as client:
        await client.stream.send_all(head() + begun)
        assert await status_of(client) == 503
    await target.until_reserved(0)
    assert target.service.stats().queue.messages == 0


class TestInAHurry:
    @pytest.fixture
    def zapq_settings(self, zapq_settings: Settings) -> Settings:
        return replace(zapq_settings, body_timeout=10)

    async def test_a_body_that_is_late_is_408_and_gives_its_room_back(
        self, target: Target, patient_clock: MockClock
    ) -> None:
        async with target.client() as client:
            begun = trio.current_time()
            await client.stream.send_all(head() + HALF)
            assert await status_of(client) == 408
            assert trio.current_time() - begun == pytest.approx(10, abs=1)
        assert (target.reserved, target.service.stats().queue.bytes) == (0, 0)


BATCH = "/queues/default/messages/batch"


@pytest.mark.parametrize(
    ("start", "rest", "status"),
    [
        (head(BATCH, 9, "Content-Type: application/json") + b"[", b'"eHh4"]  ', 202),
        (head(BATCH, 9, "Content-Type: application/json") + b"[", b"no batch", 400),
        (head("/enqueue", 9, "Idempotency-Key: a") + b"1", b"23456789", 202),
        (head("/queues/~/messages", 9) + b"1", b"23456789", 400),
        (head("/queues/default/messages", 9, "X-Cold: \xe9") + b"1", b"23456789", 202),
    ],
)
async def test_whatever_is_sent_is_given_room_for_as_long_as_it_takes(
    target: Target, start: bytes, rest: bytes, status: int
) -> None:
    async with target.client() as client:
        await client.stream.send_all(start)
        await target.until_reserved(9)
        await client.stream.send_all(rest)
        assert await status_of(client) == status
    assert target.reserved == 0
    assert target.service.broker.bytes == target.service.stats().queue.bytes


async def test_a_head_that_is_refused_reserves_nothing(target: Target) -> None:
    async with target.client() as client:
        await client.stream.send_all(head("/enqueue?no=1") + HALF)
        assert await status_of(client) == 400
        assert target.reserved == 0


async def test_what_is_reserved_is_shown(target: Target) -> None:
    async with target.client() as client, target.client() as other:
        await client.stream.send_all(head() + HALF)
        await target.until_reserved(600)
        metrics = (await other.request("GET", "/metrics")).json
        assert (metrics["bodies_bytes"], metrics["queue_bytes"]) == (600, 0)


async def test_a_message_that_comes_with_its_head_reserves_nothing(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reserve(service: QueueService, queue: str) -> None:
        raise AssertionError

    monkeypatch.setattr(QueueService, "reservation", reserve)
    async with target.client() as client:
        assert (await client.request("POST", "/enqueue", HALF)).status == 202
        assert (await client.request("POST", "/enqueue", HALF, {"Idempotency-Key": "a"})).status == 202


async def test_full_queues_keep_no_consumer_from_settling_and_no_administrator_from_helping(
    target: Target,
) -> None:
    target.service.enqueue_nowait(bytes(CAP))
    lease = target.service.default.receive_nowait()
    assert lease is not None
    settlement = b'[{"receipt":"%b"}]' % lease.receipt.encode()
    async with target.client() as client:
        await client.stream.send_all(head("/queues/default/settle", 600, "Content-Type: application/json"))
        await wait_all_tasks_blocked()
        await client.stream.send_all(settlement.ljust(600))
        assert await status_of(client) == 200
    async with target.client() as client:
        await client.stream.send_all(head("/queues/new", 600, method="PUT"))
        await wait_all_tasks_blocked()
        await client.stream.send_all(b"{}".ljust(600))
        assert await status_of(client) == 201
    assert target.service.stats().queue.bytes == 0


async def test_bodies_that_are_no_messages_have_a_budget_of_their_own(
    zapq_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("zapq.http.metrics.MAX_OTHER_BODIES_BYTES", MIB)
    async with served("lobby", zapq_settings, monkeypatch, tmp_path) as target:

        async def room_is_used_up() -> bool:
            return (await metrics(target.url))["bodies_bytes"] >= MIB - SMALL_BODY_BYTES

        async with target.client() as greedy, target.client() as consumer, target.client() as modest:
            json = "Content-Type: application/json"
            await greedy.stream.send_all(head("/queues/default/settle", 8 * MIB, json) + bytes(MIB))
            await eventually(room_is_used_up, "its body to fill what there is")
            assert target.reserved == 0
            await consumer.stream.send_all(head("/queues/default/settle", 8 * MIB, json))
            await consumer.stream.send_all(bytes(3 * SMALL_BODY_BYTES))
            answer = await whole_answer(consumer)
            assert (answer.status, answer.json["type"]) == (503, "/problems/receiving-too-much")
            assert (answer.headers["connection"], answer.headers["retry-after"]) == ("close", "1")
            # A small one always has room.
            await modest.stream.send_all(head("/queues/default/settle", 600, json) + b"[")
            await wait_all_tasks_blocked()
            await modest.stream.send_all(b'{"receipt":"a"}]'.ljust(599))
            assert await status_of(modest) == 200
            # And there is room for messages.
            async with target.client() as producer:
                assert (await producer.request("POST", "/enqueue", HALF)).status == 202
            vanish(greedy.stream)
            await until_shown(target.url, bodies_bytes=0)
