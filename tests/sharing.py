"""Which tests one Python of the gate runs, and not both; and those that are not measured.

They are about processes, files and tools rather than about Python, or compare two of our roads, and take minutes.
Where the gate runs two Pythons, the newest runs those that cover code of ours, for it is the one that measures,
and the other one all others.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_NEWEST = frozenset(
    _HERE / name
    for name in (
        "command",
        "durable",
        "engine/valkey",
        "server/test_equivalence.py",
        "server/test_linearizability.py",
        "sqs",
        "test_linearizability.py",
        "test_spool.py",
        "test_systemd.py",
    )
)
_OTHER = frozenset(
    _HERE / name
    for name in (
        "bench",
        "torture",
        "test_scripts.py",
        "test_sdist.py",
        "test_thorough.py",
        "test_watchdog.py",
    )
)
_UNMEASURED = frozenset(_HERE / name for name in ("bench", "durable", "torture"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out those that the other Python of the gate runs."""
    if not os.environ.get("TESTS_SHARED"):
        return
    elsewhere = _OTHER if sys.version_info >= (3, 13) else _NEWEST
    others = {item for item in items if item.path in elsewhere or item.path.parent in elsewhere}
    items[:] = [item for item in items if item not in others]
    config.hook.pytest_deselected(items=list(others))


@pytest.fixture(autouse=True)
def started_unmeasured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the coverage of such a test, and not of the servers it starts: other tests run the same of zapq."""
    if request.path.parent in _UNMEASURED:
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
