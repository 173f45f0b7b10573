"""Long polls: consumers stand in line here, first come first served, and the engine knows that we wait.

While messages are ready no consumer waits. The first one that does has the engine told, in the call that finds
nothing. A message then wakes one front end, the one that has waited longest, which asks for as many messages as it
has consumers. A hint may be lost, so the engine is asked again after a while, and when something becomes ready.

A consumer is told that there is nothing only if the engine has said so since it came, however short it waits,
and not while the engine is being asked. So no message is overlooked because it, or its hint, is on its way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice
from math import inf
from typing import Any

import trio

from zapq.core.deadlines import Deadlines
from zapq.engine.valkey.keys import shard_of
from zapq.errors import Draining, QueueNotFound, TooManyWaiters, ZapqError
from zapq.limits import DISMISSALS, PROBED_AT_ONCE, RENEWAL_SECONDS
from zapq.service.operations import Delivery, Nothing, Take
from zapq.service.pending import Pending, Poll, give_back
from zapq.service.waiting import Waiter, WaitingRoom, WaitQueue, Want

_UNHEARD_SECONDS = 0.5
"""Seconds after which the engine is asked again while it cannot send hints."""


class Line:
    """The consumers that wait here for messages of one queue."""

    def __init__(self, number: int, queue: str) -> None:
        self.number = number
        self.queue = queue
        self.shard = shard_of(queue)
        self.waiters = WaitQueue()
        self.unheard_of: dict[int, float] = {}
        """Consumers for which the engine has not answered yet, by ticket, and until when they wait."""
        self.last_asked = 0
        """The ticket of the last consumer that was here when the engine was last asked."""
        self.under_way = 0
        """Consumers for which messages are being asked for."""
        self.again = False
        """Whether messages came meanwhile."""
        self.empty = False
        """Whether one of them got nothing."""
        self.joined = False
        """Whether the engine knows that we wait."""
        self.since = 0
        """Since when we wait, by the engine's clock; 0 if we do not."""
        self.heard = False
        """Whether hints about its shard are sent to us."""
        self.soon = inf
        """Seconds after which the engine is asked again."""


