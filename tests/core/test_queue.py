"""One rule for each thing a queue does."""

from __future__ import annotations

import gc
from collections import deque

import pytest

from zapq.core.broker import Broker
from zapq.core.message import Message
from zapq.core.queue import Queue
from zapq.core.stats import QueueStats
from zapq.errors import QueueFull


@pytest.fixture
def queue() -> Queue:
    return Broker(max_messages=3, max_bytes=10, max_queues=9).default


def drain(queue: Queue) -> list[bytes]:
    bodies = []
    while (message := queue.dequeue()) is not None:
        bodies.append(message.body)
    return bodies


def test_messages_come_out_in_the_order_they_went_in(queue: Queue) -> None:
    ids = [queue.enqueue(body).id for body in (b"a", b"", b"c")]
    assert ids == sorted(set(ids))
    assert drain(queue) == [b"a", b"", b"c"]
    assert queue.dequeue() is None


@pytest.mark.parametrize(
    ("held", "body", "limit"), [([b"a", b"b", b"c"], b"", "max_msgs"), ([b"123456789"], b"12", "max_bytes")]
)
def test_a_full_queue_refuses_and_names_the_limit_and_changes_nothing_else(
    queue: Queue, held: list[bytes], body: bytes, limit: str
) -> None:
    for each in held:
        queue.enqueue(each)
    before = queue.stats()
    with pytest.raises(QueueFull) as refusal:
        queue.enqueue(body)
    assert refusal.value.members["limit"] == limit
    after = queue.stats()
    assert after.refused == before.refused + 1
    assert (after.messages, after.bytes, after.enqueued) == (before.messages, before.bytes, before.enqueued)
    assert drain(queue) == held


def test_a_queue_over_both_caps_names_the_one_that_dequeueing_frees_first(queue: Queue) -> None:
    for body in (b"1234", b"1234", b"12"):
        queue.enqueue(body)
    with pytest.raises(QueueFull) as refusal:
        queue.enqueue(b"x")
    assert refusal.value.members == {
        "queue": "default",
        "limit": "max_msgs",
        "current": 3,
        "max_messages": 3,
    }
    queue.dequeue()
    with pytest.raises(QueueFull) as refusal:
        queue.enqueue(b"12345")
    assert refusal.value.members == {"queue": "default", "limit": "max_bytes", "current": 6, "max_bytes": 10}


def test_a_refusal_takes_no_id(queue: Queue) -> None:
    last = [queue.enqueue(b"").id for _ in range(3)][-1]
    with pytest.raises(QueueFull):
        queue.enqueue(b"")
    queue.dequeue()
    assert queue.enqueue(b"").id == last + 1


def test_the_caps_themselves_are_allowed(queue: Queue) -> None:
    queue.enqueue(b"12345")
    queue.enqueue(b"")
    queue.enqueue(b"67890")
    assert queue.stats().bytes == 10


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_messages_put_back_are_at_their_original_place(queue: Queue, order: tuple[int, ...]) -> None:
    for body in (b"a", b"b", b"c"):
        queue.enqueue(body)
    taken = [queue.dequeue() for _ in range(3)]
    queue.enqueue(b"d")
    for index in order:
        message = taken[index]
        assert message is not None
        queue.put_back(message)
    assert queue.bodies() == [b"a", b"b", b"c", b"d"]
    assert drain(queue) == [b"a", b"b", b"c", b"d"]


def test_what_was_accepted_goes_back_even_beyond_the_caps_and_newcomers_wait(queue: Queue) -> None:
    taken = queue.enqueue(b"old")
    queue.dequeue()
    for body in (b"x", b"y", b"z"):
        queue.enqueue(body)
    queue.put_back(taken)
    assert queue.stats().messages == 4
    for _ in range(2):
        with pytest.raises(QueueFull):
            queue.enqueue(b"")
        queue.dequeue()
    queue.enqueue(b"")


def test_bytes_beyond_the_cap_keep_newcomers_out_until_they_are_gone(queue: Queue) -> None:
    taken = queue.enqueue(b"123456")
    queue.dequeue()
    queue.enqueue(b"1234567890")
    queue.put_back(taken)
    assert queue.stats().bytes == 16
    with pytest.raises(QueueFull):
        queue.enqueue(b"x")
    assert queue.dequeue() is taken
    queue.dequeue()
    assert queue.enqueue(b"x").body == b"x"


def test_messages_put_back_between_dequeues_come_out_before_younger_ones() -> None:
    queue = Broker(max_messages=10, max_bytes=10, max_queues=9).default
    first, second, third, fourth = (queue.enqueue(b"%d" % number) for number in range(4))
    assert (queue.dequeue(), queue.dequeue(), queue.dequeue()) == (first, second, third)
    queue.put_back(second)
    assert queue.dequeue() is second
    queue.put_back(third)
    queue.put_back(first)
    assert [queue.dequeue() for _ in range(4)] == [first, third, fourth, None]


def test_bodies_are_a_copy_oldest_first_that_takes_nothing(queue: Queue) -> None:
    first = queue.enqueue(b"a")
    queue.enqueue(b"b")
    queue.dequeue()
    queue.put_back(first)
    queue.bodies().clear()
    assert queue.bodies() == [b"a", b"b"]
    assert len(queue) == 2


