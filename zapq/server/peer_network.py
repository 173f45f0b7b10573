"""Where a connection comes from: what connections are counted by, so that one client cannot have them all."""

from __future__ import annotations

import socket
from functools import lru_cache
from typing import Any, Protocol

from zapq.http.exchange import peer_of


class Socket(Protocol):
    """A socket, Python's or Trio's, as far as it tells who is at its other end."""

    def getpeername(self) -> Any:
        """Return the address of the other end; `OSError` if it is gone."""


_MAPPED = bytes(10) + b"\xff\xff"
_NETWORK_BYTES = 8


def peer_network(address: object) -> str:
    """Return what a peer's socket address counts as: an IPv4 address, an IPv6 network, nothing for a unix socket.

    Of IPv6 it is the /64 prefix, for every host has as many addresses as it likes within one. IPv4 clients of a
    socket that speaks both are what they are on any other.
    """
    if not isinstance(address, tuple):
        return ""
    host: str = address[0]
    return _network(host) if ":" in host else host


def peer_of_socket(sock: Socket | None) -> dict[str, str]:
    """Return the member `peer` of a log line about the connection of `sock`; nothing if it is gone."""
    if sock is None:
        return {}
    try:
        address = sock.getpeername()
    except OSError:
        return {}
    return {"peer": peer_of(address if isinstance(address, tuple) else None)}


@lru_cache(maxsize=1024)
def _network(host: str) -> str:
    packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    if packed.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[len(_MAPPED) :])
    return socket.inet_ntop(socket.AF_INET6, packed[:_NETWORK_BYTES] + bytes(_NETWORK_BYTES)) + "/64"
