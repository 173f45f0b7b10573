"""Hosts annotated with trio_typing.TaskStatus can start zapq. Run by scripts/compat, in its own environment."""

from __future__ import annotations

import trio
import trio_typing

import zapq
from zapq.settings import Settings


async def host(settings: Settings, *, task_status: trio_typing.TaskStatus[list[str]]) -> None:
    """A host of the older style: hands its own task status through."""
    await zapq.serve(settings, task_status=task_status)


async def test_a_host_with_the_older_annotation_starts_the_server(
    zapq_settings: Settings, nursery: trio.Nursery
) -> None:
    [url] = await nursery.start(host, zapq_settings)
    assert url.startswith("http://127.0.0.1:")
    nursery.cancel_scope.cancel()
