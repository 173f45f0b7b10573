"""The requests that were refused last, for operators who ask why clients fail. No bodies, queries or receipts."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from zapq.limits import REFUSALS_KEPT

_RECEIPT = re.compile(r"(/receipts/)[^/]+")
"""A client that has a receipt can acknowledge the message."""


class Refused(NamedTuple):
    """One request that was refused."""

    at: float
    """When, on Trio's clock."""
    problem: str
    status: int
    trace_id: str
    method: str = ""
    path: str = ""
    """Empty, as the method is, if the request could not be read so far."""
    named: Mapping[str, str] = {}
    """What `{...}` in the path stands for, except for receipts."""
    queue: str = ""

    @property
    def shown_path(self) -> str:
        """The path, without what a client must keep secret."""
        path = self.path
        for name, value in self.named.items():
            path = path.replace(f"{{{name}}}", value)
        return _RECEIPT.sub(r"\1{receipt}", path)


class LastRefused:
    """Those of one server: a ring, so that very many cost no more than a few."""

    def __init__(self) -> None:
        self._ring: deque[Refused] = deque(maxlen=REFUSALS_KEPT)
        self.note = self._ring.append

    def latest(self, limit: int) -> Iterator[Refused]:
        """Return at most `limit` of them, the last one first."""
        ring = self._ring
        return (ring[-1 - back] for back in range(min(limit, len(ring))))
