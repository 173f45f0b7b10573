"""How old messages and leases are, against a simulation that knows of each one when it came."""

from __future__ import annotations

from bisect import bisect_left
from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zapq.core import ages
from zapq.core.ages import BOUNDS, FINEST, MAX_NOTES, TOLERANCE, LiveNotes, Notes, Oldest, Spread, Times, Waits
from zapq.core.broker import Broker
from zapq.core.message import Properties
from zapq.core.queue import Queue
from zapq.core.queue_settings import QueueSettings

MARGIN = 1e-6
PAUSES = (0.0, 0.001, 0.015, 0.02, 0.3, 1.0, 7.0, 60.0, 3600.0, 86400.0)
pauses = st.lists(st.sampled_from(PAUSES), min_size=1, max_size=300)


def assert_close(told: float, true: float) -> None:
    """An age that is told may be more than the true one by so much, and never less."""
    assert true - MARGIN <= told <= true * (1 + TOLERANCE) + FINEST + MARGIN


@pytest.mark.parametrize("rate", [0.001, 0.5, 40.0, 2000.0])
def test_ages_are_exact_within_limits_however_long_messages_come(rate: float) -> None:
    random, notes, now = Random(rate), Notes(), 0.0
    arrived: list[float] = []
    for _ in range(20_000):
        now += random.expovariate(rate)
        if now >= notes.due:
            notes.note(len(arrived), now)
        arrived.append(now)
        assert len(notes.entries()) <= MAX_NOTES
        if random.random() < 0.01:
            id = random.randrange(len(arrived))
            assert_close(now - notes.time_of(id), now - arrived[id])
    assert_close(now - notes.time_of(0), now - arrived[0])


def test_a_year_of_two_messages_at_a_time_needs_no_more_notes_than_there_may_be() -> None:
    """A note in front of a pause cannot be left out: those behind it would count as far older."""
    notes, now, id = Notes(), 0.0, 0
    arrived: list[float] = []
    while now < 365 * 86400:
        for pause in (FINEST, 15_000.0):
            now += pause
            notes.note(id, now)
            arrived.append(now)
            id += 1
    for _ in range(2000):
        now += FINEST
        notes.note(id, now)
        arrived.append(now)
        id += 1
        assert len(notes.entries()) <= MAX_NOTES
    for id, time in enumerate(arrived):
        assert_close(now - notes.time_of(id), now - time)


def test_notes_that_cannot_be_thinned_out_are_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ages, "MAX_NOTES", 16)
    notes, now = Notes(), 0.0
    for id in range(1000):
        now += 1.07 ** min(id, 200)
        notes.note(id, now)
        assert len(notes.entries()) <= 16


@given(pauses)
def test_notes_are_the_same_once_they_were_kept(steps: list[float]) -> None:
    notes, kept, now = Notes(), Notes(), 100.0
    for id, pause in enumerate(steps, 1):
        now += pause
        if now >= notes.due:
            notes.note(id, now)
    kept.fill(notes.entries())
    assert kept.entries() == notes.entries()
    assert kept.due == notes.due
    assert all(kept.time_of(id) == notes.time_of(id) for id in range(len(steps) + 2))


def test_notes_that_were_kept_out_of_order_are_left_out() -> None:
    notes = Notes()
    notes.fill([(1, 5.0), (3, 4.0), (2, 6.0), (2, 7.0), (9, 8.0)])
    assert notes.entries() == [(1, 5.0), (2, 6.0), (9, 8.0)]
    assert Notes().time_of(1) == inf


@given(st.lists(st.tuples(st.sampled_from(PAUSES), st.integers(0, 3), st.integers(0, 10**6)), max_size=300))
def test_the_oldest_that_is_left_is_known(steps: list[tuple[float, int, int]]) -> None:
    notes, now, number = LiveNotes(), 50.0, 0
    there: dict[int, float] = {}
    gone: list[int] = []
    for pause, what, which in steps:
        now += pause
        if what < 2 or not there:
            number += 1
            if now >= notes.due:
                notes.note(number, now)
            _count(notes, number)
            there[number] = now
        elif what == 2:
            left = list(there)[which % len(there)]
            told, begun = _drop(notes, left), there.pop(left)
            assert_close(now - told, now - begun)
            gone.append(left)
        elif gone:
            # Its end is undone.
            there[back := gone.pop()] = -inf
            _count(notes, back)
            _drop(notes, back)
            del there[back]
        oldest = notes.oldest()
        if there:
            assert_close(now - oldest, now - min(there.values()))
        else:
            assert oldest == inf


