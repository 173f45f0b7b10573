"""A queue drops messages older than its retention: it looks at the first ones, and has no timer for each."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zapq.core.broker import Broker
from zapq.core.message import Message, Properties
from zapq.core.queue import Queue
from zapq.core.queue_settings import QueueSettings
from zapq.errors import ReceiptExpired
from zapq.limits import TICK_LIMIT


class World:
    """Queues, and the time."""

    def __init__(self, retention: float | None = 10.0, **settings: Any) -> None:
        self.now = 100.0
        self.broker = Broker(max_messages=10_000, max_bytes=10**6, max_queues=5, clock=lambda: self.now)
        self.set(retention, **settings)

    def set(self, retention: float | None, name: str = "work", **settings: Any) -> Queue:
        self.broker.configure(name, QueueSettings(retention=retention, **settings), self.now)
        return self.broker.find(name)

    @property
    def queue(self) -> Queue:
        return self.broker.find("work")

    def put(self, body: bytes, properties: Properties | None = None, *, delay: float = 0.0) -> int:
        return self.queue.enqueue(body, properties or Properties(), delay=delay, now=self.now).id

    def taken(self, name: str = "work") -> list[bytes]:
        queue = self.broker.find(name)
        return [message.body for message in iter(lambda: queue.dequeue(self.now), None)]

    def tick(self) -> None:
        while self.broker.tick(self.now) <= self.now:
            pass


def test_a_message_is_dropped_once_it_is_older_than_the_retention() -> None:
    world = World()
    world.put(b"first")
    world.now += 4
    world.put(b"second")
    world.now += 6
    assert world.taken() == [b"second"]
    assert (world.queue.stats().expired, world.queue.messages, world.queue.bytes) == (1, 0, 0)
    world.put(b"third")
    world.now += 9.9
    assert world.taken() == [b"third"]


@pytest.mark.parametrize("verb", ["receive", "receive_many", "dequeue_many"])
def test_however_it_is_asked_for_an_old_message_is_not_given(verb: str) -> None:
    world = World()
    world.queue.enqueue_bodies([b"old"] * 3, now=world.now)
    world.now += 5
    world.put(b"young")
    world.now += 5
    many = () if verb == "receive" else (9,)
    given = getattr(world.queue, verb)(*many, now=world.now)
    assert [each.body for each in (given if many else [given])] == [b"young"]
    assert world.queue.stats().expired == 3


def test_the_timer_drops_them_without_a_consumer() -> None:
    world = World()
    world.put(b"a")
    world.now += 2
    world.put(b"b", Properties(priority=3))
    world.put(b"c", Properties(group="g"))
    assert world.broker.alarm == 110
    world.now = 110.0
    world.tick()
    assert (world.queue.messages, world.broker.alarm) == (2, 112)
    world.now = 112.0
    world.tick()
    assert (world.queue.stats().expired, world.broker.messages, world.broker.bytes) == (3, 0, 0)
    assert world.broker.alarm == inf


def test_very_many_old_ones_go_in_bounded_steps_and_none_is_given_meanwhile() -> None:
    world = World()
    number = 3 * TICK_LIMIT
    world.queue.enqueue_bodies([b"old"] * number, now=world.now)
    world.now += 5
    world.put(b"young")
    world.now += 5
    first = world.queue.receive(now=world.now)
    assert first is None
    assert number - 3 * TICK_LIMIT < world.queue.messages - 1 < number
    world.tick()
    lease = world.queue.receive(now=world.now)
    assert lease is not None
    assert lease.body == b"young"


def test_a_shorter_ttl_wins_and_a_longer_one_does_not() -> None:
    world = World()
    world.put(b"mortal", Properties(expires=world.now + 3))
    world.put(b"patient", Properties(expires=world.now + 30))
    world.now += 3
    world.tick()
    assert [seen.body for seen in world.queue.peek("ready", 9)] == [b"patient"]
    world.now += 7
    world.tick()
    assert world.queue.messages == 0
    assert world.queue.stats().expired == 2


def test_a_lower_retention_holds_for_what_is_there_and_a_higher_one_as_well() -> None:
    world = World(100.0)
    world.put(b"old")
    world.now += 20
    world.put(b"young")
    world.set(10.0)
    world.tick()
    assert world.taken() == [b"young"]
    world.put(b"kept")
    world.set(50.0)
    world.now += 40
    assert world.taken() == [b"kept"]


def test_what_came_before_there_was_a_retention_counts_from_then() -> None:
    world = World(None)
    world.put(b"before")
    world.now += 50
    world.set(10.0)
    world.now += 9
    world.tick()
    assert world.queue.messages == 1
    world.set(8.0)
    world.tick()
    assert world.queue.messages == 0


def test_a_leased_message_stays_with_its_consumer_and_goes_when_it_comes_back() -> None:
    world = World()
    world.put(b"leased")
    lease = world.queue.receive(30.0, world.now)
    assert lease is not None
    world.now += 20
    world.tick()
    assert world.queue.messages == 1
    world.queue.release(lease.receipt, 0.0, world.now)
    assert (world.queue.messages, world.queue.stats().expired) == (0, 1)
    world.put(b"lapsed")
    late = world.queue.receive(30.0, world.now)
    assert late is not None
    world.now += 31
    world.tick()
    with pytest.raises(ReceiptExpired, match="or the queue's retention"):
        world.queue.ack(late.receipt, world.now)


def test_a_message_that_rests_goes_when_its_rest_is_over() -> None:
    world = World()
    world.put(b"delayed", delay=20)
    world.now += 20
    world.tick()
    assert (world.queue.messages, world.queue.stats().expired) == (0, 1)


def test_in_a_group_the_next_one_is_given_when_the_first_is_too_old() -> None:
    world = World()
    world.put(b"1", Properties(group="g"))
    world.now += 5
    world.put(b"2", Properties(group="g"))
    world.now += 5
    lease = world.queue.receive(30.0, world.now)
    assert lease is not None
    assert lease.body == b"2"


def test_a_dead_letter_has_arrived_when_it_did_where_it_failed_and_arrives_anew_when_it_is_sent_back() -> None:
    world = World(10.0, max_receives=1, dead_letter="dead")
    dead = world.set(60.0, "dead")
    world.put(b"fails")
    world.now += 8
    lease = world.queue.receive(30.0, world.now)
    assert lease is not None
    world.queue.release(lease.receipt, 0.0, world.now)
    assert dead.messages == 1
    world.now += 40
    assert world.broker.redrive("dead", 9, world.now).moved == 1
    world.now += 9
    lease = world.queue.receive(30.0, world.now)
    assert lease is not None
    world.queue.release(lease.receipt, 0.0, world.now)
    world.now += 51
    world.tick()
    assert (dead.messages, dead.stats().expired, world.queue.stats().expired) == (0, 1, 0)


def test_a_letter_of_which_no_arrival_is_known_counts_from_when_it_came() -> None:
    world = World(None, max_receives=1, dead_letter="dead")
    dead = world.set(10.0, "dead")
    world.put(b"fails")
    world.now += 50
    lease = world.queue.receive(30.0, world.now)
    assert lease is not None
    world.queue.release(lease.receipt, 0.0, world.now)
    world.now += 9
    world.tick()
    assert dead.messages == 1
    world.now += 1
    world.tick()
    assert dead.messages == 0


def test_what_is_kept_says_when_it_arrived_and_what_is_loaded_without_arrives_then() -> None:
    world = World()
    world.put(b"a")
    world.now += 6
    other = World(None)
    other.now = world.now
    image = world.queue.image()
    made = other.broker.prepare(["work"])
    made.add(image, other.now)
    made.finish(other.now)
    other.broker.replace(made)
    other.now += 4
    assert other.taken() == []
    other.queue.replace(deque([Message(other.queue.reserve(1), b"loaded")]), 6)
    other.now += 9
    other.tick()
    assert other.queue.messages == 1
    other.now += 1
    other.tick()
    assert other.queue.messages == 0


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 2), st.sampled_from(["", "", "a", "b"])),
            st.tuples(st.just("batch"), st.integers(1, 3), st.just("")),
            st.tuples(
                st.sampled_from(["take", "lease", "release", "wait", "tick"]), st.integers(0, 6), st.just("")
            ),
            st.tuples(st.just("set"), st.integers(1, 12), st.just("")),
        ),
        max_size=40,
    )
)
def test_no_consumer_ever_gets_one_that_is_too_old_nor_misses_one_that_is_not(
    steps: list[tuple[str, int, str]],
) -> None:
    world, arrived, retention = World(5.0), dict[int, float](), 5.0
    leases: list[str] = []
    for verb, number, group in steps:
        queue = world.queue
        match verb:
            case "put":
                properties = Properties(group=group) if group else Properties(priority=number)
                arrived[world.put(b"x", properties)] = world.now
            case "batch":
                first = queue.enqueue_bodies([b"x"] * number, now=world.now)
                arrived |= dict.fromkeys(range(first, first + number), world.now)
            case "wait":
                world.now += number
            case "tick":
                world.tick()
            case "set":
                retention = float(number)
                world.set(retention)
            case "release" if leases:
                receipt = leases.pop(number % len(leases))
                with suppress(ReceiptExpired):
                    queue.release(receipt, float(number % 2), world.now)
            case "take" | "lease":
                fit = {each.id for each in queue.peek("ready", 99) if arrived[each.id] + retention > world.now}
                given = queue.dequeue(world.now) if verb == "take" else queue.receive(3.0, world.now)
                assert given is None or arrived[given.id] + retention > world.now
                assert given is not None or not (fit & free(queue))
                if given is not None and verb == "lease":
                    leases.append(given.receipt)  # type: ignore[union-attr]  # it is a lease
        stats = queue.stats()
        assert stats.messages == stats.enqueued - stats.dequeued - stats.expired


def free(queue: Queue) -> set[int]:
    """The ids of ready messages that wait for none of their group."""
    groups = queue._ready.groups
    return {each.id for each in queue.peek("ready", 99) if each.id not in groups.messages} | {
        group.head for group in groups.open.values()
    }
