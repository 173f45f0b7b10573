"""What the library promises beyond what one process shows: full memory, other masters, other front ends."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Any

import pytest

from tests.engine.valkey.driver import AHEAD, Driver
from tests.engine.valkey.servers import Connection, Server, ServerError
from zapq.core.message import Draft, Lease
from zapq.core.queue_settings import QueueSettings
from zapq.engine.valkey import keys, library, procedures
from zapq.engine.valkey.call import AGAIN, Call, outbox_waits, server_time
from zapq.engine.valkey.codec import Caps, Waiting, weight_of
from zapq.engine.valkey.replies import error_of
from zapq.errors import KeyReused, QueueFull, QueueInUse, QueueNotFound, ReceiptExpired, TooManyQueues
from zapq.limits import MAX_BATCH_BYTES, MIB
from zapq.service.operations import (
    Accepted,
    ChangeSettings,
    Configure,
    Delete,
    Delivery,
    Describe,
    Enqueue,
    Find,
    List,
    Nothing,
    Operation,
    Peek,
    Purge,
    Put,
    Redrive,
    SetPaused,
    Settle,
    Settlement,
    SettleOne,
    Stats,
    Take,
    Terms,
)
from zapq.service.waiting import ONE, Want

LEASE = Want(1, True, 10.0)
MANY = Want(1000, True, 10.0)


class Clock:
    """The time of a test, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["valkey", "redis_server"])
def connection(request: pytest.FixtureRequest) -> Iterator[Connection]:
    """A connection to an empty server with the library for tests."""
    server: Server = request.getfixturevalue(request.param)
    with server.connect() as connection:
        connection.call("FLUSHALL")
        yield connection


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def driver(connection: Connection, clock: Clock) -> Driver:
    return Driver(connection, clock)


def bodies_of(outcome: Any) -> list[bytes]:
    assert isinstance(outcome, Delivery)
    return [each.body for each in outcome.given]


def lease(driver: Driver, queue: str = "a") -> Lease:
    delivery = driver.one(Take(queue, LEASE))
    assert isinstance(delivery, Delivery)
    [given] = delivery.given
    assert isinstance(given, Lease)
    return given


def ack(receipt: str, queue: str = "a") -> SettleOne:
    return SettleOne(queue, Settlement(receipt=receipt))


def letters_of(driver: Driver, number: int = 3) -> None:
    """Have so many messages of `a` fail, so that they are in its outbox."""
    driver.one(Configure("a", QueueSettings(max_receives=1, dead_letter="dead")))
    driver.ask([Enqueue("a", b"%d" % each) for each in range(number)])
    [delivery] = driver.ask([Take("a", MANY)])
    releases = [Settlement(receipt=each.receipt, action="release") for each in delivery.given]
    driver.make(driver.codec.call([Settle("a", releases)], driver.clock()))


# Producers


def test_messages_of_many_requests_are_stored_in_one_call_each_with_its_own_answer(driver: Driver) -> None:
    outcomes = driver.ask([
        Enqueue("a", b"1"),
        Enqueue("a", b"2"),
        Put((b"3", Draft(body=b"4", priority=1)), queue="a"),
        Put(b"5", Terms(delay=5.0), queue="a"),
    ])
    assert outcomes == [Accepted(1), Accepted(2), Accepted(3), Accepted(5)]
    assert bodies_of(driver.one(Take("a", Want(9)))) == [b"4", b"1", b"2", b"3"]


def test_a_key_stores_its_message_once_also_within_one_call(driver: Driver, clock: Clock) -> None:
    asked = Put(b"x", key="k", queue="a")
    assert driver.ask([asked, asked]) == [Accepted(1), Accepted(1, True)]
    clock.now += 299
    assert driver.one(asked) == Accepted(1, True)
    with pytest.raises(KeyReused):
        driver.one(Put(b"y", key="k", queue="a"))
    clock.now += 2
    assert driver.one(asked) == Accepted(2)


def test_a_key_of_a_refused_message_can_be_used_again(connection: Connection, clock: Clock) -> None:
    driver = Driver(connection, clock, caps=Caps(1, 100, 100))
    driver.one(Enqueue("a", b"1"))
    with pytest.raises(QueueFull):
        driver.one(Put(b"x", key="k", queue="a"))
    driver.one(Take("a", ONE))
    assert driver.one(Put(b"x", key="k", queue="a")) == Accepted(2)


def test_a_key_is_of_its_queue_and_ends_with_it(driver: Driver) -> None:
    asked = Put(b"x", key="k", queue="a")
    driver.one(asked)
    assert driver.one(Put(b"x", key="k", queue="b")) == Accepted(1)
    driver.one(Delete("a"))
    assert driver.one(asked) == Accepted(1)


def test_a_key_is_forgotten_by_the_server_itself(driver: Driver) -> None:
    driver.one(Put(b"x", key="k", queue="a"))
    assert 0 < driver.connection.call("PTTL", keys.claim_key("a", "k")) <= 300_000


def test_the_caps_of_the_server_hold_for_each_queue_exactly(connection: Connection, clock: Clock) -> None:
    driver = Driver(connection, clock, caps=Caps(3, 10, 10**6))
    outcomes = driver.ask([Enqueue("a", b"x" * size) for size in (4, 8, 6, 1, 0, 0)])
    # Each by itself: one that is too large keeps no smaller one out.
    assert [type(each) for each in outcomes] == [Accepted, QueueFull, Accepted, QueueFull, Accepted, QueueFull]
    assert [each.id for each in outcomes if isinstance(each, Accepted)] == [1, 2, 3]
    assert outcomes[1].members == {"queue": "a", "limit": "max_bytes", "current": 4, "max_bytes": 10}
    assert outcomes[5].members == {"queue": "a", "limit": "max_msgs", "current": 3, "max_messages": 3}
    assert driver.one(Describe("a")).stats.refused == 3
    assert driver.one(Enqueue("b", b"x")) == Accepted(1)


