"""Which file a start loads: the newest of the one that is named and the automatic ones, and never in silence."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zapq.errors import CannotStart
from zapq.service.autosave import Autosave
from zapq.service.open import open_service
from zapq.settings import Settings

NAME = "queues.msgpack"
BEGIN = 1_800_000_000.0
AUTO, LATER = "auto-20270115T080000Z.msgpack", "auto-20270115T080005Z.msgpack"


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the wall clock to so many seconds after `BEGIN`."""
    gmtime = time.gmtime

    def set_to(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: BEGIN + seconds)
        monkeypatch.setattr(time, "gmtime", lambda at=BEGIN + seconds: gmtime(at))

    set_to(0)
    return set_to


@pytest.fixture
def settings(zapq_settings: Settings) -> Settings:
    return replace(zapq_settings, load_on_start=NAME)


async def save(settings: Settings, *files: str | None, body: bytes) -> None:
    """Save a message to each file; None is an automatic one."""
    async with open_service(replace(settings, load_on_start="")) as service:
        await service.enqueue(body)
        for name in files:
            if name is None:
                await Autosave(service.snapshots, service.fingerprint, every=60, keep=9).save()
            else:
                await service.snapshot(name)


async def loaded(settings: Settings) -> list[bytes]:
    async with open_service(settings) as service:
        return [message.body for message in await service.default.dequeue_many(9)]


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, dict[str, Any]]]:
    return [(line.levelname, line.getMessage(), line.fields) for line in caplog.records]  # type: ignore[attr-defined]


