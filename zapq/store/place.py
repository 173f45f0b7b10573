"""Whether the two files of a database are still where they were when it was opened.

A file that was removed, or moved, or that another has replaced, can be written all the same as long as it is open;
but nothing that is written to it is found at the next start.
"""

from __future__ import annotations

import os
from pathlib import Path

from zapq.store.wal import log_of


class Displaced(Exception):
    """A file is no longer at its place; the text says which, and what to do."""


class Place:
    """Where the database `path` and its log are now."""

    def __init__(self, path: Path) -> None:
        """Raises OSError if one of them is not there."""
        self._files = [(file, _identity(file)) for file in (path, log_of(path))]

    def check(self) -> None:
        """Raise `Displaced` if one of them is not there any more."""
        for file, identity in self._files:
            try:
                found = _identity(file)
            except (FileNotFoundError, NotADirectoryError):
                raise Displaced(
                    f"{file.name} is gone from the data directory. The operator must move it back, or save a"
                    " snapshot before the server ends (see docs/explanation/durability.md)"
                ) from None
            except OSError as error:
                raise Displaced(
                    f"{file.name} cannot be found any more ({error.strerror}). The operator must let zapq search"
                    " the data directory"
                ) from None
            if found != identity:
                raise Displaced(
                    f"{file.name} in the data directory was replaced by another file. The operator must move"
                    " the first one back, or save a snapshot before the server ends"
                    " (see docs/explanation/durability.md)"
                )


def _identity(file: Path) -> tuple[int, int]:
    status = os.stat(file, follow_symlinks=False)
    return status.st_dev, status.st_ino
