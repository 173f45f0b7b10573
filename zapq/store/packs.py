"""Rows of many messages: how they are written, and what is left of them once some of the messages are gone.

Small messages that come together are one row of `packs`: it costs as much as a row for each would. A message in
it that is gone is one bit in a row of `gone`. Once three quarters are gone, the pack is thin, and each of the
others gets a row of its own when there is time. So a message that stays keeps at most three others on the disk,
of `PACK_BODY_BYTES` each.
"""

from __future__ import annotations

import sqlite3
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import msgspec

from zapq.core.records import PutMany
from zapq.limits import PACK_BODY_BYTES, PACK_LEAST, PACK_MOST
from zapq.store.schema import body_sum, seed, with_sum, without_sum
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
    number: int
    """How many there are."""
    sum: int
    state: bytes | None
    """What is known of each, as in a row of `states`, but without a checksum; None if nothing is."""
    packed: bytes
    """Their bodies, as an array of msgpack."""

    def bodies(self) -> tuple[bytes, ...]:
        """Return the bodies. Raises `Damaged`."""
        found: tuple[object, object] = (self.state or b"", self.packed)
        if all(isinstance(each, bytes) for each in found) and self.sum == _sum(
            self.row, self.number, self.state, self.packed
        ):
            return _BODIES.decode(self.packed)
        raise Damaged(f"packs, row {self.row}: the checksum does not match")


def fit(bodies: Sequence[bytes]) -> bool:
    """Whether messages with these bodies are to be one row."""
    return PACK_LEAST <= len(bodies) <= PACK_MOST and max(map(len, bodies)) <= PACK_BODY_BYTES


def pack(row: int, bodies: Sequence[bytes], state: bytes | None = None, packed: bytes = b"") -> Pack:
    """Return the row of messages with these bodies; `packed` is an array of msgpack of them, if there is one."""
    packed = packed or msgspec.msgpack.encode(bodies)
    return Pack(row, len(bodies), _sum(row, len(bodies), state, packed), state, packed)


def parts(record: PutMany) -> Iterator[tuple[int, Sequence[bytes], bytes]]:
    """Yield messages that came together, at most `PACK_MOST` at a time: the first's row, bodies, and `packed`."""
    bodies = record.bodies
    if len(bodies) <= PACK_MOST:
        yield record.first, bodies, record.packed
        return
    for at in range(0, len(bodies), PACK_MOST):
        yield record.first + at, bodies[at : at + PACK_MOST], b""


def runs(rows: list[int], states: Mapping[int, bytes]) -> Iterator[list[int]]:
    """Yield those of `rows`, which are some and in order, as one list that may share one: at most `PACK_MOST`.

    They follow each other, and have the same in `states`.
    """
    if not states and len(rows) <= PACK_MOST and rows[-1] - rows[0] < len(rows):
        # As they mostly do, and so it takes no time.
        yield rows
        return
    run: list[int] = []
    state: bytes | None = None
    for row in rows:
        known = states.get(row)
        if run and (row != run[-1] + 1 or known != state or len(run) == PACK_MOST):
            yield run
            run = []
        run.append(row)
        state = known
    if run:
        yield run


def gone_in(row: int, which: object) -> int:
    """Return which messages of the pack with that number are gone, as bits, the first the lowest.

    Raises `Damaged`.
    """
    return 0 if which is None else int.from_bytes(without_sum("gone", row, which), "little")


def is_thin(count: int, gone: int) -> bool:
    """Whether so few messages of a pack are left that each of them is to have a row of its own."""
    return (count - gone.bit_count()) * _WORTH_KEEPING < count


def remove(connection: sqlite3.Connection, rows: Sequence[int]) -> Iterator[int]:
    """Let those of `rows`, which are in order, be gone that are in packs; yield packs that are thin now.

    Raises `Damaged`.
    """
    execute = connection.execute
    at = 0
    while at < len(rows):
        found = execute(_FIND, (rows[at],)).fetchone()
        if found is None or rows[at] >= found[0] + found[1]:
            at += 1  # in none
            continue
        first, count, which = found
        end = bisect_left(rows, first + count, at)
        gone = gone_in(first, which)
        for row in islice(rows, at, end):
            gone |= 1 << (row - first)
        at = end
        if gone.bit_count() == count:
            _drop(connection, first)
            continue
        raw = gone.to_bytes((count + 7) // 8, "little")
        execute("insert or replace into gone values (?, ?)", (first, with_sum(first, raw)))
        if is_thin(count, gone):
            yield first


def is_free(connection: sqlite3.Connection, pack: Pack) -> bool:
    """Whether no pack on the disk has a number that this one has: messages that come back are in theirs still."""
    found = connection.execute(_FIND, (pack.row + pack.number - 1,)).fetchone()
    return found is None or found[0] + found[1] <= pack.row


def take_apart(connection: sqlite3.Connection, row: int) -> int:
    """Give each message of the pack with that number a row of its own, if it is thin; return the bytes written.

    Raises `Damaged`: what is altered must not get a checksum that matches.
    """
    execute = connection.execute
    found = execute("select packs.*, which from packs left join gone using (row) where row = ?", (row,)).fetchone()
    if found is None:
        return 0
    *fields, which = found
    pack = Pack(*fields)
    gone = gone_in(row, which)
    if not is_thin(pack.number, gone):
        return 0
    left = [(at, body) for at, body in enumerate(pack.bodies(), row) if not gone >> (at - row) & 1]
    # First, so that what comes may take the room of what goes.
    _drop(connection, row)
    connection.executemany(
        "insert into messages values (?, ?, ?)", [(at, body_sum(at, body), body) for at, body in left]
    )
    if pack.state is not None:
        # What is known of one of them alone counts.
        states = [(at, with_sum(at, pack.state)) for at, _ in left]
        connection.executemany("insert or ignore into states values (?, ?)", states)
    return sum(len(body) + 60 for _, body in left)


def _drop(connection: sqlite3.Connection, row: int) -> None:
    connection.execute("delete from packs where row = ?", (row,))
    connection.execute("delete from gone where row = ?", (row,))


def _sum(row: int, count: int, state: bytes | None, packed: bytes) -> int:
    return zlib.crc32(packed, zlib.crc32(state or b"", seed(row) ^ count))
