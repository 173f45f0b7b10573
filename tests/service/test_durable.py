"""The service on disk: what is answered survives a restart, and what could not be written has not happened."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import zapq
from tests.support.disk import Disk, open_durable, works_again
from tests.support.waiting import PATIENCE, eventually
from zapq.core.message import Draft, Lease
from zapq.core.queue_settings import QueueSettings
from zapq.errors import CannotStart, NotDurable, ReceiptExpired, StorageUnavailable
from zapq.limits import MIB
from zapq.service.durable import DurableService
from zapq.service.named_queue import Action, NamedQueue, Settlement
from zapq.settings import Settings
from zapq.store import database, writer
from zapq.store.database import Database
from zapq.store.schema import FILE

T = TypeVar("T")


async def taken(queue: NamedQueue) -> list[bytes]:
    return [message.body for message in await queue.dequeue_many(1000)]


async def leased(queue: NamedQueue, visibility: float = 60.0) -> Lease:
    lease = await queue.receive(visibility=visibility)
    assert lease is not None
    return lease


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    async with open_durable(tmp_path) as service:
        jobs = service.queue("jobs")
        await service.configure("jobs", QueueSettings(max_receives=2, dead_letter="dead", visibility=7.0))
        await jobs.enqueue(b"plain")
        await jobs.enqueue(b"first", priority=9, content_type="text/plain")
        await jobs.enqueue(b"later", delay=1000.0)
        await jobs.enqueue(b"mortal", ttl=1000.0)
        await jobs.enqueue_many([b"x", Draft(body=b"y", priority=3), b"z"])
        lease = await leased(jobs)
        assert lease.body == b"first"
        once = await leased(jobs)
        await jobs.release(once.receipt)
        twice = await leased(jobs)
        assert twice.body == b"y"
        await jobs.release(twice.receipt)
        gone = await leased(jobs)
        await jobs.ack(gone.receipt)
        key = await service.queue("keyed").enqueue_once("k", Draft(body=b"once"))
        keys = await service.queue("keyed").enqueue_many_once("ks", [b"two", Draft(body=b"three")])
        await service.queue("still").pause()
        before = jobs.info()
    async with open_durable(tmp_path) as service:
        jobs = service.find("jobs")
        assert jobs.info().settings == before.settings
        assert service.find("still").info().paused
        messages = await jobs.peek(limit=100)
        assert [(each.message.body, each.receives) for each in messages] == [
            (b"first", 1),
            (b"mortal", 0),
            (b"x", 0),
            (b"z", 0),
        ]
        assert messages[0].message.content_type == "text/plain"
        [later] = await jobs.peek("delayed")
        assert later.message.body == b"later"
        assert later.due is not None
        assert 900 < later.due - trio.current_time() <= 1000
        [dead] = await service.find("dead").peek()
        assert (dead.message.body, dead.message.properties.failed_in) == (b"y", "jobs")
        assert await service.queue("keyed").enqueue_once("k", Draft(body=b"once")) == (key.id, True)
        again = await service.queue("keyed").enqueue_many_once("ks", [b"two", Draft(body=b"three")])
        assert again == (keys.id, True)
        with pytest.raises(ReceiptExpired):
            await jobs.ack(lease.receipt)
        assert (await jobs.enqueue(b"new")).id == before.stats.enqueued + 1


async def test_nothing_is_answered_or_seen_before_it_is_written(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        await service.stored()
        disk.hold()
        answered: list[int] = []

        async def enqueue() -> None:
            answered.append((await service.enqueue(b"a")).id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(enqueue)
            await wait_all_tasks_blocked()
            assert not answered
            assert await service.dequeue() is None
            stats = service.stats().queue
            assert (stats.messages, stats.ready) == (1, 0), "it has its room already"
            disk.go_on()
        assert answered == [1]
        assert await taken(service.default) == [b"a"]


async def test_what_came_while_a_commit_was_under_way_is_one_commit(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        await service.stored()
        disk.hold()
        before = disk.commits
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.enqueue, b"first")
            await disk.held()
            for number in range(100):
                nursery.start_soon(service.enqueue, b"%d" % number)
            await wait_all_tasks_blocked()
            disk.go_on()
        assert disk.commits - before == 2


CHANGES: dict[str, Callable[[DurableService, Lease], Awaitable[object]]] = {
    "enqueue": lambda service, lease: service.enqueue(b"new"),
    "enqueue into a new queue": lambda service, lease: service.queue("new").enqueue(b"new"),
    "enqueue many": lambda service, lease: service.default.enqueue_many([b"new"] * 3),
    "enqueue drafts": lambda service, lease: service.default.enqueue_many([Draft(body=b"new", delay=1.0)]),
    "enqueue once": lambda service, lease: service.default.enqueue_once("key", Draft(body=b"new")),
    "enqueue many once": lambda service, lease: service.default.enqueue_many_once("key", [b"new"] * 3),
    "dequeue": lambda service, lease: service.dequeue(),
    "dequeue many": lambda service, lease: service.default.dequeue_many(5),
    "receive": lambda service, lease: service.default.receive(),
    "receive many": lambda service, lease: service.default.receive_many(5),
    "ack": lambda service, lease: service.default.ack(lease.receipt),
    "release": lambda service, lease: service.default.release(lease.receipt),
    "settle": lambda service, lease: service.default.settle([Settlement(receipt=lease.receipt)]),
    "clear": lambda service, lease: service.default.clear(),
    "configure": lambda service, lease: service.configure("default", QueueSettings(ttl=5.0)),
    "change settings": lambda service, lease: service.change_settings("default", ttl=5.0),
    "delete": lambda service, lease: service.delete("other"),
    "pause": lambda service, lease: service.default.pause(),
    "load": lambda service, lease: service.restore("saved.json"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("known", [False, True], ids=["fails", "is known to fail"])
async def test_what_cannot_be_written_has_not_happened(
    tmp_path: Path,
    disk: Disk,
    change: Callable[[DurableService, Lease], Awaitable[object]],
    known: bool,
) -> None:
    async with open_durable(tmp_path) as service:
        await service.queue("other").enqueue(b"other")
        await service.default.enqueue_many([b"a", b"b", b"c"])
        await service.snapshot("saved.json")
        lease = await leased(service.default)
        before = service.default.info()
        disk.failing = True
        if known:
            with pytest.raises(StorageUnavailable):
                await service.queue("other").enqueue(b"x")
        with pytest.raises(StorageUnavailable, match="disk is full"):
            await change(service, lease)
        with pytest.raises(StorageUnavailable):
            service.check_storage()
        assert service.default.info() == before
        assert service.find("other").info().stats.messages == 1
        # What needs no commit goes on.
        assert [each.message.body for each in await service.default.peek()] == [b"b", b"c"]
        await service.default.extend(lease.receipt, visibility=50.0)
        disk.failing = False
        await works_again(service)
        await change(service, lease)
        await service.stored()
    async with open_durable(tmp_path) as service:
        service.check_storage()


async def test_changes_of_settings_at_once_are_all_made_and_are_there_after_a_restart(tmp_path: Path) -> None:
    async with open_durable(tmp_path) as service:
        await service.configure("jobs", QueueSettings(visibility=7.0, ttl=9.0))
        async with trio.open_nursery() as nursery:
            for changes in ({"visibility": 8.0}, {"max_messages": 5}, {"max_bytes": 6}, {"ttl": None}):
                nursery.start_soon(partial(service.change_settings, "jobs", **changes))
    expected = QueueSettings(visibility=8.0, max_messages=5, max_bytes=6)
    async with open_durable(tmp_path) as service:
        assert service.find("jobs").info().settings == expected


async def test_after_a_failure_what_was_refused_is_not_there_and_the_rest_is(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        await service.enqueue(b"before")
        lease = await leased(service.default, 0.05)
        disk.failing = True
        with pytest.raises(StorageUnavailable):
            await service.enqueue(b"refused")
        with pytest.raises(StorageUnavailable):
            await service.default.ack(lease.receipt)
        disk.failing = False
        await works_again(service)
        await service.enqueue(b"after")
    async with open_durable(tmp_path) as service:
        assert [each.message.body for each in await service.default.peek()] == [b"before", b"after"]


async def test_what_is_on_its_way_when_the_log_cannot_be_emptied_is_refused(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.005)
    tidy, full = Database.tidy, False

    def try_tidy(self: Database, *, idle: bool) -> None:
        if full:
            raise sqlite3.OperationalError("database or disk is full")
        tidy(self, idle=idle)

    monkeypatch.setattr(Database, "tidy", try_tidy)
    async with open_durable(tmp_path) as service:
        await service.stored()
        disk.hold()
        before = disk.commits
        refused = []

        async def enqueue() -> None:
            with pytest.raises(StorageUnavailable, match="full"):
                await service.enqueue(b"second")
            refused.append(b"second")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.enqueue, b"first")
            await disk.held()
            full = True  # and not before: the writer may still tidy up after the start
            nursery.start_soon(enqueue)
            await wait_all_tasks_blocked()
            disk.go_on()
        assert refused
        assert disk.commits == before + 1
        # Nothing that was written meanwhile could have said that all is well.
        assert service.journal.stats().failures == 1
        with pytest.raises(StorageUnavailable):
            service.check_storage()
        full = False
        await works_again(service)
        await service.enqueue(b"second")
    async with open_durable(tmp_path) as service:
        assert await taken(service.default) == [b"first", b"second"]


class Fragile:
    """A connection to the database that raises `error` in place of the n-th statement from now."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.left = 0
        self.error: Exception = sqlite3.OperationalError("disk I/O error")

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        self.left -= 1
        if self.left == 0:
            raise self.error
        return self._connection.execute(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def test_the_writer_may_raise_anything_at_any_statement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.005)
    held: list[bytes] = []
    refused = at = 0

    async def surely(change: Callable[[], Awaitable[T]]) -> T:
        """Do it; if it is refused, it has not happened, and can be done again."""
        nonlocal refused
        try:
            return await change()
        except StorageUnavailable:
            refused += 1
            assert [each.message.body for each in await queue.peek(limit=1000)] == held
            await works_again(service)
            return await change()

    async with open_durable(tmp_path) as service:
        await service.stored()
        queue, files = service.default, service._journal._writer._database
        connection = Fragile(files._connection)
        monkeypatch.setattr(files, "_connection", connection)
        errors = [connection.error, MemoryError("full"), RuntimeError("of whatever kind")]
        while connection.left <= 0:  # else there are no more of them than that
            at += 1
            connection.left, connection.error = at, errors[at % len(errors)]
            names = [b"%d-%d" % (at, number) for number in range(4)]
            await surely(partial(queue.enqueue, names[0]))
            held.append(names[0])
            await surely(partial(queue.enqueue_once, f"{at}", Draft(body=names[1])))
            held.append(names[1])
            await surely(partial(queue.enqueue_many, [Draft(body=each, ttl=9e6) for each in names[2:]]))
            held += names[2:]
            taken_one = await surely(queue.dequeue)
            assert taken_one is not None
            assert taken_one.body == held.pop(0)
            lease = await surely(partial(queue.receive, visibility=900.0))
            assert lease is not None
            assert lease.body == held.pop(0)
            await surely(partial(queue.ack, lease.receipt))
            await surely(queue.pause)
            await surely(queue.resume)
        connection.left = 0
    assert refused > at / 2 > 10
    async with open_durable(tmp_path) as service:
        assert await taken(service.default) == held


