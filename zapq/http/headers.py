"""Headers of messages as fields of requests and answers: the same both ways.

`Zapq-Header-NAME` carries the header NAME. Those of W3C Trace Context, of W3C Baggage and of CloudEvents have
their own fields, so that programs which know nothing of zapq set and read them.
"""

from __future__ import annotations

from collections.abc import Iterable

from zapq.core.headers import TRACING, Headers, checked_headers

PREFIX = "zapq-header-"
EVENT = "ce-"
"""What the fields of CloudEvents begin with."""
_LISTS = {"tracestate", "baggage"}
"""Fields of which a request may have several, which are one list together."""


def carries_header(field: str) -> bool:
    """Whether the field of this name, in lower case, carries a header of a message."""
    return field.startswith((PREFIX, EVENT)) or field in TRACING


def headers_of(fields: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the headers in the fields of a request, whose names are in lower case; raises `InvalidParameter`."""
    found: list[tuple[str, str]] = []
    lists: dict[str, int] = {}
    for name, content in fields:
        field, value = name.decode("latin-1"), content.decode("latin-1")
        if not carries_header(field):
            continue
        if field in lists:
            found[lists[field]] = (field, f"{found[lists[field]][1]},{value}")
            continue
        if field in _LISTS:
            lists[field] = len(found)
        found.append((field.removeprefix(PREFIX), value))
    return checked_headers(found) if found else ()


def fields_of(headers: Headers) -> bytes:
    """Return the fields of an answer that give a message's headers back, whichever way they came."""
    return "".join([f"{_field(name)}: {value}\r\n" for name, value in headers]).encode()


def _field(header: str) -> str:
    name = header if header in TRACING or header.startswith(EVENT) else PREFIX + header
    # As Hypercorn writes names: case makes no difference.
    return name.title()
