"""What a crash does to SQLite's write-ahead log, told apart from what must not happen to it.

A commit that was under way leaves frames behind that are incomplete: SQLite ignores them, and so it should, for
nobody was told that it was done. But SQLite ignores everything behind a damaged frame, and behind one in the
middle there may be commits that were acknowledged. The log knows: a commit begins only after the one before it is
on the disk. So if frames of this log follow a commit that cannot be read, something was lost that was safe.

The format is https://www.sqlite.org/fileformat2.html#walformat.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGIC = 0x377F0682


class Frame(NamedTuple):
    """One page as it was written."""

    offset: int
    commits: bool
    """Whether it is the last of a transaction."""
    ours: bool
    """Whether it is of this generation of the log, and not left from an earlier one."""
    sound: bool
    """Whether it, and everything before it, is as it was written."""


def frames(file: BinaryIO) -> Iterator[Frame]:
    """Yield the frames of a log, also those behind a damaged one; none if it has not even a header."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return
    magic, _, page, _, salt1, salt2, sum1, sum2 = _HEADER.unpack(header)
    order = ">" if magic & 1 else "<"
    sums = _checksum(order, header[:24], (0, 0))
    sound = magic & ~1 == _MAGIC and sums == (sum1, sum2)
    page = page if sound else 4096
    offset = _HEADER.size
    while len(frame := file.read(_FRAME.size + page)) == _FRAME.size + page:
        _, size, frame_salt1, frame_salt2, frame_sum1, frame_sum2 = _FRAME.unpack_from(frame)
        ours = (frame_salt1, frame_salt2) == (salt1, salt2)
        if sound and ours:
            sums = _checksum(order, frame[:8] + frame[_FRAME.size :], sums)
            sound = sums == (frame_sum1, frame_sum2)
        else:
            sound = False
        yield Frame(offset, size > 0, ours, sound)
        offset += len(frame)


class Damaged(Exception):
    """A file of ours is not as it was written; the text says where."""


def damage_in_log(database: Path) -> str:
    """Return what the operator should know about the log beside `database`, empty if nothing.

    Raises `Damaged` if commits in it that were acknowledged cannot be read, and OSError.
    """
    path = database.with_name(database.name + "-wal")
    try:
        with open(path, "rb") as file:
            return _judge(path, list(frames(file)))
    except FileNotFoundError:
        return ""


def _judge(path: Path, found: list[Frame]) -> str:
    bad = next((at for at, frame in enumerate(found) if not frame.sound), len(found))
    if bad == 0 and found and not found[0].ours:
        raise Damaged(f"{path.name}, byte 0: the header does not fit what follows")
    lost = found[bad:]
    if not any(frame.ours for frame in lost):
        return ""
    ended = False
    for frame in lost:
        if ended and frame.ours:
            raise Damaged(f"{path.name}, byte {found[bad].offset}: the commits from there on cannot be read")
        ended |= frame.commits and (frame.ours or frame is lost[0])
    return (
        f"{path.name} ends at byte {found[bad].offset} in a commit that was not finished: cut short by a crash,"
        " and then nobody was told that it was done, or damaged since"
    )


def _checksum(order: str, data: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for at in range(0, len(words), 2):
        first = (first + words[at] + second) & 0xFFFFFFFF
        second = (second + words[at + 1] + first) & 0xFFFFFFFF
    return first, second
