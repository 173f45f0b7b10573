"""A small run of `python -m bench.torture storms`: a server with a client and one without."""

from __future__ import annotations

from bench.torture import storms as scenario


async def test_signals_without_end_never_give_a_wrong_exit_code() -> None:
    assert (await scenario.run(seed=1, scale=0.004)).failures == []
