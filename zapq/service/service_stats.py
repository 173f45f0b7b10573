"""What a service shows of all its queues together."""

from __future__ import annotations

from dataclasses import dataclass, field

from zapq.core.ages import Oldest, Spread
from zapq.core.stats import QueueStats
from zapq.service.engine_stats import EngineStats
from zapq.service.journal import JournalStats


@dataclass(frozen=True, slots=True)
class ServiceStats:
    """What the service holds and has done, as one consistent picture."""

    queue: QueueStats
    """All queues together, deleted ones included."""
    queues: int
    max_messages: int
    max_bytes: int
    dequeues_empty: int
    waiting: int
    draining: bool
    delivery_uncertain: int
    bytes_reserved: int
    """For messages that are being received."""
    snapshots_written: int
    snapshots_failed: int
    journal: JournalStats | None = None
    """The journal's, if the queues are on the disk."""
    engine: EngineStats | None = None
    """What there is to know of the engine, if the queues are in one elsewhere."""
    elsewhere: dict[str, int] = field(default_factory=dict)
    """What processes other than the one that was asked have counted, by the names of the metrics."""
    deleted: QueueStats | None = None
    """What queues that are no more have done; None if the engine does not know it apart."""
    oldest: Oldest | None = None
    """Since when the oldest message and lease of all are there, by Trio's clock; None if that is not known."""
    lease_times: Spread | None = None
    """How long leases took that were acknowledged, of all queues; None if that is not known."""
    deleted_waits: Spread | None = None
    """How long messages had waited that queues gave which are no more; None if that is not known."""
