"""kill -9 of a real process under load, again and again on one directory: nothing acknowledged is lost.

`scripts/bench crash` does the same for hours.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.durable.crash import Crashes


@pytest.mark.timeout(3600)  # each round starts a server
def test_nothing_acknowledged_is_lost(tmp_path: Path, gate: bool, nightly: bool) -> None:
    rounds = 300 if nightly else 8 if gate else 3
    # Each Python has a seed of its own.
    with Crashes(tmp_path, seed=f"python-{sys.version_info.major}.{sys.version_info.minor}") as crashes:
        for _ in range(rounds):
            crashes.crash()
        assert crashes.stop() == 0
    assert crashes.ledger.answered > 50 * rounds
