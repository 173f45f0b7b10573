"""The contract of the drop-in endpoints, one row each, over a real socket."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

import msgspec
import pytest
import trio

import zapq
from tests.support.serving import until_waiting
from tests.support.wire import Answer, ask, open_client
from zapq.settings import Settings
from zapq.testing import ZapqServer

OURS = re.compile(r"\d+-[0-9a-f]{6}")


@dataclass(frozen=True)
class Row:
    """One request, what it must get, and how many messages are left of the two that were there."""

    request: str
    status: int
    left: int = 2
    body: bytes = b""
    answer: bytes | None = None
    problem: str = ""
    headers: dict[str, str] = field(default_factory=dict)


ROWS = [
    Row("POST /enqueue", 202, left=3, answer=b"", headers={"zapq-message-id": "3", "content-length": "0"}),
    Row("POST /enqueue", 202, left=3, body=b"x" * 131072, answer=b""),
    Row("POST /enqueue", 413, body=b"x" * 131073, problem="message-too-large", headers={"connection": "close"}),
    Row("POST /enqueue?delay=3", 400, problem="invalid-parameter"),
    Row("GET /enqueue", 405, problem="method-not-allowed", headers={"allow": "OPTIONS, POST"}),
    Row("PUT /enqueue", 405, body=b"x", problem="method-not-allowed"),
    Row(
        "GET /dequeue",
        200,
        left=1,
        answer=b"first",
        headers={
            "content-type": "application/octet-stream",
            "x-content-type-options": "nosniff",
            "zapq-message-id": "1",
            "cache-control": "no-store",
        },
    ),
    Row("POST /dequeue", 200, left=1, answer=b"first"),
    Row("POST /dequeue", 200, left=1, body=b"a body without meaning", answer=b"first"),
    Row("GET /dequeue?wait=20", 200, left=1, answer=b"first"),
    Row("GET /dequeue?wait=60.5", 400, problem="invalid-parameter"),
    Row("GET /dequeue?wait=-1", 400, problem="invalid-parameter"),
    Row("GET /dequeue?wait=nan", 400, problem="invalid-parameter"),
    Row("GET /dequeue?wait=1&wait=2", 400, problem="invalid-parameter"),
    Row("GET /dequeue?waits=1", 400, problem="invalid-parameter"),
    Row("HEAD /dequeue", 405, headers={"allow": "GET, OPTIONS, POST"}),
    Row("OPTIONS /dequeue", 200, answer=b""),
    Row("DELETE /dequeue", 405, problem="method-not-allowed"),
    Row("POST /clear", 200, left=0, answer=b""),
    Row("POST /clear", 200, left=0, body=b"a body without meaning", answer=b""),
    Row("POST /persist?file=a.json", 200, body=b"a body without meaning", answer=b""),
    Row("GET /clear", 405, problem="method-not-allowed"),
    Row("HEAD /clear", 405),
    Row("OPTIONS /clear", 200),
    Row("POST /persist?file=a.json", 200, answer=b""),
    Row("POST /persist", 400, problem="invalid-parameter"),
    Row("POST /persist?file=", 400, problem="invalid-parameter"),
    Row("POST /persist?file=../a.json", 400, problem="invalid-parameter"),
    Row("POST /persist?file=%2fetc%2fa.json", 400, problem="invalid-parameter"),
    Row("POST /persist?file=a%00.json", 400, problem="invalid-parameter"),
    Row("POST /persist?file=%EF%BC%8Ea.json", 400, problem="invalid-parameter"),
    Row("POST /persist?file=a.txt", 400, problem="invalid-parameter"),
    Row("POST /load?file=missing.json", 404, problem="snapshot-not-found"),
    Row("POST /load?file=missing.msgpack", 404, problem="snapshot-not-found"),
    Row("POST /load", 400, problem="invalid-parameter"),
    Row("GET /load?file=a.json", 405, problem="method-not-allowed"),
    Row("GET /metrics", 200, headers={"content-type": "application/json"}),
    Row("POST /metrics", 405, problem="method-not-allowed"),
    Row("GET /health", 200, answer=b"ok"),
    Row("HEAD /health", 200, answer=b""),
    Row("GET /", 404, problem="not-found"),
    Row("GET /nothing", 404, problem="not-found"),
    Row("GET /problems/queue-full", 200),
    Row("GET /problems/nothing", 404, problem="problem-not-found"),
    Row("POST /problems", 405, problem="method-not-allowed", headers={"allow": "GET, HEAD, OPTIONS"}),
    Row("POST /enqueue/", 404, problem="not-found"),
    Row("GET //metrics", 404, problem="not-found"),
    Row("GET /static/x", 404, problem="not-found"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.request[:40]}-{len(row.body)}")
async def test_every_row_of_the_contract_holds(zapq_server: ZapqServer, row: Row) -> None:
    for body in (b"first", b"second"):
        await zapq_server.service.enqueue(body)
    method, target = row.request.split()
    answer = await ask(zapq_server.url, method, target, row.body)
    assert answer.status == row.status
    assert {name: answer.headers.get(name) for name in row.headers} == row.headers
    assert OURS.fullmatch(answer.headers["x-trace-id"])
    assert "date" in answer.headers
    if row.answer is not None:
        assert answer.body == row.answer
    if row.problem:
        assert_problem(answer, row.problem)
    assert zapq_server.service.stats().queue.messages == row.left


@pytest.mark.parametrize(
    ("request_", "detail"),
    [
        ("GET /queues/emails/receive", "This endpoint does not take GET. Use POST."),
        ("POST /metrics", "This endpoint does not take POST. Use GET."),
        ("DELETE /dequeue", "This endpoint does not take DELETE. Use GET or POST."),
        ("POST /queues/emails", "This endpoint does not take POST. Use DELETE, GET, PATCH or PUT."),
        (f"{'X' * 999} /clear", f"This endpoint does not take {'X' * 20}. Use POST."),
    ],
)
async def test_a_wrong_method_is_told_the_right_one(zapq_server: ZapqServer, request_: str, detail: str) -> None:
    method, target = request_.split()
    answer = await ask(zapq_server.url, method, target)
    assert (answer.status, answer.json["detail"]) == (405, detail)


def assert_problem(answer: Answer, name: str) -> None:
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json
    assert problem["type"] == f"/problems/{name}"
    assert problem["status"] == answer.status
    assert problem["instance"] == answer.headers["x-trace-id"]
    assert problem["title"]
    assert problem["detail"]


async def test_an_empty_queue_answers_204_without_a_body_or_a_length(zapq_server: ZapqServer) -> None:
    answer = await ask(zapq_server.url, "GET", "/dequeue")
    assert (answer.status, answer.body) == (204, b"")
    assert "content-length" not in answer.headers
    assert "content-type" not in answer.headers


async def test_an_empty_message_is_a_message(zapq_server: ZapqServer) -> None:
    assert (await ask(zapq_server.url, "POST", "/enqueue")).status == 202
    answer = await ask(zapq_server.url, "GET", "/dequeue")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")


async def test_a_body_in_chunks_is_a_message_and_one_over_the_limit_is_refused(zapq_server: ZapqServer) -> None:
    chunked = {"Transfer-Encoding": "chunked"}
    assert (await ask(zapq_server.url, "POST", "/enqueue", b"piece by piece", chunked)).status == 202
    assert (await ask(zapq_server.url, "POST", "/enqueue", b"x" * 131073, chunked)).status == 413
    assert (await ask(zapq_server.url, "GET", "/dequeue")).body == b"piece by piece"
    assert (await ask(zapq_server.url, "GET", "/dequeue")).status == 204


class TestWithSmallCaps:
    @pytest.fixture
    def zapq_settings(self, zapq_settings: Settings) -> Settings:
        return replace(zapq_settings, max_msgs=2, max_bytes=10, max_waiters=0)

    async def test_a_full_queue_says_which_cap_and_when_to_come_back(self, zapq_server: ZapqServer) -> None:
        for _ in range(2):
            assert (await ask(zapq_server.url, "POST", "/enqueue", b"ab")).status == 202
        answer = await ask(zapq_server.url, "POST", "/enqueue", b"ab")
        assert answer.status == 429
        assert answer.headers["retry-after"] == "1"  # nothing is known of consumers
        assert_problem(answer, "queue-full")
        assert {"limit": "max_msgs", "current": 2, "max_messages": 2}.items() <= answer.json.items()

    async def test_the_byte_cap_counts_bytes_not_messages(self, zapq_server: ZapqServer) -> None:
        assert (await ask(zapq_server.url, "POST", "/enqueue", b"123456789")).status == 202
        answer = await ask(zapq_server.url, "POST", "/enqueue", b"12")
        assert answer.status == 429
        assert {"limit": "max_bytes", "current": 9, "max_bytes": 10}.items() <= answer.json.items()
        assert (await ask(zapq_server.url, "POST", "/enqueue", b"1")).status == 202

    async def test_a_long_poll_over_the_cap_is_429(self, zapq_server: ZapqServer) -> None:
        answer = await ask(zapq_server.url, "GET", "/dequeue?wait=1")
        assert answer.status == 429
        assert_problem(answer, "too-many-waiters")


@pytest.mark.parametrize("sent", ["mine", "x" * 128, "!~"])
async def test_a_trace_id_of_the_client_is_kept(zapq_server: ZapqServer, sent: str) -> None:
    for target in ("/health", "/nothing"):
        answer = await ask(zapq_server.url, "GET", target, headers={"X-Trace-Id": sent})
        assert answer.headers["x-trace-id"] == sent


@pytest.mark.parametrize("sent", ["", "x" * 129, "two words", "caf\xe9"])
async def test_a_trace_id_that_is_none_is_replaced(zapq_server: ZapqServer, sent: str) -> None:
    answer = await ask(zapq_server.url, "GET", "/health", headers={"X-Trace-Id": sent})
    assert OURS.fullmatch(answer.headers["x-trace-id"])


async def test_metrics_tell_what_happened_under_the_names_of_the_original(zapq_server: ZapqServer) -> None:
    for _ in range(3):
        await ask(zapq_server.url, "POST", "/enqueue", b"12345")
    for _ in range(4):
        await ask(zapq_server.url, "GET", "/dequeue")
    await ask(zapq_server.url, "POST", "/enqueue", b"12345")
    metrics = (await ask(zapq_server.url, "GET", "/metrics")).json
    counts = ("enqueues", "dequeues_ok", "dequeues_empty", "queue_length", "queue_bytes")
    assert [metrics[name] for name in counts] == [4, 3, 1, 1, 5]
    assert metrics["uptime_sec"] >= 0
    assert 0 < metrics["open_fds"] < metrics["max_fds"]
    assert metrics["goroutines"] > 1


async def test_a_long_poll_gets_the_message_that_comes_and_204_when_none_does(zapq_server: ZapqServer) -> None:
    answers: list[Answer] = []

    async def poll(target: str) -> None:
        answers.append(await ask(zapq_server.url, "GET", target))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll, "/dequeue?wait=20")
        await until_waiting(zapq_server.service)
        assert (await ask(zapq_server.url, "POST", "/enqueue", b"late")).status == 202
    assert [answer.body for answer in answers] == [b"late"]
    await poll("/dequeue?wait=0.01")
    assert answers[-1].status == 204


async def test_a_snapshot_in_the_format_of_the_original_loads_and_comes_back_identical(
    zapq_server: ZapqServer, zapq_settings: Settings
) -> None:
    bodies = [b"hello", b"", bytes(range(256)), "ünï".encode()]
    written = msgspec.json.encode(bodies)
    path = f"{zapq_settings.data_dir}/go.json"
    with open(path, "wb") as file:
        file.write(written)
    assert (await ask(zapq_server.url, "POST", "/load?file=go.json")).status == 200
    assert (await ask(zapq_server.url, "POST", "/persist?file=back.json")).status == 200
    with open(f"{zapq_settings.data_dir}/back.json", "rb") as file:
        assert file.read() == written
    assert [(await ask(zapq_server.url, "GET", "/dequeue")).body for _ in bodies] == bodies


async def test_a_corrupt_snapshot_changes_nothing(zapq_server: ZapqServer, zapq_settings: Settings) -> None:
    await zapq_server.service.enqueue(b"kept")
    with open(f"{zapq_settings.data_dir}/bad.json", "wb") as file:
        file.write(b'["aGVsbG8=", "###"]')
    answer = await ask(zapq_server.url, "POST", "/load?file=bad.json")
    assert answer.status == 500
    assert_problem(answer, "snapshot-failed")
    assert (await ask(zapq_server.url, "GET", "/dequeue")).body == b"kept"


async def test_while_draining_what_is_held_is_given_and_nothing_is_taken(zapq_server: ZapqServer) -> None:
    await zapq_server.service.enqueue(b"held")
    zapq_server.service.drain()
    refused = await ask(zapq_server.url, "POST", "/enqueue", b"new")
    assert refused.status == 503
    assert_problem(refused, "draining")
    assert (await ask(zapq_server.url, "GET", "/dequeue")).body == b"held"
    assert (await ask(zapq_server.url, "GET", "/dequeue")).status == 503
    assert (await ask(zapq_server.url, "GET", "/health")).status == 200


async def test_requests_follow_each_other_on_one_connection(zapq_server: ZapqServer) -> None:
    async with open_client(zapq_server.url) as client:
        for n in range(5):
            assert (await client.request("POST", "/enqueue", b"%d" % n)).status == 202
        for n in range(5):
            assert (await client.request("GET", "/dequeue")).body == b"%d" % n
        assert (await client.request("GET", "/nothing")).status == 404
        assert (await client.request("GET", "/health")).status == 200


class TestFromElsewhere:
    """The peer is this machine's own address on no loopback interface: the nearest thing to a stranger."""

    @pytest.fixture
    def stranger(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("zapq.http.wire.is_local", lambda client: False)

    @pytest.mark.usefixtures("stranger")
    @pytest.mark.parametrize("target", ["/clear", "/persist?file=a.json", "/load?file=a.json"])
    async def test_admin_is_refused_with_the_remedy(self, zapq_server: ZapqServer, target: str) -> None:
        await zapq_server.service.enqueue(b"kept")
        answer = await ask(zapq_server.url, "POST", target, headers={"X-Forwarded-For": "127.0.0.1"})
        assert answer.status == 403
        assert_problem(answer, "admin-loopback-only")
        for remedy in ("a loopback address such as 127.0.0.1", "--token-file", "--admin-from any"):
            assert remedy in answer.json["detail"]
        assert zapq_server.service.stats().queue.messages == 1

    @pytest.mark.usefixtures("stranger")
    async def test_the_queue_itself_is_open(self, zapq_server: ZapqServer) -> None:
        assert (await ask(zapq_server.url, "POST", "/enqueue", b"x")).status == 202
        assert (await ask(zapq_server.url, "GET", "/dequeue")).status == 200

    @pytest.mark.usefixtures("stranger")
    async def test_admin_from_any_lets_it_in(self, zapq_settings: Settings, nursery: trio.Nursery) -> None:
        settings = replace(zapq_settings, admin_from="any")
        [url] = await nursery.start(zapq.serve, settings)
        assert (await ask(url, "POST", "/clear")).status == 200
