"""The MD5 sums by which SDKs check that a message arrived as it was sent."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import md5
from struct import Struct

from zapq.sqs.model import Attribute

_LENGTH = Struct(">I").pack
_BINARY = "Binary"


def of_body(body: bytes) -> str:
    """Return the MD5 of a body, in hex."""
    return md5(body, usedforsecurity=False).hexdigest()


def of_attributes(attributes: Mapping[str, Attribute]) -> str | None:
    """Return the MD5 of attributes, in hex; None if there are none.

    In the order of their names: name, type with its own suffix, one byte that says whether the value is binary,
    and the value; each text with its length before it.
    """
    if not attributes:
        return None
    parts: list[bytes] = []
    for name in sorted(attributes):
        attribute = attributes[name]
        binary = attribute.data_type.startswith(_BINARY)
        value = (attribute.binary_value or b"") if binary else (attribute.string_value or "").encode()
        for text in (name.encode(), attribute.data_type.encode()):
            parts += (_LENGTH(len(text)), text)
        parts += (b"\x02" if binary else b"\x01", _LENGTH(len(value)), value)
    return md5(b"".join(parts), usedforsecurity=False).hexdigest()
