"""What bad input to the queue endpoints gets: a refusal that names it, and no change."""

from __future__ import annotations

from dataclasses import replace

import h11
import msgspec
import pytest

from tests.http.asking import FORM, JSON, MSGPACK, NDJSON, QUEUE
from tests.http.test_contract import assert_problem
from tests.support.wire import ask, open_client
from zapq.core.stats import STATES
from zapq.settings import Settings
from zapq.testing import ZapqServer


@pytest.mark.parametrize("path", ["messages/batch", "settle"])
async def test_a_batch_that_is_too_long_is_refused_before_it_is_sent(zapq_server: ZapqServer, path: str) -> None:
    async with open_client(zapq_server.url) as client:
        head = f"POST {QUEUE}/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.connection.send(
            h11.Request(method="POST", target="/", headers=[("Host", "localhost"), ("Content-Length", "1")])
        )
        await client.stream.send_all(f"{head}Content-Length: {8 * 2**20 + 1}\r\n\r\n".encode())
        answer = await client.answer("POST")
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert_problem(answer, "batch-too-large")


ROUTES = [
    f"{QUEUE}/messages",
    f"{QUEUE}/messages/batch",
    f"{QUEUE}/messages/1",
    f"{QUEUE}/receive",
    f"{QUEUE}/receive/batch",
    f"{QUEUE}/receipts/0-0-0",
    f"{QUEUE}/receipts/0-0-0/release",
    f"{QUEUE}/receipts/0-0-0/extend",
    f"{QUEUE}/settle",
    f"{QUEUE}/purge",
    f"{QUEUE}/pause",
    f"{QUEUE}/resume",
    f"{QUEUE}/redrive",
    QUEUE,
    "/queues",
    "/drain",
    "/readyz",
    "/snapshots",
    "/persist?file=a.msgpack",
    "/load?file=a.msgpack",
]


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "COPY", "TRACE"])
async def test_a_method_that_is_none_of_ours_changes_nothing(
    zapq_server: ZapqServer, path: str, method: str
) -> None:
    queue = zapq_server.service.queue("emails")
    await queue.enqueue_many([b"a", b"b"])
    await queue.receive()
    before = (zapq_server.service.stats(), queue.info())
    answer = await ask(zapq_server.url, method, path)
    assert answer.status in {200, 404, 405}
    assert (zapq_server.service.stats(), queue.info()) == before


