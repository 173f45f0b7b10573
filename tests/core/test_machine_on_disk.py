"""The machine of `test_machine.py` for queues in a store: it is slow, it fails, and the process dies, in between.

The journal and its writer are those of the service. Here they have no thread, and work when they are told to.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import NamedTuple

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from tests.core.test_machine import (
    BURST,
    MAX_BYTES,
    MAX_MESSAGES,
    MAX_RECEIVES,
    NAMES,
    QUEUES,
    Held,
    QueuesAgainstList,
)
from tests.support.disk import Disk
from tests.support.memory_store import MemoryStore
from zapq import logs
from zapq.core import holding
from zapq.core.broker import Broker
from zapq.core.message import Lease, Message
from zapq.core.ready import Dropped
from zapq.core.records import PutMany, row_of
from zapq.core.runs import flatten
from zapq.errors import StorageUnavailable
from zapq.limits import MAX_TURN
from zapq.service.journal import Journal
from zapq.store import gather, packs, writer
from zapq.store.database import Database
from zapq.store.port import CommitGroup, Contents, Store
from zapq.store.schema import set_up

SETTLED_BY = 10
"""Commits until a disk that works has taken everything: a failure before, and what follows from it, are a few."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing comes while the writer waits.
    for name in ("_IDLE", "LOOK_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(writer, name, 0.0)
    monkeypatch.setattr(holding, "IDS_AT_ONCE", 2)
    # Few come together.
    for module in (gather, packs):
        monkeypatch.setattr(module, "PACK_LEAST", 2)
    monkeypatch.setattr(logs, "say", lambda *_, **__: None)


class DrivenJournal(Journal):
    """Hands over what is written, has it written, and takes note of it, each when it is told to."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.corked = True  # so that it does not hand over by itself
        self._rouse = int  # so that the writer wakes nothing

    @property
    def clock_offset(self) -> float:
        return 0.0

    @property
    def unsettled(self) -> bool:
        """Whether there is anything that it waits for."""
        return bool(self.commit or self._in_flight or self.reason or self._writer.written)

    def write(self) -> None:
        """Write what was handed over."""
        self._writer.step()


class DatabaseInMemory(Database):
    """SQLite's, without files."""

    def __init__(self, connection: sqlite3.Connection, disk: Disk) -> None:
        super().__init__(connection)
        self._disk = disk

    load = Database.read

    def commit(self, commits: Sequence[CommitGroup]) -> None:
        with self._disk.attempt():
            super().commit(commits)

    def probe(self) -> None:
        self._disk.check()
        super().probe()

    def tidy(self, *, idle: bool) -> None:
        self._disk.check()
        super().tidy(idle=idle)


class Moment(NamedTuple):
    """What the model said at one moment."""

    held: list[Held]
    out: list[tuple[str, Message]]
    leases: list[tuple[str, Lease]]
    acked: set[int]
    paused: set[str]
    newest: Counter[str]
    counts: Counter[tuple[str, str]]
    granting: dict[int, Lease]
    is_limited: bool
    tokens: float
    counted_at: float


class QueuesInStore(QueuesAgainstList):
    """Whatever became of commits, every message is where it was when the last one was written; leases are not.

    As long as the disk is not `slow`, all that is done is written at once. While it is, clients are not answered.
    """

    def __init__(self) -> None:
        self.disk = Disk()
        self.runs = 0
        self.slow = self.failed = self.eager = False
        """Whether what is done has to wait; whether a commit has failed of which the queues do not know yet; and
        whether each step is handed over as a commit of its own."""
        self.granting: dict[int, Lease] = {}
        """Leases that are on their way to the disk."""
        self.ends: dict[int, float] = {}
        """When each lease ends: of that the disk is not told, and it is not undone."""
        super().__init__()
        self.written = self.handed = self.moment()
        """What is on the disk, and what the writer was given, while it is slow."""

    def open_store(self) -> Store:
        """Open what earlier runs have left."""
        raise NotImplementedError

    def look(self) -> Contents:
        """Return what a run would find that began now."""
        raise NotImplementedError

    # What queues in memory do otherwise

    def make_broker(self) -> Broker:
        store = self.open_store()
        contents = store.load(self.now, 0.0)

        async def make() -> DrivenJournal:
            return DrivenJournal(store)

        self.journal = trio.run(make)
        self.runs += 1
        return Broker(
            journal=self.journal,
            kept=contents.queues,
            epoch=contents.epoch,
            max_messages=MAX_MESSAGES,
            max_bytes=MAX_BYTES,
            max_queues=3,
            tag=f"{self.runs:x}",
            clock=lambda: self.now,
            now=self.now,
        )

    def do_clear(self, name: str) -> list[Dropped]:
        if self.failed:
            self.settle_up()
        held = self.queue(name).clear()
        self.settle_up()
        return held.containers()  # they are empty now, so only when it cannot be undone

    def do_replace(self, name: str, messages: deque[Message], size: int) -> None:
        epoch = self.broker.next_epoch()
        if messages:
            bodies = [message.body for message in messages]
            self.journal.note(PutMany(row_of(epoch, messages[0].id), bodies))
        self.queue(name).replace(messages, size, epoch)

    def catch_up(self) -> None:
        if not self.slow:
            for _ in range(SETTLED_BY):
                if not self.journal.unsettled:
                    return
                self.journal.flush()
                self.journal.write()
                self.journal.collect()
            raise AssertionError(f"a disk that works does not take what there is: {self.journal.reason}")

    def settle_up(self) -> None:
        if not self.slow:
            return
        if not self.failed:
            self.journal.flush()
            self.journal.write()
            self.written = self.moment()
        self.journal.collect()
        self.begin_leases()
        self.slow = False
        self.granting = {}
        if self.failed:
            self.failed = False
            self.step_back()

    def known_leases(self) -> list[tuple[str, Lease]]:
        return [each for each in self.leases if each[1].serial not in self.granting]

    def hold_on(self) -> None:
        for each in [each for each in self.held if each.serial in self.granting and each.until <= self.now]:
            seconds = max(self.granting[each.serial].visibility, 1.0)
            self.change(each, replace(each, until=self.now + seconds))

    # What the model says

    def moment(self) -> Moment:
        return Moment(
            self.held.copy(),
            self.out.copy(),
            self.leases.copy(),
            self.acked.copy(),
            self.paused.copy(),
            self.newest.copy(),
            self.counts.copy(),
            self.granting.copy(),
            self.is_limited,
            self.tokens,
            self.counted_at,
        )

    def change(self, old: Held, new: Held | None) -> None:
        super().change(old, new)
        if new is not None and new.state == "leased":
            self.ends[new.serial] = new.until
            if self.slow and old.state != "leased":
                self.granting[new.serial] = self.leases[-1][1]

    def begin_leases(self) -> None:
        """Let leases that are written last as long as asked from now on: their consumers are answered."""
        for lease in self.written.granting.values():
            if self.granting.pop(lease.serial, None) is None:
                continue
            if self.now - (lease.deadline - lease.visibility) > MAX_TURN / 2:
                self.ends[lease.serial] = self.now + lease.visibility if lease.visibility else lease.deadline
        self.held = self.with_ends(self.held)

    def with_ends(self, held: list[Held]) -> list[Held]:
        return [replace(each, until=self.ends[each.serial]) if each.serial else each for each in held]

    def step_back(self) -> None:
        """Let all that is not written not have been. Ids are not given again, and refusals stay counted."""
        refused = {what: number for what, number in self.counts.items() if what[1] == "refused"}
        self.held, self.out, self.leases, self.acked, self.paused, _, self.counts, _, *_ = self.written
        self.is_limited, self.tokens = self.written.is_limited, self.written.tokens
        self.counted_at = self.written.counted_at
        self.held = self.with_ends(self.held)
        self.counts.update({what: number - self.counts[what] for what, number in refused.items()})
        self.came_back = True
        self.learn_places()
        self.tick()

    # What can be done

    def slow_down(self) -> None:
        if not self.slow:
            self.catch_up()
            self.slow = True
            self.written = self.handed = self.moment()

    @precondition(lambda self: not self.slow)
    @rule(eager=st.booleans())
    def the_disk_becomes_slow(self, eager: bool) -> None:
        self.slow_down()
        self.eager = eager

    @invariant()
    def what_was_done_is_handed_over_at_once(self) -> None:
        if self.slow and self.eager:
            self.what_was_done_is_handed_over()

    @rule(name=QUEUES, bodies=st.lists(st.just(b""), min_size=3, max_size=4), back=st.booleans())
    def most_of_a_batch_is_taken(self, name: str, bodies: list[bytes], back: bool) -> None:
        """It shares a row. What comes back finds that row there still, or taken apart."""
        self.settle_up()
        self.clear(name)
        self.catch_up()
        self.enqueue_many(name, bodies, False, (), "")
        self.catch_up()
        self.dequeue(name, 2)
        self.catch_up()
        if back:
            self.all_that_were_taken_come_back_in_one_commit()

    @precondition(lambda self: self.out and not self.slow)
    @rule()
    def all_that_were_taken_come_back_in_one_commit(self) -> None:
        self.slow_down()
        while self.out:
            self.give_back(0)
        self.settle_up()

    @precondition(lambda self: self.slow)
    @rule()
    def what_was_done_is_handed_over(self) -> None:
        self.journal.flush()
        self.handed = self.moment()

    @precondition(lambda self: self.slow)
    @rule()
    def the_disk_writes_what_was_handed_over(self) -> None:
        self.journal.write()
        if not self.failed:
            self.written = self.handed

    @precondition(lambda self: self.slow)
    @rule()
    def the_queues_hear_of_it(self) -> None:
        if self.failed:
            self.settle_up()
        else:
            self.journal.collect()
            self.begin_leases()

    @precondition(lambda self: self.slow)
    @rule()
    def the_disk_has_written_everything(self) -> None:
        self.settle_up()

    @precondition(lambda self: self.slow)
    @rule(noticed=st.booleans())
    def the_disk_fails(self, noticed: bool) -> None:
        """Nothing that was begun later is written, though the disk works again before the queues know of it."""
        self.disk.failing = True
        self.journal.flush()
        self.journal.write()
        self.failed = True
        if noticed:
            self.journal.collect()
            for name in NAMES:
                with pytest.raises(StorageUnavailable):
                    self.queue(name).enqueue(b"", now=self.now)
        self.disk.failing = False
        if noticed:
            self.settle_up()
        else:
            self.enqueue("dead", b"", 0, 0.0, None, (), "")
            self.what_was_done_is_handed_over()
            self.the_disk_writes_what_was_handed_over()

    @rule(name=QUEUES, what=st.sampled_from(["clear", "delete", "replace"]))
    def what_holds_up_all_others_fails(self, name: str, what: str) -> None:
        self.slow_down()
        match what:
            case "clear":
                self.queue(name).clear()
            case "delete":
                self.broker.delete("work")
            case "replace":
                self.do_replace("default", deque(), 0)
        self.the_disk_fails(noticed=True)

    @rule()
    def the_process_dies(self) -> None:
        """What was written counts, whether or not the queues have heard of it."""
        self.catch_up()
        last = self.written if self.slow else self.moment()
        self.held, self.paused = last.held, last.paused
        self.is_limited, self.tokens, self.counted_at = last.is_limited, float(BURST), self.now
        self.out, self.leases, self.acked, self.granting = [], [], set(), {}
        self.counts.clear()
        self.slow = self.failed = False
        self.came_back = True
        self.broker = self.make_broker()
        failed = [each for each in self.of("work", "leased") if each.receives >= MAX_RECEIVES]
        for name in NAMES:
            self.newest[name] = self.queue(name)._next_id - 1 - len(failed) * (name == "dead")
            assert self.newest[name] >= last.newest[name]
        for each in sorted(failed, key=lambda each: each.id):
            self.counts["work", "dead_lettered"] += 1
            self.change(each, self.dead(each))
        self.held = [replace(each, lapsed=0) for each in self.held]
        for each in self.of("default", "leased") + self.of("work", "leased") + self.of("dead", "leased"):
            self.change(each, replace(each, state="ready", until=inf, serial=0))
        self.tick()

    # What must hold

    @invariant()
    def the_next_start_would_find_the_same(self) -> None:
        if self.slow:
            return
        self.catch_up()
        contents = self.look()
        assert {kept.image.name for kept in contents.queues} == set(NAMES)
        for _, _, image in contents.queues:
            found = [(message, 0.0) for message in flatten(image.in_order)] + list(image.others)
            held = {each.id: each for each in self.of(image.name)}
            assert {
                (message.id, message.body, message.properties.receives, message.properties.origin)
                for message, _ in found
            } == {(each.id, each.body, each.receives, each.origin) for each in held.values()}
            for message, due in found:
                each = held[message.id]
                assert message.properties.expires == each.expires
                assert min(due, each.expires) == each.until if each.state == "delayed" else due <= self.now
            assert image.settings == self.queue(image.name).settings
            assert image.paused == (image.name in self.paused)
            assert image.next_id > self.newest[image.name]


class QueuesInDatabase(QueuesInStore):
    """The store that zapq comes with."""

    def open_store(self) -> Store:
        if not self.runs:
            self.connection = sqlite3.connect(":memory:", isolation_level=None)
            set_up(self.connection)
        return DatabaseInMemory(self.connection, self.disk)

    def look(self) -> Contents:
        return Database(self.connection).read(self.now, 0.0)

    def teardown(self) -> None:
        self.connection.close()

    @rule()
    def what_keeps_the_file_small_changes_nothing(self) -> None:
        self.catch_up()
        self.journal._writer._store.tidy(idle=True)


class QueuesInMemoryStore(QueuesInStore):
    """A store that keeps what records mean, in the simplest way."""

    store: MemoryStore | None = None

    def open_store(self) -> Store:
        self.store = MemoryStore(self.disk, self.store)
        return self.store

    def look(self) -> Contents:
        assert self.store is not None
        return self.store.left().load(self.now, 0.0)


for machine in (QueuesInDatabase, QueuesInMemoryStore):
    machine.TestCase.settings = settings(stateful_step_count=40, deadline=None)
test_queues_in_a_database_agree_with_a_list = QueuesInDatabase.TestCase
test_queues_in_a_store_in_memory_agree_with_a_list = QueuesInMemoryStore.TestCase
