"""Changes and notes of one commit, sorted by what they are to SQLite."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

from zapq.core.changes import Enqueued
from zapq.core.message import DEFAULTS
from zapq.core.records import (
    CommitGroup,
    EpochDropped,
    IdsReserved,
    KeyPut,
    KeysCleared,
    MessagesDeleted,
    MessageState,
    Put,
    PutMany,
    QueueDeleted,
    QueuePut,
    in_wall_time,
)
from zapq.store.schema import row_sum, state_of

Other = QueuePut | IdsReserved | QueueDeleted | EpochDropped | KeysCleared | KeyPut


class Gathered(NamedTuple):
    """What many changes together write, in the order of the tables."""

    puts: list[int | bytes]
    """For each new message its row, its checksum and its body, one after the other."""
    states: dict[int, bytes]
    gone: list[int]
    others: list[Other]
    size: int
    """Bytes of the bodies."""


def gather(batches: Sequence[CommitGroup]) -> Gathered:
    """Sort what is in `batches` by what it is to SQLite. What is gone at the end is not put there first."""
    puts: list[int | bytes] = []
    states: dict[int, bytes] = {}
    gone: list[int] = []
    others: list[Other] = []
    size = 0
    crc32 = zlib.crc32
    for batch in batches:
        clock_offset = batch.clock_offset
        for item in batch.log:
            if item.__class__ is Enqueued:
                message, row = item.message, item.row
                body = message.body
                puts += (row, crc32(body, (row ^ row >> 32) & 0xFFFFFFFF), body)
                size += len(body)
                if message.properties is not DEFAULTS or item.due:
                    states[row] = state_of(row, message.properties, item.due, clock_offset)
                continue
            for entry in item if isinstance(item, tuple) else item.entries:
                match entry:
                    case Put(row, body, properties, due):
                        puts += (row, row_sum(row, body), body)
                        size += len(body)
                        if properties is not DEFAULTS or due:
                            states[row] = state_of(row, properties, due, clock_offset)
                    case PutMany(first, bodies, properties):
                        for row, body in enumerate(bodies, first):
                            puts += (row, crc32(body, (row ^ row >> 32) & 0xFFFFFFFF), body)
                            size += len(body)
                            if properties is not DEFAULTS:
                                states[row] = state_of(row, properties, 0.0, clock_offset)
                    case MessageState(row, properties, due):
                        states[row] = state_of(row, properties, due, clock_offset)
                    case MessagesDeleted(rows):
                        gone += rows
                    case _:
                        other = in_wall_time(entry, clock_offset)
                        others.append(other)  # type: ignore[arg-type]  # it stays what it is
    if gone and puts:
        dropped = set(gone)
        at = [at for at in range(0, len(puts), 3) if puts[at] not in dropped]
        puts = [value for each in at for value in puts[each : each + 3]]
    for row in gone:
        states.pop(row, None)
    return Gathered(puts, states, gone, others, size)
