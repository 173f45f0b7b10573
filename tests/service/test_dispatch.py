"""The timer, in virtual time."""

from __future__ import annotations

import trio

from zapq.service.service import QueueService


async def test_a_lease_that_begins_as_a_delay_ends_expires_in_time(
    zapq_service: QueueService, autojump_clock: trio.testing.MockClock
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
