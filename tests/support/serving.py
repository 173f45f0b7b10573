"""Servers in the test's own process, on each of the ways requests can take."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import zapq
from tests.support.certificates import trusting, write_certificate
from tests.support.waiting import PATIENCE
from zapq.server.lobby import Lobby
from zapq.service.service import QueueService
from zapq.settings import Settings


@asynccontextmanager
async def serving(
    settings: Settings, service: QueueService | None = None, **options: Any
) -> AsyncGenerator[str, None]:
    """Serve for the length of the block, and yield the URL; `options` are further ones of `zapq.serve`."""
    async with trio.open_nursery() as nursery:
        [url] = await nursery.start(partial(zapq.serve, settings, service=service, **options))
        yield url
        nursery.cancel_scope.cancel()


@pytest.fixture
def patient_clock(autojump_clock: MockClock) -> MockClock:
    """Virtual time where there are sockets, all of this process: it jumps once nothing has moved for a while.

    What has been sent is there at once; the while is for a kernel that is busy. So limits can be as long as in the
    field, nothing is late because the machine is slow, and the test does not wait for them. It must ask for this
    itself: pytest-trio takes no clock from a fixture's fixtures.
    """
    autojump_clock.autojump_threshold = 0.02
    return autojump_clock


def with_tls(settings: Settings, directory: Path) -> tuple[Settings, ssl.SSLContext]:
    """Give a server a certificate of its own, and return what a client speaks that trusts it."""
    cert, key = write_certificate(directory)
    return replace(settings, tls_cert=cert, tls_key=key), trusting()


@pytest.fixture(name="zapq_settings", params=["plain", "tls"])
def plain_and_tls(zapq_settings: Settings, request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Have every test of a module that imports this run twice, the second time over TLS."""
    return zapq_settings if request.param == "plain" else with_tls(zapq_settings, tmp_path)[0]


WAYS = ("lobby", "task", "long", "tls")
"""Hot, where there is no lobby, without the hot path, and hot over TLS."""


def by(
    way: str, settings: Settings, patch: pytest.MonkeyPatch, directory: Path
) -> tuple[Settings, ssl.SSLContext | None]:
    """Return settings of a server to which every request takes `way`, and what its clients speak.

    Servers that are started before `patch` is undone have no lobby if the way is "task".
    """
    match way:
        case "tls":
            return with_tls(settings, directory)
        case "task":
            patch.setattr(Lobby, "possible", lambda: False)
        case "long":
            settings = replace(settings, hot_path=False)
    return settings, None


async def until_waiting(service: QueueService, number: int = 1) -> None:
    """Return once so many consumers wait, whose requests came from this process.

    What was sent is there, and was read, before nothing moves any more; a kernel that is busy may take a moment.
    """
    deadline = time.monotonic() + PATIENCE
    await wait_all_tasks_blocked()
    while service.stats().waiting != number and time.monotonic() < deadline:
        await wait_all_tasks_blocked(0.005)
    assert service.stats().waiting == number