BAD = [
    # Parameters: unknown, repeated, malformed, out of range
    ("POST", f"{QUEUE}/messages?delays=1", {}, b"x", 400, "delays"),
    ("POST", f"{QUEUE}/messages?delay=1&delay=2", {}, b"x", 400, "delay"),
    ("POST", f"{QUEUE}/messages?delay=-1", {}, b"x", 400, "delay"),
    ("POST", f"{QUEUE}/messages?delay=nan", {}, b"x", 400, "delay"),
    ("POST", f"{QUEUE}/messages?delay=1e3", {}, b"x", 400, "delay"),
    ("POST", f"{QUEUE}/messages?delay=31536001", {}, b"x", 400, "delay"),
    ("POST", f"{QUEUE}/messages?ttl=0", {}, b"x", 400, "ttl"),
    ("POST", f"{QUEUE}/messages?ttl=", {}, b"x", 400, "ttl"),
    ("POST", f"{QUEUE}/messages?ttl=31536001", {}, b"x", 400, "ttl"),
    ("POST", f"{QUEUE}/messages?priority=10", {}, b"x", 400, "priority"),
    ("POST", f"{QUEUE}/messages?priority=-1", {}, b"x", 400, "priority"),
    ("POST", f"{QUEUE}/messages?priority=1.5", {}, b"x", 400, "priority"),
    ("POST", f"{QUEUE}/messages?priority=%D9%A3", {}, b"x", 400, "priority"),
    ("POST", f"{QUEUE}/messages", {"Idempotency-Key": ""}, b"x", 400, "Idempotency-Key"),
    ("POST", f"{QUEUE}/messages", {"Idempotency-Key": "two words"}, b"x", 400, "Idempotency-Key"),
    ("POST", f"{QUEUE}/messages", {"Idempotency-Key": "x" * 256}, b"x", 400, "Idempotency-Key"),
    ("POST", f"{QUEUE}/messages?durability=disk", {}, b"x", 400, "durability"),
    ("POST", f"{QUEUE}/messages?durability=committed", {}, b"x", 400, "durability"),
    ("POST", f"{QUEUE}/messages", {}, b"x" * 131_073, 413, None),
    ("POST", "/queues/~x/messages", {}, b"x", 400, "queue"),
    ("POST", f"/queues/{'x' * 81}/messages", {}, b"x", 400, "queue"),
    ("POST", "/queues/%C3%A4/messages", {}, b"x", 400, "queue"),
    ("POST", "/queues/a%0Ab/messages", {}, b"x", 400, "queue"),
    ("POST", f"{QUEUE}/receive?wait=61", {}, b"", 400, "wait"),
    ("POST", f"{QUEUE}/receive?wait=soon", {}, b"", 400, "wait"),
    ("POST", f"{QUEUE}/receive?visibility=43201", {}, b"", 400, "visibility"),
    ("POST", f"{QUEUE}/receive?visibility=-1", {}, b"", 400, "visibility"),
    ("POST", f"{QUEUE}/receive?ack=manual", {}, b"", 400, "ack"),
    ("POST", f"{QUEUE}/receive?max=5", {}, b"", 400, "max"),
    ("POST", f"{QUEUE}/receive?visiblity=5", {}, b"", 400, "visiblity"),
    ("POST", f"{QUEUE}/receive?visibility=5&visibility=5", {}, b"", 400, "visibility"),
    ("POST", f"{QUEUE}/receive/batch?max=0", {}, b"", 400, "max"),
    ("POST", f"{QUEUE}/receive/batch?max=1001", {}, b"", 400, "max"),
    ("POST", f"{QUEUE}/receive/batch?max=x", {}, b"", 400, "max"),
    ("POST", f"{QUEUE}/receive/batch?limit=5", {}, b"", 400, "limit"),
    ("POST", f"{QUEUE}/receive/batch?wait=61", {}, b"", 400, "wait"),
    ("POST", f"{QUEUE}/receive/batch?visibility=43201", {}, b"", 400, "visibility"),
    ("POST", f"{QUEUE}/receive/batch?ack=none", {}, b"", 400, "ack"),
    ("POST", f"{QUEUE}/receive/batch", {"Accept": "text/html"}, b"", 406, "Accept"),
    ("GET", f"{QUEUE}/messages?state=gone", {}, b"", 400, "state"),
    ("GET", f"{QUEUE}/messages?limit=0", {}, b"", 400, "limit"),
    ("GET", f"{QUEUE}/messages?limit=1001", {}, b"", 400, "limit"),
    ("GET", f"{QUEUE}/messages?states=ready", {}, b"", 400, "states"),
    ("GET", f"{QUEUE}/messages/1?x=1", {}, b"", 400, "x"),
    ("GET", "/queues?x=1", {}, b"", 400, "x"),
    ("GET", f"{QUEUE}?x=1", {}, b"", 400, "x"),
    ("DELETE", f"{QUEUE}?x=1", {}, b"", 400, "x"),
    ("POST", f"{QUEUE}/redrive?limit=0", {}, b"", 400, "limit"),
    ("POST", f"{QUEUE}/redrive?limit=1001", {}, b"", 400, "limit"),
    ("POST", f"{QUEUE}/redrive?max=1", {}, b"", 400, "max"),
    ("POST", f"{QUEUE}/purge?sure=1", {}, b"", 400, "sure"),
    ("POST", f"{QUEUE}/pause?x=1", {}, b"", 400, "x"),
    ("POST", f"{QUEUE}/resume?x=1", {}, b"", 400, "x"),
    ("POST", "/drain?x=1", {}, b"", 400, "x"),
    # Snapshots
    ("GET", "/snapshots?x=1", {}, b"", 400, "x"),
    ("GET", "/snapshots?file=a.msgpack", {}, b"", 400, "file"),
    ("POST", "/snapshots", {}, b"", 405, None),
    ("POST", "/persist?file=a.msgpack&file=b.msgpack", {}, b"", 400, "file"),
    ("POST", "/persist?file=.a.msgpack", {}, b"", 400, "file"),
    ("POST", "/persist?file=a.msgpack.tmp", {}, b"", 400, "file"),
    ("POST", "/persist?file=..%2Fa.msgpack", {}, b"", 400, "file"),
    ("POST", "/load?file=a.MSGPACK", {}, b"", 400, "file"),
    ("POST", "/load?file=a.msgpack&all=1", {}, b"", 400, "all"),
    # Batches
    ("POST", f"{QUEUE}/messages/batch", {"Content-Type": "text/plain"}, b"x", 415, "Content-Type"),
    ("POST", f"{QUEUE}/messages/batch", {}, b"x", 415, "Content-Type"),
    (
        "POST",
        f"{QUEUE}/messages/batch",
        MSGPACK | {"Idempotency-Key": "two words"},
        msgspec.msgpack.encode([b"a"]),
        400,
        "Idempotency-Key",
    ),
    ("POST", f"{QUEUE}/messages/batch", MSGPACK, b"", 400, "body"),
    ("POST", f"{QUEUE}/messages/batch", MSGPACK, b"\x92\xc4\x01a\xc4\x05b", 400, "body"),
    ("POST", f"{QUEUE}/messages/batch", MSGPACK, msgspec.msgpack.encode([b"a"]) + b"\x00", 400, "body"),
    ("POST", f"{QUEUE}/messages/batch", MSGPACK, msgspec.msgpack.encode([]), 400, "body"),
    ("POST", f"{QUEUE}/messages/batch", MSGPACK, msgspec.msgpack.encode({"a": 1}), 400, "body"),
    ("POST", f"{QUEUE}/messages/batch", MSGPACK, msgspec.msgpack.encode([b"a", "text"]), 400, "body"),
    ("POST", f"{QUEUE}/messages/batch", MSGPACK, msgspec.msgpack.encode([b"a", 5]), 400, "body"),
    ("POST", f"{QUEUE}/messages/batch", MSGPACK, msgspec.msgpack.encode([b"a", {"bdy": b"b"}]), 400, "body"),
    ("POST", f"{QUEUE}/messages/batch", MSGPACK, msgspec.msgpack.encode([{"body": b"", "x": 1}]), 400, "body"),
    (
        "POST",
        f"{QUEUE}/messages/batch",
        MSGPACK,
        msgspec.msgpack.encode([{"body": b"", "priority": 10}]),
        400,
        "body",
    ),
    (
        "POST",
        f"{QUEUE}/messages/batch",
        MSGPACK,
        msgspec.msgpack.encode([{"body": b"", "delay": -1}]),
        400,
        "body",
    ),
    ("POST", f"{QUEUE}/messages/batch", MSGPACK, msgspec.msgpack.encode([{"body": b"", "ttl": 0}]), 400, "body"),
    (
        "POST",
        f"{QUEUE}/messages/batch",
        MSGPACK,
        msgspec.msgpack.encode([{"body": b"", "content_type": "a\nb"}]),
        400,
        "body",
    ),
    ("POST", f"{QUEUE}/messages/batch", MSGPACK, msgspec.msgpack.encode([b""] * 1001), 400, "body"),
    ("POST", f"{QUEUE}/messages/batch", MSGPACK, msgspec.msgpack.encode([b"a", bytes(131_073)]), 413, None),
    ("POST", f"{QUEUE}/messages/batch", JSON, b'["aGk=", "###"]', 400, "body"),
    ("POST", f"{QUEUE}/messages/batch", JSON, b'["aGk="', 400, "body"),
    ("POST", f"{QUEUE}/messages/batch", JSON, b'{"body": "aGk="}', 400, "body"),
    ("POST", f"{QUEUE}/messages/batch", JSON, msgspec.json.encode([b""] * 1001), 400, "body"),
    ("POST", f"{QUEUE}/messages/batch", JSON, msgspec.json.encode([b"a", bytes(131_073)]), 413, None),
    ("POST", f"{QUEUE}/messages/batch", NDJSON, b'1\n"%b"\n' % (b"x" * 131_072), 413, None),
    ("POST", f"{QUEUE}/messages/batch?durability=disk", JSON, b'["aGk="]', 400, "durability"),
    ("POST", f"{QUEUE}/messages/batch", NDJSON, b"{}\n{", 400, "body"),
    ("POST", f"{QUEUE}/messages/batch", NDJSON, b"\n\n", 400, "body"),
    ("POST", f"{QUEUE}/messages/batch", NDJSON, b"1\n" * 1001, 400, "body"),
    # Text that is not UTF-8, and what is nested deeper than anybody needs
    ("POST", f"{QUEUE}/messages/batch", JSON, b'[{"b\xffdy": "aGk="}]', 400, "body"),
    ("POST", f"{QUEUE}/messages/batch", MSGPACK, b"\x91\x81\xa4b\xffdy\xc4\x01a", 400, "body"),
    ("POST", f"{QUEUE}/messages/batch", NDJSON, b"[" * 60_000 + b"]" * 60_000, 400, "body"),
    ("POST", f"{QUEUE}/settle", JSON, b'[{"rec\xffipt": "x"}]', 400, "body"),
    ("POST", f"{QUEUE}/settle", MSGPACK, b"\x91\x81\xa7receipt\xa1\xff", 400, "body"),
    ("PUT", QUEUE, {}, b'{"dead_letter": "\xff"}', 400, "body"),
    ("POST", f"{QUEUE}/messages/batch?x=1", MSGPACK, msgspec.msgpack.encode([b"a"]), 400, "x"),
    ("POST", "/queues/~/messages/batch", MSGPACK, msgspec.msgpack.encode([b"a"]), 400, "queue"),
    ("POST", f"{QUEUE}/settle", JSON, b"[]", 400, "body"),
    ("POST", f"{QUEUE}/settle", JSON, b'[{"receipt": "x", "action": "burn"}]', 400, "body"),
    ("POST", f"{QUEUE}/settle", JSON, b'[{"receipt": "x", "delay": -1}]', 400, "body"),
    ("POST", f"{QUEUE}/settle", JSON, b'[{"action": "ack"}]', 400, "body"),
    ("POST", f"{QUEUE}/settle", JSON, msgspec.json.encode([{"receipt": "x"}] * 1001), 400, "body"),
    ("POST", f"{QUEUE}/settle", JSON, b'[{"receipt": "x", "action": "extend", "visibility": 43201}]', 400, "body"),
    ("POST", f"{QUEUE}/settle", JSON, b'[{"receipt": "x", "dely": 1}]', 400, "body"),
    ("POST", f"{QUEUE}/settle", MSGPACK, msgspec.msgpack.encode([{"receipt": "x"}])[:-1], 400, "body"),
    ("POST", f"{QUEUE}/settle", {}, b'[{"receipt": "x"}]', 415, "Content-Type"),
    ("POST", f"{QUEUE}/settle?x=1", JSON, b'[{"receipt": "x"}]', 400, "x"),
    # Settings
    ("PUT", QUEUE, {}, b"", 400, "body"),
    ("PUT", QUEUE, {}, b"{", 400, "body"),
    ("PUT", QUEUE, {}, b"[]", 400, "body"),
    ("PUT", QUEUE, {}, b'{"visibilty": 5}', 400, "body"),
    ("PUT", QUEUE, {}, b'{"visibility": -1}', 400, "body"),
    ("PUT", QUEUE, {}, b'{"visibility": 43201}', 400, "body"),
    ("PUT", QUEUE, {}, b'{"max_messages": 0}', 400, "body"),
    ("PUT", QUEUE, {}, b'{"max_messages": "5"}', 400, "body"),
    ("PUT", QUEUE, {}, b'{"ttl": 0}', 400, "body"),
    ("PUT", QUEUE, {}, b'{"ttl": 31536001}', 400, "body"),
    ("PUT", QUEUE, {}, b'{"max_bytes": 0}', 400, "body"),
    ("PUT", QUEUE, {}, b'{"max_receives": 0, "dead_letter": "dead"}', 400, "body"),
    ("PUT", QUEUE, {}, b'{"max_receives": 1000001, "dead_letter": "dead"}', 400, "body"),
    ("PUT", QUEUE, {}, b'{"max_receives": 3}', 400, "dead_letter"),
    ("PUT", QUEUE, {}, b'{"rate": 0}', 400, "body"),
    ("PUT", QUEUE, {}, b'{"rate": 1000001}', 400, "body"),
    ("PUT", QUEUE, {}, b'{"rate": "10/s"}', 400, "body"),
    ("PUT", QUEUE, {}, b'{"rate": 1, "burst": 0}', 400, "body"),
    ("PUT", QUEUE, {}, b'{"rate": 1, "burst": 1.5}', 400, "body"),
    ("PUT", QUEUE, {}, b'{"burst": 5}', 400, "burst"),
    ("PUT", QUEUE, {}, b'{"max_leased": 0}', 400, "body"),
    ("PUT", QUEUE, {}, b'{"dead_letter": "dead"}', 400, "dead_letter"),
    ("PUT", QUEUE, {}, b'{"max_receives": 3, "dead_letter": "emails"}', 400, "dead_letter"),
    ("PUT", QUEUE, {}, b'{"max_receives": 3, "dead_letter": "a/b"}', 400, "body"),
    ("PUT", "/queues/~", {}, b"{}", 400, "queue"),
    ("PATCH", QUEUE, {}, b"", 400, "body"),
    ("PATCH", QUEUE, {}, b"{", 400, "body"),
    ("PATCH", QUEUE, {}, b"[]", 400, "body"),
    ("PATCH", QUEUE, {}, b"null", 400, "body"),
    ("PATCH", QUEUE, {}, b'{"visibilty": 5}', 400, "body"),
    ("PATCH", QUEUE, {}, b'{"visibilty": null}', 400, "body"),
    ("PATCH", QUEUE, {}, b'{"visibility": -1}', 400, "body"),
    ("PATCH", QUEUE, {}, b'{"max_messages": "5"}', 400, "body"),
    ("PATCH", QUEUE, {}, b'{"max_receives": 3}', 400, "dead_letter"),
    ("PATCH", QUEUE, {}, b'{"max_receives": 3, "dead_letter": "emails"}', 400, "dead_letter"),
    ("PATCH", QUEUE, {}, b'{"dead_letter": {"a": [1]}}', 400, "body"),
    ("PATCH", f"{QUEUE}?x=1", {}, b"{}", 400, "x"),
    ("PATCH", "/queues/none", {}, b"{}", 404, None),
    ("PATCH", "/queues/~", {}, b"{}", 400, "queue"),
    ("PUT", f"{QUEUE}?x=1", {}, b"{}", 400, "x"),
    # A queue that is not there, and receipts of leases that are not
    ("DELETE", f"{QUEUE}/receipts/nonsense", {}, b"", 400, "receipt"),
    ("DELETE", f"{QUEUE}/receipts/0-0-0", {}, b"", 409, "receipt"),
    ("POST", f"{QUEUE}/receipts/0-0-0/release", {}, b"", 409, "receipt"),
    ("DELETE", f"{QUEUE}/receipts/{{of another queue}}", {}, b"", 409, "receipt"),
    ("POST", f"{QUEUE}/receipts/{{of another queue}}/release", {}, b"", 409, "receipt"),
    ("POST", f"{QUEUE}/receipts/{{of another queue}}/extend", {}, b"", 409, "receipt"),
    ("POST", f"{QUEUE}/receipts/0-0-0/release?delay=x", {}, b"", 400, "delay"),
    ("POST", f"{QUEUE}/receipts/0-0-0/release?delay=31536001", {}, b"", 400, "delay"),
    ("POST", f"{QUEUE}/receipts/0-0-0/release?x=1", {}, b"", 400, "x"),
    ("POST", f"{QUEUE}/receipts/0-0-0/extend?x=1", {}, b"", 400, "x"),
    ("POST", f"{QUEUE}/receipts/0-0-0/extend?visibility=-1", {}, b"", 400, "visibility"),
    ("POST", f"{QUEUE}/receipts/0-0-0/extend?visibility=43201", {}, b"", 400, "visibility"),
    ("DELETE", f"{QUEUE}/receipts/0-0-0?x=1", {}, b"", 400, "x"),
    ("POST", "/queues/nobody/receive", {}, b"", 404, None),
    ("POST", "/queues/nobody/receive/batch", {}, b"", 404, None),
    ("DELETE", "/queues/nobody/receipts/0-0-0", {}, b"", 404, None),
    ("POST", "/queues/nobody/settle", JSON, b'[{"receipt": "x"}]', 404, None),
    ("GET", "/queues/nobody", {}, b"", 404, None),
    ("GET", "/queues/nobody/messages", {}, b"", 404, None),
    ("DELETE", "/queues/nobody", {}, b"", 404, None),
    ("POST", "/queues/nobody/purge", {}, b"", 404, None),
    ("GET", f"{QUEUE}/messages/99", {}, b"", 404, None),
    ("GET", f"{QUEUE}/messages/one", {}, b"", 404, None),
    ("DELETE", "/queues/default", {}, b"", 409, None),
]


