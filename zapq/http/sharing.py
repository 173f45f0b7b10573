"""Does once what many ask for at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Any

import trio


class Shared:
    """Has something made for those who ask for it while it is being made for others, once for all of them.

    No caller is given what was begun before it asked: it may know of changes since then that it wants to see.
    """

    def __init__(self) -> None:
        self._lines: dict[Hashable, _Line] = {}

    async def get(self, key: Hashable, make: Callable[[], Awaitable[Any]]) -> Any:
        """Return what `make` returns, for this or another caller with the same `key`; raises what it raises.

        Cancellation: the next one in line makes it.
        """
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line()
        line.length += 1
        before = line.begun
        try:
            async with line.lock:
                if line.made > before:
                    return line.found
                line.begun += 1
                number = line.begun
                found = await make()
                line.made, line.found = number, found
                return found
        finally:
            line.length -= 1
            if not line.length:
                # So that what was made for them is not kept longer than it takes to send it.
                del self._lines[key]


class _Line:
    """Callers with one key."""

    __slots__ = ("begun", "found", "length", "lock", "made")

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.length = 0
        self.begun = 0
        self.made = 0
        """The number of the last one that was made, of those begun."""
        self.found: Any = None
