"""What tests say to a server, byte by byte: a small HTTP/1.1 client (h11 on a Trio stream), ways to leave."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import h11
import msgspec
import trio

from tests.support.certificates import trusting
from tests.support.waiting import eventually

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


@asynccontextmanager
async def connection(url: str, *, handshake: bool = True) -> AsyncGenerator[Stream, None]:
    """Connect, for a test that sends its own bytes, or that is to be turned away before any handshake."""
    stream: Stream
    if url.startswith("https:") and handshake:
        stream = await connect(url)
    else:
        stream = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
    try:
        yield stream
    finally:
        await trio.aclose_forcefully(stream)


def socket_below(stream: Stream) -> trio.socket.SocketType:
    """Return the socket of a stream, plain or TLS."""
    return stream.transport_stream.socket if isinstance(stream, trio.SSLStream) else stream.socket


def vanish(stream: Stream) -> None:
    """Leave with a reset: the kernel forgets what was not sent, and TLS does not say goodbye."""
    sock = socket_below(stream)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@dataclass(frozen=True)
class Answer:
    """A response as it arrived; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


@dataclass
class Client:
    """One connection; requests follow each other on it."""

    stream: Stream
    connection: h11.Connection = field(default_factory=lambda: h11.Connection(h11.CLIENT))

    async def request(
        self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        await self.send(method, target, body, headers)
        return await self.answer(method)

    async def send(
        self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        fields = {"Host": "localhost", **(headers or {})}
        if "Transfer-Encoding" not in fields and (body or method == "POST"):
            fields.setdefault("Content-Length", str(len(body)))
        await self.send_fields(method, target, body, list(fields.items()))

    async def send_fields(self, method: str, target: str, body: bytes, fields: Sequence[tuple[str, str]]) -> None:
        """Send a request with exactly these fields, in this order; one may be there twice."""
        request = h11.Request(
            method=method,
            target=target,
            headers=[(name.encode(), value.encode("latin-1")) for name, value in fields],
        )
        data = self.connection.send(request) or b""
        if body:
            data += self.connection.send(h11.Data(data=body)) or b""
        data += self.connection.send(h11.EndOfMessage()) or b""
        await self.stream.send_all(data)

    async def answer(self, method: str = "GET") -> Answer:
        head: h11.Response | None = None
        body = b""
        while True:
            event = self.connection.next_event()
            if event is h11.NEED_DATA:
                self.connection.receive_data(bytes(await self.stream.receive_some()))
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise EOFError
        assert head is not None
        if self.connection.our_state is h11.DONE and self.connection.their_state is h11.DONE:
            self.connection.start_next_cycle()
        headers = {name.decode(): value.decode() for name, value in head.headers}
        return Answer(head.status_code, headers, body)

    async def answer_unasked(self) -> Answer:
        """Read the answer to bytes that went to the stream by themselves."""
        self.connection.send(h11.Request(method="GET", target="/", headers=[("Host", "localhost")]))
        self.connection.send(h11.EndOfMessage())
        return await self.answer()

    async def reads_eof(self) -> bool:
        """Wait for the server to close; False if it sends something first."""
        return await self.stream.receive_some() == b""


async def connect(url: str, context: ssl.SSLContext | None = None) -> Stream:
    """Open a connection to a server's URL as `zapq.serve` reports it; `context` is for TLS, or the tests' own."""
    if url.startswith("unix:"):
        return trio.SocketStream(await _unix_socket(url.removeprefix("unix:")))
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    host = {"::": "::1", "0.0.0.0": "127.0.0.1"}.get(parts.hostname, parts.hostname)
    if parts.scheme == "http":
        return await trio.open_tcp_stream(host, parts.port)
    stream = await trio.open_ssl_over_tcp_stream(
        host, parts.port, ssl_context=context or trusting(), https_compatible=True
    )
    try:
        await stream.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def _unix_socket(path: str) -> trio.socket.SocketType:
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        await sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


@asynccontextmanager
async def open_client(url: str, context: ssl.SSLContext | None = None) -> AsyncGenerator[Client, None]:
    """Yield a client with a connection of its own."""
    stream = await connect(url, context)
    try:
        yield Client(stream)
    finally:
        await trio.aclose_forcefully(stream)


async def ask(
    url: str,
    method: str,
    target: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    *,
    context: ssl.SSLContext | None = None,
) -> Answer:
    """Send one request on a connection of its own and return the answer."""
    async with open_client(url, context) as client:
        return await client.request(method, target, body, headers)


async def metrics(url: str) -> dict[str, int]:
    """Ask the server for its figures."""
    answer: dict[str, int] = (await ask(url, "GET", "/metrics")).json
    return answer


async def until_shown(url: str, **expected: int) -> None:
    """Wait until the server's figures are these. The question is a connection and a request itself."""

    async def shown() -> bool:
        figures = await metrics(url)
        return all(figures[name] == value for name, value in expected.items())

    await eventually(shown, f"/metrics to show {expected}")
