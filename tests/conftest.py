"""How long the tests search, how a test that hangs ends, and what the commands that tests start inherit."""

from __future__ import annotations

import signal
import sys

import pytest

pytest_plugins = ["tests.sharing", "tests.thorough", "tests.watchdog"]

# What a shell starts in the background ignores SIGINT, and so would every command a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Write down what this process has covered: pytest-xdist kills a worker that takes ten seconds to end."""
    coverage = sys.modules.get("coverage")
    measured = coverage and coverage.Coverage.current()
    if measured is not None:
        measured.stop()
        measured.save()
