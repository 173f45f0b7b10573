"""Clients that want more connections than there are: some are turned away, the server and the others go on."""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import ssl
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import h11
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.process import open_sockets, running_zapq
from tests.support.serving import by, serving, with_tls
from tests.support.waiting import eventually
from tests.support.wire import Answer, Client, ask, connect, connection, open_client
from zapq.limits import HANDSHAKE_SECONDS
from zapq.settings import Settings


@dataclass
class Target:
    url: str
    context: ssl.SSLContext | None


@pytest.fixture(params=["lobby", "task", "tls"])
async def target(
    request: pytest.FixtureRequest, zapq_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncGenerator[Target, None]:
    settings = replace(zapq_settings, max_connections_per_address=2)
    settings, context = by(request.param, settings, monkeypatch, tmp_path)
    async with serving(settings) as url:
        yield Target(url, context)


async def test_one_address_has_its_share_of_connections_and_room_again_when_some_are_closed(
    target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(3):
        async with open_client(target.url, target.context) as one, open_client(target.url, target.context) as two:
            # Hot and cold: in the lobby, in a task, and back again.
            for method, path in (("GET", "/dequeue"), ("GET", "/health"), ("GET", "/dequeue")):
                for client in (one, two):
                    assert (await client.request(method, path)).status in {200, 204}
            for _ in range(2):
                with pytest.raises((h11.RemoteProtocolError, trio.BrokenResourceError)):
                    await ask(target.url, "GET", "/health", context=target.context)
        await wait_all_tasks_blocked()
    metrics = (await ask(target.url, "GET", "/metrics", context=target.context)).json
    assert (metrics["connections"], metrics["connections_refused"], metrics["connection_errors"]) == (1, 6, 0)
    fields = [record.fields for record in caplog.records if record.message == "connection refused"]  # type: ignore[attr-defined]
    assert fields == [{"cap": "max_connections_per_address", "limit": 2, "peer": "127.0.0.1"}] * 6


async def test_each_address_has_a_share_of_its_own(zapq_settings: Settings) -> None:
    async with serving(replace(zapq_settings, max_connections_per_address=1)) as url:
        port = int(url.rpartition(":")[2])
        clients = []
        for address in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
            stream = await trio.open_tcp_stream("127.0.0.1", port, local_address=address)
            clients.append(Client(stream))
        for client in clients:
            assert (await client.request("GET", "/health")).status == 200
            await client.stream.aclose()


@pytest.mark.parametrize("addr", ["127.0.0.1:0", "unix:"])
async def test_without_a_cap_or_an_address_nobody_is_counted(
    zapq_settings: Settings, tmp_path: Path, addr: str
) -> None:
    cap = 0 if addr != "unix:" else 1
    addr = addr if addr != "unix:" else f"unix:{tmp_path}/s"
    async with serving(replace(zapq_settings, addr=addr, max_connections_per_address=cap)) as url:
        streams = [await connect(url) for _ in range(5)]
        for stream in streams:
            assert (await Client(stream).request("GET", "/health")).status == 200
            await stream.aclose()


async def test_a_handshake_that_stalls_is_given_up(
    zapq_settings: Settings, tmp_path: Path, patient_clock: MockClock
) -> None:
    settings, _ = with_tls(zapq_settings, tmp_path)
    async with serving(settings) as url, connection(url, handshake=False) as stream:
        begun = trio.current_time()
        await stream.send_all(bytes.fromhex("16030100f4010000f00303"))
        assert await stream.receive_some() == b""
        assert trio.current_time() - begun == pytest.approx(HANDSHAKE_SECONDS, abs=1)


DESCRIPTORS = 64


def with_few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))


@pytest.mark.parametrize("flags", [[], ["--no-hot-path"], ["--durable"]], ids=["lobby", "tasks", "durable"])
async def test_without_descriptors_left_it_goes_on_with_who_is_there_and_turns_the_others_away(
    tmp_path: Path, flags: list[str]
) -> None:
    async with running_zapq(tmp_path, *flags, preexec_fn=with_few_descriptors) as server:
        host, _, port = server.addr.rpartition(":")
        directory = f"/proc/{server.process.pid}/fd"
        begun = trio.current_time()
        with ExitStack() as stack:

            def connect_some(number: int) -> list[socket.socket]:
                return [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(number)]

            pid = server.process.pid
            before = open_sockets(pid)
            # They are accepted before the others connect: no kernel promises to hand out clients in the order in
            # which they connected.
            inside = connect_some(len(REQUESTS))
            await eventually(lambda: open_sockets(pid) >= before + len(inside), "them to be accepted")
            crowd = connect_some(100)
            await eventually(
                lambda: "cannot accept connections" in server.lines(), "the descriptors to be used up"
            )
            # What they ask for now, the server has never done before.
            for client, request in zip(inside, REQUESTS, strict=True):
                await is_answered(client, *request)
            metrics = (await answer_of(inside[0], "GET", "/metrics")).json
            assert metrics["open_fds"] == metrics["max_fds"] == DESCRIPTORS
            turned_away = len(inside) + len(crowd) - metrics["connections"]
            await eventually(lambda: sum(map(is_closed, crowd)) == turned_away, "the others to be turned away")
            crowd += inside
            for client in crowd:
                client.close()
            await eventually(lambda: len(os.listdir(directory)) <= DESCRIPTORS // 2, "the server to close them")
            for newcomer in connect_some(DESCRIPTORS // 4):
                await is_answered(newcomer, "GET", "/health", b"", 200)
        about = Counter(line["msg"] for line in server.messages())
        assert not about.keys() & {"connection failed", "request failed", "Error in ASGI Framework"}
        assert about["cannot accept connections"] <= 2 + trio.current_time() - begun
        server.process.send_signal(signal.SIGTERM)
        assert await server.process.wait() == 0


REQUESTS = [
    ("POST", "/enqueue", b"x", 202),
    ("GET", "/dequeue", b"", 200),
    ("GET", "/health", b"", 200),
    ("PUT", "/queues/a", b'{"max_messages":5}', 201),
    ("GET", "/queues", b"", 200),
    ("DELETE", "/enqueue", b"", 405),
    ("GET", "/nothing", b"", 404),
    ("POST", "/persist?file=a.json", b"", 500),
    # Without a body: refused unread, one would end its connection, and that is a descriptor.
    ("POST", "/queues/a/settle", b"", 415),
]


def is_closed(sock: socket.socket) -> bool:
    """Whether the server has closed the connection."""
    try:
        return sock.recv(1, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False


async def is_answered(sock: socket.socket, method: str, path: str, body: bytes, status: int) -> None:
    assert (await answer_of(sock, method, path, body)).status == status, path


async def answer_of(sock: socket.socket, method: str, path: str, body: bytes = b"") -> Answer:
    with sock.dup() as mine:
        mine.setblocking(False)
        client = Client(trio.SocketStream(trio.socket.from_stdlib_socket(mine)))
        return await client.request(method, path, body)
