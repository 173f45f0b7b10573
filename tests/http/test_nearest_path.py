"""A path that is misspelt is told the endpoint it most likely means."""

from __future__ import annotations

import pytest

from tests.support.wire import ask
from zapq.http.routing import nearest_path
from zapq.testing import ZapqServer


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("/queue/jobs/messages", "/queues/{queue}/messages"),
        ("/queues/jobs/message", "/queues/{queue}/messages"),
        ("/queues/jobs/messages/", "/queues/{queue}/messages"),
        ("/queues/jobs/recieve", "/queues/{queue}/receive"),
        ("/queues/jobs/receive/bacth", "/queues/{queue}/receive/batch"),
        ("/queues/jobs/messages/abc", "/queues/{queue}/messages/{id}"),
        ("/enque", "/enqueue"),
        ("/metric", "/metrics"),
        ("/queues/jobs/receipts/1-2-3/ack", None),
        ("/queues/jobs/stats", None),
        ("/wp-login.php", None),
        ("/" + "queues" * 1000, None),
        ("/" + "a/" * 1000, None),
        ("/", None),
    ],
)
def test_the_nearest_endpoint_is_found(path: str, near: str | None) -> None:
    assert nearest_path(path) == near


async def test_a_misspelt_path_is_told_the_right_one(zapq_server: ZapqServer) -> None:
    refused = await ask(zapq_server.url, "POST", "/queues/jobs/recieve")
    assert refused.status == 404
    assert "with this path. Did you mean /queues/{queue}/receive? GET /openapi.json" in refused.json["detail"]
