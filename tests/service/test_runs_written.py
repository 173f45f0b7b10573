"""Messages that are sent one after the other share a record, as long as nothing comes between them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.disk import Disk, journal_of, open_durable, works_again
from zapq.core.records import Put, PutMany
from zapq.errors import StorageUnavailable

TYPES = ("application/octet-stream", "application/json")


async def test_what_stays_done_shares_no_record_with_what_may_be_undone(tmp_path: Path, disk: Disk) -> None:
    async with open_durable(tmp_path) as service:
        await service.enqueue(b"0")
        journal, core = journal_of(service), service.broker.queues["default"]
        journal.corked = True
        first = service.enqueue_nowait(b"1")
        service.enqueue_nowait(b"2")
        with journal.relaxed():
            core.enqueue(b"3")
        service.enqueue_nowait(b"4")
        records = [each for each in journal.commit.records if isinstance(each, (Put, PutMany))]
        assert [each.body if isinstance(each, Put) else each.bodies for each in records] == [
            [b"1", b"2"],
            b"3",
            [b"4"],
        ]
        assert journal.stats().pending == 4
        assert first.id == 2

        journal.corked = False
        disk.failing = True
        with pytest.raises(StorageUnavailable):
            await service.stored()
        assert core.messages == 2
        disk.failing = False
        await works_again(service)
        assert (await service.enqueue(b"5")).id == 6
        assert journal.stats().changes >= 3
    async with open_durable(tmp_path) as service:
        left = [await service.dequeue() for _ in range(3)]
        assert [each.body for each in left if each is not None] == [b"0", b"3", b"5"]


async def test_messages_of_two_types_share_no_record(tmp_path: Path) -> None:
    async with open_durable(tmp_path) as service:
        journal = journal_of(service)
        journal.corked = True
        for number in range(20):
            service.enqueue_nowait(b"%d" % number, content_type=TYPES[number % 10 == 9])
        records = [each for each in journal.commit.records if isinstance(each, PutMany)]
        assert [len(each.bodies) for each in records] == [9, 1, 9, 1]
        journal.corked = False
        await service.stored()
    async with open_durable(tmp_path) as service:
        taken = [await service.dequeue() for _ in range(20)]
        found = [each for each in taken if each is not None]
        assert [each.body for each in found] == [b"%d" % number for number in range(20)]
        assert [each.content_type for each in found] == [TYPES[number % 10 == 9] for number in range(20)]
