"""What a queue counts, and what it shows: its statistics, and messages as a peek sees them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

import msgspec

from zapq.core.message import Lease, Message

State = Literal["ready", "delayed", "leased"]
STATES: tuple[State, ...] = ("ready", "delayed", "leased")


class Counts:
    """What a queue has done since it was made. Attributes and no more: they are counted up for each message."""

    __slots__ = (
        "acked",
        "arrived",
        "cleared",
        "dead_lettered",
        "dequeued",
        "enqueued",
        "expired",
        "leases_expired",
        "received",
        "redriven",
        "refused",
        "released",
        "returned",
    )

    def __init__(self) -> None:
        self.arrived = 0
        """Taken over: from another queue, or from what was kept. No statistic, but they may leave again."""
        self.enqueued = self.dequeued = self.received = self.acked = self.released = 0
        self.leases_expired = self.expired = self.dead_lettered = self.redriven = 0
        self.refused = self.returned = self.cleared = 0


class QueueStats(msgspec.Struct, frozen=True, gc=False):
    """What a queue holds and has done since it was made, as one consistent picture."""

    messages: int = 0
    """Held in all: ready, delayed and leased. The caps count these."""
    bytes: int = 0
    ready: int = 0
    delayed: int = 0
    leased: int = 0
    enqueued: int = 0
    dequeued: int = 0
    received: int = 0
    acked: int = 0
    released: int = 0
    leases_expired: int = 0
    expired: int = 0
    """Gone because their ttl was over."""
    dead_lettered: int = 0
    redriven: int = 0
    refused: int = 0
    returned: int = 0
    """Put back because they could not be handed over."""
    cleared: int = 0

    def emptied(self) -> QueueStats:
        """Return the same after everything was cleared."""
        cleared = self.cleared + self.messages
        return msgspec.structs.replace(self, messages=0, bytes=0, ready=0, delayed=0, leased=0, cleared=cleared)


values_of = attrgetter(*QueueStats.__struct_fields__[5:])
"""Returns what `QueueStats` tells of a `Counts`, in its order: in 0.5 us, for there may be many queues."""
Figures = tuple[int, ...]
"""The values of a `QueueStats`, in its order."""


def total(parts: Iterable[Figures | QueueStats]) -> QueueStats:
    """Return what all of `parts`, of which there is at least one, come to together."""
    rows = (msgspec.structs.astuple(part) if isinstance(part, QueueStats) else part for part in parts)
    return QueueStats(*map(sum, zip(*rows, strict=True)))


@dataclass(frozen=True, slots=True)
class MessageView:
    """A message as a peek shows it."""

    message: Message
    state: State
    receives: int
    due: float | None
    """When it will be ready again, if it is delayed or leased."""

    @classmethod
    def waiting(cls, message: Message, due: float | None = None) -> MessageView:
        """Show a message that is ready, or will be when it is due."""
        return cls(message, "ready" if due is None else "delayed", message.properties.receives, due)

    @classmethod
    def leased(cls, lease: Lease) -> MessageView:
        """Show a message that a consumer has."""
        return cls(lease.message, "leased", lease.receives, lease.deadline)

    @property
    def id(self) -> int:
        """The message's id."""
        return self.message.id

    @property
    def body(self) -> bytes:
        """The message's bytes."""
        return self.message.body

    @property
    def content_type(self) -> str:
        """The Content-Type the message's producer gave."""
        return self.message.content_type

    @property
    def group(self) -> str:
        """The group within which messages are delivered in strict order; empty if it is in none."""
        return self.message.properties.group

    @property
    def priority(self) -> int:
        """0 to 9; 9 is served first."""
        return self.message.priority

    @property
    def receive_count(self) -> int:
        """How often the message has been leased, in this queue and in those it has left."""
        return self.receives + self.message.properties.received_before
