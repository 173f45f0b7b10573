"""Opening the database of a directory: making, locking and judging it."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import stat
from contextlib import closing, suppress
from pathlib import Path

from zapq.errors import CannotStart
from zapq.limits import CHECKPOINT_PAGES
from zapq.store.database import Database, code_of, refusal, time_in
from zapq.store.directory import let_write, lock
from zapq.store.schema import APPLICATION, FILE, FORMAT, OLDEST, format_of, our_tables, set_up, tables
from zapq.store.wal import Damaged, damage_in_log, log_of

NEW = ".zapq.db.new"


def open_database(directory: str, descriptor: int) -> Database:
    """Open the database in `directory`, made if there is none.

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
        raise CannotStart(f"{path} cannot be created: {_reason(error)}. {_remedy(error, directory)}") from None
    database = open_existing(path)
    database.created = created
    return database


def open_existing(path: Path) -> Database:
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
        latest = time_in(connection)
        if not has_log and connection.execute("select count(*) from probe where number = 2").fetchone()[0]:
            warning = (
                f"{log_of(path).name} is missing, although {path.name} had one: unless a program other than"
                " zapq has opened the database since, the last commits are lost"
            )
    except Damaged as error:
        connection.close()
        raise refusal(error) from None
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        # The latter if SQLite's own message quotes what is damaged.
        connection.close()
        if code_of(error) in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY}:
            raise CannotStart(f"{path} cannot be opened: {error}. {let_write(str(path.parent))}") from None
        if code_of(error) == sqlite3.SQLITE_BUSY:
            raise CannotStart(
                f"{path.name} is in use by another program: {error}. Close that program, and start again."
            ) from None
        raise CannotStart(
            f"{path.name} cannot be used: {error}. Restore a copy of it, or start with another --data-dir."
        ) from None
    except BaseException:
        connection.close()
        raise
    return Database(connection, latest, warning)


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


def _set_modes(connection: sqlite3.Connection) -> None:
    execute = connection.execute
    # Before the first access: then no other program can open it, and the log's index is in memory and not in a
    # file.
    execute("pragma locking_mode = exclusive")
    version = format_of(connection)
    application = execute("pragma application_id").fetchone()[0]
    if application != APPLICATION:
        raise CannotStart(f"{FILE} is a database of another program. Give another --data-dir.")
    if version > FORMAT:
        raise CannotStart(
            f"{FILE} was written by a newer zapq, in format {version}. This zapq reads formats up to {FORMAT}."
        )
    if version < OLDEST or tables(connection) != our_tables(version):
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
    # Some builds of SQLite write zeros over each page that becomes free: to remove would need as much room as to
    # store.
    execute("pragma secure_delete = fast")


def _remedy(error: Exception, directory: str) -> str:
    """Return what an operator can do so that a database can be made in `directory`."""
    if getattr(error, "errno", None) == errno.ENOSPC or code_of(error) == sqlite3.SQLITE_FULL:
        return "Free some space there, or give another --data-dir."
    return let_write(directory)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
