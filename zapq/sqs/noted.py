"""Attributes of a queue that only SQS has: what each may be, and the notes of the queue they are kept in.

The core keeps notes and does not read them. A name in lower case without a further colon, such as `sqs:created`,
is the dialect's own: no client sets it, and a queue that is declared keeps it.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

NOTE = "sqs:"
"""What the names of all these notes begin with."""
TAG = "sqs:tag:"
"""What those begin with that are tags."""
FIFO = ".fifo"
MAX_SIZE = 1_048_576
"""Bytes of a message at most, with Amazon."""
MAX_SOURCES = 10


class Range(NamedTuple):
    """What a number may be, and what it is if it is not set."""

    low: int
    high: int
    default: int


NUMBERS = {
    "VisibilityTimeout": Range(0, 43_200, 30),
    "DelaySeconds": Range(0, 900, 0),
    "ReceiveMessageWaitTimeSeconds": Range(0, 20, 0),
    "MessageRetentionPeriod": Range(60, 1_209_600, 345_600),
    "MaximumMessageSize": Range(1024, MAX_SIZE, MAX_SIZE),
    "KmsDataKeyReusePeriodSeconds": Range(60, 86_400, 300),
}
NATIVE = {
    "VisibilityTimeout": "visibility",
    "MessageRetentionPeriod": "retention",
    "RedrivePolicy": "dead_letter and max_receives",
    "FifoQueue": "fifo",
}
"""Attributes that are no notes, and the settings of every queue that say the same."""
TEXTS = ("Policy", "KmsMasterKeyId")
FIFO_ONLY = {
    "ContentBasedDeduplication": ("false", "true"),
    "DeduplicationScope": ("queue", "messageGroup"),
    "FifoThroughputLimit": ("perQueue", "perMessageGroupId"),
}
"""Attributes of FIFO queues, and what each may be; it is the first if it is not set."""
SCOPE = "sqs:scope"
"""The note that says which scope deduplication had when the queue was made: a later one has no effect."""
KEPT = (
    *(each for each in NUMBERS if each not in NATIVE),
    *TEXTS,
    *FIFO_ONLY,
    "RedriveAllowPolicy",
    "SqsManagedSseEnabled",
)
"""Attributes that are notes."""


class RedriveAllow(msgspec.Struct, frozen=True):
    """What a RedriveAllowPolicy says."""

    permission: str = msgspec.field(name="redrivePermission", default="allowAll")
    sources: list[str] = msgspec.field(name="sourceQueueArns", default_factory=list)

    def check(self) -> None:
        """Raise ValueError if it is none SQS takes."""
        by_queue = self.permission == "byQueue"
        if self.permission not in {"allowAll", "denyAll", "byQueue"} or by_queue != bool(self.sources):
            raise ValueError
        if len(self.sources) > MAX_SOURCES:
            raise ValueError

    def allows(self, queue: str) -> bool:
        """Whether the queue called `queue` may send its dead letters here."""
        if self.permission == "byQueue":
            return queue in {each.rpartition(":")[2] for each in self.sources}
        return self.permission == "allowAll"


def check_number(attribute: str, value: str) -> int:
    """Return the number a text means; ValueError if the attribute cannot be that."""
    allowed = NUMBERS[attribute]
    plain = value.isascii() and value.isdecimal() and len(value) <= 12
    if not plain or not allowed.low <= int(value) <= allowed.high:
        raise ValueError(f"give {allowed.low} to {allowed.high}")
    return int(value)


def check_text(attribute: str, value: str) -> None:
    """Raise ValueError if an attribute that is no number cannot be `value`."""
    choices = FIFO_ONLY.get(attribute, ("true", "false") if attribute == "SqsManagedSseEnabled" else ())
    if choices and value not in choices:
        raise ValueError(f"give {' or '.join(choices)}")
    if not value:
        return
    try:
        if attribute == "Policy":
            msgspec.json.decode(value, type=dict[str, object])
        elif attribute == "RedriveAllowPolicy":
            msgspec.json.decode(value, type=RedriveAllow).check()
    except (msgspec.DecodeError, RecursionError, ValueError):
        raise ValueError("give a policy that SQS takes") from None


def note_of(attribute: str, value: object) -> str:
    """Return the note for an attribute that an operator has written; ValueError says what to write instead."""
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, dict):
        text = msgspec.json.encode(value).decode()
    elif isinstance(value, str | int):
        text = str(value)
    else:
        raise ValueError("give text, a number, true or false, or a table")
    if attribute in NUMBERS:
        return str(check_number(attribute, text))
    check_text(attribute, text)
    return text
