"""The ready messages of one priority, in order: a deque of messages, and of runs of them.

A message object for each message of a batch would cost as much as the rest of the batch. So messages that were
sent together stay together, as a run: one object for all of them, in which only the bodies are apart. Who takes
them one by one gets messages; who takes bodies gets bodies, and no message is ever made.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, repeat
from typing import overload

import msgspec

from zapq.core.message import PLAIN, About, Message


class Run(msgspec.Struct, gc=False):
    """Messages with consecutive ids that have everything but their bodies in common.

    The bodies are a tuple, which the garbage collector forgets once it has seen that it holds only bytes.
    """

    first: int
    """The id of the first one that is left."""
    bodies: tuple[bytes, ...]
    about: About = PLAIN
    taken: int = 0
    """How many of `bodies` are gone already."""

    def __len__(self) -> int:
        return len(self.bodies) - self.taken

    def __iter__(self) -> Iterator[Message]:
        ids = range(self.first, self.first + len(self))
        return map(Message, ids, islice(self.bodies, self.taken, None), repeat(self.about))

    @property
    def id(self) -> int:
        """The id of the first one that is left, as a message has one."""
        return self.first

    def take(self, number: int) -> Run:
        """Remove the first `number` of them, and return them as a run of their own."""
        part = Run(self.first, self.bodies[self.taken : self.taken + number], self.about)
        self.first += number
        self.taken += number
        return part


class Parcel(Sequence[Message]):
    """Messages taken together, of which mostly only the bodies are wanted."""

    __slots__ = ("_parts", "bodies")

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self._parts: list[Message | Run] = []

    def __len__(self) -> int:
        return len(self.bodies)

    def __iter__(self) -> Iterator[Message]:
        return _flat(self._parts)

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Message]: ...
    def __getitem__(self, index: int | slice) -> Message | Sequence[Message]:
        return list(self)[index] if isinstance(index, slice) or index else next(iter(self))

    def add(self, part: Message | Run) -> None:
        """Put in a message, or a run of them."""
        self._parts.append(part)
        if isinstance(part, Run):
            self.bodies += part.bodies
        else:
            self.bodies.append(part.body)


class Line:
    """Ready messages of one priority, the oldest first."""

    __slots__ = ("items",)

    def __init__(self, messages: deque[Message] | None = None) -> None:
        self.items: deque[Message | Run] = deque() if messages is None else messages  # type: ignore[assignment]
        """What is here; appending a message to it is all that adding one takes."""

    def __bool__(self) -> bool:
        return bool(self.items)

    def __iter__(self) -> Iterator[Message]:
        return _flat(self.items)

    def extend(self, first: int, bodies: Sequence[bytes], about: About) -> None:
        """Add messages with these bodies and ids from `first` on."""
        self.items.append(Run(first, tuple(bodies), about))

    def head_rank(self) -> int:
        """The rank of the first message; there is one."""
        head = self.items[0]
        return head.rank if isinstance(head, Message) else head.first - (head.about.priority << 56)

    def pop(self) -> Message:
        """Remove and return the first message; there is one."""
        head = self.items[0]
        if isinstance(head, Message):
            self.items.popleft()
            return head
        message = Message(head.first, head.bodies[head.taken], head.about)
        self._take(head, 1)
        return message

    def pop_many(self, limit: int, max_bytes: int) -> tuple[Parcel, int]:
        """Remove the first messages, at most `limit` and of `max_bytes` but at least one, and say of how many."""
        parcel, items, size = Parcel(), self.items, 0
        while items and len(parcel) < limit:
            head = items[0]
            if isinstance(head, Message):
                size += len(head.body)
                if size > max_bytes and len(parcel):
                    return parcel, size - len(head.body)
                parcel.add(items.popleft())
                continue
            number = min(limit - len(parcel), len(head))
            sizes = list(map(len, head.bodies[head.taken : head.taken + number]))
            while size + sum(sizes) > max_bytes and (len(sizes) > 1 or (sizes and len(parcel))):
                sizes.pop()
            if not sizes:
                break
            size += sum(sizes)
            parcel.add(self._take(head, len(sizes)))
        return parcel, size

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
        return item if isinstance(item, Message) else next(islice(item, id - item.first, None))

    def _take(self, head: Run, number: int) -> Run:
        if number == len(head):
            self.items.popleft()
            if not head.taken:
                return head
        return head.take(number)


def _flat(items: Iterable[Message | Run]) -> Iterator[Message]:
    for item in items:
        if isinstance(item, Message):
            yield item
        else:
            yield from item


def _last_id(item: Message | Run) -> int:
    return item.id if isinstance(item, Message) else item.first + len(item) - 1
