"""The one thread that writes: it commits all batches that have come in since its last commit, together.

While one commit is on its way to the disk, the next one fills: with one client a batch is one change, with a
hundred it is a hundred, and each costs the same fsync (group commit).
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable
from itertools import repeat

from zapq.core.records import CommitGroup, Entry, in_wall_time
from zapq.limits import LOOK_SECONDS, RETRY_SECONDS
from zapq.store.database import Database

_IDLE = 0.02
"""Seconds without work after which the writer tidies up."""


class Written:
    """What became of batches that were committed together."""

    __slots__ = ("batches", "failure", "seconds")

    def __init__(self, batches: list[CommitGroup], failure: str, seconds: float) -> None:
        self.batches = batches
        self.failure = failure
        """Why nothing of them is on the disk; empty if all is."""
        self.seconds = seconds


class Writer:
    """Commits batches to `database` in the order they are submitted, in whichever thread calls `run`.

    What became of them is in `written`, to be taken from its left; `wake` is called, in that thread, whenever
    something was added. A batch without anything in it is news of the disk: it failed, or works again.
    """

    def __init__(self, database: Database, wake: Callable[[], object]) -> None:
        self.written: deque[Written] = deque()
        self._backlog: list[Entry] = []
        """Notes of failed batches. They have happened, so they are written with the next commit that succeeds."""
        self.wake = wake
        self._database = database
        self._inbox: queue.SimpleQueue[CommitGroup | None] = queue.SimpleQueue()
        self._broken = False

    def submit(self, batch: CommitGroup) -> None:
        """Hand over a batch nothing will be added to; from any thread, never waits."""
        self._inbox.put(batch)

    def stop(self) -> None:
        """Let `run` return once everything submitted before is dealt with."""
        self._inbox.put(None)

    def run(self) -> None:
        """Write until stopped, then close the database. Until then whatever goes wrong is some batch's failure."""
        running = True
        while running:
            taken = self._take()
            running = None not in taken
            batches = [batch for batch in taken if batch is not None]
            if batches:
                self._commit(batches)
            elif self._broken:
                self._try_again()
            if running and not self._broken:
                self._tidy(idle=not batches)
        self._database.close()

    def _take(self) -> list[CommitGroup | None]:
        patience = RETRY_SECONDS if self._broken else _IDLE if self._database.untidy else LOOK_SECONDS
        taken: list[CommitGroup | None] = []
        try:
            taken.append(self._inbox.get(timeout=patience))
        except queue.Empty:
            return taken
        # What comes meanwhile is for the next commit; no other thread takes anything out.
        taken += (self._inbox.get_nowait() for _ in range(self._inbox.qsize()))
        return taken

    def _commit(self, batches: list[CommitGroup]) -> None:
        begun = time.perf_counter()
        failure = self._attempt(batches)
        if failure:
            for batch in batches:
                self._keep(batch)
        self._report(Written(batches, failure, time.perf_counter() - begun))

    def _attempt(self, batches: list[CommitGroup]) -> str:
        late = CommitGroup()
        for entry in self._backlog:
            late.note(entry)
        try:
            if self._broken:
                # If the log cannot be emptied, nothing may make it longer, not even what was on its way already.
                self._database.tidy(idle=False)
            self._database.commit([late, *batches] if late else batches)
        except Exception as error:
            # Whatever it is, it is not on the disk, and the waiting tasks must hear of it.
            self._broken = True
            return str(error) or repr(error)
        self._backlog = []
        self._broken = False
        return ""

    def _keep(self, batch: CommitGroup) -> None:
        self._backlog += map(in_wall_time, batch.notes, repeat(batch.clock_offset))

    def _try_again(self) -> None:
        begun = time.perf_counter()
        try:
            self._database.tidy(idle=False)
            self._database.probe()
        except Exception:
            return
        failure = self._attempt([])
        if not failure:
            self._report(Written([], "", time.perf_counter() - begun))

    def _tidy(self, *, idle: bool) -> None:
        try:
            self._database.tidy(idle=idle)
        except Exception as error:
            self._broken = True
            self._report(Written([], str(error) or repr(error), 0.0))

    def _report(self, written: Written) -> None:
        self.written.append(written)
        self.wake()