async def test_consumers_in_line_wait_until_the_disk_works_again(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        given: list[bytes] = []

        async def consume() -> None:
            message = await service.dequeue(wait=60.0)
            assert message is not None
            given.append(message.body)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(consume)
            await wait_all_tasks_blocked()
            disk.failing = True
            with pytest.raises(StorageUnavailable):
                await service.enqueue(b"refused")
            disk.failing = False
            await works_again(service)
            assert not given
            await service.enqueue(b"taken")
        assert given == [b"taken"]


async def test_a_consumer_cancelled_while_its_message_is_written_loses_none(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.default.receive_many, 1)  # makes nothing: the queue is empty
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: service.dequeue(wait=60.0))
            await wait_all_tasks_blocked()
            service.enqueue_nowait(b"a")
            await service.stored()
            # Handed out to who waits, and on its way to the disk.
            disk.hold()
            nursery.cancel_scope.cancel()
            disk.go_on()
        await service.stored()
        held = [each.message.body for each in await service.default.peek()]
        assert held in ([b"a"], []), "given, or back"
    async with open_durable(tmp_path) as service:
        assert [each.message.body for each in await service.default.peek()] == held


async def test_two_uses_of_a_key_at_once_are_one_message(tmp_path: Path) -> None:
    async with open_durable(tmp_path) as service:
        answers = []

        async def enqueue() -> None:
            answers.append(await service.default.enqueue_once("key", Draft(body=b"a")))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(enqueue)
        assert {answer.id for answer in answers} == {1}
        assert sum(not answer.replayed for answer in answers) == 1
        assert service.stats().queue.messages == 1


