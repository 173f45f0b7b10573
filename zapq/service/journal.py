"""Between the queues and the thread that writes: what is written together, and what waits for it.

Queues enter records in the open commit. It is closed and handed to the writer as soon as a task waits for it, the
lobby's turn is over, or the tasks that run now have had theirs. Answers leave when the writer has dealt with their
commit: the order of records is the order of answers. If a commit fails, so do all that come after it, for their
records may rest on it; what they did is undone, the last of it first.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from zapq import logs
from zapq.core.ages import COMMIT_BOUNDS, Spread, Times
from zapq.core.message import Properties
from zapq.core.records import ArrivalsNoted, IdsReserved, Put, PutMany, Record
from zapq.errors import StorageUnavailable
from zapq.limits import COMMITS_REMEMBERED, QUICK_COMMITS, QUICK_SECONDS
from zapq.service.memory_journal import MemoryJournal
from zapq.service.section import Section
from zapq.store.port import CommitGroup, Store
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
    spread: Spread | None = None
    """How long commits took, by `COMMIT_BOUNDS`."""


Undo = tuple[Callable[..., object], tuple[object, ...]]


class OpenCommit(CommitGroup):
    """Records that are written together, how to undo what they tell, and what waits for them."""

    __slots__ = ("after", "failure", "joined", "kept", "resolved", "run", "undo", "undone")

    def __init__(self, generation: int) -> None:
        super().__init__(generation)
        self.kept: list[Record] = []
        """Those of `records` that stay true if the commit fails."""
        self.run: tuple[int, list[bytes], Properties] | None = None
        """What was entered last, if it was messages that the next may follow.

        The row of the first, their bodies, and what all of them have."""
        self.joined = 0
        """Changes that share a record with one before them."""
        self.undo: list[Undo] = []
        self.after: list[Callable[[], object]] = []
        """Called in order once `resolved`; nothing they do may wait."""
        self.failure = ""
        """Why it is not on the disk; or `NO_ANSWER`."""
        self.undone = False
        self.resolved = False

    def __bool__(self) -> bool:
        # What leaves nothing to be written may rest on what does.
        return bool(self.records or self.undo)

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
    """Collects records, and has them written."""

    def __init__(self, store: Store) -> None:
        self._generation = 0
        """How often commits have failed: those of an earlier one must not be written any more."""
        self.commit = OpenCommit(0)
        """The one that is open."""
        self.reason = ""
        """Why nothing can be written at the moment; empty if it can."""
        self.no_room = store.no_room
        """Why no message can be stored at the moment, though taking them goes on; empty if messages can."""
        self.corked = False
        """Whether a caller will call `flush` soon."""
        self.entered = 0
        """Things done so far that count once they are written."""
        self._abandoned = False
        """Whether a task waited in vain."""
        self.unwritten = 0
        """Changes that were given up: whether they are on the disk is not known."""
        self._life = trio.CancelScope(shield=True)
        self._ended = trio.Event()
        self._mistake: Exception | None = None
        self._mistaken = trio.Event()
        self.on_resolved: Callable[[], object] = int
        """Called after each commit, and when the disk works again."""
        self._writer = Writer(store, self._wake)
        self._clock = store.clock
        self._relaxed = False
        self._due = False
        self._closing = False
        self._rouse: Callable[[], object] | None = None
        self._token = trio.lowlevel.current_trio_token()
        self._in_flight: deque[OpenCommit] = deque()
        self._commits = self._changes = self._failures = 0
        self._seconds = 0.0
        self._times = Times(COMMIT_BOUNDS)
        self._slow = QUICK_COMMITS
        """Commits that must be quick before we wait for one."""
        self._bell = threading.Lock()
        self._bell.acquire()
        self._lately: deque[float] = deque(maxlen=COMMITS_REMEMBERED)

    async def run(self) -> None:
        """Own the thread that writes, until `close`: a cancellation waits for it, as others still write."""
        with self._life:
            limiter = trio.CapacityLimiter(1)
            await trio.to_thread.run_sync(self._writer.run, abandon_on_cancel=True, limiter=limiter)
        self.collect()
        self._ended.set()

    async def watch(self) -> None:
        """Wait for an error in what is done as a commit becomes known, and raise it: memory may be wrong by then.

        Raised where it happens it would keep the news from those that wait for the same, and for later commits.
        """
        await self._mistaken.wait()
        assert self._mistake is not None
        raise self._mistake

    async def close(self, patience: float) -> bool:
        """Write everything entered so far, close the store, and return whether `patience` seconds were enough.

        If not, the thread is left to what it does: it ends when the store is closed, or with the process.
        """
        self._closing = True
        with trio.move_on_after(0.0 if self._abandoned else patience, shield=True):
            await self.at_rest()
            self._writer.stop()
            await self._ended.wait()
        self._writer.stop()
        self._life.cancel()
        ended = self._ended.is_set()
        self.abandon()
        return ended

    def abandon(self) -> None:
        """Wake every task that waits for the disk with an error: it does not answer; the outcome is unknown.

        If any did, so does every task from now on.
        """
        self.flush()
        self._give_up()

    def _give_up(self) -> None:
        while self._in_flight:
            self._abandoned = True
            commit = self._in_flight.popleft()
            commit.failure = NO_ANSWER
            # Nothing is lost by not knowing which ids were not used.
            self.unwritten += commit.joined + sum(
                not isinstance(record, (ArrivalsNoted, IdsReserved)) for record in commit.records
            )
            self._resolve(commit)

    def check(self) -> None:
        """Raise `StorageUnavailable` if nothing can be written at the moment."""
        if self.reason:
            raise StorageUnavailable(reason=self.reason)

    def check_room(self) -> None:
        """Raise `StorageUnavailable` if no message can be stored at the moment."""
        if self.reason or self.no_room:
            raise StorageUnavailable(reason=self.reason or self.no_room)

    def enter(self, record: Record | None, undo: Callable[..., object], *args: object) -> None:
        """Enter what was done just now, and how to undo it; inside `relaxed`, it stays done."""
        commit = self.commit
        if self._relaxed:
            if record is not None:
                self.note(record)
            return
        self.entered += 1
        commit.run = None
        if record is not None:
            commit.records.append(record)
        commit.undo.append((undo, args))
        if not self._due:
            self._schedule()

    def enter_next(
        self, row: int, body: bytes, properties: Properties, undo: Callable[[int, Sequence[bytes]], object]
    ) -> None:
        """Enter a message behind all others; those that follow each other are one record, with one undo."""
        commit = self.commit
        run = commit.run
        if run is not None and not self._relaxed and run[0] == row - len(run[1]) and run[2] is properties:
            run[1].append(body)
            self.entered += 1
            commit.joined += 1
            return
        if self._relaxed:
            self.note(Put(row, body, properties))
            return
        bodies = [body]
        self.enter(PutMany(row, bodies, properties), undo, row, bodies)
        commit.run = (row, bodies, properties)

    def stage(self, record: Record) -> None:
        """Enter rows of no queue yet: there is nothing to undo. Raises `StorageUnavailable` like `check_room`."""
        self.check_room()
        self.enter(record, _nothing)

    def note(self, record: Record) -> None:
        """Enter what stays done: if its commit fails, it is written with a later one."""
        commit = self.commit
        commit.run = None
        commit.records.append(record)
        commit.kept.append(record)
        if not self._due:
            self._schedule()

    def when_written(self, call: Callable[..., object], *args: object) -> None:
        """Have `call(*args)` called once all that was entered so far is on the disk."""
        commit = self.commit
        commit.after.append(lambda: None if commit.failure else call(*args))

    @property
    def clock_offset(self) -> float:
        """Seconds to add to a time of Trio's clock to get one of the disk's."""
        return self._clock() - trio.current_time()

    @property
    def unresolved(self) -> OpenCommit | None:
        """The last commit that is not known to be written and may have to be undone; None if there is none."""
        if self.commit.undo:
            return self.commit
        return next((commit for commit in reversed(self._in_flight) if commit.undo), None)

    def rely(self) -> None:
        """Let the outcome of the step that is being taken be known when all before it is: it rests on that."""
        if self.unresolved is not None:
            self.entered += 1

    @contextmanager
    def relaxed(self) -> Iterator[None]:
        """Let what is done in this block, which must not wait for anything, stay done.

        It is written like all else, but no task waits for that, and it cannot fail: only a crash before that loses
        it.
        """
        self._relaxed = True
        try:
            yield
        finally:
            self._relaxed = False

    @contextmanager
    def for_others(self) -> Iterator[None]:
        """Let what is done in this block be nothing that the client whose step is being taken waits for.

        It counts once it is written, inside of `relaxed` as well.
        """
        relaxed, self._relaxed = self._relaxed, False
        entered = self.entered
        try:
            yield
        finally:
            self._relaxed, self.entered = relaxed, entered

    def flush(self) -> None:
        """Hand the open commit to the writer, if there is anything in it and the disk takes it."""
        self._due = False
        commit = self.commit
        if commit and (not self.reason or self._closing):
            commit.clock_offset = self.clock_offset
            self.commit = OpenCommit(self._generation)
            self._in_flight.append(commit)
            self._writer.submit(commit)
            if self._abandoned:
                self._give_up()

    def flush_and_see(self) -> None:
        """Hand over the open commit, and take note at once of what becomes of it if the disk is quick; blocks.

        To wake the event loop takes longer than a quick disk does. And while both threads run, they wait for each
        other's turn in the interpreter. A disk that is not quick any more holds the loop up for `QUICK_SECONDS`,
        once.
        """
        if self._slow or self._in_flight:
            self.flush()
            return
        self._writer.bells.append(self._bell)
        self.flush()
        if self._in_flight and self._bell.acquire(timeout=QUICK_SECONDS):
            self.collect()
            return
        try:
            self._writer.bells.pop()
        except IndexError:
            self._bell.acquire()  # it rings at this moment
            self.collect()
        if self._in_flight:
            self._slow = QUICK_COMMITS

    def when_resolved(self, call: Callable[[bool], object]) -> None:
        """Call `call` once nothing done so far has to be undone any more, with whether all of it stays done."""
        commit = self.unresolved
        if commit is None:
            call(True)
        else:
            commit.after.append(lambda: call(not commit.failure))

    async def stored(self) -> None:
        """Wait until everything entered so far is on the disk. Raises `StorageUnavailable`."""
        self.check()
        commit = self.commit if self.commit or not self._in_flight else self._in_flight[-1]
        self.flush()
        if commit:
            await commit.wait()

    async def resolved(self) -> None:
        """Wait until everything entered so far is written, or has failed; raises nothing."""
        self.flush()
        if self._in_flight:
            event = trio.Event()
            self._in_flight[-1].after.append(event.set)
            await event.wait()

    async def at_rest(self) -> None:
        """Wait until nothing may have to be undone any more, if the caller keeps others from taking steps.

        Raises nothing.
        """
        await self.resolved()
        # What waits for a commit may enter something when it is written: messages that come back.
        while (self.commit or self._in_flight) and not self.reason:
            await self.resolved()

    def collect(self) -> None:
        """Take note of what the writer has dealt with; must run in Trio's thread."""
        written = self._writer.written
        while written:
            self._collect(written.popleft())
        self._call(self.on_resolved)

    def stats(self) -> JournalStats:
        """Report what has been written; never waits."""
        lately = sorted(self._lately) or [0.0]
        return JournalStats(
            commits=self._commits,
            changes=self._changes,
            failures=self._failures,
            pending=sum(len(commit.records) + commit.joined for commit in [*self._in_flight, self.commit]),
            seconds=self._seconds,
            p50=lately[len(lately) // 2],
            p99=lately[len(lately) * 99 // 100],
            available=not (self.reason or self.no_room),
            spread=self._times.spread(),
        )

    def _collect(self, written: Written) -> None:
        before, self.reason = self.reason, written.failure
        full, self.no_room = self.no_room, written.no_room
        if bool(full) != bool(self.no_room):
            self.say_room()
        if written.failure:
            if not before:
                logs.say(logging.ERROR, "storage unavailable", reason=written.failure)
            self._step_back(written.failure)
            return
        if before:
            logs.say(logging.INFO, "storage available again")
            self._schedule()
        if written.commits:
            self._commits += 1
            self._seconds += written.seconds
            self._times.note(written.seconds)
            self._lately.append(written.seconds)
            quick = written.seconds < QUICK_SECONDS
            self._slow = max(0, self._slow - 1) if quick else QUICK_COMMITS
        for commit in written.commits:
            if isinstance(commit, OpenCommit) and not commit.resolved:  # else it was given up
                self._in_flight.popleft()
                self._changes += len(commit.records) + commit.joined
                self._resolve(commit)

    def say_room(self) -> None:
        """Let the log say whether messages can be stored."""
        if self.no_room:
            logs.say(logging.ERROR, "storage full", reason=self.no_room)
        else:
            logs.say(logging.INFO, "storage has room again")

    def _step_back(self, failure: str) -> None:
        """Undo everything since the last commit that is on the disk."""
        commits = [*self._in_flight, self.commit]
        self._failures += any(commits)
        self._in_flight.clear()
        self._generation += 1
        self.commit = OpenCommit(self._generation)
        for commit in commits:
            self.commit.records += commit.kept
            self.commit.kept += commit.kept
        for commit in reversed(commits):
            commit.failure, commit.undone = failure, True
            while commit.undo:
                undo, args = commit.undo.pop()
                self._call(undo, *args)
        for commit in commits:
            self._resolve(commit)

    def _resolve(self, commit: OpenCommit) -> None:
        commit.resolved = True
        commit.undo.clear()
        for call in commit.after:
            self._call(call)
        commit.after.clear()

    def _call(self, call: Callable[..., object], *args: object) -> None:
        try:
            call(*args)
        except Exception as error:
            # `watch` raises it.
            self._mistake = self._mistake or error
            self._mistaken.set()

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


def _nothing() -> None:
    pass


class WrittenSection(Section):
    """A section whose changes are on the disk when its block is left; raises `StorageUnavailable` if they are not.

    The lock is not held while they are written.
    """

    def __init__(
        self, lock: trio.Lock, journal: Journal | MemoryJournal, afterwards: Callable[[], object]
    ) -> None:
        super().__init__(lock, afterwards)
        self._journal = journal
        self._before = 0

    async def __aenter__(self) -> None:
        """Wait for the lock. If cancelled, it is not taken."""
        await super().__aenter__()
        self._before = self._journal.entered

    async def __aexit__(self, *_: object) -> None:
        """Release the lock, and wait for what was done."""
        commit = self._leave()
        await super().__aexit__()  # noqa: ASYNC102 - has no checkpoint
        if commit is not None:
            await commit.wait()  # noqa: ASYNC102 - shielded, and ended by Journal.abandon

    def _leave(self) -> OpenCommit | None:
        """Have what was done in the block written; return its commit, if anything was done."""
        journal = self._journal
        commit = journal.unresolved if journal.entered > self._before else None
        journal.flush()
        return commit


class QuiescentSection(WrittenSection):
    """A section that begins when nothing is on its way to the disk: what it sees is there for good."""

    async def __aenter__(self) -> None:
        """Wait for the lock, and for the disk. If cancelled, the lock is not taken."""
        await super().__aenter__()
        try:
            await self._journal.at_rest()
        except BaseException:
            self._lock.release()
            self._afterwards()
            raise
        self._before = self._journal.entered


class ExclusiveSection(QuiescentSection):
    """A quiescent section that holds the lock until what was done in it is written.

    So no step, and no message that comes back, goes into queues that may go again.
    """

    async def __aexit__(self, *_: object) -> None:
        """Wait for what was done, and release the lock."""
        commit = self._leave()
        try:
            if commit is not None:
                await commit.wait()  # noqa: ASYNC102 - shielded, and ended by Journal.abandon
        finally:
            self._lock.release()
            self._afterwards()
