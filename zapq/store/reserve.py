"""Disk space that is set aside, so that consumers can empty a disk that is full.

SQLite writes every change to its log first, so that a removal needs space as well. A file beside the
database takes up that space. Once the disk is full the file is removed: from then on messages are taken, settled
and purged, and none is stored. When the space is free again, the file is made anew.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from zapq.limits import DISK_RESERVE, MIB


class Reserve:
    """The file that takes up the space, beside the database `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.with_name(f"{path.name}-reserve")

    def free(self) -> int:
        """Return how many bytes of its disk are free. Raises OSError."""
        status = os.statvfs(self.path.parent)
        return status.f_bavail * status.f_frsize

    def take(self, size: int = DISK_RESERVE, beside: int = 0) -> bool:
        """Take `size` bytes if `beside` more are free, else none; return False if there is no room for that."""
        try:
            if self.free() + self._size() < size + beside:
                self.release()
                return False
            allocate(self._file, size)
        except OSError as error:
            self.release()
            # What else prevents it (a file system without such files) is no reason to refuse messages.
            return error.errno not in {errno.ENOSPC, errno.EDQUOT}
        return True

    def take_some(self) -> None:
        """Take as much as there is room for, for the next start."""
        size = DISK_RESERVE
        while size >= MIB and not self.take(size):
            size //= 2

    def release(self) -> None:
        """Free the space."""
        with suppress(OSError):
            self._file.unlink()

    def _size(self) -> int:
        try:
            return self._file.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            return 0


def allocate(path: Path, size: int) -> None:
    """Make the file at least so long, and see that each byte of it has its place on the disk. Raises OSError."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)
