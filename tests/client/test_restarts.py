"""A server that is killed and started again while clients of each kind work: nothing is lost or stored twice."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping, Sized
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

from tests.client.shells import SHELLS, Awaited, no_thread_left, with_client
from tests.support.ports import free_ports
from tests.support.process import running_zapq
from tests.support.waiting import eventually
from zapq.client import open_client

PATIENT = {"attempts": 1000, "random": lambda: 0.2}
MESSAGES = 60


@pytest.mark.slow
async def test_a_server_that_is_killed_twice_loses_nothing_and_stores_nothing_twice(tmp_path: Path) -> None:
    stored: dict[str, list[int]] = {shell: [] for shell in SHELLS}
    handled: dict[str, dict[bytes, set[int]]] = {shell: defaultdict(set) for shell in SHELLS}
    all_of_them: tuple[Mapping[str, Sized], ...] = (stored, handled)
    stop = threading.Event()

    async def work(shell: str, client: Any) -> None:
        for number in range(MESSAGES):
            stored[shell].append((await client.put(shell, b"%d" % number)).id)
        consume = partial(client.consume_with, shell, concurrency=4, visibility=1, wait=1)
        if isinstance(client, Awaited):
            await consume(lambda lease: handled[shell][lease.body].add(lease.id), stop=stop)
            return

        async def handle(lease: Any) -> None:
            handled[shell][lease.body].add(lease.id)

        async with anyio.create_task_group() as group:
            group.start_soon(consume, handle)
            while not stop.is_set():
                await anyio.sleep(0.02)
            group.cancel_scope.cancel()

    def all_begun(begun: Mapping[str, Sized]) -> bool:
        return min(len(begun[shell]) for shell in SHELLS) > MESSAGES // 3

    with no_thread_left():
        [port] = free_ports(1)
        addr = f"127.0.0.1:{port}"
        url = f"http://{addr}"
        async with trio.open_nursery() as nursery:
            for begun in all_of_them:
                async with running_zapq(tmp_path, "--durable", "--addr", addr) as server:
                    if begun is stored:
                        for shell in SHELLS:
                            nursery.start_soon(partial(with_client, shell, url, partial(work, shell), **PATIENT))
                    await eventually(partial(all_begun, begun), "all to have begun")
                    server.process.kill()
                    await server.process.wait()
            async with (
                running_zapq(tmp_path, "--durable", "--addr", addr) as server,
                open_client(server.url) as client,
            ):

                async def all_are_gone() -> bool:
                    return not any([(await client.describe(shell))["messages"] for shell in SHELLS])

                await eventually(lambda: min(map(len, stored.values())) == MESSAGES, "all to be stored")
                await eventually(all_are_gone, "all to be acknowledged")
                stop.set()
    for shell in SHELLS:
        assert len(set(stored[shell])) == MESSAGES
        # One id for each: none was stored twice, and none is missing.
        assert [handled[shell][b"%d" % number] for number in range(MESSAGES)] == [{id} for id in stored[shell]]
