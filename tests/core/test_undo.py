"""What was done since a point can be undone: any program of verbs leaves exactly the state of that point."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from itertools import chain
from math import inf
from typing import Any, Generic, TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zapq.core.broker import Broker
from zapq.core.image import Image, QueueImage
from zapq.core.message import DEFAULTS, Draft, Lease, Message, Properties
from zapq.core.placed import Placed
from zapq.core.queue import Queue
from zapq.core.queue_settings import QueueSettings
from zapq.core.records import PutMany, Record, row_of, rows_of
from zapq.core.runs import flatten
from zapq.errors import ZapqError
from zapq.store.database import Database
from zapq.store.port import CommitGroup
from zapq.store.schema import set_up

NAMES = ("default", "work", "dead")
Step = tuple[str, str, int, float]
"""A verb, the queue, a number and a duration."""

NO_RUN: tuple[int, list[bytes], Properties, int] = (0, [], DEFAULTS, -1)
"""Messages one behind the other that are one record: the first's row, bodies, properties, and how much was
entered then."""


class Undoing:
    """Writes nothing until it is told to, and can undo all that is not written."""

    def __init__(self) -> None:
        self.steps: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self.records: list[Record] = []
        self.kept: list[Record] = []
        """Those of `records` that stay true if they cannot be written."""
        self.relaxed = False
        """Whether what is done stays done."""
        self.run = NO_RUN

    def check(self) -> None:
        pass

    check_room = check

    def enter(self, record: Record | None, undo: Callable[..., object], *args: object) -> None:
        if self.relaxed:
            if record is not None:
                self.note(record)
            return
        self.steps.append((undo, args))
        if record is not None:
            self.records.append(record)

    def enter_next(
        self, row: int, body: bytes, properties: Properties, undo: Callable[[int, Sequence[bytes]], object]
    ) -> None:
        first, bodies, shared, at = self.run
        now = len(self.records) + len(self.steps)
        if not self.relaxed and at == now and row == first + len(bodies) and shared is properties:
            bodies.append(body)
            return
        bodies = [body]
        self.enter(PutMany(row, bodies, properties), undo, row, bodies)
        if not self.relaxed:
            self.run = (row, bodies, properties, now + 2)

    def mark(self) -> int:
        self.run = NO_RUN
        return len(self.steps)

    def note(self, record: Record) -> None:
        self.records.append(record)
        self.kept.append(record)

    def rely(self) -> None:
        pass

    def when_written(self, call: Callable[..., object], *args: object) -> None:
        call(*args)

    def undo_to(self, mark: int) -> None:
        self.run = NO_RUN
        while len(self.steps) > mark:
            undo, args = self.steps.pop()
            undo(*args)

    def write(self, database: Database) -> None:
        commit = CommitGroup()
        commit.records = self.records
        database.commit([commit])
        self.records, self.kept, self.steps = [], [], []
        self.run = NO_RUN

    def fail(self) -> None:
        """Undo all that is not written; what was noted is written later."""
        self.records = [*self.kept]
        self.undo_to(0)


J = TypeVar("J", bound=Undoing)


class World(Generic[J]):
    """Queues, what consumers were given, and the time."""

    def __init__(self, journal: J) -> None:
        self.journal = journal
        self.now = 0.0
        self.leases: list[tuple[str, Lease]] = []
        self.taken: list[tuple[str, int, Message]] = []
        """Each with the name of the queue it is from, and that queue's number."""
        self.known = (0, 0)
        """How many of those, and of the leases, were written."""
        self.staying: list[tuple[str, int, bytes]] = []
        """What was noted since: a queue, and a message that is there whatever becomes of the disk."""
        self.broker = Broker(
            max_messages=40,
            max_bytes=1000,
            max_queues=5,
            journal=self.journal,
            clock=lambda: self.now,
        )
        self.broker.open("dead", 0.0)
        self.broker.configure("work", QueueSettings(max_receives=2, dead_letter="dead", visibility=3.0), 0.0)
        self.broker.configure("default", QueueSettings(rate=1.0, burst=3, max_leased=4), 0.0)

    def do(self, step: Step) -> None:
        with suppress(ZapqError):  # that refusals change nothing is for others to show
            self._do(*step)

    def _do(self, verb: str, name: str, number: int, seconds: float) -> None:
        broker, now, body = self.broker, self.now, b"%d" % number
        if verb == "wait":
            self.now += seconds
        elif verb == "tick":
            broker.tick(now)
        elif verb == "delete":
            broker.delete("work")
        elif verb == "configure":
            limits = [{}, {"rate": 0.5, "burst": 1 + number % 5, "max_leased": 3}, {"rate": 2.0}][number % 3]
            if number % 4 == 1:
                limits["retention"] = 1.0 + number % 3
            settings = {"max_receives": 1 + number % 3, "dead_letter": "dead", **limits}
            broker.configure("work", QueueSettings(**settings), now)  # type: ignore[arg-type]  # as they are here
        elif verb == "redrive":
            broker.redrive("dead", number, now)
        elif verb == "redrive one":
            broker.redrive_one("dead", 1 + number % 4, now)
        elif verb == "replace all":
            made = broker.prepare(["work"])
            messages: deque[Any] = deque(Message(id, body) for id in range(1, number % 4 + 1))
            others = [(Message(7, b"7"), 0.0)]
            image = QueueImage(name="work", settings=QueueSettings(), next_id=9, in_order=messages, others=others)
            for kept in Image([image]).queues:
                made.add(kept, now)
            made.finish(now)
            for queue in made.queues.values():
                for record in chain.from_iterable(rows_of(queue.image(), queue.epoch)):
                    self.journal.note(record)
            broker.replace(made)
        else:
            self._do_in(verb, name, number, seconds)

    def _do_in(self, verb: str, name: str, number: int, seconds: float) -> None:
        queue, now, body = self.broker.open(name, self.now), self.now, b"%d" % number
        match verb:
            case "enqueue":
                queue.enqueue(body, delay=seconds * (number % 2), now=now)
            case "enqueue otherwise":
                expires = now + 2 * seconds if seconds and number % 2 else inf
                headers = (("of", "x" * number),) if number % 3 else ()
                properties = Properties(priority=number % 10, expires=expires, headers=headers)
                queue.enqueue(body, properties, delay=seconds, now=now)
            case "enqueue in group":
                expires = now + 2 * seconds if seconds and number % 5 == 0 else inf
                properties = Properties(expires=expires, group="abc"[number % 3])
                queue.enqueue(body, properties, delay=seconds * (number % 2), now=now)
            case "put unique":
                expires = now + 2 * seconds if seconds and number % 5 == 0 else inf
                group = ("", "", "a")[number % 3]
                properties = Properties(expires=expires, group=group, unique="kl"[number % 2])
                delay = seconds * (number % 7 == 1)
                queue.enqueue_unique(body, properties, replace=number % 4 > 0, delay=delay, now=now)
            case "put unique drafts":
                drafts = [
                    Draft(body=body, unique="k", on="replace" if number % 2 else "keep"),
                    Draft(body=body, group="a"),
                    Draft(body=body + b"longer", unique="kl"[number % 2], on="replace", delay=seconds),
                ]
                queue.enqueue_unique_drafts(drafts, now=now)
            case "enqueue many in group":
                queue.enqueue_bodies([body] * (1 + number % 4), Properties(group="abc"[number % 3]), now=now)
            case "enqueue many":
                properties = Properties(headers=(("many", "x"),)) if number % 2 else DEFAULTS
                queue.enqueue_bodies([body] * (1 + number % 4), properties, now=now)
            case "enqueue drafts":
                queue.enqueue_drafts(
                    [Draft(body=body, delay=seconds), Draft(body=body, priority=3, headers={"b": ""})], now=now
                )
            case "dequeue":
                message = queue.dequeue(now)
                self.taken += [(name, queue.number, message)] if message else []
            case "dequeue many":
                self.taken += [(name, queue.number, each) for each in queue.dequeue_many(1 + number % 5, now)]
            case "receive":
                lease = queue.receive(seconds, now)
                self.leases += [(name, lease)] if lease else []
            case "receive many":
                leases = queue.receive_many(1 + number % 3, None, now, together=number % 2 == 0)
                self.leases += [(name, lease) for lease in leases]
            case "delete one":
                queue.delete(1 + number % max(queue._next_id - 1, 1), now)
            case "clear":
                queue.clear()
            case "pause":
                queue.paused = not queue.paused
            case "replace":
                first, epoch = queue.reserve(2), self.broker.next_epoch()
                self.journal.note(PutMany(row_of(epoch, first), [body] * 2))
                queue.replace(deque(Message(first + at, body) for at in range(2)), 2 * len(body), epoch)
            case "remove" if self.leases:
                name, lease = self.leases[number % len(self.leases)]
                queue_there = self.broker.queues.get(name)
                if queue_there is not None:
                    queue_there.remove(lease.message.id, now)
            case "hide" if self.leases:
                name, lease = self.leases[number % len(self.leases)]
                queue_there = self.broker.queues.get(name)
                # A lease that is extended stays so: it is answered at once, for the disk knows of no leases.
                if queue_there is not None and queue_there._leases.find(lease.message.id) is None:
                    queue_there.hide(lease.message.id, seconds, now)
            case "ack" | "release" if self.leases:
                name, lease = self.leases[number % len(self.leases)]
                queue = self.broker.find(name)
                if verb == "ack":
                    queue.ack(lease.receipt, now)
                else:
                    queue.release(lease.receipt, seconds if number % 2 else 0.0, now)

    def do_relaxed(self, verb: str, name: str, number: int, seconds: float) -> None:
        """Do what stays done: a message is sent, or one that could not be handed over comes back."""
        self.journal.relaxed = True
        with suppress(ZapqError):
            self._do_relaxed(verb, name, number, seconds)
        self.journal.relaxed = False

    def _do_relaxed(self, verb: str, name: str, number: int, seconds: float) -> None:
        if verb == "send":
            queue, body = self.broker.open(name, self.now), b"careless %d" % number
            message = queue.enqueue(body, Properties(priority=number % 3), delay=seconds, now=self.now)
            self.staying.append((name, message.id, body))
        elif verb == "put back" and self.known[0]:
            name, of, message = self.taken.pop(number % self.known[0])
            self.known = (self.known[0] - 1, self.known[1])
            queue_there = self.broker.queues.get(name)
            if queue_there is not None and queue_there.number == of:
                queue_there.put_back(message)
                if message.id >= queue_there._given_before:
                    self.staying.append((name, message.id, message.body))
        elif verb == "take back" and self.known[1]:
            name, lease = self.leases[number % self.known[1]]
            if name in self.broker.queues:
                self.broker.queues[name].take_back(lease)

    def write(self, database: Database) -> None:
        """Have all that was done written."""
        self.journal.write(database)
        self.known = len(self.taken), len(self.leases)
        self.staying.clear()

    def fail(self) -> None:
        """Let the disk refuse all that was done since the last time."""
        self.journal.fail()
        del self.taken[self.known[0] :]
        del self.leases[self.known[1] :]

    def picture(self, now: float) -> object:
        """All there is, once what is due by `now` is done."""
        while self.broker.tick(now) <= now:
            pass
        broker = self.broker
        for queue in broker.queues.values():
            # Only the first of each line are looked at, and those that came back stand in another line.
            for message in [each for each in queue._ready if queue._has_outlived(each.properties, now)]:
                queue._ready.withdraw(message.id, 1, message.priority)
                queue._expire_ready(message)
        queues = {}
        for name, queue in sorted(broker.queues.items()):
            stats = {each: getattr(queue.stats(), each) for each in queue.stats().__struct_fields__}
            del stats["refused"]  # clients were told
            if not any(stats.values()) and queue.settings == QueueSettings() and not queue.paused:
                continue  # one that was made stays
            if queue._pace is not None:
                # Why a queue gives nothing is known once a take was held back; in both, one is.
                for lease in (False, True):
                    queue._allowed(1, now, lease=lease)
            queues[name] = (
                stats,
                queue.settings,
                queue.paused,
                queue._pace and queue._pace.tokens(now),
                queue.epoch,
                queue.number,
                queue.peek("ready", 1000),
                # Of those that are due at one time, any may come first.
                *(sorted(queue.peek(state, 1000), key=lambda each: each.id) for state in ("delayed", "leased")),
                sorted(queue._lapses.serials.items()),
                sorted(queue._granting),
                queue._retention and (queue._retention.seconds, queue._retention.since),
                queue.why_empty(),
                queue.next_visible(),
                held_up(queue),
                sorted((queue._unique or {}).items()),
            )
        ends = [broker.end_of(lease.serial) for _, lease in self.leases]
        return queues, broker.messages, broker.bytes, ends


