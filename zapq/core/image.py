"""What outlives a process of a queue: its settings, and its messages with when they are ready. No leases."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import msgspec

from zapq.core.deadlines import Entry
from zapq.core.leases import counted
from zapq.core.message import Lease, Message
from zapq.core.queue_settings import QueueSettings
from zapq.core.runs import Run, flatten


class QueueImage(msgspec.Struct, kw_only=True, gc=False):
    """One queue as it is kept. Times are those of the clock `now` is read from."""

    name: str
    settings: QueueSettings
    paused: bool = False
    next_id: int = 1
    """No message has had this id or a greater one."""
    arrived: Sequence[tuple[int, float]] = ()
    """When ids were given: some of them, in order, each with its time. Empty if that is not known."""
    in_order: deque[Message | Run]
    """Ready messages that have nothing special about them but their type, in order of their ids."""
    others: Iterable[tuple[Message, float]]
    """All the others, each with when it is ready: 0 for at once. Leased messages have counted the delivery.

    To be walked through once: it may be that only then they are made.
    """


class KeptQueue(NamedTuple):
    """One queue as the disk keeps it."""

    number: int
    epoch: int
    """Which rows are its messages."""
    image: QueueImage


class KeyImage(NamedTuple):
    """An Idempotency-Key that was used."""

    queue: str
    key: str
    fingerprint: bytes
    id: int
    until: float


class Image(msgspec.Struct, gc=False):
    """Everything that is kept."""

    queues: list[QueueImage]
    keys: Iterable[KeyImage] = ()
    """In the order they were used in. To be walked through once, as `others`."""


def in_no_order(
    in_order: list[deque[Message | Run]],
    apart: list[Entry[Message]],
    delayed: list[Entry[Message]],
    leases: list[Lease],
) -> Iterator[tuple[Message, float]]:
    """Yield messages with when they are ready."""
    for message in chain(flatten(chain.from_iterable(in_order)), (entry.value for entry in apart)):
        yield message, 0.0
    for entry in delayed:
        yield entry.value, entry.time
    for lease in leases:
        yield counted(lease), 0.0
