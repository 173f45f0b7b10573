"""What a request's head must look like before it is parsed.

Parsers that differ about where a request ends can be played against each other (request smuggling), so what
is ambiguous is refused outright, on the raw bytes, before h11 sees them. Everything else about HTTP/1.1 is
h11's business. RFC 9112 is the grammar.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from zapq.limits import KIB, MAX_HEAD_BYTES, MAX_HEADERS, MAX_TARGET_BYTES


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a head is refused, and with which status."""

    status: int
    detail: str


_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t\x20-\x7e\x80-\xff]*")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_BARE_CR = re.compile(rb"\r(?!\n|\Z)")

_TOO_LARGE = Refusal(
    431, f"The request's head is over {MAX_HEAD_BYTES // KIB} KiB. Send fewer or shorter header fields."
)
_TLS_RECORD = b"\x16\x03"
"""How a client that speaks TLS begins."""
_NOT_TEXT = Refusal(
    400, "The request line has bytes that are not visible ASCII. If the client speaks TLS, use http:// here."
)
_TARGET_TOO_LONG = Refusal(414, f"The request target is over {MAX_TARGET_BYTES // KIB} KiB. Send a shorter one.")


def check_head(data: bytes) -> Refusal | None:
    """Return why the request that begins `data` is refused, or None if it is fine or not here yet.

    `data` is everything received from the first byte of a request on; call again when it has grown.
    """
    if data.startswith(_TLS_RECORD):
        return _NOT_TEXT
    head, end, _ = data.partition(b"\r\n\r\n")
    if len(head) > MAX_HEAD_BYTES:
        return _TARGET_TOO_LONG if len(head.partition(b"\r\n")[0]) > MAX_TARGET_BYTES + 64 else _TOO_LARGE
    if _BARE_LF.search(head):
        return Refusal(400, "A line of the request's head ends in a bare LF. End each line with CR LF.")
    if _BARE_CR.search(head):
        return Refusal(400, "The request's head contains a CR without an LF. End each line with CR LF.")
    lines = head.split(b"\r\n")
    if not end:
        if len(lines) == 1:
            return _check_unfinished_line(lines[0])
        lines.pop()  # not complete yet, so it cannot be judged
    return _check_request_line(lines[0]) or _check_fields(lines[0], lines[1:], complete=bool(end))


def _check_unfinished_line(line: bytes) -> Refusal | None:
    if len(line) > MAX_TARGET_BYTES + 64:
        return _TARGET_TOO_LONG
    if re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\xff]", line):
        return _NOT_TEXT
    return None


def _check_request_line(line: bytes) -> Refusal | None:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        if len(line) > MAX_TARGET_BYTES + 64:
            return _TARGET_TOO_LONG
        return Refusal(
            400,
            "The request line is not valid. Send a method, a path and a version, such as GET /health HTTP/1.1.",
        )
    method, target, *version = match.groups()
    if version not in ([b"1", b"0"], [b"1", b"1"]):
        return Refusal(
            505,
            "The server does not speak this version of HTTP here. Use HTTP/1.1, or HTTP/2 over TLS if it runs"
            " with --http2.",
        )
    if method != method.upper():
        return Refusal(501, "The request method must be in upper case, such as GET.")
    if len(target) > MAX_TARGET_BYTES:
        return _TARGET_TOO_LONG
    if not target.startswith((b"/", b"http://", b"https://")):
        return Refusal(400, "The request target must be a path that begins with /.")
    if b"#" in target:
        return Refusal(400, "The request target contains a fragment. Send it without the # and what follows it.")
    return None


def _check_fields(request_line: bytes, lines: list[bytes], *, complete: bool) -> Refusal | None:
    if len(lines) > MAX_HEADERS:
        return Refusal(431, f"The request has over {MAX_HEADERS} header fields. Send fewer.")
    seen: dict[bytes, bytes] = {}
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            if line.startswith((b" ", b"\t")):
                return Refusal(400, "A header field is folded over two lines. Send it on one line.")
            return Refusal(400, "A header field is not valid. Send it as name:value without control characters.")
        name = match[1].lower()
        if name in seen and name in {b"content-length", b"transfer-encoding", b"host"}:
            return Refusal(400, f"{name.decode().title()} is given twice. Send it once.")
        seen[name] = line[len(name) + 1 :].strip(b" \t")
    if b"content-length" in seen and b"transfer-encoding" in seen:
        return Refusal(400, "The request has both Content-Length and Transfer-Encoding. Send only one of them.")
    target = request_line.split(b" ")[1]
    if complete and not target.startswith(b"/") and not _names_host(target, seen.get(b"host", b"")):
        return Refusal(400, "The request target and the Host header name different hosts. Send the same in both.")
    return None


def _names_host(target: bytes, host: bytes) -> bool:
    try:
        return urlsplit(target).netloc.lower() == host.lower()
    except ValueError:
        return False
