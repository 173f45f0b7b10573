"""Snapshot files: the default queue as one JSON file, in the format of the original.

The file is a JSON array of standard-base64 strings, oldest message first; `null` stands for an empty one. Writing
is atomic, and reading is all or nothing. Everything here is synchronous and meant for a worker thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from types import TracebackType
from typing import Self

import msgspec

from zapq.errors import InvalidParameter, SnapshotFailed
from zapq.limits import MIB
from zapq.settings import Settings
from zapq.store import pace
from zapq.store.directory import Directory
from zapq.store.pace import Step, pause

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_BODIES = msgspec.json.Decoder(list[bytes | None])
_SPACE = b" \t\r\n"
"""What JSON calls white space; `bytes.strip` knows more."""


def snapshot_name(name: str) -> str:
    """Return `name` if it is a bare file name this store writes, else raise `InvalidParameter`."""
    if not _NAME.fullmatch(name) or not name.endswith(".json"):
        raise InvalidParameter(
            "file must be a bare name of 1 to 128 letters, digits, dots, dashes and underscores that begins"
            " with a letter or digit and ends in .json.",
            parameter="file",
        )
    return name


class SnapshotStore:
    """The snapshots of one data directory; a context manager that keeps the directory open."""

    def __init__(self, settings: Settings) -> None:
        self._directory = Directory(settings.data_dir)
        self._max_messages = settings.max_msgs
        self._max_bytes = settings.max_bytes
        self._max_message_bytes = settings.max_message_bytes
        # Base64 makes 4 bytes of 3; 16 more for each message are quotes, comma, padding and white space.
        self._max_file_bytes = settings.max_bytes * 4 // 3 + settings.max_msgs * 16 + MIB

    def __enter__(self) -> Self:
        self._directory.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._directory.__exit__(kind, error, trace)

    @property
    def descriptor(self) -> int:
        """That of the directory, as long as it is open."""
        return self._directory

    def save(self, name: str, bodies: list[bytes], step: Step = pause) -> None:
        """Write `bodies` as the file `name`, whole and on the disk, or raise `SnapshotFailed`."""
        self._write(name, _encode(bodies), step)

    def load(self, name: str, step: Step = pause) -> list[bytes]:
        """Return the bodies in the file `name`, oldest first.

        Raises `SnapshotFailed` if the file is missing, not a plain file of ours, corrupt, or over a cap.
        """
        bodies: list[bytes] = []
        size = 0
        try:
            for piece in self._read(name):
                for body in _BODIES.decode(piece):
                    bodies.append(body or b"")
                    size += len(bodies[-1])
                    if len(bodies[-1]) > self._max_message_bytes:
                        raise SnapshotFailed(
                            f"{name}: message {len(bodies)} is over --max-message-bytes.",
                            limit="max_message_bytes",
                        )
                if len(bodies) > self._max_messages:
                    raise SnapshotFailed(f"{name} holds more messages than --max-msgs.", limit="max_msgs")
                if size > self._max_bytes:
                    raise SnapshotFailed(f"{name} holds more bytes than --max-bytes.", limit="max_bytes")
                step()
        except OSError as error:
            raise SnapshotFailed(f"{name} could not be read: {error.strerror}.") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SnapshotFailed(
                f"{name} is not a JSON array of base64 strings: damage after message {len(bodies)} ({error})."
            ) from error
        return bodies

    def _write(self, name: str, pieces: Iterator[bytes | bytearray], step: Step) -> None:
        try:
            self._directory.write(name, pieces, step)
        except OSError as error:
            raise SnapshotFailed(f"{name} could not be written: {error.strerror}.") from error

    def _read(self, name: str) -> Iterator[bytes]:
        with self._directory.open(name) as (file, size):
            if size > self._max_file_bytes:
                raise SnapshotFailed(f"{name} is larger than --max-bytes and --max-msgs allow.", limit="max_bytes")
            yield from _split(iter(lambda: file.read(pace.PIECE_BYTES), b""))


def _encode(bodies: list[bytes]) -> Iterator[bytes | bytearray]:
    """Yield the JSON array of `bodies` in pieces."""
    yield b"["
    batch: list[bytes] = []
    size, comma = 0, b""
    for body in bodies:
        batch.append(body)
        # 32 for what a tiny message costs besides its bytes
        size += len(body) + 32
        if size >= pace.PIECE_BYTES:
            yield comma + msgspec.json.encode(batch)[1:-1]
            batch, size, comma = [], 0, b","
    if batch:
        yield comma + msgspec.json.encode(batch)[1:-1]
    yield b"]"


def _split(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield smaller JSON arrays with, one after the other, the elements of the big one in `blocks`.

    Cutting at commas is exact here: a comma cannot be part of a base64 string, so in a valid file every
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
