"""Keys on the disk: what was sent under one is stored once, also over a restart, and keys are bounded there."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.disk import Disk, database_of, open_durable, works_again
from zapq.core import idempotency
from zapq.errors import StorageUnavailable, TooManyDeduplicationIds
from zapq.service.operations import Offer, Put
from zapq.store import database, reading


async def test_two_uses_of_a_key_at_once_are_one_message(tmp_path: Path) -> None:
    async with open_durable(tmp_path) as service:
        answers = []

        async def enqueue() -> None:
            answers.append(await service.default.put(Offer(b"a", key="key")))

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
                await service.default.put(Offer(b"a", key="key"))
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
        assert not (await service.default.put(Offer(b"another", key="key"))).replayed


async def test_the_disk_forgets_keys_as_memory_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "MAX_KEYS", 3)
    async with open_durable(tmp_path) as service:
        for number in range(5):
            await service.default.put(Offer(b"%d" % number, key=str(number)))
        found = database_of(service)._connection.execute("select key from keys order by until").fetchall()
        assert found == [("2",), ("3",), ("4",)]
    async with open_durable(tmp_path) as service:
        answers = [await service.default.put(Offer(b"%d" % number, key=str(number))) for number in (4, 3, 2, 1)]
        assert [answer.replayed for answer in answers] == [True, True, True, False]


async def test_no_more_keys_are_read_than_may_be_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_durable(tmp_path) as service:
        for number in range(5):
            await service.default.put(Offer(b"%d" % number, key=str(number)))
    for module in (database, reading):
        monkeypatch.setattr(module, "MAX_KEYS", 2)
    async with open_durable(tmp_path) as service:
        assert len(service.keys) == 2
        assert database_of(service)._connection.execute("select count(*) from keys").fetchone() == (2,)
        assert (await service.default.put(Offer(b"4", key="4"))).replayed
        assert not (await service.default.put(Offer(b"2", key="2"))).replayed


async def test_no_promise_is_forgotten_early_on_the_disk_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(number: int) -> Put:
        return Put(b"x", key=str(number), any_content=True)

    async with open_durable(tmp_path, max_deduplication_ids=5) as service:
        for number in range(5):
            await service.default.put(put(number))
        with pytest.raises(TooManyDeduplicationIds):
            await service.default.put(put(5))
        assert (await service.default.put(put(0))).replayed
        assert service.default.info().stats.messages == 5
    for module in (database, reading):
        monkeypatch.setattr(module, "MAX_KEYS", 2)
    async with open_durable(tmp_path, max_deduplication_ids=5) as service:
        assert [(await service.default.put(put(number))).replayed for number in range(5)] == [True] * 5
        with pytest.raises(TooManyDeduplicationIds):
            await service.default.put(put(5))
