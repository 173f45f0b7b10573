"""Queues in another process answer as those in this one: the same operations, the same outcomes and refusals."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from types import SimpleNamespace
from typing import Any
from unittest import mock

import msgspec
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.engine.fronts import ask, front_ends
from zapq.core.message import Draft, Lease, Properties
from zapq.core.queue_settings import QueueSettings
from zapq.core.runs import Taken
from zapq.engine.engine import Engine
from zapq.engine.local import LocalEngine
from zapq.errors import ZapqError
from zapq.service import snapshots
from zapq.service.open import open_service
from zapq.service.operations import (
    Advance,
    ChangeSettings,
    Configure,
    Delete,
    DeleteMessage,
    Delivery,
    Describe,
    Drain,
    Enqueue,
    Find,
    Hide,
    History,
    List,
    ListPage,
    Load,
    Look,
    Operation,
    Peek,
    Purge,
    Put,
    Ready,
    Redrive,
    Remove,
    Save,
    SetPaused,
    Settle,
    Settlement,
    SettleOne,
    Stats,
    Take,
    Terms,
)
from zapq.service.service_stats import ServiceStats
from zapq.service.waiting import ONE, Want
from zapq.settings import Settings

_TOGETHER = (b"one", b"two")
_MIXED = (Draft(body=b"one", priority=1), b"two", Draft(body=b"three", headers={"C": "3"}))
_GROUPED = (Draft(body=b"one", group="g"), b"two", Draft(body=b"three", group="g"), Draft(body=b"4", group="h"))
_UNIQUE = (
    Draft(body=b"one", unique="u"),
    b"two",
    Draft(body=b"three", unique="u", on="replace", delay=0.5),
    Draft(body=b"4", unique="v", group="g"),
)
_queues = st.sampled_from(["default", "a", "b", "no/queue"])
_bodies = st.sampled_from([b"", b"x", b"y" * 40])
_numbers = st.sampled_from([0, 1, 2, 1000, 1001])
_seconds = st.sampled_from([0.0, 0.5, 30.0])
_headers = st.sampled_from([(), (), (("b", "1"), ("a", "")), (("traceparent", "00-1"),)])
_terms = st.builds(
    Terms,
    st.builds(
        Properties,
        st.sampled_from(["application/octet-stream", "text/plain"]),
        st.sampled_from([0, 9]),
        headers=_headers,
    ),
    _seconds,
    st.sampled_from([None, 0.7]),
    st.sampled_from([None, "memory", "committed"]),
    st.sampled_from([0.0, 0.2]),
)
_contents = st.sampled_from([(b"one", b"two"), (Draft(body=b"p", priority=4), Draft(body=b"q", delay=1.0)), ()])
_settings = st.builds(
    QueueSettings,
    max_messages=st.sampled_from([None, 3]),
    visibility=st.sampled_from([0.5, 30.0]),
    max_receives=st.sampled_from([None, 1]),
    rate=st.sampled_from([None, None, 0.001]),
    max_leased=st.sampled_from([None, None, 2]),
    dead_letter=st.sampled_from([None, "a"]),
    fair=st.booleans(),
)
_keyed_terms = st.builds(
    Terms,
    st.builds(Properties, headers=_headers, group=st.sampled_from(["", "g"]), unique=st.sampled_from(["u", "v"])),
    _seconds,
    st.sampled_from([None, 0.7]),
    st.sampled_from([None, "memory"]),
    st.sampled_from([0.0, 0.2]),
    st.booleans(),
)
_wants = st.sampled_from([ONE, Want(3), Want(1, True, 0.4), Want(1, True), Want(1000, True, 5.0)])
_operations = st.one_of(
    st.builds(Enqueue, _queues, _bodies),
    st.builds(Enqueue, _queues, _bodies, st.just(Properties("text/plain", 3)), _seconds),
    st.builds(Enqueue, _queues, _bodies, st.builds(Properties, headers=_headers)),
    st.builds(Enqueue, _queues, _bodies, st.builds(Properties, group=st.sampled_from(["g", "h"])), _seconds),
    st.builds(Put, _bodies, _terms, st.sampled_from(["", "k"]), queue=_queues),
    st.builds(Put, _contents, _terms, st.sampled_from(["", "k"]), queue=_queues),
    st.builds(Put, st.just(_TOGETHER), packed=st.just(msgspec.msgpack.encode(_TOGETHER)), queue=_queues),
    st.builds(Put, st.just(_MIXED), packed=st.just(msgspec.msgpack.encode(_MIXED)), queue=_queues),
    st.builds(Put, st.just(_GROUPED), queue=_queues),
    st.builds(Put, _bodies, _keyed_terms, st.sampled_from(["", "k"]), queue=_queues),
    st.builds(Put, st.just(_UNIQUE), queue=_queues),
    st.builds(Take, _queues, _wants, st.sampled_from([0.0, 0.3])),
    st.builds(Peek, _queues, st.sampled_from(["ready", "delayed", "leased"]), _numbers),
    st.builds(Find, _queues, _numbers),
    st.builds(Remove, _queues, _numbers),
    st.builds(Hide, _queues, _numbers, st.sampled_from([0.0, 0.5])),
    st.builds(Describe, _queues),
    st.builds(Look, _queues),
    st.builds(List, st.sampled_from(["*", "a*"])),
    st.builds(Configure, _queues, _settings),
    st.builds(ChangeSettings, _queues, st.sampled_from([{"visibility": 1.0}, {"max_bytes": "no"}])),
    st.builds(Delete, _queues),
    st.builds(Purge, _queues),
    st.builds(SetPaused, _queues, st.booleans()),
    st.builds(Redrive, _queues, _numbers),
    st.builds(Redrive, _queues, st.just(1), st.sampled_from([1, 2])),
    st.builds(DeleteMessage, _queues, _numbers),
    st.builds(
        ListPage, sort=st.sampled_from(["name", "-name", "ready", "-messages"]), limit=st.sampled_from([1, 9])
    ),
    st.builds(History),
    st.builds(Stats),
    st.builds(Ready),
    st.builds(Save, st.sampled_from(["a.msgpack", "a.json", "../a"])),
    st.builds(Load, st.sampled_from(["a.msgpack", "a.json", "b.json"])),
    st.builds(Drain),
    st.builds(Advance, st.just(1.0)),
)
_settles = st.tuples(
    st.sampled_from(["one", "many"]),
    st.sampled_from([
        Settlement(receipt=""),
        Settlement(receipt="", action="release"),
        Settlement(receipt="", action="release", delay=0.3),
        Settlement(receipt="", action="extend", visibility=1.0),
    ]),
)
_steps = st.lists(st.one_of(_operations, _settles, st.sampled_from([0.1, 0.6, 40.0])), max_size=30)


Step = Operation | tuple[str, Settlement]


class Player:
    """Plays a program on one engine, with the receipts that one gives."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.name = name
        self._engine = engine
        self._receipts = ["none-1"]

    async def play(self, step: Step) -> object:
        if isinstance(step, tuple):
            kind, settlement = step
            mine = [replace_receipt(settlement, receipt) for receipt in self._receipts[-2:]]
            step = SettleOne("default", mine[-1]) if kind == "one" else Settle("default", mine)
        try:
            return self._shown(await ask(self._engine, step))
        except ZapqError as error:
            return self._shown(error)

    def _shown(self, outcome: Any) -> object:
        if isinstance(outcome, ZapqError):
            return type(outcome), outcome.detail, outcome.members, outcome.retry_after
        if isinstance(outcome, Delivery):
            leases = [each for each in outcome.given if isinstance(each, Lease)]
            self._receipts += [each.receipt for each in leases]
            given: object = [self._lease(each) for each in leases] or list(outcome.given)
            packed = outcome.given.packed() if isinstance(outcome.given, Taken) else b""
            return outcome.queue.name, given, packed
        if isinstance(outcome, Lease):
            return self._lease(outcome)
        if isinstance(outcome, list):
            return [self._shown(each) for each in outcome]
        if isinstance(outcome, ServiceStats):
            return replace(outcome, elsewhere={})
        return outcome

    def _lease(self, lease: Lease) -> object:
        return msgspec.structs.replace(lease, tag="")


