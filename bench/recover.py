"""How long does a start take with a million messages on the disk?

    scripts/bench recover

Starts zapq with `--durable`, sends it a million messages of 128 bytes in batches, half of them with a priority of
their own, kills it, and starts it again, several times: how long until it listens, how long of that it read, and
how much CPU it used until then. Ends with one line of JSON.
"""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.request import Request, urlopen

import click
import msgspec

from bench import rig
from zapq.limits import MAX_BATCH


class Start(NamedTuple):
    """A server that listens, and what it took."""

    address: str
    seconds: float
    reading: float
    """Seconds of it until all messages were there."""
    cpu: float


@contextmanager
def killed_in_the_end(directory: str, messages: int) -> Iterator[Start]:
    """Run a server on `directory`, and end it as a crash does."""
    command = [sys.executable, "-m", "zapq", "--durable", "--addr", "127.0.0.1:0", "--data-dir", directory]
    command += ["--max-msgs", str(messages), "--max-bytes", "64G"]
    begun = time.perf_counter()
    reading = 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            for line in server.stdout:
                said = msgspec.json.decode(line)
                if said["msg"] == "storage open":
                    reading = said["seconds"]
                if said["msg"] == "queue listening":
                    taken = time.perf_counter() - begun
                    yield Start(said["addr"], taken, reading, rig.cpu_seconds(server.pid))
                    return
            raise click.ClickException("the server does not start")
        finally:
            server.send_signal(signal.SIGKILL)


def fill(address: str, messages: int) -> None:
    """Send so many messages, every second batch of them with a priority."""
    body = bytes(rig.MESSAGE)
    batches = [
        msgspec.msgpack.encode([body] * MAX_BATCH),
        msgspec.msgpack.encode([{"body": body, "priority": 3}] * MAX_BATCH),
    ]
    for number in range(messages // MAX_BATCH):
        request = Request(f"http://{address}/queues/work/messages/batch", data=batches[number % 2])
        request.add_header("Content-Type", "application/msgpack")
        with urlopen(request, timeout=60):
            pass


@click.command(help=__doc__)
@click.option("--messages", default=1_000_000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--dir", "directory", default=".", show_default=True, help="Where: the disk that counts.")
def main(messages: int, rounds: int, directory: str) -> None:
    """Measure and print."""
    starts: list[Start] = []
    with tempfile.TemporaryDirectory(dir=directory) as place:
        with killed_in_the_end(place, messages) as first:
            fill(first.address, messages)
        for _ in range(rounds):
            with killed_in_the_end(place, messages) as start:
                starts.append(start)
                with urlopen(f"http://{start.address}/metrics", timeout=60) as answer:
                    assert msgspec.json.decode(answer.read())["queue_length"] == messages // MAX_BATCH * MAX_BATCH
    result = {
        "messages": messages // MAX_BATCH * MAX_BATCH,
        "seconds": round(statistics.median(start.seconds for start in starts), 2),
        "reading_seconds": round(statistics.median(start.reading for start in starts), 2),
        "cpu_seconds": round(statistics.median(start.cpu for start in starts), 2),
        "rounds": [round(start.seconds, 2) for start in starts],
    }
    print(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    main()
