"""The settings of one queue."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

import msgspec

from zapq.core.complaints import plainly
from zapq.errors import InvalidParameter
from zapq.limits import (
    DEFAULT_VISIBILITY,
    MAX_BURST,
    MAX_DELAY,
    MAX_LEASED,
    MAX_NOTE,
    MAX_NOTES,
    MAX_RATE,
    MAX_RECEIVES,
    MAX_VISIBILITY,
    MIN_RATE,
    NOTE_NAME,
    QUEUE_NAME,
)
from zapq.spelling import did_you_mean

Note = Annotated[str, msgspec.Meta(max_length=MAX_NOTE)]
NoteName = Annotated[str, msgspec.Meta(pattern=rf"^{NOTE_NAME}\Z")]


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
    retention: Annotated[float, msgspec.Meta(gt=0, le=MAX_DELAY)] | None = None
    """Seconds a message is held since it arrived, at most; a shorter ttl ends before that."""
    rate: Annotated[float, msgspec.Meta(ge=MIN_RATE, le=MAX_RATE)] | None = None
    """Messages given to consumers in a second, at most, for good or as leases."""
    burst: Annotated[int, msgspec.Meta(ge=1, le=MAX_BURST)] | None = None
    """How many of them at once after a pause; None: as many as `rate` allows in a second, and at least one."""
    max_leased: Annotated[int, msgspec.Meta(ge=1, le=MAX_LEASED)] | None = None
    """Leases at once, at most."""
    fair: bool = False
    """Whether groups take turns in being delivered; messages without a group are one group more."""
    notes: Annotated[dict[NoteName, Note], msgspec.Meta(max_length=MAX_NOTES)] = {}
    """What clients, and dialects such as that of SQS, keep with the queue. Nothing in the core reads it."""


DURATIONS = frozenset({"visibility", "ttl", "retention"})
"""The settings that are durations, which people may write as such."""


def check_settings(settings: QueueSettings) -> None:
    """Raise `InvalidParameter` for a value out of range, and for settings of which one needs another."""
    # Only what is decoded has been looked at.
    _decoded(msgspec.to_builtins(settings))
    if (settings.dead_letter is None) != (settings.max_receives is None):
        raise InvalidParameter(
            "max_receives and dead_letter must be set together: after how many deliveries a message is moved,"
            " and to which queue.",
            parameter="dead_letter",
        )
    if settings.burst is not None and settings.rate is None:
        raise InvalidParameter(
            "burst says how many messages of a rate may be given at once. Set rate as well, or leave burst out.",
            parameter="burst",
        )


def not_settings(complaint: str) -> InvalidParameter:
    """Return the refusal of what is no settings; `complaint` is the text of a `msgspec.ValidationError`."""
    unknown = re.fullmatch("Object contains unknown field `(.*)`", complaint, re.DOTALL)
    meant = did_you_mean(unknown[1], QueueSettings.__struct_fields__) if unknown else ""
    return InvalidParameter(f"The settings are not valid: {plainly(complaint)[:200]}.{meant}", parameter="body")


def in_a_circle() -> InvalidParameter:
    """Return the refusal of a dead-letter queue whose dead letters come back to where they failed."""
    return InvalidParameter(
        "Dead letters would move in a circle. Set dead_letter to a queue whose dead letters do not come back to"
        " this one.",
        parameter="dead_letter",
    )


_OWN_NOTE = re.compile(r"[a-z]+:[a-z]+")


def declared(settings: QueueSettings, kept: QueueSettings) -> QueueSettings:
    """Return what a queue that is declared with `settings`, and was kept with others, is to have.

    Notes a dialect has for itself stay, such as when the queue was made: their names are two words in lower case.
    """
    own = {name: note for name, note in kept.notes.items() if _OWN_NOTE.fullmatch(name)}
    if not own:
        return settings
    return msgspec.structs.replace(settings, notes={**own, **settings.notes})


def changed(settings: QueueSettings, changes: Mapping[str, object]) -> QueueSettings:
    """Return `settings` with `changes` made by name; None puts a setting back to its default.

    Of the notes, those named are changed, and None removes one. Raises `InvalidParameter` for a name or a value
    that is none of a setting's.
    """
    wanted = {**msgspec.to_builtins(settings), **changes}
    notes = changes.get("notes")
    if isinstance(notes, dict):
        wanted["notes"] = {name: note for name, note in {**settings.notes, **notes}.items() if note is not None}
    defaults = msgspec.to_builtins(QueueSettings())
    return _decoded({name: defaults.get(name) if value is None else value for name, value in wanted.items()})


def _decoded(settings: Mapping[str, object]) -> QueueSettings:
    try:
        return msgspec.convert(settings, QueueSettings)
    except msgspec.ValidationError as error:
        raise not_settings(str(error)) from None
