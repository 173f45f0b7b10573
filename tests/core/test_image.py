"""A queue is the same after it was kept and made anew, whatever had happened to it before."""

from __future__ import annotations

from collections import deque
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from zapq.core.broker import Broker
from zapq.core.image import QueueImage
from zapq.core.message import Draft, Message, Properties
from zapq.core.queue import Queue
from zapq.core.queue_settings import QueueSettings
from zapq.core.runs import Run

BODIES = st.binary(max_size=4)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enqueue"), BODIES),
        st.tuples(st.just("batch"), st.lists(BODIES, min_size=1, max_size=4)),
        st.tuples(
            st.just("draft"),
            st.builds(
                Draft,
                body=BODIES,
                priority=st.sampled_from([0, 0, 5, 9]),
                delay=st.sampled_from([0.0, 0.0, 3.0]),
                ttl=st.sampled_from([None, None, 4.0]),
                headers=st.sampled_from([{}, {}, {"a": "1", "b": ""}]),
                group=st.sampled_from(["", "a", "b"]),
            ),
        ),
        st.tuples(st.just("receive"), st.integers(1, 3)),
        st.tuples(st.just("release"), st.sampled_from([0.0, 2.0])),
        st.tuples(st.just("put back"), st.none()),
        st.tuples(st.just("sleep"), st.sampled_from([1.0, 5.0])),
        st.tuples(st.just("pause"), st.booleans()),
    ),
    max_size=20,
)


def make_queue() -> Queue:
    broker = Broker(max_messages=1000, max_bytes=10**6, max_queues=9)
    queue = broker.open("jobs", 0.0)
    queue.configure(QueueSettings(visibility=2.0))
    return queue


def play(steps: list[tuple[str, object]]) -> tuple[Queue, float]:
    """Return a queue to which all that has happened, and what time it is then."""
    queue, now = make_queue(), 10.0
    for verb, what in steps:
        match verb, what:
            case "enqueue", bytes() as body:
                queue.enqueue(body, now=now)
            case "batch", list() as bodies:
                queue.enqueue_bodies(bodies, now=now)
            case "draft", Draft() as draft:
                queue.enqueue_drafts([draft], now=now)
            case "receive", int() as limit:
                queue.receive_many(limit, None, now)
            case "release", float() as delay:
                for lease in queue._leases.first(1):
                    if lease.deadline > now:
                        queue.release(lease.receipt, delay, now)
            case "put back", None:
                message = queue.dequeue(now)
                if message is not None:
                    queue.put_back(message)
            case "sleep", float() as seconds:
                now += seconds
                if now - 10.0 > 7.0:
                    queue.tick(now, 1)
            case "pause", bool() as paused:
                queue.paused = paused
    return queue, now


def made_of(image: QueueImage, now: float) -> Queue:
    queue = Broker(max_messages=1000, max_bytes=10**6, max_queues=9).open(image.name, now)
    assert not queue.fill(image, now)
    return queue


def whole(image: QueueImage, now: float) -> tuple[object, ...]:
    """Everything an image says at that time, in an order of its own."""
    in_order = [message for item in image.in_order for message in (item if isinstance(item, Run) else [item])]
    others = [(message, due if due > now else 0.0) for message, due in image.others]
    held = sorted([*((message, 0.0) for message in in_order), *others], key=lambda each: each[0].id)
    return image.name, image.settings, image.paused, image.next_id, held


@given(steps=STEPS)
def test_what_is_made_of_an_image_has_the_same_image(steps: list[tuple[str, object]]) -> None:
    queue, now = play(steps)
    before = queue.stats()
    kept = queue.image()
    assert all(
        message.properties.expires == inf and not message.priority and not message.properties.group
        for item in kept.in_order
        for message in (item if isinstance(item, Run) else [item])
    )
    assert whole(queue.image(), now) == whole(kept, now)
    assert queue.stats() == before
    again = made_of(queue.image(), now)
    assert whole(again.image(), now) == whole(queue.image(), now)
    assert (again.messages, again.bytes) == (queue.messages, queue.bytes)


@given(steps=STEPS)
def test_both_give_the_same_messages_in_the_same_order(steps: list[tuple[str, object]]) -> None:
    queue, now = play(steps)
    queue.paused = False
    # Nobody holds a lease on what was kept, so here, too, they have to be over.
    for lease in queue._leases.first(99):
        if lease.deadline > now:
            queue.extend(lease.receipt, 0.0, now)
    queue.tick(now, 99)
    again = made_of(queue.image(), now)
    for later in (now, now + 2.5, now + 10.0):
        given = [queue.dequeue_many(99, later), again.dequeue_many(99, later)]
        assert list(given[0]) == list(given[1])
    assert queue.enqueue(b"").id == again.enqueue(b"").id


def test_an_image_stays_as_it_was_while_the_queue_goes_on() -> None:
    queue = make_queue()
    queue.enqueue_bodies([b"a", b"b", b"c"])
    queue.enqueue(b"d", Properties(priority=3), now=0.0)
    queue.enqueue(b"e", delay=5.0)
    image = queue.image()
    assert queue.receive(now=1.0) is not None
    assert queue.dequeue(1.0) is not None
    assert queue.dequeue(9.0) is not None
    queue.clear()
    assert [
        message.body for item in image.in_order for message in (item if isinstance(item, Run) else [item])
    ] == [
        b"a",
        b"b",
        b"c",
    ]
    assert list(image.others) == [(Message(4, b"d", Properties(priority=3)), 0.0), (Message(5, b"e"), 5.0)]


def test_a_leased_message_is_kept_as_one_that_came_back() -> None:
    queue = make_queue()
    queue.enqueue(b"a")
    assert queue.receive() is not None
    image = queue.image()
    assert image.in_order == deque()
    assert list(image.others) == [(Message(1, b"a", Properties(receives=1)), 0.0)]
