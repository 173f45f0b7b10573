"""Tasks that move dead letters: begun, shown, paced, stopped, and what becomes of them if a queue goes."""

from __future__ import annotations

import base64
import json
from typing import Any

from tests.sqs.clients import REGION, Boto
from tests.support.waiting import eventually
from zapq.testing import ZapqServer

ARN = f"arn:aws:sqs:{REGION}:000000000000:"
DEAD = f"{ARN}dead"


async def fail(boto: Boto, *bodies: str) -> tuple[str, str]:
    """Have messages fail; return the URLs of the queue they failed in, and of the dead letters."""
    jobs, dead, _ = await sent_and_failed(boto, *bodies)
    return jobs, dead


async def sent_and_failed(boto: Boto, *bodies: str) -> tuple[str, str, list[str]]:
    """Do that, and return the ids their producer was told as well."""
    dead = await boto.make("dead")
    policy = json.dumps({"deadLetterTargetArn": DEAD, "maxReceiveCount": 1})
    jobs = await boto.make("jobs", VisibilityTimeout="0", RedrivePolicy=policy)
    sent = [(await boto("send_message", QueueUrl=jobs, MessageBody=body))["MessageId"] for body in bodies]
    for _ in bodies:
        await boto.one(jobs)
    assert await boto("receive_message", QueueUrl=jobs) == {}

    async def have_arrived() -> bool:
        return bool((await boto.attributes(dead))["ApproximateNumberOfMessages"] == str(len(bodies)))

    # Over Valkey they are on their way for a moment.
    await eventually(have_arrived, "the dead letters")
    return jobs, dead, sent


async def last(boto: Boto) -> dict[str, Any]:
    results = (await boto("list_message_move_tasks", SourceArn=DEAD))["Results"]
    task: dict[str, Any] = results[0]
    return task


async def test_dead_letters_go_back_to_where_they_failed(boto: Boto) -> None:
    jobs, _ = await fail(boto, "a", "b", "c")
    begun = await boto("start_message_move_task", SourceArn=DEAD)
    handle = json.loads(base64.b64decode(begun["TaskHandle"]))
    assert handle["sourceArn"] == DEAD

    async def is_done() -> bool:
        return bool((await last(boto))["Status"] == "COMPLETED")

    await eventually(is_done, "the task")
    task = await last(boto)
    assert (task["ApproximateNumberOfMessagesMoved"], task["ApproximateNumberOfMessagesToMove"]) == (3, 3)
    assert task["SourceArn"] == DEAD
    assert task.keys().isdisjoint({"TaskHandle", "DestinationArn", "FailureReason"})
    assert [(await boto.one(jobs))["Body"] for _ in range(3)] == ["a", "b", "c"]
    refused = await boto.refused("cancel_message_move_task", TaskHandle=begun["TaskHandle"])
    assert refused.code == "InvalidParameterValue"


async def test_a_message_that_was_moved_is_what_it_was_wherever_it_goes(boto: Boto) -> None:
    jobs, _, sent = await sent_and_failed(boto, "a", "b")
    other = await boto.make("other")

    async def is_done() -> bool:
        return bool((await last(boto))["Status"] == "COMPLETED")

    await boto("start_message_move_task", SourceArn=DEAD, DestinationArn=f"{ARN}other")
    await eventually(is_done, "the task")
    received = [await boto.one(other, AttributeNames=["All"]) for _ in range(2)]
    assert [each["MessageId"] for each in received] == sent
    assert [each["Attributes"]["ApproximateReceiveCount"] for each in received] == ["2", "2"]
    assert all("DeadLetterQueueSourceArn" not in each["Attributes"] for each in received)
    await boto("send_message", QueueUrl=jobs, MessageBody="c")
    failed = await boto.one(jobs, AttributeNames=["All"])
    assert await boto("receive_message", QueueUrl=jobs) == {}
    await boto("start_message_move_task", SourceArn=DEAD)
    await eventually(is_done, "the task")
    again = await boto.one(jobs, AttributeNames=["All"])
    assert (again["MessageId"], again["Body"]) == (failed["MessageId"], "c")
    assert again["Attributes"]["SentTimestamp"] == failed["Attributes"]["SentTimestamp"]
    assert again["Attributes"]["ApproximateReceiveCount"] == "2"


async def test_they_go_to_another_queue_at_the_pace_that_is_asked_for_until_they_are_stopped(boto: Boto) -> None:
    _, dead = await fail(boto, "a", "b", "c", "d")
    other = await boto.make("other")
    destination = {"DestinationArn": f"{ARN}other", "MaxNumberOfMessagesPerSecond": 1}
    begun = await boto("start_message_move_task", SourceArn=DEAD, **destination)
    refused = await boto.refused("start_message_move_task", SourceArn=DEAD)
    assert refused.message.startswith("There is already a task running.")

    async def has_begun() -> bool:
        return bool((await last(boto))["ApproximateNumberOfMessagesMoved"])

    await eventually(has_begun, "the first message")
    task = await last(boto)
    assert (task["Status"], task["TaskHandle"]) == ("RUNNING", begun["TaskHandle"])
    assert {name: task[name] for name in destination} == destination
    stopped = await boto("cancel_message_move_task", TaskHandle=begun["TaskHandle"])
    assert stopped["ApproximateNumberOfMessagesMoved"] < 4
    assert (await last(boto))["Status"] == "CANCELLED"
    assert (await boto.one(other))["Body"] == "a"
    assert (await boto.attributes(dead))["ApproximateNumberOfMessages"] != "0"


