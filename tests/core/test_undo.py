"""What was done since a point can be undone: any program of verbs leaves exactly the state of that point."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from zapq.core.broker import Broker
from zapq.core.image import Image, QueueImage
from zapq.core.message import Draft, Lease, Message, Properties
from zapq.core.queue_settings import QueueSettings
from zapq.core.records import Record
from zapq.errors import ZapqError

NAMES = ("default", "work", "dead")
Step = tuple[str, str, int, float]
"""A verb, the queue, a number and a duration."""


class Undoing:
    """Writes nothing, and can undo all there is."""

    def __init__(self) -> None:
        self.steps: list[tuple[Callable[..., object], tuple[object, ...]]] = []

    def check(self) -> None:
        pass

    check_room = check

    def enter(self, record: Record | None, undo: Callable[..., object], *args: object) -> None:
        self.steps.append((undo, args))

    def note(self, record: Record) -> None:
        pass

    def rely(self) -> None:
        pass

    def when_written(self, call: Callable[..., object], *args: object) -> None:
        call(*args)

    def undo_to(self, mark: int) -> None:
        while len(self.steps) > mark:
            undo, args = self.steps.pop()
            undo(*args)


class World:
    """Queues, what consumers were given, and the time."""

    def __init__(self) -> None:
        self.journal = Undoing()
        self.now = 0.0
        self.leases: list[tuple[str, Lease]] = []
        self.broker = Broker(
            max_messages=40,
            max_bytes=1000,
            max_queues=5,
            journal=self.journal,
            clock=lambda: self.now,
        )
        self.broker.open("dead", 0.0)
        self.broker.configure("work", QueueSettings(max_receives=2, dead_letter="dead", visibility=3.0), 0.0)

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
            broker.configure("work", QueueSettings(max_receives=1 + number % 3, dead_letter="dead"), now)
        elif verb == "redrive":
            broker.redrive("dead", number, now)
        elif verb == "replace all":
            made = broker.prepare(["work"])
            messages: deque[Any] = deque(Message(id, body) for id in range(1, number % 4 + 1))
            others = [(Message(7, b"7"), 0.0)]
            image = QueueImage(name="work", settings=QueueSettings(), next_id=9, in_order=messages, others=others)
            for each in Image([image]).queues:
                made.add(each, now)
            made.finish(now)
            broker.replace(made)
        else:
            self._do_in(verb, name, number, seconds)

    def _do_in(self, verb: str, name: str, number: int, seconds: float) -> None:
        queue, now, body = self.broker.open(name, self.now), self.now, b"%d" % number
        match verb:
            case "enqueue":
                queue.enqueue(body, now=now)
            case "enqueue otherwise":
                expires = now + 2 * seconds if seconds and number % 2 else inf
                queue.enqueue(body, Properties(priority=number % 10, expires=expires), delay=seconds, now=now)
            case "enqueue many":
                queue.enqueue_bodies([body] * (1 + number % 4), now=now)
            case "enqueue drafts":
                queue.enqueue_drafts([Draft(body=body, delay=seconds), Draft(body=body, priority=3)], now=now)
            case "dequeue":
                queue.dequeue(now)
            case "dequeue many":
                queue.dequeue_many(1 + number % 5, now)
            case "receive":
                lease = queue.receive(seconds, now)
                self.leases += [(name, lease)] if lease else []
            case "receive many":
                self.leases += [(name, lease) for lease in queue.receive_many(1 + number % 3, None, now)]
            case "clear":
                queue.clear()
            case "pause":
                queue.paused = not queue.paused
            case "replace":
                first = queue.reserve(2)
                queue.replace(deque(Message(first + at, body) for at in range(2)), 2 * len(body))
            case "ack" | "release" if self.leases:
                name, lease = self.leases[number % len(self.leases)]
                queue = self.broker.find(name)
                if verb == "ack":
                    queue.ack(lease.receipt, now)
                else:
                    queue.release(lease.receipt, seconds if number % 2 else 0.0, now)

    def picture(self, now: float) -> object:
        """All there is, once what is due by `now` is done."""
        while self.broker.tick(now) <= now:
            pass
        broker = self.broker
        queues = {}
        for name, queue in sorted(broker.queues.items()):
            stats = {each: getattr(queue.stats(), each) for each in queue.stats().__struct_fields__}
            del stats["refused"]  # clients were told
            if not any(stats.values()) and queue.settings == QueueSettings() and not queue.paused:
                continue  # one that was made stays
            queues[name] = (
                stats,
                queue.settings,
                queue.paused,
                queue.epoch,
                queue.number,
                queue.peek("ready", 1000),
                # Of those that are due at one time, any may come first.
                *(sorted(queue.peek(state, 1000), key=lambda each: each.id) for state in ("delayed", "leased")),
                sorted(queue._lapses.serials.items()),
                sorted(queue._granting),
            )
        ends = [broker.end_of(lease.serial) for _, lease in self.leases]
        return queues, broker.messages, broker.bytes, ends


VERBS = (
    ["enqueue", "enqueue otherwise", "enqueue many", "enqueue drafts", "dequeue", "dequeue many", "receive"] * 3
    + ["receive many", "ack", "release", "wait", "tick", "ack", "release"] * 2
    + ["clear", "pause", "replace", "delete", "configure", "redrive", "replace all"]
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(VERBS), st.sampled_from(NAMES), st.integers(0, 20), st.sampled_from([0.0, 0.5, 2.0])
    ),
    max_size=40,
)


@given(STEPS, STEPS)
def test_what_is_undone_has_not_been(before: list[Step], after: list[Step]) -> None:
    undone, never = World(), World()
    for step in before:
        undone.do(step)
        never.do(step)
    mark, given = len(undone.journal.steps), len(undone.leases)
    for step in after:
        undone.do(step)
    undone.journal.undo_to(mark)
    del undone.leases[given:]
    # Ids are not given again. What became due meanwhile is due in both.
    for name, queue in never.broker.queues.items():
        queue._next_id = undone.broker.queues[name]._next_id
    now = undone.now
    assert undone.picture(now) == never.picture(now)
