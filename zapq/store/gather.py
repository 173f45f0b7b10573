"""The records of one commit, sorted by what they are to SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from zapq.core.message import DEFAULTS
from zapq.core.records import (
    ArrivalsNoted,
    EpochDropped,
    IdsReserved,
    KeyPut,
    KeysCleared,
    KeysForgotten,
    MessagesDeleted,
    MessageState,
    Put,
    PutMany,
    QueueDeleted,
    QueuePut,
)
from zapq.limits import PACK_LEAST
from zapq.store.packs import Pack, fit, pack, parts, runs
from zapq.store.port import CommitGroup
from zapq.store.schema import body_sum, state_of, with_sum

Other = QueuePut | IdsReserved | ArrivalsNoted | QueueDeleted | EpochDropped | KeysCleared | KeysForgotten | KeyPut


class Gathered(NamedTuple):
    """What many changes together write, in the order of the tables."""

    gone: list[int]
    """Rows that may be on the disk, and are to go before anything else is put there."""
    puts: list[int | bytes]
    """For each new message its row, its checksum and its body, one after the other."""
    packs: list[Pack]
    """Of messages that came with this commit."""
    returned: list[Pack]
    """Some of whose messages may have been on the disk before."""
    states: dict[int, bytes]
    others: list[Other]
    size: int
    """Bytes of the bodies and headers, and 60 for each row."""


def gather(commits: Sequence[CommitGroup]) -> Gathered:
    """Sort what is in `commits` by what it is to SQLite. What is gone at the end is not put there first."""
    came: dict[int, bytes] = {}
    many: list[tuple[PutMany, bytes | None]] = []
    """Each with what is known of its messages."""
    states: dict[int, bytes] = {}
    gone: dict[int, None] = {}
    others: list[Other] = []
    size = 0
    for commit in commits:
        clock_offset = commit.clock_offset
        for record in commit.records:
            # Most are of two kinds: these are told apart without `match`, which takes three times as long.
            if type(record) is Put:
                came[record.row] = record.body
                if record.properties is not DEFAULTS or record.due:
                    size += record.properties.size
                    states[record.row] = state_of(record.properties, record.due, clock_offset)
                continue
            if type(record) is MessagesDeleted:
                for row in record.rows:
                    states.pop(row, None)
                    # One that came, was deleted and came back may have been on the disk before.
                    if came.pop(row, None) is None:
                        gone[row] = None
                continue
            match record:
                case MessageState(row, properties, due):
                    states[row] = state_of(properties, due, clock_offset)
                case PutMany(_, bodies, properties):
                    size += len(bodies) * properties.size
                    state = None if properties is DEFAULTS else state_of(properties, 0.0, clock_offset)
                    many.append((record, state))
                case KeyPut():
                    others.append(msgspec.structs.replace(record, until=record.until + clock_offset))
                case ArrivalsNoted(queue, entries):
                    others.append(ArrivalsNoted(queue, [(id, time + clock_offset) for id, time in entries]))
                case _:
                    others.append(record)  # type: ignore[arg-type]  # `type(...) is` narrows nothing here
    packs: list[Pack] = []
    for record, state in many:
        for first, bodies, packed in parts(record):
            if fit(bodies) and (not gone or gone.keys().isdisjoint(range(first, first + len(bodies)))):
                packs.append(pack(first, bodies, state, packed))
                continue
            for row, body in enumerate(bodies, first):
                if row in gone:
                    # It is not on the disk; it may have come back, and is among the others then.
                    del gone[row]
                    continue
                came[row] = body
                if state is not None:
                    states.setdefault(row, state)
    puts, returned = _alone(came, states)
    size += sum(map(len, came.values())) + 60 * len(came)
    size += sum(len(each.packed) + 60 for each in (*packs, *returned))
    kept = {row: with_sum(row, raw) for row, raw in states.items()}
    return Gathered(list(gone), puts, packs, returned, kept, others, size)


def _alone(came: dict[int, bytes], states: dict[int, bytes]) -> tuple[list[int | bytes], list[Pack]]:
    """Return the rows of messages that share none, and the packs of those that do, with their state."""
    puts: list[int | bytes] = []
    packs: list[Pack] = []
    if len(came) >= PACK_LEAST:
        for run in runs(sorted(came), states):
            bodies = [came[row] for row in run]
            if fit(bodies):
                packs.append(pack(run[0], bodies, states.get(run[0])))
                for row in run:
                    del came[row]
                    if states:
                        states.pop(row, None)
    for row, body in came.items():
        puts += (row, body_sum(row, body), body)
    return puts, packs
