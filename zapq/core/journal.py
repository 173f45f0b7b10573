"""Where queues enter what they did: records for the disk, and how to step back if these cannot be written.

A verb changes memory at once. Memory may be ahead of the disk; answers never are: they leave when the commit that
holds their records is on the disk. If a commit fails, all that was done since the last good one is undone in
reverse order, so that each step back finds what its verb left behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from zapq.core.message import Properties
from zapq.core.records import Record


class Journal(Protocol):
    """What queues on the disk know of it; queues in memory have none."""

    def check(self) -> None:
        """Raise `StorageUnavailable` if nothing can be written at the moment."""

    def check_room(self) -> None:
        """Raise `StorageUnavailable` if no message can be stored at the moment."""

    def enter(self, record: Record | None, undo: Callable[..., object], *args: object) -> None:
        """Enter what was done just now; `undo(*args)` steps back from it."""

    def enter_next(
        self, row: int, body: bytes, properties: Properties, undo: Callable[[int, Sequence[bytes]], object]
    ) -> None:
        """Enter a message that was put behind all others of its queue, ready and of no priority.

        `undo(row, bodies)` steps back from it, or from several such that were entered one after the other: the
        row of the first, and the body of each.
        """

    def note(self, record: Record) -> None:
        """Enter what stays done: if its commit fails, it is written with a later one."""

    def rely(self) -> None:
        """Let the answer of this step leave once all that was entered so far is on the disk: it rests on that."""

    def when_written(self, call: Callable[..., object], *args: object) -> None:
        """Have `call(*args)` called once all that was entered so far is on the disk."""
