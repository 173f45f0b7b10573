"""How fast a queue gives its messages away, and to how many consumers at once: its token bucket and its leases.

A queue without such limits has no `Pace`, and pays nothing for it. One that has gives its messages by the slow
road of `Queue`, which asks here first. A take that is held back shuts the queue until a limit may let something
through: when the next token comes, or when a lease ends.

The bucket is one number: when it will be full again. So taking a token and giving one back is an addition, and a
step back leaves exactly what there was.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, inf

from zapq.core.leases import Leases
from zapq.core.message import Lease
from zapq.core.queue_settings import QueueSettings

_CLOSE = 1e-6
"""Parts of a token by which sums of times may be wrong."""


class Pace:
    """The limits of one queue, and what they let through just now. The bucket is full at first."""

    __slots__ = ("_burst", "_full_at", "_seconds", "is_full", "max_leased", "opens", "rate")

    def __init__(self, rate: float | None, burst: int | None, max_leased: int | None) -> None:
        self.rate = rate
        self.max_leased = max_leased
        self._burst = burst if burst is not None else 1 if rate is None else max(ceil(rate), 1)
        self._seconds = 0.0 if rate is None else 1 / rate
        """Those in which a token comes."""
        self._full_at = -inf
        self.opens = -inf
        """When the next token comes, if it was that which held a take back."""
        self.is_full = False
        """Whether it was the leases."""

    @classmethod
    def of(cls, settings: QueueSettings, before: Pace | None) -> Pace | None:
        """Return the limits of `settings`, None if there are none; `before` stays if it has the same."""
        if settings.rate is None and settings.max_leased is None:
            return None
        pace = cls(settings.rate, settings.burst, settings.max_leased)
        if before is not None and (before.rate, before._burst) == (pace.rate, pace._burst):
            pace._full_at = before._full_at
        return pace

    @property
    def is_shut(self) -> bool:
        """Whether a take was held back, and nothing has changed since."""
        return self.is_full or self.opens > -inf

    def next_token(self) -> float:
        """Return when there is a token: a time that has passed if there is one."""
        return self._full_at - (self._burst - 1) * self._seconds

    def tokens(self, now: float) -> int:
        """Return how many tokens there are."""
        if now < self.next_token():
            return 0
        if now >= self._full_at:
            return self._burst
        # At least one, whatever the sums of times come to.
        return max(int(self._burst - (self._full_at - now) / self._seconds + _CLOSE), 1)

    def allowed(self, limit: int, leased: int | None, now: float) -> int:
        """Return how many of `limit` messages may be given now.

        `leased` says how many leases there are; None if they are to be given for good.
        """
        if self.rate is not None:
            limit = min(limit, self.tokens(now))
        if leased is not None and self.max_leased is not None:
            limit = min(limit, max(self.max_leased - leased, 0))
        return limit

    def shut(self, leased: int | None, now: float) -> float:
        """Note that a take was held back, and return when a token comes that it waits for, if it is that."""
        next_token = -inf if self.rate is None else self.next_token()
        self.opens = next_token if next_token > now else -inf
        self.is_full = leased is not None and self.max_leased is not None and leased >= self.max_leased
        return self.opens

    def open(self) -> None:
        """Let takes try again."""
        self.opens, self.is_full = -inf, False

    def spend(self, number: int, now: float) -> None:
        """Take so many tokens, for messages that are given."""
        if self.rate is not None:
            self._full_at = max(self._full_at, now) + number * self._seconds

    def give_back(self, number: int) -> None:
        """Put so many tokens back: the messages were not given after all."""
        self._full_at -= number * self._seconds


class CountedLeases(Leases):
    """Leases of a queue that gives so many at once: each that ends, in any way, is told of.

    A class of its own, so that others need not ask whether to tell.
    """

    __slots__ = ("_tell",)

    def __init__(self, former: Leases, tell: Callable[[], object]) -> None:
        super().__init__(former.slack)
        self.take_over(former)
        self._tell = tell

    def pop(self, serial: int) -> Lease | None:
        """Remove and return the lease with this serial, or None."""
        lease = super().pop(serial)
        if lease is not None:
            self._tell()
        return lease
