"""The benchmarks read their tools' words right, and do not call a failure a figure."""

from __future__ import annotations

import os
import sys

import pytest

from bench import rig
from bench.compare import table
from bench.rivals.beanstalk_client import step


def figures(cpu_us: float) -> rig.Figures:
    return rig.Figures(requests=1000, per_second=100_000, cpu_us=cpu_us, p50_ms=0.25, p99_ms=1.5)


@pytest.mark.parametrize(
    ("text", "milliseconds"), [("411.00us", 0.411), ("1.72ms", 1.72), ("1.10s", 1100), ("1.50m", 90_000)]
)
def test_latencies_as_wrk_writes_them_become_milliseconds(text: str, milliseconds: float) -> None:
    assert rig._milliseconds(text) == pytest.approx(milliseconds)


def test_the_median_round_is_that_of_the_cpu() -> None:
    assert rig.median([figures(3), figures(1), figures(2)]) == figures(2)


def test_the_ratio_is_to_zapq() -> None:
    results = {"zapq": {"enqueue": figures(10)}, "other": {"enqueue": figures(25)}}
    lines = table(results).splitlines()
    assert lines[2:] == [
        "| zapq | enqueue | 100,000 | 10.0 | 1.00 | 0.25 | 1.50 |",
        "| other | enqueue | 100,000 | 25.0 | 2.50 | 0.25 | 1.50 |",
    ]


def test_what_beanstalkd_says_leads_to_the_next_command() -> None:
    assert step(b"INSERTED 1\r\n") == b""
    assert step(b"RESERVED 7 3\r\nabc\r\n") == b"delete 7\r\n"
    assert step(b"DELETED\r\n") == b""
    with pytest.raises(SystemExit, match="TIMED_OUT"):
        step(b"TIMED_OUT\r\n")


def test_a_server_that_does_not_start_is_an_error_and_not_a_figure(capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no luck')"]
    with pytest.raises(RuntimeError, match="ended with code 1"), rig.running(command, rig.free_port()):
        raise AssertionError("not reached")
    assert "no luck" in capsys.readouterr().out


def test_a_process_has_used_some_cpu_and_holds_some_memory() -> None:
    assert rig.cpu_seconds(os.getpid()) > 0
    assert rig.resident_bytes(os.getpid()) > 2**20
