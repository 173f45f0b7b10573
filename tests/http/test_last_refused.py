"""The requests that were refused last are told, on whichever road they came, without what clients keep secret."""

from __future__ import annotations

import re

import pytest

from tests.support.wire import ask, connection
from zapq.http.refused import LastRefused, Refused
from zapq.limits import REFUSALS_KEPT
from zapq.testing import ZapqServer

COLD = {"TE": "trailers"}
"""A field that the fast road leaves to Quart."""


async def last(server: ZapqServer, query: str = "") -> list[dict[str, object]]:
    answer = await ask(server.url, "GET", f"/refusals{query}")
    assert answer.status == 200
    found = answer.json
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("fields", [{}, COLD], ids=["fast", "quart"])
async def test_each_is_told_the_last_one_first(zapq_server: ZapqServer, fields: dict[str, str]) -> None:
    assert await last(zapq_server) == []
    asked = [
        ("POST", "/queues/jobs/messages?delay=never", "invalid-parameter", 400, "jobs"),
        ("DELETE", "/queues/none/receipts/9b-secret-1", "queue-not-found", 404, "none"),
        ("GET", "/queues/none/messages/12", "queue-not-found", 404, "none"),
        ("GET", "/dequeue?waits=1", "invalid-parameter", 400, "default"),
        ("GET", "/metrics?queues=1", "invalid-parameter", 400, None),
    ]
    answers = [await ask(zapq_server.url, method, path, headers=fields) for method, path, *_ in asked]
    assert [answer.status for answer in answers] == [status for *_, status, _ in asked]
    told = await last(zapq_server)
    assert len(told) == len(asked)
    for each, answer, (method, path, problem, status, queue) in zip(reversed(told), answers, asked, strict=True):
        shown = path.partition("?")[0].replace("9b-secret-1", "{receipt}")
        expected = {"problem": problem, "status": status, "method": method, "path": shown}
        assert expected.items() <= each.items()
        assert each.get("queue") == queue
        assert each["trace_id"] == answer.headers["x-trace-id"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(each["time"]))
    assert "secret" not in str(told)
    assert await last(zapq_server, "?limit=2") == told[:2]


async def test_those_that_could_not_be_read_are_told_as_well(zapq_server: ZapqServer) -> None:
    assert (await ask(zapq_server.url, "GET", "/none/receipts/abc/x")).status == 404
    for unreadable in (b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"\x16\x03\x01\r\n\r\n"):
        async with connection(zapq_server.url) as stream:
            await stream.send_all(unreadable)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 400 ")
    unread, version, unknown = await last(zapq_server)
    assert unknown["path"] == "/none/receipts/{receipt}/x"
    assert version["path"] == "/livez"
    assert "path" not in unread


@pytest.mark.parametrize("path", ["%72eceipts/9b-secret", "receipts%2F9b-secret", "receipts//9b-secret"])
async def test_a_receipt_is_not_told_however_it_was_sent(zapq_server: ZapqServer, path: str) -> None:
    assert (await ask(zapq_server.url, "DELETE", f"/queues/none/{path}")).status in {400, 404}
    [told] = await last(zapq_server)
    assert re.fullmatch("/queues/none/receipts/+{receipt}", str(told["path"]))


async def test_a_client_of_sqs_is_told_by_its_code(zapq_server: ZapqServer) -> None:
    fields = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": "AmazonSQS.GetQueueUrl"}
    for more in ({}, COLD):
        answer = await ask(zapq_server.url, "POST", "/", b'{"QueueName": "none"}', headers={**fields, **more})
        assert answer.status == 400
    fast, quart = await last(zapq_server)
    for each in (fast, quart):
        assert (each["method"], each["path"], each["status"]) == ("POST", "/", 400)
    fields["X-Amz-Target"] = "AmazonSQS.SendMessageBatch"
    entries = b'{"QueueUrl": "http://x/000000000000/default", "Entries": []}'
    assert (await ask(zapq_server.url, "POST", "/", entries, headers=fields)).status == 400
    [code] = [each["problem"] for each in await last(zapq_server, "?limit=1")]
    # A code that only SQS has is counted as well.
    text = (await ask(zapq_server.url, "GET", "/metrics/prometheus")).body.decode()
    assert f'zapq_refusals_total{{problem="{code}"}} 1\n' in text


async def test_a_limit_is_one_to_all_there_are(zapq_server: ZapqServer) -> None:
    for limit in ("0", str(REFUSALS_KEPT + 1), "x"):
        assert (await ask(zapq_server.url, "GET", f"/refusals?limit={limit}")).status == 400


def test_no_more_than_some_are_kept() -> None:
    kept = LastRefused()
    for number in range(2 * REFUSALS_KEPT):
        kept.note(Refused(0.0, "not-found", 404, str(number)))
    assert [each.trace_id for each in kept.latest(2)] == [str(2 * REFUSALS_KEPT - 1), str(2 * REFUSALS_KEPT - 2)]
    assert len(list(kept.latest(1000))) == REFUSALS_KEPT
