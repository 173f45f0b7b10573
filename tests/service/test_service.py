"""The running queue in a plain Trio program: who gets what, when, and what cancellation leaves behind."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from zapq.errors import Draining, InvalidParameter, MessageTooLarge, QueueFull, SnapshotFailed, TooManyWaiters
from zapq.service.service import QueueService, open_service
from zapq.service.waiting import WaitingLine
from zapq.settings import Settings


async def test_both_spellings_of_each_verb_do_the_same(zapq_service: QueueService) -> None:
    assert (await zapq_service.enqueue(b"a")).id < zapq_service.enqueue_nowait(b"b").id
    first, second = await zapq_service.dequeue(), zapq_service.dequeue_nowait()
    assert first is not None
    assert second is not None
    assert (first.body, second.body) == (b"a", b"b")
    assert await zapq_service.dequeue() is None
    assert zapq_service.dequeue_nowait() is None
    assert zapq_service.stats().dequeues_empty == 2
    zapq_service.enqueue_nowait(b"c")
    assert zapq_service.clear_nowait() == 1
    zapq_service.enqueue_nowait(b"d")
    assert await zapq_service.clear() == 1


async def test_nowait_does_not_wait_for_the_lock(zapq_service: QueueService) -> None:
    async with zapq_service._lock:

        async def another_task() -> None:
            with pytest.raises(trio.WouldBlock):
                zapq_service.enqueue_nowait(b"x")
            with pytest.raises(trio.WouldBlock):
                zapq_service.dequeue_nowait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(another_task)
    assert zapq_service.stats().queue.enqueued == 0


async def test_limits_are_kept(zapq_settings: Settings) -> None:
    async with open_service(replace(zapq_settings, max_msgs=1, max_message_bytes=3)) as service:
        with pytest.raises(MessageTooLarge):
            await service.enqueue(b"1234")
        await service.enqueue(b"123")
        with pytest.raises(QueueFull):
            await service.enqueue(b"")


async def test_waiters_are_served_first_come_first_served(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    got: list[tuple[int, bytes]] = []

    async def consumer(number: int) -> None:
        message = await zapq_service.dequeue(wait=10)
        assert message is not None
        got.append((number, message.body))

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(consumer, number)
            await wait_all_tasks_blocked()
        for number in range(4):
            zapq_service.enqueue_nowait(b"%d" % number)
    assert sorted(got) == [(number, b"%d" % number) for number in range(4)]
    assert zapq_service.stats().waiting == 0


async def test_a_wait_that_ends_empty_handed_takes_exactly_its_time(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    begun = trio.current_time()
    ended: dict[float, float] = {}

    async def consumer(wait: float) -> None:
        assert await zapq_service.dequeue(wait=wait) is None
        ended[wait] = trio.current_time() - begun

    async with trio.open_nursery() as nursery:
        for wait in (3.0, 60.0, 0.5, 1.0):
            nursery.start_soon(consumer, wait)
    assert {wait: pytest.approx(wait) for wait in ended} == ended
    assert zapq_service.stats().dequeues_empty == 4


@pytest.mark.parametrize("wait", [-0.1, 60.1, inf, float("nan")])
async def test_a_wait_out_of_range_is_refused(zapq_service: QueueService, wait: float) -> None:
    with pytest.raises(InvalidParameter):
        await zapq_service.dequeue(wait=wait)


async def test_a_message_handed_over_in_the_tick_of_a_cancellation_goes_back(
    zapq_service: QueueService, nursery: trio.Nursery
) -> None:
    scope = trio.CancelScope()

    async def consumer() -> None:
        with scope:
            await zapq_service.dequeue(wait=60)

    nursery.start_soon(consumer)
    await wait_all_tasks_blocked()
    scope.cancel()
    first = zapq_service.enqueue_nowait(b"first")  # no checkpoint between the two
    zapq_service.enqueue_nowait(b"second")
    await wait_all_tasks_blocked()
    assert scope.cancelled_caught
    assert zapq_service.dequeue_nowait() is first
    assert zapq_service.stats().queue.returned == 1


async def test_a_message_that_goes_back_serves_the_next_in_line(
    zapq_service: QueueService, nursery: trio.Nursery
) -> None:
    scope = trio.CancelScope()
    got: list[bytes] = []

    async def leaver() -> None:
        with scope:
            await zapq_service.dequeue(wait=60)

    async def stayer() -> None:
        message = await zapq_service.dequeue(wait=60)
        assert message is not None
        got.append(message.body)

    nursery.start_soon(leaver)
    await wait_all_tasks_blocked()
    nursery.start_soon(stayer)
    await wait_all_tasks_blocked()
    scope.cancel()
    zapq_service.enqueue_nowait(b"job")
    await wait_all_tasks_blocked()
    assert got == [b"job"]


async def test_a_waiter_that_left_takes_nothing(zapq_service: QueueService) -> None:
    with trio.move_on_after(0.001):
        await zapq_service.dequeue(wait=60)
    assert zapq_service.stats().waiting == 0
    zapq_service.enqueue_nowait(b"kept")
    assert zapq_service.stats().queue.messages == 1


async def test_every_verb_cancelled_before_it_runs_changes_nothing(zapq_service: QueueService) -> None:
    await zapq_service.enqueue(b"kept")
    before = zapq_service.stats()
    with trio.CancelScope() as scope:
        scope.cancel()
        for verb in (
            lambda: zapq_service.enqueue(b"x"),
            zapq_service.dequeue,
            lambda: zapq_service.dequeue(wait=1),
            zapq_service.clear,
            lambda: zapq_service.snapshot("a.json"),
            lambda: zapq_service.restore("a.json"),
        ):
            with pytest.raises(trio.Cancelled):
                await verb()
    assert zapq_service.stats() == before


async def test_draining_answers_waiters_refuses_newcomers_and_gives_what_is_held(
    zapq_service: QueueService, nursery: trio.Nursery
) -> None:
    refused = 0

    async def consumer() -> None:
        nonlocal refused
        with pytest.raises(Draining):
            await zapq_service.dequeue(wait=60)
        refused += 1

    for _ in range(3):
        nursery.start_soon(consumer)
    await wait_all_tasks_blocked()
    zapq_service.drain()
    await wait_all_tasks_blocked()
    assert refused == 3
    with pytest.raises(Draining):
        await zapq_service.enqueue(b"late")
    await zapq_service.enqueue(b"begun before", begun=True)
    assert await zapq_service.dequeue(wait=60) is not None
    for wait in (0, 60):
        with pytest.raises(Draining):
            await zapq_service.dequeue(wait=wait)


async def test_the_line_of_waiters_is_bounded(zapq_settings: Settings, nursery: trio.Nursery) -> None:
    async with open_service(replace(zapq_settings, max_waiters=1)) as service:
        scope = trio.CancelScope()

        async def consumer() -> None:
            with scope:
                await service.dequeue(wait=60)

        nursery.start_soon(consumer)
        await wait_all_tasks_blocked()
        with pytest.raises(TooManyWaiters):
            await service.dequeue(wait=60)
        scope.cancel()
        await wait_all_tasks_blocked()
        assert service.stats().waiting == 0


async def test_many_producers_and_consumers_lose_and_duplicate_nothing(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    got: dict[int, list[int]] = {producer: [] for producer in range(20)}

    async def produce(producer: int) -> None:
        for number in range(50):
            await zapq_service.enqueue(b"%d %d" % (producer, number))

    async def consume() -> None:
        while (message := await zapq_service.dequeue(wait=1)) is not None:
            producer, number = map(int, message.body.split())
            got[producer].append(number)

    async with trio.open_nursery() as nursery:
        for producer in got:
            nursery.start_soon(consume)
            nursery.start_soon(produce, producer)
    assert got == {producer: list(range(50)) for producer in got}


async def test_an_idle_service_keeps_no_timer(zapq_service: QueueService) -> None:
    await wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().seconds_to_next_deadline == inf


async def test_a_snapshot_comes_back_as_it_was(zapq_service: QueueService) -> None:
    bodies = [b"%d" % number for number in range(3000)]
    for body in bodies:
        zapq_service.enqueue_nowait(body)
    first = zapq_service.dequeue_nowait()
    assert await zapq_service.snapshot("a.json") == 2999
    await zapq_service.enqueue(b"after the snapshot")
    assert await zapq_service.restore("a.json") == 2999
    restored = [zapq_service.dequeue_nowait() for _ in range(2999)]
    assert [message.body for message in restored if message] == bodies[1:]
    ids = [message.id for message in (first, *restored) if message]
    assert ids == sorted(set(ids))
    assert zapq_service.enqueue_nowait(b"").id > ids[-1]


async def test_a_restore_over_the_caps_changes_nothing(
    zapq_service: QueueService, zapq_settings: Settings
) -> None:
    for _ in range(3):
        await zapq_service.enqueue(b"12345")
    await zapq_service.snapshot("a.json")
    for settings in (
        replace(zapq_settings, max_msgs=2),
        replace(zapq_settings, max_bytes=14),
        replace(zapq_settings, max_message_bytes=4),
    ):
        async with open_service(settings) as smaller:
            await smaller.enqueue(b"kept")
            with pytest.raises(SnapshotFailed):
                await smaller.restore("a.json")
            message = smaller.dequeue_nowait()
            assert message is not None
            assert message.body == b"kept"


async def test_a_restore_serves_those_who_wait(zapq_service: QueueService, nursery: trio.Nursery) -> None:
    await zapq_service.enqueue(b"saved")
    await zapq_service.snapshot("a.json")
    await zapq_service.clear()
    got: list[bytes] = []

    async def consumer() -> None:
        message = await zapq_service.dequeue(wait=60)
        assert message is not None
        got.append(message.body)

    nursery.start_soon(consumer)
    await wait_all_tasks_blocked()
    await zapq_service.restore("a.json")
    await wait_all_tasks_blocked()
    assert got == [b"saved"]


async def test_deadlines_of_served_waiters_do_not_pile_up(zapq_service: QueueService) -> None:
    line = WaitingLine()
    message = zapq_service.enqueue_nowait(b"x")
    patient = line.join(1e9)
    for number in range(10_000):
        line.join(1000.0 + number)
        line.leave(patient)
        line.serve(message)
        patient = line.join(1e9)
    assert len(line) == 1
    assert len(line._deadlines) <= 2 * len(line) + 64
