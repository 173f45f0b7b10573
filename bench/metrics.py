"""What does a scrape cost, and the longest turn of it?

    scripts/bench metrics
    scripts/bench metrics --queues 1024

A server with so many queues, each with a message, is asked for its figures over and over on one connection. For
each format, the bytes of an answer and the server's CPU for it are printed; once more where every queue has done
something since the answer before. Then a client puts and takes messages, at first alone, then while the server is
scraped each second, and while twenty scrape it at once: how long its answers took is printed.

At last it is scraped in this process, every queue having changed: the longest turn of the loop is printed. So long
others wait for theirs.
"""

from __future__ import annotations

import http.client
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from statistics import median

import click
import msgspec
import trio

import zapq
from bench import rig
from bench.prepared import Site
from bench.stalls import healthy_client
from zapq.allocator import settle_in
from zapq.settings import Settings

FORMATS = {
    "GET /queues": ("/queues", ""),
    "JSON": ("/metrics", ""),
    "text": ("/metrics", "text/plain"),
    "OpenMetrics": ("/metrics", "application/openmetrics-text"),
}


def over_a_socket(queues: int, rounds: int, each: int, seconds: float) -> None:
    """Print what an answer of a server with so many queues costs, and how long others wait."""
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
        connection.close()
        for name, figures in costs.items():
            print(f"{name:12} {sizes[name]:9} bytes  {median(figures):6.2f} ms of CPU")
        print(f"{'text, busy':12} {sizes['text']:9} bytes  {after_work(pid, port, queues, each):6.2f} ms of CPU")
        print("\n".join(waits_of_others(Site(pid, port), seconds)))


def after_work(pid: int, port: int, queues: int, each: int) -> float:
    """Return the milliseconds of CPU for a scrape while every queue takes a message in between."""
    puts = b"".join(
        b"POST /queues/queue.%d/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx" % number
        for number in range(queues - 1)
    )
    scraper = http.client.HTTPConnection("127.0.0.1", port)
    costs = []
    with socket.create_connection(("127.0.0.1", port)) as working:
        for _ in range(each // 4):
            working.sendall(puts)
            left = queues - 1
            while left:
                left -= working.recv(65536).count(b" 202 ")
            before = rig.cpu_seconds(pid)
            scraper.request("GET", "/metrics/prometheus")
            scraper.getresponse().read()
            costs.append(rig.cpu_seconds(pid) - before)
    scraper.close()
    return sum(costs) / len(costs) * 1e3


def waits_of_others(site: Site, seconds: float) -> Iterator[str]:
    """Tell how long a client's answers took that asks for little while others scrape."""
    for name, at_once in (("alone", 0), ("a scrape each second", 1), ("20 scrapes at once, each second", 20)):
        scrapers = [http.client.HTTPConnection("127.0.0.1", site.port) for _ in range(at_once)]
        with healthy_client(site, "put") as process:
            for _ in range(round(seconds)):
                ends = time.perf_counter() + 1
                for scraper in scrapers:
                    scraper.request("GET", "/metrics/prometheus")
                for scraper in scrapers:
                    scraper.getresponse().read()
                time.sleep(max(0.0, ends - time.perf_counter()))
            answers = msgspec.json.decode(process.communicate()[0], type=list[tuple[float, float]])
        for scraper in scrapers:
            scraper.close()
        took = sorted(took for took, _ in answers)
        own = max(max(0.0, took - waited) for took, waited in answers)
        figures = f"median {median(took):.2f}, p99 {took[len(took) * 99 // 100]:.2f}, longest {took[-1]:.1f} ms"
        yield f"others, {name}: {figures}; the server's own part at most {own:.1f} ms"


class Watch(trio.abc.Instrument):
    """Notes the CPU of each turn, which is what all tasks do between two looks at the sockets."""

    def __init__(self) -> None:
        self.turns: list[float] = []
        self._begun = self._turn = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Note that a task goes on."""
        self._begun = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Note that it waits again."""
        self._turn += time.thread_time() - self._begun

    def before_io_wait(self, timeout: float) -> None:
        """Note that all tasks wait."""
        self.turns.append(self._turn)
        self._turn = 0.0


async def longest_turns(queues: int, at_once: int, times: int) -> list[float]:
    """Return the longest turn of each of several scrapes by so many clients, every queue having changed."""
    watch, longest = Watch(), []
    settings = Settings(addr="127.0.0.1:0", max_queues=queues + 1, log_level="error")
    async with zapq.open_service(settings) as service, trio.open_nursery() as nursery:
        [bound] = await nursery.start(partial(zapq.serve, settings, service=service))
        port = int(str(bound).rpartition(":")[2])
        clients = [http.client.HTTPConnection("127.0.0.1", port) for _ in range(at_once)]

        def scrape() -> None:
            for client in clients:
                client.request("GET", "/metrics/prometheus")
            for client in clients:
                client.getresponse().read()

        settle_in()  # as a server does
        trio.lowlevel.add_instrument(watch)
        for _ in range(times + 1):
            for number in range(queues - 1):
                service.queue(f"queue.{number}").enqueue_nowait(b"x")
            await trio.sleep(0.01)
            watch.turns.clear()
            await trio.to_thread.run_sync(scrape)
            longest.append(max(watch.turns))
        trio.lowlevel.remove_instrument(watch)
        for client in clients:
            client.close()
        nursery.cancel_scope.cancel()
    return longest[1:]


@click.command(help=__doc__)
@click.option("--queues", default=1024, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--each", default=50, show_default=True, help="Requests of a kind in each round.")
@click.option("--seconds", default=10.0, show_default=True, help="How long others ask, each time.")
def main(queues: int, rounds: int, each: int, seconds: float) -> None:
    """Measure and print."""
    print(f"{queues} queues, {rig.machine()}")
    over_a_socket(queues, rounds, each, seconds)
    for at_once in (1, 20):
        longest = [each * 1e3 for each in trio.run(longest_turns, queues, at_once, 20)]
        print(
            f"longest turn, {at_once} at once: median {median(longest):.2f}, longest {max(longest):.2f} ms of CPU"
        )


if __name__ == "__main__":
    main()
