"""More requests than a server can answer, from one cheap process.

Reads one line of JSON from standard input, what to send and where (`Flood`), and sends it as fast as it is
answered until standard input ends; then prints what was answered. Every group repeats one request, so whole
pipelines are sent at once, and answers are counted without being parsed: a core of this makes several times what a
core of zapq can answer.
"""

from __future__ import annotations

import re
import selectors
import socket
import sys
import time
from collections import Counter
from contextlib import AbstractAsyncContextManager, suppress
from io import FileIO

import msgspec

from bench.torture.beside import beside

RECEIVE = 256 * 1024
_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3})")
_PART = 11
"""Bytes of a status line that are not yet a match of the above."""


class Group(msgspec.Struct):
    """Connections that all repeat the same request."""

    name: str
    request: bytes
    connections: int
    depth: int
    """Requests each has under way."""
    each: int = 1
    """Answers to one `request`, which may be several."""
    share: float = 0.0
    """Its requests are at most this part of all others'; 0: as many as are answered."""


class Flood(msgspec.Struct):
    """What one process sends, and where."""

    port: int
    groups: list[Group]


class Flooded(msgspec.Struct):
    """What one process was answered."""

    answers: dict[str, dict[str, int]] = {}
    """By group, then by status."""
    closed: int = 0
    """Connections the server has ended; each is opened again."""
    cut: int = 0
    """Of those, without an answer to the only request."""
    seconds: float = 0.0
    """How long that took."""

    def add(self, other: Flooded) -> None:
        """Count what another process was answered, too."""
        for name, statuses in other.answers.items():
            mine = self.answers.setdefault(name, {})
            for status, number in statuses.items():
                mine[status] = mine.get(status, 0) + number
        self.closed += other.closed
        self.cut += other.cut
        self.seconds = max(self.seconds, other.seconds)

    def total(self) -> int:
        """Return how many answers there were."""
        return sum(sum(statuses.values()) for statuses in self.answers.values())

    def rate(self) -> float:
        """Return how many there were a second."""
        return self.total() / self.seconds


class Credential:
    """One connection."""

    def __init__(self, group: Group, port: int) -> None:
        self.group = group
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.under_way = 0
        self.unsent = b""
        self.last = False
        """Whether the server has said that it will close."""
        self._tail = b""

    def fill(self, allowed: int) -> int:
        """Have up to `depth` requests under way, `allowed` new ones at most; return how many were begun."""
        begun = min(self.group.depth - self.under_way // self.group.each, allowed)
        # Half a pipeline at a time: many small sends would cost us more than they cost the server.
        if self.last or self.unsent or begun < min(allowed, (self.group.depth + 1) // 2):
            return 0
        self.under_way += begun * self.group.each
        self.unsent = self.group.request * begun
        self.flush()
        return begun

    def rests(self) -> bool:
        """Whether there is nothing to send and nothing to come."""
        return not self.under_way and not self.unsent

    def flush(self) -> None:
        """Send what the kernel takes."""
        try:
            sent = self.sock.send(self.unsent)
        except BlockingIOError:
            return
        self.unsent = self.unsent[sent:]

    def receive(self) -> list[bytes]:
        """Return the statuses that have come; OSError if the server has closed."""
        data = self._tail + self.sock.recv(RECEIVE)
        if len(data) == len(self._tail):
            raise ConnectionResetError
        statuses = _STATUS.findall(data)
        self._tail = data[-_PART:]
        self.under_way -= len(statuses)
        self.last = self.last or b"onnection: close" in data
        return statuses


def flood(what: Flood, stdin: FileIO) -> Flooded:
    """Send until `stdin` ends; print an empty line when all are connected."""
    selector = selectors.DefaultSelector()
    selector.register(stdin, selectors.EVENT_READ)
    counts: dict[str, Counter[bytes]] = {group.name: Counter() for group in what.groups}
    sent = dict.fromkeys(counts, 0)
    closed = cut = 0

    def connect(group: Group) -> None:
        line = Credential(group, what.port)
        lines.add(line)
        selector.register(line.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, line)

    def go_on(line: Credential) -> None:
        group = line.group
        allowed = group.depth
        if group.share:
            others = sum(sent.values()) - sent[group.name]
            allowed = max(0, int(others * group.share) - sent[group.name])
        if allowed:
            sent[group.name] += line.fill(allowed)

    lines: set[Credential] = set()
    for group in what.groups:
        for _ in range(group.connections):
            connect(group)
    print(flush=True)
    begun = time.perf_counter()
    shared = [line for line in lines if line.group.share]
    while True:
        for key, events in selector.select(1):
            if key.data is None:
                selector.close()
                return Flooded(
                    {name: {status.decode(): n for status, n in each.items()} for name, each in counts.items()},
                    closed,
                    cut,
                    time.perf_counter() - begun,
                )
            line: Credential = key.data
            try:
                if events & selectors.EVENT_READ:
                    counts[line.group.name].update(line.receive())
                if line.unsent:
                    line.flush()
                go_on(line)
                wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if line.unsent else 0)
                if wanted != key.events:
                    selector.modify(line.sock, wanted, line)
            except OSError:
                # Sending fails first; what was answered before is still there to be read.
                with suppress(OSError):
                    while True:
                        counts[line.group.name].update(line.receive())
                closed += 1
                cut += line.under_way > 0 and line.group.depth == 1
                selector.unregister(line.sock)
                lines.discard(line)
                line.sock.close()
                connect(line.group)
        for line in shared:
            if line in lines and line.rests():
                go_on(line)
                if line.unsent:
                    selector.modify(line.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, line)


def flooding(what: Flood, flooded: Flooded) -> AbstractAsyncContextManager[None]:
    """Flood for the length of the block, beside the server's core, and add what was answered to `flooded`."""
    return beside("bench.torture.flood", what, Flooded, flooded.add)


def main() -> None:
    """Do as standard input says."""
    with open(sys.stdin.fileno(), "rb", buffering=0) as stdin:
        what = msgspec.json.decode(stdin.readline(), type=Flood)
        print(msgspec.json.encode(flood(what, stdin)).decode())


if __name__ == "__main__":
    main()
