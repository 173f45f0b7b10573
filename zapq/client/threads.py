"""The client's network for threads: sockets that block. No event loop is behind it."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakSet

from zapq.client.network import Network, Place, is_readable
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


class Flag(threading.Event):
    """An event that a KeyboardInterrupt does no harm, at any point of a call.

    Those of the standard library have a lock: interrupted between two steps of `wait`, it may stay locked, and
    then `set` waits for ever. Here, each thread that waits has a lock of its own, which is released for it.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: list[threading.Lock] = []

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Let all threads go on."""
        # A thread that joins after this sees it set.
        self._is_set = True
        for each in list(self._waiting):
            with suppress(RuntimeError):  # another thread may set it, too
                each.release()

    def clear(self) -> None:
        """Let threads wait from now on."""
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, or for `timeout` seconds; return whether it is set."""
        mine = threading.Lock()
        mine.acquire()
        self._waiting.append(mine)
        try:
            if not self._is_set:
                # A lock waits for no longer than this.
                mine.acquire(timeout=-1 if timeout is None else min(max(timeout, 0.0), threading.TIMEOUT_MAX))
        finally:
            self._waiting.remove(mine)
        return self._is_set


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

    def finish(self) -> None:
        """See `Connection`."""
        _shut(self._socket, socket.SHUT_WR)

    def close(self) -> None:
        """See `Connection`."""
        self._socket.close()

    def _limit(self, patience: float) -> None:
        self._socket.settimeout(patience)
        self._timeout = patience


class ThreadNetwork:
    """Opens connections in a program of threads, and can break off what other threads do on them."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._broken = Flag()
        self._lock = threading.Lock()
        self._open: WeakSet[socket.socket] = WeakSet()
        """Those that are not gone yet; `_lock` covers it."""

    def _begin_in_fork(self) -> None:
        # What a fork has copied another thread may have locked, and that is not there.
        if self._process != os.getpid():
            self._begin()

    @classmethod
    def like(cls, network: Network) -> ThreadNetwork:
        """Return another one of the same kind, which can be broken off by itself."""
        return type(network)() if isinstance(network, ThreadNetwork) else cls()

    async def connect(self, place: Place, patience: float) -> ThreadConnection:
        """See `Network`."""
        self._begin_in_fork()
        plain = self._connected(place.address, patience)
        try:
            if not isinstance(place.address, str):
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if place.tls is None:
                return ThreadConnection(plain, patience)
            secure = place.tls.wrap_socket(plain, server_hostname=place.name, do_handshake_on_connect=False)
        except BaseException:
            plain.close()
            raise
        try:
            self._watch(secure)
            secure.do_handshake()
        except BaseException:
            secure.close()
            raise
        return ThreadConnection(secure, patience)

    async def sleep(self, seconds: float) -> None:
        """See `Network`."""
        self._begin_in_fork()
        self._broken.wait(seconds)

    async def close(self) -> None:
        """See `Network`."""

    @property
    def broken(self) -> bool:
        """Whether it was broken off, or is to end."""
        return self._broken.is_set()

    def let_end(self) -> None:
        """Send nothing more and let no thread connect any more; what was asked may still be answered."""
        self._shut_all(socket.SHUT_WR)

    def break_off(self) -> None:
        """End what other threads do on its connections, at once, and let no thread connect any more."""
        self._shut_all(socket.SHUT_RDWR)

    def _shut_all(self, how: int) -> None:
        self._broken.set()
        with self._lock:
            sockets = list(self._open)
        for each in sockets:
            _shut(each, how)

    def _watch(self, each: socket.socket) -> None:
        with self._lock:
            self._check()
            self._open.add(each)

    def _check(self) -> None:
        if self._broken.is_set():
            raise ConnectionAbortedError("it was broken off")

    def _connected(self, address: tuple[str, int] | str, patience: float) -> socket.socket:
        """Return a socket that is connected to the first of a server's addresses that lets it."""
        ways: Iterable[tuple[int, tuple[Any, ...] | str]] = [(socket.AF_UNIX, address)]
        if not isinstance(address, str):
            ways = ((way[0], way[4]) for way in socket.getaddrinfo(*address, type=socket.SOCK_STREAM))
        error: OSError | None = None
        for family, where in ways:
            each = socket.socket(family, socket.SOCK_STREAM)
            try:
                self._watch(each)
                each.settimeout(patience)
                each.connect(where)
                # A socket that is shut down before it is connected connects all the same.
                self._check()
            except OSError as refused:
                each.close()
                error = refused
            except BaseException:
                each.close()
                raise
            else:
                return each
        raise error or OSError("its name has no address")


def _shut(each: socket.socket, how: int) -> None:
    with suppress(OSError):
        # Not that of an SSLSocket, which takes the encryption away from a thread that uses it.
        socket.socket.shutdown(each, how)
