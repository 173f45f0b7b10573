"""A page of a listing of queues: sorted, and going on where the page before it ended.

What a queue holds changes between two pages. So a page does not begin at a number, but behind the last queue of
the page before, by the value that one was sorted by and its name. So no queue that keeps its place is left out
or shown twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from math import inf, isfinite, isnan, nan

import msgspec

from zapq.errors import InvalidParameter
from zapq.service.operations import ListPage
from zapq.service.queue_state import QueueInfo

SORTS: dict[str, Callable[[QueueInfo], float]] = {
    "name": lambda info: 0,
    "messages": lambda info: info.stats.messages,
    "bytes": lambda info: info.stats.bytes,
    "ready": lambda info: info.stats.ready,
    "delayed": lambda info: info.stats.delayed,
    "leased": lambda info: info.stats.leased,
    "waiting": lambda info: info.waiting,
    # Since when it is there stays the same, and its age does not: so the next page begins where this one ends.
    "age": lambda info: -info.oldest.ready if info.oldest is not None else -inf,
}
"""What a listing can be sorted by: numbers with the largest first, names from A to Z."""


class Page(msgspec.Struct, frozen=True):
    """Some of the queues that were asked for."""

    infos: Sequence[QueueInfo]
    total: int
    """How many queues there are on all pages."""
    next: str = ""
    """What the next page comes after; empty on the last one."""


def check_sort(sort: str) -> str:
    """Return `sort` if a listing can be sorted so; `InvalidParameter` otherwise."""
    if sort.removeprefix("-") not in SORTS:
        raise InvalidParameter(
            f"sort must be one of {', '.join(SORTS)}, with a minus in front of it for the other way round.",
            parameter="sort",
        )
    return sort


def wanted(names: Iterable[str], asked: ListPage) -> list[str]:
    """Return those of `names` that are asked for, from A to Z."""
    begin, patterns = asked.prefix, {asked.pattern, asked.like} - {"*"}
    return sorted(
        name
        for name in names
        if name.startswith(begin) and all(fnmatchcase(name, pattern) for pattern in patterns)
    )


def by_name(names: Sequence[str], asked: ListPage) -> list[str] | None:
    """Return which of `names`, from A to Z, can be on the page, if that can be told without looking at queues."""
    if asked.sort != "name":
        return None
    # One more, so that it is known whether there is a next page.
    return [name for name in names if name > asked.after][: asked.limit + 1]


def page_of(infos: Iterable[QueueInfo], asked: ListPage, total: int | None = None) -> Page:
    """Return the page that is asked for of `infos`: all of the queues that are wanted, or all it may show.

    Raises `InvalidParameter` for an `after` that no page has ended with.
    """
    value_of, downwards = SORTS[asked.sort.removeprefix("-")], not asked.sort.startswith("-")
    by_value = value_of is not SORTS["name"]
    found = list(infos)
    total = len(found) if total is None else total
    found.sort(key=lambda info: info.name, reverse=not (by_value or downwards))
    if by_value:
        # A stable sort: those that are equal stay from A to Z.
        found.sort(key=value_of, reverse=downwards)
    if asked.after:
        found = _behind(found, asked.after, value_of if by_value else None, downwards)
    shown = found[: asked.limit]
    if len(found) == len(shown):
        return Page(shown, total)
    last = shown[-1]
    return Page(shown, total, f"{value_of(last)}:{last.name}" if by_value else last.name)


def _behind(
    found: list[QueueInfo], after: str, value_of: Callable[[QueueInfo], float] | None, downwards: bool
) -> list[QueueInfo]:
    if value_of is None:
        return [info for info in found if (info.name > after if downwards else info.name < after)]
    text, _, name = after.rpartition(":")
    try:
        value = float(text)
    except ValueError:
        value = nan
    if text not in {str(value), str(int(value)) if isfinite(value) else ""} or isnan(value):
        raise InvalidParameter(
            "after must be what the answer before said in Zapq-Next, for the same sort.", parameter="after"
        )
    return [
        info
        for info in found
        if ((mine := value_of(info)) == value and info.name > name)
        or (mine < value if downwards else mine > value)
    ]
