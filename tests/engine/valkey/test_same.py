"""Queues in Valkey answer as those in this process: the same operations, the same outcomes and refusals.

Several operations travel in one call there, and are done one after the other here.
"""

from __future__ import annotations

from contextlib import suppress
from math import inf
from typing import Any

import msgspec
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.engine.fronts import ask
from tests.engine.valkey.driver import Driver
from tests.engine.valkey.servers import Server
from zapq.core.message import Draft, Lease, Message, Properties
from zapq.core.queue_settings import QueueSettings
from zapq.core.stats import MessageView, QueueStats
from zapq.engine.local import LocalEngine
from zapq.engine.valkey import procedures
from zapq.engine.valkey.bounds import Caps
from zapq.engine.valkey.procedures import Sums
from zapq.errors import MessageNotFound, QueueNotFound, ZapqError
from zapq.service.open import open_service
from zapq.service.operations import (
    ChangeSettings,
    Configure,
    Delete,
    DeleteMessage,
    Delivery,
    Describe,
    Enqueue,
    Find,
    Hide,
    List,
    Nothing,
    Operation,
    Peek,
    Purge,
    Put,
    Recall,
    Redrive,
    Remember,
    Remove,
    SetPaused,
    Settle,
    Settlement,
    SettleOne,
    Stats,
    Take,
    Terms,
)
from zapq.service.queue_state import QueueInfo
from zapq.service.service_stats import ServiceStats
from zapq.service.waiting import ONE, Want
from zapq.settings import Settings

NAMES = ("default", "a", "b", "dead")
_queues = st.sampled_from(["default", "a", "a", "b", "dead"])
_bodies = st.sampled_from([b"", b"x", b"xyz", b"y" * 20, b"y" * 31])
# Times are exact in binary, so both sides agree on what comes first.
_seconds = st.sampled_from([0.0, 0.5, 30.0])
_headers = st.sampled_from([(), (), (("b", "1"), ("a", "")), (("traceparent", "00"),)])
_terms = st.builds(
    Terms,
    st.builds(
        Properties,
        st.sampled_from(["application/octet-stream", "text/plain"]),
        st.sampled_from([0, 9]),
        headers=_headers,
    ),
    _seconds,
    st.sampled_from([None, 0.75]),
    st.sampled_from([None, "memory", "committed"]),
)
_groups = st.sampled_from(["g", "g", "h"])
_of_groups = st.builds(Properties, headers=_headers, group=_groups)
_contents = st.sampled_from([
    (Draft(body=b"1", group="g"), Draft(body=b"2", group="h", delay=1.0), Draft(body=b"3", group="g", ttl=0.5)),
    (b"one", b"two"),
    (Draft(body=b"p", priority=4), Draft(body=b"q", delay=1.0)),
    (Draft(body=b"r", ttl=0.5), b"s", Draft(body=b"t", content_type="text/html")),
    (Draft(body=b"u", headers={"C": "3"}), b"v", Draft(body=b"w", headers={"c": "3"}, priority=1)),
    (),
])
_uniques = st.sampled_from(["u", "u", "v"])
# A message of a group has no priority.
_places_in_line = st.sampled_from([(0, ""), (0, ""), (9, ""), (0, "g")])
_of_keys = st.builds(
    Terms,
    st.builds(
        lambda kind, place, headers, unique: Properties(
            kind, place[0], headers=headers, group=place[1], unique=unique
        ),
        st.sampled_from(["application/octet-stream", "text/plain"]),
        _places_in_line,
        _headers,
        _uniques,
    ),
    _seconds,
    st.sampled_from([None, None, 0.75]),
    replace=st.booleans(),
)
_contents_with_keys = st.lists(
    st.builds(
        Draft,
        body=_bodies,
        delay=st.sampled_from([0.0, 0.0, 0.5]),
        ttl=st.sampled_from([None, None, 0.5]),
        group=st.sampled_from(["", "", "g"]),
        unique=st.sampled_from(["u", "v", ""]),
        on=st.sampled_from(["keep", "replace"]),
    ),
    min_size=1,
    max_size=4,
).map(tuple)
_settings = st.builds(
    QueueSettings,
    max_messages=st.sampled_from([None, 3]),
    max_bytes=st.sampled_from([None, 30]),
    visibility=st.sampled_from([0.5, 30.0, 30.0, 0.0]),
    max_receives=st.sampled_from([None, 1, 2]),
    dead_letter=st.sampled_from([None, "dead", "a"]),
    ttl=st.sampled_from([None, None, 2.0]),
)
_limits = st.builds(
    QueueSettings,
    rate=st.sampled_from([None, 0.5, 2.0]),
    max_leased=st.sampled_from([None, 1, 3]),
    visibility=st.sampled_from([0.5, 30.0, 0.0]),
)
_wants = st.sampled_from([
    ONE,
    ONE,
    Want(3),
    Want(1, True, 0.375),
    Want(1, True),
    Want(4, True, 5.0),
    Want(1, True, 0.0),
])
_keys = st.sampled_from(["", "", "k", "l"])
_numbers = st.integers(0, 6)


