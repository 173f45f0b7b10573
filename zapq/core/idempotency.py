"""Idempotency keys: a producer that got no answer may ask again, and the message is there once.

The draft standard is draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from zapq.core.image import KeyImage
from zapq.errors import KeyReused
from zapq.limits import IDEMPOTENCY_WINDOW, KEYS_FORGOTTEN, MAX_KEYS


class Claim(NamedTuple):
    """What a key was used for."""

    fingerprint: bytes
    id: int
    until: float


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
        claim = self._claims.get((queue, key))
        if claim is None or claim.until <= now:
            return None
        if claim.fingerprint != fingerprint:
            raise KeyReused(parameter="Idempotency-Key")
        return claim.id

    def claim(self, queue: int, key: str, fingerprint: bytes, id: int, now: float) -> list[tuple[int, str]]:
        """Remember that `key` was used for this message; return keys that are forgotten, each after its queue's.

        Those are some whose time is over, and the oldest if there are too many.
        """
        claims = self._claims
        forgotten: list[tuple[int, str]] = []
        while claims and len(forgotten) < KEYS_FORGOTTEN:
            oldest = next(iter(claims))
            if claims[oldest].until > now and len(claims) < MAX_KEYS:
                break
            del claims[oldest]
            forgotten.append(oldest)
        # One whose time is over may be there still, at a place that is not the last.
        claims.pop((queue, key), None)
        claims[queue, key] = Claim(fingerprint, id, now + IDEMPOTENCY_WINDOW)
        return forgotten

    def restore(self, queue: int, key: str, claim: Claim) -> None:
        """Remember a key that was used in an earlier run; the one that lasts longest comes last."""
        self._claims[queue, key] = claim

    def release(self, queue: int, key: str) -> None:
        """Forget that `key` was used: nothing came of it."""
        self._claims.pop((queue, key), None)

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
