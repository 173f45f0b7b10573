"""Quart's responses: from the bytes of an answer, from values, or empty."""

from __future__ import annotations

import msgspec
from quart import Response

from zapq.http.render import JSON

NO_STORE = {"Cache-Control": "no-store"}


def with_bytes(answer: bytes) -> Response:
    """Return the answer `zapq/http/render.py` has made, field for field."""
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    response = Response(body, status=int(line.split(" ")[1]))
    response.headers.clear()
    for field in fields:
        response.headers.add(*field.split(": ", 1))
    return response


def with_json(value: object, status: int = 200) -> Response:
    """Return `value` as JSON."""
    return Response(msgspec.json.encode(value), status=status, content_type=JSON, headers=NO_STORE)


def with_nothing(status: int) -> Response:
    """Return an answer without a body, and so without a type."""
    response = Response(b"", status=status, headers=NO_STORE)
    del response.headers["Content-Type"]
    if status == 204:
        response.headers.pop("Content-Length", None)  # RFC 9110, 8.6: a 204 has none
    return response
