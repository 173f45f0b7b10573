"""What a queue knows of how long its messages and its leases have been there."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from zapq.core.ages import Notes, Oldest, Spread, Waits
from zapq.core.records import ArrivalsNoted, IdsReserved
from zapq.limits import ARRIVALS_KEPT_SECONDS

if TYPE_CHECKING:
    from zapq.core.journal import Journal
    from zapq.core.leases import Leases
    from zapq.core.ready import Ready


class Aged:
    """Knows when the messages of one queue arrived, and how long they waited."""

    __slots__ = ("_arrivals", "_arrivals_kept", "_told", "_told_of", "_waits")

    if TYPE_CHECKING:
        # What `Holding` has.
        _journal: Journal | None
        _leases: Leases
        _ready: Ready
        _next_id: int
        messages: int
        number: int

    def __init__(self) -> None:
        self._arrivals = Notes()
        """When ids were given."""
        self._arrivals_kept = -inf
        """When that is to be kept on the disk next."""
        self._waits = Waits()
        self._told = Oldest()
        """What was said last of the oldest message and lease, and ..."""
        self._told_of = 0
        """... which message that was."""

    def oldest(self) -> Oldest:
        """Say since when the oldest message has been here that can be given, and the oldest lease.

        As long as nothing changes it is the same object.

        A message is here since it arrived in this queue: also one that was delayed at first, or that has come back
        from a consumer. It arrives in a dead-letter queue when it fails, and where it failed when it is sent back.
        """
        id, begun = self._ready.oldest(), self._leases.oldest()
        told = self._told
        if id != self._told_of or begun != told.lease:
            self._told_of = id
            self._told = told = Oldest(self._arrivals.time_of(id) if id else inf, begun)
        return told

    def waits(self) -> Spread:
        """Say how long messages have waited from when they arrived until they were first given to a consumer.

        A message that could not be handed over, or whose taking was undone, is counted again when it is given.
        """
        return self._waits.spread()

    def kept_arrivals(self) -> ArrivalsNoted:
        """Return the record that keeps on the disk when messages arrived."""
        return ArrivalsNoted(self.number, self._arrivals.entries())

    def note_last(self) -> None:
        """Enter which ids were given, and when: there will be no more of them."""
        if self._journal is not None:
            self._journal.note(IdsReserved(self.number, self._next_id, final=True))
            if self.messages:
                self._journal.note(self.kept_arrivals())

    def _note_arrival(self, id: int, now: float) -> None:
        self._arrivals.note(id, now)
        if now >= self._arrivals_kept and self._journal is not None:
            self._arrivals_kept = now + ARRIVALS_KEPT_SECONDS
            self._journal.note(self.kept_arrivals())
