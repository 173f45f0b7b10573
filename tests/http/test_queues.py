"""The contract of the queue endpoints over a real socket: what each gives.

One file, although it is long: the cases share the requests that a client makes of queues.
"""

from __future__ import annotations

from base64 import b64encode

import msgspec
import pytest
import trio

from tests.http.asking import COLD, JSON, MSGPACK, NDJSON, QUEUE, receive
from tests.http.test_contract import assert_problem
from tests.support.serving import until_waiting
from tests.support.waiting import eventually
from tests.support.wire import Answer, ask, open_client
from zapq.core.queue_settings import QueueSettings
from zapq.http import render
from zapq.testing import ZapqServer


async def test_a_message_is_sent_leased_and_acknowledged(zapq_server: ZapqServer) -> None:
    sent = await ask(zapq_server.url, "POST", f"{QUEUE}/messages", b"hello", {"Content-Type": "text/plain"})
    assert (sent.status, sent.body) == (202, b"")
    assert (sent.headers["zapq-message-id"], sent.headers["location"]) == ("1", f"{QUEUE}/messages/1")
    got = await receive(zapq_server, "?visibility=60")
    assert got.body == b"hello"
    assert {
        "zapq-message-id": "1",
        "zapq-receive-count": "1",
        "content-type": "text/plain",
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
    }.items() <= got.headers.items()
    receipt = f"{QUEUE}/receipts/{got.headers['zapq-receipt']}"
    for _ in range(2):
        acked = await ask(zapq_server.url, "DELETE", receipt)
        assert (acked.status, acked.body) == (204, b"")
    nothing = await ask(zapq_server.url, "POST", f"{QUEUE}/receive")
    assert (nothing.status, nothing.headers["zapq-empty"]) == (204, "empty")
    assert "zapq-next-visible-in" not in nothing.headers


@pytest.mark.parametrize("settle", [False, True])
async def test_an_extension_lasts_as_long_as_the_lease_was_given(zapq_server: ZapqServer, settle: bool) -> None:
    await ask(zapq_server.url, "POST", f"{QUEUE}/messages", b"hello")
    taken = await ask(zapq_server.url, "POST", f"{QUEUE}/receive?visibility=1000")
    receipt = taken.headers["zapq-receipt"]
    if settle:
        wanted = msgspec.json.encode([{"receipt": receipt, "action": "extend"}])
        assert (await ask(zapq_server.url, "POST", f"{QUEUE}/settle", wanted, JSON)).json[0]["result"] == "ok"
    else:
        extended = await ask(zapq_server.url, "POST", f"{QUEUE}/receipts/{receipt}/extend")
        assert extended.headers["zapq-visible-until"] >= taken.headers["zapq-visible-until"]
    [seen] = (await ask(zapq_server.url, "GET", f"{QUEUE}/messages?state=leased")).json
    assert seen["visible_in"] > 900


async def test_a_lease_that_lasts_as_long_as_its_block_is_not_cut_by_an_extension(zapq_server: ZapqServer) -> None:
    queue = zapq_server.service.queue("emails")
    queue.enqueue_nowait(b"hello")
    async with queue.lease() as lease:
        extended = await ask(zapq_server.url, "POST", f"{QUEUE}/receipts/{lease.receipt}/extend")
        assert extended.status == 204
        assert "zapq-visible-until" not in extended.headers
        assert queue.next_visible_in() == float("inf")


async def test_a_late_ack_is_accepted_and_a_refusal_says_how_the_lease_ended(zapq_server: ZapqServer) -> None:
    await ask(zapq_server.url, "POST", f"{QUEUE}/messages", b"hello")
    receipts = []
    for _ in range(2):
        taken = await ask(zapq_server.url, "POST", f"{QUEUE}/receive?visibility=0")
        receipts.append(f"{QUEUE}/receipts/{taken.headers['zapq-receipt']}")
    expired = await ask(zapq_server.url, "POST", f"{receipts[1]}/release")
    assert expired.status == 409
    assert expired.json["detail"].startswith("The lease expired. ")
    given = await ask(zapq_server.url, "DELETE", receipts[0])
    assert given.status == 409
    assert "was given out again" in given.json["detail"]
    for _ in range(2):
        assert (await ask(zapq_server.url, "DELETE", receipts[1])).status == 204
    acked = await ask(zapq_server.url, "POST", f"{receipts[1]}/release")
    assert acked.status == 409
    assert "was acknowledged already" in acked.json["detail"]
    assert (await ask(zapq_server.url, "GET", QUEUE)).json["messages"] == 0


