"""Groups in a real server, beyond what `test_same.py` compares: consumers woken, older front ends, repairs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import msgspec
import pytest

from tests.engine.valkey.driver import LEASE, MANY, Clock, Driver, ack, bodies_of, lease
from tests.engine.valkey.servers import Connection, Server
from tests.engine.valkey.test_library import told
from zapq.core.broker import Redriven
from zapq.core.message import Draft, Properties
from zapq.core.queue_settings import QueueSettings
from zapq.engine.valkey import keys, procedures
from zapq.engine.valkey.call import Call
from zapq.engine.valkey.codec import Waiting
from zapq.errors import ReceiptExpired
from zapq.service.operations import (
    Configure,
    Delete,
    Describe,
    Enqueue,
    Find,
    Hide,
    Nothing,
    Peek,
    Purge,
    Put,
    Redrive,
    Remove,
    SetPaused,
    Settlement,
    SettleOne,
    Take,
)
from zapq.service.waiting import ONE, Want

BY_ID, BY_GROUP, TURNS = (keys.queue_keys("a")[place] for place in (9, 10, 11))


def send(driver: Driver, *bodies: str, queue: str = "a", delay: float = 0.0) -> None:
    """Store messages; the first character of each is its group, unless that is a dash."""
    for body in bodies:
        group = "" if body[0] == "-" else body[0]
        driver.one(Enqueue(queue, body.encode(), Properties(group=group), delay))


def release(receipt: str, queue: str = "a", delay: float = 0.0) -> SettleOne:
    return SettleOne(queue, Settlement(receipt=receipt, action="release", delay=delay))


def taken(driver: Driver, want: Want = LEASE, number: int = 1) -> list[bytes]:
    """Return what so many consumers get, one after the other, in one call."""
    outcomes = driver.ask([Take("a", want)] * number)
    return [body for each in outcomes if not isinstance(each, Nothing) for body in bodies_of(each)]


def is_in_order(driver: Driver, queue: str = "a") -> bool:
    return not any(driver.run(procedures.repair(driver.codec, queue, mend=False)))


# What consumers get


def test_consumers_that_ask_at_once_get_one_of_each_group_and_one_that_wants_many_gets_all(driver: Driver) -> None:
    send(driver, "g1", "g2", "h1", "-", "g3")
    assert taken(driver, number=9) == [b"g1", b"h1", b"-"]
    driver.one(Purge("a"))
    send(driver, "g1", "g2", "h1", "-", "g3")
    assert taken(driver, MANY) == [b"g1", b"g2", b"h1", b"-", b"g3"]
    driver.one(Purge("a"))
    send(driver, "g1", "g2", "h1", "-", "g3")
    assert taken(driver, ONE, number=9) == [b"g1", b"g2", b"h1", b"-", b"g3"]
    assert is_in_order(driver)


def test_batches_that_are_asked_for_in_one_call_share_no_group(driver: Driver) -> None:
    send(driver, "g1", "g2", "g3", "h1")
    first, second = driver.ask([Take("a", Want(2, True, 10.0))] * 2)
    assert (bodies_of(first), bodies_of(second)) == ([b"g1", b"g2"], [b"h1"])


def test_a_consumer_is_told_when_what_holds_up_the_others_is_over(driver: Driver, clock: Clock) -> None:
    send(driver, "g1", "g2", "g3")
    first, second = driver.one(Take("a", Want(2, True, 10.0))).given
    driver.one(SettleOne("a", Settlement(receipt=second.receipt, action="extend", visibility=2.0)))
    nothing = driver.one(Take("a", ONE))
    # The lease that ends first is held up itself.
    assert nothing.why == "blocked"
    assert nothing.next_visible_in == pytest.approx(first.deadline - clock() + 0.5, abs=0.6)
    assert nothing.next_visible_in > 9


def test_groups_take_turns_and_those_that_had_none_wait_behind(driver: Driver) -> None:
    driver.one(Configure("a", QueueSettings(fair=True)))
    send(driver, "g1", "g2", "g3", "g4", "h1", "-1", "h2", "-2")
    assert taken(driver, Want(3)) == [b"-1", b"g1", b"h1"]
    send(driver, "i1")
    assert taken(driver, MANY) == [b"-2", b"g2", b"h2", b"i1", b"g3", b"g4"]


def test_a_queue_that_is_no_longer_fair_goes_by_arrival(driver: Driver) -> None:
    driver.one(Configure("a", QueueSettings(fair=True)))
    send(driver, "g1", "g2", "h1", "g3", "h2")
    assert taken(driver, ONE, number=2) == [b"g1", b"h1"]
    assert driver.one(Configure("a", QueueSettings()))[1].settings.fair is False
    assert taken(driver, ONE, number=9) == [b"g2", b"g3", b"h2"]


def test_a_batch_of_many_groups_ends_at_8_mib(driver: Driver) -> None:
    for group in "abc":
        driver.one(Enqueue("a", b"x" * 2**22, Properties(group=group)))
    assert len(taken(driver, MANY)) == 2
    assert len(taken(driver, MANY)) == 1
    assert is_in_order(driver)


def test_a_message_that_is_gone_by_hand_holds_up_nothing(driver: Driver) -> None:
    send(driver, "g1", "g2")
    driver.connection.call("HDEL", keys.queue_keys("a")[0], 1)
    assert taken(driver) == [b"g2"]


def test_a_queue_without_groups_has_no_keys_of_them_and_one_that_had_some_neither(driver: Driver) -> None:
    send(driver, "-1", "-2")
    lease(driver)
    exists = driver.connection.call("EXISTS", BY_ID, BY_GROUP, TURNS)
    assert exists == 0
    send(driver, "g1", "g2")
    for body in (b"-2", b"g1", b"g2"):
        held = lease(driver)
        assert held.body == body
        driver.one(ack(held.receipt))
    assert driver.connection.call("EXISTS", BY_ID, BY_GROUP, TURNS) == 0
    send(driver, "g1", "g2")
    driver.one(Purge("a"))
    assert driver.connection.call("EXISTS", BY_ID, BY_GROUP, TURNS) == 0
    send(driver, "g1")
    driver.one(Delete("a"))
    assert driver.connection.call("EXISTS", BY_ID, BY_GROUP, TURNS) == 0


# Who is woken


@pytest.mark.parametrize("opens", ["ack", "batch", "release", "expiry", "ttl", "remove", "resume", "turns"])
def test_whatever_opens_a_group_wakes_and_what_is_blocked_does_not(
    request: pytest.FixtureRequest, driver: Driver, clock: Clock, opens: str
) -> None:
    server: Server = request.getfixturevalue(request.node.callspec.params["connection"])
    with ExitStack() as stack:
        listener = stack.enter_context(server.connect())
        listener.call("SSUBSCRIBE", keys.wake_channel(keys.shard_of("a"), "f1"))
        if opens == "ttl":
            driver.one(Put([Draft(body=b"g1", group="g", ttl=9.0, delay=5.0)], queue="a"))
        else:
            send(driver, "g1")
            held = lease(driver)
        if opens in {"resume", "turns"}:
            driver.one(SetPaused("a", True))
            driver.one(ack(held.receipt))
        [nothing] = driver.ask([Take("a", ONE, 5.0)], Waiting(1))
        assert isinstance(nothing, Nothing)
        send(driver, "g2")
        if opens != "ttl":
            assert told(listener) == []
        match opens:
            case "ack":
                driver.one(ack(held.receipt))
            case "batch":
                driver.ask([ack(held.receipt), ack(held.receipt)])
            case "release":
                driver.one(release(held.receipt))
            case "expiry":
                clock.now += 11
                driver.sweep(["a"])
            case "ttl":
                clock.now += 9
                driver.sweep(["a"])
            case "remove":
                driver.one(Remove("a", held.message.id))
            case _:
                driver.one(SetPaused("a", False))
        assert told(listener) == [b"+a"]


@pytest.mark.parametrize("is_lease", [False, True])
def test_a_group_wakes_one_consumer_and_what_that_one_holds_up_no_other(
    driver: Driver, clock: Clock, request: pytest.FixtureRequest, is_lease: bool
) -> None:
    server: Server = request.getfixturevalue(request.node.callspec.params["connection"])
    other = Driver(driver.connection, clock, name="f2")
    with server.connect() as one, server.connect() as two:
        for name, each in (("f1", one), ("f2", two)):
            each.call("SSUBSCRIBE", keys.wake_channel(keys.shard_of("a"), name))
        send(driver, "g1")
        held = lease(driver)
        send(driver, *["g"] * 20)
        asked = Take("a", LEASE if is_lease else ONE, 5.0)
        for front in (driver, other):
            front.ask([asked], Waiting(1))
        driver.one(ack(held.receipt))
        assert (told(one), told(two)) == ([b"+a"], [])
        assert bodies_of(driver.ask([asked], Waiting(1))[0]) == [b"g"]
        assert (told(one), told(two)) == ([], [] if is_lease else [b"+a"])


def test_consumers_that_a_limit_holds_back_do_not_wake_each_other(
    driver: Driver, clock: Clock, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(request.node.callspec.params["connection"])
    driver.one(Configure("a", QueueSettings(max_leased=1)))
    other = Driver(driver.connection, clock, name="f2")
    with server.connect() as one, server.connect() as two:
        for name, each in (("f1", one), ("f2", two)):
            each.call("SSUBSCRIBE", keys.wake_channel(keys.shard_of("a"), name))
        send(driver, "g1", "h1", "i1")
        lease(driver)
        for _ in range(3):
            for front in (driver, other):
                [nothing] = front.ask([Take("a", LEASE, 5.0)], Waiting(1))
                assert nothing.why == "limited"
        assert (told(one), told(two)) == ([], [])


# Dead letters


def test_a_letter_that_does_not_fit_keeps_those_behind_it_of_its_group(driver: Driver) -> None:
    settings = QueueSettings(max_receives=1, dead_letter="dead")
    driver.one(Configure("a", settings))
    send(driver, "g1", "g2 is long", "g3", "h1")
    for _ in range(4):
        driver.one(release(lease(driver).receipt))
    # In the dead-letter queue, they hold up nothing.
    assert [each.message.properties.group for each in driver.one(Peek("dead"))] == ["g", "g", "g", "h"]
    assert bodies_of(driver.one(Take("dead", Want(1, True, 0.0)))) == [b"g1"]
    driver.one(Configure("a", msgspec.structs.replace(settings, max_bytes=6)))
    assert driver.one(Redrive("dead")) == Redriven(2, 2)
    assert [each.body for each in driver.one(Peek("a"))] == [b"g1", b"h1"]
    driver.one(Configure("a", settings))
    assert driver.one(Redrive("dead")) == Redriven(2, 0)
    assert [each.body for each in driver.one(Peek("a"))] == [b"g1", b"h1", b"g2 is long", b"g3"]
    first = lease(driver)
    assert (first.body, first.message.properties.group, first.receives) == (b"g1", "g", 1)
    assert taken(driver) == [b"h1"]
    assert is_in_order(driver)
    assert is_in_order(driver, "dead")


# By id


def test_a_message_is_removed_whoever_holds_it_once_it_was_leased(driver: Driver, clock: Clock) -> None:
    send(driver, "-1", "g2", "g3", "-4")
    assert driver.ask([Remove("a", each) for each in (1, 2, 9)]) == [False] * 3
    first, second = driver.one(Take("a", Want(2, True, 5.0))).given
    assert driver.one(Remove("a", 1)) is True
    with pytest.raises(ReceiptExpired):
        driver.one(release(first.receipt))
    driver.one(release(second.receipt))
    assert driver.ask([Remove("a", 2), Remove("a", 2)]) == [True, False]
    third = lease(driver)
    assert third.body == b"g3"
    clock.now += 11
    driver.sweep(["a"])
    assert driver.one(Remove("a", third.message.id)) is True
    driver.one(ack(third.receipt))  # as if it had done so itself
    stats = driver.one(Describe("a")).stats
    assert (stats.messages, stats.acked) == (1, 3)
    assert is_in_order(driver)


def test_a_message_is_hidden_whoever_holds_it_once_it_was_leased(driver: Driver, clock: Clock) -> None:
    send(driver, "g1", "g2", "-3")
    assert driver.one(Hide("a", 1, 9.0)) is False
    first = lease(driver)
    assert driver.one(Hide("a", 1, 100.0)) is True
    assert driver.one(Find("a", 1)).due == pytest.approx(clock() + 100.0)
    driver.one(release(first.receipt))
    assert driver.one(Hide("a", 1, 50.0)) is True
    assert driver.one(Find("a", 1)).state == "delayed"
    assert taken(driver) == [b"-3"], "g2 waits for g1"
    assert driver.one(Hide("a", 1, 0.0)) is True
    assert taken(driver) == [b"g1"]
    # A lease that has just ended is one that is over.
    assert driver.ask([Hide("a", 1, 0.0), Hide("a", 1, 5.0)]) == [True, True]
    assert driver.one(Find("a", 1)).state == "delayed"
    assert is_in_order(driver)


def test_a_lease_is_found_by_its_message_without_looking_at_others(driver: Driver, clock: Clock) -> None:
    send(driver, "-1")
    first = lease(driver)
    driver.one(release(first.receipt))
    assert lease(driver).message.id == 1
    send(driver, *["-"] * 20)
    driver.one(Take("a", MANY))
    driver.connection.call("CONFIG", "RESETSTAT")
    assert driver.one(Hide("a", 1, 20.0)) is True
    assert driver.one(Remove("a", 1)) is True
    assert b"cmdstat_zrange" not in driver.connection.call("INFO", "commandstats")
    # One that is leased for the first time is found as well.
    assert driver.one(Remove("a", 2)) is True
    assert driver.one(Describe("a")).stats.leased == 19


def test_a_receipt_that_was_not_handed_over_acknowledges_nothing(driver: Driver) -> None:
    send(driver, "-1")
    driver.one(release(lease(driver).receipt))
    delivery = driver.one(Take("a", LEASE))
    [returned] = delivery.given
    delivery.queue.return_undelivered(delivery.given)
    with pytest.raises(ReceiptExpired):
        driver.one(ack(returned.receipt))
    assert driver.one(Describe("a")).stats.ready == 1


# Front ends and data of an earlier version


class OlderDriver(Driver):
    """A front end that names no keys of groups."""

    def make(self, call: Call) -> Sequence[object]:  # type: ignore[override]  # what is returned is the same
        names = keys.queue_keys(call.queue) if call.queue else ()
        if names and call._keys[: len(names)] == names:
            call._keys = (*names[:9], *call._keys[12:])
        return super().make(call)


def test_front_ends_of_an_earlier_version_go_on(connection: Connection, clock: Clock) -> None:
    driver = OlderDriver(connection, clock)
    driver.one(Configure("a", QueueSettings(max_receives=1, dead_letter="dead")))
    driver.one(Put(b"1", key="k", queue="a"))
    assert driver.one(Put(b"1", key="k", queue="a")).replayed
    send(driver, "-2", "-3")
    driver.one(release(lease(driver).receipt))
    assert driver.one(Redrive("dead")) == Redriven(1, 0)
    driver.one(Configure("a", QueueSettings()))
    driver.one(ack(lease(driver).receipt))
    clock.now += 11
    driver.sweep(["a"])
    assert taken(driver, MANY) == [b"-3", b"1"]
    send(Driver(connection, clock), "g1", "g2")
    driver.one(Purge("a"))
    driver.one(Delete("a"))
    driver.one(Delete("dead"))
    left = [key for key in connection.call("KEYS", "*") if not key.endswith((b":due", b":queues", b":past"))]
    assert all(b":k:" in key for key in left)


def test_a_queue_of_an_earlier_version_has_groups_now(driver: Driver) -> None:
    send(driver, "-1", "-2")
    h, call = keys.queue_keys("a")[0], driver.connection.call
    state = msgspec.msgpack.decode(call("HGET", h, "s"))
    call("HSET", h, "s", msgspec.msgpack.encode(state[:31]))
    assert bodies_of(driver.one(Take("a", ONE))) == [b"-1"]
    call("HSET", h, "s", msgspec.msgpack.encode(msgspec.msgpack.decode(call("HGET", h, "s"))[:31]))
    send(driver, "g1", "g2")
    assert taken(driver, number=9) == [b"-2", b"g1"]
    assert is_in_order(driver)


# Repair


def test_groups_that_agree_with_nothing_are_mended(driver: Driver, clock: Clock) -> None:
    send(driver, "g1", "g2", "h1", "h2", "i1")
    held = lease(driver)
    send(driver, "h3", delay=9.0)
    call = driver.connection.call
    call("ZREM", BY_GROUP, b"g o%012x" % 1)  # g1 holds up nothing
    call("ZADD", BY_GROUP, 0, "j r00000000ffff")  # a message that never was
    call("ZADD", TURNS, 0, "j")
    call("ZREM", TURNS, "h")  # h is never served
    call("ZADD", TURNS, 99, "i")  # it came earlier
    found = driver.run(procedures.repair(driver.codec, "a", mend=False))
    assert found == (0, 5, 0, 0, False)
    assert driver.run(procedures.repair(driver.codec, "a", mend=True)) == found
    assert is_in_order(driver)
    assert taken(driver, number=9) == [b"h1", b"i1"]
    driver.one(ack(held.receipt))
    assert taken(driver) == [b"g2"]
    call("ZREM", BY_ID, 4)  # nowhere now
    assert driver.run(procedures.repair(driver.codec, "a", mend=True)).lost == 1
    assert is_in_order(driver)
    clock.now += 99
    driver.sweep(["a"])
    assert taken(driver, MANY) == [b"g2", b"h1", b"h2", b"i1", b"h3"]
