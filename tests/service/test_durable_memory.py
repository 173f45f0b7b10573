"""On disk: whatever is sent to memory, and whatever fails, all that was accepted and not taken is held."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from tests.service.asking import perform
from tests.support.disk import Disk, journal_of, open_durable, works_again
from tests.support.waiting import eventually
from zapq.core.message import Lease, Message
from zapq.core.stats import STATES
from zapq.errors import ReceiptExpired, StorageUnavailable
from zapq.service.operations import (
    PLAIN,
    Action,
    Delivery,
    Operation,
    Purge,
    Put,
    Settlement,
    SettleOne,
    Take,
    Terms,
)
from zapq.service.pending import Later, Pending, Poll
from zapq.service.service import QueueService
from zapq.service.waiting import ONE, Want
from zapq.store import writer

QUEUE = "jobs"
CARELESS = Terms(durability="memory")
REQUESTS = (
    ["send", "send many", "send once", "take", "lease", "acknowledge", "release", "stand in line"]
    + ["leave", "keep", "give back"]
    + ["send to memory", "send many to memory", "send once to memory"] * 2
    + ["purge"]
)
Then = Callable[[Any], object]


class PatchyDisk(Disk):
    """A disk that refuses one of the commits to come, or all from there on."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 0
        """Which one that is, counted from 1."""
        self.breaks = False

    @contextmanager
    def commit(self) -> Iterator[None]:
        self.left -= 1
        self.failing = self.failing or self.left == 0
        try:
            with super().commit():
                yield
        finally:
            self.failing = self.failing and self.breaks


class Clients:
    """All that use the queue, and what they were answered."""

    def __init__(self, service: QueueService) -> None:
        self._service = service
        self._accepted: set[bytes] = set()
        self._gone: set[bytes] = set()
        """Taken, acknowledged or purged."""
        self._kept: list[Message | Lease] = []
        """Given, and not handed over yet."""
        self._leases: list[Lease] = []
        self._waiting: list[tuple[Pending[Any], Then, Callable[[], object]]] = []

    def held(self) -> list[bytes]:
        """What is to be held: everything that was accepted and is not gone."""
        return sorted(self._accepted - self._gone - self._kept_apart())

    def _kept_apart(self) -> set[bytes]:
        return {each.body for each in self._kept if isinstance(each, Message)}

    def ask(self, what: str, number: int) -> None:
        """Make a request."""
        name = b"%d" % number
        # What is asked then may be done before the next purge or after it.
        purging = any(then == self._purge for _, then, _ in self._waiting)
        terms = CARELESS if "memory" in what else PLAIN
        leasing = Want(1 + number % 3, lease=True, visibility=1000.0)
        match what:
            case "send" | "send to memory":
                self._send(name, terms=terms)
            case "send once" | "send once to memory":
                self._send(name, terms=terms, key=name.decode())
            case "send many" | "send many to memory":
                self._send(*(b"%d/%d" % (number, at) for at in range(3)), terms=terms)
            case "take":
                self._perform(Take(QUEUE, ONE if number % 2 else Want(3)), self._take)
            case "lease":
                self._perform(Take(QUEUE, leasing), self._take)
            case "stand in line":
                self._perform(Take(QUEUE, leasing if number % 2 else ONE, 60.0), self._take)
            case "keep":
                self._perform(Take(QUEUE, leasing if number % 2 else ONE), self._keep)
            case "give back" if not purging:
                kept, self._kept = self._kept, []
                self._service.queue(QUEUE).return_undelivered(kept)  # type: ignore[arg-type]  # of both kinds
            case "leave":
                for waiting in self._waiting:
                    if waiting[1] == self._take:
                        self._waiting.remove(waiting)
                        waiting[0].abandon()
                        break
            case "acknowledge" | "release" if self._leases:
                self._settle(self._leases.pop(0), "ack" if what == "acknowledge" else "release")
            case "purge" if not purging:
                self._perform(Purge(QUEUE), self._purge)

    def _send(self, *bodies: bytes, terms: Terms, key: str = "") -> None:
        content = bodies if len(bodies) > 1 else bodies[0]
        self._perform(Put(content, terms, key, queue=QUEUE), lambda _: self._accepted.update(bodies))

    def _settle(self, lease: Lease, action: Action) -> None:
        def note(_: object) -> None:
            if action == "ack":
                self._gone.add(lease.body)

        settlement = Settlement(receipt=lease.receipt, action=action)
        self._perform(SettleOne(QUEUE, settlement), note, lambda: self._leases.append(lease))

    def _take(self, outcome: object) -> None:
        for each in outcome.given if isinstance(outcome, Delivery) else ():
            if isinstance(each, Lease):
                self._leases.append(each)
            else:
                self._gone.add(each.body)

    def _keep(self, outcome: object) -> None:
        if isinstance(outcome, Delivery):
            self._kept += outcome.given

    def _purge(self, number: int) -> None:
        self._gone |= self._accepted - self._kept_apart()

    def _perform(self, operation: Operation, then: Then, otherwise: Callable[[], object] = dict) -> None:
        try:
            outcome = perform(self._service, operation)
        except StorageUnavailable:
            otherwise()
        except ReceiptExpired:
            pass
        else:
            if isinstance(outcome, Pending):
                self._waiting.append((outcome, then, otherwise))
            else:
                then(outcome)

    async def hear(self) -> None:
        """Wait for all answers but those of consumers in line."""
        waiting, self._waiting = self._waiting, []
        for pending, then, otherwise in waiting:
            await eventually(partial(_is_known_or_in_line, pending), "an answer")
            if not pending.done:
                self._waiting.append((pending, then, otherwise))
                continue
            try:
                then(pending.result())
            except StorageUnavailable:
                otherwise()
            except ReceiptExpired:
                pass


