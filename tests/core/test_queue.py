"""One rule for each thing a queue does."""

from __future__ import annotations

import gc
from collections import deque

import pytest

from zapq.core.message import Message
from zapq.core.queue import Queue
from zapq.errors import QueueFull


@pytest.fixture
def queue() -> Queue:
    return Queue(max_messages=3, max_bytes=10)


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


def test_clear_holds_nothing_and_never_reuses_an_id(queue: Queue) -> None:
    queue.put_back(queue.enqueue(b"a"))
    last = queue.enqueue(b"b").id
    assert len(queue.clear()) == 3
    assert (len(queue), queue.stats().bytes, queue.dequeue()) == (0, 0, None)
    assert queue.enqueue(b"c").id > last


def test_replace_is_all_or_nothing(queue: Queue) -> None:
    queue.enqueue(b"kept")
    first = queue.reserve(4)
    for bodies in ([b""] * 4, [b"x" * 11]):
        size = sum(map(len, bodies))
        with pytest.raises(QueueFull):
            queue.replace(deque(map(Message, range(first, first + len(bodies)), bodies)), size)
        assert queue.bodies() == [b"kept"]
    dropped = queue.replace(deque([Message(first, b"new")]), 3)
    assert [message.body for message in dropped] == [b"kept"]
    assert queue.bodies() == [b"new"]
    assert queue.enqueue(b"later").id >= first + 4


def test_messages_cost_the_garbage_collector_nothing(queue: Queue) -> None:
    assert not gc.is_tracked(queue.enqueue(b"x"))
