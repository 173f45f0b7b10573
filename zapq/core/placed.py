"""What became of an offer with a key."""

from __future__ import annotations

from typing import Literal, NamedTuple

How = Literal["", "kept", "replaced"]
"""What became of an offer with a key: it is a new message, there was one already, or it took the place of that."""


class Placed(NamedTuple):
    """Where what was offered is now."""

    id: int
    how: How = ""
