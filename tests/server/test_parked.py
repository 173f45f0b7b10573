"""Long polls that wait in the lobby: answered as the long way answers them, without a task; nothing is lost."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import zapq
from tests.support.serving import plain_and_tls, until_waiting
from tests.support.wire import Stream, ask, connect, connection, socket_below, until_shown, vanish
from zapq.limits import DISMISSALS
from zapq.service.service import QueueService
from zapq.settings import Settings
from zapq.testing import ZapqServer

__all__ = ["plain_and_tls"]

WAIT = b"POST /queues/jobs/receive?wait=30 HTTP/1.1\r\nHost: localhost\r\n\r\n"
TAKE = b"POST /queues/jobs/receive?wait=30&ack=auto HTTP/1.1\r\nHost: localhost\r\n\r\n"
MANY = b"POST /queues/jobs/receive/batch?wait=30 HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n"
DEQUEUE = b"GET /dequeue?wait=30 HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def answer(stream: Stream) -> bytes:
    """Return the next answer, whole."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = await stream.receive_some()
        assert data, received
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: ([0-9]+)", head)
    while length is not None and len(body) < int(length[1]):
        body += await stream.receive_some()
    return head + b"\r\n\r\n" + body


def plain(text: bytes) -> bytes:
    """Leave out what differs from one server to the next."""
    text = re.sub(rb"[0-9]+-[0-9a-f]{6}(?![0-9a-f-])", b"TRACE", text)
    text = re.sub(rb"[0-9a-f]{6}-[0-9]-", b"TAG-", text)
    return re.sub(rb"Content-Length: [0-9]+|Date: [^\r]+|Zapq-Visible-Until: [^\r]+", b"", text)


async def send(service: QueueService) -> None:
    await service.queue("jobs").enqueue(b"hello", content_type="text/plain")
    await service.enqueue(b"hello")


async def send_nothing_in_it(service: QueueService) -> None:
    await service.queue("jobs").enqueue(b"")
    await service.enqueue(b"")


async def drain(service: QueueService) -> None:
    service.drain()


async def delete(service: QueueService) -> None:
    await service.delete("jobs")


async def hold(service: QueueService) -> None:
    """Have somebody else take what would have been for them; then their time is over."""
    await service.queue("jobs").pause()
    await service.queue("jobs").enqueue(b"hello")
    service.waiting_room.expire(trio.current_time() + 3600, 9)


@pytest.mark.parametrize(
    ("poll", "end"),
    [
        *product([WAIT, TAKE, MANY], [send, send_nothing_in_it, drain, delete, hold]),
        # Its queue is always there.
        *product([DEQUEUE], [send, send_nothing_in_it, drain, hold]),
    ],
)
async def test_it_is_answered_byte_for_byte_as_the_long_way_answers_it(
    zapq_settings: Settings,
    tmp_path: Path,
    poll: bytes,
    end: Callable[[QueueService], Awaitable[None]],
) -> None:
    answers: list[bytes] = []
    for hot in (True, False):
        settings = replace(zapq_settings, hot_path=hot, data_dir=str(tmp_path))
        async with zapq.open_service(settings) as service, trio.open_nursery() as nursery:
            service.queue("jobs")
            [url] = await nursery.start(partial(zapq.serve, settings, service=service))
            async with connection(url) as stream:
                await stream.send_all(poll)
                await until_waiting(service, 1)
                await end(service)
                answers.append(plain(await answer(stream)))
            nursery.cancel_scope.cancel()
    assert answers[0] == answers[1]


async def test_it_costs_no_task_and_is_hot(zapq_server: ZapqServer) -> None:
    service = zapq_server.service
    service.queue("jobs")
    async with connection(zapq_server.url) as one, connection(zapq_server.url) as other:
        await wait_all_tasks_blocked()
        before = trio.lowlevel.current_statistics().tasks_living
        for stream in (one, other):
            await stream.send_all(WAIT)
        await until_waiting(service, 2)
        await wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == before
        # First come, first served, also by a request in the same turn of the lobby.
        for number, stream in enumerate((one, other)):
            body = b"%d" % number
            sent = await ask(zapq_server.url, "POST", "/queues/jobs/messages", body)
            assert sent.status == 202
            assert (await answer(stream)).endswith(b"\r\n\r\n" + body)
    counts = (await ask(zapq_server.url, "GET", "/%6detrics")).json
    assert (counts["hot_requests"], counts["cold_requests"], counts["waiting"]) == (4, 1, 0)


@pytest.mark.parametrize("behind", [1, 100], ids=["one", "more than is kept here"])
async def test_what_is_pipelined_behind_it_is_answered_after_it(zapq_server: ZapqServer, behind: int) -> None:
    service = zapq_server.service
    async with connection(zapq_server.url) as stream:
        await stream.send_all(DEQUEUE + HEALTH * behind)
        await until_waiting(service, 1)
        await stream.send_all(HEALTH)
        await wait_all_tasks_blocked()
        await service.enqueue(b"x")
        received = b""
        while received.count(b"\r\n\r\nok") < behind + 1:
            received += await stream.receive_some()
        assert received.count(b"\r\n\r\nx") == 1
        assert received.index(b"\r\n\r\nx") < received.index(b"\r\n\r\nok")
        await stream.send_all(DEQUEUE)
        await until_waiting(service, 1)
        await service.enqueue(b"y")
        assert (await answer(stream)).endswith(b"\r\n\r\ny")


