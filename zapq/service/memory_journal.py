"""The journal of queues in memory, where all that is done is as written as it will ever be."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext


class MemoryJournal:
    """Answers what a service asks its journal; its queues enter nothing here."""

    reason = ""
    entered = 0
    commit = unresolved = None

    def check(self) -> None:
        """Refuse nothing: there is no disk that could fail."""

    check_room = check

    def rely(self) -> None:
        """Do nothing: all that other clients have done counts already."""

    def enter(self, record: object, undo: Callable[..., object], *args: object) -> None:
        """Do nothing: what was done stays done."""

    def note(self, record: object) -> None:
        """Do nothing: there are no rows."""

    stage = note

    def relaxed(self) -> AbstractContextManager[None]:
        """Return a block like any other: nothing waits."""
        return nullcontext()

    for_others = relaxed

    def when_resolved(self, call: Callable[[bool], object]) -> None:
        """Call `call` with True: what was done stays done."""
        call(True)

    def flush(self) -> None:
        """Do nothing."""

    async def resolved(self) -> None:
        """Return at once."""

    at_rest = resolved

    async def stored(self) -> None:
        """Return at once."""

    def abandon(self) -> None:
        """Do nothing: no task waits."""

    def stats(self) -> None:
        """Report nothing."""
