"""What takes several steps: others change the same between them, a step is refused, or it ends half way."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec
import pytest

from tests.engine.valkey.driver import Clock, Driver, lease, letters_of
from tests.engine.valkey.servers import Connection
from zapq.core.message import Properties
from zapq.core.queue_settings import QueueSettings
from zapq.engine.valkey import keys, procedures
from zapq.engine.valkey.bounds import Caps
from zapq.engine.valkey.procedures import Procedure
from zapq.errors import InvalidParameter, QueueInUse, QueueNotFound, TooManyQueues
from zapq.service.operations import (
    ChangeSettings,
    Configure,
    Delete,
    Describe,
    Enqueue,
    List,
    Nothing,
    Peek,
    Put,
    Redrive,
    Settlement,
    SettleOne,
    Stats,
    Take,
    Terms,
)
from zapq.service.waiting import ONE

OF_ONE_SHARD = [name for name in map(str, range(40_000)) if keys.shard_of(name) == 7][:3]


def run(driver: Driver, steps: Procedure, step: bytes, before: Callable[[], object]) -> Any:
    """Take all steps, with something that others do before each that is a call of this function."""
    try:
        asked = next(steps)
        while True:
            if asked[0].command(b"")[1].endswith(step):
                before()
            asked = steps.send([driver.make(each) for each in asked])
    except StopIteration as end:
        return end.value


def test_a_change_that_others_always_forestall_is_refused_after_some_tries(driver: Driver) -> None:
    driver.one(Configure("a", QueueSettings()))
    numbers = count(1)
    with pytest.raises(QueueInUse, match="Try again later"):
        run(
            driver,
            procedures.change_settings(driver.codec, "a", {"max_bytes": 7}),
            b"configure",
            lambda: driver.one(ChangeSettings("a", {"max_messages": next(numbers)})),
        )
    settings = driver.one(Describe("a")).settings
    assert (settings.max_bytes, settings.max_messages) == (None, next(numbers) - 1)


def test_a_refused_deletion_names_the_first_queue_whose_dead_letters_come(driver: Driver) -> None:
    for name in ("work", "also", "more"):
        driver.one(Configure(name, QueueSettings(max_receives=1, dead_letter="dead")))
    with pytest.raises(QueueInUse, match="the dead-letter queue of also"):
        driver.one(Delete("dead"))


def test_a_queue_that_always_has_messages_for_others_is_not_deleted(driver: Driver) -> None:
    letters_of(driver)

    def another() -> None:
        driver.flushes = False
        letters_of(driver, 1)

    with pytest.raises(QueueInUse, match="Try again later"):
        run(driver, procedures.delete(driver.codec, "a"), b"delete", another)
    assert driver.one(Describe("a")).name == "a"


def test_dead_letters_arrive_though_their_queue_was_lost_and_no_other_is_made(
    connection: Connection, clock: Clock
) -> None:
    driver = Driver(connection, clock, caps=Caps(9, 10**6, 10))
    dead, *others = OF_ONE_SHARD
    driver.one(Configure("a", QueueSettings(max_receives=1, dead_letter=dead)))
    driver.one(Enqueue("a", b"x"))
    connection.call("DEL", *keys.queue_keys(dead))
    for name in others:
        driver.one(Enqueue(name, b""))
    driver.one(SettleOne("a", Settlement(receipt=lease(driver).receipt, action="release")))
    assert [each.body for each in driver.one(Peek(dead))] == [b"x"]
    assert driver.one(Stats()).outbox == 0


def test_settings_that_cannot_hold_are_refused(driver: Driver) -> None:
    for settings, why in (
        (msgspec.structs.replace(QueueSettings(), visibility=-1.0), "The settings are not valid"),
        (QueueSettings(dead_letter="dead"), "must be set together"),
        (QueueSettings(max_receives=3), "must be set together"),
        (QueueSettings(max_receives=3, dead_letter="a"), "move in a circle"),
    ):
        with pytest.raises(InvalidParameter, match=why):
            driver.one(Configure("a", settings))
    driver.one(Configure("a", QueueSettings()))
    with pytest.raises(InvalidParameter, match="The settings are not valid"):
        driver.one(ChangeSettings("a", {"visibility": "long"}))


def test_no_more_queues_are_made_by_settings_than_by_messages(connection: Connection, clock: Clock) -> None:
    driver = Driver(connection, clock, caps=Caps(9, 9, 10))
    for name in OF_ONE_SHARD[:2]:
        driver.one(Configure(name, QueueSettings()))
    with pytest.raises(TooManyQueues):
        driver.one(Configure(OF_ONE_SHARD[2], QueueSettings()))
    with pytest.raises(TooManyQueues):
        driver.one(Configure("a", QueueSettings(max_receives=1, dead_letter=OF_ONE_SHARD[2])))
    assert [each.name for each in driver.one(List())] == sorted(["default", *OF_ONE_SHARD[:2]])


def test_letters_of_a_queue_that_is_gone_stay_where_they_are(driver: Driver) -> None:
    letters_of(driver)
    driver.flush()
    driver.one(Configure("a", QueueSettings()))
    driver.one(Delete("a"))
    redriven = driver.one(Redrive("dead"))
    assert (redriven.moved, redriven.left) == (0, 3)
    assert len(driver.one(Peek("dead"))) == 3


def test_a_message_that_is_to_end_at_a_time_ends_then(driver: Driver, clock: Clock) -> None:
    driver.one(Put(b"x", Terms(Properties(expires=clock() + 5)), queue="a"))
    [view] = driver.one(Peek("a"))
    assert view.message.properties.expires == pytest.approx(clock() + 5, abs=0.01)
    clock.now += 5
    assert isinstance(driver.one(Take("a", ONE)), Nothing)


def test_a_queue_that_is_gone_is_not_looked_into(driver: Driver) -> None:
    for steps in (
        procedures.repair(driver.codec, "a", mend=True),
        procedures.change_settings(driver.codec, "a", {}),
        procedures.delete(driver.codec, "a"),
        procedures.redrive(driver.codec, "a", 9),
    ):
        with pytest.raises(QueueNotFound):
            driver.run(steps)
