"""What stands in the file: its tables, its rows, and their checksums.

Format 2. A message is a row of `messages`, numbered by its queue's epoch and its id, so that a queue's messages
lie side by side in their order, and new ones come at the end. Small messages that come together are one row of
`packs`, numbered as the first of them, and a row of `gone` tells which of them are no more. What can change of a
message, and what most messages have not, is a row of `states` with its number: so a body is written once. Rows
of an epoch no queue has are garbage, removed little by little: thus a purge is one small write, however much it
drops. Every row carries a checksum that covers its number, for SQLite has none of its own.

Format 1 has neither `packs` nor `gone`, and not the last five things in a state: headers and what is behind them.
So it is read as it is, and the file is made one of format 2 before anything is written to it.

`probe` has rows of four kinds: a test write that shows whether the disk takes it (1), the sign that there is a
log (2), and the latest time the database knows of (3). Under the number of each queue, but negative, it has when
its messages arrived.
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Sequence
from contextlib import closing
from functools import cache, lru_cache
from math import inf
from typing import Literal, NamedTuple

import msgspec

from zapq.core.message import Origin, Properties
from zapq.store.wal import Damaged

FILE = "zapq.db"
FORMAT = 2
OLDEST = 1
"""The first format that is read."""
APPLICATION = 0x7A617071
"""`zapq` in ASCII: what `file` and SQLite's tools show."""
Table = Literal["messages", "states", "packs", "gone"]
TABLES: tuple[Table, ...] = ("messages", "states", "packs", "gone")
"""Those whose rows have the numbers of messages."""
ADDED: tuple[Table, ...] = ("packs", "gone")
"""Those of them that format 1 has not."""

_SCHEMA = f"""
pragma application_id = {APPLICATION};
create table queues (number integer primary key, name text not null unique, epoch integer not null,
                     next_id integer not null, settings text not null, paused integer not null,
                     sum integer not null);
create table messages (row integer primary key, sum integer not null, body blob not null);
create table states (row integer primary key, state blob not null);
create table keys (queue integer, key text, fingerprint blob not null, id integer not null, until real not null,
                   sum integer not null, primary key (queue, key)) without rowid;
create table probe (number integer primary key, filling blob);
"""
_ADDED = f"""
pragma user_version = {FORMAT};
create table packs (row integer primary key, count integer not null, sum integer not null, state blob,
                    bodies blob not null);
create table gone (row integer primary key, which blob not null);
"""


class State(NamedTuple):
    """What is known of a message besides its body, as it is written; times are seconds since 1970."""

    content_type: str
    priority: int
    expires: float | None
    receives: int
    releases: int
    failed_in: str
    due: float
    headers: tuple[tuple[str, str], ...] = ()
    group: str = ""
    unique: str = ""
    arrived: float = 0.0
    origin: Origin | None = None


_WITHOUT = 7
"""How many of these are written of messages that have none of the rest: as in format 1."""


_TIME = struct.Struct(">dI")
STATES = msgspec.msgpack.Decoder(State)
_ARRIVALS = msgspec.msgpack.Decoder(list[tuple[int, float]])


def set_up(connection: sqlite3.Connection) -> None:
    """Make the tables of a database that is empty."""
    connection.execute("pragma auto_vacuum = incremental")
    connection.executescript(f"begin immediate; {_SCHEMA} {_ADDED} commit;")


def upgrade(connection: sqlite3.Connection) -> None:
    """Make a database of format 1 one of this format."""
    try:
        connection.executescript(f"begin immediate; {_ADDED} commit;")
    except BaseException:
        if connection.in_transaction:
            connection.execute("rollback")
        raise


def format_of(connection: sqlite3.Connection) -> int:
    """Return the format a database is in."""
    version: int = connection.execute("pragma user_version").fetchone()[0]
    return version


def tables(connection: sqlite3.Connection) -> list[tuple[str, str, str, str | None]]:
    """Return what a database is made of, in SQL, in the order of names."""
    return connection.execute("select type, name, tbl_name, sql from sqlite_master order by name").fetchall()


@cache
def our_tables(format: int) -> list[tuple[str, str, str, str | None]]:
    """Return what a database of ours is made of that is in this format."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        set_up(connection)
        return [each for each in tables(connection) if format == FORMAT or each[1] not in ADDED]


def seed(row: int) -> int:
    """Return what the checksum of a row begins with."""
    return (row ^ row >> 32) & 0xFFFFFFFF


def body_sum(row: int, body: bytes) -> int:
    """Return the checksum of a row of `messages`."""
    return zlib.crc32(body, (row ^ row >> 32) & 0xFFFFFFFF)


def with_sum(row: int, raw: bytes) -> bytes:
    """Return what is kept in a row of `states` or `gone`, behind its checksum."""
    return zlib.crc32(raw, seed(row)).to_bytes(4, "big") + raw


def without_sum(table: str, row: int, kept: object) -> bytes:
    """Return what is kept so. Raises `Damaged`."""
    if not isinstance(kept, bytes) or zlib.crc32(kept[4:], seed(row)) != int.from_bytes(kept[:4], "big"):
        raise Damaged(f"{table}, row {row}: the checksum does not match")
    return kept[4:]


def state_of(properties: Properties, due: float, clock_offset: float) -> bytes:
    """Return what is kept of a message beside its body; times become Unix times."""
    has_time = due or properties.expires < inf or properties.arrived
    kept = None if has_time else _timeless(properties)
    return _encoded(properties, due, clock_offset) if kept is None else kept


def _encoded(properties: Properties, due: float, clock_offset: float) -> bytes:
    expires = None if properties.expires == inf else properties.expires + clock_offset
    state = State(
        properties.content_type,
        properties.priority,
        expires,
        properties.receives,
        properties.releases,
        properties.failed_in,
        due + clock_offset if due else 0.0,
        properties.headers,
        properties.group,
        properties.unique,
        properties.arrived + clock_offset if properties.arrived else 0.0,
        properties.origin,
    )
    return msgspec.msgpack.encode(state[:_WITHOUT] if properties.is_short else state)


@lru_cache(maxsize=256)
def _timeless(properties: Properties) -> bytes | None:
    """Return the same, unless there is a time in it: of most messages that are leased it is alike."""
    kept = _encoded(properties, 0.0, 0.0)
    return kept if kept == _encoded(properties, 0.0, 1.0) else None


def kept_time(time: float) -> bytes:
    """Return how a time is kept: with its checksum."""
    return _TIME.pack(time, sum_of(time))


def read_time(kept: object) -> float | None:
    """Return the time that is kept so; None if it was altered."""
    if not isinstance(kept, bytes) or len(kept) != _TIME.size:
        return None
    time, checksum = _TIME.unpack(kept)
    return time if checksum == sum_of(time) else None


def kept_arrivals(queue: int, entries: Sequence[tuple[int, float]]) -> bytes:
    """Return how it is kept when messages of a queue arrived, ids with Unix times: behind its checksum."""
    return with_sum(-queue, msgspec.msgpack.encode(entries))


def read_arrivals(queue: int, kept: object) -> list[tuple[int, float]]:
    """Return what is kept so. Raises `Damaged`."""
    return _ARRIVALS.decode(without_sum("probe", -queue, kept))


def sum_of(values: object) -> int:
    """Return the checksum of a time, or of a tuple of what is kept of a queue or an Idempotency-Key."""
    return zlib.crc32(repr(values).encode())
