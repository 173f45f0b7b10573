"""Requests to bytes, and bytes to answers: HTTP/1.1 as far as a client of zapq needs it, without a socket.

What our server says is read by a grammar that allows nothing else. An answer that differs (in chunks, with 1xx
before it, `Connection: close`, HTTP/1.0, a proxy's odd fields) is given to h11 as the same bytes. h11 knows all
of HTTP/1.1, and refuses other bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from zapq.core.message import owned_body
from zapq.errors import InvalidParameter
from zapq.limits import MAX_ANSWER_HEAD_BYTES

if TYPE_CHECKING:
    import h11

_VALUE = re.compile(r"[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?")
"""A field's value that can be sent."""
_HEAD = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9][0-9]) ([\x20-\x7e]*)\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?\r\n)*)\r\n"
)
"""A head such as our server's: anything else may be right as well, but is for h11 to say."""
_START = b"HTTP/1.1 "
_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)
_WITH_BODY = {"POST", "PUT", "PATCH"}


class Strange(Exception):
    """The bytes are no answer of HTTP/1.1, or one that is cut off."""


class Answer:
    """What a server answered."""

    __slots__ = ("body", "fields", "reason", "reusable", "status")

    def __init__(
        self, status: int, reason: str, fields: dict[str, str], body: bytes, *, reusable: bool = True
    ) -> None:
        self.status = status
        self.reason = reason
        self.fields = fields
        """By name in lower case."""
        self.body = body
        self.reusable = reusable
        """Whether the connection can take another request."""

    def __repr__(self) -> str:
        return f"<Answer {self.status} {self.reason}: {self.body[:40]!r}>"