async def test_behind_other_requests_it_waits_after_their_answers(zapq_server: ZapqServer) -> None:
    service = zapq_server.service
    await service.enqueue(b"1")
    async with connection(zapq_server.url) as stream:
        await stream.send_all(DEQUEUE * 2)
        assert (await answer(stream)).endswith(b"\r\n\r\n1")
        await until_waiting(service, 1)
        await service.enqueue(b"2")
        assert (await answer(stream)).endswith(b"\r\n\r\n2")


async def test_its_connection_is_closed_when_asked_and_else_after_the_idle_timeout(
    zapq_settings: Settings, nursery: trio.Nursery, patient_clock: MockClock
) -> None:
    settings = replace(zapq_settings, keep_alive=5)
    async with zapq.open_service(settings) as service:
        [url] = await nursery.start(partial(zapq.serve, settings, service=service))
        for poll in (DEQUEUE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), DEQUEUE):
            async with connection(url) as stream:
                await stream.send_all(poll)
                await until_waiting(service, 1)
                # Longer than the connection may be idle.
                await trio.sleep(20)
                await service.enqueue(b"x")
                assert (await answer(stream)).endswith(b"\r\n\r\nx")
                assert await stream.receive_some() == b""
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("poll", [WAIT, DEQUEUE])
@pytest.mark.parametrize("way", ["reset", "end", "end in the same tick", "reset in the same tick"])
async def test_who_left_gets_nothing_and_the_next_one_does(zapq_server: ZapqServer, poll: bytes, way: str) -> None:
    service = zapq_server.service
    queue = service.queue("jobs") if poll == WAIT else service.default
    async with connection(zapq_server.url) as gone, connection(zapq_server.url) as next_:
        for number, stream in enumerate((gone, next_), 1):
            await stream.send_all(poll)
            await until_waiting(service, number)
        if "reset" in way:
            vanish(gone)
        else:
            socket_below(gone).close()
        if "tick" not in way:
            await until_waiting(service, 1)
        queue.enqueue_nowait(b"x")
        got = await answer(next_)
        assert got.endswith(b"\r\n\r\nx")
        assert b"Zapq-Receive-Count: 1" in got or poll == DEQUEUE
    # A lease that was taken back is not counted as received; a message that was put back is counted twice.
    stats = queue.info().stats
    assert (stats.ready, stats.received + stats.dequeued) == (0, 1 if poll == WAIT else 1 + stats.returned)


async def test_who_has_closed_only_its_own_half_is_told_that_there_is_nothing(zapq_server: ZapqServer) -> None:
    zapq_server.service.queue("jobs")
    async with connection(zapq_server.url) as stream:
        await stream.send_all(WAIT)
        await until_waiting(zapq_server.service, 1)
        socket_below(stream).shutdown(trio.socket.SHUT_WR)
        assert (await answer(stream)).startswith(b"HTTP/1.1 204")
        assert await stream.receive_some() == b""
    assert len(zapq_server.service.waiting_room) == 0


async def test_over_the_cap_it_is_refused(zapq_settings: Settings, nursery: trio.Nursery) -> None:
    [url] = await nursery.start(zapq.serve, replace(zapq_settings, max_waiters=1))
    async with connection(url) as first, connection(url) as second:
        await first.send_all(DEQUEUE)
        await until_shown(url, waiting=1)
        await second.send_all(DEQUEUE)
        refused = await answer(second)
        assert b"too-many-waiters" in refused
    nursery.cancel_scope.cancel()


async def test_a_shutdown_answers_very_many_at_once(zapq_settings: Settings) -> None:
    settings = replace(zapq_settings, max_connections_per_address=0)
    stop = trio.Event()
    number = 3 * DISMISSALS
    async with zapq.open_service(settings) as service, trio.open_nursery() as nursery:
        [url] = await nursery.start(
            partial(zapq.serve, settings, service=service, shutdown_trigger=stop.wait),
        )
        streams = []
        for _ in range(number):
            stream = await connect(url)
            await stream.send_all(DEQUEUE)
            streams.append(stream)
        await until_waiting(service, number)
        stop.set()
        for stream in streams:
            async with stream:
                assert b" 503 " in await answer(stream)
                assert await stream.receive_some() == b""


async def test_on_disk_it_is_answered_when_the_message_is_written(
    zapq_settings: Settings, tmp_path: Path, nursery: trio.Nursery
) -> None:
    settings = replace(zapq_settings, durable=True, data_dir=str(tmp_path))
    async with zapq.open_service(settings) as service:
        [url] = await nursery.start(partial(zapq.serve, settings, service=service))
        service.queue("jobs")
        async with connection(url) as first, connection(url) as second:
            await first.send_all(MANY)
            await until_waiting(service, 1)
            await second.send_all(WAIT)
            await until_waiting(service, 2)
            batch = msgspec.msgpack.encode([b"a", b"b"])
            fields = {"Content-Type": "application/msgpack"}
            assert (await ask(url, "POST", "/queues/jobs/messages/batch", batch, fields)).status == 202
            assert len(msgspec.json.decode((await answer(first)).partition(b"\r\n\r\n")[2])) == 2
            assert (await ask(url, "POST", "/queues/jobs/messages", b"c")).status == 202
            assert (await answer(second)).endswith(b"\r\n\r\nc")
            assert service.queue("jobs").info().stats.leased == 3
        nursery.cancel_scope.cancel()
