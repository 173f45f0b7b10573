"""A key stands for one message, for a while."""

from __future__ import annotations

import pytest

from zapq.core import idempotency
from zapq.core.idempotency import Keys
from zapq.errors import KeyReused
from zapq.limits import IDEMPOTENCY_WINDOW, KEYS_FORGOTTEN


def test_a_key_leads_to_its_message_and_to_no_other() -> None:
    keys = Keys()
    assert keys.find(1, "key", b"print", now=0) is None
    keys.claim(1, "key", b"print", 7, now=0)
    assert keys.find(1, "key", b"print", now=1) == 7
    assert keys.find(2, "key", b"print", now=1) is None
    with pytest.raises(KeyReused):
        keys.find(1, "key", b"another", now=1)


def test_a_key_is_kept_for_its_time() -> None:
    keys = Keys()
    keys.claim(1, "a", b"", 1, now=0)
    keys.claim(1, "b", b"", 2, now=10)
    assert keys.find(1, "a", b"", now=IDEMPOTENCY_WINDOW - 0.1) == 1
    assert keys.find(1, "a", b"", now=IDEMPOTENCY_WINDOW) is None
    assert keys.find(1, "b", b"", now=IDEMPOTENCY_WINDOW) == 2
    assert keys.claim(1, "c", b"", 3, now=IDEMPOTENCY_WINDOW) == [(1, "a")]
    assert len(keys) == 2


def test_a_key_whose_time_is_over_is_used_anew_and_is_then_the_last() -> None:
    keys = Keys()
    for number in range(100):
        keys.claim(1, str(number), b"", number, now=0)
    assert len(keys.claim(1, "99", b"new", 100, now=IDEMPOTENCY_WINDOW)) == KEYS_FORGOTTEN
    for number in range(10):
        keys.claim(1, f"later {number}", b"", 200, now=IDEMPOTENCY_WINDOW)
    assert keys.find(1, "99", b"new", now=IDEMPOTENCY_WINDOW) == 100
    assert len(keys) == 11


def test_so_many_are_kept_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "MAX_KEYS", 3)
    keys = Keys()
    for number in range(5):
        keys.claim(1, str(number), b"", number, now=0)
    assert [keys.find(1, str(number), b"", now=0) for number in range(5)] == [None, None, 2, 3, 4]
