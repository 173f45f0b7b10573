"""FIFO queues through boto3: order within groups, duplicates, and receipts that expire."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
import trio

from tests.sqs.clients import REGION, Boto, tell
from tests.support.serving import serving
from tests.support.waiting import eventually
from zapq.settings import Settings
from zapq.testing import ZapqServer


async def make(boto: Boto, name: str = "jobs.fifo", **attributes: str) -> str:
    return await boto.make(name, FifoQueue="true", **attributes)


async def send(boto: Boto, url: str, body: str, group: str = "g", **members: Any) -> dict[str, Any]:
    return await boto("send_message", QueueUrl=url, MessageBody=body, MessageGroupId=group, **members)


async def receive(boto: Boto, url: str, most: int = 10, **members: Any) -> list[dict[str, Any]]:
    got = await boto("receive_message", QueueUrl=url, MaxNumberOfMessages=most, AttributeNames=["All"], **members)
    messages: list[dict[str, Any]] = got.get("Messages", [])
    return messages


async def delete(boto: Boto, url: str, message: dict[str, Any]) -> None:
    await boto("delete_message", QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])


async def test_a_fifo_queue_says_that_it_is_one(boto: Boto) -> None:
    url = await make(boto, ContentBasedDeduplication="true")
    shown = await boto.attributes(url)
    expected = {
        "FifoQueue": "true",
        "ContentBasedDeduplication": "true",
        "DeduplicationScope": "queue",
        "FifoThroughputLimit": "perQueue",
    }
    assert {name: shown[name] for name in expected} == expected
    assert await make(boto) == await make(boto, ContentBasedDeduplication="true") == url
    attributes = {"FifoQueue": "true", "ContentBasedDeduplication": "false"}
    refused = await boto.refused("create_queue", QueueName="jobs.fifo", Attributes=attributes)
    assert refused.message.endswith("a different value for attribute ContentBasedDeduplication")
    refused = await boto.refused("set_queue_attributes", QueueUrl=url, Attributes={"FifoQueue": "true"})
    assert (
        refused.message
        == "Invalid value for the parameter FifoQueue. Reason: Modifying queue type is not supported."
    )
    for name, attributes in (("jobs", {"FifoQueue": "true"}), ("other.fifo", {}), ("jobs", {"FifoQueue": "x"})):
        refused = await boto.refused("create_queue", QueueName=name, Attributes=attributes)
        assert refused.code in {"InvalidParameterValue", "InvalidAttributeName"}


async def test_a_group_is_in_order_and_waits_for_what_is_in_flight(boto: Boto) -> None:
    url = await make(boto, ContentBasedDeduplication="true")
    for body, group in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a")):
        await send(boto, url, body, group)
    [first] = await receive(boto, url, 1)
    assert (first["Body"], first["Attributes"]["MessageGroupId"]) == ("a1", "a")
    [other] = await receive(boto, url)
    assert other["Body"] == "b1"
    await delete(boto, url, first)
    rest = await receive(boto, url)
    assert [each["Body"] for each in rest] == ["a2", "a3"]
    change = {"QueueUrl": url, "ReceiptHandle": rest[0]["ReceiptHandle"], "VisibilityTimeout": 0}
    await boto("change_message_visibility", **change)
    again = await receive(boto, url)
    assert [each["Body"] for each in again] in (["a2"], [])


async def test_a_poll_wakes_when_what_was_in_flight_is_deleted(boto: Boto, zapq_server: ZapqServer) -> None:
    url = await make(boto, ContentBasedDeduplication="true")
    for body in ("a", "b"):
        await send(boto, url, body)
    [first] = await receive(boto, url, 1)
    got: list[dict[str, Any]] = []

    async def poll() -> None:
        got.extend(await receive(boto, url, WaitTimeSeconds=20))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll)
        while not zapq_server.service.stats().waiting:
            await trio.sleep(0.01)
        await delete(boto, url, first)
    assert [each["Body"] for each in got] == ["b"]


async def test_sequence_numbers_grow_and_ids_of_duplicates_are_those_of_the_first(boto: Boto) -> None:
    url = await make(boto)
    sent = [await send(boto, url, body, MessageDeduplicationId=body) for body in ("a", "b")]
    assert sent[0]["SequenceNumber"] < sent[1]["SequenceNumber"]
    assert {len(each["SequenceNumber"]) for each in sent} == {20}
    again = await send(boto, url, "other", "h", MessageDeduplicationId="a")
    for name in ("MessageId", "SequenceNumber"):
        assert again[name] == sent[0][name]
    assert again["MD5OfMessageBody"] != sent[0]["MD5OfMessageBody"], "that of the request"
    got = await receive(boto, url)
    assert [each["Body"] for each in got] == ["a", "b"]
    system = got[0]["Attributes"]
    assert (system["SequenceNumber"], system["MessageDeduplicationId"]) == (sent[0]["SequenceNumber"], "a")
    for each in got:
        await delete(boto, url, each)
    await send(boto, url, "a", MessageDeduplicationId="a")
    assert await receive(boto, url) == [], "a duplicate is one also when the message is deleted"


async def test_duplicates_by_content_are_told_by_the_body_alone(boto: Boto) -> None:
    url = await make(boto, ContentBasedDeduplication="true")
    attribute = {"a": {"DataType": "String", "StringValue": "x"}}
    first = await send(boto, url, "a")
    for members in ({"MessageAttributes": attribute}, {"MessageDeduplicationId": sha256(b"a").hexdigest()}):
        assert (await send(boto, url, "a", **members))["MessageId"] == first["MessageId"]
    assert (await send(boto, url, "a", MessageDeduplicationId="x"))["MessageId"] != first["MessageId"]


@pytest.mark.parametrize(("scope", "number"), [("queue", 1), ("messageGroup", 2)])
async def test_the_scope_is_that_of_the_making(boto: Boto, scope: str, number: int) -> None:
    url = await make(boto, ContentBasedDeduplication="true", DeduplicationScope=scope)
    later = {"queue": "messageGroup", "messageGroup": "queue"}[scope]
    await boto("set_queue_attributes", QueueUrl=url, Attributes={"DeduplicationScope": later})
    for group in ("a", "b", "a"):
        await send(boto, url, "same", group)
    assert len(await receive(boto, url)) == number


async def test_a_purge_forgets_what_was_sent(boto: Boto) -> None:
    url = await make(boto, ContentBasedDeduplication="true")
    await send(boto, url, "a")
    await boto("purge_queue", QueueUrl=url)
    await send(boto, url, "a")
    assert len(await receive(boto, url)) == 1


async def test_what_a_message_needs_and_cannot_have(boto: Boto, zapq_server: ZapqServer) -> None:
    url = await make(boto)
    refused = await boto.refused("send_message", QueueUrl=url, MessageBody="x", MessageDeduplicationId="d")
    assert (refused.code, refused.message) == (
        "MissingParameter",
        "The request must contain the parameter MessageGroupId.",
    )
    refused = await boto.refused("send_message", QueueUrl=url, MessageBody="x", MessageGroupId="g")
    assert (refused.code, refused.message) == (
        "InvalidParameterValue",
        "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided"
        " explicitly",
    )
    members = {"QueueUrl": url, "MessageBody": "x", "MessageGroupId": "g", "MessageDeduplicationId": "d"}
    refused = await boto.refused("send_message", **members, DelaySeconds=2)
    assert refused.message == (
        "Value 2 for parameter DelaySeconds is invalid. Reason: The request include parameter that is not valid"
        " for this queue type."
    )
    await boto("send_message", **members, DelaySeconds=0)
    answer = await tell(zapq_server.url, "SendMessage", {**members, "MessageGroupId": ""})
    assert answer.status == 400
    entries = [{"Id": "a", "MessageBody": "x"}, {"Id": "b", "MessageBody": "y", "MessageGroupId": "g"}]
    failed = (await boto("send_message_batch", QueueUrl=url, Entries=entries))["Failed"]
    assert {each["Code"] for each in failed} == {"InvalidParameterValue"}


async def test_an_expired_receipt_is_refused(boto: Boto) -> None:
    url = await make(boto, ContentBasedDeduplication="true", VisibilityTimeout="0")
    await send(boto, url, "a")
    [first] = await receive(boto, url)
    handle = first["ReceiptHandle"]
    expired = f"Value {handle} for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired."

    async def check() -> None:
        refused = await boto.refused("delete_message", QueueUrl=url, ReceiptHandle=handle)
        assert (refused.code, refused.message) == ("InvalidParameterValue", expired)
        entries = [{"Id": "x", "ReceiptHandle": handle}]
        failed = (await boto("delete_message_batch", QueueUrl=url, Entries=entries))["Failed"]
        assert [each["Message"] for each in failed] == [expired]

    await check()
    [second] = await receive(boto, url, VisibilityTimeout=60)
    await check()
    entries = [{"Id": "x", "ReceiptHandle": second["ReceiptHandle"]}]
    done = await boto("delete_message_batch", QueueUrl=url, Entries=entries)
    assert done == {"Successful": [{"Id": "x"}]}
    await delete(boto, url, second)  # again
    assert await boto("delete_message_batch", QueueUrl=url, Entries=entries) == done


async def test_dead_letters_go_from_fifo_to_fifo(boto: Boto) -> None:
    await boto.make("dead")
    await make(boto, "dead.fifo")
    policies = {
        name: json.dumps({
            "deadLetterTargetArn": f"arn:aws:sqs:{REGION}:000000000000:{name}",
            "maxReceiveCount": 1,
        })
        for name in ("dead", "dead.fifo")
    }
    attributes = {"FifoQueue": "true", "RedrivePolicy": policies["dead"]}
    refused = await boto.refused("create_queue", QueueName="jobs.fifo", Attributes=attributes)
    assert refused.code == "InvalidParameterValue"
    url = await make(boto, VisibilityTimeout="0", RedrivePolicy=policies["dead.fifo"])
    await send(boto, "dead.fifo", "of its own", MessageDeduplicationId="own")
    await boto("purge_queue", QueueUrl="dead.fifo")
    sent = [await send(boto, url, body, MessageDeduplicationId=body) for body in ("a", "b")]
    assert [each["Body"] for each in await receive(boto, url, 1)] == ["a"]
    assert [each["Body"] for each in await receive(boto, url, 1)] == ["b"], "the group goes on"
    assert await receive(boto, url) == []

    async def have_arrived() -> bool:
        told = await boto("get_queue_attributes", QueueUrl="dead.fifo", AttributeNames=["All"])
        return bool(told["Attributes"]["ApproximateNumberOfMessages"] == "2")

    # Between shards of an engine they are on their way for a moment.
    await eventually(have_arrived, "both dead letters")
    letters = await receive(boto, "dead.fifo")
    assert [(each["Body"], each["Attributes"]["MessageGroupId"]) for each in letters] == [("a", "g"), ("b", "g")]
    assert letters[0]["Attributes"]["MessageDeduplicationId"] == "a"
    assert [(each["MessageId"], each["Attributes"]["SequenceNumber"]) for each in letters] == [
        (each["MessageId"], each["SequenceNumber"]) for each in sent
    ]


@pytest.mark.parametrize("changes", [{"durable": True}, {"hot_path": False}, {"workers": 2}])
async def test_order_and_duplicates_hold_everywhere(zapq_settings: Settings, changes: dict[str, Any]) -> None:
    settings = replace(zapq_settings, **changes)
    async with serving(settings) as server:
        boto = Boto(server)
        url = await make(boto, ContentBasedDeduplication="true")
        entries = [{"Id": str(n), "MessageBody": str(n), "MessageGroupId": "g"} for n in range(5)]
        for _ in range(2):
            sent = await boto("send_message_batch", QueueUrl=url, Entries=entries)
            assert len(sent["Successful"]) == 5
        for number in range(2):
            [message] = await receive(boto, url, 1)
            assert message["Body"] == str(number)
            await delete(boto, url, message)
    if settings.durable:
        async with serving(settings) as server:
            boto = Boto(server)
            await boto("send_message_batch", QueueUrl=url, Entries=entries)
            assert [each["Body"] for each in await receive(boto, "jobs.fifo")] == ["2", "3", "4"]


async def test_a_deduplication_id_is_never_forgotten_early_and_more_than_fit_are_throttled(
    zapq_settings: Settings,
) -> None:
    async with serving(replace(zapq_settings, max_deduplication_ids=2)) as url:
        boto = Boto(url)
        queue = await make(boto, ContentBasedDeduplication="true")
        first = await send(boto, queue, "a")
        await send(boto, queue, "b")
        refused = await boto.refused("send_message", QueueUrl=queue, MessageBody="c", MessageGroupId="g")
        assert (refused.shape, refused.code, refused.status) == ("RequestThrottled", "RequestThrottled", 429)
        entries = [{"Id": body, "MessageBody": body, "MessageGroupId": "g"} for body in "ac"]
        batch = await boto("send_message_batch", QueueUrl=queue, Entries=entries)
        assert [each["MessageId"] for each in batch["Successful"]] == [first["MessageId"]]
        assert [each["Code"] for each in batch["Failed"]] == ["RequestThrottled"]
        assert [each["Body"] for each in await receive(boto, queue)] == ["a", "b"]
