"""The queues on disk: one SQLite file, and what is written to it in one transaction.

`schema.py` tells what stands in it. SQLite's write-ahead log is what makes a commit durable (`synchronous=FULL`:
an fsync for each). It is emptied into the file here, after a commit has been answered, and never shrinks: writing
where the file has been before is twice as fast as making it longer.

Everything here is synchronous and belongs to one thread at a time.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from itertools import chain, islice
from math import inf
from pathlib import Path

import msgspec

from zapq.core.idempotency import ANY_CONTENT
from zapq.core.records import (
    ID_BITS,
    MAX_ID,
    ArrivalsNoted,
    EpochDropped,
    IdsReserved,
    KeyPut,
    KeysCleared,
    KeysForgotten,
    QueueDeleted,
    QueuePut,
)
from zapq.errors import CannotStart
from zapq.limits import (
    CHECKPOINT_PAGES,
    CLOCK_SECONDS,
    DISK_MARGIN,
    DISK_RESERVE,
    KIB,
    LOOK_SECONDS,
    MAX_KEYS,
    MIB,
    SPARE_PAGES,
    UNCHECKED_BYTES,
)
from zapq.store.clock import Clock
from zapq.store.gather import Other, gather
from zapq.store.packs import Pack, is_free, remove, take_apart
from zapq.store.place import Place
from zapq.store.port import CommitGroup, Contents
from zapq.store.reading import Reading
from zapq.store.reserve import Reserve, allocate
from zapq.store.schema import (
    FILE,
    FORMAT,
    TABLES,
    Table,
    body_sum,
    format_of,
    kept_arrivals,
    kept_time,
    read_time,
    sum_of,
    upgrade,
    with_sum,
)
from zapq.store.wal import FULL, PAGE, Damaged, log_of

GARBAGE_ROWS = 2000
"""Rows of garbage removed in one transaction: some 5 ms."""
THIN_PACKS = 32
"""Packs taken apart in one transaction: as long."""
VACUUM_PAGES = 256
"""Pages given back to the file system in one transaction."""
NO_ROOM = (
    "the disk is full, and the rest of it is reserved for removing messages. Consumers must take some, or the"
    " operator must free space (see docs/explanation/durability.md)"
)
_ROWS = (256, 128, 64, 32, 16, 8, 4, 2, 1)
"""How many rows one statement writes: SQLite compiles one for each number, and Python keeps them."""
_ALONE = frozenset(3 * number for number in _ROWS)


class NoRoom(Exception):
    """What is to be stored does not fit beside what is kept for taking messages."""

    def __init__(self) -> None:
        super().__init__(NO_ROOM)


class Database:
    """One open database, a `Store`. `sqlite3.Error` and OSError pass through, except from `load`."""

    def __init__(self, connection: sqlite3.Connection, latest: float = 0.0, warning: str = "") -> None:
        """`latest` is the latest time it knows of (see `time_in`), `warning` what is odd about its files."""
        self.created = False
        """Whether it was not there before."""
        self.clock = Clock(latest)
        """What the times in it are by."""
        self.no_room = ""
        """Why no message is to be stored, though all else is written; empty if messages are."""
        self._connection = connection
        self._warning = warning
        self._reserve: Reserve | None = None
        """Space for a full disk; None as long as nothing is written."""
        self._wanted = DISK_RESERVE // 2
        """Bytes that must be free beside the reserve before messages are stored again."""
        self._place: Place | None = None
        """Where its files are; None as long as nothing is written."""
        self._looked = self._clocked = -inf
        """When it was last looked whether they are there, and when the time was last kept."""
        self._queues: dict[int, QueuePut] = {}
        """What is written of each, by its number."""
        self._garbage: list[int] = []
        """Epochs whose rows are to be removed ..."""
        self._garbage_rows = GARBAGE_ROWS
        """... so many in one transaction."""
        self._thin: dict[int, None] = {}
        """Packs of which few messages are left, to be taken apart."""
        self._logged = 0
        """Pages written since the log was last emptied, roughly."""
        self._spare = False
        """Whether the file may have more free pages than it needs."""
        self._probe = 64 * KIB
        self._marked = False
        """Whether it says that its log is in use."""

    @property
    def format(self) -> int:
        """The format the file is in."""
        return format_of(self._connection)

    @property
    def untidy(self) -> bool:
        """Whether `tidy` has something to do when there is time."""
        return bool(self._garbage or self._thin) or self._spare

    def commit(self, commits: Sequence[CommitGroup]) -> None:
        """Write all of `commits`, or raise and write nothing. On the disk when it returns.

        What comes twice in them counts as what comes last, and what is gone is gone. Once the disk is full, this
        uses the space that was set aside, and `no_room` says that no messages are to be stored.
        """
        try:
            self._commit(commits)
        except NoRoom as error:
            self._make_room(error)
            raise
        except sqlite3.Error as error:
            self._make_room(error)
            self._commit(commits)

    def _commit(self, commits: Sequence[CommitGroup]) -> None:
        now = time.monotonic()
        clocked = self._clocked > now - CLOCK_SECONDS
        self._look_now_and_then()
        gone, puts, packs, returned, states, others, size = gather(commits)
        if not (gone or puts or packs or returned or states or others):
            return
        self._probe = min(max(size, 64 * KIB), MIB)
        execute = self._connection.execute
        large = size > UNCHECKED_BYTES
        if clocked and not (gone or returned or states or others or large):
            # A statement alone is a transaction of its own, and clients that send one after the other, alike.
            if len(puts) in _ALONE and not packs:
                execute(_insertion("messages", 3, len(puts) // 3), puts)
                self._logged += 2 + size // PAGE
                return
            if len(packs) in _ROWS and not puts:
                execute(_insertion("packs", 5, len(packs)), [*chain.from_iterable(packs)])
                self._logged += 2 + size // PAGE
                return
        queues = dict(self._queues) if others else self._queues
        with self._transaction():
            if not clocked:
                self._keep_time()
            for entry in others:
                self._write(entry, queues)
            if gone:
                # First, so that what comes may take the room of what goes.
                self._remove(gone)
            if packs:
                self._insert("packs", 5, [*chain.from_iterable(packs)])
            for pack in returned:
                if is_free(self._connection, pack):
                    self._insert("packs", 5, pack)
                else:
                    self._spread(pack, puts, states)
            if puts:
                self._insert("messages", 3, puts)
            if states:
                self._insert("states", 2, [value for pair in states.items() for value in pair])
            if large and self._reserve is not None:
                self._check_room(size, self._reserve)
        if not clocked:
            self._clocked = now
        self._logged += 2 + size // PAGE + len(gone) // 20
        self._spare |= bool(gone)
        if others:
            epochs = {queue.epoch for queue in queues.values()}
            self._garbage += (queue.epoch for queue in self._queues.values() if queue.epoch not in epochs)
            self._garbage += (entry.epoch for entry in others if isinstance(entry, EpochDropped))
            self._queues = queues

    def probe(self) -> None:
        """Write as much as could not be written last, so that success means something; then remove it."""
        self._look()
        # Once the disk is full, to take messages is all that must be possible.
        size = 0 if self.no_room else self._probe
        self._connection.execute("insert or replace into probe values (1, zeroblob(?))", (size,))
        self._connection.execute("delete from probe where number = 1")
        self._logged += 2 + size // PAGE

    def tidy(self, *, idle: bool) -> None:
        """Do a part of what keeps the files small: remove garbage, give pages back, empty the log.

        As long as there are changes to write (not `idle`), only now and then, unless the disk is full.
        """
        self._look_now_and_then()
        try:
            self._tidy(idle=idle)
        except sqlite3.Error as error:
            self._make_room(error)
        if self.no_room and self._reserve is not None and self._reserve.take(beside=self._wanted):
            self.no_room = ""
            self._wanted, self._garbage_rows = DISK_RESERVE // 2, GARBAGE_ROWS

    def _tidy(self, *, idle: bool) -> None:
        full = self._logged >= CHECKPOINT_PAGES
        if idle or full or self.no_room:
            if self._garbage:
                self._remove_garbage(self._garbage[0])
            elif self._thin:
                self._take_apart()
            self._spare = self._spare and self._too_large()
            if self._spare:
                # Not by `execute`, which ends with the first page: there are rows, of no columns.
                self._connection.executescript(f"pragma incremental_vacuum({VACUUM_PAGES})")
                self._logged += 2 * VACUUM_PAGES
        if full or (self.no_room and self._logged):
            self._empty_log()

    def close(self) -> None:
        """Empty the log into the file and close both; what was committed is safe in any case."""
        if self._marked:
            # If it cannot be written, the log stays as well.
            with suppress(sqlite3.Error), self._transaction():
                self._keep_time()
                self._connection.execute("delete from probe where number = 2")
        self._connection.close()
        if self.no_room and self._reserve is not None:
            # The log is removed when it is closed; the next start needs its space.
            self._reserve.take_some()

    def load(self, now: float, clock_offset: float) -> Contents:
        """Return all there is, and be ready for commits. See `Store`."""
        contents = self.read(now, clock_offset)
        self.prepare()
        return contents

    def read(self, now: float, clock_offset: float) -> Contents:
        """Return all there is, and change nothing. See `load`."""
        try:
            found = Reading(self._connection, now, clock_offset)
        except (Damaged, sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if _is_of_the_disk(error):
                raise CannotStart(f"{FILE} cannot be read: {error}.") from None
            raise refusal(error) from None
        self._queues, self._garbage, self._thin = found.puts, found.garbage, found.thin
        return Contents(found.queues, found.keys, found.highest, self._warning, found.garbage_rows, self.created)

    def prepare(self) -> None:
        """Make the log as long as it will be: a commit costs half once it has been written to before.

        And let the file say that there is a log it is nothing without. On a full disk, use the space that was set
        aside. Raises `CannotStart`.
        """
        try:
            path = Path(self._connection.execute("pragma database_list").fetchone()[2])
            self._reserve = Reserve(path)
            if not self._reserve.take():
                self.no_room = NO_ROOM
            try:
                self._begin_log()
            except sqlite3.Error as error:
                self._make_room(error)
                self._begin_log()
            if self.no_room:
                # Its usual length, and not a byte in the file. If there is no room, it does with what it has.
                with suppress(OSError):
                    allocate(log_of(path), FULL)
            self._place = Place(path)
        except (OSError, sqlite3.Error) as error:
            todo = f" Free {DISK_RESERVE // MIB} MiB of the disk, and start again." if _is_full(error) else ""
            raise CannotStart(f"{FILE} cannot be written: {error}.{todo}") from None

    def _begin_log(self) -> None:
        execute = self._connection.execute
        if self.format < FORMAT:
            # The version that made it refuses it from here on, and does not misread what is written now.
            upgrade(self._connection)
        execute(
            # Of promises only those whose time is over.
            "delete from keys where until <= ? or (fingerprint <> ? and until < (select min(until) from"
            " (select until from keys where fingerprint <> ? order by until desc limit ?)))",
            (self.clock(), ANY_CONTENT, ANY_CONTENT, MAX_KEYS),
        )
        self._keep_time()
        if not self.no_room:
            execute("insert or replace into probe values (1, zeroblob(?))", (CHECKPOINT_PAGES * PAGE,))
            execute("delete from probe where number = 1")
        execute("insert or replace into probe values (2, null)")
        self._marked = True
        execute("pragma wal_checkpoint(restart)").fetchall()

    def _empty_log(self) -> None:
        self._connection.execute("pragma wal_checkpoint(passive)").fetchall()
        self._logged = 0

    def _make_room(self, error: Exception) -> None:
        """Use the space that was set aside, and store no more messages; raise `error` unless the disk is full."""
        if not _is_full(error) or self._reserve is None:
            raise error
        self._reserve.release()
        self.no_room = NO_ROOM
        self._spare = True
        self._garbage_rows = max(1, self._garbage_rows // 2)
        self._empty_log()

    def _check_room(self, size: int, reserve: Reserve) -> None:
        """Raise `NoRoom` if the log could not be emptied any more once the open transaction is in it.

        Its messages have `size` bytes, and may need pages for twice as many.
        """
        pages: int = self._connection.execute("pragma page_count").fetchone()[0]
        growth = pages * PAGE - reserve.path.stat().st_size
        longer = 2 * size + self._logged * PAGE - log_of(reserve.path).stat().st_size
        needed = growth + max(0, longer) + DISK_MARGIN
        if growth > 0 and reserve.free() < needed:
            self._wanted = max(self._wanted, needed)
            raise NoRoom

    def _look_now_and_then(self) -> None:
        """Look as `_look` does, unless that was done a moment ago."""
        if self._looked < time.monotonic() - LOOK_SECONDS:
            self._look()

    def _look(self) -> None:
        """Raise `Displaced` if what is written now would not be found at the next start."""
        if self._place is not None:
            self._place.check()
        # Only then: what is refused once is refused until it is well again.
        self._looked = time.monotonic()

    def _keep_time(self) -> None:
        self._connection.execute("insert or replace into probe values (3, ?)", (kept_time(self.clock()),))

    def _remove_garbage(self, epoch: int) -> None:
        first, last = epoch << ID_BITS, epoch << ID_BITS | MAX_ID
        found = 0
        with self._transaction():
            for table in TABLES:
                # A pack may have many pages.
                some = max(1, self._garbage_rows // 100) if table == "packs" else self._garbage_rows
                found += self._connection.execute(_garbage(table), (first, last, some)).rowcount
        self._logged += 2 + found // 20
        self._spare |= found > 0
        if not found:
            self._garbage.remove(epoch)

    def _too_large(self) -> bool:
        free: int = self._connection.execute("pragma freelist_count").fetchone()[0]
        if self.no_room:
            # Messages go into space of the disk, which is counted. A few pages stay, for what consumers change.
            return free > VACUUM_PAGES
        if free <= SPARE_PAGES:
            return False
        pages: int = self._connection.execute("pragma page_count").fetchone()[0]
        return 2 * free > pages

    def _insert(self, table: Table, columns: int, values: Sequence[object]) -> None:
        at = 0
        for number in _ROWS:
            length = number * columns
            while len(values) - at >= length:
                self._connection.execute(_insertion(table, columns, number), values[at : at + length])
                at += length

    def _write(self, entry: Other, queues: dict[int, QueuePut]) -> None:
        execute = self._connection.execute
        match entry:
            case KeyPut():
                key = msgspec.structs.astuple(entry)
                execute("insert or replace into keys values (?, ?, ?, ?, ?, ?)", (*key, sum_of(key)))
            case QueueDeleted():
                queues.pop(entry.number, None)
                execute("delete from queues where number = ?", (entry.number,))
                execute("delete from keys where queue = ?", (entry.number,))
                execute("delete from probe where number = ?", (-entry.number,))
            case QueuePut():
                before = queues.get(entry.number)
                if before is not None and before.next_id > entry.next_id:
                    entry = msgspec.structs.replace(entry, next_id=before.next_id)
                self._write_queue(entry, queues)
            case IdsReserved():
                kept = queues.get(entry.queue)
                if kept is not None and (entry.final or entry.next_id > kept.next_id):
                    self._write_queue(msgspec.structs.replace(kept, next_id=entry.next_id), queues)
            case ArrivalsNoted(queue, entries):
                if queue in queues:
                    execute("insert or replace into probe values (?, ?)", (-queue, kept_arrivals(queue, entries)))
            case KeysCleared():
                execute("delete from keys")
            case KeysForgotten(keys):
                self._connection.executemany("delete from keys where queue = ? and key = ?", keys)
            case EpochDropped():
                pass  # removed little by little

    def _write_queue(self, kept: QueuePut, queues: dict[int, QueuePut]) -> None:
        queues[kept.number] = kept
        settings = msgspec.json.encode(kept.settings).decode()
        fields = (kept.number, kept.name, kept.epoch, kept.next_id, settings, int(kept.paused))
        self._connection.execute(
            "insert or replace into queues values (?, ?, ?, ?, ?, ?, ?)", (*fields, sum_of(fields))
        )

    def _remove(self, gone: list[int]) -> None:
        rows = msgspec.json.encode(gone).decode()
        execute = self._connection.execute
        alone = execute("delete from messages where row in (select value from json_each(?))", (rows,)).rowcount
        execute("delete from states where row in (select value from json_each(?))", (rows,))
        if alone < len(gone):
            self._thin |= dict.fromkeys(remove(self._connection, sorted(gone)))

    def _spread(self, pack: Pack, puts: list[int | bytes], states: dict[int, bytes]) -> None:
        """Let each message of a pack that is not on the disk have a row of its own there."""
        for row, body in enumerate(pack.bodies(), pack.row):
            puts += (row, body_sum(row, body), body)
            if pack.state is not None:
                states.setdefault(row, with_sum(row, pack.state))

    def _take_apart(self) -> None:
        size = 0
        some = list(islice(self._thin, 1 if self.no_room else THIN_PACKS))
        with self._transaction():
            for row in some:
                # One that is damaged stays as it is: the next start refuses it.
                with suppress(Damaged):
                    size += take_apart(self._connection, row)
        for row in some:
            self._thin.pop(row, None)
        self._logged += 2 + size // PAGE
        self._spare = True

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Write all that is done in the block, or nothing if anything is raised."""
        execute = self._connection.execute
        execute("begin immediate")
        try:
            yield
            execute("commit")
        except BaseException:
            if self._connection.in_transaction:
                execute("rollback")
            raise


