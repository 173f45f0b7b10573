"""Calls about attempts: a consumer that got no answer asks once more for what it has received.

What they do is said in `functions/attempts.lua`, and what an attempt is in `zapq/core/attempts.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zapq.core.message import Lease
from zapq.engine.valkey import keys
from zapq.engine.valkey.call import Call
from zapq.engine.valkey.codec import Codec
from zapq.engine.valkey.replies import milliseconds, settled_one
from zapq.service.operations import Recall, Remember


def remember(codec: Codec, asked: Remember) -> Call:
    """Return the call that takes note of what was received."""
    receipts = [receipt.encode() for _, receipt in asked.leases]
    return _call(codec, b"remember", asked, receipts, lambda reply, now: [None])


def recall(codec: Codec, asked: Recall) -> Call:
    """Return the call whose outcome is the leases given once more; none if one of them is not as it was."""

    def decode(reply: list[Any], now: float) -> list[Any]:
        said, ours = reply[2], now - reply[0] / 1000
        leases = [
            settled_one(asked.queue, receipt.decode(), extended, ours)
            for receipt, extended in zip(said[::2], said[1::2], strict=True)
        ]
        return [[each for each in leases if isinstance(each, Lease)]]

    lasts = -1 if asked.visibility is None else milliseconds(asked.visibility)
    return _call(codec, b"recall", asked, [b"%d" % lasts], decode)


def _call(
    codec: Codec,
    name: bytes,
    asked: Remember | Recall,
    arguments: Sequence[bytes],
    outcomes: Callable[[list[Any], float], list[Any]],
) -> Call:
    queue = asked.queue
    return Call(
        name,
        shard=keys.shard_of(queue),
        keys=keys.queue_keys(queue),
        further=[keys.attempt_key(queue, asked.attempt)],
        time=codec.time,
        arguments=arguments,
        outcomes=outcomes,
        queue=queue,
    )
