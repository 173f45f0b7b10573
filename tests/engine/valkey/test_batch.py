"""What gathers for the next batch, and in which order it leaves."""

from __future__ import annotations

from zapq.engine.valkey.asked import Asked
from zapq.engine.valkey.batch import Gathering
from zapq.limits import ENGINE_BATCH_BYTES, ENGINE_BATCH_OPERATIONS
from zapq.service.operations import Enqueue


def asked(body: bytes = b"", size: int = 10) -> Asked:
    return Asked(Enqueue("q", body), 0, size, 0.0, repeatable=False)


def test_operations_of_one_queue_stay_in_order_and_together() -> None:
    gathering = Gathering()
    first, second, third = asked(), asked(), asked()
    gathering.add(("a", "put"), first)
    gathering.add(("b", "put"), second)
    gathering.add(("a", "put"), third)
    assert gathering.bytes == 30
    assert gathering.cut() == [(("a", "put"), [first, third]), (("b", "put"), [second])]
    assert (gathering.bytes, bool(gathering)) == (0, False)


def test_what_was_refused_goes_in_front_of_what_came_since() -> None:
    gathering = Gathering()
    first, second = asked(), asked()
    gathering.add(("a", "put"), second)
    gathering.put_back(("a", "put"), [first])
    assert gathering.cut() == [(("a", "put"), [first, second])]


def test_a_batch_is_bounded_and_a_busy_queue_keeps_no_other_waiting() -> None:
    gathering = Gathering()
    many = [asked() for _ in range(ENGINE_BATCH_OPERATIONS + 1)]
    for each in many:
        gathering.add(("a", "put"), each)
    other = asked()
    gathering.add(("b", "put"), other)
    assert gathering.cut() == [(("a", "put"), many[:-1])]
    assert gathering.cut() == [(("b", "put"), [other]), (("a", "put"), many[-1:])]


def test_a_large_operation_is_a_batch_of_its_own() -> None:
    gathering = Gathering()
    small, large = asked(), asked(size=ENGINE_BATCH_BYTES + 1)
    gathering.add(("a", "put"), small)
    gathering.add(("a", "put"), large)
    assert gathering.cut() == [(("a", "put"), [small])]
    assert gathering.cut() == [(("a", "put"), [large])]
    assert gathering.cut() == []


def test_what_does_not_fit_is_in_the_next_batch_with_what_follows_it() -> None:
    gathering = Gathering()
    small, large, last = asked(), asked(size=ENGINE_BATCH_BYTES), asked()
    for key, each in (("a", small), ("b", large), ("c", last)):
        gathering.add((key, "put"), each)
    assert gathering.cut() == [(("a", "put"), [small])]
    assert gathering.cut() == [(("b", "put"), [large])]
    assert gathering.cut() == [(("c", "put"), [last])]


def test_what_has_waited_for_too_long_leaves() -> None:
    gathering = Gathering()
    old, young = asked(), asked()
    gathering.add(("a", "put"), old)
    gathering.add(("a", "put"), young)
    assert gathering.drop(lambda each: each is old) == [old]
    assert gathering.cut() == [(("a", "put"), [young])]
    assert gathering.bytes == 0
