"""The other side of `RemoteEngine`: does what one front end asks, in the process that has the queues.

A front end that dies loses nothing that is leased. What it was given for good, and has not said a word about, is
counted as uncertain; what waits for its clients is given up, so that messages on their way to them go back.
"""

from __future__ import annotations

import selectors
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple
from weakref import WeakValueDictionary

import msgspec
import trio

from zapq import logs
from zapq.core.message import DEFAULTS, Draft, Lease
from zapq.core.runs import Taken
from zapq.engine import wire
from zapq.engine.channel import Channel, ChannelClosed
from zapq.engine.engine import Outcomes
from zapq.engine.local import LocalEngine
from zapq.engine.wire import Ask, Figures, Order, Tell
from zapq.errors import ClientGone, ZapqError
from zapq.limits import COUNTS_SECONDS, TURN_SECONDS
from zapq.service.operations import (
    Accepted,
    Delivery,
    Enqueue,
    Nothing,
    Put,
    Settle,
    Settlement,
    SettleOne,
    Stats,
    Take,
)
from zapq.service.pending import Pending, give_back
from zapq.service.queue_state import QueueState
from zapq.service.service import QueueService
from zapq.service.waiting import ONE, Deliveries, Want

_UNPACK = msgspec.msgpack.Decoder(list[bytes | Draft])


class Counted(NamedTuple):
    """What a front end has counted, by the names of the metrics."""

    grown: Mapping[str, int] = MappingProxyType({})
    """What only grows."""
    now: Mapping[str, int] = MappingProxyType({})
    """What there is now."""


class Hub:
    """All front ends of one service, heard by one task: `run` must run as long as there are any.

    As in the lobby, a task for each would spend more on being woken than on what a front end asks.
    """

    def __init__(self, engine: LocalEngine, ours: Callable[[], Figures]) -> None:
        """`ours` tells what there is now in this process."""
        self.hosts: set[Host] = set()
        self._engine = engine
        self._ours = ours
        self._gone: Figures = {}
        """What front ends had counted that are no more."""
        self._selector = selectors.DefaultSelector()
        self._due: list[Host] = []
        """Those that have something to tell."""
        self._in_turn = False
        self._token = trio.lowlevel.current_trio_token()

    async def run(self) -> None:
        """Hear all front ends until cancelled."""
        try:
            with self._engine.watched() as outcomes:
                if outcomes is not None:
                    self._selector.register(outcomes, selectors.EVENT_READ, outcomes)
                while True:
                    await trio.lowlevel.wait_readable(self._selector.fileno())
                    while ready := self._selector.select(0):
                        await self._hear([key.data for key, _ in ready])
        finally:
            self._selector.close()

    async def _hear(self, ready: list[Host | Outcomes]) -> None:
        """Have each dealt with once; other tasks have their turn after `TURN_SECONDS`, and at the end."""
        left = iter(ready)
        while True:
            until = time.perf_counter() + TURN_SECONDS
            self._in_turn = True
            with self._engine.turn():
                for each in left:
                    each.answer()
                    if time.perf_counter() > until:
                        break
                else:
                    ready = []
            self._in_turn = False
            self._send_due()
            await trio.lowlevel.checkpoint()
            if not ready:
                return

    def add(self, host: Host) -> None:
        """Hear this one from now on."""
        self.hosts.add(host)
        self._selector.register(host, selectors.EVENT_READ, host)

    def stop_hearing(self, host: Host) -> None:
        """Do not hear this one any more: its front end has closed its end."""
        # It may have been done before, or the hub have ended.
        with suppress(KeyError, ValueError, RuntimeError):
            self._selector.unregister(host)

    def send_soon(self, host: Host) -> None:
        """Have `host` send what it has to tell, once this turn is over."""
        if not (self._due or self._in_turn):
            self._token.run_sync_soon(self._send_due)
        self._due.append(host)

    def _send_due(self) -> None:
        due, self._due = self._due, []
        for host in due:
            host.send_if_due()

    def gather(self, asker: Host, call: Callable[[Figures], object]) -> None:
        """Call `call` with the sum of what all front ends but `asker` have counted, once they have said it.

        One that does not answer within `COUNTS_SECONDS` counts with what it said before.
        """
        others = self.hosts - {asker}
        waiting, called = len(others), False

        def note(number: int = 1) -> None:
            nonlocal waiting, called
            waiting -= number
            if waiting <= 0 and not called:
                called = True
                no_longer()
                call(self._sum(others))

        no_longer = asker.call_later(COUNTS_SECONDS, partial(note, len(others)))
        for each in others:
            each.ask_for_counts(note)
        note(0)

    def note_end(self, host: Host) -> None:
        """Keep what a front end has counted that is no more."""
        self.hosts.discard(host)
        self.stop_hearing(host)
        self._gone = _added(self._gone, host.counts.grown)

    def _sum(self, hosts: set[Host]) -> Figures:
        total = _added(self._gone, self._ours())
        for host in hosts & self.hosts:
            total = _added(_added(total, host.counts.grown), host.counts.now)
        return total


