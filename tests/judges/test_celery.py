"""Celery over SQS: 60 tasks, some tried again, some later, from two queues; a worker is killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.judges.judges import PROGRAMS, ROOT, Judges, judged
from tests.support.process import Zapq
from tests.support.waiting import eventually
from tests.support.wire import ask

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TASK_PROGRAM = PROGRAMS / "celery_tasks.py"
TASKS = {*(f"one {number}" for number in range(50)), *(f"other {number}" for number in range(10))}


@asynccontextmanager
async def working(
    judges: Judges, zapq: Zapq, log: Path, environ: dict[str, str], program: Path = TASK_PROGRAM
) -> AsyncGenerator[trio.Process, None]:
    """Run a worker of a program's tasks with two processes; all that is left of it is killed."""
    with log.open("wb") as output:
        worker = await trio.lowlevel.open_process(
            ["celery", "-A", program.stem, "worker", "-c", "2", "-Q", "celery,second", "-l", "WARNING"],
            cwd=program.parent,
            env=judges.environ(zapq, environ),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield worker
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await worker.wait()


async def test_celery_does_all_tasks_though_a_worker_is_killed(judges: Judges, tmp_path: Path) -> None:
    done = tmp_path / "done"
    done.touch()

    def number() -> int:
        return len(set(done.read_text().splitlines()))

    async with judged(tmp_path, "--durable") as zapq:
        environ = {"BROKER": f"sqs://any:any@{zapq.addr}//", "DONE": str(done)}
        sent = await judges.run(zapq, "python", TASK_PROGRAM, environ=environ)
        assert sent.returncode == 0, sent.stdout
        async with working(judges, zapq, tmp_path / "first", environ) as worker:
            await eventually(lambda: number() >= 15, "some tasks to be done")
            os.killpg(worker.pid, signal.SIGKILL)

        async def all_is_done() -> bool:
            # What the killed worker had done, and not acknowledged, comes again.
            held = 0
            for queue in ("celery", "second"):
                stats = (await ask(zapq.url, "GET", f"/queues/{queue}")).json
                held += sum(stats[name] for name in ("ready", "delayed", "leased"))
            return number() >= len(TASKS) and not held

        async with working(judges, zapq, tmp_path / "second", environ) as worker:
            await eventually(all_is_done, "the others")
            worker.terminate()
            await worker.wait()
        lines = done.read_text().splitlines()
        assert set(lines) == TASKS
        assert len(lines) <= len(TASKS) + 10, "what was done twice is what the killed worker had done last"


async def test_the_example_works(judges: Judges, tmp_path: Path) -> None:
    program, log = ROOT / "examples" / "celery_app.py", tmp_path / "log"
    async with judged(tmp_path) as zapq:
        environ = {"BROKER": f"sqs://any:any@{zapq.addr}//"}
        sent = await judges.run(zapq, "python", program, environ=environ)
        assert sent.returncode == 0, sent.stdout
        async with working(judges, zapq, log, environ, program):
            await eventually(lambda: log.read_text().count("resized picture") == 3, "all to be resized")
