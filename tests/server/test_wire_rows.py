"""What the wire guard and h11 refuse, over a real socket: the status, the reason, and a closed connection."""

from __future__ import annotations

import h11
import pytest

from tests.client import open_client
from tests.server.test_wire_guard import REFUSED
from zapq.testing import ZapqServer

POST = b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
# What h11 has always refused, kept so that it stays so.
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
    "over 1024 chunks": (400, CHUNKED + b"1\r\nx\r\n" * 1025 + b"0\r\n\r\n"),
}
ROWS = {**REFUSED, **BY_H11}


@pytest.mark.parametrize(("status", "data"), ROWS.values(), ids=ROWS)
async def test_it_is_refused_with_a_problem_and_the_connection_closed(
    zapq_server: ZapqServer, status: int, data: bytes
) -> None:
    async with open_client(zapq_server.url) as client:
        await client.stream.send_all(data)
        client.connection.send(h11.Request(method="GET", target="/", headers=[("Host", "localhost")]))
        client.connection.send(h11.EndOfMessage())
        answer = await client.answer()
        assert answer.status == status
        assert answer.headers["connection"] == "close"
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json
        assert problem["status"] == status
        assert problem["instance"] == answer.headers["x-trace-id"]
        assert await client.reads_eof()
    assert zapq_server.service.stats().queue.enqueued == 0


async def test_1024_chunks_are_a_message(zapq_server: ZapqServer) -> None:
    async with open_client(zapq_server.url) as client:
        await client.stream.send_all(CHUNKED + b"1\r\nx\r\n" * 1024 + b"0\r\n\r\n")
        client.connection.send(h11.Request(method="GET", target="/", headers=[("Host", "localhost")]))
        client.connection.send(h11.EndOfMessage())
        assert (await client.answer()).status == 202


@pytest.mark.parametrize(
    "fields",
    [
        b"Upgrade: h2c\r\nHTTP2-Settings: !!!a\r\nConnection: upgrade\r\n",
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nConnection: Upgrade, HTTP2-Settings\r\n",
        b"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n",
    ],
)
async def test_an_upgrade_is_ignored_and_the_request_answered(zapq_server: ZapqServer, fields: bytes) -> None:
    async with open_client(zapq_server.url) as client:
        await client.stream.send_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + fields + b"\r\n")
        client.connection.send(h11.Request(method="GET", target="/", headers=[("Host", "localhost")]))
        client.connection.send(h11.EndOfMessage())
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, b"ok")


@pytest.mark.parametrize("garbage", [b"POST / HTTP/1.1\r\n", b"1\r\nx\r\n" * 1025], ids=["no chunk", "too many"])
async def test_a_body_that_goes_wrong_while_its_request_is_refused_leaves_one_whole_answer(
    zapq_server: ZapqServer, garbage: bytes
) -> None:
    # Two tasks have an answer, and Trio decides anew each time which comes first: so, many times.
    head = b"POST /dequeue?waits=1 HTTP/1.1\r\nHost: localhost\r\n"
    head += b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    for _ in range(40):
        async with open_client(zapq_server.url) as client:
            await client.stream.send_all(head + garbage)
            client.connection.send(h11.Request(method="GET", target="/", headers=[("Host", "localhost")]))
            client.connection.send(h11.EndOfMessage())
            answer = await client.answer()
            assert answer.status == 400
            assert answer.json["instance"] == answer.headers["x-trace-id"]
            assert await client.reads_eof()
