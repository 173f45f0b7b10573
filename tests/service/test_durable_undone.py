"""On disk: what is done between a change and the news that it could not be written."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import zapq
from tests.service.asking import asked, got, leased, perform, taken, wait_for
from tests.support.disk import Disk, database_of, journal_of, open_durable, works_again
from tests.support.waiting import eventually
from zapq.core.queue_settings import QueueSettings
from zapq.errors import Draining, QueueNotFound, ReceiptExpired, StorageUnavailable, ZapqError
from zapq.service.journal import _nothing
from zapq.service.operations import (
    Action,
    Delete,
    Load,
    Operation,
    Purge,
    Put,
    Settle,
    Settlement,
    SettleOne,
    Take,
    Terms,
)
from zapq.service.service import QueueService
from zapq.service.waiting import Want
from zapq.store.schema import FILE

CARELESS = Terms(durability="memory")


async def let_a_lease_expire(service: QueueService) -> None:
    """Have memory differ from what is written by a step that leaves nothing to be written."""
    queue = service.queue("elsewhere")
    await queue.enqueue(b"elsewhere")
    await leased(queue, visibility=0.0)
    await eventually(lambda: queue.info().stats.leases_expired, "the lease to expire")


REFUSED: dict[str, tuple[Operation, type[ZapqError]]] = {
    "taking": (Take("nowhere", Want(lease=True)), QueueNotFound),
    "acknowledging": (SettleOne("default", Settlement(receipt="1-1-1")), ReceiptExpired),
    "extending": (SettleOne("default", Settlement(receipt="1-1-1", action="extend")), ReceiptExpired),
}


@pytest.mark.parametrize(("operation", "refusal"), REFUSED.values(), ids=REFUSED)
async def test_a_refusal_is_answered_though_nothing_else_is_written(
    tmp_path: Path, operation: Operation, refusal: type[ZapqError]
) -> None:
    async with open_durable(tmp_path) as service:
        await let_a_lease_expire(service)
        with suppress(refusal):
            pending = asked(service, operation)
            await eventually(lambda: pending.done, "the refusal")
            pending.result()
            raise AssertionError


async def test_settlements_of_which_one_is_refused_are_answered_though_nothing_is_written(tmp_path: Path) -> None:
    async with open_durable(tmp_path) as service:
        await let_a_lease_expire(service)
        settling = perform(service, Settle("default", [Settlement(receipt="1-1-1")]))
        await eventually(lambda: isinstance(settling, list) or settling.done, "the answer")


async def test_a_message_that_comes_back_after_a_lease_expired_is_kept(tmp_path: Path) -> None:
    async with open_durable(tmp_path) as service:
        await service.enqueue(b"precious")
        given = await service.dequeue()
        assert given is not None
        await let_a_lease_expire(service)
        service.default.return_undelivered([given])
        await eventually(lambda: len(service.broker.default), "the message to come back")
    async with open_durable(tmp_path) as service:
        assert await taken(service.default) == [b"precious"]


async def test_a_message_that_comes_back_while_the_service_ends_is_kept(tmp_path: Path, disk: Disk) -> None:
    async def go_on_when_it_ends(service: QueueService) -> None:
        await eventually(lambda: journal_of(service)._closing, "the service to end")
        disk.go_on()

    async with open_durable(tmp_path) as service:
        await service.enqueue(b"precious")
        given = await service.dequeue()
        assert given is not None
        disk.hold()
        service.queue("elsewhere").enqueue_nowait(b"on its way")
        journal_of(service).flush()
        await disk.held()
        # Whether what is on its way has to be undone is not known yet, so it waits for that.
        service.default.return_undelivered([given])
        trio.lowlevel.spawn_system_task(go_on_when_it_ends, service)  # which is still there then
    async with open_durable(tmp_path) as service:
        assert await taken(service.default) == [b"precious"]


async def fail_behind_one_that_is_written(
    disk: Disk, first: Callable[[], Awaitable[object]], second: Callable[[], Awaitable[object]]
) -> None:
    """Begin two changes; the first is written, and then the second fails."""

    async def surely_refused() -> None:
        with pytest.raises(StorageUnavailable):
            await second()

    disk.hold()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await disk.held()
        nursery.start_soon(surely_refused)
        await wait_all_tasks_blocked()
        disk.let_one_through()
        await disk.held()
        disk.failing = True
        disk.go_on()
    disk.failing = False


async def test_a_lease_given_before_a_purge_that_fails_ends_in_time(
    tmp_path: Path, disk: Disk, mock_clock: MockClock
) -> None:
    mock_clock.rate = 1.0
    async with open_durable(tmp_path) as service:
        queue = service.default
        await queue.enqueue(b"a")
        leases = []

        async def receive() -> None:
            leases.append(await leased(queue, visibility=1000.0))

        await fail_behind_one_that_is_written(disk, receive, queue.clear)
        await works_again(service)
        assert queue.info().stats.leased == len(leases) == 1
        mock_clock.jump(1100.0)
        await eventually(lambda: queue.info().stats.leases_expired, "the lease to expire")
        assert await taken(queue) == [b"a"]


async def test_a_lease_whose_time_is_over_while_the_disk_takes_nothing_is_over_when_it_does(
    tmp_path: Path, disk: Disk, mock_clock: MockClock
) -> None:
    mock_clock.rate = 1.0
    async with open_durable(tmp_path) as service:
        queue = service.default
        await queue.enqueue(b"a")
        lease = await leased(queue, visibility=1000.0)
        disk.failing = True
        with pytest.raises(StorageUnavailable):
            await queue.enqueue(b"refused")
        mock_clock.jump(1100.0)
        # A refusal that says that it is over would have to wait until that is so.
        actions: list[Action] = ["extend", "ack", "release"]
        for action in actions:
            with pytest.raises(StorageUnavailable):
                perform(service, SettleOne("default", Settlement(receipt=lease.receipt, action=action)))
            assert (queue.info().stats.leased, queue.info().stats.leases_expired) == (1, 0)
        disk.failing = False
        await works_again(service)
        await eventually(lambda: queue.info().stats.leases_expired, "the lease to expire")
        assert await taken(queue) == [b"a"]


@pytest.mark.parametrize("fails", [False, True], ids=["is written", "fails"])
async def test_a_message_sent_to_memory_during_a_purge_waits_for_that(
    tmp_path: Path, disk: Disk, fails: bool
) -> None:
    async with open_durable(tmp_path) as service:
        queue = service.default
        await queue.enqueue(b"old")
        disk.hold()
        purging = asked(service, Purge("default"))
        await disk.held()
        sending = asked(service, Put(b"new", CARELESS, queue="default"))
        # It may not go into a queue whose content may have to be put back. A client that leaves leaves nothing.
        with trio.move_on_after(0):
            await asked(service, Put(b"of a client that left", CARELESS, queue="default")).wait()
        assert not sending.done
        disk.failing = fails
        disk.go_on()
        if fails:
            for refused in (purging, sending):
                with pytest.raises(StorageUnavailable):
                    await refused.wait()
        else:
            assert await purging.wait() == 1
            assert (await sending.wait()).durability == "memory"
        left = [b"old"] if fails else [b"new"]
        disk.failing = False
        await works_again(service)
        assert (queue.info().stats.messages, service.stats().queue.bytes) == (1, 3)
        assert [each.message.body for each in await queue.peek()] == left
    async with open_durable(tmp_path) as service:
        assert await taken(service.default) == left


async def test_a_queue_made_while_one_of_its_name_is_being_deleted_goes_if_that_fails(
    tmp_path: Path, disk: Disk
) -> None:
    live, crashed = tmp_path / "live", tmp_path / "crashed"
    live.mkdir()
    async with open_durable(live) as service:
        old = service.queue("jobs")
        await old.enqueue_many([b"a", b"b"])
        await service.configure("jobs", QueueSettings(visibility=7.0))
        disk.hold()
        deleting = asked(service, Delete("jobs"))
        await disk.held()
        new = service.queue("jobs")
        disk.failing = True
        disk.go_on()
        with pytest.raises(StorageUnavailable):
            await deleting.wait()
        disk.failing = False
        await works_again(service)
        await service.stored()
        assert [each.message.body for each in await old.peek()] == [b"a", b"b"]
        with pytest.raises(QueueNotFound):
            await new.enqueue(b"c")
        shutil.copytree(live, crashed)  # what a crash would leave behind
    for directory in (live, crashed):
        async with open_durable(directory) as service:
            [jobs] = [queue for queue in service.queues() if queue.name == "jobs"]
            assert jobs.info().settings.visibility == 7.0
            assert await taken(jobs) == [b"a", b"b"]


async def test_a_consumer_gets_what_is_behind_many_messages_that_are_given_up(autojump_clock: MockClock) -> None:
    async with zapq.open_service() as service:
        jobs = service.queue("jobs")
        await jobs.enqueue_many([b"failed"] * 600)
        await jobs.settle([
            Settlement(receipt=each.receipt, action="release") for each in await jobs.receive_many(600)
        ])
        await jobs.enqueue(b"good")
        await jobs.pause()
        await service.configure("jobs", QueueSettings(max_receives=1, dead_letter="dead"))
        await jobs.resume()
        begun = trio.current_time()
        lease = await jobs.receive(wait=60.0)
        assert (lease and lease.body, trio.current_time()) == (b"good", begun)
        assert service.find("dead").info().stats.messages == 600


async def test_a_message_given_up_at_a_start_is_not_lost_if_that_is_not_written(
    tmp_path: Path, disk: Disk
) -> None:
    async with open_durable(tmp_path) as service:
        jobs = service.queue("jobs")
        await service.configure("jobs", QueueSettings(max_receives=5, dead_letter="dead"))
        await jobs.enqueue(b"failed")
        await jobs.release((await leased(jobs)).receipt)
        await service.configure("jobs", QueueSettings(max_receives=1, dead_letter="dead"))
    disk.failing = True
    async with open_durable(tmp_path) as service:
        await eventually(lambda: service.journal.reason, "giving it up to fail")
        assert (service.find("jobs").info().stats.ready, service.find("dead").info().stats.ready) == (1, 0)
        disk.failing = False
        await works_again(service)
        assert await service.find("jobs").receive() is None
        assert [each.message.body for each in await service.find("dead").peek()] == [b"failed"]
    async with open_durable(tmp_path) as service:
        assert await taken(service.find("jobs")) == []
        assert await taken(service.find("dead")) == [b"failed"]


@pytest.mark.parametrize("name", ["saved.json", "saved.msgpack"])
async def test_rows_of_a_snapshot_that_is_not_loaded_after_all_are_removed(
    tmp_path: Path, disk: Disk, name: str
) -> None:
    async with open_durable(tmp_path) as service:
        await service.default.enqueue_many([b"saved"] * 5)
        await service.snapshot(name)
        await service.clear()
        await service.stored()
        await eventually(lambda: not database_of(service).untidy, "the file to be tidied")
        before = disk.commits
        await service.restore(name)
        commits = disk.commits - before
        assert commits > 1
        await service.clear()
        # All but the last commit: the rows are there, and the queues are not exchanged.
        refused: list[StorageUnavailable] = []

        async def restore() -> None:
            try:
                await service.restore(name)
            except StorageUnavailable as error:
                refused.append(error)

        disk.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(restore)
            await disk.held()
            for _ in range(commits - 1):
                disk.let_one_through()
                await disk.held()
            disk.failing = True
            disk.go_on()
        assert refused
        disk.failing = False
        await works_again(service)
        await service.enqueue(b"left")
        await eventually(lambda: not database_of(service).untidy, "the file to be tidied")
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        assert connection.execute("select count(*) from messages").fetchone() == (1,)


async def test_a_consumer_in_line_again_while_the_service_drains_is_answered_at_once(
    tmp_path: Path, disk: Disk
) -> None:
    async with open_durable(tmp_path) as service:
        queue = service.queue("new")
        await queue.enqueue(b"leased")
        await leased(queue, visibility=50.0)  # the timer has something to do before the poll's time is over
        poll = wait_for(service)
        disk.hold()
        sending = asked(service, Put(b"new", queue="new"))
        await disk.held()
        service.drain()
        await wait_all_tasks_blocked()
        answered_before = poll.done
        disk.failing = True
        disk.go_on()
        with pytest.raises(StorageUnavailable):
            await sending.wait()
        await wait_all_tasks_blocked()
        assert (answered_before, poll.done) == (False, True)
        with pytest.raises(Draining):
            got(poll)
        disk.failing = False
        await works_again(service)


async def test_what_is_about_all_of_a_queue_begins_after_what_comes_back_is_given_again(
    tmp_path: Path, disk: Disk
) -> None:
    async with open_durable(tmp_path) as service:
        queue = service.default
        await queue.enqueue(b"a")
        given = await queue.dequeue()
        assert given is not None
        poll = wait_for(service, "default")
        disk.hold()
        asked(service, Put(b"unrelated", queue="elsewhere"))
        await disk.held()
        # It comes back with that commit, and its next consumer gets it with another one.
        queue.return_undelivered([given])
        journal = journal_of(service)
        journal.when_resolved(lambda _: journal.flush())  # as the end of a turn would do
        purging = asked(service, Purge("default"))
        await wait_all_tasks_blocked()
        disk.let_one_through()
        await disk.held()
        await wait_all_tasks_blocked()
        [giving] = journal._in_flight
        assert giving.undo, "the purge has not begun"
        disk.go_on()
        assert await purging.wait() == 0
        assert got(poll) == [b"a"]


async def test_a_snapshot_holds_nothing_that_is_undone_later(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        await service.enqueue(b"there")
        disk.hold()
        refused = asked(service, Put(b"refused"))
        await disk.held()
        async with trio.open_nursery() as nursery:
            for name in ("saved.msgpack", "saved.json"):
                nursery.start_soon(service.snapshot, name)
            await wait_all_tasks_blocked()
            disk.failing = True
            disk.go_on()
        with pytest.raises(StorageUnavailable):
            refused.result()
        disk.failing = False
        await works_again(service)
        for name in ("saved.msgpack", "saved.json"):
            assert await service.restore(name) == 1
            assert await taken(service.default) == [b"there"]


async def test_commits_that_rest_on_each_other_are_undone_the_last_of_them_first(
    tmp_path: Path, disk: Disk
) -> None:
    async with open_durable(tmp_path) as service:
        await service.enqueue(b"there")
        journal = journal_of(service)
        disk.hold()
        put = asked(service, Put(b"new"))
        journal.flush()
        await disk.held()
        taking = asked(service, Take("default", Want(2)))
        journal.flush()
        lease = asked(service, Take("default", Want(lease=True), 60.0))
        assert len(journal._in_flight) == 2
        disk.failing = True
        disk.go_on()
        await eventually(lambda: taking.done, "the disk to fail")
        for each in (put, taking):
            with pytest.raises(StorageUnavailable):
                each.result()
        disk.failing = False
        await works_again(service)
        await service.resolved()
        assert got(lease) == [b"there"]
        stats = service.stats().queue
        assert (stats.messages, stats.bytes, stats.ready, stats.dequeued) == (1, len(b"there"), 0, 0)


EXCHANGES: dict[str, Operation] = {
    "purging": Purge("jobs"),
    "deleting": Delete("jobs"),
    "loading": Load("saved.msgpack"),
    "loading one queue": Load("saved.json"),
}


@pytest.mark.parametrize("lease", [False, True], ids=["taken", "leased"])
@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)
async def test_a_message_that_comes_back_before_its_queue_is_exchanged_in_vain_is_kept(
    tmp_path: Path, disk: Disk, exchange: Operation, lease: bool
) -> None:
    name = "default" if exchange == EXCHANGES["loading one queue"] else "jobs"
    async with open_durable(tmp_path) as service:
        for snapshot in ("saved.msgpack", "saved.json"):
            await service.snapshot(snapshot)
        queue = service.queue(name)
        await queue.enqueue(b"precious")
        await queue.enqueue(b"other")
        [given] = await queue.take(Want(lease=lease))
        disk.hold()
        unrelated = asked(service, Put(b"unrelated", queue="elsewhere"))
        await disk.held()
        # Its client has left. Whether what is on its way has to be undone is not known yet, so it waits for that.
        queue.return_undelivered([given])  # type: ignore[arg-type]  # a message or a lease
        exchanging = asked(service, exchange)
        await wait_all_tasks_blocked()
        disk.let_one_through()
        await unrelated.wait()
        in_flight = journal_of(service)._in_flight
        while not exchanging.done:
            await disk.held()
            # Rows that are loaded, and messages that come back, are written before the queues are exchanged.
            if in_flight and any(undo is not _nothing for undo, _ in in_flight[0].undo):
                disk.failing = True
                disk.go_on()
                await eventually(lambda: exchanging.done, "the exchange to fail")
            else:
                disk.let_one_through()
                await wait_all_tasks_blocked()
        with pytest.raises(StorageUnavailable):
            exchanging.result()
        disk.failing = False
        await works_again(service)
        stats = queue.info().stats
        assert (stats.messages, stats.ready, stats.bytes) == (2, 2, 13)
        assert [each.message.body for each in await queue.peek()] == [b"precious", b"other"]
    async with open_durable(tmp_path) as service:
        assert await taken(service.queue(name)) == [b"precious", b"other"]


@pytest.mark.parametrize("stored", [False, True], ids=["new", "old"])
async def test_a_message_that_comes_back_before_its_taking_is_written_is_there_once(
    tmp_path: Path, disk: Disk, stored: bool
) -> None:
    async with open_durable(tmp_path) as service:
        service.enqueue_nowait(b"a")
        if stored:
            await service.stored()
        for _ in range(2):
            message = service.dequeue_nowait()
            assert message is not None
            service.default.return_undelivered([message])
            await service.stored()
        assert await taken(service.default) == [b"a"]
        await service.enqueue(b"b")
        disk.failing = True
        message = service.dequeue_nowait()
        assert message is not None
        service.default.return_undelivered([message])
        with pytest.raises(StorageUnavailable):
            await service.stored()
        disk.failing = False
        await works_again(service)
        assert service.stats().queue.ready == 1
    async with open_durable(tmp_path) as service:
        assert await taken(service.default) == [b"b"]
