"""The queues on disk: one SQLite file, and what is written to it in one transaction.

Format 1. A message is a row of `messages`, numbered by its queue's epoch and its id, so that a queue's messages
lie side by side in their order, and new ones come at the end. What can change of a message, and what most messages
have not, is a row of `states` with the same number: so a body is written once. Rows of an epoch no queue has are
garbage, removed little by little: thus a purge is one small write, whatever it drops. Every row carries a checksum
that covers its number, for SQLite has none of its own.

SQLite's write-ahead log is what makes a commit durable (`synchronous=FULL`: an fsync for each). It is emptied into
the file here, after a commit has been answered, and never shrinks: writing where the file has been before is twice
as fast as making it longer.

Everything here is synchronous and belongs to one thread at a time.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
import time
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from functools import cache
from math import inf
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from zapq.core.changes import Enqueued
from zapq.core.image import QueueImage
from zapq.core.journaled_broker import KeptQueue
from zapq.core.message import DEFAULTS, Message, Properties
from zapq.core.queue_settings import QueueSettings
from zapq.core.records import (
    ID_BITS,
    CommitGroup,
    EpochDropped,
    IdsReserved,
    KeyPut,
    KeysCleared,
    MessagesDeleted,
    MessageState,
    Put,
    PutMany,
    QueueDeleted,
    QueuePut,
    in_wall_time,
)
from zapq.errors import CannotStart
from zapq.limits import CHECKPOINT_PAGES, KIB, MIB, SPARE_PAGES
from zapq.store.directory import let_write
from zapq.store.wal import PAGE, Damaged, damage_in_log, log_of

FILE = "zapq.db"
NEW = ".zapq.db.new"
FORMAT = 1
APPLICATION = 0x7A617071
"""`zapq` in ASCII: what `file` and SQLite's tools show."""
GARBAGE_ROWS = 2000
"""Rows of garbage removed in one transaction: some 5 ms."""
VACUUM_PAGES = 256
"""Pages given back to the file system in one transaction."""
_ROWS = (256, 128, 64, 32, 16, 8, 4, 2, 1)
"""How many rows one statement writes: SQLite compiles one for each number, and Python keeps them."""
_ALONE = frozenset(3 * number for number in _ROWS)
Table = Literal["messages", "states"]
_TABLES: tuple[Table, ...] = ("messages", "states")
_MAX_ID = (1 << ID_BITS) - 1

_SCHEMA = f"""
pragma application_id = {APPLICATION};
pragma user_version = {FORMAT};
create table queues (number integer primary key, name text not null unique, epoch integer not null,
                     next_id integer not null, settings text not null, paused integer not null,
                     sum integer not null);
create table messages (row integer primary key, sum integer not null, body blob not null);
create table states (row integer primary key, state blob not null);
create table keys (queue integer, key text, fingerprint blob not null, id integer not null, until real not null,
                   sum integer not null, primary key (queue, key)) without rowid;
create table probe (number integer primary key, filling blob);
"""


Other = QueuePut | IdsReserved | QueueDeleted | EpochDropped | KeysCleared | KeyPut


class State(NamedTuple):
    """What is known of a message besides its body, as it is written; times are seconds since 1970."""

    content_type: str
    priority: int
    expires: float | None
    receives: int
    releases: int
    failed_in: str
    due: float


class KeptKey(NamedTuple):
    """An idempotency key, as it was used; `until` in seconds since 1970."""

    queue: int
    key: str
    fingerprint: bytes
    id: int
    until: float


class Contents(NamedTuple):
    """What was found in a database."""

    queues: list[KeptQueue]
    keys: list[KeptKey]
    epoch: int
    """The highest in use."""
    warning: str
    """What the operator should know about how it was left; empty if nothing."""
    garbage: int
    """Rows of no queue."""


_STATES = msgspec.msgpack.Decoder(State)


