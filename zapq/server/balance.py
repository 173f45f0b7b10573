"""How many connections each worker has, in memory that all of them see: so none accepts far more than another.

The worker that is awake accepts first, and on an idle machine that is the same one again and again. So a worker
that has clearly more than another leaves new clients to that one for a moment. If the other is too busy to come,
it accepts them after all.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

_BYTES = 4
_NONE = 2**32 - 1
"""The number of a worker that does not run."""
_PART = 8
"""One has clearly more if it is ahead by one, and by one for so many of its own."""


class Balance:
    """The numbers of all workers; each worker writes its own."""

    def __init__(self, descriptor: int, number: int = 0) -> None:
        """`descriptor` is the memory's, and `number` which worker this is, from 1; 0 for none of them."""
        self._numbers = memoryview(mmap.mmap(descriptor, 0)).cast("I")
        self._own = number - 1

    def note(self, connections: int) -> None:
        """Let this be what this worker has."""
        self._numbers[self._own] = connections

    def note_end(self, number: int) -> None:
        """Take note that a worker does not run: new clients are not left to it."""
        self._numbers[number - 1] = _NONE

    def is_ahead(self) -> bool:
        """Whether this worker has clearly more than another one."""
        own = self._numbers[self._own]
        return own > min(self._numbers) + 1 + own // _PART


@contextmanager
def balance_memory(workers: int) -> Iterator[int | None]:
    """Make memory for so many workers, and yield its descriptor; None where the platform has no such memory."""
    descriptor = _memory(_BYTES * workers)
    if descriptor is None:
        yield None
        return
    try:
        board = Balance(descriptor)
        for number in range(1, workers + 1):
            board.note_end(number)
        yield descriptor
    finally:
        os.close(descriptor)


def _memory(size: int) -> int | None:
    try:
        descriptor = os.memfd_create("zapq-workers")
    except (AttributeError, OSError):  # not Linux, or not allowed: then whichever worker is free first accepts
        return None
    os.truncate(descriptor, size)
    return descriptor
