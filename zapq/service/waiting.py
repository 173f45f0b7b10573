"""The line of long pollers: who waits for a message, in which order, and until when.

A waiter is a slot with an event. Whoever fills the slot also takes the waiter out of the line, in one
synchronous step, so a message is never promised to somebody who has already left. (`trio.Condition` would
not do: a notification sent to a task that is cancelled in the same tick is lost, and the message with it.)
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import inf

import trio

from zapq.core.message import Message


class Waiter:
    """One consumer in line; `woken` is set when `message` is filled, its time is up, or the line closes."""

    __slots__ = ("deadline", "message", "ticket", "woken")

    def __init__(self, ticket: int, deadline: float) -> None:
        self.ticket = ticket
        self.deadline = deadline
        self.message: Message | None = None
        self.woken = trio.Event()


class WaitingLine:
    """First come, first served; every operation is synchronous and amortised O(log n) or better."""

    def __init__(self) -> None:
        self._line: dict[int, Waiter] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._next_ticket = 0

    def __len__(self) -> int:
        return len(self._line)

    def join(self, deadline: float) -> Waiter:
        """Stand at the end of the line until `deadline` (a time of Trio's clock)."""
        self._next_ticket += 1
        waiter = self._line[self._next_ticket] = Waiter(self._next_ticket, deadline)
        heappush(self._deadlines, (deadline, waiter.ticket))
        # Waiters that were served leave their deadline behind; sweeping when those are the majority keeps
        # the heap within twice the line at O(1) amortised.
        if len(self._deadlines) > 2 * len(self._line) + 64:
            self._deadlines = [(other.deadline, other.ticket) for other in self._line.values()]
            heapify(self._deadlines)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Step out of the line; does nothing for a waiter that was served or expired."""
        self._line.pop(waiter.ticket, None)

    def serve(self, message: Message) -> None:
        """Hand `message` to whoever has waited longest."""
        waiter = self._line.pop(next(iter(self._line)))
        waiter.message = message
        waiter.woken.set()

    def expire(self, now: float) -> None:
        """Wake, empty-handed, everybody whose time is up."""
        while self._deadlines and self._deadlines[0][0] <= now:
            self._wake(heappop(self._deadlines)[1])

    def next_deadline(self) -> float:
        """When `expire` next has something to do: infinity while nobody waits."""
        while self._deadlines and self._deadlines[0][1] not in self._line:
            heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else inf

    def dismiss(self) -> None:
        """Wake everybody, empty-handed."""
        for ticket in list(self._line):
            self._wake(ticket)

    def _wake(self, ticket: int) -> None:
        waiter = self._line.pop(ticket, None)
        if waiter is not None:
            waiter.woken.set()
