"""The scenarios of the HTTP API once more, over a real server: those that do not look at the queues otherwise."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.engine.valkey.servers import Server
from tests.engine.valkey.serving import empty, front_ends
from tests.http import test_contract, test_headers, test_queues, test_refusals, test_retention, test_unique
from zapq.settings import Settings
from zapq.testing import ZapqServer

DIFFERENT = {
    "test_a_retention_that_is_lowered_holds_for_what_is_there",
    "test_a_snapshot_in_the_format_of_the_original_loads_and_comes_back_identical",
}


def _scenarios(module: Any) -> dict[str, Callable[..., Any]]:
    """Return the tests of a module that know a server only by its URL."""
    return {
        name: test
        for name, test in vars(module).items()
        if name.startswith("test_")
        and inspect.iscoroutinefunction(test)
        and "zapq_server" in inspect.signature(test).parameters
        and name not in DIFFERENT
        and not {"service", "autojump_clock", "patient_clock", "until_waiting"} & set(_names(test))
    }


def _names(test: Callable[..., Any]) -> tuple[str, ...]:
    code = inspect.unwrap(test).__code__
    inner = [each for each in code.co_consts if inspect.iscode(each)]
    return (*code.co_names, *code.co_varnames, *(name for each in inner for name in each.co_names))


for _module in (test_contract, test_headers, test_queues, test_refusals, test_retention, test_unique):
    globals().update(_scenarios(_module))


@pytest.fixture(params=["hot", "long"])
async def zapq_server(
    zapq_settings: Settings, valkey: Server, request: pytest.FixtureRequest
) -> AsyncGenerator[ZapqServer, None]:
    """A front end on a port of its own; what looks for the queues in its process fails."""
    empty(valkey)
    settings = replace(zapq_settings, hot_path=request.param == "hot")
    async with front_ends(settings, valkey) as [url]:
        yield ZapqServer(url, None)  # type: ignore[arg-type]  # there is none


def test_there_are_scenarios() -> None:
    assert len([name for name in globals() if name.startswith("test_")]) > 20
