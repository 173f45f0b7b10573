"""Databases with a known history: what was in them after each commit, to compare with what is found."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Any

import msgspec

from zapq.core.message import DEFAULTS, Properties
from zapq.core.queue_settings import QueueSettings
from zapq.core.records import (
    EpochDropped,
    KeyPut,
    MessagesDeleted,
    MessageState,
    Put,
    PutMany,
    QueueDeleted,
    QueuePut,
    Record,
    row_of,
)
from zapq.core.runs import flatten
from zapq.store.database import Database
from zapq.store.open_database import open_database
from zapq.store.port import CommitGroup, Contents
from zapq.store.schema import FILE

WAL = f"{FILE}-wal"
LATER = 4e9
"""A time no test will see."""
View = dict[str, Any]


@contextmanager
def opened(directory: Path) -> Iterator[tuple[Database, View, str]]:
    """Open the database in `directory`, and yield it with what is in it, and the warning."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        database = open_database(str(directory), descriptor)
        try:
            contents = database.read(0.0, 0.0)
            yield database, view(contents), contents.warning
        finally:
            database.close()
    finally:
        os.close(descriptor)


def view(contents: Contents) -> View:
    """What was found, in a form that can be compared."""
    queues = {}
    for number, epoch, image in contents.queues:
        messages = {message.id: (message.body, message.properties, due) for message, due in image.others}
        for message in flatten(image.in_order):
            messages[message.id] = (message.body, message.properties, 0.0)
        queues[number] = (
            QueuePut(number, image.name, epoch, image.next_id, image.settings, image.paused),
            messages,
        )
    return {
        "queues": queues,
        "keys": {(key.queue, key.key): msgspec.structs.astuple(key)[2:] for key in contents.keys},
    }


def copy(source: Path, target: Path) -> Path:
    """Copy the files as they are, as a crash of the machine would leave them."""
    target.mkdir()
    for name in (FILE, WAL):
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    return target


class History:
    """Makes commits of every kind, and knows what was there after each."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._queues: dict[int, QueuePut] = {}
        self._messages: dict[int, dict[int, tuple[bytes, Properties, float]]] = {}
        self._keys: dict[tuple[int, str], tuple[bytes, int, float]] = {}
        self._epoch = 0
        self.views: list[View] = [self._view()]

    def commit(self, database: Database, records: list[Record] | None = None) -> None:
        """Write something."""
        commit = CommitGroup()
        for record in records or self._some():
            commit.records.append(record)
        database.commit([commit])
        self.views.append(self._view())

    def enqueue(self, *sizes: int) -> list[Record]:
        """Return what puts messages of these sizes into the first queue."""
        number = min(self._queues)
        first, bodies = self._next(number, len(sizes)), [self._random.randbytes(size) for size in sizes]
        for id, body in enumerate(bodies, first):
            self._messages[number][id] = (body, DEFAULTS, 0.0)
        return [PutMany(row_of(self._queues[number].epoch, first), bodies), self._queues[number]]

    def _view(self) -> View:
        return {
            "queues": {number: (kept, dict(self._messages[number])) for number, kept in self._queues.items()},
            "keys": dict(self._keys),
        }

    def _next(self, number: int, count: int) -> int:
        kept = self._queues[number]
        self._queues[number] = msgspec.structs.replace(kept, next_id=kept.next_id + count)
        return kept.next_id

    def _some(self) -> list[Record]:
        records: list[Record] = []
        if len(self._queues) < 3:
            records += self._make_queue()
        for _ in range(self._random.choice([1, 1, 1, 2, 5])):
            number = self._random.choice(list(self._queues))
            verbs = [self._put] * 6 + [self._gone] * 4 + [self._kept] * 3 + [self._key] * 2
            records += self._random.choice([*verbs, self._set, self._purge, self._delete])(number)
        return records

    def _make_queue(self) -> list[Record]:
        self._epoch += 1
        number = self._epoch
        self._queues[number] = QueuePut(number, f"q{number}", self._epoch, 1, QueueSettings(), False)
        self._messages[number] = {}
        return [self._queues[number]]

    def _properties(self) -> Properties:
        pick = self._random
        return Properties(
            pick.choice(["application/octet-stream", "text/plain"]),
            pick.choice([0, 0, 9]),
            pick.choice([inf, LATER]),
            pick.choice([0, 0, 3]),
            0,
            pick.choice(["", "elsewhere"]),
        )

    def _put(self, number: int) -> list[Record]:
        pick = self._random
        if pick.random() < 0.3:
            return self.enqueue(*[pick.choice([0, 7, 100])] * pick.choice([2, 30]))
        id, body = self._next(number, 1), pick.randbytes(pick.choice([0, 10, 300, 300, 3000, 9000, 20_000]))
        properties = DEFAULTS if pick.random() < 0.5 else self._properties()
        due = pick.choice([0.0, 0.0, LATER])
        self._messages[number][id] = (body, properties, due)
        return [Put(row_of(self._queues[number].epoch, id), body, properties, due), self._queues[number]]

    def _gone(self, number: int) -> list[Record]:
        ids = self._random.sample(sorted(self._messages[number]), min(len(self._messages[number]), 5))
        for id in ids:
            del self._messages[number][id]
        return [MessagesDeleted([row_of(self._queues[number].epoch, id) for id in ids])]

    def _kept(self, number: int) -> list[Record]:
        messages = self._messages[number]
        if not messages:
            return []
        id, properties = self._random.choice(sorted(messages)), self._properties()
        messages[id] = (messages[id][0], properties, 0.0)
        return [MessageState(row_of(self._queues[number].epoch, id), properties)]

    def _key(self, number: int) -> list[Record]:
        key, fingerprint = self._random.randbytes(8).hex(), self._random.randbytes(16)
        self._keys[number, key] = (fingerprint, 1, LATER)
        return [KeyPut(number, key, fingerprint, 1, LATER)]

    def _set(self, number: int) -> list[Record]:
        settings = QueueSettings(ttl=self._random.choice([None, 5.0]))
        kept = msgspec.structs.replace(
            self._queues[number], settings=settings, paused=not self._queues[number].paused
        )
        self._queues[number] = kept
        return [kept]

    def _purge(self, number: int) -> list[Record]:
        self._epoch += 1
        self._queues[number] = msgspec.structs.replace(self._queues[number], epoch=self._epoch)
        self._messages[number] = {}
        return [self._queues[number]]

    def _delete(self, number: int) -> list[Record]:
        if len(self._queues) < 3:
            self._epoch += 1
            return [PutMany(row_of(self._epoch, 1), [b"never used"]), EpochDropped(self._epoch)]
        del self._queues[number], self._messages[number]
        self._keys = {key: kept for key, kept in self._keys.items() if key[0] != number}
        return [QueueDeleted(number)]
