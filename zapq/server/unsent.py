"""Answers whose clients do not take them in: how much all of them may hold together, and which are cut off.

What is being sent counts against no cap of the queue's: a message that was taken is held by its answer only, and a
peek is a copy. One that does not read has until the send timeout; if there are many of them, that is too long.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Sender(Protocol):
    """A connection that sends an answer."""

    def disconnect(self) -> None:
        """Stop sending, soon."""


class Unsent:
    """The answers of one server that are being sent; never much more than `limit` bytes for long.

    If they are more, the sender that has got nothing through for the longest time gives up, until they are not;
    but never the latest, so that one large answer alone can always be sent.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._senders: dict[Sender, int] = {}
        """Those that got something through lately come last."""
        self.size = 0

    @contextmanager
    def held(self, sender: Sender, size: int) -> Iterator[None]:
        """Count `size` bytes for `sender` during the block."""
        self._senders[sender] = self._senders.pop(sender, 0) + size
        self.size += size
        while self.size > self._limit and len(self._senders) > 1:
            slowest = next(iter(self._senders))
            self.size -= self._senders.pop(slowest)
            slowest.disconnect()
        try:
            yield
        finally:
            # Unless it was given up.
            if sender in self._senders:
                self.size -= size
                self._senders[sender] -= size
                if not self._senders[sender]:
                    del self._senders[sender]

    def note_progress(self, sender: Sender) -> None:
        """Note that `sender` got something through."""
        if sender in self._senders:
            self._senders[sender] = self._senders.pop(sender)
