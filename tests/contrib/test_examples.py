"""The examples with frameworks do what they say."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import trio

from tests.support.process import ENVIRON
from tests.support.waiting import eventually
from zapq.testing import ZapqServer

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.once
async def test_a_site_of_django_runs_its_tasks(zapq_server: ZapqServer, tmp_path: Path) -> None:
    pytest.importorskip("django")
    environ = ENVIRON | {"PYTHONPATH": str(ROOT), "ZAPQ_URL": zapq_server.url}
    command = [sys.executable, "examples/django_site.py"]
    await trio.run_process(command, env=environ, cwd=ROOT)
    with (tmp_path / "output").open("wb") as output:
        worker = await trio.lowlevel.open_process(
            [*command, "zapq_worker"], env=environ, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        queue = zapq_server.service.queue("default")
        await eventually(lambda: queue.info().stats.acked == 3, "all tasks to be done")
        worker.send_signal(signal.SIGTERM)
        assert await worker.wait() == 0
    finally:
        worker.kill()
        await worker.wait()  # noqa: ASYNC102 - it was killed
    # Threads that print at once may do so in one line.
    shown = re.findall(r"resized picture \d", (tmp_path / "output").read_text())
    assert sorted(shown) == [f"resized picture {number}" for number in range(3)]


async def test_a_program_of_taskiq_sends_each_task_once_and_runs_it(
    zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("taskiq")
    from tests.contrib.test_taskiq import working

    monkeypatch.setenv("ZAPQ_URL", zapq_server.url)
    # taskiq looks for the module of a task.
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.delitem(sys.modules, "taskiq_app", raising=False)

    async def work() -> None:
        app = import_module("taskiq_app")
        await app.main()
        await app.main()
        async with working(app.broker):
            while queue.info().stats.acked < 3:
                await asyncio.sleep(0.005)

    queue = zapq_server.service.queue("pictures")
    await trio.to_thread.run_sync(lambda: asyncio.run(work()))
    assert sorted(capsys.readouterr().out.splitlines()) == [f"resized picture {number}" for number in range(3)]
