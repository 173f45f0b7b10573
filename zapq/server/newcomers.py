"""Clients whose TLS handshakes are under way, in a selector of their own: those that are connected go first.

A step of a handshake costs as much as a hundred hot requests, and the lobby takes one at the end of each turn.
Were these clients in the lobby's selector, each turn would look at all of them.
"""

from __future__ import annotations

import selectors
from collections import deque
from contextlib import suppress

from zapq.limits import MAX_HANDSHAKES
from zapq.server.guest import Guest

_READ = selectors.EVENT_READ
_READ_OR_WRITE = selectors.EVENT_READ | selectors.EVENT_WRITE


class Newcomers:
    """Guests in HANDSHAKE. `outer` is a selector, and calls `answer` when some of them can go on."""

    def __init__(self, outer: selectors.BaseSelector) -> None:
        self._selector = selectors.DefaultSelector()
        self._outer = outer
        self._line: deque[Guest] = deque()
        """Those that can go on, in the order of their steps."""
        self._begun: dict[Guest, None] = {}
        """Those whose handshake has begun; those that took a step lately come last."""
        self._outer.register(self._selector, _READ, self)

    @property
    def ready(self) -> bool:
        """Whether one of them can go on."""
        return bool(self._line)

    def add(self, guest: Guest) -> None:
        """Let `guest` go on when it has sent something."""
        self._selector.register(guest.sock, _READ, guest)

    def remove(self, guest: Guest) -> None:
        """Forget `guest`."""
        self._selector.unregister(guest.sock)
        self._begun.pop(guest, None)

    def answer(self) -> None:
        """Put those that can go on in line. Until that is empty, `outer` need not be told of others."""
        self._outer.unregister(self._selector)
        self._line.extend([key.data for key, _ in self._selector.select(0)])
        if not self._line:
            self._outer.register(self._selector, _READ, self)

    def pop(self) -> Guest:
        """Return the next one in line. It may have left since."""
        guest = self._line.popleft()
        if not self._line:
            self._outer.register(self._selector, _READ, self)
        return guest

    def note_step(self, guest: Guest, *, has_unsent: bool) -> Guest | None:
        """Wait for the client of `guest`, which has begun. If too many wait, return the one to be given up."""
        self._selector.modify(guest.sock, _READ_OR_WRITE if has_unsent else _READ, guest)
        self._begun.pop(guest, None)
        self._begun[guest] = None
        return next(iter(self._begun)) if len(self._begun) > MAX_HANDSHAKES else None

    def close(self) -> None:
        """Watch nothing any more."""
        with suppress(KeyError, ValueError):
            self._outer.unregister(self._selector)
        self._selector.close()
