"""Where Prometheus is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.prometheus.programs import ROOT, Programs
from tests.support.disk import disk as disk


@pytest.fixture(scope="session")
def programs() -> Programs:
    """Prometheus and promtool, fetched if they are not here."""
    fetched = subprocess.run([ROOT / "scripts" / "prometheus"], capture_output=True, text=True, check=False)
    if fetched.returncode == 3:
        pytest.skip(fetched.stderr.strip())
    assert fetched.returncode == 0, f"Prometheus cannot be fetched (scripts/prometheus):\n{fetched.stderr}"
    return Programs(Path(fetched.stdout.strip()))