class Lines:
    """All lines of one front end. `ask` has messages asked for, `leave` says that we wait no longer."""

    def __init__(
        self,
        max_waiters: int,
        *,
        ask: Callable[[Line, Take], Pending[Any]],
        leave: Callable[[str], object],
        hear: Callable[[int], bool],
        others: Callable[[], int] = int,
    ) -> None:
        """`hear` has hints about a shard sent to us from now on, and says whether they are already.

        `others` tells how many wait that are no consumers.
        """
        self.room = WaitingRoom()
        self.empty = 0
        """Consumers that got nothing."""
        self.draining = False
        self._max_waiters = max_waiters
        self._ask = ask
        self._leave = leave
        self._hear = hear
        self._others = others
        self._lines: dict[str, Line] = {}
        self._shards: dict[int, set[Line]] = {}
        self._numbers = 0
        self._due: Deadlines[Line] = Deadlines()
        self._impatient: Deadlines[tuple[Line, int]] = Deadlines()
        """Consumers for which the engine must be asked by the time they wait until."""
        self._alarm = inf
        self._alarm_changed = trio.Event()
        self._why: dict[str, tuple[str, float]] = {}
        """Why queues had nothing when they were last asked, and when they will have something."""

    @property
    def number(self) -> int:
        """How many requests wait here, for messages or for room."""
        return len(self.room) + self._others()

    @property
    def is_crowded(self) -> bool:
        """Whether as many requests wait here as may."""
        return self.number >= self._max_waiters

    def waiting(self, queue: str) -> int:
        """Return how many consumers wait for messages of a queue."""
        line = self._lines.get(queue)
        return 0 if line is None else len(line.waiters)

    def line(self, queue: str) -> Line | None:
        """Return the line of a queue, if consumers wait there."""
        return self._lines.get(queue)

    def check_open(self) -> None:
        """Raise `Draining` once `drain` was called."""
        if self.draining:
            raise Draining

    def join(self, asked: Take, now: float) -> Poll:
        """Let a consumer stand in line. Raises `Draining` and `TooManyWaiters`."""
        self.check_open()
        if self.is_crowded:
            raise TooManyWaiters(limit=self._max_waiters)
        line = self._lines.get(asked.queue)
        if line is None:
            self._numbers += 1
            line = self._lines[asked.queue] = Line(self._numbers, asked.queue)
            self._shards.setdefault(line.shard, set()).add(line)
        poll = Poll(self, asked.queue)
        deadline = now + asked.wait
        poll.waiter = waiter = self.room.join(line.waiters, asked.want, inf, poll.finish)
        line.unheard_of[waiter.ticket] = deadline
        self._impatient.put(waiter.ticket, deadline, (line, waiter.ticket))
        self._wake_by(deadline)
        if not line.joined:
            self._probe(line)
        return poll

    def leave(self, queue: str, waiter: Waiter) -> None:
        """Let a consumer go; what it was given goes back to its place."""
        self.room.leave(waiter)
        self._forget(queue, waiter)
        waiter.gone = True
        if waiter.lender is not None:
            waiter.lender.return_undelivered(waiter.given)
        self._note_shorter(queue)

    def nothing(self, queue: str) -> Nothing:
        """Count a consumer that gets nothing, and say why. Raises `Draining`."""
        self.check_open()
        self._note_shorter(queue)
        self.empty += 1
        if queue not in self._why:
            return Nothing("empty", inf)
        why, due = self._why[queue]
        return Nothing(why, max(due - trio.current_time(), 0.0))

    def wake(self, queue: str) -> None:
        """Ask for messages: some may be ready, and we are no longer in the engine's line."""
        line = self._lines.get(queue)
        if line is None:
            # The last consumer has just left. The next front end is to be woken.
            self._leave(queue)
            return
        line.joined = False
        if line.under_way:
            line.again = True
        else:
            self._probe(line)

    def note_deleted(self, queue: str) -> None:
        """Refuse the consumers of a queue that was deleted."""
        line = self._lines.get(queue)
        if line is not None:
            line.joined, line.since = False, 0
            for waiter in line.waiters.values():
                self._forget(queue, waiter)
            self.room.refuse(line.waiters, partial(QueueNotFound, queue=queue))
            self._note_shorter(queue)

    def note_heard(self, shard: int) -> None:
        """Join the engine's lines in a shard, for hints about it are sent to us from now on."""
        for line in list(self._shards.get(shard, ())):
            line.joined = False
            if line.under_way:
                line.again = True
            else:
                self._probe(line)

    def note_joined(self, line: Line, since: int) -> None:
        """Take note that the engine has known since `since`, by its clock, that we wait."""
        line.since = line.since or since

    def drain(self) -> None:
        """Answer all that wait."""
        self.draining = True
        self._wake_by(-inf)

    async def run(self) -> None:
        """See to the consumers whose time is up, and ask the engine again where it is time."""
        while True:
            now = trio.current_time()
            if self.draining:
                self.room.dismiss(DISMISSALS)
            self.room.expire(now, DISMISSALS)
            for line in self._due.due(now, DISMISSALS):
                line.joined = False
                if line.waiters and not line.under_way:
                    self._probe(line)
            for line, ticket in self._impatient.due(now, DISMISSALS):
                if line.under_way:
                    line.again = line.again or ticket > line.last_asked
                else:
                    self._probe(line)
            self._alarm = min(self.room.next_deadline(), self._due.next(), self._impatient.next())
            if self.draining and len(self.room):
                self._alarm = -inf
            self._alarm_changed = trio.Event()
            if self._alarm <= now:
                await trio.lowlevel.checkpoint()
                continue
            with trio.move_on_at(self._alarm):
                await self._alarm_changed.wait()

    def _wake_by(self, time: float) -> None:
        if time < self._alarm:
            self._alarm = time
            self._alarm_changed.set()

    def _probe(self, line: Line) -> None:
        """Ask for a message for each of the first consumers in line."""
        if line.under_way or not line.waiters:
            return
        line.again = line.empty = False
        # Before it joins the engine's line: one that cannot be told is taken out.
        heard = line.heard = self._hear(line.shard)
        first = list(islice(line.waiters.values(), PROBED_AT_ONCE))
        for waiter in first:
            if waiter.ticket not in line.unheard_of:
                # Its time does not end while a message may be on its way to it: that would have to go back, and
                # others would find nothing meanwhile.
                line.unheard_of[waiter.ticket] = waiter.deadline
                self.room.wait_until(waiter, inf)
        wants = [waiter.want for waiter in first]
        line.under_way = len(wants)
        line.last_asked = next(reversed(line.waiters))
        line.soon = RENEWAL_SECONDS if heard else _UNHEARD_SECONDS
        for want in wants:
            pending = self._ask(line, Take(line.queue, want, 1.0))
            pending.when_done(partial(self._deal, line, want, pending))

    def _deal(self, line: Line, want: Want, pending: Pending[Any]) -> None:
        """Give what came to the first consumer that wants such; one that was asked for may have left."""
        line.under_way -= 1
        try:
            outcome = pending.result()
        except ZapqError as error:
            self._refuse_first(line, want, error)
        else:
            if isinstance(outcome, Delivery):
                self._why.pop(line.queue, None)
                # Others that wait have their turn now: else a busy front end would have all of them.
                line.since = 0
                self._give(line, want, outcome)
            else:
                line.empty = True
                self._note_why(line.queue, outcome)
                line.soon = min(line.soon, outcome.next_visible_in)
        if not line.under_way:
            self._go_on(line)

    def _give(self, line: Line, want: Want, delivery: Delivery) -> None:
        for waiter in line.waiters.values():
            if waiter.want == want:
                self._forget(line.queue, waiter)
                self.room.serve(waiter, delivery.given, delivery.queue)
                return
        give_back(delivery)

    def _refuse_first(self, line: Line, want: Want, error: ZapqError) -> None:
        for waiter in line.waiters.values():
            if waiter.want == want:
                self._forget(line.queue, waiter)
                waiter.refusal = error.with_traceback(None)
                self.room.leave(waiter)
                waiter.wake()
                return

    def _go_on(self, line: Line) -> None:
        """Decide what to do now that nothing is being asked for."""
        line.joined = line.empty and line.heard
        if line.empty:
            self._let_expire(line)
        if not line.waiters:
            self._note_shorter(line.queue)
        elif line.again or not line.empty:
            self._probe(line)
        else:
            # Not at once, for a clock of ours that is a little ahead.
            due = trio.current_time() + max(line.soon, 0.01)
            self._due.put(line.number, due, line)
            self._wake_by(due)

    def _let_expire(self, line: Line) -> None:
        """Let the consumers wait no longer than they want to for which the engine has been asked in vain."""
        for ticket in [ticket for ticket in line.unheard_of if ticket <= line.last_asked]:
            deadline = line.unheard_of.pop(ticket)
            self._impatient.pop(ticket)
            waiter = line.waiters.get(ticket)
            if waiter is not None:  # else it was told that we are draining
                self.room.wait_until(waiter, deadline)
                self._wake_by(deadline)

    def _forget(self, queue: str, waiter: Waiter) -> None:
        line = self._lines.get(queue)
        if line is not None and line.unheard_of.pop(waiter.ticket, None) is not None:
            self._impatient.pop(waiter.ticket)

    def _note_shorter(self, queue: str) -> None:
        """Forget a line that is empty."""
        line = self._lines.get(queue)
        if line is None or line.waiters or line.under_way:
            return
        del self._lines[queue]
        self._due.pop(line.number)
        self._shards[line.shard].discard(line)
        if line.joined:
            self._leave(queue)

    def _note_why(self, queue: str, nothing: Nothing) -> None:
        # There may be very many names over time.
        if len(self._why) > 1000:
            self._why.clear()
        self._why[queue] = nothing.why, trio.current_time() + nothing.next_visible_in
