"""Polling: what another process, a thread or the kernel does can only be polled for."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable

import trio

PATIENCE = 45.0
"""Seconds after which a test gives up: far more than a busy machine takes, and less than ends the test anyway.

The gate, which gives tests more time, waits longer as well (tests/thorough.py).
"""
_PAUSE = 0.005


async def eventually(condition: Callable[[], object | Awaitable[object]], what: str) -> None:
    """Return as soon as `condition` holds; fail, and say that `what` was waited for, if it does not in time."""
    # By the real clock: a mocked one would jump.
    deadline = time.monotonic() + PATIENCE
    while True:
        holds = condition()
        if inspect.isawaitable(holds):
            holds = await holds
        if holds:
            return
        _check(deadline, what)
        await trio.sleep(_PAUSE)


def eventually_sync(condition: Callable[[], object], what: str) -> None:
    """Do as `eventually` does where no Trio runs, or may not."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        _check(deadline, what)
        time.sleep(_PAUSE)


def _check(deadline: float, what: str) -> None:
    if time.monotonic() >= deadline:
        raise AssertionError(f"waited {PATIENCE:g} s in vain for {what}")
