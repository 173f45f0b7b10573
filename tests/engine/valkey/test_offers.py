"""Producers of one front end that wait for room in an engine elsewhere: which is next, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from zapq.engine.valkey.asked import unavailable
from zapq.engine.valkey.offers import Offers
from zapq.engine.valkey.tasks import Tasks
from zapq.errors import Draining, QueueFull, StorageUnavailable
from zapq.service.operations import Accepted, Put, terms
from zapq.service.pending import Later, Pending


class FakeEngine:
    """One queue, with room for so many messages; the offers that wait for it."""

    def __init__(self, tasks: Tasks) -> None:
        self.room = 0
        self.stored: list[bytes] = []
        self.tried: list[bytes] = []
        self.most = 10
        self.error: Exception | None = None
        self.slow = False
        """Whether an answer takes a second."""
        self.most_waiting = 5
        self.tasks = tasks
        self.offers = Offers(
            self.put, tasks, most_bytes=10_000, is_crowded=lambda: len(self.offers) >= self.most_waiting
        )

    def put(self, operation: Put, now: float) -> Pending[Accepted]:
        later: Later[Accepted] = Later(begun=True)
        if self.slow:
            self.tasks.start(lambda: self.later(operation, later))
        else:
            self.answer(operation, later)
        return later

    async def later(self, operation: Put, later: Later[Accepted]) -> None:
        await trio.sleep(1)
        self.answer(operation, later)

    def answer(self, operation: Put, later: Later[Accepted]) -> None:
        content = operation.content
        bodies = [content] if isinstance(content, bytes) else [bytes(each) for each in content]  # type: ignore[arg-type]  # no drafts
        self.tried += bodies
        key = operation.key
        if self.error is not None:
            later.fail(self.error)
        elif operation.terms.properties.unique and not operation.terms.replace:
            later.complete(Accepted(1, unique="kept"))
        elif key and bodies[0] in self.stored:
            later.complete(Accepted(self.stored.index(bodies[0]), True))
        elif len(bodies) > self.room:
            later.fail(QueueFull(None, limit="max_messages", current=9, max_messages=self.most))
        else:
            self.room -= len(bodies)
            self.stored += bodies
            later.complete(Accepted(len(self.stored)))

    def send(
        self, body: bytes, wait: float = 20.0, key: str = "", unique: str | None = None, on: str | None = None
    ) -> Pending[Accepted]:
        asked = Put(body, terms(unique=unique, on=on), key, queue="jobs")
        return self.offers.join(asked, wait, trio.current_time())


@pytest.fixture
async def engine() -> AsyncGenerator[FakeEngine, None]:
    async with trio.open_nursery() as nursery:
        tasks = Tasks(lambda call: pytest.fail("nothing is called"))
        await nursery.start(tasks.run)
        yield FakeEngine(tasks)
        nursery.cancel_scope.cancel()


async def test_an_offer_waits_for_room_and_is_stored(autojump_clock: MockClock, engine: FakeEngine) -> None:
    offer = engine.send(b"a")
    await trio.sleep(5)
    assert not offer.done
    engine.room = 1
    assert (await offer.wait()).id == 1
    # Room that others make is seen within half a second.
    assert trio.current_time() <= 5.5 + 1e-9
    assert (len(engine.offers), engine.offers.lines) == (0, {})


async def test_where_there_is_room_it_does_not_wait(autojump_clock: MockClock, engine: FakeEngine) -> None:
    engine.room = 1
    began = trio.current_time()
    await engine.send(b"a").wait()
    assert trio.current_time() == began


async def test_room_that_is_made_here_is_seen_at_once(autojump_clock: MockClock, engine: FakeEngine) -> None:
    offer = engine.send(b"a")
    await trio.sleep(7.001)
    engine.room = 1
    began = trio.current_time()
    engine.offers.wake("jobs")
    await offer.wait()
    assert trio.current_time() == began


async def test_first_come_first_served_and_small_ones_do_not_overtake(
    autojump_clock: MockClock, engine: FakeEngine
) -> None:
    offers = Put([b"a1", b"a2"], queue="jobs")
    first = engine.offers.join(offers, 20, trio.current_time())
    others = [engine.send(body) for body in (b"b", b"c")]
    await wait_all_tasks_blocked()
    engine.room = 1
    engine.offers.wake("jobs")
    await trio.sleep(3)
    assert engine.stored == []
    engine.room = 4
    for each in (first, *others):
        await each.wait()
    assert engine.stored == [b"a1", b"a2", b"b", b"c"]


async def test_one_without_a_wait_has_its_turn_behind_them(autojump_clock: MockClock, engine: FakeEngine) -> None:
    first = engine.send(b"a")
    await trio.sleep(1.001)
    # It does not find the room that the first does not find, and has the first tried at once.
    with pytest.raises(QueueFull):
        await engine.offers.join(Put(b"b", queue="jobs"), 0.0, trio.current_time()).wait()
    assert engine.tried[-1] == b"a"
    engine.room = 2
    began = trio.current_time()
    await engine.offers.join(Put(b"c", queue="jobs"), 0.0, trio.current_time()).wait()
    assert engine.stored == [b"a", b"c"]
    assert first.done
    assert trio.current_time() == began


async def test_at_the_end_of_its_time_it_is_refused_as_at_first(
    autojump_clock: MockClock, engine: FakeEngine
) -> None:
    first, second = engine.send(b"a", wait=3), engine.send(b"b", wait=2)
    began = trio.current_time()
    for offer, seconds in ((second, 2), (first, 3)):
        with pytest.raises(QueueFull) as refused:
            await offer.wait()
        assert refused.value.members["current"] == 9
        assert trio.current_time() - began == pytest.approx(seconds)
    assert engine.offers.lines == {}


async def test_one_whose_time_is_up_makes_way_for_those_behind(
    autojump_clock: MockClock, engine: FakeEngine
) -> None:
    first = engine.offers.join(Put([b"a1", b"a2"], queue="jobs"), 2, trio.current_time())
    second = engine.send(b"b")
    engine.room = 1
    began = trio.current_time()
    await second.wait()
    assert trio.current_time() - began == pytest.approx(2)
    with pytest.raises(QueueFull):
        await first.wait()


async def test_one_that_leaves_makes_way_and_stores_nothing(autojump_clock: MockClock, engine: FakeEngine) -> None:
    first = engine.offers.join(Put([b"a1", b"a2"], queue="jobs"), 20, trio.current_time())
    second = engine.send(b"b")
    await wait_all_tasks_blocked()
    engine.room = 1
    began = trio.current_time()
    first.abandon()
    await second.wait()
    assert trio.current_time() == began
    engine.room = 5
    await trio.sleep(1)
    assert engine.stored == [b"b"]


async def test_a_cancelled_one_leaves_the_line(autojump_clock: MockClock, engine: FakeEngine) -> None:
    with trio.move_on_after(1) as scope:
        await engine.send(b"a").wait()
    assert scope.cancelled_caught
    assert len(engine.offers) == 0
    await wait_all_tasks_blocked()
    assert engine.offers.lines == {}


@pytest.mark.parametrize("there_is_room", [True, False])
async def test_one_that_leaves_while_it_is_tried_may_be_stored(
    autojump_clock: MockClock, engine: FakeEngine, there_is_room: bool
) -> None:
    engine.slow, engine.room = True, int(there_is_room)
    outcome: object = None
    with trio.move_on_after(0.5):
        try:
            outcome = await engine.send(b"a").wait()
        except QueueFull as full:
            outcome = full
    # A cancellation could not say whether it has happened.
    assert isinstance(outcome, Accepted if there_is_room else QueueFull)
    assert len(engine.offers) == 0


async def test_what_can_never_be_stored_does_not_wait(autojump_clock: MockClock, engine: FakeEngine) -> None:
    bodies = [b"x"] * 11
    began = trio.current_time()
    with pytest.raises(QueueFull):
        await engine.offers.join(Put(bodies, queue="jobs"), 20, trio.current_time()).wait()
    assert trio.current_time() == began


async def test_no_more_wait_than_may(autojump_clock: MockClock, engine: FakeEngine) -> None:
    offers = [engine.send(b"%d" % number) for number in range(5)]
    began = trio.current_time()
    with pytest.raises(QueueFull):
        await engine.send(b"one more").wait()
    assert trio.current_time() == began
    engine.room = 5
    for offer in offers:
        await offer.wait()
    assert engine.stored == [b"0", b"1", b"2", b"3", b"4"]


async def test_no_more_bytes_wait_than_may_and_they_go_back(autojump_clock: MockClock, engine: FakeEngine) -> None:
    for _ in range(3):
        offer = engine.send(b"x" * 9000)
        with pytest.raises(QueueFull):
            await engine.send(b"y" * 9000).wait()
        engine.room = 1
        await offer.wait()


async def test_draining_answers_all(autojump_clock: MockClock, engine: FakeEngine) -> None:
    offers = [engine.send(b"a"), engine.send(b"b")]
    await wait_all_tasks_blocked()
    engine.offers.drain()
    for offer in offers:
        with pytest.raises(Draining):
            await offer.wait()
    with pytest.raises(Draining):
        engine.send(b"c")
    assert len(engine.offers) == 0


async def test_an_engine_that_cannot_be_reached_is_said_to_all(
    autojump_clock: MockClock, engine: FakeEngine
) -> None:
    offers = [engine.send(b"a"), engine.send(b"b")]
    await wait_all_tasks_blocked()
    engine.error = unavailable("it is gone")
    for offer in offers:
        with pytest.raises(StorageUnavailable, match="it is gone"):
            await offer.wait()


async def test_an_error_of_ours_is_what_comes_of_one_offer_and_no_end_of_the_line(
    autojump_clock: MockClock, engine: FakeEngine
) -> None:
    first, second = engine.send(b"a"), engine.send(b"b")
    await wait_all_tasks_blocked()

    def fail_once(operation: Put, now: float) -> Pending[Accepted]:
        engine.offers._put, engine.room = engine.put, 1
        raise RuntimeError("ours")

    engine.offers._put = fail_once
    engine.offers.wake("jobs")
    with pytest.raises(RuntimeError):
        await first.wait()
    await second.wait()
    assert engine.stored == [b"b"]


async def test_a_key_that_was_used_meanwhile_is_answered_at_the_end(
    autojump_clock: MockClock, engine: FakeEngine
) -> None:
    engine.send(b"a")
    repeated = engine.send(b"k", wait=3, key="k")
    await trio.sleep(1)
    engine.stored.append(b"k")  # through another front end
    assert (await repeated.wait()).replayed


async def test_a_message_that_is_held_is_kept_although_others_wait_for_room(
    autojump_clock: MockClock, engine: FakeEngine
) -> None:
    engine.send(b"a")
    kept = engine.send(b"u", wait=0, unique="u")
    assert (await kept.wait()).unique == "kept"
    replacing = engine.send(b"u", wait=0, unique="u", on="replace")
    with pytest.raises(QueueFull):
        await replacing.wait()


async def test_the_end_of_the_engine_answers_all(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        tasks = Tasks(lambda call: pytest.fail("nothing is called"))
        await nursery.start(tasks.run)
        offer = FakeEngine(tasks).send(b"a")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with pytest.raises(Draining):
        offer.result()
