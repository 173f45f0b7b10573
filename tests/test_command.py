"""push, pop, stats and health, as somebody types them: each a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from zapq.core.queue import QueueSettings
from zapq.settings import Settings
from zapq.testing import ZapqServer

COMMAND = [sys.executable, "-m", "zapq"]


async def zapq(server: ZapqServer, *arguments: str, stdin: bytes = b"") -> tuple[int, bytes, str]:
    """Run `zapq` with these arguments against the server, and return its code, output and complaints."""
    done = await trio.run_process(
        [*COMMAND, *arguments],
        stdin=stdin,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env=os.environ | {"ZAPQ_URL": server.url},
    )
    return done.returncode, done.stdout, done.stderr.decode()


@asynccontextmanager
async def following(server: ZapqServer, *arguments: str) -> AsyncGenerator[trio.Process, None]:
    """Run `zapq pop --follow` for the length of the block."""
    start = partial(
        trio.run_process,
        [*COMMAND, "pop", "emails", "--follow", *arguments, "--url", server.url],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=False,
    )
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(start)
        yield process
        process.send_signal(signal.SIGINT)


async def test_a_message_is_pushed_and_popped(zapq_server: ZapqServer) -> None:
    assert await zapq(zapq_server, "push", "emails", "hello") == (0, b"1\n", "")
    assert await zapq(zapq_server, "push", "emails", stdin=b"from\nstdin") == (0, b"2\n", "")
    assert await zapq(zapq_server, "push", "emails", "-", stdin=b"") == (0, b"3\n", "")
    for body in (b"hello", b"from\nstdin", b""):
        assert await zapq(zapq_server, "pop", "emails") == (0, body, "")
    assert await zapq(zapq_server, "pop", "emails") == (1, b"", "")
    assert await zapq(zapq_server, "pop", "emails", "--wait", "0.01") == (1, b"", "")


async def test_lines_are_messages_and_options_reach_the_queue(zapq_server: ZapqServer) -> None:
    options = ["--priority", "3", "--ttl", "1000", "--content-type", "text/plain"]
    assert await zapq(zapq_server, "push", "emails", "--lines", *options, stdin=b"a\n\nc") == (0, b"1\n2\n3\n", "")
    assert (await zapq(zapq_server, "push", "emails", "later", "--delay", "1000"))[0] == 0
    queue = zapq_server.service.find("emails")
    seen = await queue.peek()
    assert [each.message.body for each in seen] == [b"a", b"", b"c"]
    assert {(each.message.priority, each.message.content_type) for each in seen} == {(3, "text/plain")}
    assert queue.info().stats.delayed == 1


async def test_a_key_makes_pushing_twice_harmless(zapq_server: ZapqServer) -> None:
    for _ in range(2):
        assert await zapq(zapq_server, "push", "emails", "invoice", "--key", "7") == (0, b"1\n", "")
    assert zapq_server.service.find("emails").info().stats.messages == 1
    refused = await zapq(zapq_server, "push", "emails", "another", "--key", "7")
    assert (refused[0], refused[2].count("\n")) == (1, 1)


async def test_with_ack_a_message_is_gone_only_when_it_is_printed(zapq_server: ZapqServer) -> None:
    queue = zapq_server.service.queue("emails")
    await queue.enqueue(b"hello")
    assert await zapq(zapq_server, "pop", "emails", "--ack") == (0, b"hello", "")
    assert queue.info().stats.acked == 1
    await queue.enqueue(b"cannot be printed")
    with open("/dev/full", "wb") as full:
        done = await trio.run_process(
            [*COMMAND, "pop", "emails", "--ack", "--url", zapq_server.url],
            stdout=full,
            capture_stderr=True,
            check=False,
        )
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert [each.message.body for each in await queue.peek()] == [b"cannot be printed"]


@pytest.mark.parametrize("ack", [[], ["--ack"]])
async def test_following_prints_what_comes_until_interrupted(zapq_server: ZapqServer, ack: list[str]) -> None:
    async with following(zapq_server, *ack) as process:
        assert process.stdout is not None
        for body in (b"first", b"second"):
            await zapq_server.service.queue("emails").enqueue(body)  # the queue is not even there at first
            printed = b""
            while not printed.endswith(b"\n"):
                printed += await process.stdout.receive_some()
            assert printed == body + b"\n"
    assert process.returncode == 128 + signal.SIGINT
    while zapq_server.service.find("emails").info().stats.messages:
        await trio.sleep(0.001)


async def test_stats_are_a_table(zapq_server: ZapqServer) -> None:
    await zapq_server.service.configure("emails", QueueSettings(visibility=5))
    await zapq_server.service.queue("emails").enqueue(b"hello")
    code, shown, _ = await zapq(zapq_server, "stats")
    head, *rows = shown.decode().splitlines()
    assert (code, head.split()[:4]) == (0, ["queue", "ready", "delayed", "leased"])
    assert [row.split()[:2] for row in rows] == [["default", "0"], ["emails", "1"]]
    assert len({len(line) for line in (head, *rows)}) == 1
    code, shown, _ = await zapq(zapq_server, "stats", "emails")
    assert (code, len(shown.splitlines())) == (0, 2)
    code, _, complaint = await zapq(zapq_server, "stats", "nobody")
    assert (code, complaint.count("\n")) == (1, 1)


async def test_health_says_whether_messages_are_taken(zapq_server: ZapqServer) -> None:
    assert await zapq(zapq_server, "health") == (0, b"ok\n", "")
    zapq_server.service.drain()
    code, shown, complaint = await zapq(zapq_server, "health")
    assert (code, shown) == (1, b"")
    assert complaint.startswith("zapq: ")


@pytest.mark.parametrize("verb", [["push", "q", "x"], ["pop", "q"], ["stats"], ["health"]])
def test_where_nobody_listens_there_is_one_line_and_code_1(verb: list[str]) -> None:
    command = [*COMMAND, *verb, "--url", "http://127.0.0.1:1"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr == "zapq: http://127.0.0.1:1: Connection refused.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["push"],
        ["push", "q", "x", "--lines"],
        ["push", "q", "--lines", "--key", "k"],
        ["push", "q", "x", "--priority", "10"],
        ["pop", "q", "--wait", "61"],
        ["pop", "q", "--follow", "--wait", "5"],
        ["stats", "--every", "5"],
        ["health", "--url", "ftp://x"],
        ["health", "--url", "http://"],
        ["health", "--url", "unix:"],
    ],
)
def test_wrong_usage_is_one_line_and_code_2(arguments: list[str]) -> None:
    shown = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (2, "", 1)
    assert shown.stderr.startswith("zapq: ")


class TestOverAUnixSocket:
    @pytest.fixture
    def zapq_settings(self, zapq_settings: Settings, tmp_path: Path) -> Settings:
        return replace(zapq_settings, addr=f"unix:{tmp_path}/zapq.sock")

    async def test_it_is_the_same(self, zapq_server: ZapqServer) -> None:
        assert await zapq(zapq_server, "push", "emails", "hello") == (0, b"1\n", "")
        assert await zapq(zapq_server, "pop", "emails") == (0, b"hello", "")


def test_none_of_it_imports_the_server_or_trio() -> None:
    code = (
        "import sys; sys.argv = ['zapq', 'health', '--url', 'http://127.0.0.1:1']\n"
        "from zapq.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*{'quart', 'hypercorn', 'trio', 'httpx2', 'msgspec'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown.stdout == "\n"
