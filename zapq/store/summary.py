"""What a snapshot file holds, found by reading all of it; for people, and without a server."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

from zapq.errors import SnapshotFailed
from zapq.limits import DEFAULT_QUEUE
from zapq.store.archive import KEYS, QUEUE, Archive
from zapq.store.snapshot import MSGPACK, read_bodies


@dataclass(slots=True)
class QueueSummary:
    """What a snapshot holds of one queue."""

    paused: bool = False
    messages: int = 0
    bytes: int = 0
    delayed: int = 0
    """Messages that were not ready when it was written."""
    received: int = 0
    """Messages that have been leased, or were then."""


@dataclass(slots=True)
class Summary:
    """What a snapshot holds; every byte of it was read, and found to be as it was written."""

    format: str
    written: float
    """In seconds since 1970."""
    bytes: int
    queues: dict[str, QueueSummary] = field(default_factory=dict)
    keys: int = 0
    """Idempotency-Keys."""


def summarise(path: str) -> Summary:
    """Return what the file at `path` holds, however large it is.

    Raises `SnapshotFailed` for what is no snapshot, or a damaged one, with the place; and OSError.
    """
    # O_NONBLOCK: opening a FIFO must not wait for its writer.
    with open(path, "rb", 0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise SnapshotFailed(f"{path} is not a plain file.")
        if not path.endswith(MSGPACK):
            held = QueueSummary()
            for bodies in read_bodies(path, file):
                held.messages += len(bodies)
                held.bytes += sum(map(len, bodies))
            return Summary("json", status.st_mtime, status.st_size, {DEFAULT_QUEUE: held})
        archive = Archive(file, status.st_size, path)
        summary = Summary(f"msgpack, version {archive.version}", archive.written, status.st_size)
        queue = QueueSummary()
        for _, kind, records in archive:
            if kind == QUEUE:
                queue = summary.queues[records.name] = QueueSummary(records.paused)
            elif kind == KEYS:
                summary.keys += len(records)
            else:
                for record in records:
                    number = len(record.bodies)
                    queue.messages += number
                    queue.bytes += sum(map(len, record.bodies)) + number * record.properties.size
                    queue.delayed += number if record.due else 0
                    queue.received += number if record.properties.receives else 0
        return summary
