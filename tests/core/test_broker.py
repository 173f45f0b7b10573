"""Queues by name: how they are made, set and removed, and how messages change from one to another."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from zapq.core import broker as broker_module
from zapq.core import leases as leases_module
from zapq.core.broker import Broker, Redriven
from zapq.core.message import Draft, Lease, Properties
from zapq.core.queue import Queue
from zapq.core.queue_settings import QueueSettings
from zapq.errors import InvalidParameter, QueueFull, QueueInUse, QueueNotFound, ReceiptExpired, TooManyQueues
from zapq.limits import MAX_BATCH_BYTES, TICK_BYTES


@pytest.fixture
def broker() -> Broker:
    return Broker(max_messages=10, max_bytes=1000, max_queues=4)


def bodies(queue: Queue, now: float = 0.0) -> list[bytes]:
    taken = []
    while (message := queue.dequeue(now)) is not None:
        taken.append(message.body)
    return taken


@pytest.mark.parametrize("name", ["a", "A.b-c_9", "0", "x" * 80, "-", "--jobs", "_jobs", "-.."])
def test_a_queue_is_made_once_for_a_name(broker: Broker, name: str) -> None:
    queue = broker.open(name, 0.0)
    assert broker.open(name, 0.0) is broker.find(name) is queue
    assert queue.name == name


@pytest.mark.parametrize("name", ["", ".a", "~a", "a b", "a/b", "ä", "a\n", "x" * 81, "..", "٣"])
def test_a_name_that_is_not_plain_is_refused(broker: Broker, name: str) -> None:
    for attempt in (
        lambda: broker.open(name, 0.0),
        lambda: broker.find(name),
        lambda: broker.configure(name, QueueSettings(), 0.0),
    ):
        with pytest.raises(InvalidParameter):
            attempt()
    assert list(broker.queues) == ["default"]


def test_there_are_so_many_queues_and_no_more(broker: Broker) -> None:
    for name in "abc":
        broker.open(name, 0.0)
    with pytest.raises(TooManyQueues):
        broker.open("d", 0.0)
    with pytest.raises(TooManyQueues):
        broker.configure("a", QueueSettings(max_receives=1, dead_letter="d"), 0.0)
    assert broker.find("a").settings == QueueSettings()
    broker.delete("c")
    broker.open("d", 0.0)


@pytest.mark.parametrize(
    "settings",
    [
        QueueSettings(max_receives=3),
        QueueSettings(dead_letter="b"),
        QueueSettings(max_receives=3, dead_letter="a"),
        QueueSettings(max_receives=3, dead_letter="no name"),
        QueueSettings(max_receives=0, dead_letter="b"),
        QueueSettings(visibility=-1.0),
        QueueSettings(visibility=float("nan")),
        QueueSettings(ttl=0.0),
        QueueSettings(max_messages=0),
        QueueSettings(max_receives=3, dead_letter="leads-to-a"),
    ],
)
def test_settings_that_contradict_each_other_change_nothing(broker: Broker, settings: QueueSettings) -> None:
    broker.configure("leads-to-a", QueueSettings(max_receives=1, dead_letter="a"), 0.0)
    before = set(broker.queues)
    with pytest.raises(InvalidParameter):
        broker.configure("a", settings, 0.0)
    assert set(broker.queues) == before
    assert broker.find("a").settings == QueueSettings()


def test_a_refused_deletion_names_the_first_queue_whose_dead_letters_come(broker: Broker) -> None:
    for name in ("work", "also"):
        broker.configure(name, QueueSettings(max_receives=1, dead_letter="dead"), 0.0)
    with pytest.raises(QueueInUse, match="the dead-letter queue of also"):
        broker.delete("dead")


def test_a_dead_letter_queue_is_made_with_the_settings_and_stays(broker: Broker) -> None:
    assert broker.configure("work", QueueSettings(max_receives=1, dead_letter="dead"), 0.0)
    assert not broker.configure("work", QueueSettings(max_receives=2, dead_letter="dead"), 0.0)
    with pytest.raises(QueueInUse):
        broker.delete("dead")
    with pytest.raises(QueueInUse):
        broker.delete("default")
    broker.delete("work")
    broker.delete("dead")
    with pytest.raises(QueueNotFound):
        broker.delete("dead")


def test_caps_count_what_all_queues_hold_and_a_removed_one_gives_its_room_back(broker: Broker) -> None:
    for name in ("a", "b"):
        broker.open(name, 0.0).enqueue_bodies([b"x"] * 5)
    with pytest.raises(QueueFull):
        broker.default.enqueue(b"x")
    broker.delete("a")
    assert (broker.messages, broker.bytes) == (5, 5)
    broker.default.enqueue_bodies([b"x"] * 5)
    assert broker.totals().enqueued == 15
    assert broker.totals().cleared == 5


def test_caps_hold_with_everything_leased_and_then_all_released() -> None:
    broker = Broker(max_messages=5, max_bytes=1000, max_queues=1)
    queue = broker.default
    queue.enqueue_bodies([b"%d" % number for number in range(5)])
    leases = queue.receive_many(9, 30.0, 0.0)
    with pytest.raises(QueueFull):
        queue.enqueue(b"x")
    for lease in reversed(leases):
        queue.release(lease.receipt, 0.0, 1.0)
    with pytest.raises(QueueFull):
        queue.enqueue(b"x")
    assert bodies(queue) == [b"%d" % number for number in range(5)]


def test_a_message_goes_to_the_dead_letter_queue_the_moment_the_limit_trips(broker: Broker) -> None:
    broker.configure("work", QueueSettings(max_receives=2, dead_letter="dead"), 0.0)
    work, dead = broker.find("work"), broker.find("dead")
    work.enqueue(b"poison", Properties(content_type="text/plain", priority=3, expires=100.0))
    first = work.receive(10.0, 0.0)
    assert first is not None
    work.release(first.receipt, 0.0, 1.0)
    assert len(dead) == 0
    second = work.receive(10.0, 2.0)
    assert second is not None
    assert broker.tick(12.0) == inf  # expired, and nobody asked
    assert (len(work), len(dead)) == (0, 1)
    [seen] = dead.peek("ready", 1)
    properties = seen.message.properties
    assert (properties.content_type, properties.priority, properties.expires, properties.failed_in) == (
        "text/plain",
        3,
        inf,
        "work",
    )
    assert seen.receives == 0


@pytest.mark.parametrize("many", [False, True])
def test_a_message_that_came_back_too_often_by_a_new_setting_is_not_given(broker: Broker, many: bool) -> None:
    work = broker.open("work", 0.0)
    for body in (b"often", b"never"):
        work.enqueue(body)
    for _ in range(2):
        lease = work.receive()
        assert lease is not None
        work.release(lease.receipt, 0.0, 0.0)
    broker.configure("work", QueueSettings(max_receives=2, dead_letter="dead"), 0.0)
    given = work.receive_many(5) if many else [work.receive(), work.receive()]
    assert [lease.body for lease in given if lease is not None] == [b"never"]
    assert bodies(broker.find("dead")) == [b"often"]
    stats = work.stats()
    assert (stats.messages, stats.leased, stats.dead_lettered) == (1, 1, 1)


def test_dead_letters_are_kept_beyond_the_caps_of_their_queue(broker: Broker) -> None:
    broker.configure("dead", QueueSettings(max_messages=1, ttl=5.0), 0.0)
    broker.configure("work", QueueSettings(max_receives=1, dead_letter="dead"), 0.0)
    work, dead = broker.find("work"), broker.find("dead")
    work.enqueue_bodies([b"a", b"b", b"c"])
    work.receive_many(3, 1.0, 0.0)
    broker.tick(1.0)
    assert len(dead) == 3
    with pytest.raises(QueueFull):
        dead.enqueue(b"x")
    broker.tick(100.0)
    assert bodies(dead, 100.0) == [b"a", b"b", b"c"]


def test_redrive_into_a_full_queue_loses_nothing(broker: Broker) -> None:
    broker.configure("work", QueueSettings(max_receives=1, dead_letter="dead", max_messages=3), 0.0)
    work, dead = broker.find("work"), broker.find("dead")
    work.enqueue_bodies([b"a", b"b", b"c"])
    work.receive_many(3, 1.0, 0.0)
    broker.tick(1.0)
    dead.enqueue(b"sent here")
    work.enqueue_bodies([b"d", b"e"])
    redriven = broker.redrive("dead", 1000, 2.0)
    assert (redriven.moved, redriven.left) == (1, 3)
    assert [seen.message.body for seen in dead.peek("ready", 9)] == [b"b", b"c", b"sent here"]
    assert bodies(work) == [b"d", b"e", b"a"]
    assert broker.redrive("dead", 1, 2.0).moved == 1
    assert broker.redrive("dead", 1000, 2.0).moved == 1
    assert bodies(work) == [b"b", b"c"]
    assert bodies(dead) == [b"sent here"]


class Looks:
    """Counts how often queues were asked whether they have room: once or twice for each letter looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number = 0
        has_room_for = Queue.has_room_for

        def count(queue: Queue, size: int, messages: int = 1) -> bool:
            self.number += 1
            return has_room_for(queue, size, messages)

        monkeypatch.setattr(Queue, "has_room_for", count)


