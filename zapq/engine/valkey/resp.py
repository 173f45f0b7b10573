"""The protocol of Valkey and Redis, RESP: commands to bytes, and bytes to replies. No socket.

An error the server answers with is a value, also inside an array: a batch is many commands, and each has its own.
The reader is hiredis' where that is installed, and else ours, which costs some 5 us a reply more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

try:
    from hiredis import Reader as FastReader
except ImportError:
    FastReader = None  # type: ignore[assignment,misc] # it is an extra

INCOMPLETE = object()
"""What `gets` returns while no reply is complete."""


class ReplyError(Exception):
    """The server has refused one command. Its first word says why."""

    @property
    def code(self) -> str:
        """The first word, such as `MOVED`."""
        return str(self).partition(" ")[0]


class ProtocolError(Exception):
    """What arrived is no RESP; nothing behind it can be read."""


class Reader(Protocol):
    """Makes replies of bytes."""

    def feed(self, data: bytes) -> object:
        """Take in what has arrived."""

    def gets(self) -> Any:
        """Return the next reply, or `INCOMPLETE`. Raises `ProtocolError`."""


def pack(*arguments: bytes | str | float) -> bytes:
    """Return one command as it is sent."""
    return pack_all(arguments)


def pack_all(arguments: Iterable[bytes | str | float]) -> bytes:
    """Return one command as it is sent."""
    data = [each if isinstance(each, bytes) else str(each).encode() for each in arguments]
    return b"*%d\r\n%b" % (len(data), pack_some(data))


def pack_some(arguments: Iterable[bytes]) -> bytes:
    """Return some of a command's arguments as they are sent."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(each), each) for each in arguments])


def open_reader() -> Reader:
    """Return a reader for one connection."""
    if FastReader is None:
        return PlainReader()
    reader: Reader = FastReader(notEnoughData=INCOMPLETE, replyError=ReplyError, protocolError=ProtocolError)
    return reader


_TRUTH = {b"t": True, b"f": False}


class PlainReader:
    """A reader in Python. What has been read of an array is kept, so no byte is looked at twice."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._at = 0
        self._open: list[tuple[int, int, list[Any]]] = []
        """Arrays that are not complete: their kinds, how many elements they are to have, and those they have."""

    def feed(self, data: bytes) -> None:
        """Take in what has arrived."""
        if self._at:
            del self._data[: self._at]
            self._at = 0
        self._data += data

    def gets(self) -> Any:
        """Return the next reply, or `INCOMPLETE`. Raises `ProtocolError`."""
        while True:
            value = self._scalar()
            if value is INCOMPLETE:
                return INCOMPLETE
            if value is _OPENED:
                continue
            # It may complete the array it is in, and that the one it is in.
            while self._open:
                kind, number, elements = self._open[-1]
                elements.append(value)
                if len(elements) < number:
                    break
                self._open.pop()
                value = _closed(kind, elements)
            else:
                return value

    def _scalar(self) -> Any:
        """Return the next value that is no array, or `_OPENED` for an array's beginning."""
        data, at = self._data, self._at
        end = data.find(b"\r\n", at)
        if end < 0:
            if len(data) - at > 1 and data[at] not in b"+-:$*_#,(!=%~>":
                raise ProtocolError(f"unknown type {bytes(data[at : at + 1])!r}")
            return INCOMPLETE
        kind, line, behind = data[at], bytes(data[at + 1 : end]), end + 2
        try:
            if kind in b"$!=":
                length = int(line)
                if length < 0:
                    self._at = behind
                    return None
                if len(data) < behind + length + 2:
                    return INCOMPLETE
                self._at = behind + length + 2
                text = bytes(data[behind : behind + length])
                return text if kind == ord("$") else ReplyError(text.decode()) if kind == ord("!") else text[4:]
            self._at = behind
            match chr(kind):
                case ":" | "(":
                    return int(line)
                case "+":
                    return line
                case "-":
                    return ReplyError(line.decode("utf-8", "replace"))
                case "*" | "~" | ">" | "%":
                    return self._begin(kind, int(line))
                case "_":
                    return None
                case "#":
                    return _TRUTH[line]
                case ",":
                    return float(line)
                case _:
                    raise ProtocolError(f"unknown type {chr(kind)!r}")
        except (ValueError, KeyError) as error:
            raise ProtocolError(f"unreadable {bytes(data[at:end])[:40]!r}") from error

    def _begin(self, kind: int, number: int) -> Any:
        if number < 0:
            return None
        if kind == ord("%"):
            number *= 2
        if not number:
            return _closed(kind, [])
        self._open.append((kind, number, []))
        return _OPENED


_OPENED = object()


def _closed(kind: int, elements: list[Any]) -> Any:
    if kind == ord("%"):
        return dict(zip(elements[::2], elements[1::2], strict=True))
    return elements
