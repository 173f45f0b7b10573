"""The machine of `test_machine.py` for queues on disk: commits fail, and the process dies, in between."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.core.test_machine import (
    BODIES,
    MAX_BYTES,
    MAX_MESSAGES,
    MAX_RECEIVES,
    NAMES,
    QUEUES,
    Held,
    QueuesAgainstList,
)
from zapq.core.broker import Broker
from zapq.core.message import Message
from zapq.core.records import PutMany, Record, row_of
from zapq.store.database import Database
from zapq.store.schema import set_up
from zapq.store.writer import CommitGroup


class DiskJournal:
    """Writes every record at once; while it fails, what was done is undone when it works again."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.failing = False
        self.undo: list[tuple[Callable[..., object], tuple[object, ...]]] = []

    def check(self) -> None:
        pass

    check_room = check

    def enter(self, record: Record | None, undo: Callable[..., object], *args: object) -> None:
        if self.failing:
            self.undo.append((undo, args))
        elif record is not None:
            self.note(record)

    def note(self, record: Record) -> None:
        commit = CommitGroup()
        commit.records.append(record)
        self.database.commit([commit])

    def rely(self) -> None:
        pass

    def when_written(self, call: Callable[..., object], *args: object) -> None:
        if not self.failing:
            call(*args)


class QueuesOnDisk(QueuesAgainstList):
    """Every message is where it was when the process died, and so is every setting; leases are not."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        set_up(self.connection)
        self.runs = 0
        super().__init__()

    def teardown(self) -> None:
        self.connection.close()

    def make_broker(self) -> Broker:
        database = Database(self.connection)
        contents = database.load(self.now, 0.0)
        self.journal = DiskJournal(database)
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

    def do_replace(self, name: str, messages: deque[Message], size: int) -> None:
        epoch = self.broker.next_epoch()
        if messages:
            bodies = [message.body for message in messages]
            self.journal.note(PutMany(row_of(epoch, messages[0].id), bodies))
        self.queue(name).replace(messages, size, epoch)

    @contextmanager
    def failing(self) -> Iterator[None]:
        self.journal.failing = True
        yield
        while self.journal.undo:
            undo, args = self.journal.undo.pop()
            undo(*args)
        self.journal.failing = False

    @rule()
    def the_process_dies(self) -> None:
        self.broker = self.make_broker()
        self.out, self.leases, self.acked = [], [], set()
        self.counts.clear()
        self.came_back = True
        failed = [each for each in self.of("work", "leased") if each.receives >= MAX_RECEIVES]
        for name in NAMES:
            self.newest[name] = self.queue(name)._next_id - 1 - len(failed) * (name == "dead")
        for each in sorted(failed, key=lambda each: each.id):
            self.counts["work", "dead_lettered"] += 1
            self.change(each, Held("dead", self.new_id("dead"), each.body, each.priority, failed_in="work"))
        for each in [each for each in self.held if each.state == "leased"]:
            self.change(each, replace(each, state="ready", until=inf, serial=0))
        self.tick()

    @rule()
    def what_keeps_the_file_small_changes_nothing(self) -> None:
        self.journal.database.tidy(idle=True)

    @rule(name=QUEUES, body=BODIES, delay=st.sampled_from([0.0, 2.0]), many=st.booleans())
    def an_enqueue_fails(self, name: str, body: bytes, delay: float, many: bool) -> None:
        if not self.fits(name, [body]):
            return
        with self.failing():
            if many:
                self.queue(name).enqueue_bodies([body], now=self.now)
            else:
                self.queue(name).enqueue(body, delay=delay, now=self.now)
        self.newest[name] += 1

    @rule(name=QUEUES, limit=st.sampled_from([1, 3]), lease=st.booleans())
    def taking_fails(self, name: str, limit: int, lease: bool) -> None:
        queue = self.queue(name)
        with self.failing():
            if lease:
                queue.receive_many(limit, None, self.now) if limit > 1 else queue.receive(None, self.now)
            elif limit > 1:
                queue.dequeue_many(limit, self.now)
            else:
                queue.dequeue(self.now)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), action=st.sampled_from(["ack", "release"]))
    def settling_fails(self, data: st.DataObject, action: str) -> None:
        name, lease = data.draw(st.sampled_from(self.leases))
        each = self.holder(name, lease)
        late = action == "ack" and any(held.lapsed == lease.serial for held in self.of(name, "ready"))
        ends = [held.until for held in self.of(name, "leased")]
        if not late and (each is None or ends.count(each.until) > 1):
            return  # of those that end at one time, what was not settled comes last
        with self.failing():
            if action == "ack":
                self.queue(name).ack(lease.receipt, self.now)
            else:
                self.queue(name).release(lease.receipt, 0.0, self.now)

    @rule(name=QUEUES, what=st.sampled_from(["clear", "pause", "redrive", "replace"]))
    def what_is_about_all_of_a_queue_fails(self, name: str, what: str) -> None:
        with self.failing():
            match what:
                case "clear":
                    self.queue(name).clear()
                case "pause":
                    self.do_pause(name, name not in self.paused)
                case "redrive":
                    before = self.queue("work")._next_id
                    self.do_redrive("dead", 9)
                    self.newest["work"] += self.queue("work")._next_id - before
                case "replace":
                    self.do_replace("default", deque(), 0)


QueuesOnDisk.TestCase.settings = settings(stateful_step_count=40, deadline=None)
test_the_queues_on_disk_agree_with_a_list = QueuesOnDisk.TestCase