def test_clear_holds_nothing_and_never_reuses_an_id(queue: Queue) -> None:
    queue.put_back(queue.enqueue(b"a"))
    last = queue.enqueue(b"b").id
    assert sum(map(len, queue.clear().containers())) == 3
    assert (len(queue), queue.stats().bytes, queue.dequeue()) == (0, 0, None)
    assert queue.enqueue(b"c").id > last


def test_replace_is_all_or_nothing(queue: Queue) -> None:
    queue.enqueue(b"kept")
    first = queue.reserve(4)
    before = queue.stats()
    for bodies, limit in (([b""] * 4, "max_msgs"), ([b"x" * 11], "max_bytes")):
        size = sum(map(len, bodies))
        with pytest.raises(QueueFull) as refusal:
            queue.replace(deque(map(Message, range(first, first + len(bodies)), bodies)), size)
        assert refusal.value.members["limit"] == limit
        assert queue.bodies() == [b"kept"]
        assert queue.stats() == before
    [dropped] = queue.replace(deque([Message(first, b"new")]), 3).containers()
    assert [item.body for item in dropped if isinstance(item, Message)] == [b"kept"]
    assert queue.bodies() == [b"new"]
    assert queue.enqueue(b"later").id >= first + 4


def test_a_message_younger_than_a_replacement_goes_back_behind_it(queue: Queue) -> None:
    first = queue.reserve(2)
    younger = queue.enqueue(b"younger")
    queue.dequeue()
    queue.replace(deque([Message(first, b"a"), Message(first + 1, b"b")]), 2)
    queue.put_back(younger)
    assert queue.bodies() == [b"a", b"b", b"younger"]
    assert drain(queue) == [b"a", b"b", b"younger"]


def test_statistics_count_what_was_done_and_show_what_is_held(queue: Queue) -> None:
    first = queue.enqueue(b"123")
    for body in (b"45", b"6"):
        queue.enqueue(body)
    with pytest.raises(QueueFull):
        queue.enqueue(b"")
    queue.dequeue()
    queue.put_back(first)
    queue.clear()
    queue.enqueue(b"7890")
    assert queue.dequeue() is not None
    assert queue.dequeue() is None
    queue.enqueue(b"ab")
    assert queue.stats() == QueueStats(
        messages=1,
        bytes=2,
        ready=1,
        delayed=0,
        leased=0,
        enqueued=5,
        dequeued=2,
        received=0,
        acked=0,
        released=0,
        leases_expired=0,
        expired=0,
        dead_lettered=0,
        redriven=0,
        refused=1,
        returned=1,
        cleared=3,
    )


def test_messages_cost_the_garbage_collector_nothing(queue: Queue) -> None:
    message = queue.enqueue(b"x")
    assert not gc.is_tracked(message)
    assert queue.dequeue() is message
    assert not gc.is_tracked(message)


def test_what_is_known_of_a_message_has_its_former_name_for_now(queue: Queue) -> None:
    message = queue.enqueue(b"a")
    with pytest.warns(DeprecationWarning, match=r"Message\.properties"):
        assert message.about is message.properties


def test_a_message_that_was_leased_is_removed_whoever_has_it_now(queue: Queue) -> None:
    message = queue.enqueue(b"a")
    assert not queue.remove(message.id, 0.0), "no consumer has been given it"
    assert not queue.remove(99, 0.0)
    queue.receive(5.0, 0.0)
    second = queue.receive(5.0, 6.0)
    assert second is not None
    assert queue.remove(message.id, 7.0)
    assert queue.stats().messages == 0
    queue.ack(second.receipt, 8.0)  # its holder does not notice
    assert not queue.remove(message.id, 8.0)


def test_it_is_removed_while_it_waits_for_the_next_consumer(queue: Queue) -> None:
    expired, released, resting = (queue.enqueue(body) for body in (b"a", b"b", b"c"))
    leases = [queue.receive(5.0, 0.0) for _ in range(3)]
    assert leases[1] is not None
    assert leases[2] is not None
    queue.release(leases[1].receipt, 0.0, 1.0)
    queue.release(leases[2].receipt, 60.0, 1.0)
    queue.tick(6.0, 10)
    for each in (expired, released, resting):
        assert queue.remove(each.id, 7.0)
    stats = queue.stats()
    assert (stats.messages, stats.bytes, stats.ready, stats.delayed, stats.acked) == (0, 0, 0, 0, 3)
    assert drain(queue) == []


def test_a_message_that_was_leased_is_hidden_whoever_has_it_now(queue: Queue) -> None:
    message = queue.enqueue(b"a")
    assert not queue.hide(message.id, 5.0, 0.0), "no consumer has been given it"
    first = queue.receive(5.0, 0.0)
    assert first is not None
    assert queue.hide(message.id, 20.0, 6.0), "its lease is over"
    assert queue.receive(5.0, 25.0) is None
    second = queue.receive(5.0, 27.0)
    assert second is not None
    assert second.receives == 2
    assert queue.hide(message.id, 60.0, 28.0)
    queue.ack(second.receipt, 80.0)  # its lease lasts as long
    assert not queue.hide(message.id, 1.0, 81.0)


def test_it_is_hidden_longer_or_no_longer(queue: Queue) -> None:
    message = queue.enqueue(b"a")
    lease = queue.receive(5.0, 0.0)
    assert lease is not None
    queue.release(lease.receipt, 10.0, 1.0)
    assert queue.hide(message.id, 30.0, 2.0)
    assert queue.receive(5.0, 20.0) is None
    assert queue.hide(message.id, 0.0, 21.0)
    assert queue.receive(5.0, 21.0) is not None
