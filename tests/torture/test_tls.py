"""A small run of the scenario; all of it is `python -m bench.torture tls`."""

from __future__ import annotations

import pytest

from bench.torture import tls


@pytest.mark.slow
async def test_tls_keeps_its_word() -> None:
    report = await tls.run(seed=1, scale=0.02)
    assert report.failures == []
