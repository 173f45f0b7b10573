"""Between the queues and the thread that writes: what is written together, and what waits for it.

Changes and notes go into the open batch. It is closed and handed to the writer as soon as a task waits for it,
the lobby's turn is over, or the tasks that run now have had theirs. When the writer has dealt with it, its
changes take effect here, in the order in which they began, and what waits is told: the order of effects is the
order of answers.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from zapq import logs
from zapq.core.records import Change, CommitGroup, Entry, IdsReserved
from zapq.errors import StorageUnavailable
from zapq.limits import COMMITS_REMEMBERED
from zapq.service.section import Section
from zapq.store.database import Database
from zapq.store.writer import Writer, Written

NO_ANSWER = "it does not answer"
"""The failure of a batch that was given up: whether it is on the disk is not known."""


@dataclass(frozen=True, slots=True)
class JournalStats:
    """What has been written."""

    commits: int
    changes: int
    failures: int
    """Commits that could not be written."""
    pending: int
    """Changes that wait to be written now."""
    seconds: float
    """All commits together."""
    p50: float
    """Seconds the median commit took, of the last 1024."""
    p99: float
    available: bool


class OpenGroup(CommitGroup):
    """A batch, and what to call when it is settled."""

    __slots__ = ("after", "resolved")

    def __init__(self) -> None:
        super().__init__()
        self.after: list[Callable[[], object]] = []
        """Called in order once `resolved`; nothing they do may wait."""
        self.resolved = False

    async def wait(self) -> None:
        """Wait until it is known whether it is on the disk; raises `StorageUnavailable` if not.

        Shielded: a cancellation now could not say what has happened. Bounded by the disk, or `Journal.abandon`.
        """
        if not self.resolved:
            event = trio.Event()
            self.after.append(event.set)
            with trio.CancelScope(shield=True):
                await event.wait()
        if self.failure:
            raise self.refusal()

    def refusal(self) -> StorageUnavailable:
        """Return what to tell a client whose change could not be written."""
        if self.failure == NO_ANSWER:
            return StorageUnavailable(
                "The disk does not answer, and the server shuts down. The change may or may not be kept; look"
                " after the next start."
            )
        return StorageUnavailable(reason=self.failure)


class Journal:
    """Collects changes, has them written, and lets them take effect. `on_resolved` is called after each commit."""

    def __init__(self, database: Database, on_resolved: Callable[[], object]) -> None:
        self.batch = OpenGroup()
        """The one that is open."""
        self.reason = ""
        """Why nothing can be written at the moment; empty if it can."""
        self.corked = False
        """Whether a caller will call `flush` soon."""
        self.entered = 0
        """Changes so far that take effect when they are written."""
        self._abandoned = False
        """Whether a task waited in vain."""
        self.unwritten = 0
        """Changes that were given up: whether they are on the disk is not known."""
        self._life = trio.CancelScope(shield=True)
        self._ended = trio.Event()
        self._on_resolved = on_resolved
        self._writer = Writer(database, self._wake)
        self._clock = database.clock
        self._relaxed = False
        self._due = False
        self._rouse: Callable[[], object] | None = None
        self._token = trio.lowlevel.current_trio_token()
        self._in_flight: deque[OpenGroup] = deque()
        self._commits = self._changes = self._failures = 0
        self._seconds = 0.0
        self._lately: deque[float] = deque(maxlen=COMMITS_REMEMBERED)

    async def run(self) -> None:
        """Own the thread that writes, until `close`: a cancellation waits for it, as others still write."""
        with self._life:
            limiter = trio.CapacityLimiter(1)
            await trio.to_thread.run_sync(self._writer.run, abandon_on_cancel=True, limiter=limiter)
        self.collect()
        self._ended.set()

    async def close(self, patience: float) -> bool:
        """Write everything entered so far, close the database, and return whether `patience` seconds were enough.

        If not, the thread is left to what it does: it ends when the database is closed, or with the process.
        """
        self.flush()
        self._writer.stop()
        with trio.move_on_after(0.0 if self._abandoned else patience, shield=True):
            await self._ended.wait()
        self._life.cancel()
        ended = self._ended.is_set()
        self.abandon()
        return ended

    def abandon(self) -> None:
        """Wake every task that waits for the disk with an error: it does not answer; the outcome is unknown."""
        self.flush()
        while self._in_flight:
            self._abandoned = True
            batch = self._in_flight.popleft()
            batch.failure = NO_ANSWER
            self.unwritten += len(batch.changes)
            # Nothing is lost by not knowing which ids were not used.
            self.unwritten += sum(not isinstance(entry, IdsReserved) for entry in batch.notes)
            self._resolve(batch, take_effect=False)

    def check(self) -> None:
        """Raise `StorageUnavailable` if nothing can be written at the moment."""
        if self.reason:
            raise StorageUnavailable(reason=self.reason)

    def add(self, change: Change) -> None:
        """Enter a change, which takes effect when it is written; inside `relaxed`, at once."""
        if self._relaxed:
            change.commit()
            for entry in change.entries:
                self.batch.note(entry)
        else:
            self.entered += 1
            batch = self.batch
            batch.changes.append(change)
            batch.log.append(change)
        if not self._due:
            self._schedule()

    def note(self, entry: Entry) -> None:
        """Enter what has happened already."""
        self.batch.note(entry)
        if not self._due:
            self._schedule()

    @contextmanager
    def relaxed(self) -> Iterator[None]:
        """Let the changes begun in this block, which must not wait for anything, take effect at once.

        They are written like any other, but no task waits for that, and they cannot fail: only a crash before that
        loses them.
        """
        self._relaxed = True
        try:
            yield
        finally:
            self._relaxed = False

    def flush(self) -> None:
        """Hand the open batch to the writer, if there is anything in it."""
        self._due = False
        batch = self.batch
        if batch:
            batch.clock_offset = self._clock() - trio.current_time()
            self.batch = OpenGroup()
            self._in_flight.append(batch)
            self._writer.submit(batch)

    async def resolved(self) -> None:
        """Wait until everything entered so far is written, or has failed; raises nothing."""
        self.flush()
        if self._in_flight:
            event = trio.Event()
            self._in_flight[-1].after.append(event.set)
            await event.wait()

    def when_resolved(self, call: Callable[[], object]) -> None:
        """Call `call` once every commit under way is written, or has failed; at once if none is under way."""
        if self._in_flight:
            self._in_flight[-1].after.append(call)
        else:
            call()

    def collect(self) -> None:
        """Let take effect what the writer has dealt with; must run in Trio's thread."""
        written = self._writer.written
        while written:
            self._collect(written.popleft())
        self._on_resolved()

    def stats(self) -> JournalStats:
        """Report what has been written; never waits."""
        lately = sorted(self._lately) or [0.0]
        return JournalStats(
            commits=self._commits,
            changes=self._changes,
            failures=self._failures,
            pending=sum(len(batch.changes) for batch in self._in_flight) + len(self.batch.changes),
            seconds=self._seconds,
            p50=lately[len(lately) // 2],
            p99=lately[len(lately) * 99 // 100],
            available=not self.reason,
        )

    def _collect(self, written: Written) -> None:
        before, self.reason = self.reason, written.failure
        if written.failure:
            self._failures += bool(written.batches)
            if not before:
                logs.say(logging.ERROR, "storage unavailable", reason=written.failure)
        elif before:
            logs.say(logging.INFO, "storage available again")
        batches = [batch for batch in written.batches if isinstance(batch, OpenGroup) and not batch.resolved]
        if not written.failure and written.batches:
            self._commits += 1
            self._seconds += written.seconds
            self._lately.append(written.seconds)
        for batch in batches:
            self._in_flight.popleft()
            batch.failure = written.failure
        # What began last is undone first, so that each finds what it left.
        for batch in reversed(batches) if written.failure else ():
            for change in reversed(batch.changes):
                change.revert()
        for batch in batches:
            self._resolve(batch, take_effect=not written.failure)

    def _resolve(self, batch: OpenGroup, *, take_effect: bool) -> None:
        if take_effect:
            self._changes += len(batch.changes) + len(batch.notes)
            for change in batch.changes:
                change.commit()
        batch.resolved = True
        for call in batch.after:
            call()
        batch.after.clear()

    def _schedule(self) -> None:
        self._due = True
        if not self.corked:
            self._token.run_sync_soon(self.flush)

    @contextmanager
    def roused_by(self, rouse: Callable[[], object]) -> Iterator[None]:
        """Wake by `rouse`, which is faster than Trio's own way; it is called in the writer's thread.

        It must not raise, and have `collect` called soon after.
        """
        self._rouse = rouse
        try:
            yield
        finally:
            self._rouse = None
            self.collect()

    def _wake(self) -> None:
        rouse = self._rouse
        if rouse is not None:
            rouse()
            return
        try:
            self._token.run_sync_soon(self.collect, idempotent=True)
        except trio.RunFinishedError:
            # We were cancelled and are no more; the thread ends with its commit.
            self._writer.stop()


class JournaledSection(Section):
    """A section whose changes are on the disk when its block is left; raises `StorageUnavailable` if they are not.

    The lock is not held while they are written.
    """

    def __init__(self, lock: trio.Lock, journal: Journal) -> None:
        super().__init__(lock)
        self._journal = journal
        self._before = 0

    async def __aenter__(self) -> None:
        """Wait for the lock. If cancelled, it is not taken."""
        await super().__aenter__()
        self._before = len(self._journal.batch.changes)

    async def __aexit__(self, *_: object) -> None:
        """Release the lock, and wait for what was begun."""
        batch = self._journal.batch
        waits = len(batch.changes) > self._before
        self._lock.release()
        if waits:
            self._journal.flush()
            await batch.wait()  # noqa: ASYNC102 - shielded, and ended by Journal.abandon


class ExclusiveSection(JournaledSection):
    """A section after which nothing else changes until it is written; then `afterwards` is called."""

    def __init__(self, lock: trio.Lock, journal: Journal, afterwards: Callable[[], object]) -> None:
        super().__init__(lock, journal)
        self._afterwards = afterwards

    async def __aexit__(self, *_: object) -> None:
        """Wait for what was begun, and release the lock."""
        batch = self._journal.batch
        try:
            if len(batch.changes) > self._before:
                self._journal.flush()
                await batch.wait()  # noqa: ASYNC102 - shielded, and ended by Journal.abandon
        finally:
            self._lock.release()
            self._afterwards()


class QuiescentSection(Section):
    """A section that begins when nothing is on its way to the disk: what it sees is there for good."""

    def __init__(self, lock: trio.Lock, journal: Journal) -> None:
        super().__init__(lock)
        self._journal = journal

    async def __aenter__(self) -> None:
        """Wait for the lock, and for the disk. If cancelled, the lock is not taken."""
        await super().__aenter__()
        try:
            await self._journal.resolved()
        except BaseException:
            self._lock.release()
            raise
