"""What the library promises beyond what one process shows: full memory, other masters, other front ends.

One file, although it is long: the cases share the world that calls the library.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from math import inf

import pytest

from tests.engine.valkey.driver import (
    AHEAD,
    LEASE,
    MANY,
    Clock,
    Driver,
    Swept,
    ack,
    bodies_of,
    lease,
    letters_of,
    sweep,
)
from tests.engine.valkey.servers import Connection, Server, ServerError
from zapq.core.message import Draft, Lease, Properties
from zapq.core.queue_settings import QueueSettings
from zapq.engine.valkey import keys, library, procedures
from zapq.engine.valkey.call import Call, outbox_waits, server_time
from zapq.engine.valkey.codec import Waiting
from zapq.engine.valkey.failures import Failure, failure_of
from zapq.engine.valkey.replies import no_memory
from zapq.engine.valkey.resp import ReplyError
from zapq.errors import QueueInUse, QueueNotFound, ReceiptExpired
from zapq.service.operations import (
    Accepted,
    ChangeSettings,
    Configure,
    Delete,
    Delivery,
    Describe,
    Enqueue,
    Find,
    Hide,
    List,
    Nothing,
    Peek,
    Purge,
    Put,
    Redrive,
    Remove,
    SetPaused,
    Settlement,
    SettleOne,
    Stats,
    Take,
    Terms,
)
from zapq.service.waiting import ONE, Want

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
        assert failure_of(ReplyError(str(refusal.value))) is Failure.FULL
        assert no_memory().retry_after == 1
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
        max_messages=10**12,
        max_bytes=2**50,
        visibility=0.1234567,
        ttl=1e6,
        max_receives=3,
        dead_letter="dead",
        notes={"sqs:tag:team": "über"},
        fair=True,
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
        assert driver.run(sweep(driver.codec, [7])) == Swept([], False)
        clock.now += 1
        assert driver.run(sweep(driver.codec, [7])).more
        assert not driver.run(sweep(driver.codec, [7])).more
        assert [driver.one(Describe(name)).stats.expired for name in names] == [1, 1, 1]
        # There is nothing left to look at.
        assert driver.connection.call("ZCARD", keys.shard_keys(7)[0]) == 0
    finally:
        keys.queue_keys.cache_clear()


def test_a_sweep_shrinks_a_queue_that_its_consumers_have_emptied(driver: Driver, clock: Clock) -> None:
    driver.one(Configure("a", QueueSettings(visibility=10.0)))
    driver.one(Enqueue("a", b"x" * 1000))
    driver.one(ack(lease(driver).receipt))
    name = keys.queue_keys("a")[0]
    assert driver.connection.call("OBJECT", "ENCODING", name) == b"hashtable"
    before = driver.one(Describe("a"))
    clock.now += 11.0
    driver.sweep(["a"])
    assert driver.connection.call("OBJECT", "ENCODING", name) == b"listpack"
    assert driver.one(Describe("a")) == before
    assert driver.one(Enqueue("a", b"y")) == Accepted(2)


def test_a_sweep_has_what_it_found_to_itself_for_a_while(driver: Driver, clock: Clock) -> None:
    driver.one(Put(b"", Terms(ttl=1.0), queue="a"))
    clock.now += 1
    shard = keys.shard_of("a")
    [first], [second] = (next(sweep(driver.codec, [shard])) for _ in range(2))
    assert driver.make(first) == [[b"a"]]
    assert driver.make(second) == [[]]
    clock.now += procedures.CLAIM_SECONDS
    [third] = next(sweep(driver.codec, [shard]))
    assert driver.make(third) == [[b"a"]]


def test_much_that_is_due_at_once_is_done_in_pieces(driver: Driver, clock: Clock) -> None:
    for _ in range(3):
        driver.one(Put((Draft(body=b"", ttl=1.0),) * 1000, queue="a"))
    clock.now += 1
    swept = driver.run(sweep(driver.codec, [keys.shard_of("a")]))
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

    def __init__(self, connections: dict[int, Connection], clock: Clock) -> None:
        """`connections` are by the ports of the masters."""
        super().__init__(next(iter(connections.values())), clock)
        self._connections = connections
        # Other tests may have moved slots.
        self._ranges = self.connection.call("CLUSTER", "SLOTS")

    def connection_of(self, call: Call) -> Connection:
        slot = keys.slot_of(call.shard)
        [port] = [master[1] for first, last, master, *_ in self._ranges if first <= slot <= last]
        return self._connections[port]


def test_every_verb_names_all_its_keys(cluster: list[Server], clock: Clock) -> None:
    """A cluster refuses a function that touches a key of another slot."""
    with ExitStack() as stack:
        connections = {int(each.address[1]): stack.enter_context(each.connect()) for each in cluster[:3]}
        for each in connections.values():
            each.call("FUNCTION", "LOAD", "REPLACE", library.text(test=True))
            each.call("FLUSHALL")
        driver = ClusterDriver(connections, clock)
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
            driver.one(Enqueue(name, b"5", Properties(group="g")))
            driver.ask([Remove(name, 5), Remove(name, 9)])
            driver.ask([Hide(name, 5, 1.0)])
            clock.now += 99
        assert len(driver.one(Peek("dead"))) == 6
        assert driver.one(Redrive("dead")).moved == 6
        driver.sweep(names)
        assert [each.stats.ready for each in driver.one(List()) if each.name in names] == [2] * 6
        for name in names:
            assert driver.run(procedures.repair(driver.codec, name, mend=True)) == (0, 0, 0, 0, False)
            assert driver.one(Purge(name)) == 2
            driver.one(Delete(name))
        driver.one(Delete("dead"))
        sums = driver.one(Stats())
        assert (sums.queues, sums.stats.dead_lettered, sums.stats.redriven, sums.uncertain) == (0, 6, 6, 6)
