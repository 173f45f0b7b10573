"""Which endpoint a path belongs to, for the fast road; on the other, Quart's routes say it."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
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

_ALIKE = 0.75
"""How like two steps of a path must be to be taken for one that was misspelt."""
_MOST_STEPS = 8


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


def nearest_path(path: str) -> str | None:
    """Return the path of the endpoint that a misspelt `path` most likely means; None if there is none like it."""
    steps = path.rstrip("/").split("/")[:_MOST_STEPS]
    best, likeness = None, 0.0
    for endpoint in ENDPOINTS:
        wanted = endpoint.path.split("/")
        if len(wanted) != len(steps):
            continue
        total = 0.0
        for step, word in zip(steps, wanted, strict=True):
            alike = 1.0 if word == step or word.startswith("{") else _likeness(step, word)
            if alike < _ALIKE:
                break
            total += alike
        else:
            if total > likeness:
                best, likeness = endpoint.path, total
    return best


def _likeness(step: str, word: str) -> float:
    # What is far longer is another word; and long ones would take long.
    return SequenceMatcher(None, step, word).ratio() if 0 < len(step) <= 2 * len(word) else 0.0


def speaks_sqs(path: str) -> bool:
    """Whether SDKs of SQS send requests to this path."""
    return _SQS.fullmatch(path) is not None
