"""What does it cost to log each request, or one of a hundred, and what to be able to?

    scripts/bench access_log

In process: `HotPath.respond` for one enqueue and one dequeue, as it is, with `--access-log 0.01` and with
`--access-log`, in rounds that alternate. The lines go through a spool to /dev/null.
"""

from __future__ import annotations

import os
import tempfile
import time
from statistics import median

import click
import trio

from bench import rig
from zapq import logs
from zapq.access.access import Access
from zapq.engine.local import LocalEngine
from zapq.http.access_log import AccessLog
from zapq.http.guard import Guard
from zapq.http.hosts import Hosts
from zapq.http.metrics import ServerCounts
from zapq.http.tracing import TraceIds
from zapq.logs import Throttle
from zapq.server.hot_log import LoggedHotPath
from zapq.server.hotpath import HotPath
from zapq.service.open import open_service
from zapq.settings import Settings
from zapq.spool import Spool

ENQUEUE = b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"
DEQUEUE = b"GET /dequeue HTTP/1.1\r\nHost: localhost\r\n\r\n"
SHARES = {"without": 0.0, "0.01": 0.01, "all": 1.0}


async def measure(number: int, rounds: int) -> None:
    """Time both requests with each share and print the medians."""
    settings = Settings(max_msgs=10**9, max_bytes=2**40, data_dir=tempfile.mkdtemp())
    spool = Spool(os.open(os.devnull, os.O_WRONLY))
    logs.configure(settings, spool)
    times: dict[tuple[str, str], list[float]] = {}
    async with open_service(settings) as service:
        guard = Guard(settings, Hosts(settings, "127.0.0.1"), Access(settings))
        for _ in range(rounds):
            for name, share in SHARES.items():
                parts = (LocalEngine(service), settings, ServerCounts(), TraceIds(), Throttle(), guard)
                hot = LoggedHotPath(*parts, log=AccessLog(share)) if share else HotPath(*parts)
                hot.set_time(time.time(), trio.current_time())
                for request, data in (("enqueue", ENQUEUE), ("dequeue", DEQUEUE)):
                    # Of this thread: what the writing costs is the spool's.
                    begun, whole = time.thread_time(), time.process_time()
                    for _ in range(number):
                        hot.respond(data)
                    own, all_threads = time.thread_time() - begun, time.process_time() - whole
                    times.setdefault((request, name), []).append(own / number)
                    times.setdefault((request, f"{name}, with the writing"), []).append(all_threads / number)
    for (request, name), each in sorted(times.items()):
        print(f"{request}  {name:25} {median(each) * 1e6:8.2f} us a request")


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True, help="Rounds; the median counts.")
@click.option("--number", default=20_000, show_default=True, help="Requests of each kind in a round.")
def main(rounds: int, number: int) -> None:
    """Measure and print."""
    print(rig.machine(), flush=True)
    trio.run(measure, number, rounds)


if __name__ == "__main__":
    main()
