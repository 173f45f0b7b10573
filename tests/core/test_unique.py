"""Unique while held, in the core: what is kept, what is replaced, where, and what frees a key."""

from __future__ import annotations

from math import inf

import pytest

from zapq.core.broker import Broker
from zapq.core.message import Draft, Message, Properties
from zapq.core.placed import Placed
from zapq.core.queue import Queue
from zapq.core.queue_settings import QueueSettings
from zapq.errors import QueueFull, ReceiptExpired

KEY = Properties(unique="k")


def broker(*, max_messages: int = 100, max_bytes: int = 1000) -> Broker:
    return Broker(max_messages=max_messages, max_bytes=max_bytes, max_queues=10)


@pytest.fixture
def queue() -> Queue:
    return broker().open("work", 0.0)


def put(
    queue: Queue,
    body: bytes,
    key: str = "k",
    *,
    replace: bool = False,
    delay: float = 0.0,
    now: float = 0.0,
    **properties: object,
) -> Placed:
    known = Properties(unique=key, **properties)  # type: ignore[arg-type]  # as they are
    return queue.enqueue_unique(body, known, replace=replace, delay=delay, now=now)


def only(queue: Queue, id: int) -> Message:
    seen = queue.find(id)
    assert seen is not None
    return seen.message


def test_a_second_message_with_the_key_is_not_stored(queue: Queue) -> None:
    assert put(queue, b"first") == Placed(1)
    assert put(queue, b"second") == Placed(1, "kept")
    assert queue.bodies() == [b"first"]
    assert queue.stats().enqueued == 1


def test_other_keys_and_messages_without_one_are_stored(queue: Queue) -> None:
    put(queue, b"first")
    assert put(queue, b"second", "other") == Placed(2)
    queue.enqueue(b"third")
    assert queue.bodies() == [b"first", b"second", b"third"]


@pytest.mark.parametrize("group", ["", "g"])
def test_a_ready_message_is_replaced_at_its_place(queue: Queue, group: str) -> None:
    put(queue, b"first", group=group)
    queue.enqueue(b"behind", Properties(group=group))
    assert put(queue, b"longer than it", replace=True, group=group) == Placed(1, "replaced")
    assert queue.bytes == len(b"longer than it") + len(b"behind")
    taken = queue.dequeue(0.0)
    assert taken is not None
    assert (taken.id, taken.body) == (1, b"longer than it")
    assert queue.bodies() == [b"behind"]
    assert queue.bytes == len(b"behind")


def test_what_is_said_of_a_message_is_replaced_and_its_place_is_not(queue: Queue) -> None:
    put(queue, b"old", priority=3, headers=(("a", "1"),), content_type="text/plain")
    put(queue, b"new", priority=7, headers=(("b", "22"),), content_type="text/html", replace=True)
    assert only(queue, 1).properties == Properties("text/html", 3, headers=(("b", "22"),), unique="k")
    assert queue.bytes == len(b"newb22")


def test_a_message_of_a_group_stays_in_it(queue: Queue) -> None:
    put(queue, b"old", group="g")
    put(queue, b"new", priority=7, replace=True)
    assert only(queue, 1).properties == Properties(group="g", unique="k")


def test_a_delayed_message_is_replaced_and_is_ready_when_it_was_to_be(queue: Queue) -> None:
    put(queue, b"old", delay=10.0)
    assert put(queue, b"new", replace=True, now=5.0) == Placed(1, "replaced")
    assert queue.dequeue(9.9) is None
    assert queue.dequeue(10.0) == Message(1, b"new", KEY)


@pytest.mark.parametrize("group", ["", "g"])
def test_a_new_delay_of_a_delayed_message_begins_again(queue: Queue, group: str) -> None:
    put(queue, b"old", delay=10.0, group=group)
    put(queue, b"new", delay=10.0, replace=True, now=5.0)
    assert queue.dequeue(14.9) is None
    taken = queue.dequeue(15.0)
    assert taken is not None
    assert taken.body == b"new"


