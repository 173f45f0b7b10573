"""The series of single queues, kept as text: most of it is the same at the next scrape.

A family's series stand together, one queue's after the other's. So each queue has a piece of text for each line, a
block of queues has one for each family, and a scrape puts these together by family. What has changed is made anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Iterable, Sequence
from itertools import accumulate, chain, islice
from math import inf
from operator import attrgetter
from typing import NamedTuple

import msgspec

from zapq.core.ages import BOUNDS, Spread, oldest_of, spread_of
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
STEADY = {**Counter(family for family, _ in LINES), WAITS: 1}
"""The other families with series for each queue, in the order in which they are written, and how many it has."""
_NOTHING_HELD = (None,) * (len(LINES) - len(COUNTERS))
_NAME = b"\x1e"
"""Stands for the name of a queue; no name has it."""


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
        self._rows: dict[str, _Row] = {}
        self._blocks: list[Block] = []
        """Of the last scrape of every queue."""

    def update(self, shown: Queues, *, every: bool) -> Generator[None, None, list[Block]]:
        """Return what is to be written of `shown`, which is `every` queue or a part of them.

        Yields now and then, so that others can have a turn.
        """
        blocks: list[Block] = []
        kept = self._blocks if every else []
        left = ROWS_AT_ONCE
        for at in range(0, len(shown.own), ROWS_IN_A_BLOCK):
            infos = shown.own[at : at + ROWS_IN_A_BLOCK]
            number = len(blocks)
            if number < len(kept) and kept[number].infos == infos:
                blocks.append(kept[number])
                left -= len(infos)
            else:
                blocks.append(self._block(infos))
                left -= len(infos) * _CHANGED
            if left < 0:
                left = ROWS_AT_ONCE
                yield
        if every:
            self._blocks = blocks[:]
        if len(self._rows) > (len(shown.own) if every else 2 * self.limit):
            # Others are gone.
            self._rows = {row.name: row for block in blocks for row in block.rows}
        if shown.others:
            blocks.append(_block_of(_sum_up(shown.others)))
        if shown.deleted is not None:
            blocks.append(_block_of(shown.deleted))
        return blocks

    def _block(self, infos: Sequence[QueueInfo]) -> Block:
        rows = []
        for info in infos:
            row = self._rows.get(info.name)
            if row is None:
                row = self._rows[info.name] = _Row(info.name)
            if row.info is not info:
                row.update(info)
            rows.append(row)
        return Block(infos, rows)


class Block:
    """What is written of some queues that follow each other, put together."""

    __slots__ = ("infos", "rows", "texts")

    def __init__(self, infos: Sequence[QueueInfo], rows: Sequence[_Row]) -> None:
        self.infos = infos
        self.rows = rows
        columns = zip(*(row.pieces for row in rows), strict=True)
        self.texts = [b"".join(chain.from_iterable(islice(columns, number))) for number in STEADY.values()]
        """The text of each family in `STEADY`."""

    def ages(self, now: float) -> tuple[bytes, bytes]:
        """Return the text of each family in `AGES`."""
        ready, lease = zip(*(row.ages(now) for row in self.rows), strict=True)
        return b"".join(ready), b"".join(lease)


def _block_of(info: QueueInfo) -> Block:
    row = _Row(info.name)
    row.update(info)
    return Block([info], [row])


class _Row:
    """What is written of one queue."""

    __slots__ = ("_ages", "_name", "_values", "_waits", "info", "name", "pieces")

    def __init__(self, name: str) -> None:
        self.name = name
        self.info: QueueInfo | None = None
        self.pieces = [b""] * (len(LINES) + 1)
        """The text of each of `LINES`, and the queue's histogram."""
        self._name = name.encode()
        self._values: Sequence[int | None] = (None,) * len(LINES)
        self._ages = tuple(head % self._name for head in _AGES)
        self._waits = b""

    def update(self, info: QueueInfo) -> None:
        """Write anew what has changed since."""
        before, self.info = self.info, info
        values = _values_of(info)
        pieces, name, was = self.pieces, self._name, self._values
        if values != was:
            self._values = values
            for at, value in enumerate(values):
                if value != was[at]:
                    pieces[at] = b"" if value is None else _LINES[at] % (name, value)
        waits = info.waits
        if before is None or waits is not before.waits:
            pieces[-1] = b"" if waits is None else self._histogram(waits)

    def _histogram(self, waits: Spread) -> bytes:
        *_, number = counts = tuple(accumulate(waits.counts))
        if not number:
            return b""
        self._waits = self._waits or _HISTOGRAM.replace(_NAME, self._name)
        return self._waits % (*counts, waits.seconds, number)

    def ages(self, now: float) -> tuple[bytes, bytes]:
        """Return the text of each family in `AGES`."""
        info = self.info
        oldest = None if info is None else info.oldest
        if oldest is None:
            return b"", b""
        ready, lease = self._ages
        return (
            ready + b"0\n" if oldest.ready == inf else b"%b%.3f\n" % (ready, max(now - oldest.ready, 0.0)),
            lease + b"0\n" if oldest.lease == inf else b"%b%.3f\n" % (lease, max(now - oldest.lease, 0.0)),
        )


def _values_of(info: QueueInfo) -> Sequence[int | None]:
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


_LINES = tuple(b'%b{queue="%%b"%b} %%d\n' % (family.series.encode(), more) for family, more in LINES)
_HISTOGRAM = histogram(WAITS, f'queue="{_NAME.decode()}"', BOUNDS).encode()
_AGES = tuple(b'%b{queue="%%b"} ' % family.name.encode() for family in AGES)
