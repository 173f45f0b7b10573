"""What the tests of servers share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from trio.testing import MockClock

from tests.support.disk import Disk


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """The disk under every durable server of the test."""
    disk = Disk()
    disk.install(monkeypatch)
    yield disk
    disk.go_on()


@pytest.fixture
def patient_clock(autojump_clock: MockClock) -> MockClock:
    """Virtual time where there are sockets, all of this process: it jumps once nothing has moved for a while.

    What has been sent is there at once; the while is for a kernel that is busy. So limits can be as long as in the
    field, nothing is late because the machine is slow, and the test does not wait for them. It must ask for this
    itself: pytest-trio takes no clock from a fixture's fixtures.
    """
    autojump_clock.autojump_threshold = 0.02
    return autojump_clock
