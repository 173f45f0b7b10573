"""Which connections a client keeps for its next request."""

from __future__ import annotations

import time

import pytest

import zapq.client
from zapq.client.answers import result_of
from zapq.client.talk import Pool
from zapq.errors import Unreachable
from zapq.limits import IDLE_CONNECTION_SECONDS, IDLE_CONNECTIONS


class Idle:
    """A connection that does nothing."""

    def __init__(self) -> None:
        self.stale = self.closed = False

    async def send(self, data: bytes, timeout: float) -> None:
        raise AssertionError

    async def receive(self, timeout: float) -> bytes:
        raise AssertionError

    def is_stale(self) -> bool:
        return self.stale

    def close(self) -> None:
        self.closed = True


def test_the_last_one_is_taken_first_and_stale_ones_are_closed() -> None:
    pool, first, second = Pool(), Idle(), Idle()
    assert pool.take() is None
    pool.give(first)
    pool.give(second)
    second.stale = True
    assert pool.take() is first
    assert (first.closed, second.closed) == (False, True)
    assert pool.take() is None


def test_no_more_are_kept_than_are_needed() -> None:
    pool, connections = Pool(), [Idle() for _ in range(IDLE_CONNECTIONS + 1)]
    for each in connections:
        pool.give(each)
    assert [each.closed for each in connections] == [True] + [False] * IDLE_CONNECTIONS
    pool.close()
    assert all(each.closed for each in connections)
    late = Idle()
    pool.give(late)
    assert late.closed


def test_one_that_was_idle_for_long_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, old, new, now = Pool(), Idle(), Idle(), 1.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pool.give(old)
    now += IDLE_CONNECTION_SECONDS + 1
    pool.give(new)
    assert (old.closed, new.closed) == (True, False)


def test_the_public_names_are_found() -> None:
    assert {"Client", "Producer", "open_client"} <= set(dir(zapq.client))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        zapq.client.nothing  # noqa: B018 - looking it up is the test


def test_a_result_that_no_zapq_gives_is_a_server_error() -> None:
    assert result_of("ok", "q", "r") is None
    assert isinstance(result_of("unreachable", "q", "r"), Unreachable)
    assert "wonders" in str(result_of("wonders", "q", "r"))