def _count(notes: LiveNotes, number: int) -> None:
    if number >= notes.last:
        notes.fresh += 1
    else:
        notes.add(number)


def _drop(notes: LiveNotes, number: int) -> float:
    if number < notes.last:
        return notes.drop(number)
    notes.fresh -= 1
    return notes.begun


def test_many_leases_over_a_long_time_are_thinned_out_with_their_counts() -> None:
    random, notes, now = Random(3), LiveNotes(), 0.0
    there: dict[int, float] = {}
    for number in range(1, 6000):
        now += random.expovariate(10)
        if now >= notes.due:
            notes.note(number, now)
        _count(notes, number)
        there[number] = now
        for _ in range(random.randrange(3) if len(there) > 500 else 0):
            left = min(there) if random.random() < 0.5 else random.choice([*there])
            assert_close(now - _drop(notes, left), now - there.pop(left))
        assert_close(now - notes.oldest(), now - min(there.values()))
        assert len(notes.entries()) <= MAX_NOTES
    for left in list(there):
        _drop(notes, left)
    assert notes.oldest() == inf


@given(st.lists(st.tuples(st.sampled_from(PAUSES), st.integers(0, 5), st.booleans()), max_size=200))
def test_waits_are_counted_where_they_belong(steps: list[tuple[float, int, bool]]) -> None:
    notes, waits, now, next_id = Notes(), Waits(), 50.0, 1
    waiting: list[tuple[int, float]] = []
    true: list[float] = []
    for pause, number, comes in steps:
        now += pause
        for _ in range(number):
            if comes:
                if now >= notes.due:
                    notes.note(next_id, now)
                waiting.append((next_id, now))
                next_id += 1
            elif waiting:
                id, arrived = waiting.pop(0)
                true.append(now - arrived)
                if now < waits.until and waits.low <= id < waits.high:
                    waits.alike += 1
                else:
                    waits.note_given(id, notes, next_id, now)
    spread = waits.spread()
    assert spread.number == len(true)
    slack = sum(true) * TOLERANCE + len(true) * FINEST + MARGIN
    assert abs(spread.seconds - sum(true)) <= slack
    for at, bound in enumerate(BOUNDS, 1):
        least = sum(wait * (1 + TOLERANCE) + FINEST <= bound for wait in true)
        most = sum(wait <= bound * (1 + TOLERANCE) + FINEST for wait in true)
        assert least <= sum(spread.counts[:at]) <= most


def test_times_are_counted_up_to_each_bound() -> None:
    times = Times()
    for seconds in (0.0, 0.1, 0.2, 1.0, 3600.0, 3601.0):
        times.note(seconds)
    times.quick, times.quick_seconds = 2, 0.1
    assert times.spread().counts == (4, 2, 0, 0, 0, 0, 0, 1, 1)
    assert times.spread().seconds == pytest.approx(7202.4)
    assert times.spread().number == 8
    assert ages.spread_of([]) == Spread()
    assert ages.spread_of([times.spread(), times.spread()]).number == 16
    assert bisect_left(BOUNDS, 0.1) == 0
    assert (ages.age(inf, 9.0), ages.age(4.0, 9.0), ages.age(10.0, 9.0)) == (0.0, 5.0, 0.0)


