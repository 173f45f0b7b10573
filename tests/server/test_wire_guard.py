"""The wire guard on bytes alone: the table of what is refused, however the bytes arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zapq.limits import MAX_HEAD_BYTES, MAX_HEADERS, MAX_TARGET_BYTES
from zapq.server.wire_guard import check_head

HOST = b"Host: x\r\n"


def head(line: bytes = b"GET /health HTTP/1.1", fields: bytes = HOST) -> bytes:
    return line + b"\r\n" + fields + b"\r\n"


FINE = {
    "a plain request": head(),
    "HTTP/1.0 without a host": head(b"GET / HTTP/1.0", b""),
    "any method in upper case": head(b"PURGE-ALL / HTTP/1.1"),
    "any value of visible ASCII, tabs and obs-text": head(fields=HOST + b"X: a\tb \xe9 ~\r\nY:\r\n"),
    "an absolute target that names the host": head(b"GET http://x/health HTTP/1.1"),
    "as many fields as allowed": head(fields=HOST + b"A: b\r\n" * (MAX_HEADERS - 1)),
    "as long a target as allowed": head(b"GET /" + b"x" * (MAX_TARGET_BYTES - 1) + b" HTTP/1.1"),
    "a body behind it": head(b"POST /enqueue HTTP/1.1", HOST + b"Content-Length: 3\r\n") + b"\n\r\x00",
    "chunked": head(b"POST /enqueue HTTP/1.1", HOST + b"Transfer-Encoding: chunked\r\n"),
}
REFUSED = {
    "both length and encoding": (400, head(fields=HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n")),
    "both, the other way round": (400, head(fields=HOST + b"transfer-encoding: chunked\r\ncontent-length: 1\r\n")),
    "two equal lengths": (400, head(fields=HOST + b"Content-Length: 1\r\nContent-Length: 1\r\n")),
    "two encodings": (400, head(fields=HOST + b"Transfer-Encoding: a\r\nTransfer-Encoding: chunked\r\n")),
    "two hosts": (400, head(fields=HOST + HOST)),
    "a bare LF behind the request line": (400, b"GET / HTTP/1.1\nHost: x\r\n\r\n"),
    "a bare LF behind a field": (400, head(fields=HOST + b"A: b\n")),
    "bare LFs only": (400, b"GET / HTTP/1.1\nHost: x\n\n"),
    "a bare CR": (400, head(fields=HOST + b"A: b\rc\r\n")),
    "a folded field": (400, head(fields=HOST + b"A: b\r\n c\r\n")),
    "a field folded by a tab": (400, head(fields=HOST + b"A: b\r\n\tc\r\n")),
    "a first field that is folded": (400, head(fields=b" A: b\r\n" + HOST)),
    "a NUL in a value": (400, head(fields=HOST + b"A: \0\r\n")),
    "ESC in a value": (400, head(fields=HOST + b"A: \x1b[31m\r\n")),
    "DEL in a value": (400, head(fields=HOST + b"A: \x7f\r\n")),
    "space before the colon": (400, head(fields=HOST + b"A : b\r\n")),
    "no colon": (400, head(fields=HOST + b"nonsense\r\n")),
    "an empty name": (400, head(fields=HOST + b": b\r\n")),
    "an empty line first": (400, b"\r\n" + head()),
    "two spaces": (400, head(b"GET  / HTTP/1.1")),
    "a tab for a space": (400, head(b"GET\t/ HTTP/1.1")),
    "an HTTP/0.9 line": (400, head(b"GET /")),
    "a target that is a query": (400, head(b"GET ?x HTTP/1.1")),
    "OPTIONS *": (400, head(b"OPTIONS * HTTP/1.1")),
    "CONNECT": (400, head(b"CONNECT x:80 HTTP/1.1")),
    "a fragment": (400, head(b"GET /#a HTTP/1.1")),
    "another host in the target": (400, head(b"GET http://evil/health HTTP/1.1")),
    "another port in the target": (400, head(b"GET http://x:81/health HTTP/1.1")),
    "a target that is no URL": (400, head(b"GET http://[x/ HTTP/1.1")),
    "bytes above ASCII in the target": (400, head(b"GET /\xc3\xa9 HTTP/1.1")),
    "a lower-case method": (501, head(b"get / HTTP/1.1")),
    "HTTP/2 by prior knowledge": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/1.2": (505, head(b"GET / HTTP/1.2")),
    "HTTP/3.0": (505, head(b"GET / HTTP/3.0")),
    "a target over 2 KiB": (414, head(b"GET /" + b"x" * MAX_TARGET_BYTES + b" HTTP/1.1")),
    "a target over 16 KiB": (414, b"GET /" + b"x" * MAX_HEAD_BYTES),
    "over 100 fields": (431, head(fields=HOST + b"A: b\r\n" * MAX_HEADERS)),
    "a head over 16 KiB": (431, head(fields=HOST + b"A: " + b"b" * MAX_HEAD_BYTES + b"\r\n")),
    "a head over 16 KiB that has not ended": (431, b"GET / HTTP/1.1\r\n" + b"A: b\r\nB: " + b"c" * MAX_HEAD_BYTES),
    "a TLS client hello": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "NULs": (400, b"\0" * 100),
}


@pytest.mark.parametrize("data", FINE.values(), ids=FINE)
def test_what_is_fine_is_let_through_however_it_arrives(data: bytes) -> None:
    assert check_head(data) is None
    for length in range(min(len(data), 3000)):
        assert check_head(data[:length]) is None, data[:length]


@pytest.mark.parametrize(("status", "data"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_says_why(status: int, data: bytes) -> None:
    refusal = check_head(data)
    assert refusal is not None
    assert refusal.status == status
    assert refusal.detail.endswith((".", "?"))
    assert "\n" not in refusal.detail


@pytest.mark.parametrize(("status", "data"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_final_whatever_follows(status: int, data: bytes) -> None:
    refusal = None
    for length in range(0, len(data) + 1, 1 + len(data) // 500):
        seen = check_head(data[:length])
        assert refusal is None or seen is not None
        refusal = seen
    assert check_head(data + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") is not None


TOKENS = st.text("!#$%&'*+.^_`|~abcXYZ019-", min_size=1, max_size=10)
VALUES = st.text("".join(map(chr, range(0x20, 0x7F))) + "\t\xe9", max_size=30)


@given(
    method=TOKENS.map(str.upper),
    path=st.text("".join(map(chr, range(0x21, 0x7F))).replace("#", ""), max_size=50),
    fields=st.lists(st.tuples(TOKENS.map(lambda name: "X-" + name), VALUES), max_size=20),
    cut=st.integers(0),
)
def test_every_well_formed_head_is_let_through(
    method: str, path: str, fields: list[tuple[str, str]], cut: int
) -> None:
    lines = [f"{method} /{path} HTTP/1.1", "Host: x", *(f"{name}:{value}" for name, value in fields), "", ""]
    data = "\r\n".join(lines).encode("latin-1")
    assert check_head(data) is None
    assert check_head(data[: cut % len(data)]) is None