class Database:
    """One open database. `sqlite3.Error` and OSError pass through, but from `open_database`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.created = False
        """Whether it was not there before."""
        self._connection = connection
        self._queues: dict[int, QueuePut] = {}
        """What is written of each, by its number."""
        self._garbage: list[int] = []
        """Epochs whose rows are to be removed."""
        self._logged = 0
        """Pages written since the log was last emptied, roughly."""
        self._spare = False
        """Whether the file may have more free pages than it needs."""
        self._probe = 64 * KIB
        self._marked = False
        """Whether it says that its log is in use."""

    @property
    def untidy(self) -> bool:
        """Whether `tidy` has something to do when there is time."""
        return bool(self._garbage) or self._spare

    def commit(self, batches: Sequence[CommitGroup]) -> None:
        """Write all of `batches`, or raise and write nothing. On the disk when it returns.

        What comes twice in them counts as what comes last, and what is gone is gone.
        """
        puts, states, gone, others, size = _gather(batches)
        self._probe = min(max(size, 64 * KIB), MIB)
        execute = self._connection.execute
        if len(puts) in _ALONE and not (states or gone or others):
            # A statement alone is a transaction of its own, and clients that send one after the other, alike.
            execute(_insertion("messages", 3, len(puts) // 3), puts)
            self._logged += 2 + size // PAGE
            return
        queues = dict(self._queues) if others else self._queues
        execute("begin immediate")
        try:
            for entry in others:
                self._write(entry, queues)
            if puts:
                self._insert("messages", 3, puts)
            if states:
                self._insert("states", 2, [value for pair in states.items() for value in pair])
            if gone:
                rows = msgspec.json.encode(gone).decode()
                execute("delete from messages where row in (select value from json_each(?))", (rows,))
                execute("delete from states where row in (select value from json_each(?))", (rows,))
            execute("commit")
        except BaseException:
            self._roll_back()
            raise
        self._logged += 2 + (size + 20 * len(puts)) // PAGE + len(gone) // 20
        self._spare |= bool(gone)
        if others:
            epochs = {queue.epoch for queue in queues.values()}
            self._garbage += (queue.epoch for queue in self._queues.values() if queue.epoch not in epochs)
            self._garbage += (entry.epoch for entry in others if isinstance(entry, EpochDropped))
            self._queues = queues

    def probe(self) -> None:
        """Write as much as could not be written last, so that success means something; then remove it."""
        self._connection.execute("insert or replace into probe values (1, zeroblob(?))", (self._probe,))
        self._connection.execute("delete from probe where number = 1")
        self._logged += 2 + self._probe // PAGE

    def tidy(self, *, idle: bool) -> None:
        """Do a part of what keeps the files small: remove garbage, give pages back, empty the log.

        As long as there are changes to write (not `idle`), only now and then.
        """
        full = self._logged >= CHECKPOINT_PAGES
        if idle or full:
            if self._garbage:
                self._remove_garbage(self._garbage[0])
            self._spare = self._spare and self._too_large()
            if self._spare:
                self._connection.execute(f"pragma incremental_vacuum({VACUUM_PAGES})").fetchall()
                self._logged += 2 * VACUUM_PAGES
        if full:
            self._connection.execute("pragma wal_checkpoint(passive)").fetchall()
            self._logged = 0

    def close(self) -> None:
        """Empty the log into the file and close both; what was committed is safe in any case."""
        if self._marked:
            # If it cannot be written, the log stays as well.
            with suppress(sqlite3.Error):
                self._connection.execute("delete from probe where number = 2")
        self._connection.close()

    def load(self, now: float, clock_offset: float, warning: str = "") -> Contents:
        """Return all there is, with times by a clock that shows `now`; add `clock_offset` to get Unix time.

        Raises `Damaged`, and `CannotStart` if the disk does not let it be read.
        """
        try:
            return self._load(now, clock_offset, warning)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if _is_of_the_disk(error):
                raise CannotStart(f"{FILE} cannot be read: {error}.") from None
            raise Damaged(str(error)) from None

    def prepare(self) -> None:
        """Make the log as long as it will be: a commit costs half once it has been written to before.

        And let the file say that there is a log it is nothing without. Raises `CannotStart`.
        """
        execute = self._connection.execute
        try:
            execute("delete from keys where until <= ?", (time.time(),))
            execute("insert or replace into probe values (1, zeroblob(?))", (CHECKPOINT_PAGES * PAGE,))
            execute("delete from probe where number = 1")
            execute("insert or replace into probe values (2, null)")
            self._marked = True
            execute("pragma wal_checkpoint(restart)").fetchall()
        except sqlite3.Error as error:
            raise CannotStart(f"{FILE} cannot be written: {error}.") from None

    def _load(self, now: float, clock_offset: float, warning: str) -> Contents:
        # The integrity check looks at every page, but not at what is in them; that is for the checksums.
        check = self._connection.execute("pragma integrity_check(1)").fetchone()[0]
        if check != "ok":
            raise Damaged(" ".join(check.split()))
        states: dict[int, bytes] = {}
        for row, state in self._connection.execute("select row, state from states"):
            if not isinstance(state, bytes) or zlib.crc32(state[4:], _seed(row)) != int.from_bytes(
                state[:4], "big"
            ):
                raise Damaged(f"states, row {row}: the checksum does not match")
            states[row] = state
        known = _Known(states, clock_offset)
        queues: list[KeptQueue] = []
        highest = 0
        for number, name, epoch, next_id, settings, paused, checksum in self._connection.execute(
            "select number, name, epoch, next_id, settings, paused, sum from queues order by number"
        ):
            if checksum != _queue_sum(number, name, epoch, next_id, settings, paused):
                raise Damaged(f"queues, number {number}: the checksum does not match")
            image = QueueImage(
                name=name,
                settings=msgspec.json.decode(settings, type=QueueSettings),
                paused=bool(paused),
                next_id=next_id,
                in_order=deque(),
                others=[],
            )
            self._read_messages(epoch, image, known)
            queues.append(KeptQueue(number, epoch, image))
            self._queues[number] = QueuePut(number, name, epoch, next_id, image.settings, image.paused)
            highest = max(highest, epoch)
        epochs = {queue.epoch for queue in self._queues.values()}
        garbage = sum(row >> ID_BITS not in epochs for row in states)
        for epoch in self._epochs_of_rows():
            if epoch not in epochs:
                # Read all the same: a message whose number was altered may look like garbage.
                garbage += sum(1 for _ in self._rows(epoch))
                self._garbage.append(epoch)
                highest = max(highest, epoch)
        return Contents(queues, list(self._read_keys(now + clock_offset)), highest, warning, garbage)

    def _read_keys(self, now: float) -> Iterator[KeptKey]:
        for *fields, checksum in self._connection.execute(
            "select queue, key, fingerprint, id, until, sum from keys order by until"
        ):
            if checksum != _key_sum(*fields):
                raise Damaged(f"keys, queue {fields[0]}, key {fields[1]!r}: the checksum does not match")
            key = KeptKey(*fields)
            if key.until > now:
                yield key

    def _rows(self, epoch: int) -> Iterator[tuple[int, bytes]]:
        crc32 = zlib.crc32
        for row, checksum, body in self._connection.execute(
            "select row, sum, body from messages where row between ? and ? order by row",
            (epoch << ID_BITS, epoch << ID_BITS | _MAX_ID),
        ):
            if not isinstance(body, bytes) or crc32(body, (row ^ row >> 32) & 0xFFFFFFFF) != checksum:
                raise Damaged(f"messages, row {row}: the checksum does not match")
            yield row, body

    def _read_messages(self, epoch: int, image: QueueImage, known: _Known) -> None:
        states = known.states
        append = image.in_order.append
        image.others = others = []
        for row, body in self._rows(epoch):
            id = row & _MAX_ID
            if id >= image.next_id:
                raise Damaged(f"messages, row {row}: queue {image.name} has not given that id yet")
            state = states.get(row)
            if state is None:
                append(Message(id, body))
                continue
            properties, due = known.read(state)
            message = Message(id, body, properties)
            if due or properties.priority or properties.receives or properties.expires < inf:
                others.append((message, due))
            else:
                append(message)

    def _epochs_of_rows(self) -> Iterator[int]:
        epoch = -1
        while True:
            row = self._connection.execute(
                "select min(row) from (select min(row) row from messages where row >= ?1"
                " union all select min(row) row from states where row >= ?1)",
                ((epoch + 1) << ID_BITS,),
            ).fetchone()[0]
            if row is None:
                return
            epoch = row >> ID_BITS
            yield epoch

    def _remove_garbage(self, epoch: int) -> None:
        first, last = epoch << ID_BITS, epoch << ID_BITS | _MAX_ID
        found = 0
        self._connection.execute("begin immediate")
        try:
            for table in _TABLES:
                found += self._connection.execute(_garbage(table), (first, last, GARBAGE_ROWS)).rowcount
            self._connection.execute("commit")
        except BaseException:
            self._roll_back()
            raise
        self._logged += 2 + found // 20
        if not found:
            self._garbage.remove(epoch)

    def _too_large(self) -> bool:
        free: int = self._connection.execute("pragma freelist_count").fetchone()[0]
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
                key = KeptKey(entry.queue, entry.key, entry.fingerprint, entry.id, entry.until)
                execute("insert or replace into keys values (?, ?, ?, ?, ?, ?)", (*key, _key_sum(*key)))
            case QueueDeleted():
                queues.pop(entry.number, None)
                execute("delete from queues where number = ?", (entry.number,))
                execute("delete from keys where queue = ?", (entry.number,))
            case QueuePut():
                before = queues.get(entry.number)
                if before is not None and before.next_id > entry.next_id:
                    entry = msgspec.structs.replace(entry, next_id=before.next_id)
                self._write_queue(entry, queues)
            case IdsReserved():
                kept = queues.get(entry.queue)
                if kept is not None and (entry.final or entry.next_id > kept.next_id):
                    self._write_queue(msgspec.structs.replace(kept, next_id=entry.next_id), queues)
            case KeysCleared():
                execute("delete from keys")
            case EpochDropped():
                pass  # removed little by little

    def _write_queue(self, kept: QueuePut, queues: dict[int, QueuePut]) -> None:
        queues[kept.number] = kept
        settings = msgspec.json.encode(kept.settings).decode()
        fields = (kept.number, kept.name, kept.epoch, kept.next_id, settings, int(kept.paused))
        self._connection.execute(
            "insert or replace into queues values (?, ?, ?, ?, ?, ?, ?)", (*fields, _queue_sum(*fields))
        )

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("rollback")


class _Gathered(NamedTuple):
    puts: list[int | bytes]
    """For each new message its row, its checksum and its body, one after the other."""
    states: dict[int, bytes]
    gone: list[int]
    others: list[Other]
    size: int
    """Bytes of the bodies."""


def _gather(batches: Sequence[CommitGroup]) -> _Gathered:
    """Sort what is in `batches` by what it is to SQLite. What is gone at the end is not put there first."""
    puts: list[int | bytes] = []
    states: dict[int, bytes] = {}
    gone: list[int] = []
    others: list[Other] = []
    size = 0
    crc32 = zlib.crc32
    for batch in batches:
        clock_offset = batch.clock_offset
        for item in batch.log:
            if item.__class__ is Enqueued:
                message, row = item.message, item.row
                body = message.body
                puts += (row, crc32(body, (row ^ row >> 32) & 0xFFFFFFFF), body)
                size += len(body)
                if message.properties is not DEFAULTS or item.due:
                    states[row] = _state(row, message.properties, item.due, clock_offset)
                continue
            for entry in item if isinstance(item, tuple) else item.entries:
                match entry:
                    case Put(row, body, properties, due):
                        puts += (row, _sum(row, body), body)
                        size += len(body)
                        if properties is not DEFAULTS or due:
                            states[row] = _state(row, properties, due, clock_offset)
                    case PutMany(first, bodies, properties):
                        for row, body in enumerate(bodies, first):
                            puts += (row, crc32(body, (row ^ row >> 32) & 0xFFFFFFFF), body)
                            size += len(body)
                            if properties is not DEFAULTS:
                                states[row] = _state(row, properties, 0.0, clock_offset)
                    case MessageState(row, properties, due):
                        states[row] = _state(row, properties, due, clock_offset)
                    case MessagesDeleted(rows):
                        gone += rows
                    case _:
                        others.append(in_wall_time(entry, clock_offset))  # type: ignore[arg-type]  # it stays what it is
    if gone and puts:
        dropped = set(gone)
        at = [at for at in range(0, len(puts), 3) if puts[at] not in dropped]
        puts = [value for each in at for value in puts[each : each + 3]]
    for row in gone:
        states.pop(row, None)
    return _Gathered(puts, states, gone, others, size)


class _Known:
    """What is known of messages, as it was written, and how to read it: mostly it is the same for many."""

    def __init__(self, states: dict[int, bytes], clock_offset: float) -> None:
        self.states = states
        self._clock_offset = clock_offset
        self._read: dict[bytes, Properties] = {}

    def read(self, state: bytes) -> tuple[Properties, float]:
        """Return what it says, and when the message is ready: 0 for at once."""
        raw = state[4:]
        properties = self._read.get(raw)
        if properties is not None:
            return properties, 0.0
        content_type, priority, expires, receives, releases, failed_in, due = _STATES.decode(raw)
        ends = inf if expires is None else expires - self._clock_offset
        properties = Properties(content_type, priority, ends, receives, releases, failed_in)
        if due:
            return properties, due - self._clock_offset
        self._read[raw] = properties
        return properties, 0.0


def open_database(directory: str, descriptor: int) -> tuple[Database, str]:
    """Open the database in `directory`, made if there is none, and say what the operator should know about it.

    `descriptor` is that of the directory, which is locked until it is closed. Raises `CannotStart` if it is in
    use, made by a newer version, damaged, or not to be opened.
    """
    path = Path(os.path.realpath(directory)) / FILE
    lock(directory, descriptor, fcntl.LOCK_EX)
    created = False
    try:
        if not is_there(descriptor):
            _make_file(path, descriptor)
            created = True
    except Damaged as error:
        raise refusal(error) from None
    except (OSError, sqlite3.Error) as error:
        raise CannotStart(f"{path} cannot be created: {_reason(error)}. {let_write(directory)}") from None
    database, warning = open_existing(path)
    database.created = created
    return database, warning


def lock(directory: str, descriptor: int, kind: int) -> None:
    """Lock `directory`, which `descriptor` is of, until that is closed; raises `CannotStart` if it is in use."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CannotStart(
            f"--data-dir {directory!r} is in use by another zapq. Stop that one, or give another directory."
        ) from None


