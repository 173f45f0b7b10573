"""What a service needs of any store: `database.py` has the one that zapq comes with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from zapq.core.image import KeptQueue
from zapq.core.records import KeyPut, Record
from zapq.store.clock import Clock


class CommitGroup:
    """Records that are written in one transaction, in the order in which they were entered."""

    __slots__ = ("clock_offset", "generation", "records")

    def __init__(self, generation: int = 0) -> None:
        self.records: list[Record] = []
        self.generation = generation
        """How often the disk had failed when it was opened."""
        self.clock_offset = 0.0
        """Seconds to add to the times of the records to get Unix time."""


class Contents(NamedTuple):
    """What was found in a store."""

    queues: list[KeptQueue]
    keys: list[KeyPut]
    """Those whose time, in seconds since 1970, is not over, the one that lasts longest last."""
    epoch: int
    """The highest in use."""
    warning: str = ""
    """What the operator should know about how it was left; empty if nothing."""
    garbage: int = 0
    """Rows of no queue."""
    created: bool = False
    """Whether it was not there before."""


class Store(Protocol):
    """Keeps queues for the next start. `load` comes first and `close` last; one thread at a time calls it."""

    clock: Clock
    """Shows the time that times in the store are by: Unix time that never goes back, not even between two runs."""

    no_room: str
    """Why no message is to be stored, though all else is written; empty if messages are."""

    def load(self, now: float, clock_offset: float) -> Contents:
        """Return what all commits so far have left, and be ready for more. Raises `CannotStart`.

        Times in it are by a clock that shows `now`; add `clock_offset` to get those of `clock`.
        """

    def commit(self, commits: Sequence[CommitGroup]) -> None:
        """Keep what `commits` say, all of it by the time this returns; if it raises anything, nothing of it."""

    def probe(self) -> None:
        """Raise any error, unless as much can be written as could not be written last."""

    @property
    def untidy(self) -> bool:
        """Whether `tidy` has something to do when there is time."""

    def tidy(self, *, idle: bool) -> None:
        """Do a part of what keeps the store small; raises if it takes nothing at the moment.

        It is called between commits, and now and then without any, as `idle`. What `load` finds stays the same.
        """

    def close(self) -> None:
        """Let go of the files; nothing that was committed is lost if this is never called."""