@pytest.mark.parametrize(
    ("method", "target", "headers", "body", "status", "parameter"),
    BAD,
    ids=[f"{method} {target[:60]} {body[:30]!r}" for method, target, _, body, _, _ in BAD],
)
async def test_bad_input_is_refused_by_name_and_changes_nothing(
    zapq_server: ZapqServer,
    method: str,
    target: str,
    headers: dict[str, str],
    body: bytes,
    status: int,
    parameter: str | None,
) -> None:
    service = zapq_server.service
    queue = service.queue("emails")
    await queue.enqueue_many([b"a", b"b"])
    await queue.enqueue(b"c", delay=100)
    await queue.receive(visibility=100)
    await service.default.enqueue(b"d")
    foreign = await service.default.receive(visibility=100)
    assert foreign is not None

    async def picture() -> tuple[object, ...]:
        seen = [await each.peek(state) for each in (queue, service.default) for state in STATES]
        return (service.stats(), queue.info(), seen, set(service.broker.queues), len(service.keys))

    before = await picture()
    target = target.replace("{of another queue}", foreign.receipt)
    answer = await ask(zapq_server.url, method, target, body, headers)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["detail"]
    if parameter is not None:
        assert answer.json["parameter"] == parameter
    assert await picture() == before


class TestWithSmallCaps:
    @pytest.fixture
    def zapq_settings(self, zapq_settings: Settings) -> Settings:
        return replace(zapq_settings, max_msgs=3, max_queues=2)

    async def test_a_full_server_says_when_to_come_back_and_makes_no_queue(self, zapq_server: ZapqServer) -> None:
        await zapq_server.service.default.enqueue_many([b"a", b"b", b"c"])
        for path, headers in (("messages", {}), ("messages/batch", JSON)):
            answer = await ask(zapq_server.url, "POST", f"{QUEUE}/{path}", b'["aGk="]', headers)
            assert (answer.status, answer.headers["retry-after"]) == (429, "1")
            assert_problem(answer, "queue-full")
        assert zapq_server.service.stats().queues == 1

    async def test_there_are_so_many_queues(self, zapq_server: ZapqServer) -> None:
        assert (await ask(zapq_server.url, "PUT", QUEUE, b"{}")).status == 201
        for method, path in (("PUT", "/queues/third"), ("POST", "/queues/third/messages")):
            answer = await ask(zapq_server.url, method, path, b"{}")
            assert answer.status == 429
            assert_problem(answer, "too-many-queues")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("PUT", QUEUE),
        ("PATCH", QUEUE),
        ("DELETE", QUEUE),
        ("POST", f"{QUEUE}/purge"),
        ("POST", f"{QUEUE}/pause"),
        ("POST", f"{QUEUE}/resume"),
        ("POST", f"{QUEUE}/redrive"),
        ("POST", "/drain"),
        ("GET", "/snapshots"),
        ("POST", "/persist?file=a.msgpack"),
        ("POST", "/load?file=a.msgpack"),
    ],
)
async def test_administration_is_refused_to_strangers(
    zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch, method: str, target: str
) -> None:
    monkeypatch.setattr("zapq.http.wire.is_local", lambda client: False)
    await zapq_server.service.queue("emails").enqueue(b"kept")
    answer = await ask(zapq_server.url, method, target)
    assert answer.status == 403
    assert_problem(answer, "admin-loopback-only")
    assert zapq_server.service.find("emails").info().stats.messages == 1


