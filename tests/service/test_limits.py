"""Consumers that wait at a queue with limits, in virtual time."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from zapq.core.queue_settings import QueueSettings
from zapq.limits import MAX_TURN
from zapq.service.service import QueueService


async def take_and_note(service: QueueService, number: int, times: list[float], lease: bool = False) -> None:
    """Take so many messages, waiting for each, and note when they came."""
    queue, began = service.queue("work"), trio.current_time()
    for _ in range(number):
        given = await (queue.receive(wait=60, visibility=600) if lease else queue.dequeue(wait=60))
        assert given is not None
        times.append(round(trio.current_time() - began, 3))


async def test_consumers_that_wait_are_served_as_tokens_come(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    await zapq_service.configure("work", QueueSettings(rate=2, burst=2))
    times: list[float] = []
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(take_and_note, zapq_service, 2, times)
        await wait_all_tasks_blocked()
        await zapq_service.queue("work").enqueue_many([b"x"] * 6)
    assert times == [0.0, 0.0, 0.5, 1.0, 1.5, 2.0]


@pytest.mark.parametrize("end", ["ack", "release"])
async def test_a_consumer_that_waits_is_served_when_a_lease_ends(
    zapq_service: QueueService, autojump_clock: MockClock, end: str
) -> None:
    await zapq_service.configure("work", QueueSettings(max_leased=1))
    queue = zapq_service.queue("work")
    await queue.enqueue_many([b"1", b"2", b"3"])
    first = await queue.receive(visibility=5)
    assert first is not None
    times: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_and_note, zapq_service, 1, times, True)
        await trio.sleep(2)
        assert queue.why_empty() == "limited"
        assert queue.next_visible_in() == pytest.approx(3 + MAX_TURN)
        await (queue.ack(first.receipt) if end == "ack" else queue.release(first.receipt))
    assert times == [2.0]


async def test_a_consumer_that_waits_is_served_when_a_lease_expires_or_is_not_handed_over(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    await zapq_service.configure("work", QueueSettings(max_leased=1))
    queue = zapq_service.queue("work")
    await queue.enqueue_many([b"1", b"2"])
    await queue.receive(visibility=5)
    with trio.fail_after(6):
        second = await queue.receive(wait=60)
    assert second is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.receive)
        await wait_all_tasks_blocked()
        queue._state.return_undelivered((second,))
        with trio.fail_after(1):
            assert await queue.receive(wait=60) is not None


async def test_waiting_in_vain_says_that_the_queue_is_limited(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    await zapq_service.configure("work", QueueSettings(rate=0.1))
    queue = zapq_service.queue("work")
    await queue.enqueue_many([b"1", b"2"])
    assert await queue.dequeue() is not None
    assert await queue.dequeue(wait=4) is None
    assert (queue.why_empty(), round(queue.next_visible_in(), 3)) == ("limited", 6.0)
    assert await queue.dequeue(wait=6) is not None


async def test_changing_a_limit_serves_consumers_that_wait(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    await zapq_service.configure("work", QueueSettings(rate=0.01))
    queue = zapq_service.queue("work")
    await queue.enqueue_many([b"1", b"2", b"3"])
    await queue.dequeue()
    times: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_and_note, zapq_service, 2, times)
        await trio.sleep(1)
        await zapq_service.change_settings("work", rate=None)
    assert times == [1.0, 1.0]


async def test_limits_outlive_a_snapshot(zapq_service: QueueService, autojump_clock: MockClock) -> None:
    limits = QueueSettings(rate=0.5, burst=2, max_leased=3)
    await zapq_service.configure("work", limits)
    await zapq_service.snapshot("kept.msgpack")
    await zapq_service.configure("work", QueueSettings())
    await zapq_service.restore("kept.msgpack")
    assert zapq_service.find("work").info().settings == limits
