"""Which endpoint a path belongs to, for the fast road; on the other, Quart's routes say it."""

from __future__ import annotations

import re
from typing import NamedTuple

from zapq.http.endpoints import ENDPOINTS, Endpoint
from zapq.limits import DEFAULT_QUEUE, QUEUE_NAME

_VARYING = {
    "queue": QUEUE_NAME,
    "receipt": r"[^/?#%]+",
    "id": r"[0-9]+",
    "problem": r"[a-z-]+",
    "file": r"[a-z.]+",
}


class Route(NamedTuple):
    """An endpoint, and what varies in its path."""

    endpoint: Endpoint
    queue: str
    argument: str
    """The receipt or message id."""


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", lambda match: f"(?P<{match[1]}>{_VARYING[match[1]]})", path), re.ASCII)


_SQS = re.compile(r"/(?:(?:[0-9]{12}|queue)/[^/]+)?", re.ASCII)
_PATTERNS = [(each, _pattern(each.path)) for each in ENDPOINTS]


def find_route(method: str, path: str) -> Route | None:
    """Return where a request goes; None if its path is not written plainly, or there is no such endpoint."""
    for endpoint, pattern in _PATTERNS:
        if endpoint.method == method and (match := pattern.fullmatch(path)):
            found = match.groupdict()
            return Route(endpoint, found.get("queue", DEFAULT_QUEUE), found.get("receipt", found.get("id", "")))
    return None


def speaks_sqs(path: str) -> bool:
    """Whether SDKs of SQS send requests to this path."""
    return _SQS.fullmatch(path) is not None
