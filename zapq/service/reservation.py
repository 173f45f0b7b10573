"""Room in memory for bodies that are being received: reserved before they are read, given back on every way out.

What is being received is held as much as what is queued. If only the latter counted, clients could fill the memory
with uploads that never end. The holder of a `Reservation` gives it back, or hands it on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from zapq.errors import ZapqError


class Pool(Protocol):
    """Memory of which a part can be reserved."""

    def reserve(self, size: int) -> bool:
        """Set `size` bytes aside if there is room for them, and return whether there is."""

    def release(self, size: int) -> None:
        """Take back `size` bytes that were set aside."""


class Budget:
    """A pool of `most` bytes."""

    def __init__(self, most: int) -> None:
        self.used = 0
        self._most = most

    def reserve(self, size: int) -> bool:
        """Set `size` bytes aside if there is room for them, and return whether there is."""
        if self.used + size > self._most:
            return False
        self.used += size
        return True

    def release(self, size: int) -> None:
        """Take back `size` bytes that were set aside."""
        self.used -= size


class Reservation:
    """What is reserved in `pool` for one body; `refuse` makes the refusal for bytes there was no room for.

    The first `free` bytes need no room.
    """

    __slots__ = ("_free", "_pool", "refuse", "size")

    def __init__(self, pool: Pool, refuse: Callable[[int], ZapqError], *, free: int = 0) -> None:
        self.size = 0
        """Bytes reserved now."""
        self.refuse = refuse
        self._pool = pool
        self._free = free

    def cover(self, total: int) -> bool:
        """Reserve what a body of `total` bytes needs and is not reserved yet; return whether there was room."""
        missing = total - self._free - self.size
        if missing > 0:
            if not self._pool.reserve(missing):
                return False
            self.size += missing
        return True

    def release(self) -> None:
        """Reserve nothing any more; again is harmless."""
        self._pool.release(self.size)
        self.size = 0