async def test_a_released_message_comes_back_with_a_higher_count_and_another_receipt(
    zapq_server: ZapqServer,
) -> None:
    await ask(zapq_server.url, "POST", f"{QUEUE}/messages", b"hello")
    first = await receive(zapq_server)
    receipt = f"{QUEUE}/receipts/{first.headers['zapq-receipt']}"
    extended = await ask(zapq_server.url, "POST", f"{receipt}/extend?visibility=5000")
    assert extended.status == 204
    assert extended.headers["zapq-visible-until"] > first.headers["zapq-visible-until"]
    assert (await ask(zapq_server.url, "POST", f"{receipt}/release")).status == 204
    second = await receive(zapq_server)
    assert second.headers["zapq-receive-count"] == "2"
    for method, path in (("DELETE", receipt), ("POST", f"{receipt}/release"), ("POST", f"{receipt}/extend")):
        late = await ask(zapq_server.url, method, path)
        assert late.status == 409
        assert_problem(late, "receipt-expired")
    again = f"{QUEUE}/receipts/{second.headers['zapq-receipt']}/release?delay=100"
    assert (await ask(zapq_server.url, "POST", again)).status == 204
    nothing = await ask(zapq_server.url, "POST", f"{QUEUE}/receive")
    assert nothing.headers["zapq-empty"] == "delayed"
    assert 50 < float(nothing.headers["zapq-next-visible-in"]) <= 100


async def test_handed_over_and_forgotten_is_also_possible_and_keeps_the_type(zapq_server: ZapqServer) -> None:
    await ask(zapq_server.url, "POST", f"{QUEUE}/messages", b"hello", {"Content-Type": "text/plain"})
    got = await receive(zapq_server, "?ack=auto")
    assert (got.body, got.headers["content-type"]) == (b"hello", "text/plain")
    assert "zapq-receipt" not in got.headers
    assert zapq_server.service.find("emails").info().stats.messages == 0


async def test_delay_priority_and_ttl_are_taken_from_the_query(zapq_server: ZapqServer) -> None:
    for body, query in ((b"a", ""), (b"b", "?priority=9"), (b"c", "?delay=100"), (b"d", "?ttl=100&priority=3")):
        assert (await ask(zapq_server.url, "POST", f"{QUEUE}/messages{query}", body)).status == 202
    ready = (await ask(zapq_server.url, "GET", f"{QUEUE}/messages")).json
    assert [(one["id"], one["priority"], one["state"]) for one in ready] == [
        (2, 9, "ready"),
        (4, 3, "ready"),
        (1, 0, "ready"),
    ]
    assert 50 < ready[1]["expires_in"] <= 100
    [delayed] = (await ask(zapq_server.url, "GET", f"{QUEUE}/messages?state=delayed")).json
    assert (delayed["id"], delayed["body"]) == (3, "Yw==")
    assert 50 < delayed["visible_in"] <= 100
    assert [(await receive(zapq_server)).body for _ in range(3)] == [b"b", b"d", b"a"]


async def test_a_key_makes_a_retry_safe(zapq_server: ZapqServer) -> None:
    for path in (f"{QUEUE}/messages", "/enqueue"):
        key = {"Idempotency-Key": "invoice-7"}
        first = await ask(zapq_server.url, "POST", path, b"invoice", key)
        again = await ask(zapq_server.url, "POST", path, b"invoice", key)
        assert (first.status, again.status) == (202, 202)
        assert first.headers["zapq-message-id"] == again.headers["zapq-message-id"]
        assert "idempotency-replayed" not in first.headers
        assert again.headers["idempotency-replayed"] == "true"
        other = await ask(zapq_server.url, "POST", path, b"another", key)
        assert other.status == 422
        assert_problem(other, "idempotency-key-reused")
    assert zapq_server.service.stats().queue.messages == 2


@pytest.mark.parametrize(
    ("headers", "batch", "other"),
    [
        (JSON, b'["aGk="]', b'["aG8="]'),
        (MSGPACK, msgspec.msgpack.encode([b"hi"]), msgspec.msgpack.encode([b"hi", b"ho"])),
        (NDJSON, b"1", b"2"),
    ],
)
async def test_a_key_makes_a_retry_of_a_batch_safe(
    zapq_server: ZapqServer, headers: dict[str, str], batch: bytes, other: bytes
) -> None:
    headers = {**headers, "Idempotency-Key": "invoices"}
    first = await ask(zapq_server.url, "POST", f"{QUEUE}/messages/batch", batch, headers)
    again = await ask(zapq_server.url, "POST", f"{QUEUE}/messages/batch", batch, headers)
    assert (first.status, again.status) == (202, 202)
    assert first.json == again.json == {"count": 1, "first_id": 1}
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    for path, body in ((f"{QUEUE}/messages/batch", other), (f"{QUEUE}/messages", b"hi")):
        reused = await ask(zapq_server.url, "POST", path, body, headers)
        assert reused.status == 422
        assert_problem(reused, "idempotency-key-reused")
    assert zapq_server.service.stats().queue.messages == 1