def test_a_delay_does_not_hide_a_message_that_is_ready(queue: Queue) -> None:
    put(queue, b"old")
    put(queue, b"new", delay=10.0, replace=True)
    assert queue.dequeue(0.0) == Message(1, b"new", KEY)


def test_a_replaced_message_has_the_new_ttl(queue: Queue) -> None:
    put(queue, b"old", expires=5.0)
    put(queue, b"new", replace=True)
    assert only(queue, 1).properties.expires == inf
    queue.tick(6.0, 10)
    assert queue.bodies() == [b"new"]
    put(queue, b"newest", expires=8.0, replace=True, now=6.0)
    queue.tick(8.0, 10)
    assert len(queue) == 0
    assert queue.bytes == 0


def test_the_ttl_of_the_queue_holds_for_what_replaces_as_well(queue: Queue) -> None:
    put(queue, b"old")
    queue.configure(QueueSettings(ttl=5.0))
    put(queue, b"new", replace=True, now=1.0)
    assert only(queue, 1).properties.expires == 6.0


@pytest.mark.parametrize("group", ["", "g"])
def test_what_is_replaced_is_held_as_long_as_what_comes_now(queue: Queue, group: str) -> None:
    queue.configure(QueueSettings(retention=10.0))
    put(queue, b"old", group=group)
    assert put(queue, b"new", group=group, replace=True, now=8.0) == Placed(1, "replaced")
    queue.tick(11.0, 10)
    assert queue.bodies() == [b"new"]
    assert put(queue, b"newer", group=group, replace=True, now=18.5) == Placed(2)
    assert queue.bodies() == [b"newer"]


def test_a_leased_message_is_kept(queue: Queue) -> None:
    put(queue, b"old")
    queue.receive(10.0, now=0.0)
    assert put(queue, b"new") == Placed(1, "kept")


def test_a_leased_message_is_not_replaced_and_the_new_one_takes_over_its_key(queue: Queue) -> None:
    put(queue, b"old")
    lease = queue.receive(10.0, now=0.0)
    assert lease is not None
    assert put(queue, b"new", replace=True) == Placed(2)
    assert put(queue, b"newer", replace=True) == Placed(2, "replaced")
    queue.ack(lease.receipt, 1.0)
    assert put(queue, b"third") == Placed(2, "kept")
    assert queue.bodies() == [b"newer"]


def test_a_message_that_lost_its_key_comes_back_without_it(queue: Queue) -> None:
    put(queue, b"old")
    lease = queue.receive(10.0, now=0.0)
    assert lease is not None
    put(queue, b"new", replace=True)
    queue.release(lease.receipt, 0.0, 1.0)
    assert only(queue, 1).properties.unique == ""
    assert queue.bodies() == [b"old", b"new"]
    assert put(queue, b"newer", replace=True, now=1.0) == Placed(2, "replaced")


def test_what_is_replaced_begins_anew(queue: Queue) -> None:
    put(queue, b"old")
    lease = queue.receive(10.0, now=0.0)
    assert lease is not None
    queue.release(lease.receipt, 0.0, 1.0)
    put(queue, b"new", replace=True, now=1.0)
    again = queue.receive(10.0, now=1.0)
    assert again is not None
    assert (again.id, again.body, again.receives) == (1, b"new", 1)


def test_a_consumer_of_the_old_body_that_comes_late_does_not_acknowledge_the_new_one(queue: Queue) -> None:
    put(queue, b"old")
    lease = queue.receive(10.0, now=0.0)
    assert lease is not None
    assert put(queue, b"new", replace=True, now=11.0) == Placed(1, "replaced")
    with pytest.raises(ReceiptExpired, match="replaced"):
        queue.ack(lease.receipt, 11.0)
    assert not queue.remove(1, 11.0)
    assert queue.bodies() == [b"new"]


