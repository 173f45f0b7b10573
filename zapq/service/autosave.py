"""Snapshots of everything every so often, under names of their own, the oldest removed when there are enough."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from zapq import logs
from zapq.errors import SnapshotFailed
from zapq.service import bulk
from zapq.service.snapshots import Snapshots
from zapq.store.snapshot import automatic_name


class Autosave:
    """Saves all queues of a service every `every` seconds, and keeps the last `keep` files it has made.

    `fingerprint` tells whether anything has changed since the last file. Runs in a task of the service and never
    ends it: a failure is logged, counted, and the next turn tries again.
    """

    def __init__(
        self, snapshots: Snapshots, fingerprint: Callable[[], object], *, every: float, keep: int
    ) -> None:
        self._snapshots = snapshots
        self._fingerprint = fingerprint
        self._every = every
        self._keep = keep
        self._saved: object = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Go on until cancelled; a file that is being written then is not there."""
        task_status.started()
        while True:
            await trio.sleep(self._every)
            await self.save()

    async def save(self) -> None:
        """Write a file if anything has changed since the last one, and remove the oldest that are too many."""
        state = self._fingerprint()
        if state == self._saved:
            return
        name = automatic_name()
        try:
            number = await self._snapshots.save(name)
            self._saved = state
            logs.say(logging.DEBUG, "snapshot saved", file=name, messages=number)
            await self._remove_old(name)
        except SnapshotFailed as error:
            logs.say(logging.ERROR, "snapshot failed", file=name, reason=error.detail)
        except Exception as error:
            # Whatever it is (no thread can be started, no memory is left): what the queues hold is worth more.
            logs.log.error("snapshot failed", exc_info=error)

    async def _remove_old(self, newest: str) -> None:
        store = self._snapshots.store
        # Not by their names: a clock that was set back would make the one just written the oldest.
        ours = await trio.to_thread.run_sync(store.newest_first, newest, bulk.cancellable_yield)
        older = [each.name for each in ours if each.name != newest]
        for name in older[self._keep - 1 :]:
            await trio.to_thread.run_sync(store.remove, name)
