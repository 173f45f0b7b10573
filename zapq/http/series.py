"""The series of single queues, kept as text: most of it is the same at the next scrape.

A family's series stand together, one queue's after the other's. So each queue has a piece of text for each family,
and a scrape puts them together by family. Only the pieces of queues that have changed are made anew.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Sequence
from itertools import accumulate
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
ROWS_AT_ONCE = 100
"""Queues whose series are brought up to date in one go: 0.7 ms if all have changed; then others have a turn."""

AGES = (OLDEST_READY, OLDEST_LEASE)
"""Families that change by themselves."""
STEADY = (MESSAGES, BYTES, WAITING, PAUSED, *LIMITS.values(), *COUNTERS.values(), WAITS)
"""The other families with a series for each queue, in the order in which they are written."""
_END, _NAME = b"\x1f", b"\x1e"
"""End the text of a family, and stand for the name of a queue; no name has them."""


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

    def update(self, shown: Queues, *, every: bool) -> Generator[None, None, list[_Row]]:
        """Return what is to be written of `shown`, which is `every` queue or a part of them.

        Yields now and then, so that others can have a turn.
        """
        before, rows = self._rows, []
        for at, info in enumerate(shown.own, 1):
            row = before.get(info.name)
            if row is None:
                row = before[info.name] = _Row(info.name)
            if row.info is not info:
                row.update(info)
            rows.append(row)
            if not at % ROWS_AT_ONCE:
                yield
        if every or len(before) > 2 * self.limit:
            # Others are gone.
            self._rows = {row.name: row for row in rows}
        if shown.others:
            rows.append(_Row(OTHERS))
            rows[-1].update(_sum_up(shown.others))
        if shown.deleted is not None:
            rows.append(_Row(DELETED))
            rows[-1].update(shown.deleted)
        return rows


class _Row:
    """What is written of one queue."""

    __slots__ = ("_heads", "_template", "info", "name", "pieces")

    def __init__(self, name: str) -> None:
        self.name = name
        self.info: QueueInfo | None = None
        self.pieces: Sequence[bytes] = ()
        """The text of each family in `STEADY`."""
        self._heads = tuple(head.replace(_NAME, name.encode()) for head in _HEADS)
        self._template = _TEMPLATE.replace(_NAME, name.encode())

    def update(self, info: QueueInfo) -> None:
        """Write anew what has changed since."""
        before, self.info = self.info, info
        if before is not None and before == info:
            return
        _, size, ready, delayed, leased, *counts = msgspec.structs.astuple(info.stats)
        spread = info.waits or _NONE
        numbers = (
            *(ready, delayed, leased, size, info.waiting, info.paused),
            *counts,
            *accumulate(spread.counts),
            spread.seconds,
            spread.number,
        )
        pieces = (self._template % numbers).split(_END)
        for at, name in enumerate(LIMITS, _FIRST_LIMIT):
            limit = getattr(info.settings, name)
            if limit is not None:
                pieces[at] = f'{STEADY[at].name}{{queue="{info.name}"}} {limit}\n'.encode()
        if not spread.number:
            pieces[-1] = b""
        if info.name == OTHERS:
            pieces[_PAUSED] = b""
        elif info.name == DELETED:
            pieces[:_FIRST_LIMIT] = [b""] * _FIRST_LIMIT
        self.pieces = pieces

    def ages(self, now: float) -> tuple[bytes, bytes]:
        """Return the text of each family in `AGES`."""
        info = self.info
        oldest = None if info is None else info.oldest
        if oldest is None:
            return b"", b""
        ready, lease = self._heads
        return (
            ready + b"0\n" if oldest.ready == inf else b"%b%.3f\n" % (ready, max(now - oldest.ready, 0.0)),
            lease + b"0\n" if oldest.lease == inf else b"%b%.3f\n" % (lease, max(now - oldest.lease, 0.0)),
        )


_NONE = Spread()
_PAUSED = STEADY.index(PAUSED)
_FIRST_LIMIT = _PAUSED + 1


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


def _template() -> bytes:
    """Return what a queue's series look like, with a place for each number."""
    label = f'queue="{_NAME.decode()}"'
    pieces: list[str] = []
    for family in STEADY:
        if family is MESSAGES:
            piece = "".join(f'{family.name}{{{label},state="{state}"}} %d\n' for state in STATES)
        elif family is WAITS:
            piece = histogram(family, label, BOUNDS)
        elif family.kind == "counter":
            piece = f"{family.name}_total{{{label}}} %d\n"
        else:
            piece = "" if family in LIMITS.values() else f"{family.name}{{{label}}} %d\n"
        pieces.append(piece)
    return _END.decode().join(pieces).encode()


_TEMPLATE = _template()
_HEADS = tuple(f'{family.name}{{queue="{_NAME.decode()}"}} '.encode() for family in AGES)
