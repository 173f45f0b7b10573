"""Frames between two processes."""

from __future__ import annotations

import socket

import pytest

from zapq.engine.channel import Channel
from zapq.limits import CHANNEL_BYTES


def test_all_that_has_arrived_of_a_long_frame_is_read_at_once() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender, receiver = Channel(ours), Channel(theirs)
        frame = bytes(4 * CHANNEL_BYTES)
        sender.send(frame)
        received: list[bytes] = []
        while not received:
            sender.flush()
            sender.flush()  # more than is read in one go
            received += receiver.receive()
            with pytest.raises(BlockingIOError):
                theirs.recv(1)
        assert received == [frame]
