"""A message as a webhook, by Standard Webhooks: the request that carries it, and what the answer to that means.

Pure: no socket and no clock. https://www.standardwebhooks.com says the rest.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Literal, NamedTuple, Protocol

import zapq
from zapq.core.headers import field_of
from zapq.limits import FORWARD_MAX_REST, WEBHOOK_SECRET_BYTES

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
_PREFIX = "whsec_"
_GONE = 410


class Delivered(Protocol):
    """A message as a consumer has it."""

    @property
    def id(self) -> int: ...
    @property
    def queue(self) -> str: ...
    @property
    def receipt(self) -> str: ...
    @property
    def receive_count(self) -> int: ...
    @property
    def content_type(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def group(self) -> str: ...
    @property
    def body(self) -> bytes: ...


class Verdict(NamedTuple):
    """What becomes of a message, by the receiver's answer."""

    action: Literal["ack", "release", "stop"]
    delay: float = 0.0
    """Seconds for which the receiver wants no message; 0 if it does not say."""


def parse_secrets(text: str) -> list[bytes]:
    """Return the secrets in `text`, which has `whsec_` and base64 a line; ValueError otherwise, which shows none.

    Each signs: so a receiver can go from one to the next.
    """
    secrets = []
    for line in text.split():
        if not line.startswith(_PREFIX):
            raise ValueError("a secret must begin with whsec_")
        try:
            secret = base64.b64decode(line.removeprefix(_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("what follows whsec_ must be base64") from None
        low, high = WEBHOOK_SECRET_BYTES
        if not low <= len(secret) <= high:
            raise ValueError(f"a secret must have {low} to {high} bytes; this one has {len(secret)}")
        secrets.append(secret)
    if not secrets:
        raise ValueError("there is no secret")
    return secrets


def webhook_id(message: Delivered) -> str:
    """Return what the receiver knows the message by, each time it is sent: what its producer said, or ours."""
    # In memory, ids of messages begin anew when the server does. What gave the receipt is another one then.
    run, _, _ = message.receipt.rpartition("-")
    id = message.headers.get(ID) or f"{run}-{message.id}"
    # Dots part it from the time and the body in what is signed: one with dots could say another time. Two ids stay
    # two.
    return id.replace("%", "%25").replace(".", "%2E") if "." in id or "%" in id else id


def signatures(secrets: Sequence[bytes], id: str, timestamp: int, body: bytes) -> str:
    """Return the value of `webhook-signature`: one signature by each secret."""
    signed = b"%b.%d.%b" % (id.encode(), timestamp, body)
    digests = [hmac.new(secret, signed, hashlib.sha256).digest() for secret in secrets]
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def fields_of(message: Delivered, secrets: Sequence[bytes], now: float) -> dict[str, str]:
    """Return the fields of the request that carries the message at the Unix time `now`."""
    id, timestamp = webhook_id(message), int(now)
    fields = {
        "Content-Type": message.content_type,
        "Content-Length": str(len(message.body)),
        "User-Agent": f"zapq/{zapq.__version__}",
        ID: id,
        TIMESTAMP: str(timestamp),
        "Zapq-Queue": message.queue,
        "Zapq-Message-Id": str(message.id),
        "Zapq-Receive-Count": str(message.receive_count),
    }
    if secrets:
        fields[SIGNATURE] = signatures(secrets, id, timestamp, message.body)
    if message.group:
        fields["Zapq-Group"] = message.group
    # In lower case, no field of ours is called so.
    return fields | {field_of(name): value for name, value in message.headers.items() if name != ID}


def verdict(status: int, retry_after: str, now: float) -> Verdict:
    """Return what an answer means that came at the Unix time `now`."""
    if 200 <= status < 300:
        return Verdict("ack")
    if status == _GONE:
        return Verdict("stop")
    return Verdict("release", _seconds(retry_after.strip(), now))


def _seconds(retry_after: str, now: float) -> float:
    """Return the seconds a Retry-After means, at most `FORWARD_MAX_REST`; 0 for what is none."""
    if re.fullmatch("[0-9]{1,9}", retry_after, re.ASCII):
        seconds = float(retry_after)
    else:
        try:
            until = parsedate_to_datetime(retry_after)
        except (ValueError, OverflowError):
            return 0.0
        # A time zone of -0000 gives a time without one.
        seconds = (until if until.tzinfo else until.replace(tzinfo=UTC)).timestamp() - now
    return min(max(seconds, 0.0), FORWARD_MAX_REST)
