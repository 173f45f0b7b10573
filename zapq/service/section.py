"""A critical section: a lock held for one synchronous change."""

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
