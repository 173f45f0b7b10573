"""What the library knows of keys: of messages that have the same key, a queue holds one."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from tests.engine.valkey.driver import MANY, Clock, Driver, ack, bodies_of, lease
from zapq.core.message import Draft, Lease
from zapq.core.queue_settings import QueueSettings
from zapq.engine.valkey import keys, procedures
from zapq.engine.valkey.procedures import Repaired
from zapq.errors import QueueFull, ReceiptExpired
from zapq.service.operations import (
    Accepted,
    Configure,
    Describe,
    Enqueue,
    Find,
    Peek,
    Purge,
    Put,
    Redrive,
    Take,
    terms,
)
from zapq.service.waiting import ONE

H = keys.queue_keys("a")[0]


def put(driver: Driver, body: bytes, key: str = "u", *, on: str | None = None, **how: float) -> tuple[int, str]:
    """Send a message with a key; return the id of the one that is held, and what was done."""
    accepted = driver.one(Put(body, terms(unique=key, on=on, **how), queue="a"))  # type: ignore[arg-type]
    assert isinstance(accepted, Accepted)
    return accepted.id, accepted.unique


def noted(driver: Driver) -> Iterable[bytes]:
    """Return the keys of which the library knows something."""
    return [each[1:] for each in driver.connection.call("HKEYS", H) if each.startswith(b"u")]


def is_in_order(driver: Driver) -> bool:
    found: Repaired = driver.run(procedures.repair(driver.codec, "a", mend=False))
    return found == Repaired(0, 0, 0, 0, False)


def test_a_key_is_free_once_its_message_has_gone_however_it_went(driver: Driver, clock: Clock) -> None:
    assert put(driver, b"1") == (1, "")
    assert put(driver, b"2") == (1, "kept")
    assert bodies_of(driver.one(Take("a", ONE))) == [b"1"]
    assert put(driver, b"3") == (2, "")
    driver.one(ack(lease(driver).receipt))
    assert put(driver, b"4", ttl=1.0) == (3, "")
    clock.now += 1
    assert put(driver, b"5") == (4, "")
    driver.one(Purge("a"))
    assert put(driver, b"6") == (5, "")
    assert is_in_order(driver)


def test_a_newer_message_takes_over_the_key_of_one_that_is_leased(driver: Driver) -> None:
    put(driver, b"old")
    held = lease(driver)
    assert put(driver, b"kept") == (1, "kept")
    assert put(driver, b"new", on="replace") == (2, "")
    assert driver.one(Find("a", 1)).message.properties.unique == ""
    [_] = driver.ask([Take("a", ONE)])
    assert put(driver, b"newer") == (3, "")
    driver.one(ack(held.receipt))
    assert put(driver, b"newest") == (3, "kept")


def test_a_lease_that_expired_before_its_message_was_replaced_can_be_settled_no_more(
    driver: Driver, clock: Clock
) -> None:
    put(driver, b"old")
    held = lease(driver)
    clock.now += 11
    assert put(driver, b"new", on="replace") == (1, "replaced")
    with pytest.raises(ReceiptExpired, match="a producer has replaced the message since"):
        driver.one(ack(held.receipt))
    again = lease(driver)
    assert (again.body, again.receive_count) == (b"new", 1)
    assert is_in_order(driver)


def test_what_comes_back_has_its_key_unless_another_one_has(driver: Driver) -> None:
    put(driver, b"1")
    first = driver.one(Take("a", ONE))
    first.queue.return_undelivered(first.given)
    assert put(driver, b"2") == (1, "kept")
    first = driver.one(Take("a", ONE))
    assert put(driver, b"3") == (2, "")
    first.queue.return_undelivered(first.given)
    assert [each.message.properties.unique for each in driver.one(Peek("a"))] == ["", "u"]
    assert put(driver, b"4") == (2, "kept")
    assert is_in_order(driver)


def test_dead_letters_remember_their_keys_and_the_first_that_goes_back_has_it(
    driver: Driver, clock: Clock
) -> None:
    driver.one(Configure("a", QueueSettings(max_receives=1, dead_letter="dead")))
    for body in (b"1", b"2"):
        assert put(driver, body)[1] == ""
        lease(driver)
        clock.now += 11
        driver.sweep(["a"])
    assert [each.message.properties.unique for each in driver.one(Peek("dead"))] == ["u", "u"]
    assert driver.one(Redrive("dead")).moved == 2
    assert [each.message.properties.unique for each in driver.one(Peek("a"))] == ["u", ""]
    assert put(driver, b"3") == (3, "kept")
    assert is_in_order(driver)


def test_a_batch_is_stored_whole_or_not_at_all(driver: Driver) -> None:
    driver.one(Configure("a", QueueSettings(max_messages=2)))
    put(driver, b"1")
    drafts = [
        Draft(body=b"2", unique="u"),
        Draft(body=b"3", unique="v"),
        Draft(body=b"4", unique="v", on="replace"),
        Draft(body=b"5", unique="u", on="replace"),
    ]
    accepted = driver.one(Put(drafts, queue="a"))
    assert [(each.id, each.how) for each in accepted.placed] == [
        (1, "kept"),
        (2, ""),
        (2, "replaced"),
        (1, "replaced"),
    ]
    with pytest.raises(QueueFull):
        driver.one(Put([Draft(body=b"6", unique="u", on="replace"), Draft(body=b"7")], queue="a"))
    assert bodies_of(driver.one(Take("a", MANY))) == [b"5", b"4"]


def test_an_idempotency_key_is_answered_as_it_was_then(driver: Driver) -> None:
    asked = Put(b"1", terms(unique="u"), "k", queue="a")
    assert driver.one(asked).id == 1
    driver.one(Take("a", ONE))
    assert driver.one(asked) == Accepted(1, True)
    assert driver.one(Describe("a")).stats.messages == 0


def test_keys_of_messages_that_are_gone_are_few(driver: Driver) -> None:
    put(driver, b"x", "stays")
    for number in range(200):
        put(driver, b"x", f"k{number}", priority=9)
        driver.one(Take("a", ONE))
        assert len(list(noted(driver))) <= 4
    assert put(driver, b"y", "stays") == (1, "kept")
    driver.one(Take("a", ONE))
    driver.sweep(["a"])
    fields = driver.connection.call("HKEYS", H)
    assert len([each for each in fields if each.startswith(b"k")]) == len(list(noted(driver)))


def test_a_key_that_no_message_is_known_by_is_mended(driver: Driver) -> None:
    put(driver, b"1")
    driver.one(Enqueue("a", b"2"))
    driver.connection.call("HDEL", H, "uu")
    found = driver.run(procedures.repair(driver.codec, "a", mend=False))
    assert found == Repaired(0, 1, 0, 0, False)
    assert driver.run(procedures.repair(driver.codec, "a", mend=True)) == found
    assert is_in_order(driver)
    assert put(driver, b"3") == (1, "kept")


def test_a_queue_of_an_earlier_version_has_keys_now(driver: Driver) -> None:
    driver.one(Enqueue("a", b"1"))
    call = driver.connection.call
    state = msgspec.msgpack.decode(call("HGET", H, "s"))
    call("HSET", H, "s", msgspec.msgpack.encode(state[:34]))
    assert put(driver, b"2") == (2, "")
    assert put(driver, b"3") == (2, "kept")
    given = driver.one(Take("a", MANY)).given
    assert [each.message.properties.unique for each in given if isinstance(each, Lease)] == ["", "u"]
    assert is_in_order(driver)