def refusal(error: Damaged) -> CannotStart:
    """Return what to say about a damaged database."""
    return CannotStart(f"{FILE} is damaged: {error}. Restore a copy of it, or start with another --data-dir.")


def open_existing(path: Path) -> tuple[Database, str]:
    """Open the database `path`, which no other program uses. See `open_database`."""
    try:
        has_log = log_of(path).exists()
        warning = damage_in_log(path)
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=0, cached_statements=64
        )
    except Damaged as error:
        raise refusal(error) from None
    except (OSError, sqlite3.Error) as error:
        raise CannotStart(f"{path} cannot be opened: {_reason(error)}. {let_write(str(path.parent))}") from None
    try:
        _set_modes(connection)
        if not has_log and connection.execute("select count(*) from probe where number = 2").fetchone()[0]:
            warning = (
                f"{log_of(path).name} is missing, although {path.name} had one: unless a program other than"
                " zapq has opened the database since, the last commits are lost"
            )
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        # The latter if SQLite's own message quotes what is damaged.
        connection.close()
        if _code_of(error) in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY}:
            raise CannotStart(f"{path} cannot be opened: {error}. {let_write(str(path.parent))}") from None
        if _code_of(error) == sqlite3.SQLITE_BUSY:
            raise CannotStart(
                f"{path.name} is in use by another program: {error}. Close that program, and start again."
            ) from None
        raise CannotStart(
            f"{path.name} cannot be used: {error}. Restore a copy of it, or start with another --data-dir."
        ) from None
    except BaseException:
        connection.close()
        raise
    return Database(connection), warning


