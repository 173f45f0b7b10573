"""A guest whose outcome is known has one turn for it, however many events say that it is ready."""

from __future__ import annotations

import re
import socket
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

import zapq
from tests.support.disk import Disk
from tests.support.waiting import PATIENCE
from tests.support.wire import connection, socket_below
from zapq.service.service import QueueService
from zapq.settings import Settings
from zapq.wakeup import Wakeup


async def test_what_comes_in_the_moment_its_answer_is_known_is_not_taken_for_a_new_request(
    zapq_settings: Settings, tmp_path: Path, nursery: trio.Nursery, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    # To a server that takes the end of the body for a request, this is one.
    inside = b"x" * 10 + b"POST /queues/other/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    settings = replace(zapq_settings, durable=True, data_dir=str(tmp_path))
    woken, wake = threading.Event(), Wakeup.wake

    def wake_and_tell(wakeup: Wakeup) -> None:
        wake(wakeup)
        woken.set()

    monkeypatch.setattr(Wakeup, "wake", wake_and_tell)
    async with zapq.open_service(settings) as service:
        assert isinstance(service, QueueService)
        [url] = await nursery.start(partial(zapq.serve, settings, service=service))
        await service.stored()
        async with connection(url) as stream:
            disk.hold()
            await stream.send_all(head % 1 + b"a" + head % len(inside) + inside[:10])
            await disk.held()
            await trio.testing.wait_all_tasks_blocked()
            # From here on the lobby has no turn until both have happened, the commit first.
            woken.clear()
            disk.go_on()
            assert woken.wait(PATIENCE)
            raw = socket.socket(fileno=socket_below(stream).fileno())
            try:
                raw.send(inside[10:])
            finally:
                raw.detach()
            received = b""
            while received.count(b"\r\n\r\n") < 2:
                data = await stream.receive_some()
                assert data, received
                received += data
            assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"202", b"202"]
        assert {queue.name: queue.info().stats.messages for queue in service.queues()} == {"default": 2}
        nursery.cancel_scope.cancel()
