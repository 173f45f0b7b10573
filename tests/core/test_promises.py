"""Keys that are never forgotten before their time, and messages refused where there is no room for one more."""

from __future__ import annotations

import tracemalloc

import pytest

from zapq.core.idempotency import ANY_CONTENT, Claim, Keys
from zapq.errors import TooManyDeduplicationIds
from zapq.limits import IDEMPOTENCY_WINDOW, KEYS_FORGOTTEN


def claim(keys: Keys, key: str, id: int, now: float, queue: int = 1) -> list[tuple[int, str]]:
    keys.check_room(ANY_CONTENT, now)
    return keys.claim(queue, key, ANY_CONTENT, id, now)


def find(keys: Keys, key: str, now: float, queue: int = 1) -> int | None:
    return keys.find(queue, key, ANY_CONTENT, now)


def test_a_promise_is_kept_for_its_whole_time_however_many_come() -> None:
    keys = Keys(max_promises=3)
    for number in range(3):
        claim(keys, str(number), number, now=number)
    assert find(keys, "0", now=2, queue=2) is None
    with pytest.raises(TooManyDeduplicationIds) as refused:
        claim(keys, "3", 3, now=10)
    assert (refused.value.retry_after, refused.value.members["current"]) == (290, 3)
    assert [find(keys, str(number), now=IDEMPOTENCY_WINDOW - 0.1) for number in range(3)] == [0, 1, 2]
    assert find(keys, "0", now=IDEMPOTENCY_WINDOW) is None
    assert claim(keys, "3", 3, now=IDEMPOTENCY_WINDOW) == [(1, "0")]
    assert len(keys) == 3


def test_what_repeats_a_promise_is_told_though_there_is_no_room() -> None:
    keys = Keys(max_promises=1)
    claim(keys, "a", 7, now=0)
    assert find(keys, "a", now=1) == 7


def test_promises_and_idempotency_keys_do_not_push_each_other_out() -> None:
    keys = Keys(max_promises=1)
    claim(keys, "a", 1, now=0)
    keys.check_room(b"print", now=0)
    keys.claim(1, "a", b"print", 2, now=0)
    assert (find(keys, "a", now=0), keys.find(1, "a", b"print", now=0)) == (1, 2)


def test_one_used_anew_lasts_anew_and_one_released_is_not_known() -> None:
    keys = Keys(max_promises=2)
    claim(keys, "a", 1, now=0)
    claim(keys, "b", 2, now=0)
    assert claim(keys, "a", 3, now=IDEMPOTENCY_WINDOW) == [(1, "b")]
    assert find(keys, "a", now=2 * IDEMPOTENCY_WINDOW - 1) == 3
    claim(keys, "c", 4, now=IDEMPOTENCY_WINDOW)
    keys.release(1, "a", ANY_CONTENT)
    assert find(keys, "a", now=IDEMPOTENCY_WINDOW) is None
    claim(keys, "d", 5, now=IDEMPOTENCY_WINDOW)
    claim_all = [find(keys, each, now=IDEMPOTENCY_WINDOW) for each in "cd"]
    assert claim_all == [4, 5]


def test_no_message_pays_for_many_that_are_over() -> None:
    keys = Keys()
    for number in range(100):
        claim(keys, str(number), number, now=0)
    assert len(claim(keys, "x", 1, now=IDEMPOTENCY_WINDOW)) == KEYS_FORGOTTEN


def test_an_image_has_both_kinds_for_what_is_left_of_their_time() -> None:
    keys = Keys()
    claim(keys, "a", 1, now=0)
    keys.claim(1, "b", b"print", 2, now=5)
    claim(keys, "other", 3, now=5, queue=2)
    kept = list(keys.image({1: "jobs"}))
    again = Keys()
    again.fill(kept, {"jobs": 9}, now=10)
    assert len(again) == 2
    assert (find(again, "a", now=299, queue=9), again.find(9, "b", b"print", now=299)) == (1, 2)
    assert find(again, "a", now=300, queue=9) is None
    again.restore(9, "c", Claim(ANY_CONTENT, 4, 400.0))
    assert find(again, "c", now=399, queue=9) == 4


def test_a_promise_takes_no_more_memory_than_the_setting_says() -> None:
    keys, number = Keys(), 40_000
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for each in range(number):
            claim(keys, f"sqs {each:022}", each << 16, now=each / 100)
        size = (tracemalloc.get_traced_memory()[0] - before) / number
    finally:
        tracemalloc.stop()
    assert size < 250


def test_promises_that_are_taken_back_leave_nothing_behind_one_that_stands() -> None:
    keys = Keys(max_promises=10)
    claim(keys, "stands", 1, now=0)
    tracemalloc.start()
    try:
        for number in range(50_000):
            claim(keys, str(number), number, now=1)
            keys.release(1, str(number), ANY_CONTENT)
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left < 500_000
    assert find(keys, "stands", now=2) == 1
    assert claim(keys, "next", 2, now=IDEMPOTENCY_WINDOW) == [(1, "stands")]
