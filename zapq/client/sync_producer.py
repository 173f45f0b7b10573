"""A producer for threads. Made from `producer.py` by `scripts/sync-verbs`: change it there."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Literal

from zapq.client.batching import Batcher, message_of
from zapq.client.calls import Calls
from zapq.client.lines_of_threads import Line, Place, open_line
from zapq.client.talk import Talk
from zapq.core.message import OCTETS, Draft


class Sent:
    """A message that was given to a producer."""

    __slots__ = ("_place",)

    def __init__(self, place: Place) -> None:
        self._place = place

    def wait(self) -> int:
        """Wait until the message is stored, and return its id, or raise the error that refused it."""
        return self._place.stored()


class Producer:
    """Sends messages to a queue in batches. Made by `Client.producer`, never by hand.

    A batch goes out when `linger` seconds have passed since its first message, or when it is full; while it is on
    its way the next one is filled. So messages are stored in the order in which each task or thread sent its own.
    Each batch has one Idempotency-Key: sent again, it is stored once.
    """

    def __init__(self, line: Line) -> None:
        self._line = line

    @property
    def unsent(self) -> list[bytes | Draft]:
        """The messages not sent, and those on their way: when the block was left early, those that are lost.

        Those of a batch that was on its way may be stored. Those whose batch failed are not among them: `send` or
        `Sent.wait` raises for each. Messages without terms of their own are bytes.
        """
        return self._line.unsent()

    def send(
        self,
        body: bytes,
        *,
        priority: int = 0,
        delay: float = 0.0,
        ttl: float | None = None,
        content_type: str = OCTETS,
        headers: Mapping[str, str] | None = None,
        group: str = "",
        unique: str = "",
        on: Literal["keep", "replace"] = "keep",
    ) -> int:
        """Send a message, wait until its batch is stored, and return the message's id.

        Waits while a batch is full and another one on its way. The terms are those of `Client.put`, and so are the
        errors; each is raised for the message that it is about. If the call is cut short, the message may be
        stored later.
        """
        message = message_of(body, priority, delay, ttl, content_type, headers, group, unique, on)
        return self._line.store(message)

    def send_nowait(
        self,
        body: bytes,
        *,
        priority: int = 0,
        delay: float = 0.0,
        ttl: float | None = None,
        content_type: str = OCTETS,
        headers: Mapping[str, str] | None = None,
        group: str = "",
        unique: str = "",
        on: Literal["keep", "replace"] = "keep",
    ) -> Sent:
        """Take a message to be sent, and return at once; `wait` of what is returned tells its id.

        Raises `BlockingIOError` if there is no room. An error is also raised by the next `flush`, or at the end of
        the block, in case nothing waits.
        """
        message = message_of(body, priority, delay, ttl, content_type, headers, group, unique, on)
        place = self._line.add(message)
        if place is None:
            raise BlockingIOError("a batch is full, and another one is on its way")
        return Sent(place)

    def flush(self) -> None:
        """Send what there is at once, and wait until it is stored.

        Raises `Unreachable` or `NoAnswer`, as `Sent.wait` does, if the producer was closed before all was stored.
        """
        self._line.flush()


@contextmanager
def open_producer(talk: Talk, calls: Calls, queue: str, batcher: Batcher) -> Generator[Producer, None, None]:
    """Yield a producer, see `Client.producer`."""
    with open_line(talk, calls, queue, batcher) as line:
        yield Producer(line)
