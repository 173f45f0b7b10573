"""What each queue held and did in the last ten minutes: a ring of samples of what it counts anyway.

Nothing is counted for this. Every five seconds a task of the server reads what each queue says, and writes it
over what it said ten minutes before. That is 2.4 KB a queue, so 2.5 MB for 1,024 queues and no more for 1,024
others.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Generator, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase, translate
from typing import Protocol

import msgspec
import trio

from zapq.core.ages import Oldest, age
from zapq.core.stats import QueueStats
from zapq.limits import HISTORY_SAMPLES, HISTORY_SECONDS, LISTED_AT_ONCE, NAMES_MATCHED_AT_ONCE
from zapq.service.section import Turns

COLUMNS = ("messages", "ready", "in", "out", "age")
"""What a sample tells: how many messages there were, how many of them ready, how many have come and gone since the
sample before, and how old the oldest ready one was, in whole seconds."""
_WIDTH = len(COLUMNS)
_LARGEST = 2**32 - 1
_PATTERN = re.compile(r"[*?\[]")
_NOTHING = array("I", bytes(4 * _WIDTH * HISTORY_SAMPLES))


class Samples(msgspec.Struct, frozen=True):
    """What a history tells of some queues."""

    seconds: float
    """Between two samples."""
    age: float
    """Seconds since the last one."""
    queues: dict[str, dict[str, Sequence[int]]]
    """For each queue, for each of `COLUMNS`, its samples, the oldest first."""
    left_out: int = 0
    """How many queues were asked for as well, and are over the limit."""


class Sampled(Protocol):
    """A queue, as far as samples are taken of it."""

    name: str
    number: int

    def stats(self) -> QueueStats: ...
    def oldest(self) -> Oldest: ...


class _Ring:
    """The samples of one queue."""

    __slots__ = ("came", "first", "number", "samples", "went")

    def __init__(self, number: int, at: int, came: int, went: int) -> None:
        self.number = number
        """The queue's: another one may have its name later."""
        self.first = at
        """The number of its first sample."""
        self.came, self.went = came, went
        """What had come and gone by its last one."""
        self.samples = array("I", _NOTHING)


class History:
    """Samples of queues; pure, without a clock."""

    def __init__(self) -> None:
        self._rings: dict[str, _Ring] = {}
        self._count = 0
        """Samples taken so far; this is the number of the next one."""
        self._at = 0.0
        """When the last one was begun."""

    def begin(self, now: float) -> None:
        """Begin a sample, at the time `now`."""
        self._at = now

    def note(self, queue: Sampled) -> None:
        """Enter what a queue says in the sample that was begun."""
        stats = queue.stats()
        # What came from other queues is known by what is held and what has gone.
        went = stats.dequeued + stats.acked + stats.expired + stats.dead_lettered + stats.cleared + stats.redriven
        came = stats.messages + went
        ring = self._rings.get(queue.name)
        if ring is None or ring.number != queue.number:
            ring = self._rings[queue.name] = _Ring(queue.number, self._count, came, went)
        oldest = int(age(queue.oldest().ready, self._at))
        row = (stats.messages, stats.ready, came - ring.came, went - ring.went, oldest)
        at = self._count % HISTORY_SAMPLES * _WIDTH
        # Undone steps and loaded snapshots can make a count smaller.
        ring.samples[at : at + _WIDTH] = array("I", [min(max(each, 0), _LARGEST) for each in row])
        ring.came, ring.went = came, went

    def end(self, names: Iterable[str]) -> None:
        """End the sample; `names` are the queues there are, and others are forgotten."""
        self._count += 1
        for name in self._rings.keys() - set(names):
            del self._rings[name]

    def find(self, pattern: str, wanted: Sequence[str]) -> Generator[None, None, list[str]]:
        """Return the queues whose name fits `pattern` and one of `wanted`, from A to Z.

        Yields now and then, so that others can have a turn.
        """
        # Most ask for names: these need no search, which would take as long as there are queues and patterns.
        named = {each for each in wanted if not _PATTERN.search(each)}
        found = {each for each in named if each in self._rings}
        if patterns := set(wanted) - named:
            fits = re.compile("|".join(map(translate, patterns)), re.DOTALL).match
            names, at_once = list(self._rings), max(1, NAMES_MATCHED_AT_ONCE // len(patterns))
            for start in range(0, len(names), at_once):
                if start:
                    yield
                found.update(filter(fits, names[start : start + at_once]))
        return sorted(name for name in found if fnmatchcase(name, pattern))

    def tell(self, names: Iterable[str], limit: int, now: float) -> Samples:
        """Tell of at most `limit` of the queues called `names`."""
        there = [name for name in names if name in self._rings]
        queues = {name: self._columns(self._rings[name]) for name in there[:limit]}
        return Samples(HISTORY_SECONDS, max(now - self._at, 0.0), queues, max(len(there) - limit, 0))

    def _columns(self, ring: _Ring) -> dict[str, Sequence[int]]:
        first = max(ring.first, self._count - HISTORY_SAMPLES)
        place = self._count % HISTORY_SAMPLES * _WIDTH
        number = (self._count - first) * _WIDTH
        in_order = (ring.samples[place:] + ring.samples[:place])[-number:] if number > 0 else array("I")
        return {name: in_order[column::_WIDTH].tolist() for column, name in enumerate(COLUMNS)}


class Histories(Protocol):
    """What samples are taken of."""

    @property
    def history(self) -> History: ...
    @property
    def turns(self) -> Turns: ...
    def sampled(self) -> Mapping[str, Sampled]: ...


async def take_samples(service: Histories) -> None:
    """Take samples for ever, some queues a turn, so that others have theirs in between; ends when cancelled."""
    history = service.history
    while True:
        begun = trio.current_time()
        history.begin(begun)
        names = list(service.sampled())
        for start in range(0, len(names), LISTED_AT_ONCE):
            await service.turns.take()
            there = service.sampled()
            for name in names[start : start + LISTED_AT_ONCE]:
                if name in there:
                    history.note(there[name])
        history.end(service.sampled())
        await trio.sleep_until(begun + HISTORY_SECONDS)
