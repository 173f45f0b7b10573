"""How long the tests search, how a test that hangs ends, and what the commands that tests start inherit."""

from __future__ import annotations

import signal

pytest_plugins = ["tests.sharing", "tests.thorough", "tests.watchdog"]

# What a shell starts in the background ignores SIGINT, and so would every command a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
