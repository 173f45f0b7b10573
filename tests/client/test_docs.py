"""What docs/how-to/client.md shows is what happens."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.support.process import ENVIRON
from tests.support.waiting import eventually
from zapq.service.named_queue import NamedQueue
from zapq.testing import ZapqServer

DOCUMENT = (Path(__file__).parents[2] / "docs/how-to/client.md").read_text()
THREADS, ASYNCIO, TRIO, SEND, PRODUCE, CONSUME, IN_THREADS, LOOP, *STOPPED = re.findall(
    r"```python\n(.*?)```", DOCUMENT, re.DOTALL
)
[SHELL] = re.findall(r"```console\n(.*?)```", DOCUMENT, re.DOTALL)


async def until_acknowledged(queue: NamedQueue, number: int) -> None:
    await eventually(lambda: queue.info().stats.acked == number, f"{number} messages to be acknowledged")


def test_the_examples_for_asyncio_and_trio_differ_in_two_lines() -> None:
    assert ASYNCIO.replace("asyncio", "trio").replace("trio.run(main())", "trio.run(main)") == TRIO


@pytest.mark.parametrize("example", [THREADS, ASYNCIO, TRIO], ids=["threads", "asyncio", "trio"])
async def test_the_first_examples_run_with_threads_asyncio_and_trio(example: str, zapq_server: ZapqServer) -> None:
    program = example.replace("http://127.0.0.1:8080", zapq_server.url)
    shown = await trio.run_process([sys.executable, "-c", program], capture_stdout=True)
    assert shown.stdout == b"b'hello'\n"
    assert zapq_server.service.queue("emails").info().stats.acked == 1


async def test_the_sending_example_runs(zapq_server: ZapqServer) -> None:
    program = SEND.replace("http://127.0.0.1:8080", zapq_server.url)
    shown = await trio.run_process([sys.executable, "-c", program], capture_stdout=True)
    assert shown.stdout == b"1 2 4 4\n"


async def test_the_producing_example_sends(zapq_server: ZapqServer) -> None:
    program = PRODUCE.replace("http://127.0.0.1:8080", zapq_server.url)
    await trio.run_process([sys.executable, "-c", program])
    assert zapq_server.service.queue("emails").info().stats.messages == 10


async def test_the_consuming_examples_acknowledge(zapq_server: ZapqServer) -> None:
    emails = zapq_server.service.queue("emails")
    on_asyncio = CONSUME.replace("import trio", "import asyncio").replace("trio.run(main)", "asyncio.run(main())")
    for number, example in enumerate((CONSUME, IN_THREADS, LOOP, on_asyncio), 1):
        await emails.enqueue(b"hello")
        program = example.replace("http://127.0.0.1:8080", zapq_server.url)
        async with trio.open_nursery() as nursery:
            command = [sys.executable, "-c", program]
            nursery.start_soon(partial(trio.run_process, command, stdout=subprocess.DEVNULL))
            await until_acknowledged(emails, number)
            nursery.cancel_scope.cancel()


WORKER = (Path(__file__).parents[2] / "examples/worker.py").read_text()
STOPS = dict(zip(("asyncio", "Trio", "threads"), STOPPED, strict=True)) | {"examples/worker.py": WORKER}
PAUSE = {"asyncio": "await asyncio.sleep(0.01)", "threads": "import time; time.sleep(0.01)"}


@pytest.mark.slow
@pytest.mark.parametrize("name", STOPS)
async def test_a_worker_that_gets_sigterm_ends_what_it_has_begun_and_releases_the_rest(
    name: str, zapq_server: ZapqServer, tmp_path: Path
) -> None:
    emails, go_on, output = zapq_server.service.queue("emails"), tmp_path / "go-on", tmp_path / "output"
    program, number = re.subn(
        r"^( +)print\(.*lease\.body.*\)$",
        rf"\1print('begun', flush=True)\n\1while not __import__('os').path.exists({str(go_on)!r}):"
        rf"\n\1    {PAUSE.get(name, 'await trio.sleep(0.01)')}",
        STOPS[name].replace("http://127.0.0.1:8080", zapq_server.url),
        flags=re.MULTILINE,
    )
    assert number == 1
    program = program.replace("concurrency=8", "concurrency=1, prefetch=2").replace("range(8)", "range(1)")
    await emails.enqueue_many([b"1", b"2", b"3"])
    with output.open("wb") as file:
        command = [sys.executable, "-c", program, zapq_server.url]
        worker = await trio.lowlevel.open_process(command, stdout=file, env=ENVIRON)
    try:
        await eventually(
            lambda: (output.read_text(), emails.info().stats.leased) == ("begun\n", 3),
            "work on the first of three",
        )
        worker.send_signal(signal.SIGTERM)
        await eventually(lambda: emails.info().stats.ready == 2, "the others to be released")
        assert emails.info().stats.leased == 1
        go_on.touch()
        assert await worker.wait() == 0
    finally:
        worker.kill()
        await worker.wait()  # noqa: ASYNC102 - it was killed
    stats = emails.info().stats
    assert (output.read_text(), stats.acked, stats.ready, stats.leased) == ("begun\n", 1, 2, 0)


async def test_the_shells_example_is_what_it_prints(zapq_server: ZapqServer, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear you,\n")
    script = tmp_path / "zapq"
    script.write_text(f"""#!/bin/sh
exec {shlex.quote(sys.executable)} -c 'from zapq.__main__ import main; main()' "$@"
""")
    script.chmod(0o755)
    emails = zapq_server.service.queue("emails")
    for part in SHELL.removeprefix("$ ").split("\n$ "):
        line, _, expected = part.partition("\n")
        with (tmp_path / "output").open("wb") as output:
            process = await trio.lowlevel.open_process(
                # Without another shell between us and the command: it is to be interrupted, not the shell.
                ["sh", "-c", line if "|" in line else f"exec {line}"],
                stdout=output,
                cwd=tmp_path,
                env=ENVIRON | {"ZAPQ_URL": zapq_server.url, "PATH": f"{tmp_path}:{ENVIRON['PATH']}"},
            )
        if "^C" in expected:
            await eventually(lambda: not emails.info().stats.messages, "the command to take it")
            process.send_signal(signal.SIGINT)
        assert await process.wait() == (130 if "^C" in expected else 0), line
        # A busy machine lets a message be seconds old.
        printed = re.sub(r"\b\d+s$", "0s", (tmp_path / "output").read_text().rstrip())
        assert printed == expected.removesuffix("^C").rstrip(), line
