"""What fits into a queue, and when a producer that was refused should come back."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from zapq.core.drain_rate import DrainRate
from zapq.core.queue_settings import QueueSettings
from zapq.errors import QueueFull


class Holder(Protocol):
    """What holds messages: one queue."""

    messages: int
    bytes: int


class Limited(Holder, Protocol):
    """What holds messages within caps: all queues together."""

    max_messages: int
    max_bytes: int


class Excess(NamedTuple):
    """A cap that would be exceeded, and by how much."""

    limit: str
    cap: str
    """What the cap is called in the refusal."""
    current: int
    more: int
    most: int


class Caps:
    """The caps of one queue, and the refusals for what does not fit under them or under those of all queues."""

    __slots__ = ("_drain_rate", "_max_bytes", "_max_messages", "_name", "limited")

    def __init__(self, name: str, now: float) -> None:
        self._name = name
        self._drain_rate = DrainRate(now)
        self._max_messages: int | None = None
        self._max_bytes: int | None = None
        self.limited = False
        """Whether the queue has a cap of its own."""

    def configure(self, settings: QueueSettings) -> None:
        """Let the caps of `settings` hold from now on."""
        self._max_messages, self._max_bytes = settings.max_messages, settings.max_bytes
        self.limited = self._max_messages is not None or self._max_bytes is not None

    def succeed(self, old: Caps) -> None:
        """Know how fast the queue that `old` was of gave its messages away: this one takes its place."""
        self._drain_rate = old._drain_rate

    def leave_room(self, held: Holder, messages: int, size: int) -> bool:
        """Whether so many more messages, of `size` together, fit under the caps of this queue alone."""
        return (self._max_messages is None or held.messages + messages <= self._max_messages) and (
            self._max_bytes is None or held.bytes + size <= self._max_bytes
        )

    def excess(self, held: Holder, everything: Limited, messages: int, size: int) -> Excess | None:
        """Return the first cap that so many more messages, of `size` together, would be over; None if they fit."""
        for limit, cap, current, more, most in (
            ("max_msgs", "max_messages", everything.messages, messages, everything.max_messages),
            ("max_bytes", "max_bytes", everything.bytes, size, everything.max_bytes),
            ("max_messages", "max_messages", held.messages, messages, self._max_messages),
            ("max_bytes", "max_bytes", held.bytes, size, self._max_bytes),
        ):
            if most is not None and current + more > most and more > 0:
                return Excess(limit, cap, current, more, most)
        return None

    def refusal(self, excess: Excess, held: Holder, gone: int, now: float) -> QueueFull:
        """Return what to say to a producer; `gone` is how many messages have left the queue so far.

        The caller raises it without giving it a name. An error that a frame of its traceback has a name for is a
        cycle, so all that the frames know, the whole request, would stay until the garbage collector comes.
        """
        limit, cap, current, more, most = excess
        over: float = current + more - most
        if cap == "max_bytes":
            over /= max(held.bytes / max(held.messages, 1), 1)
        full = QueueFull(None, queue=self._name, limit=limit, current=current, **{cap: most})
        full.retry_after = self._drain_rate.retry_after(over, gone, now)
        return full
