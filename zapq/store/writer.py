"""The one thread that writes: it writes all commits that have come in since its last one together.

While one commit is on its way to the disk, the next one fills. With one client it is one change, with a hundred
it is a hundred, and each costs the same fsync (group commit).
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable

from zapq.limits import LOOK_SECONDS, RETRY_SECONDS
from zapq.store.port import CommitGroup, Store

_IDLE = 0.02
"""Seconds without work after which the writer tidies up."""


class Written:
    """What became of commits that were written together."""

    __slots__ = ("commits", "failure", "no_room", "seconds")

    def __init__(self, commits: list[CommitGroup], failure: str, seconds: float, no_room: str = "") -> None:
        self.commits = commits
        self.failure = failure
        """Why nothing of them is on the disk; empty if all is."""
        self.no_room = no_room
        """Why no message is to be stored from now on; empty if messages are."""
        self.seconds = seconds


class Writer:
    """Writes commits to `store` in the order they are submitted, in the thread that calls `run`.

    What became of them is in `written`, to be taken from its left; `wake` is called, in that thread, whenever
    something was added. An entry without commits is news of the disk: it failed, works again, is full, or has
    room again. After a failure, commits that were opened before their owner knew of it are dropped: their records
    may rest on what failed.
    """

    def __init__(self, store: Store, wake: Callable[[], object]) -> None:
        self.written: deque[Written] = deque()
        self.wake = wake
        self.bells: list[threading.Lock] = []
        """A lock to be released, once, in place of `wake`: by the thread that waits for it right now."""
        self._store = store
        self._inbox: queue.SimpleQueue[CommitGroup | None] = queue.SimpleQueue()
        self._failures = 0
        self._broken = False
        self._told = store.no_room
        """What was last reported of the room."""

    def submit(self, commit: CommitGroup) -> None:
        """Hand over a commit nothing will be added to; from any thread, never waits."""
        self._inbox.put(commit)

    def stop(self) -> None:
        """Let `run` return once everything submitted before is dealt with."""
        self._inbox.put(None)

    def run(self) -> None:
        """Write until stopped, then close the store. Until then, every error fails some commit."""
        while self.step():
            pass
        self._store.close()

    def step(self) -> bool:
        """Wait a moment for commits and deal with them; return whether to go on."""
        taken = self._take()
        running = None not in taken
        commits = [each for each in taken if each is not None and each.generation == self._failures]
        if commits:
            begun = time.perf_counter()
            self._report(commits, self._attempt(commits), time.perf_counter() - begun)
        elif self._broken:
            self._try_again()
        if running and not self._broken:
            self._tidy(idle=not commits)
        if self._told != self._store.no_room:
            self._report([], "", 0.0)
        return running

    def _take(self) -> list[CommitGroup | None]:
        patience = RETRY_SECONDS if self._broken else _IDLE if self._store.untidy else LOOK_SECONDS
        taken: list[CommitGroup | None] = []
        try:
            taken.append(self._inbox.get(timeout=patience))
        except queue.Empty:
            return taken
        if self._store.no_room:
            # One by one: together they might need a longer log than there is.
            return taken
        # What comes meanwhile is for the next commit; no other thread takes anything out.
        taken += (self._inbox.get_nowait() for _ in range(self._inbox.qsize()))
        return taken

    def _attempt(self, commits: list[CommitGroup]) -> str:
        try:
            if self._broken:
                # If the log cannot be emptied, nothing may make it longer, not even what was on its way already.
                self._store.tidy(idle=False)
            self._store.commit(commits)
        except Exception as error:
            # Whatever it is, it is not on the disk, and the waiting tasks must hear of it.
            return str(error) or repr(error)
        self._broken = False
        return ""

    def _try_again(self) -> None:
        begun = time.perf_counter()
        try:
            self._store.tidy(idle=False)
            self._store.probe()
        except Exception:
            return
        self._broken = False
        self._report([], "", time.perf_counter() - begun)

    def _tidy(self, *, idle: bool) -> None:
        try:
            self._store.tidy(idle=idle)
        except Exception as error:
            self._report([], str(error) or repr(error), 0.0)

    def _report(self, commits: list[CommitGroup], failure: str, seconds: float) -> None:
        if failure:
            self._broken = True
            self._failures += 1
        self._told = self._store.no_room
        self.written.append(Written(commits, failure, seconds, self._told))
        try:
            bell = self.bells.pop()
        except IndexError:
            self.wake()
        else:
            bell.release()
