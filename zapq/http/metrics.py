"""What `/metrics` says: the service's counts, the server's, and what the process holds open."""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from errno import EMFILE

import trio
from msgspec import UNSET, UnsetType

from zapq import logs
from zapq.core.ages import Oldest, age
from zapq.http import problems
from zapq.http.refused import LastRefused, Refused
from zapq.limits import MAX_OTHER_BODIES_BYTES
from zapq.service.engine_stats import EngineStats
from zapq.service.journal import JournalStats
from zapq.service.reservation import Budget
from zapq.service.service_stats import ServiceStats

REFUSAL = "refused: "
"""What a problem's name has before it among figures of other processes; the JSON does not show these."""
AGES = ("oldest_ready_age_seconds", "oldest_lease_age_seconds")
"""What JSON calls how long the oldest message has been there, and the oldest lease."""


@dataclass(slots=True)
class ServerCounts:
    """What one server counts about its connections and requests."""

    started: float = field(default_factory=time.monotonic)
    connections: int = 0
    """Open now."""
    connections_refused: int = 0
    """Turned away at --max-connections or --max-connections-per-address, or because no descriptor was left."""
    connection_errors: int = 0
    """Connections ended by an error of ours, each contained and logged."""
    wire_refusals: int = 0
    """Requests refused before they were parsed."""
    hot_requests: int = 0
    """Answered from the bytes, without Hypercorn and Quart."""
    cold_requests: int = 0
    """Answered by Hypercorn and Quart."""
    refusals: Counter[str] = field(default_factory=Counter)
    """By the name of the problem."""
    last_refused: LastRefused = field(default_factory=LastRefused)
    other_bodies: Budget = field(default_factory=lambda: Budget(MAX_OTHER_BODIES_BYTES))
    """For bodies that are being received and are no messages."""

    def note_refusal(self, refused: Refused) -> None:
        """Count a request that was refused, and remember it for a while."""
        self.refusals[refused.problem] += 1
        self.last_refused.note(refused)


def as_json(stats: ServiceStats, counts: ServerCounts, now: float) -> dict[str, int | float | str]:
    """Return the metrics by name, as they are `now`, of Trio's clock; the first nine are the original's."""
    queue = stats.queue
    metrics: dict[str, int | float] = {
        "uptime_sec": round(time.monotonic() - counts.started, 3),
        "enqueues": queue.enqueued,
        "dequeues_ok": queue.dequeued,
        "dequeues_empty": stats.dequeues_empty,
        "queue_length": queue.messages,
        "queue_bytes": queue.bytes,
        "open_fds": 0,
        "max_fds": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "goroutines": 0,
        "queues": stats.queues,
        "queue_max_msgs": stats.max_messages,
        "queue_max_bytes": stats.max_bytes,
        "bodies_bytes": stats.bytes_reserved,
        "messages_ready": queue.ready,
        "messages_delayed": queue.delayed,
        "messages_leased": queue.leased,
        "receives": queue.received,
        "acks": queue.acked,
        "releases": queue.released,
        "leases_expired": queue.leases_expired,
        "messages_expired": queue.expired,
        "messages_dead_lettered": queue.dead_lettered,
        "messages_redriven": queue.redriven,
        "enqueues_refused": queue.refused,
        "dequeues_returned": queue.returned,
        "messages_cleared": queue.cleared,
        "delivery_uncertain": stats.delivery_uncertain,
        "snapshots_written": stats.snapshots_written,
        "snapshots_failed": stats.snapshots_failed,
        "waiting": stats.waiting,
        "requests": 0,
        "hot_requests": 0,
        "cold_requests": 0,
        "wire_refusals": 0,
        "connections": 0,
        "connections_refused": 0,
        "connection_errors": 0,
        "log_lines_dropped": 0,
        **{name: old for name, old in zip(AGES, ages(stats.oldest, now), strict=True) if old is not UNSET},
        **({} if stats.journal is None else _journal(stats.journal)),
    }
    for figures in (grown(counts), there_now(counts), stats.elsewhere):
        for name, value in figures.items():
            if not name.startswith(REFUSAL):
                metrics[name] += value
    return {**metrics, **_engine(stats.engine)} if stats.engine is not None else {**metrics}


