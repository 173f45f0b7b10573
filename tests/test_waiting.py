"""Tests that wait say what for, and do not wait for ever."""

from __future__ import annotations

import pytest
import trio

from tests.support import waiting
from tests.support.waiting import eventually, eventually_sync


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PATIENCE", 0.0)


async def test_what_never_comes_is_said() -> None:
    with pytest.raises(AssertionError, match=r"waited 0 s in vain for Godot"):
        await eventually(lambda: False, "Godot")
    with pytest.raises(AssertionError, match=r"waited 0 s in vain for Godot"):
        eventually_sync(lambda: False, "Godot")


async def test_what_is_there_is_not_waited_for() -> None:
    async def asked() -> bool:
        await trio.lowlevel.checkpoint()
        return True

    await eventually(asked, "an answer")
    await eventually(lambda: [1], "anything")
    eventually_sync(lambda: [1], "anything")
