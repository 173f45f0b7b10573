"""A queue made anew from what was kept of it."""

from __future__ import annotations

from collections import deque
from math import inf

from zapq.core.broker import Broker
from zapq.core.image import QueueImage
from zapq.core.message import Message, Properties
from zapq.core.queue_settings import QueueSettings
from zapq.core.runs import Run


def make_broker() -> Broker:
    return Broker(max_messages=3, max_bytes=100, max_queues=10)


def test_messages_are_where_they_were() -> None:
    broker = make_broker()
    queue = broker.open("jobs", 0.0)
    image = QueueImage(
        name="jobs",
        settings=QueueSettings(max_receives=3, dead_letter="dead"),
        next_id=50,
        in_order=deque([Message(2, b"b"), Run(5, 2, 2, apart=(b"e", b"f"))]),
        others=[
            (Message(1, b"a", Properties(receives=2)), 0.0),
            (Message(3, b"soon"), 20.0),
            (Message(4, b"first", Properties(priority=9)), 0.0),
            (Message(7, b"poison", Properties(receives=3)), 0.0),
            (Message(8, b"mortal", Properties(expires=15.0)), 0.0),
        ],
    )
    failed = queue.fill(image, 10.0)
    assert [message.id for message in failed] == [7]
    stats = queue.stats()
    assert (stats.messages, stats.ready, stats.delayed, stats.enqueued) == (8, 6, 1, 0)
    assert broker.messages == 8, "more than the cap: it was accepted once"
    taken = []
    while (message := queue.dequeue(16.0)) is not None:
        taken.append(message.id)
    assert taken == [4, 1, 2, 5, 6], "8 has expired"
    late = queue.dequeue(20.0)
    assert late is not None
    assert late.id == 3
    assert queue.enqueue(b"new", now=20.0).id == 50


def test_a_paused_queue_stays_paused() -> None:
    queue = make_broker().open("jobs", 0.0)
    in_order: deque[Message | Run] = deque([Message(1, b"a")])
    image = QueueImage(name="jobs", settings=QueueSettings(), paused=True, next_id=2, in_order=in_order, others=[])
    assert not queue.fill(image, 0.0)
    assert queue.dequeue() is None
    assert queue.next_visible() == inf
    queue.paused = False
    assert queue.dequeue() is not None
