"""A data directory that an earlier zapq has left opens with everything in it, and without a step by hand.

`data/first-format.db.gz` was made over HTTP by a server whose database did not know the time yet, which was then
stopped in order. `data/format-1.db.gz` was made by a service of the last version whose database was in format 1.
`data/04787c5.*` are what a service of the commit 04787c5 has left that was killed: its messages are in its log.
"""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import pytest
import trio

from tests.service.asking import leased, taken
from tests.support.disk import open_durable
from zapq.core.message import DEFAULTS, Origin, Properties
from zapq.core.queue_settings import QueueSettings
from zapq.core.stats import STATES
from zapq.limits import IDEMPOTENCY_WINDOW
from zapq.service.operations import Offer, terms
from zapq.store.check import check
from zapq.store.schema import FILE, FORMAT
from zapq.store.wal import log_of

STOPPED = {"first-format": 1795916008.0, "format-1": 1795947637.0}
"""When each was stopped, in seconds since 1970."""
SLACK = 5.0
"""Seconds the test may take, and the server may have taken."""


@pytest.fixture
def name() -> str:
    return "first-format"


@pytest.fixture
def data(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory as it was left, at the time when it was."""
    begun = time.monotonic()
    monkeypatch.setattr(time, "time", lambda: STOPPED[name] + time.monotonic() - begun)
    packed = Path(__file__).parent / "data" / f"{name}.db.gz"
    (tmp_path / FILE).write_bytes(gzip.decompress(packed.read_bytes()))
    return tmp_path


async def test_what_an_earlier_version_has_left_is_all_there(data: Path) -> None:
    report = check(str(data))
    assert {queue.name: queue.ready + queue.delayed for queue in report.queues} == {
        "default": 3,
        "work": 3,
        "paused": 1,
        "dead": 1,
    }
    for _ in range(2):
        # The second time, this version has written it.
        async with open_durable(data) as service:
            queues, now = service.broker.queues, trio.current_time()
            assert queues["work"].settings == QueueSettings(max_receives=3, dead_letter="dead", visibility=60.0)
            assert queues["paused"].settings == QueueSettings(ttl=86400.0)
            assert [name for name, queue in queues.items() if queue.paused] == ["paused"]
            others = {
                message.body: (message.properties, due - now if due else 0.0)
                for queue in queues.values()
                for message, due in queue.image().others
            }
            urgent, _ = others.pop(b"urgent")
            assert (urgent.priority, urgent.receives) == (7, 1)
            _, due = others.pop(b"delayed")
            assert 3600 - SLACK < due <= 3600
            ending, _ = others.pop(b"ending")
            assert ending.failed_in == "work"
            bound, _ = others.pop(b"with ttl of queue")
            assert 86400 - SLACK < bound.expires - now <= 86400
            [claim] = service.keys._claims.values()
            assert IDEMPOTENCY_WINDOW - SLACK < claim.until - now <= IDEMPOTENCY_WINDOW
    async with open_durable(data) as service:
        again = await service.queue("work").put(Offer(b"keyed", key="a-key"))
        assert (again.id, again.replayed) == (4, True)
        assert await taken(service.default) == [b"first", b"second", b"taken"]
        assert (await service.queue("work").enqueue(b"next")).id == 5
        assert await taken(service.queue("dead")) == [b"ending"]
        assert await taken(service.queue("work")) == [b"urgent", b"keyed", b"next"]


@pytest.mark.parametrize("name", ["format-1"])
async def test_a_database_of_the_format_before_is_of_this_one_once_it_is_written_to(data: Path) -> None:
    report = check(str(data))
    assert report.format == 1
    assert {queue.name: queue.ready + queue.delayed for queue in report.queues} == {
        "default": 4,
        "work": 4,
        "dead": 1,
    }
    async with open_durable(data) as service:
        await service.enqueue(b"new", headers={"Order": "17"})
        # They share a row, which the format before has not.
        await service.queue("many").enqueue_many([b"small"] * 100)
        lease = await leased(service.queue("work"))
        assert (lease.body, lease.receives, lease.headers) == (b"urgent", 2, {})
    report = check(str(data))
    assert (report.format, report.garbage) == (FORMAT, 0)
    async with open_durable(data) as service:
        assert await taken(service.queue("many")) == [b"small"] * 100
        shown = {
            each.message.body: each.message.properties
            for queue in service.queues()
            for state in STATES
            for each in await queue.peek(state)
        }
        assert shown[b"plain"] == DEFAULTS
        assert shown[b"{}"] == Properties("application/json")
        assert shown[b"run 2"] == Properties("text/plain")
        assert shown[b"ending"] == Properties(failed_in="work")
        assert shown[b"delayed"] == Properties("text/html")
        # Leased for as often as it may be when the service ended.
        assert shown[b"urgent"] == Properties(priority=7, failed_in="work", origin=Origin("work", 2, 2))
        assert shown[b"new"] == Properties(headers=(("order", "17"),))
        assert 0 < shown[b"mortal"].expires - trio.current_time() <= 86400
        again = await service.queue("work").put(Offer(b"keyed", terms(content_type="a/b"), key="a-key"))
        assert again.replayed


async def test_what_a_server_of_04787c5_has_left_that_was_killed_is_all_there(tmp_path: Path) -> None:
    for file in (FILE, log_of(Path(FILE)).name):
        packed = Path(__file__).parent / "data" / f"{file.replace('zapq', '04787c5')}.gz"
        (tmp_path / file).write_bytes(gzip.decompress(packed.read_bytes()))
    assert check(str(tmp_path)).format == 1
    async with open_durable(tmp_path) as service:
        assert (await service.enqueue(b"new")).id > 20
    async with open_durable(tmp_path) as service:
        assert await taken(service.default) == [*(b"%d" % number for number in range(3, 20)), b"new"]
        work = service.queue("work")
        first = await work.dequeue()
        # It was leased when the server was killed.
        assert first is not None
        assert (first.body, first.properties.receives) == (b"urgent", 1)
        assert await taken(work) == [*(b"batch %d" % number for number in range(100)), b"json"]
    assert check(str(tmp_path)).format == FORMAT
