"""ReceiveRequestAttemptId: a consumer that got no answer from a FIFO queue asks again and gets the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.sqs.clients import Boto, tell
from tests.support.serving import serving
from zapq.settings import Settings


async def filled(boto: Boto, *bodies: str, name: str = "jobs.fifo") -> str:
    attributes = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
    url = await boto.make(name, **attributes)
    for at, body in enumerate(bodies):
        sent = {"MessageGroupId": body[0], "MessageDeduplicationId": str(at)} if attributes else {}
        await boto("send_message", QueueUrl=url, MessageBody=body, **sent)
    return url


async def receive(boto: Boto, url: str, attempt: str = "one", **members: Any) -> list[tuple[str, str]]:
    members = {"MaxNumberOfMessages": 10, "ReceiveRequestAttemptId": attempt, **members}
    got = (await boto("receive_message", QueueUrl=url, **members)).get("Messages", [])
    return [(each["Body"], each["ReceiptHandle"]) for each in got]


@pytest.mark.parametrize("road", ["hot", "quart", "durable", "workers"])
async def test_the_same_attempt_gives_the_same_messages_by_the_same_receipts(
    zapq_settings: Settings, tmp_path: Path, road: str
) -> None:
    settings = {
        "hot": zapq_settings,
        "quart": replace(zapq_settings, hot_path=False),
        "durable": replace(zapq_settings, durable=True, data_dir=str(tmp_path)),
        "workers": replace(zapq_settings, workers=2),
    }[road]
    async with serving(settings) as server:
        boto = Boto(server)
        url = await filled(boto, "a1", "a2", "b1", "c1")
        first = await receive(boto, url, MaxNumberOfMessages=3)
        assert [body for body, _ in first] == ["a1", "a2", "b1"]
        for _ in range(3):
            assert await receive(Boto(server), url, MaxNumberOfMessages=3) == first
        other = await receive(boto, url, "two")
        assert [body for body, _ in other] == ["c1"]
        assert await receive(boto, url, "three") == []
        for _, handle in first:
            await boto("delete_message", QueueUrl=url, ReceiptHandle=handle)
        assert await receive(boto, url) == []
        assert await receive(boto, url, "two") == other


@pytest.mark.parametrize("action", ["delete_message", "change_message_visibility"])
async def test_an_attempt_of_which_a_message_was_changed_is_one_anew(boto: Boto, action: str) -> None:
    url = await filled(boto, "a1", "b1", "c1")
    first = await receive(boto, url, MaxNumberOfMessages=2)
    changed = {"VisibilityTimeout": 60} if action == "change_message_visibility" else {}
    await boto(action, QueueUrl=url, ReceiptHandle=first[0][1], **changed)
    assert [body for body, _ in await receive(boto, url)] == ["c1"]


async def test_to_ask_again_lets_the_leases_begin_anew(boto: Boto) -> None:
    url = await filled(boto, "a1")
    first = await receive(boto, url, VisibilityTimeout=600)
    assert await receive(boto, url, VisibilityTimeout=0) == first
    assert [body for body, _ in await receive(boto, url, "two")] == ["a1"]
    assert await receive(boto, url) == []


async def test_a_standard_queue_has_no_attempts(boto: Boto) -> None:
    url = await filled(boto, "a", "b", name="jobs")
    first = await receive(boto, url, MaxNumberOfMessages=1)
    assert [body for body, _ in await receive(boto, url, MaxNumberOfMessages=1)] != [first[0][0]]


@pytest.mark.parametrize("attempt", ["", "a b", "x" * 129, "\x7f"])
async def test_an_attempt_id_is_checked(boto: Boto, zapq_server: Any, attempt: str) -> None:
    await filled(boto, "a1")
    members = {"QueueUrl": "jobs.fifo", "ReceiveRequestAttemptId": attempt}
    answer = await tell(zapq_server.url, "ReceiveMessage", members)
    assert answer.status == 400
    assert "ReceiveRequestAttemptId can only include alphanumeric" in answer.json["message"]
