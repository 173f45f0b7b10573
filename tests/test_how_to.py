"""What the short guides show is what happens."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.support.curl import lines
from tests.support.typed import typed
from tests.support.wire import ask
from zapq.http.routing import find_route
from zapq.testing import ZapqServer

GUIDES = Path(__file__).parent.parent / "docs/how-to"
SHOWN = ("migrate", "retries")


@pytest.mark.parametrize("name", SHOWN)
async def test_each_line_of_curl_does_what_it_shows(zapq_server: ZapqServer, name: str) -> None:
    receipts: dict[str, str] = {}
    page = (GUIDES / f"{name}.md").read_text()
    for command, shown in re.findall(r"^\$ zapq (queue set .*)\n(.*)$", page, re.MULTILINE):
        run = partial(typed, *command.split(), environ={"ZAPQ_URL": zapq_server.url})
        said = await trio.to_thread.run_sync(run)
        assert said.stdout.strip() == shown, (command, said.stderr)
    for line in lines(page):
        target = line.target
        for shown, actual in receipts.items():
            target = target.replace(shown, actual)
        answer = await ask(zapq_server.url, line.method, target, line.body, line.headers)
        assert answer.status < 300, (line.text, answer)
        fields, _, body = line.shown.rpartition("...\n")
        for field, value in re.findall(r"^([\w-]+): (.*)$", fields, re.MULTILINE):
            if field == "Zapq-Receipt":
                receipts[value] = answer.headers["zapq-receipt"]
            else:
                assert answer.headers[field.lower()] == value, line.text
        if body:
            assert answer.body.decode() == body.strip(), line.text


@pytest.mark.parametrize("name", SHOWN)
async def test_each_program_runs(zapq_server: ZapqServer, name: str) -> None:
    programs = re.findall(r"```python\n(.*?)```", (GUIDES / f"{name}.md").read_text(), re.DOTALL)
    await zapq_server.service.queue("emails").enqueue(b"to Ann")
    for program in programs:
        here = program.replace("http://127.0.0.1:8080", zapq_server.url)
        await trio.run_process([sys.executable, "-W", "ignore", "-c", here])
    stats = {queue.name: queue.info().stats for queue in zapq_server.service.queues()}
    if name == "retries":
        assert stats["emails"].delayed == 1
    else:
        # One message came by SQS and one by ours, and the worker has taken the first.
        assert (stats["jobs"].messages, stats["jobs"].acked) == (1, 1)


def test_what_is_said_of_other_queues_is_done_by_endpoints_of_ours() -> None:
    page = (GUIDES / "migrate.md").read_text()
    asked = re.findall(r"`(GET|POST|DELETE) (/queues/[^`?]*)", page)
    asked += [
        ("POST" if " -d " in line or "-X POST" in line else "GET", target)
        for line, target in re.findall(r"`(curl [^`]*?localhost:8080(/[^?'`]*)[^`]*)`", page)
    ]
    assert len(asked) >= 12
    for method, target in asked:
        assert find_route(method, target.rstrip()) is not None, (method, target)
