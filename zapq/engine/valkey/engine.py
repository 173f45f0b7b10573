"""The engine of a front end whose queues are in Valkey or Redis, where other front ends have them in common.

Every verb is one call of a function there, which is atomic. What is asked in one turn travels together, merged by
queue; one batch is under way to each server. Nothing here keeps a message: what a front end knows beside the
requests under way is who waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from typing import Any

import msgspec
import trio

from zapq.core.names import check_name
from zapq.engine.elsewhere import Elsewhere
from zapq.engine.valkey import procedures
from zapq.engine.valkey.asked import PLAIN, Asked, may_repeat, size_of, unavailable
from zapq.engine.valkey.batch import Key
from zapq.engine.valkey.bounds import MAX_WEIGHT, Caps, weight_of
from zapq.engine.valkey.call import Call, outbox_waits, server_time
from zapq.engine.valkey.cluster import Topology
from zapq.engine.valkey.codec import Codec, Waiting
from zapq.engine.valkey.connection import Login, Server
from zapq.engine.valkey.fleet import Fleet
from zapq.engine.valkey.keys import shard_of as find_shard
from zapq.engine.valkey.lines import Line, Lines
from zapq.engine.valkey.master import durability_said
from zapq.engine.valkey.offers import Offers
from zapq.engine.valkey.snapshots import EngineSnapshots
from zapq.engine.valkey.tasks import Tasks
from zapq.engine.wire import Figures
from zapq.errors import Draining, NoTestClock, NotWithEngine, ZapqError
from zapq.limits import (
    ENGINE_FINISH_SECONDS,
    ENGINE_OPERATION_BYTES,
    ENGINE_WAITING_BYTES,
    ENGINE_WAITING_OTHERS_BYTES,
    MIB,
    STATS_SECONDS,
)
from zapq.service.engine_stats import EngineStats
from zapq.service.operations import (
    Advance,
    ChangeSettings,
    Configure,
    Delete,
    DeleteMessage,
    Describe,
    Drain,
    Enqueue,
    Find,
    Hide,
    History,
    List,
    ListPage,
    ListSnapshots,
    Load,
    Look,
    Nothing,
    Operation,
    Peek,
    Purge,
    Put,
    Ready,
    Recall,
    Redrive,
    Remember,
    Remove,
    Save,
    SetPaused,
    Settle,
    SettleOne,
    Stats,
    Take,
)
from zapq.service.paging import Page, page_of, wanted
from zapq.service.pending import Pending
from zapq.service.queue_state import QueueInfo
from zapq.service.service_stats import ServiceStats
from zapq.service.waiting import Deliveries, Lender
from zapq.store.snapshot import SnapshotStore


@lru_cache(4096)
def _place_of(queue: str, effect: str) -> tuple[int, Key]:
    """Return the shard of a queue, and the key under which such operations gather. Raises `InvalidParameter`."""
    return find_shard(check_name(queue)), (queue, effect)


_LIGHT: frozenset[type[Any]] = frozenset({Enqueue, SettleOne})
"""Operations that are about one message."""
_VARIED = frozenset({"look", "set", "again"})
"""Kinds of effect whose operations on one queue are not all alike."""
_PROBE, _CALL = "probe", "call"
_READY = 0.5
"""The part of the shards that must be reachable for the front end to be ready. Were it all of them, the failure of
one server of many would take every front end out of service, and with them the queues that are well."""


def _are_light(operations: Sequence[Any]) -> bool:
    """Whether operations that are alike weigh 1 each, by `weight_of`: so a batch of them is one call."""
    kinds = set(map(type, operations))
    return kinds <= _LIGHT or (kinds == {Take} and 0 not in [each.want.visibility for each in operations])


def _refuse_history(asked: History, now: float) -> None:
    raise NotWithEngine(
        "The queues of this server are in an engine elsewhere, and no samples are taken of them. Have Prometheus"
        " scrape /metrics/prometheus instead."
    )


def _refuse_advance(asked: Advance, now: float) -> None:
    raise NoTestClock


class ValkeyQueue:
    """A queue of the engine, as the lender of messages."""

    __slots__ = ("_engine", "name")

    def __init__(self, engine: ValkeyEngine, name: str) -> None:
        self._engine = engine
        self.name = name

    def return_undelivered(self, given: Deliveries) -> None:
        """Put messages that could not be handed over at their original places, soon."""
        self._engine.give_back(self.name, given)

    def note_uncertain_delivery(self, number: int) -> None:
        """Count messages whose bytes may or may not have reached a client that vanished."""
        self._engine.note_uncertain(self.name, number)


class ValkeyEngine(Elsewhere):
    """The queues in Valkey, asked by values; `run` must run as long as it is used."""

    def __init__(
        self,
        topology: Topology,
        seeds: Sequence[Server],
        login: Login,
        *,
        front_end: str,
        durability: str,
        max_messages: int,
        max_bytes: int,
        max_queues: int,
        max_message_bytes: int,
        max_waiters: int,
        max_body_bytes: int,
        max_waiting_bytes: int,
        open_store: Callable[[], SnapshotStore],
    ) -> None:
        """`front_end` tells it from all others, in hexadecimal digits. `durability` is a key of `master.WAITS`.

        `max_body_bytes` is the room for messages that are being received, `max_waiting_bytes` for those that wait
        for room in their queues. `open_store` returns the snapshots of this front end's data directory.
        """
        super().__init__(max_body_bytes)
        self.figures_of_others: Callable[[], Pending[Figures]] | None = None
        """Asks what all other front ends of the same server have counted, if there are any."""
        self.max_messages, self.max_bytes = max_messages, max_bytes
        self._max_message_bytes = max_message_bytes
        self.durability = said = durability_said(durability)
        """What an accepted message survives."""
        self.codec = Codec(
            front_end=front_end,
            caps=Caps(max_messages, max_bytes, max_queues),
            max_message_bytes=max_message_bytes,
            lender=self._lender,
            durability=None if said == "memory" else said,
        )
        self.fleet = Fleet(
            topology,
            seeds,
            login,
            durability=durability,
            front_end=front_end,
            calls=self._calls,
            note_reply=self._note_reply,
            on_heard=lambda shard: self.lines.note_heard(shard),
            on_hint=self._take_hint,
        )
        self.lines = Lines(
            max_waiters,
            ask=self._probe,
            leave=self._leave,
            hear=self.fleet.hear,
            others=lambda: len(self.offers),
        )
        self.tasks = Tasks(self.send)
        self.offers = Offers(
            self._put_now, self.tasks, most_bytes=max_waiting_bytes, is_crowded=lambda: self.lines.is_crowded
        )
        self.snapshots = EngineSnapshots(open_store, self.codec, self.tasks, self.fleet, self.check_open)
        self._queues: dict[str, ValkeyQueue] = {}
        self._summed_up = trio.Event()
        """Set unless the engine is being asked what its queues hold."""
        self._summed_up.set()
        self.how: dict[type[Any], Callable[[Any, float], Any]] = {
            Put: self._put,
            Enqueue: self._enqueue,
            Take: self._take,
            Settle: partial(self._ask, "settle"),
            SettleOne: partial(self._ask, "settle"),
            Remove: partial(self._ask, "again"),
            Hide: partial(self._ask, "again"),
            Remember: self._proceed,
            Recall: self._proceed,
            Peek: partial(self._ask, "look"),
            Find: partial(self._ask, "look"),
            Describe: self._describe,
            Look: lambda asked, now: self._ask("look", Describe(asked.queue), now),
            DeleteMessage: partial(self._ask, "again"),
            SetPaused: partial(self._ask, "set"),
            Purge: partial(self._ask, "set"),
            Configure: self._proceed,
            ChangeSettings: self._proceed,
            Delete: self._proceed,
            Redrive: self._proceed,
            List: self._list,
            ListPage: self._list_page,
            History: _refuse_history,
            Stats: self._stats,
            Drain: lambda asked, now: self.drain(),
            Advance: _refuse_advance,
            Ready: self._check_ready,
            Save: lambda asked, now: self.tasks.start(partial(self.snapshots.save, asked.file)),
            Load: lambda asked, now: self.tasks.start(partial(self.snapshots.load, asked.file)),
            ListSnapshots: lambda asked, now: self.tasks.start(self.snapshots.files),
        }

    def perform(self, operation: Operation, now: float) -> Any:
        """Have the engine do what is asked; return the outcome, or what it will be. No checkpoint."""
        return self.how[operation.__class__](operation, now)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the servers connected, and see to outcomes while no lobby does, until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.fleet.run)
            await nursery.start(self.tasks.run)
            nursery.start_soon(self.lines.run)
            nursery.start_soon(self._read)
            task_status.started()

    async def finish(self) -> None:
        """Return once all that was asked for is done, or after a while: what goes back must have gone."""
        with trio.move_on_after(ENGINE_FINISH_SECONDS):
            # Once, at the end: that is not worth an event for each batch.
            while any(station.master.busy for station in self.fleet.stations):  # noqa: ASYNC110 (said above)
                await trio.sleep(0.005)

    async def give_up_at(self, deadline: float) -> None:
        """Wait for the engine no longer than until `deadline`; the tasks that do are told that it does not answer.

        A wait for what may have happened is shielded, so cancelling would not do.
        """
        await trio.sleep_until(deadline)
        self.fleet.give_up()

    def figures(self) -> tuple[Figures, Figures]:
        """Return what we have counted that only grows, and what there is now, by the names of the metrics."""
        lines, fleet = self.lines, self.fleet
        return (
            {
                "dequeues_empty": lines.empty + fleet.dequeues_empty,
                "delivery_uncertain": fleet.delivery_uncertain,
            },
            {"waiting": lines.number, "bodies_bytes": self._room.used},
        )

    def fileno(self) -> int:
        """Return the descriptor that is readable when outcomes have arrived."""
        return self.fleet.poller.fileno()

    def answer(self) -> None:
        """Have done all that has an outcome by now."""
        self.fleet.poller.poll()
        self._flush()

    def check_open(self) -> None:
        """Raise `Draining` if this front end takes no new messages."""
        self.lines.check_open()

    def drain(self) -> None:
        """Refuse new messages here from now on, and answer all that wait here."""
        self.lines.drain()
        self.offers.drain()

    def nothing(self, queue: str) -> Nothing:
        """Say why a consumer that has left its line gets nothing. Raises `Draining`."""
        return self.lines.nothing(queue)

    def send(self, call: Call) -> Asked:
        """Have one call of a function made, as part of the next batch."""
        size = sum(map(len, call.command(b"")))
        asked = Asked(call, call.shard, size, trio.current_time(), repeatable=call.repeatable)
        self.fleet.add((call.queue, _CALL), asked)
        self._schedule()
        return asked

    def give_back(self, queue: str, given: Deliveries) -> None:
        """Put messages at their original places, soon."""
        self.send(self.codec.give_back(queue, given, trio.current_time()))

    def note_uncertain(self, queue: str, number: int) -> None:
        """Count messages that a client may or may not have got."""
        self.send(self.codec.note_uncertain(queue, number))

    def _enqueue(self, operation: Enqueue, now: float) -> Pending[Any]:
        # As `_ask`, for the commonest operation: that is done for each message.
        if self.lines.draining:
            raise Draining
        size = len(operation.body)
        if size > self._max_message_bytes:
            self.codec.check(operation)
        properties = operation.properties
        if operation.queue in self.offers.lines:
            return self.offers.join(operation.as_put(), 0.0, now)
        if properties.headers:
            size += properties.size
        shard, key = _place_of(operation.queue, "put")
        asked = Asked(operation, shard, size + ENGINE_OPERATION_BYTES, now, repeatable=False)
        self._add(key, asked)
        return asked

    def _put(self, asked: Put, now: float) -> Pending[Any]:
        reserved = asked.reserved
        if reserved is not None:
            reserved.release()
        if self.lines.draining and not asked.exempt_from_drain:
            raise Draining
        waits = asked.terms.wait > 0
        # One with a key may be a repetition, which needs no room.
        if not self.lines.draining and (waits or (asked.queue in self.offers.lines and not asked.key)):
            self.codec.check(asked)
            return self.offers.join(asked, asked.terms.wait, now)
        return self._ask("put", asked, now)

    def _put_now(self, operation: Put, now: float) -> Asked:
        return self._ask("put", operation, now)

    def _take(self, asked: Take, now: float) -> Pending[Any]:
        if asked.wait:
            self.codec.check(asked)
            return self.lines.join(asked, now)
        return self._ask("take", asked, now)

    def _describe(self, asked: Describe, now: float) -> Pending[Any]:
        async def describe() -> QueueInfo:
            return self._with_waiters(await self.tasks.outcome(self._ask("look", asked, now)))

        return self.tasks.start(describe)

    def _ask(self, effect: str, operation: Any, now: float) -> Asked:
        shard, key = _place_of(operation.queue, effect)
        repeatable = PLAIN.get(operation.__class__)
        if repeatable is None:
            self.codec.check(operation)
            asked = Asked(operation, shard, size_of(operation), now, repeatable=may_repeat(operation))
        else:
            asked = Asked(operation, shard, ENGINE_OPERATION_BYTES, now, repeatable=repeatable)
        self._add(key, asked)
        return asked

    def _add(self, key: Key, asked: Asked) -> None:
        """Let a client's operation be part of the next batch. Raises `StorageUnavailable` if too much waits."""
        fleet = self.fleet
        owner = fleet.owners[asked.shard]
        if owner is None:
            fleet.add(key, asked)
        else:
            gathering = owner.gathering
            if gathering.bytes > MIB:
                others = 0 if key[1] == "put" else ENGINE_WAITING_OTHERS_BYTES
                if fleet.waiting_bytes + asked.size > ENGINE_WAITING_BYTES + others:
                    raise unavailable("it does not keep up")
            gathering.add(key, asked)
        if not self._corked:
            self._schedule()

    def _probe(self, line: Line, operation: Take) -> Asked:
        asked = Asked(operation, line.shard, size_of(operation), trio.current_time(), repeatable=False)
        self.fleet.add((line.queue, _PROBE), asked)
        self._schedule()
        return asked

    def _leave(self, queue: str) -> None:
        self.send(self.codec.leave(queue))

    def _calls(self, key: Key, asked: Sequence[Asked]) -> list[tuple[Call, Sequence[Asked]]]:
        """Return the calls that do what was asked, in order: neighbours that are alike are merged."""
        queue, effect = key[:2]
        if effect == _CALL:
            return [(each.operation, (each,)) for each in asked]
        waiting = None
        if effect == _PROBE:
            line = self.lines.line(queue)
            if line is not None and line.heard:
                waiting = Waiting(len(line.waiters), line.since)
        run_of, varied = self.codec.run_of, effect in _VARIED
        run = run_of(asked[0].operation)
        now = trio.current_time()
        if not varied and _are_light([each.operation for each in asked]):
            return [self._call(asked, now, waiting)]
        calls: list[tuple[Call, Sequence[Asked]]] = []
        begin = weight = 0
        for at, each in enumerate(asked):
            operation = each.operation
            mine = weight_of(operation)
            other = run_of(operation) if varied else run
            if other != run or (weight and weight + mine > MAX_WEIGHT):
                calls.append(self._call(asked[begin:at], now, waiting))
                begin, weight, run = at, 0, other
            weight += mine
        calls.append(self._call(asked[begin:], now, waiting))
        return calls

    def _call(self, asked: Sequence[Asked], now: float, waiting: Waiting | None) -> tuple[Call, Sequence[Asked]]:
        return self.codec.call([each.operation for each in asked], now, waiting), asked

    def _note_reply(self, call: Call, reply: Any) -> None:
        queue = call.queue
        if not queue:
            return
        line = self.lines.line(queue)
        if line is not None and line.under_way:
            self.lines.note_joined(line, server_time(reply))
        if queue in self.offers.lines and call.may_make_room:
            self.offers.wake(queue)
        if outbox_waits(reply):
            self.tasks.take_care(queue, procedures.flush_outbox(self.codec, queue))

    def _take_hint(self, kind: bytes, queue: str) -> None:
        if kind == b"-":
            self.lines.note_deleted(queue)
        else:
            self.lines.wake(queue)

    def _proceed(self, asked: Any, now: float) -> Pending[Any]:
        self.codec.check(asked)

        async def proceed() -> Any:
            outcome = await self.tasks.proceed(procedures.of(self.codec, asked))
            if isinstance(outcome, QueueInfo):
                return self._with_waiters(outcome)
            if isinstance(outcome, tuple) and isinstance(outcome[-1], QueueInfo):
                return outcome[0], self._with_waiters(outcome[-1])
            return outcome

        return self.tasks.start(proceed)

    def _list(self, asked: List, now: float) -> Pending[Any]:
        async def find() -> list[QueueInfo]:
            infos: list[QueueInfo] = await self.tasks.remembered(List, lambda: procedures.of(self.codec, List()))
            return [self._with_waiters(each) for each in infos if fnmatchcase(each.name, asked.pattern)]

        return self.tasks.start(find)

    def _list_page(self, asked: ListPage, now: float) -> Pending[Any]:
        async def find() -> Page:
            infos = {info.name: info for info in await self.tasks.outcome(self._list(List(asked.pattern), now))}
            return page_of((infos[name] for name in wanted(infos, asked)), asked)

        return self.tasks.start(find)

    def _stats(self, asked: Stats, now: float) -> Pending[Any]:
        async def count() -> ServiceStats:
            at, sums = await self._sums()
            others = {} if self.figures_of_others is None else await self.tasks.outcome(self.figures_of_others())
            return ServiceStats(
                queue=sums.stats,
                queues=sums.queues,
                max_messages=self.max_messages,
                max_bytes=self.max_bytes,
                dequeues_empty=self.lines.empty + self.fleet.dequeues_empty,
                waiting=self.lines.number,
                draining=self.lines.draining,
                delivery_uncertain=sums.uncertain + self.fleet.delivery_uncertain,
                oldest=sums.oldest,
                bytes_reserved=self._room.used,
                snapshots_written=self.snapshots.written,
                snapshots_failed=self.snapshots.failed,
                elsewhere=others,
                engine=self._engine_stats(trio.current_time() - at),
            )

        return self.tasks.start(count)

    async def _sums(self) -> tuple[float, procedures.Sums]:
        """Return what all queues hold, or last held if the engine does not say, and when it was asked."""
        if self.tasks.last(Stats) is None:
            await self._sum_up()
        else:
            if self._summed_up.is_set():
                self._summed_up = trio.Event()
                self.tasks.start(self._sum_up_again)
            # Not cancelled then: very many queues may take longer.
            with trio.move_on_after(STATS_SECONDS if self.fleet.reachable else 0):
                await self._summed_up.wait()
        found = self.tasks.last(Stats)
        assert found is not None
        return found

    async def _sum_up_again(self) -> None:
        try:
            with suppress(ZapqError):
                await self._sum_up()
        finally:
            self._summed_up.set()

    async def _sum_up(self) -> None:
        await self.tasks.remembered(Stats, lambda: procedures.of(self.codec, Stats()))

    def _engine_stats(self, age: float) -> EngineStats:
        fleet, counts = self.fleet, self.fleet.counts
        return EngineStats(
            servers=",".join(map(str, fleet.servers)),
            durability=durability_said(fleet.durability),
            masters=len(fleet.servers),
            reachable=fleet.reachable,
            round_trips=counts.round_trips,
            calls=counts.calls,
            operations=counts.operations,
            wait_seconds=counts.wait_seconds,
            refusals=counts.refusals,
            reconnects=counts.reconnects,
            outcomes_unknown=counts.outcomes_unknown,
            figures_age=age,
        )

    def _check_ready(self, asked: Ready, now: float) -> None:
        self.check_open()
        if self.fleet.reachable < _READY:
            problems = [f"{each.master.server}: {each.master.problem}" for each in self.fleet.stations]
            raise unavailable("; ".join(problems) or "none of its servers is known")

    def _with_waiters(self, info: QueueInfo) -> QueueInfo:
        return msgspec.structs.replace(info, waiting=self.lines.waiting(info.name))

    def _lender(self, name: str) -> Lender:
        queue = self._queues.get(name)
        if queue is None:
            # There may be very many names over time; those in use are made again.
            if len(self._queues) > 10_000:
                self._queues.clear()
            queue = self._queues[name] = ValkeyQueue(self, name)
        return queue

    def _send_gathered(self) -> None:
        self.fleet.flush()