BODIES = [b"hello", b"", bytes(range(256))]


@pytest.mark.parametrize(
    ("headers", "batch"),
    [
        (MSGPACK, msgspec.msgpack.encode(BODIES)),
        (MSGPACK, msgspec.msgpack.encode([{"body": BODIES[0]}, *BODIES[1:]])),
        (JSON, msgspec.json.encode(BODIES)),
        (
            JSON | {"Content-Type": "application/json; charset=utf-8"},
            b'["aGVsbG8=", null, {"body": "%b"}]' % msgspec.json.encode(BODIES[2])[1:-1],
        ),
    ],
)
@pytest.mark.parametrize("accept", ["application/json", "application/msgpack"])
async def test_a_batch_goes_in_and_out_in_each_format(
    zapq_server: ZapqServer, headers: dict[str, str], batch: bytes, accept: str
) -> None:
    sent = await ask(zapq_server.url, "POST", f"{QUEUE}/messages/batch", batch, headers)
    assert (sent.status, sent.json) == (202, {"count": 3, "first_id": 1})
    path = f"{QUEUE}/receive/batch?max=2&visibility=60"
    got = await ask(zapq_server.url, "POST", path, headers={"Accept": accept})
    assert (got.status, got.headers["content-type"]) == (200, accept)
    decode = msgspec.json.decode if accept == "application/json" else msgspec.msgpack.decode
    leases = decode(got.body)
    assert [lease["id"] for lease in leases] == [1, 2]
    assert [lease["receive_count"] for lease in leases] == [1, 1]
    whole = msgspec.convert(leases, list[dict[str, object]])
    assert [msgspec.convert(lease["body"], bytes) for lease in whole] == BODIES[:2]
    left = await ask(zapq_server.url, "POST", f"{QUEUE}/receive/batch?ack=auto", headers={"Accept": accept})
    if accept == "application/json":
        [message] = decode(left.body)
        body = b64encode(BODIES[2]).decode()
        assert message == {"id": 3, "content_type": "application/octet-stream", "body": body}
    else:
        assert decode(left.body) == BODIES[2:]
    settlements = [{"receipt": lease["receipt"]} for lease in leases] + [{"receipt": "0-0-0", "action": "release"}]
    settled = await ask(zapq_server.url, "POST", f"{QUEUE}/settle", msgspec.json.encode(settlements), JSON)
    assert [result["result"] for result in settled.json] == ["ok", "ok", "receipt-expired"]
    assert zapq_server.service.stats().queue.messages == 0


async def test_lines_of_json_are_messages_as_they_stand(zapq_server: ZapqServer) -> None:
    lines = b'{"a": 1}\n[2]\n\n"three"'
    sent = await ask(zapq_server.url, "POST", f"{QUEUE}/messages/batch", lines, NDJSON)
    assert sent.json == {"count": 3, "first_id": 1}
    got = [await receive(zapq_server) for _ in range(3)]
    assert [answer.body for answer in got] == [b'{"a": 1}', b"[2]", b'"three"']
    assert {answer.headers["content-type"] for answer in got} == {"application/json"}


async def test_a_queue_is_set_shown_and_removed(zapq_server: ZapqServer) -> None:
    settings = b'{"max_messages": 5, "visibility": 7.5, "max_receives": 3, "dead_letter": "dead"}'
    made = await ask(zapq_server.url, "PUT", QUEUE, settings)
    assert made.status == 201
    assert made.json["settings"] == {
        "max_messages": 5,
        "max_bytes": None,
        "visibility": 7.5,
        "max_receives": 3,
        "dead_letter": "dead",
        "ttl": None,
        "retention": None,
        "rate": None,
        "burst": None,
        "max_leased": None,
        "fair": False,
        "notes": {},
    }
    assert (await ask(zapq_server.url, "PUT", QUEUE, settings)).status == 200
    names = [queue["name"] for queue in (await ask(zapq_server.url, "GET", "/queues")).json]
    assert names == ["dead", "default", "emails"]
    assert (await ask(zapq_server.url, "PUT", QUEUE, b"{}")).json["settings"]["max_messages"] is None
    for name in ("emails", "dead"):
        assert (await ask(zapq_server.url, "DELETE", f"/queues/{name}")).status == 204
        gone = await ask(zapq_server.url, "GET", f"/queues/{name}")
        assert gone.status == 404
        assert_problem(gone, "queue-not-found")


