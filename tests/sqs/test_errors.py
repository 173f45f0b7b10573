"""Refusals: their shape, code, header, status and text, for every bad parameter; and never a 500."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sqs.clients import Boto, Refused, tell
from tests.support.wire import Answer, ask
from zapq import errors
from zapq.sqs.actions import ACTIONS
from zapq.sqs.errors import as_sqs
from zapq.testing import ZapqServer

SQS = "com.amazonaws.sqs#"
CORAL = "com.amazon.coral.service#"
OLD = "AWS.SimpleQueueService."


def said(answer: Answer) -> tuple[int, str, str, str]:
    """Status, shape, code with the side at fault, and text."""
    told = answer.json
    assert answer.headers["content-type"] == "application/x-amz-json-1.0"
    assert answer.headers["x-amzn-requestid"]
    return answer.status, told["__type"], answer.headers["x-amzn-query-error"], told["message"]


def missing(parameter: str) -> tuple[int, str, str, str]:
    return (
        400,
        f"{CORAL}MissingRequiredParameterException",
        "MissingParameter;Sender",
        f"The request must contain the parameter {parameter}.",
    )


def invalid(value: object, parameter: str, reason: str) -> tuple[int, str, str, str]:
    return (
        400,
        f"{CORAL}InvalidParameterValueException",
        "InvalidParameterValue;Sender",
        f"Value {value} for parameter {parameter} is invalid. Reason: {reason}",
    )


async def test_what_must_be_there_is_missed_by_its_name(zapq_server: ZapqServer) -> None:
    for name, action in ACTIONS.items():
        for field in action.request.required[:1]:
            names = dict(
                zip(action.request.__struct_fields__, action.request.__struct_encode_fields__, strict=True)
            )
            assert said(await tell(zapq_server.url, name, {})) == missing(names[field])
    assert said(await tell(zapq_server.url, "SendMessage", {"QueueUrl": "jobs"})) == missing("MessageBody")
    assert said(await tell(zapq_server.url, "DeleteMessage", {"QueueUrl": "jobs"})) == missing("ReceiptHandle")
    assert said(await tell(zapq_server.url, "SendMessage", {"QueueUrl": "", "MessageBody": "x"})) == missing(
        "QueueUrl"
    )


SEND: list[tuple[dict[str, Any], tuple[int, str, str, str]]] = [
    ({"MessageBody": ""}, missing("MessageBody")),
    ({"DelaySeconds": 901}, invalid(901, "DelaySeconds", "DelaySeconds must be >= 0 and <= 900.")),
    ({"DelaySeconds": -1}, invalid(-1, "DelaySeconds", "DelaySeconds must be >= 0 and <= 900.")),
    (
        {"MessageGroupId": "group 123"},
        invalid(
            "group 123",
            "MessageGroupId",
            "MessageGroupId can only include alphanumeric and punctuation characters. 1 to 128 in length.",
        ),
    ),
    (
        {"MessageDeduplicationId": "a b"},
        invalid(
            "a b",
            "MessageDeduplicationId",
            "MessageDeduplicationId can only include alphanumeric and punctuation characters. 1 to 128 in length.",
        ),
    ),
    (
        {"MessageAttributes": {"ErrorDetails": {"DataType": "String", "StringValue": ""}}},
        (
            400,
            f"{CORAL}InvalidParameterValueException",
            "InvalidParameterValue;Sender",
            "Message (user) attribute 'ErrorDetails' must contain a non-empty value of type 'String'.",
        ),
    ),
    (
        {"MessageAttributes": {"x": {"DataType": "Strong", "StringValue": "a"}}},
        (
            400,
            f"{CORAL}InvalidParameterValueException",
            "InvalidParameterValue;Sender",
            "The message attribute 'x' has an invalid message attribute type, the set of supported type prefixes"
            " is Binary, Number, and String.",
        ),
    ),
    (
        {"MessageAttributes": {"x": {"DataType": "Number", "StringValue": "one"}}},
        (
            400,
            f"{CORAL}InvalidParameterValueException",
            "InvalidParameterValue;Sender",
            "Can't cast the value of message (user) attribute 'x' to a number.",
        ),
    ),
]


@pytest.mark.parametrize(("members", "expected"), SEND)
async def test_bad_messages_are_refused(
    boto: Boto, zapq_server: ZapqServer, members: dict[str, Any], expected: tuple[int, str, str, str]
) -> None:
    url = await boto.make()
    asked = {"QueueUrl": url, "MessageBody": "x", **members}
    assert said(await tell(zapq_server.url, "SendMessage", asked)) == expected
    assert await boto("receive_message", QueueUrl=url) == {}


@pytest.mark.parametrize("name", ["aws.x", "Amazon.x", ".x", "x.", "x..y", "a b", "x" * 257, ""])
async def test_bad_names_of_attributes_are_refused(boto: Boto, name: str) -> None:
    url = await boto.make()
    given = {name: {"DataType": "String", "StringValue": "x"}}
    refused = await boto.refused("send_message", QueueUrl=url, MessageBody="x", MessageAttributes=given)
    assert refused.code == "InvalidParameterValue"


async def test_too_many_attributes_and_unknown_system_attributes_are_refused(boto: Boto) -> None:
    url = await boto.make()
    value = {"DataType": "String", "StringValue": "x"}
    many = {f"a{each}": value for each in range(11)}
    send: dict[str, Any] = {"QueueUrl": url, "MessageBody": "x"}
    assert "[11]" in (await boto.refused("send_message", **send, MessageAttributes=many)).message
    refused = await boto.refused("send_message", **send, MessageSystemAttributes={"Other": value})
    assert refused.code == "InvalidParameterValue"
    lists = {"a": {"DataType": "String", "StringListValues": ["x"]}}
    refused = await boto.refused("send_message", **send, MessageAttributes=lists)
    assert refused.shape == "UnsupportedOperation"


@pytest.mark.parametrize("body", ["\0", "a\x1f", "\ufffe", "é\uffff"])
async def test_characters_amazon_does_not_take_are_refused(boto: Boto, body: str) -> None:
    url = await boto.make()
    refused = await boto.refused("send_message", QueueUrl=url, MessageBody=body)
    assert (refused.shape, refused.code) == ("InvalidMessageContents", "InvalidMessageContents")


@pytest.mark.parametrize(
    ("members", "parameter", "value", "reason"),
    [
        ({"MaxNumberOfMessages": 11}, "MaxNumberOfMessages", 11, "Must be between 1 and 10, if provided."),
        ({"MaxNumberOfMessages": 0}, "MaxNumberOfMessages", 0, "Must be between 1 and 10, if provided."),
        ({"WaitTimeSeconds": 21}, "WaitTimeSeconds", 21, "Must be >= 0 and <= 20, if provided."),
        ({"WaitTimeSeconds": -1}, "WaitTimeSeconds", -1, "Must be >= 0 and <= 20, if provided."),
        ({"VisibilityTimeout": 43201}, "VisibilityTimeout", 43201, "Must be >= 0 and <= 43200, if provided."),
    ],
)
async def test_bad_receives_are_refused(
    boto: Boto, zapq_server: ZapqServer, members: dict[str, int], parameter: str, value: int, reason: str
) -> None:
    url = await boto.make()
    answer = await tell(zapq_server.url, "ReceiveMessage", {"QueueUrl": url, **members})
    assert said(answer) == invalid(value, parameter, reason)


@pytest.mark.parametrize("handle", ["garbage", "", "00000000.1.a-1-1", "x" * 5000])
async def test_bad_receipts_are_refused(boto: Boto, handle: str) -> None:
    url = await boto.make()
    expected = Refused(
        "ReceiptHandleIsInvalid",
        "ReceiptHandleIsInvalid",
        f'The input receipt handle "{handle[:200]}" is not a valid receipt handle.',
        400,
    )
    assert await boto.refused("delete_message", QueueUrl=url, ReceiptHandle=handle) == expected
    change: dict[str, Any] = {"QueueUrl": url, "ReceiptHandle": handle, "VisibilityTimeout": 1}
    assert await boto.refused("change_message_visibility", **change) == expected


@pytest.mark.parametrize(
    ("ids", "shape", "message"),
    [
        ([], "EmptyBatchRequest", "There should be at least one {shape} in the request."),
        (
            [str(each) for each in range(20)],
            "TooManyEntriesInBatchRequest",
            "Maximum number of entries per request are 10. You have sent 20.",
        ),
        (["a", "b", "a"], "BatchEntryIdsNotDistinct", "Id a repeated."),
        *(
            (
                [id],
                "InvalidBatchEntryId",
                "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at"
                " most 80 letters long.",
            )
            for id in ("", "a b", "x" * 81)
        ),
    ],
)
async def test_bad_batches_are_refused_as_a_whole(boto: Boto, ids: list[str], shape: str, message: str) -> None:
    url = await boto.make()
    members: dict[str, dict[str, Any]] = {
        "send_message_batch": {"MessageBody": "x"},
        "delete_message_batch": {"ReceiptHandle": "x"},
        "change_message_visibility_batch": {"ReceiptHandle": "x", "VisibilityTimeout": 1},
    }
    for action, entry in members.items():
        name = "".join(part.capitalize() for part in action.split("_"))
        refused = await boto.refused(action, QueueUrl=url, Entries=[{"Id": id, **entry} for id in ids])
        text = message.replace("{shape}", f"{name}RequestEntry")
        assert refused == Refused(shape, f"{OLD}{shape}", text, 400)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b'{"QueueUrl": 1}',
        b'{"QueueUrl": "jobs", "MessageBody": "\\ud800"}',
        b'{"QueueUrl": "jobs", "MessageBody": ["x"]}',
        b'{"QueueUrl": "jobs", "Entries": "x"}',
        b'{"QueueUrl": "jobs", "MessageAttributes": {"a": {"DataType": "Binary", "BinaryValue": "?"}}}',
        b'{"QueueUrl": ' + b"[" * 100_000,
        b'{"QueueUrl": "jobs", "MaxNumberOfMessages": 1e400}',
        b'{"QueueUrl": "jobs", "DelaySeconds": 99999999999999999999999}',
    ],
)
async def test_hostile_bodies_get_a_refusal_and_never_a_500(
    boto: Boto, zapq_server: ZapqServer, body: bytes
) -> None:
    await boto.make()
    for name in ACTIONS:
        answer = await tell(zapq_server.url, name, body)
        assert answer.status in {200, 400, 404}, (name, answer)
        if answer.status != 200:
            assert said(answer)


async def test_very_many_attributes_and_very_long_bodies_are_refused(boto: Boto, zapq_server: ZapqServer) -> None:
    await boto.make()
    value = {"DataType": "String", "StringValue": "x"}
    many = {"QueueUrl": "jobs", "MessageBody": "x", "MessageAttributes": {f"a{n}": value for n in range(10_000)}}
    assert said(await tell(zapq_server.url, "SendMessage", many))[0] == 400
    long = {"QueueUrl": "jobs", "MessageBody": "x" * (3 * 1024 * 1024)}
    assert said(await tell(zapq_server.url, "SendMessage", long))[0] == 400
    longer = {"QueueUrl": "jobs", "MessageBody": "x" * (4 * 1024 * 1024)}
    assert said(await tell(zapq_server.url, "SendMessage", longer))[0] == 400


async def test_unknown_actions_are_refused(zapq_server: ZapqServer) -> None:
    for target in ("AmazonSQS.Fly", "AmazonSNS.SendMessage", "SendMessage", "x"):
        answer = await ask(zapq_server.url, "POST", "/", b"{}", {"X-Amz-Target": target})
        assert said(answer)[:3] == (400, f"{CORAL}UnknownOperationException", "InvalidAction;Sender")


async def test_full_queues_and_shutdowns_are_told_so_that_sdks_try_again(
    boto: Boto, zapq_server: ZapqServer
) -> None:
    url = await boto.make()
    await zapq_server.service.change_settings("jobs", max_messages=1)
    await boto("send_message", QueueUrl=url, MessageBody="x")
    refused = await boto.refused("send_message", QueueUrl=url, MessageBody="x")
    assert (refused.shape, refused.code, refused.status) == ("RequestThrottled", "RequestThrottled", 429)
    entry = {"Id": "a", "MessageBody": "x"}
    failed = await boto("send_message_batch", QueueUrl=url, Entries=[entry])
    assert [each["Code"] for each in failed["Failed"]] == ["RequestThrottled"]
    await zapq_server.service.change_settings("jobs", max_messages=None)
    zapq_server.service.drain()
    refused = await boto.refused("send_message", QueueUrl=url, MessageBody="x")
    assert (refused.code, refused.status) == ("ServiceUnavailable", 503)


async def test_what_does_not_speak_sqs_is_an_unknown_path_as_before(zapq_server: ZapqServer) -> None:
    for method, body in (("POST", b"x"), ("GET", b"")):
        answer = await ask(zapq_server.url, method, "/", body)
        assert answer.status == 404
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("refused", "code", "status"),
    [
        (errors.QueueNotFound(), "AWS.SimpleQueueService.NonExistentQueue", 400),
        (errors.InvalidParameter("x", parameter="queue"), "AWS.SimpleQueueService.NonExistentQueue", 400),
        (errors.TooManyQueues(), "OverLimit", 403),
        (errors.QueueFull(), "RequestThrottled", 429),
        (errors.TooManyWaiters(), "RequestThrottled", 429),
        (errors.TooManyDeduplicationIds(), "RequestThrottled", 429),
        (errors.BatchTooLarge(), "AWS.SimpleQueueService.BatchRequestTooLong", 400),
        (errors.MessageTooLarge(), "InvalidParameterValue", 400),
        (errors.Unauthenticated(), "MissingAuthenticationToken", 403),
        (errors.Forbidden(), "AccessDenied", 403),
        (errors.CrossSite(), "AccessDenied", 403),
        (errors.HostNotAllowed(), "InvalidAddress", 421),
        (errors.RequestTimedOut(), "InvalidParameterValue", 400),
        (errors.StorageUnavailable(reason="the disk is full"), "ServiceUnavailable", 503),
        (errors.NotWithEngine(), "InvalidParameterValue", 400),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, errors.ZapqError) else "",
)
def test_what_zapq_refuses_is_refused_in_the_words_of_sqs(
    refused: errors.ZapqError, code: str, status: int
) -> None:
    kind = as_sqs(refused).kind
    assert (kind.code, kind.status) == (code, status)