def test_a_batch_is_stored_whole_or_not_at_all_beside_others(connection: Connection, clock: Clock) -> None:
    driver = Driver(connection, clock, caps=Caps(3, 100, 100))
    outcomes = driver.ask([Put((b"1", b"2"), queue="a"), Put((b"3", b"4"), queue="a"), Put((b"5",), queue="a")])
    assert [type(each) for each in outcomes] == [Accepted, QueueFull, Accepted]
    assert bodies_of(driver.one(Take("a", Want(9)))) == [b"1", b"2", b"5"]


def test_what_is_over_makes_room_before_a_message_is_refused(connection: Connection, clock: Clock) -> None:
    driver = Driver(connection, clock, caps=Caps(1, 100, 100))
    driver.one(Put(b"1", Terms(ttl=1.0), queue="a"))
    clock.now += 1
    assert driver.one(Enqueue("a", b"2")) == Accepted(2)


def test_a_shard_takes_twice_its_share_of_queues(connection: Connection, clock: Clock) -> None:
    driver = Driver(connection, clock, caps=Caps(9, 9, 10))
    # Names of one shard
    names = [name for name in map(str, range(40_000)) if keys.shard_of(name) == 7][:3]
    assert driver.one(Enqueue(names[0], b"")) == Accepted(1)
    assert driver.one(Enqueue(names[1], b"")) == Accepted(1)
    with pytest.raises(TooManyQueues):
        driver.one(Enqueue(names[2], b""))
    with pytest.raises(QueueNotFound):
        driver.one(Describe(names[2]))


def test_the_largest_batch_is_stored_and_taken_at_once(driver: Driver) -> None:
    drafts = [Draft(body=b"%d" % each, priority=each % 10, ttl=99.0, delay=0.0) for each in range(1000)]
    late = [Draft(body=b"late", delay=1.0, content_type="text/plain")] * 1000
    assert driver.ask([Put(tuple(drafts), queue="a"), Put(tuple(late), queue="a")]) == [
        Accepted(1),
        Accepted(1001),
    ]
    given = driver.one(Take("a", MANY)).given
    assert [each.message.rank for each in given] == sorted(each.message.rank for each in given)
    assert len(given) == 1000
    assert driver.one(Settle("a", [Settlement(receipt=each.receipt) for each in given])) == [None] * 1000
    assert driver.one(Describe("a")).stats.delayed == 1000


def test_delayed_batches_are_ready_in_time_each_at_its_place(driver: Driver, clock: Clock) -> None:
    driver.one(Put((Draft(body=b"1", delay=2.0), Draft(body=b"2", delay=1.0), b"3"), queue="a"))
    assert bodies_of(driver.one(Take("a", Want(9)))) == [b"3"]
    assert driver.one(Take("a", Want(9))) == Nothing("delayed", 1.0)
    clock.now += 1
    assert [each.body for each in driver.one(Peek("a", "ready"))] == [b"2"]
    clock.now += 1
    assert bodies_of(driver.one(Take("a", Want(9)))) == [b"1", b"2"]


# Consumers


def test_a_batch_ends_at_8_mib(driver: Driver) -> None:
    driver.ask([Enqueue("a", b"x" * MIB) for _ in range(10)])
    given = driver.one(Take("a", Want(1000))).given
    assert sum(len(each.body) for each in given) == MAX_BATCH_BYTES
    assert len(driver.one(Take("a", MANY)).given) == 2


def test_one_message_may_be_larger_than_a_batch(driver: Driver) -> None:
    driver.ask([Enqueue("a", b"x" * (9 * MIB)), Enqueue("a", b"y")])
    assert [len(each.body) for each in driver.one(Take("a", MANY)).given] == [9 * MIB]
    assert bodies_of(driver.one(Take("a", MANY))) == [b"y"]


def test_a_call_for_many_consumers_ends_at_8_mib_and_the_others_ask_again(driver: Driver, clock: Clock) -> None:
    driver.ask([Enqueue("a", b"x" * (3 * MIB)) for _ in range(4)])
    call = driver.codec.call([Take("a", LEASE)] * 5, clock())
    outcomes = driver.make(call)
    assert [type(each) for each in outcomes[:2]] == [Delivery, Delivery]
    assert outcomes[2:] == [AGAIN] * 3
    assert [type(each) for each in driver.ask([Take("a", LEASE)] * 3)] == [Delivery, Delivery, Nothing]


def test_a_paused_queue_gives_nothing_to_many_consumers(driver: Driver) -> None:
    driver.one(Enqueue("a", b"1"))
    driver.one(SetPaused("a", True))
    assert driver.ask([Take("a", Want(3)), Take("a", Want(3)), Take("a", ONE)]) == [Nothing("paused", inf)] * 3


def test_a_call_for_many_batches_ends_at_2000_messages(driver: Driver, clock: Clock) -> None:
    for _ in range(4):
        driver.one(Put((b"",) * 1000, queue="a"))
    outcomes = driver.make(driver.codec.call([Take("a", MANY)] * 4, clock()))
    assert [type(each) for each in outcomes[:2]] == [Delivery] * 2
    assert outcomes[2:] == [AGAIN] * 2


def test_operations_weigh_what_they_store_or_settle() -> None:
    settle = Settle("a", [Settlement(receipt="")] * 7)
    operations: list[Operation] = [Enqueue("a", b""), Put((b"",) * 9), settle, Take("a", MANY)]
    assert [weight_of(each) for each in operations] == [1, 9, 7, 1]


def test_an_acknowledgement_is_repeated_without_harm_also_in_one_call(driver: Driver) -> None:
    driver.ask([Enqueue("a", b"1"), Enqueue("a", b"22")])
    first, second = lease(driver), lease(driver)
    assert driver.ask([ack(first.receipt), ack(first.receipt), ack(second.receipt)]) == [None] * 3
    assert driver.ask([ack(first.receipt)]) == [None]
    stats = driver.one(Describe("a")).stats
    assert (stats.messages, stats.bytes) == (0, 0)


