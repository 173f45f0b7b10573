"""What the tests of the queue endpoints have in common."""

from __future__ import annotations

import pytest

from tests.http.test_contract import assert_problem
from tests.support.wire import Answer, ask
from zapq.testing import ZapqServer

QUEUE = "/queues/emails"
MSGPACK = {"Content-Type": "application/msgpack"}
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
NDJSON = {"Content-Type": "application/x-ndjson"}
COLD = {"TE": "trailers"}
ROADS = pytest.mark.parametrize("fields", [{}, COLD], ids=["hot", "long"])


async def receive(server: ZapqServer, parameters: str = "") -> Answer:
    answer = await ask(server.url, "POST", f"{QUEUE}/receive{parameters}")
    assert answer.status == 200
    return answer


async def expect_refused(server: ZapqServer, query: str, parameter: str, fields: dict[str, str]) -> None:
    """Send a message with this query, and see it refused because of `parameter`."""
    refused = await ask(server.url, "POST", f"{QUEUE}/messages?{query}", b"x", fields)
    assert refused.status == 400
    assert_problem(refused, "invalid-parameter")
    assert refused.json["parameter"] == parameter
