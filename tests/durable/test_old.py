"""A data directory that an earlier zapq has left opens with everything in it, and without a step by hand.

`data/first-format.db.gz` was made over HTTP by a server whose database did not know the time yet, which was then
stopped in order.
"""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import pytest
import trio

from tests.service.asking import taken
from tests.support.disk import open_durable
from zapq.core.queue_settings import QueueSettings
from zapq.limits import IDEMPOTENCY_WINDOW
from zapq.service.operations import Offer
from zapq.store.check import check
from zapq.store.schema import FILE

STOPPED = 1795916008.0
"""When the server was stopped, in seconds since 1970."""
SLACK = 5.0
"""Seconds the test may take, and the server may have taken."""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory as it was left, at the time when it was."""
    begun = time.monotonic()
    monkeypatch.setattr(time, "time", lambda: STOPPED + time.monotonic() - begun)
    packed = Path(__file__).parent / "data" / "first-format.db.gz"
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
