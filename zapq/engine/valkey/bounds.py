"""What one call, and what is kept in the engine, may come to at most."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from zapq.engine.valkey import keys
from zapq.service.operations import Operation, Put, Settle, Take

MAX_RUN = 512
"""Operations of one call at most: some 3 ms of the server."""
MAX_WEIGHT = 2000
"""Messages that those of one call store or settle, at most, unless one of them alone has more: some 10 ms."""


def weight_of(operation: Operation) -> int:
    """Return how many messages an operation stores or settles; those it takes, the library bounds itself.

    One that leases for no time at all fills a call, for the next one may lease the same message. In one call, all
    leases on a message that are for the same time have the same receipt.
    """
    if isinstance(operation, Take):
        return MAX_WEIGHT if operation.want.visibility == 0 else 1
    if isinstance(operation, Put) and not isinstance(operation.content, bytes):
        return len(operation.content)
    return len(operation.settlements) if isinstance(operation, Settle) else 1


class Caps(NamedTuple):
    """What a queue, and all of them, may hold at most."""

    messages: int
    bytes: int
    queues: int

    @property
    def queues_of_shard(self) -> int:
        """How many queues one shard may have."""
        return 2 * ceil(self.queues / keys.SHARDS)
