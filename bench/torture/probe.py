"""A healthy client: asks again and again, and notes how long it takes to be answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

PATIENCE = 10.0
"""Seconds after which a client that is neither answered nor refused has been left hanging."""
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value that `part` of them do not exceed; 0 if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0


async def exchange(stream: trio.SocketStream, request: bytes) -> tuple[int, bytes, bytes]:
    """Send a request, and return the status, the head and the body of the answer.

    Raises `trio.BrokenResourceError` if the server ends the connection first.
    """
    await stream.send_all(request)
    received = bytearray()
    while (end := received.find(b"\r\n\r\n")) < 0:
        received += await _receive(stream)
    head = bytes(received[:end])
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    while len(received) < end + 4 + length:
        received += await _receive(stream)
    return int(head[9:12]), head, bytes(received[end + 4 :])


async def _receive(stream: trio.SocketStream) -> bytes | bytearray:
    data = await stream.receive_some()
    if not data:
        raise trio.BrokenResourceError("closed in the answer")
    return data


@dataclass
class Probe:
    """What one healthy client has seen."""

    port: int
    requests: Sequence[bytes] = (HEALTH,)
    """Sent in turn."""
    fresh: bool = False
    """A connection for each request."""
    milliseconds: list[float] = field(default_factory=list)
    """How long each answer took, a refusal included."""
    statuses: dict[int, int] = field(default_factory=dict)
    refused: int = 0
    """Connections not accepted, or closed at once."""
    hung: int = 0
    """Times it was left hanging."""
    _stream: trio.SocketStream | None = None

    async def ask(self, request: bytes = HEALTH) -> int:
        """Ask once, and return the status: 0 if turned away, -1 if left hanging."""
        begun = trio.current_time()
        status = -1
        with trio.move_on_after(PATIENCE):
            try:
                if self._stream is None:
                    self._stream = await trio.open_tcp_stream("127.0.0.1", self.port)
                status, head, _ = await exchange(self._stream, request)
                if self.fresh or b"\r\nconnection: close" in head.lower():
                    await self.leave()
            except (OSError, trio.BrokenResourceError):
                status = 0
        if status <= 0:
            await self.leave()
        self.hung += status < 0
        self.refused += not status
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.milliseconds.append((trio.current_time() - begun) * 1000)
        return status

    async def run(self, pause: float) -> None:
        """Ask until cancelled, with so many seconds between two requests."""
        number = 0
        try:
            while True:
                await self.ask(self.requests[number % len(self.requests)])
                number += 1
                await trio.sleep(pause)
        finally:
            with trio.CancelScope(shield=True):
                await self.leave()

    async def leave(self) -> None:
        """Close the connection; the next request opens another."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await trio.aclose_forcefully(stream)
