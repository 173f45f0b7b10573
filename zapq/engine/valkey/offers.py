"""Producers that wait for room: for each queue, those of this front end stand in one line.

Whether there is room only the engine knows. So the first in line is tried again after a while, and at once when
something was taken from the queue, or settled, through this front end. Those behind it wait until it is stored,
however small they are. A message that comes without a `wait` has its turn behind all of them, and is refused if
the first finds no room. Of several front ends, each has a line, and which of them finds room first is chance.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from math import inf
from typing import Any

import trio

from zapq.core.deadlines import Deadlines
from zapq.engine.valkey.asked import size_of
from zapq.engine.valkey.tasks import Tasks
from zapq.errors import Draining, QueueFull, StorageUnavailable, ZapqError
from zapq.limits import MAX_ROOM_PAUSE, ROOM_PAUSE
from zapq.service.operations import Accepted, Put
from zapq.service.pending import Later, Pending
from zapq.service.queue_state import measured
from zapq.service.reservation import Budget


class WaitingOffer(Later[Accepted]):
    """A message, or a batch, that waits for room."""

    def __init__(self, offers: Offers, line: OfferLine, number: int, operation: Put) -> None:
        super().__init__()
        self._offers = offers
        self.line = line
        self.number = number
        """It is before all those with a higher one."""
        self.operation = operation
        self.held = size_of(operation)
        """Bytes of memory, about."""
        self.unwanted = False
        """Whether its client has left."""

    def begin(self) -> None:
        """Take note that it may be stored from now on."""
        self._begun = True

    def go_back(self) -> None:
        """Take note that it was not."""
        self._begun = False

    def withdraw(self) -> bool:
        """Leave the line, unless it may have been stored; return whether that was so."""
        self.unwanted = True
        if not super().withdraw():
            return False
        self._offers.leave(self)
        return True

    def _give_up(self) -> None:
        self.unwanted = True
        if not self._begun:
            self._offers.leave(self)
        super()._give_up()


class OfferLine:
    """The offers that wait for room in one queue."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.offers: OrderedDict[int, WaitingOffer] = OrderedDict()
        self.patience: Deadlines[WaitingOffer] = Deadlines()
        """The same, by the time until which they wait."""
        self.woken = trio.Event()
        """Whether the first is to be tried now."""


class Offers:
    """All lines of one front end."""

    def __init__(
        self,
        put: Callable[[Put, float], Pending[Accepted]],
        tasks: Tasks,
        *,
        most_bytes: int,
        is_crowded: Callable[[], bool],
    ) -> None:
        """`put` asks the engine. No offer waits beyond `most_bytes`, or when it `is_crowded`."""
        self.lines: dict[str, OfferLine] = {}
        """By queue; none of them is empty for longer than a step."""
        self._put = put
        self._tasks = tasks
        self._held = Budget(most_bytes)
        self._is_crowded = is_crowded
        self._numbers = count(1)
        self._waiting = 0
        self._draining = False

    def __len__(self) -> int:
        return self._waiting

    def join(self, operation: Put, wait: float, now: float) -> Pending[Accepted]:
        """Store what is offered when those before it are stored and there is room, within `wait` seconds.

        Raises `Draining`. If as much waits as may, it is tried at once and does not wait.
        """
        if self._draining:
            raise Draining
        if self._is_crowded() or not self._held.reserve(size_of(operation)):
            return self._put(operation, now)
        line = self.lines.get(operation.queue)
        begins = line is None
        if line is None:
            line = self.lines[operation.queue] = OfferLine(operation.queue)
        offer = WaitingOffer(self, line, next(self._numbers), operation)
        line.offers[offer.number] = offer
        line.patience.put(offer.number, now + wait, offer)
        self._waiting += 1
        if begins:
            self._tasks.start(partial(self._serve, line))
        elif not wait:
            line.woken.set()
        return offer

    def leave(self, offer: WaitingOffer) -> None:
        """Take an offer out of its line; again is harmless."""
        line = offer.line
        is_first = offer.number == next(iter(line.offers), None)
        if line.offers.pop(offer.number, None) is not None:
            line.patience.pop(offer.number)
            self._waiting -= 1
            self._held.release(offer.held)
            if is_first:
                # It may have been all that held up those behind it.
                line.woken.set()

    def wake(self, queue: str) -> None:
        """Have the first that waits for a queue tried: there may be room."""
        line = self.lines.get(queue)
        if line is not None:
            line.woken.set()

    def drain(self) -> None:
        """Refuse all that wait, and all that come."""
        self._draining = True
        for line in self.lines.values():
            line.woken.set()

    async def _serve(self, line: OfferLine) -> None:
        """See to one line until it is empty."""
        pause = ROOM_PAUSE
        try:
            while line.offers and not self._draining:
                line.woken = trio.Event()
                full = await self._try(next(iter(line.offers.values())))
                if full is None:
                    pause = ROOM_PAUSE
                    continue
                await self._end_waits(line, full)
                if not line.offers:
                    return
                with trio.move_on_at(min(line.patience.next(), trio.current_time() + pause)):
                    await line.woken.wait()
                pause = ROOM_PAUSE if line.woken.is_set() else min(2 * pause, MAX_ROOM_PAUSE)
        finally:
            del self.lines[line.queue]
            self._refuse_all(line, Draining())

    async def _try(self, offer: WaitingOffer) -> QueueFull | None:
        """Try to store an offer; if there is no room, return the refusal, and the offer waits on."""
        offer.begin()
        try:
            accepted = await self._tasks.outcome(self._put(offer.operation, trio.current_time()))
        except QueueFull as full:
            offer.go_back()
            if offer.unwanted or _never_fits(offer, full):
                self.leave(offer)
                offer.fail(full.anew())
                return None
            return full.anew()
        except StorageUnavailable as error:
            # Each by itself would wait for the engine in vain, one after the other.
            self._refuse_all(offer.line, error)
        except Exception as error:
            # Whatever it is, it is about this offer, and must not end the line.
            self.leave(offer)
            offer.fail(error.anew() if isinstance(error, ZapqError) else error)
        else:
            self.leave(offer)
            offer.complete(accepted)
        return None

    async def _end_waits(self, line: OfferLine, full: QueueFull) -> None:
        """Refuse the offers whose time is over, now that the first has found no room."""
        tried = next(iter(line.offers), None)
        for offer in line.patience.due(trio.current_time(), len(line.offers)):
            # Its key may have been used for the same message meanwhile, or a message with it is held.
            terms = offer.operation.terms
            keyed = offer.operation.key or (terms.properties.unique and not terms.replace)
            if keyed and offer.number != tried and await self._try(offer) is None:
                continue
            if offer.number in line.offers:
                self.leave(offer)
                offer.fail(full.anew())

    def _refuse_all(self, line: OfferLine, error: ZapqError) -> None:
        for offer in list(line.offers.values()):
            self.leave(offer)
            offer.fail(error.anew())


def _never_fits(offer: WaitingOffer, full: QueueFull) -> bool:
    """Whether an offer is larger than the cap it was refused for."""
    most: Mapping[str, Any] = full.members
    messages, size = measured(offer.operation)
    return bool(messages > most.get("max_messages", inf) or size > most.get("max_bytes", inf))