def test_what_could_not_be_handed_over_is_at_its_place_again_once(driver: Driver, clock: Clock) -> None:
    driver.ask([Put(b"1", Terms(ttl=9.0), queue="a"), Enqueue("a", b"2"), Enqueue("a", b"3")])
    given = driver.one(Take("a", Want(2)))
    leased = driver.one(Take("a", LEASE))
    for _ in range(2):  # the answer to the first may have been lost
        given.queue.return_undelivered(given.given)
        leased.queue.return_undelivered(leased.given)
    stats = driver.one(Describe("a")).stats
    assert (stats.messages, stats.bytes, stats.ready, stats.received, stats.returned) == (3, 3, 3, 0, 3)
    with pytest.raises(ReceiptExpired):
        driver.one(ack(leased.given[0].receipt))
    again = driver.one(Take("a", MANY)).given
    assert [(each.body, each.receives) for each in again] == [(b"1", 1), (b"2", 1), (b"3", 1)]
    clock.now += 9


def test_what_goes_back_has_been_delivered_as_often_as_before(driver: Driver) -> None:
    driver.one(Enqueue("a", b"1"))
    for _ in range(2):
        driver.one(SettleOne("a", Settlement(receipt=lease(driver).receipt, action="release")))
    given = driver.one(Take("a", ONE))
    given.queue.return_undelivered(given.given)
    again = lease(driver)
    assert (again.receives, again.message.properties.releases) == (3, 2)


def test_a_consumer_is_told_of_what_ends_first(driver: Driver, clock: Clock) -> None:
    driver.ask([Enqueue("a", b"1"), Enqueue("a", b"2", delay=5.0)])
    lease(driver)  # for 10 seconds, and a little more
    assert driver.one(Take("a", ONE)) == Nothing("delayed", 5.0)
    clock.now += 5
    driver.one(Take("a", ONE))
    assert driver.one(Take("a", ONE)) == Nothing("leased", 5.05)
    driver.one(Enqueue("a", b"3", delay=30.0))
    assert driver.one(Take("a", ONE)) == Nothing("leased", 5.05)


def refusal(driver: Driver, receipt: str, action: Any = "release") -> str:
    with pytest.raises(ReceiptExpired) as refusal:
        driver.one(SettleOne("a", Settlement(receipt=receipt, action=action)))
    return refusal.value.detail


def test_a_consumer_that_comes_too_late_is_told_how_its_lease_ended(driver: Driver, clock: Clock) -> None:
    driver.one(Configure("a", QueueSettings(max_receives=4, dead_letter="dead")))
    driver.ask([Enqueue("a", b"1")])
    first = lease(driver).receipt
    driver.one(SettleOne("a", Settlement(receipt=first, action="release")))
    second = lease(driver).receipt
    clock.now += 11
    driver.one(Describe("a"))
    assert "released already" in refusal(driver, first, "ack")
    assert "The lease expired. " in refusal(driver, second)
    third = lease(driver).receipt
    assert "given out again" in refusal(driver, second, "ack")
    clock.now += 11
    assert driver.one(ack(third)) is None  # late, but no consumer has it
    assert "acknowledged already" in refusal(driver, third)
    driver.ask([Enqueue("a", b"2")])
    receipts = []
    for _ in range(4):
        receipts.append(lease(driver).receipt)
        clock.now += 11
    driver.one(Describe("a"))
    assert "dead-letter" in refusal(driver, receipts[3], "ack")
    driver.ask([Put(b"3", Terms(ttl=5.0), queue="a")])
    last = lease(driver).receipt
    clock.now += 11
    assert "its ttl was over" in refusal(driver, last, "ack")


def test_a_message_that_is_released_time_and_again_rests(driver: Driver, clock: Clock) -> None:
    driver.one(Enqueue("a", b"1"))
    for _ in range(3):
        driver.one(SettleOne("a", Settlement(receipt=lease(driver).receipt, action="release")))
    for rest in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0):
        driver.one(SettleOne("a", Settlement(receipt=lease(driver).receipt, action="release")))
        assert driver.one(Take("a", LEASE)) == Nothing("delayed", rest)
        clock.now += rest


@pytest.mark.parametrize("how", ["sent", "released"])
def test_a_delay_ends_with_the_ttl(driver: Driver, clock: Clock, how: str) -> None:
    if how == "sent":
        driver.one(Put(b"1", Terms(delay=5.0, ttl=2.0), queue="a"))
    else:
        driver.one(Put(b"1", Terms(ttl=2.0), queue="a"))
        driver.one(SettleOne("a", Settlement(receipt=lease(driver).receipt, action="release", delay=5.0)))
    clock.now += 2
    stats = driver.one(Describe("a")).stats
    assert (stats.messages, stats.expired) == (0, 1)


def test_a_ttl_does_not_end_a_lease(driver: Driver, clock: Clock) -> None:
    driver.ask([Put(b"1", Terms(ttl=2.0), queue="a"), Put(b"2", Terms(ttl=2.0), queue="a")])
    held = lease(driver)
    clock.now += 2
    stats = driver.one(Describe("a")).stats
    assert (stats.messages, stats.leased, stats.expired) == (1, 1, 1)
    assert driver.one(ack(held.receipt)) is None
    assert driver.one(Describe("a")).stats.messages == 0


def test_a_body_that_was_removed_by_hand_stops_no_queue(driver: Driver, clock: Clock) -> None:
    driver.one(Configure("a", QueueSettings(max_receives=1, dead_letter="dead")))
    driver.ask([Put(b"%d" % each, Terms(ttl=99.0), queue="a") for each in range(3)])
    driver.ask([Enqueue("a", b"3"), Enqueue("a", b"4")])
    lease(driver)
    driver.connection.call("HDEL", keys.queue_keys("a")[0], 1, 2, 4)
    clock.now += 20
    assert bodies_of(driver.one(Take("a", Want(9)))) == [b"2", b"4"]
    assert driver.one(Enqueue("a", b"5")) == Accepted(6)


