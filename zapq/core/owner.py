"""What a queue knows of the other queues."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from zapq.core.ages import Times
from zapq.core.leases import End


class Owner(Protocol):
    """What a queue knows of the others: what all of them hold, where to report, where to send dead letters.

    `queue` is the one that calls; it knows itself as a `Holding`, and its owner as a `Queue`.
    """

    messages: int
    bytes: int
    """Held, or set aside for messages that are being received."""
    max_messages: int
    max_bytes: int
    lease_slack: float
    """Seconds by which a lease lasts longer than its deadline says."""
    lease_times: Times
    """How long leases have taken that were acknowledged."""

    @property
    def queues(self) -> Mapping[str, Any]:
        """Every queue by its name."""

    def serial(self) -> int:
        """Number a delivery."""

    def note_end(self, serial: int, end: End) -> None:
        """Remember how this delivery ended."""

    def end_of(self, serial: int) -> End:
        """Return how this delivery ended, as far as is remembered."""

    def watch(self, queue: Any, time: float) -> None:
        """Note that `queue` has something to do at `time`, earlier than known before."""

    def next_epoch(self) -> int:
        """Return an epoch for rows that no queue has."""

    def clock(self) -> float:
        """Return the time, as `now` is."""
