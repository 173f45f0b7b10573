"""Queues through boto3: made, found, listed, set, tagged, emptied and removed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.sqs.clients import REGION, Boto, Refused
from tests.support.serving import serving
from tests.support.wire import ask
from zapq.core.queue_settings import QueueSettings
from zapq.settings import Settings
from zapq.sources import load
from zapq.testing import ZapqServer

NO_QUEUE = Refused(
    "QueueDoesNotExist",
    "AWS.SimpleQueueService.NonExistentQueue",
    "The specified queue does not exist.",
    400,
)


def names(answer: dict[str, Any]) -> list[str]:
    return [each.rpartition("/")[2] for each in answer.get("QueueUrls", ())]


async def test_a_new_queue_has_amazons_defaults(boto: Boto, zapq_server: ZapqServer) -> None:
    url = await boto.make()
    assert url == f"{zapq_server.url}/000000000000/jobs"
    shown = await boto.attributes(url)
    for timestamp in ("CreatedTimestamp", "LastModifiedTimestamp"):
        assert 10**9 < int(shown.pop(timestamp)) < 10**10
    assert shown == {
        "ApproximateNumberOfMessages": "0",
        "ApproximateNumberOfMessagesDelayed": "0",
        "ApproximateNumberOfMessagesNotVisible": "0",
        "DelaySeconds": "0",
        "MaximumMessageSize": "1048576",
        "MessageRetentionPeriod": "345600",
        "QueueArn": f"arn:aws:sqs:{REGION}:000000000000:jobs",
        "ReceiveMessageWaitTimeSeconds": "0",
        "SqsManagedSseEnabled": "true",
        "VisibilityTimeout": "30",
    }
    assert await boto.attributes(url, "VisibilityTimeout") == {"VisibilityTimeout": "30"}
    assert await boto("get_queue_attributes", QueueUrl=url) == {}


async def test_what_is_set_comes_back_and_the_core_acts_on_it(boto: Boto, zapq_server: ZapqServer) -> None:
    await boto.make("dead", RedriveAllowPolicy='{"redrivePermission":"allowAll"}')
    given = {
        "DelaySeconds": "5",
        "KmsDataKeyReusePeriodSeconds": "600",
        "KmsMasterKeyId": "alias/mine",
        "MaximumMessageSize": "2048",
        "MessageRetentionPeriod": "60",
        "Policy": '{"Version":"2012-10-17","Statement":[]}',
        "ReceiveMessageWaitTimeSeconds": "7",
        "RedrivePolicy": '{"deadLetterTargetArn":"arn:aws:sqs:eu-west-1:000000000000:dead","maxReceiveCount":3}',
        "SqsManagedSseEnabled": "false",
        "VisibilityTimeout": "43200",
    }
    url = await boto.make("jobs", **given)
    shown = await boto.attributes(url)
    assert {name: shown[name] for name in given} == given
    settings = zapq_server.service.find("jobs").info().settings
    assert settings == QueueSettings(
        visibility=43_200, retention=60, max_receives=3, dead_letter="dead", notes=settings.notes
    )
    await boto("set_queue_attributes", QueueUrl=url, Attributes={"VisibilityTimeout": "0", "RedrivePolicy": ""})
    await boto("set_queue_attributes", QueueUrl=url, Attributes={"Policy": "", "DelaySeconds": "6"})
    shown = await boto.attributes(url)
    assert (shown["VisibilityTimeout"], shown["DelaySeconds"], shown["MaximumMessageSize"]) == ("0", "6", "2048")
    assert shown.keys().isdisjoint({"RedrivePolicy", "Policy"})


async def test_making_a_queue_again_is_fine_if_it_is_like_that(boto: Boto) -> None:
    url = await boto.make("jobs", VisibilityTimeout="7")
    assert await boto.make("jobs") == await boto.make("jobs", VisibilityTimeout="7", DelaySeconds="0") == url
    for attribute, value in {"VisibilityTimeout": "8", "DelaySeconds": "1", "Policy": "{}"}.items():
        refused = await boto.refused("create_queue", QueueName="jobs", Attributes={attribute: value})
        assert refused == Refused(
            "QueueNameExists",
            "QueueAlreadyExists",
            f"A queue already exists with the same name and a different value for attribute {attribute}",
            400,
        )


async def test_queues_are_found_by_name_and_by_any_url_that_ends_in_it(boto: Boto) -> None:
    url = await boto.make()
    assert await boto("get_queue_url", QueueName="jobs") == {"QueueUrl": url}
    for each in ("jobs", "https://sqs.eu-west-1.amazonaws.com/123456789012/jobs", "http://proxy/queue/jobs"):
        assert await boto.attributes(each, "VisibilityTimeout") == {"VisibilityTimeout": "30"}


async def test_a_queue_that_is_not_there_is_refused_and_never_made(boto: Boto, zapq_server: ZapqServer) -> None:
    url = f"{zapq_server.url}/000000000000/none"
    handle = "00000000.1.abc-1-1"
    entry = {"Id": "a", "ReceiptHandle": handle, "VisibilityTimeout": 1}
    requests: dict[str, dict[str, Any]] = {
        "send_message": {"MessageBody": "x"},
        "send_message_batch": {"Entries": [{"Id": "a", "MessageBody": "x"}]},
        "receive_message": {"WaitTimeSeconds": 20},
        "delete_message": {"ReceiptHandle": handle},
        "delete_message_batch": {"Entries": [{"Id": "a", "ReceiptHandle": handle}]},
        "change_message_visibility": {"ReceiptHandle": handle, "VisibilityTimeout": 1},
        "change_message_visibility_batch": {"Entries": [entry]},
        "get_queue_attributes": {"AttributeNames": ["All"]},
        "set_queue_attributes": {"Attributes": {"DelaySeconds": "1"}},
        "list_queue_tags": {},
        "tag_queue": {"Tags": {"a": "b"}},
        "untag_queue": {"TagKeys": ["a"]},
        "purge_queue": {},
        "delete_queue": {},
        "list_dead_letter_source_queues": {},
        "add_permission": {"Label": "a", "AWSAccountIds": ["1"], "Actions": ["*"]},
        "remove_permission": {"Label": "a"},
    }
    for each in (url, "not a name", "x" * 81):
        for action, members in requests.items():
            assert await boto.refused(action, QueueUrl=each, **members) == NO_QUEUE, action
    assert await boto.refused("get_queue_url", QueueName="none") == NO_QUEUE
    assert await boto("list_queues") == {}


async def test_queues_are_listed_page_by_page(boto: Boto) -> None:
    for name in ("b2", "a1", "b1", "b3"):
        await boto.make(name)
    assert names(await boto("list_queues")) == ["a1", "b1", "b2", "b3"]
    assert names(await boto("list_queues", QueueNamePrefix="")) == ["a1", "b1", "b2", "b3"]
    assert names(await boto("list_queues", QueueNamePrefix="c")) == []
    first = await boto("list_queues", QueueNamePrefix="b", MaxResults=2)
    assert names(first) == ["b1", "b2"]
    last = await boto("list_queues", QueueNamePrefix="b", MaxResults=2, NextToken=first["NextToken"])
    assert names(last) == ["b3"]
    assert "NextToken" not in last
    assert (await boto.refused("list_queues", MaxResults=0)).code == "InvalidParameterValue"
    assert (await boto.refused("list_queues", MaxResults=1, NextToken="?")).code == "InvalidParameterValue"


async def test_the_default_queue_is_listed_only_once_it_is_used(boto: Boto, zapq_server: ZapqServer) -> None:
    assert await boto("list_queues") == {}
    url = await boto.make("default", VisibilityTimeout="7")
    assert names(await boto("list_queues")) == ["default"]
    await boto("send_message", QueueUrl=url, MessageBody="x")
    await boto("delete_queue", QueueUrl=url)
    info = zapq_server.service.default.info()
    assert (info.settings, info.stats.messages) == (QueueSettings(), 0)


async def test_tags_are_kept_with_the_queue(boto: Boto, zapq_server: ZapqServer) -> None:
    url = (await boto("create_queue", QueueName="jobs", tags={"team": "a b", "ü": ""}))["QueueUrl"]
    await boto("tag_queue", QueueUrl=url, Tags={"cost": "1", "team": "c"})
    assert (await boto("list_queue_tags", QueueUrl=url))["Tags"] == {"team": "c", "ü": "", "cost": "1"}
    await boto("untag_queue", QueueUrl=url, TagKeys=["team", "nothing", "ü", "cost"])
    assert await boto("list_queue_tags", QueueUrl=url) == {}
    too_many = {f"t{each}": "" for each in range(51)}
    assert (await boto.refused("tag_queue", QueueUrl=url, Tags=too_many)).code == "InvalidParameterValue"
    assert (await boto.refused("tag_queue", QueueUrl=url, Tags={"x" * 129: ""})).code == "InvalidParameterValue"


async def test_purging_drops_what_is_held_and_deleting_the_queue_itself(boto: Boto) -> None:
    url = await boto.make()
    for _ in range(3):
        await boto("send_message", QueueUrl=url, MessageBody="x")
    held = await boto.one(url)
    await boto("purge_queue", QueueUrl=url)
    assert (await boto.attributes(url))["ApproximateNumberOfMessagesNotVisible"] == "0"
    await boto("delete_message", QueueUrl=url, ReceiptHandle=held["ReceiptHandle"])
    await boto("delete_queue", QueueUrl=url)
    assert await boto.refused("purge_queue", QueueUrl=url) == NO_QUEUE


async def test_a_queue_of_dead_letters_can_be_deleted(boto: Boto) -> None:
    dead = await boto.make("dead")
    arn = (await boto.attributes(dead))["QueueArn"]
    url = await boto.make("jobs", RedrivePolicy=json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1}))
    await boto("delete_queue", QueueUrl=dead)
    assert "RedrivePolicy" not in await boto.attributes(url)
    assert names(await boto("list_queues")) == ["jobs"]


async def test_a_handle_of_another_queue_or_of_its_namesake_before_is_refused(boto: Boto) -> None:
    first, second = await boto.make("a"), await boto.make("b")
    for url in (first, second):
        await boto("send_message", QueueUrl=url, MessageBody="x")
    handle = (await boto.one(first))["ReceiptHandle"]
    refused = await boto.refused("delete_message", QueueUrl=second, ReceiptHandle=handle)
    assert refused == Refused(
        "ReceiptHandleIsInvalid",
        "ReceiptHandleIsInvalid",
        f'The input receipt handle "{handle}" is not a valid receipt handle.',
        400,
    )


async def test_permissions_are_kept_in_the_policy(boto: Boto) -> None:
    url = await boto.make()
    add: dict[str, Any] = {"QueueUrl": url, "Label": "shop", "AWSAccountIds": ["111111111111"]}
    await boto("add_permission", **add, Actions=["SendMessage"])
    policy = json.loads((await boto.attributes(url))["Policy"])
    arn = f"arn:aws:sqs:{REGION}:000000000000:jobs"
    assert policy == {
        "Version": "2008-10-17",
        "Id": f"{arn}/SQSDefaultPolicy",
        "Statement": [
            {
                "Sid": "shop",
                "Effect": "Allow",
                "Principal": {"AWS": "arn:aws:iam::111111111111:root"},
                "Action": "SQS:SendMessage",
                "Resource": arn,
            }
        ],
    }
    refused = await boto.refused("add_permission", **add, Actions=["*"])
    assert refused.message == "Value shop for parameter Label is invalid. Reason: Already exists."
    refused = await boto.refused("remove_permission", QueueUrl=url, Label="other")
    assert refused.message == "Value other for parameter Label is invalid. Reason: can't find label."
    await boto("remove_permission", QueueUrl=url, Label="shop")
    assert "Policy" not in await boto.attributes(url)


REDRIVE = "Value {value} for parameter RedrivePolicy is invalid. Reason: "
NONE = "arn:aws:sqs:eu-west-1:000000000000:none"


@pytest.mark.parametrize(
    ("attributes", "code", "message"),
    [
        ({"Colour": "red"}, "InvalidAttributeName", "Unknown Attribute Colour."),
        (
            {"VisibilityTimeout": "43201"},
            "InvalidAttributeValue",
            "Invalid value for the parameter VisibilityTimeout.",
        ),
        ({"DelaySeconds": "-1"}, "InvalidAttributeValue", "Invalid value for the parameter DelaySeconds."),
        (
            {"DelaySeconds": "00000000000099999"},
            "InvalidAttributeValue",
            "Invalid value for the parameter DelaySeconds.",
        ),
        ({"DelaySeconds": ""}, "InvalidAttributeValue", "Invalid value for the parameter DelaySeconds."),
        ({"DelaySeconds": "٣"}, "InvalidAttributeValue", "Invalid value for the parameter DelaySeconds."),
        (
            {"MaximumMessageSize": "1023"},
            "InvalidAttributeValue",
            "Invalid value for the parameter MaximumMessageSize.",
        ),
        ({"Policy": "{"}, "InvalidAttributeValue", "Invalid value for the parameter Policy."),
        ({"FifoQueue": "false"}, "InvalidAttributeName", "Unknown Attribute FifoQueue."),
        (
            {"ContentBasedDeduplication": "true"},
            "InvalidAttributeName",
            "Unknown Attribute ContentBasedDeduplication.",
        ),
        (
            {"DeduplicationScope": "queue"},
            "InvalidAttributeValue",
            "You can specify the DeduplicationScope only when FifoQueue is set to true.",
        ),
        (
            {"RedriveAllowPolicy": '{"redrivePermission":"byQueue"}'},
            "InvalidAttributeValue",
            "Invalid value for the parameter RedriveAllowPolicy.",
        ),
        ({"RedrivePolicy": "x"}, "InvalidParameterValue", f"{REDRIVE}Redrive policy is not a valid JSON map."),
        (
            {"RedrivePolicy": '{"maxReceiveCount":1}'},
            "InvalidParameterValue",
            f"{REDRIVE}Redrive policy does not contain mandatory attribute: deadLetterTargetArn.",
        ),
        (
            {"RedrivePolicy": f'{{"deadLetterTargetArn":"{NONE}","maxReceiveCount":0}}'},
            "InvalidParameterValue",
            f"{REDRIVE}Invalid value for maxReceiveCount: 0, valid values are from 1 to 1000 both inclusive.",
        ),
        (
            {"RedrivePolicy": f'{{"deadLetterTargetArn":"{NONE}","maxReceiveCount":1}}'},
            "InvalidParameterValue",
            f"{REDRIVE}Dead letter target does not exist.",
        ),
    ],
)
async def test_bad_attributes_are_refused_and_nothing_is_made(
    boto: Boto, attributes: dict[str, str], code: str, message: str
) -> None:
    refused = await boto.refused("create_queue", QueueName="jobs", Attributes=attributes)
    expected = message.replace("{value}", next(iter(attributes.values())))
    assert (refused.code, refused.message) == (code, expected)
    assert await boto("list_queues") == {}
    if "FifoQueue" not in attributes:
        url = await boto.make()
        refused = await boto.refused("set_queue_attributes", QueueUrl=url, Attributes=attributes)
        assert (refused.code, refused.message) == (code, expected)


async def test_a_queue_says_whose_dead_letters_it_takes(boto: Boto) -> None:
    await boto.make("dead", RedriveAllowPolicy='{"redrivePermission":"denyAll"}')
    arn = f"arn:aws:sqs:{REGION}:000000000000:dead"
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1})
    refused = await boto.refused("create_queue", QueueName="jobs", Attributes={"RedrivePolicy": policy})
    assert refused.code == "InvalidParameterValue"


@pytest.mark.parametrize("name", ["", "a b", "a.b", "x" * 81, "é"])
async def test_names_amazon_does_not_take_are_refused(boto: Boto, name: str) -> None:
    refused = await boto.refused("create_queue", QueueName=name)
    assert (refused.code, refused.status) == ("InvalidParameterValue", 400)


async def test_urls_and_arns_say_what_is_set(zapq_settings: Settings) -> None:
    settings = replace(zapq_settings, sqs_url="https://queue.example.com/", sqs_account="123456789012")
    async with serving(settings) as url:
        boto = Boto(url)
        made = await boto.make()
        assert made == "https://queue.example.com/123456789012/jobs"
        assert (await boto.attributes(made))["QueueArn"] == f"arn:aws:sqs:{REGION}:123456789012:jobs"


async def test_without_sqs_nothing_answers_there(zapq_settings: Settings) -> None:
    async with serving(replace(zapq_settings, sqs=False)) as url:
        for path in ("/", "/000000000000/jobs", "/queue/jobs"):
            answer = await ask(url, "POST", path, b"{}", {"X-Amz-Target": "AmazonSQS.ListQueues"})
            assert answer.status == 404


async def test_queues_outlive_a_restart_with_all_that_is_set(zapq_settings: Settings) -> None:
    settings = replace(zapq_settings, durable=True)
    async with serving(settings) as url:
        boto = Boto(url)
        made = await boto.make("emails", DelaySeconds="0", Policy="{}")
        await boto("tag_queue", QueueUrl=made, Tags={"a": "b"})
        attribute = {"x": {"DataType": "String", "StringValue": "y"}}
        sent = await boto("send_message", QueueUrl=made, MessageBody="x", MessageAttributes=attribute)
        held = await boto.one(made)
        before = await boto.attributes(made)
    async with serving(settings) as url:
        boto = Boto(url)
        after = await boto.attributes("emails")
        counts = {each for each in before if each.startswith("Approximate")}
        assert {each: after[each] for each in after.keys() - counts} == {
            each: before[each] for each in before.keys() - counts
        }
        assert (await boto("list_queue_tags", QueueUrl="emails"))["Tags"] == {"a": "b"}
        message = await boto.one("emails", MessageAttributeNames=["All"], AttributeNames=["All"])
        assert (message["MessageId"], message["MessageAttributes"]) == (sent["MessageId"], attribute)
        assert message["Attributes"]["ApproximateReceiveCount"] == "2"
        await boto(
            "change_message_visibility",
            QueueUrl="emails",
            ReceiptHandle=message["ReceiptHandle"],
            VisibilityTimeout=0,
        )
        # A consumer that outlived the restart.
        await boto("delete_message", QueueUrl="emails", ReceiptHandle=held["ReceiptHandle"])
        assert (await boto.attributes("emails"))["ApproximateNumberOfMessages"] == "0"


async def test_a_queue_that_a_file_has_made_is_one_like_any_other(zapq_settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "queues.toml"
    file.write_text("""
        [queues."jobs.fifo"]
        visibility = "1m"
        max_receives = 3
        dead_letter = "dead.fifo"
        sqs = {ContentBasedDeduplication = true, DelaySeconds = 0}
        tags = {team = "x"}
        [queues."dead.fifo"]
        """)
    queues = load(flags={}, environ={}, queues=str(file)).queues
    async with serving(replace(zapq_settings, queues=queues)) as server:
        boto = Boto(server)
        url = await boto.make(
            "jobs.fifo",
            FifoQueue="true",
            VisibilityTimeout="60",
            ContentBasedDeduplication="true",
            RedrivePolicy=json.dumps({"deadLetterTargetArn": "a:dead.fifo", "maxReceiveCount": 3}),
        )
        shown = await boto.attributes(url)
        assert (shown["FifoQueue"], shown["ContentBasedDeduplication"]) == ("true", "true")
        assert (await boto("list_queue_tags", QueueUrl=url))["Tags"] == {"team": "x"}
        await boto("send_message", QueueUrl=url, MessageBody="x", MessageGroupId="g")
        assert (await boto.one(url))["Body"] == "x"