async def test_a_key_whose_first_use_fails_was_not_used(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        await service.stored()
        disk.hold()
        disk.failing = True
        refused: list[StorageUnavailable] = []

        async def enqueue() -> None:
            try:
                await service.default.enqueue_once("key", Draft(body=b"a"))
            except StorageUnavailable as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(enqueue)
            await disk.held()
            nursery.start_soon(enqueue)
            await wait_all_tasks_blocked()
            disk.go_on()
        assert len(refused) == 2
        disk.failing = False
        await works_again(service)
        assert not (await service.default.enqueue_once("key", Draft(body=b"another"))).replayed


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


async def test_memory_is_all_that_was_asked_for(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        await service.stored()
        disk.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.enqueue, b"waits")
            await wait_all_tasks_blocked()
            message = await service.enqueue(b"does not", durability="memory")
            assert message.id == 2
            assert [each.message.body for each in await service.default.peek()] == [b"does not"]
            await service.default.enqueue_many([b"nor", b"they"], durability="memory")
            disk.go_on()
        # The one that waited is at its place.
        assert [each.message.body for each in await service.default.peek()] == [
            b"waits",
            b"does not",
            b"nor",
            b"they",
        ]
    async with open_durable(tmp_path) as service:
        assert await taken(service.default) == [b"waits", b"does not", b"nor", b"they"]


async def test_in_memory_nobody_is_told_that_it_is_on_the_disk() -> None:
    async with zapq.open_service() as service:
        assert (await service.enqueue(b"a", durability="memory")).id == 1
        with pytest.raises(NotDurable):
            await service.enqueue(b"b", durability="committed")
        await service.stored()
        assert service.stats().queue.messages == 1


async def test_nowait_and_stored(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        service.enqueue_nowait(b"a")
        await service.stored()
        message = service.dequeue_nowait()
        assert message is not None
        await service.stored()
        disk.failing = True
        service.enqueue_nowait(b"b")
        with pytest.raises(StorageUnavailable):
            await service.stored()
        disk.failing = False
        await works_again(service)
    async with open_durable(tmp_path) as service:
        assert service.stats().queue.messages == 0


async def test_a_message_enqueued_during_a_purge_survives(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        await service.default.enqueue_many([b"old"] * 10)
        disk.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.clear)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.WouldBlock):
                service.enqueue_nowait(b"new")
            nursery.start_soon(service.enqueue, b"new")
            await wait_all_tasks_blocked()
            disk.go_on()
    async with open_durable(tmp_path) as service:
        assert await taken(service.default) == [b"new"]


async def test_a_loaded_snapshot_is_there_after_a_restart(tmp_path: Path) -> None:
    async with open_durable(tmp_path) as service:
        await service.default.enqueue_many([b"%d" % number for number in range(1000)])
        await service.default.enqueue_many([b"more"] * 500)
        assert await service.snapshot("saved.json") == 1500
        await service.clear()
        await service.enqueue(b"other")
        assert await service.restore("saved.json") == 1500
    async with open_durable(tmp_path) as service:
        bodies = [*await taken(service.default), *await taken(service.default)]
        assert bodies == [b"%d" % number for number in range(1000)] + [b"more"] * 500


async def test_what_was_purged_is_removed_from_the_file(tmp_path: Path) -> None:
    async with open_durable(tmp_path, max_msgs=10**6) as service:
        for _ in range(20):
            await service.default.enqueue_many([bytes(1000)] * 1000)
        await service.clear()
        await service.enqueue(b"left")
    async with open_durable(tmp_path) as service:
        files = service._journal._writer._database
        await eventually(lambda: not files.untidy, "the file to be tidied")
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        assert connection.execute("select count(*) from messages").fetchone() == (1,)


async def test_the_files_stay_small_though_the_oldest_message_stays(tmp_path: Path) -> None:
    body, batch, live, through = bytes(100_000), 20, 60, 600
    largest = 0
    async with open_durable(tmp_path) as service:
        await service.enqueue(b"a year old")
        oldest = await leased(service.default)
        for number in range(0, through, batch):
            await service.default.enqueue_many([body] * batch)
            if number >= live:
                assert len(await service.default.dequeue_many(batch)) == batch
            largest = max(largest, sum(path.stat().st_size for path in tmp_path.iterdir()))
        await service.default.release(oldest.receipt)
    # Twice what is live, the spare pages, and a log that is emptied when it is 4 MiB long.
    assert largest < 2 * (live + batch) * len(body) + 32 * MIB < through * len(body)
    async with open_durable(tmp_path) as service:
        first, *rest = await taken(service.default)
        assert (first, len(rest)) == (b"a year old", live)


async def test_waiters_of_a_deleted_queue_are_told(tmp_path: Path) -> None:
    async with open_durable(tmp_path) as service, trio.open_nursery() as nursery:

        async def consume() -> None:
            with pytest.raises(zapq.errors.QueueNotFound):
                await service.queue("jobs").receive(wait=60.0)

        nursery.start_soon(consume)
        await wait_all_tasks_blocked()
        await service.delete("jobs")
    async with open_durable(tmp_path) as service:
        assert [queue.name for queue in service.queues()] == ["default"]


async def test_dead_letters_go_back_and_stay_there(tmp_path: Path) -> None:
    async with open_durable(tmp_path) as service:
        await service.configure("jobs", QueueSettings(max_receives=1, dead_letter="dead"))
        jobs = service.queue("jobs")
        await jobs.enqueue(b"a")
        await jobs.release((await leased(jobs)).receipt)
        dead = service.find("dead")
        assert (await dead.redrive()).moved == 1
    async with open_durable(tmp_path) as service:
        assert await taken(service.find("jobs")) == [b"a"]
        assert await taken(service.find("dead")) == []


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
        assert [each.message.body for each in await queue.peek()] == [b"a", b"b"]
        disk.failing = False
        await works_again(service)
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


async def test_a_directory_has_one_owner(tmp_path: Path) -> None:
    async with open_durable(tmp_path):
        with pytest.raises(CannotStart, match="in use"):
            async with open_durable(tmp_path):
                raise AssertionError
    async with open_durable(tmp_path):
        pass


def spoil_nothing(path: Path) -> None:
    path.write_bytes(b"")


def spoil_all(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)


def spoil_page(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096 : 4096 + 100] = bytes(100)
    path.write_bytes(data)


def of_the_future(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("pragma user_version = 99")


def of_another(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("pragma application_id = 7")


def spoil_body(path: Path) -> None:
    data = path.read_bytes()
    assert data.count(b"precious") == 1
    path.write_bytes(data.replace(b"precious", b"presious"))


def make_link(path: Path) -> None:
    path.rename(path.with_name("other.db"))
    path.symlink_to("other.db")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_nothing, "it is empty"),
        (spoil_all, "not a database"),
        (spoil_page, "damaged|malformed"),
        (spoil_body, "checksum"),
        (of_the_future, "newer zapq"),
        (of_another, "a database of another program"),
        (make_link, "not a plain file"),
    ],
)
async def test_a_database_that_is_not_right_is_refused_and_left_alone(
    tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    async with open_durable(tmp_path) as service:
        await service.enqueue(b"precious")
    spoil(tmp_path / FILE)
    before = (tmp_path / FILE).read_bytes()
    for _ in range(2):
        with pytest.raises(CannotStart, match=reason):
            async with open_durable(tmp_path):
                raise AssertionError
    assert (tmp_path / FILE).read_bytes() == before


async def test_a_database_another_program_uses_is_not_touched(tmp_path: Path) -> None:
    async with open_durable(tmp_path) as service:
        await service.enqueue(b"a")
    with closing(sqlite3.connect(tmp_path / FILE)) as other:
        other.execute("begin immediate")
        with pytest.raises(
            CannotStart, match=r"^zapq\.db is in use by another program: database is locked\. Close"
        ):
            async with open_durable(tmp_path):
                raise AssertionError
    async with open_durable(tmp_path) as service:
        assert await taken(service.default) == [b"a"]


async def test_the_files_are_for_their_owner_only(tmp_path: Path) -> None:
    async with open_durable(tmp_path) as service:
        await service.enqueue(b"a")
        for path in tmp_path.iterdir():
            assert os.stat(path).st_mode & 0o777 == 0o600, path


async def test_who_waits_for_a_disk_that_hangs_is_told_in_the_end(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with open_durable(tmp_path) as service:
            await service.stored()
            disk.hold()
            async with trio.open_nursery() as nursery:

                async def enqueue() -> None:
                    with pytest.raises(StorageUnavailable, match=r"does not answer.*may or may not be kept"):
                        await service.enqueue(b"a")

                nursery.start_soon(enqueue)
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
                service.abandon_storage()

    closed = threading.Event()
    close = Database.close

    def close_and_tell(self: Database) -> None:
        close(self)
        closed.set()

    monkeypatch.setattr(Database, "close", close_and_tell)
    with pytest.raises(CannotStart, match="does not answer"):
        await run()
    assert not closed.is_set()
    # Nobody else could, as long as the thread uses it.
    disk.go_on()
    assert closed.wait(PATIENCE)


async def test_a_start_that_is_cancelled_while_it_reads_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Database.load
    with trio.CancelScope() as scope:

        def cancel_and_load(self: Database, now: float, clock_offset: float, warning: str) -> database.Contents:
            trio.from_thread.run_sync(scope.cancel)
            return load(self, now, clock_offset, warning)

        with monkeypatch.context() as patched:
            patched.setattr(Database, "load", cancel_and_load)
            async with open_durable(tmp_path):
                raise AssertionError
    assert scope.cancelled_caught
    async with open_durable(tmp_path) as service:
        assert not service.stats().queue.messages


async def test_a_cancelled_program_still_writes_everything(tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        async with open_durable(tmp_path) as service:
            service.enqueue_nowait(b"a")
            scope.cancel()
            await trio.sleep_forever()
    async with open_durable(tmp_path) as service:
        assert await taken(service.default) == [b"a"]


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


async def test_a_lease_whose_ack_is_being_written_is_extended_if_that_fails(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        await service.default.enqueue(b"abc")
        lease = await leased(service.default, 30.0)
        disk.hold()
        extended: list[float] = []

        async def ack() -> None:
            with pytest.raises(StorageUnavailable):
                await service.default.ack(lease.receipt)
            disk.failing = False

        async def extend() -> None:
            extended.append((await service.default.extend(lease.receipt, visibility=60)).visibility)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ack)
            await wait_all_tasks_blocked()
            nursery.start_soon(extend)
            await wait_all_tasks_blocked()
            assert not extended
            disk.failing = True
            disk.go_on()
        await works_again(service)
        assert extended == [30.0], "its own time, which a later extension without one takes"
