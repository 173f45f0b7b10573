"""Trace ids: one on every response, chosen by the client or made here.

A client chooses by `X-Trace-Id`, or by a `traceparent` (W3C Trace Context), whose trace id then is ours.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from itertools import count

HEADER = b"x-trace-id"
FIELD = b"X-Trace-Id: "
PARENT = b"traceparent"
_PARENT = re.compile(rb"([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[\x20-\x7e]*)?")
_ACCEPTABLE = re.compile(rb"[\x21-\x7e]{1,128}")


def acceptable(trace_id: bytes) -> bool:
    """Whether a client's trace id is kept: 1 to 128 visible ASCII characters, safe in a header and a log."""
    return _ACCEPTABLE.fullmatch(trace_id) is not None


def trace_of(parent: bytes) -> bytes:
    """Return the trace id in a `traceparent`; empty if that is not valid."""
    match = _PARENT.fullmatch(parent)
    # Versions after 00 may have more behind it; there is none called ff.
    if match is None or match[1] == b"ff" or (match[1] == b"00" and match[3]):
        return b""
    return match[2]


def id_in(field: bytes) -> str:
    """Return the trace id in a field of an answer."""
    return field[len(FIELD) :].decode()


class TraceIds:
    """The trace ids of one server: a counter, to order requests by eye, and six hex digits for the server."""

    def __init__(self) -> None:
        server = secrets.token_hex(3).encode()
        numbers = count(1)
        self._ids = map((b"%d-" + server).__mod__, numbers)
        # An iterator in C: every request on the fast road takes one.
        self._fields = map((FIELD + b"%d-" + server).__mod__, numbers)

    def fields(self) -> Iterator[bytes]:
        """Return ids that were never used, each as the field of an answer, without the end of its line."""
        return self._fields

    def new(self) -> str:
        """Make an id that was never used."""
        return next(self._ids).decode()

    def choose(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Keep the client's id if it is 1 to 128 visible ASCII characters, else its trace's; else make one."""
        trace = b""
        for name, value in headers:
            if name.lower() == HEADER and acceptable(value):
                return value.decode("ascii")
            if name.lower() == PARENT:
                trace = trace or trace_of(value)
        return trace.decode() or self.new()
