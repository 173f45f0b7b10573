"""Consumers that wait for the first message of a queue that is not there yet, and producers that make it."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

import zapq
from tests.service.asking import got, put, surely_put, wait_for
from tests.support.disk import Disk, open_durable, works_again
from zapq.core.queue_settings import QueueSettings
from zapq.errors import (
    Draining,
    InvalidParameter,
    MessageTooLarge,
    QueueNotFound,
    StorageUnavailable,
    TooManyQueues,
    TooManyWaiters,
)
from zapq.service.open import open_service
from zapq.service.operations import Accepted, Delivery, Nothing, Offer
from zapq.service.pending import Pending
from zapq.service.service import QueueService
from zapq.service.waiting import Want
from zapq.settings import Settings

TOO_LARGE = Offer(bytes(200_000))


def assert_nothing_left(service: QueueService, queue: str = "new") -> None:
    assert service._expected == {}
    assert service.stats().waiting == 0
    with pytest.raises(QueueNotFound):
        service.find(queue)


@pytest.mark.parametrize("durable", [False, True], ids=["memory", "durable"])
@pytest.mark.parametrize("want", [Want(), Want(5), Want(lease=True), Want(5, lease=True)])
async def test_the_first_message_serves_those_who_wait(tmp_path: Path, durable: bool, want: Want) -> None:
    async with zapq.open_service(Settings(data_dir=str(tmp_path), durable=durable)) as service:
        poll = wait_for(service, want=want)
        with pytest.raises(QueueNotFound):
            service.find("new")
        assert service.stats().waiting == 1
        await surely_put(service, Offer(b"first"))
        outcome = await poll.wait()
        assert isinstance(outcome, Delivery)
        assert (outcome.queue.name, [each.body for each in outcome.given]) == ("new", [b"first"])
        assert (service._expected, service.stats().waiting) == ({}, 0)


@pytest.mark.parametrize("durable", [False, True], ids=["memory", "durable"])
async def test_a_dead_letter_queue_the_core_makes_is_the_one_they_wait_for(tmp_path: Path, durable: bool) -> None:
    async with zapq.open_service(Settings(data_dir=str(tmp_path), durable=durable)) as service:
        poll = wait_for(service, "dead")
        await service.configure("jobs", QueueSettings(max_receives=1, dead_letter="dead"))
        jobs = service.queue("jobs")
        await jobs.enqueue(b"poison")
        lease = await jobs.receive()
        assert lease is not None
        await jobs.release(lease.receipt)
        outcome = await poll.wait()
        assert isinstance(outcome, Delivery)
        assert [each.body for each in outcome.given] == [b"poison"]


async def test_a_queue_that_is_loaded_is_the_one_they_wait_for(zapq_service: QueueService) -> None:
    await zapq_service.queue("new").enqueue(b"saved")
    await zapq_service.snapshot("a.msgpack")
    await zapq_service.delete("new")
    poll = wait_for(zapq_service)
    await zapq_service.restore("a.msgpack")
    assert got(poll) == [b"saved"]


async def test_a_handle_made_while_they_wait_is_of_the_same_queue(zapq_service: QueueService) -> None:
    poll = wait_for(zapq_service)
    zapq_service.queue("new").enqueue_nowait(b"first")
    assert got(poll) == [b"first"]


async def test_with_no_message_the_wait_ends_and_leaves_nothing(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    begun = trio.current_time()
    assert await wait_for(zapq_service, wait=7.0).wait() == Nothing("empty", inf)
    assert trio.current_time() - begun == pytest.approx(7.0)
    assert zapq_service.stats().dequeues_empty == 1
    assert_nothing_left(zapq_service)


async def test_who_leaves_leaves_nothing_and_the_others_wait_on(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    first, second = wait_for(zapq_service), wait_for(zapq_service)
    first.abandon()
    await surely_put(zapq_service, Offer(b"job"))
    assert got(second) == [b"job"]
    await zapq_service.delete("new")
    with trio.move_on_after(1) as scope:
        await wait_for(zapq_service).wait()
    assert scope.cancelled_caught
    assert_nothing_left(zapq_service)


async def test_draining_answers_them_and_leaves_nothing(zapq_service: QueueService) -> None:
    poll = wait_for(zapq_service)
    zapq_service.drain()
    assert poll.done
    with pytest.raises(Draining):
        poll.result()
    with pytest.raises(Draining):
        wait_for(zapq_service)
    assert_nothing_left(zapq_service)


async def test_a_wait_that_is_refused_leaves_nothing(zapq_settings: Settings) -> None:
    async with open_service(replace(zapq_settings, max_waiters=1)) as service:
        with pytest.raises(InvalidParameter):
            wait_for(service, "no such name")
        poll = wait_for(service, "other")
        with pytest.raises(TooManyWaiters):
            wait_for(service)
        poll.abandon()
        assert_nothing_left(service)


@pytest.mark.parametrize("durable", [False, True], ids=["memory", "durable"])
async def test_a_refused_message_makes_no_queue_and_those_who_wait_wait_on(tmp_path: Path, durable: bool) -> None:
    async with zapq.open_service(Settings(data_dir=str(tmp_path), durable=durable, max_queues=2)) as service:
        poll = wait_for(service)
        with pytest.raises(MessageTooLarge):
            await surely_put(service, TOO_LARGE)
        with pytest.raises(QueueNotFound):
            service.find("new")
        service.queue("in-the-way")
        with pytest.raises(TooManyQueues):
            await surely_put(service, Offer(b"x"))
        assert not poll.done
        await service.delete("in-the-way")
        await surely_put(service, Offer(b"at last"))
        await poll.wait()
    async with zapq.open_service(Settings(data_dir=str(tmp_path), durable=durable)) as service:
        assert [queue.name for queue in service.queues()] == (["default", "new"] if durable else ["default"])


async def test_a_message_that_cannot_be_written_makes_no_queue(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        await service.stored()
        poll = wait_for(service)
        disk.hold()
        first = put(service, Offer(b"first"))
        await disk.held()
        second = put(service, Offer(b"second"))
        disk.failing = True
        disk.go_on()
        for each in (first, second):
            assert isinstance(each, Pending)
            with pytest.raises(StorageUnavailable):
                await each.wait()
        with pytest.raises(QueueNotFound):
            service.find("new")
        assert not poll.done
        disk.failing = False
        await works_again(service)
        await surely_put(service, Offer(b"at last"))
        outcome = await poll.wait()
        assert isinstance(outcome, Delivery)
        assert [each.body for each in outcome.given] == [b"at last"]


async def test_a_queue_that_was_asked_for_stays_although_its_first_message_is_not_written(
    tmp_path: Path, disk: Disk
) -> None:
    async with open_durable(tmp_path) as service:
        await service.stored()
        disk.hold()
        first = put(service, Offer(b"first"))
        queue = service.queue("new")
        disk.failing = True
        disk.go_on()
        assert isinstance(first, Pending)
        with pytest.raises(StorageUnavailable):
            await first.wait()
        disk.failing = False
        await works_again(service)
        await queue.enqueue(b"second")


async def test_a_refused_message_beside_one_that_is_being_written_takes_it_no_queue(
    tmp_path: Path, disk: Disk
) -> None:
    async with open_durable(tmp_path) as service:
        await service.stored()
        disk.hold()
        first = put(service, Offer(b"first"))
        with pytest.raises(MessageTooLarge):
            put(service, TOO_LARGE)
        disk.go_on()
        assert isinstance(first, Pending)
        assert await first.wait() == Accepted(1, durability="committed")
        assert service.find("new").info().stats.messages == 1


KEYED = Offer(b"once", key="key")


async def test_a_replayed_key_is_answered_while_draining(tmp_path: Path) -> None:
    async with open_durable(tmp_path) as service:
        await surely_put(service, KEYED)
    # The queue is known to the core alone, until it is asked for.
    async with open_durable(tmp_path) as service:
        service.drain()
        assert (await surely_put(service, KEYED)).replayed
        for offer, queue in ((Offer(b"x", key="another"), "new"), (KEYED, "other"), (Offer(b"x"), "new")):
            with pytest.raises(Draining):
                await surely_put(service, offer, queue)
        with pytest.raises(QueueNotFound):
            service.find("other")


@pytest.mark.parametrize("queue", ["new", "default"])
async def test_what_was_begun_before_the_drain_is_stored(zapq_service: QueueService, queue: str) -> None:
    zapq_service.drain()
    assert await surely_put(zapq_service, Offer(b"begun before", exempt_from_drain=True), queue) == Accepted(1)
