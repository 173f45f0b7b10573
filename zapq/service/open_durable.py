"""Starting and stopping the part of a service that writes."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from zapq import logs
from zapq.errors import CannotStart
from zapq.limits import CLOSE_SECONDS
from zapq.service.journal import Journal
from zapq.service.service import QueueService
from zapq.settings import Settings
from zapq.store.database import Contents, Database
from zapq.store.open_database import open_database, refusal
from zapq.store.schema import FILE
from zapq.store.snapshot import SnapshotStore
from zapq.store.wal import Damaged


@asynccontextmanager
async def open_durable(settings: Settings, snapshots: SnapshotStore) -> AsyncGenerator[QueueService, None]:
    """Run the part of a service that writes, for the length of the block, and give the service.

    Reads what earlier runs have kept. Raises `CannotStart` if it cannot be read. On the way out everything is
    written, and the files are closed.
    """
    begun = time.monotonic()
    database, contents = await trio.to_thread.run_sync(
        _open, settings, snapshots.descriptor, trio.current_time(), time.time() - trio.current_time()
    )
    if database.created:
        database_path = f"{snapshots.real_path}/{FILE}"
        logs.say(logging.INFO, "created", data_dir=snapshots.real_path, database=database_path)
    if contents.warning:
        logs.say(logging.WARNING, "storage was not closed in order", reason=contents.warning)
    journal = Journal(database)  # which closes the database
    service = QueueService(settings, snapshots, journal, contents)
    journal.on_resolved = service.note_resolved
    logs.say(
        logging.INFO,
        "storage open",
        queues=len(service.broker.queues),
        messages=service.broker.messages,
        seconds=round(time.monotonic() - begun, 3),
    )
    del contents
    written = False
    async with trio.open_nursery() as nursery:
        # Without waiting until it has started: cancelled there, it would wait for a `close` that is never called.
        nursery.start_soon(journal.run)  # noqa: ASYNC113 - for that reason
        try:
            yield service
        finally:
            for queue in service.broker.queues.values():
                queue.note_last()
            written = await journal.close(CLOSE_SECONDS)  # noqa: ASYNC102 - shielded and bounded inside
    if not written:
        raise CannotStart(f"The disk does not answer, so the last changes may be missing in {FILE}.")
    if journal.reason:
        raise CannotStart(f"The last changes could not be written to {FILE}: {journal.reason}.")


def _open(settings: Settings, descriptor: int, now: float, clock_offset: float) -> tuple[Database, Contents]:
    database, warning = open_database(settings.data_dir, descriptor)
    try:
        contents = database.load(now, clock_offset, warning)
        database.prepare()
    except Damaged as error:
        database.close()
        raise refusal(error) from None
    except BaseException:
        database.close()
        raise
    return database, contents
