"""One FIFO queue as a state machine: nothing here waits, reads a clock or touches a disk.

                       enqueue                 dequeue
    (producer) ------------------->  READY  ------------->  gone
                                       ^                      |
                                       +------ put_back ------+
                                         at its original place

The oldest message is always first. Plain FIFO traffic only touches one deque, so enqueue and dequeue are
O(1) at any depth. Messages that come back wait in a small heap ordered by id; since every message in that
heap may be older than the deque's head, dequeue compares the two heads: O(log r) for r returned messages,
and r is 0 but for the moment after a failed hand-over.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush

from zapq.core.message import Message
from zapq.errors import QueueFull


@dataclass(frozen=True, slots=True)
class QueueStats:
    """What a queue holds and has done since it was made, as one consistent picture."""

    messages: int
    bytes: int
    max_messages: int
    max_bytes: int
    enqueued: int
    dequeued: int
    refused: int
    returned: int
    cleared: int


class Queue:
    """Holds at most `max_messages` messages of together at most `max_bytes` bytes, first in first out."""

    def __init__(self, *, max_messages: int, max_bytes: int) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self._ready: deque[Message] = deque()
        self._returned: list[tuple[int, Message]] = []
        self._next_id = 1
        self._bytes = 0
        self._enqueued = self._dequeued = self._refused = self._put_back = self._cleared = 0

    def __len__(self) -> int:
        return len(self._ready) + len(self._returned)

    def enqueue(self, body: bytes) -> Message:
        """Append a message, or raise `QueueFull` and change nothing but the count of refusals."""
        size = self._bytes + len(body)
        held = len(self._ready) + len(self._returned)
        if size > self.max_bytes or held >= self.max_messages:
            self._refused += 1
            if held >= self.max_messages:
                raise QueueFull(limit="max_msgs", current=held, max_messages=self.max_messages)
            raise QueueFull(limit="max_bytes", current=self._bytes, max_bytes=self.max_bytes)
        message = Message(self._next_id, body)
        self._next_id += 1
        self._ready.append(message)
        self._bytes = size
        self._enqueued += 1
        return message

    def dequeue(self) -> Message | None:
        """Remove and return the oldest message, or None."""
        if self._returned and not (self._ready and self._ready[0].id < self._returned[0][0]):
            message = heappop(self._returned)[1]
        elif self._ready:
            message = self._ready.popleft()
        else:
            return None
        self._bytes -= len(message.body)
        self._dequeued += 1
        return message

    def put_back(self, message: Message) -> None:
        """Return a dequeued message to its original place.

        Never refused, even if newer messages have filled its room meanwhile: it was accepted once, and an
        accepted message is not dropped. The caps refuse newcomers until the excess is gone.
        """
        heappush(self._returned, (message.id, message))
        self._bytes += len(message.body)
        self._put_back += 1

    def clear(self) -> deque[Message]:
        """Hold nothing, and return what was held for the caller to free.

        O(1) but for returned messages: freeing millions takes long, and the caller may do it elsewhere.
        """
        dropped, self._ready = self._ready, deque()
        dropped.extend(message for _, message in self._returned)
        self._returned.clear()
        self._bytes = 0
        self._cleared += len(dropped)
        return dropped

    def bodies(self) -> list[bytes]:
        """The bodies held, oldest first; a copy of references, not of the bytes."""
        if not self._returned:
            return [message.body for message in self._ready]
        everything = [*self._ready, *(message for _, message in self._returned)]
        return [message.body for message in sorted(everything, key=lambda message: message.id)]

    def reserve(self, number: int) -> int:
        """Set `number` ids aside for messages made elsewhere, and return the first."""
        first, self._next_id = self._next_id, self._next_id + number
        return first

    def replace(self, messages: deque[Message], size: int) -> deque[Message]:
        """Hold exactly `messages`, of together `size` bytes, and return what was held, as `clear` does.

        Their ids are reserved ones, in order. `QueueFull` changes nothing. O(1) like `clear`.
        """
        if len(messages) > self.max_messages:
            raise QueueFull(limit="max_msgs", current=len(messages), max_messages=self.max_messages)
        if size > self.max_bytes:
            raise QueueFull(limit="max_bytes", current=size, max_bytes=self.max_bytes)
        dropped = self.clear()
        self._ready = messages
        self._bytes = size
        return dropped

    def stats(self) -> QueueStats:
        """Report counts and sizes in O(1)."""
        return QueueStats(
            messages=len(self),
            bytes=self._bytes,
            max_messages=self.max_messages,
            max_bytes=self.max_bytes,
            enqueued=self._enqueued,
            dequeued=self._dequeued,
            refused=self._refused,
            returned=self._put_back,
            cleared=self._cleared,
        )
