"""Saving what the queues hold to files in the data directory, and putting it back.

The queues are pictured, and replaced, in one step each; encoding, writing, reading and making queues happen in a
worker thread. On disk times are those of the wall clock, for Trio's begins anywhere in each process.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Protocol

import trio

from zapq import logs
from zapq.core.image import Image
from zapq.core.records import PutMany, row_of
from zapq.errors import CannotStart, QueueFull, SnapshotFailed
from zapq.limits import MAX_BATCH
from zapq.service import bulk
from zapq.service.queue_state import Changing
from zapq.service.section import Section
from zapq.store.snapshot import MSGPACK, SnapshotStore, snapshot_name
from zapq.store.snapshot import SnapshotFile as SnapshotFile


class Pictured(Changing, Protocol):
    """What snapshots use of the service whose queues they save and replace."""

    @property
    def quiescent(self) -> Section: ...
    def drop_rows(self, *epochs: int) -> None: ...
    def check_open(self) -> None: ...
    def fingerprint(self) -> object: ...
    def hand_out(self) -> None: ...
    async def replace_all(self, image: Image) -> int: ...
    async def restore(self, name: str) -> int: ...


class Snapshots:
    """The snapshots of one service."""

    def __init__(self, service: Pictured, store: SnapshotStore, at_exit: str) -> None:
        self._service = service
        self.at_exit = at_exit
        """The file to save at the end; empty if there is none, or that was tried."""
        self.store = store
        self.written = 0
        """Files that were written."""
        self.failed = 0
        """Files that could not be written."""
        self._last_written = 0.0
        self._kept: object = None
        """The fingerprint of what the last file holds, if that is a `*.msgpack` file."""
        self._kept_default: object = None
        """The statistics of the default queue when the last `*.json` file was written."""

    async def save(self, name: str) -> int:
        """Write the file `name` and return how many messages it holds; see `QueueService.snapshot`."""
        name = snapshot_name(name)
        try:
            number = await (self._save_all(name) if name.endswith(MSGPACK) else self._save_default(name))
        except SnapshotFailed:
            self.failed += 1
            raise
        self.written += 1
        return number

    async def load(self, name: str) -> int:
        """Put what the file `name` holds in the place of what is there; see `QueueService.restore`."""
        name = snapshot_name(name)
        self._service.check_open()
        if name.endswith(MSGPACK):
            clock_offset = time.time() - trio.current_time()
            image = await trio.to_thread.run_sync(self.store.load_all, name, clock_offset, bulk.cancellable_yield)
            return await self._service.replace_all(image)
        return await self._load_default(name)

    async def load_at_start(self, name: str) -> None:
        """Begin with what the newest file holds: `name`, or an automatic snapshot, which is logged then.

        Without any, begin with nothing: it may be the very first start. Raises `CannotStart` if the newest file
        cannot be loaded; an older one is never loaded in its place.
        """
        try:
            saved = await trio.to_thread.run_sync(self.store.newest_first, name, bulk.cancellable_yield)
        except SnapshotFailed as error:
            raise CannotStart(f"--load-on-start: {error.detail}") from error
        if not saved:
            logs.say(logging.WARNING, "nothing to load; starting empty", file=name)
            return
        newest, *older = saved
        facts = {"file": newest.name, "saved": _as_text(newest.at)}
        if newest.name != name:
            reason = f"There is no {name}."
            for each in older:
                if each.name == name:
                    reason = (
                        f"{name} is older: it was saved at {_as_text(each.at)}. To load it, move the automatic"
                        " snapshots that are newer out of the data directory."
                    )
            logs.say(logging.WARNING, "loading an automatic snapshot instead", **facts, asked=name, reason=reason)
        try:
            number = await self._service.restore(newest.name)
        except SnapshotFailed as error:
            other = f"{older[0].name}, which is older" if older else "nothing"
            raise CannotStart(
                f"--load-on-start: {error.detail} To start with {other}, move {newest.name} out of the data"
                " directory."
            ) from error
        self._last_written = newest.at
        logs.say(logging.INFO, "snapshot loaded", **facts, messages=number)

    async def warn_of_automatic(self) -> None:
        """Log that automatic snapshots of an earlier run are not loaded: new ones will take their place."""
        with suppress(SnapshotFailed):
            saved = await trio.to_thread.run_sync(self.store.newest_first, "", bulk.cancellable_yield)
            if saved:
                logs.say(
                    logging.WARNING,
                    "automatic snapshots are not loaded",
                    newest=saved[0].name,
                    saved=_as_text(saved[0].at),
                    advice="New ones will replace them. To load the newest at a start, add --load-on-start NAME.",
                )

    async def save_at_exit(self) -> None:
        """Save to the file that was asked for, if one was, and only the first time this is called.

        Raises `SnapshotFailed`, and logs it; if cancelled, an older file is as it was, and that is also logged.
        """
        name, self.at_exit = self.at_exit, ""
        if not name:
            return
        try:
            number = await self.save(name)
        except SnapshotFailed as error:
            logs.say(logging.ERROR, "snapshot on exit failed", file=name, reason=error.detail)
            raise
        except trio.Cancelled:
            logs.say(logging.ERROR, "snapshot on exit failed", file=name, reason="The grace ran out.")
            raise
        logs.say(logging.INFO, "snapshot saved", file=name, messages=number)

    def unsaved(self) -> tuple[int, int]:
        """Return how many messages, in how many queues, are not in the file that was written last."""
        service = self._service
        if self._kept == service.fingerprint():
            return 0, 0
        default = service.broker.default
        kept = self._kept_default == default.stats()
        held = [len(queue) for queue in service.broker.queues.values() if not (kept and queue is default)]
        return sum(held), sum(map(bool, held))

    async def files(self) -> list[SnapshotFile]:
        """Return every snapshot in the data directory, by name; `SnapshotFailed` if it cannot be read."""
        return await trio.to_thread.run_sync(self.store.files, bulk.cancellable_yield)

    async def _save_all(self, name: str) -> int:
        service = self._service
        async with service.quiescent:
            queues = service.broker.queues.values()
            names = {queue.number: queue.name for queue in queues}
            image = Image([queue.image() for queue in queues], service.keys.image(names))
            number = service.broker.messages
            state = service.fingerprint()
            now = time.time()
            clock_offset = now - trio.current_time()
        # Later than the last one, also if the clock was set back: a start loads what was written last.
        if not self._last_written:
            saved = await trio.to_thread.run_sync(self.store.newest_first, name, bulk.cancellable_yield)
            self._last_written = max((each.at for each in saved), default=0.0)
        self._last_written = max(now, self._last_written + 0.001)
        await trio.to_thread.run_sync(
            self.store.save_all, name, image, clock_offset, self._last_written, bulk.cancellable_yield
        )
        self._kept = state
        return number

    async def _save_default(self, name: str) -> int:
        async with self._service.quiescent:
            bodies = self._service.broker.default.bodies()
            state = self._service.broker.default.stats()
        await trio.to_thread.run_sync(self.store.save, name, bodies, bulk.cancellable_yield)
        self._kept, self._kept_default = None, state
        return len(bodies)

    async def _load_default(self, name: str) -> int:
        service = self._service
        service.journal.check_room()
        bodies = await trio.to_thread.run_sync(self.store.load, name, bulk.cancellable_yield)
        core = service.broker.default
        async with service.section:
            first, epoch = core.reserve(len(bodies)), service.broker.next_epoch()
        try:
            messages, size = await trio.to_thread.run_sync(bulk.make, bodies, first)
            number = len(messages)
            if service.durable:
                # All of it is on the disk before the queue changes, and that change is one small write.
                for start in range(0, number, MAX_BATCH):
                    part = bodies[start : start + MAX_BATCH]
                    async with service.section:
                        service.journal.stage(PutMany(row_of(epoch, first + start), part))
            async with service.exclusive:
                service.check_open()
                try:
                    held = core.replace(messages, size, epoch)
                except QueueFull as full:
                    raise SnapshotFailed(
                        f"{name} holds more than {full.members['limit']} allows. The queue is as it was. Raise"
                        " the cap, and load the file again.",
                        **full.members,
                    ) from None
                service.hand_out()
        except BaseException:
            service.drop_rows(epoch)
            raise
        await bulk.free_elsewhere([held])
        return number


def _as_text(at: float) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at))}.{int(at % 1 * 1000):03}Z"
