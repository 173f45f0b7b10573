"""What does it cost to have every message on the disk before it is acknowledged?

    scripts/bench durable

Starts zapq with `--durable`, beanstalkd with `-b DIR -f 0`, Redis with `appendfsync always` and zapq in memory,
each on one core and in its turn, all on the same disk (`--dir`), and loads them from another core with messages
of 128 bytes: one at a time on 1, 32 and 128 connections, and for zapq in batches of 100 as well; what 32
connections have sent to zapq is then received under a lease and acknowledged. Several rounds, taking turns; the
median counts. What one write with fdatasync costs here is printed first, for it decides what one connection can
reach, and what SQLite takes alone, without a server. Ends with one line of JSON.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.request import urlopen

import click
import msgspec

from bench import rig
from bench.compare import over_beanstalk, over_http, over_redis
from bench.delivery import CONNECTIONS, lease_and_acknowledge
from zapq.core.records import Put, row_of
from zapq.store.open_database import open_database
from zapq.store.port import CommitGroup

BATCH = 100
BATCHES = """
local parts = {}
for i = 1, %d do parts[i] = string.char(0xc4, %d) .. string.rep("x", %d) end
wrk.method = "POST"
wrk.body = string.char(0xdc, 0, %d) .. table.concat(parts)
wrk.headers["Content-Type"] = "application/msgpack"
"""


@dataclass(frozen=True, slots=True)
class Server:
    """One of those compared; `{port}` and `{dir}` stand for its port and its directory."""

    name: str
    command: list[str]
    measure: Callable[[int, int, int, str, int], rig.Figures]


def servers() -> list[Server]:
    """Return those compared; zapq on disk comes first, and in memory last."""
    rig.install("redis-server", "redis-server")
    rig.install("beanstalkd", "beanstalkd")
    zapq = [sys.executable, "-m", "zapq", "--addr", "127.0.0.1:{port}", "--data-dir", "{dir}"]
    zapq += ["--max-msgs", "100000000", "--max-bytes", "64G"]
    beanstalkd = [shutil.which("beanstalkd", path="/usr/bin:/usr/sbin") or "beanstalkd"]
    redis = ["redis-server", "--port", "{port}", "--dir", "{dir}", "--save", ""]
    return [
        Server("zapq --durable", [*zapq, "--durable"], over_http),
        Server(
            "beanstalkd -f 0",
            [*beanstalkd, "-l", "127.0.0.1", "-p", "{port}", "-b", "{dir}", "-f", "0"],
            over_beanstalk,
        ),
        Server("Redis, always", [*redis, "--appendonly", "yes", "--appendfsync", "always"], over_redis),
        Server("zapq in memory", zapq, over_http),
    ]


def yardstick(directory: str, writes: int = 500) -> tuple[float, float]:
    """Return the microseconds one small write takes until it is on the disk, in a file that is long enough.

    And those of CPU: below that no program comes, whatever it writes.
    """
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(bytes(4 << 20))
        file.flush()
        os.fsync(file.fileno())
        taken, used = [], []
        for number in range(writes):
            before = time.process_time()
            begun = time.perf_counter()
            os.pwrite(file.fileno(), bytes(220), number * 220)
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - begun)
            used.append(time.process_time() - before)
    return statistics.median(taken) * 1e6, statistics.median(used) * 1e6


def commits(directory: str, messages: int, number: int = 400) -> tuple[float, float]:
    """Return the microseconds a commit of so many messages takes SQLite alone, and the CPU of each message."""
    with tempfile.TemporaryDirectory(dir=directory) as place:
        descriptor = os.open(place, os.O_RDONLY)
        try:
            database = open_database(place, descriptor)
            database.load(0.0, 0.0)
            made = []
            for at in range(number):
                made.append(CommitGroup())
                for row in range(messages):
                    made[-1].records.append(Put(row_of(1, 1 + at * messages + row), b"x" * rig.MESSAGE))
            begun, used = time.perf_counter(), time.process_time()
            for batch in made:
                database.commit([batch])
                database.tidy(idle=False)
            taken, used = time.perf_counter() - begun, time.process_time() - used
            database.close()
        finally:
            os.close(descriptor)
    return taken / number * 1e6, used / number / messages * 1e6


def batches(pid: int, port: int, seconds: int) -> float:
    """Return the messages a second zapq takes in batches of 100 as msgpack, on 16 connections."""
    script = BATCHES % (BATCH, rig.MESSAGE, rig.MESSAGE, BATCH)
    figures = rig.wrk(pid, f"http://127.0.0.1:{port}/queues/default/messages/batch", 16, seconds, script=script)
    return figures.per_second * BATCH


def changes_per_commit(port: int) -> float:
    """Return how many changes went to the disk together, on average, since zapq started."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        metrics = msgspec.json.decode(answer.read())
    return float(metrics["journal_changes"] / max(metrics["journal_commits"], 1))


