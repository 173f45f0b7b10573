"""A durable server over real sockets: what it answers, whichever way the request takes, is on the disk."""

from __future__ import annotations

import re
import select
import socket
import sqlite3
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import zapq
from tests.support.wire import ask, open_client
from zapq.core.records import CommitGroup
from zapq.server.lobby import Lobby
from zapq.service.service import QueueService
from zapq.settings import Settings
from zapq.store.database import Database

WAYS = ("hot", "cold", "task")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Answered by the lobby, by Hypercorn, or by a connection's own task as over TLS."""
    if request.param == "task":
        monkeypatch.setattr(Lobby, "possible", lambda: False)
    return str(request.param)


@asynccontextmanager
async def serving(directory: Path, way: str) -> AsyncGenerator[tuple[str, QueueService], None]:
    settings = Settings(addr="127.0.0.1:0", data_dir=str(directory), durable=True, grace=2.0)
    settings = replace(settings, hot_path=way != "cold")
    async with zapq.open_service(settings) as service, trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[list[str]]) -> None:
            await zapq.serve(settings, service=service, task_status=task_status)

        [url] = await nursery.start(run)
        yield url, service
        nursery.cancel_scope.cancel()


class Disk:
    """Commits wait for `gate`, and fail while `failing`."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.failing = False


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    commit, probe = Database.commit, Database.probe

    def try_commit(self: Database, batches: Sequence[CommitGroup]) -> None:
        disk.gate.wait(5)
        if disk.failing:
            raise sqlite3.OperationalError("database or disk is full")
        commit(self, batches)

    def try_probe(self: Database) -> None:
        if disk.failing:
            raise sqlite3.OperationalError("database or disk is full")
        probe(self)

    monkeypatch.setattr(Database, "commit", try_commit)
    monkeypatch.setattr(Database, "probe", try_probe)
    return disk


async def raw(url: str, data: bytes) -> trio.SocketStream:
    host, port = url.removeprefix("http://").split(":")
    stream = await trio.open_tcp_stream(host, int(port))
    await stream.send_all(data)
    return stream


def enqueue(body: bytes) -> bytes:
    return b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


DEQUEUE = b"GET /dequeue HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def test_every_verb_does_what_it_does_in_memory(tmp_path: Path, way: str) -> None:
    async with serving(tmp_path, way) as (url, service):
        answer = await ask(url, "POST", "/enqueue", b"a")
        assert (answer.status, answer.headers["zapq-durability"]) == (202, "committed")
        answer = await ask(url, "POST", "/enqueue?durability=memory", b"b")
        assert (answer.status, answer.headers["zapq-durability"]) == (202, "memory")
        assert (await ask(url, "GET", "/dequeue")).body == b"a"
        assert (await ask(url, "POST", "/queues/jobs/messages", b"1")).headers["zapq-durability"] == "committed"
        assert (await ask(url, "POST", "/queues/jobs/messages", b"2")).status == 202
        batch = await ask(
            url, "POST", "/queues/jobs/messages/batch", b'["Mw==","NA=="]', {"Content-Type": "application/json"}
        )
        assert batch.json == {"count": 2, "first_id": 3}
        first = await ask(url, "POST", "/queues/jobs/receive")
        assert first.body == b"1"
        receipt = first.headers["zapq-receipt"]
        assert (await ask(url, "DELETE", f"/queues/jobs/receipts/{receipt}")).status == 204
        assert (await ask(url, "DELETE", f"/queues/jobs/receipts/{receipt}")).status == 204
        second = await ask(url, "POST", "/queues/jobs/receive")
        receipt = second.headers["zapq-receipt"]
        assert (await ask(url, "POST", f"/queues/jobs/receipts/{receipt}/release")).status == 204
        assert (await ask(url, "POST", "/queues/jobs/pause")).status == 200
        metrics = (await ask(url, "GET", "/metrics")).json
        assert metrics["journal_changes"] >= 10
        assert metrics["storage_available"] == 1
    async with serving(tmp_path, way) as (url, service):
        assert service.find("jobs").info().paused
        assert (await ask(url, "POST", "/queues/jobs/resume")).status == 200
        again = await ask(url, "POST", "/queues/jobs/receive")
        assert (again.body, again.headers["zapq-receive-count"]) == (b"2", "2")
        rest = await ask(url, "POST", "/queues/jobs/receive/batch?ack=auto")
        assert rest.json == ["Mw==", "NA=="]
        assert (await ask(url, "GET", "/dequeue")).body == b"b"


async def test_a_request_sees_what_those_before_it_on_its_connection_have_done(tmp_path: Path, way: str) -> None:
    async with serving(tmp_path, way) as (url, _):
        stream = await raw(
            url, enqueue(b"1") + enqueue(b"2") + DEQUEUE + DEQUEUE + DEQUEUE + enqueue(b"3") + DEQUEUE
        )
        received = await read_until(stream, b"\r\n\r\n3")
        statuses = [int(status) for status in re.findall(rb"HTTP/1.1 ([0-9]+)", received)]
        assert statuses == [202, 202, 200, 200, 204, 202, 200]
        await stream.aclose()


async def read_until(stream: trio.SocketStream, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        data = await stream.receive_some(65536)
        assert data, received
        received += data
    return received


async def test_no_answer_is_sent_before_the_commit(tmp_path: Path, way: str, disk: Disk) -> None:
    async with serving(tmp_path, way) as (url, service):
        await ask(url, "POST", "/enqueue", b"before")
        disk.gate.clear()
        stream = await raw(url, enqueue(b"a"))
        async with open_client(url) as client:
            # Others are answered meanwhile, and nobody sees it.
            while service.stats().queue.messages < 2:
                await client.request("GET", "/metrics")
            assert (await client.request("GET", "/health")).status == 200
            assert len((await client.request("GET", "/queues/default/messages")).json) == 1
        # More of the same client's requests wait their turn.
        await stream.send_all(DEQUEUE)
        with trio.move_on_after(0.05) as patience:
            await stream.receive_some()
        assert patience.cancelled_caught
        disk.gate.set()
        assert b"202 Accepted" in await read_until(stream, b"\r\n\r\nbefore")
        await stream.aclose()


async def test_what_cannot_be_written_is_503_and_has_not_happened(tmp_path: Path, way: str, disk: Disk) -> None:
    async with serving(tmp_path, way) as (url, service):
        await ask(url, "POST", "/enqueue", b"held")
        await ask(url, "POST", "/enqueue", b"leased")
        before = service.stats().queue
        disk.failing = True
        stream = await raw(url, enqueue(b"1") + enqueue(b"2"))
        received = await read_until(stream, b"}")
        while received.count(b"storage-unavailable") < 2:
            received += await read_until(stream, b"}")
        assert received.count(b"HTTP/1.1 503 Service Unavailable\r\n") == 2
        assert received.count(b"Retry-After: 1\r\n") == 2
        assert received.count(b"storage-unavailable") == 2
        assert b"database or disk is full" in received
        for method, path in (("GET", "/dequeue"), ("POST", "/queues/default/receive"), ("POST", "/clear")):
            answer = await ask(url, method, path)
            assert (answer.status, answer.json["type"]) == (503, "/problems/storage-unavailable")
        assert service.stats().queue == before
        ready = await ask(url, "GET", "/readyz")
        assert (ready.status, ready.json["type"]) == (503, "/problems/storage-unavailable")
        assert (await ask(url, "GET", "/livez")).status == 200
        assert (await ask(url, "GET", "/metrics")).json["storage_available"] == 0
        assert (await ask(url, "GET", "/queues/default")).status == 200
        disk.failing = False
        while (await ask(url, "GET", "/readyz")).status != 200:
            await trio.sleep(0.01)
        assert (await ask(url, "GET", "/dequeue")).body == b"held"
        await stream.aclose()
    async with serving(tmp_path, way) as (url, service):
        assert (await ask(url, "GET", "/dequeue")).body == b"leased"
        assert (await ask(url, "GET", "/dequeue")).status == 204


async def test_a_client_that_left_before_the_commit_gets_nothing_and_loses_nothing(
    tmp_path: Path, way: str, disk: Disk
) -> None:
    async with serving(tmp_path, way) as (url, service):
        await ask(url, "POST", "/enqueue", b"a")
        disk.gate.clear()
        stream = await raw(url, DEQUEUE)
        while service.stats().queue.dequeued < 1:
            await ask(url, "GET", "/health")
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        stream.socket.close()
        disk.gate.set()
        while service.stats().queue.returned + service.stats().delivery_uncertain < 1:
            await ask(url, "GET", "/health")
        await service.stored()
        held = service.stats().queue.messages
    async with serving(tmp_path, way) as (url, service):
        assert service.stats().queue.messages == held


@pytest.mark.parametrize("durability", ["disk", "", "MEMORY"])
async def test_another_durability_is_refused(tmp_path: Path, durability: str) -> None:
    async with serving(tmp_path, "hot") as (url, service):
        answer = await ask(url, "POST", f"/enqueue?durability={durability}", b"a")
        assert (answer.status, answer.json["parameter"]) == (400, "durability")
        assert service.stats().queue.messages == 0


async def test_a_shutdown_finishes_what_waits_for_the_disk(tmp_path: Path, way: str, disk: Disk) -> None:
    settings = Settings(addr="127.0.0.1:0", data_dir=str(tmp_path), durable=True, hot_path=way != "cold")
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[list[str]]) -> None:
            await zapq.serve(settings, shutdown_trigger=stopping.wait, task_status=task_status)

        [url] = await nursery.start(run)
        await ask(url, "POST", "/enqueue", b"before")
        disk.gate.clear()
        stream = await raw(url, enqueue(b"a"))
        async with open_client(url) as client:
            while (await client.request("GET", "/metrics")).json["queue_length"] < 2:
                pass
        stopping.set()
        await trio.testing.wait_all_tasks_blocked()
        disk.gate.set()
        assert b"202 Accepted" in await read_until(stream, b"\r\n\r\n")
        await stream.aclose()
    async with serving(tmp_path, way) as (url, service):
        assert service.stats().queue.messages == 2


async def test_a_shutdown_does_not_wait_for_a_disk_that_hangs(tmp_path: Path, way: str, disk: Disk) -> None:
    settings = Settings(
        addr="127.0.0.1:0", data_dir=str(tmp_path), durable=True, hot_path=way != "cold", grace=0.2
    )
    stopping = trio.Event()
    outcome: list[str] = []
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[list[str]]) -> None:
            try:
                await zapq.serve(settings, shutdown_trigger=stopping.wait, task_status=task_status)
            except* zapq.errors.CannotStart as refusals:
                outcome.extend(str(error) for error in refusals.exceptions)

        [url] = await nursery.start(run)
        await ask(url, "POST", "/enqueue", b"before")
        disk.gate.clear()
        stream = await raw(url, enqueue(b"a"))
        async with open_client(url) as client:
            while (await client.request("GET", "/metrics")).json["queue_length"] < 2:
                pass
        stopping.set()
        while await stream.receive_some():
            pass
        await stream.aclose()
    assert "does not answer" in outcome[0]
    disk.gate.set()


async def test_whoever_repeats_a_key_that_is_being_written_waits_for_that(
    tmp_path: Path, way: str, disk: Disk
) -> None:
    keyed = enqueue(b"a").replace(b"\r\n\r\n", b"\r\nIdempotency-Key: one\r\n\r\n")
    async with serving(tmp_path, way) as (url, service):
        disk.gate.clear()
        first = await raw(url, keyed)
        while not service.journal or not service.journal.stats().pending:
            await trio.sleep(0.001)
        again = await raw(url, keyed)
        await wait_all_tasks_blocked(0.01)
        assert select.select([again.socket.fileno()], [], [], 0)[0] == []
        disk.gate.set()
        for stream, replayed in ((first, False), (again, True)):
            async with stream:
                answer = await stream.receive_some()
                assert answer.startswith(b"HTTP/1.1 202")
                assert (b"idempotency-replayed: true" in answer.lower()) == replayed
        assert service.stats().queue.messages == 1


async def test_a_key_whose_message_could_not_be_written_is_free_again(
    tmp_path: Path, way: str, disk: Disk
) -> None:
    async with serving(tmp_path, way) as (url, service):
        key = {"Idempotency-Key": "one"}
        disk.failing = True
        assert (await ask(url, "POST", "/enqueue", b"a", key)).status == 503
        disk.failing = False
        while (await ask(url, "GET", "/readyz")).status != 200:
            await trio.sleep(0.01)
        answer = await ask(url, "POST", "/enqueue", b"b", key)
        assert answer.status == 202
        assert "idempotency-replayed" not in answer.headers
        assert service.stats().queue.messages == 1


@pytest.mark.parametrize("fails", [False, True], ids=["written", "failed"])
async def test_who_leaves_while_a_message_for_it_is_being_written_gets_nothing(
    tmp_path: Path, way: str, disk: Disk, fails: bool
) -> None:
    poll = b"POST /queues/jobs/receive?wait=30 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with serving(tmp_path, way) as (url, service):
        jobs = service.queue("jobs")
        await jobs.pause()
        await jobs.enqueue(b"x")
        stream = await raw(url, poll)
        while not service.waiting_room:
            await trio.sleep(0.001)
        disk.gate.clear()
        jobs._core.paused = False
        jobs.hand_out()
        assert not service.waiting_room
        await stream.aclose()
        # As soon as that is seen, it is for somebody else.
        while (await ask(url, "GET", "/metrics")).json["connections"] > 1:
            await trio.sleep(0.01)
        disk.failing = fails
        disk.gate.set()
        while jobs.info().stats.leased:
            await trio.sleep(0.001)
        disk.failing = False
        while (await ask(url, "GET", "/readyz")).status != 200:
            await trio.sleep(0.01)
        answer = await ask(url, "POST", "/queues/jobs/receive")
        assert (answer.body, answer.headers["zapq-receive-count"]) == (b"x", "1")