def _runs(operations: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Operations that are about one queue, at once."""
    return st.tuples(_queues, st.lists(operations, min_size=1, max_size=4)).map(_about_one_queue)


def _about_one_queue(drawn: tuple[str, list[Any]]) -> list[Any]:
    return [msgspec.structs.replace(each, queue=drawn[0]) for each in drawn[1]]


_put = st.one_of(
    st.builds(Enqueue, st.just(""), _bodies),
    st.builds(Enqueue, st.just(""), _bodies),
    st.builds(Enqueue, st.just(""), _bodies, st.just(Properties("text/plain", 3)), _seconds),
    st.builds(Enqueue, st.just(""), _bodies, st.builds(Properties, headers=_headers)),
    st.builds(Enqueue, st.just(""), _bodies, _of_groups, st.sampled_from([0.0, 0.0, 0.5])),
    st.builds(Put, _bodies, _terms),
    st.builds(Put, _contents, _terms),
    st.builds(Put, st.just((b"one", b"two")), st.builds(Terms, _of_groups, ttl=st.sampled_from([None, 0.75]))),
    st.builds(Put, _bodies, _of_keys),
    st.builds(Put, _bodies, _of_keys),
    st.builds(Put, _contents_with_keys, st.just(Terms())),
    st.builds(Put, _bodies.filter(lambda body: len(body) < 30), _of_keys, _keys),
    # What is wrong by itself is refused before its key is looked at.
    st.builds(Put, _bodies.filter(lambda body: len(body) < 30), _terms, _keys),
    st.builds(Put, _contents.filter(bool), _terms, _keys),
)
_take = st.builds(Take, st.just(""), _wants)
_again = st.one_of(
    st.lists(st.builds(Remove, st.just(""), _numbers), min_size=1, max_size=3),
    st.lists(st.builds(Hide, st.just(""), _numbers, _seconds), min_size=1, max_size=3),
    st.lists(st.builds(DeleteMessage, st.just(""), _numbers), min_size=1, max_size=3),
)
_settlement = st.sampled_from([
    Settlement(receipt=""),
    Settlement(receipt=""),
    Settlement(receipt="", action="release"),
    Settlement(receipt="", action="release", delay=0.25),
    Settlement(receipt="", action="extend", visibility=1.0),
    Settlement(receipt="", action="extend", visibility=0.0),
    Settlement(receipt="", action="extend"),
])
_places = st.integers(1, 4)
_settle = st.one_of(
    st.tuples(st.just("one"), _settlement, _places),
    st.tuples(st.just("many"), _settlement, st.just(3)),
)
_other = st.one_of(
    st.builds(Peek, _queues, st.sampled_from(["ready", "delayed", "leased"]), st.integers(1, 5)),
    st.builds(Find, _queues, _numbers),
    st.builds(Describe, _queues),
    st.builds(List, st.sampled_from(["*", "a*"])),
    st.builds(Configure, _queues, _settings),
    st.builds(Configure, st.just("a"), st.just(QueueSettings(max_receives=2, dead_letter="dead", visibility=0.5))),
    st.builds(Configure, _queues, _limits),
    st.builds(Configure, st.just("a"), _limits),
    st.builds(ChangeSettings, _queues, st.sampled_from([{"visibility": 1.0}, {"max_bytes": "no"}, {"ttl": None}])),
    st.builds(Delete, _queues),
    st.builds(Purge, _queues),
    st.builds(SetPaused, _queues, st.booleans()),
    st.builds(Redrive, st.sampled_from(["dead", "dead", "a"]), st.sampled_from([1, 1000])),
    st.builds(Redrive, st.sampled_from(["dead", "dead", "a"]), st.just(1), st.integers(1, 4)),
    st.builds(Stats),
)
_steps = st.lists(
    st.one_of(
        _runs(_put),
        _runs(_put),
        _runs(_take),
        _runs(_take),
        st.tuples(_queues, st.lists(_settle, min_size=1, max_size=3)),
        st.tuples(_queues, st.just("give back"), _wants),
        st.tuples(_queues, st.just("attempt"), st.sampled_from(["k", "l"]), st.sampled_from([None, 1.0, 400.0])),
        st.tuples(_queues, _again).map(_about_one_queue),
        _other,
        st.sampled_from([0.125, 0.625, 40.0]),
    ),
    max_size=40,
)
# In a fair queue, leases that end at one time are in the order of their giving in this process, and in that of
# their ids there. So none ends by itself, and none is looked at.
_a = st.just("a")
_turns = st.lists(
    st.one_of(
        st.lists(
            st.builds(Enqueue, _a, _bodies, st.one_of(_of_groups, st.just(Properties(priority=3)))), min_size=1
        ),
        st.lists(st.builds(Enqueue, _a, _bodies), min_size=1, max_size=2),
        st.builds(Put, _contents.filter(bool), queue=_a).map(lambda put: [put]),
        st.lists(st.builds(Take, _a, st.sampled_from([ONE, Want(3), Want(1, True), Want(4, True)])), min_size=1),
        st.tuples(_a, st.lists(_settle, min_size=1, max_size=3)),
        st.tuples(_a, st.just("give back"), st.sampled_from([ONE, Want(4), Want(1, True), Want(4, True)])),
        _again.map(lambda operations: _about_one_queue(("a", operations))),
        st.builds(
            Configure, _a, st.builds(QueueSettings, fair=st.booleans(), max_leased=st.sampled_from([None, 3]))
        ),
        st.builds(Peek, _a, st.just("ready"), st.integers(1, 5)),
        st.builds(SetPaused, _a, st.booleans()),
        st.sampled_from([0.125, 0.625]),
    ),
    max_size=40,
)


class Side:
    """What one of the two engines gave: the receipts, in the order in which it gave them."""

    def __init__(self) -> None:
        self.receipts: dict[str, list[str]] = {name: [] for name in NAMES}

    def settling(self, queue: str, drawn: list[tuple[str, Settlement, int]]) -> list[Operation]:
        """Return operations with the receipts of this side."""
        known = self.receipts[queue]
        operations: list[Operation] = []
        for kind, settlement, place in drawn:
            mine = known[-place:][:1] or ["0-0-1"]
            if kind == "one":
                operations.append(SettleOne(queue, msgspec.structs.replace(settlement, receipt=mine[0])))
            else:
                several = [
                    msgspec.structs.replace(settlement, receipt=each) for each in (*known[-place:], "?", "1")
                ]
                operations.append(Settle(queue, several))
        return operations

    def shown(self, outcome: Any) -> object:
        """Return what is to be the same; keeps receipts."""
        if isinstance(outcome, ZapqError):
            return type(outcome), outcome.detail, outcome.members, outcome.retry_after
        if isinstance(outcome, Delivery):
            for each in outcome.given:
                if isinstance(each, Lease):
                    self.receipts[outcome.queue.name].append(each.receipt)
            return outcome.queue.name, [self.shown(each) for each in outcome.given]
        if isinstance(outcome, Lease):
            lease = msgspec.structs.replace(outcome, tag="", serial=0, deadline=_rounded(outcome.deadline))
            return msgspec.structs.replace(lease, message=_message(outcome.message))
        if isinstance(outcome, Message):
            return _message(outcome)
        if isinstance(outcome, MessageView):
            return _message(outcome.message), outcome.state, outcome.receives, _rounded(outcome.due)
        if isinstance(outcome, Nothing):
            return outcome.why, _rounded(outcome.next_visible_in)
        if isinstance(outcome, QueueInfo):
            # How old what they hold is, queues in Valkey know less exactly; see `_check_ages`.
            return msgspec.structs.replace(outcome, waiting=0, number=0, oldest=None, waits=None)
        if isinstance(outcome, ServiceStats | Sums):
            stats: QueueStats = outcome.queue if isinstance(outcome, ServiceStats) else outcome.stats
            return msgspec.structs.replace(stats, refused=0), outcome.queues
        if isinstance(outcome, list | tuple):
            return [self.shown(each) for each in outcome]
        return outcome


def _not_followed(operation: Operation, outcome: Any) -> Any:
    """Return what comes of an operation where messages that changed queues are not found by their former ids."""
    if not isinstance(operation, Find | DeleteMessage) or not isinstance(outcome, MessageNotFound | MessageView):
        return outcome
    is_followed = outcome.id != operation.id if isinstance(outcome, MessageView) else "now_in" in outcome.members
    return MessageNotFound(queue=operation.queue, message_id=operation.id) if is_followed else outcome


def _rounded(time: float | None) -> float | None:
    return time if time is None or time == inf else round(time, 3)


def _message(message: Message) -> Message:
    expires = _rounded(message.properties.expires)
    return msgspec.structs.replace(
        message, properties=msgspec.structs.replace(message.properties, expires=expires)
    )


async def _here(engine: LocalEngine, operations: list[Operation]) -> list[Any]:
    outcomes: list[Any] = []
    for operation in operations:
        try:
            outcomes.append(await ask(engine, operation))
        except ZapqError as error:
            outcomes.append(error)
    return outcomes


async def play(steps: list[Any], server: Server, data_dir: str) -> None:
    """Play a program on both sides."""
    # What all queues hold together is not limited, and so it is not what is compared.
    ours = Settings(data_dir=data_dir, max_message_bytes=30)
    with server.connect() as connection:
        connection.call("FLUSHALL")
        async with open_service(ours) as service:
            engine = LocalEngine(service)
            now = trio.current_time()
            driver = Driver(
                connection,
                lambda: now,
                caps=Caps(10**9, 2**50, 10**6),
                max_message_bytes=30,
            )
            driver.is_alone = True
            here, there = Side(), Side()
            driver.one(Configure("default", QueueSettings()))
            for step in steps:
                # What is due at once, after a lease of no time at all, is done by the timer here.
                await trio.sleep(step if isinstance(step, float) else 0)
                await trio.testing.wait_all_tasks_blocked()
                # Both sides take this step at one time: while a thread here frees memory, the clock jumps ahead.
                now = trio.current_time()
                driver.sweep(NAMES)
                if isinstance(step, float):
                    continue
                if isinstance(step, tuple) and step[1] == "give back":
                    # At once: only what was just given can fail to be handed over.
                    for side, outcomes in (
                        (here, await _here(engine, [Take(step[0], step[2])])),
                        (there, driver.ask([Take(step[0], step[2])])),
                    ):
                        if isinstance(outcomes[0], Delivery):
                            side.shown(outcomes[0])
                            outcomes[0].queue.return_undelivered(outcomes[0].given)
                    continue
                if isinstance(step, tuple) and step[1] == "attempt":
                    await _attempt(engine, driver, here, there, step)
                    continue
                if isinstance(step, tuple):
                    operations, others = here.settling(*step), there.settling(*step)
                else:
                    operations = others = step if isinstance(step, list) else [step]
                expected = await _here(engine, operations)
                got = driver.ask(others)
                shown = [here.shown(_not_followed(*each)) for each in zip(operations, expected, strict=True)]
                assert [there.shown(each) for each in got] == shown, step
                for one, other in zip(expected, got, strict=True):
                    _check_ages(one, other, now)
            for name in NAMES:
                with suppress(QueueNotFound):
                    # All that is kept of it agrees.
                    found = driver.run(procedures.repair(driver.codec, name, mend=False))
                    assert found == (0, 0, 0, 0, False), name


def _check_ages(expected: Any, got: Any, now: float) -> None:
    """Check that both sides know since when the oldest messages are there, as exactly as they promise."""
    if isinstance(expected, list | tuple):
        for one, other in zip(expected, got, strict=True):
            _check_ages(one, other, now)
    elif isinstance(expected, QueueInfo):
        assert expected.oldest is not None
        assert got.oldest is not None
        true, told = expected.oldest.ready, got.oldest.ready
        if true == inf or told == inf:
            assert told == true
        else:
            assert abs(told - true) < 1.03 + 0.3 * (now - true)


async def _attempt(engine: LocalEngine, driver: Driver, here: Side, there: Side, step: Any) -> None:
    """Have a consumer ask once more for what it received under an attempt; if that is nothing, it takes anew."""
    queue, _, attempt, visibility = step

    async def ask_both(*operations: Operation) -> tuple[Any, Any]:
        [expected], [got] = await _here(engine, [operations[0]]), driver.ask([operations[-1]])
        assert there.shown(got) == here.shown(expected), step
        return expected, got

    recalled, _ = await ask_both(Recall(queue, attempt, visibility))
    if isinstance(recalled, list) and not recalled:
        both = await ask_both(Take(queue, Want(2, True, 5.0)))
        if isinstance(both[0], Delivery):
            leases = [[(each.id, each.receipt) for each in outcome.given] for outcome in both]
            await ask_both(*(Remember(queue, attempt, each) for each in leases))


def _examples() -> int:
    """Return how many programs to play: many in the gate, for so much can be asked in so many orders."""
    most = settings().max_examples
    return 2 * most if most == settings.get_profile("gate").max_examples else most


@given(steps=_steps)
@settings(max_examples=_examples())
def test_outcomes_are_the_same(steps: list[Any], valkey: Server, tmp_path_factory: Any) -> None:
    data_dir = str(tmp_path_factory.mktemp("same"))
    trio.run(play, steps, valkey, data_dir, clock=MockClock(autojump_threshold=0))


@given(steps=_steps)
def test_outcomes_are_the_same_in_redis(steps: list[Any], redis_server: Server, tmp_path_factory: Any) -> None:
    data_dir = str(tmp_path_factory.mktemp("same"))
    trio.run(play, steps, redis_server, data_dir, clock=MockClock(autojump_threshold=0))


@given(steps=_turns)
@settings(max_examples=_examples())
def test_turns_of_groups_are_the_same(steps: list[Any], valkey: Server, tmp_path_factory: Any) -> None:
    data_dir = str(tmp_path_factory.mktemp("same"))
    steps = [Configure("a", QueueSettings(fair=True)), *steps]
    trio.run(play, steps, valkey, data_dir, clock=MockClock(autojump_threshold=0))
