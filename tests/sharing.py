"""Tests about processes, files and tools rather than about Python: how they are shared out, and not measured.

They kill servers, fill disks, attack, ask a real Valkey, and run benches, which takes minutes. Where the
gate runs two Pythons, each of these tests runs on one of them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from zlib import crc32

import pytest

_HERE = Path(__file__).parent
_FOLDERS = frozenset(_HERE / name for name in ("bench", "durable", "engine/valkey", "torture"))
_TOOLS = frozenset(
    _HERE / f"test_{name}.py" for name in ("scripts", "sdist", "spool", "systemd", "thorough", "watchdog")
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out those that the other Python of the gate runs."""
    if not os.environ.get("TESTS_SHARED"):
        return
    mine = sys.version_info >= (3, 13)
    others = {
        item
        for item in items
        if (item.path.parent in _FOLDERS or item.path in _TOOLS) and crc32(item.nodeid.encode()) % 2 != mine
    }
    items[:] = [item for item in items if item not in others]
    config.hook.pytest_deselected(items=list(others))


@pytest.fixture(autouse=True)
def started_unmeasured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the coverage of such a test, and not of the servers it starts: other tests run the same of zapq."""
    if request.path.parent in _FOLDERS:
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
