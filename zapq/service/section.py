"""How tasks take turns at changing the queues: a lock held for one synchronous change, and turns for long ones."""

from __future__ import annotations

from collections.abc import Callable

import trio


class Section:
    """Holds `lock` in an `async with`, as the lock itself would; but others run before it is taken, not after.

    `async with lock` takes the lock and then lets others run, as every Trio operation must at some point. Under
    load there is then always a task that holds it and does nothing: a `*_nowait` verb is refused, and each
    request on the fast road needs a task that waits for the lock. Here it is held only while its holder runs,
    unless the holder itself waits for something. `afterwards` is called each time when it is released.
    """

    def __init__(self, lock: trio.Lock, afterwards: Callable[[], object] = lambda: None) -> None:
        self._lock = lock
        self._afterwards = afterwards

    async def __aenter__(self) -> None:
        """Wait for the lock. If cancelled, it is not taken."""
        await trio.lowlevel.checkpoint()
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        """Release it; no checkpoint."""
        self._lock.release()
        self._afterwards()


class Turns:
    """Lets steps that take milliseconds begin one after another, with one pass of the scheduler between two.

    Otherwise all that were asked for at once would be taken in one pass, and every client would wait for all.
    """

    def __init__(self) -> None:
        self._lock = trio.Lock()

    async def take(self) -> None:
        """Return when the caller may take one such step, before its next checkpoint or in the pass after it."""
        async with self._lock:
            await trio.lowlevel.checkpoint()


class Gate:
    """Lets only so many tasks go on in one pass of the scheduler; the others wait in line for later ones.

    All tasks that are ready have a step in one pass. However short each of these is, many of them together hold up
    every client.
    """

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._line = trio.lowlevel.ParkingLot()

    async def enter(self) -> None:
        """Return when the caller may go on: without a checkpoint, if there is no line."""
        if not self._left:
            await self._line.park()
            return
        if self._left == self._most:
            self._renew_soon()
        self._left -= 1

    def _renew_soon(self) -> None:
        trio.lowlevel.current_trio_token().run_sync_soon(self._renew)

    def _renew(self) -> None:
        entered = len(self._line.unpark(count=self._most))
        self._left = self._most - entered
        if entered:
            self._renew_soon()
