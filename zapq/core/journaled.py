"""A queue on disk: the verbs of `Queue`, each taking effect when the change is written (see `records.py`).

In between, no task can reach the subject of a change: a new message is in no line but has its room and its id,
one that is taken is out of its line, a lease that is settled is over except for its message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from zapq.core.changes import (
    Acked,
    AckedLate,
    DeadLettered,
    Enqueued,
    EnqueuedBodies,
    EnqueuedMany,
    Leased,
    Move,
    OfQueue,
    Outlived,
    Released,
    TakenAway,
)
from zapq.core.leases import backoff, counted
from zapq.core.message import DEFAULTS, Draft, Lease, Message, Properties
from zapq.core.queue import Owner, Queue
from zapq.core.queue_settings import QueueSettings
from zapq.core.ready import Dropped
from zapq.core.receipt import serial_of
from zapq.core.records import (
    ID_BITS,
    Change,
    Entry,
    IdsReserved,
    Journal,
    MessagesDeleted,
    MessageState,
    Put,
    PutMany,
    QueuePut,
    row_of,
)
from zapq.core.runs import Run, Taken
from zapq.errors import StorageUnavailable, ZapqError
from zapq.limits import IDS_AT_ONCE, MAX_BATCH, MAX_BATCH_BYTES


class StillSettling(Exception):
    """Another task is settling the lease: what becomes of it is known when that is written."""


class JournaledOwner(Owner, Protocol):
    """What a queue on disk knows of the others."""

    clock: Callable[[], float]
    """The time, as `now` is: a lease begins when its change is written."""

    def prepare_dead_letter(self, queue: JournaledQueue, message: Message) -> Move:
        """Return what dead-letters a message that failed in `queue`, once that is written."""


class JournaledQueue(Queue):
    """A queue whose changes go through `journal`. Its verbs also raise `StorageUnavailable`, changing nothing."""

    __slots__ = ("_granting", "_ids_kept", "_journal", "_settling", "epoch")
    _owner: JournaledOwner

    def __init__(self, *args: Any, journal: Journal, epoch: int, **named: Any) -> None:
        self._journal = journal
        self.epoch = epoch
        """Which rows are its messages."""
        self._ids_kept = IDS_AT_ONCE
        self._granting: set[int] = set()
        """Serials of leases whose consumers are not answered yet."""
        self._settling: set[int] = set()
        """Serials of leases that are being settled."""
        super().__init__(*args, **named)

    def kept(self, settings: QueueSettings | None = None, *, paused: bool | None = None) -> QueuePut:
        """Return the entry that keeps this queue, as it is or as it is to be."""
        return QueuePut(
            number=self.number,
            name=self.name,
            epoch=self.epoch,
            next_id=self._ids_kept,
            settings=self._settings if settings is None else settings,
            paused=self.paused if paused is None else paused,
        )

    def use_journal(self, journal: Journal) -> None:
        """Enter changes in `journal` from now on."""
        self._journal = journal

    def rows(self) -> Iterator[list[Entry]]:
        """Return entries for all that is held, some at a time, made as they are walked through."""
        image = self.image()
        entries: list[Entry] = []
        size = 0
        for item in image.in_order:
            row = row_of(self.epoch, item.id)
            if isinstance(item, Run):
                entries.append(PutMany(row, item.bodies(), item.properties))
                size += item.size + MAX_BATCH_BYTES * len(item) // MAX_BATCH
            else:
                entries.append(Put(row, item.body, item.properties))
                size += len(item.body) + MAX_BATCH_BYTES // MAX_BATCH
            if size >= MAX_BATCH_BYTES:
                yield entries
                entries, size = [], 0
        for message, due in image.others:
            entries.append(Put(row_of(self.epoch, message.id), message.body, message.properties, due))
            size += len(message.body) + MAX_BATCH_BYTES // MAX_BATCH
            if size >= MAX_BATCH_BYTES:
                yield entries
                entries, size = [], 0
        if entries:
            yield entries

    def set_ids_aside(self) -> None:
        """Reckon with more ids than were given; `kept` says so."""
        self._ids_kept = self._next_id + IDS_AT_ONCE

    def note_kept(self, next_id: int) -> None:
        """Take note that ids below this one are set aside on the disk."""
        self._ids_kept = next_id

    def fail(self, message: Message) -> None:
        """Send a message that is held, but not ready, to the dead-letter queue."""
        self._fail(message)

    def note_last(self) -> None:
        """Enter which ids were given: there will be no more of them."""
        self._journal.note(IdsReserved(self.number, self._next_id, final=True))

    def enqueue(
        self, body: bytes, properties: Properties = DEFAULTS, *, delay: float = 0.0, now: float = 0.0
    ) -> Message:
        """Begin to add a message."""
        # Done for each message, so no more calls than need be.
        self._journal.check()
        owner, size = self._owner, len(body)
        if owner.messages >= owner.max_messages or owner.bytes + size > owner.max_bytes or self._capped:
            self._check_room(1, size, now)
        if self._settings.ttl is not None:
            properties = self._expiring_as_set(properties, now)
        id = self._next_id
        self._next_id = id + 1
        if id >= self._ids_kept:
            self._note_ids()
        self._counts.enqueued += 1
        self.messages += 1
        self.bytes += size
        owner.messages += 1
        owner.bytes += size
        message = Message(id, body, properties)
        due = now + delay if delay > 0 else 0.0
        self._journal.add(Enqueued(self, message, self.epoch << ID_BITS | id, due))
        return message

    def enqueue_drafts(self, drafts: Sequence[Draft], *, now: float) -> int:
        """Begin to add a message for each draft, and return the first id."""
        self._journal.check()
        size = sum(len(draft.body) for draft in drafts)
        self._check_room(len(drafts), size, now)
        first = self.reserve(len(drafts))
        messages = [
            Message(first + at, draft.body, self._expiring_as_set(draft.properties(now), now))
            for at, draft in enumerate(drafts)
        ]
        self._enter(messages, [now + draft.delay if draft.delay > 0 else 0.0 for draft in drafts], size)
        return first

    def enqueue_bodies(
        self,
        bodies: Sequence[bytes],
        properties: Properties = DEFAULTS,
        *,
        size: int | None = None,
        packed: bytes = b"",
        now: float = 0.0,
    ) -> int:
        """Begin to add a message for each body, and return the first id."""
        self._journal.check()
        size = sum(map(len, bodies)) if size is None else size
        self._check_room(len(bodies), size, now)
        properties = self._expiring_as_set(properties, now)
        first = self.reserve(len(bodies))
        self._counts.enqueued += len(bodies)
        self._hold(len(bodies), size)
        entries = [PutMany(row_of(self.epoch, first), bodies, properties)]
        self._journal.add(EnqueuedBodies(self, entries, first, bodies, properties, size, packed))
        return first

    def dequeue(self, now: float = 0.0) -> Message | None:
        """Begin to remove the first ready message, and return it; None if there is none."""
        message = self._pop(now)
        if message is not None:
            self._begin_taking((message,), len(message.body))
        return message

    def dequeue_many(self, limit: int, now: float = 0.0) -> Taken:
        """Begin to remove the first ready messages."""
        taken, size = self._pop_many(limit, now)
        if len(taken):
            self._begin_taking(taken, size)
        return taken

    def put_back(self, message: Message) -> None:
        """Return a dequeued message to its original place."""
        before = self._ready.count, self._next_id
        super().put_back(message)
        # One with a new id has been noted.
        if (self._ready.count - 1, self._next_id) == before:
            self._journal.note(Put(row_of(self.epoch, message.id), message.body, message.properties))

    def receive(self, visibility: float | None = None, now: float = 0.0) -> Lease | None:
        """Begin to lease the first ready message."""
        message = self._pop(now)
        return None if message is None else self._begin_leasing((message,), visibility, now)[0]

    def receive_many(self, limit: int, visibility: float | None = None, now: float = 0.0) -> list[Lease]:
        """Begin to lease the first ready messages."""
        messages = self._pop_many(limit, now)[0]
        return self._begin_leasing(list(messages), visibility, now) if len(messages) else []

    def take_back(self, lease: Lease) -> None:
        """End a lease that could not be handed over."""
        if lease.serial in self._leases:
            message = lease.message
            self._journal.note(MessageState(row_of(self.epoch, message.id), message.properties))
        super().take_back(lease)

    def ack(self, receipt: str, now: float) -> None:
        """Begin to let the message go for good. Also raises `StillSettling`."""
        serial = serial_of(receipt, self._tag)
        lease = self._settle(serial, now)
        if lease is None:
            message = self._lapses.find(serial)
            if message is None:
                self._check_acked(serial)
                return
            self._withdraw(message)
            self._settling.add(serial)
            gone = MessagesDeleted((row_of(self.epoch, message.id),))
            self._journal.add(AckedLate(self, (gone,), self._settling, serial, message))
            return
        gone = MessagesDeleted((row_of(self.epoch, lease.message.id),))
        self._journal.add(Acked(self, (gone,), self._settling, lease))

    def release(self, receipt: str, delay: float, now: float) -> None:
        """Begin to give the message back. Also raises `StillSettling`."""
        serial = serial_of(receipt, self._tag)
        lease = self._settle(serial, now)
        if lease is None:
            raise self._over(serial)
        delay, releases = backoff(lease.message.properties.releases, delay)
        message = counted(lease, releases)
        due = now + delay if delay > 0 else 0.0
        row, settling = row_of(self.epoch, message.id), self._settling
        gone = MessagesDeleted((row,))
        change: Change
        if self._has_failed(lease):
            letter = self._owner.prepare_dead_letter(self, message)
            change = DeadLettered(self, [gone, *letter.entries], settling, lease, message, due, letter)
        elif message.properties.expires <= now:
            change = Outlived(self, [gone], settling, lease, message, due)
        else:
            state = MessageState(row, message.properties, due)
            change = Released(self, [state], settling, lease, message, due)
        self._journal.add(change)

    def extend(self, receipt: str, visibility: float | None, now: float) -> Lease:
        """Let the lease last longer. Also raises `StillSettling`."""
        if serial_of(receipt, self._tag) in self._settling:
            raise StillSettling
        return super().extend(receipt, visibility, now)

    def accept_moved(self, message: Message, properties: Properties) -> Message:
        """Take over a message another queue has held."""
        mine = super().accept_moved(message, properties)
        self._note_ids()
        self._journal.note(Put(row_of(self.epoch, mine.id), mine.body, mine.properties))
        return mine

    def prepare_move(self, message: Message, properties: Properties) -> Move:
        """Return what takes over a message another queue holds, once that is written."""
        mine = Message(self.reserve(1), message.body, properties)
        return Move(self, row_of(self.epoch, mine.id), mine)

    def reserve(self, number: int) -> int:
        """Set `number` ids aside, and return the first."""
        first = super().reserve(number)
        self._note_ids()
        return first

    def is_settling(self, receipt: str) -> bool:
        """Whether the lease is being settled, and it is not known yet what becomes of it."""
        try:
            return serial_of(receipt, self._tag) in self._settling
        except ZapqError:
            return False

    def begin_setting(self, settings: QueueSettings | None = None, *, paused: bool | None = None) -> Setting:
        """Begin to be set otherwise."""
        return Setting(self, [self.kept(settings, paused=paused)], settings, paused)

    def begin_clearing(self, epoch: int) -> Cleared:
        """Begin to drop every message: from now on, rows are those of `epoch`.

        No other task changes the queue until that is written, for the caller holds the lock.
        """
        change = Cleared(self, self.epoch)
        self.epoch = epoch
        change.entries = [self.kept()]
        return change

    def begin_replacing(self, epoch: int, messages: deque[Message], size: int) -> Replacing:
        """Begin to hold exactly `messages`, whose rows are written already, in `epoch`. Raises `QueueFull`.

        No other task changes the queue until that is written, for the caller holds the lock.
        """
        self.check_replacement(len(messages), size)
        change = Replacing(self, self.epoch, messages, size)
        self.epoch = epoch
        change.entries = [self.kept()]
        return change

    def _note_ids(self) -> None:
        if self._next_id > self._ids_kept:
            # Many at once: the highest in use is not worth a write for each message.
            self._ids_kept = self._next_id + IDS_AT_ONCE
            self._journal.note(IdsReserved(self.number, self._ids_kept))

    def _enter(self, messages: Sequence[Message], dues: Sequence[float], size: int) -> None:
        self._counts.enqueued += len(messages)
        self._hold(len(messages), size)
        entries = [
            Put(row_of(self.epoch, message.id), message.body, message.properties, due)
            for message, due in zip(messages, dues, strict=True)
        ]
        self._journal.add(EnqueuedMany(self, entries, messages, dues, size))

    def _begin_taking(self, messages: Sequence[Message], size: int) -> None:
        try:
            self._journal.check()
        except StorageUnavailable:
            for message in messages:
                self._become_ready(message)
            raise
        self._hold(-len(messages), -size)
        self._counts.dequeued += len(messages)
        if self._lapses.serials:
            for message in messages:
                self._note_given(message.id)
        ids = messages.ids() if isinstance(messages, Taken) else [message.id for message in messages]
        base = row_of(self.epoch, 0)
        self._journal.add(TakenAway(self, [MessagesDeleted([base | id for id in ids])], messages, size))

    def _begin_leasing(self, messages: Sequence[Message], visibility: float | None, now: float) -> list[Lease]:
        try:
            self._journal.check()
        except StorageUnavailable:
            for message in messages:
                self._become_ready(message)
            raise
        leases = [self._lease(message, visibility, now) for message in messages]
        entries = [
            MessageState(
                row_of(self.epoch, lease.message.id), counted(lease, lease.message.properties.releases).properties
            )
            for lease in leases
        ]
        self._granting.update(lease.serial for lease in leases)
        self._journal.add(Leased(self, entries, leases, self._granting, self._owner.clock))
        return leases

    def _settle(self, serial: int, now: float) -> Lease | None:
        """Take a lease out of its holder's hands, to be settled; None if it is over."""
        if serial in self._settling:
            raise StillSettling
        self._journal.check()
        lease = self._pop_lease(serial, now)
        if lease is not None:
            self._settling.add(serial)
        return lease

    def _lapse(self, lease: Lease, now: float) -> None:
        if lease.serial in self._granting:
            # The disk is slow. What the lease is to last counts from when its consumer is answered.
            self._lease_until(lease, now + max(lease.visibility, 1.0))
        else:
            super()._lapse(lease, now)

    def _fail(self, message: Message) -> None:
        self._journal.note(MessagesDeleted((row_of(self.epoch, message.id),)))
        super()._fail(message)

    def _expire(self, message: Message) -> None:
        self._journal.note(MessagesDeleted((row_of(self.epoch, message.id),)))
        super()._expire(message)


