"""Snapshots every so often: when, under which names, how many, and what happens if one fails."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from zapq.core.queue_settings import QueueSettings
from zapq.errors import SnapshotFailed
from zapq.service.autosave import Autosave
from zapq.service.open import open_service
from zapq.service.service import QueueService
from zapq.service.snapshots import Snapshots
from zapq.settings import Settings
from zapq.store.snapshot import SnapshotStore

BEGIN = 1_800_000_000.0


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the wall clock to so many seconds after `BEGIN`."""

    def set_to(seconds: float) -> None:
        monkeypatch.setattr(time, "gmtime", lambda *_: gmtime(BEGIN + seconds))

    gmtime = time.gmtime
    set_to(0)
    return set_to


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


async def test_files_are_named_for_their_time_and_only_the_oldest_of_its_own_are_removed(
    zapq_service: QueueService, tmp_path: Path, wall: Callable[[float], None]
) -> None:
    people = ["a.msgpack", "auto-.msgpack", "auto-20200101T000000Z.json", "auto-backup.msgpack"]
    for name in people:
        (tmp_path / name).touch()
    (tmp_path / "auto-20200101T000000Z.msgpack").touch()  # of an earlier run
    autosave = Autosave(zapq_service.snapshots, zapq_service.fingerprint, every=60, keep=2)
    for number, kept in ((0, 2), (1, 2), (2, 2), (3, 2)):
        await zapq_service.enqueue(b"x")
        wall(number * 60)
        await autosave.save()
        assert len(names(tmp_path)) == len(people) + kept
    assert set(names(tmp_path)) - set(people) == {"auto-20270115T080200Z.msgpack", "auto-20270115T080300Z.msgpack"}
    assert await zapq_service.restore("auto-20270115T080300Z.msgpack") == 4


async def test_nothing_is_written_while_nothing_changes(
    zapq_service: QueueService, tmp_path: Path, wall: Callable[[float], None]
) -> None:
    autosave = Autosave(zapq_service.snapshots, zapq_service.fingerprint, every=60, keep=99)
    at = 0
    jobs = zapq_service.queue("jobs")

    async def writes() -> bool:
        nonlocal at
        at += 1
        wall(at)
        before = names(tmp_path)
        await autosave.save()
        return names(tmp_path) != before

    async def release() -> None:
        lease = await jobs.receive()
        assert lease is not None
        await jobs.release(lease.receipt)

    assert await writes()
    assert not await writes()
    for change in (
        lambda: jobs.enqueue(b"x"),
        release,
        jobs.pause,
        lambda: zapq_service.configure("jobs", QueueSettings(visibility=3)),
        lambda: zapq_service.change_settings("jobs", visibility=4),
        jobs.clear,
        lambda: zapq_service.delete("jobs"),
    ):
        await change()
        assert await writes(), change
        assert not await writes()
    zapq_service.stats()
    await zapq_service.dequeue()
    assert not await writes()


async def test_a_failure_is_logged_once_counted_and_tried_again(
    zapq_service: QueueService,
    tmp_path: Path,
    wall: Callable[[float], None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    autosave = Autosave(zapq_service.snapshots, zapq_service.fingerprint, every=60, keep=2)
    with monkeypatch.context() as patch:

        def full(*args: object, **kwargs: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "rename", full)
        for _ in range(2):
            await autosave.save()
    assert [(line.levelname, line.getMessage()) for line in caplog.records] == [("ERROR", "snapshot failed")] * 2
    assert "No space left" in caplog.records[0].fields["reason"]  # type: ignore[attr-defined]
    assert (zapq_service.stats().snapshots_failed, names(tmp_path)) == (2, [])
    await autosave.save()
    assert (zapq_service.stats().snapshots_written, len(names(tmp_path))) == (1, 1)


async def test_an_old_file_that_cannot_be_removed_is_logged_and_no_more(
    zapq_service: QueueService, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "auto-20200101T000000Z.msgpack").touch()

    def refuse(name: str) -> None:
        raise SnapshotFailed(f"{name} could not be removed: Permission denied.")

    monkeypatch.setattr(zapq_service.snapshots.store, "remove", refuse)
    await Autosave(zapq_service.snapshots, zapq_service.fingerprint, every=60, keep=1).save()
    assert len(names(tmp_path)) == 2
    assert [line.levelname for line in caplog.records] == ["ERROR"]


async def test_it_goes_on_every_so_often_whatever_happens(
    autojump_clock: MockClock, zapq_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = trio.current_time()
    saved: list[float] = []

    # Instead of a thread, which virtual time would not wait for.
    async def save(snapshots: Snapshots, name: str) -> int:
        await trio.lowlevel.checkpoint()
        saved.append(trio.current_time() - begun)
        raise [SnapshotFailed("no"), RuntimeError("can't start new thread")][len(saved) % 2]

    monkeypatch.setattr(Snapshots, "save", save)
    async with open_service(replace(zapq_settings, snapshot_every=300.0)) as service:
        await trio.sleep(1000)
        await service.enqueue(b"still there")
    assert saved == [300, 600, 900]


async def test_by_default_there_are_none(
    autojump_clock: MockClock, zapq_service: QueueService, tmp_path: Path
) -> None:
    await trio.sleep(10**6)
    assert names(tmp_path) == []


async def test_a_file_just_written_stays_although_older_ones_are_of_a_later_time(
    tmp_path: Path, zapq_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    for run, moment in enumerate((now + 1e6, now + 2e6, now)):
        name = f"auto-2030010{run}T000000Z.msgpack"
        monkeypatch.setattr(time, "time", lambda moment=moment: moment)
        monkeypatch.setattr("zapq.service.autosave.automatic_name", lambda name=name: name)
        async with open_service(zapq_settings) as service:
            await service.enqueue(b"x")
            await Autosave(service.snapshots, service.fingerprint, every=60, keep=2).save()
    assert names(tmp_path) == ["auto-20300101T000000Z.msgpack", "auto-20300102T000000Z.msgpack"]
    with SnapshotStore(zapq_settings) as store:
        assert store.newest_first("none.msgpack")[0].name == "auto-20300102T000000Z.msgpack"
