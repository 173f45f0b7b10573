"""The ready messages of one priority, in order: a deque of messages, and of runs of them.

A message object for each message of a batch would cost as much as the rest of the batch. So messages that were
sent together stay together, as a run: one object for all of them. Who takes them one by one gets messages; who
takes a batch gets the bodies, mostly as they came, and no message is ever made.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, repeat
from typing import overload

import msgspec

from zapq.core.message import DEFAULTS, Message, Properties

_DECODER = msgspec.msgpack.Decoder(tuple[bytes, ...])


class Run(msgspec.Struct, gc=False):
    """Messages with consecutive ids that have everything but their bodies in common.

    As long as nobody wants them one by one, their bodies stay as they came: one msgpack array. Memory that is
    touched for the first time costs more than anything else done for a message, and this is the least of it.
    """

    first: int
    """The id of the first one that is left."""
    count: int
    """How many are left."""
    size: int
    """Bytes of the bodies that are left."""
    properties: Properties = DEFAULTS
    packed: bytes = b""
    """All of them as an array of msgpack; empty once they were taken apart."""
    apart: tuple[bytes, ...] = ()
    """All of them as bytes. A tuple: the garbage collector forgets it once it has seen what it holds."""

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Message]:
        return map(Message, range(self.first, self.first + self.count), self.bodies(), repeat(self.properties))

    @property
    def id(self) -> int:
        """The id of the first one that is left, as a message has one."""
        return self.first

    def bodies(self) -> tuple[bytes, ...]:
        """The bodies that are left."""
        if self.packed:
            self.apart, self.packed = _DECODER.decode(self.packed), b""
        gone = len(self.apart) - self.count
        return self.apart[gone:] if gone else self.apart

    def take(self, number: int) -> Run:
        """Remove the first `number` of them, and return them as a run of their own."""
        bodies = self.bodies()[:number]
        part = Run(self.first, number, sum(map(len, bodies)), self.properties, apart=bodies)
        self.first += number
        self.count -= number
        self.size -= part.size
        return part

    def pop(self) -> Message:
        """Remove and return the first of them."""
        if self.packed:
            self.bodies()
        body = self.apart[len(self.apart) - self.count]
        message = Message(self.first, body, self.properties)
        self.first += 1
        self.count -= 1
        self.size -= len(body)
        return message


class Taken(Sequence[Message]):
    """Messages taken together, of which mostly only the bodies are wanted."""

    __slots__ = ("_count", "_parts")

    def __init__(self) -> None:
        self._count = 0
        self._parts: list[Message | Run] = []

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Message]:
        return _flat(self._parts)

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Message]: ...
    def __getitem__(self, index: int | slice) -> Message | Sequence[Message]:
        return list(self)[index]

    def add(self, part: Message | Run) -> None:
        """Put in a message, or a run of them."""
        self._parts.append(part)
        self._count += len(part) if isinstance(part, Run) else 1

    @property
    def bodies(self) -> list[bytes]:
        """The bodies, in order."""
        bodies: list[bytes] = []
        for part in self._parts:
            if isinstance(part, Run):
                bodies += part.bodies()
            else:
                bodies.append(part.body)
        return bodies

    def ids(self) -> list[int]:
        """The ids, in order."""
        ids: list[int] = []
        for part in self._parts:
            if isinstance(part, Run):
                ids += range(part.first, part.first + part.count)
            else:
                ids.append(part.id)
        return ids

    def packed(self) -> bytes:
        """The bodies as one array of msgpack; runs that are still packed are only copied, and one alone is it."""
        if len(self._parts) == 1 and isinstance(run := self._parts[0], Run) and run.packed:
            return run.packed
        parts: list[bytes | memoryview] = [_array(self._count)]
        loose: list[bytes] = []
        for part in self._parts:
            if isinstance(part, Message):
                loose.append(part.body)
            elif part.packed:
                parts.append(_items(loose))
                parts.append(memoryview(part.packed)[len(_array(part.count)) :])
                loose = []
            else:
                loose += part.bodies()
        parts.append(_items(loose))
        return b"".join(parts)


def is_shortest(packed: bytes, bodies: Sequence[bytes], size: int) -> bool:
    """Whether `packed`, an array of msgpack, says these bodies, of `size` together, as briefly as possible."""
    heads = len(packed) - len(_array(len(bodies))) - size
    # Two bytes each is the least there is; only longer bodies need more.
    return heads == 2 * len(bodies) or heads == sum(_head_length(len(body)) for body in bodies)


def _head_length(size: int) -> int:
    return 2 if size < 2**8 else 3 if size < 2**16 else 5


def _array(length: int) -> bytes:
    """What an array of so many elements begins with in msgpack."""
    if length < 16:
        return bytes([0x90 | length])
    if length < 2**16:
        return b"\xdc" + length.to_bytes(2, "big")
    return b"\xdd" + length.to_bytes(4, "big")


def _items(bodies: list[bytes]) -> bytes:
    """The elements of an array of msgpack, without its begin."""
    return msgspec.msgpack.encode(bodies)[len(_array(len(bodies))) :]


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


def _flat(items: Iterable[Message | Run]) -> Iterator[Message]:
    for item in items:
        if isinstance(item, Message):
            yield item
        else:
            yield from item


def _last_id(item: Message | Run) -> int:
    return item.id if isinstance(item, Message) else item.first + item.count - 1
