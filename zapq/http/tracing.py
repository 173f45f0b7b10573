"""Trace ids: one on every response, chosen by the client or made here."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from itertools import count

HEADER = b"x-trace-id"
_ACCEPTABLE = re.compile(rb"[\x21-\x7e]{1,128}")


class TraceIds:
    """The trace ids of one server."""

    def __init__(self) -> None:
        self._counter = count(1)

    def new(self) -> str:
        """Make an id: a counter, to order requests by eye, and six hex digits, to tell processes apart."""
        return f"{next(self._counter)}-{secrets.token_hex(3)}"

    def choose(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Keep the client's id if it is 1 to 128 visible ASCII characters, else make one."""
        for name, value in headers:
            if name.lower() == HEADER and _ACCEPTABLE.fullmatch(value):
                return value.decode("ascii")
        return self.new()