def time_in(connection: sqlite3.Connection) -> float:
    """Return the latest time the database knows of, in seconds since 1970; 0 if none. Raises `Damaged`."""
    row = connection.execute("select filling from probe where number = 3").fetchone()
    if row is None:
        return 0.0
    latest = read_time(row[0])
    if latest is None:
        raise Damaged("probe, row 3: the checksum does not match")
    return latest


def refusal(error: Exception) -> CannotStart:
    """Return what to say about a damaged database."""
    return CannotStart(f"{FILE} is damaged: {error}. Restore a copy of it, or start with another --data-dir.")


def code_of(error: Exception) -> int:
    """Return SQLite's primary result code, 0 if it is no error of SQLite's."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def _is_full(error: Exception) -> bool:
    return isinstance(error, NoRoom) or code_of(error) == sqlite3.SQLITE_FULL


def _is_of_the_disk(error: Exception) -> bool:
    return code_of(error) in {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_READONLY,
    }


def _garbage(table: Table) -> str:
    some = f"select row from {table} where row between ? and ? limit ?"  # noqa: S608 - one of few names
    return f"delete from {table} where row in ({some})"  # noqa: S608 - the same


@cache
def _insertion(table: Table, columns: int, rows: int) -> str:
    row = f"({', '.join('?' * columns)})"
    # A pack never takes the place of another.
    how = "insert" if table == "packs" else "insert or replace"
    return f"{how} into {table} values {', '.join([row] * rows)}"
