"""Since when the oldest message is there that a consumer would be given: never too late, hardly too early."""

from __future__ import annotations

from math import inf

import pytest

from tests.engine.valkey.driver import LEASE, Clock, Driver, ack, lease, letters_of
from zapq.core.ages import Oldest
from zapq.core.message import Properties
from zapq.core.queue_settings import QueueSettings
from zapq.engine.valkey import keys
from zapq.service.operations import Configure, Describe, Enqueue, List, Purge, Put, Stats, Take, Terms
from zapq.service.waiting import Want


def age(driver: Driver, queue: str = "a") -> float | None:
    """Return for how many seconds the oldest message has been there; None if there is none."""
    oldest = driver.one(Describe(queue)).oldest
    return None if oldest.ready == inf else round(driver.clock() - oldest.ready, 3)


def ages_as_they_leave(driver: Driver, number: int) -> list[float | None]:
    """Return the age before each of so many messages is received."""
    ages = []
    for _ in range(number):
        ages.append(age(driver))
        driver.one(Take("a", LEASE))
    return ages


def notes(driver: Driver) -> int:
    """Return how many bytes there are of what was noted of queue `a`."""
    return int(driver.connection.call("HSTRLEN", keys.queue_keys("a")[0], "t"))


def test_the_oldest_message_ages_until_it_is_taken(driver: Driver, clock: Clock) -> None:
    driver.one(Enqueue("a", b"1"))
    clock.now += 10
    driver.one(Enqueue("a", b"2"))
    clock.now += 10
    assert age(driver) == 20
    lease(driver)
    assert age(driver) == 10
    driver.one(Take("a", Want()))
    assert age(driver) is None


def test_a_message_that_comes_back_is_as_old_as_it_was(driver: Driver, clock: Clock) -> None:
    driver.one(Enqueue("a", b"1"))
    clock.now += 10
    driver.one(Enqueue("a", b"2", delay=5.0))
    lease(driver)
    assert age(driver) is None
    clock.now += 20
    assert age(driver) == 30


def test_the_first_of_each_priority_is_looked_at(driver: Driver, clock: Clock) -> None:
    for priority in (3, 9, 0, 3):
        driver.one(Enqueue("a", b"x", Properties(priority=priority)))
        clock.now += 10
    assert ages_as_they_leave(driver, 4) == [40, 40, 20, 20]


@pytest.mark.parametrize("fair", [False, True])
def test_messages_that_wait_for_an_earlier_one_of_their_group_are_not_looked_at(
    driver: Driver, clock: Clock, fair: bool
) -> None:
    driver.one(Configure("a", QueueSettings(fair=fair)))
    for group in "gghg":
        driver.one(Enqueue("a", b"x", Properties(group=group)))
        clock.now += 10
    held = lease(driver)
    assert age(driver) == 20
    driver.one(ack(held.receipt))
    assert age(driver) == 30


def test_what_comes_within_a_second_is_as_old_as_the_first_of_it(driver: Driver, clock: Clock) -> None:
    for _ in range(4):
        driver.one(Enqueue("a", b"x"))
        clock.now += 0.375
    assert ages_as_they_leave(driver, 4) == [1.5, 1.5, 1.5, 0.375]


def test_an_empty_queue_notes_anew(driver: Driver, clock: Clock) -> None:
    driver.one(Enqueue("a", b"x"))
    alone = notes(driver)
    for _ in range(5):
        driver.one(Take("a", Want()))
        clock.now += 2
        driver.one(Enqueue("a", b"x"))
    assert notes(driver) == alone
    assert age(driver) == 0


def test_notes_that_hardly_matter_are_forgotten(driver: Driver, clock: Clock) -> None:
    begun = clock.now
    arrived = []
    for step in range(700):
        arrived.append(clock.now)
        driver.one(Enqueue("a", b"x"))
        clock.now += 1 + step % 7 * 10
    assert notes(driver) < 2000
    assert age(driver) == round(clock.now - begun, 3)
    for time in arrived:
        true, told = clock.now - time, age(driver)
        assert told is not None
        assert true - 0.001 <= told <= max(1.0, true * 1.2) + 0.001
        driver.one(Take("a", Want()))


def test_a_dead_letter_arrives_when_it_fails(driver: Driver, clock: Clock) -> None:
    clock.now += 10
    letters_of(driver)
    driver.flush()
    clock.now += 5
    assert age(driver, "dead") == 5
    assert age(driver) is None
    driver.one(Purge("dead"))
    assert age(driver, "dead") is None
    driver.one(Put(b"x", Terms(), queue="dead"))
    clock.now += 0.5
    assert age(driver, "dead") == 0.5


def test_a_list_of_queues_says_as_much(driver: Driver, clock: Clock) -> None:
    driver.one(Configure("fair", QueueSettings(fair=True)))
    driver.ask([Enqueue("fair", b"x", Properties(group=group)) for group in "gh"])
    driver.one(Enqueue("a", b"x", Properties(priority=5)))
    clock.now += 10
    listed = {info.name: info.oldest for info in driver.one(List("*"))}
    assert listed == {name: driver.one(Describe(name)).oldest for name in listed}
    assert listed["fair"] == listed["a"] == Oldest(clock.now - 10, None)
    assert listed["default"] == Oldest(inf, None)


def test_all_queues_together_are_as_old_as_the_oldest(driver: Driver, clock: Clock) -> None:
    assert driver.one(Stats()).oldest.ready == inf
    for name in ("a", "b", "c"):
        driver.one(Enqueue(name, b"x"))
        clock.now += 10
    assert driver.one(Stats()).oldest.ready == clock.now - 30
    driver.one(Take("a", LEASE))
    assert driver.one(Stats()).oldest.ready == clock.now - 20


def test_a_message_that_an_older_library_stored_has_no_age(driver: Driver, clock: Clock) -> None:
    driver.one(Enqueue("a", b"x"))
    driver.connection.call("HDEL", keys.queue_keys("a")[0], "t")
    clock.now += 10
    driver.one(Enqueue("a", b"x"))
    assert driver.one(Describe("a")).oldest is None
    driver.one(Take("a", LEASE))
    assert age(driver) == 0


def test_a_clock_that_goes_back_lets_notes_go_on(driver: Driver, clock: Clock) -> None:
    driver.one(Enqueue("a", b"x"))
    clock.now -= 50
    driver.one(Enqueue("a", b"x"))
    clock.now += 3
    driver.one(Take("a", LEASE))
    assert age(driver) == 3
