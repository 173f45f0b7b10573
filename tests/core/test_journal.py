"""Queues on disk while what was begun is being written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from zapq.core.broker import Broker
from zapq.core.message import Properties
from zapq.core.records import Record
from zapq.errors import ReceiptExpired


class SlowJournal:
    """Writes nothing until it is told to."""

    def __init__(self) -> None:
        self.undo: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self.after: list[tuple[Callable[..., object], tuple[object, ...]]] = []

    def check(self) -> None:
        pass

    check_room = check

    def enter(self, record: Record | None, undo: Callable[..., object], *args: object) -> None:
        self.undo.append((undo, args))

    def enter_next(
        self, row: int, body: bytes, properties: Properties, undo: Callable[[int, Sequence[bytes]], object]
    ) -> None:
        self.undo.append((undo, (row, [body])))

    def note(self, record: Record) -> None:
        pass

    def rely(self) -> None:
        pass

    def when_written(self, call: Callable[..., object], *args: object) -> None:
        self.after.append((call, args))

    def write(self) -> None:
        self.undo.clear()
        while self.after:
            call, args = self.after.pop(0)
            call(*args)

    def fail(self) -> None:
        self.after.clear()
        while self.undo:
            undo, args = self.undo.pop()
            undo(*args)


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def journal() -> SlowJournal:
    return SlowJournal()


@pytest.fixture
def broker(journal: SlowJournal, time: Time) -> Broker:
    return Broker(journal=journal, max_messages=10, max_bytes=100, max_queues=1, clock=time, now=time.now)


def tick(broker: Broker, now: float) -> None:
    while broker.tick(now) <= now:
        pass


@pytest.mark.parametrize("ticks", [(), (101.5, 103.0)], ids=["asleep", "awake"])
@pytest.mark.parametrize("written", [100.5, 103.0])
def test_a_lease_lasts_as_long_as_asked_from_when_it_is_written(
    broker: Broker, journal: SlowJournal, time: Time, written: float, ticks: tuple[float, ...]
) -> None:
    queue = broker.default
    queue.enqueue(b"a", now=time.now)
    journal.write()
    lease = queue.receive(1.0, time.now)
    assert lease is not None
    for now in ticks:
        if now < written:
            tick(broker, now)
    time.now = written
    journal.write()
    tick(broker, written + 0.99)
    assert queue.receive(1.0, written + 0.99) is None
    assert queue.stats().leased == 1
    tick(broker, written + 1.0)
    assert queue.stats().ready == 1
    queue.receive(1.0, written + 1.0)
    with pytest.raises(ReceiptExpired):
        queue.ack(lease.receipt, written + 1.0)


def test_a_lease_of_no_time_is_over_as_soon_as_it_is_written(
    broker: Broker, journal: SlowJournal, time: Time
) -> None:
    queue = broker.default
    queue.enqueue(b"a", now=time.now)
    journal.write()
    queue.receive(0.0, time.now)
    tick(broker, 101.0)
    assert queue.stats().leased == 1, "no other consumer gets it before the first one is answered"
    time.now = 101.5
    journal.write()
    tick(broker, 101.5)
    assert queue.stats().ready == 1


def test_a_lease_that_is_not_written_has_not_been(broker: Broker, journal: SlowJournal, time: Time) -> None:
    queue = broker.default
    queue.enqueue(b"a", now=time.now)
    journal.write()
    queue.receive(1.0, time.now)
    tick(broker, 103.0)
    journal.fail()
    assert (queue.stats().ready, queue.stats().received, queue.stats().leases_expired) == (1, 0, 0)
