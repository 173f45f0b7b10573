"""The engine's sockets in one selector of its own, which is itself pollable: so a lobby watches them as one."""

from __future__ import annotations

import selectors
from collections.abc import Callable

from zapq.engine.valkey.connection import Connection

_READ = selectors.EVENT_READ
_READ_OR_WRITE = selectors.EVENT_READ | selectors.EVENT_WRITE


class Poller:
    """Calls what is to be called for each connection that is ready."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._calls: dict[Connection, Callable[[], object]] = {}

    @staticmethod
    def possible() -> bool:
        """Whether this platform has a selector that is itself pollable: epoll and kqueue are, poll is not."""
        with selectors.DefaultSelector() as selector:
            return hasattr(selector, "fileno")

    def fileno(self) -> int:
        """Return the descriptor that is readable when a connection is ready."""
        return self._selector.fileno()

    def watch(self, connection: Connection, call: Callable[[], object]) -> None:
        """Have `call` called when there is something to receive, or room for what is not sent yet."""
        self._calls[connection] = call
        self._selector.register(connection, _READ, connection)

    def note_stuck(self, connection: Connection) -> None:
        """Take note that `connection` has more to send, or no longer has."""
        if connection in self._calls:
            self._selector.modify(connection, _READ_OR_WRITE if connection.stuck else _READ, connection)

    def discard(self, connection: Connection) -> None:
        """Close a connection, and call for it no longer; again is harmless."""
        if self._calls.pop(connection, None) is not None:
            self._selector.unregister(connection)
        connection.close()

    def poll(self) -> None:
        """Call for each connection that is ready now."""
        for key, _ in self._selector.select(0):
            # What was called before may have closed it.
            call = self._calls.get(key.data)
            if call is not None:
                call()

    def close(self) -> None:
        """Take it down; the connections stay open."""
        self._calls.clear()
        self._selector.close()
