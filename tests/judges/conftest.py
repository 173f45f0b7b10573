"""Where the judges are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.judges.judges import ROOT, Judges
from tests.support.process import ENVIRON


@pytest.fixture(scope="session")
def judges() -> Judges:
    """All of them, installed if they are not: that needs the network, and fails without."""
    environ = {name: text for name, text in ENVIRON.items() if name != "PYTHONPATH"}
    made = subprocess.run(
        [ROOT / "scripts" / "judges"],
        env={**environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, f"The judges cannot be installed (scripts/judges):\n{made.stderr}"
    return Judges(Path(made.stdout.splitlines()[-1]))
