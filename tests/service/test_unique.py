"""Unique while held, in a service: beside waiting consumers and producers, and on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.service.asking import leased, taken
from tests.support.disk import Disk, open_durable, works_again
from zapq.core.message import Draft, Message
from zapq.core.placed import Placed
from zapq.core.queue_settings import QueueSettings
from zapq.errors import Draining, InvalidParameter, MessageTooLarge, QueueFull, StorageUnavailable
from zapq.limits import MAX_MESSAGE_BYTES
from zapq.service.named_queue import NamedQueue
from zapq.service.operations import Accepted, Durability, Offer, terms
from zapq.service.service import QueueService


def offer(
    body: bytes,
    unique: str = "k",
    *,
    on: str | None = None,
    wait: float = 0.0,
    durability: Durability | None = None,
    key: str = "",
) -> Offer:
    return Offer(body, terms(unique=unique, on=on, wait=wait, durability=durability), key)


async def test_an_offer_says_what_became_of_it(zapq_service: QueueService) -> None:
    queue = zapq_service.queue("jobs")
    assert await queue.put(offer(b"1")) == Accepted(1)
    assert await queue.put(offer(b"2")) == Accepted(1, unique="kept")
    assert queue.put_nowait(offer(b"3", on="replace")) == Accepted(1, unique="replaced")
    batch = [Draft(body=b"4", unique="k"), Draft(body=b"5", unique="l")]
    assert await queue.put(Offer(batch)) == Accepted(1, placed=(Placed(1, "kept"), Placed(2)))
    assert await queue.enqueue_many([Draft(body=b"6", unique="m"), b"7"]) == 3
    assert await taken(queue) == [b"3", b"5", b"6", b"7"]


async def test_a_consumer_that_waits_gets_a_message_with_a_key(zapq_service: QueueService) -> None:
    queue = zapq_service.queue("jobs")
    given: list[Message | None] = []

    async def consume() -> None:
        given.append(await queue.dequeue(wait=60))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        await wait_all_tasks_blocked()
        assert await queue.put(offer(b"1")) == Accepted(1)
    assert [each and each.body for each in given] == [b"1"]
    assert await queue.put(offer(b"2")) == Accepted(2)


async def test_a_batch_has_no_key_in_common(zapq_service: QueueService) -> None:
    queue = zapq_service.queue("jobs")
    with pytest.raises(InvalidParameter, match="each message of a batch its own") as refusal:
        await queue.put(Offer([b"1", b"2"], terms(unique="k")))
    assert refusal.value.members["parameter"] == "unique"
    assert queue.info().stats.messages == 0


async def test_what_is_refused_is_refused_with_a_key_as_well(zapq_service: QueueService) -> None:
    queue = zapq_service.queue("jobs")
    with pytest.raises(MessageTooLarge):
        await queue.put(offer(b"x" * (MAX_MESSAGE_BYTES + 1)))
    zapq_service.drain()
    with pytest.raises(Draining):
        await queue.put(offer(b"x"))


@pytest.fixture
async def full(zapq_service: QueueService) -> NamedQueue:
    queue = zapq_service.queue("jobs")
    await zapq_service.configure("jobs", QueueSettings(max_messages=1))
    await queue.put(offer(b"first"))
    return queue


async def test_what_is_kept_waits_behind_none_and_what_replaces_does(
    full: NamedQueue, nursery: trio.Nursery
) -> None:
    nursery.start_soon(full.put, offer(b"waits", "other", wait=60))
    await wait_all_tasks_blocked()
    assert await full.put(offer(b"second")) == Accepted(1, unique="kept")
    with pytest.raises(QueueFull):
        await full.put(offer(b"second", on="replace"))
    with pytest.raises(QueueFull):
        await full.put(offer(b"second", "third"))
    nursery.cancel_scope.cancel()


async def test_a_message_is_kept_once_there_is_one_though_its_producer_waited_for_room(
    full: NamedQueue, nursery: trio.Nursery
) -> None:
    outcomes: list[Accepted] = []

    async def put(body: bytes) -> None:
        outcomes.append(await full.put(offer(body, "other", wait=60)))

    for body in (b"second", b"third"):
        nursery.start_soon(put, body)
        await wait_all_tasks_blocked()
    assert await full.dequeue() is not None
    await wait_all_tasks_blocked()
    assert outcomes == [Accepted(2)]
    assert (await leased(full)).body == b"second"


async def test_keys_are_known_after_a_restart(tmp_path: Path) -> None:
    async with open_durable(tmp_path) as service:
        queue = service.queue("jobs")
        await queue.put(offer(b"replaced", "ready"))
        await queue.put(offer(b"longer than it", "ready", on="replace"))
        await queue.put(offer(b"gone", "gone"))
        await queue.put(offer(b"old", "taken-over"))
        assert (await queue.dequeue_many(1))[0].body == b"longer than it"
        await queue.put(offer(b"ready", "ready"))
        assert (await leased(queue)).body == b"gone"
        lease = await leased(queue)
        await queue.put(offer(b"new", "taken-over", on="replace"))
        assert lease.body == b"old"
        await queue.put(offer(b"new", "taken-over", on="replace", durability="memory"))
    async with open_durable(tmp_path) as service:
        queue = service.queue("jobs")
        assert (await queue.put(offer(b"", "ready"))).unique == "kept"
        assert (await queue.put(offer(b"", "gone"))).unique == "kept"
        newer = await queue.put(offer(b"newer", "taken-over", on="replace"))
        assert newer == Accepted(5, durability="committed", unique="replaced")
        assert await taken(queue) == [b"gone", b"old", b"ready", b"newer"]
    async with open_durable(tmp_path) as service:
        assert await taken(service.queue("jobs")) == []


async def test_a_message_that_was_replaced_and_taken_in_one_commit_is_gone(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        queue = service.queue("jobs")
        await queue.put(offer(b"old"))
        disk.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.enqueue, b"what the next ones wait for")
            await disk.held()
            nursery.start_soon(queue.put, offer(b"new", on="replace"))
            await wait_all_tasks_blocked()
            nursery.start_soon(queue.dequeue)
            await wait_all_tasks_blocked()
            disk.go_on()
        assert queue.info().stats.messages == 0
    async with open_durable(tmp_path) as service:
        assert await taken(service.queue("jobs")) == []


@pytest.mark.parametrize("durability", [None, "memory"])
async def test_what_is_kept_is_answered_once_what_it_is_kept_for_is_written(
    tmp_path: Path, disk: Disk, durability: Durability | None
) -> None:
    async with open_durable(tmp_path) as service:
        queue = service.queue("jobs")
        await service.stored()
        disk.hold()
        outcomes: list[Accepted] = []

        async def put(body: bytes) -> None:
            outcomes.append(await queue.put(offer(body, durability=durability)))

        async with trio.open_nursery() as nursery:
            for body in (b"1", b"2"):
                nursery.start_soon(put, body)
                await wait_all_tasks_blocked()
            assert not outcomes
            disk.go_on()
        # Both wake at once.
        outcomes.sort(key=lambda each: each.unique)
        assert outcomes == [Accepted(1, False, "committed"), Accepted(1, False, "committed", "kept")]


async def test_what_could_not_be_written_has_no_key(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        queue = service.queue("jobs")
        await queue.put(offer(b"old", "replaced"))
        refusals = []

        async def put(asked: Offer) -> None:
            with pytest.raises(StorageUnavailable) as refusal:
                await queue.put(asked)
            refusals.append(refusal.value)

        disk.hold()
        async with trio.open_nursery() as nursery:
            for asked in (offer(b"1"), offer(b"2"), offer(b"new", "replaced", on="replace")):
                nursery.start_soon(put, asked)
                await wait_all_tasks_blocked()
            disk.failing = True
            disk.go_on()
        disk.failing = False
        await works_again(service)
        assert len(refusals) == 3
        assert (await queue.put(offer(b"3"))).unique == ""
        assert await taken(queue) == [b"old", b"3"]


async def test_keys_are_in_snapshots(zapq_service: QueueService) -> None:
    queue = zapq_service.queue("jobs")
    await queue.put(offer(b"1"))
    await queue.put(offer(b"2", "leased"))
    await zapq_service.snapshot("a.msgpack")
    await queue.clear()
    await zapq_service.restore("a.msgpack")
    queue = zapq_service.queue("jobs")
    assert await queue.put(offer(b"3")) == Accepted(1, unique="kept")
    assert await queue.put(offer(b"4", "leased", on="replace")) == Accepted(2, unique="replaced")


async def test_a_key_is_for_repetitions_and_unique_for_what_is_held(zapq_service: QueueService) -> None:
    queue = zapq_service.queue("jobs")
    first = await queue.put(offer(b"1", key="once"))
    assert await queue.dequeue() is not None
    assert await queue.put(offer(b"1", key="once")) == Accepted(first.id, True)
    assert await queue.put(offer(b"1")) == Accepted(2)
