"""A real process, real signals: what a shutdown does to clients of every kind, and how the process ends."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import h11
import trio.lowlevel

from tests.support.process import running_zapq
from tests.support.waiting import eventually
from tests.support.wire import ask, open_client, until_shown


async def test_with_nobody_connected_it_ends_in_order(tmp_path: Path) -> None:
    async with running_zapq(tmp_path) as server:
        assert (await ask(server.url, "POST", "/enqueue", b"x")).status == 202
        await server.stop(signal.SIGINT)
        assert await server.process.wait() == 0
        said = [line["msg"] for line in server.messages()]
        assert said == ["queue listening", "shutdown signal received", "messages lost", "bye"]


async def test_every_well_behaved_client_is_answered_and_no_idle_one_waited_for(tmp_path: Path) -> None:
    # A grace nobody could overlook: if anything waited for it, the test would time out.
    async with (
        running_zapq(tmp_path, "--grace", "600") as server,
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
        await until_shown(server.url, waiting=1, bodies_bytes=4)

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
        running_zapq(tmp_path, "--grace", "0.5", "--max-message-bytes", "16M") as server,
        open_client(server.url) as stalled,
        open_client(server.url) as deaf,
    ):
        # More than socket buffers hold: the answer cannot be written to somebody who does not read.
        assert (await ask(server.url, "POST", "/enqueue", bytes(16 * 1024 * 1024))).status == 202
        await stalled.stream.send_all(b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nsl")
        await deaf.send("GET", "/dequeue")
        await until_shown(server.url, queue_length=0, bodies_bytes=4)
        await server.stop()
        assert await server.process.wait() == 0
        said = [line["msg"] for line in server.messages()]
        assert "grace ran out; connections were cut" in said
        assert "delivery uncertain" in said
        assert said[-1] == "bye"


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    async with running_zapq(tmp_path, "--grace", "600") as server, open_client(server.url) as stalled:
        await stalled.stream.send_all(b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nsl")
        await until_shown(server.url, bodies_bytes=4)
        await server.stop()
        assert server.process.poll() is None
        # One that comes too soon counts as the first.
        while server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            await trio.sleep(0.02)
        assert server.process.returncode == 128 + signal.SIGTERM


async def test_two_signals_at_once_are_one(tmp_path: Path) -> None:
    # `timeout 60 zapq` sends SIGTERM to zapq, and to the group in which zapq is.
    async with running_zapq(tmp_path, "--snapshot-on-exit", "all.msgpack") as server:
        server.process.send_signal(signal.SIGSTOP)
        server.process.send_signal(signal.SIGINT)
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGCONT)
        assert await server.process.wait() == 0
        assert "second shutdown signal received; ending now" not in [line["msg"] for line in server.messages()]
    assert (tmp_path / "all.msgpack").exists()


async def test_signals_without_end_do_no_more_than_the_second(tmp_path: Path) -> None:
    async with running_zapq(tmp_path, "--grace", "600") as server, open_client(server.url) as stalled:
        await stalled.stream.send_all(b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nsl")
        await until_shown(server.url, bodies_bytes=4)
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
    async with running_zapq(tmp_path, "--durable") as server:
        assert (await ask(server.url, "POST", "/enqueue", b"x")).status == 202

        def open_to_some() -> list[bool]:
            """For each thread, whether it may be interrupted."""
            status = [
                (each / "status").read_text()
                for each in Path(f"/proc/{server.process.pid}/task").iterdir()
                if each.exists()
            ]
            masks = [int(mask, 16) for text in status for mask in re.findall(r"SigBlk:\t([0-9a-f]+)", text)]
            return [mask & ours != ours for mask in masks]

        # The kernel shows them as not blocked in the one that waits for them.
        await eventually(lambda: any(open_to_some()), "a thread to wait for signals")
        assert open_to_some().count(True) == 1 < len(open_to_some())


async def test_a_kill_leaves_no_half_written_snapshot(tmp_path: Path) -> None:
    async with running_zapq(tmp_path) as server:
        assert (await ask(server.url, "POST", "/enqueue", b"x")).status == 202
        assert (await ask(server.url, "POST", "/persist?file=a.json")).status == 200
        server.process.kill()
        await server.process.wait()
    assert [name for name in os.listdir(tmp_path) if name.startswith(".")] == []


def _enqueue_head() -> h11.Request:
    return h11.Request(method="POST", target="/enqueue", headers=[("Host", "localhost"), ("Content-Length", "0")])
