"""A disk under a service, and what may become of what is written to it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import zapq
from tests.support.waiting import PATIENCE, eventually
from zapq.service.journal import Journal
from zapq.service.service import QueueService
from zapq.settings import Settings
from zapq.store.database import Database
from zapq.store.port import CommitGroup


class Disk:
    """What becomes of the commits of every store that is on it: they wait, or fail."""

    def __init__(self) -> None:
        self.failing = False
        """Whether nothing can be written."""
        self.commits = 0
        """How many were tried that could succeed."""
        self._gate = threading.Event()
        self._gate.set()
        self._entered = threading.Event()
        self._only_one = False

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Have every database on it until `patch` is undone."""
        commit, probe = Database.commit, Database.probe

        def try_commit(database: Database, batches: Sequence[CommitGroup]) -> None:
            with self.attempt():
                commit(database, batches)

        def try_probe(database: Database) -> None:
            self.check()
            probe(database)

        patch.setattr(Database, "commit", try_commit)
        patch.setattr(Database, "probe", try_probe)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Let the commit in the block wait, or fail."""
        self._entered.set()
        assert self._gate.wait(PATIENCE), "the gate stayed closed"
        if self._only_one:
            self._only_one = False
            self._gate.clear()
        with self.commit():
            yield

    @contextmanager
    def commit(self) -> Iterator[None]:
        """Decide what becomes of the commit in the block."""
        self.check()
        self.commits += 1
        yield

    def check(self) -> None:
        """Raise what the database raises where nothing can be written."""
        if self.failing:
            raise sqlite3.OperationalError("database or disk is full")

    def hold(self) -> None:
        """Let commits wait from now on."""
        self._entered.clear()
        self._gate.clear()

    def go_on(self) -> None:
        """Let them wait no longer."""
        self._gate.set()

    def let_one_through(self) -> None:
        """Let one of them wait no longer."""
        self._entered.clear()
        self._only_one = True
        self._gate.set()

    async def held(self) -> None:
        """Return once a commit waits."""
        assert await trio.to_thread.run_sync(self._entered.wait, PATIENCE), "nothing is committed"


@asynccontextmanager
async def open_durable(directory: Path, **settings: Any) -> AsyncGenerator[QueueService, None]:
    """Open a service that is on disk."""
    async with zapq.open_service(Settings(data_dir=str(directory), durable=True, **settings)) as service:
        yield service


def journal_of(service: QueueService) -> Journal:
    """Return the journal of a service that is on disk."""
    assert isinstance(service.journal, Journal)
    return service.journal


def database_of(service: QueueService) -> Database:
    """Return what its journal writes to."""
    database = journal_of(service)._writer._store
    assert isinstance(database, Database)
    return database


async def works_again(service: QueueService) -> None:
    """Return once the disk has been tried again, and found to take changes."""
    await eventually(lambda: not service.journal.reason, "the disk to take changes again")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """The disk under every durable service of the test."""
    disk = Disk()
    disk.install(monkeypatch)
    yield disk
    disk.go_on()
