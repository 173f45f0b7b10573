"""kill -9 of a real process under load, again and again on one directory: nothing acknowledged is lost.

`scripts/bench crash` does the same for hours, with `--sqs` through SQS.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.durable.crash import Crashes
from tests.durable.fifo import FifoCrashes

pytestmark = pytest.mark.slow  # it starts servers, and the gate runs it


@pytest.mark.timeout(3600)  # each round starts a server
def test_nothing_acknowledged_is_lost(tmp_path: Path, gate: bool, nightly: bool) -> None:
    rounds = 300 if nightly else 8 if gate else 3
    # Each Python has a seed of its own.
    with Crashes(tmp_path, seed=f"python-{sys.version_info.major}.{sys.version_info.minor}") as crashes:
        for _ in range(rounds):
            crashes.crash()
        assert crashes.stop() == 0
    assert crashes.ledger.answered > 50 * rounds


@pytest.mark.timeout(3600)  # the same
def test_fifo_queues_of_sqs_keep_their_order_and_store_nothing_twice(
    tmp_path: Path, gate: bool, nightly: bool
) -> None:
    rounds = 100 if nightly else 3 if gate else 2
    with FifoCrashes(tmp_path, seed=f"python-{sys.version_info.major}.{sys.version_info.minor}") as crashes:
        for _ in range(rounds):
            crashes.crash()
        # A crash may happen to leave no request of a producer without an answer.
        while not crashes.groups.repeated:
            crashes.crash()
        assert crashes.stop() == 0
    assert crashes.answered > 50 * rounds
