"""Snapshots of everything every so often, under names of their own, the oldest removed when there are enough."""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING

import trio

from zapq import logs
from zapq.errors import SnapshotFailed

if TYPE_CHECKING:
    from zapq.service.service import QueueService

_OURS = re.compile(r"auto-[0-9]{8}T[0-9]{6}Z\.msgpack", re.ASCII)


class Autosave:
    """Saves all queues of a service every `every` seconds, and keeps the last `keep` files it has made.

    Runs in a task of the service, and never ends it: what fails is logged, counted, and tried again the next time.
    """

    def __init__(self, service: QueueService, *, every: float, keep: int) -> None:
        self._service = service
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
        state = self._service.fingerprint()
        if state == self._saved:
            return
        name = time.strftime("auto-%Y%m%dT%H%M%SZ.msgpack", time.gmtime())
        try:
            number = await self._service.snapshot(name)
            self._saved = state
            logs.say(logging.DEBUG, "snapshot saved", file=name, messages=number)
            await self._remove_old()
        except SnapshotFailed as error:
            logs.say(logging.ERROR, "snapshot failed", file=name, reason=error.detail)
        except Exception as error:
            # Whatever it is (no thread can be started, no memory is left): what the queues hold is worth more.
            logs.log.error("snapshot failed", exc_info=error)

    async def _remove_old(self) -> None:
        store = self._service.snapshots.store
        # Sorted by name, they are sorted by time.
        ours = [file.name for file in await self._service.snapshots.files() if _OURS.fullmatch(file.name)]
        for name in ours[: -self._keep]:
            await trio.to_thread.run_sync(store.remove, name)
