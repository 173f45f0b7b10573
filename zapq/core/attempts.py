"""What was received under which attempt id: a consumer that got no answer can have the same messages again.

Nothing here holds a message: an attempt is known by its leases, and good while each of them is as it was.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from zapq.limits import ATTEMPT_WINDOW, MAX_ATTEMPTS


class LeaseSeen(NamedTuple):
    """One lease of an attempt: it goes on unchanged while the message with this id is leased until `deadline`."""

    id: int
    receipt: str
    deadline: float


class _Attempt(NamedTuple):
    until: float
    held: Sequence[LeaseSeen]


class Attempts:
    """The attempts of late, each for `ATTEMPT_WINDOW` seconds, or until `MAX_ATTEMPTS` newer ones have come.

    One that went early is not told from one there never was: its consumer gets other messages, and those of the
    attempt come back when their leases end.
    """

    def __init__(self) -> None:
        self._attempts: OrderedDict[tuple[int, str], _Attempt] = OrderedDict()

    def __len__(self) -> int:
        return len(self._attempts)

    def put(self, queue: int, attempt: str, held: Sequence[LeaseSeen], now: float) -> None:
        """Remember what was received under `attempt` in the queue of this number."""
        attempts = self._attempts
        while attempts and (len(attempts) >= MAX_ATTEMPTS or next(iter(attempts.values())).until <= now):
            attempts.popitem(last=False)
        attempts.pop((queue, attempt), None)
        attempts[queue, attempt] = _Attempt(now + ATTEMPT_WINDOW, held)

    def find(self, queue: int, attempt: str, now: float) -> Sequence[LeaseSeen]:
        """Return what was received under `attempt`; nothing if it is not known, or its time is over."""
        known = self._attempts.get((queue, attempt))
        return known.held if known is not None and known.until > now else ()

    def renew(self, queue: int, attempt: str, held: Sequence[LeaseSeen]) -> None:
        """Take note of when the leases of an attempt end now; its own time goes on."""
        self._attempts[queue, attempt] = self._attempts[queue, attempt]._replace(held=held)

    def pop(self, queue: int, attempt: str) -> None:
        """Forget an attempt: what it led to is not as it was."""
        self._attempts.pop((queue, attempt), None)
