"""Virtual time over the wire: `POST /test/advance` moves leases, delays, ttls and keys on at once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import zapq
from tests.http.asking import QUEUE
from tests.http.test_contract import assert_problem
from tests.support.serving import until_waiting
from tests.support.wire import Answer, ask, open_client
from zapq.errors import InvalidSetting, NoTestClock
from zapq.movable_clock import MovableClock, move_on
from zapq.settings import Settings
from zapq.testing import ZapqServer


@pytest.fixture
def zapq_settings(zapq_settings: Settings) -> Settings:
    return replace(zapq_settings, test_clock=True)


async def advance(server: ZapqServer, seconds: str) -> Answer:
    return await ask(server.url, "POST", f"/test/advance?seconds={seconds}")


async def test_a_lease_is_over_at_once(zapq_server: ZapqServer, mock_clock: MockClock) -> None:
    await ask(zapq_server.url, "POST", f"{QUEUE}/messages", b"x")
    first = await ask(zapq_server.url, "POST", f"{QUEUE}/receive?visibility=1h")
    assert (await ask(zapq_server.url, "POST", f"{QUEUE}/receive")).status == 204
    answer = await advance(zapq_server, "3599")
    assert (answer.status, answer.json) == (200, {"advanced": 3599.0})
    assert (await ask(zapq_server.url, "POST", f"{QUEUE}/receive")).status == 204
    await advance(zapq_server, "2")
    again = await ask(zapq_server.url, "POST", f"{QUEUE}/receive")
    assert (again.body, again.headers["zapq-receive-count"]) == (b"x", "2")
    late = await ask(zapq_server.url, "DELETE", f"{QUEUE}/receipts/{first.headers['zapq-receipt']}")
    assert_problem(late, "receipt-expired")


async def test_delays_ttls_and_keys_move_on(zapq_server: ZapqServer, mock_clock: MockClock) -> None:
    await ask(zapq_server.url, "POST", f"{QUEUE}/messages?delay=1h", b"delayed")
    await ask(zapq_server.url, "POST", f"{QUEUE}/messages?ttl=1h", b"short-lived")
    key = {"Idempotency-Key": "k"}
    first = await ask(zapq_server.url, "POST", "/queues/keyed/messages", b"x", key)
    await advance(zapq_server, "1h")
    assert (await ask(zapq_server.url, "POST", f"{QUEUE}/receive?ack=auto")).body == b"delayed"
    assert (await ask(zapq_server.url, "POST", f"{QUEUE}/receive?ack=auto")).status == 204
    second = await ask(zapq_server.url, "POST", "/queues/keyed/messages", b"x", key)
    assert (first.headers["zapq-message-id"], second.headers["zapq-message-id"]) == ("1", "2")


async def test_what_was_due_has_happened_when_it_is_answered(
    zapq_server: ZapqServer, mock_clock: MockClock
) -> None:
    emails = zapq_server.service.queue("emails")
    for _ in range(1200):  # more than happen in one go
        await emails.enqueue(b"x", ttl=60)
    await advance(zapq_server, "61")
    assert emails.info().stats.expired == 1200


async def test_a_consumer_that_waits_gets_what_is_ready_then(
    zapq_server: ZapqServer, mock_clock: MockClock
) -> None:
    await ask(zapq_server.url, "POST", f"{QUEUE}/messages?delay=30s", b"x")
    async with open_client(zapq_server.url) as client:
        await client.send("POST", f"{QUEUE}/receive?wait=20")
        await until_waiting(zapq_server.service)
        await advance(zapq_server, "30")
        assert (await client.answer()).body == b"x"


async def test_no_connection_ends_because_of_it(zapq_server: ZapqServer, mock_clock: MockClock) -> None:
    async with open_client(zapq_server.url) as client:
        assert (await client.request("GET", "/health")).status == 200
        await advance(zapq_server, "1h")
        assert (await client.request("GET", "/health")).status == 200


@pytest.mark.parametrize("query", ["", "?seconds=-1", "?seconds=nan", "?seconds=366d", "?seconds=1&seconds=2"])
async def test_seconds_must_make_sense(zapq_server: ZapqServer, mock_clock: MockClock, query: str) -> None:
    before = mock_clock.current_time()
    refused = await ask(zapq_server.url, "POST", f"/test/advance{query}")
    assert_problem(refused, "invalid-parameter")
    assert mock_clock.current_time() == before


async def test_it_is_logged_as_all_that_administrators_do(
    zapq_server: ZapqServer, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "zapq")
    await advance(zapq_server, "5")
    [said] = [each.__dict__["fields"] for each in caplog.records if each.getMessage() == "administered"]
    assert said == {"action": "advance", "seconds": 5.0, "peer": "127.0.0.1"}


class TestWithoutTheFlag:
    @pytest.fixture
    def zapq_settings(self, zapq_settings: Settings) -> Settings:
        return replace(zapq_settings, test_clock=False)

    async def test_it_is_refused(self, zapq_server: ZapqServer, mock_clock: MockClock) -> None:
        refused = await advance(zapq_server, "5")
        assert refused.status == 403
        assert_problem(refused, "no-test-clock")
        assert "--test-clock" in refused.json["detail"]
        assert mock_clock.current_time() == 0


async def test_a_clock_that_cannot_be_moved_is_refused_at_the_start(zapq_settings: Settings) -> None:
    with pytest.raises(InvalidSetting, match="MockClock"):
        async with zapq.open_service(zapq_settings):
            pass
    with pytest.raises(NoTestClock):
        move_on(1)


def test_the_clock_of_the_command_wakes_what_sleeps() -> None:
    async def sleep_long() -> float:
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 3600)
            await wait_all_tasks_blocked()
            move_on(3600)
        return trio.current_time() - begun

    assert 3600 <= trio.run(sleep_long, clock=MovableClock()) < 3700


@pytest.mark.parametrize(
    "make",
    [
        lambda: Settings(test_clock=True, durable=True),
        lambda: Settings(test_clock=True, workers=2),
        lambda: Settings(test_clock=True, engine="valkey://localhost"),
    ],
)
def test_where_time_cannot_be_moved_the_flag_is_refused(make: Callable[[], Settings], tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="--test-clock"):
        make()