async def test_put_without_a_body_changes_nothing_and_says_what_to_send(zapq_server: ZapqServer) -> None:
    await zapq_server.service.configure("emails", QueueSettings(visibility=7.0))
    for method in ("PUT", "PATCH"):
        refused = await ask(zapq_server.url, method, QUEUE)
        assert refused.status == 400
        assert_problem(refused, "invalid-parameter")
        assert "{}" in refused.json["detail"]
    assert zapq_server.service.find("emails").info().settings == QueueSettings(visibility=7.0)


async def test_notes_are_kept_and_patched_one_by_one(zapq_server: ZapqServer) -> None:
    async def patch(changes: bytes) -> Answer:
        return await ask(zapq_server.url, "PATCH", QUEUE, changes)

    await zapq_server.service.configure("emails", QueueSettings(visibility=7.0, notes={"owner": "shop"}))
    added = await patch(b'{"notes": {"sqs:tag:team": "a b"}}')
    assert added.json["settings"]["notes"] == {"owner": "shop", "sqs:tag:team": "a b"}
    removed = await patch(b'{"notes": {"owner": null, "x": "y"}}')
    assert removed.json["settings"]["notes"] == {"sqs:tag:team": "a b", "x": "y"}
    for wrong in (b'{"notes": {"": "y"}}', b'{"notes": {"a": 1}}', b'{"notes": ["a"]}'):
        refused = await patch(wrong)
        assert (refused.status, refused.json["parameter"]) == (400, "body")
    many = {f"n{each}": "x" for each in range(101)}
    assert (await patch(msgspec.json.encode({"notes": many}))).status == 400
    assert (await patch(b'{"notes": null}')).json["settings"]["notes"] == {}


async def test_patch_changes_what_it_names_and_null_is_the_default(zapq_server: ZapqServer) -> None:
    async def patch(changes: bytes) -> QueueSettings:
        answer = await ask(zapq_server.url, "PATCH", QUEUE, changes)
        assert answer.status == 200
        return msgspec.convert(answer.json["settings"], QueueSettings)

    settings = QueueSettings(visibility=7.0, max_messages=5, ttl=60.0)
    await zapq_server.service.configure("emails", settings)
    assert await patch(b"{}") == settings
    assert await patch(b'{"visibility": 8.5}') == QueueSettings(visibility=8.5, max_messages=5, ttl=60.0)
    assert await patch(b'{"visibility": null, "ttl": null}') == QueueSettings(max_messages=5)
    both = QueueSettings(max_messages=5, max_receives=3, dead_letter="dead")
    assert await patch(b'{"max_receives": 3, "dead_letter": "dead"}') == both
    refused = await ask(zapq_server.url, "PATCH", QUEUE, b'{"dead_letter": null}')
    assert (refused.status, refused.json["parameter"]) == (400, "dead_letter")
    assert zapq_server.service.find("emails").info().settings == both
    assert await patch(b'{"dead_letter": null, "max_receives": null}') == QueueSettings(max_messages=5)
    allowed = await ask(zapq_server.url, "POST", QUEUE)
    assert (allowed.status, allowed.headers["allow"]) == (405, "DELETE, GET, HEAD, OPTIONS, PATCH, PUT")


async def test_what_an_administrator_does_is_done(zapq_server: ZapqServer) -> None:
    queue = zapq_server.service.queue("emails")
    await zapq_server.service.configure("emails", QueueSettings(max_receives=1, dead_letter="dead"))
    await queue.enqueue_many([b"a", b"b"])
    lease = await queue.receive()
    assert lease is not None
    await queue.release(lease.receipt)
    [dead] = (await ask(zapq_server.url, "GET", "/queues/dead/messages")).json
    assert (dead["body"], dead["failed_in"]) == ("YQ==", "emails")
    redriven = await ask(zapq_server.url, "POST", "/queues/dead/redrive?limit=5")
    assert redriven.json == {"moved": 1, "left": 0}
    assert (await ask(zapq_server.url, "POST", f"{QUEUE}/pause")).json == {"paused": True}
    nothing = await ask(zapq_server.url, "POST", f"{QUEUE}/receive")
    assert (nothing.status, nothing.headers["zapq-empty"]) == (204, "paused")
    assert (await ask(zapq_server.url, "POST", f"{QUEUE}/resume")).json == {"paused": False}
    assert (await ask(zapq_server.url, "POST", f"{QUEUE}/purge")).json == {"purged": 2}
    assert (await ask(zapq_server.url, "GET", QUEUE)).json["messages"] == 0