class Writer:
    """Makes the bytes of requests to one server. `prefix` is put before every path."""

    def __init__(self, host: str, prefix: str = "", token: str | None = None) -> None:
        always = f" HTTP/1.1\r\nHost: {checked(host, 'url')}\r\n"
        if token is not None:
            always += f"Authorization: Bearer {checked(token, 'token')}\r\n"
        self._prefix = prefix
        self._always = always

    def request(
        self,
        method: str,
        path: str,
        values: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> bytes:
        """Return a request; raises `InvalidParameter` for a value that cannot stand in a head."""
        head = f"{method} {self._prefix}{path}"
        if values:
            try:
                head += "?" + urlencode(values)
            except UnicodeEncodeError as error:
                raise InvalidParameter(f"The request cannot be sent: {error}.") from error
        head += self._always
        if fields:
            for name, value in fields.items():
                # Most are plain; the pattern takes several times as long.
                plain = value.isascii() and value.isprintable() and value == value.strip()
                head += f"{name}: {value if plain else checked(value, name)}\r\n"
        if type(body) is not bytes:
            body = owned_body(body)
        if body or method in _WITH_BODY:
            head += f"Content-Length: {len(body)}\r\n"
        return f"{head}\r\n".encode("ascii") + body


def checked(value: str, name: str) -> str:
    """Return a value that can stand in a head; raises `InvalidParameter` for another."""
    if value and not _VALUE.fullmatch(value):
        raise InvalidParameter(
            f"The request cannot be sent over HTTP: {name} must be visible ASCII characters, with spaces only"
            " between them.",
            parameter=name,
        )
    return value


def in_path(text: str) -> str:
    """Return text as it stands in one part of a path."""
    return quote(text, safe="")


class Reader:
    """Reads one answer from the bytes of a connection, however they are cut."""

    __slots__ = ("_answer", "_data", "_end", "_h11", "_missing", "_pieces")

    def __init__(self) -> None:
        self._data = b""
        """Of a head that is not complete."""
        self._answer: Answer | None = None
        """One whose body is not complete; `_missing` bytes of that."""
        self._pieces: list[bytes] = []
        self._missing = 0
        self._h11: h11.Connection | None = None

    @property
    def begun(self) -> bool:
        """Whether anything of the answer has come."""
        return bool(self._data) or self._answer is not None or self._h11 is not None

    def feed(self, data: bytes) -> Answer | None:
        """Take what came next, nothing at the end of the connection; return the answer once it is complete.

        Raises `Strange` for what is no answer, and at an end before the answer is complete.
        """
        if self._h11 is not None:
            return self._feed_h11(self._h11, data)
        if self._answer is not None:
            return self._feed_body(self._answer, data)
        ended = not data
        self._data = data = self._data + data if self._data else data
        match = _HEAD.match(data)
        if match is None:
            if len(data) > MAX_ANSWER_HEAD_BYTES:
                raise Strange("its head is too long")
            if b"\r\n\r\n" in data or b"\n\n" in data or not data.startswith(_START[: len(data)]):
                return self._turn_to_h11(data)
            if ended:
                raise Strange("the connection was closed before it came")
            return None
        fields: dict[str, str] = {}
        count = 0
        for line in match[3].decode("ascii").split("\r\n")[:-1]:
            name, _, value = line.partition(": ")
            fields[name.lower()] = value
            count += 1
        status = int(match[1])
        length = fields.get("content-length")
        if (
            count != len(fields)
            or "transfer-encoding" in fields
            or fields.get("connection", "keep-alive").lower() != "keep-alive"
            or (length is None and status != 204)
            or (length is not None and (status in {204, 304} or not _LENGTH.fullmatch(length)))
        ):
            return self._turn_to_h11(data)
        answer = Answer(status, match[2].decode(), fields, b"")
        return self._begin_body(answer, int(length or 0), data[match.end() :])

    def _begin_body(self, answer: Answer, length: int, data: bytes) -> Answer | None:
        if len(data) < length:
            self._answer, self._missing = answer, length
            return self._feed_body(answer, data) if data else None
        if len(data) > length:
            # Nobody asked for more: whatever it is, it answers no request.
            answer.reusable = False
            data = data[:length]
        answer.body = data
        return answer

    def _feed_body(self, answer: Answer, data: bytes) -> Answer | None:
        if not data:
            raise Strange("the connection was closed in the middle of it")
        self._pieces.append(data)
        self._missing -= len(data)
        if self._missing > 0:
            return None
        if self._missing < 0:
            answer.reusable = False
            self._pieces[-1] = data[: self._missing]
        answer.body = b"".join(self._pieces)
        return answer

    def _turn_to_h11(self, data: bytes) -> Answer | None:
        import h11  # only where something is unusual: it takes 20 ms

        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_ANSWER_HEAD_BYTES)
        # Any request of ours will do: none is a HEAD or CONNECT, and those that have a body have sent it.
        connection.send(h11.Request(method="GET", target="/", headers=[("Host", "zapq")]))
        connection.send(h11.EndOfMessage())
        self._h11 = connection
        return self._feed_h11(connection, data)

    def _feed_h11(self, connection: h11.Connection, data: bytes) -> Answer | None:
        import h11

        try:
            connection.receive_data(data)
            while True:
                event = connection.next_event()
                if isinstance(event, h11.Response):
                    fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
                    self._answer = Answer(event.status_code, event.reason.decode("latin-1"), fields, b"")
                elif isinstance(event, h11.Data):
                    self._pieces.append(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    break
                elif event is h11.NEED_DATA:
                    return None
                elif not isinstance(event, h11.InformationalResponse):
                    raise Strange("the connection was closed before it came")
        except h11.RemoteProtocolError as error:
            raise Strange(str(error)) from error
        answer = self._answer
        assert answer is not None, "h11 gives the head first"
        answer.body = b"".join(self._pieces)
        answer.reusable = (
            bool(data)
            and connection.their_state is h11.DONE
            and not connection.trailing_data[0]
            and _ends_surely(answer)
        )
        return answer


def _ends_surely(answer: Answer) -> bool:
    """Whether its end is certain: else the rest could come later, and pass for the next answer."""
    fields = answer.fields
    if answer.status in {204, 304}:
        return fields.get("content-length", "0") == "0"
    return not ("content-length" in fields and "transfer-encoding" in fields)
