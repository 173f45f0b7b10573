"""A way to wake a selector from another thread, or from another task."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

from zapq.limits import RECEIVE_BYTES


class Wakeup:
    """Something in a selector that any thread can wake."""

    def __init__(self, answer: Callable[[], object] = lambda: None) -> None:
        self.inside, self._outside = socket.socketpair()
        self.inside.setblocking(False)
        self._outside.setblocking(False)
        self._answer = answer

    def fileno(self) -> int:
        """Return the descriptor that is readable when it has been woken."""
        return self.inside.fileno()

    def wake(self) -> None:
        """Have it answered soon; from any thread."""
        # It is full, and woken already; or the lobby is gone.
        with suppress(OSError):
            self._outside.send(b"!")

    def answer(self) -> None:
        """Do what it is woken for."""
        with suppress(BlockingIOError):
            self.inside.recv(RECEIVE_BYTES)
        self._answer()

    def close(self) -> None:
        """Take it down."""
        self.inside.close()
        self._outside.close()
