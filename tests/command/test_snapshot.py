"""zapq snapshot as people type it, against a real server and without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import ENVIRON, SCRIPT, Run, as_text, assert_one_line, shown
from tests.support.typed import TypeIn
from zapq.core.queue_settings import QueueSettings
from zapq.testing import ZapqServer


async def fill(server: ZapqServer) -> None:
    jobs = server.service.queue("jobs")
    await jobs.enqueue_many([b"hello"] * 12)
    await jobs.enqueue(b"late", delay=1000)
    await jobs.receive()
    await jobs.pause()


async def test_what_is_saved_is_listed_and_can_be_loaded(
    run: Run, zapq_server: ZapqServer, tmp_path: Path
) -> None:
    await fill(zapq_server)
    listed = await run("snapshot", "ls")
    assert (listed.returncode, listed.stdout, listed.stderr) == (
        0,
        b"file  queues  messages  bytes  modified\n",
        b"",
    )
    for name in ("a.msgpack", "b.json"):
        assert shown(await run("snapshot", "save", name)) == (0, b"", b"")
    listed = await run("snapshot", "ls")
    rows = [line.split() for line in listed.stdout.decode().splitlines()]
    size = str((tmp_path / "a.msgpack").stat().st_size)
    assert [row[:4] for row in rows[1:]] == [["a.msgpack", "2", "13", size], ["b.json", "-", "-", "2"]]
    await zapq_server.service.delete("jobs")
    assert shown(await run("snapshot", "load", "a.msgpack", "--yes")) == (0, b"", b"")
    assert zapq_server.service.find("jobs").info().stats.messages == 13


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, 0), ("n\n", 1, 1), ("\n", 1, 1), ("", 130, 1)])
async def test_loading_asks_first(
    type_in: TypeIn, zapq_server: ZapqServer, answer: str, code: int, left: int
) -> None:
    await zapq_server.service.snapshot("a.msgpack")
    await zapq_server.service.enqueue(b"x")
    result = await type_in("snapshot", "load", "a.msgpack", stdin=answer, terminal=True)
    assert result.returncode == code
    assert "Replace all queues with a.msgpack? [y/N]: " in result.stderr
    assert ("zapq: Nothing was changed.\n" in result.stderr) == (code == 1)
    assert zapq_server.service.stats().queue.messages == left


async def test_a_file_is_shown_without_a_server(run: Run, zapq_server: ZapqServer, tmp_path: Path) -> None:
    await fill(zapq_server)
    await zapq_server.service.configure("dead", QueueSettings(visibility=5))
    for name in ("a.msgpack", "b.json"):
        await zapq_server.service.snapshot(name)
    result = await run("snapshot", "show", str(tmp_path / "a.msgpack"), ZAPQ_URL="http://127.0.0.1:1")
    lines = result.stdout.decode().splitlines()
    assert (result.returncode, result.stderr) == (0, b"")
    assert lines[0] == "format    msgpack, version 3"
    assert lines[1].startswith("written   20")
    assert lines[2] == f"bytes     {(tmp_path / 'a.msgpack').stat().st_size}, none of them damaged"
    assert lines[3:] == [
        "keys      0",
        "",
        "queue          messages  bytes  delayed  received",
        "dead                  0      0        0         0",
        "default               0      0        0         0",
        "jobs (paused)        13     64        1         1",
    ]
    await zapq_server.service.enqueue(b"hi")
    await zapq_server.service.snapshot("b.json")
    result = await run("snapshot", "show", str(tmp_path / "b.json"))
    lines = result.stdout.decode().splitlines()
    assert lines[0] == "format    json"
    assert lines[-1].split() == ["default", "1", "2", "0", "0"]


async def test_what_is_wrong_is_one_line(run: Run, zapq_server: ZapqServer, tmp_path: Path) -> None:
    await fill(zapq_server)
    await zapq_server.service.snapshot("a.msgpack")
    data = (tmp_path / "a.msgpack").read_bytes()
    (tmp_path / "short.msgpack").write_bytes(data[:-5])
    (tmp_path / "changed.msgpack").write_bytes(data[:50] + b"\0" + data[51:])
    (tmp_path / "bad.json").write_bytes(b'["aGk=",')
    (tmp_path / "notes.txt").write_bytes(b"hello")
    os.mkfifo(tmp_path / "fifo.msgpack")
    for name, complaint in (
        (
            "short.msgpack",
            f"short.msgpack: damaged at byte {len(data) - 33}: the file ends in the middle of a block.",
        ),
        ("changed.msgpack", "changed.msgpack: damaged at byte 30: the checksum does not match."),
        ("bad.json", "bad.json is not a JSON array of base64 strings. It is damaged after message 1"),
        ("notes.txt", "notes.txt is not a JSON array of base64 strings"),
        ("fifo.msgpack", "fifo.msgpack is not a plain file."),
        ("missing.msgpack", "missing.msgpack: No such file or directory."),
        ("", ": Is a directory."),
    ):
        assert_one_line(as_text(await run("snapshot", "show", str(tmp_path / name))), 1, complaint)
    for arguments, complaint in (
        (("save", "../a.msgpack"), "file must be a bare name"),
        (("load", "missing.msgpack", "--yes"), "missing.msgpack is not in the data directory."),
        (("load", "short.msgpack", "--yes"), "short.msgpack: damaged at byte"),
    ):
        assert_one_line(as_text(await run("snapshot", *arguments)), 1, complaint)
    assert_one_line(as_text(await run("snapshot", "ls", ZAPQ_URL="http://127.0.0.1:1")), 1, "Connection refused.")


@pytest.mark.parametrize(
    "arguments", [[], ["show"], ["save"], ["load"], ["nothing"], ["ls", "x"], ["show", "x", "--url", "y"]]
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str]) -> None:
    result = subprocess.run(
        [*SCRIPT, "snapshot", *arguments], capture_output=True, text=True, env=ENVIRON, check=False
    )
    assert_one_line(result, 2, "")


def test_no_server_is_imported(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"[]")
    code = (
        f"import sys; sys.argv = ['zapq', 'snapshot', 'show', {str(tmp_path / 'a.json')!r}]\n"
        "from zapq.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print(*{'quart', 'hypercorn', 'trio'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.endswith("0\n\n"), result
