"""What the tests of servers share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.disk import Disk
from tests.support.serving import patient_clock

__all__ = ["patient_clock"]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """The disk under every durable server of the test."""
    disk = Disk()
    disk.install(monkeypatch)
    yield disk
    disk.go_on()
