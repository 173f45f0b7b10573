"""What a consumer says is to become of a lease."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from zapq.limits import MAX_DELAY, MAX_VISIBILITY

Action = Literal["ack", "release", "extend"]


class Settlement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One lease and what to do with it: acknowledge, release or extend. Durations are seconds."""

    receipt: str
    action: Action = "ack"
    delay: Annotated[float, msgspec.Meta(ge=0, le=MAX_DELAY)] = 0.0
    """For a release."""
    visibility: Annotated[float, msgspec.Meta(ge=0, le=MAX_VISIBILITY)] | None = None
    """For an extension; None: for as long as the lease was given."""
