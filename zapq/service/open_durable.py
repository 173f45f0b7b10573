"""Starting and stopping the part of a service that writes."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from math import inf

import trio

from zapq import logs
from zapq.errors import CannotStart
from zapq.limits import CLOSE_SECONDS, LAST_SECONDS
from zapq.service.journal import Journal
from zapq.service.service import QueueService
from zapq.settings import Settings
from zapq.store.port import Contents, Store
from zapq.store.schema import FILE
from zapq.store.snapshot import SnapshotStore


@asynccontextmanager
async def open_durable(
    settings: Settings, snapshots: SnapshotStore, open_store: Callable[[], Store]
) -> AsyncGenerator[QueueService, None]:
    """Run the part of a service that writes, for the length of the block, and give the service.

    `open_store` is called in a worker thread. Reads what earlier runs have kept; raises `CannotStart` if it cannot
    be read. On the way out everything is written, and the store is closed.
    """
    begun = time.monotonic()
    store, contents = await trio.to_thread.run_sync(_open, open_store, trio.current_time() - begun)
    if contents.created:
        data_dir = snapshots.directory.real_path
        logs.say(logging.INFO, "created", data_dir=data_dir, database=f"{data_dir}/{FILE}")
    if contents.warning:
        logs.say(logging.WARNING, "storage was not closed in order", reason=contents.warning)
    if store.clock.behind >= 1.0:
        logs.say(
            logging.WARNING,
            "clock was set back",
            seconds=round(store.clock.behind),
            reason=f"{FILE} knows of a later time. Until then the time between two runs does not count.",
        )
    journal = Journal(store)  # which closes it
    if journal.no_room:
        journal.say_room()
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
        nursery.start_soon(journal.watch)
        try:
            yield service
        finally:
            if not journal.reason:  # or it could not be written
                for queue in service.broker.queues.values():
                    queue.note_last()
            patience = CLOSE_SECONDS
            if service.close_by < inf:
                patience = max(service.close_by - trio.current_time(), LAST_SECONDS)
            written = await journal.close(patience)  # noqa: ASYNC102 - shielded and bounded inside
            nursery.cancel_scope.cancel()
    unwritten = journal.unwritten
    if unwritten:
        logs.say(logging.ERROR, "storage not closed in time", unwritten=unwritten)
        changes = "the last change" if unwritten == 1 else f"the last {unwritten} changes"
        raise CannotStart(f"The disk does not answer, so {changes} may be missing in {FILE}.")
    if not written and not journal.reason:
        reason = "Every change is on the disk. The next start goes through the log."
        logs.say(logging.WARNING, "storage not closed in time", unwritten=0, reason=reason)
    if journal.reason:
        raise CannotStart(f"The last changes could not be written to {FILE}: {journal.reason}.")


def _open(open_store: Callable[[], Store], offset: float) -> tuple[Store, Contents]:
    """Open the store; Trio's clock shows `offset` more than the monotonic one, which can be read here."""
    store = open_store()
    try:
        now = time.monotonic() + offset
        return store, store.load(now, store.clock() - now)
    except BaseException:
        store.close()
        raise
