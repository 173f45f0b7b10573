"""kill -9 of a real process under load, again and again on one directory: nothing acknowledged is lost.

`scripts/bench crash` does the same for hours.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.durable.crash import Crashes
from tests.share import share


@pytest.mark.timeout(3600)  # each round starts a server
def test_nothing_acknowledged_is_lost(tmp_path: Path, nightly: bool) -> None:
    rounds = share(range(300 if nightly else 30))
    with Crashes(tmp_path, seed=f"ci-{rounds[0]}") as crashes:
        for _ in rounds:
            crashes.crash()
        assert crashes.stop() == 0
    assert crashes.ledger.answered > 50 * len(rounds)
