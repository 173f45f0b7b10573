"""How many messages a second go through in batches, and what does each cost?

    scripts/bench batch

Starts zapq and Redis on one core, each in its turn, and loads them from another over a few connections, one
request at a time on each: batches of 100 and 1000 messages of 128 bytes as msgpack, sent and then taken at most
once (`ack=auto`); for Redis, `RPUSH` and `LPOP` with that many values, and 64 plain commands in a pipeline. Prints
messages a second and the server's CPU for each message; the median of the rounds.
"""

from __future__ import annotations

import re
import selectors
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import click
import msgspec

from bench import rig

CONNECTIONS = 16
LENGTH = re.compile(rb"Content-Length: ([0-9]+)")


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


def http_length(answer: bytearray) -> int:
    """The length of an HTTP answer, once its head is here."""
    end = answer.find(b"\r\n\r\n") + 4
    found = LENGTH.search(answer)
    return end + int(found[1]) if end > 3 and found else 0


def zapq_loads(size: int) -> dict[str, Load]:
    """Batches of `size` messages."""
    body = msgspec.msgpack.encode([b"x" * rig.MESSAGE] * size)
    put = (
        b"POST /queues/default/messages/batch HTTP/1.1\r\nHost: bench\r\nContent-Type: application/msgpack\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    take = (
        b"POST /queues/default/receive/batch?max=%d&ack=auto HTTP/1.1\r\nHost: bench\r\n"
        b"Accept: application/msgpack\r\n\r\n" % size
    )
    return {
        f"enqueue, batches of {size}": Load(put, size, http_length, b"HTTP/1.1 202"),
        f"receive, batches of {size}": Load(take, size, http_length, b"HTTP/1.1 200"),
    }


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
@click.option("--messages", default=1_000_000, show_default=True, help="Messages sent and taken in each round.")
@click.option("--rounds", default=5, show_default=True, help="Rounds; the median counts.")
def main(messages: int, rounds: int) -> None:
    """Measure and print."""
    rig.install("redis-server", "redis-server")
    print(rig.machine(), flush=True)
    zapq = [sys.executable, "-m", "zapq", "--max-msgs", "100000000", "--max-bytes", "64G", "--addr"]
    redis = ["redis-server", "--save", "", "--appendonly", "no", "--port"]
    results: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for server, start, loads in (
            ("zapq", zapq, {**zapq_loads(100), **zapq_loads(1000)}),
            ("Redis", redis, {**redis_loads(100), **redis_loads(1000), **pipelines()}),
        ):
            port = rig.free_port()
            where = f"127.0.0.1:{port}" if server == "zapq" else str(port)
            with rig.running([*start, where], port) as pid, rig.on_the_other_core():
                for name, load in loads.items():
                    number = messages // load.messages
                    before = rig.cpu_seconds(pid)
                    seconds = drive(load, port, number)
                    used = rig.cpu_seconds(pid) - before
                    done = number * load.messages
                    results.setdefault((server, name), []).append((done / seconds, used / done * 1e9))
    print(f"{'':36}{'messages/s':>12}{'CPU ns each':>13}   messages/s of each round, in millions")
    for (server, name), runs in results.items():
        rate, cpu = sorted(runs)[len(runs) // 2]
        each = " ".join(f"{run[0] / 1e6:.2f}" for run in runs)
        print(f"{server + ': ' + name:36}{rate:12,.0f}{cpu:13.0f}   {each}")


if __name__ == "__main__":
    main()
