"""One call of a function of the library, and what every answer begins with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from zapq.engine.valkey.library import PREFIX
from zapq.engine.valkey.resp import pack_some
from zapq.errors import QueueNotFound

AGAIN = object()
"""Comes of an operation for which nothing was done: its call was cut short, and it is to be asked again."""


_MAKE_ROOM = frozenset({PREFIX + each for each in (b"take", b"settle", b"remove", b"erase", b"purge")})
_pack_keys = lru_cache(4096)(pack_some)
"""Most calls name the keys of a queue, 14 of them, and more than half of packing a call would be for these."""
_LOOKS = frozenset({b"figures", b"sums", b"outbox", b"export", b"export_ids", b"export_some"})
"""Functions that only look."""


class Call:
    """One call of a function on one shard."""

    __slots__ = (
        "_arguments",
        "_further",
        "_keys",
        "_name",
        "_number",
        "_outcomes",
        "_time",
        "looks",
        "queue",
        "repeatable",
        "shard",
    )

    def __init__(
        self,
        name: bytes,
        *,
        shard: int,
        keys: tuple[bytes, ...],
        further: Sequence[bytes] = (),
        time: bytes,
        arguments: Sequence[bytes] = (),
        outcomes: Callable[[list[Any], float], list[Any]],
        repeatable: bool = True,
        queue: str = "",
        number: int = 1,
    ) -> None:
        """`keys` are those that many calls name, `further` those that only this one does, behind them."""
        self.shard = shard
        self.queue = queue
        """The queue it is about; empty if that is the shard."""
        self.repeatable = repeatable
        """Whether it does no harm to send it again if no answer came."""
        self.looks = name in _LOOKS
        """Whether it changes nothing, so that no replica need have it."""
        self._name = PREFIX + name
        self._keys = keys
        self._further = further
        self._time = time
        self._arguments = arguments
        self._outcomes = outcomes
        self._number = number

    @property
    def may_make_room(self) -> bool:
        """Whether producers that wait for room in its queue should be tried after it."""
        return self._name in _MAKE_ROOM

    def command(self, epoch: bytes) -> list[bytes]:
        """Return the command with all its arguments; `epoch` is that of the master it is sent to."""
        return [*self._begin(), *self._keys, *self._further, epoch, self._time, *self._arguments]

    def packed(self, epoch: bytes) -> bytes:
        """Return the same as it is sent."""
        begin, rest = self._begin(), (*self._further, epoch, self._time, *self._arguments)
        keys = _pack_keys(self._keys)
        return b"*%d\r\n%b%b%b" % (3 + len(self._keys) + len(rest), pack_some(begin), keys, pack_some(rest))

    def _begin(self) -> tuple[bytes, bytes, bytes]:
        return b"FCALL", self._name, b"%d" % (len(self._keys) + len(self._further))

    def outcomes(self, reply: list[Any], now: float) -> list[Any]:
        """Return what came of each operation: an outcome, a `ZapqError`, or `AGAIN`.

        `now` is the time of Trio's clock when the call was sent: so no consumer is told that its lease lasts
        longer than it does.
        """
        if self.queue and len(reply) == 3 and reply[2] == b"missing":
            return self._missing(reply, now)
        return self._outcomes(reply, now)

    def _missing(self, reply: list[Any], now: float) -> list[Any]:
        if self._name == PREFIX + b"take":
            return self._outcomes(reply, now)
        return [QueueNotFound(queue=self.queue) for _ in range(self._number)]


def server_time(reply: Sequence[Any]) -> int:
    """Return the server's time in milliseconds when it made this answer."""
    return int(reply[0])


def outbox_waits(reply: Sequence[Any]) -> bool:
    """Whether the queue has messages in its outbox, for `procedures.flush_outbox` to move."""
    return bool(reply[1])


def epoch_of(replication_id: bytes) -> bytes:
    """Return the epoch of a master with this `master_replid`."""
    return bytes.fromhex(replication_id[:12].decode())