@click.command(help=__doc__)
@click.option("--dir", "directory", default=".", show_default=True, help="Where: the disk that counts.")
@click.option("--seconds", default=3, show_default=True, help="Length of each run.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--connections", default=[1, 32, 128], show_default=True, multiple=True)
def main(directory: str, seconds: int, rounds: int, connections: tuple[int, ...]) -> None:
    """Measure and print."""
    fsync, syncing = yardstick(directory)
    print(f"{rig.machine()}; one write with fdatasync: {fsync:.0f} us, of CPU {syncing:.0f} us")
    for clients in connections:
        taken, each = commits(directory, clients)
        print(f"SQLite alone, {clients} messages a commit: {taken:.0f} us, of CPU {each:.1f} us a message")
    print()
    runs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    together: list[float] = []
    for number in range(rounds):
        for server in servers():
            for clients in connections:
                with tempfile.TemporaryDirectory(dir=directory) as place:
                    port = rig.free_port()
                    command = [
                        each.replace("{port}", str(port)).replace("{dir}", place) for each in server.command
                    ]
                    with rig.running(command, port) as pid:
                        one = server.measure(pid, port, clients, "enqueue", seconds)
                        runs.setdefault((server.name, str(clients)), []).append((one.per_second, one.cpu_us))
                        if server.measure is over_http and clients == CONNECTIONS:
                            both = lease_and_acknowledge(pid, f"http://127.0.0.1:{port}", max(2, seconds - 1))
                            rate = 1 / sum(1 / each.per_second for each in both)
                            cost = sum(each.cpu_us for each in both)
                            runs.setdefault((server.name, "receive + ack, 32"), []).append((rate, cost))
                        if server.name == "zapq --durable" and clients == max(connections):
                            together.append(changes_per_commit(port))
                            many = batches(pid, port, seconds)
                            runs.setdefault((server.name, f"batches of {BATCH}"), []).append((many, 0.0))
            print(f"round {number + 1}: {server.name} done", file=sys.stderr, flush=True)
    medians = {key: statistics.median(rate for rate, _ in each) for key, each in runs.items()}
    cpu = {key: statistics.median(cost for _, cost in each) for key, each in runs.items()}
    print(
        "| server | connections | messages/s | CPU us each | of zapq --durable |\n| --- | --- | --: | --: | --: |"
    )
    for (name, load), rate in medians.items():
        base = medians["zapq --durable", load]
        print(f"| {name} | {load} | {rate:,.0f} | {cpu[name, load]:.1f} | {rate / base:.2f} |")
    print(f"\nchanges a commit at {max(connections)} connections: {statistics.median(together):.0f}")
    result = {
        "fdatasync_us": fsync,
        "fdatasync_cpu_us": syncing,
        "changes_per_commit": statistics.median(together),
        "messages_per_second": {f"{name}, {load}": round(rate) for (name, load), rate in medians.items()},
        "rounds": {f"{name}, {load}": [round(rate) for rate, _ in each] for (name, load), each in runs.items()},
    }
    print(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    main()
