"""What the client needs of a network: the sockets of asyncio, Trio or threads, or those of a test.

The client is written once, as coroutines over this. Those of threads never wait: they block, and end when they
are first driven, see `zapq/client/threads.py`.
"""

from __future__ import annotations

import select
import ssl
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is, as its URL says."""

    host: str
    """As requests name it: with the port, if the URL has one."""
    address: tuple[str, int] | str
    """Host and port, or the path of a unix socket."""
    tls: ssl.SSLContext | None = None
    prefix: str = ""
    """What stands before every path."""

    @property
    def name(self) -> str:
        """What its certificate is for."""
        return self.address if isinstance(self.address, str) else self.address[0]

    def __str__(self) -> str:
        """Return what messages call it: with the port, also where the URL has none."""
        if isinstance(self.address, str):
            return self.address
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Connection(Protocol):
    """A connection to a server, used by one task at a time.

    What fails is an OSError, TimeoutError among them; then, and when cancelled, there is no more use for it.
    """

    async def send(self, data: bytes, patience: float) -> None:
        """Send all of it."""

    async def receive(self, patience: float) -> bytes:
        """Return what came, nothing at its end."""

    def is_stale(self) -> bool:
        """Whether something came, or its end, though nothing was asked."""

    def finish(self) -> None:
        """End what is sent: the other side sees the end, and may still answer. Harmless if it is closed.

        Sending on it raises `OSError` from then on.
        """

    def close(self) -> None:
        """Close it at once; harmless if it is closed."""


class Network(Protocol):
    """Opens connections."""

    async def connect(self, place: Place, patience: float) -> Connection:
        """Return a connection, with TLS if `place` has it; raises OSError."""

    async def sleep(self, seconds: float) -> None:
        """Pause."""

    async def close(self) -> None:
        """Wait until every connection that was closed is gone."""


def place_of(url: str, verify: ssl.SSLContext | None) -> Place:
    """Return where the server at `url` is; raises ValueError for one of another form."""
    if url.startswith("unix:") and len(url) > len("unix:"):
        return Place("localhost", url.removeprefix("unix:"))
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port
    if (
        parts.scheme not in {"http", "https"}
        or not host
        or not url.isascii()
        or not url.isprintable()
        or " " in url
        or parts.username is not None
        or parts.query
        or parts.fragment
    ):
        raise ValueError(f"url {url!r}: give http://host:port, https://host:port or unix:/path")
    try:
        host.encode("idna")
    except UnicodeError as error:
        raise ValueError(f"url {url!r}: give http://host:port with a name that can be looked up") from error
    if parts.scheme == "http":
        return Place(parts.netloc, (host, 80 if port is None else port), None, parts.path.rstrip("/"))
    context = ssl.create_default_context() if verify is None else verify
    return Place(parts.netloc, (host, 443 if port is None else port), context, parts.path.rstrip("/"))


def is_readable(descriptor: int) -> bool:
    """Whether a socket has something to read, or is at its end."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