@pytest.mark.parametrize("name", ["-", "--jobs", "_jobs", "-.."])
@pytest.mark.parametrize("road", [{}, COLD])
async def test_a_name_may_begin_with_a_dash_or_an_underscore(
    zapq_server: ZapqServer, name: str, road: dict[str, str]
) -> None:
    path = f"/queues/{name}"
    sent = await ask(zapq_server.url, "POST", f"{path}/messages", b"x", road)
    assert (sent.status, sent.headers["location"]) == (202, f"{path}/messages/1")
    assert (await ask(zapq_server.url, "GET", f"{path}/messages/1", b"", road)).status == 200
    assert (await ask(zapq_server.url, "POST", f"{path}/receive?ack=auto", b"", road)).body == b"x"
    assert (await ask(zapq_server.url, "DELETE", path, b"", road)).status == 204


async def test_a_queue_that_is_limited_says_so_and_when_to_come_back(zapq_server: ZapqServer) -> None:
    assert (await ask(zapq_server.url, "PUT", QUEUE, b'{"rate": 0.01, "burst": 2, "max_leased": 1}')).status == 201
    await zapq_server.service.queue("emails").enqueue_many([b"a", b"b", b"c"])
    as_json = {"Accept": "application/json"}
    batch = await ask(zapq_server.url, "POST", f"{QUEUE}/receive/batch?max=9&visibility=60", b"", as_json)
    [lease] = batch.json
    nothing = await ask(zapq_server.url, "POST", f"{QUEUE}/receive")
    assert (nothing.status, nothing.headers["zapq-empty"]) == (204, "limited")
    assert 30 < float(nothing.headers["zapq-next-visible-in"]) <= 60.1
    assert (await ask(zapq_server.url, "POST", f"{QUEUE}/receive?ack=auto")).body == b"b"
    for path in ("receive?ack=auto", "receive?wait=0.01", "receive/batch?max=9"):
        nothing = await ask(zapq_server.url, "POST", f"{QUEUE}/{path}")
        assert (nothing.status, nothing.headers["zapq-empty"]) == (204, "limited")
        assert 50 < float(nothing.headers["zapq-next-visible-in"]) <= 100
    assert (await ask(zapq_server.url, "PATCH", QUEUE, b'{"rate": null, "burst": null}')).status == 200
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_body, zapq_server, b"c")
        await until_waiting(zapq_server.service)
        assert (await ask(zapq_server.url, "DELETE", f"{QUEUE}/receipts/{lease['receipt']}")).status == 204


async def expect_body(server: ZapqServer, body: bytes) -> None:
    assert (await ask(server.url, "POST", f"{QUEUE}/receive?wait=20")).body == body


async def test_draining_takes_nothing_new_and_goes_on_with_the_rest(zapq_server: ZapqServer) -> None:
    await ask(zapq_server.url, "POST", f"{QUEUE}/messages", b"held")
    for path, ready in (("/readyz", 200), ("/livez", 200), ("/health", 200)):
        assert (await ask(zapq_server.url, "GET", path)).status == ready
    assert (await ask(zapq_server.url, "POST", "/drain")).status == 200
    for path, status in (("/readyz", 503), ("/livez", 200), ("/health", 200)):
        assert (await ask(zapq_server.url, "GET", path)).status == status
    for path, headers in (
        (f"{QUEUE}/messages", {}),
        (f"{QUEUE}/messages/batch", JSON),
        ("/queues/new/messages", {}),
    ):
        assert (await ask(zapq_server.url, "POST", path, b'["aGk="]', headers)).status == 503
    got = await receive(zapq_server)
    assert (await ask(zapq_server.url, "DELETE", f"{QUEUE}/receipts/{got.headers['zapq-receipt']}")).status == 204
    assert (await ask(zapq_server.url, "POST", f"{QUEUE}/receive?wait=60")).status == 503


async def test_one_message_is_found_for_as_long_as_it_is_held(zapq_server: ZapqServer) -> None:
    for body in (b"a", b"b"):
        await ask(zapq_server.url, "POST", f"{QUEUE}/messages", body)
    assert (await ask(zapq_server.url, "GET", f"{QUEUE}/messages/2")).json["body"] == "Yg=="
    assert (await ask(zapq_server.url, "GET", f"{QUEUE}/messages?limit=1")).json[0]["id"] == 1
    await receive(zapq_server, "?ack=auto")
    gone = await ask(zapq_server.url, "GET", f"{QUEUE}/messages/1")
    assert gone.status == 404
    assert_problem(gone, "message-not-found")


