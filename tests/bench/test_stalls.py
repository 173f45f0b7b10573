"""`scripts/bench stalls` runs each scenario to its end, and tells a stall of the server from a busy machine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import stalls
from bench.stalls import SCENARIOS, Seen, observe, table
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow  # it starts servers, and the gate runs it

EXPECTED = {
    "nothing": set[str](),
    "50 x receive 1,000, JSON": {"200", "204"},
    "50 batches of 4 MB, JSON": {"202"},
    "500 x put in chunks": {"202"},
    "50 batches of 8 MB with a key, JSON": {"202"},
    "50 batches of 8 MB with a key, msgpack": {"202"},
    "20 x find none among 300,000 returned": {"404"},
    "100,000 leases expire at once": {"expired"},
}
"""The statuses of the answers the others get, where it is not 200."""
QUICK = ("5 x redrive none of 300,000", "500 TLS handshakes at once")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SCENARIOS]
)
def test_a_scenario_runs_to_its_end_beside_a_healthy_client(name: str, tmp_path: Path) -> None:
    seen = observe(name, False, str(tmp_path), 0.002, PATIENCE)
    assert set(seen.others) <= EXPECTED.get(name, {"200"})
    assert bool(seen.others) == (name != "nothing")
    assert len(seen.answers) > 2
    assert 0 < seen.p99 <= seen.longest


@pytest.mark.slow
def test_a_scenario_runs_on_a_durable_server(tmp_path: Path) -> None:
    seen = observe("50 x settle 1,000 unknown receipts", True, str(tmp_path), 0.04, PATIENCE)
    assert seen.scenario.endswith(", durable")
    assert seen.others == {"200": 6}


ANSWERS = [(50.0, 45.0, False), (30.0, 5.0, False), (40.0, 0.0, True)]
SEEN = Seen("all at once", 1.5, Counter({"200": 1000}), ANSWERS)


def test_a_stall_is_what_remains_without_the_disk_and_the_time_other_programs_took() -> None:
    assert (SEEN.p99, SEEN.longest, SEEN.stall) == (50.0, 50.0, 25.0)
    assert table([SEEN]).splitlines()[2] == "| all at once | 1.5 | 1,000 x 200 | 3 | 50.0 | 50.0 | 25.0 |"


@pytest.mark.parametrize(("limit", "code"), [("30", 0), ("20", 1)])
def test_a_stall_over_the_limit_is_exit_code_1(limit: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalls, "observe", lambda *arguments: SEEN)
    result = CliRunner().invoke(stalls.main, ["--only", "nothing", "--limit", limit])
    assert result.exit_code == code
    assert ("is over the limit of 20 ms" in result.output) == (code == 1)
