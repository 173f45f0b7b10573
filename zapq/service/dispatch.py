"""Where waiting consumers meet ready messages, and the one timer that makes both move on.

Every change that may make a message ready ends in `Dispatcher.hand_out`; everything that happens by itself happens
in `Dispatcher.run`, which sleeps until the next deadline. An idle service has no polling loop.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Protocol

import trio

from zapq.errors import Draining, TooManyWaiters
from zapq.limits import DISMISSALS, TICK_LIMIT
from zapq.service.section import Section
from zapq.service.waiting import Waiter, WaitingRoom, WaitQueue, Want


class Crowded(Protocol):
    """A queue in which consumers may wait."""

    def hand_out(self) -> bool:
        """Serve the consumers that can be served; return whether some still wait."""


class Dispatcher:
    """Hands messages to waiting consumers, for all queues of one service."""

    def __init__(self, lock: trio.Lock, max_waiters: int) -> None:
        self.waiting_room = WaitingRoom()
        self.draining = False
        """Whether `drain` was called."""
        self.dequeues_empty = 0
        """Consumers that got nothing."""
        self.offers = 0
        """Producers that wait for room."""
        self.room_freed = False
        """Whether there may be room for them by now."""
        self._section = Section(lock)
        self._max_waiters = max_waiters
        self._crowded: dict[Crowded, None] = {}
        """The queues in which consumers wait, and maybe some others."""
        self._changed = trio.Event()
        self.alarm = inf
        """The time of Trio's clock at which the timer next has something to do; infinity if there is nothing."""

    def check_open(self) -> None:
        """Raise `Draining` if `drain` was called."""
        if self.draining:
            raise Draining

    @property
    def waiting(self) -> int:
        """How many requests wait, for messages or for room."""
        return len(self.waiting_room) + self.offers

    @property
    def is_crowded(self) -> bool:
        """Whether as many requests wait as may."""
        return self.waiting >= self._max_waiters

    def note_room(self) -> None:
        """Have the timer look at the producers that wait for room, for there may be some."""
        if self.offers:
            self.room_freed = True
            self.wake_by(-inf)

    def note_empty(self) -> None:
        """Count a consumer that got nothing."""
        self.dequeues_empty += 1

    def join(self, wait_queue: WaitQueue, want: Want, wait: float, wake: Callable[[], object]) -> Waiter:
        """Put a consumer at the end of a line; raises `TooManyWaiters`."""
        if self.is_crowded:
            raise TooManyWaiters(limit="max_waiters", current=self.waiting)
        deadline = trio.current_time() + wait
        self.wake_by(deadline)
        return self.waiting_room.join(wait_queue, want, deadline, wake)

    def note_crowded(self, queue: Crowded) -> None:
        """Look at this queue when messages are handed out, for consumers wait there."""
        self._crowded[queue] = None

    def hand_out(self) -> None:
        """Serve every waiting consumer that can be served, after a change that may have made messages ready."""
        for queue in list(self._crowded):
            if not queue.hand_out():
                # A consumer that was served may have asked for more, in this very step.
                self._crowded.pop(queue, None)

    def drain(self) -> None:
        """Answer every waiting consumer, and let none wait from now on."""
        self.draining = True
        self.waiting_room.dismiss(DISMISSALS)
        # The timer dismisses the others, some at a time.
        self.wake_by(-inf)

    def wake_by(self, time: float) -> None:
        """Let the timer run at `time` (of Trio's clock) at the latest."""
        if time < self.alarm:
            self.alarm = time
            self._changed.set()

    async def catch_up(self) -> None:
        """Return once all that is due by now has happened."""
        self.wake_by(-inf)
        while self.alarm <= trio.current_time():
            async with self._section:
                pass  # The next time we stand in line behind the timer.

    async def run(
        self,
        tick: Callable[[float], float],
        hand_out: Callable[[], object],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Do what is due, and sleep until the next deadline or a change; ends when cancelled.

        `tick` does what is due in the queues at the time it is given, and returns when there will be more to do;
        `hand_out` serves consumers with what that made ready.
        """
        task_status.started()
        while True:
            async with self._section:
                now = trio.current_time()
                self.alarm = inf  # what is handed out in this step may be due before all else
                due = tick(now)
                # A consumer whose time is up in the very moment a message is ready still gets it.
                hand_out()
                self.waiting_room.expire(now, TICK_LIMIT)
                if self.draining:
                    self.waiting_room.dismiss(DISMISSALS)
                self.alarm = min(self.alarm, due, self.waiting_room.next_deadline())
                if self.draining and self.waiting_room:
                    self.alarm = now
                self._changed = trio.Event()
            with trio.move_on_at(self.alarm):
                await self._changed.wait()
