"""The page for a browser: files of the package, the same for all. It asks for what it shows as curl would."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

import msgspec

from zapq.errors import FileNotFound
from zapq.http.plan import Asked, Frame, Plan

PATH = "/ui/"
INDEX = "index.html"
_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)


class File(msgspec.Struct, frozen=True):
    """One of the files."""

    media_type: str
    body: bytes
    tag: str
    """Its ETag: another one if a byte of it is another."""


@cache
def contents() -> dict[str, File]:
    """Return the files by name, read once."""
    found = {}
    for each in (files(__package__) / "ui").iterdir():
        kind = _TYPES.get(each.name.rpartition(".")[2])
        if kind is not None:
            body = each.read_bytes()
            found[each.name] = File(kind, body, f'"{sha256(body).hexdigest()[:16]}"')
    return found


def plan(asked: Asked) -> Plan:
    """Plan to show a file; `FileNotFound` if there is no such one."""
    name = asked.name or INDEX
    if name not in contents():
        raise FileNotFound
    return Plan(None, name=name, known=asked.known)


def render(plan: Plan, operation: None, outcome: Any, frame: Frame) -> bytes:
    """Return the file, or that the browser has it already."""
    file = contents()[plan.name]
    fields = (
        f"ETag: {file.tag}\r\nCache-Control: no-cache\r\nContent-Security-Policy: {_POLICY}\r\n"
        "Referrer-Policy: no-referrer\r\nX-Content-Type-Options: nosniff\r\n"
        "Cross-Origin-Resource-Policy: same-origin\r\n"
    ).encode()
    if file.tag in plan.known.replace("W/", "").split(", "):
        return b"HTTP/1.1 304 Not Modified\r\n%b%b\r\n" % (fields, frame.tail)
    return b"HTTP/1.1 200 OK\r\n%bContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n%b" % (
        fields,
        file.media_type.encode(),
        len(file.body),
        frame.tail,
        file.body,
    )


def is_wanted(method: str, path: str, query: bytes, accept: str) -> bool:
    """Whether the client is to be led to the page: a browser that asks for the server, or a slash is missing."""
    if method not in {"GET", "HEAD"}:
        return False
    # With a query it is a request of SQS.
    return path == PATH.removesuffix("/") or (path == "/" and not query and "text/html" in accept)
