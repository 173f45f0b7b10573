"""Clients of two front ends see together what one queue that does a single thing at a time could show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
import trio

from tests.engine.valkey.servers import Server
from tests.engine.valkey.serving import empty, front_ends
from tests.linearizability import Dequeue, Operation, check, describe
from tests.server.test_linearizability import CLIENTS, QUEUES, Journal, Visitor, request_for
from tests.support.wire import Answer, open_client
from zapq.settings import Settings

pytestmark = pytest.mark.slow  # it starts servers, and the gate runs it


async def histories_of(
    urls: list[str], seed: int, *, vanishing: bool = False, groups: Sequence[str] = ("",)
) -> dict[str, list[Operation]]:
    """Let clients use the front ends, choosing as `seed` has it, and return what they saw, by queue."""
    journal = Journal()
    async with open_client(urls[0]) as client:
        assert (await client.request("PUT", "/queues/work", b"{}")).status == 201
        async with trio.open_nursery() as clients:
            for number in range(CLIENTS):
                url, random = urls[number % len(urls)], Random(f"{seed} {number}")
                visitor = Visitor(number, url, journal, random, vanishes=vanishing, groups=groups)
                clients.start_soon(visitor.run)
        for queue in QUEUES:
            answer: Answer | None = None
            while answer is None or answer.status == 200:
                invoked = journal.now()
                answer = await client.request(*request_for(queue, Dequeue()))
                journal.note(queue, CLIENTS, Dequeue(), invoked, answer)
    return journal.histories


@pytest.mark.parametrize("vanishing", [False, True])
@pytest.mark.parametrize("hot_path", [True, False], ids=["hot", "cold"])
async def test_every_history_is_linearizable(
    zapq_settings: Settings, valkey: Server, hot_path: bool, vanishing: bool, gate: bool, nightly: bool
) -> None:
    settings = replace(zapq_settings, hot_path=hot_path, log_level="error")
    async with front_ends(settings, valkey, number=2) as urls:
        for seed in range(400 if nightly else 20 if gate else 10):
            empty(valkey)
            for queue, history in (await histories_of(urls, seed, vanishing=vanishing)).items():
                assert check(history) is not None, f"seed {seed}, queue {queue}:\n{describe(history)}"


@pytest.mark.parametrize("hot_path", [True, False], ids=["hot", "cold"])
async def test_every_history_of_groups_is_linearizable(
    zapq_settings: Settings, valkey: Server, hot_path: bool, gate: bool, nightly: bool
) -> None:
    settings = replace(zapq_settings, hot_path=hot_path, log_level="error")
    async with front_ends(settings, valkey, number=2) as urls:
        for seed in range(400 if nightly else 40 if gate else 10):
            empty(valkey)
            for queue, history in (await histories_of(urls, seed, groups=("", "a", "a", "b:1"))).items():
                assert check(history) is not None, f"seed {seed}, queue {queue}:\n{describe(history)}"
