"""Where things are in Valkey: the shard of a queue, and the names of its keys.

A shard is a hash tag and no server: 4096 of them, fixed for ever, so a queue never moves from one to another. All
keys of a queue, and those of its shard, carry the tag. They are in one slot of a cluster, on one master, and a
function changes them in one step.
"""

from __future__ import annotations

from binascii import crc_hqx
from functools import lru_cache

SHARDS = 4096
"""Enough that 15 masters have even shares (within 20 %), and few enough to ask each of them once a second."""
SLOTS = 16_384
"""Slots of a cluster."""
LAYOUT = b"{zapq}:layout"
"""The key that says how many shards there are, and for which version of the library."""
LOADING = b"{zapq}:loading"
"""The key that says which file is being loaded, and how far that is."""
FRONT_ENDS = b"{zapq}:fronts"
"""The sorted set of front ends, each with the time of the server at which it was last heard of."""
QUEUE_PARTS = (b"h", b"l", b"b", b"d", b"x", b"m", b"e", b"w", b"o", b"a", b"n", b"t")
"""What a queue's keys end in; `functions/begin.lua` says what each of them holds."""


def shard_of(queue: str) -> int:
    """Return the number of the shard that the queue called `queue` is in."""
    return crc_hqx(queue.encode(), 0) % SHARDS


def tag_of(shard: int) -> bytes:
    """Return the hash tag of a shard, in braces."""
    return b"{z%04d}" % shard


def slot_of(shard: int) -> int:
    """Return the slot of a cluster that the keys of a shard are in."""
    return crc_hqx(tag_of(shard)[1:-1], 0) % SLOTS


@lru_cache(4096)
def queue_keys(queue: str) -> tuple[bytes, ...]:
    """Return the keys a function about the queue called `queue` names, in the order of the library.

    All of them, so that a slot that is moving key by key is answered with TRYAGAIN, and never half a queue seen.
    """
    shard = shard_of(queue)
    before = b"%b:q:%b:" % (tag_of(shard), queue.encode())
    return (*(before + part for part in QUEUE_PARTS), *shard_keys(shard))


def shard_keys(shard: int) -> tuple[bytes, ...]:
    """Return the keys of a shard: which of its queues has something to do when, and which queues there are."""
    tag = tag_of(shard)
    return tag + b":due", tag + b":queues"


def claim_key(queue: str, key: str) -> bytes:
    """Return the key that says what an Idempotency-Key was used for."""
    return b"%b:q:%b:k:%b" % (tag_of(shard_of(queue)), queue.encode(), key.encode())


def attempt_key(queue: str, attempt: str) -> bytes:
    """Return the key that says what a consumer has received under an attempt id."""
    return b"%b:q:%b:r:%b" % (tag_of(shard_of(queue)), queue.encode(), attempt.encode())


def wake_channel(shard: int, front_end: str) -> bytes:
    """Return the channel on which a front end hears of messages for consumers that wait in a shard."""
    return b"%b:wake:%b" % (tag_of(shard), front_end.encode())


def past_key(shard: int) -> bytes:
    """Return the key that says what queues of a shard had counted that were deleted."""
    return tag_of(shard) + b":past"


def given_key(queue: str) -> bytes:
    """Return the key that says what a queue has from the outboxes of others."""
    return b"%b:q:%b:g" % (tag_of(shard_of(queue)), queue.encode())
