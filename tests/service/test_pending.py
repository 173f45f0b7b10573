"""Outcomes that are to come: each is completed once, and an asker that leaves loses no message."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.service.asking import asked, got, perform, put, surely_put, wait_for
from tests.support.disk import Disk, open_durable, works_again
from zapq.core.broker import Broker, Redriven
from zapq.errors import Draining, QueueNotFound, ReceiptExpired, StorageUnavailable, ZapqError
from zapq.service.open import open_service
from zapq.service.operations import (
    Accepted,
    Delete,
    Delivery,
    Enqueue,
    List,
    Offer,
    Purge,
    Put,
    Redrive,
    Settle,
    Settlement,
    SettleOne,
    Take,
)
from zapq.service.pending import Commit, Pending
from zapq.service.queue_state import QueueState
from zapq.service.service import QueueService
from zapq.service.waiting import ONE, Waiter, Want
from zapq.settings import Settings


def counting(pending: Pending[Any]) -> list[bool]:
    """Return a list that gets an entry each time the outcome is made known."""
    calls: list[bool] = []
    pending.when_done(lambda: calls.append(pending.done))
    return calls


def ready(service: QueueService) -> int:
    return service.default.info().stats.ready


LEASE = Take("default", Want(lease=True, visibility=30.0))


async def test_a_poll_is_completed_once(zapq_service: QueueService, autojump_clock: MockClock) -> None:
    poll = wait_for(zapq_service, "default", wait=5.0)
    calls = counting(poll)
    zapq_service.enqueue_nowait(b"a")
    zapq_service.enqueue_nowait(b"b")
    zapq_service.drain()
    await trio.sleep(10)
    assert (calls, got(poll)) == ([True], [b"a"])
    assert ready(zapq_service) == 1


async def test_a_poll_that_is_left_calls_no_more_and_takes_nothing(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    before, after = wait_for(zapq_service, "default"), wait_for(zapq_service, "default")
    calls = counting(before) + counting(after)
    before.abandon()
    zapq_service.enqueue_nowait(b"a")
    assert after.done
    after.abandon()
    await trio.sleep(100)
    assert calls == []
    assert (ready(zapq_service), zapq_service.default.info().stats.returned) == (1, 1)


async def test_a_consumer_that_is_served_may_make_messages_ready_in_that_very_step(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    releases = []
    for queue in ("default", "other"):
        zapq_service.queue(queue).enqueue_nowait(queue.encode())
        lease = zapq_service.queue(queue).receive_nowait()
        assert lease is not None
        releases.append(SettleOne(queue, Settlement(receipt=lease.receipt, action="release")))
    first, second = wait_for(zapq_service, "default"), wait_for(zapq_service, "other")
    first.when_done(partial(perform, zapq_service, releases[1]))
    perform(zapq_service, releases[0])
    assert (got(first), got(second)) == ([b"default"], [b"other"])


async def test_what_is_asked_while_the_lock_is_held_is_done_when_it_is_free(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    await zapq_service.enqueue(b"a")
    async with zapq_service.lock:
        taking = asked(zapq_service, LEASE)
        storing = asked(zapq_service, Put(b"b", queue="default"))
        calls = [counting(taking), counting(storing)]
        await trio.sleep(20)
        assert (calls, ready(zapq_service)) == ([[], []], 1)
    await wait_all_tasks_blocked()
    assert calls == [[True], [True]]
    delivery = taking.result()
    # It lasts from when it was given, not from when it was asked for.
    assert delivery.given[0].deadline == trio.current_time() + 30.0
    assert storing.result() == Accepted(2)


async def test_the_commonest_operations_do_not_come_between_the_parts_of_a_change(
    zapq_service: QueueService,
) -> None:
    await zapq_service.enqueue(b"a")
    async with zapq_service.lock:
        taking = asked(zapq_service, Take("default", ONE))
        storing = asked(zapq_service, Enqueue("elsewhere", b"b"))
        assert ready(zapq_service) == 1
    await wait_all_tasks_blocked()
    assert (got(taking), storing.result()) == ([b"a"], Accepted(1))


async def test_what_waits_for_the_lock_and_is_abandoned_is_not_begun(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    await zapq_service.enqueue(b"a")
    before = zapq_service.stats()
    async with zapq_service.lock:
        many = [asked(zapq_service, each) for each in (LEASE, Put(b"b", queue="new"), Take("new", Want(), 60.0))]
        calls = [counting(each) for each in many]
        for each in many:
            each.abandon()
    await wait_all_tasks_blocked()
    assert calls == [[], [], []]
    assert zapq_service.stats() == before
    assert zapq_service._expected == {}


async def test_a_wait_for_the_lock_that_is_cancelled_begins_nothing(zapq_service: QueueService) -> None:
    async with zapq_service.lock:
        storing = asked(zapq_service, Put(b"a", queue="default"))
        with trio.move_on_after(0) as scope:
            await storing.wait()
        assert scope.cancelled_caught
    await wait_all_tasks_blocked()
    assert ready(zapq_service) == 0


async def test_a_long_poll_behind_the_lock_stands_in_line_after_it(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    async with zapq_service.lock:
        stays, goes, left = [asked(zapq_service, Take("default", Want(), 60.0)) for _ in range(3)]
    await wait_all_tasks_blocked()
    assert zapq_service.stats().waiting == 3
    goes.abandon()
    with trio.move_on_after(1) as scope:
        await left.wait()
    assert scope.cancelled_caught
    assert zapq_service.stats().waiting == 1
    calls = counting(stays)
    zapq_service.enqueue_nowait(b"a")
    assert (calls, got(stays)) == ([True], [b"a"])


async def test_what_refuses_it_is_raised_to_the_asker_alone(zapq_service: QueueService) -> None:
    async with zapq_service.lock:
        lost = asked(zapq_service, Take("nowhere", Want()))
        ignored = asked(zapq_service, Take("nowhere", Want()))
        ignored.abandon()
        again = asked(zapq_service, Put(b"a", queue="default"))
    assert await again.wait() == Accepted(1)
    with pytest.raises(QueueNotFound):
        await lost.wait()


async def test_a_handle_of_a_queue_that_is_being_deleted_takes_nothing_of_its_namesake(
    tmp_path: Path, disk: Disk
) -> None:
    async with open_durable(tmp_path) as service:
        queue = service.queue("jobs")
        await service.stored()
        refused = []

        async def receive() -> None:
            with pytest.raises(QueueNotFound):
                await queue.receive(wait=60)
            refused.append(True)

        disk.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.delete, "jobs")
            await disk.held()
            nursery.start_soon(receive)
            await wait_all_tasks_blocked()
            disk.go_on()
        assert (refused, service._expected) == ([True], {})


async def test_what_is_asked_during_a_purge_is_done_after_it(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        await service.default.enqueue_many([b"old"] * 3)
        lease = await service.default.receive()
        assert lease is not None
        disk.hold()
        purge = asked(service, Purge("default"))
        await disk.held()
        taking, storing = asked(service, LEASE), asked(service, Put(b"new", queue="default"))
        acking = asked(service, SettleOne("default", Settlement(receipt=lease.receipt)))
        gone = asked(service, Put(b"nobody's", queue="default"))
        gone.abandon()
        assert not any(each.done for each in (purge, taking, storing, acking))
        disk.go_on()
        assert await purge.wait() == 3
        assert await storing.wait() == Accepted(4, durability="committed")
        with pytest.raises(ReceiptExpired):
            await acking.wait()
        outcome = await taking.wait()
        bodies = [each.body for each in outcome.given] if isinstance(outcome, Delivery) else []
        assert [*bodies, *(each.message.body for each in await service.default.peek())] == [b"new"]


async def leases(service: QueueService) -> tuple[int, int, int]:
    await service.stored()
    stats = service.default.info().stats
    return stats.ready, stats.leased, stats.received


async def test_messages_whose_asker_leaves_while_they_are_being_taken_are_back_after_that(
    tmp_path: Path, disk: Disk
) -> None:
    async with open_durable(tmp_path) as service:
        await service.default.enqueue_many([b"a", b"b", b"c", b"d"])
        disk.hold()
        lease, batch = asked(service, LEASE), asked(service, Take("default", Want(2)))
        one = asked(service, Take("default", ONE))
        assert isinstance(lease, Commit)
        calls = counting(lease), counting(batch), counting(one)
        assert (lease.done, ready(service)) == (False, 0)
        lease.abandon()
        batch.abandon()
        one.abandon()
        assert ready(service) == 0, "that they were taken is on its way to the disk"
        disk.go_on()
        assert await leases(service) == (4, 0, 0)
        assert calls == ([], [], [])
        late = asked(service, LEASE)
        await service.stored()
        late.abandon()
        assert await leases(service) == (4, 0, 0)
    async with open_durable(tmp_path) as service:
        assert [each.message.body for each in await service.default.peek()] == [b"a", b"b", b"c", b"d"]


async def test_messages_whose_asker_leaves_and_whose_taking_is_not_written_never_went(
    tmp_path: Path, disk: Disk
) -> None:
    async with open_durable(tmp_path) as service:
        await service.default.enqueue_many([b"a", b"b"])
        disk.hold()
        left, late = asked(service, LEASE), asked(service, Take("default", Want()))
        left.abandon()
        disk.failing = True
        disk.go_on()
        with pytest.raises(StorageUnavailable):
            await service.stored()
        late.abandon()
        disk.failing = False
        await works_again(service)
        assert await leases(service) == (2, 0, 0)


@pytest.mark.parametrize("fails", [False, True], ids=["written", "not written"])
async def test_a_cancelled_receive_that_is_being_written_returns_the_lease_or_was_none(
    tmp_path: Path, disk: Disk, fails: bool
) -> None:
    async with open_durable(tmp_path) as service:
        await service.enqueue(b"a")
        ended: list[object] = []
        scope = trio.CancelScope()

        async def receive() -> None:
            with scope:
                try:
                    ended.append(await service.default.receive())
                except StorageUnavailable as error:
                    ended.append(str(error))

        disk.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await disk.held()
            scope.cancel()
            await wait_all_tasks_blocked()
            assert not ended
            disk.failing = fails
            disk.go_on()
        assert (len(ended), scope.cancelled_caught) == (1, False)
        disk.failing = False
        await works_again(service)
        assert await leases(service) == ((1, 0, 0) if fails else (0, 1, 1))


async def test_a_put_whose_asker_leaves_is_stored_all_the_same(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        await service.stored()
        disk.hold()
        pending = put(service, Offer(b"a"))
        assert isinstance(pending, Commit)
        calls = counting(pending)
        pending.abandon()
        disk.go_on()
        await service.stored()
        assert (calls, service.find("new").info().stats.ready) == ([], 1)


async def test_a_commit_is_completed_once(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        await service.stored()
        disk.hold()
        pending = put(service, Offer(b"a"))
        assert isinstance(pending, Commit)
        calls = counting(pending)
        disk.go_on()
        await service.stored()
        await surely_put(service, Offer(b"b"))
        assert (calls, pending.result()) == ([True], Accepted(1, durability="committed"))


async def test_a_service_that_ends_refuses_what_waits_for_the_lock(zapq_settings: Settings) -> None:
    # The task that holds the lock, here for ever, would be one that waits for the disk.
    async with open_service(zapq_settings) as service:
        await service.lock.acquire()
        early = asked(service, Put(b"a", queue="default"))
        await wait_all_tasks_blocked()
        late = asked(service, Put(b"a", queue="default"))
    for each in (early, late):
        assert each.done
        with pytest.raises(Draining):
            each.result()
    with pytest.raises(Draining):
        perform(service, Put(b"a", queue="default"))


async def test_a_durable_service_that_ends_refuses_what_waits_for_the_disk(tmp_path: Path, disk: Disk) -> None:
    async with trio.open_nursery() as nursery, open_durable(tmp_path) as service:
        service.queue("old")
        await service.stored()
        disk.hold()
        deleting = asked(service, Delete("old"))
        await disk.held()
        behind = asked(service, Put(b"a", queue="default"))
        await wait_all_tasks_blocked()
        refused = counting(behind)

        async def go_on() -> None:
            while not refused:
                await trio.lowlevel.checkpoint()
            disk.go_on()

        nursery.start_soon(go_on)
    assert deleting.done
    assert deleting.result() is None
    with pytest.raises(Draining):
        behind.result()


@contextmanager
def no_garbage() -> Iterator[None]:
    """Assert that the block leaves nothing of ours to the garbage collector."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
        gc.collect()
        assert not [each for each in gc.garbage if isinstance(each, Pending | Waiter | ZapqError)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def refuse(pending: Pending[Any]) -> None:
    try:
        pending.result()
    except (QueueNotFound, Draining):
        pass
    else:
        raise AssertionError


def is_served(service: QueueService) -> None:
    poll = wait_for(service, "default")
    poll.when_done(partial(isinstance, poll, Pending))
    service.enqueue_nowait(b"a")
    assert got(poll) == [b"a"]


def leaves(service: QueueService) -> None:
    poll = wait_for(service)
    poll.when_done(partial(isinstance, poll, Pending))
    poll.abandon()


def is_refused_in_line(service: QueueService) -> None:
    service.queue("gone")
    polls = [wait_for(service, "gone") for _ in range(3)]
    service._delete("gone")
    for poll in polls:
        refuse(poll)


@pytest.mark.parametrize("fate", [is_served, leaves, is_refused_in_line])
async def test_a_poll_that_is_over_leaves_no_garbage(
    zapq_service: QueueService, fate: Callable[[QueueService], None]
) -> None:
    fate(zapq_service)
    with no_garbage():
        fate(zapq_service)


@pytest.mark.parametrize("abandoned", [False, True], ids=["asked for", "abandoned"])
async def test_what_waited_for_the_lock_leaves_no_garbage(zapq_service: QueueService, abandoned: bool) -> None:
    async def once() -> None:
        await zapq_service.lock.acquire()
        refused = asked(zapq_service, Take("nowhere", Want()))
        poll = asked(zapq_service, Take("default", Want(), 60.0))
        for each in (refused, poll):
            each.when_done(partial(isinstance, each, Pending))
        if abandoned:
            refused.abandon()
        zapq_service.lock.release()
        await wait_all_tasks_blocked()
        poll.abandon()
        if not abandoned:
            refuse(refused)

    await once()
    with no_garbage():
        await once()


async def test_settlements_that_meet_what_is_being_settled_wait_for_it(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        await service.default.enqueue_many([b"a", b"b"])
        first, second = await service.default.receive_many(2)
        disk.hold()
        one = asked(service, SettleOne("default", Settlement(receipt=first.receipt)))
        many = asked(
            service, Settle("default", [Settlement(receipt=each.receipt) for each in (second, first, second)])
        )
        assert isinstance(many, Commit)
        disk.go_on()
        assert await one.wait() is None
        assert await many.wait() == [None, None, None]
        assert service.default.info().stats.acked == 2


async def test_settlements_that_are_refused_leave_no_garbage(zapq_service: QueueService) -> None:
    # Found by the garbage collector, a thousand of them take it 30 ms.
    settlements = [Settlement(receipt=f"abc-1-{number:x}") for number in range(1, 1001)]
    with no_garbage():
        results = perform(zapq_service, Settle("default", settlements))
        assert len(results) == 1000
        del results


class Passes:
    """Counts the passes of the scheduler, and how much is done in each."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.done: Counter[int] = Counter()
        self.number = 0
        nursery.start_soon(self._count)

    async def _count(self) -> None:
        while True:
            await trio.lowlevel.checkpoint()
            self.number += 1

    def watch(self, monkeypatch: pytest.MonkeyPatch, owner: type, method: str) -> None:
        """Count the calls of a method."""
        original = getattr(owner, method)

        def counted(*arguments: Any) -> Any:
            self.done[self.number] += 1
            return original(*arguments)

        monkeypatch.setattr(owner, method, counted)


async def test_redrives_that_are_asked_for_at_once_are_done_one_by_one(
    zapq_service: QueueService, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = Passes(nursery)
    passes.watch(monkeypatch, Broker, "redrive")
    redrives = [asked(zapq_service, Redrive("default")) for _ in range(10)]
    for redrive in redrives:
        assert await redrive.wait() == Redriven(0, 0)
    assert list(passes.done.values()) == [1] * 10


async def test_many_queues_are_listed_some_at_a_time_however_many_ask(
    zapq_service: QueueService, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zapq.engine.local.LISTED_AT_ONCE", 10)
    for number in range(34):
        zapq_service.queue(f"queue.{number:02}")
    passes = Passes(nursery)
    passes.watch(monkeypatch, QueueState, "info")
    listings = [asked(zapq_service, List()) for _ in range(5)]
    await listings[0].wait()
    await zapq_service.delete("queue.33")
    zapq_service.queue("queue.34")
    for listing in listings[1:]:
        names = [info.name for info in await listing.wait()]
        assert names[:34] == ["default", *(f"queue.{number:02}" for number in range(33))]
    assert max(passes.done.values()) <= 10
    assert [info.name for info in await asked(zapq_service, List("*.3?")).wait()] == [
        "queue.30",
        "queue.31",
        "queue.32",
        "queue.34",
    ]
