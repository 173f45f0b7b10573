"""TLS connections: handshakes that wait for those who are connected, sessions, goodbyes, and what was written."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import zapq
from tests.support.certificates import trusting, write_certificate
from tests.support.serving import serving, until_waiting, with_tls
from tests.support.wire import Client, ask, connect, connection, metrics, open_client, socket_below
from zapq.limits import HANDSHAKE_SECONDS, SEND_PIECE_BYTES
from zapq.server import newcomers
from zapq.server.hotpath import Answers, HotPath
from zapq.server.tls import Buffers, PlainHTTP, TlsSocket
from zapq.service.service import QueueService
from zapq.settings import Settings

DEQUEUE = b"GET /dequeue HTTP/1.1\r\nHost: localhost\r\n\r\n"
WAIT = b"GET /dequeue?wait=30 HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def zapq_settings(zapq_settings: Settings, tmp_path: Path) -> Settings:
    return with_tls(zapq_settings, tmp_path)[0]


@pytest.fixture(params=[True, False], ids=["lobby", "tasks"])
async def url(request: pytest.FixtureRequest, zapq_settings: Settings) -> AsyncGenerator[str, None]:
    async with serving(replace(zapq_settings, hot_path=request.param)) as url:
        yield url


class Hello:
    """A client that does its half of a handshake by itself, in memory."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.session = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def step(self, data: bytes = b"") -> bytes:
        self.incoming.write(data)
        with suppress(ssl.SSLWantReadError):
            self.session.do_handshake()
        return self.outgoing.read()


async def test_a_session_is_resumed(url: str) -> None:
    first = await connect(url)
    assert isinstance(first, trio.SSLStream)
    answer = await Client(first).request("GET", "/dequeue")
    assert answer.status == 204
    assert not first.session_reused
    context = first.context
    second = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
    again = trio.SSLStream(second, context, server_hostname="127.0.0.1", https_compatible=True)
    again.session = first.session
    assert (await Client(again).request("GET", "/dequeue")).status == 204
    assert again.session_reused
    for stream in (first, again):
        await trio.aclose_forcefully(stream)


async def test_those_who_are_connected_go_before_those_who_shake_hands(
    zapq_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    handshake, respond = TlsSocket.handshake, HotPath.respond

    def note_handshake(self: TlsSocket) -> bytes | None:
        events.append("step")
        return handshake(self)

    def note_request(self: HotPath, *given: object) -> Answers:
        events.append("request")
        return respond(self, *given)  # type: ignore[arg-type]

    number, requests = 50, 20
    async with serving(zapq_settings) as url, open_client(url) as connected, AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(connection(url, handshake=False)) for _ in range(number)]
        await wait_all_tasks_blocked()
        monkeypatch.setattr(TlsSocket, "handshake", note_handshake)
        monkeypatch.setattr(HotPath, "respond", note_request)
        context = trusting()
        async with trio.open_nursery() as nursery:
            # All of them are there when the lobby looks.
            for stream in crowd:
                nursery.start_soon(stream.send_all, Hello(context).step())
        for _ in range(requests):
            assert (await connected.request("GET", "/dequeue")).status == 204
    at = [place for place, event in enumerate(events) if event == "request"]
    assert len(at) == requests
    # This client runs in turns with the server: its request and the answer are a few of them.
    assert max(after - before for before, after in pairwise([-1, *at])) <= 10
    assert events[: at[-1]].count("step") <= number


async def test_of_many_handshakes_that_do_not_go_on_the_oldest_is_given_up(
    zapq_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newcomers, "MAX_HANDSHAKES", 3)
    context = trusting()
    async with serving(zapq_settings) as url, AsyncExitStack() as stack:
        crowd = []
        for _ in range(4):
            # One that has sent nothing has not begun.
            await stack.enter_async_context(connection(url, handshake=False))
            crowd.append(await stack.enter_async_context(connection(url, handshake=False)))
            await crowd[-1].send_all(Hello(context).step())
            assert await crowd[-1].receive_some()
        # Long before its time is up.
        with trio.fail_after(HANDSHAKE_SECONDS / 2):
            while await crowd[0].receive_some():
                pass
        # This is one more, and so one more is given up.
        assert (await metrics(url))["connections"] == 4 + 2 + 1


