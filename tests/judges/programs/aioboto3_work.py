"""aioboto3: producers and consumers at once, a FIFO queue, and a refusal."""

from __future__ import annotations

import asyncio
from typing import Any

import aioboto3
import pytest
from botocore.exceptions import ClientError

PRODUCERS, BATCHES = 4, 5


async def produce(sqs: Any, url: str, number: int) -> None:
    """Send batches of ten."""
    for batch in range(BATCHES):
        entries = [{"Id": str(n), "MessageBody": f"{number}-{batch}-{n}"} for n in range(10)]
        answer = await sqs.send_message_batch(QueueUrl=url, Entries=entries)
        assert len(answer["Successful"]) == 10, answer


async def consume(sqs: Any, url: str, got: list[str]) -> None:
    """Receive and delete until all is done."""
    while len(got) < PRODUCERS * BATCHES * 10:
        answer = await sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
        for message in answer.get("Messages", []):
            await sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            got.append(message["Body"])


async def main() -> None:
    """Do all of it."""
    async with aioboto3.Session().client("sqs") as sqs:
        url = (await sqs.create_queue(QueueName="jobs"))["QueueUrl"]
        got: list[str] = []
        await asyncio.gather(
            *(consume(sqs, url, got) for _ in range(4)),
            *(produce(sqs, url, number) for number in range(PRODUCERS)),
        )
        assert len(got) == len(set(got)) == PRODUCERS * BATCHES * 10
        counts = await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        assert counts["Attributes"]["ApproximateNumberOfMessages"] == "0"
        assert counts["Attributes"]["ApproximateNumberOfMessagesNotVisible"] == "0"

        attributes = {"FifoQueue": "true", "ContentBasedDeduplication": "true"}
        fifo = (await sqs.create_queue(QueueName="jobs.fifo", Attributes=attributes))["QueueUrl"]
        for body in ("1", "2", "2", "3"):
            await sqs.send_message(QueueUrl=fifo, MessageBody=body, MessageGroupId="g")
        answer = await sqs.receive_message(QueueUrl=fifo, MaxNumberOfMessages=10)
        assert [message["Body"] for message in answer["Messages"]] == ["1", "2", "3"]

        with pytest.raises(sqs.exceptions.QueueDoesNotExist):
            await sqs.get_queue_url(QueueName="none")
        with pytest.raises(ClientError, match="MissingParameter"):
            await sqs.send_message(QueueUrl=fifo, MessageBody="x")
    async with aioboto3.Session().resource("sqs") as resource:
        queue = await resource.get_queue_by_name(QueueName="jobs")
        await queue.send_message(MessageBody="by resource")
        [message] = await queue.receive_messages()
        assert await message.body == "by resource"
        await message.delete()
    print("judged well")


asyncio.run(main())