@pytest.mark.parametrize("text", ["0.30000000000000004", "0.12345678901234567890", "00000000000000000001", "2.5"])
async def test_seconds_have_as_many_digits_as_programs_write(zapq_server: ZapqServer, text: str) -> None:
    service = zapq_server.service
    await service.queue("emails").enqueue_many([b"x"] * 3)
    await service.enqueue(b"x")
    assert (await ask(zapq_server.url, "GET", f"/dequeue?wait={text}")).status == 200
    for cold in ({}, {"TE": "trailers"}):
        leased = await ask(zapq_server.url, "POST", f"{QUEUE}/receive?wait={text}&visibility={text}", b"", cold)
        assert leased.status == 200
    assert (await ask(zapq_server.url, "POST", f"{QUEUE}/messages?delay={text}&ttl={text}", b"x")).status == 202


@pytest.mark.parametrize("text", ["1e-3", "1E3", "2.5e+1", "1e400"])
async def test_an_exponent_is_refused_with_a_sentence_about_it(zapq_server: ZapqServer, text: str) -> None:
    zapq_server.service.queue("emails")
    for target in (f"/dequeue?wait={text}", f"{QUEUE}/receive?visibility={text}"):
        answer = await ask(zapq_server.url, "POST", target.replace("+", "%2B"))
        assert answer.status == 400
        assert "Exponents are not taken: write 0.001 and not 1e-3." in answer.json["detail"]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("1.123456789012345678901", " Give at most 20 digits on each side of the point."),
        ("123456789012345678901", " Give at most 20 digits on each side of the point."),
        ("1e", ""),
        ("nan", ""),
        ("e3", ""),
    ],
)
async def test_other_seconds_are_refused_without_it(zapq_server: ZapqServer, text: str, hint: str) -> None:
    answer = await ask(zapq_server.url, "GET", f"/dequeue?wait={text}")
    sentence = "wait must be seconds, or a number with s, m, h or d behind it, such as 20, 0.5 or 5m."
    assert answer.json["detail"] == f"{sentence}{hint}"


