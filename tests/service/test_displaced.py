"""A database whose files are removed, moved or replaced while it is open: noticed, said, and refused."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.service.asking import taken
from tests.support.disk import database_of, open_durable, works_again
from tests.support.waiting import eventually
from zapq.errors import CannotStart, StorageUnavailable
from zapq.service.service import QueueService
from zapq.store.schema import FILE

WAL = f"{FILE}-wal"
Spoil = Callable[[Path], None]


def remove(data: Path) -> None:
    (data / FILE).unlink()


def remove_log(data: Path) -> None:
    (data / WAL).unlink()


def replace(data: Path) -> None:
    shutil.copyfile(data / FILE, data / "other")
    (data / "other").rename(data / FILE)


def move(data: Path) -> None:
    data.rename(data.with_name("moved"))


def replace_directory(data: Path) -> None:
    data.rename(data.with_name("moved"))
    data.write_bytes(b"")


@asynccontextmanager
async def losing(data: Path) -> AsyncGenerator[QueueService, None]:
    """Open a service that has to say at its end that what was in its memory is not on the disk."""
    with pytest.raises(CannotStart, match="could not be written"):
        async with open_durable(data) as service:
            yield service


async def is_noticed(service: QueueService) -> str:
    """Return why changes are refused, once they are, though no client asks for any."""
    await eventually(lambda: bool(service.journal.reason), "the files to be missed")
    with pytest.raises(StorageUnavailable) as refused:
        await service.enqueue(b"refused")
    with pytest.raises(StorageUnavailable):
        service.check_storage()
    return refused.value.detail


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (remove, "zapq.db is gone from the data directory"),
        (remove_log, "zapq.db-wal is gone from the data directory"),
        (replace, "zapq.db in the data directory was replaced"),
        (move, "zapq.db is gone from the data directory"),
        (replace_directory, "zapq.db is gone from the data directory"),
    ],
)
async def test_files_that_are_no_longer_there_are_noticed(
    tmp_path: Path, spoil: Spoil, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    async with losing(data) as service:
        await service.enqueue(b"kept")
        spoil(data)
        assert reason in await is_noticed(service)
        said = [line for line in caplog.records if line.getMessage() == "storage unavailable"]
        assert [reason in line.fields["reason"] for line in said] == [True]  # type: ignore[attr-defined]
        # What needs no write goes on.
        assert len(service.broker.default) == 1


async def test_a_busy_server_notices_it_before_a_commit(tmp_path: Path) -> None:
    async with losing(tmp_path) as service:
        await service.enqueue(b"kept")
        remove(tmp_path)
        database_of(service)._looked = -1e9  # as if half a second had passed
        with pytest.raises(StorageUnavailable, match="gone"):
            await service.enqueue(b"refused")


async def test_files_that_come_back_are_written_again(tmp_path: Path) -> None:
    data, away = tmp_path / "data", tmp_path / "away"
    async with open_durable(data) as service:
        await service.enqueue(b"before")
        data.rename(away)
        await is_noticed(service)
        away.rename(data)
        await works_again(service)
        await service.enqueue(b"after")
    async with open_durable(data) as service:
        assert await taken(service.default) == [b"before", b"after"]


async def test_the_log_of_another_database_is_left_alone(tmp_path: Path) -> None:
    """What a restored copy has in its log is not removed by the server that ends later."""
    data, other, log = tmp_path / "data", tmp_path / "other", b"of another" * 1000
    other.mkdir()
    async with losing(data) as service:
        await service.enqueue(b"kept")
        shutil.copyfile(data / FILE, other / FILE)
        data.rename(tmp_path / "moved")
        other.rename(data)
        (data / WAL).write_bytes(log)
        await is_noticed(service)
    assert (data / WAL).read_bytes() == log
    async with open_durable(tmp_path / "moved") as service:
        assert await taken(service.default) == [b"kept"]


async def test_without_its_log_a_server_that_ends_in_order_keeps_everything(tmp_path: Path) -> None:
    async with losing(tmp_path) as service:
        await service.enqueue(b"kept")
        remove_log(tmp_path)
        await is_noticed(service)
    async with open_durable(tmp_path) as service:
        assert await taken(service.default) == [b"kept"]


async def test_a_snapshot_saves_what_was_in_a_lost_database(tmp_path: Path) -> None:
    async with losing(tmp_path) as service:
        await service.enqueue(b"kept")
        remove(tmp_path)
        await is_noticed(service)
        await service.snapshots.save("saved.msgpack")
    (tmp_path / WAL).unlink()
    async with open_durable(tmp_path) as service:
        await service.restore("saved.msgpack")
        assert await taken(service.default) == [b"kept"]
