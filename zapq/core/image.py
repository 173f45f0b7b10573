"""What outlives a process of a queue: its settings, and its messages with when they are ready. No leases."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from zapq.core.message import Message
from zapq.core.queue_settings import QueueSettings
from zapq.core.runs import Run


class QueueImage(msgspec.Struct, kw_only=True, gc=False):
    """One queue as it is kept. Times are those of the clock `now` is read from."""

    name: str
    settings: QueueSettings
    paused: bool = False
    next_id: int = 1
    """No message has had this id or a greater one."""
    in_order: deque[Message | Run]
    """Ready messages that have nothing special about them but their type, in order of their ids."""
    others: Iterable[tuple[Message, float]]
    """All the others, each with when it is ready: 0 for at once. Leased messages have counted the delivery.

    To be walked through once: it may be that only then they are made.
    """


class KeyImage(NamedTuple):
    """An Idempotency-Key that was used."""

    queue: str
    key: str
    fingerprint: bytes
    id: int
    until: float


class Image(msgspec.Struct, gc=False):
    """Everything that is kept."""

    queues: list[QueueImage]
    keys: Iterable[KeyImage] = ()
    """In the order they were used in. To be walked through once, as `others`."""
