"""Snapshot files: a whole queue as one JSON file, in the format of the original.

The file is a JSON array of standard-base64 strings, oldest message first; `null` stands for an empty one.
Writing is atomic: a temporary file in the same directory, fsync, rename, fsync of the directory. Reading is
all or nothing. Everything here is synchronous and meant for a worker thread, so both directions work in
small pieces: msgspec holds Python's global lock for the length of one call, and a call over the whole file
would stop the event loop for as long.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from zapq.errors import CannotStart, InvalidParameter, SnapshotFailed
from zapq.limits import KIB, MIB
from zapq.settings import Settings

PIECE_BYTES = 256 * KIB
"""Bytes encoded or decoded in one call: about 0.3 ms of holding the global lock."""
PAUSE = 0.0002
"""Seconds the worker steps aside after each piece. Without it the worker takes the lock back at once, and
the event loop waits a whole switch interval (5 ms) after each of its system calls."""

Step = Callable[[], None]
"""Called between two pieces of work; it may raise to end the work there."""


def pause() -> None:
    """Step aside for a moment."""
    time.sleep(PAUSE)


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
        self._path = settings.data_dir
        self._max_messages = settings.max_msgs
        self._max_bytes = settings.max_bytes
        self._max_message_bytes = settings.max_message_bytes
        # Base64 makes 4 bytes of 3; 16 more for each message are quotes, comma, padding and white space.
        self._max_file_bytes = settings.max_bytes * 4 // 3 + settings.max_msgs * 16 + MIB
        self._directory = -1

    def __enter__(self) -> Self:
        # Resolved first: an operator may well make the directory itself a link (systemd does). What is
        # opened then is fixed, whatever later happens to the names above it.
        # (Not by Path.resolve, which before Python 3.13 raises RuntimeError for links in a circle.)
        path = Path(os.path.realpath(self._path))
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise CannotStart(f"--data-dir {self._path!r}: {error.strerror}.") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._directory)

    @property
    def descriptor(self) -> int:
        """That of the directory, as long as it is open."""
        return self._directory

    def save(self, name: str, bodies: list[bytes], step: Step = pause) -> None:
        """Write `bodies` as the file `name`, whole and on the disk, or raise `SnapshotFailed`.

        Then the name still means the older file, if there was one; only if syncing the directory is what
        failed may it mean the new one, which is complete.
        """
        # Random, so that two saves of one name never share a file; hidden, so that nobody loads it.
        temporary = f".{name}.{secrets.token_hex(8)}.tmp"
        try:
            try:
                self._write(temporary, bodies, step)
                os.rename(temporary, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            except BaseException:
                self._remove(temporary)
                raise
            os.fsync(self._directory)
        except OSError as error:
            raise SnapshotFailed(f"{name} could not be written: {error.strerror}.") from error

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

    def _write(self, name: str, bodies: list[bytes], step: Step) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=self._directory)
        with open(descriptor, "wb", buffering=0) as file:
            for piece in _encode(bodies):
                written = memoryview(piece)
                while written:
                    written = written[file.write(written) :]
                step()
            os.fsync(descriptor)

    def _read(self, name: str) -> Iterator[bytes]:
        # O_NONBLOCK: opening a FIFO must not wait for its writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        # An opener, since open() closes a descriptor it cannot use (a directory's) only if it is its own.
        with open(name, "rb", 0, opener=lambda path, _: os.open(path, flags, dir_fd=self._directory)) as file:
            status = os.fstat(file.fileno())
            # No name at all: it was replaced since we opened it, and is complete.
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise SnapshotFailed(f"{name} is not a plain file with one name.")
            if status.st_size > self._max_file_bytes:
                raise SnapshotFailed(f"{name} is larger than --max-bytes and --max-msgs allow.", limit="max_bytes")
            yield from _split(iter(lambda: file.read(PIECE_BYTES), b""))

    def _remove(self, name: str) -> None:
        # It was never made, or is renamed already: the error that brought us here tells more.
        with suppress(OSError):
            os.unlink(name, dir_fd=self._directory)


def _encode(bodies: list[bytes]) -> Iterator[bytes]:
    """Yield the JSON array of `bodies` in pieces."""
    yield b"["
    batch: list[bytes] = []
    size, comma = 0, b""
    for body in bodies:
        batch.append(body)
        # 32 for what a tiny message costs besides its bytes
        size += len(body) + 32
        if size >= PIECE_BYTES:
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
