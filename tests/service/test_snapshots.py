"""Snapshots of everything, saved and loaded by a running service."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from zapq.core.message import Lease
from zapq.core.queue_settings import QueueSettings
from zapq.errors import CannotStart, Draining, KeyReused, QueueNotFound, ReceiptExpired, SnapshotFailed
from zapq.service import bulk
from zapq.service.named_queue import NamedQueue
from zapq.service.open import open_service
from zapq.service.operations import Accepted, Offer
from zapq.service.service import QueueService
from zapq.settings import Settings


async def received(queue: NamedQueue) -> Lease:
    lease = await queue.receive(visibility=1000)
    assert lease is not None
    return lease


async def bodies(queue: NamedQueue) -> list[bytes]:
    return [message.body for message in await queue.dequeue_many(1000)]


async def test_all_queues_come_back_with_all_there_was_to_know(
    zapq_service: QueueService, zapq_settings: Settings
) -> None:
    jobs = zapq_service.queue("jobs")
    settings = QueueSettings(visibility=7.0, max_receives=3, dead_letter="jobs.dead", max_messages=100)
    await zapq_service.configure("jobs", settings)
    await jobs.enqueue_many([b"leased", b"run 1", b"run 2"])
    await jobs.enqueue(b"urgent", priority=9, content_type="text/plain")
    await jobs.enqueue(b"late", delay=1000)
    await jobs.enqueue(b"mortal", ttl=1000)
    await zapq_service.enqueue(b"default")
    urgent = await received(jobs)
    await jobs.release(urgent.receipt)
    await received(jobs)
    assert (await received(jobs)).body == b"leased"
    await zapq_service.find("jobs.dead").pause()
    assert await zapq_service.snapshot("a.msgpack") == 7

    async with open_service(zapq_settings) as other:
        await other.queue("gone").enqueue(b"x")
        assert await other.restore("a.msgpack") == 7
        assert [queue.name for queue in other.queues()] == ["default", "jobs", "jobs.dead"]
        assert other.find("jobs").info().settings == settings
        assert other.find("jobs.dead").info().paused
        again = other.find("jobs")
        assert again.info().stats.delayed == 1
        first, second = await received(again), await received(again)
        assert (first.body, first.receives, first.message.priority, first.message.content_type) == (
            b"urgent",
            3,
            9,
            "text/plain",
        )
        assert (second.body, second.receives, second.message.id) == (b"leased", 2, 1)
        assert await bodies(again) == [b"run 1", b"run 2", b"mortal"]
        assert await bodies(other.default) == [b"default"]
        assert (await again.enqueue(b"new")).id == 7
        await again.release(first.receipt)
        assert other.find("jobs.dead").info().stats.messages == 1


async def test_delays_ttls_and_keys_go_on_by_the_wall_clock(
    zapq_service: QueueService, zapq_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = time.time()
    monkeypatch.setattr("zapq.service.snapshots.time.time", lambda: wall)
    await zapq_service.enqueue(b"late", delay=100)
    await zapq_service.enqueue(b"mortal", ttl=50)
    offer = Offer(b"invoice", key="key")
    assert await zapq_service.default.put(offer) == Accepted(3)
    await zapq_service.snapshot("a.msgpack")
    for passed, late, held, replayed in ((40, 60, 3, True), (90, 10, 2, True), (301, None, 2, False)):
        wall += passed
        async with open_service(zapq_settings) as other:
            await other.restore("a.msgpack")
            await other.dequeue()  # which does what is due
            delayed = await other.default.peek("delayed")
            due = [(each.due or 0) - trio.current_time() for each in delayed]
            assert due == ([pytest.approx(late, abs=5)] if late else [])
            assert other.stats().queue.messages == held - 1
            assert (await other.default.put(offer)).replayed == replayed
        wall -= passed


async def test_queues_that_are_not_in_the_file_are_gone_with_all_who_wait_there(
    zapq_service: QueueService, nursery: trio.Nursery
) -> None:
    await zapq_service.snapshot("a.msgpack")
    gone = zapq_service.queue("gone")
    await gone.enqueue(b"x")
    lease = await received(gone)
    refused = trio.Event()

    async def wait() -> None:
        with pytest.raises(QueueNotFound):
            await gone.receive(wait=60)
        refused.set()

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    assert await zapq_service.restore("a.msgpack") == 0
    await refused.wait()
    with pytest.raises(QueueNotFound):
        await gone.ack(lease.receipt)
    with pytest.raises(QueueNotFound):
        zapq_service.find("gone")
    assert zapq_service.stats().queue.messages == zapq_service.broker.messages == zapq_service.broker.bytes == 0
    assert zapq_service.stats().queue.cleared == 1
    assert (await zapq_service.queue("gone").enqueue(b"new")).id == 1


async def test_who_waits_in_a_queue_that_is_in_the_file_is_served(
    zapq_service: QueueService, nursery: trio.Nursery
) -> None:
    jobs = zapq_service.queue("jobs")
    await jobs.enqueue(b"saved")
    await zapq_service.snapshot("a.msgpack")
    await jobs.clear()
    got: list[bytes] = []

    async def consume(wait: float) -> None:
        lease = await jobs.receive(wait=wait)
        assert lease is not None
        got.append(lease.body)

    for wait in (50, 60):
        nursery.start_soon(consume, wait)
        await wait_all_tasks_blocked()
    await zapq_service.restore("a.msgpack")
    await wait_all_tasks_blocked()
    assert got == [b"saved"]
    await jobs.enqueue(b"later")
    await wait_all_tasks_blocked()
    assert got == [b"saved", b"later"]


async def test_a_queue_made_and_waited_in_while_the_file_is_read_is_served_too(
    zapq_service: QueueService, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    await zapq_service.queue("jobs").enqueue(b"saved")
    await zapq_service.queue("other").enqueue(b"saved too")
    await zapq_service.snapshot("a.msgpack")
    await zapq_service.delete("jobs")
    planned, proceed, got = trio.Event(), threading.Event(), trio.Event()
    build = bulk.build

    def slow(*arguments: Any) -> Any:
        trio.from_thread.run_sync(planned.set)
        proceed.wait()
        return build(*arguments)

    monkeypatch.setattr(bulk, "build", slow)

    async def consume() -> None:
        lease = await zapq_service.queue("jobs").receive(wait=60)
        assert lease is not None
        await zapq_service.queue("jobs").ack(lease.receipt)
        got.set()

    nursery.start_soon(zapq_service.restore, "a.msgpack")
    await planned.wait()
    try:
        nursery.start_soon(consume)
        await wait_all_tasks_blocked()
        await zapq_service.delete("other")
    finally:
        proceed.set()
    await got.wait()
    assert await bodies(zapq_service.find("other")) == [b"saved too"]
    assert zapq_service.broker.messages == 0


async def test_counts_go_on_and_ids_are_not_given_twice(zapq_service: QueueService) -> None:
    jobs = zapq_service.queue("jobs")
    await jobs.enqueue_many([b"a", b"b"])
    await zapq_service.snapshot("a.msgpack")
    await jobs.enqueue_many([b"c", b"d"])
    await jobs.dequeue()
    before = jobs.info().stats
    for _ in range(2):
        await zapq_service.restore("a.msgpack")
    assert jobs.info().stats == msgspec.structs.replace(before, messages=2, bytes=2, ready=2, cleared=3 + 2)
    assert (await jobs.enqueue(b"e")).id == 5
    assert [message.id for message in await jobs.dequeue_many(9)] == [1, 2, 5]


async def test_leases_of_before_are_over(zapq_service: QueueService) -> None:
    jobs = zapq_service.queue("jobs")
    await jobs.enqueue_many([b"a", b"b"])
    await zapq_service.snapshot("a.msgpack")
    lost, acked = await received(jobs), await received(jobs)
    await jobs.ack(acked.receipt)
    await zapq_service.restore("a.msgpack")
    with pytest.raises(ReceiptExpired):
        await jobs.ack(lost.receipt)
    await jobs.ack(acked.receipt)
    assert jobs.info().stats.ready == 2


async def test_what_was_taken_before_and_came_back_is_there_once(zapq_service: QueueService) -> None:
    await zapq_service.enqueue(b"a")
    await zapq_service.default.enqueue_many([b"b", b"c", b"d"])

    def take_two() -> None:
        for message in [zapq_service.dequeue_nowait() for _ in range(2)]:
            assert message is not None
            taken.append(message)

    taken: list[Any] = []
    take_two()
    zapq_service.default.return_undelivered(taken)
    await zapq_service.snapshot("a.msgpack")
    taken.clear()
    take_two()
    await zapq_service.restore("a.msgpack")
    zapq_service.default.return_undelivered(taken)
    assert await bodies(zapq_service.default) == [b"a", b"b", b"c", b"d"]
    assert zapq_service.broker.messages == 0


async def test_another_message_with_the_same_id_is_not_mistaken_for_it(
    zapq_service: QueueService, zapq_settings: Settings
) -> None:
    await zapq_service.enqueue(b"theirs")
    await zapq_service.snapshot("a.msgpack")
    async with open_service(zapq_settings) as other:
        await other.enqueue(b"ours")
        taken = other.dequeue_nowait()
        assert taken is not None
        await other.restore("a.msgpack")
        other.default.return_undelivered([taken])
        assert await bodies(other.default) == [b"theirs", b"ours"]


async def test_keys_are_those_of_the_file(zapq_service: QueueService) -> None:
    jobs = zapq_service.queue("jobs")
    await jobs.put(Offer(b"x", key="before"))
    await zapq_service.snapshot("a.msgpack")
    await jobs.put(Offer(b"y", key="after"))
    await zapq_service.restore("a.msgpack")
    assert (await jobs.put(Offer(b"x", key="before"))) == Accepted(1, replayed=True)
    with pytest.raises(KeyReused):
        await jobs.put(Offer(b"other", key="before"))
    assert (await jobs.put(Offer(b"y", key="after"))) == Accepted(3)


async def test_a_message_leased_for_the_last_time_is_a_dead_letter_when_it_is_loaded(
    zapq_service: QueueService, zapq_settings: Settings
) -> None:
    jobs = zapq_service.queue("jobs")
    await zapq_service.configure("jobs", QueueSettings(max_receives=1, dead_letter="dead"))
    await jobs.enqueue(b"poison")
    await received(jobs)
    await zapq_service.snapshot("a.msgpack")
    async with open_service(zapq_settings) as other:
        await other.restore("a.msgpack")
        assert other.find("jobs").info().stats.messages == 0
        [letter] = await other.find("dead").peek()
        assert (letter.message.body, letter.message.properties.failed_in) == (b"poison", "jobs")
        assert other.broker.messages == 1
        assert (await other.find("dead").redrive()).moved == 1


async def test_what_cannot_be_loaded_changes_nothing(
    zapq_service: QueueService, zapq_settings: Settings, tmp_path: Path
) -> None:
    await zapq_service.queue("jobs").enqueue_many([b"12345", b"1234567890"])
    await zapq_service.queue("more").enqueue(b"x")
    await zapq_service.snapshot("good.msgpack")
    (tmp_path / "short.msgpack").write_bytes((tmp_path / "good.msgpack").read_bytes()[:-1])
    os.mkfifo(tmp_path / "fifo.msgpack")
    (tmp_path / "link.msgpack").symlink_to(tmp_path / "good.msgpack")
    for name, settings in (
        ("short", zapq_settings),
        ("fifo", zapq_settings),
        ("link", zapq_settings),
        ("missing", zapq_settings),
        ("good", replace(zapq_settings, max_msgs=2)),
        ("good", replace(zapq_settings, max_bytes=15)),
        ("good", replace(zapq_settings, max_message_bytes=9)),
        ("good", replace(zapq_settings, max_queues=2)),
    ):
        async with open_service(settings) as other:
            kept = other.queue("kept")
            await kept.enqueue(b"kept")
            before = (other.stats(), kept.info(), set(other.broker.queues))
            with pytest.raises(SnapshotFailed, match=rf"^{name}\.msgpack"):
                await other.restore(f"{name}.msgpack")
            assert (other.stats(), kept.info(), set(other.broker.queues)) == before
            other.drain()
            with pytest.raises(Draining):
                await other.restore("good.msgpack")


async def test_messages_come_and_go_while_everything_is_written(
    zapq_service: QueueService, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, proceed = trio.Event(), threading.Event()
    store = zapq_service.snapshots.store
    save_all = store.save_all

    def slow(*arguments: Any) -> None:
        trio.from_thread.run_sync(writing.set)
        proceed.wait()
        save_all(*arguments)

    monkeypatch.setattr(store, "save_all", slow)
    jobs = zapq_service.queue("jobs")
    await jobs.enqueue_many([b"a", b"b", b"c"])
    await jobs.enqueue(b"d", priority=5)
    async with trio.open_nursery() as saving:
        saving.start_soon(zapq_service.snapshot, "a.msgpack")
        await writing.wait()
        try:
            assert len(await jobs.dequeue_many(2)) == 2
            await jobs.enqueue(b"later")
            await zapq_service.queue("another").enqueue(b"x")
        finally:
            proceed.set()
    await zapq_service.restore("a.msgpack")
    assert await bodies(jobs) == [b"d", b"a", b"b", b"c"]
    assert [queue.name for queue in zapq_service.queues()] == ["default", "jobs"]


async def test_files_that_are_written_and_not_written_are_counted(
    zapq_service: QueueService, tmp_path: Path
) -> None:
    (tmp_path / "a.json").mkdir()
    (tmp_path / "a.msgpack").mkdir()
    for name in ("a.json", "a.msgpack"):
        with pytest.raises(SnapshotFailed):
            await zapq_service.snapshot(name)
        await zapq_service.snapshot(f"b{name}")
    stats = zapq_service.stats()
    assert (stats.snapshots_written, stats.snapshots_failed) == (2, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.msgpack", "ba.json", "ba.msgpack"]


async def test_what_is_saved_at_the_end_is_there_at_the_next_start(
    zapq_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings = replace(zapq_settings, load_on_start="queues.msgpack", snapshot_on_exit="queues.msgpack")
    for held in range(3):
        async with open_service(settings) as service:
            assert service.queue("jobs").info().stats.messages == held
            await service.queue("jobs").enqueue(b"x")
    warnings = [(line.getMessage(), line.fields) for line in caplog.records if line.levelname == "WARNING"]  # type: ignore[attr-defined]
    assert warnings == [("nothing to load; starting empty", {"file": "queues.msgpack"})]


async def test_json_is_saved_and_loaded_for_the_default_queue(zapq_settings: Settings, tmp_path: Path) -> None:
    async with open_service(replace(zapq_settings, snapshot_on_exit="a.json")) as service:
        await service.enqueue(b"hi")
        await service.queue("jobs").enqueue(b"not there")
    assert (tmp_path / "a.json").read_bytes() == b'["aGk="]'
    async with open_service(replace(zapq_settings, load_on_start="a.json")) as service:
        assert await bodies(service.default) == [b"hi"]
        assert [queue.name for queue in service.queues()] == ["default"]


@pytest.mark.parametrize("name", ["a.json", "a.msgpack"])
async def test_a_start_with_a_damaged_file_is_refused(zapq_settings: Settings, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"[")
    with pytest.raises(CannotStart, match=rf"^--load-on-start: {name}"):
        async with open_service(replace(zapq_settings, load_on_start=name, snapshot_on_exit=name)):
            pass
    assert (tmp_path / name).read_bytes() == b"["


async def test_a_block_that_fails_or_is_cancelled_saves_nothing(zapq_settings: Settings, tmp_path: Path) -> None:
    settings = replace(zapq_settings, snapshot_on_exit="a.msgpack")
    with pytest.RaisesGroup(ZeroDivisionError):
        async with open_service(settings):
            raise ZeroDivisionError
    with trio.CancelScope() as scope:
        async with open_service(settings):
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert list(tmp_path.iterdir()) == []


async def test_a_failure_to_save_at_the_end_is_raised_and_logged(
    zapq_settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.msgpack").mkdir()
    with pytest.raises(SnapshotFailed, match=r"^a\.msgpack could not be written: Is a directory\."):
        async with open_service(replace(zapq_settings, snapshot_on_exit="a.msgpack")):
            pass
    assert [(line.levelname, line.getMessage()) for line in caplog.records] == [
        ("ERROR", "snapshot on exit failed")
    ]


async def test_queues_on_disk_are_saved_and_replaced_together(zapq_settings: Settings) -> None:
    async with open_service(replace(zapq_settings, durable=True)) as durable:
        jobs = durable.queue("jobs")
        await jobs.enqueue_many([b"a", b"b", b"c"])
        await jobs.enqueue(b"late", delay=1000)
        await received(jobs)
        assert await durable.snapshot("a.msgpack") == 4
        await jobs.enqueue(b"not in it")
        await durable.queue("gone").enqueue(b"nor is its queue")
        assert await durable.restore("a.msgpack") == 4
        assert jobs.info().stats.messages == 4
    async with open_service(replace(zapq_settings, durable=True)) as durable:
        assert [queue.name for queue in durable.queues()] == ["default", "jobs"]
        assert await bodies(durable.find("jobs")) == [b"a", b"b", b"c"]
        assert durable.find("jobs").info().stats.delayed == 1
    async with open_service(zapq_settings) as service:
        await service.restore("a.msgpack")
        assert await bodies(service.find("jobs")) == [b"a", b"b", b"c"]
        assert service.find("jobs").info().stats.delayed == 1
