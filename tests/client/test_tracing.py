"""The spans of a client that traces, as the SDK exports them; one that does not trace knows nothing of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

import zapq.client.sync
from tests.client.shells import SHELLS, with_client
from tests.support.waiting import eventually
from zapq import Draft
from zapq.client import HeldLease, open_client
from zapq.client.calls import Calls
from zapq.client.talk import Talk
from zapq.core.settlement import Settlement
from zapq.errors import InvalidParameter, QueueNotFound, Unreachable
from zapq.testing import ZapqServer

pytest.importorskip("opentelemetry.sdk")
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, Tracer

from zapq.client.spans import carrying

DOCUMENT = (Path(__file__).parents[2] / "docs/how-to/tracing.md").read_text()
PRODUCER, CONSUMER = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)


class Exported:
    """What was traced, and what an application traces with."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def tracer(self) -> Tracer:
        return self.provider.get_tracer("of the application")

    @property
    def names(self) -> list[str]:
        return [span.name for span in self._exporter.get_finished_spans()]

    def all(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        [span] = self.all(name)
        return span


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exported]:
    """A tracer provider that the program has set, for the length of the test."""
    exported = Exported()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", exported.provider)
    yield exported
    exported.provider.shutdown()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return {name.removeprefix("messaging."): value for name, value in (span.attributes or {}).items()}


def identity(span: ReadableSpan) -> tuple[int, int]:
    known = span.context
    assert known is not None
    return known.trace_id, known.span_id


def parent(span: ReadableSpan) -> tuple[int, int]:
    assert span.parent is not None
    return span.parent.trace_id, span.parent.span_id


def linked(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


@pytest.mark.parametrize("shell", SHELLS)
async def test_one_trace_goes_from_the_producer_through_the_queue(
    shell: str, exported: Exported, zapq_server: ZapqServer
) -> None:
    async def work(client: Any) -> None:
        with exported.tracer.start_as_current_span("request"):
            await client.put("emails", b"hello", headers={"tenant": "acme"})
        lease = await client.receive("emails")
        await client.ack(lease)

    await with_client(shell, zapq_server.url, work)
    assert exported.names == ["send emails", "request", "receive emails", "ack emails"]
    request, send = exported.one("request"), exported.one("send emails")
    receive, ack = exported.one("receive emails"), exported.one("ack emails")
    port = int(zapq_server.url.rpartition(":")[2])
    common = {"system": "zapq", "destination.name": "emails", "server.address": "127.0.0.1", "server.port": port}
    assert (send.kind, receive.kind, ack.kind) == (SpanKind.PRODUCER, SpanKind.CLIENT, SpanKind.CLIENT)
    assert parent(send) == identity(request)
    assert linked(receive) == [identity(send)]
    assert attributes(send) == common | {
        "operation.name": "send",
        "operation.type": "send",
        "message.id": "1",
        "message.body.size": 5,
    }
    assert attributes(receive) == common | {
        "operation.name": "receive",
        "operation.type": "receive",
        "batch.message_count": 1,
    }
    assert attributes(ack) == common | {"operation.name": "ack", "operation.type": "settle", "message.id": "1"}


async def until_processed(exported: Exported, number: int) -> list[ReadableSpan]:
    await eventually(lambda: len(exported.all("process emails")) == number, f"{number} messages to be processed")
    return exported.all("process emails")


def assert_in_the_traces_of(sends: list[ReadableSpan], processes: list[ReadableSpan]) -> None:
    for send, process in zip(sends, processes, strict=True):
        assert process.kind is SpanKind.CONSUMER
        assert parent(process) == identity(send)
        assert linked(process) == [identity(send)]


async def test_a_handler_works_within_the_trace_of_the_producer_also_when_it_tries_again(
    exported: Exported, zapq_server: ZapqServer
) -> None:
    async def handle(lease: HeldLease) -> None:
        with exported.tracer.start_as_current_span("query"):
            assert baggage.get_baggage("tenant") == "acme"
        if lease.receive_count == 1:
            raise ValueError("not yet")

    async with open_client(zapq_server.url) as client, trio.open_nursery() as nursery:
        token = context.attach(baggage.set_baggage("tenant", "acme"))
        await client.put("emails", b"hello")
        context.detach(token)
        nursery.start_soon(client.consume_with, "emails", handle)
        first, again = await until_processed(exported, 2)
        await eventually(lambda: exported.names.count("settle emails") == 2, "both to be settled")
        nursery.cancel_scope.cancel()
    send = exported.one("send emails")
    assert_in_the_traces_of([send, send], [first, again])
    assert [parent(span) for span in exported.all("query")] == [identity(first), identity(again)]
    assert (first.status.status_code, first.status.description) == (StatusCode.ERROR, "not yet")
    assert attributes(first)["error.type"] == "ValueError"
    assert (again.status.status_code, attributes(again)["zapq.message.receive_count"]) == (StatusCode.UNSET, 2)


async def test_the_block_of_a_lease_is_its_span_and_only_one(exported: Exported, zapq_server: ZapqServer) -> None:
    async def handle(lease: HeldLease) -> None:
        async with lease:
            trace.get_current_span().set_attribute("within", "the block")

    async with open_client(zapq_server.url) as client:
        await client.put("emails", b"one")
        async with client.consume("emails") as leases:
            with pytest.raises(ArithmeticError):
                async with await anext(leases):
                    raise ArithmeticError
            async with await anext(leases) as lease:
                assert trace.get_current_span().is_recording()
        assert not trace.get_current_span().is_recording()
        await client.put("emails", b"two")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.consume_with, "emails", handle)
            failed, done, within = await until_processed(exported, 3)
            nursery.cancel_scope.cancel()
    one, two = exported.all("send emails")
    assert_in_the_traces_of([one, one, two], [failed, done, within])
    assert attributes(failed)["error.type"] == "ArithmeticError"
    assert attributes(within)["within"] == "the block"
    assert lease.receive_count == 2