async def test_a_task_fails_when_its_destination_goes(boto: Boto) -> None:
    await fail(boto, "a", "b", "c")
    other = await boto.make("other")
    await boto(
        "start_message_move_task", SourceArn=DEAD, DestinationArn=f"{ARN}other", MaxNumberOfMessagesPerSecond=1
    )

    async def has_begun() -> bool:
        return bool((await last(boto))["ApproximateNumberOfMessagesMoved"])

    # Then it pauses. A message that is just being stored would make the queue anew.
    await eventually(has_begun, "the first message")
    await boto("delete_queue", QueueUrl=other)

    async def has_failed() -> bool:
        return bool((await last(boto))["Status"] == "FAILED")

    await eventually(has_failed, "the task")
    assert (await last(boto))["FailureReason"] == "AWS.SimpleQueueService.NonExistentQueue"


async def test_what_cannot_be_moved_is_refused(boto: Boto) -> None:
    await boto.make("jobs")
    refused = await boto.refused("start_message_move_task", SourceArn=f"{ARN}jobs")
    assert (refused.code, refused.message) == (
        "InvalidParameterValue",
        "Source queue must be configured as a Dead Letter Queue.",
    )
    for action in ("start_message_move_task", "list_message_move_tasks"):
        refused = await boto.refused(action, SourceArn=f"{ARN}none")
        assert (refused.shape, refused.status) == ("ResourceNotFoundException", 404)
    refused = await boto.refused("cancel_message_move_task", TaskHandle="?")
    assert refused.message == "Value for parameter TaskHandle is invalid."
    unknown = base64.b64encode(b'{"taskId":"x"}').decode()
    refused = await boto.refused("cancel_message_move_task", TaskHandle=unknown)
    assert (refused.code, refused.message) == ("ResourceNotFoundException", "Task does not exist.")
    assert await boto("list_message_move_tasks", SourceArn=f"{ARN}jobs") == {}


async def has_ended(boto: Boto) -> dict[str, Any]:
    async def ended() -> bool:
        return bool((await last(boto))["Status"] != "RUNNING")

    await eventually(ended, "the task")
    return await last(boto)


async def test_a_message_that_was_sent_to_the_dead_letters_has_nowhere_to_go_back(boto: Boto) -> None:
    _, dead = await fail(boto, "a")
    await boto("send_message", QueueUrl=dead, MessageBody="b")
    await boto("start_message_move_task", SourceArn=DEAD)
    task = await has_ended(boto)
    assert (task["Status"], task["FailureReason"]) == ("FAILED", "CouldNotDetermineMessageSource")
    assert task["ApproximateNumberOfMessagesMoved"] == 1


async def test_what_goes_back_to_a_queue_that_is_gone_or_full_fails_and_says_so(
    boto: Boto, zapq_server: ZapqServer
) -> None:
    jobs, _ = await fail(boto, "a")
    await zapq_server.service.change_settings("jobs", max_messages=1)
    await boto("send_message", QueueUrl=jobs, MessageBody="b")
    await boto("start_message_move_task", SourceArn=DEAD)
    assert (await has_ended(boto))["FailureReason"] == "RequestThrottled"
    policy = json.dumps({"deadLetterTargetArn": DEAD, "maxReceiveCount": 1})
    await boto.make("others", RedrivePolicy=policy)
    await boto("delete_queue", QueueUrl=jobs)
    await boto("start_message_move_task", SourceArn=DEAD)
    assert (await has_ended(boto))["FailureReason"] == "AWS.SimpleQueueService.NonExistentQueue"


async def test_messages_that_do_not_fit_are_visible_again_at_once(boto: Boto, zapq_server: ZapqServer) -> None:
    _, dead = await fail(boto, "a", "b", "c")
    await boto.make("other")
    await zapq_server.service.change_settings("other", max_messages=1)
    await boto("start_message_move_task", SourceArn=DEAD, DestinationArn=f"{ARN}other")
    task = await has_ended(boto)
    assert (task["FailureReason"], task["ApproximateNumberOfMessagesMoved"]) == ("RequestThrottled", 1)
    assert (await boto.attributes(dead))["ApproximateNumberOfMessages"] == "2"


async def test_messages_go_to_another_queue_of_the_same_kind(boto: Boto) -> None:
    await fail(boto, "a")
    await boto.make("other.fifo", FifoQueue="true")
    for queue in ("dead", "other.fifo"):
        refused = await boto.refused("start_message_move_task", SourceArn=DEAD, DestinationArn=f"{ARN}{queue}")
        assert refused.code == "InvalidParameterValue"
        assert refused.message.startswith("Value for parameter DestinationArn is invalid. Reason: ")
    assert await boto("list_message_move_tasks", SourceArn=DEAD) == {}


async def test_a_handle_is_of_the_queue_it_names(boto: Boto) -> None:
    await fail(boto, "a", "b")
    await boto.make("other")
    pace = {"DestinationArn": f"{ARN}other", "MaxNumberOfMessagesPerSecond": 1}
    begun = await boto("start_message_move_task", SourceArn=DEAD, **pace)
    forged = {**json.loads(base64.b64decode(begun["TaskHandle"])), "sourceArn": f"{ARN}other"}
    handle = base64.b64encode(json.dumps(forged).encode()).decode()
    refused = await boto.refused("cancel_message_move_task", TaskHandle=handle)
    assert refused.message == "Task does not exist."
    await boto("cancel_message_move_task", TaskHandle=begun["TaskHandle"])