def _added(some: Mapping[str, int], others: Mapping[str, int]) -> Figures:
    return {name: some.get(name, 0) + others.get(name, 0) for name in some.keys() | others.keys()}


class Host:
    """Does what one front end asks over `channel`, until it ends."""

    def __init__(
        self,
        channel: Channel,
        engine: LocalEngine,
        service: QueueService,
        hub: Hub,
        on_ready: Callable[[], object] = int,
    ) -> None:
        """`on_ready` is called when the front end accepts clients."""
        self.counts = Counted()
        """What the front end has counted when it last said so."""
        self._hub = hub
        self._on_ready = on_ready
        self._on_counts: list[Callable[[], object]] = []
        self._channel = channel
        self._engine = engine
        self._service = service
        self._how = engine.how
        self._stuck = trio.Event()
        self._closed = trio.Event()
        self._asked = 0
        """Operations so far."""
        self._pending: dict[int, Pending[Any]] = {}
        self._columns: list[tuple[int, int, Any, list[Any]]] = []
        """What gathers for the next frame of outcomes."""
        self._common: tuple[Any, ...] = ()
        """The kind of the last of them, and what its elements have in common."""
        self._next = 0
        """The number of the outcome that would continue it."""
        self._due = False
        self._in_batch = False
        self._frames = 0
        self._given: list[Delivery] = []
        """Those in the frame that gathers."""
        self._unheard: deque[tuple[int, list[Delivery]]] = deque()
        """Those in frames the front end may not have dealt with yet, by the numbers of the frames."""
        self._lenders: WeakValueDictionary[str, QueueState] = WeakValueDictionary()
        """The queues that have given it messages, by their tags."""
        self._tasks: trio.Nursery | None = None

    async def run(self) -> None:
        """Serve until the front end closes its end, or dies; then give up what waits for its clients."""
        self._hub.add(self)
        try:
            async with trio.open_nursery() as nursery:
                self._tasks = nursery
                nursery.start_soon(self._write)
                await self._closed.wait()
                nursery.cancel_scope.cancel()
        except* ChannelClosed:
            pass
        finally:
            self._end()

    def fileno(self) -> int:
        """Return the descriptor that is readable when the front end has said something."""
        return self._channel.sock.fileno()

    def answer(self) -> None:
        """Do what the front end has asked by now."""
        try:
            for frame in self._channel.receive():
                self._take_in(frame)
        except ChannelClosed:
            self._hub.stop_hearing(self)
            self._closed.set()

    def greet(self, setup: object) -> None:
        """Send the front end what it has to know before all else."""
        self._channel.send(wire.encode(setup))

    def order(self, order: Order, value: float = 0.0) -> None:
        """Have the front end do something."""
        self._break()
        self._columns.append((Tell.ORDER, 0, order, [value]))
        self._schedule()

    def call_later(self, seconds: float, call: Callable[[], object]) -> Callable[[], object]:
        """Call `call` after so many seconds, unless the front end has ended or what is returned was called."""
        scope = trio.CancelScope()

        async def wait() -> None:
            with scope:
                await trio.sleep(seconds)
                call()

        if self._tasks is not None:
            self._tasks.start_soon(wait)
        return scope.cancel

    def ask_for_counts(self, call: Callable[[], object]) -> None:
        """Have `call` called once the front end has said what it has counted, or has ended."""
        self._on_counts.append(call)
        self._break()
        self._columns.append((Tell.COUNTS, 0, None, []))
        self._schedule()

    def _take_in(self, frame: bytes) -> None:
        heard, columns = wire.Requests.decode(frame)
        unheard = self._unheard
        while unheard and unheard[0][0] <= heard:
            unheard.popleft()
        if not columns:
            return
        now = trio.current_time()
        self._in_batch = True
        for kind, queue, common, elements in columns:
            self._DO[kind](self, queue, common, elements, now)
        self._in_batch = False
        self._send(is_reply=True)

    def _enqueue(self, queue: str, common: Any, bodies: list[bytes], now: float) -> None:
        properties, delay = (DEFAULTS, 0.0) if common is None else (wire.unpack_properties(common[0]), common[1])
        state = self._service.at_hand(queue)
        if state is None:
            for body in bodies:
                self._perform(Enqueue(queue, body, properties, delay), now)
            return
        store, first, ids = state.store_one, self._asked + 1, []
        for body in bodies:
            self._asked += 1
            try:
                ids.append(store(body, properties, delay, now).id)
            except Exception as error:
                self._tell_run(Tell.ACCEPTED, first, state.durability, ids)
                self._refuse(self._asked, error)
                first, ids = self._asked + 1, []
        self._tell_run(Tell.ACCEPTED, first, state.durability, ids)

    def _take(self, queue: str, common: Any, elements: list[int], now: float) -> None:
        limit, lease, visibility, wait = common
        [left] = elements
        state = self._service.at_hand(queue) if limit == 1 else None
        while state is not None and left:
            given = state.take_for_many(Want(left, lease, visibility), now)
            if not given:
                break
            self._tell_given(state, given)
            left -= len(given)
        want = ONE if limit == 1 and not lease else Want(limit, lease, visibility)
        operation = Take(queue, want, wait)
        for _ in range(left):
            self._perform(operation, now)

    def _tell_given(self, state: QueueState, given: Deliveries) -> None:
        """Tell as many operations, each of which is given one of these."""
        self._note_given(Delivery(state, given))
        first, self._asked = self._asked + 1, self._asked + len(given)
        if isinstance(given[0], Lease):
            leases: Sequence[Any] = given
            common = (given[0].queue, given[0].tag, given[0].visibility)
            self._tell_run(Tell.LEASE, first, common, wire.pack_leases(leases))
        else:
            messages: Sequence[Any] = given
            packed = [wire.pack_message(each) for each in messages]
            self._tell_run(Tell.MESSAGE, first, (state.name, state.tag), packed)

    def _ack(self, queue: str, common: Any, receipts: list[str], now: float) -> None:
        state = self._service.at_hand(queue)
        if state is None:
            for receipt in receipts:
                self._perform(SettleOne(queue, Settlement(receipt=receipt)), now)
            return
        ack, first = state.ack, self._asked + 1
        for receipt in receipts:
            self._asked += 1
            try:
                ack(receipt, now)
            except Exception as error:
                self._tell_run(Tell.SETTLED, first, None, [self._asked - first])
                self._refuse(self._asked, error)
                first = self._asked + 1
        self._tell_run(Tell.SETTLED, first, None, [self._asked + 1 - first])

    def _tell_run(self, kind: Tell, first: int, common: object, elements: list[Any]) -> None:
        """Tell what has come of operations that follow each other, if there are any."""
        if elements and elements != [0]:
            self._break()
            self._columns.append((kind, first, common, elements))

    def _other(self, name: str, common: Any, elements: list[Any], now: float) -> None:
        kind = wire.KINDS[name]
        if kind is Stats:
            for _ in elements:
                self._asked += 1
                self._hub.gather(self, partial(self._tell_stats, self._asked))
            return
        for element in elements:
            try:
                operation = msgspec.convert(element, kind)
                if kind is Put and operation.packed:
                    operation = msgspec.structs.replace(operation, content=_UNPACK.decode(operation.packed))
            except msgspec.ValidationError as error:
                self._asked += 1
                self._refuse(self._asked, error)
            else:
                self._perform(operation, now)

    def _give_up(self, queue: None, common: Any, numbers: list[int], now: float) -> None:
        for number in numbers:
            pending = self._pending.get(number)
            if pending is None:
                continue  # its outcome is on its way
            if not pending.withdraw():
                continue  # it has begun
            del self._pending[number]
            self._refuse(number, ClientGone())

    def _return_messages(self, queue: str, tag: str, messages: list[Any], now: float) -> None:
        lender = self._lenders.get(tag)
        if lender is not None:
            lender.return_undelivered([wire.unpack_message(each) for each in messages])

    def _return_leases(self, queue: str, common: Any, leases: list[Any], now: float) -> None:
        lender = self._lenders.get(common[0])
        if lender is not None:
            lender.return_undelivered([wire.unpack_lease(each, (queue, *common)) for each in leases])

    def _note_uncertain(self, queue: str, common: Any, numbers: list[int], now: float) -> None:
        self._service.note_uncertain_delivery(sum(numbers))

    def _take_counts(self, queue: None, common: Any, elements: list[Any], now: float) -> None:
        self.counts = Counted(*elements[0])
        self._tell_of_counts()

    def _note_ready(self, queue: None, common: Any, elements: list[Any], now: float) -> None:
        self._on_ready()

    def _tell_stats(self, number: int, elsewhere: Figures) -> None:
        self._add(number, replace(self._service.stats(), elsewhere=elsewhere), Tell.OTHER)
        self._schedule()

    _DO: ClassVar[dict[int, Callable[..., None]]] = {
        Ask.ENQUEUE: _enqueue,
        Ask.TAKE: _take,
        Ask.ACK: _ack,
        Ask.OTHER: _other,
        Ask.GIVE_UP: _give_up,
        Ask.RETURN_MESSAGES: _return_messages,
        Ask.RETURN_LEASES: _return_leases,
        Ask.UNCERTAIN: _note_uncertain,
        Ask.COUNTS: _take_counts,
        Ask.READY: _note_ready,
    }

    def _tell_of_counts(self) -> None:
        calls, self._on_counts = self._on_counts, []
        for call in calls:
            call()

    def _perform(self, operation: Any, now: float) -> None:
        self._asked += 1
        number = self._asked
        try:
            outcome = self._how[operation.__class__](operation, now)
        except Exception as error:
            self._refuse(number, error)
            return
        if isinstance(outcome, Pending):
            self._pending[number] = outcome
            outcome.when_done(partial(self._on_done, number, operation))
        else:
            self._tell(number, operation, outcome)

    def _on_done(self, number: int, operation: Any) -> None:
        pending = self._pending.pop(number, None)
        if pending is None:
            return
        try:
            outcome = pending.result()
        except Exception as error:
            self._refuse(number, error)
        else:
            self._tell(number, operation, outcome)
        self._schedule()

    def _tell(self, number: int, operation: Any, outcome: Any) -> None:
        kind = outcome.__class__
        if kind is Accepted and not outcome.replayed:
            self._add(number, outcome.id, Tell.ACCEPTED, outcome.durability)
        elif kind is Delivery:
            self._tell_delivery(number, outcome)
        elif kind is Nothing:
            self._add(number, (outcome.why, outcome.next_visible_in), Tell.NOTHING)
        elif outcome is None:
            if self._common == (Tell.SETTLED,) and number == self._next:
                self._columns[-1][3][0] += 1
                self._next += 1
            else:
                self._add(number, 1, Tell.SETTLED)
        elif isinstance(operation, Settle):
            self._add(number, wire.pack_settled(outcome), Tell.OTHER)
        else:
            self._add(number, outcome, Tell.OTHER)

    def _tell_delivery(self, number: int, delivery: Delivery) -> None:
        given, lender = delivery.given, self._note_given(delivery)
        first = given[0]
        if isinstance(first, Lease):
            if len(given) == 1:
                self._add(number, wire.pack_lease(first), Tell.LEASE, (first.queue, first.tag, first.visibility))
            else:
                common = (lender.name, first.tag, first.visibility)
                self._add(number, [wire.pack_lease(each) for each in given], Tell.BATCH, common)  # type: ignore[arg-type]
            return
        if isinstance(given, Taken):
            self._add(number, wire.pack_taken(given), Tell.BATCH, (lender.name, lender.tag, None))
        elif len(given) == 1:
            self._add(number, wire.pack_message(first), Tell.MESSAGE, (lender.name, lender.tag))
        else:
            messages: Sequence[Any] = given
            packed = [wire.pack_message(each) for each in messages]
            self._add(number, packed, Tell.BATCH, (lender.name, lender.tag, None))

    def _note_given(self, delivery: Delivery) -> QueueState:
        lender = delivery.queue
        assert isinstance(lender, QueueState)  # those of this process are
        self._given.append(delivery)
        if lender.tag not in self._lenders:
            self._lenders[lender.tag] = lender
        return lender

    def _refuse(self, number: int, error: Exception) -> None:
        if not isinstance(error, ZapqError):
            logs.log.error("request failed", exc_info=error)
            error = ZapqError("The server failed because of an error of its own.")
        self._add(number, wire.pack_error(error), Tell.REFUSED)

    def _add(self, number: int, element: object, *common: Any) -> None:
        if number == self._next and common == self._common:
            self._columns[-1][3].append(element)
        else:
            self._common = common
            self._columns.append((common[0], number, common[1] if len(common) > 1 else None, [element]))
        self._next = number + 1

    def _break(self) -> None:
        self._common = ()
        self._next = 0

    def _schedule(self) -> None:
        if not (self._in_batch or self._due):
            self._due = True
            self._hub.send_soon(self)

    def send_if_due(self) -> None:
        """Send what there is to tell, unless that has gone with something else."""
        if self._due and self._columns:
            self._send(is_reply=False)

    def _send(self, *, is_reply: bool) -> None:
        columns, self._columns = self._columns, []
        self._break()
        self._due = False
        self._frames += 1
        try:
            self._channel.send(wire.encode((self._frames, is_reply, self._service.draining, columns)))
        except ChannelClosed:
            return  # the reader sees it, too; what was given in this frame has not left
        if self._given:
            self._unheard.append((self._frames, self._given))
            self._given = []
        if self._channel.stuck:
            self._stuck.set()

    async def _write(self) -> None:
        while True:
            await self._stuck.wait()
            await trio.lowlevel.wait_writable(self._channel.sock)
            self._channel.flush()
            if not self._channel.stuck:
                self._stuck = trio.Event()

    def _end(self) -> None:
        """Give up what the front end's clients wait for, and count what may or may not have reached them."""
        pending, self._pending = self._pending, {}
        for each in pending.values():
            each.abandon()
        for delivery in self._given:
            give_back(delivery)
        for _, deliveries in self._unheard:
            for delivery in deliveries:
                if not isinstance(delivery.given[0], Lease):
                    delivery.queue.note_uncertain_delivery(len(delivery.given))
        self._given.clear()
        self._unheard.clear()
        self._hub.note_end(self)
        self._tell_of_counts()