async def test_a_request_that_comes_with_the_end_of_the_handshake_is_answered(url: str) -> None:
    hello = Hello(trusting())
    async with connection(url, handshake=False) as stream:
        await stream.send_all(hello.step())
        finished = b""
        while not finished:
            finished = hello.step(bytes(await stream.receive_some()))
        hello.session.write(DEQUEUE)
        await stream.send_all(finished + hello.outgoing.read())
        received = b""
        while b"\r\n\r\n" not in received:
            hello.incoming.write(bytes(await stream.receive_some()))
            with suppress(ssl.SSLWantReadError):
                received += hello.session.read(65536)
        assert received.startswith(b"HTTP/1.1 204")


@pytest.mark.parametrize("end", ["goodbye", "end", "garbage"])
async def test_who_leaves_while_waiting_loses_no_message(
    zapq_settings: Settings, zapq_service: QueueService, end: str
) -> None:
    async with serving(zapq_settings, zapq_service) as url, connection(url) as stream, connection(url) as next_:
        await stream.send_all(WAIT)
        await until_waiting(zapq_service, 1)
        await next_.send_all(WAIT)
        await until_waiting(zapq_service, 2)
        assert isinstance(stream, trio.SSLStream)
        if end == "end":
            socket_below(stream).shutdown(socket.SHUT_WR)
        else:
            # The TCP connection stays open.
            await stream.transport_stream.send_all(GOODBYES[end](stream))
        zapq_service.enqueue_nowait(b"x")
        received = b""
        while not received.endswith(b"\r\n\r\nx"):
            data = await next_.receive_some()
            assert data, received
            received += data
    assert zapq_service.stats().queue.messages == 0


def goodbye(stream: trio.SSLStream[trio.SocketStream]) -> bytes:
    """Return what says goodbye on this stream, which can only send it and close."""
    with pytest.raises(ssl.SSLWantReadError):
        stream._ssl_object.unwrap()
    return stream._outgoing.read()


def garbage(stream: trio.SSLStream[trio.SocketStream]) -> bytes:
    return bytes(100)


GOODBYES = {"goodbye": goodbye, "garbage": garbage}


async def test_a_connection_that_says_goodbye_is_closed_with_one(url: str) -> None:
    stream = await connect(url)
    assert isinstance(stream, trio.SSLStream)
    assert (await Client(stream).request("GET", "/dequeue")).status == 204
    await stream.transport_stream.send_all(goodbye(stream))
    received = b""
    while data := await stream.transport_stream.receive_some():
        received += data
    # An alert, encrypted: in TLS 1.3 it looks like data.
    assert received[:3] == b"\x17\x03\x03"
    await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("path", ["/dequeue", "/health"])
async def test_a_last_answer_is_followed_by_a_goodbye(url: str, path: str) -> None:
    stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]), ssl_context=trusting())
    client = Client(stream)
    assert (await client.request("GET", path, headers={"Connection": "close"})).status in {200, 204}
    # Without a goodbye, this raises.
    assert await stream.receive_some() == b""
    await trio.aclose_forcefully(stream)


async def test_one_that_sends_too_much_reads_the_refusal_and_no_reset(zapq_settings: Settings) -> None:
    async with serving(replace(zapq_settings, max_message_bytes=1000)) as url, open_client(url) as client:
        head = b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500000\r\n\r\n"
        await client.stream.send_all(head + bytes(200_000))
        assert (await client.answer_unasked()).status == 413
        assert await client.reads_eof()