def fail(broker: Broker, name: str, *bodies: bytes) -> None:
    """Let messages of the queue called `name` become dead letters."""
    queue = broker.find(name)
    queue.enqueue_bodies(list(bodies))
    queue.receive_many(len(bodies), 1.0, 0.0)
    while broker.tick(1.0) <= 1.0:
        pass


def test_a_redrive_passes_over_letters_of_full_queues(broker: Broker) -> None:
    settings = QueueSettings(max_receives=1, dead_letter="dead", max_messages=2)
    for name, number in (("work", 2), ("work", 2), ("other", 1)):
        broker.configure(name, settings, 0.0)
        fail(broker, name, *[name.encode()] * number)
    broker.find("work").enqueue_bodies([b"in the way"])
    assert broker.redrive("dead", 1000, 2.0) == Redriven(2, 3), "one of each, past those that have to stay"
    broker.find("other").enqueue_bodies([b"in the way"])
    assert broker.redrive("dead", 1000, 2.0) == Redriven(0, 3)
    assert bodies(broker.find("dead"), 2.0) == [b"work"] * 3


def test_a_letter_goes_back_although_its_queue_no_longer_sends_any_and_the_one_that_does_is_full(
    broker: Broker,
) -> None:
    settings = QueueSettings(max_receives=1, dead_letter="dead", max_messages=2)
    for name in ("work", "other"):
        broker.configure(name, settings, 0.0)
        fail(broker, name, name.encode(), name.encode())
    broker.find("work").enqueue_bodies([b"in", b"the way"])
    broker.configure("other", QueueSettings(), 0.0)
    assert broker.redrive("dead", 1000, 2.0) == Redriven(2, 2)
    assert bodies(broker.find("other")) == [b"other", b"other"]


