"""The ready messages of one priority, in order: a deque of messages, and of runs of them."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from zapq.core.message import Message, Properties
from zapq.core.runs import Run, Taken, flatten


class ReadyQueue:
    """Ready messages of one priority, the oldest first."""

    __slots__ = ("items",)

    def __init__(self, messages: deque[Message] | None = None) -> None:
        self.items: deque[Message | Run] = deque() if messages is None else messages  # type: ignore[assignment]
        """What is here; appending a message to it is all that adding one takes."""

    def __bool__(self) -> bool:
        return bool(self.items)

    def __iter__(self) -> Iterator[Message]:
        return flatten(self.items)

    def extend(
        self, first: int, bodies: Sequence[bytes], size: int, properties: Properties, packed: bytes = b""
    ) -> None:
        """Add messages with these bodies, of `size` together, and ids from `first` on.

        `packed` is the array of msgpack they came as, in its shortest form.
        """
        apart = () if packed else tuple(bodies)
        self.items.append(Run(first, len(bodies), size, properties, packed, apart))

    def head_rank(self) -> int:
        """The rank of the first message; there is one."""
        head = self.items[0]
        return head.rank if isinstance(head, Message) else head.first - (head.properties.priority << 56)

    def pop(self) -> Message:
        """Remove and return the first message; there is one."""
        head = self.items[0]
        if isinstance(head, Message):
            self.items.popleft()
            return head
        message = head.pop()
        if not head.count:
            self.items.popleft()
        return message

    def pop_many(self, limit: int, max_bytes: int) -> tuple[Taken, int]:
        """Remove the first messages, at most `limit` and of `max_bytes` but at least one, and say of how many."""
        taken, items, size = Taken(), self.items, 0
        while items and len(taken) < limit:
            head = items[0]
            if isinstance(head, Message):
                if size + len(head.body) > max_bytes and len(taken):
                    break
                items.popleft()
                size += len(head.body)
                taken.add(head)
            elif head.count <= limit - len(taken) and size + head.size <= max_bytes:
                items.popleft()
                size += head.size
                taken.add(head)
            else:
                part = self._part(head, limit - len(taken), max_bytes - size, alone=not len(taken))
                if part is None:
                    break
                size += part.size
                taken.add(part)
        return taken, size

    def drop_first(self, gone: set[int]) -> None:
        """Remove messages from the front for as long as they are in `gone`, and from there too."""
        items = self.items
        while items and items[0].id in gone:
            gone.discard(items.popleft().id)

    def keep(self, wanted: Callable[[Message], bool]) -> None:
        """Remove the messages that are not wanted; runs are."""
        self.items = deque(item for item in self.items if isinstance(item, Run) or wanted(item))

    def find(self, id: int) -> Message | None:
        """Return the message with this id, if it is here; O(log n) steps."""
        at = bisect_left(self.items, id, key=_last_id)
        if at == len(self.items) or self.items[at].id > id:
            return None
        item = self.items[at]
        return item if isinstance(item, Message) else list(item)[id - item.first]

    def _part(self, head: Run, limit: int, room: int, *, alone: bool) -> Run | None:
        """Take the first of a run of which not all may be taken; None if that is none of them."""
        number = 0
        for body in islice(head.bodies(), limit):
            room -= len(body)
            if room < 0 and (number or not alone):
                break
            number += 1
        if number == head.count:
            self.items.popleft()
            return head
        return head.take(number) if number else None


def _last_id(item: Message | Run) -> int:
    return item.id if isinstance(item, Message) else item.first + item.count - 1
