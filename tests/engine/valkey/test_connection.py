"""One connection to a server, and the selector that watches all: what the socket takes, and how it ends."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from zapq.engine.valkey.connection import Connection, ConnectionLost, Login, Server, open_connection
from zapq.engine.valkey.hints import Hints
from zapq.engine.valkey.keys import wake_channel
from zapq.engine.valkey.poller import Poller
from zapq.engine.valkey.resp import pack

MUCH = b"x" * 2**20


class Pair:
    """A connection, and the other end of its socket, which reads only when it is told to."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        for each in (ours, self.theirs):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            each.setblocking(False)
        self.connection = Connection(ours, Server(path="pair"))

    def read(self) -> bytes:
        """Return what has arrived."""
        arrived = b""
        try:
            while data := self.theirs.recv(2**16):
                arrived += data
        except BlockingIOError:
            pass
        return arrived

    def read_all(self, poll: Callable[[], object], size: int) -> bytes:
        """Return what arrives while the connection is written to as the selector says."""
        arrived = b""
        while len(arrived) < size:
            arrived += self.read()
            poll()
        return arrived


@pytest.fixture
def pair() -> Iterator[Pair]:
    both = Pair()
    yield both
    both.connection.sock.close()
    both.theirs.close()


@pytest.fixture
def poller() -> Iterator[Poller]:
    found = Poller()
    yield found
    found.close()


async def test_what_the_socket_does_not_take_is_kept_and_sent_in_order(pair: Pair) -> None:
    connection = pair.connection
    connection.send(b"1" + MUCH)
    assert connection.stuck
    connection.send(b"2")
    assert pair.read_all(connection.flush, len(MUCH) + 2) == b"1" + MUCH + b"2"
    assert not connection.stuck


async def test_a_command_larger_than_the_socket_holds_is_sent_whole(pair: Pair) -> None:
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(pair.theirs.dup()))
    command = pack("SET", "key", MUCH)

    async def answer() -> None:
        arrived = b""
        while len(arrived) < len(command):
            arrived += await stream.receive_some()
        assert arrived == command
        await stream.send_all(b"+OK\r\n")

    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        assert await pair.connection.call("SET", "key", MUCH) == b"OK"


async def test_a_server_that_is_gone_is_told_by_what_is_sent(pair: Pair) -> None:
    pair.theirs.close()
    with pytest.raises(ConnectionLost, match="Broken pipe"):
        pair.connection.send(b"x")
    with pytest.raises(ConnectionLost, match="closed the connection"):
        pair.connection.receive()


async def test_replies_before_the_end_that_fill_a_packet_are_not_lost(pair: Pair) -> None:
    pair.theirs.send(b":1\r\n:2\r\n")
    pair.theirs.close()
    assert pair.connection.receive() == [1, 2]
    with pytest.raises(ConnectionLost, match="closed the connection"):
        pair.connection.receive()


async def test_the_selector_calls_for_room_only_while_something_is_to_be_sent(pair: Pair, poller: Poller) -> None:
    connection, calls = pair.connection, list[int]()

    def call() -> None:
        calls.append(1)
        connection.flush()
        poller.note_stuck(connection)

    poller.watch(connection, call)
    poller.poll()
    assert not calls
    connection.send(MUCH)
    poller.note_stuck(connection)
    assert pair.read_all(poller.poll, len(MUCH)) == MUCH
    calls.clear()
    poller.poll()
    assert not calls


async def test_a_connection_that_another_call_has_closed_is_not_called_for(poller: Poller) -> None:
    pairs, calls = [Pair(), Pair()], list[Pair]()

    def call(mine: Pair, other: Pair) -> None:
        calls.append(mine)
        poller.discard(other.connection)

    for mine, other in (pairs, pairs[::-1]):
        poller.watch(mine.connection, partial(call, mine, other))
        mine.theirs.send(b"x")
    poller.poll()
    assert len(calls) == 1
    for each in pairs:
        poller.discard(each.connection)
        poller.discard(each.connection)  # again is harmless
        poller.note_stuck(each.connection)
        assert each.connection.fileno() == -1
        each.theirs.close()


class Heard:
    """What a listener is told."""

    def __init__(self, poller: Poller) -> None:
        self.heard: list[int] = []
        self.hints: list[tuple[bytes, str]] = []
        self.trouble = 0
        self.listener = Hints(
            "f1",
            on_heard=self.heard.append,
            on_hint=lambda kind, queue: self.hints.append((kind, queue)),
            on_trouble=self.note_trouble,
            poller=poller,
        )

    def note_trouble(self) -> None:
        self.trouble += 1


async def test_many_channels_are_asked_for_though_the_server_is_slow(pair: Pair, poller: Poller) -> None:
    heard = Heard(poller)
    listener = heard.listener
    poller.watch(pair.connection, listener.receive)
    listener.use(pair.connection)
    for shard in range(1000):
        assert not listener.hear(shard)
        assert not listener.hear(shard)  # asked for once
    assert pair.connection.stuck
    commands = b"".join(pack("SSUBSCRIBE", wake_channel(shard, "f1")) for shard in range(1000))
    assert pair.read_all(poller.poll, len(commands)) == commands
    channel = wake_channel(7, "f1")
    pair.theirs.send(b"*3\r\n$10\r\nssubscribe\r\n$%d\r\n%b\r\n:1\r\n" % (len(channel), channel))
    poller.poll()
    assert heard.heard == [7]
    assert listener.hear(7)


async def test_a_connection_that_ends_while_a_channel_is_asked_for_is_given_up_once(
    pair: Pair, poller: Poller
) -> None:
    heard = Heard(poller)
    poller.watch(pair.connection, heard.listener.receive)
    heard.listener.use(pair.connection)
    pair.theirs.close()
    assert not heard.listener.hear(1)
    assert heard.trouble == 1
    assert pair.connection.fileno() == -1
    heard.listener.receive()
    heard.listener.lose()
    assert not heard.listener.hear(1)
    assert heard.trouble == 1


async def test_what_is_waited_for_ends_with_the_connection() -> None:
    commands: list[list[bytes | str]] = [["PING"], ["SET", "key", MUCH]]
    for command in commands:  # one waits for its answer, the other for room
        both = Pair()
        ended: list[str] = []

        async def call(connection: Connection, command: Sequence[Any], ended: list[str]) -> None:
            with pytest.raises(ConnectionLost) as lost:
                await connection.call(*command)
            ended.append(str(lost.value))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, both.connection, command, ended)
            await trio.testing.wait_all_tasks_blocked()
            both.connection.close()
        assert ended == ["the connection was closed here"]
        both.theirs.close()


async def test_a_socket_that_is_not_there_is_said(tmp_path: object) -> None:
    with pytest.raises(ConnectionLost, match="No such file or directory"):
        await open_connection(Server(path=f"{tmp_path}/none"), Login())
    with pytest.raises(ConnectionLost, match="refused"):
        await open_connection(Server("127.0.0.1", 1), Login())
    with pytest.raises(ConnectionLost, match="no such host"):
        await open_connection(Server("a..b", 1), Login())


@pytest.mark.parametrize("said", [b"", b"-ERR no TLS here\r\n"])
async def test_a_handshake_that_fails_is_said_and_closes_the_socket(said: bytes) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            if said:
                await stream.send_all(said)

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        with pytest.raises(ConnectionLost) as lost:
            await open_connection(Server("127.0.0.1", port), Login(tls=ssl.create_default_context()))
        assert str(lost.value)
        nursery.cancel_scope.cancel()
