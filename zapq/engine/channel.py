"""One stream socket between two processes, as frames: four bytes that say how long, then msgpack.

Nothing here waits, except for the rest of a frame if that is asked for. Both ends trust each other: they are of
one program, and the socket was made by it.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator

from zapq.limits import CHANNEL_BYTES, RECEIVE_BYTES

_LENGTH = 4


class ChannelClosed(Exception):
    """The process at the other end is no more."""


class Channel:
    """Sends and receives frames; what the socket does not take now is kept for `flush`."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, CHANNEL_BYTES)
        self.sock = sock
        self._received = bytearray()
        self._unsent = bytearray()

    @property
    def stuck(self) -> bool:
        """Whether the socket has to take more before everything is sent."""
        return bool(self._unsent)

    def send(self, frame: bytes) -> None:
        """Send one frame, as far as the socket takes it now. Raises `ChannelClosed`."""
        data = len(frame).to_bytes(_LENGTH, "big") + frame
        if self._unsent:
            self._unsent += data
            return
        sent = self._send(data)
        if sent < len(data):
            self._unsent += data[sent:]

    def flush(self) -> None:
        """Send more of what is not sent yet. Raises `ChannelClosed`."""
        del self._unsent[: self._send(memoryview(self._unsent)[:CHANNEL_BYTES].tobytes())]

    def receive(self, patience: float = 0.0) -> Iterator[bytes]:
        """Yield the frames that have arrived whole. Raises `ChannelClosed`, after the last of them.

        If one has arrived in part, wait for more of it, for `patience` seconds in all.
        """
        until = 0.0
        while True:
            try:
                data = self.sock.recv(RECEIVE_BYTES)
            except BlockingIOError:
                now = time.perf_counter()
                until = until or now + patience
                if self._received and now < until and self._wait(until - now):
                    continue
                return
            except OSError as error:
                raise ChannelClosed from error
            if not data:
                raise ChannelClosed
            all_there_was = len(data) < RECEIVE_BYTES
            if self._received:
                self._received += data
                data = bytes(self._received) if self._is_whole() else b""
            at, length = 0, len(data)
            while length - at >= _LENGTH:
                end = at + _LENGTH + int.from_bytes(data[at : at + _LENGTH], "big")
                if end > length:
                    break
                yield data[at + _LENGTH : end]
                at = end
            if at < length:
                self._received = bytearray(data[at:] if at else data)
            elif data:
                self._received = bytearray()
            if all_there_was and not (patience and self._received):
                return

    def close(self) -> None:
        """Close this end."""
        self.sock.close()

    def _send(self, data: bytes) -> int:
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ChannelClosed from error

    def _wait(self, seconds: float) -> bool:
        """Wait for something to arrive, and return whether it has."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def _is_whole(self) -> bool:
        """Whether what was received has a frame in it, so that it is worth a look."""
        received = self._received
        return len(received) >= _LENGTH and len(received) >= _LENGTH + int.from_bytes(received[:_LENGTH], "big")