BODILESS = [
    ("POST", f"{QUEUE}/receive"),
    ("POST", f"{QUEUE}/receive?wait=5"),
    ("POST", f"{QUEUE}/receive/batch"),
    ("DELETE", f"{QUEUE}/receipts/{{receipt}}"),
    ("POST", f"{QUEUE}/receipts/{{receipt}}/release"),
    ("POST", f"{QUEUE}/receipts/{{receipt}}/extend"),
    ("POST", f"{QUEUE}/purge"),
    ("POST", f"{QUEUE}/pause"),
    ("POST", f"{QUEUE}/resume"),
    ("POST", f"{QUEUE}/redrive"),
    ("DELETE", QUEUE),
    ("GET", QUEUE),
    ("GET", "/queues"),
    ("GET", f"{QUEUE}/messages"),
    ("GET", f"{QUEUE}/messages/1"),
    ("GET", "/snapshots"),
    ("POST", "/drain"),
]


@pytest.mark.parametrize(("method", "target"), BODILESS)
async def test_a_body_without_meaning_is_refused_changes_nothing_and_keeps_the_connection(
    zapq_server: ZapqServer, method: str, target: str
) -> None:
    queue = zapq_server.service.queue("emails")
    await queue.enqueue_many([b"a", b"b"])
    lease = await queue.receive(visibility=100)
    assert lease is not None
    before = queue.info()
    async with open_client(zapq_server.url) as client:
        for body, headers in ((b'{"visibility":60}', JSON), (b"x", {}), (b"x", {"Transfer-Encoding": "chunked"})):
            answer = await client.request(method, target.format(receipt=lease.receipt), body, headers)
            assert answer.status == 400
            assert_problem(answer, "invalid-parameter")
            assert answer.json["parameter"] == "body"
            assert answer.json["detail"].startswith("This request takes no body")
        assert queue.info() == before
        assert not zapq_server.service.draining
        empty = await client.request(method, target.format(receipt=lease.receipt))
        assert empty.status < 300