def held_up(queue: Queue) -> object:
    """How each group of a queue is held up."""
    groups = queue._ready.groups
    assert sorted([*groups.open, *groups._blocked]) == sorted(
        group.head for group in groups._groups.values() if group.head
    )
    return {
        key: (group.head, group.out, groups.open.get(group.head) is group) for key, group in groups._groups.items()
    }


def kept(number: int, epoch: int, image: QueueImage, now: float) -> tuple[Any, ...]:
    """What is to be found after a restart of a queue."""
    messages = {
        # One that is delayed beyond its ttl is gone when that is over.
        each.id: (each.body, each.properties, min(due, each.properties.expires) if due > now else 0.0)
        for each, due in chain(((each, 0.0) for each in flatten(image.in_order)), image.others)
    }
    return image.name, number, epoch, image.settings, image.paused, messages


def test_takes_that_are_undone_give_their_tokens_back() -> None:
    world = World(Undoing())
    queue = world.broker.default
    queue.enqueue_bodies([b"x"] * 9)
    mark = world.journal.mark()
    assert queue.dequeue(5.0) is not None
    assert queue.receive(60.0, 5.0) is not None
    assert len(queue.dequeue_many(9, 5.0)) == 1
    world.broker.configure("default", QueueSettings(rate=0.1, max_leased=1), 5.0)
    assert len(queue.receive_many(9, 60.0, 5.0)) == 0
    assert queue.why_empty() == "limited"
    world.journal.undo_to(mark)
    assert queue.available
    assert len(queue.receive_many(9, 60.0, 5.0)) == 3
    world.journal.undo_to(mark)
    assert len(queue.dequeue_many(9, 5.0)) == 3


