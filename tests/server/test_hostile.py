"""Whatever one connection does, the server goes on answering the others and keeps nothing of it.

Every case is one hostile client. After each: a fresh client is answered, tasks, descriptors and connections
are back to what they were, the log has at most one line at INFO or above, and the message that was held
before is still held.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import ssl
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import h2.connection
import h2.settings
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import zapq
from tests.support.process import open_sockets
from tests.support.serving import with_tls
from tests.support.wire import ask, vanish
from zapq.service.service import QueueService
from zapq.settings import Settings

HOST = b"Host: localhost\r\n"
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
POLL = b"GET /dequeue?wait=20 HTTP/1.1\r\nHost: localhost\r\n\r\n"
PEEK = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\n"
LONG = POST + b"Content-Length: 1000\r\n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
HELLO = bytes.fromhex("16030100f4010000f00303") + bytes(240)

Step = bytes | Callable[["Peer"], Awaitable[None]]


@dataclass
class Peer:
    """The hostile end of a connection."""

    stream: trio.SocketStream
    context: ssl.SSLContext

    async def swallow(self) -> None:
        """Read until the server closes."""
        while await self.stream.receive_some():
            pass


async def fin(peer: Peer) -> None:
    await peer.stream.send_eof()
    await peer.swallow()


async def rst(peer: Peer) -> None:
    vanish(peer.stream)


async def read_one(peer: Peer) -> None:
    await peer.stream.receive_some(1)


async def wait_for_close(peer: Peer) -> None:
    """Do nothing at all until the server has had enough."""
    await peer.swallow()


async def flood(peer: Peer) -> None:
    """Send requests without ever reading an answer, until the server stops taking them."""
    # The less the kernel keeps, the sooner it does.
    for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        peer.stream.socket.setsockopt(socket.SOL_SOCKET, buffer, 4096)
    with trio.move_on_after(30):
        while True:
            await peer.stream.send_all(GET * 100)


def drip(data: bytes) -> Step:
    async def step(peer: Peer) -> None:
        for byte in data:
            await peer.stream.send_all(bytes([byte]))
            await trio.sleep(2)
        await peer.swallow()

    return step


def over_tls(*steps: bytes, alpn: str = "h2", end: Step = rst) -> Step:
    """Speak `steps` inside TLS."""

    async def step(peer: Peer) -> None:
        peer.context.set_alpn_protocols([alpn])
        stream = trio.SSLStream(peer.stream, peer.context, server_hostname="localhost", https_compatible=True)
        await stream.do_handshake()
        for data in steps:
            await stream.send_all(data)
            await stream.receive_some()
        if end is not fin:
            await end(peer)  # type: ignore[operator]
        else:
            while await stream.receive_some():
                pass

    return step


def frames(*calls: Callable[[h2.connection.H2Connection], object]) -> bytes:
    """What an HTTP/2 client sends that makes these calls."""
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    for call in calls:
        call(connection)
    return connection.data_to_send()


def request(number: int, method: str = "GET", path: str = "/health", *, end: bool = True) -> Callable[..., None]:
    fields = [(":method", method), (":path", path), (":scheme", "https"), (":authority", "localhost")]
    return lambda connection: connection.send_headers(number, fields, end_stream=end)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def rapid_resets(number: int) -> bytes:
    calls: list[Callable[[h2.connection.H2Connection], object]] = []
    for stream in range(1, 2 * number, 2):
        calls += [request(stream), lambda connection, stream=stream: connection.reset_stream(stream)]  # type: ignore[misc]
    return frames(*calls)


PLAIN: dict[str, tuple[Step, ...]] = {
    "says nothing": (wait_for_close,),
    "closes at once": (fin,),
    "resets at once": (rst,),
    "garbage": (b"\x00\xff\xfe garbage \r\n\r\n", fin),
    "an HTTP/0.9 line": (b"GET /\r\n\r\n", fin),
    "NULs": (b"\0" * 4096, fin),
    "newlines without end": (b"\r\n" * 8000, fin),
    "a TLS client hello": (HELLO, fin),
    "an SSH banner": (b"SSH-2.0-OpenSSH_9.2\r\n", fin),
    "a malformed h2c upgrade": (
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: !!!a\r\nConnection: upgrade\r\n\r\n",
        fin,
    ),
    "an h2c upgrade": (
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
        b"Connection: Upgrade, HTTP2-Settings\r\n\r\n",
        fin,
    ),
    "h2 by prior knowledge": (frames(request(1)), fin),
    "h2 by prior knowledge, then frames without end": (frames(*(request(n) for n in range(1, 99, 2))) * 9, rst),
    "a WebSocket upgrade": (
        b"GET /dequeue HTTP/1.0\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n",
        b"\x81\x05hello",
        rst,
    ),
    "a WebSocket upgrade without a key": (
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        fin,
    ),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", fin),
    "two hosts": (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", fin),
    "length and encoding": (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", fin),
    "lengths that differ": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", fin),
    "a length with a sign": (POST + b"Content-Length: +3\r\n\r\nabc", fin),
    "a negative length": (POST + b"Content-Length: -1\r\n\r\n", fin),
    "a length with an underscore": (POST + b"Content-Length: 1_0\r\n\r\n0123456789", fin),
    "a length of 21 digits": (POST + b"Content-Length: 100000000000000000000\r\n\r\n", fin),
    "a length far over the limit": (POST + b"Content-Length: 10000000000\r\n\r\n" + bytes(300_000), fin),
    "a body far over the limit in chunks": (CHUNKED + b"ffff\r\n" + bytes(65535) + b"\r\n", LONG * 3000, rst),
    "chunked, identity": (POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", fin),
    "a chunk size that is none": (CHUNKED + b"xyz\r\n", fin),
    "a chunk size beyond reason": (CHUNKED + b"f" * 40 + b"\r\n", fin),
    "a chunk without its end": (CHUNKED + b"3\r\nabcdef", fin),
    "LF in a chunk extension": (CHUNKED + b"3;a=\nb\r\nabc\r\n0\r\n\r\n", fin),
    "two thousand one-byte chunks": (CHUNKED + b"1\r\nx\r\n" * 2000 + b"0\r\n\r\n", fin),
    "trailers without end": (CHUNKED + b"0\r\n" + b"A: b\r\n" * 20_000, fin),
    "a head of 1 MiB": (b"GET /health HTTP/1.1\r\nA: " + b"b" * 2**20, rst),
    "10^5 header fields": (b"GET /health HTTP/1.1\r\n" + b"A: b\r\n" * 100_000, rst),
    "a target of 64 KiB": (b"GET /" + b"x" * 65536 + b" HTTP/1.1\r\n" + HOST + b"\r\n", rst),
    "a thousand parameters": (
        b"GET /dequeue?" + b"&".join([b"a=1"] * 480) + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        fin,
    ),
    "an escape sequence in a path": (b"GET /%1b%5b31m%0a HTTP/1.1\r\n" + HOST + b"\r\n", fin),
    "HEAD where a message would go": (b"HEAD /dequeue HTTP/1.1\r\n" + HOST + b"\r\n", fin),
    "a method of 4 KiB": (b"X" * 4096 + b" / HTTP/1.1\r\n" + HOST + b"\r\n", fin),
    "Expect and no body": (POST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n", wait_for_close),
    "Expect something else": (POST + b"Content-Length: 3\r\nExpect: magic\r\n\r\nabc", rst),
    "a slow head": (drip(b"GET /health HTTP/1.1\r\nHost: xxxxxxxxxxxxxxxxxxxx"),),
    "a slow body": (LONG, drip(b"x" * 20)),
    "a slow chunk": (CHUNKED, drip(b"5\r\nabcde" * 3)),
    "a body that stops": (LONG, wait_for_close),
    "reset in the head": (b"GET /health HT", rst),
    "closed in the head": (b"GET /health HT", fin),
    "reset after the head": (LONG, rst),
    "closed after the head": (LONG, fin),
    "reset in the body": (LONG + b"half", rst),
    "closed in the body": (LONG + b"half", fin),
    "reset in a chunk": (CHUNKED + b"9\r\nhalf", rst),
    "closed in a chunk": (CHUNKED + b"9\r\nhalf", fin),
    "reset right after a request": (GET, rst),
    "reset in the answer": (PEEK, read_one, rst),
    "reset with requests in line": (GET * 200, read_one, rst),
    "closed with requests in line": (GET * 200, fin),
    "requests without reading": (flood, rst),
    "more after the last request": (b"GET /health HTTP/1.0\r\n\r\n" + GET * 3, fin),
    "garbage after a request": (GET + b"\x00garbage\r\n\r\n", fin),
    "garbage behind a body": (POST + b"Content-Length: 0\r\nConnection: close\r\n\r\n" + b"x" * 100_000, rst),
}
WAITING: dict[str, tuple[Step, ...]] = {
    "reset in a long poll": (POLL, rst),
    "closed in a long poll": (POLL, fin),
    # Whoever sends more before it has its answer is not read from, so it is not seen to leave before that.
    "garbage behind a long poll": (POLL + b"\0garbage" * 10, rst),
    "a long poll with requests in line": (POLL + GET * 50, rst),
}
TLS: dict[str, tuple[Step, ...]] = {
    "plain HTTP on the TLS port": (GET, wait_for_close),
    "garbage on the TLS port": (b"\x16\x03\x01\xff\xff" + bytes(100), rst),
    "a handshake cut off": (HELLO[:50], rst),
    "a handshake half closed": (HELLO[:50], fin),
    "closed at once over TLS": (over_tls(),),
    "HTTP/1.1 over TLS, reset": (over_tls(GET, alpn="http/1.1"),),
    "a broken head over TLS": (over_tls(b"GET ?x HTTP/1.1\r\n\r\n", alpn="http/1.1"),),
    "a bad preface": (over_tls(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),),
    "a frame beyond the limit": (over_tls(frames() + frame(0, 0, 1, bytes(20_000))),),
    "DATA for a stream that is none": (over_tls(frames() + frame(0, 0, 7, b"x")),),
    "a request and a reset": (over_tls(frames(request(1), lambda c: c.reset_stream(1))),),
    "rapid resets": (over_tls(rapid_resets(300)),),
    "over a thousand resets": (over_tls(rapid_resets(1100)),),
    "CONNECT": (over_tls(frames(lambda c: c.send_headers(1, [(":method", "CONNECT"), (":authority", "x:1")]))),),
    "DATA after the answer": (
        over_tls(
            frames(
                request(1, "POST", "/nothing", end=False),
                *(partial(h2.connection.H2Connection.send_data, stream_id=1, data=bytes(9000)) for _ in range(3)),
            )
        ),
    ),
    "an upload that stops": (over_tls(frames(request(1, "POST", "/enqueue", end=False))),),
    "SETTINGS without end": (over_tls(frames() + frame(4, 0, 0, b"") * 3000),),
    "PING without end": (over_tls(frames() + frame(6, 0, 0, bytes(8)) * 3000),),
    "a window that overflows": (over_tls(frames() + frame(8, 0, 0, b"\x7f\xff\xff\xff") * 2),),
    "a header block that is none": (over_tls(frames() + frame(1, 5, 1, b"\xff" * 40)),),
    "CONTINUATION without end": (over_tls(frames() + frame(1, 0, 1, b"\x82") + frame(9, 0, 1, b"\x00") * 500),),
    "GOAWAY": (over_tls(frames(request(1)) + frame(7, 0, 0, bytes(8))),),
    "a window of nothing": (
        over_tls(
            frames(
                lambda c: c.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}),
                request(1, path="/metrics"),
            )
        ),
    ),
}


@pytest.fixture
def zapq_settings(zapq_settings: Settings) -> Settings:
    # Shorter than a hostile client has patience, and longer than any machine takes for what must be in time.
    return replace(zapq_settings, keep_alive=30, head_timeout=20, body_timeout=20, send_timeout=20)


@pytest.fixture
def tls(zapq_settings: Settings, tmp_path: Path) -> tuple[Settings, ssl.SSLContext]:
    return with_tls(zapq_settings, tmp_path)


@pytest.fixture
def client_context(tls: tuple[Settings, ssl.SSLContext]) -> ssl.SSLContext:
    return tls[1]


@dataclass
class Target:
    """The server under attack and what it looked like before."""

    url: str
    service: QueueService
    context: ssl.SSLContext
    tasks: int = 0
    descriptors: int = 0

    async def connect(self) -> Peer:
        port = int(self.url.rpartition(":")[2])
        stream = await trio.open_tcp_stream("127.0.0.1", port, happy_eyeballs_delay=60)
        return Peer(stream, self.context)

    async def attack(self, steps: tuple[Step, ...]) -> None:
        """Be the hostile client; what becomes of it does not matter."""
        peer = await self.connect()
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError), trio.move_on_after(300):
            for step in steps:
                if isinstance(step, bytes):
                    await peer.stream.send_all(step)
                else:
                    await step(peer)
        peer.stream.socket.close()

    async def answers(self) -> dict[str, int]:
        tls = self.context if self.url.startswith("https") else None
        if tls is not None:
            tls.set_alpn_protocols(["http/1.1"])
        assert (await ask(self.url, "GET", "/health", context=tls)).body == b"ok"
        metrics: dict[str, int] = (await ask(self.url, "GET", "/metrics", context=tls)).json
        return metrics

    async def remember(self) -> None:
        sockets = open_sockets(os.getpid())
        await self.answers()
        while open_sockets(os.getpid()) > sockets:  # our own connection
            await trio.sleep(1)
        await wait_all_tasks_blocked(0.05)
        self.tasks, self.descriptors = census()

    async def at_rest(self) -> None:
        """Wait until nothing but the server itself is left."""
        with trio.move_on_after(1000):
            while self.service.stats().waiting or (self.tasks and census() != (self.tasks, self.descriptors)):
                await trio.sleep(1)
            return
        raise AssertionError(f"left behind: {census()} where ({self.tasks}, {self.descriptors}) were before")


def census() -> tuple[int, int]:
    return trio.lowlevel.current_statistics().tasks_living, len(os.listdir("/proc/self/fd"))


@pytest.fixture
async def target(
    zapq_service: QueueService, zapq_settings: Settings, nursery: trio.Nursery, client_context: ssl.SSLContext
) -> Target:
    [url] = await nursery.start(partial(zapq.serve, zapq_settings, service=zapq_service))
    return Target(url, zapq_service, client_context)


@pytest.fixture
async def tls_target(
    zapq_service: QueueService, tls: tuple[Settings, ssl.SSLContext], nursery: trio.Nursery
) -> Target:
    settings = replace(tls[0], http2=True)
    [url] = await nursery.start(partial(zapq.serve, settings, service=zapq_service))
    return Target(url, zapq_service, tls[1])


async def survives(
    target: Target, steps: tuple[Step, ...], caplog: pytest.LogCaptureFixture, *, held: bool
) -> None:
    caplog.set_level(logging.INFO, logger="zapq")
    if held:
        await target.service.enqueue(b"held")
    await target.remember()
    caplog.clear()
    await target.attack(steps)
    await target.at_rest()
    assert len(caplog.records) <= 1, [record.__dict__.get("fields") for record in caplog.records]
    assert all(record.levelno < logging.ERROR for record in caplog.records)
    metrics = await target.answers()
    assert metrics["connection_errors"] == 0
    if held:
        message = target.service.dequeue_nowait()
        assert message is not None
        assert message.body == b"held"


@pytest.mark.parametrize("steps", PLAIN.values(), ids=PLAIN)
async def test_the_plain_port_survives(
    target: Target, steps: tuple[Step, ...], caplog: pytest.LogCaptureFixture, patient_clock: MockClock
) -> None:
    await survives(target, steps, caplog, held=True)


@pytest.mark.parametrize("steps", WAITING.values(), ids=WAITING)
async def test_long_polls_survive_and_swallow_nothing(
    target: Target, steps: tuple[Step, ...], caplog: pytest.LogCaptureFixture, patient_clock: MockClock
) -> None:
    await survives(target, steps, caplog, held=False)
    target.service.enqueue_nowait(b"for somebody who is there")
    assert target.service.stats().queue.messages == 1


@pytest.mark.parametrize("steps", TLS.values(), ids=TLS)
async def test_the_tls_port_survives(
    tls_target: Target, steps: tuple[Step, ...], caplog: pytest.LogCaptureFixture, patient_clock: MockClock
) -> None:
    await survives(tls_target, steps, caplog, held=True)


async def test_a_reader_that_never_reads_holds_one_message_and_nothing_else(
    zapq_settings: Settings, nursery: trio.Nursery, client_context: ssl.SSLContext, patient_clock: MockClock
) -> None:
    large = bytes(8 * 2**20)
    settings = replace(zapq_settings, max_message_bytes=len(large))
    async with zapq.open_service(settings) as service:
        [url] = await nursery.start(partial(zapq.serve, settings, service=service))
        target = Target(url, service, client_context)
        for _ in range(3):
            await service.enqueue(large)
        await target.remember()
        peer = await target.connect()
        peer.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await peer.stream.send_all(b"GET /dequeue HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
        await trio.sleep(settings.send_timeout + 1)
        assert service.stats().delivery_uncertain == 1
        peer.stream.socket.close()
        await target.at_rest()
        assert service.stats().queue.messages == 2
        nursery.cancel_scope.cancel()


def held() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.slow
@pytest.mark.once
async def test_the_whole_corpus_leaves_no_memory_behind(
    target: Target, caplog: pytest.LogCaptureFixture, patient_clock: MockClock
) -> None:
    caplog.set_level(logging.CRITICAL, logger="zapq")  # pytest keeps every record

    async def round_of_attacks() -> None:
        async with trio.open_nursery() as nursery:
            for steps in (*PLAIN.values(), *WAITING.values()):
                nursery.start_soon(target.attack, steps)
        await target.at_rest()

    await target.remember()
    await round_of_attacks()
    tracemalloc.start()
    try:
        await round_of_attacks()
        before = held()
        await round_of_attacks()
        grown = held() - before
    finally:
        tracemalloc.stop()
    assert grown < 256 * 1024, grown
    await target.answers()