async def test_looking_on_is_bounded_in_bytes(zapq_server: ZapqServer) -> None:
    queue = zapq_server.service.queue("emails")
    for _ in range(70):
        await queue.enqueue(bytes(128 * 1024))
    assert len((await ask(zapq_server.url, "GET", f"{QUEUE}/messages?limit=1000")).json) == 64
    got = await ask(
        zapq_server.url, "POST", f"{QUEUE}/receive/batch?ack=auto", headers={"Accept": MSGPACK["Content-Type"]}
    )
    assert len(msgspec.msgpack.decode(got.body)) == 64
    assert queue.info().stats.messages == 6


async def test_a_long_poll_is_answered_by_whatever_ends_it(zapq_server: ZapqServer, nursery: trio.Nursery) -> None:
    service = zapq_server.service
    service.queue("emails")

    async def poll(answers: list[Answer]) -> None:
        answers.append(await ask(zapq_server.url, "POST", f"{QUEUE}/receive?wait=60"))

    async def end_by(path: str, method: str, status: int) -> None:
        answers: list[Answer] = []
        async with trio.open_nursery() as polling:
            polling.start_soon(poll, answers)
            await until_waiting(service)
            await ask(zapq_server.url, method, path, b"hello" if path.endswith("messages") else b"")
        assert [answer.status for answer in answers] == [status]

    await end_by(f"{QUEUE}/messages", "POST", 200)
    await end_by(QUEUE, "DELETE", 404)
    service.queue("emails")
    await end_by("/drain", "POST", 503)


async def test_requests_of_all_kinds_follow_each_other_on_one_connection(zapq_server: ZapqServer) -> None:
    async with open_client(zapq_server.url) as client:
        for number in range(3):
            assert (await client.request("PUT", QUEUE, b"{}")).status in {200, 201}
            assert (await client.request("POST", f"{QUEUE}/messages", b"%d" % number)).status == 202
            got = await client.request("POST", f"{QUEUE}/receive")
            assert got.body == b"%d" % number
            acked = await client.request("DELETE", f"{QUEUE}/receipts/{got.headers['zapq-receipt']}")
            assert acked.status == 204
            assert (await client.request("GET", "/queues")).status == 200


@pytest.mark.parametrize("road", [{}, COLD], ids=["hot", "cold"])
@pytest.mark.parametrize(
    ("path", "body", "more"),
    [
        (f"{QUEUE}/messages", b"second", {}),
        (f"{QUEUE}/messages", bytes(100_000), {}),
        (f"{QUEUE}/messages/batch", b'["c2Vjb25k"]', JSON),
        ("/enqueue", b"second", {"Idempotency-Key": "key"}),
    ],
    ids=["message", "large", "batch", "drop-in"],
)
@pytest.mark.parametrize("cap", ["max_messages", "max_bytes"])
async def test_a_message_waits_for_room(
    zapq_server: ZapqServer,
    nursery: trio.Nursery,
    road: dict[str, str],
    path: str,
    body: bytes,
    more: dict[str, str],
    cap: str,
) -> None:
    service = zapq_server.service
    queue = service.queue("default" if path == "/enqueue" else "emails")
    await queue.enqueue(bytes(1000))
    setattr(service.broker, cap, 1 if cap == "max_messages" else 100_500)
    if cap == "max_bytes":
        await queue.enqueue(bytes(99_500))
    answers: list[Answer] = []

    async def send() -> None:
        answers.append(await ask(zapq_server.url, "POST", f"{path}?wait=60s", body, more | road))

    async with trio.open_nursery() as producers:
        producers.start_soon(send)
        await until_waiting(service)
        await queue.dequeue_many(2)
    [answer] = answers
    assert answer.status == 202
    assert (await queue.dequeue_many(2))[0].body in {b"second", body}


@pytest.mark.parametrize("road", [{}, COLD], ids=["hot", "cold"])
async def test_a_message_that_waits_in_vain_is_refused_or_gone(
    zapq_server: ZapqServer, nursery: trio.Nursery, road: dict[str, str]
) -> None:
    service = zapq_server.service
    service.broker.max_messages = 1
    await service.enqueue(b"first")
    refused = await ask(zapq_server.url, "POST", "/enqueue?wait=0.05", b"x", road)
    assert refused.status == 429
    assert_problem(refused, "queue-full")
    assert "retry-after" in refused.headers
    long = await ask(zapq_server.url, "POST", "/enqueue?wait=61", b"x", road)
    assert (long.status, long.json["parameter"]) == (400, "wait")
    async with open_client(zapq_server.url) as client:
        await client.send("POST", "/enqueue?wait=60", b"x", road)
        await until_waiting(service)
    await eventually(lambda: not service.stats().waiting, "the producer to be gone")
    async with open_client(zapq_server.url) as client:
        await client.send("POST", "/enqueue?wait=60", b"x", road)
        await until_waiting(service)
        service.drain()
        assert (await client.answer()).status == 503
    assert service.stats().queue.messages == 1