@pytest.mark.parametrize(
    ("body", "headers", "detail"),
    [
        (b'{"visibility":60}', JSON, "put visibility in the query string: ?visibility=60"),
        (b'{"wait":2.5,"x":1}', {}, "put wait in the query string: ?wait=2.5"),
        (b"visibility=60&wait=1", FORM, "put visibility and wait in the query string: ?visibility=60&wait=1"),
        (b'{"visibility":[60]}', JSON, "its parameters (visibility, wait, ack, body) belong in the query string."),
        (b'{"visibility":true}', JSON, "its parameters (visibility, wait, ack, body) belong in the query string."),
        (b'{"visibility":"a b&c"}', JSON, "put visibility in the query string: ?visibility=a+b%26c"),
        (b"\xff\x00", FORM, "its parameters (visibility, wait, ack, body) belong in the query string."),
        (b"[" * 9000, JSON, "its parameters (visibility, wait, ack, body) belong in the query string."),
    ],
)
async def test_a_body_that_should_be_parameters_is_told_where_they_belong(
    zapq_server: ZapqServer, body: bytes, headers: dict[str, str], detail: str
) -> None:
    answer = await ask(zapq_server.url, "POST", f"{QUEUE}/receive", body, headers)
    assert (answer.status, answer.json["detail"]) == (400, f"This request takes no body; {detail}")


