"""A real process, real signals: what a shutdown does to clients of every kind, and how the process ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h11
import msgspec
import trio
import trio.lowlevel

from tests.support.wire import ask, open_client


@dataclass
class Server:
    """A `zapq` process and where it listens."""

    process: trio.Process
    url: str
    log: Path

    async def stop(self, number: int = signal.SIGTERM) -> None:
        """Send the signal and return once the process has noticed it."""
        noticed = self.lines().count
        before = noticed("signal received")
        self.process.send_signal(number)
        while self.process.poll() is None and self.lines().count("signal received") == before:
            await trio.sleep(0.005)

    def lines(self) -> str:
        return self.log.read_text()

    def messages(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(line) for line in self.lines().splitlines()]


@asynccontextmanager
async def running(tmp_path: Path, *flags: str) -> AsyncGenerator[Server, None]:
    log = tmp_path / "log"
    command = [sys.executable, "-m", "zapq", "--addr", "127.0.0.1:0", "--data-dir", str(tmp_path), *flags]
    with log.open("wb") as output:
        process = await trio.lowlevel.open_process(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        while not re.search(rb'"queue listening".*\n', log.read_bytes()):
            assert process.poll() is None, log.read_text()
            await trio.sleep(0.01)
        listening = msgspec.json.decode(log.read_text().splitlines()[-1])
        yield Server(process, f"http://{listening['addr']}", log)
    finally:
        if process.poll() is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def test_with_nobody_connected_it_ends_in_order(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        assert (await ask(server.url, "POST", "/enqueue", b"x")).status == 202
        await server.stop(signal.SIGINT)
        assert await server.process.wait() == 0
        said = [line["msg"] for line in server.messages()]
        assert said == ["queue listening", "shutdown signal received", "messages lost", "bye"]


async def test_every_well_behaved_client_is_answered_and_no_idle_one_waited_for(tmp_path: Path) -> None:
    # A grace nobody could overlook: if anything waited for it, the test would time out.
    async with (
        running(tmp_path, "--grace", "600") as server,
        open_client(server.url) as idle,
        open_client(server.url) as untouched,
        open_client(server.url) as uploading,
        open_client(server.url) as polling,
    ):
        assert (await idle.request("GET", "/health")).status == 200
        await uploading.stream.send_all(
            b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nsl"
        )
        await polling.send("GET", "/dequeue?wait=60")
        while (await ask(server.url, "GET", "/metrics")).json["waiting"] == 0:
            await trio.sleep(0.01)

        await server.stop()
        answer = await polling.answer()
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert await polling.reads_eof()
        assert await idle.reads_eof()
        assert await untouched.reads_eof()

        # It began before the signal, so it is taken; nothing that begins now would be.
        await uploading.stream.send_all(b"ow")
        uploading.connection.send(_enqueue_head())
        assert (await uploading.answer("POST")).status == 202
        assert await uploading.reads_eof()
        assert await server.process.wait() == 0


async def test_clients_that_never_read_or_never_finish_are_cut_when_the_grace_is_over(tmp_path: Path) -> None:
    async with (
        running(tmp_path, "--grace", "0.5", "--max-message-bytes", "16M") as server,
        open_client(server.url) as stalled,
        open_client(server.url) as deaf,
    ):
        # More than socket buffers hold: the answer cannot be written to somebody who does not read.
        assert (await ask(server.url, "POST", "/enqueue", bytes(16 * 1024 * 1024))).status == 202
        await stalled.stream.send_all(b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nsl")
        await deaf.send("GET", "/dequeue")
        while (await ask(server.url, "GET", "/metrics")).json["queue_length"]:
            await trio.sleep(0.01)
        await server.stop()
        assert await server.process.wait() == 0
        said = [line["msg"] for line in server.messages()]
        assert "grace ran out; connections were cut" in said
        assert "delivery uncertain" in said
        assert said[-1] == "bye"


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, "--grace", "600") as server, open_client(server.url) as stalled:
        await stalled.stream.send_all(b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nsl")
        await _is_parsed(server)
        await server.stop()
        assert server.process.poll() is None
        await server.stop()
        assert await server.process.wait() == 128 + signal.SIGTERM


async def test_signals_without_end_do_no_more_than_the_second(tmp_path: Path) -> None:
    async with running(tmp_path, "--grace", "600") as server, open_client(server.url) as stalled:
        await stalled.stream.send_all(b"POST /enqueue HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nsl")
        await _is_parsed(server)
        await server.stop()
        while server.process.poll() is None:
            server.process.send_signal(signal.SIGINT)
            server.process.send_signal(signal.SIGTERM)
            await trio.lowlevel.checkpoint()
        assert server.process.returncode in {128 + signal.SIGINT, 128 + signal.SIGTERM}
        said = [line["msg"] for line in server.messages()]
        assert said[-2:] == ["second shutdown signal received; ending now", "bye"]


async def test_no_thread_can_be_interrupted_by_a_signal(tmp_path: Path) -> None:
    # A signal that is blocked everywhere neither gets lost nor kills, not even while Python ends.
    ours = sum(1 << number - 1 for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    async with running(tmp_path, "--durable") as server:
        assert (await ask(server.url, "POST", "/enqueue", b"x")).status == 202
        status = [(each / "status").read_text() for each in Path(f"/proc/{server.process.pid}/task").iterdir()]
        masks = [int(mask, 16) for text in status for mask in re.findall(r"SigBlk:\t([0-9a-f]+)", text)]
        # The kernel shows them as not blocked in the one that waits for them.
        assert [mask & ours == ours for mask in masks].count(False) == 1 < len(masks)


async def test_a_kill_leaves_no_half_written_snapshot(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        assert (await ask(server.url, "POST", "/enqueue", b"x")).status == 202
        assert (await ask(server.url, "POST", "/persist?file=a.json")).status == 200
        server.process.kill()
        await server.process.wait()
    assert [name for name in os.listdir(tmp_path) if name.startswith(".")] == []


async def _is_parsed(server: Server) -> None:
    while (await ask(server.url, "GET", "/metrics")).json["requests"] < 2:
        await trio.sleep(0.01)
    # Of the requests counted, one is the question itself; the other one is under way.


def _enqueue_head() -> h11.Request:
    return h11.Request(method="POST", target="/enqueue", headers=[("Host", "localhost"), ("Content-Length", "0")])
