"""Queues with limits in Valkey: so many messages a second, and so many leases at once."""

from __future__ import annotations

import pytest

from tests.engine.valkey.driver import LEASE, MANY, Clock, Driver, ack, bodies_of, lease
from zapq.core.queue_settings import QueueSettings
from zapq.errors import InvalidParameter
from zapq.service.operations import ChangeSettings, Configure, Enqueue, Nothing, Purge, Settlement, SettleOne, Take
from zapq.service.waiting import ONE, Want


def fill(driver: Driver, number: int = 9) -> None:
    driver.ask([Enqueue("a", b"%d" % each) for each in range(number)])


def why(outcome: object) -> tuple[str, float]:
    assert isinstance(outcome, Nothing)
    return outcome.why, outcome.next_visible_in


def test_so_many_are_given_at_once_and_then_one_for_each_token(driver: Driver, clock: Clock) -> None:
    driver.one(Configure("a", QueueSettings(rate=2, burst=3)))
    fill(driver)
    outcomes = driver.ask([Take("a", ONE)] * 5)
    assert [bodies_of(each) for each in outcomes[:3]] == [[b"0"], [b"1"], [b"2"]]
    assert [why(each) for each in outcomes[3:]] == [("limited", 0.5)] * 2
    clock.now += 0.4
    assert why(driver.one(Take("a", LEASE)))[0] == "limited"
    clock.now += 0.1
    assert bodies_of(driver.one(Take("a", LEASE))) == [b"3"]
    clock.now += 1
    assert bodies_of(driver.one(Take("a", MANY))) == [b"4", b"5"]
    driver.one(Purge("a"))
    assert why(driver.one(Take("a", ONE)))[0] == "empty"
    fill(driver)
    assert why(driver.one(Take("a", ONE)))[0] == "limited", "a purge brings no tokens"


def test_so_many_leases_at_once_and_no_more(driver: Driver, clock: Clock) -> None:
    driver.one(Configure("a", QueueSettings(max_leased=2)))
    fill(driver)
    first, second = driver.one(Take("a", MANY)).given
    assert why(driver.one(Take("a", LEASE))) == ("limited", 10.05)
    outcomes = driver.ask([Take("a", LEASE), Take("a", Want(3)), Take("a", LEASE)])
    assert [why(outcomes[0])[0], bodies_of(outcomes[1]), why(outcomes[2])[0]] == [
        "limited",
        [b"2", b"3", b"4"],
        "limited",
    ]
    driver.one(ack(first.receipt))
    assert bodies_of(driver.one(Take("a", LEASE))) == [b"5"]
    driver.one(SettleOne("a", Settlement(receipt=second.receipt, action="release")))
    assert lease(driver).message.id == second.message.id
    clock.now += 11
    assert len(driver.one(Take("a", MANY)).given) == 2


def test_what_could_not_be_handed_over_costs_no_token(driver: Driver) -> None:
    driver.one(Configure("a", QueueSettings(rate=0.1, burst=2)))
    fill(driver)
    message, leased = driver.one(Take("a", ONE)), driver.one(Take("a", LEASE))
    assert why(driver.one(Take("a", ONE)))[0] == "limited"
    message.queue.return_undelivered(message.given)
    leased.queue.return_undelivered(leased.given)
    assert bodies_of(driver.one(Take("a", Want(9)))) == [b"0", b"1"]


def test_limits_change_while_the_queue_is_in_use(driver: Driver) -> None:
    driver.one(Configure("a", QueueSettings(rate=0.1)))
    fill(driver)
    driver.one(Take("a", ONE))
    driver.one(ChangeSettings("a", {"max_leased": 1}))
    assert why(driver.one(Take("a", ONE)))[0] == "limited", "the token that was spent stays spent"
    driver.one(ChangeSettings("a", {"burst": 2}))
    assert bodies_of(driver.one(Take("a", Want(9)))) == [b"1", b"2"]
    driver.one(ChangeSettings("a", {"rate": None, "burst": None, "max_leased": None}))
    assert len(driver.one(Take("a", MANY)).given) == 6
    with pytest.raises(InvalidParameter):
        driver.one(ChangeSettings("a", {"burst": 2}))
