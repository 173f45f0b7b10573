"""What does a scrape cost, and the longest turn of it?

    scripts/bench metrics
    scripts/bench metrics --queues 1024

A server with so many queues, each with a message, is asked for its figures over and over on one connection. For
each format, the bytes of an answer and the server's CPU for it are printed. Then the text is written in this
process, family by family: the longest of these steps is how long others wait for their turn. How long they wait in
a whole server, `scripts/bench stalls` shows.
"""

from __future__ import annotations

import http.client
import sys
import time
from collections.abc import Iterator
from statistics import median

import click

from bench import rig
from zapq.core.ages import Oldest, Spread
from zapq.core.queue_settings import QueueSettings
from zapq.core.stats import QueueStats
from zapq.http.exposition import write
from zapq.http.series import Series, share
from zapq.service.queue_state import QueueInfo

FORMATS = {
    "GET /queues": ("/queues", ""),
    "JSON": ("/metrics", ""),
    "text": ("/metrics", "text/plain"),
    "OpenMetrics": ("/metrics", "application/openmetrics-text"),
}


def over_a_socket(queues: int, rounds: int, each: int) -> None:
    """Print what an answer of a server with so many queues costs."""
    port = rig.free_port()
    command = [sys.executable, "-m", "zapq", "--addr", f"127.0.0.1:{port}", "--max-queues", str(queues + 1)]
    costs: dict[str, list[float]] = {name: [] for name in FORMATS}
    sizes: dict[str, int] = {}
    with rig.running(command, port) as pid:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for number in range(queues - 1):
            connection.request("POST", f"/queues/queue.{number}/messages", b"x")
            connection.getresponse().read()
        for _ in range(rounds):
            for name, (target, accept) in FORMATS.items():
                before = rig.cpu_seconds(pid)
                for _ in range(each):
                    connection.request("GET", target, headers={"Accept": accept} if accept else {})
                    sizes[name] = len(connection.getresponse().read())
                costs[name].append((rig.cpu_seconds(pid) - before) / each * 1e3)
    for name, figures in costs.items():
        print(f"{name:12} {sizes[name]:9} bytes  {median(figures):6.2f} ms of CPU")


def steps(queues: int) -> Iterator[float]:
    """Write the text once, and tell how long each step took."""
    infos = [
        QueueInfo(
            f"queue.{n}", QueueSettings(), QueueStats(n, n, n, n, n, n, n), False, 0, n, Oldest(n, n), Spread()
        )
        for n in range(queues)
    ]
    writing = write(Series(queues), share(infos, queues, None), None, queues, openmetrics=True)
    while True:
        begun = time.perf_counter()
        try:
            next(writing)
        except StopIteration:
            yield time.perf_counter() - begun
            return
        yield time.perf_counter() - begun


@click.command(help=__doc__)
@click.option("--queues", default=1024, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--each", default=50, show_default=True, help="Requests of a kind in each round.")
def main(queues: int, rounds: int, each: int) -> None:
    """Measure and print."""
    print(f"{queues} queues, {rig.machine()}")
    over_a_socket(queues, rounds, each)
    longest = [max(steps(queues)) * 1e3 for _ in range(20)]
    print(f"the longest step of writing the text: median {median(longest):.2f} ms, of {len(longest)} times")


if __name__ == "__main__":
    main()
