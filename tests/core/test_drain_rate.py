"""Retry-After is what was measured, within bounds."""

from __future__ import annotations

import pytest

from zapq.core.broker import Broker
from zapq.core.drain_rate import DrainRate
from zapq.errors import QueueFull
from zapq.limits import DRAIN_WINDOW


def test_who_is_refused_is_told_how_long_it_will_take_at_the_rate_so_far() -> None:
    rate = DrainRate(now=0.0)
    assert rate.retry_after(excess=1, gone=10, now=2.0) == 1  # five a second
    assert rate.retry_after(excess=20, gone=10, now=2.0) == 4
    assert rate.retry_after(excess=1000, gone=10, now=2.0) == 60


def test_where_nothing_has_gone_the_shortest_wait_is_asked_for() -> None:
    rate = DrainRate(now=0.0)
    assert rate.retry_after(excess=1000, gone=0, now=0.0) == 1
    assert rate.retry_after(excess=1000, gone=0, now=100.0) == 1


def test_the_rate_is_that_of_lately() -> None:
    rate = DrainRate(now=0.0)
    now, gone = 0.0, 0
    for _ in range(10):  # fast for a while
        now, gone = now + DRAIN_WINDOW, gone + 1000
        rate.retry_after(1, gone, now)
    assert rate.retry_after(200, gone, now) == 1
    for _ in range(3):  # then one in a window
        now, gone = now + DRAIN_WINDOW, gone + 1
        answer = rate.retry_after(2, gone, now)
    assert answer == 2 * DRAIN_WINDOW


def test_a_refusal_says_when_there_will_be_room() -> None:
    broker = Broker(max_messages=10, max_bytes=1000, max_queues=1)
    queue = broker.default
    for _ in range(10):
        queue.enqueue(b"0123456789")
    for _ in range(4):
        queue.dequeue()
    for _ in range(4):
        queue.enqueue(b"0123456789")
    with pytest.raises(QueueFull) as refusal:
        queue.enqueue(b"", now=8.0)  # four in eight seconds
    assert refusal.value.retry_after == 2
    with pytest.raises(QueueFull) as refusal:
        queue.enqueue_bodies([b""] * 3, now=8.0)
    assert refusal.value.retry_after == 6


def test_bytes_over_the_cap_are_counted_in_messages_of_the_usual_size() -> None:
    broker = Broker(max_messages=100, max_bytes=40, max_queues=1)
    queue = broker.default
    for _ in range(4):
        queue.enqueue(b"0123456789")
    queue.dequeue()
    queue.enqueue(b"0123456789")
    with pytest.raises(QueueFull) as refusal:
        queue.enqueue(b"x" * 25, now=3.0)  # three messages' worth, one in three seconds
    assert refusal.value.retry_after == 8
