"""What stands in the file, read back at a start: all of it is looked at, and none of it changed."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterator
from math import inf
from operator import attrgetter
from typing import NamedTuple

import msgspec

from zapq.core.idempotency import ANY_CONTENT
from zapq.core.image import KeptQueue, QueueImage
from zapq.core.message import DEFAULTS, Message, Properties
from zapq.core.queue_settings import QueueSettings
from zapq.core.records import ID_BITS, MAX_ID, KeyPut, QueuePut
from zapq.core.runs import Run
from zapq.limits import MAX_KEYS
from zapq.store.packs import Pack, gone_in, is_thin
from zapq.store.schema import (
    ADDED,
    FORMAT,
    STATES,
    TABLES,
    Table,
    body_sum,
    format_of,
    read_arrivals,
    sum_of,
    without_sum,
)
from zapq.store.wal import Damaged

_SINGLE = "select row, 0 count, sum, null state, body, null which from messages where row between ?1 and ?2"
_EVERY = (
    f"{_SINGLE} union all select row, count, sum, state, bodies, which"  # noqa: S608 - that above
    " from packs left join gone using (row) where row between ?1 and ?2"
)


class Reading:
    """Reads a database, and knows what is in it then. Raises `Damaged` and `sqlite3.DatabaseError`."""

    def __init__(self, connection: sqlite3.Connection, now: float, clock_offset: float) -> None:
        """Times in it will be by a clock that shows `now`; add `clock_offset` to get Unix time."""
        self.queues: list[KeptQueue] = []
        self.puts: dict[int, QueuePut] = {}
        """What is written of each queue, by its number."""
        self.garbage: list[int] = []
        """Epochs no queue has ..."""
        self.garbage_rows = 0
        """... and how many messages are left of them."""
        self.thin: dict[int, None] = {}
        """Packs of which few messages are left."""
        self.highest = 0
        """The highest epoch in use."""
        self._connection = connection
        self._format = format_of(connection)
        # The integrity check looks at every page, but not at what is in them; that is for the checksums.
        check = connection.execute("pragma integrity_check(1)").fetchone()[0]
        if check != "ok":
            raise Damaged(" ".join(check.split()))
        self._known = _Known(self._summed("states", "state"), clock_offset)
        if self._format == FORMAT:
            # One whose number was altered would let messages be there again.
            self._summed("gone", "which")
        self._read_queues(self._read_arrivals(clock_offset))
        self._read_garbage()
        self.keys = list(self._read_keys(now + clock_offset))

    def _summed(self, table: Table, column: str) -> dict[int, bytes]:
        """Return what is in a table whose rows begin with a checksum."""
        every = f"select row, {column} from {table}"  # noqa: S608 - ours
        return {row: without_sum(table, row, kept) for row, kept in self._connection.execute(every)}

    def _read_arrivals(self, clock_offset: float) -> dict[int, list[tuple[int, float]]]:
        """Return when messages arrived, by the numbers of their queues."""
        return {
            -row: [(id, time - clock_offset) for id, time in read_arrivals(-row, kept)]
            for row, kept in self._connection.execute("select number, filling from probe where number < 0")
        }

    def _read_queues(self, arrived: dict[int, list[tuple[int, float]]]) -> None:
        for number, name, epoch, next_id, settings, paused, checksum in self._connection.execute(
            "select number, name, epoch, next_id, settings, paused, sum from queues order by number"
        ):
            if checksum != sum_of((number, name, epoch, next_id, settings, paused)):
                raise Damaged(f"queues, number {number}: the checksum does not match")
            image = QueueImage(
                name=name,
                settings=msgspec.json.decode(settings, type=QueueSettings),
                paused=bool(paused),
                next_id=next_id,
                arrived=arrived.get(number, []),
                in_order=deque(),
                others=[],
            )
            self._read_messages(epoch, image)
            self.queues.append(KeptQueue(number, epoch, image))
            self.puts[number] = QueuePut(number, name, epoch, next_id, image.settings, image.paused)
            self.highest = max(self.highest, epoch)

    def _read_garbage(self) -> None:
        epochs = {queue.epoch for queue in self.puts.values()}
        self.garbage_rows = sum(row >> ID_BITS not in epochs for row in self._known.states)
        for epoch in self._epochs_of_rows():
            if epoch not in epochs:
                # Read all the same: a message whose number was altered may look like garbage.
                self.garbage_rows += sum(len(bodies) for _, bodies, _, _ in self._rows(epoch))
                self.garbage.append(epoch)
                self.highest = max(self.highest, epoch)

    def _read_keys(self, now: float) -> Iterator[KeyPut]:
        for *fields, checksum in self._connection.execute(
            "select * from (select queue, key, fingerprint, id, until, sum from keys where fingerprint <> ?"
            " order by until desc limit ?) union all"
            " select queue, key, fingerprint, id, until, sum from keys where fingerprint = ? order by until",
            (ANY_CONTENT, MAX_KEYS, ANY_CONTENT),
        ):
            if checksum != sum_of(tuple(fields)):
                raise Damaged(f"keys, queue {fields[0]}, key {fields[1]!r}: the checksum does not match")
            key = KeyPut(*fields)
            if key.until > now:
                yield key

    def _rows(self, epoch: int) -> Iterator[_Row]:
        """Yield what is kept of the messages of one epoch, in the order of their numbers. Raises `Damaged`."""
        numbers = (epoch << ID_BITS, epoch << ID_BITS | MAX_ID)
        execute = self._connection.execute
        every = _SINGLE if self._format < FORMAT else _EVERY
        first = end = gone = 0  # of the last pack
        for row, count, checksum, state, body, which in execute(f"{every} order by row", numbers):
            if row < end and (count or not gone >> (row - first) & 1):
                raise Damaged(f"messages, row {row}: it is there twice")
            if count:
                pack, gone = Pack(row, count, checksum, state, body), gone_in(row, which)
                first, end = row, row + count
                if is_thin(count, gone):
                    self.thin[row] = None
                yield _Row(row, pack.bodies(), pack, gone)
            elif isinstance(body, bytes) and body_sum(row, body) == checksum:
                yield _Row(row, (body,))
            else:
                raise Damaged(f"messages, row {row}: the checksum does not match")

    def _read_messages(self, epoch: int, image: QueueImage) -> None:
        known, states = self._known, self._known.states
        append = image.in_order.append
        image.others = others = []
        end, mixed = 0, False
        for row, bodies, pack, gone in self._rows(epoch):
            id, shared = row & MAX_ID, None if pack is None else pack.state
            mixed |= row < end
            end = max(end, row + len(bodies))
            if id + len(bodies) > image.next_id:
                raise Damaged(f"messages, row {row}: queue {image.name} has not given that id yet")
            if pack is not None and not gone and states.keys().isdisjoint(range(row, row + len(bodies))):
                properties, due = (DEFAULTS, 0.0) if shared is None else known.read(shared)
                if not (due or _is_special(properties)):
                    size = sum(map(len, bodies)) + len(bodies) * properties.size
                    append(Run(id, len(bodies), size, properties, packed=pack.packed))
                    continue
            for at, body in enumerate(bodies):
                if gone >> at & 1:
                    continue
                state = states.get(row + at, shared)
                if state is None:
                    append(Message(id + at, body))
                    continue
                properties, due = known.read(state)
                message = Message(id + at, body, properties)
                if due or _is_special(properties):
                    others.append((message, due))
                else:
                    append(message)
        if mixed:
            # A message that came back has a row of its own, behind that of those it was packed with.
            image.in_order = deque(sorted(image.in_order, key=attrgetter("id")))

    def _epochs_of_rows(self) -> Iterator[int]:
        epoch = -1
        while True:
            found = (
                self._connection.execute(_least(table), ((epoch + 1) << ID_BITS,)).fetchone()[0]
                for table in TABLES
                if self._format == FORMAT or table not in ADDED
            )
            row = min((row for row in found if row is not None), default=None)
            if row is None:
                return
            epoch = row >> ID_BITS
            yield epoch


class _Row(NamedTuple):
    """One row of messages as it was found, sound."""

    row: int
    bodies: tuple[bytes, ...]
    pack: Pack | None = None
    """None if the message has a row of its own."""
    gone: int = 0
    """Which of them are not there any more, as bits."""


class _Known:
    """What is known of messages, as it was written, and how to read it: mostly it is the same for many."""

    def __init__(self, states: dict[int, bytes], clock_offset: float) -> None:
        self.states = states
        self._clock_offset = clock_offset
        self._read: dict[bytes, Properties] = {}

    def read(self, raw: bytes) -> tuple[Properties, float]:
        """Return what it says, and when the message is ready: 0 for at once."""
        properties = self._read.get(raw)
        if properties is not None:
            return properties, 0.0
        known = STATES.decode(raw)
        expires, due = known.expires, known.due
        properties = Properties(
            known.content_type,
            known.priority,
            inf if expires is None else expires - self._clock_offset,
            known.receives,
            known.releases,
            known.failed_in,
            known.headers,
            known.group,
            known.unique,
            known.arrived - self._clock_offset if known.arrived else 0.0,
            known.origin,
        )
        if due:
            return properties, due - self._clock_offset
        self._read[raw] = properties
        return properties, 0.0


def _is_special(properties: Properties) -> bool:
    """Whether a message is not simply in the order of its id once it is ready."""
    return properties.priority > 0 or properties.receives > 0 or properties.expires < inf


def _least(table: Table) -> str:
    return f"select min(row) from {table} where row >= ?"  # noqa: S608 - one of few names
