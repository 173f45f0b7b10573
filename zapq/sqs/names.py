"""How SQS calls things: queue URLs and ARNs."""

from __future__ import annotations

import re
from typing import NamedTuple

from zapq.sqs.errors import INVALID_PARAMETER_VALUE, SqsError, missing
from zapq.sqs.noted import FIFO

NEW_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}", re.ASCII)
CREATED = "sqs:created"
"""The note that says when a queue was made through SQS, in milliseconds since 1970."""


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
    """Return the queue that `url` is of: its last part, with any host and account before it.

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
        raise SqsError(
            INVALID_PARAMETER_VALUE,
            "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length",
        )
    return name
