"""A store in memory: what records mean, one after the other, and nothing of how SQLite keeps it.

So it is what SQLite is compared with. What becomes of a commit is for its `Disk` to say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from tests.support.disk import Disk
from zapq.core.image import KeptQueue, QueueImage
from zapq.core.message import Message, Properties
from zapq.core.records import (
    ID_BITS,
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
    Record,
)
from zapq.store.clock import Clock
from zapq.store.port import CommitGroup, Contents

replace = msgspec.structs.replace
Row = tuple[bytes, Properties, float]
"""A message's body, what else is known of it, and when it is ready; times are Unix times."""


class MemoryStore:
    """A `Store` for one run. `left` is what the next one finds, if the process dies now."""

    def __init__(self, disk: Disk, earlier: MemoryStore | None = None) -> None:
        """`earlier` is what an earlier run has left."""
        self.clock = Clock(0.0)
        self.untidy = False
        self.no_room = ""
        self._disk = disk
        self._queues: dict[int, QueuePut] = {} if earlier is None else earlier._queues.copy()
        self._rows: dict[int, Row] = {} if earlier is None else earlier._rows.copy()
        self._keys: dict[tuple[int, str], KeyPut] = {} if earlier is None else earlier._keys.copy()

    def left(self) -> MemoryStore:
        """Return a copy: what is committed later is not in it."""
        return MemoryStore(self._disk, self)

    def load(self, now: float, clock_offset: float) -> Contents:
        queues = [
            KeptQueue(
                each.number,
                each.epoch,
                QueueImage(
                    name=each.name,
                    settings=each.settings,
                    paused=each.paused,
                    next_id=each.next_id,
                    in_order=deque(),
                    others=self._messages(each.epoch, clock_offset),
                ),
            )
            for _, each in sorted(self._queues.items())
        ]
        keys = sorted(self._keys.values(), key=lambda key: key.until)
        epochs = {each.epoch for each in self._queues.values()}
        highest = max([*epochs, *(row >> ID_BITS for row in self._rows)], default=0)
        self._rows = {row: kept for row, kept in self._rows.items() if row >> ID_BITS in epochs}
        return Contents(queues, [key for key in keys if key.until > now + clock_offset], highest)

    def _messages(self, epoch: int, clock_offset: float) -> list[tuple[Message, float]]:
        found = []
        for row, (body, properties, due) in sorted(self._rows.items()):
            if row >> ID_BITS == epoch:
                known = replace(properties, expires=properties.expires - clock_offset)
                message = Message(row % (1 << ID_BITS), body, known)
                found.append((message, due - clock_offset if due else 0.0))
        return found

    def commit(self, commits: Sequence[CommitGroup]) -> None:
        with self._disk.attempt():
            for commit in commits:
                for record in commit.records:
                    self._keep(record, commit.clock_offset)

    def _keep(self, record: Record, clock_offset: float) -> None:
        def known(properties: Properties) -> Properties:
            return replace(properties, expires=properties.expires + clock_offset)

        def time(due: float) -> float:
            return due + clock_offset if due else 0.0

        rows, queues, keys = self._rows, self._queues, self._keys
        match record:
            case Put(row, body, properties, due):
                rows[row] = (body, known(properties), time(due))
            case PutMany(first, bodies, properties):
                rows |= {row: (body, known(properties), 0.0) for row, body in enumerate(bodies, first)}
            case MessageState(row, properties, due):
                rows[row] = (rows[row][0], known(properties), time(due))
            case MessagesDeleted(gone):
                for row in gone:
                    rows.pop(row, None)
            case QueuePut():
                before = queues.get(record.number)
                others = [each for each in queues.values() if each.name == record.name]
                for other in others:
                    del queues[other.number]
                next_id = max(record.next_id, 0 if before is None else before.next_id)
                queues[record.number] = replace(record, next_id=next_id)
            case IdsReserved(number, next_id, final):
                if number in queues and (final or next_id > queues[number].next_id):
                    queues[number] = replace(queues[number], next_id=next_id)
            case QueueDeleted(number):
                queues.pop(number, None)
                for key in [key for key in keys if key[0] == number]:
                    del keys[key]
            case EpochDropped():
                pass  # no queue has it
            case KeysCleared():
                keys.clear()
            case KeysForgotten(forgotten):
                for key in forgotten:
                    keys.pop(key, None)
            case KeyPut(number, key_, fingerprint, id, until):
                keys[number, key_] = KeyPut(number, key_, fingerprint, id, until + clock_offset)

    def probe(self) -> None:
        self._disk.check()

    def tidy(self, *, idle: bool) -> None:
        self._disk.check()

    def close(self) -> None:
        pass