@pytest.mark.parametrize("came", ["before", "after"])
@pytest.mark.parametrize("left", [True, False])
def test_a_key_that_was_had_meanwhile_is_had_by_the_newest_that_is_there(came: str, left: bool) -> None:
    world = World(Undoing())
    queue = world.broker.open("work", 0.0)
    key = Properties(unique="k")

    def put(body: bytes) -> Placed:
        return queue.enqueue_unique(body, key, replace=False, now=0.0)

    assert put(b"first") == Placed(1)
    first = queue.dequeue(0.0)
    assert first is not None
    if came == "before":
        assert put(b"second") == Placed(2)
    mark = world.journal.mark()
    assert put(b"second").id == 2
    assert queue.dequeue(0.0) is not None
    world.journal.relaxed = True
    queue.put_back(first)  # that stays
    world.journal.relaxed = False
    assert put(b"third") == Placed(1, "kept")
    if left:
        assert queue.dequeue(0.0) is not None
        assert put(b"third") == Placed(3)
    world.journal.undo_to(mark)
    assert put(b"third") == Placed(1 if came == "after" else 2, "kept")
    again = Broker(max_messages=9, max_bytes=99, max_queues=2).open("again", 0.0)
    again.fill(queue.image(), 0.0)
    assert again.held().unique == queue.held().unique


