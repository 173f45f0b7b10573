"""Frames between two processes."""

from __future__ import annotations

import select
import socket
import threading

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


def test_a_frame_that_is_just_arriving_is_waited_for() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        receiver = Channel(theirs)
        frame = bytes(16 * CHANNEL_BYTES)
        sending = threading.Thread(target=ours.sendall, args=(len(frame).to_bytes(4, "big") + frame,))
        sending.start()
        select.select([theirs], [], [])
        received = list(receiver.receive(patience=30.0))
        sending.join()
        assert received == [frame]


def test_it_is_not_waited_for_longer_than_said() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        receiver = Channel(theirs)
        ours.sendall((10).to_bytes(4, "big") + b"half ")
        assert list(receiver.receive(patience=0.01)) == []
        ours.sendall(b"a")
        assert list(receiver.receive()) == []
        ours.sendall(b"nd 4")
        assert list(receiver.receive()) == [b"half and 4"]