def test_uncertain_deliveries_are_counted(driver: Driver) -> None:
    driver.one(Enqueue("a", b"1"))
    driver.one(Take("a", ONE)).queue.note_uncertain_delivery(1)
    assert driver.one(Stats()).uncertain == 1


def test_how_leases_ended_is_forgotten_after_an_hour(driver: Driver, clock: Clock) -> None:
    driver.one(Enqueue("a", b"1"))
    receipts = [lease(driver).receipt]
    for _ in range(3):
        driver.one(SettleOne("a", Settlement(receipt=receipts[-1], action="release")))
        receipts.append(lease(driver).receipt)
        clock.now += 1
    clock.now += 3600
    driver.sweep(["a"])
    key = keys.queue_keys("a")[6]
    # Two go for the one that has just ended.
    assert driver.connection.call("ZRANGE", key, 0, -1) == [each.encode() for each in receipts[2:]]
    assert 0 < driver.connection.call("PTTL", key) <= 3_600_000
    with pytest.raises(ReceiptExpired):
        driver.one(ack(receipts[0]))


def test_a_receipt_of_another_queue_acknowledges_nothing(driver: Driver) -> None:
    driver.ask([Enqueue("a", b"1")])
    driver.ask([Enqueue("b", b"1")])
    theirs = lease(driver, "b")
    driver.one(ack(lease(driver, "a").receipt, "a"))
    with pytest.raises(ReceiptExpired, match="another queue"):
        driver.one(ack(theirs.receipt, "a"))


def test_a_receipt_of_a_deleted_queue_fits_no_lease_of_a_new_one(driver: Driver) -> None:
    driver.one(Enqueue("a", b"1"))
    old = lease(driver)
    driver.one(Delete("a"))
    driver.one(Enqueue("a", b"1"))
    lease(driver)
    with pytest.raises(ReceiptExpired):
        driver.one(ack(old.receipt))
    assert driver.one(Describe("a")).stats.leased == 1


# Failover


def test_ids_jump_when_another_master_answers_and_not_back_and_forth(driver: Driver) -> None:
    assert driver.one(Enqueue("a", b"1")) == Accepted(1)
    first, driver.epoch = driver.epoch, b"654321"
    assert driver.one(Enqueue("a", b"2")) == Accepted(2 + 2**20)
    # A front end that is connected for longer tells the old one for a while.
    driver.epoch = first
    assert driver.one(Enqueue("a", b"3")) == Accepted(3 + 2**20)
    driver.epoch = b"654321"
    assert driver.one(Enqueue("a", b"4")) == Accepted(4 + 2**20)


def test_a_receipt_of_a_lost_lease_fits_no_later_one_of_the_same_message(driver: Driver) -> None:
    driver.one(Enqueue("a", b"1"))
    everything = {key: driver.connection.call("DUMP", key) for key in driver.connection.call("KEYS", "*")}
    lost = lease(driver)
    # The new master had not heard of the lease.
    driver.connection.call("FLUSHALL")
    for key, dump in everything.items():
        driver.connection.call("RESTORE", key, 0, dump)
    driver.epoch = b"654321"
    lease(driver)
    with pytest.raises(ReceiptExpired):
        driver.one(ack(lost.receipt))
    assert driver.one(Describe("a")).stats.leased == 1


def test_dead_letters_are_not_taken_for_those_that_a_failover_has_lost(driver: Driver) -> None:
    driver.one(Configure("a", QueueSettings(max_receives=1, dead_letter="dead")))
    driver.ask([Enqueue("a", b"1"), Enqueue("a", b"2")])
    call = driver.connection.call
    names = [key for key in keys.queue_keys("a") if call("EXISTS", key)]
    before = {key: call("DUMP", key) for key in names}
    release = Settlement(receipt=lease(driver).receipt, action="release")
    driver.one(SettleOne("a", release))
    assert [each.body for each in driver.one(Peek("dead"))] == [b"1"]
    # The new master of the one queue, not of the other, had not heard of any of this.
    call("DEL", *keys.queue_keys("a"))
    for key, dump in before.items():
        call("RESTORE", key, 0, dump)
    driver.epoch = b"654321"
    lease(driver)
    driver.one(SettleOne("a", Settlement(receipt=lease(driver).receipt, action="release")))
    assert [each.body for each in driver.one(Peek("dead"))] == [b"1", b"2"]


def test_what_went_back_is_not_sent_back_again_without_knowing(driver: Driver) -> None:
    """A message that was given for good, came back, and was given to another consumer, comes back no more."""
    driver.ask([Enqueue("a", b"1"), Enqueue("a", b"2")])
    given, leased = driver.one(Take("a", ONE)).given, driver.one(Take("a", LEASE)).given
    assert not driver.codec.give_back("a", given, 0.0).repeatable
    assert driver.codec.give_back("a", leased, 0.0).repeatable


# Over the memory limit


def test_over_the_memory_limit_producers_are_refused_and_consumers_served(driver: Driver, clock: Clock) -> None:
    driver.one(Configure("a", QueueSettings(max_receives=1, dead_letter="dead")))
    driver.ask([Enqueue("a", b"x" * 1000) for _ in range(9)])
    first, second, third = lease(driver), lease(driver), lease(driver)
    call = driver.connection.call
    call("CONFIG", "SET", "maxmemory-policy", "noeviction")
    call("CONFIG", "SET", "maxmemory", "1")
    driver.flushes = False  # adopting needs memory; it waits until there is some
    try:
        with pytest.raises(ServerError) as refusal:
            driver.one(Enqueue("a", b"y"))
        error = error_of(str(refusal.value))
        assert isinstance(error, QueueFull)
        assert error.retry_after == 1
        assert driver.one(ack(first.receipt)) is None
        assert bodies_of(driver.one(Take("a", ONE))) == [b"x" * 1000]
        extension = Settlement(receipt=second.receipt, action="extend", visibility=20.0)
        assert isinstance(driver.one(SettleOne("a", extension)), Lease)
        driver.one(SettleOne("a", Settlement(receipt=third.receipt, action="release")))
        assert outbox_waits(driver.replies)
        clock.now += 30
        assert len(driver.one(Take("a", MANY)).given) == 5
        assert driver.one(Purge("a")) == 5
    finally:
        call("CONFIG", "SET", "maxmemory", "0")
    driver.flushes = True
    driver.sweep(["a"])
    assert driver.one(Describe("dead")).stats.messages == 2


