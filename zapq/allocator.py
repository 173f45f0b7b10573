"""What becomes of memory in a process that serves.

Large blocks go back to the system, and do not wait for the next to need them.

The C library of most Linux systems (glibc) learns from each large block that is freed to keep the next of that
size, among all the small ones, for itself. There a hole of megabytes stays for as long as anything behind it is in
use, and batches come and go among messages that stay.
"""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

from zapq.limits import LARGE_BLOCK_BYTES

_M_MMAP_THRESHOLD = -3


def settle_in() -> None:
    """Make the memory of this process that of a server which has started. Only for a process that is ours."""
    # What was imported stays, and each full collection walked all of it: 25 to 40 ms in which no client is
    # answered. Frozen, it is left out (3 to 11 ms).
    gc.collect()
    gc.freeze()
    give_back_large_blocks()


def give_back_large_blocks() -> None:
    """Have blocks of `LARGE_BLOCK_BYTES` and more given back once they are free; does nothing without glibc."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
