"""The leases of one queue: whose turn each message is, and which of them ends first.

Most leases of a queue last equally long, so they end in the order in which they began: those stay in one ordered
dictionary, where entering one and ending one are a step each, whatever their number. The few that end before one
that began earlier, and those that never end, are kept in `Deadlines`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from heapq import merge
from itertools import chain, islice, takewhile
from math import inf
from operator import attrgetter

from zapq.core.deadlines import Deadlines
from zapq.core.message import Lease

_SPARSE_FACTOR = 16
_WORTH_SHRINKING = 1000
"""A dictionary that once had so many entries, and has a sixteenth of them left, gives back its memory."""
_deadline = attrgetter("deadline")


class Leases:
    """Leases by serial, each until its deadline."""

    __slots__ = ("_latest", "_most", "_others", "_timely")

    def __init__(self) -> None:
        self._timely: OrderedDict[int, Lease] = OrderedDict()
        """Those that end in the order in which they were entered."""
        self._latest = -inf
        """When the last of them ends."""
        self._most = _WORTH_SHRINKING
        self._others: Deadlines[Lease] = Deadlines()

    def __len__(self) -> int:
        return len(self._timely) + len(self._others)

    def __contains__(self, serial: int) -> bool:
        return serial in self._timely or serial in self._others

    def put(self, lease: Lease) -> None:
        """Enter a lease, in place of the one that had its serial; O(1), or O(log n) for one that ends early."""
        serial, deadline, timely = lease.serial, lease.deadline, self._timely
        if serial in timely or self._others.entries:
            self.pop(serial)
        if not timely:
            self._latest = -inf
        if self._latest <= deadline < inf:
            self._latest = deadline
            timely[serial] = lease
            if len(timely) > self._most:
                self._most = len(timely)
        else:
            self._others.put(serial, deadline, lease)

    def pop(self, serial: int) -> Lease | None:
        """Remove and return the lease with this serial, or None."""
        timely = self._timely
        lease = timely.pop(serial, None)
        if lease is None:
            return self._others.pop(serial)
        if _SPARSE_FACTOR * len(timely) < self._most > _WORTH_SHRINKING:
            self._most = max(len(timely), _WORTH_SHRINKING)
            self._timely = OrderedDict(timely)
        return lease

    def next(self) -> float:
        """When a lease ends next: infinity if none does."""
        for lease in self._timely.values():
            return min(lease.deadline, self._others.next())
        return self._others.next()

    def due(self, now: float, limit: int) -> list[Lease]:
        """Remove and return leases that are over by `now`, at most `limit`, in the order in which they ended."""
        over = list(islice(takewhile(lambda lease: lease.deadline <= now, self._timely.values()), limit))
        for lease in over:
            self.pop(lease.serial)
        return sorted(over + self._others.due(now, limit - len(over)), key=_deadline)

    def first(self, limit: int) -> list[Lease]:
        """The `limit` leases that end next, in order, removing none; what it costs depends on `limit` alone."""
        others = (lease for _, lease in self._others.first(limit))
        return list(islice(merge(self._timely.values(), others, key=_deadline), limit))

    def values(self) -> Iterator[Lease]:
        """Every lease, in no particular order."""
        return chain(self._timely.values(), self._others.values())

    def clear(self) -> list[Lease]:
        """Remove every lease and return them."""
        leases = list(self.values())
        self._timely, self._others = OrderedDict(), Deadlines()
        return leases
