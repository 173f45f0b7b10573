"""A log that nobody reads keeps nobody waiting, and is not lost where it need not be."""

from __future__ import annotations

import os
import queue
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import trio

from tests.support.process import ENVIRON, server_command
from tests.support.waiting import eventually
from tests.support.wire import ask
from zapq.spool import Spool


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def close(pipe: tuple[int, int], end: int) -> None:
    """Close one end. Its number becomes another for the other end, so nobody gets it before the fixture ends."""
    os.dup2(pipe[1 - end], pipe[end])


def fill(descriptor: int) -> int:
    """Write until there is no room for one byte more, and return how much that was."""
    os.set_blocking(descriptor, False)
    size = 0
    for piece in (bytes(4096), b"\0"):
        with suppress(BlockingIOError):
            while True:
                size += os.write(descriptor, piece)
    os.set_blocking(descriptor, True)
    return size


def read(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(descriptor, size - len(data))
    return data


def test_what_is_written_is_there_in_order_at_the_end(pipe: tuple[int, int]) -> None:
    spool = Spool(pipe[1])
    for number in range(100):
        spool.write(f"{number} \udcff\n")
        spool.flush()
    spool.close(60)
    assert os.read(pipe[0], 65536) == b"".join(b"%d \\udcff\n" % number for number in range(100))
    assert spool.dropped == 0


def test_where_nobody_reads_lines_are_dropped_and_the_end_does_not_wait_for_long(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zapq.spool.SPOOLED_LINES", 10)
    size = fill(pipe[1])
    spool = Spool(pipe[1])
    for _ in range(100):
        spool.write("line\n")
    # One is with the thread, maybe.
    assert spool.dropped in {89, 90}
    spool.close(0.01)
    read(pipe[0], size + 5)


def test_once_it_flows_again_it_is_told_how_many_were_dropped(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zapq.spool.SPOOLED_LINES", 10)
    told: queue.Queue[int] = queue.Queue()
    size = fill(pipe[1])
    spool = Spool(pipe[1], told.put)
    for _ in range(100):
        spool.write("line\n")
    dropped = spool.dropped
    assert read(pipe[0], size + 5 * (100 - dropped)) == bytes(size) + b"line\n" * (100 - dropped)
    assert told.get(timeout=60) == dropped
    spool.write("more\n")
    spool.close(60)
    assert read(pipe[0], 5) == b"more\n"
    assert told.empty()


def test_a_descriptor_that_does_not_wait_is_waited_for(pipe: tuple[int, int]) -> None:
    size = fill(pipe[1])
    os.set_blocking(pipe[1], False)
    spool = Spool(pipe[1])
    spool.write("line\n")
    assert read(pipe[0], size + 5).endswith(b"line\n")
    spool.close(60)
    assert spool.dropped == 0


def test_lines_for_a_reader_that_is_gone_are_dropped(pipe: tuple[int, int]) -> None:
    close(pipe, 0)
    spool = Spool(pipe[1])
    spool.write("line\n")
    spool.write("line\n")
    spool.close(60)
    assert spool.dropped == 2


@pytest.mark.parametrize("read_at_last", [False, True])
async def test_a_server_whose_output_nobody_reads_answers_and_ends_in_time(
    tmp_path: Path, pipe: tuple[int, int], read_at_last: bool
) -> None:
    size = fill(pipe[1])
    url = f"unix:{tmp_path}/s"
    # Its log is full, so it cannot be found there where it listens.
    process = await trio.lowlevel.open_process(
        server_command(tmp_path, "--addr", url), stdout=pipe[1], env=ENVIRON
    )
    close(pipe, 1)
    try:
        await eventually(lambda: process.poll() is not None or listens(tmp_path / "s"), "the server to listen")
        for _ in range(30):
            assert (await ask(url, "GET", "/nothing")).status == 404
            assert (await ask(url, "POST", "/enqueue", b"x")).status == 202
        assert (await ask(url, "GET", "/metrics")).json["log_lines_dropped"] == 0
        process.send_signal(signal.SIGTERM)
        if read_at_last:
            assert not (await trio.to_thread.run_sync(read, pipe[0], size)).strip(b"\0")
        assert await process.wait() == 0
        if read_at_last:
            lines = [msgspec.json.decode(line)["msg"] for line in rest(pipe[0]).splitlines()]
            end = ["shutdown signal received", "messages lost", "bye"]
            assert (lines[0], lines[-3:]) == ("queue listening", end)
            assert re.fullmatch("(refused ){10,}", " ".join([*lines[1:-3], ""]))
    finally:
        if process.poll() is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


def listens(path: Path) -> bool:
    """Return whether a client can connect: the file is there a moment before that."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def rest(descriptor: int) -> bytes:
    data = b""
    while piece := os.read(descriptor, 65536):
        data += piece
    return data
