"""SQS once more, over a real server: the scenarios that know a server only by boto3."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.engine.valkey.servers import Server
from tests.engine.valkey.serving import empty, front_ends, with_engine
from tests.sqs import test_attempts, test_fifo, test_messages, test_moves, test_queues, test_roads
from tests.sqs.clients import Boto
from zapq.settings import Settings

OTHERWISE = {
    # A listing is remembered for a second.
    "test_a_queue_of_dead_letters_can_be_deleted",
}


def _scenarios(module: Any) -> dict[str, Callable[..., Any]]:
    return {
        name: test
        for name, test in vars(module).items()
        if name.startswith("test_")
        and inspect.iscoroutinefunction(test)
        and "boto" in inspect.signature(test).parameters
        and not {"zapq_server", "zapq_settings"} & set(inspect.signature(test).parameters)
        and name not in OTHERWISE
    }


for _module in (test_attempts, test_fifo, test_messages, test_moves, test_queues):
    globals().update(_scenarios(_module))


@pytest.fixture
def zapq_settings(zapq_settings: Settings) -> Settings:
    return replace(zapq_settings, max_message_bytes=1_048_576)


@pytest.fixture
async def boto(zapq_settings: Settings, valkey: Server) -> AsyncGenerator[Boto, None]:
    """A client of a front end."""
    empty(valkey)
    async with front_ends(zapq_settings, valkey) as [url]:
        yield Boto(url)


async def test_both_roads_are_alike(zapq_settings: Settings, valkey: Server) -> None:
    empty(valkey)
    await test_roads.check_that_roads_are_alike(with_engine(zapq_settings, valkey))


def test_there_are_scenarios() -> None:
    assert len([name for name in globals() if name.startswith("test_")]) > 20
