"""Clients of SQS as programs have them, and one that says what it likes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import boto3
import botocore.config
import msgspec
import trio
from botocore.exceptions import ClientError

from tests.support.wire import Answer, ask

JSON = "application/x-amz-json-1.0"
REGION = "eu-west-1"


@dataclass(frozen=True)
class Refused:
    """What a client was told instead of an answer: the class an SDK chooses, the code programs compare, a text."""

    shape: str
    code: str
    message: str
    status: int


class Boto:
    """boto3's client, each call in a thread."""

    def __init__(self, url: str, *, key: str = "anyone", session: str | None = None) -> None:
        config = botocore.config.Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=30)
        self.client = boto3.client(
            "sqs",
            endpoint_url=url,
            region_name=REGION,
            aws_access_key_id=key,
            aws_secret_access_key="secret",
            aws_session_token=session,
            config=config,
        )

    async def __call__(self, action: str, **members: Any) -> dict[str, Any]:
        answer = await trio.to_thread.run_sync(partial(getattr(self.client, action), **members))
        answer.pop("ResponseMetadata")
        shown: dict[str, Any] = answer
        return shown

    async def refused(self, action: str, **members: Any) -> Refused:
        """Return how a call is refused."""
        try:
            answer = await self(action, **members)
        except ClientError as error:
            said = error.response["Error"]
            status: int = error.response["ResponseMetadata"]["HTTPStatusCode"]
            return Refused(type(error).__name__, said["Code"], said["Message"], status)
        raise AssertionError(f"was not refused: {answer}")

    async def make(self, name: str = "jobs", **attributes: str) -> str:
        """Make a queue and return its URL."""
        url: str = (await self("create_queue", QueueName=name, Attributes=attributes))["QueueUrl"]
        return url

    async def one(self, url: str, **members: Any) -> dict[str, Any]:
        """Receive one message that is there."""
        [message] = (await self("receive_message", QueueUrl=url, **members))["Messages"]
        got: dict[str, Any] = message
        return got

    async def attributes(self, url: str, *names: str) -> dict[str, str]:
        """Return attributes of a queue, all by default."""
        shown = await self("get_queue_attributes", QueueUrl=url, AttributeNames=list(names or ("All",)))
        found: dict[str, str] = shown.get("Attributes", {})
        return found


async def tell(
    url: str,
    action: str,
    members: object,
    path: str = "/",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request in JSON, as no SDK would check it; bytes are sent as they are."""
    body = members if isinstance(members, bytes) else msgspec.json.encode(members)
    fields = {"Content-Type": JSON, "X-Amz-Target": f"AmazonSQS.{action}", **(headers or {})}
    return await ask(url, "POST", path, body, fields)