def test_what_frees_a_key() -> None:
    def freed(queue: Queue, now: float = 0.0) -> bool:
        return put(queue, b"next", now=now).how == ""

    queue = broker().open("work", 0.0)
    put(queue, b"x")
    queue.dequeue()
    assert freed(queue), "dequeue"
    queue.dequeue_many(10)
    assert freed(queue), "dequeue_many"
    lease = queue.receive(10.0)
    assert lease is not None
    queue.ack(lease.receipt, 1.0)
    assert freed(queue), "ack"
    queue.clear()
    assert freed(queue), "purge"
    lease = queue.receive(10.0)
    assert lease is not None
    queue.take_back(lease)
    assert not freed(queue), "take_back"
    lease = queue.receive(10.0)
    assert lease is not None
    queue.release(lease.receipt, 0.0, 1.0)
    assert not freed(queue), "release"
    assert queue.remove(lease.id, 1.0)
    assert freed(queue), "remove"


@pytest.mark.parametrize("delay", [0.0, 20.0])
@pytest.mark.parametrize("group", ["", "g"])
@pytest.mark.parametrize("others", [0, 2000])
def test_a_key_is_free_once_the_ttl_is_over(delay: float, group: str, others: int) -> None:
    queue = broker(max_messages=10_000, max_bytes=10**6).open("work", 0.0)
    for _ in range(others):
        queue.enqueue(b"", Properties(expires=4.0), delay=delay)
    put(queue, b"old", expires=5.0, delay=delay, group=group)
    queue.enqueue(b"behind", Properties(group=group))
    assert put(queue, b"new", now=4.9) == Placed(others + 1, "kept")
    assert put(queue, b"new", now=5.0) == Placed(others + 3)
    assert queue.find(others + 1) is None
    assert [each for each in queue.bodies() if each] == [b"behind", b"new"]


def test_a_message_given_back_undelivered_has_its_key_again_if_that_is_free(queue: Queue) -> None:
    put(queue, b"old")
    message = queue.dequeue()
    assert message is not None
    queue.put_back(message)
    assert put(queue, b"new") == Placed(1, "kept")
    message = queue.dequeue()
    assert message is not None
    put(queue, b"new")
    queue.put_back(message)
    assert only(queue, 1).properties.unique == ""
    assert put(queue, b"newer") == Placed(2, "kept")


def failed(many: Broker) -> Queue:
    queue = many.open("work", 0.0)
    many.configure("work", QueueSettings(max_receives=1, dead_letter="dead"), 0.0)
    put(queue, b"old")
    lease = queue.receive(10.0)
    assert lease is not None
    queue.release(lease.receipt, 0.0, 0.0)
    return queue


def test_a_dead_letter_frees_its_key_and_has_it_again_when_it_goes_back() -> None:
    many = broker()
    queue = failed(many)
    assert put(many.queues["dead"], b"another") == Placed(2), "a letter has no key where it lies"
    many.redrive("dead", 10, 0.0)
    assert put(queue, b"new") == Placed(2, "kept")


def test_a_dead_letter_goes_back_without_its_key_if_another_message_has_it() -> None:
    many = broker()
    queue = failed(many)
    assert put(queue, b"new") == Placed(2)
    many.redrive("dead", 10, 0.0)
    assert only(queue, 3).properties.unique == ""
    assert put(queue, b"newer", replace=True) == Placed(2, "replaced")
    assert queue.bodies() == [b"newer", b"old"]


def test_what_replaces_counts_by_what_it_is_longer() -> None:
    queue = broker(max_bytes=10).open("work", 0.0)
    put(queue, b"12345678")
    assert put(queue, b"1234567890", replace=True) == Placed(1, "replaced")
    with pytest.raises(QueueFull):
        put(queue, b"12345678901", replace=True)
    assert (only(queue, 1).body, queue.bytes, queue.stats().refused) == (b"1234567890", 10, 1)
    assert put(queue, b"x", replace=True) == Placed(1, "replaced")
    assert queue.bytes == 1


