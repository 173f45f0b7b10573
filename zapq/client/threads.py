"""The client's network for threads: sockets that block. No event loop is behind it."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from zapq.client.network import Place, is_readable
from zapq.limits import RECEIVE_BYTES

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine over this network returns: where others wait, it blocks, and so it ends at once."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # what it returns is a T
    raise AssertionError("over this network nothing waits")


class Owner:
    """The process that made something which only works there, for a fork copies no thread."""

    __slots__ = ("_process", "_what")

    def __init__(self, what: str) -> None:
        self._what = what
        self._process = os.getpid()

    @property
    def here(self) -> bool:
        """Whether this is that process."""
        return self._process == os.getpid()

    def check(self) -> None:
        """Raise RuntimeError in a process that was forked: there is no thread, and a lock may be held for ever."""
        if self._process != os.getpid():
            raise RuntimeError(f"the {self._what} belongs to the process that opened it: open one after the fork")


class ThreadConnection:
    """A connection over a socket that blocks, with or without TLS."""

    __slots__ = ("_socket", "_timeout")

    def __init__(self, socket: socket.socket | ssl.SSLSocket, patience: float) -> None:
        self._socket = socket
        self._timeout = patience

    async def send(self, data: bytes, patience: float) -> None:
        """See `Connection`."""
        if patience != self._timeout:
            self._limit(patience)
        self._socket.sendall(data)

    async def receive(self, patience: float) -> bytes:
        """See `Connection`."""
        if patience != self._timeout:
            self._limit(patience)
        return self._socket.recv(RECEIVE_BYTES)

    def is_stale(self) -> bool:
        """See `Connection`."""
        return is_readable(self._socket.fileno())

    def close(self) -> None:
        """See `Connection`."""
        self._socket.close()

    def _limit(self, patience: float) -> None:
        self._socket.settimeout(patience)
        self._timeout = patience


class ThreadNetwork:
    """Opens connections in a program of threads."""

    async def connect(self, place: Place, patience: float) -> ThreadConnection:
        """See `Network`."""
        if isinstance(place.address, str):
            plain = socket.socket(socket.AF_UNIX)
        else:
            plain = socket.create_connection(place.address, patience)
        try:
            plain.settimeout(patience)
            if isinstance(place.address, str):
                plain.connect(place.address)
            else:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if place.tls is None:
                return ThreadConnection(plain, patience)
            return ThreadConnection(place.tls.wrap_socket(plain, server_hostname=place.name), patience)
        except BaseException:
            plain.close()
            raise

    async def sleep(self, seconds: float) -> None:
        """See `Network`."""
        time.sleep(seconds)  # noqa: ASYNC251 - a thread may block

    async def close(self) -> None:
        """See `Network`."""
