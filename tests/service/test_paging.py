"""Pages of a listing: in order, complete, and the same whether queues are looked at first or not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zapq.core.queue_settings import QueueSettings
from zapq.core.stats import QueueStats
from zapq.errors import InvalidParameter
from zapq.service.operations import ListPage
from zapq.service.paging import SORTS, by_name, check_sort, page_of, wanted
from zapq.service.queue_state import QueueInfo


def info(name: str, ready: int = 0) -> QueueInfo:
    return QueueInfo(name, QueueSettings(), QueueStats(messages=ready, ready=ready), False, 0)


def walk(infos: list[QueueInfo], sort: str, limit: int) -> list[str]:
    """Return the names on all pages, one after the other."""
    names: list[str] = []
    after = ""
    while True:
        asked = ListPage(sort=sort, limit=limit, after=after)
        page = page_of(infos, asked)
        assert page.total == len(infos)
        assert len(page.infos) <= limit
        names += [each.name for each in page.infos]
        if not page.next:
            return names
        after = page.next


@given(
    st.dictionaries(st.text("ab-", min_size=1, max_size=4), st.integers(0, 3)),
    st.sampled_from([sign + sort for sort in SORTS for sign in ("", "-")]),
    st.integers(1, 4),
)
def test_every_queue_is_on_one_page_in_order(held: dict[str, int], sort: str, limit: int) -> None:
    infos = [info(name, ready) for name, ready in held.items()]
    names = walk(infos, sort, limit)
    assert sorted(names) == sorted(held)
    value = SORTS[sort.removeprefix("-")]
    values = [value(info(name, held[name])) for name in names]
    assert values == sorted(values, reverse=not sort.startswith("-"))
    if sort in {"name", "-name"}:
        assert names == sorted(held, reverse=sort == "-name")


@given(st.sets(st.text("ab-", min_size=1, max_size=4)), st.text("ab", max_size=2), st.integers(1, 4))
def test_a_page_by_name_is_the_same_without_looking_at_the_others(
    names: set[str], prefix: str, limit: int
) -> None:
    asked = ListPage(pattern="*a*", like="*b*", prefix=prefix, limit=limit, after="a")
    fit = wanted(names, asked)
    assert fit == sorted(name for name in names if name.startswith(prefix) and "a" in name and "b" in name)
    shown = by_name(fit, asked)
    assert shown is not None
    assert page_of(map(info, shown), asked, len(fit)) == page_of(map(info, fit), asked)


def test_a_queue_that_keeps_its_place_is_shown_once_while_others_change() -> None:
    before = [info("a", 9), info("b", 5), info("c", 1)]
    first = page_of(before, ListPage(sort="ready", limit=2))
    assert ([each.name for each in first.infos], first.next) == (["a", "b"], "5:b")
    # The first has been emptied and deleted, and a new one is in front.
    after = [info("new", 7), info("b", 5), info("c", 1)]
    second = page_of(after, ListPage(sort="ready", limit=2, after=first.next))
    assert [each.name for each in second.infos] == ["c"]


@pytest.mark.parametrize("after", ["b", "x:b", ":"])
def test_a_page_after_what_no_page_ended_with_is_refused(after: str) -> None:
    with pytest.raises(InvalidParameter):
        page_of([info("b")], ListPage(sort="ready", after=after))


def test_what_a_listing_cannot_be_sorted_by_is_refused() -> None:
    assert check_sort("-ready") == "-ready"
    with pytest.raises(InvalidParameter):
        check_sort("--ready")