# Dead letters


def test_dead_letters_reach_another_shard_once_however_often_they_are_moved(driver: Driver) -> None:
    assert keys.shard_of("a") != keys.shard_of("dead")
    letters_of(driver)
    driver.flushes = False
    assert driver.one(Describe("a")).stats.messages == 0
    steps = [procedures.flush_outbox(driver.codec, "a") for _ in range(3)]  # three front ends, each as far as ...
    adoptions = []
    for each in steps:
        [shown] = next(each)
        adoptions.append(each.send([driver.make(shown)]))  # ... this before the first goes on
    for each, [adopt] in zip(steps, adoptions, strict=True):
        [done] = each.send([driver.make(adopt)])
        driver.make(done)
    # A late one, of entries that were struck out
    driver.make(adoptions[0][0])
    assert [each.body for each in driver.one(Peek("dead"))] == [b"0", b"1", b"2"]
    assert driver.one(Peek("dead"))[0].message.properties.failed_in == "a"
    assert driver.one(Stats()).outbox == 0


def test_an_abandoned_outbox_is_found_by_the_sweep(driver: Driver, clock: Clock) -> None:
    letters_of(driver)
    driver.outboxes.clear()  # its front end ended
    driver.sweep(["a"])
    assert len(driver.one(Peek("dead"))) == 3


def test_redriven_messages_go_where_there_is_room_and_where_they_failed(driver: Driver) -> None:
    letters_of(driver)
    driver.flush()
    driver.one(ChangeSettings("a", {"max_messages": 2}))
    redriven = driver.one(Redrive("dead"))
    assert (redriven.moved, redriven.left) == (2, 1)
    assert [each.body for each in driver.one(Peek("a"))] == [b"0", b"1"]
    assert driver.one(Describe("dead")).stats.redriven == 2


def test_a_queue_with_an_outbox_is_deleted_after_that_was_moved(driver: Driver) -> None:
    letters_of(driver)
    driver.one(Delete("a"))
    assert len(driver.one(Peek("dead"))) == 3
    driver.one(Delete("dead"))  # no dead letters come here any more
    assert [each.name for each in driver.one(List())] == ["default"]


def test_a_note_that_was_left_behind_keeps_no_queue_from_being_deleted(driver: Driver) -> None:
    driver.one(Enqueue("dead", b""))
    steps = procedures.configure(driver.codec, "a", QueueSettings(max_receives=1, dead_letter="dead"))
    asked = next(steps)
    for _ in range(2):  # up to the note, and no further
        outcomes = [driver.make(each) for each in asked]
        asked = steps.send(outcomes)
    steps.close()
    driver.one(Delete("dead"))


# Operators


def test_a_purge_leaves_settings_ids_and_what_is_on_its_way_to_others(driver: Driver) -> None:
    letters_of(driver, 2)
    driver.ask([Enqueue("a", b"x"), Enqueue("a", b"y")])
    held = lease(driver)
    assert driver.one(Purge("a")) == 2
    with pytest.raises(ReceiptExpired):
        driver.one(ack(held.receipt))
    assert driver.one(Enqueue("a", b"z")) == Accepted(5)
    info = driver.one(Describe("a"))
    assert (info.settings.dead_letter, info.stats.messages, info.stats.cleared) == ("dead", 1, 2)
    driver.flush()
    assert len(driver.one(Peek("dead"))) == 2


def test_deleting_a_queue_leaves_no_key_but_what_it_had_counted(driver: Driver) -> None:
    driver.ask([Enqueue("a", b"1"), Put(b"2", Terms(delay=9.0, ttl=99.0), queue="a"), Enqueue("a", b"3")])
    held = lease(driver)
    driver.one(SettleOne("a", Settlement(receipt=held.receipt, action="release")))
    driver.one(Delete("a"))
    assert driver.connection.call("KEYS", "*") == [keys.past_key(keys.shard_of("a"))]
    sums = driver.one(Stats())
    assert (sums.stats.enqueued, sums.stats.cleared, sums.queues) == (3, 3, 0)


def test_two_changes_of_settings_at_once_are_both_made(driver: Driver) -> None:
    driver.one(Configure("a", QueueSettings()))
    steps = procedures.change_settings(driver.codec, "a", {"max_messages": 5})
    asked = steps.send([driver.make(each) for each in next(steps)])
    driver.one(ChangeSettings("a", {"max_bytes": 7}))  # between the look and the change
    try:
        while True:
            asked = steps.send([driver.make(each) for each in asked])
    except StopIteration as end:
        info = end.value
    assert (info.settings.max_messages, info.settings.max_bytes) == (5, 7)


def test_settings_come_back_as_they_were_given(driver: Driver) -> None:
    settings = QueueSettings(
        max_messages=10**12, max_bytes=2**50, visibility=0.1234567, ttl=1e6, max_receives=3, dead_letter="dead"
    )
    assert driver.one(Configure("a", settings))[1].settings == settings


