"""kill -9 of a real process under load, again and again on one directory: nothing acknowledged is lost.

`scripts/bench crash` does the same for hours.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.durable.crash import Crashes

ROUNDS = 30


# So many rounds take as long as they take where others use the machine as well.
@pytest.mark.timeout(600)
def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    with Crashes(tmp_path, seed="ci") as crashes:
        for _ in range(ROUNDS):
            crashes.crash()
        assert crashes.stop() == 0
    assert crashes.ledger.answered > 50 * ROUNDS
