"""A small run of `python -m bench.torture sigterm`: one stop with clients of all kinds, without judging times."""

from __future__ import annotations

import pytest

from bench.torture import sigterm as scenario


@pytest.mark.slow
async def test_it_ends_in_order_whatever_its_clients_are_at() -> None:
    assert (await scenario.run(seed=1, scale=0.01)).failures == []