@pytest.mark.parametrize("road", [{}, COLD], ids=["hot", "cold"])
class TestShapes:
    """How messages are shown, by `Accept` and `body`."""

    async def send(self, server: ZapqServer, *bodies: bytes) -> None:
        for number, body in enumerate(bodies):
            await server.service.queue("emails").enqueue(body, content_type="text/plain", priority=9 - number)

    async def take(self, server: ZapqServer, target: str, accept: str, road: dict[str, str]) -> Answer:
        return await ask(server.url, "POST", f"{QUEUE}/{target}", headers={"Accept": accept} | road)

    async def test_lines_are_one_message_each(self, zapq_server: ZapqServer, road: dict[str, str]) -> None:
        await self.send(zapq_server, b'{"a":\n 1}', b"no json", b"\xff")
        got = await self.take(zapq_server, "receive/batch?ack=auto", "application/x-ndjson", road)
        assert (got.status, got.headers["content-type"]) == (200, "application/x-ndjson")
        assert got.body.endswith(b"\n")
        first, second, third = map(msgspec.json.decode, got.body.splitlines())
        assert first == {"id": 1, "content_type": "text/plain", "body": {"a": 1}, "priority": 9}
        assert (second["body"], second["body_encoding"]) == (b64encode(b"no json").decode(), "base64")
        assert (third["body"], third["body_encoding"]) == ("/w==", "base64")

    @pytest.mark.parametrize(
        ("parameter", "shown"),
        [
            ("", ["W10=", "/w=="]),
            ("&body=base64", ["W10=", "/w=="]),
            ("&body=text", ["[]", "/w=="]),
            ("&body=json", [[], "/w=="]),
        ],
    )
    async def test_a_body_is_written_as_asked_for(
        self, zapq_server: ZapqServer, road: dict[str, str], parameter: str, shown: list[object]
    ) -> None:
        await self.send(zapq_server, b"[]", b"\xff")
        looked = await ask(zapq_server.url, "GET", f"{QUEUE}/messages?limit=2{parameter}", headers=road)
        found = await ask(zapq_server.url, "GET", f"{QUEUE}/messages/1?{parameter[1:]}", headers=road)
        got = await self.take(zapq_server, f"receive/batch?max=2{parameter}", "application/json", road)
        for answer in (looked, got):
            assert [each["body"] for each in answer.json] == shown
        assert found.json["body"] == shown[0]
        odd = "body=" in parameter and "base64" not in parameter
        assert ["body_encoding" in each for each in got.json] == [False, odd]
        assert all(each["receipt"] and each["receive_count"] == 1 for each in got.json)

    async def test_another_encoding_is_refused(self, zapq_server: ZapqServer, road: dict[str, str]) -> None:
        await self.send(zapq_server, b"x")
        for target in ("receive?body=hex", "receive/batch?body=hex"):
            answer = await self.take(zapq_server, target, "application/json", road)
            assert (answer.status, answer.json["detail"]) == (400, "body must be base64, text or json.")
        assert zapq_server.service.stats().queue.leased == 0

    async def test_one_message_as_json(self, zapq_server: ZapqServer, road: dict[str, str]) -> None:
        await self.send(zapq_server, b"hello", b"again")
        got = await self.take(zapq_server, "receive?body=text", "application/json", road)
        assert got.headers["content-type"] == "application/json"
        assert "zapq-visible-until" in got.headers
        receipt = got.json["receipt"]
        assert got.json == {
            "id": 1,
            "receipt": receipt,
            "receive_count": 1,
            "content_type": "text/plain",
            "body": "hello",
            "priority": 9,
        }
        taken = await self.take(zapq_server, "receive?ack=auto&body=text", "application/json", road)
        assert taken.json == {"id": 2, "content_type": "text/plain", "body": "again", "priority": 8}
        nothing = await self.take(zapq_server, "receive", "application/json", road)
        assert (nothing.status, nothing.body, nothing.headers["zapq-empty"]) == (204, b"", "leased")

    @pytest.mark.parametrize(
        ("accept", "status", "body"),
        [
            ("application/json", 200, b"[]"),
            ("application/x-ndjson", 200, b""),
            ("application/msgpack", 204, b""),
            ("*/*", 204, b""),
        ],
    )
    async def test_an_empty_batch_can_be_parsed_by_those_who_name_what_they_parse(
        self, zapq_server: ZapqServer, road: dict[str, str], accept: str, status: int, body: bytes
    ) -> None:
        zapq_server.service.queue("emails")
        got = await self.take(zapq_server, "receive/batch", accept, road)
        assert (got.status, got.body, got.headers["zapq-empty"]) == (status, body, "empty")


