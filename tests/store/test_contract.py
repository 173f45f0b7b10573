"""What every store promises: the next start finds what the records say, whichever store keeps them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.core.test_undo import NAMES, STEP, Step, Undoing, World
from tests.durable.history import view
from tests.support.disk import Disk
from tests.support.memory_store import MemoryStore
from zapq.core.message import Message
from zapq.core.queue import Queue
from zapq.core.records import KeyPut, KeysForgotten, Record
from zapq.store import database, gather, packs
from zapq.store.database import Database
from zapq.store.open_database import open_database
from zapq.store.port import CommitGroup, Store

OFFSET = 2.0**32
"""Seconds from the clock of the queues to Unix time, a power of two: adding it is exact."""


@pytest.fixture(autouse=True)
def smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    # A log that takes no time to make, and messages that share rows though few come together.
    monkeypatch.setattr(database, "CHECKPOINT_PAGES", 16)
    for module in (gather, packs):
        monkeypatch.setattr(module, "PACK_LEAST", 2)


Start = Callable[[], Store]
"""Ends the run before, if there was one, and opens the store for the next one."""


def database_in(directory: Path, stack: ExitStack) -> Start:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, descriptor)
    opened: list[Database] = []

    def close() -> None:
        for each in opened:
            each.close()

    def start() -> Store:
        close()
        opened[:] = [open_database(str(directory), descriptor)]
        return opened[0]

    stack.callback(close)
    return start


def memory_on(disk: Disk) -> Start:
    store: MemoryStore | None = None

    def start() -> Store:
        nonlocal store
        store = MemoryStore(disk, store)
        return store

    return start


class Collecting(Undoing):
    """Collects what is to be written."""

    def __init__(self) -> None:
        super().__init__()
        self.commits = [CommitGroup()]

    def enter(self, record: Record | None, undo: Callable[..., object], *args: object) -> None:
        super().enter(record, undo, *args)
        if record is not None:
            self.note(record)

    def note(self, record: Record) -> None:
        self.commits[-1].records.append(record)
        self.commits[-1].clock_offset = OFFSET

    def take(self) -> list[CommitGroup]:
        commits, self.commits = self.commits, [CommitGroup()]
        return commits


class Program(World[Collecting]):
    """Runs verbs, and has what was given come back that could not be handed over."""

    def __init__(self) -> None:
        super().__init__(Collecting())
        self.out: list[tuple[Queue, Message]] = []

    def _do_in(self, verb: str, name: str, number: int, seconds: float) -> None:
        queue, now = self.broker.open(name, self.now), self.now
        if verb == "take":
            message = queue.dequeue(now)
            self.out += [(queue, message)] if message else []
        elif verb == "put back":
            while self.out:
                queue, message = self.out.pop()
                if self.broker.queues.get(queue.name) is queue and queue.find(message.id) is None:
                    queue.put_back(message)
        elif verb == "take back":
            lease = queue.receive(seconds, now)
            if lease is not None:
                queue.take_back(lease)
        else:
            super()._do_in(verb, name, number, seconds)


def use_key(journal: Collecting, queue: int, key: str, seconds: float) -> None:
    if seconds:
        journal.note(KeyPut(queue, key, b"0123456789abcdef", 7, 1000.0 + seconds))
    else:
        journal.note(KeysForgotten([(queue, key)]))


RETURNS = st.tuples(
    st.sampled_from(["take", "put back", "take back"]), st.sampled_from(NAMES), st.just(0), st.just(2.0)
)
KEYS = st.tuples(st.integers(1, 3), st.sampled_from("ab"), st.sampled_from([0.0, 1.0, 2.0]))
OTHERS = st.sampled_from(["another commit", "write", "write", "tidy", "start anew"])


# A delay is over, its message is taken, and comes back before that is written.
@example([
    ("enqueue", "work", 1, 2.0),
    "write",
    ("wait", "work", 0, 2.0),
    ("take", "work", 0, 0.0),
    ("put back", "work", 0, 0.0),
])
@given(st.lists(STEP | STEP | STEP | RETURNS | KEYS | OTHERS, max_size=60))
def test_all_stores_keep_the_same(program: list[Step | tuple[int, str, float] | str]) -> None:
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        starts = [database_in(Path(place), stack), memory_on(Disk())]

        def start() -> list[Store]:
            stores = [start() for start in starts]
            # By a clock that shows 8 less than the one before.
            one, other = [store.load(0.0, OFFSET + 8.0) for store in stores]
            assert view(one) == view(other)
            epochs = [queue.epoch for queue in one.queues]
            assert min(one.epoch, other.epoch) >= max(epochs, default=0)
            return stores

        def write() -> None:
            commits = world.journal.take()
            for store in stores:
                store.commit(commits)

        world = Program()
        stores = start()
        for each in program:
            match each:
                case "another commit":
                    world.journal.commits.append(CommitGroup())
                case "write":
                    write()
                case "tidy":
                    for store in stores:
                        store.tidy(idle=True)
                case "start anew":
                    write()
                    stores = start()
                case (queue, key, seconds):
                    use_key(world.journal, queue, key, seconds)
                case (verb, name, number, seconds):
                    world.do((verb, name, number, seconds))
        write()
        start()
