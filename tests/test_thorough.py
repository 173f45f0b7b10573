"""Slow tests are left out until someone asks for them, and the summary says so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TESTS = """
import pytest
from hypothesis import settings


def test_fast(gate, nightly):
    assert settings.default.max_examples < 100
    assert not gate
    assert not nightly


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
def test_slow(number, gate, nightly):
    assert settings.default.max_examples >= 50
    assert gate
    assert nightly == (settings.default.max_examples > 50)
"""


def run(directory: Path, *options: str) -> str:
    (directory / "test_some.py").write_text(TESTS)
    (directory / "pytest.ini").write_text("[pytest]\nmarkers =\n  slow: of the gate")
    plugins = ["-p", "_hypothesis_pytestplugin", "-p", "xdist", "-p", "tests.thorough", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", "-rA", *plugins, *options],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout + result.stderr


@pytest.mark.parametrize("workers", ["-n0", "-n1"])
def test_slow_tests_are_left_out_and_the_summary_says_so(tmp_path: Path, workers: str) -> None:
    output = run(tmp_path, workers)
    assert "3 slow tests left out; scripts/test --all runs all tests." in output
    assert re.search(r"= 1 passed(, 3 deselected)? in ", output.splitlines()[-1])


@pytest.mark.parametrize("profile", [[], ["--hypothesis-profile=nightly"]], ids=["gate", "nightly"])
def test_all_runs_them(tmp_path: Path, profile: list[str]) -> None:
    output = run(tmp_path, "-n1", "--all", "-k", "slow", *profile)
    assert "left out" not in output
    assert "= 3 passed in " in output.splitlines()[-1]


def test_one_that_is_named_runs_and_one_file_needs_no_worker(tmp_path: Path) -> None:
    output = run(tmp_path, "-nauto", "--hypothesis-profile=gate", "test_some.py::test_slow")
    assert "= 3 passed in " in output.splitlines()[-1]
    assert "workers" not in output
