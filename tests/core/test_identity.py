"""Who a message is stays the same when it changes queues: where it was sent, and how often it was leased."""

from __future__ import annotations

from collections import deque

from zapq.core.broker import Broker
from zapq.core.message import Lease, Origin, Properties
from zapq.core.origins import Origins
from zapq.core.queue import Queue
from zapq.core.queue_settings import QueueSettings


def broker_with(**settings: object) -> Broker:
    broker = Broker(max_messages=1000, max_bytes=10**6, max_queues=9)
    broker.configure("work", QueueSettings(max_receives=2, dead_letter="dead", **settings), 0.0)  # type: ignore[arg-type]  # as they are here
    return broker


def fail(queue: Queue) -> Lease:
    """Have the first message fail, and return the last lease of it."""
    for _ in range(2):
        lease = queue.receive(30.0)
        assert lease is not None
        last = lease
        queue.release(lease.receipt, 0.0, 0.0)
    return last


def test_a_dead_letter_says_where_it_was_sent_and_goes_on_counting() -> None:
    broker = broker_with()
    work, dead = broker.find("work"), broker.find("dead")
    dead.enqueue(b"another")
    work.enqueue(b"before")
    id = work.enqueue(b"fails", Properties("a/b", group="g", headers=(("h", "1"),))).id
    assert work.dequeue() is not None
    assert fail(work).receive_count == 2
    [_, seen] = dead.peek("ready", 9)
    assert (seen.id, seen.receive_count) == (2, 2)
    assert seen.message.properties == Properties(
        "a/b", failed_in="work", group="g", headers=(("h", "1"),), origin=Origin("work", id, 2)
    )
    dead.dequeue()
    lease = dead.receive(30.0)
    assert lease is not None
    # A message in the dead-letter queue has been leased there once.
    assert (lease.id, lease.receives, lease.receive_count) == (2, 1, 3)
    dead.release(lease.receipt, 0.0, 0.0)
    assert broker.redrive("dead", 9, 0.0).moved == 1
    again = work.receive(30.0)
    assert again is not None
    assert (again.id, again.receives, again.receive_count) == (3, 1, 4)
    assert again.message.properties == Properties(
        "a/b", group="g", headers=(("h", "1"),), origin=Origin("work", id, 3)
    )


def test_a_message_that_was_sent_back_may_fail_as_often_again() -> None:
    broker = broker_with()
    work, dead = broker.find("work"), broker.find("dead")
    work.enqueue(b"fails")
    for time in range(1, 4):
        assert fail(work).receive_count == 2 * time
        [seen] = dead.peek("ready", 9)
        assert seen.message.properties.origin == Origin("work", 1, 2 * time)
        assert broker.redrive("dead", 9, 0.0).moved == 1


def test_a_message_is_found_by_the_id_its_producer_was_told() -> None:
    broker = broker_with()
    work, dead = broker.find("work"), broker.find("dead")
    for body in (b"1", b"2", b"3"):
        work.enqueue(body)
    dead.enqueue(b"of its own")
    for _ in range(2):
        fail(work)
    assert broker.whereabouts("work", 1) == ("dead", 2)
    assert broker.whereabouts("work", 2) == ("dead", 3)
    assert broker.whereabouts("work", 3) is None  # it is where it was
    assert broker.whereabouts("nowhere", 1) is None
    assert broker.redrive("dead", 1, 0.0).moved == 1
    assert broker.whereabouts("work", 1) == ("work", 4)
    lease = work.receive(30.0)
    assert lease is not None
    work.ack(lease.receipt, 0.0)
    assert broker.whereabouts("work", 4) is None
    lease = work.receive(30.0)
    assert lease is not None
    assert broker.whereabouts("work", 1) == ("work", 4)  # leased
    work.ack(lease.receipt, 0.0)
    assert broker.whereabouts("work", 1) is None


def test_one_that_could_not_be_handed_over_is_found_again() -> None:
    broker = broker_with()
    work, dead = broker.find("work"), broker.find("dead")
    for body in (b"1", b"2", b"3"):
        work.enqueue(body)
    fail(work)
    letter = dead.dequeue()
    assert letter is not None
    for _ in range(2):
        fail(work)  # what is entered for these has the others checked
    assert broker.whereabouts("work", 1) is None
    dead.put_back(letter)
    assert broker.whereabouts("work", 1) == ("dead", 1)


def test_so_it_is_after_a_restart() -> None:
    broker = broker_with()
    work = broker.find("work")
    for body in (b"1", b"2"):
        work.enqueue(body)
    for _ in range(2):
        fail(work)
    assert broker.redrive("dead", 1, 0.0).moved == 1
    images = [queue.image() for queue in broker.queues.values()]
    other = Broker(max_messages=1000, max_bytes=10**6, max_queues=9)
    made = other.prepare(image.name for image in images)
    for image in images:
        made.add(image, 0.0)
    made.finish(0.0)
    other.replace(made)
    assert other.whereabouts("work", 1) == ("work", 3)
    assert other.whereabouts("work", 2) == ("dead", 2)
    letter = other.find("dead").dequeue()
    assert letter is not None
    assert other.whereabouts("work", 2) is None


def test_what_is_remembered_of_messages_that_are_gone_is_bounded() -> None:
    origins, held = Origins(), deque[int]()
    for number in range(1, 5000):
        origins.note(Origin("work", number), number, held.__contains__)
        held.append(number)
        if len(held) > 50:
            held.popleft()
        assert len(origins) <= 2 * len(held) + 2
    assert all(origins.find("work", id) == id for id in held)
