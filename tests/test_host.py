"""What a public host is told (.github): every action is pinned, and what is named is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def jobs(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text())["jobs"]
    return found


def test_every_action_is_pinned_to_one_commit_with_its_version_beside_it() -> None:
    pins: dict[str, set[str]] = {}
    for file in WORKFLOWS:
        uses = re.findall(r"uses: (.*)$", file.read_text(), re.MULTILINE)
        for each in uses:
            pinned = re.fullmatch(r"([\w./-]+)@([0-9a-f]{40}) # v\d+\.\d+\.\d+", each)
            assert pinned, (file.name, each)
            pins.setdefault(pinned[1], set()).add(pinned[2])
    assert pins
    assert {action: commits for action, commits in pins.items() if len(commits) > 1} == {}


def test_no_job_may_more_than_it_says_and_none_runs_for_ever() -> None:
    for file in WORKFLOWS:
        assert yaml.safe_load(file.read_text())["permissions"] == {}
        for name, job in jobs(file).items():
            assert job["timeout-minutes"] <= 60, name
            assert "permissions" in job, name


def test_what_the_checks_run_is_here() -> None:
    [file] = [each for each in WORKFLOWS if each.name == "ci.yml"]
    commands = [step["run"].split()[0] for job in jobs(file).values() for step in job["steps"] if "run" in step]
    assert commands == [".ci/run", "scripts/test"]
    assert all((ROOT / each).exists() for each in commands)


def test_all_pythons_that_the_package_names_are_tested() -> None:
    [file] = [each for each in WORKFLOWS if each.name == "ci.yml"]
    tested = " ".join(
        str(step["with"]["python-version"])
        for job in jobs(file).values()
        for step in job["steps"]
        if "python-version" in step.get("with", {})
    )
    named = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    assert {*tested.split()} == {*named}