def _is_known_or_in_line(pending: Pending[Any]) -> bool:
    deferred = pending._what_follows if isinstance(pending, Later) else None
    return pending.done or isinstance(pending, Poll) or isinstance(deferred, Poll)


async def held_in(service: QueueService) -> list[bytes]:
    queue = service.queue(QUEUE)
    seen = [each.message.body for state in STATES for each in await queue.peek(state, limit=1000)]
    assert queue.info().stats.messages == len(seen) == service.stats().queue.messages
    assert queue.info().stats.bytes == sum(map(len, seen)) == service.stats().queue.bytes
    return sorted(seen)


BURSTS = st.lists(
    st.tuples(
        st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=10),
        st.sampled_from([0, 1, 1, 2, 2, 3]),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bursts=BURSTS)
# Consumers leave the line whose message is being written: one of each kind.
@example(bursts=[(["stand in line", "send to memory", "leave"], 0, False)])
@example(bursts=[(["take", "stand in line", "send to memory", "leave"], 0, False)])
async def test_what_was_accepted_and_not_taken_is_held(
    monkeypatch: pytest.MonkeyPatch, bursts: list[tuple[list[str], int, bool]]
) -> None:
    disk, number = PatchyDisk(), 0
    with tempfile.TemporaryDirectory() as directory, monkeypatch.context() as patch:
        patch.setattr(writer, "RETRY_SECONDS", 0.005)
        disk.install(patch)
        async with open_durable(Path(directory)) as service:
            service.queue(QUEUE)
            clients, journal = Clients(service), journal_of(service)
            for requests, disk.left, disk.breaks in [*bursts, ([], 0, False)]:
                disk.hold()
                for what in requests:
                    number += 1
                    clients.ask(what, number)
                    # The first is on its way to the disk; the others are the next commit.
                    await wait_all_tasks_blocked()
                disk.go_on()
                await clients.hear()
                disk.left = 0
                if not disk.breaks:
                    disk.failing = False
                    await works_again(service)
                await journal.at_rest()
                await clients.hear()
                assert await held_in(service) == clients.held()
        async with open_durable(Path(directory)) as service:
            assert await held_in(service) == clients.held()
