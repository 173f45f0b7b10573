"""What does the CPU of a durable enqueue consist of?

    scripts/bench journal

Has requests answered in this process, so many in each turn of the event loop as connections would bring, by queues
in memory, and by queues on the disk whose thread does nothing with what it is given, only sorts it for SQLite, or
writes it. So each figure but the first shows what one layer adds. No sockets, and the CPU of both threads; the
least of several rounds counts, for whatever else runs here only adds to it.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Sequence

import click
import trio

from bench import rig
from zapq.access.access import Access
from zapq.engine.local import LocalEngine
from zapq.http.guard import Guard
from zapq.http.hosts import Hosts
from zapq.http.metrics import ServerCounts
from zapq.http.tracing import TraceIds
from zapq.logs import Throttle
from zapq.server.hotpath import HotPath
from zapq.service.journal import Journal
from zapq.service.open import open_service
from zapq.service.pending import Group
from zapq.settings import Settings
from zapq.store.gather import gather
from zapq.store.port import CommitGroup

REQUEST = b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 128\r\n\r\n" + bytes(rig.MESSAGE)
WRITE: dict[str, Callable[[Sequence[CommitGroup]], object] | None] = {
    "in memory": None,
    "handed over": lambda commits: None,
    "sorted": gather,
    "written": None,
}
"""What becomes of commits, in place of being written."""


async def measure(layer: str, together: int, messages: int, directory: str) -> tuple[float, float]:
    """Return the microseconds of CPU, and of time, that each message takes."""
    durable = layer != "in memory"
    settings = Settings(durable=durable, data_dir=directory, max_msgs=10**9, max_bytes=1 << 40)
    async with open_service(settings) as service:
        write, journal = WRITE[layer], service.journal
        if write is not None:
            assert isinstance(journal, Journal)
            journal._writer._store.commit = write  # type: ignore[method-assign,assignment]
        guard = Guard(settings, Hosts(settings, "127.0.0.1"), Access(settings))
        engine = LocalEngine(service)
        hot = HotPath(engine, settings, ServerCounts(), TraceIds(), Throttle(), guard)

        async def turns(number: int) -> None:
            for _ in range(number):
                hot.set_time(time.time(), trio.current_time())
                with engine.turn():
                    answered = [hot.respond(REQUEST) for _ in range(together)]
                group = answered[-1].group
                if group is not None and not group.resolved:
                    await known(group)
                assert all(each.data for each in answered)

        await turns(10)
        # As a server does once it has started.
        gc.collect()
        gc.freeze()
        number = max(1, messages // together)
        used, begun = time.process_time(), time.perf_counter()
        await turns(number)
        used, taken = time.process_time() - used, time.perf_counter() - begun
        gc.unfreeze()
    return used / number / together * 1e6, taken / number / together * 1e6


async def known(group: Group) -> None:
    """Return once it is known whether a commit is on the disk."""
    event = trio.Event()
    group.after.append(event.set)
    await event.wait()


@click.command(help=__doc__)
@click.option("--dir", "directory", default=".", show_default=True, help="Where: the disk that counts.")
@click.option("--messages", default=40_000, show_default=True, help="In each round.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--together", default=[1, 32, 128], show_default=True, multiple=True, help="Requests in each turn.")
def main(directory: str, messages: int, rounds: int, together: tuple[int, ...]) -> None:
    """Measure and print."""
    print(rig.machine(), flush=True)
    print("| requests a turn | layer | CPU us a message | us a message |\n| --: | --- | --: | --: |")
    for number in together:
        for layer in WRITE:
            found = []
            for _ in range(rounds):
                with tempfile.TemporaryDirectory(dir=directory) as place:
                    some = messages if number > 1 else messages // 20
                    found.append(trio.run(measure, layer, number, some, place))
            cpu, taken = map(min, zip(*found, strict=True))
            print(f"| {number} | {layer} | {cpu:.2f} | {taken:.2f} |", flush=True)


if __name__ == "__main__":
    main()