async def test_a_number_out_of_range_is_told_its_range_as_people_write_it(zapq_server: ZapqServer) -> None:
    refused = await ask(zapq_server.url, "POST", f"{QUEUE}/messages?delay=400d", b"x")
    assert refused.json["detail"] == "delay=34560000 is out of range. Give 0 to 31536000 seconds."
    refused = await ask(zapq_server.url, "POST", f"{QUEUE}/messages?priority=10", b"x")
    assert refused.json["detail"] == "priority=10 is out of range. Give 0 to 9."


async def test_a_batch_of_lines_is_told_the_line_that_is_wrong(zapq_server: ZapqServer) -> None:
    lines = b'{"a":1}\n\n{"a":2}\n{a\n'
    path = f"{QUEUE}/messages/batch"
    refused = await ask(zapq_server.url, "POST", path, lines, NDJSON)
    assert refused.json["detail"].startswith("The batch is not valid: line 4: JSON is malformed: ")


class TestALimitThatIsTooSmall:
    @pytest.fixture
    def zapq_settings(self, zapq_settings: Settings) -> Settings:
        return replace(zapq_settings, max_bytes=1000)

    async def test_a_message_that_can_never_fit_is_told_so(self, zapq_server: ZapqServer) -> None:
        refused = await ask(zapq_server.url, "POST", f"{QUEUE}/messages", b"x" * 1001)
        assert refused.status == 429
        assert refused.json["detail"].endswith("Nothing was stored. Send less at once, or raise the limit.")