def wall_clock() -> Any:
    """Show a time to snapshots that goes with Trio's: in the real one, both sides load a little apart."""

    def seconds() -> float:
        return 2.0**30 + trio.current_time()

    shown = SimpleNamespace(time=seconds, strftime=time.strftime, gmtime=time.gmtime)
    return mock.patch.object(snapshots, "time", shown)


@contextmanager
def time_stops_for(step: Step) -> Iterator[None]:
    """Keep the clock from running ahead while a thread does `step`: it would be far ahead on one side only."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    clock.autojump_threshold = inf if isinstance(step, Save | Load) else 0
    try:
        yield
    finally:
        clock.autojump_threshold = 0


async def play_one(player: Player, step: Step, outcomes: dict[str, object]) -> None:
    outcomes[player.name] = await player.play(step)


def replace_receipt(settlement: Settlement, receipt: str) -> Settlement:
    return msgspec.structs.replace(settlement, receipt=receipt)


@given(steps=_steps)
def test_outcomes_are_the_same(
    steps: list[Operation | tuple[str, Settlement] | float], tmp_path_factory: Any
) -> None:
    base = tmp_path_factory.mktemp("same")

    async def play() -> None:
        settings = Settings(data_dir=str(base / "local"), max_msgs=20, max_message_bytes=30, max_queues=3)
        elsewhere = replace(settings, data_dir=str(base / "remote"))
        async with open_service(settings) as one, open_service(elsewhere) as other, front_ends(other) as [front]:
            here, there = Player(LocalEngine(one), "here"), Player(front.engine, "there")
            for step in steps:
                if isinstance(step, float):
                    await trio.sleep(step)
                    continue
                # At once, so that each waits as long as the other.
                outcomes: dict[str, object] = {}
                with time_stops_for(step):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(play_one, here, step, outcomes)
                        nursery.start_soon(play_one, there, step, outcomes)
                assert outcomes["there"] == outcomes["here"], step

    with wall_clock():
        trio.run(play, clock=MockClock(autojump_threshold=0))
