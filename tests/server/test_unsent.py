"""Clients that ask for much and read nothing: together they hold a bounded amount, and the slowest goes first."""

from __future__ import annotations

import socket
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import zapq
from zapq.server import front
from zapq.server.unsent import Unsent
from zapq.service.service import QueueService
from zapq.settings import Settings

MIB = 1024 * 1024
PEEK = b"GET /queues/default/messages?limit=1000 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
RECEIVE = b"POST /queues/default/receive/batch HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Sender:
    def __init__(self) -> None:
        self.given_up = False

    def disconnect(self) -> None:
        self.given_up = True


def test_whoever_got_nothing_through_for_the_longest_time_is_given_up() -> None:
    unsent = Unsent(10)
    one, two, three, four = (Sender() for _ in range(4))
    with unsent.held(one, 4), unsent.held(two, 4):
        unsent.note_progress(one)
        with unsent.held(three, 4):
            assert [each.given_up for each in (one, two, three)] == [False, True, False]
            assert unsent.size == 8
        with unsent.held(four, 20):
            assert one.given_up
            assert not four.given_up
            assert unsent.size == 20
        assert unsent.size == 0


def test_a_connection_with_several_answers_counts_for_all_of_them() -> None:
    unsent = Unsent(10)
    one, two = Sender(), Sender()
    with unsent.held(one, 4):
        with unsent.held(one, 4):
            assert unsent.size == 8
        assert unsent.size == 4
        with unsent.held(two, 4), unsent.held(one, 4):
            assert two.given_up
        assert unsent.size == 4
    assert unsent.size == 0


@pytest.mark.parametrize("request_", [PEEK, RECEIVE], ids=["peek", "receive"])
async def test_one_that_does_not_read_has_to_go_when_others_need_the_room(
    zapq_service: QueueService,
    zapq_settings: Settings,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    request_: bytes,
) -> None:
    for _ in range(140):
        zapq_service.enqueue_nowait(bytes(128 * 1024))
    monkeypatch.setattr(front, "MAX_UNSENT_BYTES", 15 * MIB)
    [url] = await nursery.start(partial(zapq.serve, zapq_settings, service=zapq_service))

    async def ask(stream: trio.SocketStream) -> None:
        await stream.send_all(request_)
        # Whatever the kernel takes is there, and the rest waits in the server.
        await wait_all_tasks_blocked(0.05)

    async def read(stream: trio.SocketStream) -> int:
        size = 0
        try:
            while data := await stream.receive_some(MIB):
                size += len(data)
        except trio.BrokenResourceError:
            pass
        return size

    streams = []
    for _ in range(2):
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await sock.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        streams.append(trio.SocketStream(sock))
    first, second = streams
    async with first, second:
        await ask(first)
        await ask(second)
        assert await read(first) < 8 * MIB
        assert await read(second) > 8 * MIB
    nursery.cancel_scope.cancel()
