"""A durable server over real sockets: what it answers, whichever way the request takes, is on the disk."""

from __future__ import annotations

import re
import select
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import zapq
from tests.support.disk import Disk
from tests.support.serving import by, serving
from tests.support.waiting import eventually
from tests.support.wire import ask, open_client, until_shown, vanish
from zapq.errors import StorageUnavailable
from zapq.service.service import QueueService
from zapq.settings import Settings


@dataclass
class Way:
    """One way for requests to take, and a durable server on it."""

    name: str
    patch: pytest.MonkeyPatch

    def settings(self, directory: Path, grace: float = 2.0) -> Settings:
        settings = Settings(addr="127.0.0.1:0", data_dir=str(directory), durable=True, grace=grace)
        return by(self.name, settings, self.patch, directory)[0]

    @asynccontextmanager
    async def serving(self, directory: Path) -> AsyncGenerator[tuple[str, QueueService], None]:
        settings = self.settings(directory)
        async with zapq.open_service(settings) as service, serving(settings, service) as url:
            yield url, service


@pytest.fixture(params=["lobby", "long", "task"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Way:
    return Way(request.param, monkeypatch)


async def raw(url: str, data: bytes) -> trio.SocketStream:
    host, port = url.removeprefix("http://").split(":")
    stream = await trio.open_tcp_stream(host, int(port))
    await stream.send_all(data)
    return stream


def enqueue(body: bytes) -> bytes:
    return b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


DEQUEUE = b"GET /dequeue HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def test_every_verb_does_what_it_does_in_memory(tmp_path: Path, way: Way) -> None:
    async with way.serving(tmp_path) as (url, service):
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
    async with way.serving(tmp_path) as (url, service):
        assert service.find("jobs").info().paused
        assert (await ask(url, "POST", "/queues/jobs/resume")).status == 200
        again = await ask(url, "POST", "/queues/jobs/receive")
        assert (again.body, again.headers["zapq-receive-count"]) == (b"2", "2")
        rest = await ask(url, "POST", "/queues/jobs/receive/batch?ack=auto")
        assert [each["body"] for each in rest.json] == ["Mw==", "NA=="]
        assert (await ask(url, "GET", "/dequeue")).body == b"b"


async def test_a_request_sees_what_those_before_it_on_its_connection_have_done(tmp_path: Path, way: Way) -> None:
    async with way.serving(tmp_path) as (url, _):
        stream = await raw(
            url, enqueue(b"1") + enqueue(b"2") + DEQUEUE + DEQUEUE + DEQUEUE + enqueue(b"3") + DEQUEUE
        )
        received = await read_until(stream, b"\r\n\r\n3")
        statuses = [int(status) for status in re.findall(rb"HTTP/1.1 ([0-9]+)", received)]
        assert statuses == [202, 202, 200, 200, 204, 202, 200]
        await stream.aclose()


async def until_ready(url: str) -> None:
    """Return once the disk takes changes."""

    async def is_ready() -> bool:
        return (await ask(url, "GET", "/readyz")).status == 200

    await eventually(is_ready, "the server to be ready")


async def read_until(stream: trio.SocketStream, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        data = await stream.receive_some(65536)
        assert data, received
        received += data
    return received


async def test_no_answer_is_sent_before_the_commit(tmp_path: Path, way: Way, disk: Disk) -> None:
    async with way.serving(tmp_path) as (url, _):
        await ask(url, "POST", "/enqueue", b"before")
        disk.hold()
        stream = await raw(url, enqueue(b"a"))
        async with open_client(url) as client:
            # Others are answered meanwhile.
            await until_shown(url, queue_length=2)
            assert (await client.request("GET", "/health")).status == 200
            assert (await client.request("GET", "/queues/default")).status == 200
        # More of the same client's requests wait their turn.
        await stream.send_all(DEQUEUE)
        await wait_all_tasks_blocked()
        assert select.select([stream.socket.fileno()], [], [], 0)[0] == []
        disk.go_on()
        assert b"202 Accepted" in await read_until(stream, b"\r\n\r\nbefore")
        await stream.aclose()


async def test_what_cannot_be_written_is_503_and_has_not_happened(tmp_path: Path, way: Way, disk: Disk) -> None:
    async with way.serving(tmp_path) as (url, service):
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
        assert b"disk is full" in received
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
        await until_ready(url)
        assert (await ask(url, "GET", "/dequeue")).body == b"held"
        await stream.aclose()
    async with way.serving(tmp_path) as (url, service):
        assert (await ask(url, "GET", "/dequeue")).body == b"leased"
        assert (await ask(url, "GET", "/dequeue")).status == 204


async def test_pipelined_takes_that_cannot_be_written_are_each_refused(
    tmp_path: Path, way: Way, disk: Disk
) -> None:
    async with way.serving(tmp_path) as (url, service):
        for body in (b"a", b"b"):
            await ask(url, "POST", "/enqueue", body)
        disk.failing = True
        stream = await raw(url, 2 * DEQUEUE)
        received = b""
        while received.count(b"storage-unavailable") < 2:
            received += await read_until(stream, b"}")
        assert received.count(b"HTTP/1.1 503 Service Unavailable\r\n") == 2
        await stream.aclose()
        disk.failing = False
        await until_ready(url)
        assert [(await ask(url, "GET", "/dequeue")).body for _ in range(3)] == [b"a", b"b", b""]
        assert service.stats().queue.dequeued == 2


async def test_a_client_that_left_before_the_commit_gets_nothing_and_loses_nothing(
    tmp_path: Path, way: Way, disk: Disk
) -> None:
    async with way.serving(tmp_path) as (url, service):
        await ask(url, "POST", "/enqueue", b"a")
        disk.hold()
        stream = await raw(url, DEQUEUE)
        await disk.held()
        assert service.stats().queue.dequeued == 1
        vanish(stream)
        disk.go_on()

        def known() -> bool:
            stats = service.stats()
            return stats.queue.returned + stats.delivery_uncertain == 1

        await eventually(known, "the message to be put back, or counted as uncertain")
        await service.stored()
        held = service.stats().queue.messages
    async with way.serving(tmp_path) as (url, service):
        assert service.stats().queue.messages == held


@pytest.mark.parametrize("durability", ["disk", "", "MEMORY"])
async def test_another_durability_is_refused(
    tmp_path: Path, durability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Way("lobby", monkeypatch).serving(tmp_path) as (url, service):
        answer = await ask(url, "POST", f"/enqueue?durability={durability}", b"a")
        assert (answer.status, answer.json["parameter"]) == (400, "durability")
        assert service.stats().queue.messages == 0


async def test_a_shutdown_finishes_what_waits_for_the_disk(tmp_path: Path, way: Way, disk: Disk) -> None:
    settings = way.settings(tmp_path)
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[list[str]]) -> None:
            await zapq.serve(settings, shutdown_trigger=stopping.wait, task_status=task_status)

        [url] = await nursery.start(run)
        await ask(url, "POST", "/enqueue", b"before")
        disk.hold()
        stream = await raw(url, enqueue(b"a"))
        await until_shown(url, queue_length=2)
        stopping.set()
        await trio.testing.wait_all_tasks_blocked()
        disk.go_on()
        assert b"202 Accepted" in await read_until(stream, b"\r\n\r\n")
        await stream.aclose()
    async with way.serving(tmp_path) as (url, service):
        assert service.stats().queue.messages == 2


async def test_a_shutdown_does_not_wait_for_a_disk_that_hangs(tmp_path: Path, way: Way, disk: Disk) -> None:
    settings = way.settings(tmp_path, grace=0.2)
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
        disk.hold()
        stream = await raw(url, enqueue(b"a"))
        await until_shown(url, queue_length=2)
        stopping.set()
        while await stream.receive_some():
            pass
        await stream.aclose()
    assert "does not answer" in outcome[0]
    disk.go_on()


async def test_whoever_repeats_a_key_that_is_being_written_waits_for_that(
    tmp_path: Path, way: Way, disk: Disk
) -> None:
    keyed = enqueue(b"a").replace(b"\r\n\r\n", b"\r\nIdempotency-Key: one\r\n\r\n")
    async with way.serving(tmp_path) as (url, service):
        disk.hold()
        first = await raw(url, keyed)
        await disk.held()
        again = await raw(url, keyed)
        await wait_all_tasks_blocked(0.01)
        assert select.select([again.socket.fileno()], [], [], 0)[0] == []
        disk.go_on()
        for stream, replayed in ((first, False), (again, True)):
            async with stream:
                answer = await stream.receive_some()
                assert answer.startswith(b"HTTP/1.1 202")
                assert (b"idempotency-replayed: true" in answer.lower()) == replayed
        assert service.stats().queue.messages == 1


async def test_a_key_whose_message_could_not_be_written_is_free_again(
    tmp_path: Path, way: Way, disk: Disk
) -> None:
    async with way.serving(tmp_path) as (url, service):
        key = {"Idempotency-Key": "one"}
        disk.failing = True
        assert (await ask(url, "POST", "/enqueue", b"a", key)).status == 503
        disk.failing = False
        await until_ready(url)
        answer = await ask(url, "POST", "/enqueue", b"b", key)
        assert answer.status == 202
        assert "idempotency-replayed" not in answer.headers
        assert service.stats().queue.messages == 1


@pytest.mark.parametrize("fails", [False, True], ids=["written", "failed"])
async def test_who_leaves_while_a_message_for_it_is_being_written_gets_nothing(
    tmp_path: Path, way: Way, disk: Disk, fails: bool
) -> None:
    poll = b"POST /queues/jobs/receive?wait=30 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with way.serving(tmp_path) as (url, service), trio.open_nursery() as nursery:
        jobs = service.queue("jobs")
        await jobs.pause()
        await jobs.enqueue(b"x")
        stream = await raw(url, poll)
        await wait_all_tasks_blocked()
        assert service.waiting_room
        disk.hold()

        async def resume() -> None:
            with pytest.raises(StorageUnavailable) if fails else nullcontext():
                await jobs.resume()

        nursery.start_soon(resume)
        # That the client has the message is not on the disk yet.
        await disk.held()
        assert not service.waiting_room
        await stream.aclose()
        # As soon as that is seen, it is for somebody else.
        await until_shown(url, connections=1)
        disk.failing = fails
        disk.go_on()
        await eventually(lambda: not jobs.info().stats.leased, "the lease to be taken back")
        disk.failing = False
        await until_ready(url)
        await jobs.resume()
        answer = await ask(url, "POST", "/queues/jobs/receive")
        assert (answer.body, answer.headers["zapq-receive-count"]) == (b"x", "1")


@pytest.mark.parametrize("shuts_down", [False, True], ids=["half-closed", "shutdown"])
async def test_a_message_that_is_being_written_is_answered_as_stored(
    tmp_path: Path, way: Way, disk: Disk, shuts_down: bool
) -> None:
    settings, stopping = way.settings(tmp_path), trio.Event()
    async with zapq.open_service(settings) as service, trio.open_nursery() as nursery:
        jobs = service.queue("jobs")
        service.queue("old")
        await service.stored()
        serve = partial(zapq.serve, settings, service=service, shutdown_trigger=stopping.wait)
        [url] = await nursery.start(serve)
        disk.hold()
        nursery.start_soon(service.delete, "old")
        await disk.held()
        # Until it is written which queues there are, nothing else may change.
        async with await raw(url, enqueue(b"a").replace(b"/enqueue", b"/queues/jobs/messages")) as stream:
            await wait_all_tasks_blocked(0.01)
            disk.let_one_through()
            await disk.held()
            if shuts_down:
                stopping.set()
            else:
                await stream.send_eof()
            await wait_all_tasks_blocked(0.01)
            disk.go_on()
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 202")
        assert jobs.info().stats.messages == 1
        stopping.set()
