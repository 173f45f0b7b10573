"""A server that answers as a test says, so that it can fail in every way; else as the real one behind it does."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import trio

from tests.engine.valkey import servers
from zapq.engine.valkey import library
from zapq.engine.valkey.connection import Server
from zapq.engine.valkey.resp import INCOMPLETE, ProtocolError, ReplyError, open_reader
from zapq.limits import CHANNEL_BYTES
from zapq.settings import Settings

HANG_UP = b"hang up"
"""An answer, or the last bytes of one: the connection ends."""
SILENCE = b""
"""An answer that never comes."""
_HEALTHY = {
    "HELLO": [b"proto", 2],
    "INFO replication": b"role:master\r\nconnected_slaves:0\r\nmaster_replid:0123456789abcdef\r\n",
    "INFO cluster": b"cluster_enabled:0\r\n",
    "INFO server": b"redis_version:7.2.4\r\nvalkey_version:8.1.0\r\n",
    "COMMAND INFO": [[b"fcall"], [b"waitaof"], [b"spublish"]],
    "CONFIG GET maxmemory-policy": [b"maxmemory-policy", b"noeviction"],
    "CONFIG GET appendonly": [b"appendonly", b"yes"],
    "CONFIG GET appendfsync": [b"appendfsync", b"always"],
    "FCALL zapq_1_version": library.VERSION,
    "SPUBLISH": 0,
    "SSUBSCRIBE": [b"ssubscribe", b"channel", 1],
    "SET {zapq}:layout": b"OK",
    "GET {zapq}:layout": b"4096 shards, layout 1",
}
"""What one that is well and empty says while it is being opened."""

Answer = Any
"""A value as it is read; bytes that begin with a type of RESP's, or end with `HANG_UP`, see `raw`."""


@dataclass
class raw:
    """Bytes that are sent as they are."""

    data: bytes


@dataclass
class _Rule:
    begins: str
    queue: str
    answer: Answer | Callable[[], Answer]
    left: float

    def fits(self, command: str) -> bool:
        return self.left > 0 and command.startswith(self.begins) and f":q:{self.queue}" in command + ":q:"


@dataclass(eq=False)
class _Client:
    stream: trio.SocketStream
    behind: trio.SocketStream | None
    replies: deque[bytes | None] = field(default_factory=deque)
    """Answers that are to be sent in this order; None for one that the real server is to give."""
    for_behind: list[bytes] = field(default_factory=list)
    """Commands that the real server is to be sent next."""
    closing: bool = False
    """Whether no more is sent than what is being sent."""
    ended: bool = False
    last: str = ""
    """Its last command."""
    lock: trio.Lock = field(default_factory=trio.Lock)

    def hang_up(self) -> None:
        self.ended = True
        with suppress(OSError):  # it may have left by itself
            self.stream.socket.shutdown(trio.socket.SHUT_RDWR)

    async def send(self, data: bytes) -> None:
        async with self.lock:
            await self.stream.send_all(data)


