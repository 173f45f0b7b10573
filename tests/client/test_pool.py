"""Which connections a client keeps for its next request."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
import struct
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import trio

import zapq.client
import zapq.client.sync
from tests.client.doubles import answer_of
from tests.client.shells import SHELLS, with_client
from tests.support.certificates import trusting, write_certificate
from tests.support.waiting import eventually
from zapq.client.answers import result_of
from zapq.client.network import place_of
from zapq.client.on_asyncio import AsyncioConnection, AsyncioNetwork, _in_turns
from zapq.client.on_trio import PlainConnection
from zapq.client.talk import Pool
from zapq.client.threads import ThreadNetwork, run
from zapq.errors import NoAnswer, Unreachable
from zapq.limits import IDLE_CONNECTION_SECONDS, IDLE_CONNECTIONS, RECEIVE_BYTES
from zapq.testing import ZapqServer


class Idle:
    """A connection that does nothing."""

    def __init__(self) -> None:
        self.stale = self.closed = False

    async def send(self, data: bytes, patience: float) -> None:
        raise AssertionError

    async def receive(self, patience: float) -> bytes:
        raise AssertionError

    def is_stale(self) -> bool:
        return self.stale

    def finish(self) -> None:
        raise AssertionError

    def close(self) -> None:
        self.closed = True


def test_the_last_one_is_taken_first_and_stale_ones_are_closed() -> None:
    pool, first, second = Pool(), Idle(), Idle()
    assert pool.take() is None
    pool.give(first)
    pool.give(second)
    second.stale = True
    assert pool.take() is first
    assert (first.closed, second.closed) == (False, True)
    assert pool.take() is None


def test_no_more_are_kept_than_are_needed() -> None:
    pool, connections = Pool(), [Idle() for _ in range(IDLE_CONNECTIONS + 1)]
    for each in connections:
        pool.give(each)
    assert [each.closed for each in connections] == [True] + [False] * IDLE_CONNECTIONS
    pool.close()
    assert all(each.closed for each in connections)
    late = Idle()
    pool.give(late)
    assert late.closed


def test_one_that_was_idle_for_long_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, old, new, now = Pool(), Idle(), Idle(), 1.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pool.give(old)
    now += IDLE_CONNECTION_SECONDS + 1
    pool.give(new)
    assert (old.closed, new.closed) == (True, False)


def test_the_public_names_are_found() -> None:
    assert {"Client", "Producer", "open_client"} <= set(dir(zapq.client))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        zapq.client.nothing  # noqa: B018 - looking it up is the test


def test_a_result_that_no_zapq_gives_is_a_server_error() -> None:
    assert result_of("ok", "q", "r") is None
    assert isinstance(result_of("unreachable", "q", "r"), Unreachable)
    assert "wonders" in str(result_of("wonders", "q", "r"))


def test_one_that_is_given_while_another_thread_closes_the_pool_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool, late = Pool(), Idle()

    def close_and_tell() -> float:
        pool.close()
        return 1.0

    monkeypatch.setattr(time, "monotonic", close_and_tell)
    pool.give(late)
    assert late.closed


def test_a_forked_process_leaves_the_connections_to_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, parents, own = Pool(), Idle(), Idle()
    pool.give(parents)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert pool.take() is None
    assert parents.closed  # its copy of the descriptor: the parent's stays open
    pool.give(own)
    assert pool.take() is own


async def test_a_call_cancelled_while_it_connects_leaves_no_socket(zapq_server: ZapqServer) -> None:
    async def cancel_after(turns: int, client: zapq.client.Client) -> None:
        task = asyncio.create_task(client.ready())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    async def cancel_everywhere() -> None:
        for turns in range(40):
            async with zapq.client.open_client(zapq_server.url) as client:
                await cancel_after(turns, client)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        await trio.to_thread.run_sync(lambda: asyncio.run(cancel_everywhere()))
        gc.collect()
    assert not [str(each.message) for each in told if each.category is ResourceWarning]


class Talking(asyncio.Transport):
    """A transport whose other side goes on talking while it may."""

    reading = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


def test_what_nobody_asked_for_does_not_fill_the_memory() -> None:
    async def be_told_much() -> None:
        connection, transport = AsyncioConnection(AsyncioNetwork()), Talking()
        connection.connection_made(transport)
        told = 0
        while transport.reading and told < 100:
            connection.data_received(b"x" * 10_000)
            told += 1
        assert told == RECEIVE_BYTES // 10_000 + 1
        assert connection.is_stale()
        assert len(await connection.receive(1.0)) == told * 10_000
        assert transport.reading

    asyncio.run(be_told_much())


class Corked(trio.abc.Stream):
    """A stream that holds back what is sent, if asked to."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.held: bytes | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.held is None:
            await self.stream.send_all(data)
        else:
            self.held += data

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self.stream.receive_some(max_bytes))

    async def aclose(self) -> None:
        await self.stream.aclose()


