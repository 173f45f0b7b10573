"""A service on a disk that has no room for messages: what is refused, what goes on, what the log says."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.service.asking import leased, taken
from tests.support.disk import database_of, open_durable
from tests.support.waiting import eventually
from zapq.errors import StorageUnavailable
from zapq.service.service import QueueService
from zapq.store.database import NO_ROOM
from zapq.store.reserve import Reserve


async def learns(service: QueueService) -> None:
    """Return once the service knows that there is no room."""
    database_of(service).no_room = NO_ROOM  # as a commit that needs the space set aside does
    await eventually(lambda: bool(service.journal.stats()) and not service.stats().journal.available, "the news")  # type: ignore[union-attr]


async def test_messages_are_refused_and_taking_goes_on_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "zapq")
    async with open_durable(tmp_path) as service:
        for body in (b"a", b"b", b"c"):
            await service.enqueue(body)
        await service.snapshot("all.msgpack")
        with monkeypatch.context() as patch:
            patch.setattr(Reserve, "take", lambda *_, **__: False)
            await learns(service)
            for wanted in (
                service.enqueue(b"d"),
                service.default.enqueue_many([b"d"]),
                service.enqueue(b"d", durability="memory"),
                service.restore("all.msgpack"),
            ):
                with pytest.raises(StorageUnavailable, match=r"the disk is full.* Consumers must take some"):
                    await wanted
            service.check_storage()
            lease = await leased(service.default)
            await service.default.extend(lease.receipt, visibility=60)
            await service.default.ack(lease.receipt)
            await service.default.release((await leased(service.default)).receipt)
            assert len(await taken(service.default)) == 2
            await service.clear()
        await eventually(lambda: service.stats().journal.available, "room")  # type: ignore[union-attr]
        await service.enqueue(b"e")
        assert await taken(service.default) == [b"e"]
    said = [line.getMessage() for line in caplog.records if "storage" in line.getMessage()]
    assert said == ["storage open", "storage full", "storage has room again"]
