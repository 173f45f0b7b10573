"""The families of series that Prometheus is told, each by its name, what kind it is, and what it means."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram", "info"]
Value = float | int


class Family(NamedTuple):
    """Series of one name, which is without the `_total` of a counter."""

    name: str
    kind: Kind
    help: str

    @property
    def series(self) -> str:
        """The name of its series, if it is no histogram."""
        return self.name + _SUFFIXES.get(self.kind, "")


_SUFFIXES = {"counter": "_total", "info": "_info"}


def _counted(name: str, help: str) -> Family:
    return Family(f"zapq_queue_{name}", "counter", help)


COUNTERS = {
    "enqueued": _counted("messages_enqueued", "Messages accepted."),
    "dequeued": _counted("messages_dequeued", "Messages given for good, without a lease."),
    "received": _counted("messages_received", "Deliveries under a lease."),
    "acked": _counted("messages_acked", "Messages acknowledged."),
    "released": _counted("messages_released", "Leases given back by consumers."),
    "leases_expired": _counted("lease_expirations", "Leases that ended before an acknowledgement."),
    "expired": _counted(
        "messages_expired", "Messages dropped because their ttl or the queue's retention was over."
    ),
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
LIMITS = {
    "max_messages": Family(
        "zapq_queue_limit_messages", "gauge", "Most messages the queue itself may hold, if it has a limit."
    ),
    "max_bytes": Family(
        "zapq_queue_limit_bytes", "gauge", "Most bytes the queue itself may hold, if it has a limit."
    ),
}
"""Families of those queues that are set so, by the names of the settings."""
TAKES_DEAD_LETTERS = Family(
    "zapq_queue_takes_dead_letters",
    "gauge",
    "1 for a queue that takes dead letters of another; others have no such series.",
)
OLDEST_READY = Family(
    "zapq_queue_oldest_ready_age_seconds", "gauge", "Seconds since the oldest ready message arrived in the queue."
)
OLDEST_LEASE = Family(
    "zapq_queue_oldest_lease_age_seconds", "gauge", "Seconds since the oldest lease that has not ended began."
)
WAITS = Family(
    "zapq_queue_wait_seconds",
    "histogram",
    "How long messages had waited in the queue when a consumer was first given them.",
)
LEASES = Family(
    "zapq_lease_seconds", "histogram", "How long leases lasted, from the delivery to the acknowledgement."
)
MESSAGES = Family("zapq_queue_messages", "gauge", "Messages held, by their state: ready, delayed or leased.")

SERVER: dict[str, Family] = {
    "queues": Family("zapq_queues", "gauge", "Queues that exist."),
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
    "connection_errors": Family(
        "zapq_connection_errors", "counter", "Connections ended by a server error; should stay 0."
    ),
    "log_lines_dropped": Family("zapq_log_lines_dropped", "counter", "Log lines that could not be written."),
    "storage_available": Family("zapq_storage_available", "gauge", "1 while changes can be written to the disk."),
    "journal_commits": Family("zapq_journal_commits", "counter", "Commits written to the disk."),
    "journal_changes": Family("zapq_journal_changes", "counter", "Changes in the commits that were written."),
    "journal_failures": Family("zapq_journal_failures", "counter", "Commits that could not be written."),
    "journal_pending": Family("zapq_journal_pending", "gauge", "Changes that wait to be written."),
    "engine_masters": Family("zapq_engine_masters", "gauge", "Masters of the engine that are known."),
    "engine_reachable": Family(
        "zapq_engine_reachable", "gauge", "Share of all queues whose master is connected, from 0 to 1."
    ),
    "engine_round_trips": Family("zapq_engine_round_trips", "counter", "Batches sent to the engine."),
    "engine_calls": Family("zapq_engine_calls", "counter", "Calls of the engine's functions."),
    "engine_operations": Family(
        "zapq_engine_operations", "counter", "Operations in the calls of the engine's functions."
    ),
    "engine_wait_seconds": Family(
        "zapq_engine_wait_seconds", "counter", "Seconds that all round trips to the engine took together."
    ),
    "engine_refusals": Family("zapq_engine_refusals", "counter", "Calls that the engine refused."),
    "engine_reconnects": Family(
        "zapq_engine_reconnects", "counter", "Lost connections to the engine that were made again."
    ),
    "engine_outcomes_unknown": Family(
        "zapq_engine_outcomes_unknown", "counter", "Operations whose outcome is unknown; should stay 0."
    ),
}
"""The families about the whole server, by the names their values have in the JSON."""
REQUESTS = Family(
    "zapq_requests", "counter", "Requests answered: hot on the fast road, cold by Hypercorn and Quart."
)
COMMITS = Family("zapq_journal_commit_seconds", "histogram", "How long the commits that were written took.")
REFUSALS = Family("zapq_refusals", "counter", "Requests refused, by the name of the problem.")
UPTIME = Family("zapq_uptime_seconds", "gauge", "Seconds since the server was started.")
BUILD = Family("zapq_build", "info", "1, with the versions of zapq and of Python that run.")
