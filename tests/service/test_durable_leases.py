"""Leases on disk: how they end, and what that waits for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import zapq
from tests.service.asking import leased, taken
from tests.support.disk import Disk, open_durable, works_again
from zapq.core.queue_settings import QueueSettings
from zapq.errors import ReceiptExpired, StorageUnavailable
from zapq.service.operations import Action, Settlement
from zapq.settings import Settings


async def test_two_acknowledgements_at_once_are_both_fine(tmp_path: Path) -> None:
    async with open_durable(tmp_path) as service:
        await service.enqueue(b"a")
        lease = await leased(service.default)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.default.ack, lease.receipt)
            nursery.start_soon(service.default.ack, lease.receipt)
        twice = [Settlement(receipt=lease.receipt)] * 2
        assert await service.default.settle(twice) == [None, None]
        await service.enqueue(b"b")
        lease = await leased(service.default)
        both = [Settlement(receipt=lease.receipt), Settlement(receipt=lease.receipt, action="release")]
        ok, refused = await service.default.settle(both)
        assert ok is None
        assert isinstance(refused, ReceiptExpired)


async def test_a_lease_of_a_block_is_acknowledged_on_the_disk(tmp_path: Path) -> None:
    async with open_durable(tmp_path) as service:
        await service.default.enqueue_many([b"a", b"b"])
        async with service.default.lease() as lease:
            assert lease.body == b"a"
        with pytest.raises(RuntimeError):
            async with service.default.lease():
                raise RuntimeError
    async with open_durable(tmp_path) as service:
        [held] = await service.default.peek()
        assert (held.message.body, held.receives) == (b"b", 1)


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("action", ["ack", "release"])
async def test_a_block_may_settle_its_lease_itself(tmp_path: Path, action: Action, durable: bool) -> None:
    async def settle_and(end: Callable[[], object]) -> None:
        async with service.default.lease() as lease:
            service.default.settle_nowait(Settlement(receipt=lease.receipt, action=action))
            end()

    async with zapq.open_service(Settings(data_dir=str(tmp_path), durable=durable)) as service:
        await service.default.enqueue(b"a")
        with pytest.raises(ReceiptExpired) if action == "release" else nullcontext():
            await settle_and(dict)
        await service.default.clear()
        await service.default.enqueue(b"b")
        with pytest.raises(KeyError):
            await settle_and({}.popitem)
        assert await taken(service.default) == ([b"b"] if action == "release" else [])


async def test_a_block_whose_end_cannot_be_written_leaves_its_message_to_others(
    tmp_path: Path, disk: Disk
) -> None:
    async def end(act: Callable[[str], object]) -> None:
        async with service.default.lease() as lease:
            disk.failing = True
            act(lease.receipt)

    async with open_durable(tmp_path) as service:
        await service.default.enqueue(b"a")
        acts: list[tuple[Callable[[str], object], type[Exception]]] = [
            (int, ValueError),
            (len, StorageUnavailable),
            (service.default.ack_nowait, StorageUnavailable),
        ]
        for act, error in acts:
            with pytest.raises(error):
                await end(act)
            disk.failing = False
            await works_again(service)
        assert await taken(service.default) == [b"a"]


async def test_a_late_ack_is_on_the_disk_and_one_that_fails_has_not_happened(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        queue = service.default
        await queue.enqueue_many([b"a", b"b"])
        first, second = [await leased(queue, visibility=0.0) for _ in range(2)]
        assert first.body == second.body == b"a"
        with pytest.raises(ReceiptExpired, match="given out again"):
            await queue.ack(first.receipt)
        disk.failing = True
        with pytest.raises(StorageUnavailable):
            await queue.ack(second.receipt)
        disk.failing = False
        await works_again(service)
        await wait_all_tasks_blocked()  # the timer comes to the lease that is over
        assert [each.message.body for each in await queue.peek()] == [b"a", b"b"]
        disk.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.ack, second.receipt)
            nursery.start_soon(queue.ack, second.receipt)
            await wait_all_tasks_blocked()
            # While its ack is being written, no consumer gets it.
            assert [each.message.body for each in await queue.peek()] == [b"b"]
            disk.go_on()
        assert queue.info().stats.acked == 1
    async with open_durable(tmp_path) as service:
        assert await taken(service.default) == [b"b"]


async def test_what_rests_on_a_lease_that_expired_is_answered(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        await service.enqueue(b"a")
        first = await leased(service.default, visibility=0.0)
        await service.default.pause()
        await service.stored()
        # That it is over is nothing to be written; that the message is not given out is not known yet.
        with pytest.raises(ReceiptExpired):
            await service.default.release(first.receipt)


async def test_a_block_that_ends_while_its_queue_is_purged_waits_for_the_purge(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        await service.default.enqueue_many([b"abc", b"def"])
        dequeued = await service.default.dequeue()
        assert dequeued is not None

        async def hold_over_the_purge() -> None:
            async with service.default.lease():
                disk.hold()
                nursery.start_soon(service.default.clear)
                await disk.held()
                service.default.return_undelivered([dequeued])
                nursery.start_soon(trio.to_thread.run_sync, disk.go_on)

        async with trio.open_nursery() as nursery:
            with pytest.raises(ReceiptExpired):
                await hold_over_the_purge()
        stats = service.stats().queue
        assert (stats.messages, stats.bytes, stats.leased, stats.ready) == (1, 3, 0, 1)
    async with open_durable(tmp_path) as service:
        assert await taken(service.default) == [b"abc"], "it was not in the queue when that was purged"


async def test_a_late_ack_does_not_meet_a_redrive_that_is_being_written(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        await service.configure("jobs", QueueSettings(max_receives=1, dead_letter="dead"))
        jobs, dead = service.queue("jobs"), service.queue("dead")
        await jobs.enqueue(b"abc")
        await leased(jobs, 0.0)

        async def hold_over_the_redrive() -> None:
            async with dead.lease(visibility=0.0):
                disk.hold()
                nursery.start_soon(dead.redrive)
                await disk.held()
                nursery.start_soon(trio.to_thread.run_sync, disk.go_on)

        async with trio.open_nursery() as nursery:
            with pytest.raises(ReceiptExpired):
                await hold_over_the_redrive()
        for queue, messages in ((jobs, 1), (dead, 0)):
            stats = queue.info().stats
            assert (stats.messages, stats.bytes, stats.ready) == (messages, 3 * messages, messages)


@pytest.mark.parametrize("durable", [False, True])
async def test_settlements_of_one_call_are_the_same_in_memory_and_on_disk(tmp_path: Path, durable: bool) -> None:
    async with zapq.open_service(Settings(data_dir=str(tmp_path), durable=durable)) as service:
        queue = service.default
        await queue.enqueue(b"abc")
        lease = await leased(queue, 0.0)
        late = [Settlement(receipt=lease.receipt, action="release"), *[Settlement(receipt=lease.receipt)] * 2]
        refused, *accepted = await queue.settle(late)
        assert isinstance(refused, ReceiptExpired)
        assert accepted == [None, None]


async def test_a_lease_whose_ack_could_not_be_written_goes_on(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        await service.default.enqueue(b"abc")
        lease = await leased(service.default, 30.0)
        disk.hold()
        refused: list[str] = []

        async def surely_refused(settle: Callable[[str], Awaitable[object]], name: str) -> None:
            with pytest.raises(StorageUnavailable):
                await settle(lease.receipt)
            refused.append(name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(surely_refused, service.default.ack, "ack")
            await wait_all_tasks_blocked()
            # That the lease is over by then is not on the disk yet.
            nursery.start_soon(surely_refused, service.default.extend, "extend")
            nursery.start_soon(surely_refused, service.default.ack, "ack again")
            await wait_all_tasks_blocked()
            assert not refused
            disk.failing = True
            disk.go_on()
        assert sorted(refused) == ["ack", "ack again", "extend"]
        disk.failing = False
        await works_again(service)
        extended = await service.default.extend(lease.receipt, visibility=60)
        assert extended.visibility == 30.0, "its own time, which a later extension without one takes"
