"""How SQS calls things: queue URLs, ARNs, message ids and receipt handles."""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from zapq.core.queue_settings import QueueSettings
from zapq.sqs.errors import bad_receipt, bad_value, missing

NEW_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}", re.ASCII)
FIFO = ".fifo"
CREATED = "sqs:created"
"""The note that says when a queue was made through SQS, in milliseconds since 1970."""
_HANDLE = re.compile(r"([0-9a-f]{8})\.([0-9a-f]{1,16})\.([0-9A-Za-z-]{1,64})", re.ASCII)
_LOW = (1 << 48) - 1


class Place(NamedTuple):
    """Where a client believes its queues are: what URLs and ARNs in answers are made of."""

    url: str
    """Scheme and host as the client knows the server, without a slash at the end."""
    account: str
    region: str

    def url_of(self, queue: str) -> str:
        """Return the URL of a queue."""
        return f"{self.url}/{self.account}/{queue}"

    def arn_of(self, queue: str) -> str:
        """Return the ARN of a queue."""
        return f"arn:aws:sqs:{self.region}:{self.account}:{queue}"


def queue_of_url(url: str | None) -> str:
    """Return the queue that `url` is of: its last part, whatever host and account are before it.

    Clients give bare names as well, and URLs that a proxy has made.
    """
    if not url:
        raise missing("QueueUrl")
    return url.rpartition("/")[2]


def queue_of_arn(arn: str) -> str:
    """Return the queue that `arn` is of, which is its last part."""
    return arn.rpartition(":")[2]


def check_new_name(name: str) -> str:
    """Return `name` if SQS allows a queue to be called so."""
    if len(name) > 80 or not NEW_NAME.fullmatch(name.removesuffix(FIFO)):
        raise bad_value(
            name[:200],
            "QueueName",
            "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length",
        )
    return name


@lru_cache(maxsize=4096)
def _salt(queue: str, created: str) -> tuple[str, int]:
    """Return what the ids of a queue's messages begin with, and the check in its handles."""
    digest = blake2b(f"{queue}\0{created}".encode(), digest_size=8).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-4{digest[12:15]}-8", zlib.crc32(digest.encode())


def message_id(queue: str, settings: QueueSettings, id: int) -> str:
    """Return the MessageId of the message with this id: shaped like a UUID, and always the same."""
    start, _ = _salt(queue, settings.notes.get(CREATED, ""))
    return f"{start}{id >> 48:03x}-{id & _LOW:012x}"


def handle(queue: str, settings: QueueSettings, id: int, receipt: str) -> str:
    """Return the receipt handle of a delivery: its receipt, the message's id, and a check."""
    _, check = _salt(queue, settings.notes.get(CREATED, ""))
    return f"{check:08x}.{id:x}.{receipt}"


class Handle(NamedTuple):
    """What a receipt handle says."""

    id: int
    receipt: str


def parse_handle(text: str, queue: str, settings: QueueSettings) -> Handle:
    """Return what a receipt handle says; `SqsError` if it is none, or of another queue."""
    match = _HANDLE.fullmatch(text)
    if match is None or int(match[1], 16) != _salt(queue, settings.notes.get(CREATED, ""))[1]:
        raise bad_receipt(text)
    return Handle(int(match[2], 16), match[3])