def is_there(descriptor: int) -> bool:
    """Return whether there is a database in the directory.

    Raises OSError, `Damaged` if there should be one, and `CannotStart` if it is not a plain file.
    """
    try:
        status = os.stat(FILE, dir_fd=descriptor, follow_symlinks=False)
    except FileNotFoundError:
        with suppress(FileNotFoundError):
            name = log_of(Path(FILE)).name
            if os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_size:
                raise Damaged(f"it is missing, but its log {name} is there") from None
        return False
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise CannotStart(f"{FILE} is not a plain file, or has several names (hard links).")
    if not status.st_size:
        raise Damaged("it is empty")
    return True


def _make_file(path: Path, descriptor: int) -> None:
    """Make the file. Under another name first: under its own it is never empty, for that has lost everything."""
    for name in (NEW, f"{NEW}-journal", f"{NEW}-wal", f"{FILE}-wal", f"{FILE}-shm"):
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=descriptor)
    os.close(os.open(NEW, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=descriptor))
    with closing(sqlite3.connect(path.with_name(NEW), isolation_level=None)) as connection:
        connection.execute("pragma synchronous = full")
        set_up(connection)
    os.rename(NEW, FILE, src_dir_fd=descriptor, dst_dir_fd=descriptor)
    os.fsync(descriptor)