class Simulation:
    """A queue, and when each of its messages arrived and each of its leases began."""

    def __init__(self, settings: QueueSettings) -> None:
        self.now = 1000.0
        self.broker = Broker(
            max_messages=10**6, max_bytes=10**9, max_queues=9, clock=lambda: self.now, now=self.now
        )
        self.broker.configure("dead", QueueSettings(), self.now)
        self.broker.configure("q", settings, self.now)
        self.queue: Queue = self.broker.queues["q"]
        self.arrived: dict[int, float] = {}
        self.begun: dict[str, float] = {}

    def put(self, number: int, properties: Properties, delay: float) -> None:
        if number > 1 and not delay:
            first = self.queue.enqueue_bodies([b"x"] * number, properties, now=self.now)
            self.arrived |= dict.fromkeys(range(first, first + number), self.now)
        else:
            self.arrived[self.queue.enqueue(b"x", properties, delay=delay, now=self.now).id] = self.now

    def receive(self, number: int, visibility: float) -> None:
        leases = self.queue.receive_many(number, visibility, self.now)
        self.begun |= {lease.receipt: self.now for lease in leases}

    def check(self) -> None:
        """Compare what the queue says with what is so."""
        self.queue.tick(self.now, 10**6)
        oldest, queue = self.queue.oldest(), self.queue
        ready = [each.message for each in queue.peek("ready", 10**6)]
        out = [each.message for state in ("delayed", "leased") for each in queue.peek(state, 10**6)]
        blocked = {(each.group, each.id) for each in ready for other in out if _holds_up(other, each)}
        can_be_given = [self.arrived[each.id] for each in ready if (each.group, each.id) not in blocked]
        assert (oldest.ready == inf) is (not can_be_given)
        if can_be_given:
            assert_close(self.now - oldest.ready, self.now - min(can_be_given))
        there = {lease.receipt for lease in queue.held().leases.values()}
        begun = [time for receipt, time in self.begun.items() if receipt in there]
        assert (oldest.lease == inf) is (not begun)
        if begun:
            assert oldest.lease is not None
            assert_close(self.now - oldest.lease, self.now - min(begun))


def _holds_up(out: object, ready: object) -> bool:
    return bool(ready.group) and out.group == ready.group and out.id < ready.id  # type: ignore[attr-defined]


KINDS = [
    Properties(),
    Properties(),
    Properties(priority=5),
    Properties(priority=9, expires=5000.0),
    Properties(expires=2000.0),
    Properties(group="a"),
    Properties(group="b"),
]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "delayed", "take", "receive", "ack", "release", "rest", "extend", "pass"]),
            st.integers(1, 4),
            st.integers(0, 10**6),
            st.sampled_from((0.0, 0.0, 0.01, 0.5, 12.0, 40.0, 700.0)),
        ),
        max_size=60,
    ),
    st.booleans(),
)
def test_a_queue_knows_its_oldest_message_and_lease(steps: list[tuple[str, int, int, float]], fair: bool) -> None:
    own = Simulation(QueueSettings(fair=fair, max_receives=4, dead_letter="dead"))
    for what, number, which, pause in steps:
        own.now += pause
        leased = [lease.receipt for lease in own.queue.held().leases.values() if lease.deadline > own.now]
        receipt = leased[which % len(leased)] if leased else ""
        kind = KINDS[which % len(KINDS)]
        if what == "put":
            own.put(number, kind, 0.0)
        elif what == "delayed":
            own.put(1, kind, 20.0)
        elif what == "take":
            own.queue.dequeue_many(number, own.now) if number > 1 else own.queue.dequeue(own.now)
        elif what == "receive":
            own.receive(number, (5.0, 30.0, 600.0)[which % 3])
        elif what == "ack" and receipt:
            own.queue.ack(receipt, own.now)
        elif what == "release" and receipt:
            own.queue.release(receipt, 0.0, own.now)
        elif what == "rest" and receipt:
            own.queue.release(receipt, 15.0, own.now)
        elif what == "extend" and receipt:
            own.queue.extend(receipt, 100.0, own.now)
        own.check()
    stats = own.queue.stats()
    assert own.queue.waits().number <= stats.dequeued + stats.received
    assert own.broker.lease_times.spread().number == stats.acked


