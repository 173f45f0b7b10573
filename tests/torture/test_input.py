"""A small run of `python -m bench.torture input`."""

from __future__ import annotations

import pytest

from bench.torture import input as scenario


@pytest.mark.slow
async def test_no_bytes_harm_it() -> None:
    assert (await scenario.run(seed=1, scale=0.002)).failures == []
