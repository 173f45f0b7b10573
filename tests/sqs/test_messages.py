"""Messages through boto3: sent, received, deleted; what a receipt is still good for."""

from __future__ import annotations

from functools import partial
from hashlib import md5
from typing import Any

import pytest
import trio

from tests.http.asking import receive as receive_natively
from tests.sqs.clients import Boto, Refused
from tests.support.wire import ask
from zapq.testing import ZapqServer

ATTRIBUTES: dict[str, Any] = {
    "author.name": {"DataType": "String", "StringValue": "Zoë"},
    "author.age": {"DataType": "Number.int", "StringValue": "41"},
    "picture": {"DataType": "Binary.png", "BinaryValue": b"\0\xff"},
}
GONE = "Message does not exist or is not available for visibility timeout change."


def invalid(message: str) -> Refused:
    return Refused("ClientError", "InvalidParameterValue", message, 400)


async def test_a_message_comes_back_as_it_was_sent(boto: Boto) -> None:
    url = await boto.make()
    body = "hällo\t<&>\r\n\U0001f600"
    sent = await boto("send_message", QueueUrl=url, MessageBody=body, MessageAttributes=ATTRIBUTES)
    assert sent["MD5OfMessageBody"] == md5(body.encode()).hexdigest()
    message = await boto.one(url, MessageAttributeNames=["All"], MessageSystemAttributeNames=["All"])
    assert (message["Body"], message["MD5OfBody"]) == (body, sent["MD5OfMessageBody"])
    assert message["MessageAttributes"] == ATTRIBUTES
    assert message["MD5OfMessageAttributes"] == sent["MD5OfMessageAttributes"]
    assert message["MessageId"] == sent["MessageId"]
    system = message["Attributes"]
    assert system.keys() == {
        "SenderId",
        "SentTimestamp",
        "ApproximateReceiveCount",
        "ApproximateFirstReceiveTimestamp",
    }
    assert system["ApproximateReceiveCount"] == "1"
    assert 0 <= int(system["ApproximateFirstReceiveTimestamp"]) - int(system["SentTimestamp"]) < 60_000
    await boto("delete_message", QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    await boto("delete_message", QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    assert await boto("receive_message", QueueUrl=url) == {}


async def test_what_is_not_asked_for_is_not_there(boto: Boto) -> None:
    url = await boto.make()
    await boto("send_message", QueueUrl=url, MessageBody="x", MessageAttributes=ATTRIBUTES)
    message = await boto.one(url)
    assert message.keys() == {"MessageId", "ReceiptHandle", "MD5OfBody", "Body"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["author.*"], {"author.name", "author.age"}),
        (["author.age", "nothing"], {"author.age"}),
        ([".*"], set(ATTRIBUTES)),
        (["All"], set(ATTRIBUTES)),
        (["nothing"], set()),
    ],
)
async def test_attributes_are_chosen_by_name_or_prefix(boto: Boto, names: list[str], expected: set[str]) -> None:
    url = await boto.make()
    await boto("send_message", QueueUrl=url, MessageBody="x", MessageAttributes=ATTRIBUTES)
    message = await boto.one(url, MessageAttributeNames=names)
    assert message.get("MessageAttributes", {}).keys() == expected
    assert ("MD5OfMessageAttributes" in message) == bool(expected)


