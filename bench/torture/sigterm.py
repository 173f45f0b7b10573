"""Does a signal end the server in order and in time, whatever its clients are at?

100 servers are stopped. Nearly all have clients of five kinds, ten of each: some never read a large answer (of
these there are fewer with workers), some stopped in the middle of a body, some are idle, some wait in a long poll,
and some ask on and on. One stop in ten has idle clients only. Each must end within its grace, with exit code 0
and nothing in the log that does not belong there; idle clients alone must not take half a second. Another in ten
gets a storm of 20 signals, from the first moment on it listens: a second signal ends it at once, so 130 and 143
are right as well, but a traceback never is.
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import trio

from bench.torture.report import Report
from bench.torture.server import KIND, Server, running
from zapq.limits import CLOSE_SECONDS, MAX_UNSENT_BYTES

STOPS = 100
CLIENTS = 10
"""Of each kind."""
GRACE, DEFAULT_GRACE = 2.0, 10.0
LARGE = 6 * 2**20
"""Bytes of a message no kernel takes whole from one who does not read: Linux buffers up to 4 MiB for a sender."""
WINDOW = 4096
"""And as little as this for a receiver who wants it so."""
IDLE_SECONDS = 0.5
STORM = 20
GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)

Client = Callable[[trio.SocketStream], Awaitable[None]]


def deaf_clients() -> int:
    """Return how many clients never read: so many that one worker could have all of them.

    If their answers were more than its part of what answers that are not sent may hold, it would cut some off.
    """
    return min(CLIENTS, MAX_UNSENT_BYTES // KIND.workers // LARGE)


async def deaf(stream: trio.SocketStream) -> None:
    """Ask for a large message and never read it."""
    await stream.send_all(b"POST /queues/large/receive?ack=auto HTTP/1.1\r\nHost: localhost\r\n\r\n")


async def stalled(stream: trio.SocketStream) -> None:
    """Stop in the middle of a body."""
    await stream.send_all(b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf")


async def idle(stream: trio.SocketStream) -> None:
    """Ask once, and keep the connection."""
    await stream.send_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await until_it_ends(stream)


async def parked(stream: trio.SocketStream) -> None:
    """Wait in a long poll for what never comes."""
    await stream.send_all(b"POST /queues/empty/receive?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await until_it_ends(stream)


async def active(stream: trio.SocketStream) -> None:
    """Ask on and on, the hot path and the long way in turn."""
    while True:
        for request in (
            b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nwork",
            b"POST /dequeue HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ):
            await stream.send_all(request)
            if not await stream.receive_some():
                return


async def until_it_ends(stream: trio.SocketStream) -> None:
    """Read what comes, as all clients do who mean well."""
    while await stream.receive_some():
        pass


HOSTILE = {deaf, stalled}
"""These hold on to their connection."""
KINDS: list[Client] = [deaf, stalled, idle, parked, active]


@dataclass
class Stops:
    """All the stops of one run."""

    report: Report
    judges_times: bool
    """Whether times count: not in a small run, which shares its machine with other tests."""
    codes: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)

    async def stop_one(self, number: int, seed: int) -> None:
        """Start a server, give it clients, stop it, and look how it ended."""
        random = Random(f"{seed}-{number}")
        storm, idle_only = number % 10 == 3, number % 10 == 7
        grace = DEFAULT_GRACE if number % 25 == 1 else GRACE
        kind = "storm" if storm else "idle" if idle_only else f"grace {grace:g}"
        with tempfile.TemporaryDirectory() as directory:
            flags = ["--grace", f"{grace:g}", "--max-message-bytes", "16M"]
            if random.random() < 0.3:
                flags.append("--durable")
            async with running(Path(directory), *flags) as server, trio.open_nursery() as nursery:
                # Some storms break loose at the first moment, some when everybody is there.
                if not storm or random.random() < 0.5:
                    await self._populate(server, nursery, [idle] if idle_only else KINDS)
                begun = time.perf_counter()
                if storm:
                    await self._storm(server, random)
                else:
                    os.kill(server.pid, random.choice([signal.SIGTERM, signal.SIGINT]))
                code: int | None = None
                with trio.move_on_after(grace + 30):
                    code = await server.process.wait()
                self._judge(f"stop {number} ({' '.join(flags)}, {kind})", kind, code, time.perf_counter() - begun)
                said = server.complaints()
                self.report.expect(not said, f"stop {number} ({kind}): printed {said[:5]}")
                last = server.lines()[-1]["msg"]
                if code == 0:
                    self.report.expect(last == "bye", f"stop {number} ({kind}): ended with {last!r}")
                nursery.cancel_scope.cancel()

    async def _populate(self, server: Server, nursery: trio.Nursery, kinds: list[Client]) -> None:
        """Connect clients of these kinds, and return when they are at it."""
        numbers = {kind: deaf_clients() if kind is deaf else CLIENTS for kind in kinds}
        for queue, body in (("empty", b"x"), *[("large", bytes(LARGE))] * numbers.get(deaf, 0)):
            assert (await server.ask("POST", f"/queues/{queue}/messages", body)).status == 202
        assert (await server.ask("POST", "/queues/empty/purge")).status == 200
        for kind, number in numbers.items():
            for _ in range(number):
                sock = trio.socket.socket()
                if kind is deaf:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW)
                await sock.connect(("127.0.0.1", server.port))
                nursery.start_soon(_be, kind, trio.SocketStream(sock))
        with trio.fail_after(30):
            while True:
                metrics = await server.metrics()
                # One is the question itself.
                if (
                    metrics["connections"] == 1 + sum(numbers.values())
                    and metrics["waiting"] == numbers.get(parked, 0)
                    and (deaf not in kinds or (await server.ask("GET", "/queues/large")).json["messages"] == 0)
                ):
                    return
                await trio.sleep(0.01)

    async def _storm(self, server: Server, random: Random) -> None:
        """Send many signals; the server may be gone before the last."""
        for _ in range(STORM):
            if server.process.poll() is not None:
                return
            os.kill(server.pid, random.choice([signal.SIGTERM, signal.SIGINT]))
            await trio.sleep(random.choice([0, 0, 0.001, 0.01, 0.05]))

    def _judge(self, stop: str, kind: str, code: int | None, seconds: float) -> None:
        self.codes[f"{kind}: {code}"] += 1
        self.slowest[kind] = max(self.slowest.get(kind, 0.0), round(seconds, 3))
        expected = {0, 130, 143} if kind == "storm" else {0}
        self.report.expect(code in expected, f"{stop}: exit code {code} after {seconds:.2f} s")
        # A second signal does not interrupt what is on its way to the disk.
        special = {"idle": IDLE_SECONDS, f"grace {DEFAULT_GRACE:g}": DEFAULT_GRACE, "storm": GRACE + CLOSE_SECONDS}
        limit = special.get(kind, GRACE)
        self.report.expect(seconds <= limit or not self.judges_times, f"{stop}: took {seconds:.2f} s")


async def _be(kind: Client, stream: trio.SocketStream) -> None:
    try:
        await kind(stream)
        if kind in HOSTILE:
            await trio.sleep_forever()
    except GONE:
        pass  # the server has ended
    finally:
        await trio.aclose_forcefully(stream)


async def run(seed: int, scale: float) -> Report:
    """Stop one server after the other."""
    report = Report()
    stops = Stops(report, judges_times=scale >= 1)
    number = max(1, int(STOPS * scale))
    for each in range(number):
        await stops.stop_one(each, seed)
    report.figures |= {
        "stops": number,
        "codes": dict(sorted(stops.codes.items())),
        "slowest_seconds": dict(sorted(stops.slowest.items())),
    }
    return report
