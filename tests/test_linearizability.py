"""The checker of histories, checked: against trying every order, and its sequential queue against the real one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, permutations

import pytest
from hypothesis import Phase, event, find, given, settings
from hypothesis import strategies as st

from tests.linearizability import (
    Ack,
    Call,
    Dequeue,
    Enqueue,
    Operation,
    Receive,
    Release,
    Result,
    SequentialQueue,
    check,
    describe,
)
from zapq.core.broker import Broker
from zapq.core.message import Properties
from zapq.errors import ReceiptExpired
from zapq.limits import RELEASES_AT_ONCE

LARGEST = 5
"""Operations of a history of which every order is tried: six have six times as many."""
RESULTS: dict[type[Call], list[Result]] = {
    Enqueue: [1, 2, 3, -1, "1>v1"],
    Dequeue: [None, "v0", "v1", "v2"],
    Receive: [None, "v0", "v1", "v2"],
    Ack: [True, False],
    Release: [True, False],
}


@st.composite
def programs(draw: st.DrawFn, most: int = LARGEST) -> list[Call]:
    """Calls with unique values and new receipts; settled are receipts given before, and the next to be given."""
    program: list[Call] = []
    values = receipts = 0
    for kind in draw(st.lists(st.sampled_from(list(RESULTS)), min_size=1, max_size=most)):
        if kind is Enqueue:
            group, key = draw(st.sampled_from(["", "a"])), draw(st.sampled_from(["", "k"]))
            program.append(Enqueue(f"v{values}", group, key, draw(st.booleans())))
            values += 1
        elif kind is Receive:
            program.append(Receive(f"r{receipts}"))
            receipts += 1
        elif kind is Dequeue:
            program.append(Dequeue())
        else:
            receipt = f"r{draw(st.integers(0, receipts))}"
            program.append(Ack(receipt) if kind is Ack else Release(receipt))
    return program


@st.composite
def honest_histories(draw: st.DrawFn) -> list[Operation]:
    """What a sequential queue answers, each call and answer moved away from the instant at which it happened."""
    queue = SequentialQueue()
    history = []
    for number, call in enumerate(draw(programs())):
        result, queue = queue.perform(call)
        invoked, responded = 10 * number - draw(st.integers(0, 25)), 10 * number + draw(st.integers(0, 25))
        answered = draw(st.sampled_from([True, True, True, False]))
        history.append(Operation(number, call, result, invoked, responded if answered else None))
    return history


@st.composite
def doubtful_histories(draw: st.DrawFn) -> list[Operation]:
    """Histories of which some results may be wrong, and some operations missing."""
    history = draw(honest_histories())
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(history) - 1))
        history[at] = replace(history[at], result=draw(st.sampled_from(RESULTS[type(history[at].call)])))
    if len(history) > 1 and draw(st.booleans()):
        del history[draw(st.integers(0, len(history) - 1))]
    return history


def is_explanation(order: tuple[Operation, ...], history: list[Operation]) -> bool:
    """Whether a sequential queue gives these answers in this order, nobody being answered before it is called."""
    if any(later.end < earlier.invoked for earlier, later in combinations(order, 2)):
        return False
    if any(operation.responded is not None and operation not in order for operation in history):
        return False
    queue = SequentialQueue()
    for operation in order:
        result, queue = queue.perform(operation.call)
        if operation.responded is not None and result != operation.result:
            return False
    return True


def brute_force(history: list[Operation]) -> bool:
    """Try every order of everything, with and without each operation that was not answered."""
    return any(
        is_explanation(order, history)
        for number in range(len(history) + 1)
        for order in permutations(history, number)
    )


@given(history=doubtful_histories())
@settings(deadline=None)
def test_the_checker_finds_an_order_exactly_if_there_is_one(history: list[Operation]) -> None:
    order = check(history)
    event("accepted" if order is not None else "rejected")
    assert (order is not None) == brute_force(history), describe(history)
    if order is not None:
        assert is_explanation(tuple(order), history)


@pytest.mark.parametrize("accepted", [True, False])
def test_both_verdicts_are_among_those_that_are_compared(accepted: bool) -> None:
    find(
        doubtful_histories(),
        lambda history: len(history) == LARGEST and (check(history) is not None) == accepted,
        settings=settings(max_examples=10_000, deadline=None, database=None, phases=[Phase.generate]),
    )


@given(history=honest_histories())
@settings(deadline=None)
def test_whatever_really_happened_is_accepted(history: list[Operation]) -> None:
    assert check(history) is not None, describe(history)


@given(program=programs(most=30))
@settings(deadline=None)
def test_the_sequential_queue_answers_as_the_real_one(program: list[Call]) -> None:
    model, real = SequentialQueue(), Broker(max_messages=99, max_bytes=999, max_queues=1).default
    given: dict[str, str] = {}
    """What the real receipt is, if there is one."""
    unknown = f"{real.tag}-ffff"
    releases: Counter[str] = Counter()
    for call in program:
        expected, after = model.perform(call)
        result: Result
        match call:
            case Enqueue(value, group, "", _):
                result = real.enqueue(value.encode(), Properties(group=group)).id
            case Enqueue(value, group, unique, replacing):
                properties = Properties(group=group, unique=unique)
                placed = real.enqueue_unique(value.encode(), properties, replace=replacing, now=0.0)
                said: dict[str, Result] = {
                    "": placed.id,
                    "kept": -placed.id,
                    "replaced": f"{placed.id}>{value}",
                }
                result = said[placed.how]
            case Dequeue():
                message = real.dequeue()
                result = None if message is None else message.body.decode()
            case Receive(receipt):
                lease = real.receive()
                result = None if lease is None else lease.body.decode()
                if lease is not None:
                    given[receipt] = lease.receipt
            case Ack(receipt):
                result = succeeds(real.ack, given.get(receipt, unknown), 0.0)
            case Release(receipt):
                place = dict(model.leased).get(receipt)
                value = "" if place is None else place.value
                if releases[value] == RELEASES_AT_ONCE:
                    continue  # the next time it would have to rest
                result = succeeds(real.release, given.get(receipt, unknown), 0.0, 0.0)
                releases[value] += value != ""
        assert result == expected
        model = after


def succeeds(settle: Callable[..., None], *arguments: object) -> bool:
    try:
        settle(*arguments)
    except ReceiptExpired:
        return False
    return True


def history_of(*operations: tuple[Call, Result, int, int | None]) -> list[Operation]:
    return [Operation(number, *operation) for number, operation in enumerate(operations)]


ONE, TWO = Enqueue("one"), Enqueue("two")
FIRST, SECOND = Enqueue("first", "group"), Enqueue("second", "group")


@pytest.mark.parametrize(
    "history",
    [
        pytest.param(history_of(), id="nothing at all"),
        pytest.param(history_of((ONE, 1, 1, 4), (Dequeue(), None, 2, 3)), id="empty before the enqueue happened"),
        pytest.param(history_of((ONE, 1, 1, 4), (Dequeue(), "one", 2, 3)), id="taken before the answer"),
        pytest.param(history_of((ONE, 2, 1, 4), (TWO, 1, 2, 3)), id="the second to call is the first in line"),
        pytest.param(history_of((ONE, None, 1, None), (Dequeue(), "one", 5, 6)), id="no answer but stored"),
        pytest.param(history_of((ONE, None, 1, None), (Dequeue(), None, 5, 6)), id="no answer and not stored"),
        pytest.param(
            history_of((ONE, None, 1, None), (Dequeue(), None, 2, 3), (Dequeue(), "one", 4, 5)),
            id="no answer and stored late",
        ),
        pytest.param(
            history_of(
                (ONE, 1, 1, 2), (TWO, 2, 3, 4), (Receive("r"), "one", 5, 6), (Release("r"), True, 7, 8),
                (Dequeue(), "one", 9, 10),
            ),
            id="released to its place",
        ),
        pytest.param(
            history_of(
                (ONE, 1, 1, 2), (Receive("r"), "one", 3, 4), (Ack("r"), True, 5, 7), (Ack("r"), True, 6, 8)
            ),
            id="acknowledged twice",
        ),
        pytest.param(
            history_of(
                (ONE, 1, 1, 2), (Receive("r"), None, 3, None), (Release("r"), None, 3, None),
                (Dequeue(), None, 4, 5), (Dequeue(), "one", 6, 7),
            ),
            id="taken by somebody who vanished, and back",
        ),
        pytest.param(
            history_of(
                (FIRST, 1, 1, 2), (SECOND, 2, 3, 4), (TWO, 3, 5, 6), (Receive("r"), "first", 7, 8),
                (Dequeue(), "two", 9, 10), (Dequeue(), None, 11, 12), (Ack("r"), True, 13, 14),
                (Dequeue(), "second", 15, 16),
            ),
            id="held up by an earlier one of the group",
        ),
    ],
)  # fmt: skip
def test_what_one_queue_could_have_answered_is_accepted(history: list[Operation]) -> None:
    assert check(history) is not None


@pytest.mark.parametrize(
    "history",
    [
        pytest.param(history_of((ONE, 1, 1, 2), (Dequeue(), None, 3, 4)), id="empty after the enqueue's answer"),
        pytest.param(history_of((Dequeue(), "one", 1, 2), (ONE, 1, 3, 4)), id="taken before it was sent"),
        pytest.param(history_of((ONE, 2, 1, 2), (TWO, 1, 3, 4)), id="a later message earlier in line"),
        pytest.param(
            history_of((ONE, 1, 1, 2), (TWO, 2, 3, 4), (Dequeue(), "two", 5, 6)), id="the second before the first"
        ),
        pytest.param(
            history_of((ONE, 1, 1, 2), (Dequeue(), "one", 3, 5), (Dequeue(), "one", 4, 6)), id="given twice"
        ),
        pytest.param(
            history_of((ONE, None, 1, None), (Dequeue(), "one", 3, 5), (Dequeue(), "one", 4, 6)),
            id="no answer and given twice",
        ),
        pytest.param(
            history_of((ONE, None, 1, None), (TWO, 1, 2, 3), (Dequeue(), "one", 4, 5)),
            id="no answer and in front of what was answered",
        ),
        pytest.param(
            history_of(
                (ONE, 1, 1, 2), (TWO, 2, 3, 4), (Receive("r"), "one", 5, 6), (Release("r"), True, 7, 8),
                (Dequeue(), "two", 9, 10),
            ),
            id="released to the end",
        ),
        pytest.param(
            history_of(
                (ONE, 1, 1, 2), (Receive("r"), "one", 3, 4), (Release("r"), True, 5, 6), (Ack("r"), True, 7, 8)
            ),
            id="acknowledged after the release",
        ),
        pytest.param(
            history_of(
                (ONE, 1, 1, 2), (Receive("r"), "one", 3, 4), (Ack("r"), True, 5, 7), (Release("r"), True, 6, 8)
            ),
            id="acknowledged and released at once",
        ),
        pytest.param(
            history_of(
                (FIRST, 1, 1, 2), (SECOND, 2, 3, 4), (Receive("r"), "first", 5, 6), (Dequeue(), "second", 7, 8)
            ),
            id="given while an earlier one of the group is leased",
        ),
        pytest.param(
            history_of(
                (FIRST, 1, 1, 2), (SECOND, 2, 3, 4), (Receive("r"), "first", 5, 6), (Ack("r"), True, 7, 8),
                (Dequeue(), None, 9, 10),
            ),
            id="held up by one that is gone",
        ),
    ],
)  # fmt: skip
def test_what_no_queue_could_have_answered_is_rejected(history: list[Operation]) -> None:
    assert check(history) is None
