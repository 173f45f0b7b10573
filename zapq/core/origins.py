"""Where in a queue the messages are that came from others, by the ids their producers were told.

Only messages that change queues are entered. They leave in many ways, and none of those comes here: an entry says
where to look, and the caller looks. Each new entry has two old ones checked, so those of messages that are gone
are never many more than the others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from zapq.core.message import Origin

Place = tuple[str, int]
"""The queue that a message was sent to, and the id its producer was told."""


class Origins:
    """The ids of messages that came from other queues."""

    __slots__ = ("_ids",)

    def __init__(self) -> None:
        self._ids: OrderedDict[Place, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._ids)

    def note(self, origin: Origin, id: int, is_held: Callable[[int], bool]) -> None:
        """Enter a message that came, or came back; `is_held` says whether one is still here."""
        ids = self._ids
        if ids.get((origin.queue, origin.id)) == id:
            return
        for _ in range(min(2, len(ids))):
            place, earlier = ids.popitem(last=False)
            if is_held(earlier):
                ids[place] = earlier
        ids[origin.queue, origin.id] = id

    def find(self, queue: str, id: int) -> int | None:
        """Return the id here of the message that was sent to `queue` under that `id`, if it ever came."""
        return self._ids.get((queue, id))
