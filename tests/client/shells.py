"""The three clients as one, so that a test is written once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio
import uvloop

import zapq.client.sync
from zapq.client import Client, open_client
from zapq.client.threads import run

SHELLS = ("trio", "asyncio", "threads")
SHELLS_AND_UVLOOP = (*SHELLS, "uvloop")


class Awaited:
    """A client for threads, whose verbs can be awaited: they are done when that is asked."""

    def __init__(self, client: zapq.client.sync.Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        verb = getattr(self._client, name)

        async def call(*args: Any, **options: Any) -> Any:
            return verb(*args, **options)

        return call


async def with_client(shell: str, url: str, work: Callable[[Any], Awaitable[None]], **options: Any) -> None:
    """Do `work` with a client of `shell`, while the servers of this task's loop go on; nothing is left of it."""

    async def work_with_client() -> None:
        async with open_client(url, **options) as client:
            assert isinstance(client, Client)
            await work(client)

    async def leaving_no_task() -> None:
        await work_with_client()
        assert len(asyncio.all_tasks()) == 1

    def work_in_thread() -> None:
        with zapq.client.sync.open_client(url, **options) as client:
            run(work(Awaited(client)))  # type: ignore[arg-type]  # it is a coroutine

    match shell:
        case "trio":
            await work_with_client()
        case "asyncio":
            await trio.to_thread.run_sync(lambda: asyncio.run(leaving_no_task()))
        case "uvloop":
            await trio.to_thread.run_sync(lambda: uvloop.run(leaving_no_task()))
        case "threads":
            await trio.to_thread.run_sync(work_in_thread)


@contextmanager
def no_thread_left() -> Iterator[None]:
    """Check that the block leaves no thread but those that Trio keeps for later."""
    before = set(threading.enumerate())
    yield
    left = {thread for thread in set(threading.enumerate()) - before if not thread.name.startswith("Trio")}
    assert not left
