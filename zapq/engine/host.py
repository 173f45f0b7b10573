"""The other side of `RemoteEngine`: does what one front end asks, in the process that has the queues.

A front end that dies loses nothing that is leased. What it was given for good, and has not said a word about, is
counted as uncertain; what waits for its clients is given up, so that messages on their way to them go back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import msgspec
import trio

from zapq import logs
from zapq.core.message import DEFAULTS, Draft, Lease
from zapq.core.runs import Taken
from zapq.engine import wire
from zapq.engine.channel import Channel
from zapq.engine.hub import FrontEnd, Hub
from zapq.engine.local import LocalEngine
from zapq.engine.wire import Ask, Figures, Tell
from zapq.errors import ClientGone, ZapqError
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


class Host(FrontEnd):
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
        super().__init__(channel, hub, on_ready)
        self._service = service
        self._how = engine.how
        self._asked = 0
        """Operations so far."""
        self._pending: dict[int, Pending[Any]] = {}
        self._common: tuple[Any, ...] = ()
        """The kind of the last column that gathers, and what its elements have in common."""
        self._next = 0
        """The number of the outcome that would continue it."""
        self._in_batch = False
        self._given: list[Delivery] = []
        """Those in the frame that gathers."""
        self._unheard: deque[tuple[int, list[Delivery]]] = deque()
        """Those in frames the front end may not have dealt with yet, by the numbers of the frames."""
        self._lenders: WeakValueDictionary[str, QueueState] = WeakValueDictionary()
        """The queues that have given it messages, by their tags."""

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
            for element in elements:
                self._asked += 1
                sums = msgspec.convert(element, Stats).sums
                self._hub.gather(self, partial(self._tell_stats, self._asked, sums))
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

    def _tell_stats(self, number: int, sums: bool, elsewhere: Figures) -> None:
        self._add(number, replace(self._service.stats(sums=sums), elsewhere=elsewhere), Tell.OTHER)
        self._schedule()

    _DO: ClassVar[dict[int, Callable[..., None]]] = {
        **FrontEnd._DO,
        Ask.ENQUEUE: _enqueue,
        Ask.TAKE: _take,
        Ask.ACK: _ack,
        Ask.OTHER: _other,
        Ask.GIVE_UP: _give_up,
        Ask.RETURN_MESSAGES: _return_messages,
        Ask.RETURN_LEASES: _return_leases,
        Ask.UNCERTAIN: _note_uncertain,
    }

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
            self._tell_outcome(number, operation, outcome)

    def _on_done(self, number: int, operation: Any) -> None:
        pending = self._pending.pop(number, None)
        if pending is None:
            return
        try:
            outcome = pending.result()
        except Exception as error:
            self._refuse(number, error)
        else:
            self._tell_outcome(number, operation, outcome)
        self._schedule()

    def _tell_outcome(self, number: int, operation: Any, outcome: Any) -> None:
        kind = outcome.__class__
        if kind is Accepted and not (outcome.replayed or outcome.unique or outcome.placed):
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

    def _tell(self, kind: Tell, common: object, elements: list[Any]) -> None:
        self._break()
        super()._tell(kind, common, elements)

    def _schedule(self) -> None:
        if not self._in_batch:
            super()._schedule()

    def _is_draining(self) -> bool:
        return self._service.draining

    def _send(self, *, is_reply: bool) -> bool:
        self._break()
        sent = super()._send(is_reply=is_reply)
        # What was given in a frame that could not be sent has not left.
        if sent and self._given:
            self._unheard.append((self._frames, self._given))
            self._given = []
        return sent

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
        super()._end()
