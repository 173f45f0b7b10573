"""Running out: of descriptors with five hundred clients at the door, and of patience with 1,500 that are slow.

Through all of it a healthy client asks on a connection of its own, and another on a new one each time. Each must
be answered or turned away at once, never left hanging; and soon after the others have left all is as it was.
"""

from __future__ import annotations

import random
import tempfile
from collections import defaultdict, deque
from datetime import datetime
from pathlib import Path
from typing import Any

import trio

from bench import rig
from bench.torture.overload import post
from bench.torture.probe import Probe, percentile
from bench.torture.report import Report
from bench.torture.server import Server, running
from bench.torture.siege import BIG, Besieged, Siege, besieging
from zapq.limits import KIB, MAX_UNSENT_BYTES, MIB

DESCRIPTORS = 64
CLIENTS = 500
HEADS, BODIES, NON_READERS = 1000, 300, 200
SECONDS = 60.0
MESSAGES = 150
"""Of 128 KiB: more than fit into one batch."""
LATENCY_MS = 250.0
RECOVERY_SECONDS = 7.0
NEVER_SECONDS = 30.0
"""After which nobody waits for it any longer."""
LINES_A_SECOND = 10
CAP = 64 * MIB
ALLOWANCE = 96 * MIB
"""What the server may hold beside its messages and the answers it is sending."""
CLEAN = {200, 202, 204, 429, 503, 0}
"""0: turned away."""


async def run(seed: int, scale: float) -> Report:
    """Run out of both, one after the other."""
    report = Report()
    rng = random.Random(seed)
    await few_descriptors(report, rng, scale)
    await siege(report, rng, scale)
    return report


async def few_descriptors(report: Report, rng: random.Random, scale: float) -> None:
    """Let `CLIENTS` come to a server that may open `DESCRIPTORS`."""
    wrapper = [*rig.cores()[0], "prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}"]
    besieged = Besieged()
    who = Siege(0, rng.getrandbits(32), comers=max(2 * DESCRIPTORS, int(CLIENTS * scale)))
    with tempfile.TemporaryDirectory() as directory:
        async with running(Path(directory), wrapper=wrapper) as server:
            who.port = server.port
            healthy, fresh = Probe(server.port), Probe(server.port, fresh=True)
            await healthy.ask()
            before = await State.of(server)
            async with trio.open_nursery() as probes:
                probes.start_soon(healthy.run, 0.02)
                async with besieging(who, besieged):
                    probes.start_soon(fresh.run, 0.1)
                    await trio.sleep(SECONDS / 4 * scale)
                    while not fresh.milliseconds:  # on a busy machine a short run is over before that
                        await trio.sleep(0.01)
                probes.cancel_scope.cancel()
            recovered = await State.wait_for(before, server)
            code = await server.stop()
            lines, complaints = server.lines(), server.complaints()
    report.figures["few_descriptors"] = {
        "clients": who.comers,
        "answered": besieged.answered,
        "turned_away": besieged.turned_away,
        "hung": besieged.hung,
        **_outcome(report, "with few descriptors", healthy, fresh, recovered, lines, complaints, code),
    }
    report.expect(besieged.answered > 0, "with few descriptors nobody was answered")
    report.expect(bool(besieged.turned_away), "with few descriptors nobody was turned away")
    report.expect(not besieged.hung, f"with few descriptors {besieged.hung} clients were left hanging")
    report.expect(not healthy.refused, "with few descriptors a client that was there before was cut off")


async def siege(report: Report, rng: random.Random, scale: float) -> None:
    """Let the slow ones come, all at once."""
    besieged = Besieged()
    who = Siege(
        0, rng.getrandbits(32), int(HEADS * scale) + 1, int(BODIES * scale) + 1, int(NON_READERS * scale) + 1
    )
    flags = ("--max-bytes", str(CAP))
    peak = 0
    with tempfile.TemporaryDirectory() as directory:
        async with running(Path(directory), *flags, wrapper=rig.cores()[0]) as server:
            who.port = server.port
            for _ in range(max(20, int(MESSAGES * scale))):
                await server.ask("POST", f"/queues/{BIG}/messages", rng.randbytes(128 * KIB))
            talk = (
                post("/queues/talk/messages", b"x" * 128),
                post("/queues/talk/receive?ack=auto", b""),
                b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
            )
            healthy, fresh = Probe(server.port, talk), Probe(server.port, fresh=True)
            # Twice: a body that has come, or an answer that is made, is there as a copy for a moment.
            most = 2 * (CAP + MAX_UNSENT_BYTES) + ALLOWANCE + server.others_bytes()
            await healthy.ask()
            before = await State.of(server)
            async with trio.open_nursery() as probes:
                probes.start_soon(healthy.run, 0.02)
                probes.start_soon(fresh.run, 0.25)
                async with besieging(who, besieged):
                    end = trio.current_time() + SECONDS * scale
                    while trio.current_time() < end or not fresh.milliseconds:
                        peak = max(peak, server.resident_bytes())
                        await trio.sleep(0.05)
                probes.cancel_scope.cancel()
            recovered = await State.wait_for(before, server)
            metrics = await server.metrics()
            code = await server.stop()
            lines, complaints = server.lines(), server.complaints()
    report.figures["siege"] = {
        "visits": besieged.visits,
        "turned_away": besieged.turned_away,
        "rss_peak_mib": round(peak / MIB, 1),
        "most_mib": most // MIB,
        **_outcome(report, "besieged", healthy, fresh, recovered, lines, complaints, code),
    }
    report.expect(not metrics["connection_errors"], "besieged, connections ended by errors of the server's own")
    report.expect(peak <= most, f"besieged, {peak / MIB:.0f} MiB resident, and {most // MIB} at most is promised")


