"""Ports for servers that are told where to listen, and for those that are started there again."""

from __future__ import annotations

import atexit
import socket
import sys


def free_ports(number: int) -> list[int]:
    """Return ports of loopback that the kernel gives to no other program until this process ends.

    A port that is merely free now may be in use when a server binds it, for other tests run at the same time. So a
    socket keeps each of them. A server can listen there all the same, as often as it is started: both sockets have
    SO_REUSEADDR, and ours does not listen. Other platforms than Linux do not allow that.
    """
    socks = [socket.socket() for _ in range(number)]
    for sock in socks:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in socks]
    for sock in socks:
        if sys.platform == "linux":
            atexit.register(sock.close)
        else:
            sock.close()
    return ports
