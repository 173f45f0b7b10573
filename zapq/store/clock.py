"""The clock of a database: Unix time that never goes back.

Times on the disk outlive the run they come from, and the clock on the wall may be set meanwhile. If it is set
back, what was to last until then would last longer than was asked, by as much.
"""

from __future__ import annotations

import time


class Clock:
    """Shows what the clock on the wall shows, or if that was set back, what it would show otherwise."""

    def __init__(self, latest: float) -> None:
        """`latest` is what it is known to have shown."""
        self._offset = max(time.time(), latest) - time.monotonic()

    @property
    def behind(self) -> float:
        """Seconds by which the clock on the wall is behind this one."""
        return max(self._offset + time.monotonic() - time.time(), 0.0)

    def __call__(self) -> float:
        """Return the time, in seconds since 1970."""
        # Set forward it is taken at its word: a machine that slept looks the same. It is read first, so that a
        # pause between the two readings is not taken for that.
        wall, passed = time.time(), time.monotonic()
        self._offset = max(self._offset, wall - passed)
        return passed + self._offset
