"""The pytest fixtures for programs of any kind: `zapq_url`, `zapq_advance`, `--zapq-url`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import trio

import zapq.client
import zapq.client.sync
from zapq import testing
from zapq.command.http import Failed
from zapq.testing import ZapqServer

DOCUMENT = (Path(__file__).parents[1] / "docs/how-to/testing.md").read_text()
slow = pytest.mark.slow
"""They start a server: one for all of them."""
Advance = Callable[[float], None]


@slow
@pytest.mark.parametrize("time", [1, 2])
def test_a_plain_test_finds_no_queues_of_earlier_ones(zapq_url: str, time: int) -> None:
    with zapq.client.sync.open_client(zapq_url) as client:
        assert [each["name"] for each in client.list()] == ["default"]
        assert client.describe("default")["ready"] == 0
        assert client.put("default", b"x", key="k").replayed is False
        client.configure("failed", {})
        client.configure("jobs", {"dead_letter": "failed", "max_receives": 3})
        client.put("jobs", b"y", delay=60)
        client.pause("default")


@slow
def test_a_test_of_asyncio_moves_time_on(zapq_url: str, zapq_advance: Advance) -> None:
    async def main() -> int:
        async with zapq.client.open_client(zapq_url) as client:
            await client.put("jobs", b"x")
            assert await client.receive("jobs", visibility=3600) is not None
            zapq_advance(3601)
            again = await client.receive("jobs")
            assert again is not None
            return again.receive_count

    assert asyncio.run(main()) == 2


@slow
async def test_a_test_of_trio_as_well(zapq_url: str, zapq_advance: Advance) -> None:
    async with zapq.client.open_client(zapq_url) as client:
        await client.put("jobs", b"x", delay=3600)
        await trio.to_thread.run_sync(zapq_advance, 3600.0)
        lease = await client.receive("jobs")
        assert lease is not None
        assert lease.body == b"x"


@slow
@pytest.mark.parametrize("number", [0, 1])
def test_the_examples_run(zapq_url: str, zapq_advance: Advance, number: int) -> None:
    example = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)[number]
    names: dict[str, Any] = {}
    # What marks a test of asyncio is pytest-asyncio's.
    exec(example.replace("@pytest.mark.asyncio\n", ""), names)
    [test] = [value for name, value in names.items() if name.startswith("test_")]
    outcome = test(zapq_url, zapq_advance)
    if outcome is not None:
        asyncio.run(outcome)


@slow
def test_a_server_that_a_test_has_drained_is_started_again(zapq_url: str, request: pytest.FixtureRequest) -> None:
    process: Any = request.getfixturevalue("_zapq_process")
    with zapq.client.sync.open_client(zapq_url) as client:
        client.drain()
    process.make_ready()
    with zapq.client.sync.open_client(process.url) as client:
        client.ready()


@slow
def test_a_server_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    process = testing._Process(tmp_path)
    with pytest.raises(pytest.fail.Exception, match="zapq could not start"):
        process.start()


class TestAnotherServer:
    """`--zapq-url`."""

    def other(self, url: str) -> str:
        request = Mock()
        request.config.getoption.return_value = url
        found = next(testing._zapq_process.__wrapped__(request, Mock()))  # type: ignore[attr-defined]
        return str(testing.zapq_url.__wrapped__(found))  # type: ignore[attr-defined]

    @pytest.fixture(autouse=True)
    def alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)

    async def test_it_is_used_if_it_is_empty(self, zapq_server: ZapqServer) -> None:
        zapq_server.service.queue("left")
        assert await trio.to_thread.run_sync(self.other, zapq_server.url) == zapq_server.url
        assert [each.name for each in zapq_server.service.queues()] == ["default"]

    async def test_it_is_empty_again_for_the_next_run(self, zapq_server: ZapqServer) -> None:
        request = Mock()
        request.config.getoption.return_value = zapq_server.url
        fixture = testing._zapq_process.__wrapped__(request, Mock())  # type: ignore[attr-defined]
        await trio.to_thread.run_sync(next, fixture)
        await zapq_server.service.queue("left").enqueue(b"x")
        await trio.to_thread.run_sync(list, fixture)
        assert [each.name for each in zapq_server.service.queues()] == ["default"]

    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("nonsense", "--zapq-url 'nonsense': give http://host:port"),
            ("http://127.0.0.1:1", "^--zapq-url http://127.0.0.1:1: Connection refused.$"),
        ],
    )
    def test_one_that_cannot_be_asked_is_one_line(self, url: str, said: str) -> None:
        with pytest.raises((pytest.UsageError, pytest.fail.Exception), match=said):
            self.other(url)

    async def test_it_is_left_alone_if_it_has_messages(self, zapq_server: ZapqServer) -> None:
        await zapq_server.service.queue("precious").enqueue(b"x")
        with pytest.raises(pytest.fail.Exception, match="has messages, in precious"):
            await trio.to_thread.run_sync(self.other, zapq_server.url)
        assert zapq_server.service.queue("precious").info().stats.messages == 1

    async def test_time_stands_still_without_the_flag(self, zapq_server: ZapqServer) -> None:
        advance = testing.zapq_advance.__wrapped__(zapq_server.url)  # type: ignore[attr-defined]
        with pytest.raises(Failed, match="--test-clock"):
            await trio.to_thread.run_sync(advance, 1.0)

    def test_tests_do_not_share_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
        with pytest.raises(pytest.fail.Exception, match="-n 0"):
            self.other("http://127.0.0.1:1")