async def test_system_attributes_are_chosen_by_the_old_name_of_the_parameter_or_the_new_one(boto: Boto) -> None:
    url = await boto.make(VisibilityTimeout="0")
    trace = {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1-2"}}
    await boto("send_message", QueueUrl=url, MessageBody="x", MessageSystemAttributes=trace, MessageGroupId="g")
    old = await boto.one(url, AttributeNames=["SentTimestamp"])
    assert old["Attributes"].keys() == {"SentTimestamp"}
    new = await boto.one(url, MessageSystemAttributeNames=["AWSTraceHeader", "MessageGroupId"])
    assert new["Attributes"] == {"AWSTraceHeader": "Root=1-2", "MessageGroupId": "g"}
    refused = await boto.refused("receive_message", QueueUrl=url, AttributeNames=["Colour"])
    assert refused == Refused("InvalidAttributeName", "InvalidAttributeName", "Unknown Attribute Colour.", 400)


async def test_a_message_keeps_its_id_and_its_count_goes_on(boto: Boto) -> None:
    url = await boto.make(VisibilityTimeout="0")
    sent = await boto("send_message", QueueUrl=url, MessageBody="x")
    got = [await boto.one(url, AttributeNames=["All"]) for _ in range(3)]
    assert {each["MessageId"] for each in got} == {sent["MessageId"]}
    assert len({each["ReceiptHandle"] for each in got}) == 3
    assert [each["Attributes"]["ApproximateReceiveCount"] for each in got] == ["1", "2", "3"]
    assert len({each["Attributes"]["SentTimestamp"] for each in got}) == 1


async def test_ids_differ_from_message_to_message_and_from_queue_to_queue(boto: Boto) -> None:
    urls = [await boto.make(name) for name in ("a", "b")]
    sent = [await boto("send_message", QueueUrl=url, MessageBody="x") for url in urls for _ in range(2)]
    assert len({each["MessageId"] for each in sent}) == 4


async def test_a_delay_is_that_of_the_message_or_of_its_queue(boto: Boto) -> None:
    url = await boto.make(DelaySeconds="900")
    await boto("send_message", QueueUrl=url, MessageBody="later")
    await boto("send_message", QueueUrl=url, MessageBody="now", DelaySeconds=0)
    assert (await boto.one(url))["Body"] == "now"
    assert (await boto.attributes(url))["ApproximateNumberOfMessagesDelayed"] == "1"


async def test_a_poll_waits_as_long_as_it_says_or_its_queue_does(boto: Boto, zapq_server: ZapqServer) -> None:
    url = await boto.make(ReceiveMessageWaitTimeSeconds="20")
    got: list[dict[str, Any]] = []

    async def poll(**members: Any) -> None:
        got.append(await boto.one(url, **members))

    waits: list[dict[str, Any]] = [{"WaitTimeSeconds": 20}, {}]
    for members in waits:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(poll, **members))
            while not zapq_server.service.stats().waiting:
                await trio.sleep(0.01)
            await boto("send_message", QueueUrl=url, MessageBody="x")
        await boto("delete_message", QueueUrl=url, ReceiptHandle=got[-1]["ReceiptHandle"])
    assert [each["Body"] for each in got] == ["x", "x"]
    assert await boto("receive_message", QueueUrl=url, WaitTimeSeconds=0) == {}


async def test_an_old_receipt_still_deletes(boto: Boto) -> None:
    url = await boto.make(VisibilityTimeout="0")
    await boto("send_message", QueueUrl=url, MessageBody="x")
    first = await boto.one(url)
    await boto.one(url, VisibilityTimeout=60)
    await boto("delete_message", QueueUrl=url, ReceiptHandle=first["ReceiptHandle"])
    counts = await boto.attributes(url)
    assert (counts["ApproximateNumberOfMessages"], counts["ApproximateNumberOfMessagesNotVisible"]) == ("0", "0")


async def test_visibility_can_be_ended_at_once_and_prolonged(boto: Boto) -> None:
    url = await boto.make()
    await boto("send_message", QueueUrl=url, MessageBody="x")
    first = await boto.one(url)
    assert await boto("receive_message", QueueUrl=url) == {}
    change: dict[str, Any] = {"QueueUrl": url, "ReceiptHandle": first["ReceiptHandle"]}
    await boto("change_message_visibility", **change, VisibilityTimeout=0)
    second = await boto.one(url, VisibilityTimeout=1)
    await boto(
        "change_message_visibility", QueueUrl=url, ReceiptHandle=second["ReceiptHandle"], VisibilityTimeout=60
    )
    await boto("delete_message", QueueUrl=url, ReceiptHandle=second["ReceiptHandle"])
    handle = second["ReceiptHandle"]
    refused = await boto.refused(
        "change_message_visibility", QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=1
    )
    assert refused == invalid(f"Value {handle} for parameter ReceiptHandle is invalid. Reason: {GONE}")
    refused = await boto.refused("change_message_visibility", **change, VisibilityTimeout=43_201)
    assert refused.code == "InvalidParameterValue"


async def test_batches_succeed_entry_by_entry(boto: Boto) -> None:
    url = await boto.make()
    entries = [
        {"Id": "a", "MessageBody": "1"},
        {"Id": "b", "MessageBody": "\0"},
        {"Id": "c", "MessageBody": "3", "DelaySeconds": 901},
        {"Id": "d", "MessageBody": "4", "MessageAttributes": ATTRIBUTES},
    ]
    sent = await boto("send_message_batch", QueueUrl=url, Entries=entries)
    assert [each["Id"] for each in sent["Successful"]] == ["a", "d"]
    failed = {each["Id"]: (each["Code"], each["SenderFault"]) for each in sent["Failed"]}
    assert failed == {"b": ("InvalidMessageContents", True), "c": ("InvalidParameterValue", True)}
    got = (await boto("receive_message", QueueUrl=url, MaxNumberOfMessages=10))["Messages"]
    assert [each["Body"] for each in got] == ["1", "4"]
    assert [each["MessageId"] for each in got] == [each["MessageId"] for each in sent["Successful"]]
    handles = {"a": got[0]["ReceiptHandle"], "bad": "garbage", "d": got[1]["ReceiptHandle"]}
    longer = [{"Id": id, "ReceiptHandle": each, "VisibilityTimeout": 60} for id, each in handles.items()]
    changed = await boto("change_message_visibility_batch", QueueUrl=url, Entries=longer)
    done = [{"Id": id, "ReceiptHandle": each} for id, each in handles.items()]
    deleted = await boto("delete_message_batch", QueueUrl=url, Entries=done)
    for answer in (changed, deleted):
        assert [each["Id"] for each in answer["Successful"]] == ["a", "d"]
        [failure] = answer["Failed"]
        assert (failure["Id"], failure["Code"]) == ("bad", "ReceiptHandleIsInvalid")
    again = await boto("delete_message_batch", QueueUrl=url, Entries=[done[0]])
    assert again == {"Successful": [{"Id": "a"}]}
    changed = await boto("change_message_visibility_batch", QueueUrl=url, Entries=[longer[0]])
    assert [each["Code"] for each in changed["Failed"]] == ["InvalidParameterValue"]


