"""Workers with one door: new clients go to those that have fewer, and none is kept waiting for that."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import trio
from trio.testing import MockClock

from tests.support.serving import patient_clock
from tests.support.waiting import eventually
from zapq.access.access import Access
from zapq.engine.local import LocalEngine
from zapq.http.metrics import ServerCounts
from zapq.limits import DOOR_PAUSE
from zapq.server.balance import Balance, balance_memory
from zapq.server.front import Front
from zapq.server.listeners import ListeningSocket, open_listening_socket
from zapq.service.service import QueueService
from zapq.settings import Settings

__all__ = ["patient_clock"]

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memory with a descriptor")


@pytest.fixture
def memory() -> Iterator[int]:
    with balance_memory(3) as descriptor:
        assert descriptor is not None
        yield descriptor


def test_one_is_ahead_of_the_one_that_has_fewest_and_runs(memory: int) -> None:
    one, other = Balance(memory, 1), Balance(memory, 2)
    one.note(100)
    assert not one.is_ahead()  # the others do not run
    other.note(90)
    assert not one.is_ahead()
    other.note(80)
    assert one.is_ahead()
    assert not other.is_ahead()
    Balance(memory).note_end(2)
    assert not one.is_ahead()


class Workers:
    """Front ends of this process with one door."""

    def __init__(
        self, door: ListeningSocket, settings: Settings, service: QueueService, memory: int, nursery: trio.Nursery
    ) -> None:
        self.counts: list[ServerCounts] = []
        self._parts = door, settings, LocalEngine(service), memory, nursery

    async def start_one(self) -> None:
        door, settings, engine, memory, nursery = self._parts
        self.counts.append(ServerCounts())
        balance = Balance(memory, len(self.counts))
        front = Front(engine, settings, door, Access(settings), self.counts[-1], share=2, balance=balance)
        await front.start(nursery, nursery, trio.sleep_forever)

    def connections(self) -> list[int]:
        return [each.connections for each in self.counts]


async def come(door: ListeningSocket, number: int, stack: ExitStack) -> None:
    """Be so many clients that connect at once."""
    for _ in range(number):
        stack.enter_context(socket.create_connection(door.sock.getsockname()))


async def test_new_clients_go_to_the_worker_that_has_fewer(
    zapq_settings: Settings,
    zapq_service: QueueService,
    memory: int,
    patient_clock: MockClock,
) -> None:
    with open_listening_socket(zapq_settings) as door, ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            workers = Workers(door, zapq_settings, zapq_service, memory, nursery)
            await workers.start_one()
            await come(door, 10, stack)
            await eventually(lambda: workers.connections() == [10], "the only one to accept all")
            await workers.start_one()
            await come(door, 8, stack)
            await eventually(lambda: sum(workers.connections()) == 18, "all to be accepted")
            assert workers.connections() == [10, 8]
            nursery.cancel_scope.cancel()


async def test_clients_do_not_wait_for_a_worker_that_does_not_come(
    zapq_settings: Settings,
    zapq_service: QueueService,
    memory: int,
    patient_clock: MockClock,
) -> None:
    Balance(memory, 2).note(0)
    with open_listening_socket(zapq_settings) as door, ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            workers = Workers(door, zapq_settings, zapq_service, memory, nursery)
            await workers.start_one()
            begun = trio.current_time()
            await come(door, 12, stack)
            await eventually(lambda: workers.connections() == [12], "all to be accepted")
            assert 0 < trio.current_time() - begun < 100 * DOOR_PAUSE
            nursery.cancel_scope.cancel()


def test_without_such_memory_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> int:
        raise PermissionError

    monkeypatch.setattr("os.memfd_create", refuse)
    with balance_memory(2) as descriptor:
        assert descriptor is None
