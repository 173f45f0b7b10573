"""Profiles for property tests, how a test that hangs ends, and what the commands that tests start inherit.

`--hypothesis-profile nightly` looks for longer.
"""

from __future__ import annotations

import signal

import pytest
from hypothesis import settings

pytest_plugins = ["tests.watchdog"]

settings.register_profile("nightly", max_examples=20_000)


@pytest.fixture(scope="session")
def nightly(pytestconfig: pytest.Config) -> bool:
    """Whether to look for longer, which tests that are no property tests do as well."""
    return bool(pytestconfig.getoption("--hypothesis-profile", default=None) == "nightly")


# What a shell starts in the background ignores SIGINT, and so would every command a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
