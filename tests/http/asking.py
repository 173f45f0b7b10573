"""What the tests of the queue endpoints have in common."""

from __future__ import annotations

from tests.support.wire import Answer, ask
from zapq.testing import ZapqServer

QUEUE = "/queues/emails"
MSGPACK = {"Content-Type": "application/msgpack"}
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
NDJSON = {"Content-Type": "application/x-ndjson"}
COLD = {"TE": "trailers"}


async def receive(server: ZapqServer, parameters: str = "") -> Answer:
    answer = await ask(server.url, "POST", f"{QUEUE}/receive{parameters}")
    assert answer.status == 200
    return answer
