"""A process that has no descriptor left: who comes then is turned away, and the metrics say why."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress

import pytest
import trio

from tests.support.wire import ask, open_client
from zapq.http import metrics
from zapq.server.listeners import ReserveDescriptor
from zapq.service.service import QueueService
from zapq.testing import ZapqServer


@contextmanager
def no_descriptors() -> Generator[None, None, None]:
    """Leave this process no descriptor for the length of the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = [int(name) for name in os.listdir("/proc/self/fd")]
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(used) + 8, hard))
        with suppress(OSError):
            while True:
                stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        yield


def connect(door: socket.socket) -> socket.socket:
    return socket.create_connection(door.getsockname(), timeout=10)


def test_who_comes_when_no_descriptor_is_left_is_turned_away_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door, connect(door) as one, connect(door) as two:
        door.setblocking(False)
        reserve_descriptor = ReserveDescriptor()
        with no_descriptors():
            with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
                door.accept()
            assert reserve_descriptor.turn_away(door) == 2
            assert one.recv(1) == two.recv(1) == b""
            # Nobody waits; and the spare is there again.
            assert reserve_descriptor.turn_away(door) == 0
        reserve_descriptor.close()


def test_without_a_spare_descriptor_who_comes_waits_until_there_is_one_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door, connect(door) as client:
        door.setblocking(False)
        with no_descriptors():
            reserve_descriptor = ReserveDescriptor()
            assert reserve_descriptor.turn_away(door) is None
        assert reserve_descriptor.turn_away(door) is None
        assert reserve_descriptor.turn_away(door) == 1
        assert client.recv(1) == b""
        reserve_descriptor.close()


async def test_the_metrics_say_that_no_descriptor_is_left(zapq_service: QueueService) -> None:
    with no_descriptors():
        said = metrics.as_json(zapq_service.stats(), metrics.ServerCounts(), 0.0)
    assert said["open_fds"] == said["max_fds"]


async def test_a_server_without_descriptors_serves_who_is_there_and_turns_others_away(
    zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The clients are in this process, too, so a limit would be theirs as well: the door says what it would say.
    accept, reserve_descriptor = socket.socket.accept, ReserveDescriptor.turn_away

    def refuse(self: socket.socket) -> object:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def turn_away(self: ReserveDescriptor, door: socket.socket) -> int | None:
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "accept", accept)
            return reserve_descriptor(self, door)

    async with open_client(zapq_server.url) as early:
        assert (await early.request("GET", "/dequeue")).status == 204
        monkeypatch.setattr(ReserveDescriptor, "turn_away", turn_away)
        monkeypatch.setattr(socket.socket, "accept", refuse)
        for _ in range(3):
            async with await trio.open_tcp_stream("127.0.0.1", int(zapq_server.url.rpartition(":")[2])) as late:
                assert await late.receive_some() == b""
        metrics = (await early.request("GET", "/metrics")).json
        assert (metrics["connections"], metrics["connections_refused"]) == (1, 3)
        monkeypatch.setattr(socket.socket, "accept", accept)
        assert (await ask(zapq_server.url, "GET", "/dequeue")).status == 204
