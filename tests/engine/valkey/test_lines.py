"""Long polls of one front end: which consumer is next, and what the engine is asked."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from math import inf

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from zapq.core.message import Message
from zapq.engine.valkey.asked import Asked
from zapq.engine.valkey.lines import Line, Lines
from zapq.errors import Draining, QueueNotFound, StorageUnavailable, TooManyWaiters
from zapq.limits import DISMISSALS
from zapq.service.operations import Delivery, Nothing, Take
from zapq.service.pending import Poll
from zapq.service.waiting import ONE, Deliveries, Want

EMPTY = Nothing("empty", inf)


@dataclass
class Queue:
    name: str = "jobs"
    back: list[int] = field(default_factory=list)

    def return_undelivered(self, given: Deliveries) -> None:
        self.back += [each.id for each in given]

    def note_uncertain_delivery(self, number: int) -> None: ...


class FakeEngine:
    """What is asked, and what the lines are told."""

    def __init__(self, max_waiters: int = 3) -> None:
        self.asked: list[Asked] = []
        self.left: list[str] = []
        self.heard = True
        self.queue = Queue()
        self.lines = Lines(max_waiters, ask=self.ask, leave=self.left.append, hear=lambda shard: self.heard)

    def ask(self, line: Line, operation: Take) -> Asked:
        asked = Asked(operation, line.shard, 1, 0.0, repeatable=False)
        self.asked.append(asked)
        return asked

    def join(self, wait: float = 10.0, want: Want = ONE, queue: str = "jobs") -> Poll:
        return self.lines.join(Take(queue, want, wait), trio.current_time())

    def answer(self, *outcomes: object) -> None:
        asked, self.asked = self.asked, []
        assert len(asked) == len(outcomes)
        for each, outcome in zip(asked, outcomes, strict=True):
            each.settle(self.message(outcome) if isinstance(outcome, int) else outcome)

    def message(self, id: int) -> Delivery:
        return Delivery(self.queue, (Message(id, b""),))


@pytest.fixture
async def engine() -> AsyncGenerator[FakeEngine, None]:
    fake = FakeEngine()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fake.lines.run)
        yield fake
        nursery.cancel_scope.cancel()


def taken(poll: Poll) -> object:
    if not poll.done:
        return None
    outcome = poll.result()
    return outcome.given[0].id if isinstance(outcome, Delivery) else outcome


async def test_a_consumer_that_finds_nothing_waits_and_is_woken(engine: FakeEngine) -> None:
    poll = engine.join()
    engine.answer(EMPTY)
    assert not poll.done
    engine.lines.wake("jobs")
    engine.answer(7)
    assert taken(poll) == 7
    assert engine.left == []


async def test_first_come_first_served_and_one_call_for_all(engine: FakeEngine) -> None:
    first = engine.join()
    engine.answer(EMPTY)
    second, third = engine.join(), engine.join()
    assert engine.asked == []  # the engine knows already that we wait
    engine.lines.wake("jobs")
    engine.answer(1, 2, EMPTY)
    assert [taken(first), taken(second), taken(third)] == [1, 2, None]


async def test_a_consumer_that_leaves_meanwhile_makes_room_for_the_next_one(engine: FakeEngine) -> None:
    first, second = engine.join(), None
    second = engine.join()
    first.abandon()
    engine.answer(1)
    assert taken(second) == 1
    assert engine.queue.back == []


async def test_a_message_that_no_consumer_wants_any_more_goes_back(engine: FakeEngine) -> None:
    poll = engine.join()
    poll.abandon()
    engine.answer(1)
    assert engine.queue.back == [1]


async def test_the_last_consumer_that_leaves_is_told_to_the_engine(engine: FakeEngine) -> None:
    poll = engine.join()
    engine.answer(EMPTY)
    poll.abandon()
    assert engine.left == ["jobs"]
    # A hint that was on its way is for another front end.
    engine.lines.wake("jobs")
    assert engine.left == ["jobs", "jobs"]


async def test_time_is_up(engine: FakeEngine, autojump_clock: MockClock) -> None:
    begun = trio.current_time()
    poll = engine.join(wait=4.0)
    engine.answer(Nothing("leased", 100.0))
    told = await poll.wait()
    assert isinstance(told, Nothing)
    assert (told.why, round(told.next_visible_in)) == ("leased", 96)
    assert trio.current_time() - begun == pytest.approx(4.0)
    assert engine.left == ["jobs"]


async def test_no_consumer_is_told_that_there_is_nothing_before_the_engine_was_asked(
    engine: FakeEngine, autojump_clock: MockClock
) -> None:
    first = engine.join(wait=0.001)
    await trio.sleep(1)
    engine.answer(7)
    assert taken(first) == 7
    engine.join(wait=60.0)
    engine.answer(EMPTY)
    second = engine.join(wait=0.001)
    await trio.sleep(1)
    engine.answer(EMPTY, EMPTY)
    assert await second.wait() == EMPTY


async def test_time_does_not_end_while_a_message_may_be_on_its_way(
    engine: FakeEngine, autojump_clock: MockClock
) -> None:
    poll = engine.join(wait=4.0)
    engine.answer(EMPTY)
    engine.lines.wake("jobs")
    await trio.sleep(5)
    assert not poll.done
    engine.answer(7)
    assert taken(poll) == 7
    assert engine.queue.back == []


async def test_the_engine_is_asked_again_after_a_while_and_when_something_is_due(
    engine: FakeEngine, autojump_clock: MockClock
) -> None:
    engine.join(wait=60.0)
    engine.answer(Nothing("delayed", 2.0))
    await trio.sleep(2.1)
    engine.answer(Nothing("empty", inf))
    await trio.sleep(4.9)
    assert engine.asked == []
    await trio.sleep(0.2)
    assert len(engine.asked) == 1


async def test_without_hints_it_is_asked_more_often(engine: FakeEngine, autojump_clock: MockClock) -> None:
    engine.heard = False
    engine.join(wait=60.0)
    engine.answer(EMPTY)
    await trio.sleep(0.6)
    assert len(engine.asked) == 1


async def test_a_hint_that_comes_while_it_is_asked_is_not_lost(engine: FakeEngine) -> None:
    poll = engine.join()
    engine.lines.wake("jobs")
    engine.answer(EMPTY)
    engine.answer(3)
    assert taken(poll) == 3


async def test_an_engine_that_fails_is_said(engine: FakeEngine) -> None:
    poll = engine.join()
    engine.answer(StorageUnavailable())
    with pytest.raises(StorageUnavailable):
        poll.result()


async def test_a_queue_that_is_deleted_has_no_consumers(engine: FakeEngine) -> None:
    poll = engine.join()
    engine.answer(EMPTY)
    engine.lines.note_deleted("jobs")
    with pytest.raises(QueueNotFound):
        poll.result()


async def test_draining_answers_all_that_wait(engine: FakeEngine) -> None:
    poll = engine.join()
    engine.lines.drain()
    with pytest.raises(Draining):
        await poll.wait()
    with pytest.raises(Draining):
        engine.join()


async def test_waiters_are_bounded(engine: FakeEngine) -> None:
    for _ in range(3):
        engine.join()
    with pytest.raises(TooManyWaiters):
        engine.join()
    await wait_all_tasks_blocked()


@pytest.mark.parametrize("late", [1, EMPTY])
async def test_many_that_wait_are_all_told_that_we_are_draining(late: object, autojump_clock: MockClock) -> None:
    fake = FakeEngine(max_waiters=10 * DISMISSALS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fake.lines.run)
        polls = [fake.join() for _ in range(3 * DISMISSALS)]
        fake.lines.drain()
        for poll in polls:
            with pytest.raises(Draining):
                await poll.wait()
        fake.answer(late)  # it was asked for before that
        assert fake.queue.back == ([1] if late == 1 else [])
        nursery.cancel_scope.cancel()


async def test_many_whose_time_ends_at_once_are_all_answered(autojump_clock: MockClock) -> None:
    fake = FakeEngine(max_waiters=10 * DISMISSALS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fake.lines.run)
        polls = [fake.join(wait=1.0) for _ in range(3 * DISMISSALS)]
        for _ in range(11):
            fake.answer(*[EMPTY] * len(fake.asked))
            await trio.sleep(0.1)
        fake.answer(*[EMPTY] * len(fake.asked))
        begun = trio.current_time()
        assert [await poll.wait() for poll in polls] == [EMPTY] * len(polls)
        assert trio.current_time() == begun
        assert fake.lines.empty == len(polls)
        nursery.cancel_scope.cancel()


async def test_each_consumer_gets_as_many_as_it_wants(engine: FakeEngine) -> None:
    one, many = engine.join(), engine.join(want=Want(5))
    engine.answer(EMPTY)
    engine.lines.wake("jobs")
    engine.answer(EMPTY, 2)  # what was asked for the second one is not for the first
    assert (taken(one), taken(many)) == (None, 2)


async def test_a_refusal_is_for_one_that_wanted_such(engine: FakeEngine) -> None:
    one, many = engine.join(), engine.join(want=Want(5))
    engine.answer(EMPTY)
    engine.lines.wake("jobs")
    engine.answer(EMPTY, StorageUnavailable())
    with pytest.raises(StorageUnavailable):
        many.result()
    assert not one.done
    engine.lines.wake("jobs")
    one.abandon()
    engine.answer(StorageUnavailable())  # none is left to be told
    assert engine.lines.waiting("jobs") == 0


async def test_what_is_due_while_the_engine_is_asked_is_not_asked_for_twice(
    engine: FakeEngine, autojump_clock: MockClock
) -> None:
    poll = engine.join(wait=60.0)
    engine.answer(Nothing("delayed", 2.0))
    await trio.sleep(1.9)
    engine.lines.wake("jobs")
    await trio.sleep(1)
    assert len(engine.asked) == 1
    engine.answer(7)
    assert taken(poll) == 7


async def test_why_there_was_nothing_is_kept_for_so_many_queues_only(autojump_clock: MockClock) -> None:
    fake = FakeEngine(max_waiters=5000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fake.lines.run)
        first = fake.join(wait=1.0)
        fake.answer(Nothing("paused", inf))
        polls = [fake.join(queue=f"q{number}") for number in range(1001)]
        fake.answer(*[Nothing("paused", inf)] * 1001)
        assert await first.wait() == EMPTY
        for poll in polls:
            poll.abandon()
        assert len(fake.left) == 1002
        nursery.cancel_scope.cancel()


async def test_a_deleted_queue_that_no_consumer_waits_for_changes_nothing(engine: FakeEngine) -> None:
    poll = engine.join()
    engine.lines.note_deleted("another")
    engine.answer(7)
    assert taken(poll) == 7
