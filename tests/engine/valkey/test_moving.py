"""Shards without a server for a while, servers that join and leave, and connections that listen and are lost."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest
import trio

from tests.engine.valkey.scripted import HANG_UP, Scripted, encoded, error, raw, scripted
from tests.engine.valkey.servers import Server
from tests.engine.valkey.serving import empty
from tests.support.serving import serving
from tests.support.waiting import eventually
from tests.support.wire import Answer, ask
from zapq.engine.valkey.keys import SLOTS, shard_of, slot_of, tag_of
from zapq.engine.valkey.open import open_engine
from zapq.errors import OutcomeUnknown, StorageUnavailable
from zapq.service.operations import Enqueue
from zapq.settings import Settings

PUT, TAKE = "FCALL zapq_1_put", "FCALL zapq_1_take"
HALF = SLOTS // 2
LOW = next(name for name in map("q{}".format, range(100)) if slot_of(shard_of(name)) < HALF)
LISTEN = f"SSUBSCRIBE {tag_of(shard_of(LOW)).decode()}"
HIGH = next(name for name in map("q{}".format, range(100)) if slot_of(shard_of(name)) >= HALF)


class Cluster:
    """Servers that say they are a cluster; one real server, which is none, holds all of it."""

    def __init__(self, servers: Sequence[Scripted]) -> None:
        self.servers = servers
        self.shares: list[tuple[int, int] | None] = []
        for each in servers:
            each.answer("INFO cluster", b"cluster_enabled:1\r\n")
            each.answer("ASKING", b"OK")
            each.answer("CLUSTER SHARDS", self.shards)

    def shards(self) -> object:
        """Return what is told of who has which slots; a server whose share is None is not told of."""
        return [
            [
                b"slots",
                list(share),
                b"nodes",
                [[b"port", each.port, b"ip", b"", b"role", b"master", b"health", b"ok"]],
            ]
            for each, share in zip(self.servers, self.shares, strict=True)
            if share is not None
        ]


@pytest.fixture
async def cluster(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Cluster, None]:
    empty(valkey)
    monkeypatch.setattr("zapq.engine.valkey.open.ENGINE_CONNECT_SECONDS", 0.1)
    monkeypatch.setattr("zapq.engine.valkey.asked.ENGINE_RETRY_SECONDS", 30.0)  # for a busy machine
    monkeypatch.setattr("zapq.engine.valkey.fleet.ENGINE_PAUSE", 0.005)
    async with AsyncExitStack() as stack:
        yield Cluster([await stack.enter_async_context(scripted(valkey)) for _ in range(2)])


@asynccontextmanager
async def front(settings: Settings, cluster: Cluster) -> AsyncGenerator[str, None]:
    async with serving(cluster.servers[0].engine(replace(settings, max_msgs=10**6))) as url:
        yield url


async def put(url: str, queue: str) -> Answer:
    return await ask(url, "POST", f"/queues/{queue}/messages", queue.encode())


async def test_queues_without_a_server_are_refused_and_the_others_are_served(
    zapq_settings: Settings, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.shares = [(0, SLOTS - 1), None]
    first, _ = cluster.servers
    async with front(zapq_settings, cluster) as url:
        cluster.shares = [(0, HALF - 1), None]
        first.answer(PUT, error("CLUSTERDOWN Hash slot not served"), queue=HIGH, times=1)
        with monkeypatch.context() as patch:
            patch.setattr("zapq.engine.valkey.asked.ENGINE_RETRY_SECONDS", 0.2)
            refused = await put(url, HIGH)
        assert (refused.status, refused.json["type"]) == (503, "/problems/storage-unavailable")
        assert "no server has the queue at the moment" in refused.json["detail"]
        assert (await put(url, LOW)).status == 202
        # One that waits is served as soon as a server has its queue.
        answers: list[Answer] = []

        async def send() -> None:
            answers.append(await put(url, HIGH))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            asked = first.seen("CLUSTER SHARDS")
            await eventually(lambda: first.seen("CLUSTER SHARDS") > asked + 1, "the cluster to be asked again")
            assert not answers
            cluster.shares = [(0, HALF - 1), (HALF, SLOTS - 1)]
        assert [answer.status for answer in answers] == [202]
        assert cluster.servers[1].seen(PUT) == 1


async def test_a_front_end_that_stops_refuses_what_waits_for_a_server(
    zapq_settings: Settings, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.shares = [(0, SLOTS - 1), None]
    first, _ = cluster.servers
    async with open_engine(first.engine(zapq_settings)) as engine:
        cluster.shares = [(0, HALF - 1), None]
        engine.fleet.note_trouble()
        await eventually(lambda: None in engine.fleet.owners, "a half without a server")
        waiting = engine.perform(Enqueue(HIGH, b"x"), trio.current_time())
        first.answer(PUT, raw(b""))
        under_way = engine.perform(Enqueue(LOW, b"x"), trio.current_time())
        await eventually(lambda: first.seen(PUT), "one to be sent")
        gathers = engine.perform(Enqueue(LOW, b"x"), trio.current_time())
        await engine.give_up_at(trio.current_time())
        for each in (waiting, gathers):
            with pytest.raises(StorageUnavailable, match=r"the front end is stopping\. Nothing was changed"):
                await each.wait()
        with pytest.raises(OutcomeUnknown, match="the front end is stopping"):
            await under_way.wait()
        # Nor is anything tried that comes later; no server is connected to again.
        monkeypatch.setattr("zapq.engine.valkey.asked.ENGINE_RETRY_SECONDS", 0.1)
        for queue in (LOW, HIGH):
            late = engine.perform(Enqueue(queue, b"x"), trio.current_time())
            with pytest.raises(StorageUnavailable):
                await late.wait()
        assert first.seen(PUT) == 1
        await eventually(lambda: first.open == 0, "all connections to be closed")


async def test_connections_to_a_server_that_has_left_are_closed_when_its_batch_is_done(
    zapq_settings: Settings, cluster: Cluster
) -> None:
    cluster.shares = [(0, HALF - 1), (HALF, SLOTS - 1)]
    first, second = cluster.servers
    async with front(zapq_settings, cluster) as url, trio.open_nursery() as nursery:
        answers: list[Answer] = []

        async def send() -> None:
            answers.append(await put(url, HIGH))

        assert (await put(url, HIGH)).status == 202
        assert second.open
        second.answer(PUT, raw(b""), times=1)
        nursery.start_soon(send)
        await eventually(lambda: second.seen(PUT) == 2, "a batch to be under way")
        # A server that moves a slot away is what tells of it.
        cluster.shares = [(0, SLOTS - 1), None]
        first.answer(PUT, error("CLUSTERDOWN Hash slot not served"), queue=LOW, times=1)
        assert (await put(url, LOW)).status == 202
        assert (await put(url, HIGH)).status == 202
        assert second.open
        await second.tell(PUT, encoded(error("OOM command not allowed when used memory > 'maxmemory'.")))
        await eventually(lambda: answers, "the answer of the server that has left")
        assert (answers[0].status, answers[0].json["type"]) == (429, "/problems/queue-full")
        await eventually(lambda: not second.open, "its connections to be closed")


async def test_a_server_that_leaves_while_it_is_swept_does_not_hold_up_the_sweep_of_others(
    zapq_settings: Settings, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zapq.engine.valkey.sweep.SWEEP_SECONDS", 0.02)
    cluster.shares = [(0, HALF - 1), (HALF, SLOTS - 1)]
    first, second = cluster.servers
    async with front(zapq_settings, cluster) as url:
        second.answer("ZCOUNT", raw(b""))
        seen = second.seen("ZCOUNT")
        await eventually(lambda: second.seen("ZCOUNT") > seen, "the sweep to wait")
        cluster.shares = [(0, SLOTS - 1), None]
        first.answer(PUT, error("CLUSTERDOWN Hash slot not served"), queue=LOW, times=1)
        assert (await put(url, LOW)).status == 202
        await eventually(lambda: not second.open, "its connections to be closed")
        seen, begun = first.seen("ZCOUNT"), time.monotonic()
        await eventually(lambda: first.seen("ZCOUNT") > seen, "another sweep")
        assert time.monotonic() - begun < 4  # not when the server has not answered for so long
        assert (await put(url, LOW)).status == 202


async def test_a_server_that_becomes_a_replica_is_used_no_more(zapq_settings: Settings, cluster: Cluster) -> None:
    cluster.shares = [(0, SLOTS - 1), None]
    first, second = cluster.servers
    async with front(zapq_settings, cluster) as url:
        first.answer("INFO replication", b"role:slave\r\n")
        cluster.shares = [None, (0, SLOTS - 1)]
        first.answer(PUT, error("READONLY You can't write against a read only replica."))
        assert (await put(url, LOW)).status == 202
        assert second.seen(PUT) == 1


async def test_what_no_server_knows_is_said_once_and_asked_until_one_does(
    zapq_settings: Settings, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.shares = [(0, SLOTS - 1), None]
    first, _ = cluster.servers
    async with front(zapq_settings, cluster) as url:
        first.answer("CLUSTER SHARDS", error("LOADING Valkey is loading the dataset in memory"), times=3)
        for _ in range(3):
            first.answer(PUT, error("CLUSTERDOWN The cluster is down"), times=1)
            assert (await put(url, LOW)).status == 202
        asked = first.seen("CLUSTER SHARDS")
        await eventually(lambda: first.seen("CLUSTER SHARDS") >= asked, "the cluster to be asked again")
    reasons = [getattr(record, "fields", {}).get("reason", "") for record in caplog.records]
    assert sum("CLUSTER SHARDS: LOADING" in reason for reason in reasons) <= 1


@asynccontextmanager
async def polling(url: str, queue: str) -> AsyncGenerator[list[Answer], None]:
    """Have a consumer wait, and yield where its answer will be; it is served within the block, or after it."""
    answers: list[Answer] = []

    async def poll() -> None:
        answers.append(await ask(url, "POST", f"/queues/{queue}/receive?wait=20&ack=auto"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll)
        yield answers


@pytest.fixture
async def alone(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Scripted, None]:
    """One server, and no other way to find a message than to hear of it."""
    empty(valkey)
    monkeypatch.setattr("zapq.engine.valkey.lines.RENEWAL_SECONDS", 60.0)
    async with scripted(valkey) as fake:
        yield fake


@pytest.mark.parametrize("how", ["refused", "cut", "cut-inside", "unsubscribed", "garbage"])
async def test_a_front_end_that_hears_no_more_listens_again(
    zapq_settings: Settings, alone: Scripted, valkey: Server, how: str
) -> None:
    async with (
        serving(alone.engine(zapq_settings)) as url,
        scripted(valkey) as other,
        serving(other.engine(zapq_settings)) as another,
    ):
        if how == "refused":
            alone.answer(LISTEN, error("MOVED 7 127.0.0.1:1"), times=2)
        elif how.startswith("cut"):
            alone.answer(LISTEN, raw((b"*3\r\n$10" if how == "cut-inside" else b"") + HANG_UP), times=2)
        async with polling(url, LOW) as answers:
            tries = 1 if how in {"unsubscribed", "garbage"} else 3
            await eventually(lambda: alone.seen(LISTEN) == tries, "it to listen")
            if tries == 1:
                # Told before it knows that it is heard, it would take the one for the other.
                await eventually(lambda: alone.seen(TAKE) == 2, "it to say that a consumer waits")
                channel = alone.last(LISTEN).split()[1].encode()
                gone = encoded([b"sunsubscribe", channel, 0]) if how == "unsubscribed" else b"?\r\n"
                await alone.tell(LISTEN, gone)
                await eventually(lambda: alone.seen(LISTEN) == 2, "it to listen again")
            assert (await put(another, LOW)).status == 202
        assert [answer.body for answer in answers] == [LOW.encode()]


async def test_what_is_no_hint_is_passed_over(zapq_settings: Settings, alone: Scripted, valkey: Server) -> None:
    async with serving(alone.engine(zapq_settings)) as url, polling(url, LOW) as answers:
        await eventually(lambda: alone.seen(LISTEN), "it to listen")
        channel = alone.last(LISTEN).split()[1].encode()
        for strange in (
            b"PONG",
            [b"pong", b""],
            [b"smessage", b"another", b"+" + LOW.encode()],
            [b"smessage", channel, b"+\xff\xfe"],
            [b"smessage", channel, b"+unknown"],
            [b"subscribe", channel, 1],
        ):
            await alone.tell(LISTEN, encoded(strange))
        assert (await put(url, LOW)).status == 202
        await eventually(lambda: answers, "the message")
        assert answers[0].body == LOW.encode()
        assert alone.seen(LISTEN) == 1
