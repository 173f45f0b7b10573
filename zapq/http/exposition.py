"""What `/metrics` says to Prometheus: its text format 0.0.4, and OpenMetrics 1.0.

Written here and not by prometheus_client: for 1,024 queues that holds everybody up for a sixth of a second. All
families are made one after the other, so that others have their turns in between.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Collection, Generator, Mapping, Sequence
from functools import cache
from itertools import accumulate
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import msgspec

from zapq.core.ages import BOUNDS, Oldest, Spread, age, spread_of
from zapq.core.queue_settings import QueueSettings
from zapq.core.stats import STATES, QueueStats, total
from zapq.service.queue_state import QueueInfo
from zapq.service.service_stats import ServiceStats

TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
OTHERS, DELETED = "(other)", "(deleted)"
"""Stand in the label `queue` for queues that have no series of their own; no queue can be called so."""

Kind = Literal["counter", "gauge", "histogram", "info"]
Value = float | int


class Family(NamedTuple):
    """Series of one name, which is without the `_total` of a counter."""

    name: str
    kind: Kind
    help: str


def _counted(name: str, help: str) -> Family:
    return Family(f"zapq_queue_{name}", "counter", help)


COUNTERS = {
    "enqueued": _counted("messages_enqueued", "Messages accepted."),
    "dequeued": _counted("messages_dequeued", "Messages given for good, without a lease."),
    "received": _counted("messages_received", "Deliveries under a lease."),
    "acked": _counted("messages_acked", "Messages acknowledged."),
    "released": _counted("messages_released", "Leases given back by consumers."),
    "leases_expired": _counted("lease_expirations", "Leases that were over before an acknowledgement."),
    "expired": _counted("messages_expired", "Messages dropped because their ttl or the retention was over."),
    "dead_lettered": _counted("messages_dead_lettered", "Messages moved to the dead-letter queue."),
    "redriven": _counted("messages_redriven", "Dead letters moved back by a redrive."),
    "refused": _counted("refused", "Messages refused because there was no room."),
    "returned": _counted("messages_returned", "Messages put back because they could not be handed over."),
    "cleared": _counted("messages_cleared", "Messages removed by a purge."),
}
"""The families with a series for each queue, by the names that `QueueStats` has for their values."""
BYTES = Family("zapq_queue_bytes", "gauge", "Bytes of the messages held.")
WAITING = Family("zapq_queue_waiting", "gauge", "Requests that wait for a message.")
PAUSED = Family("zapq_queue_paused", "gauge", "1 while the queue gives no messages.")
TAKES_DEAD_LETTERS = Family(
    "zapq_queue_takes_dead_letters", "gauge", "1 for a queue that dead letters of another go to."
)
LIMITS = {
    "max_messages": Family(
        "zapq_queue_limit_messages", "gauge", "Most messages the queue itself may hold, if it has a limit."
    ),
    "max_bytes": Family(
        "zapq_queue_limit_bytes", "gauge", "Most bytes the queue itself may hold, if it has a limit."
    ),
}
"""Families of those queues that are set so, by the names of the settings."""
OLDEST_READY = Family(
    "zapq_queue_oldest_ready_age_seconds", "gauge", "Seconds since the oldest ready message arrived in the queue."
)
OLDEST_LEASE = Family("zapq_queue_oldest_lease_age_seconds", "gauge", "Seconds since the oldest lease began.")
WAITS = Family(
    "zapq_queue_wait_seconds",
    "histogram",
    "How long messages had waited in the queue when a consumer was first given them.",
)
LEASES = Family("zapq_lease_seconds", "histogram", "How long leases took until they were acknowledged.")
MESSAGES = Family("zapq_queue_messages", "gauge", "Messages held, by their state.")

SERVER: dict[str, Family] = {
    "queues": Family("zapq_queues", "gauge", "Queues there are."),
    "queue_max_msgs": Family("zapq_limit_messages", "gauge", "Most messages all queues may hold together."),
    "queue_max_bytes": Family("zapq_limit_bytes", "gauge", "Most bytes all queues may hold together."),
    "bodies_bytes": Family("zapq_bodies_bytes", "gauge", "Bytes set aside for bodies that are being received."),
    "dequeues_empty": Family("zapq_receives_empty", "counter", "Requests for a message that got none."),
    "waiting": Family("zapq_waiting", "gauge", "Requests that wait for a message or for room."),
    "delivery_uncertain": Family(
        "zapq_delivery_uncertain", "counter", "Messages given for good whose arrival is unknown."
    ),
    "snapshots_written": Family("zapq_snapshots_written", "counter", "Snapshots written."),
    "snapshots_failed": Family("zapq_snapshots_failed", "counter", "Snapshots that could not be written."),
    "wire_refusals": Family("zapq_wire_refusals", "counter", "Requests refused before they were parsed."),
    "connections": Family("zapq_connections", "gauge", "Connections open now."),
    "connections_refused": Family("zapq_connections_refused", "counter", "Connections turned away at a limit."),
    "connection_errors": Family("zapq_connection_errors", "counter", "Connections ended by a server error."),
    "log_lines_dropped": Family("zapq_log_lines_dropped", "counter", "Log lines that could not be written."),
    "storage_available": Family("zapq_storage_available", "gauge", "1 while changes can be written to the disk."),
    "journal_commits": Family("zapq_journal_commits", "counter", "Commits written to the disk."),
    "journal_changes": Family("zapq_journal_changes", "counter", "Changes in these commits."),
    "journal_failures": Family("zapq_journal_failures", "counter", "Commits that could not be written."),
    "journal_pending": Family("zapq_journal_pending", "gauge", "Changes that wait to be written."),
    "engine_masters": Family("zapq_engine_masters", "gauge", "Masters of the engine that are known."),
    "engine_reachable": Family("zapq_engine_reachable", "gauge", "Part of all queues with a connected master."),
    "engine_round_trips": Family("zapq_engine_round_trips", "counter", "Batches sent to the engine."),
    "engine_calls": Family("zapq_engine_calls", "counter", "Calls of the engine's functions."),
    "engine_operations": Family("zapq_engine_operations", "counter", "Operations in these calls."),
    "engine_wait_seconds": Family("zapq_engine_wait_seconds", "counter", "Seconds of all round trips together."),
    "engine_refusals": Family("zapq_engine_refusals", "counter", "Calls the engine has refused."),
    "engine_reconnects": Family("zapq_engine_reconnects", "counter", "Times a connection was made again."),
    "engine_outcomes_unknown": Family(
        "zapq_engine_outcomes_unknown", "counter", "Operations of which is not known whether they were done."
    ),
}
"""The families about the whole server, by the names their values have in the JSON."""
REQUESTS = Family("zapq_requests", "counter", "Requests answered, by the road they took.")
COMMIT = Family("zapq_journal_commit_seconds", "gauge", "How long a commit took, of the last 1024.")
COMMITTING = Family("zapq_journal_committing_seconds", "counter", "Seconds of all commits together.")
UPTIME = Family("zapq_uptime_seconds", "gauge", "Seconds since the server was started.")
BUILD = Family("zapq_build", "info", "The version that runs.")


class Exposition:
    """Text in one of the two formats, family by family."""

    def __init__(self, *, openmetrics: bool) -> None:
        self._openmetrics = openmetrics
        self._pieces: list[bytes] = []

    def add(self, family: Family, labels: Sequence[str], values: Sequence[Value]) -> None:
        """Write a family, unless it is empty: the labels of its samples, with their braces, and their values."""
        if not labels:
            return
        name = family.name
        series = f"{name}_{_SUFFIXES[family.kind]}" if family.kind in _SUFFIXES else name
        told, kind = (name, family.kind) if self._openmetrics else (series, _KINDS.get(family.kind, family.kind))
        # One call formats them all: a loop over the samples takes twice as long.
        parts: list[object] = [None] * (2 * len(labels))
        parts[::2], parts[1::2] = labels, values
        lines = f"{series}%s %s\n" * len(labels) % tuple(parts)
        self._pieces.append(f"# HELP {told} {family.help}\n# TYPE {told} {kind}\n{lines}".encode())

    def add_spreads(self, family: Family, labels: Sequence[str], spreads: Sequence[Spread]) -> None:
        """Write a family of histograms: what the labels of each begin with, without braces, and what it counts."""
        if not labels:
            return
        lines: list[str] = []
        for label, spread in zip(labels, spreads, strict=True):
            comma, braces = ("," if label else ""), (f"{{{label}}}" if label else "")
            for bound, count in zip(_BOUNDS, accumulate(spread.counts), strict=True):
                lines.append(f'{family.name}_bucket{{{label}{comma}le="{bound}"}} {count}\n')
            lines.append(
                f"{family.name}_sum{braces} {spread.seconds}\n{family.name}_count{braces} {spread.number}\n"
            )
        head = f"# HELP {family.name} {family.help}\n# TYPE {family.name} histogram\n"
        self._pieces.append(f"{head}{''.join(lines)}".encode())

    def finish(self) -> bytes:
        """Return the whole text."""
        return b"".join(self._pieces) + (b"# EOF\n" if self._openmetrics else b"")


_SUFFIXES = {"counter": "total", "info": "info"}
_KINDS = {"info": "gauge"}
"""What the older format calls kinds it does not have."""


_BOUNDS = [*map(str, BOUNDS), "+Inf"]


class Queues(NamedTuple):
    """The queues that a scrape is to show."""

    own: Sequence[QueueInfo]
    """Those with series of their own."""
    others: Sequence[QueueInfo]
    """Those that share one series in each family."""
    deleted: QueueInfo | None
    """What queues that are no more have done, if it is known and asked for."""
    of_dead_letters: Collection[str | None] = ()
    """The names of those that dead letters go to."""


def share(
    infos: Sequence[QueueInfo],
    limit: int,
    deleted: QueueInfo | None,
    of_dead_letters: Collection[str | None] = (),
) -> Queues:
    """Give the first `limit` queues that were made series of their own.

    By age and by nothing that changes: series that come and go are worse than none.
    """
    oldest_first = sorted(infos, key=attrgetter("number"))
    return Queues(oldest_first[:limit], oldest_first[limit:], deleted, of_dead_letters)


def of_deleted(stats: ServiceStats) -> QueueInfo | None:
    """Return what queues that are no more have done, as of one; None if that is not known."""
    if stats.deleted is None:
        return None
    return QueueInfo(DELETED, QueueSettings(), stats.deleted, False, 0, waits=stats.deleted_waits)


def write(
    shown: Queues,
    now: float,
    figures: Mapping[str, Any] | None,
    leases: Spread | None,
    process: Mapping[Family, Value],
    *,
    openmetrics: bool,
) -> Generator[None, Any, bytes]:
    """Return the text about `shown` and, if there are `figures` as the JSON has them, the server.

    It is as of `now`, of Trio's clock; `leases` are those of all queues.

    Yields between families, so that others can have a turn.
    """
    text = Exposition(openmetrics=openmetrics)
    infos = [*shown.own, *([_sum_up(shown.others)] if shown.others else [])]
    deleted = [] if shown.deleted is None else [shown.deleted]
    labels = [f'{{queue="{info.name}"}}' for info in (*infos, *deleted)]
    # All that counts, by column: to ask each queue for each figure takes longer than to write it.
    rows = [msgspec.structs.astuple(info.stats) for info in (*infos, *deleted)]
    names = QueueStats.__struct_fields__
    columns: dict[str, Sequence[int]] = dict(
        zip(names, zip(*rows, strict=True) if rows else [()] * len(names), strict=True)
    )
    there = slice(len(infos))
    yield
    states = [f'{{queue="{info.name}",state="{state}"}}' for state in STATES for info in infos]
    text.add(MESSAGES, states, [number for state in STATES for number in columns[state][there]])
    yield
    text.add(BYTES, labels[there], columns["bytes"][there])
    text.add(WAITING, labels[there], [info.waiting for info in infos])
    yield
    text.add(PAUSED, labels[: len(shown.own)], [int(info.paused) for info in shown.own])
    of_dead_letters = [f'{{queue="{info.name}"}}' for info in shown.own if info.name in shown.of_dead_letters]
    text.add(TAKES_DEAD_LETTERS, of_dead_letters, [1] * len(of_dead_letters))
    for name, family in LIMITS.items():
        limited = [info for info in shown.own if getattr(info.settings, name) is not None]
        limits = [getattr(info.settings, name) for info in limited]
        text.add(family, [f'{{queue="{info.name}"}}' for info in limited], limits)
    yield
    known = [info for info in infos if info.oldest is not None]
    aged = [f'{{queue="{info.name}"}}' for info in known]
    for family, at in ((OLDEST_READY, 0), (OLDEST_LEASE, 1)):
        text.add(family, aged, [round(age(info.oldest[at], now), 3) for info in known if info.oldest is not None])
    for name, family in COUNTERS.items():
        yield
        text.add(family, labels, columns[name])
    yield
    waits = [(f'queue="{info.name}"', info.waits) for info in (*infos, *deleted) if info.waits is not None]
    text.add_spreads(WAITS, [label for label, _ in waits], [spread for _, spread in waits])
    if leases is not None:
        text.add_spreads(LEASES, [""], [leases])
    if figures is not None:
        _write_server(text, figures)
    for family, number in process.items():
        text.add(family, [""], [number])
    text.add(BUILD, [f'{{version="{_version()}",python="{platform.python_version()}"}}'], [1])
    return text.finish()


@cache
def _version() -> str:
    return importlib.metadata.version("zapq")


def _write_server(text: Exposition, figures: Mapping[str, Any]) -> None:
    text.add(UPTIME, [""], [figures["uptime_sec"]])
    roads = ("hot", "cold")
    text.add(REQUESTS, [f'{{path="{road}"}}' for road in roads], [figures[f"{road}_requests"] for road in roads])
    for name, family in SERVER.items():
        if name in figures:
            text.add(family, [""], [figures[name]])
    if "journal_commits" in figures:
        commits = [figures[f"journal_commit_{name}_seconds"] for name in ("p50", "p99")]
        text.add(COMMIT, ['{quantile="0.5"}', '{quantile="0.99"}'], commits)
        text.add(COMMITTING, [""], [figures["journal_commit_seconds"]])


def _sum_up(infos: Sequence[QueueInfo]) -> QueueInfo:
    stats, waiting = total([info.stats for info in infos]), sum(info.waiting for info in infos)
    known = [info.oldest for info in infos if info.oldest is not None]
    oldest = Oldest(*map(min, zip(*known, strict=True))) if known else None
    waits = spread_of(info.waits for info in infos if info.waits is not None) if known else None
    return QueueInfo(OTHERS, QueueSettings(), stats, False, waiting, 0, oldest, waits)
