"""What docs/sqs.md teaches is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import boto3
import pytest
import trio

from tests.sqs.clients import Boto
from zapq.access.grant import Role
from zapq.sqs.actions import ACTIONS
from zapq.testing import ZapqServer

DOCUMENT = (Path(__file__).parent.parent.parent / "docs/sqs.md").read_text()
WHO = DOCUMENT[DOCUMENT.index("## Who may do what") : DOCUMENT.index("## Both dialects")]


async def test_the_example_sends_and_receives(zapq_server: ZapqServer, boto: Boto) -> None:
    [example] = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    code = example.replace("http://localhost:9324", zapq_server.url)
    await trio.to_thread.run_sync(exec, code, {"boto3": boto3})
    counts = zapq_server.service.find("jobs").info().stats
    assert (counts.enqueued, counts.acked) == (1, 1)


def test_the_table_of_roles_has_every_action() -> None:
    shown: dict[str, str] = {}
    for actions, role in re.findall(r"^\| (\w+(?:,.*?)?) \| (.*?) \|$", WHO, re.MULTILINE):
        for action in actions.split(", "):
            names = [action, *({f"{each}Batch" for each in shown} if action == "and their batches" else ())]
            for name in names:
                if name in ACTIONS:
                    shown.setdefault(name, role)
    words = {"user": "`producer` or `consumer`", "any": "any", **{each: f"`{each}`" for each in get_args(Role)}}
    assert shown == {name: words[action.need] for name, action in ACTIONS.items()}


@pytest.mark.parametrize("flag", ["--no-sqs", "--sqs-url", "--sqs-account"])
def test_every_flag_is_taught(flag: str) -> None:
    assert flag in DOCUMENT
