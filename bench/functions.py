"""What does each function of the library cost Valkey?

    scripts/bench functions
    scripts/bench functions --server redis-server --rounds 9
    scripts/bench functions --replicated

Starts a server on one core, and from the other asks it as a front end does: for so many operations in each call,
one call after the other. Prints the microseconds of the server's CPU for each message, the median of the rounds;
after the slash, our own for making the call and reading its answer. With `--replicated` the server has a replica,
and writes all it does to a file each second.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from bench import rig
from tests.engine.valkey.driver import PLENTY
from tests.engine.valkey.servers import Connection, redis_program, running, valkey_program
from tests.support.ports import free_ports
from zapq.core.message import Draft, Lease, Properties
from zapq.engine.valkey import library
from zapq.engine.valkey.codec import Codec
from zapq.service.operations import Delivery, Enqueue, Operation, Put, Settle, Settlement, SettleOne, Take, Terms
from zapq.service.waiting import Lender, Want

BODY = b"x" * rig.MESSAGE
LEASE = Want(1, True)
EPOCH = b"123456"


def _no_lender(queue: str) -> Lender:
    return None  # type: ignore[return-value]  # nothing goes back here


class Bench:
    """One server, and what its functions have cost in each round."""

    def __init__(self, connection: Connection, pid: int) -> None:
        self.costs: defaultdict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
        self._connection = connection
        self._pid = pid
        self._codec = Codec(front_end="f", caps=PLENTY, max_message_bytes=2**24, lender=_no_lender)

    def run(self, name: str, together: int, operations: Sequence[Operation], messages: int) -> list[Any]:
        """Ask for all operations, so many in each call, and keep what that cost a message."""
        outcomes: list[Any] = []
        ours = 0.0
        began = rig.cpu_seconds(self._pid)
        for first in range(0, len(operations), together):
            before = time.thread_time()
            call = self._codec.call(operations[first : first + together], 0.0)
            command = call.command(EPOCH)
            ours += time.thread_time() - before
            self._connection.send(command)
            reply = self._connection.receive()
            before = time.thread_time()
            outcomes += call.outcomes(reply, 0.0)
            ours += time.thread_time() - before
        used = rig.cpu_seconds(self._pid) - began
        self.costs[name, together].append((used / messages * 1e6, ours / messages * 1e6))
        return outcomes

    def play(self, together: int, messages: int) -> None:
        """Play one round of everything, with so many operations in each call."""
        number = messages // together * together
        self._connection.call("FLUSHALL")
        self.run("enqueue", together, [Enqueue("a", BODY)] * number, number)
        leases = self._leases("receive", together, number)
        self.run("ack", together, [_settle(each) for each in leases], number)
        text = Enqueue("a", BODY, Properties("application/json", 3))
        self.run("enqueue, priority", together, [text] * number, number)
        leases = self._leases("receive, priority", together, number)
        self.run("release", together, [_settle(each, "release") for each in leases], number)
        leases = self._leases("receive again", together, number)
        self.run("ack again", together, [_settle(each) for each in leases], number)
        for kind, groups in (("group", number // 10), ("a group each", number)):
            grouped = [Enqueue("g", BODY, Properties(group=f"{each % groups}")) for each in range(number)]
            self.run(f"enqueue, {kind}", together, grouped, number)
            while leases := self._leases(f"receive, {kind}", together, groups, "g"):
                self.run(f"ack, {kind}", together, [_settle(each, queue="g") for each in leases], len(leases))
        self.run("enqueue, delay", together, [Enqueue("b", BODY, delay=60.0)] * number, number)
        self.run("enqueue, key", together, [Put(BODY, key=f"{each}", queue="c") for each in range(number)], number)
        self.run("dequeue", together, [Take("c", Want())] * number, number)
        self.run("dequeue, none", together, [Take("c", Want())] * number, number)

    def play_batches(self, messages: int) -> None:
        """Play one round of HTTP batches of 100 messages."""
        self._connection.call("FLUSHALL")
        number = messages // 100
        self.run("batch", 1, [Put((BODY,) * 100, queue="a")] * number, 100 * number)
        drafts = Put(tuple(Draft(body=BODY, ttl=60.0) for _ in range(100)), Terms(), queue="b")
        self.run("batch, ttl", 1, [drafts] * number, 100 * number)
        given = self.run("receive a batch", 1, [Take("a", Want(100, True))] * number, 100 * number)
        settles = [Settle("a", [Settlement(receipt=each.receipt) for each in some.given]) for some in given]
        self.run("settle a batch", 1, settles, 100 * number)

    def _leases(self, name: str, together: int, number: int, queue: str = "a") -> list[Lease]:
        given = self.run(name, together, [Take(queue, LEASE)] * number, number)
        return [each.given[0] for each in given if isinstance(each, Delivery) and isinstance(each.given[0], Lease)]

    def table(self, sizes: Sequence[int]) -> None:
        """Print what all rounds say."""
        print(
            "| us of Valkey / of ours a message, operations in a call |" + "".join(f" {each} |" for each in sizes)
        )
        print("| --- |" + " --: |" * len(sizes))
        names = dict.fromkeys(name for name, _ in self.costs)
        for name in names:
            cells = []
            for size in sizes:
                rounds = self.costs.get((name, size))
                cells.append("" if rounds is None else " / ".join(_median(rounds, which) for which in (0, 1)))
            if any(cells):
                print(f"| {name} |" + "".join(f" {each} |" for each in cells))


def _settle(lease: Lease, action: Any = "ack", queue: str = "a") -> SettleOne:
    return SettleOne(queue, Settlement(receipt=lease.receipt, action=action))


def _median(rounds: Sequence[tuple[float, float]], which: int) -> str:
    return f"{statistics.median(each[which] for each in rounds):.1f}"


_PROGRAMS: dict[str, Callable[[], str | None]] = {"valkey": valkey_program, "redis-server": redis_program}


@click.command()
@click.option("--server", "name", type=click.Choice(sorted(_PROGRAMS)), default="valkey")
@click.option("--messages", default=6_000, help="Messages of each round.")
@click.option("--rounds", default=5)
@click.option("--replicated", is_flag=True, help="With a replica, and a file that is written each second.")
@click.option("--together", "sizes", multiple=True, type=int, default=(1, 16, 32, 128), show_default=True)
def main(name: str, messages: int, rounds: int, replicated: bool, sizes: tuple[int, ...]) -> None:
    """Measure what each function of the library costs."""
    program = _PROGRAMS[name]()
    if program is None:
        raise click.ClickException(f"{name} is not installed.")
    available = os.sched_getaffinity(0)
    print(f"{name}{' with a replica' if replicated else ''}, {rig.machine()}")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports = free_ports(2) if replicated else [0, 0]
        options = ["--appendonly", "yes", "--repl-diskless-sync-delay", "0"] if replicated else []
        server = stack.enter_context(running(program, directory / "server", *options, port=ports[0]))
        connection = stack.enter_context(server.connect())
        if replicated:
            follow = ["--replicaof", "127.0.0.1", str(ports[0])]
            stack.enter_context(running(program, directory / "replica", *follow, port=ports[1]))
            while b"state=online" not in connection.call("INFO", "replication"):
                time.sleep(0.1)
        stack.enter_context(rig.on_the_other_core())
        pid = server.process.pid
        core = min(available)
        for task in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(task), {core})
        connection.call("FUNCTION", "LOAD", library.TEXT)
        bench = Bench(connection, pid)
        for _ in range(rounds):
            for together in sizes:
                bench.play(together, messages if together > 1 else messages // 4)
            bench.play_batches(messages)
        bench.table(sizes)


if __name__ == "__main__":
    main()
