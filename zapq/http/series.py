"""The series of single queues, kept as text: most of it is the same at the next scrape.

A family's series stand together, one queue's after the other's. So a block of queues has a piece of text for each
family, and a scrape puts these together. If one of its queues has changed, a block is written anew: it has a
template with all but the numbers, and fills in a thousand numbers in 30 us.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from itertools import accumulate, compress, islice
from operator import attrgetter
from typing import NamedTuple

import msgspec

from zapq.core.ages import BOUNDS, Spread, age, oldest_of, spread_of
from zapq.core.queue_settings import QueueSettings
from zapq.core.stats import STATES, QueueStats, total
from zapq.http.families import (
    BYTES,
    COUNTERS,
    LIMITS,
    MESSAGES,
    OLDEST_LEASE,
    OLDEST_READY,
    PAUSED,
    WAITING,
    WAITS,
    Family,
)
from zapq.service.queue_state import QueueInfo

OTHERS, DELETED = "(other)", "(deleted)"
"""Stand in the label `queue` for queues that have no series of their own; no queue can be called so."""
ROWS_AT_ONCE = 1500
"""Queues whose series are looked through in one go, in some 0.5 ms; then others have a turn."""
_CHANGED = 12
"""As many of them one counts for that may have changed."""
ROWS_IN_A_BLOCK = 64
"""Queues whose series are kept put together, as long as all of them stay the same."""

AGES = (OLDEST_READY, OLDEST_LEASE)
"""Families that change by themselves."""
LINES: Sequence[tuple[Family, bytes]] = (
    *((MESSAGES, f',state="{state}"'.encode()) for state in STATES),
    *((family, b"") for family in (BYTES, WAITING, PAUSED, *LIMITS.values())),
    *((family, b"") for family in COUNTERS.values()),
)
"""Each line about a queue that has a whole number: its family, and the labels beside the queue's name."""
_LINES_OF = Counter(family for family, _ in LINES)
"""How many lines a family has for each queue."""
STEADY = (*_LINES_OF, WAITS)
"""The other families with series for each queue, in the order in which they are written."""
_NOTHING_HELD = (None,) * (len(LINES) - len(COUNTERS))
_END = b"\x1f"
"""Ends the text of a family; no name has it."""
Number = int | float


class Queues(NamedTuple):
    """The queues that a scrape is to show."""

    own: Sequence[QueueInfo]
    """Those with series of their own."""
    others: Sequence[QueueInfo]
    """Those that share one series in each family."""
    deleted: QueueInfo | None
    """What queues that are no more have done, if it is known and asked for."""
    of_dead_letters: Collection[str | None] = ()
    """The names of those that dead letters go to, and perhaps None."""


def share(
    infos: Iterable[QueueInfo],
    limit: int,
    deleted: QueueInfo | None,
    of_dead_letters: Collection[str | None] = (),
) -> Queues:
    """Give the first `limit` queues that were made series of their own.

    By age and by nothing that changes: series that come and go are worse than none.
    """
    oldest_first = sorted(infos, key=attrgetter("number"))
    return Queues(oldest_first[:limit], oldest_first[limit:], deleted, of_dead_letters)


def of_deleted(stats: QueueStats | None, waits: Spread | None) -> QueueInfo | None:
    """Return what queues that are no more have done, as of one; None if that is not known."""
    return None if stats is None else QueueInfo(DELETED, QueueSettings(), stats, False, 0, waits=waits)


