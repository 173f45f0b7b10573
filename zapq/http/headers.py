"""Headers of messages as fields of requests and answers: the same both ways.

`Zapq-Header-NAME` carries the header NAME. Those of W3C Trace Context, of W3C Baggage and of CloudEvents have
their own fields, so that programs which know nothing of zapq set and read them.
"""

from __future__ import annotations

from collections.abc import Iterable

from zapq.core.headers import Headers, checked_headers, field_of, header_in

_LISTS = {"tracestate", "baggage"}
"""Fields of which a request may have several, which are one list together."""


def headers_of(fields: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the headers in the fields of a request, whose names are in lower case; raises `InvalidParameter`."""
    found: list[tuple[str, str]] = []
    lists: dict[str, int] = {}
    for name, content in fields:
        field = name.decode("latin-1")
        header = header_in(field)
        if header is None:
            continue
        value = content.decode("latin-1")
        if field in lists:
            found[lists[field]] = (header, f"{found[lists[field]][1]},{value}")
            continue
        if field in _LISTS:
            lists[field] = len(found)
        found.append((header, value))
    return checked_headers(found) if found else ()


def fields_of(headers: Headers) -> bytes:
    """Return the fields of an answer that give a message's headers back, however they came."""
    # As Hypercorn writes names: case makes no difference.
    return "".join([f"{field_of(name).title()}: {value}\r\n" for name, value in headers]).encode()