VERBS = (
    ["enqueue", "enqueue otherwise", "enqueue many", "enqueue drafts", "dequeue", "dequeue many", "receive"] * 3
    + ["enqueue in group", "enqueue in group", "enqueue many in group"] * 3
    + ["put unique", "put unique", "put unique", "put unique drafts"] * 3
    + ["receive many", "ack", "release", "wait", "tick", "ack", "release", "remove", "hide"] * 2
    + ["clear", "pause", "replace", "delete", "configure", "redrive", "replace all"]
    + ["delete one", "delete one", "redrive one"]
)
STEP = st.tuples(
    st.sampled_from(VERBS), st.sampled_from(NAMES), st.integers(0, 20), st.sampled_from([0.0, 0.5, 2.0])
)
STEPS = st.lists(STEP, max_size=40)


# What random programs reach seldom: messages that have come back, rest, fail too often, or outlive their ttl.
LEASED: list[Step] = [("enqueue", "work", 0, 0.0), ("receive", "work", 0, 2.0)]
RETURNED: list[Step] = [*LEASED, ("release", "work", 0, 0.0)]
RESTING: list[Step] = [*LEASED, ("release", "work", 1, 2.0)]
FAILED: list[Step] = [*RETURNED, ("receive", "work", 0, 2.0), ("release", "work", 1, 0.0)]
OLD: list[Step] = [("configure", "work", 1, 0.0), ("enqueue", "work", 0, 0.0), ("wait", "work", 0, 2.0)]
DELAYED: list[Step] = [("put unique", "work", 1, 0.5), ("put unique", "work", 1, 0.0)]
KEYED: list[Step] = [("put unique", "work", 1, 0.0), ("receive", "work", 0, 2.0)]
LAPSED: list[Step] = [("wait", "work", 0, 2.0), ("wait", "work", 0, 2.0), ("tick", "work", 0, 0.0)]


