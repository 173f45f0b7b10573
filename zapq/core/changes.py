"""What becomes of a queue's messages once it is written: a change for each verb that waits for the disk.

Its verb has taken what the change is about out of every other task's sight; `commit` lets the change take effect,
`revert` undoes what the verb did. `journaled.py` has the verbs, `records.py` says what is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import msgspec

from zapq.core.leases import End
from zapq.core.message import Lease, Message, Properties
from zapq.core.queue import Queue
from zapq.core.records import Entry, MessagesDeleted, Put
from zapq.limits import MAX_TURN


class Enqueued(msgspec.Struct, gc=False):
    """One new message: the change there is most of, which is written without an entry being made of it."""

    queue: Queue
    message: Message
    row: int
    due: float
    """When it is ready, if it is delayed."""

    @property
    def entries(self) -> Sequence[Entry]:
        """What is to be written."""
        return (Put(self.row, self.message.body, self.message.properties, self.due),)

    def commit(self) -> None:
        """Put the message into its line, or among the delayed ones."""
        if self.due or self.message.properties.expires < inf:
            self.queue._add(self.message, self.due, 0.0)
        else:
            self.queue._ready.append(self.message)

    def revert(self) -> None:
        """Give the room of the message back."""
        self.queue._counts.enqueued -= 1
        self.queue._hold(-1, -len(self.message.body))


@dataclass(slots=True)
class OfQueue:
    """A change of one queue."""

    queue: Queue
    entries: Sequence[Entry]
    """What is to be written."""


@dataclass(slots=True)
class EnqueuedMany(OfQueue):
    """New messages, each with when it is ready: 0 for at once."""

    messages: Sequence[Message]
    dues: Sequence[float]
    size: int

    def commit(self) -> None:
        """Put each message where it belongs."""
        for message, due in zip(self.messages, self.dues, strict=True):
            self.queue._add(message, due, 0.0)

    def revert(self) -> None:
        """Give the room of the messages back."""
        self.queue._counts.enqueued -= len(self.messages)
        self.queue._hold(-len(self.messages), -self.size)


@dataclass(slots=True)
class EnqueuedBodies(OfQueue):
    """New messages that have everything but their bodies in common."""

    first: int
    bodies: Sequence[bytes]
    properties: Properties
    size: int
    packed: bytes

    def commit(self) -> None:
        """Put the messages into their line."""
        self.queue._add_bodies(self.first, self.bodies, self.properties, self.size, self.packed)

    def revert(self) -> None:
        """Give the room of the messages back."""
        self.queue._counts.enqueued -= len(self.bodies)
        self.queue._hold(-len(self.bodies), -self.size)


@dataclass(slots=True)
class TakenAway(OfQueue):
    """Messages that are taken for good."""

    messages: Sequence[Message]
    size: int

    def commit(self) -> None:
        """Let them be gone, as they are already."""

    def revert(self) -> None:
        """Put each message at its place again."""
        self.queue._counts.dequeued -= len(self.messages)
        self.queue._hold(len(self.messages), self.size)
        for message in self.messages:
            self.queue._become_ready(message)


@dataclass(slots=True)
class Leased(OfQueue):
    """Messages that are leased. `granting`: the serials of leases that are on their way; `clock` says the time."""

    leases: Sequence[Lease]
    granting: set[int]
    clock: Callable[[], float]

    def commit(self) -> None:
        """Let the leases go on; those that were on their way for long begin now, as their answers are made."""
        now, queue = self.clock(), self.queue
        for lease in self.leases:
            self.granting.discard(lease.serial)
            if lease.serial in queue._leases and now - (lease.deadline - lease.visibility) > MAX_TURN / 2:
                queue._lease_until(lease, now + lease.visibility if lease.visibility else lease.deadline)

    def revert(self) -> None:
        """End the leases."""
        for lease in self.leases:
            self.granting.discard(lease.serial)
            if self.queue._leases.pop(lease.serial) is not None:
                self.queue._counts.received -= 1
                self.queue._become_ready(lease.message)


@dataclass(slots=True)
class AckedLate(OfQueue):
    """A message that came back, and that the holder of its expired lease acknowledges."""

    settling: set[int]
    serial: int
    message: Message

    def commit(self) -> None:
        """Let the message be gone."""
        self.settling.discard(self.serial)
        self.queue._note_acked(self.serial, self.message)

    def revert(self) -> None:
        """Put the message at its place again; its lease may still be acknowledged."""
        self.settling.discard(self.serial)
        self.queue._become_ready(self.message)
        self.queue._lapses.put(self.serial, self.message)


@dataclass(slots=True)
class Settled(OfQueue):
    """A lease that its holder ends. `settling`: the serials of those that are being settled."""

    settling: set[int]
    lease: Lease

    def revert(self) -> None:
        """Let the lease go on."""
        self.settling.discard(self.lease.serial)
        self.queue._leases.put(self.lease)
        self.queue._watch(self.lease.deadline + self.queue._leases.slack)


@dataclass(slots=True)
class Acked(Settled):
    """A message that is acknowledged."""

    def commit(self) -> None:
        """Let the message be gone."""
        self.settling.discard(self.lease.serial)
        self.queue._note_acked(self.lease.serial, self.lease.message)


@dataclass(slots=True)
class Released(Settled):
    """A message that is given back. `message`: as it is then; `due`: when it is ready, 0 for at once."""

    message: Message
    due: float

    def commit(self) -> None:
        """Put the message at its place, or among the delayed ones."""
        self._end()
        if self.due:
            self.queue._add(self.message, self.due, 0.0)
        else:
            self.queue._become_ready(self.message)

    def _end(self) -> None:
        self.settling.discard(self.lease.serial)
        self.queue._owner.note_end(self.lease.serial, End.RELEASED)
        self.queue._counts.released += 1


@dataclass(slots=True)
class Outlived(Released):
    """A message that is given back after its ttl was over."""

    def commit(self) -> None:
        """Let the message be gone."""
        self._end()
        # As a queue in memory does: that it is gone is written already.
        Queue._expire(self.queue, self.message)


@dataclass(slots=True)
class DeadLettered(Released):
    """A message that is given back as often as it may be."""

    letter: Move

    def commit(self) -> None:
        """Put the message into the dead-letter queue."""
        self._end()
        self.queue._hold(-1, -len(self.message.body))
        self.queue._counts.dead_lettered += 1
        self.letter.commit()


@dataclass(slots=True)
class Move:
    """A message on its way into `queue`, which takes it over when that is written."""

    queue: Queue
    row: int
    message: Message

    @property
    def entries(self) -> Sequence[Entry]:
        """What is to be written."""
        return (Put(self.row, self.message.body, self.message.properties),)

    def commit(self) -> None:
        """Put the message into the queue it moves to."""
        self.queue._counts.arrived += 1
        self.queue._hold(1, len(self.message.body))
        self.queue._ready.append(self.message)


@dataclass(slots=True)
class Redriving:
    """Dead letters on their way back. `pairs`: each as it is here, and as it will be there."""

    source: Queue
    base: int
    """The row of a letter without its id."""
    pairs: Sequence[tuple[Message, Move]]

    @property
    def entries(self) -> Sequence[Entry]:
        """What is to be written."""
        rows = [self.base | letter.id for letter, _ in self.pairs]
        return [MessagesDeleted(rows), *(entry for _, move in self.pairs for entry in move.entries)]

    def commit(self) -> None:
        """Put each message into the queue it failed in."""
        for letter, move in self.pairs:
            self.source.note_moved(letter)
            move.commit()
        self.source.note_redriven(len(self.pairs))

    def revert(self) -> None:
        """Put each message back into the dead-letter queue."""
        for letter, _ in self.pairs:
            self.source.keep_here(letter)
