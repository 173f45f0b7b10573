"""The engine of a front end: the queues are in another process, and everything that is asked travels there.

All that is asked in one turn is one batch, and one batch is under way. While the other process works at it, the
next one gathers, so the batches grow with the load by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any

import msgspec
import trio

from zapq.core.message import DEFAULTS, Lease, Message, Properties
from zapq.engine import wire
from zapq.engine.channel import Channel, ChannelClosed
from zapq.engine.elsewhere import Elsewhere
from zapq.engine.wire import Ask, Figures, Tell
from zapq.errors import ClientGone, Draining, NoAnswer
from zapq.limits import FRAME_PATIENCE, HEARD_SECONDS
from zapq.service.operations import (
    Accepted,
    ChangeSettings,
    Configure,
    Delete,
    Delivery,
    Enqueue,
    List,
    ListPage,
    ListSnapshots,
    Load,
    Nothing,
    Operation,
    Purge,
    Put,
    Redrive,
    Save,
    SetPaused,
    Settle,
    SettleOne,
    Take,
)
from zapq.service.pending import Told, give_back
from zapq.service.waiting import Deliveries

_PATIENT = frozenset({
    ChangeSettings,
    Configure,
    Delete,
    List,
    ListPage,
    ListSnapshots,
    Load,
    Purge,
    Redrive,
    Save,
    SetPaused,
})
"""Operations that may take long."""


class Asked(Told[Any]):
    """An operation that travels and takes no longer than that, and what comes of it."""

    __slots__ = ("abandoned", "operation")

    def __init__(self, operation: Operation) -> None:
        # Not by `super`: this is done for each request.
        self._done = self.abandoned = False
        self._call: Callable[[], object] | None = None
        self.operation = operation
        self._outcome = self._error = None

    def complete(self, outcome: object) -> None:
        """Let this be the outcome."""
        if self.abandoned:
            give_back(outcome)
        self._outcome = outcome
        self._done = True
        call = self._call
        if call is not None:
            self._call = None
            call()

    def fail(self, error: Exception) -> None:
        """Let this be what refuses it."""
        self._error = None if self.abandoned else error
        self.finish()

    def withdraw(self) -> bool:
        """Undo the request, and return whether it is known already that nothing has happened."""
        if isinstance(self.operation, Take):
            self.abandon()  # what it is given goes back to its place
            return True
        return False

    def _give_up(self) -> None:
        if self._done:
            give_back(self._outcome)
            return
        self.abandoned = True


class Patient(Asked):
    """An operation that travels, and may take long: the other process can be told that its client has left."""

    __slots__ = ("_engine", "_number", "withdrawn")

    patient = True

    def __init__(self, operation: Operation, engine: RemoteEngine, number: int) -> None:
        super().__init__(operation)
        self._engine = engine
        self._number = number
        self.withdrawn = False

    def fail(self, error: Exception) -> None:
        """Let this be what refuses it."""
        self.withdrawn = isinstance(error, ClientGone)
        super().fail(error)

    def withdraw(self) -> bool:
        """Undo the request, and return whether it is known already that nothing has happened."""
        if super().withdraw():
            return True
        if not self._done:
            # The other process tells what has become of it.
            self._engine.give_up(self._number)
        return False

    def _give_up(self) -> None:
        super()._give_up()
        if not self._done:
            self._engine.give_up(self._number)


class RemoteQueue:
    """A queue of the other process, as the lender of messages."""

    __slots__ = ("_engine", "name", "tag")

    def __init__(self, engine: RemoteEngine, name: str, tag: str) -> None:
        self._engine = engine
        self.name = name
        self.tag = tag

    def return_undelivered(self, given: Deliveries) -> None:
        """Put messages that could not be handed over at their original places, soon."""
        leases = [each for each in given if isinstance(each, Lease)]
        messages = [wire.pack_message(each) for each in given if isinstance(each, Message)]
        if leases:
            common = leases[0].tag, leases[0].visibility  # they were given at once
            self._engine.tell(Ask.RETURN_LEASES, self.name, [wire.pack_lease(each) for each in leases], common)
        if messages:
            self._engine.tell(Ask.RETURN_MESSAGES, self.name, messages, self.tag)

    def note_uncertain_delivery(self, number: int) -> None:
        """Count messages whose bytes may or may not have reached a client that vanished."""
        self._engine.tell(Ask.UNCERTAIN, self.name, [number])


class RemoteEngine(Elsewhere):
    """The queues of another process, asked by values; `run` must run as long as it is used."""

    def __init__(
        self,
        channel: Channel,
        *,
        max_body_bytes: int,
        counts: Callable[[], tuple[Figures, Figures]],
        on_order: Callable[[int, float], object],
    ) -> None:
        """`max_body_bytes` is the room for messages that are being received.

        `counts` tells what we have counted that only grows, and what there is now. `on_order` is called when the
        other process has an `Order`.
        """
        super().__init__(max_body_bytes)
        self._channel = channel
        self._counts = counts
        self._on_order = on_order
        self._columns: list[tuple[int, Any, Any, list[Any]]] = []
        """What gathers for the next batch."""
        self._last: tuple[object, ...] = ()
        """What the elements of the last of them have in common."""
        self._elements: list[Any] = []
        self._pending: dict[int, Asked] = {}
        self._asked = 0
        self._under_way = 0
        """Batches without a reply."""
        self._heard = self._said = 0
        """The last frame of outcomes that arrived, and the last of which the other process knows that it did."""
        self._draining = False
        self._queues: dict[str, RemoteQueue] = {}
        self.how: dict[type[Any], Callable[[Any, float], Any]] = {
            kind: partial(self._ask, kind in _PATIENT) for kind in wire.KINDS.values()
        }
        self.how |= {Enqueue: self._enqueue, Take: self._take, SettleOne: self._settle_one, Put: self._put}

    def perform(self, operation: Operation, now: float) -> Any:
        """Have the other process do what is asked; return what its outcome will be. No checkpoint."""
        return self.how[operation.__class__](operation, now)

    async def run(self) -> None:
        """See to what the socket does not take at once, and to outcomes while no lobby does.

        Raises `ChannelClosed` if the other process is no more: what becomes of that which was asked is not known.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read)
                nursery.start_soon(self._write)
                nursery.start_soon(self._say_what_was_heard)
        finally:
            pending, self._pending = self._pending, {}
            for each in pending.values():
                each.fail(NoAnswer())

    def fileno(self) -> int:
        """Return the descriptor that is readable when outcomes have arrived."""
        return self._channel.sock.fileno()

    def answer(self) -> None:
        """Have done all that has an outcome by now. Raises `ChannelClosed`."""
        for frame in self._channel.receive(FRAME_PATIENCE):
            number, is_reply, self._draining, columns = wire.Outcomes.decode(frame)
            self._under_way -= is_reply
            self._heard = number
            for kind, first, common, elements in columns:
                self._complete(kind, first, common, elements)
        self._flush()

    def check_open(self) -> None:
        """Raise `Draining` if new messages were refused when we last heard."""
        if self._draining:
            raise Draining

    def drain(self) -> None:
        """Refuse new messages here from now on. The process that has the queues stops with all its front ends."""
        self._draining = True

    def close(self) -> None:
        """Say the last there is to say: which deliveries were handed on, and what goes back."""
        self._send()

    def nothing(self, queue: str) -> Nothing:
        """Say why a consumer that has left its line gets nothing. Raises `Draining`."""
        self.check_open()
        return Nothing("empty", inf)

    def say_ready(self) -> None:
        """Tell the other process that clients are accepted now."""
        self.tell(Ask.READY, None, ())

    def give_up(self, number: int) -> None:
        """Tell the other process that the client has left."""
        self.tell(Ask.GIVE_UP, None, [number])

    def tell(self, kind: Ask, queue: str | None, elements: Sequence[Any], common: object = None) -> None:
        """Have something told that has no outcome."""
        self._columns.append((kind, queue, common, list(elements)))
        self._last = ()
        self._schedule()

    def _enqueue(self, asked: Enqueue, now: float) -> Asked:
        common = (Ask.ENQUEUE, asked.queue, asked.properties, asked.delay)
        if common != self._last:
            self._begin_column(common, _terms(asked.properties, asked.delay))
        self._elements.append(asked.body)
        return self._expect(asked)

    def _take(self, asked: Take, now: float) -> Asked:
        want = asked.want
        common = (Ask.TAKE, asked.queue, want, asked.wait)
        if common != self._last:
            self._begin_column(common, (want.limit, want.lease, want.visibility, asked.wait))
            self._elements.append(0)
        self._elements[0] += 1
        return self._expect(asked, asked.wait > 0)

    def _settle_one(self, asked: SettleOne, now: float) -> Asked:
        if asked.settlement.action != "ack":
            return self._ask(False, asked, now)
        common = (Ask.ACK, asked.queue)
        if common != self._last:
            self._begin_column(common, None)
        self._elements.append(asked.settlement.receipt)
        return self._expect(asked)

    def _put(self, asked: Put, now: float) -> Asked:
        reserved = asked.reserved
        if reserved is not None:
            reserved.release()
        content: object = asked.content
        if asked.packed:
            content = ()  # it is in there
        return self._ask(asked.terms.wait > 0, msgspec.structs.replace(asked, content=content, reserved=None), now)

    def _ask(self, patient: bool, asked: Operation, now: float) -> Asked:
        common = (Ask.OTHER, type(asked).__name__)
        if common != self._last:
            self._begin_column(common, None)
        self._elements.append(asked)
        return self._expect(asked, patient)

    def _begin_column(self, common: tuple[Any, ...], more: object) -> None:
        self._last, self._elements = common, []
        self._columns.append((common[0], common[1], more, self._elements))

    def _expect(self, asked: Operation, patient: bool = False) -> Asked:
        self._asked = number = self._asked + 1
        pending = self._pending[number] = Patient(asked, self, number) if patient else Asked(asked)
        if not self._corked:
            self._schedule()
        return pending

    def _send_gathered(self) -> None:
        if self._columns and not self._under_way:
            # Trio itself may call this, and an error there ends the program. `answer` raises the same in a task.
            with suppress(ChannelClosed):
                self._send()

    def _send(self) -> None:
        columns, self._columns, self._last = self._columns, [], ()
        self._under_way += 1
        self._said = self._heard
        self._channel.send(wire.encode((self._said, columns)))
        if self._channel.stuck:
            self._changed.set()

    def _complete(self, kind: int, first: int, common: Any, elements: Sequence[Any]) -> None:
        pop = self._pending.pop
        if kind == Tell.ACCEPTED:
            for number, id in enumerate(elements, first):
                pop(number).complete(Accepted(id, False, common))
        elif kind == Tell.SETTLED:
            for number in range(first, first + elements[0]):
                pop(number).complete(None)
        elif kind == Tell.MESSAGE:
            queue = self._queue(*common)
            for number, packed in enumerate(elements, first):
                pop(number).complete(Delivery(queue, (wire.unpack_message(packed),)))
        elif kind == Tell.LEASE:
            queue = self._queue(common[0], common[1])
            for number, packed in enumerate(elements, first):
                pop(number).complete(Delivery(queue, (wire.unpack_lease(packed, common),)))
        elif kind == Tell.ORDER:
            self._on_order(common, elements[0])
        elif kind == Tell.COUNTS:
            self._columns.append((Ask.COUNTS, None, None, [self._counts()]))
            self._last = ()
            self._send()
        else:
            for number, packed in enumerate(elements, first):
                self._complete_one(pop(number), kind, common, packed)

    def _complete_one(self, asked: Asked, kind: int, common: Any, packed: Any) -> None:
        if kind == Tell.REFUSED:
            asked.fail(wire.unpack_error(packed))
        elif kind == Tell.NOTHING:
            asked.complete(Nothing(*packed))
        elif kind == Tell.BATCH:
            queue, tag, visibility = common
            given: Deliveries
            if visibility is None:
                given = wire.unpack_taken(packed)
            else:
                given = [wire.unpack_lease(each, common) for each in packed]
            asked.complete(Delivery(self._queue(queue, tag), given))
        elif isinstance(asked.operation, Settle):
            asked.complete(wire.unpack_settled(packed))
        else:
            outcome = wire.OUTCOMES.get(type(asked.operation))
            asked.complete(None if outcome is None else msgspec.convert(packed, outcome))

    def _queue(self, name: str, tag: str) -> RemoteQueue:
        queue = self._queues.get(tag)
        if queue is None:
            # There may be very many over time; those in use are made again.
            if len(self._queues) > 10_000:
                self._queues.clear()
            queue = self._queues[tag] = RemoteQueue(self, name, tag)
        return queue

    async def _write(self) -> None:
        while True:
            if not self._channel.stuck:
                await self._wait_for_change()
                continue
            await trio.lowlevel.wait_writable(self._channel.sock)
            self._channel.flush()

    async def _say_what_was_heard(self) -> None:
        """Let the other process know, at the latest after a moment, that deliveries were handed on."""
        while True:
            await trio.sleep(HEARD_SECONDS)
            if self._said < self._heard and not (self._columns or self._under_way):
                self._said = self._heard
                self._channel.send(wire.encode((self._said, ())))


def _terms(properties: Properties, delay: float) -> tuple[Any, ...] | None:
    if properties is DEFAULTS and not delay:
        return None
    return wire.pack_properties(properties), delay
