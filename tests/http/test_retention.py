"""Messages over time, over a real server: they are dropped, or they change queues and are found again."""

from __future__ import annotations

import pytest

from tests.http.asking import COLD, QUEUE
from tests.support.waiting import eventually
from tests.support.wire import ask
from zapq.core.queue_settings import QueueSettings
from zapq.testing import ZapqServer


async def until_dropped(server: ZapqServer) -> None:
    async def is_dropped() -> bool:
        queue = (await ask(server.url, "GET", QUEUE)).json
        return bool(queue["messages"] == 0 and queue["expired"] == 1)

    await eventually(is_dropped, "the message to be dropped")


async def test_a_retention_that_is_lowered_holds_for_what_is_there(zapq_server: ZapqServer) -> None:
    await ask(zapq_server.url, "PUT", QUEUE, b'{"retention": 60}')
    await ask(zapq_server.url, "POST", f"{QUEUE}/messages", b"x")
    await ask(zapq_server.url, "PATCH", QUEUE, b'{"retention": 0.001}')
    await until_dropped(zapq_server)


async def test_a_retention_is_a_duration_and_drops_what_is_older(zapq_server: ZapqServer) -> None:
    for written, seconds in (('"4d"', 345_600), ("60", 60), ('"0.5h"', 1800)):
        changes = f'{{"retention": {written}}}'.encode()
        made = await ask(zapq_server.url, "PUT", QUEUE, changes)
        assert made.json["settings"]["retention"] == seconds
    lowered = await ask(zapq_server.url, "PATCH", QUEUE, b'{"retention": 0.001}')
    assert lowered.json["settings"]["retention"] == 0.001
    await ask(zapq_server.url, "POST", f"{QUEUE}/messages", b"x")
    await until_dropped(zapq_server)
    for wrong in (b'{"retention": 0}', b'{"retention": "1y"}', b'{"retention": -1}'):
        refused = await ask(zapq_server.url, "PUT", QUEUE, wrong)
        assert refused.status == 400
        assert "retention" in refused.json["detail"]


@pytest.mark.parametrize("road", [{}, COLD], ids=["hot", "long"])
async def test_a_message_can_be_followed_by_the_id_its_producer_was_told(
    zapq_server: ZapqServer, road: dict[str, str]
) -> None:
    service, url = zapq_server.service, zapq_server.url
    await service.configure("emails", QueueSettings(max_receives=1, dead_letter="dead"))
    await service.queue("dead").enqueue(b"of its own")
    await ask(url, "POST", f"{QUEUE}/messages", b"1", road)
    sent = await ask(url, "POST", f"{QUEUE}/messages", b"2", road)
    for _ in range(2):
        lease = await service.queue("emails").receive()
        assert lease is not None
        await service.queue("emails").release(lease.receipt)
    where = await ask(url, "GET", sent.headers["location"], b"", road)
    assert (where.status, where.json["now_in"], where.json["now_id"]) == (404, "dead", 3)
    assert where.json["detail"] == "The message failed, and is message 3 of dead now. Look for it there."
    there = (await ask(url, "GET", "/queues/dead/messages/3", b"", road)).json
    assert (there["failed_in"], there["origin"], there["receive_count"]) == ("emails", "emails/2", 1)
    own = (await ask(url, "GET", "/queues/dead/messages/1", b"", road)).json
    assert own["body"] == "b2YgaXRzIG93bg=="
    assert own.keys().isdisjoint({"failed_in", "origin"})
    await service.queue("dead").dequeue()
    letter = await ask(url, "POST", "/queues/dead/receive", b"", road)
    assert (letter.headers["zapq-message-id"], letter.headers["zapq-origin"]) == ("2", "emails/1")
    assert letter.headers["zapq-receive-count"] == "2"
    assert (await ask(url, "POST", "/queues/dead/redrive", b"", road)).json == {"moved": 1, "left": 0}
    back = (await ask(url, "GET", sent.headers["location"], b"", road)).json
    assert (back["id"], back["origin"], back["receive_count"]) == (3, "emails/2", 1)
    batch = await ask(url, "POST", f"{QUEUE}/receive/batch", b"", {**road, "Accept": "application/json"})
    assert [(each["id"], each["origin"], each["receive_count"]) for each in batch.json] == [(3, "emails/2", 2)]