def test_what_takes_over_a_key_and_does_not_fit_changes_nothing() -> None:
    queue = broker(max_messages=1).open("work", 0.0)
    put(queue, b"old")
    lease = queue.receive(10.0)
    assert lease is not None
    with pytest.raises(QueueFull):
        put(queue, b"new", replace=True)
    queue.release(lease.receipt, 0.0, 0.0)
    assert put(queue, b"newer", replace=True) == Placed(1, "replaced")


def test_a_full_queue_keeps_what_it_has() -> None:
    queue = broker(max_messages=1).open("work", 0.0)
    put(queue, b"old")
    assert put(queue, b"new") == Placed(1, "kept")
    assert put(queue, b"new", replace=True) == Placed(1, "replaced")
    assert queue.stats().refused == 0


def test_a_batch_says_what_became_of_each(queue: Queue) -> None:
    put(queue, b"held")
    drafts = [
        Draft(body=b"a", unique="x"),
        Draft(body=b"b"),
        Draft(body=b"c", unique="k"),
        Draft(body=b"dd", unique="x", on="replace"),
        Draft(body=b"e", unique="x"),
    ]
    placed = queue.enqueue_unique_drafts(drafts, now=0.0)
    assert placed == [Placed(2), Placed(3), Placed(1, "kept"), Placed(2, "replaced"), Placed(2, "kept")]
    assert queue.bodies() == [b"held", b"dd", b"b"]
    assert queue.bytes == len(b"heldddb")


@pytest.mark.parametrize(("room", "fits"), [(9, True), (8, False)])
def test_a_batch_is_stored_whole_or_not_at_all(room: int, fits: bool) -> None:
    queue = broker(max_bytes=room).open("work", 0.0)
    put(queue, b"1234", "held")
    drafts = [
        Draft(body=b"123", unique="a"),
        Draft(body=b"12345", unique="held", on="replace"),
        Draft(body=b"not stored", unique="held"),
        Draft(body=b"1", unique="a", on="replace"),
        Draft(body=b"123"),
    ]
    if fits:
        queue.enqueue_unique_drafts(drafts, now=0.0)
        assert queue.bytes == 9
        return
    with pytest.raises(QueueFull):
        queue.enqueue_unique_drafts(drafts, now=0.0)
    assert (queue.bodies(), queue.bytes, queue.stats().enqueued) == ([b"1234"], 4, 1)


def test_a_batch_takes_over_the_keys_of_leased_messages(queue: Queue) -> None:
    put(queue, b"old")
    queue.receive(10.0)
    drafts = [Draft(body=b"new", unique="k", on="replace"), Draft(body=b"newer", unique="k", on="replace")]
    assert queue.enqueue_unique_drafts(drafts, now=0.0) == [Placed(2), Placed(2, "replaced")]
    assert (len(queue), queue.bytes) == (2, len(b"oldnewer"))


def test_keys_are_known_again_from_what_is_kept(queue: Queue) -> None:
    put(queue, b"ready", "ready")
    put(queue, b"delayed", "delayed", delay=10.0)
    put(queue, b"grouped", "grouped", group="g")
    put(queue, b"leased", "leased", priority=9)
    queue.receive(10.0)
    again = broker().open("again", 0.0)
    again.fill(queue.image(), 0.0)
    for id, key in enumerate(("ready", "delayed", "grouped", "leased"), 1):
        assert put(again, b"new", key) == Placed(id, "kept")
        assert put(again, b"new", key, replace=True) == Placed(id, "replaced")


def test_of_messages_kept_with_the_same_key_the_newest_has_it(queue: Queue) -> None:
    put(queue, b"old")
    image = queue.image()
    image.others = [*image.others, (Message(7, b"new", KEY), 0.0), (Message(5, b"between", KEY), 0.0)]
    again = broker().open("again", 0.0)
    again.fill(image, 0.0)
    assert put(again, b"newer") == Placed(7, "kept")


def test_a_queue_without_keys_keeps_none(queue: Queue) -> None:
    queue.enqueue(b"x", Properties("text/plain"))
    lease = queue.receive(1.0)
    assert lease is not None
    queue.ack(lease.receipt, 0.0)
    assert queue.held().unique is None
