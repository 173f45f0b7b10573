"""What goes to the disk together: entries, the changes that wait for them, and batches of both.

A queue on disk does everything twice. A verb first takes what it needs out of every other task's sight (a message
to be acknowledged, room for one to come) and enters a `Change` in the batch that is open. When the batch is on the
disk, each change takes effect by `commit`; if it could not be written, each is undone by `revert`, and the queue
is as if nothing had been asked. In between no other task can see or touch what the change is about, so a revert
needs to know of nothing but itself. What happens by itself (a ttl that ends, a dead letter) takes effect at once
and is only noted; notes that could not be written are written with the next batch that can.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from zapq.core.message import DEFAULTS, Properties
from zapq.core.queue_settings import QueueSettings

ID_BITS = 43
"""Bits of a row's number that are the message's id: at a hundred thousand a second they last for 2.8 years of
one queue; the 20 above them tell apart a million queues and purges."""


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


class QueueDeleted(msgspec.Struct, frozen=True):
    """A queue is no more."""

    number: int


class EpochDropped(msgspec.Struct, frozen=True):
    """Rows were written in an epoch that no queue will have."""

    epoch: int


class KeysCleared(msgspec.Struct, frozen=True):
    """No idempotency key is known any more."""


class KeyPut(msgspec.Struct, frozen=True, gc=False):
    """An idempotency key was used for a message."""

    queue: int
    key: str
    fingerprint: bytes
    id: int
    until: float


Entry = (
    Put
    | PutMany
    | MessageState
    | MessagesDeleted
    | QueuePut
    | IdsReserved
    | QueueDeleted
    | EpochDropped
    | KeysCleared
    | KeyPut
)


class Change(Protocol):
    """A change whose client waits for the disk."""

    @property
    def entries(self) -> Sequence[Entry]:
        """What is to be written for it."""

    def commit(self) -> None:
        """Take effect: the entries are on the disk."""

    def revert(self) -> None:
        """Undo what was prepared: they are not, and will not be."""


class Staged:
    """Rows that are written ahead of the change that makes them count."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries

    def commit(self) -> None:
        """Wait for that change."""

    def revert(self) -> None:
        """Change nothing: the entries are written anew, or are garbage."""


class CommitGroup:
    """Changes and notes that are written in one transaction, in the order of their beginning."""

    __slots__ = ("changes", "clock_offset", "failure", "log", "notes")

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.notes: list[Entry] = []
        self.log: list[Change | tuple[Entry]] = []
        """Both, in the order in which they came; a note as a tuple of one."""
        self.clock_offset = 0.0
        """Seconds to add to the times of the entries to get Unix time."""
        self.failure = ""
        """Why it could not be written."""

    def __bool__(self) -> bool:
        return bool(self.log)

    def add(self, change: Change) -> None:
        """Put in a change."""
        self.changes.append(change)
        self.log.append(change)

    def note(self, entry: Entry) -> None:
        """Put in what has happened already."""
        self.notes.append(entry)
        self.log.append((entry,))


class Journal(Protocol):
    """Where queues enter what is to be written."""

    def check(self) -> None:
        """Raise `StorageUnavailable` if nothing can be written at the moment."""

    def add(self, change: Change) -> None:
        """Enter a change, which commits or reverts later."""

    def note(self, entry: Entry) -> None:
        """Enter what has happened already; it will be written sooner or later."""


def in_wall_time(entry: Entry, clock_offset: float) -> Entry:
    """Return `entry` with its times in Unix time: its own and `clock_offset`."""
    replace = msgspec.structs.replace
    match entry:
        case Put() | MessageState():
            properties = replace(entry.properties, expires=entry.properties.expires + clock_offset)
            return replace(entry, properties=properties, due=entry.due + clock_offset if entry.due else 0.0)
        case PutMany():
            return replace(
                entry, properties=replace(entry.properties, expires=entry.properties.expires + clock_offset)
            )
        case KeyPut():
            return replace(entry, until=entry.until + clock_offset)
        case _:
            return entry