@dataclass(slots=True)
class Setting(OfQueue):
    """A queue that is set otherwise."""

    settings: QueueSettings | None
    paused: bool | None

    def commit(self) -> None:
        """Apply the settings."""
        if self.settings is not None:
            self.queue.configure(self.settings)
        if self.paused is not None:
            self.queue.paused = self.paused

    def revert(self) -> None:
        """Leave the settings as they were."""


@dataclass(slots=True)
class Cleared:
    """A queue that drops every message."""

    queue: JournaledQueue
    epoch_before: int
    entries: Sequence[Entry] = ()
    dropped: list[Dropped] = field(default_factory=list)
    """What it held, for the caller to free."""

    def commit(self) -> None:
        """Drop every message."""
        self.dropped = self.queue.clear()

    def revert(self) -> None:
        """Go on with the old messages, under their epoch."""
        self.queue.epoch = self.epoch_before


@dataclass(slots=True)
class Replacing:
    """A queue that will hold other messages."""

    queue: JournaledQueue
    epoch_before: int
    messages: deque[Message]
    size: int
    entries: Sequence[Entry] = ()
    dropped: list[Dropped] = field(default_factory=list)
    """What it held, for the caller to free."""

    def commit(self) -> None:
        """Put the new messages in the place of the old ones."""
        self.dropped = self.queue.swap(self.messages, self.size)

    def revert(self) -> None:
        """Go on with the old messages, under their epoch."""
        self.queue.epoch = self.epoch_before