async def test_threads_work_within_the_trace_of_the_producer(exported: Exported, zapq_server: ZapqServer) -> None:
    def handle(lease: zapq.client.sync.HeldLease) -> None:
        if lease.receive_count == 1:
            raise ValueError("not yet")
        with lease:
            trace.get_current_span().set_attribute("within", "the block")
        stop.set()

    def work() -> None:
        with zapq.client.sync.open_client(zapq_server.url) as client:
            with client.producer("emails") as producer, exported.tracer.start_as_current_span("request"):
                producer.send(b"one")
            client.consume_with("emails", handle, stop=stop)
            client.put("emails", b"two")
            with client.consume("emails") as leases, next(iter(leases)):
                assert trace.get_current_span().is_recording()

    stop = threading.Event()
    await trio.to_thread.run_sync(work)
    [request] = exported.all("request")
    batch, two = exported.all("send emails")
    assert linked(batch) == [identity(request)]
    assert_in_the_traces_of([request, request, two], exported.all("process emails"))
    assert [attributes(span).get("within") for span in exported.all("process emails")] == [None, "the block", None]


async def test_a_batch_is_one_span_whose_context_its_messages_carry(
    exported: Exported, zapq_server: ZapqServer
) -> None:
    theirs = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    drafts: list[bytes | Draft] = [
        b"one",
        Draft(body=b"two", headers={"a": "b"}),
        Draft(body=b"three", headers={"traceparent": theirs}),
    ]
    async with open_client(zapq_server.url) as client:
        await client.put_many("emails", drafts)
        messages = await client.dequeue_many("emails")
        await client.put("emails", b"four")
        assert await client.dequeue("emails")
    batch, _ = exported.all("send emails")
    assert attributes(batch)["batch.message_count"] == 3
    assert batch.context is not None
    ours = carrying({}, trace.set_span_in_context(trace.NonRecordingSpan(batch.context)))["traceparent"]
    assert [each.headers for each in messages] == [
        {"traceparent": ours},
        {"a": "b", "traceparent": ours},
        {"traceparent": theirs},
    ]
    many, one = exported.all("receive emails")
    assert len(linked(many)) == 2
    assert (attributes(many)["batch.message_count"], attributes(one)["batch.message_count"]) == (3, 1)
    assert linked(batch) == [(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)]


async def test_messages_of_a_producer_carry_the_context_of_the_task_that_sent_them(
    exported: Exported, zapq_server: ZapqServer
) -> None:
    async def request(name: str) -> None:
        with exported.tracer.start_as_current_span(name):
            await producer.send(name.encode(), headers={"name": name} if name == "second" else None)

    async with open_client(zapq_server.url) as client, client.producer("emails") as producer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request, "first")
            nursery.start_soon(request, "second")
        await producer.send(b"of no trace")
        leases = await client.receive_many("emails")
    spans = {name: identity(exported.one(name)) for name in ("first", "second")}
    carried = {lease.body.decode(): lease.headers.get("traceparent", "").split("-") for lease in leases}
    for name, (trace_id, span_id) in spans.items():
        assert carried[name][1:3] == [f"{trace_id:032x}", f"{span_id:016x}"]
    assert {*linked(exported.all("send emails")[0])} == {*spans.values()}


