"""Delays, ttls and idempotency keys of a service on disk, whatever the clock on the wall did meanwhile."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio

from tests.support.disk import Disk, database_of, open_durable
from zapq.core.queue_settings import QueueSettings
from zapq.errors import CannotStart
from zapq.limits import IDEMPOTENCY_WINDOW
from zapq.service.operations import Offer
from zapq.service.service import QueueService
from zapq.store.check import check
from zapq.store.clock import Clock
from zapq.store.schema import FILE

HOUR = 3600.0
SLACK = 5.0
"""Seconds a test may take."""
Wall = Callable[[float], None]


@pytest.fixture
def set_wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    """Return what sets the clock on the wall forward by so many seconds, or back."""
    real = time.time

    def set_by(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + seconds)

    return set_by


async def fill(service: QueueService) -> None:
    """Send a message that is delayed by 100 s, one that ends in 200 s, and one with a key."""
    await service.queue("delayed").enqueue(b"d", delay=100.0)
    await service.queue("ending").enqueue(b"e", ttl=200.0)
    await service.default.put(Offer([b"k"], key="a key"))


def remaining(service: QueueService) -> tuple[float, float, float]:
    """Return how many seconds the delay, the ttl and the key still last."""
    now = trio.current_time()
    [(_, ready)] = service.broker.queues["delayed"].image().others
    [(ending, _)] = service.broker.queues["ending"].image().others
    [claim] = service.keys._claims.values()
    return ready - now, ending.properties.expires - now, claim.until - now


def assert_as_asked(service: QueueService, passed: float = 0.0, late: float = 0.0) -> None:
    asked = (100.0, 200.0, IDEMPOTENCY_WINDOW)
    for left, whole in zip(remaining(service), asked, strict=True):
        assert whole - passed - SLACK < left <= whole - passed + late


async def test_a_clock_set_back_between_two_runs_makes_nothing_longer(tmp_path: Path, set_wall: Wall) -> None:
    async with open_durable(tmp_path) as service:
        await fill(service)
    set_wall(-HOUR)
    for _ in range(2):
        # The second time, the clock is still behind what the database knows.
        async with open_durable(tmp_path) as service:
            assert_as_asked(service)
    set_wall(0.0)
    async with open_durable(tmp_path) as service:
        assert_as_asked(service)


async def test_a_clock_set_back_while_it_runs_makes_nothing_longer(tmp_path: Path, set_wall: Wall) -> None:
    async with open_durable(tmp_path) as service:
        await fill(service)
        set_wall(-HOUR)
        await service.enqueue(b"more")
    async with open_durable(tmp_path) as service:
        assert_as_asked(service)


async def test_a_clock_that_is_behind_is_said_at_the_start(
    tmp_path: Path, set_wall: Wall, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_durable(tmp_path):
        pass
    set_wall(-HOUR)
    async with open_durable(tmp_path):
        pass
    said = [line.fields for line in caplog.records if line.getMessage() == "clock was set back"]  # type: ignore[attr-defined]
    assert [HOUR - SLACK < fields["seconds"] <= HOUR for fields in said] == [True]


async def test_a_stop_counts(tmp_path: Path, set_wall: Wall) -> None:
    async with open_durable(tmp_path) as service:
        await fill(service)
    set_wall(50.0)
    async with open_durable(tmp_path) as service:
        assert_as_asked(service, passed=50.0)


async def test_the_time_is_known_after_a_crash(tmp_path: Path, set_wall: Wall, disk: Disk) -> None:
    live, copied = tmp_path / "live", tmp_path / "copy"
    async with open_durable(live) as service:
        set_wall(HOUR)
        database_of(service)._clocked = -1e9  # as if a second had passed
        await fill(service)
        copied.mkdir()
        for path in live.iterdir():
            (copied / path.name).write_bytes(path.read_bytes())
    set_wall(0.0)
    async with open_durable(copied) as service:
        # The time is written once a second, and with the first of the three.
        assert_as_asked(service, late=1.0)


async def test_a_database_that_knows_of_no_time_opens(tmp_path: Path) -> None:
    """As the version before has left it."""
    async with open_durable(tmp_path) as service:
        await fill(service)
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as connection:
        connection.execute("delete from probe")
    async with open_durable(tmp_path) as service:
        assert_as_asked(service)


async def test_a_time_that_was_altered_is_refused(tmp_path: Path) -> None:
    async with open_durable(tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as connection:
        connection.execute("update probe set filling = zeroblob(12) where number = 3")
    with pytest.raises(CannotStart, match="probe, row 3"):
        async with open_durable(tmp_path):
            raise AssertionError


async def test_check_goes_by_the_same_clock(tmp_path: Path, set_wall: Wall) -> None:
    async with open_durable(tmp_path) as service:
        await service.enqueue(b"a", delay=1e-9)
        await service.configure("q", QueueSettings())
    set_wall(-HOUR)
    [queue, *_] = check(str(tmp_path)).queues
    assert (queue.ready, queue.delayed) == (1, 0)


def test_the_clock_never_goes_back(set_wall: Wall) -> None:
    clock = Clock(0.0)
    before = clock()
    set_wall(-HOUR)
    assert before <= clock() < before + SLACK
    assert clock.behind == pytest.approx(HOUR, abs=SLACK)
    set_wall(HOUR)
    assert before + HOUR <= clock() < before + HOUR + SLACK
    assert clock.behind == pytest.approx(0.0, abs=0.01)
    set_wall(0.0)
    assert clock() >= before + HOUR
