"""A small run of `python -m bench.torture disconnect`."""

from __future__ import annotations

import pytest

from bench.torture import disconnect as scenario


@pytest.mark.slow
async def test_who_vanishes_takes_nothing_along_and_leaves_nothing_behind() -> None:
    assert (await scenario.run(seed=1, scale=0.01)).failures == []
