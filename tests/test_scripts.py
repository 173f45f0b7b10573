"""The scripts of the checkout, with environments made before: nothing is installed here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import ENVIRON

ROOT = Path(__file__).parent.parent
VERSION = "{}.{}".format(*sys.version_info[:2])


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose environments are there, with programs that say where they run, and how."""
    root = tmp_path / "a checkout"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "bench").mkdir()
    checksum = subprocess.run(
        "cksum < pyproject.toml | tr ' ' '-'", shell=True, cwd=root, capture_output=True, text=True
    )
    for groups, program in (("run-", "zapq"), ("run-test-bench", "python")):
        environment = root / f".venv-{VERSION}-{groups}"
        (environment / "bin").mkdir(parents=True)
        (environment / f"installed-{checksum.stdout.strip()}").touch()
        script = environment / "bin" / program
        script.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\nprintf "%s\\n" "$PYTHONPATH"\n')
        script.chmod(0o755)
    return root


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("serve", ["--data-dir", "d", "--durable", ""]),
        ("bench", ["-P", "-m", "bench.startup", "--data-dir", "d", "--durable", "{root}"]),
    ],
)
def test_relative_paths_are_the_callers(
    script: str, expected: list[str], relative: bool, checkout: Path, tmp_path: Path
) -> None:
    caller = tmp_path / "elsewhere"
    caller.mkdir()
    path = checkout / "scripts" / script
    arguments = [*(["startup"] if script == "bench" else []), "--data-dir", "d", "--durable"]
    shown = subprocess.run(
        [os.path.relpath(path, caller) if relative else path, *arguments],
        cwd=caller,
        env={name: text for name, text in ENVIRON.items() if name != "PYTHONPATH"} | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines() == [str(caller), *(each.format(root=checkout) for each in expected)]
    assert list(caller.iterdir()) == []