async def test_a_dead_letter_says_where_it_failed(boto: Boto) -> None:
    dead = await boto.make("dead")
    arn = (await boto.attributes(dead))["QueueArn"]
    policy = f'{{"deadLetterTargetArn":"{arn}","maxReceiveCount":"2"}}'
    url = await boto.make("jobs", VisibilityTimeout="0", RedrivePolicy=policy)
    sent = await boto("send_message", QueueUrl=url, MessageBody="x", MessageAttributes=ATTRIBUTES)
    for _ in range(2):
        await boto.one(url)
    assert await boto("receive_message", QueueUrl=url) == {}
    letter = await boto.one(dead, AttributeNames=["All"], MessageAttributeNames=["All"])
    assert letter["Body"] == "x"
    assert letter["MessageAttributes"] == ATTRIBUTES
    assert letter["Attributes"]["DeadLetterQueueSourceArn"] == (await boto.attributes(url))["QueueArn"]
    assert sent["MD5OfMessageBody"] == letter["MD5OfBody"]
    sources = await boto("list_dead_letter_source_queues", QueueUrl=dead)
    assert sources == {"queueUrls": [url]}


async def test_a_dead_letter_is_the_message_it_was_and_goes_on_counting(boto: Boto) -> None:
    dead = await boto.make("dead", VisibilityTimeout="0")
    arn = (await boto.attributes(dead))["QueueArn"]
    policy = f'{{"deadLetterTargetArn":"{arn}","maxReceiveCount":"2"}}'
    url = await boto.make("jobs", VisibilityTimeout="0", RedrivePolicy=policy)
    await boto("send_message", QueueUrl=dead, MessageBody="of its own")
    own = await boto.one(dead)
    await boto("delete_message", QueueUrl=dead, ReceiptHandle=own["ReceiptHandle"])
    sent = await boto("send_message", QueueUrl=url, MessageBody="x")
    received = [await boto.one(url, AttributeNames=["All"]) for _ in range(2)]
    assert await boto("receive_message", QueueUrl=url) == {}
    assert "DeadLetterQueueSourceArn" not in received[1]["Attributes"]
    received += [await boto.one(dead, AttributeNames=["All"]) for _ in range(2)]
    assert {each["MessageId"] for each in received} == {sent["MessageId"]}
    assert own["MessageId"] != sent["MessageId"]
    assert len({each["Attributes"]["SentTimestamp"] for each in received}) == 1
    assert [each["Attributes"]["ApproximateReceiveCount"] for each in received] == ["1", "2", "3", "4"]
    await boto("delete_message", QueueUrl=dead, ReceiptHandle=received[-1]["ReceiptHandle"])
    assert await boto("receive_message", QueueUrl=dead) == {}


async def test_both_dialects_see_the_same_messages(boto: Boto, zapq_server: ZapqServer) -> None:
    url = await boto.make("emails")
    await boto("send_message", QueueUrl=url, MessageBody="from SQS")
    seen = await receive_natively(zapq_server)
    assert (seen.body, seen.headers["content-type"].partition(";")[0]) == (b"from SQS", "text/plain")
    for body in (b"from HTTP", b"\xff\0", b""):
        await ask(zapq_server.url, "POST", "/queues/emails/messages", body)
    text = await boto.one(url, MessageAttributeNames=["All"], AttributeNames=["All"])
    assert (text["Body"], "MessageAttributes" in text) == ("from HTTP", False)
    for expected in ("/wA=", ""):
        encoded = await boto.one(url)
        assert encoded["Body"] == expected
        assert encoded["MessageAttributes"] == {"zapq.encoding": {"DataType": "String", "StringValue": "base64"}}
        assert encoded["MD5OfBody"] == md5(expected.encode()).hexdigest()


