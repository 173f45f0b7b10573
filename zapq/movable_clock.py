"""A clock that tests move on, so that an hour's visibility takes them milliseconds.

All that the queues wait for (leases, delays, ttls, keys, long polls) is due by Trio's clock. So it is enough to
move that one on, and no other file of the queues knows of it.
"""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

import trio

from zapq.errors import InvalidSetting, NoTestClock


@runtime_checkable
class _Jumps(Protocol):
    """A clock that can be moved on; `trio.testing.MockClock` can as well."""

    def jump(self, seconds: float, /) -> None:
        """Move it on by so many seconds."""


class MovableClock(trio.abc.Clock):
    """Real time, and what it was moved on by: `trio.run(main, clock=MovableClock())`."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def start_clock(self) -> None:
        """Do nothing: it runs."""

    def current_time(self) -> float:
        """Return the time."""
        return time.perf_counter() + self._ahead

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return the seconds until `deadline`."""
        return deadline - self.current_time()

    def jump(self, seconds: float, /) -> None:
        """Move it on. Trio sees that in its next turn, however long it sleeps."""
        self._ahead += seconds


def check_movable() -> None:
    """Raise `InvalidSetting` unless the clock of this run of Trio can be moved on."""
    if not isinstance(trio.lowlevel.current_clock(), _Jumps):
        raise InvalidSetting(
            "settings.test_clock needs a clock that can be moved on. Run Trio with clock=trio.testing.MockClock(),"
            " as pytest-trio's mock_clock does, or start the server with --test-clock.",
            setting="test_clock",
        )


def move_on(seconds: float) -> None:
    """Move the clock of this run of Trio on; raises `NoTestClock` if that cannot be."""
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, _Jumps):
        raise NoTestClock
    clock.jump(seconds)
