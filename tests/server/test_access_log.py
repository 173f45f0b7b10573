"""The access log: one line a request on every road, and nothing in it that opens a door."""

from __future__ import annotations

import logging
import random
import re
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from tests.support.disk import Disk
from tests.support.serving import WAYS, by, serving
from tests.support.waiting import eventually
from tests.support.wire import ask, connection, open_client, vanish
from zapq import logs
from zapq.http import tracing
from zapq.http.access_log import AccessLog, told
from zapq.server.hot_log import _Noted
from zapq.service.open import open_service
from zapq.settings import Settings

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
MEMBERS = ("method", "path", "status", "bytes", "queue")


@pytest.fixture(params=WAYS)
def settings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    settings = Settings(addr="127.0.0.1:0", data_dir=str(tmp_path), grace=1.0, access_log=1.0)
    return by(request.param, settings, monkeypatch, tmp_path)[0]


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.__dict__["fields"] for record in caplog.records if record.name == "zapq.access"]


def shown(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line.get(name) for name in MEMBERS)


async def test_each_request_is_one_line(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(settings) as url, open_client(url) as client:
        sent = await client.request("POST", "/queues/jobs/messages?unique=secret", b"hello")
        taken = await client.request("POST", "/queues/jobs/receive", headers={"X-Trace-Id": "mine"})
        receipt = taken.headers["zapq-receipt"]
        await client.request("DELETE", f"/queues/jobs/receipts/{receipt}")
        await client.request("POST", "/enqueue", b"x")
        await client.request("GET", "/dequeue")
        refused = await client.request("GET", "/queues/none/messages")
        gone = await client.request("GET", "/nothing?token=secret")
        found = await client.request("GET", "/queues")
        await eventually(lambda: len(lines(caplog)) == 8, "all lines")
    noted = lines(caplog)
    assert list(map(shown, noted)) == [
        ("POST", "/queues/jobs/messages", 202, 0, "jobs"),
        ("POST", "/queues/jobs/receive", 200, 5, "jobs"),
        ("DELETE", "/queues/jobs/receipts/-", 204, 0, "jobs"),
        ("POST", "/enqueue", 202, 0, "default"),
        ("GET", "/dequeue", 200, 1, "default"),
        ("GET", "/queues/none/messages", 404, len(refused.body), "none"),
        ("GET", "/nothing", 404, len(gone.body), None),
        ("GET", "/queues", 200, len(found.body), None),
    ]
    assert [line["trace_id"] for line in noted[:2]] == [sent.headers["x-trace-id"], "mine"]
    assert all(0 < line["duration"] < 60 and line["peer"] == "127.0.0.1" for line in noted)
    assert receipt not in str(noted)
    assert "secret" not in str(noted)


async def test_requests_sent_at_once_are_a_line_each(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    head = b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\ncontent-length: 3\r\n\r\n\r\n\r"
    async with serving(settings) as url, connection(url) as stream:
        await stream.send_all(head * 3 + b"GET /dequeue HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await eventually(lambda: len(lines(caplog)) == 4, "all lines")
    assert [shown(line)[1:4] for line in lines(caplog)] == [("/enqueue", 202, 0)] * 3 + [("/dequeue", 200, 3)]


async def test_a_request_that_waits_is_logged_when_it_is_answered(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        open_service(settings) as service,
        serving(settings, service) as url,
        open_client(url) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(client.request, "GET", "/dequeue?wait=20")
        await eventually(lambda: service.stats().waiting == 1, "it to wait")
        assert lines(caplog) == []
        await service.enqueue(b"hello")
    [line] = lines(caplog)
    assert shown(line) == ("GET", "/dequeue", 200, 5, "default")


async def test_sqs_says_action_and_queue(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(settings) as url, open_client(url) as client:
        for action, asked in (
            ("CreateQueue", {"QueueName": "jobs"}),
            ("SendMessage", {"QueueUrl": "http://x/0/jobs", "MessageBody": "x"}),
            ("SendMessage", {"QueueUrl": "none", "MessageBody": "x"}),
            ("SendMessage", {"QueueUrl": "http://x/0/" + "a" * 50_000, "MessageBody": "x"}),
        ):
            headers = {"X-Amz-Target": f"AmazonSQS.{action}", "Content-Type": "application/x-amz-json-1.0"}
            await client.request("POST", "/", msgspec.json.encode(asked), headers | {"traceparent": PARENT})
        await eventually(lambda: len(lines(caplog)) == 4, "all lines")
    assert [(line["action"], line["status"], line.get("queue"), line["trace_id"]) for line in lines(caplog)] == [
        ("CreateQueue", 200, None, TRACE),
        ("SendMessage", 200, "jobs", TRACE),
        ("SendMessage", 400, "none", TRACE),
        ("SendMessage", 400, "a" * 200, TRACE),
    ]


@pytest.mark.parametrize("way", ["lobby", "long"])
async def test_what_the_disk_refuses_is_logged_as_it_was_answered(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(addr="127.0.0.1:0", data_dir=str(tmp_path), durable=True, access_log=1.0)
    async with serving(by(way, settings, monkeypatch, tmp_path)[0]) as url:
        assert (await ask(url, "POST", "/enqueue", b"x")).status == 202
        disk.failing = True
        assert (await ask(url, "POST", "/enqueue", b"x")).status == 503
        disk.failing = False
        await eventually(lambda: len(lines(caplog)) == 2, "both lines")
    assert [line["status"] for line in lines(caplog)] == [202, 503]


async def test_a_client_that_left_has_no_line(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    async with open_service(settings) as service, serving(settings, service) as url:
        async with connection(url) as stream:
            await stream.send_all(b"GET /dequeue?wait=20 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await eventually(lambda: service.stats().waiting == 1, "it to wait")
            vanish(stream)
        await eventually(lambda: service.stats().waiting == 0, "it to leave")
        await ask(url, "GET", "/health")
    assert "/health" in [line["path"] for line in lines(caplog)]


async def test_without_it_nothing_is_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Settings(addr="127.0.0.1:0", data_dir=str(tmp_path))) as url:
        await ask(url, "GET", "/health")
        await ask(url, "GET", "/nothing")
    assert lines(caplog) == []


@pytest.mark.parametrize("share", [0.01, 0.3, 0.999])
def test_a_share_of_requests_is_chosen(share: float) -> None:
    log, total, chosen = AccessLog(share, random.Random(7).random), 0, 0
    for number in range(20_000):
        count = number % 5 + 1
        which = log.choose(count)
        assert list(which) == sorted(set(which))
        assert all(0 <= each < count for each in which)
        total, chosen = total + count, chosen + len(which)
    assert chosen / total == pytest.approx(share, rel=0.1)


def test_only_the_chosen_of_many_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    data = b"".join(b"GET /queues/q%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(4))
    answers = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Trace-Id: t\r\n\r\n{}" * 4
    _Noted(AccessLog(1), 0.0, data, [1, 3], {}).log(answers)
    assert [shown(line) for line in lines(caplog)] == [
        ("GET", "/queues/q1", 200, 2, "q1"),
        ("GET", "/queues/q3", 200, 2, "q3"),
    ]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/queues/jobs", ("/queues/jobs", "jobs")),
        ("/queues/a/receipts/1-2-3/extend?visibility=5", ("/queues/a/receipts/-/extend", "a")),
        ("/queues/%61/%72eceipts%2F1-2-3/extend", ("/queues/a/receipts/-/extend", "a")),
        ("/queues/a%20b%3Fc%0a", ("/queues/a%20b%3Fc%0A", "a%20b%3Fc%0A")),
        (r"/queues/\xc3%5c%", (r"/queues/\xc3\%25", r"\xc3\%25")),
        ("/dequeue?wait=5", ("/dequeue", "default")),
        ("/metrics?queue=a", ("/metrics", "")),
        ("/queues", ("/queues", "")),
        ("/" + "x" * 500, ("/" + "x" * 199, "")),
    ],
)
def test_a_path_is_shown_without_secrets(path: str, expected: tuple[str, str]) -> None:
    assert told(path) == expected


def test_a_line_is_json_whatever_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    root, ours = logging.getLogger(), logging.getLogger("zapq")
    before, level = root.handlers[:], ours.level
    try:
        logs.configure(Settings(log_level="error"), sys.stdout)
        AccessLog(1).note("t", "GET", "/health", 200, 2, 0.0012345678, {"peer": "unix"})
    finally:
        root.handlers[:] = before
        ours.setLevel(level)
    line = msgspec.json.decode(capsys.readouterr().out)
    assert re.fullmatch(r"20\d\d-.*Z", line.pop("time"))
    assert line == {
        "level": "INFO",
        "msg": "request",
        "trace_id": "t",
        "method": "GET",
        "path": "/health",
        "status": 200,
        "bytes": 2,
        "duration": 0.001235,
        "peer": "unix",
    }


class TestTraceIds:
    """A client that has no trace id of ours, but a trace, finds its answer and its lines by that."""

    async def test_the_trace_is_taken_where_there_is_no_trace_id(self, settings: Settings) -> None:
        async with serving(settings) as url, open_client(url) as client:
            for target in ("/health", "/nothing", "/queues/none"):
                answer = await client.request("GET", target, headers={"traceparent": PARENT})
                assert answer.headers["x-trace-id"] == TRACE
            both = {"Traceparent": PARENT, "X-Trace-Id": "mine"}
            assert (await client.request("GET", "/health", headers=both)).headers["x-trace-id"] == "mine"
            bad = {"traceparent": "00-1-2-01", "X-Trace-Id": "two words"}
            assert re.fullmatch(
                r"\d+-[0-9a-f]{6}", (await client.request("GET", "/health", headers=bad)).headers["x-trace-id"]
            )

    @pytest.mark.parametrize(
        ("parent", "trace"),
        [
            (PARENT, TRACE),
            (f"cc-{TRACE}-b7ad6b7169203331-01-what-comes-later", TRACE),
            (f"{PARENT}-more", ""),
            (f"ff-{TRACE}-b7ad6b7169203331-01", ""),
            (f"00-{'0' * 32}-b7ad6b7169203331-01", ""),
            (f"00-{TRACE}-{'0' * 16}-01", ""),
            (PARENT.upper(), ""),
            (PARENT[:-1], ""),
            ("", ""),
        ],
    )
    def test_what_is_no_trace_is_none(self, parent: str, trace: str) -> None:
        assert tracing.trace_of(parent.encode()).decode() == trace
