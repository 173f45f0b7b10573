"""What docs/how-to/taskiq.md shows is what happens."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest
import trio

from tests.support.waiting import eventually
from zapq.testing import ZapqServer

pytest.importorskip("taskiq")
from tests.contrib.test_taskiq import working

DOCUMENT = (Path(__file__).parents[2] / "docs/how-to/taskiq.md").read_text()
APP, SEND = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)


async def test_the_program_as_it_is_shown_sends_and_runs_tasks(
    zapq_server: ZapqServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app.py").write_text(APP.replace("http://127.0.0.1:8080", zapq_server.url))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "app", raising=False)
    await trio.to_thread.run_sync(exec, SEND, {"__name__": "__main__"})
    stats = zapq_server.service.queue("jobs").info

    async def work() -> None:
        from app import broker  # type: ignore[import-not-found]

        async with working(broker):
            while not stats().stats.acked:
                await asyncio.sleep(0.005)

    await trio.to_thread.run_sync(lambda: asyncio.run(work()))
    await eventually(lambda: (stats().stats.acked, stats().stats.delayed) == (1, 1), "only one to be run")
    del sys.modules["app"]
