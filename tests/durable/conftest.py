"""Which of these tests run where, and what is measured: servers that are killed leave no word of what they ran."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from zlib import crc32

import pytest

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Share the tests that kill servers and fill disks between the two Pythons, where the gate runs both."""
    if not os.environ.get("TESTS_SHARED"):
        return
    mine = sys.version_info >= (3, 13)
    others = [item for item in items if item.path.parent == _HERE and crc32(item.nodeid.encode()) % 2 != mine]
    left_out = set(others)
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=others)


@pytest.fixture(autouse=True)
def started_unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the coverage of the test, and not of the commands it starts."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
