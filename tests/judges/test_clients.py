"""Clients whose own tests are not released: each does, in a program of ours, what programs do with it."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.judges.judges import PROGRAMS, Judges, judged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


async def test_dramatiq_sqs(judges: Judges, tmp_path: Path) -> None:
    async with judged(tmp_path) as zapq:
        assert "judged well" in await judges.program(zapq, "dramatiq_work.py")


async def test_aioboto3(judges: Judges, tmp_path: Path) -> None:
    async with judged(tmp_path) as zapq:
        assert "judged well" in await judges.program(zapq, "aioboto3_work.py")


async def test_the_javascript_sdk_and_sqs_consumer(judges: Judges, tmp_path: Path) -> None:
    # Node looks for packages beside the program.
    shutil.copy(PROGRAMS / "node_work.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(judges.home / "node_modules")
    async with judged(tmp_path, "--durable") as zapq:
        ended = await judges.run(zapq, "node", tmp_path / "node_work.mjs")
    assert ended.returncode == 0, ended.stdout
    assert "judged well" in ended.stdout


async def test_the_aws_cli(judges: Judges, tmp_path: Path) -> None:
    async with judged(tmp_path, "--durable") as zapq:

        async def run(command: str) -> tuple[int, str]:
            ended = await judges.run(zapq, "aws", "--endpoint-url", zapq.url, "sqs", *shlex.split(command))
            return ended.returncode, ended.stdout

        async def aws(command: str) -> Any:
            code, output = await run(command)
            assert code == 0, output
            return json.loads(output or "null")

        url = (await aws("create-queue --queue-name jobs --attributes VisibilityTimeout=60"))["QueueUrl"]
        attributes = "kind={DataType=String,StringValue=letter}"
        sent = await aws(f"send-message --queue-url {url} --message-body hello --message-attributes {attributes}")
        asked = "--wait-time-seconds 5 --message-attribute-names All"
        [message] = (await aws(f"receive-message --queue-url {url} {asked}"))["Messages"]
        assert (message["MessageId"], message["Body"]) == (sent["MessageId"], "hello")
        assert message["MessageAttributes"]["kind"]["StringValue"] == "letter"
        await aws(f"delete-message --queue-url {url} --receipt-handle {message['ReceiptHandle']}")
        shown = await aws(f"get-queue-attributes --queue-url {url} --attribute-names All")
        assert shown["Attributes"]["VisibilityTimeout"] == "60"
        assert shown["Attributes"]["ApproximateNumberOfMessages"] == "0"
        code, output = await run("get-queue-url --queue-name none")
        assert code != 0
        assert "AWS.SimpleQueueService.NonExistentQueue" in output
