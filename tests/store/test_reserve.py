"""What is done with a disk that is full, with a disk whose room is made up."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from zapq.core.message import DEFAULTS
from zapq.core.queue_settings import QueueSettings
from zapq.core.records import MessagesDeleted, Put, QueuePut, row_of
from zapq.limits import CHECKPOINT_PAGES, DISK_RESERVE, MIB
from zapq.store import reserve as module
from zapq.store.database import VACUUM_PAGES, Database, NoRoom
from zapq.store.open_database import open_database
from zapq.store.port import CommitGroup
from zapq.store.reserve import Reserve
from zapq.store.schema import FILE
from zapq.store.wal import FULL, log_of

QUEUE = QueuePut(1, "default", 1, 10**6, QueueSettings(), False)


class Room:
    """What the disk is said to have."""

    def __init__(self) -> None:
        self.free = 1000 * MIB
        self.full = 0
        """How many of the next writes find it full."""


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    room, commit = Room(), Database._commit

    def try_commit(database: Database, commits: list[CommitGroup]) -> None:
        if room.full:
            room.full -= 1
            raise is_full()
        commit(database, commits)

    monkeypatch.setattr(Reserve, "free", lambda _: room.free)
    monkeypatch.setattr(Database, "_commit", try_commit)
    return room


def is_full() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


def opened(directory: Path) -> Database:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        database = open_database(str(directory), descriptor)
    finally:
        os.close(descriptor)
    database.load(0.0, 0.0)
    return database


@pytest.fixture
def database(tmp_path: Path, room: Room) -> Iterator[Database]:
    with closing(opened(tmp_path)) as database:
        database.commit([group(QUEUE)])
        yield database


def group(*records: Put | MessagesDeleted | QueuePut) -> CommitGroup:
    group = CommitGroup()
    group.records += records
    return group


def put(id: int, size: int = 10) -> Put:
    return Put(row_of(1, id), bytes(size), DEFAULTS, 0.0)


def number(database: Database) -> int:
    count: int = database._connection.execute("select count(*) from messages").fetchone()[0]
    return count


def tidy_up(database: Database) -> None:
    while database.untidy:
        database.tidy(idle=True)


def test_space_is_taken_and_freed(tmp_path: Path) -> None:
    reserve, file = Reserve(tmp_path / FILE), tmp_path / f"{FILE}-reserve"
    for _ in range(2):
        assert reserve.take()
        status = file.stat()
        assert (status.st_size, status.st_mode & 0o777) == (DISK_RESERVE, 0o600)
        assert status.st_blocks * 512 >= DISK_RESERVE
    reserve.release()
    assert not file.exists()
    reserve.release()


def test_space_is_taken_whole_with_room_beside_it(tmp_path: Path, room: Room) -> None:
    reserve, file = Reserve(tmp_path / FILE), tmp_path / f"{FILE}-reserve"
    room.free = DISK_RESERVE + MIB - 1
    assert not reserve.take(beside=MIB)
    assert not file.exists()
    assert reserve.take()
    room.free = 0
    assert reserve.take(), "it has it already"
    reserve.release()
    room.free = DISK_RESERVE // 3
    reserve.take_some()
    assert file.stat().st_size == DISK_RESERVE // 4
    assert not reserve.take()
    assert not file.exists()


@pytest.mark.parametrize(("number", "room"), [(errno.ENOSPC, False), (errno.EDQUOT, False), (errno.ENOTSUP, True)])
def test_a_file_system_that_takes_no_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, room: bool
) -> None:
    def fail(path: Path, size: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, "allocate", fail)
    assert Reserve(tmp_path / FILE).take() is room
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"mine")
    (tmp_path / f"{FILE}-reserve").symlink_to(other)
    assert Reserve(tmp_path / FILE).take()
    assert other.read_bytes() == b"mine"


def test_a_commit_on_a_full_disk_is_written_with_the_space_set_aside(
    tmp_path: Path, database: Database, room: Room
) -> None:
    file = tmp_path / f"{FILE}-reserve"
    assert file.exists()
    room.full, room.free = 1, 5 * MIB
    database.commit([group(put(1), put(2))])
    assert number(database) == 2
    assert "Consumers must take some, or the operator must free space" in database.no_room
    assert not file.exists()
    database.tidy(idle=True)
    database.commit([group(MessagesDeleted((row_of(1, 1),)))])
    database.probe()
    assert (number(database), bool(database.no_room)) == (1, True)
    room.free = 1000 * MIB
    database.tidy(idle=True)
    assert file.exists()
    assert database.no_room == ""


def test_a_commit_that_does_not_fit_there_either_fails(database: Database, room: Room) -> None:
    room.full = 2
    with pytest.raises(sqlite3.OperationalError, match="full"):
        database.commit([group(put(1))])
    assert number(database) == 0
    database.commit([group(put(1))])
    assert number(database) == 1


def test_another_error_leaves_the_space_alone(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Database, "_commit", fail)
    with pytest.raises(sqlite3.OperationalError, match="I/O"):
        database.commit([group(put(1))])
    assert (database.no_room, (tmp_path / f"{FILE}-reserve").exists()) == ("", True)


def test_messages_the_file_would_have_no_room_for_are_not_stored(database: Database, room: Room) -> None:
    messages = [put(id, MIB) for id in range(1, 11)]
    room.free = 12 * MIB
    with pytest.raises(NoRoom):
        database.commit([group(*messages)])
    assert number(database) == 0
    # Room for the space that is set aside is not enough: the same would fail again.
    room.free = 20 * MIB
    database.tidy(idle=True)
    assert database.no_room
    room.free = 100 * MIB
    database.tidy(idle=True)
    assert not database.no_room
    database.commit([group(*messages)])
    database.tidy(idle=True)
    # What moves needs none.
    room.free = 0
    rows = tuple(row_of(1, id) for id in range(1, 11))
    database.commit([group(MessagesDeleted(rows), *(put(id, MIB) for id in range(11, 21)))])
    assert number(database) == 10


def test_each_commit_on_a_full_disk_is_moved_to_the_file_at_once(
    tmp_path: Path, database: Database, room: Room
) -> None:
    database.commit([group(put(1), put(2))])
    room.full, room.free = 1, 0
    database.commit([group(put(3))])
    for id in (1, 2):
        database.commit([group(MessagesDeleted((row_of(1, id),)))])
        database.tidy(idle=False)
        # Without its log it is what has been moved there.
        copied = tmp_path / "copied"
        copied.write_bytes((tmp_path / FILE).read_bytes())
        with closing(sqlite3.connect(f"file:{copied}?immutable=1", uri=True)) as moved:
            assert moved.execute("select count(*) from messages").fetchone() == (3 - id,)


def test_a_start_without_room_takes_no_more_of_it_than_the_log(tmp_path: Path, room: Room) -> None:
    room.free = MIB
    with closing(opened(tmp_path)) as database:
        assert database.no_room
        assert log_of(tmp_path / FILE).stat().st_size == FULL
        assert (tmp_path / FILE).stat().st_size < CHECKPOINT_PAGES * 100
    room.free = 1000 * MIB
    with closing(opened(tmp_path)) as database:
        assert not database.no_room


def test_free_pages_are_given_back_many_at_once(database: Database, room: Room) -> None:
    def pages(kind: str) -> int:
        count: int = database._connection.execute(f"pragma {kind}_count").fetchone()[0]
        return count

    ids = range(1, 401)
    database.commit([group(*(put(id, 60_000) for id in ids))])
    database.commit([group(MessagesDeleted(tuple(row_of(1, id) for id in ids)))])
    before = pages("page")
    database.tidy(idle=True)
    assert pages("page") <= before - VACUUM_PAGES
    tidy_up(database)
    # Once the disk is full, nearly all.
    room.full, room.free = 1, 0
    database.commit([group(put(1))])
    tidy_up(database)
    assert pages("freelist") <= VACUUM_PAGES
