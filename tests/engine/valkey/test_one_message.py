"""One message deleted or sent back, and pages of queues, where the queues are in Valkey."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.engine.valkey.driver import Driver
from tests.engine.valkey.servers import Server
from tests.engine.valkey.serving import empty, front_ends
from tests.support.wire import ask
from zapq.core.message import Lease, Properties
from zapq.core.queue_settings import QueueSettings
from zapq.errors import (
    InvalidParameter,
    MessageLeased,
    MessageNotFound,
    QueueFull,
    QueueNotFound,
    ReceiptExpired,
)
from zapq.service.operations import (
    Configure,
    Delete,
    DeleteMessage,
    Describe,
    Enqueue,
    Peek,
    Redrive,
    Settle,
    Settlement,
    SettleOne,
    Take,
)
from zapq.service.waiting import Want
from zapq.settings import Settings

KINDS = {
    "plain": (Properties(), 0.0),
    "of a priority": (Properties(priority=3), 0.0),
    "in a group": (Properties(group="g"), 0.0),
    "delayed": (Properties(), 60.0),
    "delayed in a group": (Properties(group="g"), 60.0),
}


def lease(driver: Driver, queue: str = "a", visibility: float = 10.0) -> Lease:
    [given] = driver.one(Take(queue, Want(1, True, visibility))).given
    assert isinstance(given, Lease)
    return given


def fail(driver: Driver, number: int) -> None:
    driver.one(Configure("a", QueueSettings(max_receives=1, dead_letter="dead", max_messages=2)))
    for _ in range(number):
        driver.one(Enqueue("a", b"letter"))
        driver.one(SettleOne("a", Settlement(receipt=lease(driver).receipt, action="release")))


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_is_deleted_wherever_it_is(driver: Driver, kind: str) -> None:
    properties, delay = KINDS[kind]
    driver.ask([Enqueue("a", b"1", properties, delay), Enqueue("a", b"2", properties, delay)])
    assert driver.one(DeleteMessage("a", 1)) is None
    with pytest.raises(MessageNotFound):
        driver.one(DeleteMessage("a", 1))
    stats = driver.one(Describe("a")).stats
    assert (stats.messages, stats.bytes, stats.cleared) == (1, 1, 1)
    assert [each.id for each in driver.one(Peek("a", "delayed" if delay else "ready"))] == [2]


def test_a_message_that_a_consumer_holds_stays(driver: Driver) -> None:
    driver.one(Enqueue("a", b"1"))
    held = lease(driver)
    with pytest.raises(MessageLeased, match=r"another 10\.0 s"):
        driver.one(DeleteMessage("a", 1))
    driver.one(SettleOne("a", Settlement(receipt=held.receipt)))


def test_a_holder_that_comes_late_is_told_that_it_was_deleted(driver: Driver) -> None:
    driver.one(Enqueue("a", b"1"))
    held = lease(driver, visibility=0.0)
    driver.one(DeleteMessage("a", 1))
    [[refused]] = driver.ask([Settle("a", [Settlement(receipt=held.receipt)])])
    assert isinstance(refused, ReceiptExpired)
    assert "deleted" in refused.detail


def test_one_dead_letter_is_sent_back(driver: Driver) -> None:
    fail(driver, 3)
    redriven = driver.one(Redrive("dead", id=2))
    assert (redriven.moved, redriven.left) == (1, 2)
    [back] = driver.one(Peek("a"))
    assert back.message.properties.origin is not None
    assert back.message.properties.origin.id == 2
    assert [each.id for each in driver.one(Peek("dead"))] == [1, 3]


def test_what_cannot_be_sent_back_stays(driver: Driver) -> None:
    fail(driver, 2)
    driver.one(Enqueue("dead", b"no letter"))
    for id, refusal in ((3, InvalidParameter), (4, MessageNotFound)):
        with pytest.raises(refusal):
            driver.one(Redrive("dead", id=id))
    driver.ask([Enqueue("a", b"1"), Enqueue("a", b"2")])
    with pytest.raises(QueueFull):
        driver.one(Redrive("dead", id=1))
    driver.one(Delete("a"))
    with pytest.raises(QueueNotFound, match="no such queue any more"):
        driver.one(Redrive("dead", id=1))
    lease(driver, "dead")
    with pytest.raises(MessageLeased):
        driver.one(Redrive("dead", id=1))
    assert driver.one(Describe("dead")).stats.redriven == 0


async def test_an_operator_gets_pages_and_is_told_that_there_is_no_history(
    zapq_settings: Settings, valkey: Server
) -> None:
    empty(valkey)
    async with front_ends(replace(zapq_settings), valkey) as [url]:
        for name in ("a", "b", "c"):
            await ask(url, "POST", f"/queues/{name}/messages", b"x")
        await ask(url, "POST", "/queues/b/messages", b"x")
        page = await ask(url, "GET", "/queues?sort=ready&limit=1")
        assert ([each["name"] for each in page.json], page.headers["zapq-next"]) == (["b"], "2:b")
        after = await ask(url, "GET", "/queues?prefix=c&limit=1")
        assert [each["name"] for each in after.json] == ["c"]
        assert (await ask(url, "DELETE", "/queues/b/messages/1")).status == 204
        history = await ask(url, "GET", "/stats/history")
        assert (history.status, history.json["type"]) == (400, "/problems/not-with-engine")
