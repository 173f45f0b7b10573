"""What docs/reference/queues.md teaches is what the server does, and it teaches everything the server does."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
import trio

import zapq
from tests.support.curl import lines
from tests.support.wire import Answer, ask
from zapq.http.endpoints import ENDPOINTS, Endpoint
from zapq.http.routing import find_route
from zapq.service.named_queue import NamedQueue
from zapq.service.service import QueueService
from zapq.testing import ZapqServer

DOCUMENT = (Path(__file__).parent.parent / "docs/reference/queues.md").read_text()
ORDER = (Path(__file__).parent.parent / "docs/explanation/order.md").read_text()
SNAPSHOTS = (Path(__file__).parent.parent / "docs/how-to/snapshots.md").read_text()
TESTING = (Path(__file__).parent.parent / "docs/how-to/testing.md").read_text()
[PYTHON] = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
TAG = "b9013d"
"""What the receipts shown begin with."""


@pytest.mark.parametrize("document", [DOCUMENT, ORDER], ids=["queues", "order"])
async def test_every_line_of_curl_does_something(zapq_server: ZapqServer, document: str) -> None:
    tag = zapq_server.service.broker._tag
    for line in lines(document):
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
            assert (
                re.findall(r"^Zapq-(?:Group|Empty): (\w[\w-]*)$", rest, re.MULTILINE)
                == [answer.headers[name] for name in ("zapq-group", "zapq-empty") if name in answer.headers]
                or document is DOCUMENT
            ), line.text


def test_every_verb_is_taught_by_a_line_of_curl() -> None:
    taught = set()
    for line in lines(DOCUMENT):
        path, _, query = line.target.partition("?")
        route = find_route(line.method, path)
        assert route is not None, line.text
        taught.add(route.endpoint)
        assert {name for name, _ in parse_qsl(query)} <= {*route.endpoint.takes}, line.text
    every = {
        each
        for each in ENDPOINTS
        if each.path.startswith("/queues") or each.path in {"/drain", "/livez", "/readyz"}
    }
    assert taught >= every, sorted(each.path for each in every - taught)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda each: f"{each.method} {each.path}")
def test_every_parameter_is_explained(endpoint: Endpoint) -> None:
    pages = {"/persist": SNAPSHOTS, "/load": SNAPSHOTS, "/test/advance": TESTING}
    page = pages.get(endpoint.path, DOCUMENT)
    for name in endpoint.takes:
        assert re.search(rf"[?&`]{name}[=`]", page), name


VERBS = {
    NamedQueue: "enqueue enqueue_many put dequeue dequeue_many receive receive_many lease ack release extend"
    " settle peek find info clear pause resume redrive enqueue_nowait enqueue_many_nowait put_nowait"
    " dequeue_nowait receive_nowait ack_nowait settle_nowait",
    QueueService: "queue find queues configure change_settings delete drain stats stored snapshot restore",
}


@pytest.mark.parametrize("kind", VERBS)
def test_every_verb_in_python_is_named(kind: type) -> None:
    section = DOCUMENT[DOCUMENT.index("## In Python") :]
    for name in VERBS[kind].split():
        assert hasattr(kind, name)
        assert f"`{name}`" in section, name


def test_a_queue_has_no_other_verbs() -> None:
    public = {name for name, _ in inspect.getmembers(NamedQueue, inspect.isfunction) if not name.startswith("_")}
    # What `dequeue_many` and `receive_many` are made of, and what is between them and a dialect.
    ours = {"take", "return_undelivered", "why_empty", "next_visible_in"}
    assert public - ours == {*VERBS[NamedQueue].split()}


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
