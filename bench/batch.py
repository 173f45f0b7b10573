"""How many messages a second go through in batches, and what does each cost?

    scripts/bench batch

Starts zapq and Redis on one core, each in its turn, and loads them from another: batches of 100 and 1000 messages
of 128 bytes as msgpack, sent and then taken at most once (`ack=auto`), by wrk on 16 connections; for Redis,
`RPUSH` and `LPOP` with that many values, and 64 plain commands in a pipeline. Prints messages a second and the
server's CPU for each message; the median of the rounds.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.request import Request, urlopen

import click
import msgspec

from bench import rig

CONNECTIONS = 16


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of request, sent again and again."""

    request: bytes
    messages: int
    """In each request, or in its answer."""
    length: Callable[[bytearray], int]
    """How long the answer will be, from its begin; 0 if that does not tell yet."""
    good: bytes
    """What the answer begins with."""


def drive(load: Load, port: int, requests: int) -> float:
    """Send `requests` of them and take the answers; return the seconds that took."""
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
    left = requests
    received = {connection: bytearray() for connection in connections}
    with selectors.DefaultSelector() as selector:
        begun = time.perf_counter()
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ, connection)
            connection.sendall(load.request)
            left -= 1
        open_requests = len(connections)
        while open_requests:
            for key, _ in selector.select():
                connection = key.data
                answer = received[connection]
                answer += connection.recv(1 << 20)
                length = load.length(answer)
                if not length or len(answer) < length:
                    continue
                if not answer.startswith(load.good) or len(answer) > length:
                    raise RuntimeError(f"unexpected answer: {bytes(answer[:300])!r}")
                answer.clear()
                open_requests -= 1
                if left:
                    connection.sendall(load.request)
                    left -= 1
                    open_requests += 1
        seconds = time.perf_counter() - begun
    for connection in connections:
        connection.close()
    return seconds


def zapq_runs(pid: int, port: int, seconds: int) -> dict[str, tuple[float, float]]:
    """Send batches for that long, and take for half as long: messages a second, CPU nanoseconds for each."""
    runs, half = {}, seconds // 2
    url = f"http://127.0.0.1:{port}"
    for size in (100, 1000):
        with tempfile.NamedTemporaryFile() as file:
            file.write(msgspec.msgpack.encode([b"x" * rig.MESSAGE] * size))
            file.flush()
            put = f"""
                wrk.method = "POST"
                wrk.headers["Content-Type"] = "application/msgpack"
                wrk.body = io.open("{file.name}", "rb"):read("*all")
            """
            take = """
                wrk.method = "POST"
                wrk.headers["Accept"] = "application/msgpack"
            """
            for name, metric, script, path, length in (
                (f"enqueue, batches of {size}", "enqueues", put, "messages/batch", seconds),
                (
                    f"receive, batches of {size}",
                    "dequeues_ok",
                    take,
                    f"receive/batch?max={size}&ack=auto",
                    half,
                ),
            ):
                before = metric_of(url, metric)
                target = f"{url}/queues/default/{path}"
                figures = rig.wrk(pid, target, CONNECTIONS, length, script=script)
                done = metric_of(url, metric) - before
                # Not counted by requests: an answer may hold fewer messages than it might.
                rate = figures.per_second / figures.requests * done
                runs[name] = (rate, figures.cpu_us * 1000 * figures.requests / done)
            urlopen(Request(f"{url}/clear", method="POST")).close()
    return runs


def metric_of(url: str, name: str) -> int:
    """Return one of the server's metrics."""
    with urlopen(f"{url}/metrics") as answer:
        number: int = json.load(answer)[name]
        return number


def command(*words: bytes) -> bytes:
    """A command of Redis."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def redis_loads(size: int) -> dict[str, Load]:
    """`RPUSH` and `LPOP` with `size` values."""
    value = b"x" * rig.MESSAGE
    reply = len(b"*%d\r\n" % size) + size * len(b"$%d\r\n%b\r\n" % (rig.MESSAGE, value))
    push = command(b"RPUSH", b"q", *[value] * size)
    return {
        f"RPUSH of {size}": Load(
            push, size, lambda answer: answer.find(b"\r\n") + 2 if b"\r\n" in answer else 0, b":"
        ),
        f"LPOP of {size}": Load(command(b"LPOP", b"q", b"%d" % size), size, lambda answer: reply, b"*"),
    }


def pipelines() -> dict[str, Load]:
    """64 plain commands at a time."""
    value = b"x" * rig.MESSAGE
    one = len(b"$%d\r\n%b\r\n" % (rig.MESSAGE, value))

    def numbers(answer: bytearray) -> int:
        return len(answer) if answer.count(b"\r\n") == 64 and answer.endswith(b"\r\n") else 0

    return {
        "RPUSH, 64 in a pipeline": Load(command(b"RPUSH", b"q", value) * 64, 64, numbers, b":"),
        "LPOP, 64 in a pipeline": Load(command(b"LPOP", b"q") * 64, 64, lambda answer: 64 * one, b"$"),
    }


@click.command(help=__doc__)
@click.option("--seconds", default=2, show_default=True, help="How long batches are sent to zapq.")
@click.option("--messages", default=2_000_000, show_default=True, help="Messages sent to and taken from Redis.")
@click.option("--rounds", default=5, show_default=True, help="Rounds; the median counts.")
def main(seconds: int, messages: int, rounds: int) -> None:
    """Measure and print."""
    rig.install("redis-server", "redis-server")
    print(rig.machine(), flush=True)
    zapq = [sys.executable, "-m", "zapq", "--max-msgs", "100000000", "--max-bytes", "64G", "--addr"]
    redis = ["redis-server", "--save", "", "--appendonly", "no", "--port"]
    results: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        port = rig.free_port()
        with rig.running([*zapq, f"127.0.0.1:{port}"], port) as pid:
            for name, run in zapq_runs(pid, port, seconds).items():
                results.setdefault(("zapq", name), []).append(run)
        port = rig.free_port()
        with rig.running([*redis, str(port)], port) as pid, rig.on_the_other_core():
            for name, load in {**redis_loads(100), **redis_loads(1000), **pipelines()}.items():
                number = messages // load.messages
                before = rig.cpu_seconds(pid)
                taken = drive(load, port, number)
                used = rig.cpu_seconds(pid) - before
                done = number * load.messages
                results.setdefault(("Redis", name), []).append((done / taken, used / done * 1e9))
    print(f"{'':36}{'messages/s':>12}{'CPU ns each':>13}   messages/s of each round, in millions")
    for (server, name), runs in results.items():
        rate, cpu = sorted(runs)[len(runs) // 2]
        each = " ".join(f"{run[0] / 1e6:.2f}" for run in runs)
        print(f"{server + ': ' + name:36}{rate:12,.0f}{cpu:13.0f}   {each}")


if __name__ == "__main__":
    main()
