"""The wire table: what may not be said to zapq and what it gets, and what may look odd and is fine."""

from __future__ import annotations

from zapq.limits import MAX_HEAD_BYTES, MAX_HEADERS, MAX_TARGET_BYTES

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
OURS = b"Host: localhost\r\n"
POST = b"POST /enqueue HTTP/1.1\r\n" + OURS
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
# What h11 has always refused, kept so that it stays so, and what is wrong with chunks.
BY_H11 = {
    "no host": (400, b"GET /health HTTP/1.1\r\n\r\n"),
    "lengths that differ": (400, POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    "a length with a sign": (400, POST + b"Content-Length: +3\r\n\r\nabc"),
    "a length with an underscore": (400, POST + b"Content-Length: 1_0\r\n\r\n0123456789"),
    "a negative length": (400, POST + b"Content-Length: -1\r\n\r\n"),
    "a length of 21 digits": (400, POST + b"Content-Length: 100000000000000000000\r\n\r\n"),
    "chunked, identity": (501, POST + b"Transfer-Encoding: chunked, identity\r\n\r\n"),
    "a chunk that is longer than it says": (400, CHUNKED + b"3\r\nabcdef\r\n"),
    "LF in a chunk extension": (400, CHUNKED + b"3;a=\nb\r\nabc\r\n0\r\n\r\n"),
    "a blank behind a chunk's size": (400, CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n"),
    "a tab behind a chunk's size": (400, CHUNKED + b"3\t\r\nabc\r\n0\r\n\r\n"),
    "a blank behind a later chunk's size": (400, CHUNKED + b"3\r\nabc\r\nA \r\n0123456789\r\n0\r\n\r\n"),
    "a blank behind the size of the last chunk": (400, CHUNKED + b"3\r\nabc\r\n0 \r\n\r\n"),
    "over 1024 chunks": (400, CHUNKED + b"1\r\nx\r\n" * 1025 + b"0\r\n\r\n"),
}
ROWS = {**REFUSED, **BY_H11}
UPGRADES = {
    "a malformed h2c upgrade": b"Upgrade: h2c\r\nHTTP2-Settings: !!!a\r\nConnection: upgrade\r\n",
    "an h2c upgrade": b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nConnection: Upgrade, HTTP2-Settings\r\n",
    "a WebSocket upgrade": (
        b"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n"
    ),
}
ANSWERED = {
    **{name: (200, head(fields=OURS + fields)) for name, fields in UPGRADES.items()},
    "two slashes": (404, head(b"GET //metrics HTTP/1.1", OURS)),
    "HEAD where a message would go": (405, head(b"HEAD /dequeue HTTP/1.1", OURS)),
    "OPTIONS where a message would go": (200, head(b"OPTIONS /dequeue HTTP/1.1", OURS)),
    "a body that says it is compressed": (
        202,
        head(b"POST /enqueue HTTP/1.1", OURS + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n") + b"\0\1\2",
    ),
    "a chunk extension": (202, CHUNKED + b"3;a=b \r\n5 \r\r\n0\r\na5: b \r\n\r\n"),
    "1024 chunks": (202, CHUNKED + b"1\r\nx\r\n" * 1024 + b"0\r\n\r\n"),
}
