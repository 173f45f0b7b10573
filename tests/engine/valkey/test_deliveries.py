"""What producers and consumers are promised by the library, however many operations travel in one call."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from tests.engine.valkey.driver import LEASE, MANY, Clock, Driver, ack, bodies_of, lease
from tests.engine.valkey.servers import Connection
from zapq.core.message import Draft, Origin, Properties
from zapq.core.queue_settings import QueueSettings
from zapq.engine.valkey import keys
from zapq.engine.valkey.bounds import Caps, weight_of
from zapq.engine.valkey.call import AGAIN
from zapq.errors import InvalidParameter, KeyReused, QueueFull, QueueNotFound, ReceiptExpired, TooManyQueues
from zapq.limits import MAX_BATCH_BYTES, MIB
from zapq.service.operations import (
    Accepted,
    Configure,
    Delete,
    Delivery,
    Describe,
    Enqueue,
    Nothing,
    Operation,
    Peek,
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


@pytest.mark.parametrize("wrong", ["", "1", "a", "-1", "--1", "1-", "g", "g1", "?"])
def test_what_is_no_receipt_is_refused_alone(driver: Driver, wrong: str) -> None:
    driver.ask([Enqueue("a", b"1")])
    refused, done = driver.ask([ack(wrong), ack(lease(driver).receipt)])
    assert isinstance(refused, InvalidParameter)
    assert done is None


def test_a_receipt_of_a_deleted_queue_fits_no_lease_of_a_new_one(driver: Driver) -> None:
    driver.one(Enqueue("a", b"1"))
    old = lease(driver)
    driver.one(Delete("a"))
    driver.one(Enqueue("a", b"1"))
    lease(driver)
    with pytest.raises(ReceiptExpired):
        driver.one(ack(old.receipt))
    assert driver.one(Describe("a")).stats.leased == 1


# Headers

HEADERS = (("order", "17"), ("empty", ""), ("long", "x" * 3000))
HEADED = Properties("text/plain", headers=HEADERS)
HEADED_SIZE = 1 + HEADED.size


def test_headers_come_back_with_each_delivery(driver: Driver) -> None:
    driver.ask([
        Enqueue("a", b"1", HEADED),
        Enqueue("a", b"2", HEADED),
        Enqueue("a", b"3"),
        Put(b"4", Terms(HEADED, ttl=60.0), queue="a"),
        Put((b"5", Draft(body=b"6"), Draft(body=b"7", headers={"C": "3"})), Terms(HEADED), queue="a"),
    ])
    assert driver.one(Describe("a")).stats.bytes == 2 * HEADED_SIZE + 1 + HEADED_SIZE + 2 * HEADED_SIZE + 3
    leased = lease(driver)
    assert (leased.body, leased.message.properties) == (b"1", HEADED)
    extended = driver.one(SettleOne("a", Settlement(receipt=leased.receipt, action="extend", visibility=9.0)))
    assert extended.message.properties == HEADED
    given = driver.one(Take("a", Want(9))).given
    assert [(each.body, each.properties.headers) for each in given] == [
        (b"2", HEADERS),
        (b"3", ()),
        (b"4", HEADERS),
        (b"5", HEADERS),
        (b"6", HEADERS),
        (b"7", (("c", "3"),)),
    ]
    assert driver.one(ack(leased.receipt)) is None
    assert driver.one(Describe("a")).stats.bytes == 0


def test_headers_count_in_the_caps(connection: Connection, clock: Clock) -> None:
    driver = Driver(connection, clock, caps=Caps(100, HEADED_SIZE, 100))
    with pytest.raises(QueueFull):
        driver.one(Enqueue("a", b"12", HEADED))
    driver.one(Enqueue("a", b"1", HEADED))
    with pytest.raises(QueueFull):
        driver.one(Enqueue("a", b"1"))


def test_headers_go_with_a_dead_letter_and_back_again(driver: Driver) -> None:
    driver.one(Configure("dead", QueueSettings()))
    driver.one(Configure("a", QueueSettings(max_receives=1, dead_letter="dead")))
    driver.one(Enqueue("a", b"1", HEADED))
    leased = lease(driver)
    driver.one(SettleOne("a", Settlement(receipt=leased.receipt, action="release")))
    [seen] = driver.one(Peek("dead"))
    origin = Origin("a", 1, 1)
    assert seen.message.properties == Properties("text/plain", failed_in="a", headers=HEADERS, origin=origin)
    assert driver.one(Redrive("dead")).moved == 1
    [seen] = driver.one(Peek("a"))
    assert seen.message.properties == Properties("text/plain", headers=HEADERS, origin=origin)
    assert driver.one(Describe("a")).stats.bytes == HEADED_SIZE
    assert driver.one(Describe("dead")).stats.bytes == 0


def test_a_message_that_changes_queues_is_what_it_was_and_goes_on_counting(driver: Driver) -> None:
    driver.one(Enqueue("dead", b"of its own"))
    driver.one(Configure("a", QueueSettings(max_receives=2, dead_letter="dead")))
    driver.ask([Enqueue("a", b"0"), Enqueue("a", b"1")])
    driver.one(Take("a", ONE))
    driver.one(Take("dead", ONE))
    for _ in range(2):
        receipt = lease(driver).receipt
        driver.one(SettleOne("a", Settlement(receipt=receipt, action="release")))
    letter = lease(driver, "dead")
    assert (letter.id, letter.receives, letter.receive_count) == (2, 1, 3)
    assert letter.message.properties == Properties(failed_in="a", origin=Origin("a", 2, 2))
    # As if it could not be handed over; and then it is released.
    driver.make(driver.codec.give_back("dead", [letter], driver.clock()))
    letter = lease(driver, "dead")
    driver.one(SettleOne("dead", Settlement(receipt=letter.receipt, action="release")))
    driver.one(Redrive("dead"))
    back = driver.one(Take("a", ONE))
    assert [(each.id, each.properties) for each in back.given] == [(3, Properties(origin=Origin("a", 2, 3)))]
    driver.make(driver.codec.give_back("a", back.given, driver.clock()))
    again = lease(driver)
    assert (again.id, again.receive_count, again.message.properties) == (3, 4, back.given[0].properties)
    # A client sends it on.
    driver.one(Enqueue("b", again.body, again.message.moved("a")))
    [seen] = driver.one(Peek("b"))
    assert seen.message.properties == Properties(origin=Origin("a", 2, 3))


def test_a_dead_letter_of_before_names_the_queue_it_failed_in(driver: Driver) -> None:
    driver.one(Configure("a", QueueSettings(max_receives=1, dead_letter="dead")))
    driver.one(Enqueue("dead", b"x"))
    # As earlier libraries kept it.
    driver.connection_of(driver.codec.step(b"describe", "dead")).call(
        "HSET", keys.queue_keys("dead")[0], "1", b"\2\0" + bytes(8) + b"\0\1a" + b"x"
    )
    [seen] = driver.one(Peek("dead"))
    assert seen.message.properties == Properties(failed_in="a")


def test_a_retention_is_the_longest_that_a_message_is_held(driver: Driver, clock: Clock) -> None:
    driver.one(Configure("dead", QueueSettings(retention=5.0)))
    driver.one(Configure("a", QueueSettings(retention=10.0, ttl=60.0, max_receives=1, dead_letter="dead")))
    driver.one(Put(b"short", Terms(ttl=3.0), queue="a"))
    driver.ask([Put(b"long", Terms(ttl=30.0), queue="a"), Put((b"x", Draft(body=b"y")), queue="a")])
    assert [round(each.message.properties.expires - clock.now) for each in driver.one(Peek("a"))] == [
        3,
        10,
        10,
        10,
    ]
    clock.now += 3
    receipt = lease(driver).receipt
    driver.one(SettleOne("a", Settlement(receipt=receipt, action="release")))
    driver.flush()
    [letter] = driver.one(Peek("dead"))
    assert round(letter.message.properties.expires - clock.now) == 5
    clock.now += 7
    driver.sweep(["a", "dead"])
    assert [driver.one(Describe(name)).stats.expired for name in ("a", "dead")] == [3, 1]


def test_what_goes_back_has_its_headers(driver: Driver) -> None:
    driver.ask([Enqueue("a", b"1", HEADED), Enqueue("a", b"2", HEADED)])
    taken = driver.one(Take("a", ONE))
    driver.make(driver.codec.give_back("a", taken.given, driver.clock()))
    leased = driver.one(Take("a", LEASE))
    driver.make(driver.codec.give_back("a", leased.given, driver.clock()))
    given = driver.one(Take("a", Want(9))).given
    assert [(each.body, each.properties) for each in given] == [(b"1", HEADED), (b"2", HEADED)]
