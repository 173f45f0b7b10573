"""The attributes of a queue: what SQS calls them, and where zapq keeps each.

Those the core acts on are settings of the queue. All the others are notes, which the core keeps and does not read:
the dialect acts on some of them, and shows the rest as they were given.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

import msgspec

from zapq.core.queue_settings import QueueSettings
from zapq.service.queue_state import QueueInfo
from zapq.sqs.errors import (
    INVALID_ATTRIBUTE_NAME,
    INVALID_ATTRIBUTE_VALUE,
    INVALID_PARAMETER_VALUE,
    SqsError,
)
from zapq.sqs.names import CREATED, Place, queue_of_arn
from zapq.sqs.noted import FIFO, FIFO_ONLY, NOTE, NUMBERS, TAG, TEXTS, RedriveAllow, check_number, check_text

Changes = dict[str, object]
"""Settings by name, as `ChangeSettings` takes them."""
MODIFIED = "sqs:modified"
"""The note that says when attributes were changed last, in milliseconds since 1970."""
MAX_RECEIVES = 1000
MAX_TAGS = 50
PURGED = "sqs:purged"
"""The note that says when a FIFO queue was purged last: what was sent before is no duplicate any more."""
_POLICIES = ("RedrivePolicy", "RedriveAllowPolicy")
_SETTABLE = {*NUMBERS, *TEXTS, *_POLICIES, *FIFO_ONLY, "SqsManagedSseEnabled", "FifoQueue"}
_COUNTS = {
    "ApproximateNumberOfMessages": "ready",
    "ApproximateNumberOfMessagesNotVisible": "leased",
    "ApproximateNumberOfMessagesDelayed": "delayed",
}
_SHOWN = (
    *_COUNTS,
    "CreatedTimestamp",
    "LastModifiedTimestamp",
    "QueueArn",
    "VisibilityTimeout",
    "DelaySeconds",
    "ReceiveMessageWaitTimeSeconds",
    "MessageRetentionPeriod",
    "MaximumMessageSize",
    "SqsManagedSseEnabled",
    *TEXTS,
    "KmsDataKeyReusePeriodSeconds",
    *_POLICIES,
    "FifoQueue",
    *FIFO_ONLY,
)
"""What `All` shows, in this order, as far as it is there."""


class Redrive(msgspec.Struct, frozen=True):
    """What a RedrivePolicy says."""

    target: str = msgspec.field(name="deadLetterTargetArn", default="")
    receives: int | str | None = msgspec.field(name="maxReceiveCount", default=None)


def now_ms() -> int:
    """Return the time in milliseconds since 1970."""
    return int(time.time() * 1000)


def changes_by(name: str, given: Mapping[str, str], *, create: bool = False) -> Changes:
    """Return what is to be set for the queue called `name`; raises `SqsError` for what SQS does not take."""
    fifo = name.endswith(FIFO)
    if create and fifo != (given.get("FifoQueue") == "true"):
        raise (
            _bad_fifo_name()
            if not fifo
            else SqsError(
                INVALID_PARAMETER_VALUE,
                "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length",
            )
        )
    changes: Changes = {}
    notes: dict[str, str | None] = {}
    for attribute, value in given.items():
        if not _is_known(attribute, fifo=fifo, create=create):
            continue
        if attribute == "VisibilityTimeout":
            changes["visibility"] = float(_number(attribute, value))
        elif attribute == "MessageRetentionPeriod":
            changes["retention"] = float(_number(attribute, value))
        elif attribute == "RedrivePolicy":
            changes.update(_redrive(value))
        elif attribute in NUMBERS:
            notes[NOTE + attribute] = str(_number(attribute, value))
        else:
            _check_text(attribute, value)
            notes[NOTE + attribute] = value or None
    if notes:
        changes["notes"] = notes
    return changes


def is_fifo(queue: str) -> bool:
    """Whether a queue is a FIFO queue for SQS: that is said by its name."""
    return queue.endswith(FIFO)


def _bad_fifo_name() -> SqsError:
    return SqsError(
        INVALID_PARAMETER_VALUE,
        "The name of a FIFO queue can only include alphanumeric characters, hyphens, or underscores, must end"
        " with .fifo suffix and be 1 to 80 in length.",
    )


def _is_known(attribute: str, *, fifo: bool, create: bool) -> bool:
    """Whether an attribute is to be kept; raises `SqsError` if the queue cannot have it."""
    if attribute not in _SETTABLE:
        raise unknown(attribute)
    if attribute == "FifoQueue":
        if not create:
            raise SqsError(
                INVALID_ATTRIBUTE_VALUE,
                "Invalid value for the parameter FifoQueue. Reason: Modifying queue type is not supported.",
            )
        if not fifo:
            raise unknown(attribute)
        return False
    if attribute in FIFO_ONLY and not fifo:
        if attribute == "ContentBasedDeduplication":
            raise unknown(attribute)
        raise SqsError(
            INVALID_ATTRIBUTE_VALUE, f"You can specify the {attribute} only when FifoQueue is set to true."
        )
    return True


def unknown(attribute: str) -> SqsError:
    """Return the refusal of an attribute that is not known."""
    return SqsError(INVALID_ATTRIBUTE_NAME, f"Unknown Attribute {attribute}.")


def _bad(attribute: str) -> SqsError:
    return SqsError(INVALID_ATTRIBUTE_VALUE, f"Invalid value for the parameter {attribute}.")


def _number(attribute: str, value: str) -> int:
    try:
        return check_number(attribute, value)
    except ValueError:
        raise _bad(attribute) from None


def _check_text(attribute: str, value: str) -> None:
    try:
        check_text(attribute, value)
    except ValueError:
        raise _bad(attribute) from None


def _redrive(value: str) -> Changes:
    """Return the settings a RedrivePolicy means; an empty one removes it."""
    if not value:
        return {"dead_letter": None, "max_receives": None}

    def refused(reason: str) -> SqsError:
        return SqsError(
            INVALID_PARAMETER_VALUE,
            f"Value {value} for parameter RedrivePolicy is invalid. Reason: {reason}",
        )

    try:
        policy = msgspec.json.decode(value, type=Redrive)
    except (msgspec.DecodeError, RecursionError):
        raise refused("Redrive policy is not a valid JSON map.") from None
    for member, there in (
        ("maxReceiveCount", policy.receives is not None),
        ("deadLetterTargetArn", policy.target),
    ):
        if not there:
            raise refused(f"Redrive policy does not contain mandatory attribute: {member}.")
    text = str(policy.receives)
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:5]) <= MAX_RECEIVES:
        raise refused(
            f"Invalid value for maxReceiveCount: {text}, valid values are from 1 to 1000 both inclusive."
        )
    return {"dead_letter": queue_of_arn(policy.target), "max_receives": int(text)}


def target_of(given: Mapping[str, str]) -> str | None:
    """Return the queue that dead letters are to go to, if a RedrivePolicy says so; raises `SqsError`."""
    target = _redrive(given["RedrivePolicy"])["dead_letter"] if "RedrivePolicy" in given else None
    return target if isinstance(target, str) else None


def check_target(value: str, queue: str, name: str, target: QueueSettings | None) -> None:
    """Raise `SqsError` unless `queue` may send its dead letters to the queue `name`; None: there is none."""
    if target is None:
        reason = "Dead letter target does not exist."
    elif is_fifo(queue) != is_fifo(name):
        reason = "Dead-letter queue must be same type of queue as the source."
    elif not allow_policy(target).allows(queue):
        reason = "The dead-letter queue's RedriveAllowPolicy does not allow this source queue."
    else:
        return
    raise SqsError(
        INVALID_PARAMETER_VALUE, f"Value {value} for parameter RedrivePolicy is invalid. Reason: {reason}"
    )


def allow_policy(settings: QueueSettings) -> RedriveAllow:
    """Return what a queue says of those whose dead letters it takes."""
    text = settings.notes.get(f"{NOTE}RedriveAllowPolicy")
    if text is not None:
        # A client may have written the note by the other dialect.
        with suppress(msgspec.DecodeError, RecursionError, ValueError):
            return msgspec.json.decode(text, type=RedriveAllow)
    return RedriveAllow()


def number(settings: QueueSettings, attribute: str) -> int:
    """Return a number that is kept as a note."""
    text = settings.notes.get(NOTE + attribute)
    if text is not None:
        # A client may have written the note by the other dialect.
        with suppress(ValueError):
            return check_number(attribute, text)
    return NUMBERS[attribute].default


def text_of(settings: QueueSettings, attribute: str) -> str:
    """Return a text that is kept as a note; empty if it is not set."""
    return settings.notes.get(NOTE + attribute, "")


def tags(settings: QueueSettings) -> dict[str, str]:
    """Return the tags of a queue."""
    return {name.removeprefix(TAG): note for name, note in settings.notes.items() if name.startswith(TAG)}


def check_names(names: Iterable[str]) -> None:
    """Raise `SqsError` for the first that is no attribute of a queue."""
    for name in names:
        if name != "All" and name not in _SHOWN and name not in _SETTABLE:
            raise unknown(name)


def shown(info: QueueInfo, place: Place, max_message_bytes: int) -> dict[str, str]:
    """Return all attributes of a queue, as texts."""
    settings, stats = info.settings, info.stats
    values = {name: str(getattr(stats, count)) for name, count in _COUNTS.items()}
    created = settings.notes.get(CREATED, "0")
    for name, note in (("CreatedTimestamp", created), ("LastModifiedTimestamp", settings.notes.get(MODIFIED))):
        values[name] = str(int(note or created) // 1000) if (note or created).isdecimal() else "0"
    values["QueueArn"] = place.arn_of(info.name)
    values["VisibilityTimeout"] = str(int(settings.visibility))
    values["DelaySeconds"] = str(number(settings, "DelaySeconds"))
    values["ReceiveMessageWaitTimeSeconds"] = str(number(settings, "ReceiveMessageWaitTimeSeconds"))
    retention = NUMBERS["MessageRetentionPeriod"].default if settings.retention is None else settings.retention
    values["MessageRetentionPeriod"] = str(int(retention))
    values["MaximumMessageSize"] = str(max_size(settings, max_message_bytes))
    key = text_of(settings, "KmsMasterKeyId")
    values["SqsManagedSseEnabled"] = text_of(settings, "SqsManagedSseEnabled") or ("false" if key else "true")
    for name in (*TEXTS, "RedriveAllowPolicy"):
        if text := text_of(settings, name):
            values[name] = text
    if key:
        values["KmsDataKeyReusePeriodSeconds"] = str(number(settings, "KmsDataKeyReusePeriodSeconds"))
    if is_fifo(info.name):
        values["FifoQueue"] = "true"
        for name, allowed in FIFO_ONLY.items():
            values[name] = text_of(settings, name) or allowed[0]
    if settings.dead_letter is not None:
        policy = {
            "deadLetterTargetArn": place.arn_of(settings.dead_letter),
            "maxReceiveCount": settings.max_receives,
        }
        values["RedrivePolicy"] = msgspec.json.encode(policy).decode()
    return values


def max_size(settings: QueueSettings, max_message_bytes: int) -> int:
    """Return the bytes a message of the queue may have."""
    return min(number(settings, "MaximumMessageSize"), max_message_bytes)


def selected(values: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return those attributes that are asked for, by their names or by `All`."""
    wanted = set(names)
    if "All" in wanted:
        return {name: values[name] for name in _SHOWN if name in values}
    return {name: value for name, value in values.items() if name in wanted}


