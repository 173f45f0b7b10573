"""Where a connection comes from: what connections are counted by, so that one client cannot have them all."""

from __future__ import annotations

import socket

_MAPPED = bytes(10) + b"\xff\xff"
_NETWORK_BYTES = 8


def origin_of(address: object) -> str:
    """Return what a peer's socket address counts as: an IPv4 address, an IPv6 network, nothing for a unix socket.

    Of IPv6 it is the /64 prefix, for every host has as many addresses as it likes within one. IPv4 clients of a
    socket that speaks both are what they are on any other.
    """
    match address:
        case (str(host), int(), *rest):
            if not rest:
                return host
            packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
            if packed.startswith(_MAPPED):
                return socket.inet_ntop(socket.AF_INET, packed[len(_MAPPED) :])
            return socket.inet_ntop(socket.AF_INET6, packed[:_NETWORK_BYTES] + bytes(8)) + "/64"
    return ""