async def test_a_newer_automatic_snapshot_is_loaded_instead_and_a_warning_says_so(
    settings: Settings, wall: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    await save(settings, NAME, body=b"old")
    wall(5.25)
    await save(settings, None, body=b"new")
    caplog.set_level("INFO", "zapq")
    assert await loaded(settings) == [b"new"]
    reason = (
        "queues.msgpack is older: it was saved at 2027-01-15T08:00:00.000Z. To load it, move the automatic"
        " snapshots that are newer out of the data directory."
    )
    facts = {"file": LATER, "saved": "2027-01-15T08:00:05.250Z"}
    assert logged(caplog) == [
        ("WARNING", "loading an automatic snapshot instead", {**facts, "asked": NAME, "reason": reason}),
        ("INFO", "snapshot loaded", {**facts, "messages": 1}),
    ]


async def test_the_file_that_is_named_is_loaded_if_it_is_the_newest(
    settings: Settings, wall: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    await save(settings, None, body=b"old")
    await save(settings, NAME, body=b"new")
    caplog.set_level("INFO", "zapq")
    assert await loaded(settings) == [b"new"]
    facts = {"file": NAME, "saved": "2027-01-15T08:00:00.000Z", "messages": 1}
    assert logged(caplog) == [("INFO", "snapshot loaded", facts)]


async def test_without_the_file_that_is_named_the_newest_automatic_one_is_loaded(
    settings: Settings, wall: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    await save(settings, None, body=b"old")
    wall(5)
    await save(settings, None, body=b"new")
    assert await loaded(settings) == [b"new"]
    [(level, message, fields)] = logged(caplog)
    assert (level, message) == ("WARNING", "loading an automatic snapshot instead")
    assert (fields["file"], fields["reason"]) == (LATER, "There is no queues.msgpack.")


@pytest.mark.parametrize(("modified", "expected"), [(-1, b"automatic"), (1, b"named")])
async def test_a_json_file_is_as_old_as_its_directory_entry_says(
    settings: Settings, wall: Callable[[float], None], tmp_path: Path, modified: float, expected: bytes
) -> None:
    await save(settings, None, body=b"automatic")
    await save(settings, "queues.json", body=b"named")
    os.utime(tmp_path / "queues.json", times=(BEGIN + modified, BEGIN + modified))
    assert await loaded(replace(settings, load_on_start="queues.json")) == [expected]


async def test_files_of_other_names_are_never_loaded(settings: Settings, wall: Callable[[float], None]) -> None:
    await save(settings, NAME, body=b"named")
    wall(5)
    await save(settings, "auto-backup.msgpack", "tonight.msgpack", body=b"others")
    assert await loaded(settings) == [b"named"]


@pytest.mark.parametrize(
    ("first", "second", "advice"),
    [
        (NAME, None, f"To start with {NAME}, which is older, move {LATER} out of the data directory."),
        (None, NAME, f"To start with {AUTO}, which is older, move {NAME} out of the data directory."),
        ("other.msgpack", NAME, f"To start with nothing, move {NAME} out of the data directory."),
    ],
)
async def test_if_the_newest_is_damaged_the_start_is_refused_and_says_what_to_do(
    settings: Settings,
    wall: Callable[[float], None],
    tmp_path: Path,
    first: str | None,
    second: str | None,
    advice: str,
) -> None:
    await save(settings, first, body=b"old")
    wall(5)
    await save(settings, second, body=b"new")
    newest = tmp_path / (second or LATER)
    for data in (newest.read_bytes()[:-5], b"zapq"):
        # What is damaged so much that it does not tell its time is as old as its directory entry says.
        newest.write_bytes(data)
        os.utime(newest, times=(BEGIN + 5, BEGIN + 5))
        with pytest.raises(CannotStart) as refusal:
            await loaded(settings)
        assert refusal.value.detail.startswith(f"--load-on-start: {newest.name}: damaged at byte ")
        assert refusal.value.detail.endswith(f". {advice}")


async def test_a_damaged_file_that_is_not_the_newest_does_not_matter(
    settings: Settings, wall: Callable[[float], None], tmp_path: Path
) -> None:
    await save(settings, NAME, body=b"old")
    wall(5)
    await save(settings, None, body=b"new")
    (tmp_path / NAME).write_bytes(b"zapq")
    os.utime(tmp_path / NAME, times=(BEGIN, BEGIN))
    assert await loaded(settings) == [b"new"]


async def test_what_is_saved_later_counts_as_newer_though_the_clock_was_set_back(
    settings: Settings, wall: Callable[[float], None], tmp_path: Path
) -> None:
    wall(3600)
    async with open_service(replace(settings, snapshot_on_exit=NAME)) as service:
        autosave = Autosave(service.snapshots, service.fingerprint, every=60, keep=1)
        await autosave.save()
        wall(0)
        await service.enqueue(b"1")
        await autosave.save()
        assert [path.name for path in tmp_path.iterdir()] == [AUTO]
        await service.enqueue(b"2")
    async with open_service(replace(settings, snapshot_on_exit=NAME)) as service:
        await service.enqueue(b"3")
    assert await loaded(settings) == [b"1", b"2", b"3"]


async def test_automatic_snapshots_that_are_not_loaded_are_named_at_the_start(
    zapq_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings = replace(zapq_settings, snapshot_every=3600.0)
    for expected in (0, 1):
        caplog.clear()
        async with open_service(settings) as service:
            said = [line for line in caplog.records if line.msg == "automatic snapshots are not loaded"]
            assert len(said) == expected
            await service.enqueue(b"PRECIOUS")
            await service.snapshots.save("auto-20300101T000000Z.msgpack")


@pytest.mark.parametrize("saving", [{"snapshot_every": 3600.0}, {"snapshot_on_exit": NAME}])
async def test_two_servers_do_not_save_into_one_directory_by_themselves(
    zapq_settings: Settings, saving: dict[str, object]
) -> None:
    settings = replace(zapq_settings, **saving)  # type: ignore[arg-type]
    async with open_service(settings):
        with pytest.raises(CannotStart, match="is in use by another zapq"):
            async with open_service(settings):
                raise AssertionError("it is open")
        # One that saves only what it is told to save is no harm.
        async with open_service(zapq_settings) as other:
            await other.snapshot("by-hand.msgpack")
    async with open_service(settings):
        pass


async def test_a_file_system_without_locks_is_used_without(
    zapq_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", fail)
    async with open_service(replace(zapq_settings, snapshot_every=3600.0)) as service:
        await service.enqueue(b"x")
