"""The garbage collector has little to walk through, however much is held, and still finds what is garbage."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from math import inf

import pytest

from zapq.core.broker import Broker
from zapq.core.deadlines import Deadlines
from zapq.core.message import Properties

MANY = 3000


def make_broker() -> Broker:
    return Broker(max_messages=10 * MANY, max_bytes=2**30, max_queues=10)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Leave everything to be walked through the first time."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


@pytest.mark.parametrize("state", ["ready", "batch", "leased", "released", "delayed", "mortal", "unique"])
@pytest.mark.usefixtures("uncollected")
def test_messages_are_not_walked_through(state: str) -> None:
    broker = make_broker()
    queue = broker.open("default", 0.0)
    gc.freeze()
    if state == "batch":
        for _ in range(MANY):
            queue.enqueue_bodies([b"x"] * 2, Properties(), size=2, packed=b"", now=0.0)
    for number in range(MANY if state != "batch" else 0):
        properties = Properties(
            expires=1e6 if state == "mortal" else inf, unique=str(number) if state == "unique" else ""
        )
        # Not in the order of their times, so that heaps are used as well.
        queue.enqueue(b"x", properties, delay=1e6 - number if state == "delayed" else 0.0, now=0.0)
    if state in {"leased", "released"}:
        leases = [lease for _ in range(MANY // 1000) for lease in queue.receive_many(1000, 1e6, 0.0)]
        for lease in leases[::-1] if state != "leased" else []:
            queue.release(lease.receipt, 0.0, 0.0)
        lease = leases = None  # type: ignore[assignment]
    walked_through = gc.get_objects()
    assert len(walked_through) < MANY // 10
    assert sum(len(gc.get_referents(each)) for each in walked_through) < MANY // 2


def test_queues_that_are_gone_are_freed_with_their_messages() -> None:
    body = bytes(100)
    before = sys.getrefcount(body)
    broker = make_broker()
    queue = broker.open("default", 0.0)
    for delay in (0.0, 5.0, 3.0):
        queue.enqueue(body, delay=delay, now=0.0)
    queue.receive(10.0, 0.0)
    queue.enqueue(body, Properties(expires=9.0), now=0.0)
    assert sys.getrefcount(body) > before
    del broker, queue
    gc.collect()
    assert sys.getrefcount(body) == before


def test_what_leads_back_to_its_deadlines_is_freed() -> None:
    class Waiting:
        def __init__(self, body: bytes) -> None:
            self.body = body
            self.line: Deadlines[Waiting] = Deadlines()

    body = bytes(100)
    before = sys.getrefcount(body)
    for time in (5.0, 3.0):
        one = Waiting(body)
        one.line.put(1, 4.0, one)
        one.line.put(2, time, one)
    del one
    gc.collect()
    assert sys.getrefcount(body) == before
