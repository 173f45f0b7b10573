"""What there is to say about a database without changing anything: it is read from a copy.

SQLite cannot be asked to look only: a program that opens a log that was left behind takes over what is in it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from zapq.core.image import QueueImage
from zapq.core.runs import flatten
from zapq.errors import CannotStart
from zapq.store.database import refusal
from zapq.store.directory import lock
from zapq.store.open_database import is_there, open_existing
from zapq.store.schema import FILE
from zapq.store.wal import Damaged, log_of


class QueueReport(NamedTuple):
    """One queue as it would be after a start."""

    name: str
    paused: bool
    ready: int
    delayed: int
    received: int
    """Those that were given out before."""
    expired: int
    """Those whose time is over; a start drops them."""
    bytes: int
    oldest: int | None
    """The id of the oldest message."""


class Report(NamedTuple):
    """What is in a database that is not damaged."""

    format: int
    size: int
    """Bytes of the file itself."""
    log: int | None
    """Bytes of its log; None if there is none."""
    queues: list[QueueReport]
    keys: int
    """Idempotency keys."""
    garbage: int
    """Rows of no queue: a purge leaves them, to be removed little by little."""
    warning: str
    """What the operator should know about how it was left; empty if nothing."""


def check(directory: str) -> Report:
    """Read the database in `directory` to its last byte, and say what is there; nothing there is changed.

    No server can start there while the files are copied. Raises `CannotStart` with what is wrong: damage, a
    directory in use, no database, not enough space for the copy.
    """
    path = Path(os.path.realpath(directory)) / FILE
    with tempfile.TemporaryDirectory(prefix="zapq-check-") as temporary:
        copy = Path(temporary) / FILE
        try:
            sizes = _copy(directory, path, copy)
        except Damaged as error:
            raise refusal(error) from None
        return _read(copy, *sizes)


def _copy(directory: str, path: Path, copy: Path) -> tuple[int, int | None]:
    """Copy both files and return their sizes."""
    try:
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise CannotStart(f"{directory!r}: {error.strerror}.") from None
    try:
        # Shared: several may look at once. A server wants it for itself.
        lock(directory, descriptor, fcntl.LOCK_SH)
        if not is_there(descriptor):
            raise CannotStart(
                f"There is no {FILE} in {directory!r}. Give the --data-dir of a server that runs with --durable."
            )
        log = log_of(path)
        size, logged = path.stat().st_size, log.stat().st_size if log.exists() else None
        # Twice the log: its content also goes to the copy of the file.
        needed, free = size + 2 * (logged or 0), shutil.disk_usage(copy.parent).free
        if needed > free:
            raise CannotStart(
                f"The check needs {needed} bytes in {str(copy.parent.parent)!r} for a copy, where {free} are"
                " free. Set TMPDIR to a directory with more room."
            )
        shutil.copyfile(path, copy)
        if logged is not None:
            shutil.copyfile(log, log_of(copy))
    except OSError as error:
        raise CannotStart(f"{path} cannot be copied: {error.strerror}.") from None
    finally:
        os.close(descriptor)
    return size, logged


def _read(copy: Path, size: int, log: int | None) -> Report:
    database = open_existing(copy)
    now = database.clock()
    try:
        format, contents = database.format, database.read(now, 0.0)
    finally:
        database.close()
    queues = [_describe(each.image, now) for each in contents.queues]
    return Report(format, size, log, queues, len(contents.keys), contents.garbage, contents.warning)


def _describe(image: QueueImage, now: float) -> QueueReport:
    in_order = list(flatten(image.in_order))
    kept = list(image.others)
    others = [(message, due) for message, due in kept if message.properties.expires > now]
    messages = [*in_order, *(message for message, _ in others)]
    delayed = sum(due > now for _, due in others)
    return QueueReport(
        name=image.name,
        paused=image.paused,
        ready=len(messages) - delayed,
        delayed=delayed,
        received=sum(message.properties.receives > 0 for message in messages),
        expired=len(kept) - len(others),
        bytes=sum(message.size for message in messages),
        oldest=min((message.id for message in messages), default=None),
    )
