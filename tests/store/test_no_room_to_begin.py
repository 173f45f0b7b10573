"""A data directory on a full disk: the operator is told to free space, and not about permissions."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from zapq.errors import CannotStart
from zapq.store import open_database
from zapq.store.schema import FILE


def full() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (full(), "Free some space there, or give another --data-dir."),
        (OSError(errno.ENOSPC, "No space left on device"), "Free some space there, or give another --data-dir."),
        (OSError(errno.EACCES, "Permission denied"), "Let zapq (user "),
    ],
)
def test_a_database_that_cannot_be_made_is_told_the_remedy(
    error: Exception, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(open_database, "_make_file", fail)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(CannotStart) as refused:
            open_database.open_database(str(tmp_path), descriptor)
    finally:
        os.close(descriptor)
    assert refused.value.detail.startswith(f"{tmp_path}/{FILE} cannot be created: ")
    assert remedy in refused.value.detail