def test_all_queues_are_listed_page_by_page(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procedures, "QUEUES_AT_ONCE", 2)
    monkeypatch.setattr(keys, "shard_of", lambda queue: 7)
    keys.queue_keys.cache_clear()
    try:
        names = [f"q{each}" for each in range(5)]
        for name in names:
            driver.one(Enqueue(name, b"xx"))
        assert [each.name for each in driver.one(List("q*"))] == names
        sums = driver.one(Stats())
        assert (sums.queues, sums.stats.messages, sums.stats.bytes) == (5, 5, 10)
    finally:
        keys.queue_keys.cache_clear()


# Long polls


def told(connection: Connection) -> list[bytes]:
    """Return what a subscriber has been told so far."""
    connection.send(["PING"])
    messages: list[bytes] = []
    while True:
        reply = connection.receive()
        if reply == b"PONG" or reply[0] == b"pong":
            return messages
        messages.append(reply[2])


@pytest.fixture
def listeners(request: pytest.FixtureRequest, connection: Connection) -> Iterator[list[Connection]]:
    """Connections of two front ends, f1 and f2, that hear of messages in the shard of `a`."""
    server: Server = request.getfixturevalue(request.node.callspec.params["connection"])
    with server.connect() as one, server.connect() as other:
        for name, each in (("f1", one), ("f2", other)):
            each.call("SSUBSCRIBE", keys.wake_channel(keys.shard_of("a"), name))
        yield [one, other]


def test_one_message_wakes_the_front_end_that_waits_longest(
    driver: Driver, clock: Clock, listeners: list[Connection]
) -> None:
    other = Driver(driver.connection, clock, name="f2")
    driver.one(Enqueue("a", b""))
    driver.one(Take("a", ONE))
    assert driver.ask([Take("a", ONE, 5.0)], Waiting(1)) == [Nothing("empty", inf)]
    since = server_time(driver.replies)
    assert since == clock.now * 1000 + AHEAD
    clock.now += 1
    other.ask([Take("a", ONE, 5.0)], Waiting(1))
    driver.one(Enqueue("a", b"1"))
    assert [told(each) for each in listeners] == [[b"+a"], []]
    # It asks, and one of its consumers still gets nothing: so it is in the line again, at its place.
    assert [type(each) for each in driver.ask([Take("a", ONE, 5.0)] * 2, Waiting(2, since))] == [Delivery, Nothing]
    driver.ask([Enqueue("a", b"2"), Enqueue("a", b"3"), Enqueue("a", b"4")])
    assert [told(each) for each in listeners] == [[b"+a"], [b"+a"]]
    driver.one(Enqueue("a", b"5"))
    assert [told(each) for each in listeners] == [[], []]


def test_a_front_end_that_is_gone_is_passed_over(
    driver: Driver, clock: Clock, listeners: list[Connection]
) -> None:
    gone = Driver(driver.connection, clock, name="f0")
    gone.ask([Take("a", ONE, 5.0)], Waiting(3))
    clock.now += 1
    driver.ask([Take("a", ONE, 5.0)], Waiting(1))
    driver.one(Enqueue("a", b"1"))
    assert told(listeners[0]) == [b"+a"]


def test_a_queue_that_is_not_there_is_waited_for(driver: Driver, listeners: list[Connection]) -> None:
    outcomes = driver.ask([Take("a", ONE), Take("a", ONE, 5.0)], Waiting(1))
    assert [type(each) for each in outcomes] == [QueueNotFound, Nothing]
    driver.one(Enqueue("a", b"1"))
    assert told(listeners[0]) == [b"+a"]


@pytest.mark.parametrize("how", ["release", "resume", "give back", "delay", "lease", "adopt"])
def test_whatever_makes_a_message_ready_wakes(
    driver: Driver, clock: Clock, listeners: list[Connection], how: str
) -> None:
    driver.one(Configure("a", QueueSettings(visibility=5.0)))
    held = delivery = None
    if how in {"release", "lease", "give back"}:
        driver.one(Enqueue("a", b"1"))
        delivery = driver.one(Take("a", LEASE))
        held = delivery.given[0]
    elif how == "delay":
        driver.one(Enqueue("a", b"1", delay=10.0))
    elif how == "resume":
        driver.one(SetPaused("a", True))
        driver.one(Enqueue("a", b"1"))
    driver.ask([Take("a", ONE, 5.0)], Waiting(1))
    assert told(listeners[0]) == []
    if held is not None and how == "release":
        driver.one(SettleOne("a", Settlement(receipt=held.receipt, action="release")))
    elif delivery is not None and how == "give back":
        delivery.queue.return_undelivered(delivery.given)
    elif how == "resume":
        driver.one(SetPaused("a", False))
    elif how == "adopt":
        driver.one(Configure("b", QueueSettings(max_receives=1, dead_letter="a")))
        driver.one(Enqueue("b", b"1"))
        driver.one(SettleOne("b", Settlement(receipt=lease(driver, "b").receipt, action="release")))
    else:
        clock.now += 11
        driver.sweep(["a"])
    assert told(listeners[0]) == [b"+a"]


def test_a_front_end_without_consumers_leaves_the_line(
    driver: Driver, clock: Clock, listeners: list[Connection]
) -> None:
    driver.ask([Take("a", ONE, 5.0)], Waiting(1))
    driver.make(driver.codec.leave("a"))
    driver.one(Enqueue("a", b"1"))
    assert told(listeners[0]) == []
    driver.ask([Take("a", ONE, 5.0)] * 2, Waiting(2))
    driver.one(Enqueue("a", b"2"))
    assert told(listeners[0]) == [b"+a"]
    driver.ask([Take("a", ONE, 5.0)] * 1, Waiting(1))  # all are served
    driver.one(Enqueue("a", b"3"))
    assert told(listeners[0]) == []


def test_a_front_end_without_consumers_has_the_next_one_told(
    driver: Driver, clock: Clock, listeners: list[Connection]
) -> None:
    other = Driver(driver.connection, clock, name="f2")
    driver.ask([Take("a", ONE, 5.0)], Waiting(1))
    clock.now += 1
    other.ask([Take("a", ONE, 5.0)], Waiting(1))
    driver.one(Enqueue("a", b"1"))
    assert [told(each) for each in listeners] == [[b"+a"], []]
    driver.make(driver.codec.leave("a"))  # its consumer has left by now
    assert [told(each) for each in listeners] == [[], [b"+a"]]


