"""Starting a service: in memory, or on the disk.

The composition root of this room: it may import every other file here, and none of them imports it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from fcntl import LOCK_EX
from functools import partial

import msgspec
import trio

from zapq import logs
from zapq.core.broker import Broker
from zapq.core.queue_settings import QueueSettings, declared
from zapq.declared import queue_section
from zapq.errors import CannotStart, InvalidParameter, InvalidSetting, ZapqError
from zapq.movable_clock import check_movable
from zapq.service.autosave import Autosave
from zapq.service.service import QueueService
from zapq.settings import Settings
from zapq.store.directory import lock
from zapq.store.snapshot import SnapshotStore


@asynccontextmanager
async def open_service(settings: Settings | None = None) -> AsyncGenerator[QueueService, None]:
    """Run queues for the length of the block: `async with zapq.open_service() as service:`.

    Opens the data directory, loads `settings.load_on_start`, makes the queues that `settings.queues` declares and
    `settings.queue` names (raises `CannotStart` if any of that is impossible) and starts the service's one timer.
    When the block ends, waiting consumers are answered; if it ended without an exception,
    `settings.snapshot_on_exit` is saved (raises `SnapshotFailed`). Then the queues, being memory, are gone; with
    `Settings.durable` they are on the disk, and are there again the next time. Raises `InvalidSetting` with
    `Settings.engine`: that is for `open_queues`.
    """
    settings = settings or Settings()
    if settings.engine:
        raise InvalidSetting(
            "open_service has queues in this process, and settings.engine has them elsewhere. Use open_queues.",
            setting="engine",
        )
    if settings.test_clock:
        check_movable()
    with SnapshotStore(settings) as snapshots:
        if snapshots.directory.created:
            # If its name is misspelt, this is what tells that nothing is lost.
            logs.say(logging.INFO, "created", data_dir=snapshots.directory.real_path)
        async with AsyncExitStack() as stack:
            if settings.durable:
                # Imported here so that a start in memory does not pay for SQLite.
                from zapq.service.open_durable import open_durable
                from zapq.store.open_database import open_database

                open_store = partial(open_database, settings.data_dir, snapshots.directory.descriptor)
                service: QueueService = await stack.enter_async_context(
                    open_durable(settings, snapshots, open_store)
                )
            else:
                if settings.snapshot_every or settings.snapshot_on_exit:
                    # Two servers would remove, or replace, each other's files. Where the file system has no locks,
                    # that is for the operator to see to.
                    with suppress(OSError):
                        lock(settings.data_dir, snapshots.directory.descriptor, LOCK_EX)
                service = QueueService(settings, snapshots)
            if settings.load_on_start:
                await service.snapshots.load_at_start(settings.load_on_start)
            elif settings.snapshot_every and not settings.durable:
                await service.snapshots.warn_of_automatic()
            await _declare(service, settings.queues, settings.named_queues)
            async with trio.open_nursery() as nursery:
                await nursery.start(service.run)
                if settings.snapshot_every:
                    autosave = Autosave(
                        service.snapshots,
                        service.fingerprint,
                        every=settings.snapshot_every,
                        keep=settings.snapshot_keep,
                    )
                    await nursery.start(autosave.run)
                try:
                    yield service
                finally:
                    service.drain()
                    service.waiting_room.dismiss()
                    nursery.cancel_scope.cancel()
            await service.snapshots.save_at_exit()


async def _declare(
    service: QueueService, queues: Mapping[str, QueueSettings], named: Mapping[str, QueueSettings]
) -> None:
    """Make the queues that are declared or `named` and not there, and let the others be set as declared.

    All or nothing: raises `CannotStart` before anything is changed if kept queues contradict the declared ones.
    """
    if not queues and not named:
        return
    kept = {name: queue.settings for name, queue in service.broker.queues.items()}
    queues = {name: declared(each, kept.get(name, each)) for name, each in queues.items()}
    trial = Broker(max_messages=1, max_bytes=1, max_queues=max(service.broker.max_queues, len(kept)))
    for name, settings in {**kept, **queues}.items():
        _configure(trial, name, settings, queue_section)
    missing = {name: each for name, each in named.items() if name not in kept and name not in queues}
    for name, settings in missing.items():
        _configure(trial, name, settings, lambda name, error: f"--queue {name}")
    for name, settings in queues.items():
        there = service.broker.queues.get(name)
        if there is not None and there.settings.dead_letter not in {None, settings.dead_letter}:
            # First, so that the old ways of dead letters make no circle with the new ones.
            await service.configure(name, msgspec.structs.replace(settings, max_receives=None, dead_letter=None))
    for name, settings in {**queues, **missing}.items():
        there = service.broker.queues.get(name)
        if there is None or there.settings != settings:
            await service.configure(name, settings)


def _configure(trial: Broker, name: str, settings: QueueSettings, place: Callable[[str, ZapqError], str]) -> None:
    try:
        trial.configure(name, settings, 0.0)
    except ZapqError as error:
        # By themselves they make sense, or they would not be settings.
        advice = " Declare also the kept queue that it contradicts." if isinstance(error, InvalidParameter) else ""
        raise CannotStart(f"{place(name, error)}: {error.detail}{advice}") from None
