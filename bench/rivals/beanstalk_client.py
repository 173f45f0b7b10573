"""Loads beanstalkd: `python -m bench.rivals.beanstalk_client PORT CONNECTIONS enqueue|dequeue SECONDS`.

No load generator for it is packaged. Every connection has one message at a time under way: `put` until it is
INSERTED, or `reserve` until RESERVED and then `delete` until DELETED. Prints one JSON object.
"""

from __future__ import annotations

import selectors
import socket
import sys
import time

import msgspec

from bench import rig

PUT = b"put 0 0 60 %d\r\n%b\r\n" % (rig.MESSAGE, b"x" * rig.MESSAGE)
RESERVE = b"reserve-with-timeout 0\r\n"


def step(answer: bytes) -> bytes:
    """Return what to say after `answer`: the next command of this message, or nothing if it is done."""
    if answer.startswith(b"RESERVED "):
        return b"delete %b\r\n" % answer.split(b" ")[1]
    if answer.startswith((b"INSERTED", b"DELETED")):
        return b""
    raise SystemExit(f"beanstalkd said {answer[:60]!r}")


def main(port: int, connections: int, what: str, seconds: float) -> None:
    """Load the server and print messages, seconds and latencies in milliseconds."""
    first = PUT if what == "enqueue" else RESERVE
    selector = selectors.DefaultSelector()
    begun: dict[socket.socket, float] = {}
    latencies: list[float] = []
    start = time.perf_counter()
    for _ in range(connections):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(connection, selectors.EVENT_READ)
        begun[connection] = time.perf_counter()
        connection.sendall(first)
    while time.perf_counter() - start < seconds:
        for key, _ in selector.select(1):
            connection = key.fileobj  # type: ignore[assignment]
            following = step(connection.recv(4096))
            if not following:
                now = time.perf_counter()
                latencies.append((now - begun[connection]) * 1000)
                begun[connection] = now
                following = first
            connection.sendall(following)
    elapsed = time.perf_counter() - start
    latencies.sort()
    p50, p99 = (latencies[int(len(latencies) * part)] for part in (0.5, 0.99))
    result = {"messages": len(latencies), "seconds": elapsed, "p50": p50, "p99": p99}
    sys.stdout.buffer.write(msgspec.json.encode(result))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
