"""A second of what `python -m bench.torture overload` does for a minute."""

from __future__ import annotations

import pytest

from bench.torture import overload


@pytest.mark.slow
async def test_an_overloaded_server_refuses_and_keeps_to_its_memory() -> None:
    report = await overload.run(seed=1, scale=0.015)
    assert report.failures == []
