"""The running queue in a plain Trio program: who gets what, when, and what cancellation leaves behind."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.waiting import eventually
from zapq.core.message import Message
from zapq.errors import Draining, InvalidParameter, MessageTooLarge, QueueFull, SnapshotFailed, TooManyWaiters
from zapq.service.open import open_service
from zapq.service.operations import Offer
from zapq.service.service import QueueService
from zapq.service.waiting import WaitingRoom, WaitQueue, Want
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
    zapq_service.enqueue_nowait(b"d")
    assert await zapq_service.clear() == 1


async def test_nowait_does_not_wait_for_the_lock(zapq_service: QueueService) -> None:
    async with zapq_service.lock:

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


async def test_a_message_put_back_serves_whoever_waits(zapq_service: QueueService, nursery: trio.Nursery) -> None:
    message = zapq_service.enqueue_nowait(b"job")
    assert zapq_service.dequeue_nowait() is message
    got: list[Message | None] = []

    async def consumer() -> None:
        got.append(await zapq_service.dequeue(wait=60))

    nursery.start_soon(consumer)
    await wait_all_tasks_blocked()
    zapq_service.default.return_undelivered([message])
    await wait_all_tasks_blocked()
    assert got == [message]
    assert zapq_service.stats().queue.messages == 0


async def test_a_waiter_that_left_takes_nothing(zapq_service: QueueService, autojump_clock: MockClock) -> None:
    with trio.move_on_after(1):
        await zapq_service.dequeue(wait=60)
    assert zapq_service.stats().waiting == 0
    zapq_service.enqueue_nowait(b"kept")
    assert zapq_service.stats().queue.messages == 1


VERBS: dict[str, Callable[[QueueService], Awaitable[object]]] = {
    "enqueue": lambda service: service.enqueue(b"x"),
    "dequeue": lambda service: service.dequeue(),
    "wait": lambda service: service.dequeue(wait=1),
    "clear": lambda service: service.clear(),
    "snapshot": lambda service: service.snapshot("new.json"),
    "restore": lambda service: service.restore("empty.json"),
    "snapshot of everything": lambda service: service.snapshot("new.msgpack"),
    "restore of everything": lambda service: service.restore("empty.msgpack"),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_every_verb_cancelled_before_it_runs_changes_nothing(
    zapq_service: QueueService, tmp_path: Path, verb: str
) -> None:
    await zapq_service.snapshot("empty.json")
    await zapq_service.snapshot("empty.msgpack")
    await zapq_service.enqueue(b"kept")
    before = zapq_service.stats()
    with trio.CancelScope() as scope:
        scope.cancel()
        await VERBS[verb](zapq_service)
    assert scope.cancelled_caught
    assert zapq_service.stats() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.json", "empty.msgpack"]


@pytest.mark.parametrize("verb", VERBS)
async def test_every_verb_cancelled_in_line_for_the_lock_changes_nothing(
    zapq_service: QueueService, tmp_path: Path, verb: str
) -> None:
    await zapq_service.snapshot("empty.json")
    await zapq_service.snapshot("empty.msgpack")
    await zapq_service.enqueue(b"kept")
    before = zapq_service.stats()
    scope = trio.CancelScope()

    async def caller() -> None:
        with scope:
            await VERBS[verb](zapq_service)

    async with trio.open_nursery() as nursery, zapq_service.lock:
        nursery.start_soon(caller)
        # Restoring reads a file first, in a thread.
        await eventually(lambda: zapq_service.lock.statistics().tasks_waiting, "the verb to want the lock")
        scope.cancel()
        await wait_all_tasks_blocked()
    assert scope.cancelled_caught
    assert zapq_service.stats() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.json", "empty.msgpack"]


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
    await zapq_service.default.put(Offer(b"begun before", exempt_from_drain=True))
    assert await zapq_service.dequeue(wait=60) is not None
    for wait in (0, 60):
        with pytest.raises(Draining):
            await zapq_service.dequeue(wait=wait)


async def test_when_the_block_ends_those_who_still_wait_are_answered(
    zapq_settings: Settings, nursery: trio.Nursery
) -> None:
    answered = trio.Event()

    async def consumer(service: QueueService) -> None:
        with pytest.raises(Draining):
            await service.dequeue(wait=60)
        answered.set()

    async with open_service(zapq_settings) as service:
        nursery.start_soon(consumer, service)
        await wait_all_tasks_blocked()
    await answered.wait()
    assert service.draining


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
    sent: dict[int, list[int]] = {producer: [] for producer in range(25)}
    got: dict[int, list[Message]] = {consumer: [] for consumer in range(25)}

    async def produce(producer: int) -> None:
        for number in range(40):
            message = await zapq_service.enqueue(b"%d %d" % (producer, number))
            sent[producer].append(message.id)

    async def consume(consumer: int) -> None:
        while (message := await zapq_service.dequeue(wait=1)) is not None:
            got[consumer].append(message)

    async with trio.open_nursery() as nursery:
        for each in range(25):
            nursery.start_soon(consume, each)
            nursery.start_soon(produce, each)
    for consumer in got:
        ids = [message.id for message in got[consumer]]
        assert ids == sorted(ids)
    everything = sorted((message for part in got.values() for message in part), key=lambda message: message.id)
    assert [message.id for message in everything] == list(range(1, 1001))
    for producer, ids in sent.items():
        assert ids == sorted(ids)
        own = [message.body for message in everything if message.id in set(ids)]
        assert own == [b"%d %d" % (producer, number) for number in range(40)]
    queue = zapq_service.stats().queue
    assert (queue.enqueued, queue.dequeued, queue.messages) == (1000, 1000, 0)


async def test_consumers_that_keep_leaving_lose_nothing(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    got: list[int] = []

    async def produce() -> None:
        for number in range(300):
            # The beat is the consumers' patience too, so that message and deadline fall into one tick.
            await trio.sleep(0.01)
            try:
                zapq_service.enqueue_nowait(b"%d" % number)
            except trio.WouldBlock:
                await zapq_service.enqueue(b"%d" % number)

    async def consume(patience: float) -> None:
        while len(got) < 300:
            with trio.move_on_after(patience):
                message = await zapq_service.dequeue(wait=60)
                assert message is not None
                got.append(int(message.body))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce)
            for consumer in range(5):
                nursery.start_soon(consume, 0.01 if consumer else 0.025)
    assert sorted(got) == list(range(300))
    assert zapq_service.stats().queue.returned > 0


async def test_an_idle_service_keeps_no_timer(zapq_service: QueueService, autojump_clock: MockClock) -> None:
    def seconds_to_the_timer() -> float:
        return trio.lowlevel.current_statistics().seconds_to_next_deadline

    await wait_all_tasks_blocked()
    assert seconds_to_the_timer() == inf
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(zapq_service.dequeue, wait=5))
        nursery.start_soon(partial(zapq_service.dequeue, wait=50))
        await wait_all_tasks_blocked()
        assert seconds_to_the_timer() == pytest.approx(5)
    await wait_all_tasks_blocked()
    assert seconds_to_the_timer() == inf


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


@pytest.mark.parametrize("name", ["", "../a.json", "a.txt", "../a.msgpack", ".a.msgpack"])
async def test_an_unsafe_name_is_refused_before_anything_happens(
    zapq_service: QueueService, tmp_path: Path, name: str
) -> None:
    zapq_service.enqueue_nowait(b"kept")
    before = zapq_service.stats()
    with pytest.raises(InvalidParameter):
        await zapq_service.snapshot(name)
    with pytest.raises(InvalidParameter):
        await zapq_service.restore(name)
    assert zapq_service.stats() == before
    assert list(tmp_path.iterdir()) == []


async def test_a_draining_service_is_saved_but_not_replaced(zapq_service: QueueService) -> None:
    zapq_service.enqueue_nowait(b"kept")
    zapq_service.drain()
    assert await zapq_service.snapshot("a.json") == 1
    with pytest.raises(Draining):
        await zapq_service.restore("a.json")
    assert zapq_service.stats().queue.messages == 1


async def test_the_service_goes_on_while_a_worker_writes(
    zapq_service: QueueService, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, proceed = trio.Event(), threading.Event()
    save = zapq_service.snapshots.store.save

    def slow(name: str, bodies: list[bytes], step: object) -> None:
        trio.from_thread.run_sync(writing.set)
        proceed.wait()
        save(name, bodies)

    monkeypatch.setattr(zapq_service.snapshots.store, "save", slow)
    await zapq_service.enqueue(b"copied")
    async with trio.open_nursery() as saving:
        saving.start_soon(zapq_service.snapshot, "a.json")
        await writing.wait()
        try:
            assert await zapq_service.dequeue() is not None
            await zapq_service.enqueue(b"later")
        finally:
            proceed.set()
    await zapq_service.restore("a.json")
    message = await zapq_service.dequeue()
    assert message is not None
    assert message.body == b"copied"


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
    lender = zapq_service.state("default")
    room, line = WaitingRoom(), WaitQueue()
    patient = room.join(line, Want(), 1e9, lambda: None)
    for number in range(10_000):
        room.join(line, Want(), 1000.0 + number, lambda: None)
        room.leave(patient)
        room.serve(next(iter(line.values())), (), lender)
        patient = room.join(line, Want(), 1e9, lambda: None)
    assert len(room) == len(line) == 1
    assert len(room._patience._heap) <= 2 * len(room) + 64


@pytest.mark.parametrize("name", ["a.json", "a.msgpack"])
async def test_a_restore_that_is_cancelled_as_it_happens_says_that_it_happened(
    zapq_service: QueueService, nursery: trio.Nursery, name: str
) -> None:
    await zapq_service.enqueue(b"saved")
    await zapq_service.snapshot(name)
    await zapq_service.clear()
    await zapq_service.enqueue(b"replaced")
    scope, finished = trio.CancelScope(), trio.Event()

    async def restore() -> None:
        with scope:
            assert await zapq_service.restore(name) == 1
            finished.set()

    nursery.start_soon(restore)
    lock = zapq_service.lock
    for _ in range(2):  # it takes the lock once to number the messages, and once to put them in place
        await lock.acquire()
        await eventually(lambda: lock.statistics().tasks_waiting, "the load to want the lock")
        lock.release()
    scope.cancel()  # it has been handed the lock and cannot be stopped any more
    with trio.fail_after(10):
        await finished.wait()
    message = zapq_service.dequeue_nowait()
    assert message is not None
    assert message.body == b"saved"


async def test_a_cancelled_snapshot_leaves_the_older_file_and_nothing_else(
    zapq_service: QueueService, zapq_settings: Settings, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = Path(zapq_settings.data_dir)
    await zapq_service.snapshot("a.json")
    monkeypatch.setattr("zapq.store.slices.SLICE_BYTES", 1)
    for _ in range(10_000):
        zapq_service.enqueue_nowait(b"x")
    with trio.CancelScope() as scope:

        async def cancel_once_it_writes() -> None:
            await eventually(lambda: len(list(directory.iterdir())) == 2, "a file to be begun")
            scope.cancel()

        nursery.start_soon(cancel_once_it_writes)
        await zapq_service.snapshot("a.json")
    assert scope.cancelled_caught
    assert [path.name for path in directory.iterdir()] == ["a.json"]
    assert (directory / "a.json").read_bytes() == b"[]"
