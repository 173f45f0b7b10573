"""A second of what `python -m bench.torture exhaust` does for longer, and with more clients."""

from __future__ import annotations

import pytest

from bench.torture import exhaust


@pytest.mark.slow
async def test_nobody_is_left_hanging_whatever_runs_out() -> None:
    report = await exhaust.run(seed=1, scale=0.02)
    assert report.failures == []