class Series:
    """What is written of queues. At most `limit` of them have series of their own."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lines: dict[str, Sequence[bytes]] = {}
        """For each queue, its lines with a place for the number in each."""
        self._blocks: list[Block] = []
        """Of the last scrape of every queue."""

    def update(self, shown: Queues, *, every: bool) -> Generator[None, None, list[Block]]:
        """Return what is to be written of `shown`, which is `every` queue or a part of them.

        Yields now and then, so that others can have a turn.
        """
        if len(self._lines) > (len(shown.own) if every else 2 * self.limit):
            # Others are gone.
            self._lines = {info.name: self._lines_of(info.name) for info in shown.own}
        blocks: list[Block] = []
        kept = self._blocks if every else []
        left = ROWS_AT_ONCE
        for number, at in enumerate(range(0, len(shown.own), ROWS_IN_A_BLOCK)):
            infos = shown.own[at : at + ROWS_IN_A_BLOCK]
            former = kept[number] if number < len(kept) else None
            left -= len(infos)
            if former is None or former.infos != infos:
                former = Block(infos, self._lines_of, former)
                left -= len(infos) * _CHANGED
            blocks.append(former)
            if left < 0:
                left = ROWS_AT_ONCE
                yield
        if every:
            self._blocks = blocks[:]
        if shown.others:
            blocks.append(Block([_sum_up(shown.others)], _lines_of))
        if shown.deleted is not None:
            blocks.append(Block([shown.deleted], _lines_of))
        return blocks

    def _lines_of(self, name: str) -> Sequence[bytes]:
        lines = self._lines.get(name)
        if lines is None:
            lines = self._lines[name] = _lines_of(name)
        return lines


class Block:
    """What is written of some queues that follow each other, put together."""

    __slots__ = ("_shape", "_templates", "infos", "texts")

    def __init__(
        self, infos: Sequence[QueueInfo], lines_of: Callable[[str], Sequence[bytes]], former: Block | None = None
    ) -> None:
        """Write about `infos`; `former` is about most of them, as they were before."""
        self.infos = infos
        self._shape = list(map(_shape_of, infos))
        columns = list(zip(*map(_values_of, infos), strict=True))
        if former is not None and former._shape == self._shape:
            self._templates: _Templates = former._templates
        else:
            self._templates = _templates([lines_of(info.name) for info in infos], columns, self._shape)
        numbers = [value for column in columns for value in column if value is not None]
        for info in infos:
            if info.waits is not None and any(info.waits.counts):
                *_, number = counts = tuple(accumulate(info.waits.counts))
                numbers += (*counts, info.waits.seconds, number)
        self.texts = (self._templates.steady % tuple(numbers)).split(_END)
        """The text of each family in `STEADY`."""

    def ages(self, now: float) -> tuple[bytes, bytes]:
        """Return the text of each family in `AGES`."""
        known = [info.oldest for info in self.infos if info.oldest is not None]
        _, ready, lease = self._templates
        return (
            ready % tuple([age(oldest.ready, now) for oldest in known]),
            lease % tuple([age(oldest.lease, now) for oldest in known if oldest.lease is not None]),
        )


class _Shape(NamedTuple):
    """What there are lines about of one queue; all of it stays the same for most, most of the time."""

    name: str
    limits_messages: bool
    limits_bytes: bool
    has_ages: bool
    has_lease_age: bool
    has_waits: bool


def _shape_of(info: QueueInfo) -> _Shape:
    settings, waits = info.settings, info.waits
    return _Shape(
        info.name,
        settings.max_messages is not None,
        settings.max_bytes is not None,
        info.oldest is not None,
        info.oldest is not None and info.oldest.lease is not None,
        waits is not None and any(waits.counts),
    )


class _Templates(NamedTuple):
    """What is written of a block's queues, with a place for each number."""

    steady: bytes
    """Of each family in `STEADY`, with `_END` between two."""
    ready: bytes
    lease: bytes


def _templates(
    lines: Sequence[Sequence[bytes]], columns: Sequence[Sequence[Number | None]], shapes: Sequence[_Shape]
) -> _Templates:
    *steady, waits, ready, lease = zip(*lines, strict=True)
    there = iter(
        b"".join(line for line, value in zip(of_queues, values, strict=True) if value is not None)
        for of_queues, values in zip(steady, columns, strict=True)
    )
    families = [b"".join(islice(there, number)) for number in _LINES_OF.values()]
    families.append(b"".join(line for line, shape in zip(waits, shapes, strict=True) if shape.has_waits))
    has_age = [shape.has_ages for shape in shapes]
    has_lease_age = [shape.has_lease_age for shape in shapes]
    return _Templates(
        _END.join(families), b"".join(compress(ready, has_age)), b"".join(compress(lease, has_lease_age))
    )


def _lines_of(name: str) -> Sequence[bytes]:
    """Return each line about a queue with a place for its number, its histogram, and the line of each age."""
    label = f'queue="{name}"'
    return (
        *(b"%b{%b%b} %%d\n" % (family.series.encode(), label.encode(), more) for family, more in LINES),
        histogram(WAITS, label, BOUNDS).encode(),
        *(b"%b{%b} %%.3f\n" % (family.name.encode(), label.encode()) for family in AGES),
    )


def _values_of(info: QueueInfo) -> Sequence[Number | None]:
    """Return the number in each of `LINES`, None for one that a queue has not."""
    _, size, ready, delayed, leased, *counts = msgspec.structs.astuple(info.stats)
    name, settings = info.name, info.settings
    if name == DELETED:
        return (*_NOTHING_HELD, *counts)
    paused = None if name == OTHERS else info.paused
    limits = settings.max_messages, settings.max_bytes
    return (ready, delayed, leased, size, info.waiting, paused, *limits, *counts)


def histogram(family: Family, label: str, bounds: Sequence[float]) -> str:
    """Return what a histogram looks like, with a place for the count up to each bound, for the sum and for all."""
    comma, braces = ("," if label else ""), (f"{{{label}}}" if label else "")
    buckets = (f'{family.name}_bucket{{{label}{comma}le="{bound}"}} %d\n' for bound in (*bounds, "+Inf"))
    return f"{''.join(buckets)}{family.name}_sum{braces} %.6f\n{family.name}_count{braces} %d\n"


def _sum_up(infos: Sequence[QueueInfo]) -> QueueInfo:
    stats, waiting = total([info.stats for info in infos]), sum(info.waiting for info in infos)
    known = [info.oldest for info in infos if info.oldest is not None]
    oldest = oldest_of(known) if known else None
    waits = spread_of(info.waits for info in infos if info.waits is not None) if known else None
    return QueueInfo(OTHERS, QueueSettings(), stats, False, waiting, 0, oldest, waits)
