"""What is due when: things with a time each, the earliest first, any of them removable at once.

A binary heap finds the earliest in O(log n) but cannot give up an entry in its middle. So an entry that is taken
back stays in the heap and is skipped when it comes up (lazy deletion); when such entries are the majority the
heap is rebuilt, which keeps it within twice what it is about, at O(1) amortised. And so is the dictionary when
most of its entries have gone, for by itself it never gives memory back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from itertools import chain
from math import inf
from typing import Generic, TypeVar

V = TypeVar("V")

_STALE_ALLOWED = 64
"""Stale entries that are never worth a rebuild."""
_WORTH_SHRINKING = 1000
"""Entries of which so many must once have been there for their room to be worth giving back."""


class Deadlines(Generic[V]):
    """Values by number, each with a time; numbers are unique among the entries of one object."""

    __slots__ = ("_heap", "_most", "entries")

    def __init__(self) -> None:
        self.entries: dict[int, tuple[float, V]] = {}
        """Time and value by number. To be read only: looking whether there are any is cheaper than `len`."""
        self._heap: list[tuple[float, int]] = []
        self._most = _WORTH_SHRINKING

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, number: int) -> bool:
        return number in self.entries

    def values(self) -> Iterator[V]:
        """Every value, in no particular order."""
        return (value for _, value in self.entries.values())

    def put(self, number: int, time: float, value: V) -> None:
        """Enter `value` for `time`, in place of what had this number; O(log n), and O(1) for the latest time."""
        self.entries[number] = (time, value)
        if len(self.entries) > self._most:
            self._most = len(self.entries)
        if time < inf:
            heappush(self._heap, (time, number))
            self._sweep()

    def entry(self, number: int) -> tuple[float, V] | None:
        """The time and the value with this number, or None."""
        return self.entries.get(number)

    def pop(self, number: int) -> V | None:
        """Remove and return the value with this number, or None."""
        entry = self.entries.pop(number, None)
        if entry is None:
            return None
        self._sweep()
        return entry[1]

    def next(self) -> float:
        """When something is due next: infinity if nothing is."""
        while self._heap and self._stale(self._heap[0]):
            heappop(self._heap)
        return self._heap[0][0] if self._heap else inf

    def due(self, now: float, limit: int) -> list[V]:
        """Remove and return what is due by `now`, the earliest first, at most `limit` of it."""
        values: list[V] = []
        while len(values) < limit and self.next() <= now:
            values.append(self.entries.pop(heappop(self._heap)[1])[1])
        if values:
            self._sweep()
        return values

    def first(self, limit: int) -> list[tuple[float, V]]:
        """The `limit` entries due next, in order, removing none; O(limit log limit) except for stale entries."""
        found: dict[int, tuple[float, V]] = {}
        timed = (entry[1] for entry in smallest(self._heap) if not self._stale(entry))
        # Entries for no time at all are not in the heap, and come last.
        for number in chain(timed, self.entries):
            if len(found) == limit:
                break
            found.setdefault(number, self.entries[number])
        return list(found.values())

    def clear(self) -> list[V]:
        """Remove everything and return it."""
        values = list(self.values())
        self.entries, self._heap = {}, []
        return values

    def _stale(self, entry: tuple[float, int]) -> bool:
        current = self.entries.get(entry[1])
        return current is None or current[0] != entry[0]

    def _sweep(self) -> None:
        if 4 * len(self.entries) < self._most and self._most > _WORTH_SHRINKING:
            self._most = max(len(self.entries), _WORTH_SHRINKING)
            self.entries = dict(self.entries)
        if len(self._heap) > 2 * len(self.entries) + _STALE_ALLOWED:
            self._heap = [(time, number) for number, (time, _) in self.entries.items() if time < inf]
            heapify(self._heap)


T = TypeVar("T", bound=tuple[object, ...])


def smallest(heap: list[T]) -> Iterator[T]:
    """Yield the entries of a heap in order without changing it: k of them cost O(k log k), however large it is."""
    candidates: list[tuple[T, int]] = [(heap[0], 0)] if heap else []
    while candidates:
        entry, at = heappop(candidates)
        yield entry
        for child in _children(at, len(heap)):
            heappush(candidates, (heap[child], child))


def _children(at: int, length: int) -> Iterable[int]:
    return range(2 * at + 1, min(2 * at + 3, length))
