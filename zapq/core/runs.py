"""Messages that stay together, as a run: one object for all messages of a batch.

A message object for each message of a batch would cost as much as the rest of the batch. A consumer that takes
them one by one gets messages; one that takes a batch gets the bodies, mostly as they came, and no message is ever
made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import overload

import msgspec

from zapq.core.message import DEFAULTS, Message, Properties
from zapq.core.unwalked import unwalked

_DECODER = msgspec.msgpack.Decoder(tuple[bytes, ...])


class Run(msgspec.Struct, gc=False):
    """Messages with consecutive ids that have everything but their bodies in common.

    As long as no consumer wants them one by one, their bodies stay as they came: one msgpack array. Memory that is
    touched for the first time costs more than anything else done for a message, and this is the least of it.
    """

    first: int
    """The id of the first one that is left."""
    count: int
    """How many are left."""
    size: int
    """Bytes that those which are left count in the caps."""
    properties: Properties = DEFAULTS
    packed: bytes = b""
    """All of them as an array of msgpack; empty once they were taken apart."""
    apart: tuple[bytes, ...] = ()
    """All of them as bytes."""

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Message]:
        return map(Message, range(self.first, self.first + self.count), self.bodies(), repeat(self.properties))

    @property
    def id(self) -> int:
        """The id of the first one that is left, as a message has one."""
        return self.first

    def bodies(self) -> tuple[bytes, ...]:
        """Return the bodies that are left."""
        if self.packed:
            self.apart, self.packed = unwalked(_DECODER.decode(self.packed)), b""
        gone = len(self.apart) - self.count
        return self.apart[gone:] if gone else self.apart

    def at(self, index: int) -> Message:
        """Return one of those that are left; the first is 0."""
        if self.packed:
            self.bodies()
        return Message(self.first + index, self.apart[index - self.count], self.properties)

    def take(self, number: int) -> Run:
        """Remove the first `number` of them, and return them as a run of their own."""
        bodies = self.bodies()[:number]
        size = sum(map(len, bodies)) + number * self.properties.size
        part = Run(self.first, number, size, self.properties, apart=bodies)
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
        self.size -= message.size if self.properties.headers else len(body)
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
        return flatten(self._parts)

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
    def parts(self) -> Sequence[Message | Run]:
        """The messages as they were put in: one by one, or as runs."""
        return self._parts

    @property
    def has_more(self) -> bool:
        """Whether there is more to any of the messages than a body and its type: headers, or a group."""
        return any(part.properties.headers or part.properties.group for part in self._parts)

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
        """Return the ids, in order."""
        ids: list[int] = []
        for part in self._parts:
            if isinstance(part, Run):
                ids += range(part.first, part.first + part.count)
            else:
                ids.append(part.id)
        return ids

    def packed(self) -> bytes:
        """Return the bodies as one array of msgpack; runs that are packed are copied, and one alone is it."""
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
    """Return what an array of so many elements begins with in msgpack."""
    if length < 16:
        return bytes([0x90 | length])
    if length < 2**16:
        return b"\xdc" + length.to_bytes(2, "big")
    return b"\xdd" + length.to_bytes(4, "big")


def _items(bodies: list[bytes]) -> bytes:
    """Return the elements of an array of msgpack, without its begin."""
    return msgspec.msgpack.encode(bodies)[len(_array(len(bodies))) :]


def flatten(items: Iterable[Message | Run]) -> Iterator[Message]:
    """Yield the messages of `items` one by one."""
    for item in items:
        if isinstance(item, Message):
            yield item
        else:
            yield from item
