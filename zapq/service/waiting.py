"""The consumers that wait for messages: in one line for each queue, in which order, and until when.

A waiter is a slot, and a function to call when it is filled. The step that fills the slot also takes the waiter
out of its line, without a checkpoint, so a message is never promised to a consumer that has already left.
(`trio.Condition` would not do: a notification sent to a task that is cancelled in the same tick is lost, and the
message with it.)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from zapq.core.deadlines import Deadlines
from zapq.core.message import Lease, Message
from zapq.errors import ZapqError


@dataclass(frozen=True, slots=True)
class Want:
    """What a consumer asks for."""

    limit: int = 1
    """Messages, at most."""
    lease: bool = False
    """Whether it will acknowledge them; else they are gone once given."""
    visibility: float | None = None
    """Seconds each lease lasts; None: as the queue is set."""


ONE = Want()

Deliveries = Sequence[Message] | Sequence[Lease]
"""What a consumer gets."""


class Lender(Protocol):
    """The queue that has given messages away, and takes them back."""

    @property
    def name(self) -> str:
        """The queue's name."""

    def return_undelivered(self, given: Deliveries) -> None:
        """Put messages that could not be handed over at their original places."""

    def note_uncertain_delivery(self, number: int) -> None:
        """Count messages whose bytes may or may not have reached a client that vanished."""


class Waiter:
    """One consumer in line; `wake` is called when `given` is filled, its time is up, or the line closes."""

    __slots__ = ("deadline", "given", "gone", "lender", "refusal", "ticket", "wait_queue", "wake", "want")

    def __init__(
        self, ticket: int, wait_queue: WaitQueue, want: Want, deadline: float, wake: Callable[[], object]
    ) -> None:
        self.ticket = ticket
        self.deadline = deadline
        self.wait_queue = wait_queue
        self.want = want
        self.given: Deliveries = ()
        self.lender: Lender | None = None
        """The queue they are from."""
        self.gone = False
        """Set when it was cancelled: anything reserved for it must be put back."""
        self.refusal: ZapqError | None = None
        self.wake = wake
        """Called once, in Trio's thread, in the middle of another task's step; it must neither wait nor raise."""


class WaitQueue(OrderedDict[int, Waiter]):
    """The consumers of one queue by ticket, first come, first served; the first is found, and leaves, in O(1)."""


class WaitingRoom:
    """Every line of one service; every operation is synchronous and amortised O(log n) or better."""

    def __init__(self) -> None:
        self._patience: Deadlines[Waiter] = Deadlines()
        self._next_ticket = 0

    def __len__(self) -> int:
        return len(self._patience)

    def join(self, wait_queue: WaitQueue, want: Want, deadline: float, wake: Callable[[], object]) -> Waiter:
        """Stand at the end of `wait_queue` until `deadline` (a time of Trio's clock)."""
        self._next_ticket += 1
        waiter = wait_queue[self._next_ticket] = Waiter(self._next_ticket, wait_queue, want, deadline, wake)
        self._patience.put(waiter.ticket, deadline, waiter)
        return waiter

    def wait_until(self, waiter: Waiter, deadline: float) -> None:
        """Let a waiter in line wait until `deadline`."""
        waiter.deadline = deadline
        self._patience.put(waiter.ticket, deadline, waiter)

    def leave(self, waiter: Waiter) -> None:
        """Step out of the line; does nothing for a waiter that was served or expired."""
        waiter.wait_queue.pop(waiter.ticket, None)
        self._patience.pop(waiter.ticket)

    def come_back(self, waiter: Waiter) -> None:
        """Stand in line again, at the front: what the consumer was given it does not get after all."""
        if not waiter.gone:
            waiter.wait_queue[waiter.ticket] = waiter
            waiter.wait_queue.move_to_end(waiter.ticket, last=False)
            self._patience.put(waiter.ticket, waiter.deadline, waiter)

    def serve(self, waiter: Waiter, given: Deliveries, lender: Lender) -> None:
        """Hand `given`, which is from `lender`, to a waiter in line."""
        waiter.given, waiter.lender = given, lender
        self._wake(waiter)

    def expire(self, now: float, limit: int) -> None:
        """Wake, empty-handed, the waiters whose time is up, at most `limit` of them."""
        for waiter in self._patience.due(now, limit):
            self._wake(waiter)

    def next_deadline(self) -> float:
        """Return when `expire` next has something to do: infinity while no consumer waits."""
        return self._patience.next()

    def dismiss(self, limit: int | None = None) -> None:
        """Wake every waiter empty-handed, or as many as `limit` says."""
        for waiter in list(islice(self._patience.values(), limit)):
            self._wake(waiter)

    def refuse(self, wait_queue: WaitQueue, refusal: Callable[[], ZapqError]) -> None:
        """Wake every waiter in `wait_queue`, each with a `refusal` of its own, as each will be raised."""
        for waiter in list(wait_queue.values()):
            waiter.refusal = refusal()
            self._wake(waiter)

    def _wake(self, waiter: Waiter) -> None:
        self.leave(waiter)
        waiter.wake()
