"""What servers under load run, other tests run as well; measured, they would be slower."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def started_unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the coverage of the test, and not of the commands it starts."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