@example(RETURNED, [("remove", "work", 0, 0.0)])
@example(RESTING, [("remove", "work", 0, 0.0)])
@example(RETURNED, [("hide", "work", 0, 2.0)])
@example(RETURNED, [("delete one", "work", 0, 0.0)])
@example(RESTING, [("delete one", "work", 0, 0.0)])
@example([("enqueue many", "work", 3, 0.0)], [("delete one", "work", 1, 0.0), ("dequeue many", "work", 4, 0.0)])
@example(FAILED, [("redrive one", "work", 0, 0.0)])
@example(RESTING, [("hide", "work", 0, 0.5)])
@example(RESTING, [("hide", "work", 0, 0.0)])
@example(FAILED[:-1], FAILED[-1:])
@example(FAILED, [("redrive", "work", 5, 0.0)])
@example(LEASED, [*LAPSED, ("ack", "work", 0, 0.0)])
@example([("enqueue otherwise", "work", 1, 0.5)], LAPSED)
@example(OLD, [("tick", "work", 0, 0.0)])
@example(OLD, [("receive", "work", 0, 2.0)])
@example(OLD[:2], [*OLD[2:], ("configure", "work", 0, 0.0), ("wait", "work", 0, 2.0)])
@example([*OLD[:2], ("receive", "work", 0, 2.0)], [*OLD[2:], ("release", "work", 0, 0.0)])
@example(OLD, [("replace", "work", 0, 0.0)])
@example(KEYED, [("put unique", "work", 1, 0.0), ("put unique", "work", 3, 0.0)])
@example(KEYED, [*LAPSED, ("put unique", "work", 1, 0.0), ("ack", "work", 0, 0.0)])
@example([*KEYED, ("release", "work", 1, 2.0)], [("put unique", "work", 1, 2.0), ("put unique", "work", 3, 0.0)])
@example([*KEYED, ("release", "work", 0, 0.0), *KEYED[1:], ("release", "work", 0, 0.0)], [("redrive", "", 5, 0.0)])
@example([*KEYED, ("put unique drafts", "work", 0, 0.0)], [("put unique drafts", "work", 1, 0.5)])
@example([], [*DELAYED, ("wait", "work", 0, 0.5), ("dequeue", "work", 0, 0.0)])
@example(DELAYED[:1], [DELAYED[1], ("wait", "work", 0, 0.5), ("receive", "work", 0, 2.0)])
@example(
    [("put unique", "work", 29, 0.5), ("enqueue in group", "work", 0, 0.0)],
    [("put unique", "work", 29, 0.0), ("wait", "work", 0, 0.5), ("tick", "work", 0, 0.0)],
)
@given(STEPS, STEPS)
def test_what_is_undone_has_not_been(before: list[Step], after: list[Step]) -> None:
    undone, never = World(Undoing()), World(Undoing())
    for step in before:
        undone.do(step)
        never.do(step)
    mark, given = undone.journal.mark(), len(undone.leases)
    for step in after:
        undone.do(step)
    undone.journal.undo_to(mark)
    del undone.leases[given:]
    # Ids are not given again. What became due meanwhile is due in both.
    for name, queue in never.broker.queues.items():
        queue._next_id = undone.broker.queues[name]._next_id
    now = undone.now
    assert undone.picture(now) == never.picture(now)