def set_up(connection: sqlite3.Connection) -> None:
    """Make the tables of a database that is empty."""
    connection.execute("pragma auto_vacuum = incremental")
    connection.executescript(f"begin immediate; {_SCHEMA} commit;")


def _set_modes(connection: sqlite3.Connection) -> None:
    execute = connection.execute
    # Before the first access: then no other program can open it, and the log's index is in memory and not in a
    # file.
    execute("pragma locking_mode = exclusive")
    version = execute("pragma user_version").fetchone()[0]
    application = execute("pragma application_id").fetchone()[0]
    if application != APPLICATION:
        raise CannotStart(f"{FILE} is a database of another program. Give another --data-dir.")
    if version > FORMAT:
        raise CannotStart(
            f"{FILE} was written by a newer zapq, in format {version}. This zapq reads format {FORMAT}."
        )
    if version < FORMAT or _tables(connection) != _our_tables():
        raise refusal(Damaged(f"its tables are not those of format {FORMAT}"))
    mode = execute("pragma journal_mode = wal").fetchone()[0]
    if mode != "wal":
        raise CannotStart(
            f"{FILE} cannot have a write-ahead log here (journal mode {mode}). Give a --data-dir on a local disk."
        )
    execute("pragma synchronous = full")
    # Ours come earlier, and not while a client waits for a commit.
    execute(f"pragma wal_autocheckpoint = {4 * CHECKPOINT_PAGES}")
    execute("pragma cache_size = -65536")