def refusals(stats: ServiceStats, counts: ServerCounts) -> dict[str, int]:
    """Return how many requests were refused, by the name of every problem there is, and by codes only SQS has."""
    others = (Counter({name: number}) for name, number in stats.elsewhere.items() if name.startswith(REFUSAL))
    found = Counter({REFUSAL + name: number for name, number in counts.refusals.items()})
    for other in others:
        found.update(other)
    names = problems.meanings().keys() | {name.removeprefix(REFUSAL) for name in found}
    return {name: found[REFUSAL + name] for name in sorted(names)}


def grown(counts: ServerCounts) -> dict[str, int]:
    """Return what one server process has counted that only grows, by the names of the metrics."""
    return {
        "requests": counts.hot_requests + counts.cold_requests,
        "hot_requests": counts.hot_requests,
        "cold_requests": counts.cold_requests,
        "wire_refusals": counts.wire_refusals,
        "connections_refused": counts.connections_refused,
        "connection_errors": counts.connection_errors,
        "log_lines_dropped": logs.lines_dropped(),
        **{REFUSAL + name: number for name, number in counts.refusals.items()},
    }


def there_now(counts: ServerCounts | None = None) -> dict[str, int]:
    """Return what there is now in one process, by the names of the metrics; with `counts`, of its server."""
    return {
        "open_fds": open_descriptors(),
        # The original counts goroutines; Trio's tasks are what they are here, and dashboards know the name.
        "goroutines": trio.lowlevel.current_statistics().tasks_living,
        **(
            {} if counts is None else {"connections": counts.connections, "bodies_bytes": counts.other_bodies.used}
        ),
    }


def ages(oldest: Oldest | None, now: float) -> tuple[float | UnsetType, float | UnsetType]:
    """Return the value of each of `AGES`; `UNSET` for what is not known, which is left out."""
    if oldest is None:
        return UNSET, UNSET
    lease = UNSET if oldest.lease is None else round(age(oldest.lease, now), 3)
    return round(age(oldest.ready, now), 3), lease


def _journal(stats: JournalStats) -> dict[str, int | float]:
    return {
        "storage_available": int(stats.available),
        "journal_commits": stats.commits,
        "journal_changes": stats.changes,
        "journal_failures": stats.failures,
        "journal_pending": stats.pending,
        "journal_commit_seconds": round(stats.seconds, 6),
        "journal_commit_p50_seconds": round(stats.p50, 6),
        "journal_commit_p99_seconds": round(stats.p99, 6),
    }


def _engine(stats: EngineStats) -> dict[str, int | float | str]:
    return {
        "engine": stats.servers,
        "engine_durability": stats.durability,
        "engine_masters": stats.masters,
        "engine_reachable": round(stats.reachable, 3),
        "engine_round_trips": stats.round_trips,
        "engine_calls": stats.calls,
        "engine_operations": stats.operations,
        "engine_wait_seconds": round(stats.wait_seconds, 6),
        "engine_refusals": stats.refusals,
        "engine_reconnects": stats.reconnects,
        "engine_outcomes_unknown": stats.outcomes_unknown,
        "engine_figures_age_sec": round(stats.figures_age, 3),
    }


def open_descriptors() -> int:
    """Return how many file descriptors this process has open; -1 if that is unknown."""
    with suppress(OSError):
        # Linux from 6.2 on says it here, at once and without a descriptor for a listing; older ones say 0.
        if number := os.stat("/proc/self/fd").st_size:
            return number
    for directory in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(directory)) - 1  # one is the listing's own
        except OSError as error:
            if error.errno == EMFILE:
                return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return -1
