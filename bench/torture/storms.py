"""Does any number of signals end the server with the right exit code?

500 servers get SIGINT and SIGTERM in turn, without a pause, until they are gone. Several get them at a time, so
that each is interrupted at other places. Every second server has a client in the middle of a body, which a first
signal waits for. Its storm begins when that signal was noticed, so its exit code must be that of a second
signal, 130 or 143. The others have no client, and their storm begins as soon as they listen: 0 is right as well,
for a server that ends before it notices the second signal. Nothing but lines of the log may be printed. The run
ends after 20 minutes.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

import trio

from bench.torture.report import Report
from bench.torture.server import running

STORMS = 500
AT_ONCE = 4
MOST_SECONDS = 1200
ENDING_SECONDS = 30
SECOND = {128 + signal.SIGINT, 128 + signal.SIGTERM}
"""The exit codes of a server that a second signal ended."""


async def _until_it_ends(process: trio.Process, pid: int) -> int:
    """Send signals until the process is gone, and return its exit code."""
    while process.poll() is None:
        # It is our child and not waited for, so its number is not given again.
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
        await trio.lowlevel.checkpoint()
    return await process.wait()


async def _one(report: Report, codes: Counter[str], number: int, random: Random) -> None:
    """Start a server, end it with a storm, and look how it ended."""
    busy = number % 2 == 1
    flags = ["--grace", "600", *(["--durable"] if random.random() < 0.3 else [])]
    storm = f"storm {number} ({'busy' if busy else 'idle'}, {' '.join(flags)})"
    with tempfile.TemporaryDirectory() as directory:
        async with running(Path(directory), *flags) as server, AsyncExitStack() as stack:
            if busy:
                client = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", server.port))
                await client.send_all(b"POST /enqueue HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nsl")
                while (await server.metrics())["requests"] < 2:
                    await trio.sleep(0.005)
                os.kill(server.pid, random.choice([signal.SIGINT, signal.SIGTERM]))
                while "shutdown signal received" not in server.log.read_text():
                    await trio.sleep(0.001)
            code: int | None = None
            with trio.move_on_after(ENDING_SECONDS):
                code = await _until_it_ends(server.process, server.pid)
            codes[f"{'busy' if busy else 'idle'}: {code}"] += 1
            report.expect(code in (SECOND if busy else SECOND | {0}), f"{storm}: exit code {code}")
            said = server.complaints()
            report.expect(not said, f"{storm}: printed {said[:5]}")


async def run(seed: int, scale: float) -> Report:
    """Let the storms break loose, a few at a time."""
    report = Report()
    codes: Counter[str] = Counter()
    number = max(2, int(STORMS * scale))
    left = iter(range(number))

    async def some() -> None:
        for each in left:
            await _one(report, codes, each, Random(f"{seed}-{each}"))

    with trio.move_on_after(MOST_SECONDS) as limit:
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(some)
    report.expect_figure(not limit.cancelled_caught, f"only {codes.total()} of {number} in {MOST_SECONDS} s")
    report.figures |= {
        "storms": codes.total(),
        "wrong_exit_codes": sum(": exit code " in line for line in report.failures),
        "codes": dict(sorted(codes.items())),
    }
    return report
