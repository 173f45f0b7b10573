"""What a crash does to SQLite's write-ahead log, told apart from what must not happen to it.

A commit that was under way leaves frames behind that are incomplete: SQLite ignores them, and so it should, for
no client was told that it was done. But SQLite ignores everything behind a damaged frame, and behind one in the
middle there may be commits that were acknowledged. The log knows: a commit begins only after the one before it is
on the disk, and the checksum of its first frame continues that of the last frame before it. So if such a frame is
behind what cannot be read, something was lost that was safe. (Frames of commits that failed may be there as well,
and frames from before the log was last emptied: they continue nothing.)

A log that was cut off is not damaged as far as it goes. It shows by its length: `Database.prepare` makes every log
`FULL` bytes long, and nothing makes it shorter. Only one that had grown longer, and was cut between two commits
behind that, looks like one that was never longer.

The format is https://www.sqlite.org/fileformat2.html#walformat.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

from zapq.limits import CHECKPOINT_PAGES

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGIC = 0x377F0682
PAGE = 4096
FULL = _HEADER.size + CHECKPOINT_PAGES * (_FRAME.size + PAGE)

Sums = tuple[int, int]


class Frame(NamedTuple):
    """One page as it was written."""

    offset: int
    commits: bool
    """Whether it is the last of a transaction."""
    ours: bool
    """Whether it is of this generation of the log, and not left from an earlier one."""
    follows: bool
    """Whether it was written after the one before it: its checksum continues that one's."""
    sound: bool
    """Whether it, and everything before it, is as it was written."""


class Log(NamedTuple):
    """A log as it was found."""

    size: int
    sound: bool
    """Whether its header is as it was written."""
    frames: list[Frame]
    """Also those behind a damaged one."""


class Damaged(Exception):
    """A file of ours is not as it was written; the text says where."""


def log_of(database: Path) -> Path:
    """Return where SQLite keeps the log of `database`."""
    return database.with_name(f"{database.name}-wal")


def read_log(file: BinaryIO) -> Log:
    """Read a log from its beginning."""
    size = os.fstat(file.fileno()).st_size
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return Log(size, False, [])
    magic, _, page, _, salt1, salt2, sum1, sum2 = _HEADER.unpack(header)
    order = ">" if magic & 1 else "<"
    sums = _checksum(order, header[:24], (0, 0))
    sound = magic & ~1 == _MAGIC and sums == (sum1, sum2)
    found = _frames(file, order, page if sound else PAGE, (salt1, salt2), {sums, (sum1, sum2)}, sound=sound)
    return Log(size, sound, list(found))


def _frames(
    file: BinaryIO, order: str, page: int, salts: tuple[int, int], before: set[Sums], *, sound: bool
) -> Iterator[Frame]:
    """Yield the frames. `before` is what the checksum of the first may continue.

    That is the one written before it, and the one that should be there: either may be what was altered.
    """
    offset = _HEADER.size
    while len(frame := file.read(_FRAME.size + page)) == _FRAME.size + page:
        _, size, salt1, salt2, sum1, sum2 = _FRAME.unpack_from(frame)
        ours = (salt1, salt2) == salts
        data = frame[:8] + frame[_FRAME.size :]
        # What is left from an earlier generation need not be looked at: that is most of a log.
        expected = {_checksum(order, data, sums) for sums in before} if sound or ours else set()
        follows = (sum1, sum2) in expected
        sound = sound and ours and follows
        yield Frame(offset, size > 0, ours, follows, sound)
        before = {(sum1, sum2)} if follows else {(sum1, sum2), *expected}
        offset += len(frame)


def damage_in_log(database: Path) -> str:
    """Return what the operator should know about the log beside `database`, empty if nothing.

    Raises `Damaged` if commits in it that were acknowledged cannot be read, and OSError.
    """
    path = log_of(database)
    try:
        with open(path, "rb") as file:
            return _judge(path.name, read_log(file))
    except FileNotFoundError:
        return ""


def _judge(name: str, log: Log) -> str:
    whole = 0
    for number, frame in enumerate(log.frames, 1):
        if frame.sound and frame.commits:
            whole = number
    rest = log.frames[whole:]
    if rest and not log.sound and not rest[0].ours:
        raise Damaged(f"{name}, byte 0: the header does not match the commits behind it")
    for before, frame in pairwise(rest):
        if before.commits and frame.ours and frame.follows:
            raise Damaged(f"{name}, byte {rest[0].offset}: the commits from there on cannot be read")
    end = rest[0].offset if rest else log.size - (log.size - _HEADER.size) % (_FRAME.size + PAGE)
    if any(frame.ours or frame.follows for frame in rest) or (whole and FULL <= end < log.size and not rest):
        return (
            f"{name} ends at byte {end} in an unfinished commit. Either a crash cut it short, and then no"
            " client was told that it was done, or it was damaged since"
        )
    if log.size < FULL:
        return (
            f"{name} has {log.size} bytes and should have {FULL}. Either zapq was killed while it started, or"
            " the log was cut off since, and then commits are lost"
        )
    return ""


def _checksum(order: str, data: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for at in range(0, len(words), 2):
        first = (first + words[at] + second) & 0xFFFFFFFF
        second = (second + words[at + 1] + first) & 0xFFFFFFFF
    return first, second
