"""One connection to a Valkey or Redis server: commands go out, replies come in.

Opening one waits, and so does `call`, which is for what is asked once. Steps that send a batch or read replies do
not wait: they are taken when the engine's selector says that the socket is ready.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import trio

from zapq.engine.valkey.resp import INCOMPLETE, ProtocolError, ReplyError, open_reader, pack_all
from zapq.limits import CHANNEL_BYTES, ENGINE_CONNECT_SECONDS, RECEIVE_BYTES

FIT = "Use Valkey 8 or later, or Redis 7.0 or later"
"""Servers that have functions and sharded channels."""


class ConnectionLost(Exception):
    """The connection could not be made, or has ended. Its text says why."""


class LoginRefused(ConnectionLost):
    """The server wants another user or password."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server listens: a host and port, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """How to speak to every server of an engine."""

    user: str = ""
    password: str = ""
    tls: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"Login(user={self.user!r}, tls={self.tls is not None})"  # the password is no concern of a log's


class Connection:
    """A connection that is open, until `close`; what the socket does not take now is kept for `flush`."""

    def __init__(self, sock: socket.socket, server: Server) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.server = server
        self._reader = open_reader()
        self._unsent = bytearray()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self.sock.fileno()

    @property
    def stuck(self) -> bool:
        """Whether the socket has to take more before everything is sent."""
        return bool(self._unsent)

    def send(self, data: bytes) -> None:
        """Send `data`, as far as the socket takes it now. Raises `ConnectionLost`."""
        if self._unsent:
            self._unsent += data
            return
        sent = self._send(data)
        if sent < len(data):
            self._unsent += memoryview(data)[sent:]

    def flush(self) -> None:
        """Send more of what is not sent yet. Raises `ConnectionLost`."""
        del self._unsent[: self._send(memoryview(self._unsent)[:CHANNEL_BYTES].tobytes())]

    def receive(self) -> list[Any]:
        """Return the replies that have arrived whole. Raises `ConnectionLost`."""
        replies: list[Any] = []
        whole = self.sock.__class__ is socket.socket
        while data := self._receive_some():
            replies += self._read(data)
            if whole and len(data) < RECEIVE_BYTES:
                break
        return replies

    def _receive_some(self) -> bytes:
        """Return bytes that have arrived, or nothing if there are none now. Raises `ConnectionLost`."""
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            return b""
        except OSError as error:
            raise ConnectionLost(_reason(error)) from error
        if not data:
            raise ConnectionLost("the server has closed the connection")
        return data

    def _read(self, data: bytes) -> list[Any]:
        """Return the replies that are whole with these bytes. Raises `ConnectionLost`."""
        replies: list[Any] = []
        gets = self._reader.gets
        self._reader.feed(data)
        try:
            while (reply := gets()) is not INCOMPLETE:
                replies.append(reply)
        except ProtocolError as error:
            raise ConnectionLost(f"what answers does not speak Valkey's protocol: {error}") from error
        return replies

    async def call(self, *arguments: bytes | str | float) -> Any:
        """Send one command and return its reply, which may be a `ReplyError`. Raises `ConnectionLost`."""
        [reply] = await self.call_all([arguments])
        return reply

    async def call_all(self, commands: Sequence[Sequence[bytes | str | float]]) -> list[Any]:
        """Send commands together and return their replies, where no batch is under way. Raises `ConnectionLost`.

        Cancellation leaves a connection that is of no further use.
        """
        return await self.call_packed(b"".join(map(pack_all, commands)), len(commands))

    async def call_packed(self, commands: bytes, number: int) -> list[Any]:
        """Send so many commands as they are, and return their replies. See `call_all`."""
        replies: list[Any] = []
        with _bounded("did not answer"):
            await self._send_all(commands)
            while len(replies) < number:
                replies += self.receive()
                if len(replies) < number:
                    await trio.lowlevel.wait_readable(self.sock)
        return self._exactly(number, replies)

    async def call_alike(self, commands: bytes, number: int, usual: bytes, pause: float) -> list[Any] | None:
        """Send so many commands as they are; return their replies, or None if each is `usual`. See `call_all`.

        Replies are looked at after `pause` seconds: to be woken for each piece of them would cost more than all
        the rest. They are compared in one go: to make values of them would cost ten times as much.
        """
        expected, data = usual * number, b""
        with _bounded("did not answer"):
            await self._send_all(commands)
            await trio.sleep(pause)
            while len(data) < len(expected) and expected.startswith(data):
                more = self._receive_some()
                data += more
                if not more:
                    await trio.lowlevel.wait_readable(self.sock)
            if data == expected:
                return None
            replies = self._read(data)
            while len(replies) < number:
                replies += self.receive()
                if len(replies) < number:
                    await trio.lowlevel.wait_readable(self.sock)
        return self._exactly(number, replies)

    @staticmethod
    def _exactly(number: int, replies: list[Any]) -> list[Any]:
        """Return `replies` if they are so many. Raises `ConnectionLost`."""
        if len(replies) > number:
            raise ConnectionLost("the server answers more than it was asked")
        return replies

    async def _send_all(self, data: bytes) -> None:
        self.send(data)
        while self.stuck:
            await trio.lowlevel.wait_writable(self.sock)
            self.flush()

    def close(self) -> None:
        """Close it; what waits for it ends with `ConnectionLost`."""
        if self.sock.fileno() >= 0:
            # Else that would wait for whatever gets the descriptor next.
            trio.lowlevel.notify_closing(self.sock)
            self.sock.close()

    def _send(self, data: bytes) -> int:
        try:
            return self.sock.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return 0
        except OSError as error:
            raise ConnectionLost(_reason(error)) from error


async def open_connection(server: Server, login: Login) -> Connection:
    """Connect to a server and log in. Raises `ConnectionLost`, which says why."""
    with _bounded("did not answer"):
        sock = await _connect(server)
        try:
            if login.tls is not None:
                sock = await _encrypt(sock, login.tls, server.host)
            connection = Connection(sock, server)
            await _greet(connection, login)
        except BaseException:
            sock.close()
            raise
    return connection


async def _connect(server: Server) -> socket.socket:
    try:
        if server.path:
            sock = trio.socket.socket(socket.AF_UNIX)
            try:
                await sock.connect(server.path)
            except BaseException:
                sock.close()
                raise
        else:
            sock = (await trio.open_tcp_stream(server.host, server.port)).socket
    except OSError as error:
        raise ConnectionLost(_reason(error)) from error
    except UnicodeError as error:
        raise ConnectionLost("there is no such host") from error
    # Trio's socket is a coat around one of Python's: we need that, without the coat.
    return socket.socket(fileno=sock.detach())


async def _encrypt(sock: socket.socket, context: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    sock.setblocking(False)
    # This takes the descriptor from `sock`.
    encrypted = context.wrap_socket(sock, server_hostname=host or None, do_handshake_on_connect=False)
    try:
        while True:
            try:
                encrypted.do_handshake()
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(encrypted)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(encrypted)
            else:
                return encrypted
    except OSError as error:
        encrypted.close()
        raise ConnectionLost(_reason(error)) from error
    except BaseException:
        encrypted.close()
        raise


async def _greet(connection: Connection, login: Login) -> None:
    command: list[str] = ["HELLO", "2"]
    if login.password:
        command += ["AUTH", login.user or "default", login.password]
    reply = await connection.call(*command, "SETNAME", "zapq")
    if isinstance(reply, ReplyError):
        raise _not_greeted(reply)


def _not_greeted(reply: ReplyError) -> ConnectionLost:
    """Return why a server has refused HELLO: without its text, which may repeat the password."""
    text = str(reply)
    if "unknown command" in text:
        return ConnectionLost(f"the server is too old. {FIT}")
    if "max number of clients" in text:
        return ConnectionLost("the server has as many clients as its maxclients allows. Set that higher")
    if reply.code == "DENIED":
        return ConnectionLost("the server is in protected mode. Set a password for it")
    if reply.code in {"NOAUTH", "WRONGPASS"} or "password" in text.lower():
        return LoginRefused(f"the login was refused ({reply.code})")
    return ConnectionLost(f"the server does not take HELLO ({reply.code})")


class _bounded:
    """Ends its block after a while with `ConnectionLost`."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._scope = trio.CancelScope(deadline=trio.current_time() + ENGINE_CONNECT_SECONDS)

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(self, *error: Any) -> bool:
        caught = self._scope.__exit__(*error)
        if isinstance(error[1], trio.ClosedResourceError):
            raise ConnectionLost("the connection was closed here") from error[1]
        if self._scope.cancelled_caught:
            raise ConnectionLost(f"the server {self._what} within {ENGINE_CONNECT_SECONDS:g} s")
        return bool(caught)


def _reason(error: OSError) -> str:
    """Return in a few words what the system says."""
    if isinstance(error, ssl.SSLError):
        said = (error.reason or str(error)).replace("_", " ").lower()
        return f"{said}: {error.verify_message}" if isinstance(error, ssl.SSLCertVerificationError) else said
    inner = error.__cause__ or error
    if isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    number = getattr(inner, "errno", None)
    # Names that are not found have numbers of their own.
    return os.strerror(number) if number and number > 0 else getattr(inner, "strerror", None) or str(inner)