@pytest.mark.parametrize("shell", SHELLS)
async def test_an_answer_that_nobody_asked_for_is_given_to_nobody(
    shell: str, nursery: trio.Nursery, tmp_path: Path
) -> None:
    """Also where it comes in a TLS record of its own, in one piece with the answer before."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*write_certificate(tmp_path))

    async def answer_twice(stream: trio.SocketStream) -> None:
        corked = Corked(stream)
        secure = trio.SSLStream(corked, context, server_side=True)
        try:
            while request := await secure.receive_some():
                path = request.split(b" ")[1]
                corked.held = b""
                for each in (path, b"of nobody"):
                    await secure.send_all(answer_of(200, b'{"path": "%s"}' % each, "application/json"))
                held, corked.held = corked.held, None
                await stream.send_all(held)
        except trio.BrokenResourceError:
            pass

    async def ask(client: Any) -> None:
        for name in ("one", "two", "three"):
            assert await client.describe(name) == {"path": f"/queues/{name}"}

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, answer_twice, [listener])
    await with_client(shell, f"https://127.0.0.1:{listener.socket.getsockname()[1]}", ask, verify=trusting())
    nursery.cancel_scope.cancel()


async def test_trio_sends_what_does_not_go_out_at_once_in_pieces() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    connection, other = PlainConnection(ours), trio.socket.from_stdlib_socket(theirs)
    received = 0

    async def read() -> None:
        nonlocal received
        while received < 4_000_000:
            received += len(await other.recv(100_000))

    with pytest.raises(TimeoutError, match="it took too long"):
        await connection.receive(0.01)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await connection.send(bytes(4_000_000), 30.0)
    assert received == 4_000_000
    with pytest.raises(TimeoutError, match="to send the request"):
        await connection.send(bytes(4_000_000), 0.01)
    connection.close()
    other.close()


@pytest.mark.parametrize("ends", [False, True], ids=["hangs", "resets"])
@pytest.mark.parametrize("shell", SHELLS)
async def test_a_server_that_hangs_or_resets_behind_its_handshake_gives_no_answer(
    shell: str, ends: bool, nursery: trio.Nursery, tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*write_certificate(tmp_path))

    async def shake_hands(stream: trio.SocketStream) -> None:
        await trio.SSLStream(stream, context, server_side=True).receive_some()
        if ends:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stream.socket.close()
            return
        await trio.sleep_forever()

    async def ask(client: Any) -> None:
        with pytest.raises(NoAnswer, match="reset|closed" if ends else "took too long|timed out"):
            await client.describe("q")

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, shake_hands, [listener])
    url = f"https://127.0.0.1:{listener.socket.getsockname()[1]}"
    await with_client(shell, url, ask, verify=trusting(), attempts=1, timeout=30.0 if ends else 3.0)
    nursery.cancel_scope.cancel()


class TestBreakingOff:
    """Every wait of other threads ends at once, and no thread connects any more."""

    async def test_a_thread_that_waits_for_an_answer_or_a_pause(self, zapq_server: ZapqServer) -> None:
        zapq_server.service.queue("q")

        def work() -> None:
            with zapq.client.sync.open_client(zapq_server.url, network=network, attempts=1) as client:
                with pytest.raises(NoAnswer):
                    client.receive("q", wait=60)
                run(network.sleep(1000))
                with pytest.raises(Unreachable, match="broken off"):
                    client.receive("q", wait=60)

        network = ThreadNetwork()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, work)
            try:
                await eventually(lambda: zapq_server.service.stats().waiting, "it to wait")
            finally:
                network.break_off()
        assert network.broken

    def test_one_that_connects_or_shakes_hands_closes_its_socket(self, monkeypatch: pytest.MonkeyPatch) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            place = place_of(f"https://127.0.0.1:{listening.getsockname()[1]}", context)
            for name in ("settimeout", "setsockopt", "do_handshake"):
                broken = type(name, (ThreadNetwork,), {})()
                opened: list[socket.socket] = []

                def interrupt(each: socket.socket, *_: object, opened: list[socket.socket] = opened) -> None:
                    opened.append(each)
                    raise KeyboardInterrupt

                with monkeypatch.context() as patch:
                    patch.setattr(ssl.SSLSocket if name == "do_handshake" else socket.socket, name, interrupt)
                    with pytest.raises(KeyboardInterrupt):
                        run(broken.connect(place, 5.0))
                assert opened[0].fileno() == -1

    def test_one_that_is_broken_off_while_it_connects(self, monkeypatch: pytest.MonkeyPatch) -> None:
        network = ThreadNetwork()
        connect = socket.socket.connect

        def connect_late(each: socket.socket, where: tuple[str, int]) -> None:
            network.break_off()
            connect(each, where)

        monkeypatch.setattr(socket.socket, "connect", connect_late)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            place = place_of(f"http://127.0.0.1:{listening.getsockname()[1]}", None)
            with pytest.raises(ConnectionAbortedError):
                run(network.connect(place, 5.0))

    def test_a_forked_process_is_not_held_up_by_a_lock_of_its_parents(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        network = ThreadNetwork()
        with socket.create_server(("127.0.0.1", 0)) as listening, network._lock:
            monkeypatch.setattr(os, "getpid", lambda: -1)
            place = place_of(f"http://127.0.0.1:{listening.getsockname()[1]}", None)
            run(network.connect(place, 5.0)).close()

    def test_a_name_without_an_address(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
        with pytest.raises(OSError, match="no address"):
            run(ThreadNetwork().connect(place_of("http://zapq", None), 1.0))


class TestAsyncio:
    """Its network, and a name with several addresses."""

    @pytest.fixture
    def sockets(self, monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
        """Every socket that is made from now on."""
        made: list[socket.socket] = []

        class Socket(socket.socket):
            def __init__(self, *arguments: Any, **more: Any) -> None:
                super().__init__(*arguments, **more)
                made.append(self)

        monkeypatch.setattr(socket, "socket", Socket)
        return made

    @staticmethod
    def name(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
        """Let a name have these addresses, known at once: no thread looks it up."""
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

        async def look_up(*_: object, **__: object) -> list[tuple[Any, ...]]:
            return found

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)

    def test_no_socket_is_left_at_any_turn_it_is_cancelled(
        self, monkeypatch: pytest.MonkeyPatch, sockets: list[socket.socket]
    ) -> None:
        async def main() -> None:
            self.name(monkeypatch, *names)
            network = AsyncioNetwork()
            before = len(sockets)
            for turns in range(40):
                connecting = asyncio.ensure_future(network.connect(place_of("http://zapq", None), 5.0))
                for _ in range(turns):
                    await asyncio.sleep(0)
                connecting.cancel()
                await asyncio.gather(connecting, return_exceptions=True)
                for connection in list(network.open):
                    connection.close()
                await network.close()
                await asyncio.sleep(0)
                assert [each for each in sockets[before:] if each.fileno() != -1] == []

        with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_server(("127.0.0.1", 0)) as other:
            names = listening.getsockname(), other.getsockname()
            asyncio.run(main())

    def test_the_next_address_is_tried_when_one_refuses_or_takes_long(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_server(("127.0.0.1", 0)) as full:
            with socket.create_server(("127.0.0.1", 0)) as gone:
                nobody = gone.getsockname()
            slow = full.getsockname()
            monkeypatch.setattr(zapq.client.on_asyncio, "NEXT_ADDRESS_SECONDS", 0.01)

            async def connect(*addresses: tuple[str, int]) -> tuple[str, int]:
                self.name(monkeypatch, *addresses)
                loop, network = asyncio.get_running_loop(), AsyncioNetwork()
                at_once = loop.sock_connect

                async def sock_connect(each: socket.socket, address: tuple[str, int]) -> None:
                    await asyncio.sleep(1000 if address == slow else 0)
                    await at_once(each, address)

                monkeypatch.setattr(loop, "sock_connect", sock_connect)
                connection = await network.connect(place_of("http://zapq", None), 5.0)
                assert connection._transport is not None
                peer: tuple[str, int] = connection._transport.get_extra_info("peername")
                connection.close()
                await network.close()
                return peer

            there = listening.getsockname()
            assert asyncio.run(connect(nobody, there)) == there
            assert asyncio.run(connect(slow, there)) == there
            assert asyncio.run(connect(slow, nobody, there)) == there
            with pytest.raises(ConnectionRefusedError):
                asyncio.run(connect(nobody, nobody))
            with pytest.raises(OSError, match="no address"):
                asyncio.run(connect())

    def test_families_take_turns(self) -> None:
        four, six = socket.AF_INET, socket.AF_INET6
        found = [
            (family, socket.SOCK_STREAM, 6, "", at) for family, at in ((six, 1), (six, 2), (four, 3), (four, 4))
        ]
        assert list(_in_turns(found)) == [(six, 1), (four, 3), (six, 2), (four, 4)]


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("http://queue.example", "queue.example:80"),
        ("http://[::1]:8080/prefix", "[::1]:8080"),
        ("unix:/run/zapq", "/run/zapq"),
    ],
)
def test_messages_name_a_server_with_its_port(url: str, named: str) -> None:
    assert str(place_of(url, None)) == named
