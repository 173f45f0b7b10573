"""What was received under an attempt id, and for how long that is known."""

from __future__ import annotations

import pytest

from zapq.core import attempts as module
from zapq.core.attempts import Attempts, LeaseSeen
from zapq.limits import ATTEMPT_WINDOW

FIRST = [LeaseSeen(1, "q-1", 30.0)]
SECOND = [LeaseSeen(2, "q-2", 31.0)]


def test_an_attempt_is_known_for_its_time_in_its_queue() -> None:
    attempts = Attempts()
    attempts.put(1, "a", FIRST, now=0)
    assert attempts.find(1, "a", now=ATTEMPT_WINDOW - 0.1) == FIRST
    assert not attempts.find(1, "a", now=ATTEMPT_WINDOW)
    assert not attempts.find(2, "a", now=0)
    attempts.put(1, "b", SECOND, now=ATTEMPT_WINDOW)
    assert len(attempts) == 1


def test_its_time_does_not_begin_anew_with_its_leases() -> None:
    attempts = Attempts()
    attempts.put(1, "a", FIRST, now=0)
    attempts.renew(1, "a", SECOND)
    assert attempts.find(1, "a", now=1) == SECOND
    assert not attempts.find(1, "a", now=ATTEMPT_WINDOW)
    attempts.pop(1, "a")
    attempts.pop(1, "a")
    assert not attempts.find(1, "a", now=1)


def test_so_many_are_known_and_one_used_anew_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ATTEMPTS", 2)
    attempts = Attempts()
    for each in "abca":
        attempts.put(1, each, FIRST, now=0)
    assert [bool(attempts.find(1, each, now=0)) for each in "abc"] == [True, False, True]