def test_a_dead_letter_is_as_old_as_it_is_long_ago_that_it_failed() -> None:
    own = Simulation(QueueSettings(max_receives=1, dead_letter="dead"))
    own.put(1, Properties(), 0.0)
    own.now += 500
    own.receive(1, 10.0)
    own.now += 11
    own.check()
    dead = own.broker.queues["dead"]
    assert (own.queue.oldest(), dead.oldest()) == (Oldest(), Oldest(own.now, inf))
    own.now += 7
    own.broker.redrive("dead", 10, own.now)
    assert (own.queue.oldest(), dead.oldest()) == (Oldest(own.now, inf), Oldest())
    assert own.broker.oldest() == Oldest(own.now, inf)


def test_only_the_first_delivery_ends_a_wait() -> None:
    own = Simulation(QueueSettings())
    own.put(1, Properties(), 0.0)
    for _ in range(3):
        own.now += 2.0
        own.receive(1, 30.0)
        [receipt] = [lease.receipt for lease in own.queue.held().leases.values()]
        own.queue.release(receipt, 0.0, own.now)
    assert own.queue.waits() == Spread((0, 0, 1, 0, 0, 0, 0, 0, 0), 2.0)


def test_what_queues_have_counted_is_known_once_they_are_gone() -> None:
    own = Simulation(QueueSettings())
    own.put(3, Properties(), 0.0)
    own.now += 2.0
    own.queue.dequeue_many(3, own.now)
    own.broker.delete("q")
    assert own.broker.past_waits == Spread((0, 0, 3, 0, 0, 0, 0, 0, 0), 6.0)


def test_a_fair_queue_finds_the_oldest_of_those_that_are_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zapq.core.groups.GROUPS_LOOKED_AT", 2)
    own = Simulation(QueueSettings(fair=True))
    for group in "abc":
        own.put(1, Properties(group=group), 0.0)
        own.now += 100
    assert own.queue.oldest().ready == own.arrived[1]


def test_ages_go_on_in_a_queue_that_is_made_of_an_image() -> None:
    own, other = Simulation(QueueSettings()), Simulation(QueueSettings())
    for _ in range(5):
        own.put(2, Properties(), 0.0)
        own.now += 100
    own.queue.dequeue_many(5, own.now)
    image = own.queue.image()
    later = Queue("q", owner=other.broker, number=7, tag="0-7", now=own.now)
    later.fill(image, own.now)
    assert later.oldest() == own.queue.oldest() == Oldest(own.arrived[6], inf)
    # If it was not kept, they count from now.
    image.arrived, unknown = [], Queue("q", owner=other.broker, number=8, tag="0-8", now=own.now)
    unknown.fill(image, own.now)
    assert unknown.oldest() == Oldest(own.now, inf)


def test_messages_taken_together_are_counted_without_a_call_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    note_given = Waits.note_given

    def noted(self: Waits, id: int, arrivals: Notes, next_id: int, now: float, number: int = 1) -> None:
        calls.append(id)
        note_given(self, id, arrivals, next_id, now, number)

    monkeypatch.setattr(Waits, "note_given", noted)
    queue = Broker(max_messages=1000, max_bytes=1000, max_queues=2).default
    for now, number in ((0.0, 300), (7.0, 200)):
        for _ in range(number):
            queue.enqueue(b"", now=now)
    queue.enqueue_bodies([b""] * 50, now=7.0)
    assert len(queue.dequeue_many(1000, 9.0)) == 550
    assert queue.waits() == Spread((0, 0, 250, 300, 0, 0, 0, 0, 0), 300 * 9.0 + 250 * 2.0)
    assert calls == [1, 301]


def test_a_message_of_which_nothing_was_noted_counts_as_just_come() -> None:
    broker = Broker(max_messages=10, max_bytes=10, max_queues=2)
    message = broker.open("jobs", 0.0).enqueue(b"", now=1.0)
    broker.delete("jobs")
    queue = broker.open("jobs", 2.0)
    queue.put_back(message)
    assert queue.oldest() == Oldest()
    assert queue.dequeue(3.0) == message
    assert queue.waits() == Spread((1, 0, 0, 0, 0, 0, 0, 0, 0), 0.0)
