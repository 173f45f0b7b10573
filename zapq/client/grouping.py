"""Task groups of ours: errors come out of them as they are, and Ctrl-C does not come into their tasks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, TypeAlias

Task: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


@contextmanager
def ungrouped() -> Generator[None, None, None]:
    """Let an error that is alone in its group out of it: the caller need not know of a group."""
    alone: BaseException | None = None
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        [alone] = group.exceptions
    if alone is not None:
        raise alone


def uninterrupted(task: Task) -> Task:
    """Return a task into which Ctrl-C does not come: on Trio, it goes to the program's main task then.

    Else Trio raises KeyboardInterrupt in the task that runs just then. If that is the one that settles leases,
    the messages that are held cannot be released.
    """

    async def run() -> None:
        await task()

    # A program of asyncio's need not have it: there, Ctrl-C cancels the main task in any case.
    trio = sys.modules.get("trio")
    if trio is None:
        return run
    protected: Task = trio.lowlevel.enable_ki_protection(run)
    return protected
