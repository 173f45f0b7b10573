"""The leases of one queue: whose turn each message is, and which of them ends first.

Most leases of a queue last equally long, so they end in the order in which they began. Those stay in one ordered
dictionary, where entering one and ending one are a step each, however many there are. The few that end before
one that began earlier, and those that never end, are kept in `Deadlines`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from enum import IntEnum
from heapq import merge
from itertools import chain, islice, takewhile
from math import inf
from operator import attrgetter

import msgspec

from zapq.core.ages import LiveNotes
from zapq.core.deadlines import SPARSE_FACTOR, WORTH_SHRINKING, Container, Deadlines
from zapq.core.message import Lease, Message
from zapq.core.unwalked import unwalked
from zapq.limits import BACKOFF, LAPSES_REMEMBERED, LEASES_INDEXED, MAX_BACKOFF, RELEASES_AT_ONCE

_deadline = attrgetter("deadline")


class End(IntEnum):
    """How a lease ended, as far as is remembered."""

    UNKNOWN = 0
    ACKED = 1
    RELEASED = 2
    EXPIRED = 3
    """Its message was ready again then."""
    GIVEN = 4
    """It expired, and its message was given out again since."""
    DEAD_LETTERED = 5
    """It expired, and its message was a dead letter then."""
    OUTLIVED = 6
    """It expired, and then its message."""
    DELETED = 7
    """It expired, and its message was deleted since."""
    REPLACED = 8
    """It expired, and a producer has replaced its message since."""

    @property
    def sentence(self) -> str:
        """What the holder of the lease is told when it comes too late."""
        return f"{_SENTENCES[self]} Nothing was changed."


_IN_TIME = "Receive with a longer visibility, or extend the lease in time."
_SENTENCES = {
    End.UNKNOWN: "The lease is over: it expired or was settled, or the queue was purged.",
    End.ACKED: "The lease is over: the message was acknowledged already.",
    End.RELEASED: "The lease is over: the message was released already.",
    End.EXPIRED: f"The lease expired. {_IN_TIME}",
    End.GIVEN: f"The lease expired, and the message was given out again. {_IN_TIME}",
    End.DEAD_LETTERED: "The lease expired, and the message, delivered too often, went to the dead-letter queue.",
    End.OUTLIVED: "The lease expired, and so did the message: its ttl was over, or the queue's retention.",
    End.REPLACED: f"The lease expired, and a producer has replaced the message since. {_IN_TIME}",
    End.DELETED: "The lease expired, and an administrator has deleted the message since.",
}


class Lapses:
    """Leases that expired and whose message was not given out since, newest last: their holders may still ack."""

    __slots__ = ("_messages", "serials")

    def __init__(self) -> None:
        # A plain dictionary that only loses its first entries walks over the places of all that are gone.
        self._messages: OrderedDict[int, Message] = unwalked(OrderedDict())
        """By the lease's serial."""
        self.serials: dict[int, int] = {}
        """By the message's id. To be read only: looking whether there are any is cheaper than `len`."""

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, serial: int, message: Message) -> None:
        """Enter a lease and its message, as it came back; at the limit the oldest is forgotten."""
        if len(self._messages) >= LAPSES_REMEMBERED:
            self.pop(next(iter(self._messages.values())).id)
        self._messages[serial] = message
        self.serials[message.id] = serial

    def find(self, serial: int) -> Message | None:
        """Return the message of a lease that is here, or None."""
        return self._messages.get(serial)

    def pop(self, id: int) -> int | None:
        """Forget the lease of this message and return its serial, or None if none is here."""
        serial = self.serials.pop(id, None)
        if serial is not None:
            del self._messages[serial]
        return serial


