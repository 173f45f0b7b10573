"""The leases of one queue, against a dictionary."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from math import inf
from sys import getsizeof
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given

from tests.core.test_deadlines import CLOSE, STEPS
from zapq.core.deadlines import Entry
from zapq.core.leases import Lapses, Leases
from zapq.core.message import Lease, Message


def lease(serial: int, deadline: float) -> Lease:
    return Lease(Message(serial, b""), serial, 1, deadline, "0-1")


def deadlines(leases: Iterable[Lease]) -> list[float]:
    return [each.deadline for each in leases]


def by_serial(leases: Iterable[Lease]) -> list[Lease]:
    return sorted(leases, key=lambda each: each.serial)


@given(STEPS)
def test_they_agree_with_a_dictionary(steps: list[tuple[str, int, float]]) -> None:
    leases = Leases()
    model: dict[int, Lease] = {}
    for verb, number, time in steps:
        match verb:
            case "put":
                model[number] = lease(number, time)
                leases.put(model[number])
            case "pop":
                assert leases.pop(number) is model.pop(number, None)
            case "due":
                now = min(time, 9.0)
                over = leases.due(now, number)
                assert deadlines(over) == sorted(deadlines(over))
                assert all(each.deadline <= now for each in over)
                assert len(over) == min(number, sum(each.deadline <= now for each in model.values()))
                for each in over:
                    assert model.pop(each.serial) is each
        in_order = sorted(deadlines(model.values()))
        assert leases.next() == (in_order[0] if in_order else inf)
        assert deadlines(leases.first(3)) == in_order[:3]
        assert by_serial(leases.first(99)) == by_serial(model.values())
        assert by_serial(leases.values()) == by_serial(model.values())
        assert len(leases) == len(model)
        assert all((each in leases) == (each in model) for each in range(10))
        for number in range(10):
            assert leases.find(number) is model.get(number)
    kept = [part for part in leases.clear() if isinstance(part, dict)]
    assert {each.value if isinstance(each, Entry) else each for part in kept for each in part.values()} == {
        *model.values()
    }
    assert (len(leases), leases.next()) == (0, inf)


@given(CLOSE)
@example([("put", 0, 1.0), ("put", 1, 2.0), ("put", 1, 3.0)])
def test_they_agree_however_often_they_are_rebuilt(steps: list[tuple[str, int, float]]) -> None:
    often: dict[str, Any] = {"WORTH_SHRINKING": 1, "SPARSE_FACTOR": 1, "LEASES_INDEXED": 2}
    with patch.multiple("zapq.core.leases", **often):
        test_they_agree_with_a_dictionary.hypothesis.inner_test(steps)  # type: ignore[attr-defined]  # hypothesis's


def test_one_that_lasts_long_keeps_the_others_in_order() -> None:
    leases = Leases()
    leases.put(lease(1, 1000.0))
    for serial in range(2, 100):
        leases.put(lease(serial, float(serial)))
    assert [each.serial for each in leases.due(50.0, 1000)] == list(range(2, 51))
    assert [each.serial for each in leases.first(99)] == [*range(51, 100), 1]


def test_memory_is_given_back_when_most_have_ended() -> None:
    leases = Leases()
    for serial in range(20_000):
        leases.put(lease(serial, float(serial)))
    most = getsizeof(leases._timely)
    for serial in range(19_000):
        leases.pop(serial)
    assert getsizeof(leases._timely) < most / 8
    assert [each.serial for each in leases.first(2)] == [19_000, 19_001]


def test_one_that_is_extended_just_as_memory_is_given_back_stays() -> None:
    for left in range(90, 110):
        leases = Leases()
        for serial in range(1601):
            leases.put(lease(serial, float(serial)))
        for serial in range(1601 - left):
            leases.pop(serial)
        leases.put(extended := lease(1600, 5000.0))
        assert len(leases) == left
        assert leases.get(1600) is leases.find(1600) is extended


def test_of_many_each_is_found_by_its_message_without_looking_through_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("zapq.core.leases.LEASES_INDEXED", 2000)
    leases = Leases()
    for serial in range(3000):
        leases.put(lease(serial, float(serial % 1500)))
    monkeypatch.setattr(Leases, "values", None)  # looking through them would be by this
    assert leases.find(2999) is not None
    assert leases.find(3000) is None
    leases.pop(2999)
    assert leases.find(2999) is None


def test_forgetting_the_oldest_of_many_lapses_walks_over_no_others() -> None:
    # A plain dictionary finds its first entry behind the places of all those that were removed before.
    lapses = Lapses()
    assert isinstance(lapses._messages, OrderedDict)
