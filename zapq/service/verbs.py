"""The verbs of a queue that mean the same wherever it is: each is a `put`, a `take` or a settlement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from zapq.core.message import OCTETS, Draft, Lease, Message
from zapq.limits import MAX_DELAY, MAX_VISIBILITY
from zapq.service.operations import Accepted, Durability, Offer, Settlement, check, checked_want, terms
from zapq.service.waiting import Deliveries, Want


class Verbs(ABC):
    """What a program asks of one queue, in this process or elsewhere."""

    @abstractmethod
    async def put(self, offer: Offer) -> Accepted:
        """Store a message or a batch on the terms and under the key of `offer`, and say what came of it."""

    @abstractmethod
    async def take(self, want: Want, *, wait: float = 0.0) -> Deliveries:
        """Return the messages wanted, waiting up to `wait` seconds for the first. See `dequeue` and `receive`."""

    @abstractmethod
    async def _settle_one(self, settlement: Settlement) -> Lease | None:
        """End a lease, or extend it and return it as it is then. Raises `ReceiptExpired`."""

    async def enqueue_many(
        self, batch: Sequence[bytes | Draft], *, content_type: str = OCTETS, durability: Durability | None = None
    ) -> int:
        """Store a batch of 1 to 1000, all or nothing, in order, and return the first id; the others follow it.

        Where drafts have unique keys they need not: `put` says what became of each. `content_type` is that of bare
        bodies; drafts have their own. Raises the errors of `enqueue`; if one of the messages is refused, or if
        cancelled, none is stored.
        """
        return (await self.put(Offer(batch, terms(content_type=content_type, durability=durability)))).id

    async def dequeue(self, *, wait: float = 0.0) -> Message | None:
        """Remove and return the first message, waiting up to `wait` seconds (0 to 60) for one; None if none came.

        At most once: the message is gone from the queue, even if the consumer fails. Consumers of one process are
        served first come, first served. Raises `Draining` if the service is draining and has nothing to give,
        `TooManyWaiters`, `InvalidParameter` for a `wait` out of range. If cancelled, no message is lost: one that
        was handed over in the very tick goes back to its place.
        """
        messages = await self.dequeue_many(1, wait=wait)
        return messages[0] if messages else None

    async def dequeue_many(self, limit: int, *, wait: float = 0.0) -> list[Message]:
        """Remove and return the first messages, at most `limit` (1 to 1000) and 8 MiB, as `dequeue` does."""
        given = await self.take(checked_want(limit, lease=False), wait=wait)
        return [message for message in given if isinstance(message, Message)]

    async def receive(self, *, wait: float = 0.0, visibility: float | None = None) -> Lease | None:
        """Lease the first message, waiting up to `wait` seconds (0 to 60) for one; None if none came.

        At least once: the message is invisible for `visibility` seconds (0 to 43200; by default as the queue is
        set), and comes back then, at its place, unless it is acknowledged by the lease's `receipt`. Raises as
        `dequeue` does. If cancelled, the message was not leased, and its receive count is as before.
        """
        leases = await self.receive_many(1, wait=wait, visibility=visibility)
        return leases[0] if leases else None

    async def receive_many(self, limit: int, *, wait: float = 0.0, visibility: float | None = None) -> list[Lease]:
        """Lease the first messages, at most `limit` (1 to 1000) and 8 MiB, as `receive` does."""
        given = await self.take(checked_want(limit, lease=True, visibility=visibility), wait=wait)
        return [lease for lease in given if isinstance(lease, Lease)]

    async def ack(self, receipt: str) -> None:
        """Acknowledge a leased message: it is removed for good. Repeating it is harmless.

        So is doing it late: after the lease has expired, as long as the message was not given out again. Raises
        `ReceiptExpired` if it was, or if it was released.
        """
        await self._settle_one(Settlement(receipt=receipt))

    async def release(self, receipt: str, *, delay: float = 0.0) -> None:
        """Give a leased message back: at its original place, at once or after `delay` seconds (up to a year).

        The fourth time that happens without a delay it rests for a second, then for two, and so on to 60, so that
        it does not spin. At the queue's `max_receives` it goes to the dead-letter queue. Raises `ReceiptExpired`.
        """
        check("delay", delay, 0, MAX_DELAY)
        await self._settle_one(Settlement(receipt=receipt, action="release", delay=delay))

    async def extend(self, receipt: str, *, visibility: float | None = None) -> Lease:
        """Let a lease last until `visibility` seconds from now, and return it. Raises `ReceiptExpired`.

        By default it lasts for as long again as it was given.
        """
        check("visibility", visibility, 0, MAX_VISIBILITY)
        lease = await self._settle_one(Settlement(receipt=receipt, action="extend", visibility=visibility))
        assert lease is not None
        return lease
