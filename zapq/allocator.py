"""What becomes of freed memory: large blocks go back to the system, and do not wait for the next to need them.

The C library of most Linux systems (glibc) learns from each large block that is freed to keep the next of that
size, among all the small ones, for itself. There a hole of megabytes stays for as long as anything behind it is in
use, and batches come and go among messages that stay.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

from zapq.limits import LARGE_BLOCK_BYTES

_M_MMAP_THRESHOLD = -3


def give_back_large_blocks() -> None:
    """Have blocks of `LARGE_BLOCK_BYTES` and more given back once they are free; does nothing without glibc."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
