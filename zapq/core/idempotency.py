"""Idempotency keys: a producer that got no answer may ask again, and the message is there once.

The draft standard is draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from zapq.core.image import KeyImage
from zapq.errors import KeyReused
from zapq.limits import IDEMPOTENCY_WINDOW, MAX_KEYS


class Claim(NamedTuple):
    """What a key was used for."""

    fingerprint: bytes
    id: int
    until: float


Forgotten = tuple[tuple[int, str], Claim]
"""A key, after the number of its queue, and what it was used for."""


class Keys:
    """The keys used lately, each for `IDEMPOTENCY_WINDOW` seconds, or until `MAX_KEYS` newer ones have come."""

    def __init__(self) -> None:
        self._claims: OrderedDict[tuple[int, str], Claim] = OrderedDict()

    def __len__(self) -> int:
        return len(self._claims)

    def find(self, queue: int, key: str, fingerprint: bytes, now: float) -> int | None:
        """Return the id of the message `key` was used for in the queue of this number, or None if it was not used.

        Raises `KeyReused` if that message was another one.
        """
        self._forget(now)
        claim = self._claims.get((queue, key))
        if claim is None:
            return None
        if claim.fingerprint != fingerprint:
            raise KeyReused(parameter="Idempotency-Key")
        return claim.id

    def claim(self, queue: int, key: str, fingerprint: bytes, id: int, now: float) -> Forgotten | None:
        """Remember that `key` was used for this message; return the oldest key if it is forgotten for that."""
        self._claims[queue, key] = Claim(fingerprint, id, now + IDEMPOTENCY_WINDOW)
        return self._claims.popitem(last=False) if len(self._claims) > MAX_KEYS else None

    def restore(self, queue: int, key: str, claim: Claim) -> None:
        """Remember a key that was used in an earlier run; the one that lasts longest comes last."""
        self._claims[queue, key] = claim

    def release(self, queue: int, key: str, forgotten: Forgotten | None) -> None:
        """Forget that `key` was used: nothing came of it. Remember the key that was forgotten for it."""
        self._claims.pop((queue, key), None)
        if forgotten is not None:
            self._claims[forgotten[0]] = forgotten[1]
            self._claims.move_to_end(forgotten[0], last=False)

    def image(self, names: Mapping[int, str]) -> Iterator[KeyImage]:
        """Return what is to be kept of the keys of the queues with these numbers, made as it is walked through."""
        return (
            KeyImage(names[queue], key, *claim)
            for (queue, key), claim in list(self._claims.items())
            if queue in names
        )

    def fill(self, keys: Iterable[KeyImage], numbers: Mapping[str, int], now: float) -> None:
        """Remember keys that were kept, in their order, for what is left of their time; none is known here."""
        until = 0.0
        for key in keys:
            # The clock of the process that kept them may have been another one.
            until = max(until, min(key.until, now + IDEMPOTENCY_WINDOW))
            if until > now:
                self._claims[numbers[key.queue], key.key] = Claim(key.fingerprint, key.id, until)

    def _forget(self, now: float) -> None:
        # All last equally long, so the oldest is always the first.
        while self._claims and next(iter(self._claims.values())).until <= now:
            self._claims.popitem(last=False)
