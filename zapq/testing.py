"""Pytest fixtures for programs that use zapq: a queue, or a whole server, for the length of a test.

Installed with the extra `testing` (`pip install '.[testing]'` in a checkout), pytest finds them by itself.
Override `zapq_settings` to change limits.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

import zapq
from zapq.service.open import open_service
from zapq.service.service import QueueService
from zapq.settings import Settings

__all__ = ["ZapqServer", "zapq_server", "zapq_service", "zapq_settings"]


@dataclass(frozen=True, slots=True)
class ZapqServer:
    """A server in the test's own process: where it listens, and the queue behind it."""

    url: str
    service: QueueService


@pytest.fixture
def zapq_settings(tmp_path: Path) -> Settings:
    """The settings the other fixtures use: the defaults, a free port of 127.0.0.1, snapshots in `tmp_path`."""
    return Settings(addr="127.0.0.1:0", data_dir=str(tmp_path), grace=1.0)


@pytest.fixture
async def zapq_service(zapq_settings: Settings) -> AsyncGenerator[QueueService, None]:
    """A running queue, without sockets; works in virtual time (`autojump_clock`)."""
    async with open_service(zapq_settings) as service:
        yield service


@pytest.fixture
async def zapq_server(zapq_service: QueueService, zapq_settings: Settings) -> AsyncGenerator[ZapqServer, None]:
    """A server on a port of its own, in front of `zapq_service`."""
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[list[str]]) -> None:
            await zapq.serve(zapq_settings, service=zapq_service, task_status=task_status)

        [url] = await nursery.start(run)
        yield ZapqServer(url, zapq_service)
        nursery.cancel_scope.cancel()
