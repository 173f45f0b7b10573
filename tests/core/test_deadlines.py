"""What is due when, against a dictionary."""

from __future__ import annotations

from math import inf
from sys import getsizeof
from typing import Any
from unittest.mock import patch

from hypothesis import example, given
from hypothesis import strategies as st

from zapq.core.deadlines import Deadlines, smallest

TIMES = st.sampled_from([1.0, 2.0, 3.0, 4.0, inf])


def steps_with(numbers: st.SearchStrategy[int]) -> st.SearchStrategy[list[tuple[str, int, float]]]:
    return st.lists(
        st.one_of(
            st.tuples(st.just("put"), numbers, TIMES),
            st.tuples(st.just("pop"), numbers, st.just(0.0)),
            st.tuples(st.just("due"), numbers, TIMES),
            st.tuples(st.just("pop first"), numbers, st.just(0.0)),
        ),
        max_size=60,
    )


STEPS = steps_with(st.integers(0, 9))
CLOSE = steps_with(st.integers(0, 2))
"""With few numbers, of which most are there already."""


@given(STEPS)
def test_it_agrees_with_a_dictionary(steps: list[tuple[str, int, float]]) -> None:
    deadlines: Deadlines[str] = Deadlines()
    model: dict[int, float] = {}
    for verb, number, time in steps:
        in_order = sorted((when, each) for each, when in model.items() if when < inf)
        match verb:
            case "put":
                deadlines.put(number, time, f"value {number}")
                model[number] = time
            case "pop":
                assert deadlines.pop(number) == (f"value {number}" if number in model else None)
                model.pop(number, None)
            case "pop first":
                assert deadlines.pop_first() == (f"value {in_order[0][1]}" if in_order else None)
                for _, each in in_order[:1]:
                    del model[each]
            case "due":
                expected = [each for when, each in in_order if when <= time][:number]
                assert deadlines.due(time if time < inf else 9.0, number) == [f"value {each}" for each in expected]
                for each in expected:
                    del model[each]
        in_order = sorted((when, each) for each, when in model.items() if when < inf)
        assert deadlines.next() == (in_order[0][0] if in_order else inf)
        timeless = [(when, f"value {each}") for each, when in model.items() if when == inf]
        everything = [(when, f"value {each}") for when, each in in_order]
        assert deadlines.first(3)[: len(everything)] == everything[:3]
        assert sorted(deadlines.first(99)) == sorted(everything + timeless)
        assert list(deadlines) == [value for _, value in everything]
        assert sorted((each.time, each.value) for each in deadlines.entries()) == sorted(everything + timeless)
        assert bool(deadlines) == bool(model)
        assert sorted(deadlines.values()) == sorted(f"value {each}" for each in model)
        assert len(deadlines) == len(model)
        for each in range(10):
            assert (each in deadlines) == (each in model)
            assert deadlines.entry(each) == ((model[each], f"value {each}") if each in model else None)


@given(CLOSE)
@example([("put", 0, 1.0), ("put", 1, 2.0), ("put", 1, 3.0)])
def test_it_agrees_however_often_it_is_rebuilt(steps: list[tuple[str, int, float]]) -> None:
    often: dict[str, Any] = {"WORTH_SHRINKING": 1, "SPARSE_FACTOR": 1, "_STALE_ALLOWED": 0}
    with patch.multiple("zapq.core.deadlines", **often):
        test_it_agrees_with_a_dictionary.hypothesis.inner_test(steps)  # type: ignore[attr-defined]  # hypothesis's


def test_entries_that_are_replaced_or_removed_do_not_pile_up() -> None:
    deadlines: Deadlines[None] = Deadlines()
    for number in range(10_000):
        deadlines.put(0, float(number), None)
        deadlines.put(number + 1, float(number), None)
        deadlines.pop(number + 1)
        assert len(deadlines._heap) <= 2 * len(deadlines) + 66


def test_memory_is_given_back_when_most_are_gone() -> None:
    for times in (range(20_000), range(20_000, 0, -1)):
        deadlines: Deadlines[None] = Deadlines()
        for number, time in enumerate(times):
            deadlines.put(number, float(time), None)
        most = sum(map(getsizeof, (deadlines._timely, deadlines._others, deadlines._heap)))
        for number in range(19_900):
            deadlines.pop(number)
        assert sum(map(getsizeof, (deadlines._timely, deadlines._others, deadlines._heap))) < most / 8


def test_what_is_replaced_just_as_memory_is_given_back_stays() -> None:
    for left in range(90, 110):
        deadlines: Deadlines[str] = Deadlines()
        for number in range(1601):
            deadlines.put(number, float(number), "before")
        for number in range(1601 - left):
            deadlines.pop(number)
        deadlines.put(1600, 5000.0, "after")
        assert (len(deadlines), deadlines.entry(1600)) == (left, (5000.0, "after"))


def test_what_is_cleared_is_given_to_the_caller_as_it_is() -> None:
    deadlines: Deadlines[str] = Deadlines()
    for number, time in enumerate((1.0, 2.0, 0.0, inf)):
        deadlines.put(number, time, f"value {number}")
    parts = deadlines.clear()
    assert sorted(each.value for part in parts if isinstance(part, dict) for each in part.values()) == [
        "value 0",
        "value 1",
        "value 2",
        "value 3",
    ]
    assert (len(deadlines), list(deadlines), deadlines.next()) == (0, [], inf)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers()), max_size=40))
def test_the_smallest_come_in_order_and_the_heap_stays_as_it_is(entries: list[tuple[int, int]]) -> None:
    heap = sorted(entries)  # which is a heap
    before = list(heap)
    assert list(smallest(heap)) == before
    assert heap == before
