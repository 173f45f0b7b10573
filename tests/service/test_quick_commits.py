"""While the disk is quick, the event loop waits for a commit rather than being woken for it."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio

from zapq.core.records import Put, row_of
from zapq.limits import QUICK_COMMITS
from zapq.service import journal
from zapq.service.journal import Journal
from zapq.store.clock import Clock
from zapq.store.port import CommitGroup, Contents

FOREVER = 3600.0


class Held:
    """A store whose commits wait until they are let go."""

    untidy = False
    no_room = ""

    def __init__(self) -> None:
        self.clock = Clock(0.0)
        self.go = threading.Event()
        self.go.set()
        self.fails = False

    def load(self, now: float, clock_offset: float) -> Contents:
        raise NotImplementedError

    def commit(self, commits: Sequence[CommitGroup]) -> None:
        self.go.wait()
        self.probe()

    def probe(self) -> None:
        if self.fails:
            raise OSError("it fails")

    def tidy(self, *, idle: bool) -> None:
        """Nothing is to be tidied."""

    def close(self) -> None:
        """Nothing is open."""


@asynccontextmanager
async def quick(store: Held, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Journal]:
    """Yield a journal whose last commits were quick, and which would wait for the next one for an hour."""
    monkeypatch.setattr(journal, "QUICK_SECONDS", FOREVER)
    made = Journal(store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        try:
            for _ in range(QUICK_COMMITS):
                made.enter(Put(row_of(1, 1), b"x"), list)
                await made.stored()
            yield made
        finally:
            store.go.set()
            await made.close(FOREVER)  # noqa: ASYNC102 - shielded, and nothing holds the store


def enter(made: Journal) -> list[str]:
    """Enter something, and return what will say what became of it."""
    became: list[str] = []
    made.enter(Put(row_of(1, 1), b"x"), became.append, "undone")
    made.when_written(became.append, "written")
    return became


async def test_a_quick_commit_is_known_when_the_turn_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async with quick(Held(), monkeypatch) as made:
        became = enter(made)
        made.flush_and_see()
        assert became == ["written"]
        # There is nothing to wait for.
        made.flush_and_see()


async def test_a_commit_that_fails_is_undone_when_the_turn_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Held()
    async with quick(store, monkeypatch) as made:
        store.fails = True
        became = enter(made)
        made.flush_and_see()
        assert became == ["undone"]
        store.fails = False


async def test_a_slow_commit_is_waited_for_a_moment_and_the_next_ones_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Held()
    async with quick(store, monkeypatch) as made:
        store.go.clear()
        monkeypatch.setattr(journal, "QUICK_SECONDS", 0.001)
        first = enter(made)
        made.flush_and_see()
        assert first == []
        store.go.set()
        await made.resolved()
        assert first == ["written"]
        store.go.clear()
        monkeypatch.setattr(journal, "QUICK_SECONDS", FOREVER)
        second = enter(made)
        made.flush_and_see()
        assert second == []
        store.go.set()
        await made.resolved()
        assert second == ["written"]
