"""The data directory: opened once, and everything in it reached through that, by plain names only.

A file is replaced whole or not at all: written under a temporary name, synced, renamed, and the directory synced.
Read are plain files with one name; links are not followed.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Self

from zapq.errors import CannotStart, SnapshotFailed
from zapq.store.slices import Checkpoint

_READ = os.O_RDONLY | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO must not wait for its writer.
_READ_FILE = _READ | os.O_NOFOLLOW | os.O_NONBLOCK


def let_write(place: str) -> str:
    """Return what an operator can do if zapq cannot write to the directory `place`."""
    return f"Let zapq (user {os.geteuid()}) read and write {place!r}, or give another --data-dir."


def lock(directory: str, descriptor: int, kind: int) -> None:
    """Lock `directory`, which `descriptor` is of, until that is closed; raises `CannotStart` if it is in use."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CannotStart(
            f"--data-dir {directory!r} is in use by another zapq. Stop that one, or give another directory."
        ) from None


class Directory:
    """One directory; a context manager that makes it if need be and keeps it open."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.descriptor = -1
        """That of the directory, as long as it is open."""
        self.real_path = os.path.realpath(path)
        """Absolute, and without links."""
        self.created = False
        """Whether it was not there before."""

    def __enter__(self) -> Self:
        # Resolved first: an operator may well make the directory itself a link (systemd does). What is
        # opened then is fixed, whatever later happens to the names above it.
        # (Not by Path.resolve, which before Python 3.13 raises RuntimeError for links in a circle.)
        path = Path(self.real_path)
        try:
            with suppress(FileExistsError):
                path.mkdir(mode=0o700, parents=True)
                self.created = True
            self.descriptor = os.open(path, _READ | os.O_DIRECTORY | os.O_NOFOLLOW)
        except NotADirectoryError:
            raise CannotStart(
                f"--data-dir {self._path!r} is not a directory, or lies below a file. Give a directory, or a"
                " path where zapq can make one."
            ) from None
        except PermissionError as error:
            raise CannotStart(f"--data-dir {self._path!r}: {error.strerror}. {let_write(self._path)}") from None
        except OSError as error:
            raise CannotStart(
                f"--data-dir {self._path!r}: {error.strerror}. Give a directory, or a path where zapq can make"
                " one."
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def write(self, name: str, pieces: Iterable[bytes | bytearray], checkpoint: Checkpoint) -> None:
        """Write `pieces` as the file `name`, whole and on the disk, or raise OSError; `checkpoint` follows each.

        Then the name still means the older file, if there was one; only if syncing the directory is what
        failed may it mean the new one, which is complete.
        """
        # Random, so that two saves of one name never share a file; hidden, so that it is never loaded.
        temporary = f".{name}.{secrets.token_hex(8)}.tmp"
        try:
            self._write(temporary, pieces, checkpoint)
            os.rename(temporary, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        except BaseException:
            # It was never made, or is renamed already: the error that brought us here tells more.
            with suppress(OSError):
                self.remove(temporary)
            raise
        os.fsync(self.descriptor)

    @contextmanager
    def open(self, name: str) -> Iterator[tuple[BinaryIO, int]]:
        """Give the file `name` to read, unbuffered, and its size; `SnapshotFailed` for what is no plain file."""
        # An opener, since open() closes a descriptor it cannot use (a directory's) only if it is its own.
        with open(name, "rb", 0, opener=self._open) as file:
            status = os.fstat(file.fileno())
            # No name at all: it was replaced since we opened it, and is complete.
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise SnapshotFailed(f"{name} is not a plain file, or has several names (hard links).")
            yield file, status.st_size

    def files(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield each plain file with one name, and what the system knows of it, in order of the names."""
        # A descriptor of its own: one that is shared also shares how far it has been read.
        descriptor = os.open(".", _READ | os.O_DIRECTORY, dir_fd=self.descriptor)
        try:
            names = os.listdir(descriptor)
        finally:
            os.close(descriptor)
        for name in sorted(names):
            # It may be gone by now.
            with suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                    yield name, status

    def modified(self, name: str) -> float | None:
        """Return when `name`, be it a link to nothing, was modified, or None if there is no such name."""
        try:
            return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False).st_mtime
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Remove the file `name`; OSError if that is impossible."""
        os.unlink(name, dir_fd=self.descriptor)

    def _open(self, path: str, _: int) -> int:
        return os.open(path, _READ_FILE, dir_fd=self.descriptor)

    def _write(self, name: str, pieces: Iterable[bytes | bytearray], checkpoint: Checkpoint) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=self.descriptor)
        with open(descriptor, "wb", buffering=0) as file:
            for piece in pieces:
                with memoryview(piece) as view:
                    written = 0
                    while written < len(view):
                        written += file.write(view[written:])
                checkpoint()
            os.fsync(descriptor)
