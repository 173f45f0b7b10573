"""The service on disk: what is answered survives a restart, and what could not be written has not happened."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import trio
from msgspec.structs import replace
from trio.testing import wait_all_tasks_blocked

import zapq
from tests.service.asking import leased, taken
from tests.support.disk import Disk, database_of, journal_of, open_durable, works_again
from tests.support.waiting import PATIENCE, eventually
from zapq.core.message import Draft, Lease
from zapq.core.queue_settings import QueueSettings
from zapq.errors import CannotStart, NotDurable, ReceiptExpired, StorageUnavailable
from zapq.service.operations import Offer, Settlement
from zapq.service.service import QueueService
from zapq.store import writer
from zapq.store.database import Database
from zapq.store.port import Contents

T = TypeVar("T")


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
        key = await service.queue("keyed").put(Offer(b"once", key="k"))
        keys = await service.queue("keyed").put(Offer([b"two", Draft(body=b"three")], key="ks"))
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
        assert await service.queue("keyed").put(Offer(b"once", key="k")) == replace(key, replayed=True)
        again = await service.queue("keyed").put(Offer([b"two", Draft(body=b"three")], key="ks"))
        assert again == replace(keys, replayed=True)
        with pytest.raises(ReceiptExpired):
            await jobs.ack(lease.receipt)
        assert (await jobs.enqueue(b"new")).id == before.stats.enqueued + 1


async def test_nothing_is_answered_before_it_is_written(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        await service.stored()
        disk.hold()
        answered: list[object] = []

        async def enqueue(body: bytes) -> None:
            answered.append((await service.enqueue(body)).id)

        async def dequeue() -> None:
            # It is given what is not on the disk yet; so nobody is told.
            message = await service.dequeue()
            answered.append(message and message.body)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(enqueue, b"a")
            await wait_all_tasks_blocked()
            nursery.start_soon(dequeue)
            await wait_all_tasks_blocked()
            nursery.start_soon(enqueue, b"b")
            await wait_all_tasks_blocked()
            assert not answered
            disk.go_on()
        assert set(answered) == {1, b"a", 2}
        assert await taken(service.default) == [b"b"]


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


CHANGES: dict[str, Callable[[QueueService, Lease], Awaitable[object]]] = {
    "enqueue": lambda service, lease: service.enqueue(b"new"),
    "enqueue into a new queue": lambda service, lease: service.queue("new").enqueue(b"new"),
    "enqueue many": lambda service, lease: service.default.enqueue_many([b"new"] * 3),
    "enqueue drafts": lambda service, lease: service.default.enqueue_many([Draft(body=b"new", delay=1.0)]),
    "enqueue once": lambda service, lease: service.default.put(Offer(b"new", key="key")),
    "enqueue many once": lambda service, lease: service.default.put(Offer([b"new"] * 3, key="key")),
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
    change: Callable[[QueueService, Lease], Awaitable[object]],
    known: bool,
) -> None:
    async with open_durable(tmp_path) as service:
        await service.queue("other").enqueue(b"other")
        await service.default.enqueue_many([b"a", b"b", b"c"])
        await service.snapshot("saved.json")
        lease = await leased(service.default)
        # How long messages had waited is told of each attempt to give them.
        before = msgspec.structs.replace(service.default.info(), waits=None)
        disk.failing = True
        if known:
            with pytest.raises(StorageUnavailable):
                await service.queue("other").enqueue(b"x")
        with pytest.raises(StorageUnavailable, match="disk is full"):
            await change(service, lease)
        with pytest.raises(StorageUnavailable):
            service.check_storage()
        assert msgspec.structs.replace(service.default.info(), waits=None) == before
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


@pytest.mark.parametrize("paused", [False, True], ids=["settings", "a pause"])
async def test_what_is_refused_with_the_removal_of_its_queue_has_not_happened_after_a_restart_either(
    tmp_path: Path, disk: Disk, paused: bool
) -> None:
    async def refused(ask: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(StorageUnavailable):
            await ask()

    async with open_durable(tmp_path) as service:
        before = service.queue("jobs").info()
        change = service.queue("jobs").pause if paused else partial(service.change_settings, "jobs", ttl=5.0)
        await service.stored()
        disk.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refused, change)
            await disk.held()
            nursery.start_soon(refused, partial(service.delete, "jobs"))
            await wait_all_tasks_blocked()
            disk.failing = True
            disk.go_on()
        disk.failing = False
        await works_again(service)
        assert service.find("jobs").info() == before
    async with open_durable(tmp_path) as service:
        assert service.find("jobs").info() == before


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
        assert journal_of(service).stats().failures == 1
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
        queue, files = service.default, database_of(service)
        connection = Fragile(files._connection)
        monkeypatch.setattr(files, "_connection", connection)
        errors = [connection.error, MemoryError("full"), RuntimeError("of whatever kind")]
        while connection.left <= 0:  # else there are no more of them than that
            at += 1
            connection.left, connection.error = at, errors[at % len(errors)]
            names = [b"%d-%d" % (at, number) for number in range(4)]
            await surely(partial(queue.enqueue, names[0]))
            held.append(names[0])
            await surely(partial(queue.put, Offer(names[1], key=f"{at}")))
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


async def test_a_message_that_was_sent_to_memory_is_not_lost_with_the_answer_to_its_consumer(
    tmp_path: Path, disk: Disk
) -> None:
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
            await service.enqueue(b"careless", durability="memory")
            await eventually(lambda: bool(service.journal.reason), "the taking to fail")
            assert (given, service.stats().queue.ready, service.stats().waiting) == ([], 1, 1)
            disk.failing = False
            await works_again(service)
        assert given == [b"careless"]
    async with open_durable(tmp_path) as service:
        assert not service.stats().queue.messages


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


async def test_memory_is_all_that_was_asked_for(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        await service.stored()
        disk.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.enqueue, b"waits")
            await wait_all_tasks_blocked()
            message = await service.enqueue(b"does not", durability="memory")
            assert message.id == 2
            assert [each.message.body for each in await service.default.peek()] == [b"waits", b"does not"]
            await service.default.enqueue_many([b"nor", b"they"], durability="memory")
            disk.go_on()
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

        def cancel_and_load(self: Database, now: float, clock_offset: float) -> Contents:
            trio.from_thread.run_sync(scope.cancel)
            return load(self, now, clock_offset)

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


@pytest.mark.parametrize("taken", [slice(0, 50), slice(20, 40), slice(50, 60)])
async def test_messages_of_a_batch_that_come_back_are_there_after_a_restart(tmp_path: Path, taken: slice) -> None:
    """They share a row, and others of it were given to consumers in between."""
    bodies = [b"%d" % number for number in range(100)]
    async with open_durable(tmp_path) as service:
        queue = service.default
        await queue.enqueue_many(bodies)
        given = [*await queue.dequeue_many(60)]
        queue.return_undelivered(given[taken])
        await service.stored()
        [first] = await queue.dequeue_many(1)
        assert first.body == bodies[taken][0]
    async with open_durable(tmp_path) as service:
        left = bodies[taken][1:] + bodies[60:]
        assert await taken_of(service, len(left)) == left


async def test_a_batch_that_replaces_unique_messages_is_there_after_a_restart(tmp_path: Path) -> None:
    def batch(text: str) -> list[Draft]:
        return [Draft(body=f"{text}{n}".encode(), unique=f"k{n}", on="replace") for n in range(100)]

    async with open_durable(tmp_path) as service:
        await service.default.put(Offer(batch("old")))
        await service.default.put(Offer(batch("new")[20:40]))
        await service.default.put(Offer(batch("newer")[:30]))
    async with open_durable(tmp_path) as service:
        texts = ["newer"] * 30 + ["new"] * 10 + ["old"] * 60
        assert await taken_of(service, 100) == [f"{text}{n}".encode() for n, text in enumerate(texts)]


async def taken_of(service: QueueService, number: int) -> list[bytes]:
    """Take all there is of the default queue, which is to be so many."""
    given = await service.default.dequeue_many(number + 1)
    assert service.stats().queue.messages == 0
    return [each.body for each in given]
