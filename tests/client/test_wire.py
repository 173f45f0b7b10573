"""The client's grammar, without a socket: requests are judged by h11, answers read however they are cut."""

from __future__ import annotations

import h11
import pytest

from zapq.client.answers import decoded, error_of
from zapq.client.calls import Calls
from zapq.client.wire import Answer, Reader, Strange, Writer, in_path
from zapq.errors import InvalidParameter, ServerError
from zapq.limits import MAX_ANSWER_HEAD_BYTES

OURS = {
    "with a body": b"HTTP/1.1 200 OK\r\nZapq-Message-Id: 7\r\nContent-Length: 5\r\nDate: today\r\n\r\nhello",
    "without": b"HTTP/1.1 204 No Content\r\nCache-Control: no-store\r\n\r\n",
    "empty": b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nconnection: Keep-Alive\r\n\r\n",
}
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n"
ODD = {
    "chunks": (CHUNKED, True),
    "1xx": (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OURS["with a body"], True),
    "no space": (b"HTTP/1.1 200 OK\r\nContent-Length:5\r\n\r\nhello", True),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", True),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", True),
    "to be closed": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", False),
}
NONE = {
    "TLS": b"\x15\x03\x01\x00\x02\x02\x50",
    "another protocol": b"SSH-2.0-OpenSSH\r\n\r\n",
    "lengths that differ": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "no length": b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_ANSWER_HEAD_BYTES,
}


def read(pieces: list[bytes]) -> Answer | None:
    reader = Reader()
    for piece in pieces:
        answer = reader.feed(piece)
        if answer is not None:
            assert piece is pieces[-1]
            return answer
    return None


def halves(data: bytes) -> list[list[bytes]]:
    return [[data[:place], data[place:]] for place in range(1, len(data))]


@pytest.mark.parametrize("data", OURS.values(), ids=OURS)
def test_what_our_server_says_is_read_however_it_is_cut(data: bytes) -> None:
    whole = read([data])
    assert whole is not None
    assert whole.body == (b"hello" if b"hello" in data else b"")
    for pieces in [*halves(data), [bytes([byte]) for byte in data]]:
        answer = read(pieces)
        assert answer is not None
        assert repr(answer) == repr(whole)
        assert (answer.fields, answer.body, answer.reusable) == (whole.fields, whole.body, True)


@pytest.mark.parametrize(("data", "reusable"), ODD.values(), ids=ODD)
def test_what_is_odd_is_read_as_well(data: bytes, reusable: bool) -> None:
    for pieces in [[data], *halves(data), [bytes([byte]) for byte in data]]:
        answer = read(pieces)
        assert answer is not None
        assert (answer.status, answer.body, answer.reusable) == (200, b"hello", reusable)


def test_an_answer_without_length_ends_with_the_connection() -> None:
    for end in ([b""], [b" world", b""]):
        answer = read([b"HTTP/1.1 200 OK\r\n\r\nhello", *end])
        assert answer is not None
        assert answer.body == b"hello" + b"".join(end)
        assert not answer.reusable


@pytest.mark.parametrize("data", NONE.values(), ids=NONE)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(Strange):
        read([data, b""])


@pytest.mark.parametrize("data", [*OURS.values(), *(data for data, _ in ODD.values())])
def test_an_answer_that_is_cut_off_is_none(data: bytes) -> None:
    for place in range(len(data)):
        with pytest.raises(Strange):
            read([data[:place], b""])
        if place:
            with pytest.raises(Strange):
                read([data[: place - 1], data[place - 1 : place], b""])


def test_a_connection_on_which_more_came_than_was_asked_for_is_not_used_again() -> None:
    with_body = OURS["with a body"]
    for data in (with_body, OURS["empty"], OURS["without"], CHUNKED):
        answer = read([data + b"HTTP"])
        assert answer is not None
        assert not answer.reusable
    reader = Reader()
    assert reader.feed(with_body[:-2]) is None
    answer = reader.feed(with_body[-2:] + b"HTTP")
    assert answer is not None
    assert (answer.body, answer.reusable) == (b"hello", False)


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"204 No Content\r\nContent-Length: 5", b""),
        (b"304 Not Modified\r\nContent-Length: 5", b""),
        (b"200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"),
    ],
)
def test_a_connection_is_not_used_again_after_an_answer_whose_end_is_in_doubt(head: bytes, body: bytes) -> None:
    answer = read([b"HTTP/1.1 " + head + b"\r\n\r\n" + body])
    assert answer is not None
    assert (answer.body, answer.reusable) == (b"hello" if body else b"", False)


def test_requests_are_what_h11_takes_for_requests() -> None:
    writer = Writer("zapq:8080", "/behind", "t0ken")
    server = h11.Connection(h11.SERVER)
    server.receive_data(
        writer.request("POST", "/queues/q/messages", {"group": "a&1 /"}, {"Idempotency-Key": "k"}, b"hello")
    )
    request = server.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method, request.target) == (b"POST", b"/behind/queues/q/messages?group=a%261+%2F")
    assert dict(request.headers) == {
        b"host": b"zapq:8080",
        b"authorization": b"Bearer t0ken",
        b"idempotency-key": b"k",
        b"content-length": b"5",
    }
    data = server.next_event()
    assert isinstance(data, h11.Data)
    assert data.data == b"hello"
    assert writer.request("POST", "/x").endswith(b"\r\nContent-Length: 0\r\n\r\n")
    assert b"Content-Length" not in writer.request("GET", "/x") + writer.request("DELETE", "/x")


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\0", "\xe4", "a\n", " a", "\x7f"])
def test_what_cannot_stand_in_a_head_is_refused(value: str) -> None:
    with pytest.raises(InvalidParameter, match="cannot be sent over HTTP: X must be"):
        Writer("zapq").request("GET", "/", None, {"X": value})
    with pytest.raises(InvalidParameter, match="token must be"):
        Writer("zapq", token=value)


def test_a_receipt_stays_in_its_place() -> None:
    assert in_path("a/../b?c#d\r\n") == "a%2F..%2Fb%3Fc%23d%0D%0A"


@pytest.mark.parametrize("wait", [-0.001, -31.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused_before_it_is_waited(wait: float) -> None:
    calls = Calls(Writer("zapq"))
    with pytest.raises(InvalidParameter):
        calls.receive("q", wait=wait, visibility=None)
    with pytest.raises(InvalidParameter):
        calls.put_many("q", [b""], headers=None, durability=None, wait=wait, key=None)


def test_a_value_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="surrogates"):
        Writer("zapq").request("GET", "/", {"group": "\ud800"})


def test_an_answer_nested_without_end_is_not_ours() -> None:
    nested = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    with pytest.raises(ServerError):
        decoded(Answer(200, "OK", {}, nested), dict[str, object])
    refused = error_of(Answer(500, "No", {"content-type": "application/problem+json"}, nested))
    assert str(refused) == "The server answered 500 No."
