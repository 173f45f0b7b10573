"""Trace ids: one on every response, chosen by the client or made here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import count
from random import getrandbits

HEADER = b"x-trace-id"
_ACCEPTABLE = re.compile(rb"[\x21-\x7e]{1,128}")


def acceptable(trace_id: bytes) -> bool:
    """Whether a client's trace id is kept: 1 to 128 visible ASCII characters, safe in a header and a log."""
    return _ACCEPTABLE.fullmatch(trace_id) is not None


class TraceIds:
    """The trace ids of one server."""

    def __init__(self) -> None:
        self._counter = count(1)

    def new(self) -> str:
        """Make an id: a counter, to order requests by eye, and six hex digits, to tell processes apart."""
        return f"{next(self._counter)}-{getrandbits(24):06x}"

    def choose(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Keep the client's id if it is 1 to 128 visible ASCII characters, else make one."""
        for name, value in headers:
            if name.lower() == HEADER and acceptable(value):
                return value.decode("ascii")
        return self.new()
