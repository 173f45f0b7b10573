"""The records of one commit, sorted by what they are to SQLite."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from zapq.core.message import DEFAULTS
from zapq.core.records import (
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
from zapq.store.port import CommitGroup
from zapq.store.schema import state_of

Other = QueuePut | IdsReserved | QueueDeleted | EpochDropped | KeysCleared | KeysForgotten | KeyPut


class Gathered(NamedTuple):
    """What many changes together write, in the order of the tables."""

    puts: list[int | bytes]
    """For each new message its row, its checksum and its body, one after the other."""
    states: dict[int, bytes]
    gone: list[int]
    others: list[Other]
    size: int
    """Bytes of the bodies and headers."""


def gather(commits: Sequence[CommitGroup]) -> Gathered:
    """Sort what is in `commits` by what it is to SQLite. What is gone at the end is not put there first."""
    puts: list[int | bytes] = []
    states: dict[int, bytes] = {}
    deleted: dict[int, None] = {}
    returned: set[int] = set()
    """Rows that were deleted and are there again: they may have been on the disk before."""
    others: list[Other] = []
    size = 0
    crc32 = zlib.crc32
    for commit in commits:
        clock_offset = commit.clock_offset
        for record in commit.records:
            # Most are of two kinds: these are told apart without `match`, which takes three times as long.
            if type(record) is Put:
                row, body = record.row, record.body
                if row in deleted:
                    del deleted[row]
                    returned.add(row)
                    # In place of that from before, which is not deleted any more.
                    states[row] = state_of(row, record.properties, record.due, clock_offset)
                puts += (row, crc32(body, (row ^ row >> 32) & 0xFFFFFFFF), body)
                size += len(body)
                if record.properties is not DEFAULTS or record.due:
                    size += record.properties.size
                    states[row] = state_of(row, record.properties, record.due, clock_offset)
                continue
            if type(record) is MessagesDeleted:
                deleted.update(dict.fromkeys(record.rows))
                continue
            match record:
                case MessageState(row, properties, due):
                    states[row] = state_of(row, properties, due, clock_offset)
                case PutMany(first, bodies, properties):
                    size += len(bodies) * properties.size
                    for row, body in enumerate(bodies, first):
                        puts += (row, crc32(body, (row ^ row >> 32) & 0xFFFFFFFF), body)
                        size += len(body)
                        if properties is not DEFAULTS:
                            states[row] = state_of(row, properties, 0.0, clock_offset)
                case KeyPut():
                    others.append(msgspec.structs.replace(record, until=record.until + clock_offset))
                case _:
                    others.append(record)  # type: ignore[arg-type]  # `type(...) is` narrows nothing here
    for row in deleted:
        states.pop(row, None)
    gone = list(deleted)
    if gone and puts:
        # A message that came and went is not written, and there is nothing to delete.
        came = {*puts[::3]} - returned
        at = [at for at in range(0, len(puts), 3) if puts[at] not in deleted]
        puts = [value for each in at for value in puts[each : each + 3]]
        gone = [row for row in gone if row not in came]
    return Gathered(puts, states, gone, others, size)