@pytest.mark.parametrize("road", [{}, COLD], ids=["hot", "cold"])
async def test_a_poll_waits_for_a_queue_that_is_not_there(zapq_server: ZapqServer, road: dict[str, str]) -> None:
    missing = await ask(zapq_server.url, "POST", f"{QUEUE}/receive", headers=road)
    assert missing.status == 404
    waited = await ask(zapq_server.url, "POST", f"{QUEUE}/receive?wait=0.05s", headers=road)
    assert (waited.status, waited.headers["zapq-empty"]) == (204, "empty")
    assert "emails" not in zapq_server.service.broker.queues


@pytest.mark.parametrize("road", [{}, COLD], ids=["hot", "cold"])
async def test_what_a_key_led_to_is_answered_while_draining(zapq_server: ZapqServer, road: dict[str, str]) -> None:
    headers = {"Idempotency-Key": "key"} | road
    assert (await ask(zapq_server.url, "POST", f"{QUEUE}/messages", b"x", headers)).status == 202
    zapq_server.service.drain()
    again = await ask(zapq_server.url, "POST", f"{QUEUE}/messages", b"x", headers)
    assert (again.status, again.headers["idempotency-replayed"]) == (202, "true")
    other = await ask(zapq_server.url, "POST", f"{QUEUE}/messages", b"x", headers | {"Idempotency-Key": "new"})
    assert other.status == 503


@pytest.mark.parametrize("road", [{}, COLD], ids=["hot", "cold"])
async def test_durations_have_units(zapq_server: ZapqServer, road: dict[str, str]) -> None:
    queue = zapq_server.service.queue("emails")
    for target in ("delay=5m&ttl=1h", "delay=300&ttl=60m"):
        assert (await ask(zapq_server.url, "POST", f"{QUEUE}/messages?{target}", b"x", road)).status == 202
    views = await queue.peek("delayed", limit=2)
    assert all(each.due is not None and 290 < each.due - trio.current_time() <= 300 for each in views)
    for text, hint in (("1e3s", "Exponents are not taken"), ("123456789012345678901m", "at most 20 digits")):
        refused = await ask(zapq_server.url, "POST", f"{QUEUE}/receive?wait={text}", headers=road)
        assert refused.status == 400
        assert hint in refused.json["detail"]


async def test_settings_may_say_durations_with_units(zapq_server: ZapqServer) -> None:
    put = await ask(zapq_server.url, "PUT", QUEUE, b'{"visibility":"5m","ttl":"1h"}')
    assert (put.json["settings"]["visibility"], put.json["settings"]["ttl"]) == (300, 3600)
    patched = await ask(zapq_server.url, "PATCH", QUEUE, b'{"visibility":"30s"}')
    assert patched.json["settings"]["visibility"] == 30
    for method in ("PUT", "PATCH"):
        refused = await ask(zapq_server.url, method, QUEUE, b'{"visibility":"soon"}')
        assert (refused.status, refused.json["parameter"]) == (400, "visibility")
        assert "such as 20, 0.5 or 5m" in refused.json["detail"]
        long = await ask(zapq_server.url, method, QUEUE, b'{"visibility":"13h"}')
        assert (long.status, long.json["parameter"]) == (400, "body")


@pytest.mark.parametrize("fields", [{}, COLD], ids=["hot", "cold"])
async def test_a_message_whose_answer_cannot_be_made_goes_back(
    zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch, fields: dict[str, str]
) -> None:
    await zapq_server.service.queue("emails").enqueue(b"hello")
    with monkeypatch.context() as patch:
        patch.setattr(render, "rfc3339", lambda _: 1 / 0)
        assert (await ask(zapq_server.url, "POST", f"{QUEUE}/receive", headers=fields)).status == 500
    assert (await receive(zapq_server)).headers["zapq-receive-count"] == "1"


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_a_misspelt_setting_is_told_the_right_one(zapq_server: ZapqServer, method: str) -> None:
    await ask(zapq_server.url, "PUT", "/queues/jobs", b"{}")
    for body, detail in (
        (b'{"visiblity":5}', "`visiblity` is not known. Did you mean 'visibility'?"),
        (b'{"xyzzy":5}', "`xyzzy` is not known."),
        (b'{"visibility":true}', "visibility must be a number of seconds, not true or false."),
        (b"[]", "it must be an object, not a list."),
    ):
        refused = await ask(zapq_server.url, method, "/queues/jobs", body)
        assert (refused.status, refused.json["detail"]) == (400, f"The settings are not valid: {detail}")
