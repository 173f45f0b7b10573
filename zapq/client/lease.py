"""One delivery of a message, as a client holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Lease:
    """One delivery of a message: no other consumer gets it until it is settled or its visibility is over."""

    queue: str
    id: int
    """The message's."""
    receipt: str
    """The handle by which it is acknowledged, released or extended; worth nothing once the lease is over."""
    receive_count: int
    """How often the message has been leased, this time included."""
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What its producer said of it, by name in lower case."""
    group: str = ""
    """The group within which messages are delivered in strict order; empty if it is in none."""
    origin: str = ""
    """The queue its producer sent it to, and its id there: `queue/id`, if it has changed queues since."""
