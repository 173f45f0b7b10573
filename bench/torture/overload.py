"""Five times what the server can bear, for a minute.

Producers send as fast as they are answered, and consumers take a fifth of it, so the queue stands at its cap. A
healthy client asks for `/health` all the time. Before, and once more right after, an ordinary load is measured.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import NamedTuple

import msgspec
import trio

from bench import rig
from bench.torture.flood import Flood, Flooded, Group, flooding
from bench.torture.probe import Probe, percentile
from bench.torture.report import Report
from bench.torture.server import KIND, Server, running
from zapq.limits import KIB, MIB

SECONDS = 60.0
CAP = 64 * MIB
MESSAGES = 20_000
ALLOWANCE = 144 * MIB
"""What the server may hold beside its messages.

Python and zapq take 46 MiB, and bodies that are being received 16, which are copied once more as they are read.
The rest is what malloc keeps between messages of 64 bytes to 128 KiB that come and go. Runs with other sizes stood
at 169 to 191 MiB; the highest was reached after 16 s, and not passed in 130.
"""
LATENCY_MS = 250.0
ORDINARY_SECONDS = 3.0
RECOVERY_SECONDS = 2.0
FULL_RATE = 0.8
"""Of the rate before, or else as much more CPU a request: a machine that does other things takes from the rate,
but little from that."""
EXPECTED = {"dequeue": {"200", "204"}}
REFUSED_OR_NOT = {"202", "429", "503"}


def post(target: str, body: bytes, content_type: str = "application/octet-stream") -> bytes:
    """Return a request with a body."""
    head = (
        f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}"
    )
    return head.encode() + b"\r\n\r\n" + body


TAKE = b"POST /dequeue HTTP/1.1\r\nHost: localhost\r\n\r\n"


def attackers(rng: random.Random) -> list[Group]:
    """Return who overloads: many that send one by one, few with pipelines, large messages, batches, takers."""
    sizes = [rng.randrange(64, 512), rng.randrange(1 * KIB, 8 * KIB), rng.randrange(32 * KIB, 128 * KIB)]
    small, middle, large = (post("/enqueue", rng.randbytes(size)) for size in sizes)
    batch = msgspec.msgpack.encode([rng.randbytes(rng.randrange(64, 4 * KIB)) for _ in range(1000)])
    return [
        Group("one by one", small, connections=400, depth=1),
        Group("pipelined", middle, connections=16, depth=32),
        Group("large", large, connections=16, depth=1),
        Group("batches", post("/queues/batches/messages/batch", batch, "application/msgpack"), 8, 1),
        Group("cold", small.replace(b"\r\n", b"\r\nTE: trailers\r\n", 1), connections=8, depth=1),
        Group("dequeue", TAKE, connections=16, depth=16, share=0.25),
    ]


async def run(seed: int, scale: float) -> Report:
    """Overload a server and see what becomes of it."""
    report = Report()
    rng = random.Random(seed)
    # Reached soon, however short it all is.
    flags = ("--max-bytes", str(CAP), "--max-msgs", str(max(500, int(MESSAGES * min(1.0, scale)))))
    short = min(1.0, 10 * scale)
    with tempfile.TemporaryDirectory() as directory:
        async with running(Path(directory), *flags, wrapper=rig.cores()[0]) as server:
            before = await ordinary(server, ORDINARY_SECONDS * short)
            await server.ask("POST", "/clear")
            # Messages that are being received do not count among those held, unless one process does both.
            received = 0 if KIND.is_plain else CAP
            most = CAP + received + ALLOWANCE + server.others_bytes()
            flooded, probe, peak = await overload(server, attackers(rng), SECONDS * scale)
            # A server that is still full refuses the ordinary load, and a refusal costs something else.
            await server.ask("POST", "/clear")
            # The rate within two seconds of the end of it: the second of them is the first that is judged.
            after = [await ordinary(server, RECOVERY_SECONDS / 2 * short) for _ in range(2)]
            metrics = await server.metrics()
            code = await server.stop()
            complaints = server.complaints()
    p99 = percentile(probe.milliseconds, 0.99)
    report.figures |= {
        "answers": flooded.answers,
        "closed_behind_an_answer": flooded.closed - flooded.cut,
        "answers_per_second": round(flooded.rate()),
        "rss_peak_mib": round(peak / MIB, 1),
        "cap_mib": CAP // MIB,
        "most_mib": most // MIB,
        "health_p50_ms": round(percentile(probe.milliseconds, 0.5), 1),
        "health_p99_ms": round(p99, 1),
        "health_max_ms": round(max(probe.milliseconds, default=0.0), 1),
        "health_asked": len(probe.milliseconds),
        "ordinary": {"per_second": round(before.per_second), "cpu_us": round(before.cpu_us, 1)},
        "ordinary_after": [
            {"per_second": round(each.per_second), "cpu_us": round(each.cpu_us, 1)} for each in after
        ],
        "exit_code": code,
    }
    for name, statuses in flooded.answers.items():
        strange = set(statuses) - EXPECTED.get(name, REFUSED_OR_NOT)
        report.expect(not strange, f"{name} was answered {sorted(strange)}")
        report.expect_figure(sum(statuses.values()) > 0, f"{name} was never answered")
    report.expect(not flooded.cut, f"{flooded.cut} connections were ended without an answer")
    report.expect(
        peak <= most, f"{peak / MIB:.0f} MiB resident, and {most // MIB} at most with a cap of {CAP // MIB}"
    )
    report.expect(set(probe.statuses) == {200}, f"/health was answered {probe.statuses}")
    report.expect(not metrics["connection_errors"], "connections ended by errors of the server's own")
    report.expect(not complaints, f"logged: {complaints[:3]}")
    report.expect(code == 0, f"ended with {code}")
    report.expect_figure(p99 < LATENCY_MS, f"/health took {p99:.0f} ms at the 99th percentile")
    full = max(each.per_second for each in after) >= FULL_RATE * before.per_second
    cheap = min(each.cpu_us for each in after) * FULL_RATE <= before.cpu_us
    report.expect_figure(full or cheap, f"afterwards an ordinary load got {after}, before it {before}")
    return report


async def overload(server: Server, groups: list[Group], seconds: float) -> tuple[Flooded, Probe, int]:
    """Flood the server for so long; return what was answered, how the healthy client fared, the peak of RSS."""
    flooded, probe, peak = Flooded(), Probe(server.port), 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(probe.run, 0.02)
        async with flooding(Flood(server.port, groups), flooded):
            end = trio.current_time() + seconds
            # A queue that was never full was not overloaded, and the healthy client is to have been there.
            while (
                trio.current_time() < end
                or not (await server.metrics())["enqueues_refused"]
                or not probe.milliseconds
            ):
                peak = max(peak, server.resident_bytes())
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    return flooded, probe, peak


class Ordinary(NamedTuple):
    """How an ordinary load was dealt with."""

    per_second: float
    cpu_us: float
    """Of the server's, for each request."""


async def ordinary(server: Server, seconds: float) -> Ordinary:
    """Return how an ordinary load is dealt with: messages in and out."""
    flooded = Flooded()
    enqueue = post("/queues/ordinary/messages", b"x" * 128)
    both = enqueue + b"POST /queues/ordinary/receive?ack=auto HTTP/1.1\r\nHost: localhost\r\n\r\n"
    used = server.cpu_seconds()
    async with flooding(Flood(server.port, [Group("ordinary", both, connections=32, depth=1, each=2)]), flooded):
        await trio.sleep(seconds)
    used = server.cpu_seconds() - used
    return Ordinary(flooded.rate(), used / max(flooded.total(), 1) * 1e6)