class Leases:
    """Leases by serial, each until `slack` seconds after its deadline; also to be found by message."""

    __slots__ = (
        "_by_message",
        "_latest",
        "_most",
        "_orderly",
        "_others",
        "_timely",
        "begins",
        "last_begin",
        "slack",
    )

    def __init__(self, slack: float = 0.0) -> None:
        self.slack = slack
        self._timely: OrderedDict[int, Lease] = unwalked(OrderedDict())
        """Those that end in the order in which they were entered."""
        self._latest = -inf
        """When the last of them ends."""
        self._most = WORTH_SHRINKING
        self._others: Deadlines[Lease] = Deadlines(plain=True)
        self._orderly = True
        """Whether there are no others."""
        self._by_message: dict[int, Lease] | None = None
        """By the message's id. Only kept once a lease was looked for by it, or when there are many."""
        self.begins = LiveNotes()
        """When leases began; the caller that makes one notes it."""
        self.last_begin = 0.0
        """When the lease began that was removed last."""

    def oldest(self) -> float:
        """Return when the oldest lease began that is not over, or somewhat before; infinity if there is none."""
        return self.begins.oldest() if self._timely or not self._orderly else inf

    def take_over(self, former: Leases) -> None:
        """Hold what `former` holds, in its place."""
        for name in Leases.__slots__:
            setattr(self, name, getattr(former, name))

    def __len__(self) -> int:
        return len(self._timely) if self._orderly else len(self._timely) + len(self._others)

    def __contains__(self, serial: int) -> bool:
        return serial in self._timely or serial in self._others

    def get(self, serial: int) -> Lease | None:
        """Return the lease with this serial, or None."""
        lease = self._timely.get(serial)
        if lease is None and (entry := self._others.entry(serial)) is not None:
            return entry[1]
        return lease

    def put(self, lease: Lease) -> None:
        """Enter a lease, in place of the one that had its serial; O(1), or O(log n) for one that ends early."""
        serial, deadline = lease.serial, lease.deadline
        if serial in self._timely or not self._orderly:
            self.pop(serial)
        timely = self._timely  # not before: that may have rebuilt it
        begins = self.begins
        if serial >= begins.last:
            begins.fresh += 1
        else:
            begins.add(serial)
        if not timely:
            self._latest = -inf
        if self._latest <= deadline < inf:
            self._latest = deadline
            timely[serial] = lease
            if len(timely) > self._most:
                self._most = len(timely)
                if self._by_message is None and len(timely) > LEASES_INDEXED:
                    self._index()
        else:
            self._orderly = False
            self._others.put(serial, deadline, lease)
            if self._by_message is None and len(self) > LEASES_INDEXED:
                self._index()
        if self._by_message is not None:
            self._by_message[lease.message.id] = lease

    def pop(self, serial: int) -> Lease | None:
        """Remove and return the lease with this serial, or None."""
        timely = self._timely
        lease = timely.pop(serial, None)
        if lease is None:
            lease = self._others.pop(serial)
            self._orderly = not self._others
            if lease is None:
                return None
        elif SPARSE_FACTOR * len(timely) < self._most > WORTH_SHRINKING:
            self._most = max(len(timely), WORTH_SHRINKING)
            self._timely = unwalked(OrderedDict(timely))
            self._by_message = None
        begins = self.begins
        if serial >= begins.last:
            begins.fresh -= 1
            self.last_begin = begins.begun
        else:
            self.last_begin = begins.drop(serial)
        if self._by_message is not None:
            del self._by_message[lease.message.id]
        return lease

    def find(self, id: int) -> Lease | None:
        """Return the lease of the message with this id, or None; O(1), once they are indexed."""
        if self._by_message is None:
            if not len(self):
                return None
            self._index()
        assert self._by_message is not None
        return self._by_message.get(id)

    def next(self) -> float:
        """Return when a lease is over next: infinity if none is."""
        for lease in self._timely.values():
            return min(lease.deadline, self._others.next()) + self.slack
        return self._others.next() + self.slack

    def due(self, now: float, limit: int) -> list[Lease]:
        """Remove and return leases that are over by `now`, at most `limit`, in the order in which they ended."""
        over = list(
            islice(takewhile(lambda lease: lease.deadline + self.slack <= now, self._timely.values()), limit)
        )
        over += takewhile(
            lambda lease: lease.deadline + self.slack <= now, islice(self._others, limit - len(over))
        )
        for lease in over:
            self.pop(lease.serial)
        return sorted(over, key=_deadline)

    def first(self, limit: int) -> list[Lease]:
        """Return the `limit` leases that end next, in order, and keep them; what it costs depends on `limit`."""
        others = (lease for _, lease in self._others.first(limit))
        return list(islice(merge(self._timely.values(), others, key=_deadline), limit))

    def in_order(self) -> Iterator[Lease]:
        """Yield every lease, the one that ends next first; what it costs depends on how many are taken."""
        return (
            iter(self._timely.values())
            if self._orderly
            else merge(self._timely.values(), self._others, key=_deadline)
        )

    def values(self) -> Iterator[Lease]:
        """Yield every lease, in no particular order."""
        return chain(self._timely.values(), self._others.values())

    def clear(self) -> list[Container]:
        """Remove every lease, and return what they were kept in, for the caller to free; O(1)."""
        dropped: list[Container] = [each for each in (self._timely, self._by_message) if each]
        dropped += self._others.clear()
        self._timely, self._by_message = unwalked(OrderedDict()), None
        self._most, self._orderly = WORTH_SHRINKING, True
        self.begins = LiveNotes()
        return dropped

    def _index(self) -> None:
        self._by_message = {lease.message.id: lease for lease in self.values()}


def backoff(releases: int, delay: float) -> tuple[float, int]:
    """Return how long a message rests that is released, and how often it then was given back without a delay."""
    if delay > 0:
        return delay, releases
    releases += 1
    if releases > RELEASES_AT_ONCE:
        delay = min(BACKOFF * 2.0 ** (releases - RELEASES_AT_ONCE - 1), MAX_BACKOFF)
    return delay, releases


def counted(lease: Lease, releases: int | None = None) -> Message:
    """Return the message of a lease that is over, the delivery counted, and so many `releases` if they changed."""
    message = lease.message
    if releases is None:
        releases = message.properties.releases
    properties = msgspec.structs.replace(message.properties, receives=lease.receives, releases=releases)
    return Message(message.id, message.body, properties)
