"""Snapshots of queues in Valkey, in the files of all other snapshots: so queues can move between engines.

A worker thread writes or reads the file, and has one page after the other fetched from the engine, or stored
there: only some MiB of messages are here at a time. The data directory is this front end's, and opened only when
it is used.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial

import trio

from zapq import logs
from zapq.engine.valkey.codec import Codec
from zapq.engine.valkey.connection import ConnectionLost
from zapq.engine.valkey.export import Export
from zapq.engine.valkey.fleet import Fleet
from zapq.engine.valkey.loading import Loading, Page
from zapq.engine.valkey.tasks import Tasks
from zapq.errors import CannotStart, NotWithEngine, SnapshotFailed, ZapqError
from zapq.limits import MIB
from zapq.service import bulk
from zapq.store.archive import KEYS, QUEUE, Block, Survey
from zapq.store.snapshot import MSGPACK, SnapshotFile, SnapshotStore, snapshot_name

_Fetch = Callable[[], Awaitable[list[Block] | None]]
_PAGE_WEIGHT = 1000
"""Messages of a page that is loaded; a queue counts as five, for it takes several steps."""
_PASSES = 5
"""Times a file is read while failovers may have lost what was stored of it."""


class EngineSnapshots:
    """The snapshots one front end saves and loads."""

    def __init__(
        self,
        open_store: Callable[[], SnapshotStore],
        codec: Codec,
        tasks: Tasks,
        fleet: Fleet,
        check_open: Callable[[], object],
    ) -> None:
        self.written = 0
        """Files that were written."""
        self.failed = 0
        """Files that could not be written."""
        self._open_store = open_store
        self._codec = codec
        self._tasks = tasks
        self._fleet = fleet
        self._check_open = check_open

    async def save(self, name: str) -> int:
        """Write all queues to the file `name`, and return how many messages it holds.

        Raises `InvalidParameter`, `NotWithEngine` and `SnapshotFailed`; then, and if cancelled, an older file of
        that name is as it was.
        """
        name = _checked(name)
        now = time.time()
        export = Export(self._codec, self._tasks, self._fleet, now - trio.current_time())
        try:
            with _failing(f"{name} could not be written"):
                async with aclosing(export.pages()) as pages:

                    async def fetch() -> list[Block] | None:
                        return await anext(pages, None)

                    await trio.to_thread.run_sync(self._write, name, fetch, now)
        except SnapshotFailed:
            self.failed += 1
            raise
        self.written += 1
        if export.moved or export.keys_left_out:
            logs.say(
                logging.WARNING,
                "queues were in use while they were saved",
                file=name,
                queues=len(export.moved),
                first=", ".join(export.moved[:5]),
                keys_left_out=export.keys_left_out,
                advice="Messages that were taken meanwhile may be in the file or not.",
            )
        return export.messages

    async def load(self, name: str) -> int:
        """Put all that the file `name` holds into an engine without messages, and return how many it holds.

        Raises `InvalidParameter`, `NotWithEngine`, `QueueInUse`, `SnapshotNotFound`, and `SnapshotFailed`, which
        says what is left if it could not be loaded as a whole. If cancelled, a part is left as well.
        """
        name = _checked(name)
        self._check_open()
        survey = await trio.to_thread.run_sync(self._survey, name)
        loading = Loading(self._codec, self._tasks, self._fleet, name, survey)
        try:
            with _failing(f"{name} could not be loaded"):
                await loading.begin()
                for _ in range(_PASSES):
                    if loading.ending:
                        break
                    loading.begin_pass()
                    await trio.to_thread.run_sync(self._read, name, survey, loading)
                    await loading.look_back()
                    if loading.complete:
                        break
                else:
                    raise SnapshotFailed("Its servers change, or its queues are purged or deleted, all the time.")
                await loading.end()
        except ZapqError as error:
            if not loading.begun:
                raise
            failed = SnapshotFailed(f"{name} is loaded in part only. {_state(loading, survey)} {error.detail}")
            logs.say(logging.ERROR, "load not finished", file=name, reason=failed.detail)
            raise failed from error
        except trio.Cancelled:
            logs.say(logging.ERROR, "load not finished", file=name, reason=_state(loading, survey))
            raise
        return survey.messages

    async def files(self) -> list[SnapshotFile]:
        """Return every snapshot in the data directory, by name; `SnapshotFailed` if it cannot be read."""
        return await trio.to_thread.run_sync(self._files)

    # In a worker thread

    @contextmanager
    def _store(self) -> Iterator[SnapshotStore]:
        store = self._open_store()
        try:
            store.__enter__()
        except CannotStart as error:
            raise SnapshotFailed(error.detail) from None
        try:
            yield store
        finally:
            store.__exit__(None, None, None)

    def _files(self) -> list[SnapshotFile]:
        with self._store() as store:
            return store.files(bulk.cancellable_yield)

    def _write(self, name: str, fetch: _Fetch, written: float) -> None:
        with self._store() as store:
            store.save_blocks(name, _blocks(fetch), written, bulk.cancellable_yield)

    def _survey(self, name: str) -> Survey:
        with self._store() as store:
            return store.survey(name, bulk.cancellable_yield)

    def _read(self, name: str, survey: Survey, loading: Loading) -> None:
        with self._store() as store, store.archive(name) as archive:
            if archive.number != survey.number:
                raise SnapshotFailed(f"{name} was replaced by another file meanwhile.")
            page: list[tuple[bytes, str, object]] = []
            queue, weight, size = "", 0, 0
            for _, kind, records in archive:
                if kind == QUEUE:
                    queue = records.name
                    weight += 5
                elif kind == KEYS:
                    weight += len(records)
                else:
                    weight += sum(len(each.bodies) for each in records)
                    size += sum(len(body) + each.properties.size for each in records for body in each.bodies)
                page.append((kind, queue, records))
                if weight >= _PAGE_WEIGHT or size >= MIB:
                    _take(loading, page)
                    page, weight, size = [], 0, 0
                bulk.cancellable_yield()
            _take(loading, page)


def _take(loading: Loading, page: Page) -> None:
    trio.from_thread.run(partial(loading.take, page))


def _blocks(fetch: _Fetch) -> Iterator[Block]:
    while (page := trio.from_thread.run(fetch)) is not None:
        yield from page


def _checked(name: str) -> str:
    """Return the name of a file that can be used. Raises `InvalidParameter` and `NotWithEngine`."""
    if not snapshot_name(name).endswith(MSGPACK):
        raise NotWithEngine
    return name


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """Let what the engine says be the reason why a snapshot failed."""
    try:
        yield
    except ConnectionLost as error:
        raise SnapshotFailed(f"{what}: the engine cannot be used ({error}).") from error
    except ZapqError as error:
        if isinstance(error, SnapshotFailed) or error.status < 500:
            raise
        raise SnapshotFailed(f"{what}: {error.detail}") from error


def _state(loading: Loading, survey: Survey) -> str:
    """Say how far a load has come, and what to do."""
    if loading.ending:
        return (
            "All messages are in the engine, and some of the queues may still be paused. Load the file again: it"
            " goes on with those."
        )
    return (
        f"{min(loading.stored, survey.messages)} of {survey.messages} messages were stored, and the queues that"
        " have them are paused. Load the file again: what is there already is not stored twice."
    )