def differing(wanted: Changes, settings: QueueSettings) -> str | None:
    """Return the name of the first attribute that is not as wanted, or None."""
    named = {
        "visibility": "VisibilityTimeout",
        "retention": "MessageRetentionPeriod",
        "max_receives": "RedrivePolicy",
    }
    for setting, value in wanted.items():
        if setting == "notes":
            continue
        if getattr(settings, setting) != value and not (
            setting == "retention"
            and settings.retention is None
            and value == NUMBERS["MessageRetentionPeriod"].default
        ):
            return named.get(setting, "RedrivePolicy")
    notes = wanted.get("notes")
    if isinstance(notes, dict):
        for note, value in notes.items():
            attribute = note.removeprefix(NOTE)
            there = settings.notes.get(note)
            if there is None and attribute in NUMBERS:
                there = str(NUMBERS[attribute].default)
            elif there is None and attribute in FIFO_ONLY:
                there = FIFO_ONLY[attribute][0]
            if (there or "") != (value or ""):
                return str(attribute)
    return None


def check_tags(queue: str, given: Mapping[str, str], held: Mapping[str, str] = {}) -> None:
    """Raise `SqsError` for tags SQS does not take, or more than a queue can have."""
    if len({**held, **given}) > MAX_TAGS:
        raise SqsError(INVALID_PARAMETER_VALUE, f"Too many tags added for queue {queue}.")
    for key, value in given.items():
        if not 1 <= len(key) <= 128 or len(value) > 256 or any(each < " " for each in key):
            raise SqsError(
                INVALID_PARAMETER_VALUE, "Tag keys must be between 1 and 128 characters in length, and values 256."
            )
