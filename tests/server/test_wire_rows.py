"""What the wire guard and h11 refuse, over a real socket: the status, the reason, and a closed connection."""

from __future__ import annotations

import h11
import pytest

from tests.server.wire_table import CHUNKED, ROWS, UPGRADES
from tests.support.wire import ask, open_client
from zapq.testing import ZapqServer


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


@pytest.mark.parametrize(
    ("fields", "advice"),
    [
        (b"", "The request has no Host field. Send one, such as Host: localhost."),
        (b"Host: a\r\nTransfer-Encoding: gzip\r\n", "Send Transfer-Encoding: chunked, or a Content-Length."),
        (b"Host: a\r\nContent-Length: x\r\n", "Send the number of bytes in the body."),
    ],
)
async def test_the_reason_is_a_whole_sentence_that_says_what_to_send(
    zapq_server: ZapqServer, fields: bytes, advice: str
) -> None:
    async with open_client(zapq_server.url) as client:
        await client.stream.send_all(b"POST /enqueue HTTP/1.1\r\n" + fields + b"\r\n")
        client.connection.send(h11.Request(method="GET", target="/", headers=[("Host", "localhost")]))
        client.connection.send(h11.EndOfMessage())
        assert (await client.answer()).json["detail"].endswith(advice)


async def test_1024_chunks_are_a_message(zapq_server: ZapqServer) -> None:
    async with open_client(zapq_server.url) as client:
        await client.stream.send_all(CHUNKED + b"1\r\nx\r\n" * 1024 + b"0\r\n\r\n")
        client.connection.send(h11.Request(method="GET", target="/", headers=[("Host", "localhost")]))
        client.connection.send(h11.EndOfMessage())
        assert (await client.answer()).status == 202


@pytest.mark.parametrize("fields", UPGRADES.values(), ids=UPGRADES)
async def test_an_upgrade_is_ignored_and_the_request_answered(zapq_server: ZapqServer, fields: bytes) -> None:
    async with open_client(zapq_server.url) as client:
        await client.stream.send_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + fields + b"\r\n")
        client.connection.send(h11.Request(method="GET", target="/", headers=[("Host", "localhost")]))
        client.connection.send(h11.EndOfMessage())
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, b"ok")


async def test_a_refusal_in_the_middle_of_a_head_request_has_no_body(zapq_server: ZapqServer) -> None:
    async with open_client(zapq_server.url) as client:
        await client.stream.send_all(CHUNKED.replace(b"POST", b"HEAD") + b"no chunk\r\n")
        client.connection.send(h11.Request(method="HEAD", target="/", headers=[("Host", "localhost")]))
        client.connection.send(h11.EndOfMessage())
        answer = await client.answer()
        assert (answer.status, answer.body) == (400, b"")
        assert await client.reads_eof()
    assert (await ask(zapq_server.url, "GET", "/metrics")).json["connection_errors"] == 0


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
