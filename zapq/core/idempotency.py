"""Idempotency keys: a producer that got no answer may ask again, and the message is there once.

The draft standard is draft-ietf-httpapi-idempotency-key-header. Keys of a second kind are promises, for the
deduplication ids of FIFO queues: every message under such a key is taken for a repetition, and the key is never
forgotten before its time. Where there is no room for one more, its message is refused.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from math import ceil

import msgspec

from zapq.core.image import KeyImage
from zapq.errors import KeyReused, TooManyDeduplicationIds
from zapq.limits import IDEMPOTENCY_WINDOW, KEYS_FORGOTTEN, MAX_DEDUPLICATION_IDS, MAX_KEYS

FINGERPRINT = 16
"""Bytes that tell what a key was used for."""
ANY_CONTENT = bytes(FINGERPRINT)
"""The fingerprint of a promise, for every message."""


class Claim(msgspec.Struct, frozen=True, gc=False):
    """What a key was used for."""

    fingerprint: bytes
    id: int
    until: float


class Keys:
    """The keys used lately, each for `IDEMPOTENCY_WINDOW` seconds.

    An Idempotency-Key goes early when `MAX_KEYS` newer ones have come. A promise never does: there may be
    `max_promises` of them.
    """

    def __init__(self, max_promises: int = MAX_DEDUPLICATION_IDS) -> None:
        self.max_promises = max_promises
        self._claims: OrderedDict[tuple[int, str], Claim] = OrderedDict()
        self._promises = _Promises()

    def __len__(self) -> int:
        return len(self._claims) + len(self._promises)

    def find(self, queue: int, key: str, fingerprint: bytes, now: float) -> int | None:
        """Return the id of the message `key` was used for in the queue of this number, or None if it was not used.

        Raises `KeyReused` if that message was another one.
        """
        if fingerprint == ANY_CONTENT:
            return self._promises.find(queue, key, now)
        claim = self._claims.get((queue, key))
        if claim is None or claim.until <= now:
            return None
        if claim.fingerprint != fingerprint:
            raise KeyReused(parameter="Idempotency-Key")
        return claim.id

    def check_room(self, fingerprint: bytes, now: float) -> None:
        """Raise `TooManyDeduplicationIds` if this is to be a promise, and there is no room for one more."""
        if fingerprint != ANY_CONTENT or len(self._promises) < self.max_promises:
            return
        # `claim` will forget those whose time is over, if only the first is one of them.
        oldest = self._promises.oldest()
        if oldest > now:
            error = TooManyDeduplicationIds(limit="max_deduplication_ids", current=len(self._promises))
            error.retry_after = max(ceil(oldest - now), 1)
            raise error

    def claim(self, queue: int, key: str, fingerprint: bytes, id: int, now: float) -> list[tuple[int, str]]:
        """Remember that `key` was used for this message; return keys that are forgotten, each after its queue's.

        Those are some whose time is over, and the oldest Idempotency-Keys if there are too many.
        """
        if fingerprint == ANY_CONTENT:
            forgotten = self._promises.expire(now, KEYS_FORGOTTEN)
            self._promises.put(queue, key, id, now + IDEMPOTENCY_WINDOW)
            # Else what was just used would be forgotten on the disk.
            return [each for each in forgotten if each != (queue, key)]
        claims = self._claims
        forgotten = []
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
        if claim.fingerprint == ANY_CONTENT:
            self._promises.put(queue, key, claim.id, claim.until)
        else:
            self._claims[queue, key] = claim

    def release(self, queue: int, key: str, fingerprint: bytes) -> None:
        """Forget that `key` was used: nothing came of it."""
        if fingerprint == ANY_CONTENT:
            self._promises.pop(queue, key)
        else:
            self._claims.pop((queue, key), None)

    def image(self, names: Mapping[int, str]) -> Iterator[KeyImage]:
        """Return what is to be kept of the keys of the queues with these numbers, made as it is walked through."""
        claims, promises = list(self._claims.items()), self._promises.copy()

        def walk() -> Iterator[KeyImage]:
            for (queue, key), claim in claims:
                if queue in names:
                    yield KeyImage(names[queue], key, claim.fingerprint, claim.id, claim.until)
            for queue, key, id, until in promises:
                if queue in names:
                    yield KeyImage(names[queue], key, ANY_CONTENT, id, until)

        return walk()

    def fill(self, keys: Iterable[KeyImage], numbers: Mapping[str, int], now: float) -> None:
        """Remember keys that were kept, in their order, for what is left of their time; none is known here."""
        until = {True: 0.0, False: 0.0}
        for key in keys:
            # The clock of the process that kept them may have been another one. Each kind is in its own order.
            promised = key.fingerprint == ANY_CONTENT
            until[promised] = max(until[promised], min(key.until, now + IDEMPOTENCY_WINDOW))
            if until[promised] > now:
                claim = Claim(key.fingerprint, key.id, until[promised])
                self.restore(numbers[key.queue], key.key, claim)


_ID_BITS = 64
_PER_SECOND = 1_000_000
_STALE_ALLOWED = 1000
"""Entries in vain that are worth no pass over the others."""


class _Promises:
    """Promises in the order in which their time ends, with as few objects as will do: there may be very many.

    Each is a text, which has the queue's number and the key, and a number, which has the time in microseconds and
    the message's id. The line has both once more, so that the first is found at once; one that was used anew, or
    released, is in the line in vain.
    """

    def __init__(self) -> None:
        self._values: dict[str, int] = {}
        self._line: deque[str] = deque()
        self._line_values: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._values)

    def find(self, queue: int, key: str, now: float) -> int | None:
        value = self._values.get(f"{queue} {key}")
        if value is None or (value >> _ID_BITS) <= now * _PER_SECOND:
            return None
        return value & ((1 << _ID_BITS) - 1)

    def oldest(self) -> float:
        """Return until when the first one is kept; infinitely long ago if there is none."""
        self._skip()
        return (self._line_values[0] >> _ID_BITS) / _PER_SECOND if self._line else float("-inf")

    def expire(self, now: float, limit: int) -> list[tuple[int, str]]:
        """Forget promises whose time is over, at most `limit`, and return them."""
        forgotten: list[tuple[int, str]] = []
        while len(forgotten) < limit and self.oldest() <= now and self._line:
            text = self._line.popleft()
            self._line_values.popleft()
            del self._values[text]
            forgotten.append(_parts(text))
        return forgotten

    def put(self, queue: int, key: str, id: int, until: float) -> None:
        text, value = f"{queue} {key}", ceil(until * _PER_SECOND) << _ID_BITS | id
        self._values.pop(text, None)  # for the order, and so that the text is the one in the line
        self._values[text] = value
        self._line.append(text)
        self._line_values.append(value)
        if len(self._line) > 2 * len(self._values) + _STALE_ALLOWED:
            # They are in the order of the line.
            self._line, self._line_values = deque(self._values), deque(self._values.values())

    def pop(self, queue: int, key: str) -> None:
        self._values.pop(f"{queue} {key}", None)

    def copy(self) -> Iterator[tuple[int, str, int, float]]:
        """Return all there are now, made as it is walked through: queue, key, id, and until when."""
        return (
            (*_parts(text), value & ((1 << _ID_BITS) - 1), (value >> _ID_BITS) / _PER_SECOND)
            for text, value in self._values.copy().items()
        )

    def _skip(self) -> None:
        """Drop what is in the line in vain, up to the first that is not."""
        while self._line and self._values.get(self._line[0]) is not self._line_values[0]:
            self._line.popleft()
            self._line_values.popleft()


def _parts(text: str) -> tuple[int, str]:
    queue, _, key = text.partition(" ")
    return int(queue), key
