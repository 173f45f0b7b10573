"""The files of a service on disk: whose they are, how large they grow, and which are refused."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.service.asking import leased, taken
from tests.support.disk import database_of, open_durable
from tests.support.waiting import eventually
from zapq.errors import CannotStart
from zapq.limits import MIB
from zapq.store.schema import FILE


async def test_what_was_purged_is_removed_from_the_file(tmp_path: Path) -> None:
    async with open_durable(tmp_path, max_msgs=10**6) as service:
        for _ in range(20):
            await service.default.enqueue_many([bytes(1000)] * 500)
            await service.default.enqueue_many([bytes(2000)] * 500)
        await service.clear()
        await service.enqueue(b"left")
    async with open_durable(tmp_path) as service:
        files = database_of(service)
        await eventually(lambda: not files.untidy, "the file to be tidied")
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        assert connection.execute("select count(*) from messages").fetchone() == (1,)
        assert connection.execute("select count(*) from packs").fetchone() == (0,)


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


async def test_the_files_stay_small_though_one_of_many_small_messages_stays(tmp_path: Path) -> None:
    body, batch, number = bytes(1000), 1000, 40
    async with open_durable(tmp_path, max_msgs=10**6) as service:
        files = database_of(service)
        for _ in range(number):
            await service.default.enqueue_many([body] * batch)
            leases = [await leased(service.default)]
            assert len(await service.default.dequeue_many(batch)) == batch - 1
            await service.default.release(leases[0].receipt, delay=1000.0)
        await eventually(lambda: not files.untidy, "the file to be tidied")
    # What stays takes 40 KiB; without them 16 MiB of the file may be free.
    assert (tmp_path / FILE).stat().st_size < 20 * MIB < number * batch * len(body)
    async with open_durable(tmp_path) as service:
        assert service.broker.messages == number


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