def test_a_redrive_that_can_move_nothing_looks_at_no_letter(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = QueueSettings(max_receives=1, dead_letter="dead")
    for name in ("work", "gone"):
        broker.configure(name, settings, 0.0)
        for _ in range(4):
            fail(broker, name, b"x")
    broker.delete("gone")
    broker.configure("work", QueueSettings(max_messages=1), 0.0)
    broker.find("work").enqueue(b"in the way")
    looks = Looks(monkeypatch)
    assert broker.redrive("dead", 1000, 2.0) == Redriven(0, 8)
    assert looks.number == 1, "whether `work` has room at all"


def test_a_redrive_passes_over_letters_that_are_too_large_but_not_for_ever(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zapq.core.broker.REDRIVE_LOOKS", 3)
    broker.configure("work", QueueSettings(max_receives=1, dead_letter="dead"), 0.0)
    fail(broker, "work", b"large", b"a", b"larger", b"b")
    broker.configure("work", QueueSettings(max_bytes=2), 0.0)
    assert broker.redrive("dead", 1000, 2.0) == Redriven(1, 3)
    assert broker.redrive("dead", 1000, 2.0) == Redriven(1, 2)
    assert bodies(broker.find("work")) == [b"a", b"b"]
    assert bodies(broker.find("dead")) == [b"large", b"larger"]


def test_letters_of_a_queue_that_is_no_more_stay_where_they_are(broker: Broker) -> None:
    broker.configure("work", QueueSettings(max_receives=1, dead_letter="dead"), 0.0)
    broker.find("work").enqueue(b"x")
    assert broker.find("work").receive(1.0, 0.0) is not None
    broker.tick(1.0)
    broker.delete("work")
    assert broker.redrive("dead", 9, 1.0).moved == 0
    assert bodies(broker.find("dead")) == [b"x"]


def test_receipts_of_other_queues_and_runs_change_nothing(broker: Broker) -> None:
    other = broker.open("other", 0.0)
    for queue in (broker.default, other):
        queue.enqueue(b"x")
    foreign = other.receive(10.0, 0.0)
    lease = broker.default.receive(10.0, 0.0)
    assert foreign is not None
    assert lease is not None
    elsewhere = f"1{lease.receipt}"
    for receipt in (foreign.receipt, elsewhere, lease.receipt.replace("-1-", "-9-"), f"{lease.receipt}0"):
        with pytest.raises(ReceiptExpired):
            broker.default.ack(receipt, 1.0)
        with pytest.raises(ReceiptExpired):
            broker.default.release(receipt, 0.0, 1.0)
        with pytest.raises(ReceiptExpired):
            broker.default.extend(receipt, None, 1.0)
    for receipt in ("", "x", lease.receipt.upper() + "G", f"{lease.receipt}\n", "0-1-" + "0" * 17):
        with pytest.raises(InvalidParameter):
            broker.default.ack(receipt, 1.0)
    broker.default.ack(lease.receipt, 1.0)
    other.ack(foreign.receipt, 1.0)


def test_a_repeated_ack_is_known_for_as_long_as_it_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "ACKS_REMEMBERED", 4)
    broker = Broker(max_messages=99, max_bytes=1000, max_queues=1)
    queue = broker.default
    queue.enqueue_bodies([b"x"] * 9)
    leases = queue.receive_many(9, 10.0, 0.0)
    late = leases[0]
    for lease in leases:
        queue.ack(lease.receipt, 1.0)
    for lease in leases[-4:]:
        queue.ack(lease.receipt, 2.0)
    for lease in (late, leases[4]):
        with pytest.raises(ReceiptExpired):
            queue.ack(lease.receipt, 2.0)
    queue.enqueue_bodies([b"x"] * 4)
    assert len(queue.receive_many(4, 10.0, 2.0)) == 4
    with pytest.raises(ReceiptExpired):
        queue.ack(leases[-1].receipt, 2.0)  # its place was given to another


def test_an_old_receipt_after_redelivery_is_refused_and_the_new_holder_not_disturbed(broker: Broker) -> None:
    queue = broker.default
    queue.enqueue(b"x")
    old = queue.receive(5.0, 0.0)
    assert old is not None
    new = queue.receive(5.0, 5.0)
    assert new is not None
    assert (new.message.id, new.receives) == (old.message.id, 2)
    with pytest.raises(ReceiptExpired):
        queue.ack(old.receipt, 6.0)
    with pytest.raises(ReceiptExpired):
        queue.release(old.receipt, 0.0, 6.0)
    with pytest.raises(ReceiptExpired):
        queue.extend(old.receipt, 99.0, 6.0)
    assert queue.peek("leased", 1)[0].due == 10.0
    queue.ack(new.receipt, 6.0)
    assert len(queue) == 0


def test_nothing_that_is_due_is_overlooked_for_want_of_a_tick(broker: Broker) -> None:
    queue = broker.default
    queue.enqueue(b"mortal", Properties(expires=5.0))
    queue.enqueue(b"delayed", delay=5.0)
    queue.enqueue(b"leased", Properties(priority=9))
    lease = queue.receive(5.0, 0.0)
    assert lease is not None
    with pytest.raises(ReceiptExpired):
        queue.release(lease.receipt, 0.0, 5.0)
    assert bodies(queue, 5.0) == [b"leased", b"delayed"]
    assert queue.stats().expired == 1


def why(act: Callable[..., object], *arguments: object) -> str:
    """The sentence a late holder is told."""
    with pytest.raises(ReceiptExpired) as refused:
        act(*arguments)
    return refused.value.detail


def test_a_holder_who_comes_too_late_is_told_how_the_lease_ended(broker: Broker) -> None:
    queue = broker.default
    broker.configure("default", QueueSettings(max_receives=3, dead_letter="dead"), 0.0)
    queue.enqueue(b"x")
    acts: list[tuple[Any, ...]] = [(queue.ack,), (queue.release, 0.0), (queue.extend, 9.0)]

    def told(lease: Lease | None, now: float, *, but_ack: bool = False) -> set[str]:
        assert lease is not None
        return {why(act, lease.receipt, *more, now) for act, *more in acts[but_ack:]}

    first = queue.receive(5.0, 0.0)
    assert first is not None
    queue.release(first.receipt, 0.0, 1.0)
    assert told(first, 2.0) == {"The lease is over: the message was released already. Nothing was changed."}
    second = queue.receive(5.0, 2.0)
    [expired] = told(second, 7.0, but_ack=True)
    assert expired.startswith("The lease expired. ")
    third = queue.receive(5.0, 7.0)
    [given] = told(second, 8.0)
    assert given.startswith("The lease expired, and the message was given out again. ")
    broker.tick(12.0)
    [buried] = told(third, 12.0)
    assert "dead-letter queue" in buried
    queue.enqueue(b"mortal", Properties(expires=22.0))
    mortal = queue.receive(5.0, 12.0)
    broker.tick(22.0)
    [outlived] = told(mortal, 22.0)
    assert "ttl" in outlived
    queue.enqueue(b"y")
    last = queue.receive(5.0, 30.0)
    assert last is not None
    queue.ack(last.receipt, 31.0)
    acked = {why(queue.release, last.receipt, 0.0, 31.0), why(queue.extend, last.receipt, 9.0, 31.0)}
    assert acked == {"The lease is over: the message was acknowledged already. Nothing was changed."}
    queue.enqueue(b"z")
    purged = queue.receive(5.0, 31.0)
    queue.clear()
    [over] = told(purged, 32.0)
    assert "purged" in over


def test_a_late_ack_is_accepted_until_the_message_is_given_out_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = broker.default
    for body in (b"a", b"b", b"c"):
        queue.enqueue(body)
    a, b, c = queue.receive_many(3, 5.0, 0.0)
    queue.ack(b.receipt, 5.0)
    queue.ack(b.receipt, 5.0)
    assert (queue.stats().acked, len(queue), broker.messages) == (1, 2, 2)
    assert bodies(queue, 5.0) == [b"a", b"c"]
    for lease in (a, c):
        with pytest.raises(ReceiptExpired):
            queue.ack(lease.receipt, 5.0)
    monkeypatch.setattr(leases_module, "LAPSES_REMEMBERED", 1)
    queue.enqueue_bodies([b"d", b"e"])
    d, e = queue.receive_many(2, 5.0, 5.0)
    broker.tick(10.0)
    with pytest.raises(ReceiptExpired):
        queue.ack(d.receipt, 10.0)
    queue.ack(e.receipt, 10.0)
    assert bodies(queue, 10.0) == [b"d"]


def test_an_extension_lasts_as_long_as_the_lease_was_given(broker: Broker) -> None:
    queue = broker.default
    queue.enqueue(b"x")
    lease = queue.receive(100.0, 0.0)
    assert lease is not None
    assert queue.extend(lease.receipt, None, 50.0).deadline == 150.0
    assert queue.extend(lease.receipt, 7.0, 60.0).deadline == 67.0
    assert queue.extend(lease.receipt, None, 61.0).deadline == 161.0
    broker.configure("default", QueueSettings(visibility=9.0), 61.0)
    assert queue.extend(lease.receipt, None, 62.0).deadline == 162.0


def test_poison_at_the_head_does_not_block_the_rest(broker: Broker) -> None:
    queue = broker.default
    queue.enqueue(b"poison")
    queue.enqueue(b"good")
    rests = []
    now = 0.0
    for _ in range(11):
        lease = queue.receive(30.0, now)
        assert lease is not None
        assert lease.body == b"poison"
        queue.release(lease.receipt, 0.0, now)
        rests.append(queue.next_visible() - now if queue.next_visible() < inf else 0.0)
        if rests[-1]:
            [other] = queue.receive_many(9, 1.0, now)
            assert other.body == b"good"
            now += rests[-1]
            queue.tick(now, 99)
    assert rests == [0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60]


def test_a_batch_that_is_given_has_a_limit_in_bytes_but_one_message_always_fits() -> None:
    broker = Broker(max_messages=99, max_bytes=10 * MAX_BATCH_BYTES, max_queues=1)
    queue, half = broker.default, bytes(MAX_BATCH_BYTES // 2)
    for priority in (0, 1):  # the short way and the long one
        for body in (half, half, b"x", half + half + b"x", b"y"):
            queue.enqueue(body, Properties(priority=priority))
        sizes = [len(queue.dequeue_many(9)) for _ in range(4)]
        assert sizes == [2, 1, 1, 1]
    assert queue.stats().messages == queue.stats().bytes == 0


def test_a_batch_is_stored_whole_or_not_at_all(broker: Broker) -> None:
    broker.default.enqueue_bodies([b"x"] * 8)
    with pytest.raises(QueueFull):
        broker.default.enqueue_bodies([b"y"] * 3)
    with pytest.raises(QueueFull):
        broker.default.enqueue_drafts([Draft(body=b"y", delay=3.0), *[Draft(body=b"y")] * 2], now=0.0)
    assert broker.default.enqueue_drafts([Draft(body=b"a", priority=1), Draft(body=b"b", ttl=1.0)], now=0.0) == 9
    assert broker.default.dequeue_many(3).bodies == [b"a", b"x", b"x"]


def test_a_queues_own_ttl_holds_for_what_names_none(broker: Broker) -> None:
    broker.configure("short", QueueSettings(ttl=5.0), 0.0)
    queue = broker.find("short")
    queue.enqueue(b"own", Properties(expires=50.0), now=0.0)
    queue.enqueue(b"queue's", now=0.0)
    queue.enqueue_bodies([b"a", b"b"], now=0.0)
    queue.enqueue_drafts([Draft(body=b"c"), Draft(body=b"d", ttl=50.0)], now=0.0)
    assert bodies(queue, 5.0) == [b"own", b"d"]


@pytest.mark.once
def test_what_expires_unread_gives_its_memory_back() -> None:
    """Also in the middle of the queue, behind a message that stays."""
    broker = Broker(max_messages=10**6, max_bytes=10**9, max_queues=1)
    queue = broker.default
    queue.enqueue(b"stays")
    tracemalloc.start()
    try:
        for round_ in range(20):
            for _ in range(1000):
                queue.enqueue(bytes(1000), Properties(expires=round_ + 1.0), now=round_)
            while queue.tick(round_ + 1.0, 1000):
                pass
        assert (queue.stats().messages, queue.stats().expired) == (1, 20_000)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 3_000_000
    finally:
        tracemalloc.stop()
    assert bodies(queue, 30.0) == [b"stays"]


@pytest.mark.once
def test_memory_falls_back_after_many_leases_and_delays() -> None:
    broker = Broker(max_messages=10**6, max_bytes=10**9, max_queues=1)
    queue = broker.default
    tracemalloc.start()
    try:
        for number in range(20_000):
            queue.enqueue(b"x", delay=float(number % 7))
        while queue.tick(10.0, 1000):
            pass
        for lease in queue.receive_many(20_000, 60.0, 10.0):
            queue.ack(lease.receipt, 11.0)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()
    assert queue.stats().acked == 20_000


@pytest.mark.parametrize("limit", [1, 9])
def test_one_step_removes_no_more_than_some_of_what_has_outlived_its_ttl(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr("zapq.core.queue.TICK_LIMIT", 2)
    monkeypatch.setattr("zapq.core.broker.TICK_LIMIT", 2)
    queue = broker.default
    for _ in range(7):
        queue.enqueue(b"x", Properties(expires=1.0), now=0.0)
    queue.enqueue(b"living")
    taken: list[bytes] = []
    for expired in (4, 7):
        # Two by the tick, and two on the way to a message that lives.
        taken += [message.body for message in queue.dequeue_many(limit, 2.0)]
        assert queue.stats().expired == expired
        assert queue.available == (expired == 7 and not taken), "else a loop that serves consumers would go on"
        broker.tick(1.0)
    assert taken == [b"living"]


def test_so_many_bytes_become_dead_letters_in_one_go() -> None:
    broker, now = Broker(max_messages=100, max_bytes=100 * TICK_BYTES, max_queues=4), 10.0
    broker.configure("work", QueueSettings(max_receives=1, dead_letter="dead"), 0.0)
    work, dead = broker.find("work"), broker.find("dead")
    for _ in range(8):
        work.enqueue(bytes(TICK_BYTES // 2))
        work.receive(1.0, 0.0)
    for moved in (2, 4, 6, 8):
        assert (broker.tick(now) <= now) is (moved < 8)
        assert dead.stats().ready == moved
    assert (broker.tick(now), len(bodies(dead))) == (inf, 8)