class Scripted:
    """A server on a port of loopback. It runs as long as `scripted` does."""

    def __init__(self, behind: servers.Server | None) -> None:
        self.commands: list[str] = []
        """All commands that came, each by its first words."""
        self.frozen = False
        """Whether it reads nothing."""
        self.held = 0
        """Bytes that have come meanwhile."""
        self.refusing = False
        """Whether new connections end at once."""
        self.port = 0
        self.accepted = 0
        """Connections that were opened."""
        self._behind = behind
        self._clients: set[_Client] = set()
        self._rules: list[_Rule] = []

    @property
    def server(self) -> Server:
        """Where it is."""
        return Server("127.0.0.1", self.port)

    @property
    def url(self) -> str:
        """The URL of an engine that is this server."""
        return f"valkey://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._clients)

    def engine(self, settings: Settings) -> Settings:
        """Return settings of a front end whose queues are here."""
        return replace(settings, engine=self.url, data_dir=".")

    def answer(
        self, begins: str, answer: Answer | Callable[[], Answer], *, times: float = inf, queue: str = ""
    ) -> None:
        """Answer so whatever begins with these words from now on, so many times; the last rule counts.

        With `queue`, only what is about the queue of that name.
        """
        self._rules.insert(0, _Rule(begins, f"{queue}:" if queue else "", answer, times))

    @property
    def used_up(self) -> bool:
        """Whether all answers have been given that were to be given so many times."""
        return not any(rule.left for rule in self._rules if rule.left < inf)

    def seen(self, begins: str) -> int:
        """Return how many commands have come that begin with these words."""
        return sum(each.startswith(begins) for each in self.commands)

    def last(self, begins: str) -> str:
        """Return the last command that begins with these words."""
        return next(each for each in reversed(self.commands) if each.startswith(begins))

    async def tell(self, begins: str, data: bytes) -> None:
        """Send something that was not asked for to the clients whose last command began with these words."""
        for client in list(self._clients):
            if client.last.startswith(begins):
                await client.send(data)

    async def say(self, data: bytes) -> None:
        """Send something that was not asked for to all clients."""
        for client in list(self._clients):
            await client.send(data)

    def hang_up(self) -> None:
        """End all connections."""
        for client in list(self._clients):
            client.hang_up()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve until cancelled."""
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            task_status.started()
            await trio.serve_listeners(self._serve, [listener], handler_nursery=nursery)

    async def _serve(self, stream: trio.SocketStream) -> None:
        self.accepted += 1
        behind: trio.SocketStream | None = None
        if self._behind is not None:
            address = self._behind.address
            assert isinstance(address, str)
            behind = await trio.open_unix_socket(address)
        client = _Client(stream, behind)
        self._clients.add(client)
        try:
            async with stream, trio.open_nursery() as nursery:
                if behind is not None:
                    nursery.start_soon(self._pass_on, client, behind)
                if not self.refusing:
                    await self._listen(client)
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._clients.discard(client)
            if behind is not None:
                await trio.aclose_forcefully(behind)

    async def _listen(self, client: _Client) -> None:
        reader = open_reader()
        while not client.ended:
            data = await client.stream.receive_some(CHANNEL_BYTES)
            if not data:
                return
            self.held += len(data)
            while self.frozen:
                await trio.sleep(0.005)
            self.held -= len(data)
            reader.feed(data)
            try:
                while (command := reader.gets()) is not INCOMPLETE:
                    self._take(client, command)
            except ProtocolError:
                await client.send(b"-ERR Protocol error: unbalanced quotes in request\r\n")
                return
            if client.behind is not None and client.for_behind:
                data, client.for_behind = b"".join(client.for_behind), []
                await client.behind.send_all(data)
            await self._send(client)

    def _take(self, client: _Client, command: Sequence[bytes]) -> None:
        words = " ".join(word.decode("latin-1") for word in command[:4])
        self.commands.append(words)
        client.last = words
        answer: Answer
        rule = next((each for each in self._rules if each.fits(words)), None)
        if rule is not None:
            rule.left -= 1
            answer = rule.answer() if callable(rule.answer) else rule.answer
        elif client.behind is not None:
            client.replies.append(None)
            client.for_behind.append(encoded(list(command)))
            return
        else:
            known = next((each for each in _HEALTHY if words.startswith(each)), None)
            answer = ReplyError(f"ERR unknown command {words!r}") if known is None else _HEALTHY[known]
        client.replies.append(answer.data if isinstance(answer, raw) else encoded(answer))

    async def _pass_on(self, client: _Client, behind: trio.SocketStream) -> None:
        reader = open_reader()
        while data := await behind.receive_some(CHANNEL_BYTES):
            reader.feed(data)
            while (reply := reader.gets()) is not INCOMPLETE:
                if client.closing:
                    return
                if None in client.replies:
                    place = client.replies.index(None)
                    client.replies[place] = encoded(reply)
                else:
                    client.replies.append(encoded(reply))
            await self._send(client)

    async def _send(self, client: _Client) -> None:
        """Send the answers whose turn it is."""
        ready: list[bytes] = []
        is_last = False
        while client.replies and (data := client.replies[0]) is not None and not client.closing | is_last:
            client.replies.popleft()
            is_last = data.endswith(HANG_UP)
            ready.append(data.removesuffix(HANG_UP))
        client.closing |= is_last
        if ready:
            await client.send(b"".join(ready))
        if is_last:
            # Not before: another task would end the connection while this one still sends.
            client.hang_up()


def encoded(value: Any) -> bytes:
    """Return a value as a server of the protocol's second version sends it."""
    match value:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % value
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(value), value)
        case ReplyError():
            return b"-%b\r\n" % str(value).encode()
        case _:
            return b"*%d\r\n%b" % (len(value), b"".join(map(encoded, value)))


def error(text: str) -> ReplyError:
    """Return an error to answer with."""
    return ReplyError(text)


@asynccontextmanager
async def scripted(behind: servers.Server | None = None) -> AsyncGenerator[Scripted, None]:
    """Run a server for the length of the block, in front of a real one or alone: one that can only be opened."""
    fake = Scripted(behind)
    async with trio.open_nursery() as nursery:
        await nursery.start(fake.run)
        yield fake
        nursery.cancel_scope.cancel()
