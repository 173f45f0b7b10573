"""The library of functions in Valkey: its text, with our limits in it."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from zapq import limits

NAME = "zapq_1"
VERSION = 5
"""What the function `version` answers. A library of another number is replaced."""
PREFIX = b"zapq_1_"
"""What the names of its functions begin with."""
_PARTS = (
    "begin",
    "arrivals",
    "step",
    "groups",
    "messages",
    "pace",
    "put",
    "unique",
    "take",
    "attempts",
    "look",
    "operate",
    "dead_letters",
    "polls",
    "shard",
    "repair",
    "move",
    "offer",
)
"""The files of the text. Each uses what those before it define."""
_VALUES = {
    "DEFAULT_VISIBILITY": limits.DEFAULT_VISIBILITY,
    "MAX_BATCH_BYTES": limits.MAX_BATCH_BYTES,
    "IDEMPOTENCY_WINDOW": limits.IDEMPOTENCY_WINDOW * 1000,
    "ATTEMPT_WINDOW": limits.ATTEMPT_WINDOW * 1000,
    "RELEASES_AT_ONCE": limits.RELEASES_AT_ONCE,
    "BACKOFF": limits.BACKOFF * 1000,
    "MAX_BACKOFF": limits.MAX_BACKOFF * 1000,
    "LEASE_SLACK": limits.MAX_TURN * 1000,
    "DRAIN_WINDOW": limits.DRAIN_WINDOW * 1000,
    "MIN_RETRY_AFTER": limits.MIN_RETRY_AFTER,
    "MAX_RETRY_AFTER": limits.MAX_RETRY_AFTER,
    "REDRIVE_LOOKS": limits.REDRIVE_LOOKS,
    "BLOCKERS_LOOKED_AT": limits.BLOCKERS_LOOKED_AT,
    "GROUPS_LOOKED_AT": limits.GROUPS_LOOKED_AT,
}
"""Limits by their names in the text; durations in milliseconds there, except for the visibility."""


@cache
def text(*, test: bool = False) -> bytes:
    """Return what `FUNCTION LOAD` takes. In one for tests, callers may say what time it is."""
    folder = files(__package__) / "functions"
    source = "\n".join((folder / f"{part}.lua").read_text() for part in _PARTS)
    source = re.sub("@([A-Z_]+)@", lambda found: str(int(_VALUES[found[1]])), source)
    if test:
        source = source.replace("local TEST = false", "local TEST = true")
    return source.encode()


TEXT = text()