def _tables(connection: sqlite3.Connection) -> list[tuple[str, str, str, str | None]]:
    return connection.execute("select type, name, tbl_name, sql from sqlite_master order by name").fetchall()


@cache
def _our_tables() -> list[tuple[str, str, str, str | None]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        set_up(connection)
        return _tables(connection)


def _code_of(error: Exception) -> int:
    """Return SQLite's primary result code, 0 if it is no error of SQLite's."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def _is_of_the_disk(error: Exception) -> bool:
    return _code_of(error) in {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_READONLY,
    }


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _garbage(table: Table) -> str:
    some = f"select row from {table} where row between ? and ? limit ?"  # noqa: S608 - one of two names
    return f"delete from {table} where row in ({some})"  # noqa: S608 - the same


@cache
def _insertion(table: Table, columns: int, rows: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"insert or replace into {table} values {', '.join([row] * rows)}"  # noqa: S608 - one of two names


def _seed(row: int) -> int:
    return (row ^ row >> 32) & 0xFFFFFFFF


def _sum(row: int, body: bytes) -> int:
    return zlib.crc32(body, (row ^ row >> 32) & 0xFFFFFFFF)


def _state(row: int, properties: Properties, due: float, clock_offset: float) -> bytes:
    expires = None if properties.expires == inf else properties.expires + clock_offset
    state = State(
        properties.content_type,
        properties.priority,
        expires,
        properties.receives,
        properties.releases,
        properties.failed_in,
        due + clock_offset if due else 0.0,
    )
    raw = msgspec.msgpack.encode(state)
    return zlib.crc32(raw, _seed(row)).to_bytes(4, "big") + raw


def _queue_sum(number: int, name: str, epoch: int, next_id: int, settings: str, paused: int) -> int:
    return zlib.crc32(repr((number, name, epoch, next_id, settings, paused)).encode())


def _key_sum(queue: int, key: str, fingerprint: bytes, id: int, until: float) -> int:
    return zlib.crc32(repr((queue, key, fingerprint, id, until)).encode())