RELAXED = ["send", "put back", "take back"]
EXCHANGES = {"clear", "replace", "delete", "replace all"}
FAILING = st.lists(
    st.tuples(
        st.sampled_from([*VERBS, *RELAXED * 6]),
        st.sampled_from(NAMES),
        st.integers(0, 20),
        st.sampled_from([0.0, 0.5, 2.0]),
    ),
    max_size=30,
)


@example(
    [("enqueue otherwise", "dead", 1, 0.5)],
    [],
    [("wait", "work", 0, 0.5), ("receive", "dead", 0, 0.5), ("release", "dead", 1, 2.0)],
)
@example(
    [("put unique", "work", 0, 0.0), ("receive many", "work", 0, 0.0)],
    [("put unique", "work", 2, 0.0), ("take back", "work", 0, 0.0)],
    [("put unique", "work", 0, 0.0)],
)
@given(STEPS, FAILING, STEPS)
def test_what_stays_done_is_there_and_is_written_with_what_comes_later(
    before: list[Step], failing: list[Step], after: list[Step]
) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        set_up(connection)
        database, world = Database(connection), World(Undoing())

        def check_written() -> None:
            world.write(database)
            queues = Database(connection).read(world.now, 0.0).queues
            on_disk = sorted(kept(*each, world.now) for each in queues)
            assert on_disk == sorted(
                kept(each.number, each.epoch, each.image(), world.now) for each in world.broker.queues.values()
            )
            for each in queues:
                again = Broker(max_messages=1000, max_bytes=10**6, max_queues=2).open("again", world.now)
                again.fill(each.image, world.now)
                there = world.broker.queues[each.image.name]
                assert (again._unique or {}) == (there._unique or {})
                assert each.image.next_id >= world.broker.queues[each.image.name]._next_id, "none is given again"

        for step in before:
            world.do(step)
        check_written()
        for step in failing:
            if step[0] in RELAXED:
                world.do_relaxed(*step)
            elif step[0] in EXCHANGES:
                # It begins when nothing else may be undone; until it is written, or not, nothing comes after it.
                world.write(database)
                world.do(step)
                with suppress(ZapqError):
                    world.broker.open("work", world.now)  # a program may ask for a queue at any time
                world.fail()
            else:
                world.do(step)
        world.fail()
        for name, id, body in world.staying:
            found = world.broker.queues[name].find(id)
            assert found is not None
            assert found.message.body == body
        check_written()
        for step in after:
            world.do(step)
        check_written()
