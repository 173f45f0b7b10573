"""Errors out of task groups."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager


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
