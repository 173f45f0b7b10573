"""What a client is given: leases, messages as a peek sees them, and what became of those it sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from zapq.core.placed import How


class Lease(msgspec.Struct, frozen=True, gc=False):
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
    headers: dict[str, str] = {}
    """What its producer said of it, by name in lower case."""
    group: str = ""
    """The group within which messages are delivered in strict order; empty if it is in none."""
    origin: str = ""
    """The queue its producer sent it to, and its id there: `queue/id`, if it has changed queues since."""

    def __hash__(self) -> int:
        return hash((self.queue, self.id, self.receipt))


class Seen(msgspec.Struct, frozen=True, gc=False):
    """A message that a queue holds, as a client sees it without taking it."""

    id: int
    state: Literal["ready", "delayed", "leased"]
    receive_count: int
    """How often it has been leased."""
    content_type: str
    body: bytes
    priority: int = 0
    headers: dict[str, str] = {}
    group: str = ""
    unique: str = ""
    """The key that at most one message of its queue has at a time."""
    visible_in: float | None = None
    """The seconds until its delay or lease is over, if it has one."""
    expires_in: float | None = None
    """The seconds until its ttl is over, if it has one."""
    failed_in: str = ""
    """The queue it failed in, if it is a dead letter."""
    origin: str = ""
    """The queue its producer sent it to, and its id there: `queue/id`, if it has changed queues since."""


class Stored(NamedTuple):
    """What became of a message that was sent."""

    id: int
    how: How = ""
    """Of one with a unique key: empty if it was stored, else `kept` or `replaced`."""
    replayed: bool = False
    """Whether it had been stored before, under the same Idempotency-Key."""
    durability: str = ""
    """What it survives, where the server says so: `memory`, `committed` or `replicated`."""


class StoredMany(NamedTuple):
    """What became of a batch that was sent."""

    ids: Sequence[int]
    """Of its messages, in order."""
    how: Sequence[How] = ()
    """What became of each, as in `Stored`, if any of them has a unique key."""
    replayed: bool = False
    """Whether it had been stored before, under the same Idempotency-Key."""
    durability: str = ""
    """What it survives, as in `Stored`."""


class Page(list[dict[str, Any]]):
    """Settings and statistics of queues, and where the next page of them begins."""

    total: int = 0
    """How many queues there are on all pages."""
    next: str = ""
    """What the next page comes after; empty on the last one."""


class Redriven(msgspec.Struct, frozen=True):
    """What became of dead letters that were sent back."""

    moved: int
    left: int
    """How many are still there."""
