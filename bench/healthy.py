"""One healthy client, in a process of its own: it asks for little, and notes how long each answer took.

    python -m bench.healthy PORT PID put|receive [tls]

With `put` it puts a message and takes it; with `receive` it asks the queue `idle`, where there is nothing: no
answer to that waits for the disk.

PID is the server's. Connects, writes a line, and asks until its standard input ends; then it writes, for each
answer, the milliseconds until it reached this machine's kernel, and how many of them the server waited for a core
that other programs had (or this client, before it had sent the request). `bench.stalls` starts it.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
import time

import msgspec

from bench import rig
from bench.prepared import Site, TlsOverBytes, is_complete, request, trusting

PAUSE = 0.0005
"""Seconds between two requests: the server is to have time for others."""
SO_TIMESTAMPNS = 35
"""Of Linux: the kernel says when bytes came. Python's socket module has no name for it."""


class Waiting:
    """How long a process's first thread has waited for a core, as the kernel counts it."""

    def __init__(self, pid: int) -> None:
        try:
            self._file = os.open(f"/proc/{pid}/schedstat", os.O_RDONLY)
        except FileNotFoundError:  # a kernel that does not count it
            self._file = -1

    def milliseconds(self) -> float:
        """Return it, in total."""
        if self._file < 0:
            return 0.0
        return int(os.pread(self._file, 100, 0).split()[1]) / 1e6


class Asking:
    """The connection, and when each answer reached the kernel: this program may get a core only later."""

    def __init__(self, site: Site) -> None:
        self._connection = socket.create_connection(("127.0.0.1", site.port), timeout=60)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._tls = TlsOverBytes(trusting()) if site.tls else None
        if self._tls is not None:
            while not self._tls.shaken:
                self._connection.sendall(self._tls.to_send())
                self._tls.receive(self._connection.recv(65536))
            self._connection.sendall(self._tls.to_send())

    def send(self, one: bytes) -> None:
        """Send a request."""
        if self._tls is not None:
            self._tls.write(one)
            one = self._tls.to_send()
        self._connection.sendall(one)

    def receive(self) -> tuple[bytes, float]:
        """Return the answer, and when it came, in seconds since the epoch."""
        got, came = bytearray(), 0.0
        while not is_complete(got):
            piece, notes, _, _ = self._connection.recvmsg(65536, 256)
            if not piece:
                raise ConnectionError(f"closed after {bytes(got[:300])!r}")
            for level, kind, note in notes:
                if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
                    seconds, nanoseconds = struct.unpack("qq", note)
                    came = seconds + nanoseconds / 1e9
            got += piece if self._tls is None else self._tls.receive(piece)
        return bytes(got), came or time.time()


REQUESTS = {
    "put": [
        (request("POST", "/enqueue", b"x" * rig.MESSAGE), b" 202 "),
        (request("GET", "/dequeue"), b" 200 "),
    ],
    "receive": [(request("POST", "/queues/idle/receive"), b" 204 ")],
}
"""What each kind of client asks, and what the answers begin with."""


def main(port: int, pid: int, kind: str, tls: bool) -> None:
    """Ask until standard input ends."""
    with contextlib.suppress(PermissionError):  # else it waits for a core more often, which it notes
        os.nice(-10)
    server, client = Waiting(pid), Waiting(os.getpid())
    answers: list[tuple[float, float]] = []
    asking = Asking(Site(pid, port, tls))
    print("asking", flush=True)
    while not select.select([0], [], [], PAUSE)[0]:
        for one, status in REQUESTS[kind]:
            server_waited, client_waited = server.milliseconds(), client.milliseconds()
            begun = time.time()
            asking.send(one)
            waited = client.milliseconds() - client_waited
            got, came = asking.receive()
            waited += server.milliseconds() - server_waited
            answers.append(((came - begun) * 1000, waited))
            if status not in got[:16]:
                raise RuntimeError(f"the healthy client was answered {got[:300]!r}")
    print(msgspec.json.encode(answers).decode())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], "tls" in sys.argv)
