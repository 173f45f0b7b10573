"""The settings of one queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from zapq.limits import DEFAULT_VISIBILITY, MAX_DELAY, MAX_RECEIVES, MAX_VISIBILITY, QUEUE_NAME


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of one queue. None means no limit of its own: those of the server hold in any case."""

    max_messages: Annotated[int, msgspec.Meta(ge=1, le=10**12)] | None = None
    max_bytes: Annotated[int, msgspec.Meta(ge=1, le=2**50)] | None = None
    visibility: Annotated[float, msgspec.Meta(ge=0, le=MAX_VISIBILITY)] = DEFAULT_VISIBILITY
    """Seconds a lease lasts when the consumer does not say."""
    max_receives: Annotated[int, msgspec.Meta(ge=1, le=MAX_RECEIVES)] | None = None
    """Deliveries after which a message that comes back goes to `dead_letter` instead."""
    dead_letter: Annotated[str, msgspec.Meta(pattern=rf"^{QUEUE_NAME}\Z")] | None = None
    ttl: Annotated[float, msgspec.Meta(gt=0, le=MAX_DELAY)] | None = None
    """Seconds a message is kept for consumers when the producer does not say."""


def changed(settings: QueueSettings, changes: Mapping[str, object]) -> QueueSettings:
    """Return `settings` with `changes` made by name; None puts a setting back to its default.

    Raises `msgspec.ValidationError` for a name or a value that is none of a setting's.
    """
    wanted = {**msgspec.to_builtins(settings), **changes}
    defaults = msgspec.to_builtins(QueueSettings())
    return msgspec.convert(
        {name: defaults.get(name) if value is None else value for name, value in wanted.items()}, QueueSettings
    )
