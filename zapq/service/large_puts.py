"""Offers under an Idempotency-Key whose fingerprint takes milliseconds to make: it is made in slices.

Between two slices others have their turn. One offer after another has its fingerprint made, for that takes a copy
of what is offered. Those in line count against `max_bytes`, as while they were being received.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import msgspec
import trio

from zapq.core.message import Draft
from zapq.limits import FINGERPRINT_SLICE
from zapq.service.fingerprint import fingerprint_in_slices
from zapq.service.operations import Accepted, Put
from zapq.service.pending import Later, Pending
from zapq.service.reservation import Reservation
from zapq.service.section import Turns

T = TypeVar("T")
Outcome = Pending[Accepted] | Accepted


class Doing(Protocol):
    """What is asked of the service."""

    @property
    def turns(self) -> Turns: ...
    def reservation(self, queue: str) -> Reservation: ...
    def do_in_task(self, work: Callable[[], Awaitable[Pending[T] | T]]) -> Later[T]: ...


class LargePuts:
    """Stores what is offered under a key, if that is large, in several steps."""

    def __init__(self, service: Doing, attempt: Callable[[Put, bytes, float], Outcome]) -> None:
        """`attempt` stores an offer whose fingerprint is known."""
        self._service = service
        self._attempt = attempt
        self._lock = trio.Lock()

    def begin(self, asked: Put) -> Later[Accepted] | None:
        """Begin to store an offer; None if it is small, or there is no room to hold it: it is stored at once."""
        size = 0 if asked.any_content else _size_of(asked.content)
        if size <= FINGERPRINT_SLICE:
            return None
        reserved = asked.reserved or self._service.reservation(asked.queue)
        if not reserved.cover(size):
            return None
        asked = msgspec.structs.replace(asked, reserved=reserved)
        return self._service.do_in_task(lambda: self._store(asked, reserved))

    async def _store(self, asked: Put, reserved: Reservation) -> Outcome:
        try:
            async with self._lock:
                fingerprint = await fingerprint_in_slices(asked, self._service.turns.take)
            await self._service.turns.take()
            return self._attempt(asked, fingerprint, trio.current_time())
        finally:
            reserved.release()


def _size_of(content: bytes | Sequence[bytes | Draft]) -> int:
    if isinstance(content, bytes):
        return len(content)
    return sum(len(each.body if isinstance(each, Draft) else each) for each in content)
