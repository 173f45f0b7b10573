"""What tells an offer from others under its Idempotency-Key."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from zapq.core.headers import TRACING
from zapq.core.idempotency import ANY_CONTENT, FINGERPRINT
from zapq.core.message import Draft
from zapq.limits import FINGERPRINT_SLICE
from zapq.service.operations import Offer, Put


class _Told(msgspec.Struct, frozen=True, gc=False):
    """What makes a message another one. Fingerprints are kept, so this stays what it is."""

    body: bytes
    priority: int
    delay: float
    ttl: float | None
    content_type: str


class _ToldWithHeaders(_Told, frozen=True, gc=False):
    headers: dict[str, str]


def fingerprint_of(offer: Offer) -> bytes:
    """Return what tells an offer from others under its key; it does not withstand a forger."""
    if isinstance(offer, Put) and offer.any_content:
        return ANY_CONTENT
    return hashlib.blake2b(_all_told(offer), digest_size=FINGERPRINT).digest()


async def fingerprint_in_slices(offer: Offer, turn: Callable[[], Awaitable[None]]) -> bytes:
    """Return the same, some of it made each time that `turn` returns: of 8 MB it takes some 10 ms to make."""
    await turn()
    told = memoryview(_all_told(offer))
    hashing = hashlib.blake2b(digest_size=FINGERPRINT)
    for start in range(0, len(told), FINGERPRINT_SLICE):
        await turn()
        hashing.update(told[start : start + FINGERPRINT_SLICE])
    return hashing.digest()


def _all_told(offer: Offer) -> bytes:
    content, how = offer.content, offer.terms
    properties = how.properties
    told: object
    if isinstance(content, bytes):
        one = _Told(content, properties.priority, how.delay, how.ttl, properties.content_type)
        told = _with_headers(one, dict(properties.headers)) if properties.headers else one
    else:
        told = (properties.content_type, [_told(each) if isinstance(each, Draft) else each for each in content])
        if properties.headers:
            told = (*told, _said(dict(properties.headers)))
    if properties.group:
        told = (told, properties.group)
    if properties.unique:
        told = (told, "unique", properties.unique, how.replace)
    return msgspec.msgpack.encode(told)


def _told(draft: Draft) -> object:
    one = _Told(draft.body, draft.priority, draft.delay, draft.ttl, draft.content_type)
    if draft.headers:
        one = _with_headers(one, draft.headers)
    if draft.unique:
        return (one, draft.group, draft.unique, draft.on)
    return (one, draft.group) if draft.group else one


def _with_headers(one: _Told, headers: Mapping[str, str]) -> _Told:
    said = _said(headers)
    if not said:
        return one
    return _ToldWithHeaders(one.body, one.priority, one.delay, one.ttl, one.content_type, said)


def _said(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that make a message another one: a request that is repeated is traced anew."""
    named = {name.lower(): value for name, value in headers.items()}
    return {name: value for name, value in named.items() if name not in TRACING}
