"""Headers of a message: what its producer says of it beside its bytes, and what can be said so.

A header stands in the head of an answer as it is. So its name is a token of HTTP, without regard to case, and its
value is visible ASCII with spaces and tabs only between: what every client and proxy passes on unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

from zapq.errors import InvalidParameter
from zapq.limits import KIB, MAX_HEADER_NAME, MAX_MESSAGE_HEADERS, MAX_MESSAGE_HEADERS_BYTES

Headers: TypeAlias = "tuple[tuple[str, str], ...]"
"""Names in lower case and values, in the order given."""

TRACING = frozenset({"traceparent", "tracestate", "baggage"})
"""Those of W3C Trace Context and Baggage: they say what led to a message."""
FIELD = "zapq-header-"
"""What the field of HTTP that carries a header is called before the header's name ..."""
EVENT = "ce-"
"""... except for those for tracing and those of CloudEvents, which begin with this: they are named like fields."""
HEADER_NAME = rf"[!#$%&'*+.^_`|~0-9a-z-]{{1,{MAX_HEADER_NAME}}}"
"""What the name of a kept header looks like."""
HEADER_VALUE = r"(?:[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)?"
"""What its value looks like."""
_NAME = re.compile(HEADER_NAME, re.ASCII | re.IGNORECASE)
_VALUE = re.compile(HEADER_VALUE)
_SHOWN = 100
"""Characters of a name that a refusal says again."""


def header_in(field: str) -> str | None:
    """Return the header that the field of this name, in lower case, carries; None if it carries none."""
    if field.startswith(FIELD):
        return field.removeprefix(FIELD)
    return field if field in TRACING or field.startswith(EVENT) else None


def field_of(header: str) -> str:
    """Return the name of the field that carries this header."""
    return header if header in TRACING or header.startswith(EVENT) else FIELD + header


def size_of(headers: Headers) -> int:
    """Return the bytes that headers count in the caps: those of the names and of the values."""
    size = 0
    for name, value in headers:
        size += len(name) + len(value)
    return size


@lru_cache(1024)
def _lower(name: str) -> str:
    """Return a name as it is kept, empty if it cannot be one. Producers have few different ones."""
    return name.lower() if _NAME.fullmatch(name) else ""


def checked_headers(given: Iterable[tuple[str, str]]) -> Headers:
    """Return headers as they are kept; `InvalidParameter` says what is wrong with them."""
    pairs = list(given)
    if len(pairs) > MAX_MESSAGE_HEADERS:
        raise InvalidParameter(
            f"A message can have {MAX_MESSAGE_HEADERS} headers. This one has {len(pairs)}. Send fewer.",
            parameter="headers",
        )
    size = 0
    headers: dict[str, str] = {}
    for name, value in pairs:
        lower, shown = _lower(name), name[:_SHOWN]
        if not lower:
            raise InvalidParameter(
                f"The name of a header must be 1 to {MAX_HEADER_NAME} ASCII letters, digits, and characters such"
                " as - . _ between them. Rename it.",
                parameter=shown,
            )
        # Most are printable; the pattern takes several times as long.
        is_plain = value.isascii() and value.isprintable() and value == value.strip()
        if not (is_plain or _VALUE.fullmatch(value)):
            raise InvalidParameter(
                f"The value of the header {shown} must be visible ASCII characters, with spaces and tabs only"
                " between them. Encode other text, such as in percent-encoding or base64.",
                parameter=shown,
            )
        if lower in headers:
            raise InvalidParameter(f"The header {shown} is given more than once. Give it once.", parameter=shown)
        headers[lower] = value
        size += len(lower) + len(value)
    if size > MAX_MESSAGE_HEADERS_BYTES:
        raise InvalidParameter(
            f"The headers of a message can have {MAX_MESSAGE_HEADERS_BYTES // KIB} KiB together, names and values."
            f" These have {size} bytes. Send less, or put it into the body.",
            parameter="headers",
        )
    return tuple(headers.items())
