"""What is written of queues, record by record: what became of messages, of queues, and of keys.

`gather.py` sorts the records of one commit by table; `journal.py` tells when they are entered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, repeat

import msgspec

from zapq.core.image import QueueImage
from zapq.core.message import DEFAULTS, Properties
from zapq.core.queue_settings import QueueSettings
from zapq.core.runs import Run
from zapq.limits import MAX_BATCH, MAX_BATCH_BYTES

ID_BITS = 43
"""Bits of a row's number that are the message's id: at a hundred thousand a second they last for 2.8 years of
one queue; the 20 above them tell apart a million queues and purges."""

MAX_ID = (1 << ID_BITS) - 1


def row_of(epoch: int, id: int) -> int:
    """Return the number of the row that keeps the message with this id."""
    return epoch << ID_BITS | id


class Put(msgspec.Struct, frozen=True, gc=False):
    """A message is there."""

    row: int
    body: bytes
    properties: Properties = DEFAULTS
    due: float = 0.0
    """When it is ready, if it is delayed."""


class PutMany(msgspec.Struct, frozen=True, gc=False):
    """Messages are there that have everything but their bodies in common, and rows one after the other."""

    first: int
    bodies: Sequence[bytes]
    properties: Properties = DEFAULTS
    packed: bytes = b""
    """The bodies as an array of msgpack, if they came as one."""


class MessageState(msgspec.Struct, frozen=True, gc=False):
    """A message that was there is known to be otherwise now: delivered once more, or delayed."""

    row: int
    properties: Properties
    due: float = 0.0


class MessagesDeleted(msgspec.Struct, frozen=True, gc=False):
    """Messages are no more."""

    rows: Sequence[int]


class QueuePut(msgspec.Struct, frozen=True):
    """A queue is there, and is set so."""

    number: int
    name: str
    epoch: int
    """Which rows are its messages. Those of an epoch no queue has are gone, all at once."""
    next_id: int
    """No message has had this id or a greater one."""
    settings: QueueSettings
    paused: bool


class IdsReserved(msgspec.Struct, frozen=True):
    """A queue has set ids aside, or will give no more."""

    queue: int
    next_id: int
    final: bool = False
    """Whether no id behind this one was given; otherwise the highest number ever entered counts."""


class ArrivalsNoted(msgspec.Struct, frozen=True, gc=False):
    """When ids of a queue were given; it takes the place of what was known before."""

    queue: int
    entries: Sequence[tuple[int, float]]


class QueueDeleted(msgspec.Struct, frozen=True):
    """A queue is no more."""

    number: int


class EpochDropped(msgspec.Struct, frozen=True):
    """Rows were written in an epoch that no queue will have."""

    epoch: int


class KeysCleared(msgspec.Struct, frozen=True):
    """No idempotency key is known any more."""


class KeysForgotten(msgspec.Struct, frozen=True):
    """Idempotency keys are not known any more."""

    keys: Sequence[tuple[int, str]]
    """Each after the number of its queue."""


class KeyPut(msgspec.Struct, frozen=True, gc=False):
    """An idempotency key was used for a message."""

    queue: int
    key: str
    fingerprint: bytes
    id: int
    until: float


Record = (
    Put
    | PutMany
    | MessageState
    | MessagesDeleted
    | QueuePut
    | IdsReserved
    | ArrivalsNoted
    | QueueDeleted
    | EpochDropped
    | KeysCleared
    | KeysForgotten
    | KeyPut
)


def rows_of(image: QueueImage, epoch: int) -> Iterator[list[Record]]:
    """Yield records for all that `image` holds, those of one commit together, made as they are walked through."""
    records: list[Record] = []
    size = 0
    for item, due in chain(zip(image.in_order, repeat(0.0)), image.others):
        row = row_of(epoch, item.id)
        if isinstance(item, Run):
            records.append(PutMany(row, item.bodies(), item.properties))
            size += item.size + MAX_BATCH_BYTES * len(item) // MAX_BATCH
        else:
            records.append(Put(row, item.body, item.properties, due))
            size += item.size + MAX_BATCH_BYTES // MAX_BATCH
        if size >= MAX_BATCH_BYTES:
            yield records
            records, size = [], 0
    if records:
        yield records
