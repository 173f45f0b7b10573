"""Snapshot files in the data directory, and `*.json`: the default queue in the format of the original.

That is a JSON array of standard-base64 strings, oldest message first; `null` stands for an empty one. What is in
all queues is kept by `zapq/store/archive.py`, in `*.msgpack`. Writing is atomic, and reading is all or nothing.
Everything here is synchronous and meant for a worker thread.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from math import inf
from typing import BinaryIO, Self

import msgspec

from zapq.core.image import Image
from zapq.errors import InvalidParameter, SnapshotFailed, SnapshotNotFound
from zapq.limits import KIB, MAX_KEYS, MIB
from zapq.settings import Settings, is_snapshot_name
from zapq.store import slices
from zapq.store.archive import Archive, Block, Caps, Survey, Totals, decode, encode, encode_blocks, survey
from zapq.store.directory import Directory
from zapq.store.slices import Checkpoint, yield_gil

MSGPACK = ".msgpack"
_AUTOMATIC = re.compile(r"auto-[0-9]{8}T[0-9]{6}Z\.msgpack", re.ASCII)
_BODIES = msgspec.json.Decoder(list[bytes | None])
_SPACE = b" \t\r\n"
"""What JSON calls white space; `bytes.strip` knows more."""


def snapshot_name(name: str) -> str:
    """Return `name` if it is a bare file name this store writes, else raise `InvalidParameter`."""
    if not is_snapshot_name(name):
        raise InvalidParameter(
            "file must be a bare name of 1 to 128 letters, digits, dots, dashes and underscores that begins"
            " with a letter or digit and ends in .json or .msgpack.",
            parameter="file",
        )
    return name


def automatic_name() -> str:
    """Return the name of an automatic snapshot that is saved now."""
    return time.strftime("auto-%Y%m%dT%H%M%SZ.msgpack", time.gmtime())


@dataclass(frozen=True, slots=True)
class Saved:
    """A snapshot that could be loaded at the start."""

    name: str
    at: float
    """When it was saved, in seconds since 1970: what a `*.msgpack` file records, else when it was modified."""


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """One snapshot in the data directory, as its directory entry and its end tell."""

    name: str
    bytes: int
    modified: float
    """When it was written, in seconds since 1970."""
    totals: Totals | None
    """What it holds; None where only reading all of it would tell."""


_PROMISE_BYTES = 256
"""Bytes of a deduplication id in a snapshot at most: the name of its queue, a digest and some numbers."""


class SnapshotStore:
    """The snapshots of one data directory; a context manager that keeps the directory open."""

    def __init__(self, settings: Settings) -> None:
        self.directory = Directory(settings.data_dir)
        # Base64 makes 4 bytes of 3; 16 more for each message are quotes, comma, padding and white space.
        self._max_file_bytes = settings.max_bytes * 4 // 3 + settings.max_msgs * 16 + MIB
        # What is known of a message is at most two names, a type and some numbers; a key, or a queue, is no more.
        others = settings.max_msgs + settings.max_queues + MAX_KEYS
        promises = settings.max_deduplication_ids
        self._max_archive_bytes = settings.max_bytes + others * KIB + promises * _PROMISE_BYTES + MIB
        self._caps = Caps(
            settings.max_msgs, settings.max_bytes, settings.max_message_bytes, settings.max_queues, promises
        )

    def __enter__(self) -> Self:
        self.directory.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.directory.__exit__()

    def save(self, name: str, bodies: list[bytes], checkpoint: Checkpoint = yield_gil) -> None:
        """Write `bodies` as the file `name`, whole and on the disk, or raise `SnapshotFailed`."""
        self._write(name, _encode(bodies), checkpoint)

    def save_all(
        self, name: str, image: Image, clock_offset: float, written: float, checkpoint: Checkpoint = yield_gil
    ) -> None:
        """Write `image` as the file `name`, whole and on the disk, or raise `SnapshotFailed`.

        The image's times and `clock_offset` make Unix time, of which `written` is.
        The image is used up by it.
        """
        self._write(name, encode(image, clock_offset, written), checkpoint)

    def save_blocks(
        self, name: str, blocks: Iterable[Block], written: float, checkpoint: Checkpoint = yield_gil
    ) -> None:
        """Write `blocks` as the file `name`, whole and on the disk, or raise `SnapshotFailed`; see `save_all`."""
        self._write(name, encode_blocks(blocks, written), checkpoint)

    def load(self, name: str, checkpoint: Checkpoint = yield_gil) -> list[bytes]:
        """Return the bodies in the file `name`, oldest first.

        Raises `SnapshotNotFound` if the file is missing, and `SnapshotFailed` if it is not a plain file of ours,
        corrupt, or over a cap.
        """
        bodies: list[bytes] = []
        size = 0
        with self._open(name, self._max_file_bytes) as (file, _):
            for some in read_bodies(name, file):
                for body in some:
                    bodies.append(body)
                    size += len(body)
                    if len(body) > self._caps.message_bytes:
                        raise SnapshotFailed(
                            f"{name}: message {len(bodies)} is larger than --max-message-bytes allows. Raise"
                            " it, and load the file again.",
                            limit="max_message_bytes",
                        )
                if len(bodies) > self._caps.messages:
                    raise SnapshotFailed(
                        f"{name} holds more messages than --max-msgs allows. Raise it, and load the file again.",
                        limit="max_msgs",
                    )
                if size > self._caps.bytes:
                    raise SnapshotFailed(
                        f"{name} holds more bytes than --max-bytes allows. Raise it, and load the file again.",
                        limit="max_bytes",
                    )
                checkpoint()
        return bodies

    def load_all(self, name: str, clock_offset: float, checkpoint: Checkpoint = yield_gil) -> Image:
        """Return the image in the file `name`; add `clock_offset` to its times to get Unix time.

        Raises `SnapshotNotFound` if the file is missing, and `SnapshotFailed` if it is not a plain file of ours,
        damaged, or over a cap.
        """
        with self._open(name, self._max_archive_bytes) as (file, size):
            return decode(Archive(file, size, name), name, self._caps, clock_offset, checkpoint)

    def survey(self, name: str, checkpoint: Checkpoint = yield_gil) -> Survey:
        """Verify every byte of the file `name`, and return what queues it holds. Raises as `load_all` does.

        The caps on messages and bytes hold for each queue by itself.
        """
        with self.archive(name) as archive:
            return survey(archive, name, self._caps, checkpoint)

    @contextmanager
    def archive(self, name: str) -> Iterator[Archive]:
        """Give the file `name` to read, block by block, however large it is. Raises as `load_all` does."""
        with self._open(name) as (file, size):
            yield Archive(file, size, name)

    def newest_first(self, name: str, checkpoint: Checkpoint = yield_gil) -> list[Saved]:
        """Return the file `name`, if there is one, and all automatic snapshots, the newest first.

        Of two that are equally old `name` comes first. Raises `SnapshotFailed` if the directory cannot be read.
        """
        saved: list[Saved] = []
        try:
            automatic = [each for each, _ in self.directory.files() if _AUTOMATIC.fullmatch(each)]
            for each in dict.fromkeys((name, *automatic)):
                at = self._saved_at(each)
                if at is not None:
                    saved.append(Saved(each, at))
                checkpoint()
        except OSError as error:
            raise SnapshotFailed(f"The data directory could not be read: {error.strerror}.") from error
        return sorted(saved, key=lambda each: each.at, reverse=True)

    def files(self, checkpoint: Checkpoint = yield_gil) -> list[SnapshotFile]:
        """Return every snapshot there is, by name; raises `SnapshotFailed` if the directory cannot be read."""
        found: list[SnapshotFile] = []
        try:
            for name, status in self.directory.files():
                if is_snapshot_name(name):
                    found.append(SnapshotFile(name, status.st_size, status.st_mtime, self._totals(name)))
                    checkpoint()
        except OSError as error:
            raise SnapshotFailed(f"The data directory could not be read: {error.strerror}.") from error
        return found

    def remove(self, name: str) -> None:
        """Remove the file `name`, or raise `SnapshotFailed`."""
        try:
            self.directory.remove(snapshot_name(name))
        except OSError as error:
            raise SnapshotFailed(f"{name} could not be removed: {error.strerror}.") from error

    def _saved_at(self, name: str) -> float | None:
        # A file whose head is damaged does not tell. Whatever else is wrong with it, loading it will tell.
        if name.endswith(MSGPACK):
            with suppress(OSError, SnapshotFailed), self.directory.open(name) as (file, size):
                written: float = Archive(file, size, name).written
                return written
        return self.directory.modified(name)

    def _totals(self, name: str) -> Totals | None:
        if not name.endswith(MSGPACK):
            return None
        # Whatever is wrong with it, loading it will tell.
        with suppress(OSError, SnapshotFailed), self.directory.open(name) as (file, size):
            return Archive(file, size, name).ending()
        return None

    def _write(self, name: str, pieces: Iterator[bytes | bytearray], checkpoint: Checkpoint) -> None:
        try:
            self.directory.write(name, pieces, checkpoint)
        except OSError as error:
            raise SnapshotFailed(f"{name} could not be written: {error.strerror}.") from error

    @contextmanager
    def _open(self, name: str, most: float = inf) -> Iterator[tuple[BinaryIO, int]]:
        """Give the file `name` to read, and its size, which may be `most`. Raises as `load` does."""
        try:
            with self.directory.open(name) as (file, size):
                if size > most:
                    raise SnapshotFailed(
                        f"{name} is larger than --max-bytes and --max-msgs allow. Raise them, and load the file"
                        " again.",
                        limit="max_bytes",
                    )
                yield file, size
        except FileNotFoundError:
            raise SnapshotNotFound(
                f"{name} is not in the data directory. GET /snapshots lists the snapshots there."
            ) from None
        except OSError as error:
            raise SnapshotFailed(f"{name} could not be read: {error.strerror}.") from error


def read_bodies(name: str, file: BinaryIO) -> Iterator[list[bytes]]:
    """Yield the bodies in a file of JSON, piece by piece; `SnapshotFailed` calls it `name` if it is damaged."""
    number = 0
    try:
        for piece in _split(iter(lambda: file.read(slices.SLICE_BYTES), b"")):
            bodies = [body or b"" for body in _BODIES.decode(piece)]
            number += len(bodies)
            yield bodies
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SnapshotFailed(
            f"{name} is not a JSON array of base64 strings. It is damaged after message {number}: {error}."
        ) from error


def _encode(bodies: list[bytes]) -> Iterator[bytes | bytearray]:
    """Yield the JSON array of `bodies` in pieces."""
    yield b"["
    batch: list[bytes] = []
    size, comma = 0, b""
    for body in bodies:
        batch.append(body)
        # 32 for what a tiny message costs besides its bytes
        size += len(body) + 32
        if size >= slices.SLICE_BYTES:
            yield comma + msgspec.json.encode(batch)[1:-1]
            batch, size, comma = [], 0, b","
    if batch:
        yield comma + msgspec.json.encode(batch)[1:-1]
    yield b"]"


def _split(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield smaller JSON arrays with, one after the other, the elements of the big one in `blocks`.

    Cutting at commas is exact here, for a comma cannot be part of a base64 string. So in a valid file every
    comma stands between two elements, and an invalid file fails in the piece that holds its damage.
    """
    head = b""
    while not head and (block := next(blocks, b"")):
        head = block.lstrip(_SPACE)
    if head.startswith(b"n"):
        if b"".join([head, *blocks]).rstrip(_SPACE) != b"null":
            raise msgspec.DecodeError("it does not begin with [")
        return  # how Go writes a queue that never held anything
    if not head.startswith(b"["):
        raise msgspec.DecodeError("it does not begin with [")
    kept: list[bytes] = []
    cut_before = False
    for block in chain([head[1:]], blocks):
        rest, comma, tail = block.rpartition(b",")
        if comma:
            piece = b"".join([*kept, rest])
            if not piece.strip():
                raise msgspec.DecodeError("an element is missing before a comma")
            yield b"[%b]" % piece
            kept, cut_before = [], True
        kept.append(tail)
    last = b"".join(kept)
    if cut_before and last.strip() == b"]":
        raise msgspec.DecodeError("an element is missing after the last comma")
    yield b"[" + last
