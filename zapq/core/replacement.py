"""Queues made from what was kept, apart from those in use, until they take their place in one step.

Making them takes as long as it takes, and may be done elsewhere; the step itself does not depend on how much they
hold.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from zapq.core.ages import Times
from zapq.core.image import QueueImage
from zapq.core.leases import End
from zapq.core.message import Message
from zapq.core.queue import Queue
from zapq.core.queue_settings import QueueSettings
from zapq.limits import DEFAULT_QUEUE


class Replacement:
    """New queues, and the `Owner` they have until `Broker.replace` lets them take over.

    `numbers` says by which number each is to be known, `epochs` which rows on the disk will be its messages, `tag`
    what receipts begin with. They enter nothing in a journal: all they hold is written once they are made.
    """

    def __init__(
        self, numbers: Mapping[str, int], epochs: Mapping[str, int], tag: str, lease_slack: float
    ) -> None:
        self.queues: dict[str, Queue] = {}
        self.messages = self.bytes = self.max_messages = self.max_bytes = 0
        self.lease_slack = lease_slack
        self.lease_times = Times()
        self.numbers = numbers
        self.epochs = epochs
        self._tag = tag
        self._failed: list[tuple[Queue, Message]] = []
        self._now = 0.0

    def add(self, image: QueueImage, now: float) -> None:
        """Make a queue of its image; none of that name was made."""
        name, number = image.name, self.numbers[image.name]
        self._now = now
        queue = Queue(
            name,
            owner=self,
            number=number,
            tag=f"{self._tag}-{number:x}",
            now=now,
            epoch=self.epochs[name],
        )
        for message in queue.fill(image, now):
            self._failed.append((queue, message))
        self.queues[name] = queue

    def finish(self, now: float) -> None:
        """Send what has failed too often where it belongs, once all queues are there, and the default one is."""
        if DEFAULT_QUEUE not in self.queues:
            self.add(QueueImage(name=DEFAULT_QUEUE, settings=QueueSettings(), in_order=deque(), others=()), now)
        for queue, message in self._failed:
            queue.give_up(message)
        self._failed = []

    def serial(self) -> int:
        """Nothing is delivered here."""
        raise AssertionError("queues that are being made give nothing")

    def note_end(self, serial: int, end: End) -> None:
        """No lease ends here."""

    def next_epoch(self) -> int:
        """Nothing is cleared here."""
        raise AssertionError("queues that are being made are not cleared")

    def clock(self) -> float:
        """Return the time as it was when the last queue was made."""
        return self._now

    def end_of(self, serial: int) -> End:
        """No lease has ended here."""
        return End.UNKNOWN

    def watch(self, queue: Queue, time: float) -> None:
        """Each queue knows its own alarm, and no task is to be woken yet."""
