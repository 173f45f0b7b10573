"""What queues held and did in the last ten minutes: samples, and how much of them is kept."""

from __future__ import annotations

import sys
from collections.abc import Generator
from dataclasses import dataclass, field
from math import inf

import trio
from trio.testing import MockClock

from zapq.core.ages import Oldest
from zapq.core.stats import QueueStats
from zapq.engine.local import LocalEngine
from zapq.limits import HISTORY_SAMPLES, HISTORY_SECONDS, NAMES_MATCHED_AT_ONCE
from zapq.service import operations
from zapq.service.history import COLUMNS, History, Samples, take_samples
from zapq.service.pending import Pending
from zapq.service.service import QueueService


@dataclass
class Fake:
    """A queue that says what it is told to."""

    name: str = "emails"
    number: int = 1
    said: QueueStats = field(default_factory=QueueStats)

    since: float = inf

    def stats(self) -> QueueStats:
        return self.said

    def oldest(self) -> Oldest:
        return Oldest(self.since)


def sample(history: History, *queues: Fake, now: float = 0.0) -> None:
    history.begin(now)
    for each in queues:
        history.note(each)
    history.end([each.name for each in queues])


def tell(history: History, pattern: str, wanted: list[str], limit: int, now: float) -> Samples:
    return history.tell(drained(history.find(pattern, wanted))[0], limit, now)


def drained(steps: Generator[None, None, list[str]]) -> tuple[list[str], int]:
    """Return what comes of steps, and how many turns others had."""
    turns = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value, turns
        turns += 1


def told(history: History, name: str = "emails") -> dict[str, list[int]]:
    return {column: list(samples) for column, samples in tell(history, "*", ["*"], 9, 0.0).queues[name].items()}


def test_a_sample_says_what_is_held_and_what_came_and_went_since_the_one_before() -> None:
    history, queue = History(), Fake()
    queue.said = QueueStats(messages=3, ready=2, enqueued=3)
    sample(history, queue)
    queue.said = QueueStats(messages=4, ready=4, enqueued=9, acked=3, dequeued=1, cleared=1)
    queue.since = 7.0
    sample(history, queue, now=10.9)
    assert told(history) == {"messages": [3, 4], "ready": [2, 4], "in": [0, 6], "out": [0, 5], "age": [0, 3]}


def test_the_last_samples_are_kept_the_oldest_first() -> None:
    history, queue = History(), Fake()
    for number in range(HISTORY_SAMPLES + 3):
        queue.said = QueueStats(messages=number)
        sample(history, queue)
    assert told(history)["messages"] == list(range(3, HISTORY_SAMPLES + 3))
    assert told(history)["in"] == [1] * HISTORY_SAMPLES


def test_a_younger_queue_has_fewer_samples() -> None:
    history, old, young = History(), Fake("old"), Fake("young", 2, QueueStats(messages=7))
    for _ in range(2 * HISTORY_SAMPLES - 1):
        sample(history, old)
    sample(history, old, young)
    assert told(history, "young")["messages"] == [7]
    sample(history, old, young)
    assert told(history, "young")["messages"] == [7, 7]


def test_a_queue_that_was_deleted_is_forgotten_and_another_of_its_name_begins_anew() -> None:
    history = History()
    sample(history, Fake("emails", 1, QueueStats(messages=5)), Fake("jobs"))
    sample(history, Fake("emails", 2, QueueStats(messages=1)))
    assert told(history)["messages"] == [1]
    assert tell(history, "*", ["jobs"], 9, 0.0).queues == {}


def test_counts_that_step_back_are_taken_for_nothing() -> None:
    history, queue = History(), Fake(said=QueueStats(messages=5, acked=5))
    sample(history, queue)
    queue.said = QueueStats(messages=2**40)
    sample(history, queue)
    queue.said = QueueStats()
    sample(history, queue)
    assert told(history)["out"] == [0, 0, 0]
    assert told(history)["messages"] == [5, 2**32 - 1, 0]


def test_a_client_hears_of_queues_it_asks_for_and_may_know_of() -> None:
    history = History()
    names = ["a1", "a2", "b1", "b2"]
    sample(history, *(Fake(name, at) for at, name in enumerate(names)), now=10.0)
    assert list(tell(history, "a*", ["*"], 9, 10.0).queues) == ["a1", "a2"]
    assert list(tell(history, "*", ["b*", "a2"], 9, 10.0).queues) == ["a2", "b1", "b2"]
    assert list(tell(history, "*", ["b2", "a?"], 9, 10.0).queues) == ["a1", "a2", "b2"]
    assert list(tell(history, "a*", ["b2", "none", "a2"], 9, 10.0).queues) == ["a2"]
    first = tell(history, "*", ["*"], 1, 13.0)
    assert (list(first.queues), first.left_out, first.age, first.seconds) == (["a1"], 3, 3.0, HISTORY_SECONDS)


def test_others_have_a_turn_while_many_names_are_compared_with_many_patterns() -> None:
    history, number = History(), 30
    sample(history, *(Fake(f"q{at}", at) for at in range(number)))
    patterns = [f"*{at}" for at in range(NAMES_MATCHED_AT_ONCE // 10)]
    assert drained(history.find("*", patterns)) == (sorted(f"q{at}" for at in range(number)), 2)
    assert drained(history.find("*", patterns[:2]))[1] == 0
    # A queue may have gone meanwhile.
    assert list(history.tell(["gone", "q1"], 9, 0.0).queues) == ["q1"]


def test_what_is_kept_of_a_queue_is_as_small_as_is_said() -> None:
    history = History()
    sample(history, Fake())
    [ring] = history._rings.values()
    size = sys.getsizeof(ring.samples) + sys.getsizeof(ring)
    assert size < 2600
    assert len(ring.samples) == HISTORY_SAMPLES * len(COLUMNS)


async def test_a_task_takes_samples_of_all_queues(
    zapq_service: QueueService, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    for number in range(250):
        await zapq_service.queue(f"q{number}").enqueue(b"x")
    nursery.start_soon(take_samples, zapq_service)
    await trio.sleep(1)
    await zapq_service.queue("q7").dequeue()
    await zapq_service.delete("q8")
    await trio.sleep(HISTORY_SECONDS)
    # How often it was sampled is not known: the clock jumps whenever a thread is waited for.
    q7 = tell(zapq_service.history, "*", ["q7"], 9, trio.current_time()).queues["q7"]
    assert (q7["messages"][0], q7["messages"][-1], q7["ready"][-1]) == (1, 0, 0)
    assert (sum(q7["in"]), sum(q7["out"])) == (0, 1)
    assert len(tell(zapq_service.history, "*", ["*"], 999, 0.0).queues) == 250
    engine = LocalEngine(zapq_service)
    few, many = (
        operations.History("*", ("q7",), 9),
        operations.History("*", tuple(f"*{at}" for at in range(100)), 9),
    )
    assert list(engine.perform(few, 0.0).queues) == ["q7"]
    later = engine.perform(many, 0.0)
    assert isinstance(later, Pending)
    assert len((await later.wait()).queues) == 9
