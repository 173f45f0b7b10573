"""How old messages are goes on over a restart, and with a snapshot; in virtual time, and on a real disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

import zapq
from zapq.core.ages import age
from zapq.core.queue_settings import QueueSettings
from zapq.core.records import ArrivalsNoted, QueuePut
from zapq.settings import Settings
from zapq.store.open_database import open_database
from zapq.store.port import CommitGroup


async def oldest_age(service: zapq.QueueService, queue: str = "jobs") -> float:
    told = service.find(queue).info().oldest
    assert told is not None
    return age(told.ready, trio.current_time())


async def test_ages_go_on_with_a_snapshot(tmp_path: Path, autojump_clock: object) -> None:
    settings = Settings(data_dir=str(tmp_path))
    async with zapq.open_service(settings) as service:
        await service.queue("jobs").enqueue(b"a")
        await trio.sleep(1000)
        await service.queue("jobs").enqueue(b"b")
        await trio.sleep(500)
        assert await oldest_age(service) == pytest.approx(1500, abs=5)
        await service.snapshot("kept.msgpack")
    async with zapq.open_service(settings) as service:
        await service.restore("kept.msgpack")
        assert await oldest_age(service) == pytest.approx(1500, abs=5)
        assert await service.queue("jobs").dequeue() is not None
        assert await oldest_age(service) == pytest.approx(500, abs=5)


async def test_ages_go_on_after_a_restart(tmp_path: Path) -> None:
    settings = Settings(data_dir=str(tmp_path), durable=True)
    async with zapq.open_service(settings) as service:
        # As if it had come long ago.
        service.state("jobs").core.enqueue(b"a", now=trio.current_time() - 1000)
        await service.stored()
        assert await oldest_age(service) == pytest.approx(1000, abs=5)
    async with zapq.open_service(settings) as service:
        assert await oldest_age(service) == pytest.approx(1000, abs=60)


def test_when_messages_came_is_kept_with_their_queue(tmp_path: Path) -> None:
    put = QueuePut(number=3, name="jobs", epoch=1, next_id=9, settings=QueueSettings(), paused=False)
    commit = CommitGroup()
    commit.clock_offset = 1000.0
    commit.records += [put, ArrivalsNoted(3, [(1, 5.0), (4, 7.5)]), ArrivalsNoted(4, [(1, 5.0)])]
    descriptor = os.open(tmp_path, os.O_RDONLY)
    database = open_database(str(tmp_path), descriptor)
    database.load(0.0, 0.0)
    database.commit([commit])
    database.close()
    database = open_database(str(tmp_path), descriptor)
    [kept] = database.load(0.0, 900.0).queues
    assert list(kept.image.arrived) == [(1, 105.0), (4, 107.5)]
    database.close()
    os.close(descriptor)
