"""`zapq check`: what it says about a database, and that it changes nothing there."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import sys
from collections import namedtuple
from contextlib import closing
from pathlib import Path

import pytest
import trio

import zapq
from tests.support.process import ENVIRON, assert_one_line, messages, run, serving
from zapq.core.message import Draft
from zapq.core.queue_settings import QueueSettings
from zapq.errors import CannotStart
from zapq.limits import PACK_BODY_BYTES
from zapq.service.operations import Offer
from zapq.settings import Settings
from zapq.store.check import QueueReport, check
from zapq.store.database import GARBAGE_ROWS, Database
from zapq.store.schema import FILE

WAL = f"{FILE}-wal"


async def fill(directory: Path, after: Path | None = None) -> None:
    """Make a database in `directory`; what it looks like while it is in use goes to `after`."""
    with pytest.MonkeyPatch.context() as patch:
        if after is not None:
            # Garbage stays, so that the copy has it and no commit is made in the middle of copying.
            patch.setattr(Database, "tidy", lambda self, *, idle: None)
        await fill_and_copy(directory, after)


async def fill_and_copy(directory: Path, after: Path | None) -> None:
    settings = Settings(data_dir=str(directory), durable=True)
    async with zapq.open_service(settings) as service:
        await service.configure("jobs", QueueSettings(ttl=1000.0))
        jobs = service.queue("jobs")
        await jobs.enqueue(b"gone")
        await jobs.enqueue_many([b"a", Draft(body=b"bb", priority=3), Draft(body=b"ccc", delay=500.0)])
        await jobs.dequeue()  # bb
        lease = await jobs.receive()
        assert lease is not None
        assert lease.body == b"gone"
        await jobs.release(lease.receipt)
        await service.default.put(Offer(b"once", key="key"))
        await service.queue("leer").pause()
        # More garbage than is removed at once: messages that do not share rows.
        bodies = [bytes(PACK_BODY_BYTES + 1)] * 1000
        for _ in range(2 * GARBAGE_ROWS // len(bodies)):
            await service.queue("purged").enqueue_many(bodies)
        await service.queue("purged").clear()
        if after is not None:
            copy(directory, after)


def copy(source: Path, target: Path) -> None:
    target.mkdir()
    for name in (FILE, WAL):
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


def state(directory: Path) -> list[tuple[str, bytes, int, int]]:
    """What is in a directory, and when it was last changed."""
    return [("", b"", os.stat(directory).st_mtime_ns, 0)] + [
        (path.name, path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino)
        for path in sorted(directory.iterdir())
    ]


@pytest.fixture
async def stopped(tmp_path: Path) -> Path:
    await fill(tmp_path / "stopped")
    return tmp_path / "stopped"


async def test_it_says_what_is_there_and_changes_nothing(tmp_path: Path) -> None:
    stopped, killed = tmp_path / "stopped", tmp_path / "killed"
    await fill(stopped, killed)
    for directory in (stopped, killed):
        before = state(directory)
        report = check(str(directory))
        assert state(directory) == before
        assert {queue.name: queue for queue in report.queues} == {
            "default": QueueReport("default", False, 1, 0, 0, 0, 4, 1),
            "jobs": QueueReport("jobs", False, 2, 1, 1, 0, 8, 1),
            "leer": QueueReport("leer", True, 0, 0, 0, 0, 0, None),
            "purged": QueueReport("purged", False, 0, 0, 0, 0, 0, None),
        }
        assert (report.format, report.keys, report.warning) == (2, 1, "")
        assert report.size == (directory / FILE).stat().st_size
        assert (report.log is None) == (directory == stopped)
    assert check(str(killed)).garbage > GARBAGE_ROWS / 2


async def test_the_command_says_it_in_a_table(stopped: Path) -> None:
    before = state(stopped)
    shown = run("check", str(stopped))
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[0] == f"format 2, {(stopped / FILE).stat().st_size} bytes, no log"
    assert lines[1].startswith("4 queues, 1 idempotency keys, ")
    assert lines[2].split() == ["queue", "ready", "delayed", "received", "expired", "bytes", "oldest", "id"]
    assert ["jobs", "2", "1", "1", "0", "8", "1"] in [line.split() for line in lines]
    assert ["leer", "(paused)", "0", "0", "0", "0", "0", "-"] in [line.split() for line in lines]
    assert lines[-1] == "ok"
    assert state(stopped) == before


async def test_a_commit_that_was_not_finished_is_told_and_is_no_damage(tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    await fill(tmp_path / "stopped", killed)
    with open(killed / WAL, "r+b") as log:
        # Where the last commit is, read from the log itself: its salts are those of the header.
        data = log.read()
        frames = [at for at in range(32, len(data), 4120) if data[at + 8 : at + 16] == data[16:24]]
        log.seek(frames[-1] + 2000)
        log.write(b"torn")
    shown = run("check", str(killed))
    assert shown.returncode == 0
    *_, warning, ok = shown.stdout.splitlines()
    assert (warning.startswith(f"warning: {WAL} ends at byte "), ok) == (True, "ok")
    assert "unfinished commit" in warning


async def test_damage_is_one_line_with_its_place(stopped: Path) -> None:
    data = bytearray((stopped / FILE).read_bytes())
    data[data.index(b"once")] ^= 1
    (stopped / FILE).write_bytes(data)
    before = state(stopped)
    assert_one_line(run("check", str(stopped)), 1, "zapq.db is damaged: messages, row ")
    assert state(stopped) == before


async def test_damage_that_cannot_even_be_quoted_is_one_line(stopped: Path) -> None:
    data = bytearray((stopped / FILE).read_bytes())
    data[data.index(b"CREATE TABLE probe") + 15] ^= 0x80
    (stopped / FILE).write_bytes(data)
    assert_one_line(run("check", str(stopped)), 1, "zapq.db cannot be used: ")


async def test_a_key_and_a_row_of_garbage_have_checksums_too(stopped: Path) -> None:
    for change, place in (
        ("update keys set id = id + 1", "keys, queue 1, key 'key'"),
        (
            "update messages set row = row + (9 << 43) where row = (select max(row) from messages)",
            "messages, row",
        ),
    ):
        altered = stopped.with_name(place)
        copy(stopped, altered)
        with closing(sqlite3.connect(altered / FILE, isolation_level=None)) as connection:
            connection.execute(change)
        with pytest.raises(CannotStart, match=f"damaged: {place}.*checksum"):
            check(str(altered))


async def test_a_newer_format_is_told(stopped: Path) -> None:
    with open(stopped / FILE, "r+b") as file:
        file.seek(60)  # user_version
        file.write(struct.pack(">I", 3))
    assert_one_line(
        run("check", str(stopped)), 1, "written by a newer zapq, in format 3. This zapq reads formats up to 2."
    )


@pytest.mark.parametrize("table", ["create table more (a)", "drop table probe", "pragma user_version = 0"])
async def test_other_tables_than_ours_are_not_taken_for_them(stopped: Path, table: str) -> None:
    with closing(sqlite3.connect(stopped / FILE, isolation_level=None)) as connection:
        connection.execute(table)
    with pytest.raises(CannotStart, match="tables are not those of format 2"):
        check(str(stopped))


async def test_a_database_of_something_else_is_told(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.execute("create table theirs (a)")
    with pytest.raises(CannotStart, match="a database of another program"):
        check(str(tmp_path))
    (tmp_path / FILE).write_bytes(b"a diary" * 1000)
    with pytest.raises(CannotStart, match="not a database"):
        check(str(tmp_path))


async def test_what_is_missing_is_told(stopped: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    await fill(tmp_path / "again", killed)
    (killed / WAL).unlink()
    assert f"{WAL} is missing" in check(str(killed)).warning
    await fill(tmp_path / "once more", tmp_path / "without")
    (tmp_path / "without" / FILE).unlink()
    with pytest.raises(CannotStart, match=f"its log {WAL} is there"):
        check(str(tmp_path / "without"))
    # Nor does a server begin a new one beside it.
    # At a free port, for a server may listen at the one it takes by itself.
    start = run("--addr", "127.0.0.1:0", "--durable", "--data-dir", str(tmp_path / "without"))
    assert_one_line(start, 1, f"its log {WAL} is there")
    (stopped / FILE).write_bytes(b"")
    with pytest.raises(CannotStart, match="it is empty"):
        check(str(stopped))


def test_no_database_is_one_line(tmp_path: Path) -> None:
    assert_one_line(
        run("check", str(tmp_path)), 1, f"There is no zapq.db in {str(tmp_path)!r}. Give the --data-dir"
    )
    assert_one_line(run("check", str(tmp_path / "x")), 1, "x': No such file or directory.")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / FILE).symlink_to("elsewhere")
    assert_one_line(run("check", str(tmp_path)), 1, "not a plain file")
    assert_one_line(run("check"), 2, "DIR")


async def test_a_directory_in_use_is_not_read(stopped: Path) -> None:
    with serving(stopped, "--durable", "--addr", "127.0.0.1:0") as (process, _):
        assert_one_line(run("check", str(stopped)), 1, "is in use by another zapq.")
        process.terminate()
        output, _ = process.communicate()
        assert messages(output)[-1]["msg"] == "bye"
    assert run("check", str(stopped)).returncode == 0


async def test_a_copy_that_does_not_fit_is_told(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 0, 9))
    size = (stopped / FILE).stat().st_size
    with pytest.raises(CannotStart, match=rf"needs {size} bytes in '[^']*' for a copy, where 9 are free"):
        check(str(stopped))


async def test_nothing_is_left_of_the_copy(stopped: Path, tmp_path: Path) -> None:
    place = tmp_path / "tmp"
    place.mkdir()
    assert run("check", str(stopped), TMPDIR=str(place)).returncode == 0
    assert list(place.iterdir()) == []


async def test_looking_imports_neither_trio_nor_the_server(stopped: Path) -> None:
    code = (
        f"import sys; sys.argv = ['zapq', 'check', {str(stopped)!r}]\n"
        "from zapq.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print(*{'quart', 'hypercorn', 'trio'} & set(sys.modules))"
    )
    shown = await trio.run_process([sys.executable, "-c", code], capture_stdout=True, env=ENVIRON)
    assert shown.stdout.splitlines()[-1] == b""
