"""Rows of many messages: how they are written, and what is left of them once some of the messages are gone.

Small messages that come together are one row of `packs`: it costs as much as a row for each of them would. A message
in it that is gone is one bit in a row of `gone`. Once three quarters are gone, each of the others gets a row of its
own: so a message that stays keeps at most three others on the disk, of `PACK_BODY_BYTES` each.
"""

from __future__ import annotations

import sqlite3
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import msgspec

from zapq.limits import PACK_BODY_BYTES, PACK_LEAST, PACK_MOST
from zapq.store.schema import body_sum, seed, with_sum
from zapq.store.wal import Damaged

_BODIES = msgspec.msgpack.Decoder(tuple[bytes, ...])
_WORTH_KEEPING = 4
"""A pack is kept as long as one of so many messages is left."""
_FIND = (
    "select packs.row, count, which from packs left join gone using (row) where packs.row <= ?"
    " order by packs.row desc limit 1"
)


class Pack(NamedTuple):
    """A row of `packs`: messages with consecutive numbers that have everything but their bodies in common."""

    row: int
    """The number of the first."""
    count: int
    sum: int
    state: bytes | None
    """What is known of each, as in a row of `states`, but without a checksum; None if nothing is."""
    packed: bytes
    """Their bodies, as an array of msgpack."""

    def bodies(self) -> tuple[bytes, ...]:
        """Return the bodies. Raises `Damaged`."""
        if isinstance(self.packed, bytes) and self.sum == _sum(self.row, self.count, self.state, self.packed):
            return _BODIES.decode(self.packed)
        raise Damaged(f"packs, row {self.row}: the checksum does not match")


def fit(bodies: Sequence[bytes]) -> bool:
    """Whether messages with these bodies are to be one row."""
    return PACK_LEAST <= len(bodies) <= PACK_MOST and max(map(len, bodies)) <= PACK_BODY_BYTES


def pack(row: int, bodies: Sequence[bytes], state: bytes | None = None, packed: bytes = b"") -> Pack:
    """Return the row of messages with these bodies; `packed` is an array of msgpack of them, if there is one."""
    packed = packed or msgspec.msgpack.encode(bodies)
    return Pack(row, len(bodies), _sum(row, len(bodies), state, packed), state, packed)


def runs(rows: Iterable[int]) -> Iterator[list[int]]:
    """Yield rows that follow each other as one list; `rows` are in order, and a list has `PACK_MOST` at most."""
    run: list[int] = []
    for row in rows:
        if run and (row != run[-1] + 1 or len(run) == PACK_MOST):
            yield run
            run = []
        run.append(row)
    if run:
        yield run


def gone_in(row: int, which: object) -> int:
    """Return which messages of the pack with that number are gone, as bits, the first the lowest.

    Raises `Damaged`.
    """
    if not isinstance(which, bytes) or zlib.crc32(which[4:], seed(row)) != int.from_bytes(which[:4], "big"):
        raise Damaged(f"gone, row {row}: the checksum does not match")
    return int.from_bytes(which[4:], "little")


def remove(connection: sqlite3.Connection, rows: Sequence[int]) -> None:
    """Let those of `rows`, which are in order, be gone that are in packs. Raises `Damaged`."""
    execute = connection.execute
    at = 0
    while at < len(rows):
        found = execute(_FIND, (rows[at],)).fetchone()
        if found is None or rows[at] >= found[0] + found[1]:
            at += 1  # in none
            continue
        first, count, which = found
        end = bisect_left(rows, first + count, at)
        gone = 0 if which is None else gone_in(first, which)
        for row in islice(rows, at, end):
            gone |= 1 << (row - first)
        at = end
        left = count - gone.bit_count()
        if left * _WORTH_KEEPING >= count:
            raw = gone.to_bytes((count + 7) // 8, "little")
            execute("insert or replace into gone values (?, ?)", (first, with_sum(first, raw)))
            continue
        if left:
            _take_apart(connection, first, gone)
        execute("delete from packs where row = ?", (first,))
        if which is not None:
            execute("delete from gone where row = ?", (first,))


def _take_apart(connection: sqlite3.Connection, first: int, gone: int) -> None:
    """Give each message of a pack that is left a row of its own."""
    found = Pack(*connection.execute("select * from packs where row = ?", (first,)).fetchone())
    left = [(row, body) for row, body in enumerate(found.bodies(), first) if not gone >> (row - first) & 1]
    connection.executemany(
        "insert into messages values (?, ?, ?)", [(row, body_sum(row, body), body) for row, body in left]
    )
    if found.state is not None:
        # What is known of one of them alone counts.
        states = [(row, with_sum(row, found.state)) for row, _ in left]
        connection.executemany("insert or ignore into states values (?, ?)", states)


def _sum(row: int, count: int, state: bytes | None, packed: bytes) -> int:
    return zlib.crc32(packed, zlib.crc32(state or b"", seed(row) ^ count))
