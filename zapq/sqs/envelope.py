"""What SQS knows of a message besides its body, and where that is kept: in headers of the message.

`Facts` are those of one message. `seal` puts them where the core keeps them, and `open_` reads them again; nothing
else in the dialect knows where that is. An attribute that a header can say as it is becomes a header of its own,
and any header is an attribute. The others are in one header, as msgpack in base64; and if they are too long for
that, in an envelope around the body: their length, they themselves, and then the body.
"""

from __future__ import annotations

import base64
import re
from binascii import b2a_base64
from functools import lru_cache
from struct import Struct, error

import msgspec

from zapq.core.headers import HEADER_NAME, HEADER_VALUE, Headers, size_of
from zapq.core.message import Message, Properties
from zapq.limits import MAX_MESSAGE_HEADERS_BYTES
from zapq.sqs.model import Attribute, Attributes

TEXT = "text/plain; charset=utf-8"
"""The type of a message from SQS."""
ENVELOPE = "application/vnd.zapq.sqs"
"""That of one whose facts are around its body."""
SENT = "sqs-sent"
"""The header that says when a message was sent, in milliseconds since 1970."""
FACTS = "sqs-facts"
_OURS = "sqs-"
_NAME = re.compile(HEADER_NAME, re.ASCII)
_VALUE = re.compile(HEADER_VALUE)
_LENGTH = Struct(">I")


class Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a message has besides its body."""

    attributes: Attributes = {}
    system: Attributes = {}
    """Those SQS itself knows: AWSTraceHeader."""
    group: str = ""
    """Of a standard queue, where it is only told."""
    deduplication: str = ""


NONE = Facts()
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Facts).decode


class Sealed(msgspec.Struct, frozen=True, gc=False):
    """A message as the core is to keep it."""

    body: bytes
    properties: Properties


class Opened(msgspec.Struct, frozen=True, gc=False):
    """A message as SQS sees it."""

    body: bytes
    facts: Facts


def seal(body: bytes, facts: Facts, sent: int, group: str = "") -> Sealed:
    """Return the message to store, sent `sent` milliseconds after 1970, in a message group if one is named."""
    if facts is NONE and not group:
        return Sealed(body, _plain(sent))
    when = (SENT, str(sent))
    if facts is NONE:
        return Sealed(body, Properties(TEXT, headers=(when,), group=group))
    rest = facts
    headers: Headers = (when,)
    if facts.attributes:
        plain = {name: value for name, value in facts.attributes.items() if _is_plain(name, value)}
        others = {name: value for name, value in facts.attributes.items() if name not in plain}
        rest = msgspec.structs.replace(facts, attributes=others)
        headers = (when, *((name, each.string_value or "") for name, each in plain.items()))
    if rest != NONE:
        headers = (*headers, (FACTS, b2a_base64(_encode(rest), newline=False).decode()))
    if size_of(headers) <= MAX_MESSAGE_HEADERS_BYTES:
        return Sealed(body, Properties(TEXT, headers=headers, group=group))
    packed = _encode(facts)
    sealed = b"".join((_LENGTH.pack(len(packed)), packed, body))
    return Sealed(sealed, Properties(ENVELOPE, headers=(when,), group=group))


@lru_cache(maxsize=1)
def _plain(sent: int) -> Properties:
    """Return the properties of a message of which no more is known; those of one millisecond share them."""
    return Properties(TEXT, headers=((SENT, str(sent)),))


def _is_plain(name: str, attribute: Attribute) -> bool:
    """Whether a header can say this attribute as it is."""
    value = attribute.string_value
    return (
        attribute.data_type == "String"
        and bool(value)
        and not name.startswith(_OURS)
        and _NAME.fullmatch(name) is not None
        and _VALUE.fullmatch(value or "") is not None
    )


def open_(message: Message) -> Opened:
    """Return what a stored message says; one that was not sent through SQS has its headers as attributes."""
    body, headers = message.body, message.properties.headers
    if not headers:
        return Opened(body, NONE)
    if len(headers) == 1 and headers[0][0] == SENT and message.properties.content_type == TEXT:
        # As most are.
        return Opened(body, NONE)
    said = dict(headers)
    facts = NONE
    if message.properties.content_type == ENVELOPE:
        body, facts = _unwrapped(body)
    elif FACTS in said:
        facts = _facts(said[FACTS])
    attributes = {
        name: Attribute(data_type="String", string_value=value)
        for name, value in headers
        if value and not name.startswith(_OURS)
    }
    if attributes:
        facts = msgspec.structs.replace(facts, attributes={**attributes, **facts.attributes})
    return Opened(body, facts)


def sent_at(message: Message) -> str | None:
    """Return when a message was sent, in milliseconds since 1970; None if that is not known."""
    for name, text in message.properties.headers:
        if name == SENT:
            # A producer of the native dialect may say anything.
            return text if text.isascii() and text.isdecimal() and len(text) < 16 else None
    return None


def _facts(text: str) -> Facts:
    # A producer of the native dialect may have sent a header of that name.
    try:
        return _decode(base64.b64decode(text, validate=True))
    except (ValueError, msgspec.DecodeError):
        return NONE


def _unwrapped(body: bytes) -> tuple[bytes, Facts]:
    try:
        (length,) = _LENGTH.unpack_from(body)
        end = _LENGTH.size + length
        if end <= len(body):
            return body[end:], _decode(body[_LENGTH.size : end])
    except (error, msgspec.DecodeError):
        pass  # a producer of its own has used the type for something else
    return body, NONE