async def test_garbage_ends_its_connection_and_no_other(url: str) -> None:
    async with open_client(url) as bystander, connection(url) as stream:
        assert (await bystander.request("GET", "/dequeue")).status == 204
        assert isinstance(stream, trio.SSLStream)
        await stream.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
        while await stream.transport_stream.receive_some():
            pass
        assert (await bystander.request("GET", "/dequeue")).status == 204
        assert (await bystander.request("GET", "/metrics")).json["connection_errors"] == 0


async def test_hot_and_cold_requests_follow_each_other_in_any_pieces(zapq_settings: Settings) -> None:
    cold = b"GET /%68ealth HTTP/1.1\r\nHost: localhost\r\n\r\n"
    script = (DEQUEUE + cold) * 3
    async with serving(zapq_settings) as url:
        for size in (len(script), 100, 7):
            async with connection(url) as stream:
                for start in range(0, len(script), size):
                    await stream.send_all(script[start : start + size])
                received = b""
                while received.count(b"\r\n\r\nok") < 3:
                    received += await stream.receive_some()
                assert received.count(b"HTTP/1.1 204") == 3
        assert (await metrics(url))["hot_requests"] == 9


class Pair:
    """A `TlsSocket` and a client, in one process."""

    def __init__(self, directory: Path) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*write_certificate(directory))
        here, self.peer = socket.socketpair()
        for sock in (here, self.peer):
            sock.setblocking(False)
        self.buffers = Buffers()
        self.tls = TlsSocket(here, context, self.buffers)
        self.client = Hello(trusting())
        self.ended = False

    def agree(self) -> None:
        said = self.client.step()
        while said:
            self.peer.send(said)
            self.tls.handshake()
            said = self.client.step(self.peer.recv(65536))
        assert self.tls.established

    def read(self, size: int) -> bytes:
        """Take so much of what the kernel has, and return what can be decrypted."""
        try:
            self.client.incoming.write(self.peer.recv(size))
        except BlockingIOError:
            return b""
        received = b""
        try:
            while data := self.client.session.read(65536):
                received += data
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        return received

    @property
    def is_tidy(self) -> bool:
        return not self.buffers.incoming.pending and not self.buffers.outgoing.pending


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    with pair.tls.sock, pair.peer:
        yield pair


