"""What SQS knows of a message besides its body, and where that is kept until messages have headers.

`Facts` are those of one message. `seal` puts them where the core keeps them, and `open_` reads them again; nothing
else in the dialect knows where that is. The time of sending is a parameter of the Content-Type. A message that has
more to say gets an envelope: its length, the facts as msgpack, and then the body.
"""

from __future__ import annotations

import re
from struct import Struct, error
from typing import NamedTuple

import msgspec

from zapq.core.message import Message, Properties
from zapq.sqs.model import Attributes

TEXT = "text/plain; charset=utf-8"
"""The type of a message that has only text."""
ENVELOPE = "application/vnd.zapq.sqs"
_SENT = re.compile(r"; sent=([0-9]{1,15})\Z", re.ASCII)
_LENGTH = Struct(">I")


class Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a message has besides its body."""

    attributes: Attributes = {}
    system: Attributes = {}
    """Those SQS itself knows: AWSTraceHeader."""
    group: str = ""
    deduplication: str = ""


NONE = Facts()
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Facts).decode


class Sealed(NamedTuple):
    """A message as the core is to keep it."""

    body: bytes
    properties: Properties


class Opened(NamedTuple):
    """A message as SQS sees it."""

    body: bytes
    facts: Facts
    sent: int | None
    """When it was sent, in milliseconds since 1970; None if that is not known."""


def seal(body: bytes, facts: Facts, sent: int) -> Sealed:
    """Return the message to store, sent `sent` milliseconds after 1970."""
    if facts == NONE:
        return Sealed(body, Properties(f"{TEXT}; sent={sent}"))
    packed = _encode(facts)
    return Sealed(b"".join((_LENGTH.pack(len(packed)), packed, body)), Properties(f"{ENVELOPE}; sent={sent}"))


def open_(message: Message) -> Opened:
    """Return what a stored message says. One that was not sent through SQS has its body, and no facts."""
    content_type, body = message.properties.content_type, message.body
    match = _SENT.search(content_type)
    if match is None:
        return Opened(body, NONE, None)
    sent = int(match[1])
    if content_type.startswith(ENVELOPE):
        try:
            (length,) = _LENGTH.unpack_from(body)
            end = _LENGTH.size + length
            if end <= len(body):
                return Opened(body[end:], _decode(body[_LENGTH.size : end]), sent)
        except (error, msgspec.DecodeError):
            pass  # a producer of its own has used the type for something else
    return Opened(body, NONE, sent)
