"""How a worker thread works beside an event loop: in slices, yielding Python's global lock after each.

Python's global lock is held for the length of one call into a codec, so a call over a whole file would stop the
event loop for as long.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from zapq.limits import KIB

SLICE_BYTES = 256 * KIB
"""Bytes encoded or decoded in one call: about 0.3 ms of holding the global lock."""
SLICE_MESSAGES = 1000
"""Messages looked at one by one in one go: as long."""
YIELD_SECONDS = 0.0002
"""Seconds the worker sleeps after each slice. Without it the worker takes the lock back at once, and
the event loop waits a whole switch interval (5 ms) after each of its system calls."""

Checkpoint = Callable[[], None]
"""Called between two slices of work; it may raise to end the work there."""


def yield_gil() -> None:
    """Let other threads have Python's global lock for a moment."""
    time.sleep(YIELD_SECONDS)