def test_what_the_client_can_have_read_is_never_more_than_what_is_counted(pair: Pair) -> None:
    pair.agree()
    pair.tls.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    data = bytes(range(256)) * (5 * SEND_PIECE_BYTES // 256) + b"the end"
    counted, received = 0, b""
    while len(received) < len(data):
        if counted < len(data):
            with suppress(BlockingIOError):
                counted += pair.tls.send(memoryview(data)[counted : counted + 3 * SEND_PIECE_BYTES])
        received += pair.read(3000)
        assert len(received) <= counted
        assert pair.is_tidy
    assert received == data
    assert counted == len(data)


def test_of_a_record_that_the_kernel_did_not_take_whole_nothing_can_be_read(pair: Pair) -> None:
    pair.agree()
    try:
        while True:
            pair.tls.sock.send(bytes(65536))  # the kernel is full
    except BlockingIOError:
        pass
    with pytest.raises(BlockingIOError):
        pair.tls.send(b"x" * 100)
    assert pair.tls.has_unsent
    assert pair.is_tidy


def test_a_write_that_fails_leaves_nothing_to_other_connections(pair: Pair) -> None:
    pair.agree()
    session = pair.tls._session

    class Failing:
        def write(self, data: bytes) -> None:
            pair.buffers.outgoing.write(b"half a record")
            raise ssl.SSLError("a mistake")

    pair.tls._session = Failing()  # type: ignore[assignment]  # as much of one as is asked
    with pytest.raises(ssl.SSLError):
        pair.tls.send(b"x")
    assert pair.is_tidy
    pair.tls._session = session


def test_what_arrives_with_the_end_is_not_lost(pair: Pair) -> None:
    pair.agree()
    pair.client.session.write(b"last words")
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.session.unwrap()
    pair.peer.send(pair.client.outgoing.read())
    assert pair.tls.recv(65536) == b"last words"
    # A selector is told that there is more: the end.
    assert pair.tls.sock.recv(1, socket.MSG_PEEK) == b""
    assert pair.tls.recv(65536) == b""


def test_part_of_a_record_is_nothing_yet(pair: Pair) -> None:
    pair.agree()
    pair.client.session.write(b"hello")
    record = pair.client.outgoing.read()
    for byte in record[:-1]:
        pair.peer.send(bytes([byte]))
        with pytest.raises(BlockingIOError):
            pair.tls.recv(65536)
        assert pair.is_tidy
    pair.peer.send(record[-1:])
    assert pair.tls.recv(65536) == b"hello"


def test_after_its_own_end_it_sends_nothing(pair: Pair) -> None:
    pair.agree()
    pair.tls.shutdown(socket.SHUT_WR)
    with pytest.raises(BrokenPipeError):
        pair.tls.send(b"x")
    pair.read(65536)
    assert pair.ended
    pair.peer.send(b"whatever")
    assert pair.tls.recv(65536) == b"whatever"


def test_plain_http_is_noticed_however_often_one_asks(pair: Pair) -> None:
    pair.peer.send(b"GET / HTTP/1.1\r\n\r\n")
    for _ in range(2):
        with pytest.raises(PlainHTTP) as caught:
            pair.tls.handshake()
        assert caught.value.start == b"GET / HTTP/1.1\r\n\r\n"
    assert not pair.tls.begun


def test_a_handshake_that_fails_is_told_the_client(pair: Pair) -> None:
    pair.peer.send(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00")
    with pytest.raises(ssl.SSLError):
        pair.tls.handshake()
    assert pair.peer.recv(100)[:1] == b"\x15"  # an alert
    assert pair.is_tidy
    pair.tls.close()


async def test_without_the_hot_path_handshakes_are_done_one_a_turn(
    zapq_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = 0
    steps: list[int] = []
    seen: list[int] = []
    handshake = TlsSocket.handshake

    def note(self: TlsSocket) -> bytes | None:
        steps.append(turn)
        return handshake(self)

    async def count_turns() -> None:
        nonlocal turn
        while True:
            await trio.lowlevel.checkpoint()
            turn += 1

    context = trusting()
    async with serving(replace(zapq_settings, hot_path=False)) as url, AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(connection(url, handshake=False)) for _ in range(20)]
        await wait_all_tasks_blocked()
        monkeypatch.setattr(TlsSocket, "handshake", note)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_turns)
            async with trio.open_nursery() as senders:
                for stream in crowd:
                    senders.start_soon(stream.send_all, Hello(context).step())
            for stream in crowd:
                assert await stream.receive_some()
            seen += steps
            nursery.cancel_scope.cancel()
    assert len(seen) == 20
    # One turn may end, and another begin, between two of those that count.
    assert max(seen.count(each) for each in seen) <= 2


async def test_a_reload_leaves_guests_as_they_are(zapq_settings: Settings, tmp_path: Path) -> None:
    reload, asked = trio.open_memory_channel[None](0)
    async with serving(zapq_settings, reload_trigger=asked.receive) as url, open_client(url) as client:
        assert (await client.request("GET", "/dequeue")).status == 204
        await reload.send(None)
        await wait_all_tasks_blocked()
        assert (await client.request("GET", "/dequeue")).status == 204
        assert (await ask(url, "GET", "/dequeue")).status == 204


def test_zapq_serves_tls_without_trios_own() -> None:
    """Trio's stream cannot take over a session that has begun."""
    for path in Path(zapq.__file__).parent.glob("server/*.py"):
        assert "SSLStream" not in path.read_text()
