"""The page in a real browser: each thing that a person does there is seen to happen in the server.

The checks are in `checks.py`, and run in an environment of their own: all of them, in order, with one server and
one browser. To make the pictures of docs/how-to/page.md anew:

    PICTURES=docs/how-to/page scripts/test --all tests/page
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import ENVIRON

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("page")]


def _checks() -> list[str]:
    """Return the names of the checks, in order; their module needs what only their environment has."""
    tree = ast.parse((Path(__file__).parent / "checks.py").read_text())
    return [
        each.name
        for each in tree.body
        if isinstance(each, ast.FunctionDef) and any(ast.unparse(one) == "check" for one in each.decorator_list)
    ]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What came of each check: nothing, or what went wrong."""
    environ = {name: text for name, text in ENVIRON.items() if name != "PYTHONPATH"}
    command = [ROOT / "scripts" / "browser"]
    made = subprocess.run(
        command, env={**environ, "PYTHON": sys.executable}, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, f"The browser cannot be installed (scripts/browser):\n{made.stderr}"
    python = Path(made.stdout.splitlines()[-1]) / "bin" / "python"
    directory = tmp_path_factory.mktemp("page")
    report = directory / "report"
    pictures = [str(ROOT / os.environ["PICTURES"])] if "PICTURES" in os.environ else []
    ran = subprocess.run(
        [python, "-m", "tests.page.drive", sys.executable, str(directory), str(report), *pictures],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.exists(), ran.stdout + ran.stderr
    found: dict[str, str] = json.loads(report.read_text())
    return found


@pytest.mark.parametrize("check", _checks())
def test_in_a_browser(outcomes: dict[str, str], check: str) -> None:
    assert outcomes.get(check, "It did not run.") == "", outcomes[check]
