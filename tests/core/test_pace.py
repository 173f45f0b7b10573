"""The limits of a queue: so many messages a second, and so many leases at once."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from zapq.core.broker import Broker
from zapq.core.queue import Queue
from zapq.core.queue_settings import QueueSettings, check_settings
from zapq.errors import InvalidParameter
from zapq.limits import MAX_BATCH_BYTES


@pytest.fixture
def broker() -> Broker:
    return Broker(max_messages=1000, max_bytes=10**9, max_queues=4)


def limited(broker: Broker, number: int = 20, **settings: Any) -> Queue:
    """A queue with these settings and so many messages."""
    broker.configure("work", QueueSettings(**settings), 0.0)
    queue = broker.find("work")
    for place in range(number):
        queue.enqueue(b"%d" % place)
    return queue


def given(queue: Queue, now: float) -> int:
    """How many messages the queue gives one after the other."""
    number = 0
    while queue.dequeue(now) is not None:
        number += 1
    return number


def test_so_many_are_given_at_once_and_then_one_for_each_token(broker: Broker) -> None:
    queue = limited(broker, rate=2, burst=3)
    assert given(queue, 10.0) == 3
    assert (queue.why_empty(), queue.next_visible()) == ("limited", 10.5)
    assert not queue.available
    assert given(queue, 10.4) == 0
    assert given(queue, 10.5) == 1
    assert given(queue, 11.5) == 2
    assert given(queue, 100.0) == 3, "the bucket holds no more"
    assert queue.stats().ready == 20 - 9


def test_after_a_pause_a_second_brings_as_many_as_the_rate_says_by_default(broker: Broker) -> None:
    assert given(limited(broker, rate=2.5), 10.0) == 3
    assert given(limited(broker, rate=0.01), 1000.0) == 1
    assert broker.find("work").next_visible() == pytest.approx(1100.0)


def test_leases_and_messages_given_for_good_count_alike(broker: Broker) -> None:
    queue = limited(broker, rate=1, burst=4)
    assert queue.receive(60.0, 10.0) is not None
    assert queue.dequeue(10.0) is not None
    assert len(queue.receive_many(9, 60.0, 10.0)) == 2
    assert len(queue.dequeue_many(9, 10.0)) == 0
    assert (queue.why_empty(), queue.next_visible()) == ("limited", 11.0)
    assert len(queue.dequeue_many(9, 13.0)) == 3


def test_a_batch_that_is_cut_short_by_its_size_costs_what_it_holds(broker: Broker) -> None:
    queue = limited(broker, 0, rate=1, burst=5)
    for _ in range(3):
        queue.enqueue(bytes(MAX_BATCH_BYTES // 2))
    assert [len(queue.dequeue_many(5, 10.0)) for _ in range(3)] == [2, 1, 0]
    queue.enqueue_bodies([b"x"] * 9)
    assert given(queue, 10.0) == 2


def test_an_empty_queue_is_not_limited(broker: Broker) -> None:
    queue = limited(broker, 1, rate=0.1)
    assert given(queue, 10.0) == 1
    assert (queue.why_empty(), queue.next_visible()) == ("empty", inf)
    queue.enqueue(b"late", now=10.0)
    assert queue.dequeue(10.0) is None
    assert queue.why_empty() == "limited"
    queue.clear()
    assert (queue.why_empty(), queue.next_visible()) == ("empty", inf)
    queue.paused = True
    assert queue.why_empty() == "paused"


def test_so_many_leases_at_once_and_no_more(broker: Broker) -> None:
    queue = limited(broker, max_leased=2)
    first, second = queue.receive_many(9, 5.0, 10.0)
    assert queue.receive(5.0, 11.0) is None
    assert (queue.why_empty(), queue.next_visible()) == ("limited", 15.0)
    assert queue.dequeue(11.0) is not None, "what is given for good is not leased"
    queue.ack(first.receipt, 12.0)
    third = queue.receive(5.0, 12.0)
    assert third is not None
    assert queue.receive(5.0, 12.0) is None
    queue.release(second.receipt, 0.0, 12.0)
    assert queue.receive(5.0, 12.0) is not None
    assert queue.receive(5.0, 16.0) is None
    assert len(queue.receive_many(9, 5.0, 17.0)) == 2, "both have expired"


@pytest.mark.parametrize("end", ["ack", "release", "take back", "undo"])
def test_a_lease_that_ends_has_the_timer_look_at_once(broker: Broker, end: str) -> None:
    queue = limited(broker, max_leased=1)
    broker.tick(10.0)
    lease = queue.receive(inf, 10.0)
    assert lease is not None
    assert queue.receive(inf, 10.0) is None
    assert queue.why_empty() == "limited"
    assert broker.alarm == inf
    {
        "ack": lambda: queue.ack(lease.receipt, 10.0),
        "release": lambda: queue.release(lease.receipt, 5.0, 10.0),
        "take back": lambda: queue.take_back(lease),
        "undo": lambda: queue._undo_grant(lease),
    }[end]()
    assert queue.available
    assert broker.alarm == -inf
    assert broker.tick(10.0) == (15.0 if end == "release" else inf)


def test_the_timer_looks_again_when_the_next_token_comes(broker: Broker) -> None:
    queue = limited(broker, rate=0.5)
    queue.enqueue(b"later", delay=1.0, now=10.0)
    assert given(queue, 10.0) == 1
    assert broker.tick(10.0) == 11.0
    assert broker.tick(11.0) == 12.0, "for what else was due, tokens are not forgotten"
    assert not queue.available
    assert broker.tick(12.0) == inf
    assert queue.available


def test_what_could_not_be_handed_over_costs_no_token(broker: Broker) -> None:
    queue = limited(broker, rate=0.1, burst=2)
    message, lease = queue.dequeue(10.0), queue.receive(60.0, 10.0)
    assert message is not None
    assert lease is not None
    assert queue.dequeue(10.0) is None
    queue.put_back(message)
    assert queue.available
    queue.take_back(lease)
    assert given(queue, 10.0) == 2


def test_both_limits_hold_and_the_later_says_when(broker: Broker) -> None:
    queue = limited(broker, rate=0.1, burst=2, max_leased=1)
    queue.receive(5.0, 10.0)
    assert queue.receive(5.0, 10.0) is None
    assert queue.next_visible() == 15.0
    assert queue.dequeue(10.0) is not None
    assert queue.receive(5.0, 10.0) is None
    assert queue.next_visible() == 20.0
    assert queue.receive(5.0, 15.0) is None
    assert queue.receive(5.0, 20.0) is not None


def test_limits_change_while_the_queue_is_in_use(broker: Broker) -> None:
    queue = limited(broker, rate=0.1, max_leased=3)
    leases = queue.receive_many(3, 60.0, 10.0)
    assert len(leases) == 1
    broker.configure("work", QueueSettings(rate=0.1, max_leased=1, visibility=5), 10.0)
    assert queue.dequeue(10.0) is None, "the tokens that were spent stay spent"
    broker.configure("work", QueueSettings(max_leased=1), 10.0)
    assert queue.available
    assert queue.receive(60.0, 10.0) is None
    broker.configure("work", QueueSettings(), 10.0)
    assert len(queue.receive_many(5, 60.0, 10.0)) == 5
    assert queue.receive(60.0, 10.0) is not None
    queue.ack(leases[0].receipt, 10.0)
    assert queue.stats().leased == 6
    broker.configure("work", QueueSettings(rate=1, burst=2), 10.0)
    assert given(queue, 10.0) == 2, "a new bucket is full"


def test_after_a_restart_the_limits_hold_and_the_bucket_is_full(broker: Broker) -> None:
    queue = limited(broker, rate=0.1, burst=2, max_leased=1)
    assert given(queue, 10.0) == 2
    made = broker.prepare(["work"])
    made.add(queue.image(), 10.0)
    made.finish(10.0)
    broker.replace(made)
    queue = broker.find("work")
    assert queue.receive(60.0, 10.0) is not None
    assert queue.receive(60.0, 10.0) is None
    assert given(queue, 10.0) == 1


def test_sums_of_times_never_keep_a_token_from_coming(broker: Broker) -> None:
    queue = limited(broker, 0, rate=3, burst=1)
    now = 123_456.789
    for _ in range(900):
        queue.enqueue(b"x", now=now)
        queue.enqueue(b"x", now=now)
        assert given(queue, now) == 1
        now = queue.next_visible()
        queue.clear()
    assert now == pytest.approx(123_456.789 + 300, abs=1e-3)


def test_a_burst_needs_a_rate() -> None:
    check_settings(QueueSettings(rate=1, burst=3))
    with pytest.raises(InvalidParameter, match="Set rate as well"):
        check_settings(QueueSettings(burst=3))


@pytest.mark.parametrize("settings", [{"rate": 0}, {"rate": 2e6}, {"rate": 1, "burst": 0}, {"max_leased": 0}])
def test_limits_that_are_none_are_refused(broker: Broker, settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        limited(broker, **settings)
