"""What is due when: things with a time each, the earliest first, any of them removable at once.

Most come in the order of their times. Those stay in one ordered dictionary, where entering one and removing one
are a step each, however many there are. The others are in a binary heap, which finds the earliest in O(log n)
and cannot give up an entry in its middle. So an entry that is taken back stays in the heap and is skipped when
it comes up (lazy deletion). When such entries are the majority the heap is rebuilt, which keeps it within twice
what it is about, at O(1) amortised. The dictionaries are rebuilt when most of their entries have gone, for by
themselves they never give memory back.

A time may be anything that can be compared: a queue keeps messages by their place in line in the same way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush, merge
from itertools import chain, islice
from math import inf
from operator import attrgetter
from typing import Any, Generic, TypeVar

import msgspec

from zapq.core.unwalked import unwalked

V = TypeVar("V")

_STALE_ALLOWED = 64
"""Stale entries that are never worth a rebuild."""
SPARSE_FACTOR = 16
WORTH_SHRINKING = 1000
"""A dictionary that once had so many entries, and has a sixteenth of them left, gives back its memory."""
_value = attrgetter("value")


class Entry(msgspec.Struct, Generic[V], frozen=True):
    """A value, and its time."""

    time: float
    value: V


class PlainEntry(Entry[V], Generic[V], frozen=True, gc=False):
    """One whose value leads to no other object that may lead back."""


class Due(msgspec.Struct, frozen=True, order=True, gc=False):
    """What is in a heap. Not a tuple: the garbage collector walks through each of those once."""

    time: float
    number: int


class Deadlines(Generic[V]):
    """Values by number, each with a time; numbers are unique among the entries of one object.

    Values that are `plain`, such as messages, hold nothing that leads back to this object. Then the garbage
    collector walks through none of it, however many there are.
    """

    __slots__ = ("_entry", "_heap", "_latest", "_most", "_most_others", "_others", "_plain", "_timely")

    def __init__(self, *, plain: bool = False) -> None:
        self._plain = plain
        self._entry: type[Entry[V]] = PlainEntry if plain else Entry
        self._timely: OrderedDict[int, Entry[V]] = self._ordered()
        """Time and value by number: those whose times came in order."""
        self._latest: tuple[float, int] = (-inf, 0)
        """Time and number of the last of them."""
        self._most = WORTH_SHRINKING
        self._others: dict[int, Entry[V]] = {}
        self._most_others = WORTH_SHRINKING
        self._heap: list[Due] = unwalked([])
        """Time and number of the others, and of some that are gone."""

    def _ordered(self, entries: Iterable[tuple[int, Entry[V]]] = ()) -> OrderedDict[int, Entry[V]]:
        made = OrderedDict(entries)
        return unwalked(made) if self._plain else made

    def __len__(self) -> int:
        return len(self._timely) + len(self._others)

    def __bool__(self) -> bool:
        return bool(self._timely or self._others)

    def __contains__(self, number: int) -> bool:
        return number in self._timely or number in self._others

    def __iter__(self) -> Iterator[V]:
        """Yield every value, the earliest first; what it costs depends on how far it is walked through alone."""
        return map(_value, self._timely.values()) if not self._heap else (value for _, value in self._merged())

    def values(self) -> Iterator[V]:
        """Yield every value, in no particular order."""
        return map(_value, chain(self._timely.values(), self._others.values()))

    def entries(self) -> list[Entry[V]]:
        """Return every entry, in no particular order; a copy."""
        return [*self._timely.values(), *self._others.values()]

    def put(self, number: int, time: float, value: V) -> None:
        """Enter `value` for `time`, in place of what had this number; O(1), or O(log n) after a later time."""
        if number in self._timely or self._others:
            self.pop(number)
        timely = self._timely  # not before: that may have rebuilt it
        if not timely:
            self._latest = (-inf, 0)
        if time < inf and self._latest < (time, number):
            self._latest = (time, number)
            timely[number] = self._entry(time, value)
            if len(timely) > self._most:
                self._most = len(timely)
            return
        self._others[number] = self._entry(time, value)
        if len(self._others) > self._most_others:
            self._most_others = len(self._others)
        if time < inf:
            heappush(self._heap, Due(time, number))

    def exchange(self, number: int, value: V) -> None:
        """Enter `value` for the time of what has this number, in place of that; it is here. O(1)."""
        entries = self._timely if number in self._timely else self._others
        entries[number] = self._entry(entries[number].time, value)

    def entry(self, number: int) -> tuple[float, V] | None:
        """Return the time and the value with this number, or None."""
        entry = self._find(number)
        return None if entry is None else (entry.time, entry.value)

    def _find(self, number: int) -> Entry[V] | None:
        return self._timely.get(number) or self._others.get(number)

    def pop(self, number: int) -> V | None:
        """Remove and return the value with this number, or None."""
        timely = self._timely
        entry = timely.pop(number, None)
        if entry is not None:
            if SPARSE_FACTOR * len(timely) < self._most > WORTH_SHRINKING:
                self._most = max(len(timely), WORTH_SHRINKING)
                self._timely = self._ordered(timely.items())
            return entry.value
        entry = self._others.pop(number, None)
        if entry is None:
            return None
        self._sweep()
        return entry.value

    def next(self) -> float:
        """Return when something is due next: infinity if nothing is."""
        heap = self._heap
        while heap and self._stale(heap[0]):
            heappop(heap)
        first = heap[0].time if heap else inf
        for entry in self._timely.values():
            return min(entry.time, first)
        return first

    def pop_first(self) -> V | None:
        """Remove and return what is due next, or None if nothing is."""
        if self.next() == inf:
            return None
        heap = self._heap
        for number, entry in self._timely.items():
            if not heap or Due(entry.time, number) < heap[0]:
                return self.pop(number)
            break
        value = self._others.pop(heappop(heap).number).value
        self._sweep()
        return value

    def due(self, now: float, limit: int) -> list[V]:
        """Remove and return what is due by `now`, the earliest first, at most `limit` of it."""
        values: list[V] = []
        while len(values) < limit and self.next() <= now:
            value = self.pop_first()
            assert value is not None
            values.append(value)
        return values

    def first(self, limit: int) -> list[tuple[float, V]]:
        """Return the first `limit` entries in order, and keep them; O(limit log limit) and more for stale ones."""
        found = list(islice(self.in_order(), limit))
        # Entries for no time at all are not in the heap, and come last.
        timeless = ((inf, entry.value) for entry in self._others.values() if entry.time == inf)
        return found + list(islice(timeless, limit - len(found)))

    def clear(self) -> list[Container]:
        """Remove everything, and return what it was kept in, for the caller to free; O(1)."""
        dropped: list[Container] = [each for each in (self._timely, self._others, self._heap) if each]
        self._timely, self._others, self._heap = self._ordered(), {}, unwalked([])
        self._most = self._most_others = WORTH_SHRINKING
        return dropped

    def in_order(self) -> Iterator[tuple[float, V]]:
        """Yield time and value of each entry that has a time, the earliest first."""
        if not self._heap:
            return ((entry.time, entry.value) for entry in self._timely.values())
        return self._merged()

    def _merged(self) -> Iterator[tuple[float, V]]:
        timely = (Due(entry.time, number) for number, entry in self._timely.items())
        last = -1
        for due in merge(timely, smallest(self._heap)):
            entry = self._find(due.number)
            # What is in the heap may be gone, or was entered twice for the same time.
            if entry is not None and entry.time == due.time and due.number != last:
                last = due.number
                yield due.time, entry.value

    def _stale(self, due: Due) -> bool:
        current = self._others.get(due.number)
        return current is None or current.time != due.time

    def _sweep(self) -> None:
        if SPARSE_FACTOR * len(self._others) < self._most_others > WORTH_SHRINKING:
            self._most_others = max(len(self._others), WORTH_SHRINKING)
            self._others = dict(self._others)
        if len(self._heap) > 2 * len(self._others) + _STALE_ALLOWED:
            live = [Due(entry.time, number) for number, entry in self._others.items() if entry.time < inf]
            heapify(live)
            self._heap = unwalked(live)


Container = dict[Any, Any] | list[Any]
"""What things were kept in that are no more."""
T = TypeVar("T", bound=tuple[object, ...] | int | Due)


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
