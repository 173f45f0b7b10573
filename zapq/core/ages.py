"""When messages came and leases began, and how long each took; no message and no lease has a time of its own.

Ids and serials are given in order. So it is enough to note, now and then, which was the first from then on: what
has a number between two notes came between their times. The notes of a queue are thinned out as they grow old. An
age that is asked for is never less than the true one, and more by `TOLERANCE` of it at most, or by `FINEST`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from math import inf

import msgspec

FINEST = 0.02
"""Seconds between two notes at least: what comes within them counts as having come together."""
TOLERANCE = 0.09
"""By how much of itself an age that is asked for may be more than the true one."""
MAX_NOTES = 512
"""Notes of one queue, of 16 bytes each. A year takes 450 at most, even if messages come just so."""
BOUNDS = (0.1, 1.0, 5.0, 30.0, 60.0, 300.0, 1800.0, 3600.0)
"""The seconds up to which each part of a `Spread` counts; one part more has what took longer."""
QUICK = BOUNDS[0]
COMMIT_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""The same for commits, which take a disk a fraction of a second."""


class Spread(msgspec.Struct, frozen=True, gc=False):
    """How long things have taken since the process was started."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    """How many took up to each of `BOUNDS` and longer than the one before, and how many took longer than all."""
    seconds: float = 0.0
    """All of them together."""

    @property
    def number(self) -> int:
        """How many there were."""
        return sum(self.counts)


def spread_of(parts: Iterable[Spread]) -> Spread:
    """Return what all of `parts` come to together; of none, an empty one."""
    parts = list(parts)
    if not parts:
        return Spread()
    return Spread(
        tuple(map(sum, zip(*(part.counts for part in parts), strict=True))), sum(p.seconds for p in parts)
    )


class Oldest(msgspec.Struct, frozen=True, gc=False):
    """Since when the oldest of a queue, or of all queues, have been there; infinity if there is none.

    As times of the clock `now` is read from: they stay the same while nothing happens.
    """

    ready: float = inf
    """When the oldest message arrived in its queue that can be given to a consumer."""
    lease: float | None = inf
    """When the oldest lease began that is not over; None where that is not known."""


def oldest_of(parts: Iterable[Oldest]) -> Oldest:
    """Return since when the oldest of all of `parts` have been there."""
    parts = list(parts)
    ready = min((each.ready for each in parts), default=inf)
    leases = [each.lease for each in parts if each.lease is not None]
    return Oldest(ready, min(leases, default=None if parts else inf))


def age(since: float, now: float) -> float:
    """Return for how many seconds something has been there; 0 if there is nothing."""
    return max(now - since, 0.0) if since < inf else 0.0


class Notes:
    """When numbers that grow were given."""

    __slots__ = ("_firsts", "_times", "due")

    def __init__(self) -> None:
        self._firsts = array("q")
        self._times = array("d")
        self.due = -inf
        """When the next number is to be noted; callers look before they call."""

    def note(self, first: int, now: float) -> None:
        """Note that this number and those behind it were given from `now` on; it is higher than all before."""
        self._firsts.append(first)
        self._times.append(now)
        self.due = now + FINEST
        if len(self._firsts) > MAX_NOTES:
            self._thin(now)

    def time_of(self, number: int) -> float:
        """Return when a number was given, or somewhat before; infinity if nothing was ever noted."""
        times = self._times
        # What was given before anything was noted counts as the first that was.
        return times[max(bisect_right(self._firsts, number) - 1, 0)] if times else inf

    def around(self, number: int) -> tuple[int, int | None, float]:
        """Return from which number to which one all count as given at one time, and that; None for no end yet.

        That is infinity if nothing was ever noted.
        """
        firsts = self._firsts
        if not firsts:
            return 0, None, inf
        at = bisect_right(firsts, number)
        end = firsts[at] if at < len(firsts) else None
        return (firsts[at - 1] if at > 1 else 0), end, self._times[max(at - 1, 0)]

    def entries(self) -> list[tuple[int, float]]:
        """Return all that was noted: numbers and times."""
        return list(zip(self._firsts, self._times, strict=True))

    def fill(self, entries: Iterable[tuple[int, float]]) -> None:
        """Know what was noted elsewhere; nothing was here."""
        for first, time in entries:
            if not self._firsts or (first > self._firsts[-1] and time >= self._times[-1]):
                self._firsts.append(first)
                self._times.append(time)
                self.due = time + FINEST

    def _thin(self, now: float) -> None:
        """Forget notes that tell ages hardly more exactly: an eighth of what there is room for is free then."""
        tolerance = TOLERANCE
        while True:
            self._keep(self._needed(now, tolerance))
            if len(self._firsts) <= MAX_NOTES * 7 // 8:
                return
            tolerance *= 2

    def _needed(self, now: float, tolerance: float) -> list[int]:
        times = self._times
        kept, last = [0], len(times) - 1
        for at in range(1, last):
            # Without this note all up to the next one would count as given with the one that was kept last.
            following = times[at + 1]
            if following - times[kept[-1]] > tolerance * (now - following):
                kept.append(at)
        if last:
            kept.append(last)
        return kept

    def _keep(self, kept: list[int]) -> None:
        self._firsts = array("q", [self._firsts[at] for at in kept])
        self._times = array("d", [self._times[at] for at in kept])


class LiveNotes(Notes):
    """Notes of numbers that are given up again: how many are left of each note is counted.

    Callers count those of the last note themselves, in `fresh`: numbers from `last` on, given at `begun`.
    """

    __slots__ = ("_live", "begun", "fresh", "last")

    def __init__(self) -> None:
        super().__init__()
        self._live: list[int] = []
        """How many are left of each note; of the last one `fresh` says it."""
        self.last: float = inf
        self.begun = 0.0
        self.fresh = 0

    def note(self, first: int, now: float) -> None:
        """Note that this number and those behind it were given from `now` on; it is higher than all before."""
        live = self._live
        if live and not self.fresh:
            # Of that one nothing is left to be told of.
            self._firsts[-1] = first
            self._times[-1] = now
            self.due = now + FINEST
        else:
            if live:
                live[-1] = self.fresh
            live.append(0)
            super().note(first, now)
        self.last, self.begun, self.fresh = first, now, 0

    def add(self, number: int) -> None:
        """Count a number as being there that is not of the last note."""
        if not self._live:
            self.note(number, 0.0)
        at = self._at(number)
        if at == len(self._live) - 1:
            self.fresh += 1
        else:
            self._live[at] += 1

    def drop(self, number: int) -> float:
        """Count a number as gone that is not of the last note, and return when it was given, or a bit before."""
        at = self._at(number)
        if at == len(self._live) - 1:
            self.fresh -= 1
        else:
            self._live[at] -= 1
        return self._times[at]

    def oldest(self) -> float:
        """Return when the oldest number was given that is there, or somewhat before; infinity if none is."""
        live = self._live
        for at, left in enumerate(live):
            if left or (at == len(live) - 1 and self.fresh):
                # So that the next one who asks finds it at once.
                del live[:at], self._firsts[:at], self._times[:at]
                return self._times[0]
        return inf

    def _at(self, number: int) -> int:
        return max(bisect_right(self._firsts, number) - 1, 0)

    def _keep(self, kept: list[int]) -> None:
        live = self._live
        ends = [*kept[1:], len(live)]
        self._live = [sum(live[at:end]) for at, end in zip(kept, ends, strict=True)]
        super()._keep(kept)


class Times:
    """Counts how long things took.

    Callers for whom a call is too much count what took no longer than `QUICK` in `quick` and `quick_seconds`.
    """

    __slots__ = ("_bounds", "_counts", "_seconds", "quick", "quick_seconds")

    def __init__(self, bounds: Sequence[float] = BOUNDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._seconds = 0.0
        self.quick = 0
        self.quick_seconds = 0.0

    def note(self, seconds: float, number: int = 1) -> None:
        """Count so many things that took so long."""
        self._counts[bisect_left(self._bounds, seconds)] += number
        self._seconds += number * seconds

    def spread(self) -> Spread:
        """Return what was counted."""
        first, *others = self._counts
        return Spread((first + self.quick, *others), self._seconds + self.quick_seconds)


class Waits(Times):
    """Counts how long messages have waited until they were given to a consumer for the first time.

    Those that are given one after the other have mostly waited about as long. What holds for the last one is
    kept. Callers may find that an id is at least `low` and below `high`, and that it is not `until` yet. Then
    they count it in `alike`, which costs a fifth of a call.
    """

    __slots__ = ("_told", "_wait", "alike", "high", "low", "until")

    def __init__(self) -> None:
        super().__init__()
        self.low = self.high = self.alike = 0
        self.until = -inf
        self._wait = 0.0
        self._told: Spread | None = None
        """What was returned last, if nothing was counted since."""

    def note_given(self, id: int, arrivals: Notes, next_id: int, now: float, number: int = 1) -> None:
        """Count so many messages, of which the first has this id, as given now; they arrived together."""
        self._settle()
        low, high, time = arrivals.around(id)
        wait = max(now - time, 0.0)
        self.note(wait, number)
        self._told = None
        at = bisect_left(BOUNDS, wait)
        until = min(now + max(TOLERANCE * wait, FINEST), time + BOUNDS[at] if at < len(BOUNDS) else inf)
        if high is None:
            # Until the next one is noted, those that come belong to the same note.
            if now < arrivals.due:
                high, until = 1 << 62, min(until, arrivals.due)
            else:
                high = next_id
        self.low, self.high, self.until, self._wait = low, high, until, wait

    def spread(self) -> Spread:
        """Return what was counted; the same object as long as that is the same."""
        self._settle()
        if self._told is None:
            self._told = super().spread()
        return self._told

    def take_over(self, former: Waits) -> None:
        """Go on from what another one has counted, which stays as it is."""
        counted = former.spread()
        self._counts, self._seconds, self._told = list(counted.counts), counted.seconds, None

    def _settle(self) -> None:
        if self.alike:
            self.note(self._wait, self.alike)
            self.alike, self._told = 0, None