def test_those_that_wait_hear_of_the_end_of_their_queue(driver: Driver, listeners: list[Connection]) -> None:
    driver.one(Configure("a", QueueSettings()))
    driver.ask([Take("a", ONE, 5.0)], Waiting(1))
    driver.one(Delete("a"))
    assert told(listeners[0]) == [b"-a"]


# The sweep


def test_a_sweep_does_what_is_due_in_bounded_steps(
    driver: Driver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(procedures, "SWEPT_AT_ONCE", 2)
    monkeypatch.setattr(keys, "shard_of", lambda queue: 7)
    keys.queue_keys.cache_clear()
    try:
        names = ["a", "b", "c"]
        for name in names:
            driver.one(Put(b"", Terms(ttl=1.0), queue=name))
        assert driver.run(procedures.sweep(driver.codec, [7])) == procedures.Swept([], False)
        clock.now += 1
        assert driver.run(procedures.sweep(driver.codec, [7])).more
        assert not driver.run(procedures.sweep(driver.codec, [7])).more
        assert [driver.one(Describe(name)).stats.expired for name in names] == [1, 1, 1]
        # There is nothing left to look at.
        assert driver.connection.call("ZCARD", keys.shard_keys(7)[0]) == 0
    finally:
        keys.queue_keys.cache_clear()


def test_a_sweep_has_what_it_found_to_itself_for_a_while(driver: Driver, clock: Clock) -> None:
    driver.one(Put(b"", Terms(ttl=1.0), queue="a"))
    clock.now += 1
    shard = keys.shard_of("a")
    [first], [second] = (next(procedures.sweep(driver.codec, [shard])) for _ in range(2))
    assert driver.make(first) == [[b"a"]]
    assert driver.make(second) == [[]]
    clock.now += procedures.CLAIM_SECONDS
    [third] = next(procedures.sweep(driver.codec, [shard]))
    assert driver.make(third) == [[b"a"]]


def test_much_that_is_due_at_once_is_done_in_pieces(driver: Driver, clock: Clock) -> None:
    for _ in range(3):
        driver.one(Put((Draft(body=b"", ttl=1.0),) * 1000, queue="a"))
    clock.now += 1
    swept = driver.run(procedures.sweep(driver.codec, [keys.shard_of("a")]))
    assert swept.more
    driver.sweep(["a"])
    stats = driver.one(Describe("a")).stats
    assert (stats.messages, stats.expired) == (0, 3000)


def test_a_consumer_gets_nothing_that_is_over_even_if_very_much_is(driver: Driver, clock: Clock) -> None:
    for _ in range(3):
        driver.one(Put((Draft(body=b"", ttl=1.0),) * 1000, queue="a"))
    driver.one(Enqueue("a", b"x"))
    clock.now += 1
    assert bodies_of(driver.one(Take("a", ONE))) == [b"x"]


# Repair


def test_nothing_is_found_in_a_queue_that_is_well(driver: Driver) -> None:
    letters_of(driver)
    driver.ask([Put(b"1", Terms(ttl=9.0), queue="a"), Put(b"2", Terms(delay=9.0), queue="a"), Enqueue("a", b"3")])
    held = lease(driver)
    driver.one(SettleOne("a", Settlement(receipt=held.receipt, action="release")))
    lease(driver)
    for mend in (False, True):
        assert driver.run(procedures.repair(driver.codec, "a", mend=mend)) == (0, 0, 0, 0, False)


@pytest.mark.parametrize("how", ["dequeued", "acked", "acked late", "given back", "over", "dead", "redriven"])
def test_nothing_is_left_of_a_message_that_came_back_and_is_gone(driver: Driver, clock: Clock, how: str) -> None:
    if how in {"dead", "redriven"}:
        driver.one(Configure("a", QueueSettings(max_receives=2, dead_letter="dead")))
    driver.ask([Put(b"1", Terms(ttl=15.0), queue="a"), Enqueue("a", b"2")])
    for each in [lease(driver), lease(driver)]:
        driver.one(SettleOne("a", Settlement(receipt=each.receipt, action="release")))
    if how == "dequeued":
        driver.one(Take("a", Want(2)))
    elif how == "acked":
        driver.ask([ack(lease(driver).receipt), ack(lease(driver).receipt)])
    elif how == "acked late":
        receipts = [lease(driver).receipt, lease(driver).receipt]
        clock.now += 11
        driver.ask([ack(each) for each in receipts])
    elif how == "given back":
        for _ in range(2):
            for want in (Want(2), MANY):
                delivery = driver.one(Take("a", want))
                delivery.queue.return_undelivered(delivery.given)
        driver.one(Take("a", Want(2)))
    elif how == "over":
        clock.now += 15
        driver.one(Take("a", ONE))
    else:
        for each in [lease(driver), lease(driver)]:
            driver.one(SettleOne("a", Settlement(receipt=each.receipt, action="release")))
        if how == "redriven":
            lease(driver, "dead")
            clock.now += 11
            assert driver.one(Redrive("dead")).moved == 2
            driver.one(Take("a", Want(2)))
    for queue in ("a", "dead") if how in {"dead", "redriven"} else ("a",):
        assert driver.run(procedures.repair(driver.codec, queue, mend=False)) == (0, 0, 0, 0, False)
        stats = driver.one(Describe(queue)).stats
        number = 2 if (how, queue) == ("dead", "dead") else 0
        assert (stats.messages, stats.bytes, stats.ready) == (number, number, number)
        h = keys.queue_keys(queue)[0]
        assert not [field for field in driver.connection.call("HKEYS", h) if field[1:].isdigit() and not number]


def test_what_agrees_with_nothing_is_found_and_mended(driver: Driver, clock: Clock) -> None:
    h, line, ranked, delayed, _, mortal, *_ = keys.queue_keys("a")
    driver.ask([Enqueue("a", b"%d" % each) for each in range(6)])
    driver.one(Put(b"late", Terms(delay=9.0, ttl=99.0), queue="a"))
    held = lease(driver)
    call = driver.connection.call
    call("RPUSH", line, 1, 99, 3)  # a leased one, one that never was, and one that is there already
    call("LREM", line, 1, 2)  # nowhere now
    call("ZADD", ranked, 4, 4, 77, 77)
    call("HDEL", h, 6)
    call("HSET", h, "c5000", b"\0" * 8)
    call("ZREM", delayed, *call("ZRANGE", delayed, 0, -1))
    call("ZADD", mortal, 1, b"91%012x-4" % 3)
    found = driver.run(procedures.repair(driver.codec, "a", mend=False))
    assert found == (2, 4, 3, 1, True)
    assert driver.run(procedures.repair(driver.codec, "a", mend=True)) == found
    assert driver.run(procedures.repair(driver.codec, "a", mend=True)) == (0, 0, 0, 0, False)
    stats = driver.one(Describe("a")).stats
    assert (stats.messages, stats.ready, stats.leased, stats.bytes) == (6, 5, 1, 9)
    assert driver.one(ack(held.receipt)) is None
    assert bodies_of(driver.one(Take("a", MANY))) == [b"1", b"2", b"3", b"4", b"late"]


def test_a_queue_whose_state_is_lost_has_its_messages_again(driver: Driver) -> None:
    driver.ask([Enqueue("a", b"1"), Enqueue("a", b"2")])
    driver.connection.call("HDEL", keys.queue_keys("a")[0], "s")
    assert driver.run(procedures.repair(driver.codec, "a", mend=True)).figures
    assert driver.one(Enqueue("a", b"3")) == Accepted(3)
    assert bodies_of(driver.one(Take("a", Want(9)))) == [b"1", b"2", b"3"]


def test_too_large_a_queue_is_not_repaired(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.one(Enqueue("a", b"1"))
    monkeypatch.setattr(procedures, "MOST_REPAIRED", 1)
    with pytest.raises(QueueInUse, match="too many for one step"):
        driver.run(procedures.repair(driver.codec, "a", mend=True))


# The library itself


def test_the_library_is_replaced_under_use(driver: Driver) -> None:
    driver.one(Enqueue("a", b"1"))
    held = lease(driver)
    driver.connection.call("FUNCTION", "LOAD", "REPLACE", library.text(test=True))
    assert driver.one(ack(held.receipt)) is None


def test_only_a_library_for_tests_is_told_the_time(driver: Driver) -> None:
    driver.connection.call("FUNCTION", "LOAD", "REPLACE", library.TEXT)
    try:
        with pytest.raises(ServerError, match="only a library for tests"):
            driver.one(Enqueue("a", b"1"))
    finally:
        driver.connection.call("FUNCTION", "LOAD", "REPLACE", library.text(test=True))


def test_an_idle_queue_needs_little_memory(driver: Driver) -> None:
    for each in range(1000):
        driver.one(Enqueue(f"queue{each}", b"x"))
        driver.one(Take(f"queue{each}", ONE))
    call = driver.connection.call
    used = sum(call("MEMORY", "USAGE", key) for key in call("KEYS", "*"))
    assert used / 1000 < 400


class ClusterDriver(Driver):
    """A front end of a cluster: each call goes to the master of its shard."""

    def __init__(self, connections: list[Connection], clock: Clock) -> None:
        super().__init__(connections[0], clock)
        self._connections = connections

    def connection_of(self, call: Call) -> Connection:
        return self._connections[keys.slot_of(call.shard) // 5462]


def test_every_verb_names_all_its_keys(cluster: list[Server], clock: Clock) -> None:
    """A cluster refuses a function that touches a key of another slot."""
    with cluster[0].connect() as one, cluster[1].connect() as two, cluster[2].connect() as three:
        for each in (one, two, three):
            each.call("FUNCTION", "LOAD", "REPLACE", library.text(test=True))
        driver = ClusterDriver([one, two, three], clock)
        names = ["alpha", "beta", "gamma", "delta", "mail", "jobs"]
        assert len({keys.slot_of(keys.shard_of(name)) // 5462 for name in [*names, "dead"]}) == 3
        for name in names:
            driver.one(Configure(name, QueueSettings(max_receives=2, dead_letter="dead")))
            driver.one(Put(b"1", key="k", queue=name))
            driver.ask([Put(b"2", Terms(ttl=9.0, delay=1.0), queue=name), Enqueue(name, b"3")])
            for _ in range(2):
                release = Settlement(receipt=lease(driver, name).receipt, action="release")
                driver.one(SettleOne(name, release))
            driver.one(Enqueue(name, b"4"))
            given = driver.one(Take(name, ONE))
            given.queue.return_undelivered(given.given)
            given.queue.note_uncertain_delivery(1)
            driver.ask([Take(name, ONE, 5.0)] * 9, Waiting(9))
            driver.make(driver.codec.leave(name))
            driver.one(SetPaused(name, True))
            driver.one(Find(name, 2))
            clock.now += 99
        assert len(driver.one(Peek("dead"))) == 6
        assert driver.one(Redrive("dead")).moved == 6
        driver.sweep(names)
        assert [each.stats.ready for each in driver.one(List()) if each.name in names] == [1] * 6
        for name in names:
            assert driver.run(procedures.repair(driver.codec, name, mend=True)) == (0, 0, 0, 0, False)
            assert driver.one(Purge(name)) == 1
            driver.one(Delete(name))
        driver.one(Delete("dead"))
        sums = driver.one(Stats())
        assert (sums.queues, sums.stats.dead_lettered, sums.stats.redriven, sums.uncertain) == (0, 6, 6, 6)
