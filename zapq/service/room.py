"""The producers that wait for room: a line for each queue, and until when each of them waits.

A producer whose offer finds its queue or the server full may wait. All that frees room calls
`Dispatcher.note_room`. Then the timer looks at the lines, and stores what there is room for: in each line the
first offer first. A first offer there is no room for holds up its own line, and no other. While offers wait for
a queue, later ones for that queue do not overtake them. A client that leaves takes its offer out of the line;
nothing of it is stored.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import count, islice
from typing import Protocol

from zapq.core.broker import Broker
from zapq.core.deadlines import Deadlines
from zapq.core.queue_settings import QueueSettings
from zapq.errors import Draining, QueueFull
from zapq.limits import BYTES_PER_COST, DISMISSALS, MAX_WAITING_BYTES, TURN_COST, WAITING_MESSAGE_BYTES
from zapq.service.dispatch import Dispatcher
from zapq.service.operations import Accepted, Offer
from zapq.service.pending import Later, Pending
from zapq.service.queue_state import measured
from zapq.service.reservation import Budget

Putting = Callable[[float], Pending[Accepted] | Accepted]
"""Stores an offer at the time it is given, or raises what refuses it."""


class Storing(Protocol):
    """What the lines use of the service."""

    @property
    def broker(self) -> Broker: ...
    @property
    def dispatcher(self) -> Dispatcher: ...
    def take_step(self, step: Putting, now: float) -> Pending[Accepted] | Accepted: ...
    def let_wait_behind(self, name: str, refusal: Callable[[], QueueFull] | None) -> None: ...


class WaitingOffer(Later[Accepted]):
    """An offer that waits for room."""

    def __init__(self, room: Room, number: int, queue: str, put: Putting, offer: Offer, full: QueueFull) -> None:
        super().__init__()
        self._room = room
        self.number = number
        """It is before all those with a higher one."""
        self.queue = queue
        self.put = put
        self.full = full
        """How it would be refused if it did not wait."""
        self.messages, self.size = measured(offer)
        self.held = self.size + len(offer.packed) + self.messages * WAITING_MESSAGE_BYTES
        """Bytes of memory, about."""

    def _give_up(self) -> None:
        self._room.leave(self)
        super()._give_up()

    def withdraw(self) -> bool:
        """Leave the line, unless it was stored already; return whether that was so."""
        self._room.leave(self)
        return super().withdraw()


class Room:
    """The lines of one service. Every operation is synchronous."""

    def __init__(self, service: Storing) -> None:
        self._service = service
        self._lines: dict[str, OrderedDict[int, WaitingOffer]] = {}
        self._patience: Deadlines[WaitingOffer] = Deadlines()
        self._numbers = count(1)
        self._held = Budget(MAX_WAITING_BYTES)
        self._to_look: dict[str, None] = {}
        """The lines to be looked at, in this order."""
        self._turn = ""
        """The queue whose first offer is being stored: what waits behind that is no reason to refuse it."""

    def __len__(self) -> int:
        return len(self._patience)

    def put(self, queue: str, put: Putting, offer: Offer, now: float) -> Pending[Accepted] | Accepted:
        """Store an offer for the queue called `queue` by `put`; if there is no room, let it wait.

        Raises what `put` raises: `QueueFull` also if the offer could never be stored, and if as many requests, or
        as many bytes, wait as may.
        """
        try:
            return put(now)
        except QueueFull as full:
            refusal = full.anew()
        waiting = WaitingOffer(self, next(self._numbers), queue, put, offer, refusal)
        return self._join(waiting, now + offer.terms.wait)

    def _join(self, offer: WaitingOffer, deadline: float) -> WaitingOffer:
        dispatcher = self._service.dispatcher
        dispatcher.check_open()
        if dispatcher.is_crowded or not self._fits(offer, alone=True) or not self._held.reserve(offer.held):
            raise offer.full.anew()
        self._lines.setdefault(offer.queue, OrderedDict())[offer.number] = offer
        self._patience.put(offer.number, deadline, offer)
        dispatcher.offers = len(self)
        dispatcher.wake_by(deadline)
        self._count_refused(offer, -1)  # not yet, that is
        self.tell(offer.queue)
        return offer

    def leave(self, offer: WaitingOffer) -> None:
        """Take an offer out of its line; again is harmless."""
        if self._patience.pop(offer.number) is not None:
            self._remove(offer)
            # It may have been all that held up those behind it.
            self._service.dispatcher.note_room()

    def _remove(self, offer: WaitingOffer) -> None:
        line = self._lines[offer.queue]
        del line[offer.number]
        if not line:
            del self._lines[offer.queue]
        self._held.release(offer.held)
        self._service.dispatcher.offers = len(self)
        self.tell(offer.queue)

    def tell(self, queue: str) -> None:
        """Let the queue called `queue`, if it is there, know whether offers wait for it."""
        waits = queue in self._lines and queue != self._turn
        self._service.let_wait_behind(queue, partial(self._refuse_behind, queue) if waits else None)

    def dismiss(self) -> None:
        """Refuse some of those that wait, for the service is draining."""
        for offer in list(islice(self._patience.values(), DISMISSALS)):
            self.leave(offer)
            offer.fail(Draining())

    def tick(self, now: float) -> float:
        """Do a bounded part of what is due by `now`, and return when to come back: at once, if there is more."""
        dispatcher = self._service.dispatcher
        if dispatcher.draining:
            self.dismiss()
        if dispatcher.room_freed:
            dispatcher.room_freed = False
            for queue in self._lines:
                self._to_look.setdefault(queue)
        work = 0
        while self._to_look and work < TURN_COST:
            work += 1 + self._look(next(iter(self._to_look)), now)
        while work < TURN_COST and (due := self._patience.due(now, 1)):
            # Tried once more: by now its key may have been used for the same. And those behind it are the first.
            work += self._finish(due[0], now)
            self._to_look.setdefault(due[0].queue)
        more = self._to_look or (dispatcher.draining and len(self))
        return now if more else self._patience.next()

    def _look(self, queue: str, now: float) -> int:
        """Store the first offer for a queue if there is room for it, and return how much work that was."""
        line = self._lines.get(queue)
        offer = next(iter(line.values())) if line else None
        if offer is not None and (self._fits(offer) or not self._fits(offer, alone=True)):
            return self._finish(offer, now)
        del self._to_look[queue]
        return 0

    def _finish(self, offer: WaitingOffer, now: float) -> int:
        """Store an offer or refuse it, and return how much work that was."""
        self._turn = offer.queue
        self._patience.pop(offer.number)
        self._remove(offer)
        try:
            offer.complete(self._service.take_step(offer.put, now))
        except Exception as error:
            # Whatever it is, it is about this offer, and must not end the timer, which is for all.
            offer.fail(error.anew() if isinstance(error, QueueFull) else error)
        finally:
            self._turn = ""
            self.tell(offer.queue)
        return 1 + offer.held // BYTES_PER_COST

    def _fits(self, offer: WaitingOffer, *, alone: bool = False) -> bool:
        """Whether there is room for an offer, or if it is `alone`, would be if nothing were held."""
        broker = self._service.broker
        queue = broker.queues.get(offer.queue)
        settings = QueueSettings() if queue is None else queue.settings
        for most, held, more in (
            (broker.max_messages, broker.messages, offer.messages),
            (broker.max_bytes, broker.bytes, offer.size),
            (settings.max_messages, 0 if queue is None else queue.messages, offer.messages),
            (settings.max_bytes, 0 if queue is None else queue.bytes, offer.size),
        ):
            if most is not None and more > 0 and more > most - (0 if alone else held):
                return False
        return True

    def _refuse_behind(self, queue: str) -> QueueFull:
        """Return the refusal of an offer that would overtake others."""
        first = next(iter(self._lines[queue].values()))
        self._count_refused(first, 1)
        return first.full.anew()

    def _count_refused(self, offer: WaitingOffer, number: int) -> None:
        broker = self._service.broker
        broker.queues.get(offer.queue, broker.default).count_refused(number)
