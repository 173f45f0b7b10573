"""What the library knows of attempts: a consumer that got no answer has the same messages again."""

from __future__ import annotations

import pytest

from tests.engine.valkey.driver import LEASE, MANY, Clock, Driver, ack, bodies_of
from tests.engine.valkey.servers import Connection
from zapq.core.message import Lease
from zapq.engine.valkey import keys
from zapq.errors import QueueNotFound
from zapq.limits import ATTEMPT_WINDOW
from zapq.service.operations import Delete, Enqueue, Purge, Recall, Remember, Settlement, SettleOne, Take


def received(driver: Driver, attempt: str = "one", number: int = 2) -> list[Lease]:
    """Have a consumer receive new messages under an attempt, and return its leases."""
    driver.ask([Enqueue("a", b"%d" % each) for each in range(number)])
    given = [each for each in driver.one(Take("a", MANY)).given if isinstance(each, Lease)]
    driver.one(Remember("a", attempt, [(each.id, each.receipt) for each in given]))
    return given


def receipts(leases: list[Lease]) -> list[str]:
    return [each.receipt for each in leases]


def test_what_was_received_is_given_once_more_by_any_front_end(
    driver: Driver, connection: Connection, clock: Clock
) -> None:
    first = received(driver)
    clock.now += 4
    again = Driver(connection, clock, name="f2").one(Recall("a", "one"))
    assert receipts(again) == receipts(first)
    assert [each.message for each in again] == [each.message for each in first]
    assert {each.deadline for each in again} == {clock.now + 10}
    [longer, _] = driver.one(Recall("a", "one", 60.0))
    assert longer.deadline == clock.now + 60
    assert driver.one(Recall("a", "two")) == []
    driver.one(ack(first[0].receipt))
    assert driver.one(Recall("a", "one")) == []


@pytest.mark.parametrize("action", ["ack", "release", "extend"])
def test_an_attempt_counts_while_each_lease_is_as_it_was(driver: Driver, action: str) -> None:
    first = received(driver)
    settlement = Settlement(receipt=first[1].receipt, action=action, visibility=20.0)  # type: ignore[arg-type]
    driver.one(SettleOne("a", settlement))
    assert driver.one(Recall("a", "one")) == []
    assert driver.connection.call("EXISTS", keys.attempt_key("a", "one")) == 0


def test_an_attempt_ends_with_its_leases(driver: Driver, clock: Clock) -> None:
    received(driver)
    clock.now += 10
    assert driver.one(Recall("a", "one")) == []


def test_an_attempt_is_forgotten_after_a_while_however_often_it_is_repeated(driver: Driver, clock: Clock) -> None:
    received(driver)
    for _ in range(6):
        assert len(driver.one(Recall("a", "one", ATTEMPT_WINDOW / 5))) == 2 or clock.now >= 100 + ATTEMPT_WINDOW
        clock.now += ATTEMPT_WINDOW / 6
    assert driver.one(Recall("a", "one")) == []
    received(driver, "two")
    assert 0 < driver.connection.call("PTTL", keys.attempt_key("a", "two")) <= ATTEMPT_WINDOW * 1000


def test_what_is_not_leased_is_not_remembered(driver: Driver) -> None:
    [first, second] = received(driver)
    driver.one(ack(second.receipt))
    for leases in ([first, second], []):
        driver.one(Remember("a", "two", [(each.id, each.receipt) for each in leases]))
        assert driver.one(Recall("a", "two")) == []


def test_a_queue_that_was_purged_or_deleted_has_no_attempts(driver: Driver) -> None:
    received(driver)
    driver.one(Purge("a"))
    assert driver.one(Recall("a", "one")) == []
    received(driver)
    driver.one(Delete("a"))
    for operation in (Recall("a", "one"), Remember("a", "one", [(1, "?")])):
        with pytest.raises(QueueNotFound):
            driver.one(operation)
    driver.one(Enqueue("a", b"new"))
    assert driver.one(Recall("a", "one")) == []
    assert bodies_of(driver.one(Take("a", LEASE))) == [b"new"]