async def test_a_native_envelope_that_is_none_is_a_body(boto: Boto, zapq_server: ZapqServer) -> None:
    url = await boto.make("emails")
    forged = {"Content-Type": "application/vnd.zapq.sqs", "Zapq-Header-Sqs-Sent": "x"}
    for body in (b"", b"\0\0\0\1", b"\0\0\0\1\xc1", b"\xff\xff\xff\xff"):
        await ask(zapq_server.url, "POST", "/queues/emails/messages", body, forged)
    for facts in ("?", "wQ==", ""):
        await ask(zapq_server.url, "POST", "/queues/emails/messages", b"x", {"Zapq-Header-Sqs-Facts": facts})
    got = await boto("receive_message", QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"])
    assert len(got["Messages"]) == 7
    assert "MessageAttributes" not in got["Messages"][-1]


async def test_headers_are_attributes_and_attributes_headers(boto: Boto, zapq_server: ZapqServer) -> None:
    url = await boto.make("emails")
    await ask(zapq_server.url, "POST", "/queues/emails/messages", b"x", {"Zapq-Header-Shop": "a b"})
    attribute = {"shop": {"DataType": "String", "StringValue": "a b"}}
    assert (await boto.one(url, MessageAttributeNames=["All"]))["MessageAttributes"] == attribute
    await boto("send_message", QueueUrl=url, MessageBody="y", MessageAttributes={**attribute, **ATTRIBUTES})
    seen = await receive_natively(zapq_server)
    assert (seen.body, seen.headers["zapq-header-shop"]) == (b"y", "a b")
    assert seen.headers["content-type"] == "text/plain; charset=utf-8"
    # Others know how to read those as well.
    assert "zapq-header-author.age" not in seen.headers


async def test_attributes_too_long_for_headers_come_back_as_well(boto: Boto) -> None:
    url = await boto.make()
    long = {"x": {"DataType": "String", "StringValue": "é" * 20_000}, "y": ATTRIBUTES["picture"]}
    sent = await boto("send_message", QueueUrl=url, MessageBody="body", MessageAttributes=long)
    message = await boto.one(url, MessageAttributeNames=["All"])
    assert (message["Body"], message["MessageAttributes"]) == ("body", long)
    assert message["MD5OfMessageAttributes"] == sent["MD5OfMessageAttributes"]


async def test_a_message_may_have_a_mebibyte_attributes_included(boto: Boto) -> None:
    url = await boto.make(MaximumMessageSize="2048")
    attribute = {"a": {"DataType": "String", "StringValue": "v" * 100}}
    room = 2048 - len("a") - len("String") - 100
    await boto("send_message", QueueUrl=url, MessageBody="é" * (room // 2), MessageAttributes=attribute)
    long = {"QueueUrl": url, "MessageBody": "x" * (room + 1), "MessageAttributes": attribute}
    assert await boto.refused("send_message", **long) == invalid(
        "One or more parameters are invalid. Reason: Message must be shorter than 2048 bytes."
    )
    entry = {"Id": "a", "MessageBody": "x" * 2049}
    failed = (await boto("send_message_batch", QueueUrl=url, Entries=[entry]))["Failed"]
    assert [(each["Code"], each["Message"]) for each in failed] == [
        (
            "InvalidParameterValue",
            "One or more parameters cannot be validated. Reason: Message must be shorter than 2048 bytes.",
        )
    ]
    largest = await boto.make("largest")
    await boto("send_message", QueueUrl=largest, MessageBody="é" * (1_048_576 // 2))
    assert len((await boto.one(largest))["Body"]) == 1_048_576 // 2
    entries = [{"Id": str(each), "MessageBody": "x" * 262_144} for each in range(4)] + [
        {"Id": "one", "MessageBody": "x"}
    ]
    assert await boto.refused("send_message_batch", QueueUrl=largest, Entries=entries) == Refused(
        "BatchRequestTooLong",
        "AWS.SimpleQueueService.BatchRequestTooLong",
        "Batch requests cannot be longer than 1048576 bytes. You have sent 1048577 bytes.",
        400,
    )


async def test_an_old_receipt_still_changes_visibility(boto: Boto) -> None:
    url = await boto.make(VisibilityTimeout="0")
    await boto("send_message", QueueUrl=url, MessageBody="x")
    handle = (await boto.one(url))["ReceiptHandle"]
    change: dict[str, Any] = {"QueueUrl": url, "ReceiptHandle": handle}
    await boto("change_message_visibility", **change, VisibilityTimeout=60)
    assert await boto("receive_message", QueueUrl=url) == {}
    await boto("change_message_visibility", **change, VisibilityTimeout=0)
    await boto.one(url, VisibilityTimeout=1)
    entries = [{"Id": "a", "ReceiptHandle": handle, "VisibilityTimeout": 60}]
    changed = await boto("change_message_visibility_batch", QueueUrl=url, Entries=entries)
    assert changed == {"Successful": [{"Id": "a"}]}
    assert (await boto.attributes(url))["ApproximateNumberOfMessagesNotVisible"] == "1"