async def test_what_fails_has_a_span_that_says_so_and_what_brings_nothing_has_none(
    exported: Exported, zapq_server: ZapqServer
) -> None:
    async with open_client(zapq_server.url) as client:
        await client.put("emails", b"only")
        assert await client.dequeue("emails")
        before = len(exported.names)
        assert await client.receive("emails") is None
        assert await client.receive_many("emails") == []
        assert len(exported.names) == before
        with pytest.raises(InvalidParameter):
            await client.put("emails", b"hello", priority=10)
        with pytest.raises(InvalidParameter):
            await client.put_many("not a name", [b"hello"])
        with pytest.raises(QueueNotFound):
            await client.receive("nothing")
    refused, unsent = exported.all("send emails")[1], exported.one("send not a name")
    for span in (refused, unsent):
        assert (span.status.status_code, attributes(span)["error.type"]) == (StatusCode.ERROR, "invalid-parameter")
    assert attributes(exported.one("receive nothing"))["error.type"] == "queue-not-found"


async def test_each_way_to_settle_has_its_span(exported: Exported, zapq_server: ZapqServer) -> None:
    async with open_client(zapq_server.url) as client:
        await client.put("emails", b"hello")
        lease = await client.receive("emails")
        assert lease is not None
        await client.extend(lease)
        await client.release(lease)
        lease = await client.receive("emails")
        assert lease is not None
        await client.settle("emails", [Settlement(receipt=lease.receipt)])
        await client.describe("emails")
    names = ["send", "receive", "extend", "release", "receive", "settle"]
    assert exported.names == [f"{name} emails" for name in names]
    for name in ("extend", "release", "settle"):
        assert attributes(exported.one(f"{name} emails"))["operation.type"] == "settle"


def test_headers_carry_a_context_where_there_is_room(exported: Exported) -> None:
    with exported.tracer.start_as_current_span("request"):
        within = baggage.set_baggage("big", "x" * 8192)
        assert {*carrying({}, within)} == {"traceparent"}
        full = {f"h{number}": "" for number in range(16)}
        assert carrying(full, within) == full
        assert carrying({"Traceparent": "theirs"}, within) == {"Traceparent": "theirs"}


async def test_a_client_over_a_unix_socket_names_it(exported: Exported) -> None:
    async with open_client("unix:/nowhere", attempts=1) as client:
        with pytest.raises(Unreachable):
            await client.put("emails", b"hello")
    assert attributes(exported.one("send emails"))["server.address"] == "/nowhere"


async def test_a_client_of_a_program_that_does_not_trace_is_another_one(zapq_server: ZapqServer) -> None:
    async with open_client(zapq_server.url) as client:
        await client.put("emails", b"hello")
        assert (type(client._calls), type(client._talk)) == (Calls, Talk)
        message = await client.dequeue("emails")
    assert message is not None
    assert message.headers == {}


def test_a_client_imports_nothing_of_it_unless_the_program_does() -> None:
    code = """
import sys, zapq.client.sync
with zapq.client.sync.open_client("unix:/nowhere") as client: pass
print(*[name for name in sys.modules if name.startswith(("opentelemetry", "zapq.client.spans"))])
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "\n"


def printed(output: bytes) -> dict[str, Any]:
    """Return the spans that the console exporter has printed, by name."""
    text = output.decode().replace("b'hello'\n", "").replace("}\n{", "},{")
    return {span["name"]: span for span in json.loads(f"[{text}]")}


@pytest.mark.slow
@pytest.mark.once
async def test_the_programs_as_they_are_shown_make_one_trace(zapq_server: ZapqServer) -> None:
    spans: dict[str, Any] = {}
    for program in (PRODUCER, CONSUMER):
        command = [sys.executable, "-c", program.replace("http://127.0.0.1:8080", zapq_server.url)]
        spans |= printed((await trio.run_process(command, capture_stdout=True)).stdout)
    checkout, send, process = (spans[name] for name in ("checkout", "send emails", "process emails"))
    assert send["parent_id"] == checkout["context"]["span_id"]
    assert process["parent_id"] == send["context"]["span_id"]
    assert len({span["context"]["trace_id"] for span in (checkout, send, process)}) == 1
