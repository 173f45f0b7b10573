"""A server that saves its queues when it is stopped, and has them again when it is started."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h11
import pytest
import trio

import zapq
from tests.support.process import assert_one_line, run, running_zapq
from tests.support.wire import ask, open_client, until_shown
from zapq.errors import SnapshotFailed
from zapq.settings import Settings
from zapq.store.snapshot import SnapshotStore

pytestmark = pytest.mark.slow  # it starts servers, and the gate runs it

FLAGS = ("--snapshot-on-exit", "queues.msgpack", "--load-on-start", "queues.msgpack")


async def test_a_stop_saves_what_was_accepted_to_the_last_and_a_start_loads_it(tmp_path: Path) -> None:
    async with running_zapq(tmp_path, *FLAGS) as server, open_client(server.url) as uploading:
        for path in ("/enqueue", "/queues/jobs/messages"):
            assert (await ask(server.url, "POST", path, b"early")).status == 202
        head = h11.Request(
            method="POST", target="/queues/jobs/messages", headers=[("Host", "localhost"), ("Content-Length", "4")]
        )
        await uploading.stream.send_all((uploading.connection.send(head) or b"") + b"la")
        await until_shown(server.url, bodies_bytes=4)
        await server.stop()
        await uploading.stream.send_all(b"te")
        assert (await uploading.answer("POST")).status == 202
        assert await server.process.wait() == 0
        said = [(line["level"], line["msg"]) for line in server.messages()]
        assert said == [
            ("WARNING", "nothing to load; starting empty"),
            ("INFO", "queue listening"),
            ("INFO", "shutdown signal received"),
            ("INFO", "snapshot saved"),
            ("INFO", "bye"),
        ]
    async with running_zapq(tmp_path, *FLAGS) as server:
        assert [(each["name"], each["messages"]) for each in (await ask(server.url, "GET", "/queues")).json] == [
            ("default", 1),
            ("jobs", 2),
        ]
        bodies = [(await ask(server.url, "POST", "/queues/jobs/receive?ack=auto")).body for _ in range(2)]
        assert bodies == [b"early", b"late"]


async def test_a_start_after_a_crash_loads_the_newest_automatic_snapshot(tmp_path: Path) -> None:
    async with running_zapq(tmp_path, *FLAGS) as server:
        assert (await ask(server.url, "POST", "/enqueue", b"OLD")).status == 202
        await server.stop()
        assert await server.process.wait() == 0
    async with running_zapq(tmp_path, *FLAGS, "--snapshot-every", "1s") as server:
        assert (await ask(server.url, "GET", "/dequeue")).body == b"OLD"
        for body in (b"NEW1", b"NEW2"):
            assert (await ask(server.url, "POST", "/enqueue", body)).status == 202
        while not any(each["messages"] == 2 for each in (await ask(server.url, "GET", "/snapshots")).json):
            await trio.sleep(0.05)
        server.process.kill()
        await server.process.wait()
    async with running_zapq(tmp_path, *FLAGS, "--snapshot-every", "1s") as server:
        [warning, *_] = server.messages()
        assert (warning["level"], warning["asked"]) == ("WARNING", "queues.msgpack")
        assert [(await ask(server.url, "GET", "/dequeue")).body for _ in range(2)] == [b"NEW1", b"NEW2"]
        assert (await ask(server.url, "GET", "/dequeue")).status == 204


async def test_a_second_signal_saves_nothing(tmp_path: Path) -> None:
    async with running_zapq(tmp_path, *FLAGS, "--grace", "600") as server, open_client(server.url) as stalled:
        await stalled.stream.send_all(b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nsl")
        await until_shown(server.url, bodies_bytes=4)
        await server.stop()
        # One that comes too soon counts as the first.
        while server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            await trio.sleep(0.02)
        assert server.process.returncode == 128 + signal.SIGTERM
        assert not (tmp_path / "queues.msgpack").exists()


async def test_a_stop_that_cannot_save_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "queues.json").mkdir()
    async with running_zapq(tmp_path, "--snapshot-on-exit", "queues.json") as server:
        await server.stop()
        assert await server.process.wait() == 1
        *said, complaint = server.lines().splitlines()
        assert '"level":"ERROR","msg":"snapshot on exit failed","file":"queues.json"' in said[-1]
        assert complaint == "zapq: queues.json could not be written: Is a directory."


def test_a_start_with_a_damaged_file_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "queues.msgpack").write_bytes(b"zapq")
    arguments = ("--addr", "127.0.0.1:0", "--data-dir", str(tmp_path), *FLAGS)
    assert_one_line(run(*arguments), 1, "--load-on-start: queues.msgpack: damaged at byte 0: the file ends")
    assert os.listdir(tmp_path) == ["queues.msgpack"]


async def test_saving_ends_with_the_grace(
    zapq_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_for_ever(
        self: SnapshotStore, name: str, image: Any, offset: float, now: float, step: Callable[[], None]
    ) -> None:
        while True:
            step()

    monkeypatch.setattr(SnapshotStore, "save_all", save_for_ever)
    settings = replace(zapq_settings, snapshot_on_exit="a.msgpack", grace=0.1)
    stopping = trio.Event()
    with pytest.RaisesGroup(pytest.RaisesExc(SnapshotFailed, match="the grace ran out")):
        async with trio.open_nursery() as nursery:

            async def serve(*, task_status: trio.TaskStatus[list[str]]) -> None:
                await zapq.serve(settings, shutdown_trigger=stopping.wait, task_status=task_status)

            await nursery.start(serve)
            stopping.set()
    assert os.listdir(tmp_path) == []
