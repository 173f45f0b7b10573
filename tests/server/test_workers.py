"""`--workers 2`: processes that serve clients in front of one that has the queues."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest
import trio

import zapq
from tests.support.process import Zapq, run, running_zapq
from tests.support.waiting import eventually
from tests.support.wire import Answer, ask, connection, metrics, open_client, until_shown
from tests.support.workers import (
    check_that_a_reload_reaches_all,
    check_that_they_end_with_the_server,
    children_of,
    served_by_each,
)
from zapq.errors import CannotStart
from zapq.settings import Settings

pytestmark = pytest.mark.slow  # it starts servers, and the gate runs it

WORKERS = ("--workers", "2")


async def receive(server: Zapq, query: str = "") -> Answer:
    return await ask(server.url, "POST", f"/queues/default/receive{query}")


async def test_all_workers_serve_the_same_queues(tmp_path: Path) -> None:
    async with running_zapq(tmp_path, *WORKERS) as server:
        await served_by_each(server)
        for number in range(20):
            assert (await ask(server.url, "POST", "/enqueue", b"%d" % number)).status == 202
        assert [(await ask(server.url, "GET", "/dequeue")).body for _ in range(20)] == [
            b"%d" % n for n in range(20)
        ]
        counts = await metrics(server.url)
        assert (counts["enqueues"], counts["dequeues_ok"]) == (20, 20)
        again = await metrics(server.url)
        # Whichever of them is asked, it is the sum.
        assert again["requests"] == counts["requests"] + 1
        # No worker may die of a number that does not fit where it travels.
        for id in ("9" * 18, "9" * 25):
            for method in ("GET", "DELETE"):
                assert (await ask(server.url, method, f"/queues/default/messages/{id}")).status == 404
        # The other worker may not have seen yet that a client went away.
        await until_shown(server.url, connections=1)
        await server.stop()
        assert await server.process.wait() == 0
    assert "worker ended" not in server.lines()


@pytest.mark.parametrize("durable", [(), ("--durable",)])
async def test_a_worker_that_dies_is_replaced_and_loses_nothing_that_is_leased(
    tmp_path: Path, durable: tuple[str, ...]
) -> None:
    async with running_zapq(tmp_path, *WORKERS, *durable) as server:
        workers = children_of(server)
        for body in (b"leased", b"waiting"):
            await ask(server.url, "POST", "/enqueue", body)
        leased = await receive(server, "?visibility=600")
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        await eventually(lambda: len(children_of(server) - workers) == 2, "two new workers")
        receipt = leased.headers["zapq-receipt"]
        assert (await ask(server.url, "DELETE", f"/queues/default/receipts/{receipt}")).status == 204
        assert (await ask(server.url, "GET", "/dequeue")).body == b"waiting"
        counts = await metrics(server.url)
        assert (counts["queue_length"], counts["acks"], counts["delivery_uncertain"]) == (0, 1, 0)
        ended = [line for line in server.messages() if line["msg"] == "worker ended"]
        assert {line["worker"] for line in ended} == {1, 2}
        assert {line["status"] for line in ended} == {-signal.SIGKILL}


async def test_a_long_poll_of_a_worker_that_dies_takes_nothing(tmp_path: Path) -> None:
    async with running_zapq(tmp_path, *WORKERS) as server, connection(server.url) as poll:
        await poll.send_all(b"GET /dequeue?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n")

        async def waits() -> bool:
            return (await metrics(server.url))["waiting"] == 1

        await eventually(waits, "the poll to wait")
        for worker in children_of(server):
            os.kill(worker, signal.SIGKILL)
        with suppress(trio.BrokenResourceError):  # closed or reset: the kernel decides
            assert await poll.receive_some() == b""
        await ask(server.url, "POST", "/enqueue", b"m")
        assert (await ask(server.url, "GET", "/dequeue")).body == b"m"


async def test_a_shutdown_answers_those_who_wait_and_ends_all_of_them(tmp_path: Path) -> None:
    async with running_zapq(tmp_path, *WORKERS, "--durable") as server:
        workers = children_of(server)
        await ask(server.url, "POST", "/enqueue", b"kept")
        polls = []
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                polls.append(await ask(server.url, "POST", "/queues/jobs/receive?wait=60"))

            for _ in range(8):
                nursery.start_soon(wait)

            async def all_wait() -> bool:
                return (await metrics(server.url))["waiting"] == 8

            await eventually(all_wait, "all to wait")
            await server.stop()
        assert {answer.status for answer in polls} <= {204, 503}
        assert await server.process.wait() == 0
        assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    async with running_zapq(tmp_path, "--durable", log=tmp_path / "again") as server:
        assert (await ask(server.url, "GET", "/dequeue")).body == b"kept"


async def test_workers_end_with_the_server(tmp_path: Path) -> None:
    await check_that_they_end_with_the_server(tmp_path, *WORKERS)


async def test_a_reload_reaches_all_of_them(tmp_path: Path) -> None:
    await check_that_a_reload_reaches_all(tmp_path, *WORKERS)


async def test_one_that_cannot_start_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.RaisesGroup(pytest.RaisesExc(CannotStart, match="ended as it started"), flatten_subgroups=True):
        await zapq.serve(Settings(addr="127.0.0.1:0", data_dir=str(tmp_path), workers=2))


def test_how_many_is_a_number_or_auto() -> None:
    assert "give auto, or a whole number, 1 to 256" in run("--workers", "many").stderr
    assert "give 1 to 256" in run("--workers", "0").stderr


async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async with running_zapq(tmp_path, *WORKERS) as server, open_client(server.url) as client:
        put = b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n%b"
        take = b"GET /dequeue HTTP/1.1\r\nHost: localhost\r\n\r\n"
        await client.stream.send_all(put % b"1" + put % b"2" + take * 3 + put % b"3" + take)
        received = b""
        while not received.endswith(b"\r\n\r\n3"):
            received += await client.stream.receive_some()
        assert [int(each[:3]) for each in received.split(b"HTTP/1.1 ")[1:]] == [202, 202, 200, 200, 204, 202, 200]


async def test_all_workers_together_log_ten_lines_of_a_kind_in_a_second(tmp_path: Path) -> None:
    async with running_zapq(tmp_path, *WORKERS) as server:
        await served_by_each(server)
        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(ask, server.url, "GET", "/dequeue?wait=often")
        await server.stop()
        assert await server.process.wait() == 0
    times = [
        datetime.fromisoformat(line["time"][:26]).timestamp()
        for line in server.messages()
        if line["msg"] == "refused"
    ]
    # A line is made a moment after it was let through.
    assert max(sum(first <= time < first + 0.9 for time in times) for first in times) <= 10
