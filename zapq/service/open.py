"""Starting a service: in memory, or on the disk.

The composition root of this room: it may import every other file here, and none of them imports it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from zapq.service.autosave import Autosave
from zapq.service.service import QueueService
from zapq.settings import Settings
from zapq.store.snapshot import SnapshotStore


@asynccontextmanager
async def open_service(settings: Settings | None = None) -> AsyncGenerator[QueueService, None]:
    """Run queues for the length of the block: `async with zapq.open_service() as service:`.

    Opens the data directory, loads `settings.load_on_start` (raises `CannotStart` if either is impossible) and
    starts the service's one timer. When the block ends, waiting consumers are answered; if it ended without an
    exception, `settings.snapshot_on_exit` is saved (raises `SnapshotFailed`). Then the queues, being memory, are
    gone; with `Settings.durable` they are on the disk, and are there again the next time.
    """
    settings = settings or Settings()
    with SnapshotStore(settings) as snapshots:
        async with AsyncExitStack() as stack:
            if settings.durable:
                # Imported here so that a start in memory does not pay for SQLite.
                from zapq.service.open_durable import open_durable

                service: QueueService = await stack.enter_async_context(open_durable(settings, snapshots))
            else:
                service = QueueService(settings, snapshots)
            if settings.load_on_start:
                await service.snapshots.load_at_start(settings.load_on_start)
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
