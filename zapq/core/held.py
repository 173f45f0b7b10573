"""What a queue has given up: to be freed, or to be given back if that is undone."""

from __future__ import annotations

from typing import NamedTuple

from zapq.core.deadlines import Deadlines
from zapq.core.leases import Lapses, Leases
from zapq.core.message import Message
from zapq.core.ready import Dropped, Ready


class Held(NamedTuple):
    """What a queue held before it was cleared."""

    ready: Ready
    delayed: Deadlines[Message]
    leases: Leases
    lapses: Lapses
    messages: int
    bytes: int
    epoch: int
    unique: dict[str, int] | None

    def containers(self) -> list[Dropped]:
        """Hold nothing any more, and return what messages were kept in, to be freed; O(1)."""
        keys: list[Dropped] = [self.unique] if self.unique else []
        return [*self.ready.clear(), *self.delayed.clear(), *self.leases.clear(), *keys]
