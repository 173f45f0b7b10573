"""Real sockets in the lobby: what stays hot, who waits for whom, and clients that vanish at any byte."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import zapq
from tests.support.serving import plain_and_tls
from tests.support.waiting import eventually
from tests.support.wire import Stream, ask, connection, open_client, vanish
from zapq.access.access import Access
from zapq.engine.local import LocalEngine
from zapq.http import render
from zapq.http.metrics import ServerCounts
from zapq.limits import BYTES_PER_COST, MAX_ANSWERS, TURN_COST
from zapq.server.connection import Handoff
from zapq.server.front import Front
from zapq.server.guest import Guest
from zapq.server.hotpath import Answers, HotPath
from zapq.server.listeners import open_listening_socket
from zapq.server.lobby import Lobby
from zapq.server.tls import Wire
from zapq.service.service import QueueService
from zapq.service.service_stats import ServiceStats
from zapq.settings import Settings
from zapq.testing import ZapqServer

__all__ = ["plain_and_tls"]

DEQUEUE = b"GET /dequeue HTTP/1.1\r\nHost: localhost\r\n\r\n"


def enqueue(body: bytes) -> bytes:
    return b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def metrics(server: ZapqServer) -> dict[str, int]:
    answer: dict[str, int] = (await ask(server.url, "GET", "/%6detrics")).json
    return answer


async def receive(stream: Stream, size: int) -> bytes:
    received = b""
    while len(received) < size:
        data = await stream.receive_some()
        if not data:
            break
        received += data
    return received


async def receive_until(stream: Stream, end: bytes) -> bytes:
    received = b""
    while end not in received:
        data = await stream.receive_some()
        assert data, received
        received += data
    return received


def watch(
    patch: pytest.MonkeyPatch,
    before: Callable[[bytes], object] = lambda data: None,
    after: Callable[[Answers], None] = lambda answers: None,
) -> None:
    """Have `before` called with what the hot path is to answer, and `after` with its answers, not sent yet.

    An observer the lobby itself calls would cost every request something.
    """
    respond = HotPath.respond

    def respond_watched(self: HotPath, data: bytes, *options: Any) -> Answers:
        before(data)
        answers = respond(self, data, *options)
        after(answers)
        return answers

    patch.setattr(HotPath, "respond", respond_watched)


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def test_a_large_message_that_arrives_in_five_reads_stays_hot_and_costs_no_task(
    zapq_server: ZapqServer,
) -> None:
    request = enqueue(bytes(128 * 1024))
    async with connection(zapq_server.url) as stream:
        await wait_all_tasks_blocked()
        before = tasks()
        for start in range(0, len(request), len(request) // 5 + 1):
            await stream.send_all(request[start : start + len(request) // 5 + 1])
            await wait_all_tasks_blocked()
            assert tasks() == before
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 202")
    counts = await metrics(zapq_server)
    assert (counts["hot_requests"], counts["cold_requests"]) == (1, 1)
    assert counts["queue_bytes"] == 128 * 1024


async def test_hot_and_cold_requests_follow_each_other_on_one_connection(zapq_server: ZapqServer) -> None:
    async with open_client(zapq_server.url) as client:
        for round_ in range(1, 4):
            assert (await client.request("POST", "/enqueue", b"a")).status == 202
            assert (await client.request("GET", "/%68ealth")).body == b"ok"
            assert (await client.request("POST", "/enqueue", b"b", {"Transfer-Encoding": "chunked"})).status == 202
            assert (await client.request("GET", "/dequeue")).body == b"a"
            assert (await client.request("POST", "/dequeue")).body == b"b"
            counts = (await client.request("GET", "/%6detrics")).json
            assert (counts["hot_requests"], counts["cold_requests"]) == (3 * round_, 3 * round_)
            assert counts["connections"] == 1


async def test_a_connection_for_each_request_is_hot_and_closed_when_asked(zapq_server: ZapqServer) -> None:
    close = {"Connection": "close"}
    for _ in range(5):
        async with open_client(zapq_server.url) as client:
            answer = await client.request("POST", "/enqueue", b"a", close)
            assert (answer.status, answer.headers["connection"]) == (202, "close")
            assert await client.reads_eof()
    counts = await metrics(zapq_server)
    assert (counts["hot_requests"], counts["cold_requests"], counts["connections"]) == (5, 1, 1)


async def test_without_the_hot_path_every_request_is_cold(zapq_settings: Settings, nursery: trio.Nursery) -> None:
    [url] = await nursery.start(zapq.serve, replace(zapq_settings, hot_path=False))
    async with open_client(url) as client:
        assert (await client.request("POST", "/enqueue", b"a")).status == 202
        counts = (await client.request("GET", "/%6detrics")).json
    assert (counts["hot_requests"], counts["cold_requests"], counts["requests"]) == (0, 2, 2)


async def test_where_no_selector_is_pollable_each_connection_has_a_task_and_every_request_is_cold(
    zapq_settings: Settings, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selectors.DefaultSelector", selectors.PollSelector)
    assert not Lobby.possible()
    [url] = await nursery.start(zapq.serve, zapq_settings)
    async with open_client(url) as client:
        assert (await client.request("POST", "/enqueue", b"a")).status == 202
        assert (await client.request("GET", "/dequeue")).body == b"a"
        assert (await client.request("GET", "/metrics")).json["hot_requests"] == 0


async def test_a_dequeue_whose_write_fails_puts_the_message_back_at_its_place(
    zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    victims: list[Stream] = []

    def leave(answers: Answers) -> None:
        for stream in victims:
            vanish(stream)
        victims.clear()

    watch(monkeypatch, after=leave)
    for body in (b"one", b"two", b"three"):
        zapq_server.service.enqueue_nowait(body)
    async with connection(zapq_server.url) as stream:
        victims.append(stream)
        await stream.send_all(DEQUEUE * 2)
        await wait_all_tasks_blocked()
        assert not victims
    counts = await metrics(zapq_server)
    assert (counts["dequeues_returned"], counts["queue_length"], counts["delivery_uncertain"]) == (2, 3, 0)
    assert [(await ask(zapq_server.url, "GET", "/dequeue")).body for _ in range(3)] == [b"one", b"two", b"three"]


class TestWithLargeMessages:
    @pytest.fixture
    def zapq_settings(self, zapq_settings: Settings) -> Settings:
        return replace(zapq_settings, max_message_bytes=4 * 2**20, max_bytes=2**30, send_timeout=20)

    async def test_an_answer_larger_than_the_sockets_take_is_finished_without_holding_up_others(
        self, zapq_server: ZapqServer
    ) -> None:
        body = bytes(range(256)) * (4 * 2**20 // 256)
        for _ in range(5):
            zapq_server.service.enqueue_nowait(body)
        async with connection(zapq_server.url) as slow:
            await slow.send_all(DEQUEUE * 5)
            await wait_all_tasks_blocked()
            assert (await ask(zapq_server.url, "GET", "/%68ealth")).body == b"ok"
            # No further answer is begun while the first is not read.
            assert zapq_server.service.stats().queue.messages == 4
            received = bytearray()
            while len(received) < 5 * len(body) or not received.endswith(body):
                received += await slow.receive_some(2**22)
            assert received.count(b"HTTP/1.1 200 OK") == 5
            assert received.count(body) == 5
            await slow.send_all(DEQUEUE)
            assert b"204 No Content" in await slow.receive_some()
        counts = await metrics(zapq_server)
        assert (counts["hot_requests"], counts["cold_requests"]) == (6, 2)

    async def test_a_reader_that_leaves_in_the_middle_loses_what_it_may_have_read_and_nothing_else(
        self, zapq_server: ZapqServer
    ) -> None:
        for number in range(5):
            zapq_server.service.enqueue_nowait(bytes([number]) * 4 * 2**20)
        async with connection(zapq_server.url) as stream:
            await stream.send_all(DEQUEUE * 5)
            await wait_all_tasks_blocked()
            vanish(stream)
        await wait_all_tasks_blocked()
        counts = await metrics(zapq_server)
        assert (counts["delivery_uncertain"], counts["queue_length"], counts["connections"]) == (1, 4, 1)
        message = zapq_server.service.dequeue_nowait()
        assert message is not None
        assert message.body[:1] == b"\x01"

    async def test_a_reader_that_leaves_before_the_rest_has_a_task_loses_no_more(
        self, zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        promote = Lobby._promote
        victims: list[Stream] = []

        def promote_nobody(self: Lobby, guest: Guest, begun: Handoff) -> None:
            for stream in victims:
                vanish(stream)
            promote(self, guest, begun)

        monkeypatch.setattr(Lobby, "_promote", promote_nobody)
        for number in range(3):
            zapq_server.service.enqueue_nowait(bytes([number]) * 4 * 2**20)
        async with connection(zapq_server.url) as stream:
            victims.append(stream)
            await stream.send_all(DEQUEUE * 3)
            await wait_all_tasks_blocked()
            victims.clear()
        counts = await metrics(zapq_server)
        assert (counts["delivery_uncertain"], counts["queue_length"], counts["connections"]) == (1, 2, 1)


async def test_where_no_more_sockets_can_be_watched_clients_are_turned_away_and_the_others_served(
    zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watch_no_more(self: Guest, wire: Wire, network: str) -> None:
        raise OSError(28, "No space left on device")

    async with open_client(zapq_server.url) as early:
        assert (await early.request("GET", "/dequeue")).status == 204
        with monkeypatch.context() as patch:
            patch.setattr(Guest, "__init__", watch_no_more)
            async with connection(zapq_server.url, handshake=False) as late:
                assert await late.receive_some() == b""
            assert (await early.request("GET", "/dequeue")).status == 204
        assert (await early.request("GET", "/%6detrics")).json["connections"] == 1


async def test_a_reset_at_any_byte_leaves_counters_and_queue_consistent(zapq_server: ZapqServer) -> None:
    service = zapq_server.service
    script = enqueue(b"one") + DEQUEUE + enqueue(b"two")
    for end in range(len(script) + 1):
        service.enqueue_nowait(b"held")
        for pause in (False, True):
            async with connection(zapq_server.url) as stream:
                await stream.send_all(script[:end])
                if pause:
                    await wait_all_tasks_blocked()
                vanish(stream)
            await wait_all_tasks_blocked()
            stats = service.stats().queue
            assert stats.enqueued - stats.cleared == stats.dequeued - stats.returned + stats.messages
            assert stats.bytes == sum(len(body) for body in service.broker.default.bodies())
        await service.clear()
    counts = await metrics(zapq_server)
    assert (counts["connections"], counts["connection_errors"]) == (1, 0)


async def test_one_that_pipelines_without_end_does_not_keep_others_waiting(
    zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[int] = []
    watch(monkeypatch, after=lambda answers: turns.append(answers.requests))
    pipeline = DEQUEUE * 1500
    async with (
        connection(zapq_server.url) as greedy,
        connection(zapq_server.url) as modest,
        trio.open_nursery() as nursery,
    ):
        # Both are there when the lobby looks.
        nursery.start_soon(greedy.send_all, pipeline)
        nursery.start_soon(modest.send_all, DEQUEUE)
        assert b"204 No Content" in await modest.receive_some()
        answered = sum(turns)
        assert max(turns) <= MAX_ANSWERS
        received = b""
        while received.count(b"204 No Content") < 1500:
            received += await greedy.receive_some()
    assert answered < 1500
    assert sum(turns) == 1501


async def test_large_answers_asked_for_at_once_are_made_one_by_one(
    zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    zapq_server.service.enqueue_nowait(b"x")
    turn = 0
    made: list[int] = []
    encode = render.as_json

    def note(value: object, tail: bytes, *, status: int = 200) -> bytes:
        made.append(turn)
        return encode(value, tail, status=status)

    async def count_turns() -> None:
        nonlocal turn
        while True:
            await trio.lowlevel.checkpoint()
            turn += 1

    monkeypatch.setattr(render, "as_json", note)
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        clients = [await stack.enter_async_context(open_client(zapq_server.url)) for _ in range(10)]
        for client in clients:
            await client.send("GET", "/queues/%64efault/messages")
        for client in clients:
            assert (await client.answer()).status == 200
        nursery.cancel_scope.cancel()
    assert len(set(made)) == len(made) == 10


async def test_what_takes_milliseconds_is_done_in_the_line_for_that(
    zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_line = False
    seen: list[bool] = []
    serve_large, stats = Lobby._serve_large, QueueService.stats

    def serve(self: Lobby, due: int) -> None:
        nonlocal in_line
        in_line = True
        serve_large(self, due)
        in_line = False

    def note(self: QueueService, **asked: Any) -> ServiceStats:
        seen.append(in_line)
        return stats(self, **asked)

    monkeypatch.setattr(Lobby, "_serve_large", serve)
    monkeypatch.setattr(QueueService, "stats", note)
    async with open_client(zapq_server.url) as client:
        await client.send("GET", "/metrics")
        assert (await client.answer()).status == 200
    assert seen == [True]


async def test_a_large_request_waits_until_all_that_are_ready_have_had_their_turn(
    zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zapq.server.lobby.TURN_COST", 1)
    looks: list[bytes] = []
    large = DEQUEUE.replace(b"/dequeue", b"/metrics")
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(connection(zapq_server.url)) for _ in range(11)]
        for stream in streams:  # the lobby has them all
            await stream.send_all(DEQUEUE)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 204")
        watch(monkeypatch, before=lambda data: looks.append(bytes(data)))
        with monkeypatch.context() as patch:
            patch.setattr(Lobby, "_turn", lambda *_: None)  # it looks when all have asked
            for stream, request in zip(streams, [large] + [DEQUEUE] * 10, strict=True):
                await stream.send_all(request)
        for stream in streams:
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 20")
    assert sorted(looks[:-1]) == [DEQUEUE] * 10 + [large]
    assert looks[-1] == large


async def test_large_batches_do_not_keep_others_waiting(
    zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[int] = []
    turn = Lobby._turn

    def begin(self: Lobby, nursery: trio.Nursery) -> None:
        turns.append(0)
        turn(self, nursery)

    def count(answers: Answers) -> None:
        turns[-1] += answers.used

    copied: list[int] = []
    monkeypatch.setattr(Lobby, "_turn", begin)
    watch(monkeypatch, before=lambda data: copied.append(len(data)), after=count)
    body = b'"%b"\n' % (b"x" * 1000) * 300
    batch = b"POST /queues/default/messages/batch HTTP/1.1\r\nHost: localhost\r\n"
    batch += b"Content-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(connection(zapq_server.url)) for _ in range(30)]
        async with trio.open_nursery() as nursery:
            # All are there when the lobby looks.
            for stream in streams:
                nursery.start_soon(stream.send_all, batch)
        for stream in streams:
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 202")
    assert sum(turns) == 30 * len(batch)
    assert max(turns) <= TURN_COST * BYTES_PER_COST + len(batch)
    # Copying one takes a while as well, so that is done when it has its turn.
    assert copied.count(len(batch)) == 30


async def test_what_a_large_batch_holds_while_it_waits_for_its_turn_is_reserved(
    zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = msgspec.msgpack.encode([b"x" * 1000] * 200)
    head = b"POST /queues/jobs/messages/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/msgpack\r\n"
    service = zapq_server.service
    reserved: list[int] = []
    async with connection(zapq_server.url) as stream:
        with monkeypatch.context() as patch:
            # Called where there are some, and here it leaves them in their line.
            patch.setattr(Lobby, "_serve_large", lambda *_: reserved.append(service.stats().bytes_reserved))
            await stream.send_all(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
            await eventually(lambda: bool(reserved), "its turn to come")
            assert min(reserved) >= len(body)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 202")
    stats = service.stats()
    assert (stats.bytes_reserved, stats.queue.messages) == (0, 200)


@pytest.mark.parametrize("size", [100, 1000], ids=["in one read", "in several reads"])
async def test_a_large_batch_that_waits_for_its_turn_is_stored_at_a_shutdown(
    zapq_settings: Settings,
    zapq_service: QueueService,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
) -> None:
    body = msgspec.msgpack.encode([b"x" * size] * 200)
    head = b"POST /queues/jobs/messages/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/msgpack\r\n"
    in_line = trio.Event()
    monkeypatch.setattr(Lobby, "_serve_large", lambda *_: in_line.set())
    serve = partial(zapq.serve, zapq_settings, service=zapq_service, shutdown_trigger=in_line.wait)
    [url] = await nursery.start(serve)
    async with connection(url) as stream:
        await stream.send_all(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 202")
    stats = zapq_service.stats()
    assert (stats.bytes_reserved, stats.queue.messages) == (0, 200)


@pytest.mark.parametrize(
    ("sent", "expected", "seconds"),
    [
        pytest.param(b"", b"", 20, id="nothing"),
        pytest.param(DEQUEUE[:20], b"", 10, id="half a head"),
        pytest.param(enqueue(b"hello")[:-1], b"HTTP/1.1 408 Request Timeout", 15, id="half a body"),
        pytest.param(DEQUEUE, b"HTTP/1.1 204 No Content", 20, id="a whole request"),
    ],
)
@pytest.mark.parametrize("in_lobby", [True, False], ids=["lobby", "task"])
async def test_who_takes_too_long_is_cut_off(
    zapq_service: QueueService,
    zapq_settings: Settings,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    sent: bytes,
    expected: bytes,
    seconds: float,
    in_lobby: bool,
    patient_clock: MockClock,
) -> None:
    monkeypatch.setattr(Lobby, "possible", lambda: in_lobby)
    settings = replace(zapq_settings, keep_alive=20, head_timeout=10, body_timeout=15)
    [url] = await nursery.start(partial(zapq.serve, settings, service=zapq_service))
    begun = trio.current_time()
    async with connection(url) as stream:
        if sent:
            await stream.send_all(sent)
        received = await receive(stream, 10_000)
    assert trio.current_time() - begun == pytest.approx(seconds, abs=1)
    assert received[: len(expected)] == expected
    assert bool(received) == bool(expected)
    assert zapq_service.stats().queue.enqueued == 0


async def test_a_head_that_drips_in_does_not_gain_time_with_every_byte(
    zapq_service: QueueService, zapq_settings: Settings, nursery: trio.Nursery, patient_clock: MockClock
) -> None:
    settings = replace(zapq_settings, keep_alive=30, head_timeout=10)
    [url] = await nursery.start(partial(zapq.serve, settings, service=zapq_service))
    begun = trio.current_time()
    async with connection(url) as stream:
        with suppress(trio.BrokenResourceError):
            for byte in DEQUEUE[:-4] + b"\r\nX: " + b"x" * 500:
                await stream.send_all(bytes([byte]))
                await trio.sleep(1)
    assert trio.current_time() - begun < 15  # the bytes would have taken 500


async def test_an_error_of_ours_in_the_lobby_ends_one_connection_only(
    zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_on_demand(data: bytes) -> None:
        if b"boom" in data:
            raise RuntimeError("a mistake")

    watch(monkeypatch, before=fail_on_demand)
    async with open_client(zapq_server.url) as bystander, connection(zapq_server.url) as unlucky:
        await unlucky.send_all(enqueue(b"boom"))
        assert await unlucky.receive_some() == b""
        assert (await bystander.request("GET", "/dequeue")).status == 204
        assert (await bystander.request("GET", "/%6detrics")).json["connection_errors"] == 1


async def test_running_out_of_descriptors_pauses_accepting_and_nothing_else(
    zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    poor = True
    accept = socket.socket.accept

    def fail_while_poor(self: socket.socket) -> tuple[socket.socket, object]:
        if poor:
            raise OSError(24, "Too many open files")
        return accept(self)

    async with open_client(zapq_server.url) as early:
        assert (await early.request("GET", "/dequeue")).status == 204
        monkeypatch.setattr(socket.socket, "accept", fail_while_poor)
        answers = []

        async def come_late() -> None:
            answers.append(await ask(zapq_server.url, "GET", "/dequeue"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_late)
            for _ in range(3):
                assert (await early.request("GET", "/dequeue")).status == 204
            assert not answers
            poor = False
        assert answers[0].status == 204


async def test_over_the_cap_connections_are_refused_and_room_is_made_again(
    zapq_service: QueueService, zapq_settings: Settings, nursery: trio.Nursery
) -> None:
    settings = replace(zapq_settings, max_connections=2)
    [url] = await nursery.start(partial(zapq.serve, settings, service=zapq_service))
    async with open_client(url) as one, open_client(url) as two:
        assert (await one.request("GET", "/dequeue")).status == 204
        assert (await two.request("GET", "/health")).status == 200
        async with connection(url, handshake=False) as third:
            assert await third.receive_some() == b""
    await wait_all_tasks_blocked()
    async with open_client(url) as fourth:
        counts = (await fourth.request("GET", "/%6detrics")).json
    assert (counts["connections"], counts["connections_refused"]) == (1, 1)


@pytest.mark.parametrize("share", [1, 2])
async def test_one_that_shares_its_door_lets_the_others_run_before_each_client_it_accepts(
    zapq_service: QueueService, zapq_settings: Settings, monkeypatch: pytest.MonkeyPatch, share: int
) -> None:
    done: list[str] = []
    accept = socket.socket.accept

    def note_accept(self: socket.socket) -> tuple[socket.socket, object]:
        accepted = accept(self)
        done.append("accept")
        return accepted

    monkeypatch.setattr(socket.socket, "accept", note_accept)
    monkeypatch.setattr("os.sched_yield", lambda: done.append("yield"))
    with open_listening_socket(zapq_settings) as door, ExitStack() as stack:
        # All of them are there when it opens.
        for _ in range(8):
            stack.enter_context(socket.create_connection(door.sock.getsockname()))
        engine, access = LocalEngine(zapq_service), Access(zapq_settings)
        front = Front(engine, zapq_settings, door, access, ServerCounts(), share=share)
        async with trio.open_nursery() as nursery:
            await front.start(nursery, nursery, trio.sleep_forever)
            await eventually(lambda: done.count("accept") == 8, "all to be accepted")
            nursery.cancel_scope.cancel()
    assert done[:16] == (["accept"] * 8 if share == 1 else ["yield", "accept"] * 8)
