"""The service on disk against a ledger: requests begun together; a commit is written, fails or is the last one.

What the process leaves behind when it dies is what its files are at that moment, so they are copied, in the thread
that writes, just before a commit or just after it, when nobody has been told yet. A service is opened on the copy.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from tests.durable.audit import Held, Ledger, Sent
from tests.support.disk import Disk, open_durable, works_again
from zapq.core.message import Draft
from zapq.core.stats import STATES, State
from zapq.errors import StorageUnavailable
from zapq.service.service import QueueService
from zapq.store import database, writer

LEASED, TAKEN = "jobs", "fifo"
"""Messages of the first are received and acknowledged, those of the second dequeued."""
LONG = 1000.0
"""Seconds no example lasts."""
REQUESTS = ("enqueue", "urgent", "careless", "batch", "receive", "ack", "release", "send", "take", "pause")
OUTCOMES = ("written", "fails", "crashes before", "crashes after")


class FragileDisk(Disk):
    """A disk on which one commit is the last one, before or after it is written, or fails."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        """Of a directory for each run."""
        self.outcome = "written"
        self.left = 0
        """Which commit that is about: the first, or the second of those to come."""
        self.crashed = False
        self.runs = 0

    @contextmanager
    def commit(self) -> Iterator[None]:
        self.left -= 1
        outcome = self.outcome if self.left == 0 else "written"
        self.failing = outcome == "fails"
        if outcome == "crashes before":
            self._crash()
        try:
            with super().commit():
                yield
        finally:
            self.failing = False
        if outcome == "crashes after":
            self._crash()

    def _crash(self) -> None:
        """Leave the files as they are for the next run."""
        self.crashed = True
        self.runs += 1
        (self.directory / str(self.runs)).mkdir()
        for path in (self.directory / str(self.runs - 1)).iterdir():
            shutil.copyfile(path, self.directory / str(self.runs) / path.name)


class Clients:
    """Everybody who uses the service. Once it has crashed, no answer reaches them."""

    def __init__(self, disk: FragileDisk, ledger: Ledger, service: QueueService) -> None:
        self._disk = disk
        self._ledger = ledger
        self._service = service
        self._leases: list[tuple[Sent, str]] = []

    async def ask(self, what: str, number: int) -> None:
        """Make a request, and write down what was answered."""
        ledger, jobs, fifo = self._ledger, self._service.queue(LEASED), self._service.queue(TAKEN)
        name = b"%s %d" % (what.encode(), number)
        match what:
            case "enqueue" | "urgent" | "send":
                sent = Sent(TAKEN if what == "send" else LEASED, name, 9 * (what == "urgent"), "text/plain")
                ledger.add(sent)
                queue = fifo if what == "send" else jobs
                try:
                    message = await queue.enqueue(name, priority=sent.priority, content_type="text/plain")
                except StorageUnavailable:
                    self._refused(sent)
                else:
                    if not self._disk.crashed:
                        sent.id, sent.answered = message.id, True
            case "careless":
                # Nothing was promised, but that it is whole and at its place if it is there.
                ledger.add(sent := Sent(LEASED, name))
                try:
                    await jobs.enqueue(name, durability="memory")
                except StorageUnavailable:
                    self._refused(sent)
            case "batch":
                batch = [Sent(LEASED, b"%s %d" % (name, at), group=name.decode()) for at in range(3)]
                ledger.add(*batch)
                try:
                    first = await jobs.enqueue_many([Draft(body=sent.body) for sent in batch])
                except StorageUnavailable:
                    self._refused(*batch)
                else:
                    for sent in [] if self._disk.crashed else batch:
                        sent.id, sent.answered = first + batch.index(sent), True
            case "receive":
                ledger.unknown_receives += 1
                try:
                    lease = await jobs.receive(visibility=LONG)
                except StorageUnavailable:
                    lease = None
                if not self._disk.crashed:
                    ledger.unknown_receives -= 1
                    if lease is not None:
                        sent = ledger.sent[lease.body]
                        sent.receives += 1
                        self._leases.append((sent, lease.receipt))
            case "ack" if self._leases:
                sent, receipt = self._leases.pop(0)
                sent.maybe_gone = True
                try:
                    await jobs.ack(receipt)
                except StorageUnavailable:
                    sent.maybe_gone = self._disk.crashed
                    self._leases.append((sent, receipt))
                else:
                    sent.gone = not self._disk.crashed
            case "release" if self._leases:
                sent, receipt = self._leases.pop(0)
                try:
                    await jobs.release(receipt)
                except StorageUnavailable:
                    self._leases.append((sent, receipt))
            case "take":
                ledger.unknown_takes[TAKEN] += 1
                try:
                    taken = await fifo.dequeue()
                except StorageUnavailable:
                    taken = None
                if not self._disk.crashed:
                    ledger.unknown_takes[TAKEN] -= 1
                    if taken is not None:
                        ledger.sent[taken.body].gone = True
            case "pause":
                # Of another queue: everybody waits for that all the same.
                with suppress(StorageUnavailable):
                    await self._service.queue("still").pause()

    def _refused(self, *batch: Sent) -> None:
        if not self._disk.crashed:
            self._ledger.forget(*batch)


async def look(service: QueueService) -> tuple[list[Held], list[Held]]:
    """Return what is ready, in its order, and what is not."""
    found: dict[State, list[Held]] = {state: [] for state in STATES}
    for name in (LEASED, TAKEN):
        for state, held in found.items():
            for each in await service.queue(name).peek(state, limit=1000):
                properties = each.message.properties
                held.append(
                    Held(
                        name,
                        each.message.id,
                        each.message.body,
                        properties.priority,
                        properties.content_type,
                        each.receives,
                    )
                )
    return found["ready"], found["delayed"] + found["leased"]


@pytest.fixture(autouse=True)
def smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    # The log is emptied every few commits, and the disk tried again at once.
    monkeypatch.setattr(database, "CHECKPOINT_PAGES", 16)
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.005)


BURSTS = st.lists(
    st.tuples(
        st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=8),
        st.sampled_from(OUTCOMES),
        st.sampled_from([1, 2]),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bursts=BURSTS)
async def test_what_was_answered_is_there_whatever_becomes_of_a_commit(
    monkeypatch: pytest.MonkeyPatch, bursts: list[tuple[list[str], str, int]]
) -> None:
    ledger = Ledger()
    with tempfile.TemporaryDirectory() as place, monkeypatch.context() as patch:
        disk = FragileDisk(Path(place))
        disk.install(patch)
        left = list(enumerate(bursts))
        while left:
            disk.crashed = False
            disk.go_on()
            async with open_durable(disk.directory / str(disk.runs)) as service:
                ready, others = await look(service)
                assert not ledger.audit(ready, others)
                ledger.settle([*ready, *others])
                clients = Clients(disk, ledger, service)
                while left and not disk.crashed:
                    number, (requests, disk.outcome, at) = left.pop(0)
                    await service.stored()
                    disk.left = at
                    disk.hold()
                    async with trio.open_nursery() as nursery:
                        for place_in_line, what in enumerate(requests):
                            nursery.start_soon(clients.ask, what, 100 * number + place_in_line)
                            # One after the other, and the first is on its way to the disk: the rest is one commit.
                            await wait_all_tasks_blocked()
                        disk.go_on()
                    # A commit may be on its way that no request waits for, and fail.
                    await service.resolved()
                    disk.left = 0
                    await works_again(service)
                    if not disk.crashed:
                        assert not ledger.audit(*await look(service))
        disk.crashed = False
        disk.go_on()
        async with open_durable(disk.directory / str(disk.runs)) as service:
            assert not ledger.audit(*await look(service))
