"""What docs/queues.md teaches is what the server does, and it teaches everything the server does."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import trio

import zapq
from tests.support.curl import lines
from tests.support.wire import Answer, ask
from zapq.access.access import Access
from zapq.http.app import create_app
from zapq.http.guard import Guard
from zapq.http.hosts import Hosts
from zapq.http.metrics import ServerCounts
from zapq.logs import Throttle
from zapq.service.named_queue import NamedQueue
from zapq.service.queues import Queues
from zapq.service.service import QueueService
from zapq.settings import Settings
from zapq.testing import ZapqServer

DOCUMENT = (Path(__file__).parent.parent / "docs/queues.md").read_text()
[PYTHON] = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
TAG = "b9013d"
"""What the receipts shown begin with."""


async def test_every_line_of_curl_does_something(zapq_server: ZapqServer) -> None:
    tag = zapq_server.service.broker._tag
    for line in lines(DOCUMENT):
        answer: Answer = await ask(
            zapq_server.url,
            line.method,
            line.target.replace(TAG, tag),
            line.body.replace(TAG.encode(), tag.encode()),
            line.headers,
        )
        # Of a lease shown only one thing can be done.
        assert answer.status < 300 or (answer.status == 409 and "/receipts/" in line.target), line.text
        status, _, rest = line.shown.removeprefix("HTTP/1.1 ").partition("\n")
        if status.startswith(f"{answer.status} "):
            fields = re.findall(r"^([A-Z][\w-]+): ", rest, re.MULTILINE)
            assert {name.lower() for name in fields} <= answer.headers.keys(), line.text


async def test_every_verb_is_taught_by_a_line_of_curl(zapq_service: QueueService, zapq_settings: Settings) -> None:
    guard = Guard(zapq_settings, Hosts(zapq_settings, None), Access(zapq_settings))
    app = create_app(Queues(zapq_service), zapq_settings, ServerCounts(), Throttle(), guard)
    routes = app.url_map.bind("")
    taught = {
        (line.method, routes.match(line.target.partition("?")[0], line.method, return_rule=True)[0].rule)
        for line in lines(DOCUMENT)
    }
    every = {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/queues") or rule.rule in {"/drain", "/livez", "/readyz"}
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert taught >= every, sorted(every - taught)


@pytest.mark.parametrize("kind", [NamedQueue, QueueService])
def test_every_verb_in_python_is_named(kind: type) -> None:
    ours = {"take", "return_undelivered", "why_empty", "next_visible_in"}
    ours |= {"state", "find_state", "attempt", "attempt_nowait", "take_from"}
    ours |= {"attempt_putting", "attempt_enqueuing", "attempt_taking"}
    ours |= {"do_in_task", "when_resolved", "leave", "nothing", "hand_out", "note_uncertain_delivery", "run"}
    ours |= {"check_open", "check_storage", "abandon_storage", "replace_all", "fingerprint", "reservation"}
    """Between the service and the HTTP side."""
    verbs = {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")} - ours
    section = DOCUMENT[DOCUMENT.index("## In Python") :]
    assert not {name for name in verbs if f"`{name}`" not in section}


def test_the_example_in_python_runs() -> None:
    handled: list[bytes] = []

    async def handle(body: bytes) -> None:
        handled.append(body)

    program = "async def main():\n" + "".join(f"    {line}\n" for line in PYTHON.splitlines())
    # It waits for 20 s for what is put off for 10.
    names: dict[str, object] = {"zapq": zapq, "handle": handle}
    exec(program.replace("delay=10", "delay=0"), names)
    trio.run(names["main"])  # type: ignore[arg-type]
    assert handled == [b"one"]
