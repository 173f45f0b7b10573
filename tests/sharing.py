"""Which tests one Python of the gate runs, and not both; and what is not measured.

They are about processes, files and tools rather than about Python, or compare two of our roads, and take minutes.
Where the gate runs two Pythons, the newest runs those that cover code of ours, for it is the one that measures.
The other one runs the rest: measuring doubles what a test costs, so what searches long for a contradiction, in
code that other tests cover as well, is not measured.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from coverage import Coverage

_HERE = Path(__file__).parent
_NEWEST = frozenset(
    _HERE / name
    for name in (
        "command",
        "engine/valkey",
        "image",
        "programs",
        "server/test_workers.py",
        "sqs",
        "test_cli.py",
        "test_spool.py",
        "test_systemd.py",
        "test_testing.py",
    )
)
_OTHER = frozenset(
    _HERE / name
    for name in (
        "bench",
        "core/test_machine.py",
        "core/test_machine_on_disk.py",
        "durable",
        "engine/valkey/test_library.py",
        "engine/valkey/test_linearizability.py",
        "engine/valkey/test_same.py",
        "judges",
        "page",
        "prometheus",
        "server/test_equivalence.py",
        "server/test_linearizability.py",
        "sqs/test_hostile.py",
        "test_architecture.py",
        "test_linearizability.py",
        "test_scripts.py",
        "test_sdist.py",
        "test_thorough.py",
        "test_watchdog.py",
        "torture",
    )
)
_UNMEASURED = frozenset(_HERE / name for name in ("bench", "durable", "image", "judges", "page", "torture"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out those that the other Python of the gate runs."""
    if not os.environ.get("TESTS_SHARED"):
        return
    newest = sys.version_info >= (3, 13)
    elsewhere = _OTHER if newest else _NEWEST
    others = {
        item
        for item in items
        if _listed(item.path) in elsewhere or (newest and item.get_closest_marker("once") is not None)
    }
    items[:] = [item for item in items if item not in others]
    config.hook.pytest_deselected(items=list(others))


def _listed(file: Path) -> Path:
    """Return what the lists above have of it: the file itself, before the directory it is in."""
    return file if file in _NEWEST | _OTHER else file.parent


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_xdist_setupnodes() -> None:
    """Do not measure the process that hands out tests to others: it runs nothing of ours any more."""
    if (measuring := Coverage.current()) is not None:
        measuring.stop()


@pytest.fixture(autouse=True)
def started_unmeasured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the coverage of such a test, and not of the servers it starts: other tests run the same of zapq."""
    if request.path.parent in _UNMEASURED:
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
