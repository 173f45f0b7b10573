"""The timer, in virtual time."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from zapq.limits import MAX_TURN
from zapq.service.service import QueueService


async def test_a_lease_that_begins_as_a_delay_ends_expires_in_time(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    jobs = zapq_service.queue("jobs")
    times: list[float] = []

    async def consume() -> None:
        assert await jobs.receive(wait=60, visibility=5) is not None
        times.append(round(trio.current_time() - begun))

    begun = trio.current_time()
    await jobs.enqueue(b"x", delay=1)
    async with trio.open_nursery() as consumers:
        consumers.start_soon(consume)
        consumers.start_soon(consume)
    assert times == [1, 6]


async def test_many_parked_leases_and_waiters_keep_one_timer(
    zapq_service: QueueService, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    queue = zapq_service.default
    await queue.enqueue_many([b"x"] * 1000)
    await queue.receive_many(1000, visibility=500)
    for _ in range(50):
        nursery.start_soon(partial(queue.receive, wait=60))
    await wait_all_tasks_blocked()
    statistics = trio.lowlevel.current_statistics()
    assert statistics.seconds_to_next_deadline == pytest.approx(60)
    assert zapq_service.dispatcher.alarm == pytest.approx(trio.current_time() + 60)


async def test_thousands_of_things_due_at_once_do_not_stop_the_others(
    zapq_service: QueueService, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    queue = zapq_service.default
    for _ in range(5):
        await queue.enqueue_many([b"x"] * 1000)
    for _ in range(5):
        await queue.receive_many(1000, visibility=10)
    seen: list[int] = []

    async def bystander() -> None:
        await trio.sleep(10 + MAX_TURN)
        while queue.info().stats.leased:
            seen.append(queue.info().stats.leased)
            await trio.lowlevel.checkpoint()

    nursery.start_soon(bystander)
    await trio.sleep(11)
    assert queue.info().stats.ready == 5000
    assert len(set(seen)) >= 3