class State:
    """What a server holds open when nobody but one client is there."""

    def __init__(self, descriptors: int, tasks: float, connections: float) -> None:
        self.descriptors = descriptors
        self.tasks = tasks
        self.connections = connections

    @classmethod
    async def of(cls, server: Server) -> State:
        """Return that of now."""
        metrics = await server.metrics()
        return cls(server.descriptors(), metrics["goroutines"], metrics["connections"])

    @staticmethod
    async def wait_for(before: State, server: Server) -> float:
        """Return after how many seconds a new client is served and no more is open than before; -1 if never."""
        begun = trio.current_time()
        with trio.move_on_after(NEVER_SECONDS):
            while True:
                try:
                    now = await State.of(server)
                except (OSError, EOFError, trio.BrokenResourceError):
                    pass
                else:
                    if (
                        now.descriptors <= before.descriptors
                        and now.tasks <= before.tasks
                        and now.connections <= before.connections
                    ):
                        return trio.current_time() - begun
                await trio.sleep(0.05)
        return -1


def loudest(lines: list[dict[str, Any]]) -> tuple[int, str]:
    """Return how many lines there were of one kind within one second, at most, and of which."""
    recent: dict[str, deque[float]] = defaultdict(deque)
    most, of = 0, ""
    for line in lines:
        if "time" not in line:
            continue
        kind = f"{line['msg']} {line.get('status', '')}".strip()
        moment = datetime.fromisoformat(line["time"][:26]).timestamp()
        times = recent[kind]
        times.append(moment)
        while times[0] <= moment - 0.9:  # two clocks, and a line is let through a moment before its time is taken
            times.popleft()
        if len(times) > most:
            most, of = len(times), kind
    return most, of


def _outcome(
    report: Report,
    when: str,
    healthy: Probe,
    fresh: Probe,
    recovered: float,
    lines: list[dict[str, Any]],
    complaints: list[str],
    code: int,
) -> dict[str, object]:
    """Judge what both parts must keep to, and return the figures."""
    loud, of = loudest(lines)
    for name, probe in (("healthy", healthy), ("new", fresh)):
        p99 = percentile(probe.milliseconds, 0.99)
        strange = set(probe.statuses) - CLEAN - {-1}
        report.expect(not strange, f"{when} the {name} client was answered {sorted(strange)}")
        report.expect(not probe.hung, f"{when} the {name} client was left hanging {probe.hung} times")
        report.expect(bool(probe.milliseconds), f"{when} the {name} client never got to ask")
        report.expect_figure(
            p99 < LATENCY_MS, f"{when} the {name} client waited {p99:.0f} ms at the 99th percentile"
        )
    report.expect(recovered >= 0, f"{when} it did not recover in {NEVER_SECONDS:g} s")
    report.expect_figure(recovered <= RECOVERY_SECONDS, f"{when} it took {recovered:.1f} s to recover")
    report.expect(loud <= LINES_A_SECOND, f"{when} it logged {loud} lines within a second: {of}")
    report.expect(not complaints, f"{when} it logged {complaints[:3]}")
    report.expect(code == 0, f"{when} it ended with {code}")
    return {
        "healthy_statuses": healthy.statuses,
        "healthy_p99_ms": round(percentile(healthy.milliseconds, 0.99), 1),
        "healthy_max_ms": round(max(healthy.milliseconds, default=0), 1),
        "fresh_statuses": fresh.statuses,
        "fresh_p99_ms": round(percentile(fresh.milliseconds, 0.99), 1),
        "recovered_after": round(recovered, 2),
        "log_lines": len(lines),
        "log_lines_a_second": loud,
        "exit_code": code,
    }
