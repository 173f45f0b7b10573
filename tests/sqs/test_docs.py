"""What docs/how-to/sqs.md teaches is so."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import get_args

import boto3
import pytest
import trio

from tests.judges import test_kombu, test_moto
from tests.judges.judges import ROOT
from tests.sqs.clients import Boto
from zapq.access.grant import Role
from zapq.sqs.actions import ACTIONS
from zapq.testing import ZapqServer

DOCUMENT = (Path(__file__).parent.parent.parent / "docs/how-to/sqs.md").read_text()
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


def test_the_judges_are_those_that_are_installed_and_their_verdicts_those_that_are_wanted() -> None:
    python = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["judges"]
    pinned = dict(re.findall(r"([\w-]+)(?:\[\w+\])?==(\S+)", "\n".join(python)))
    pinned |= json.loads((ROOT / "tests/judges/package.json").read_text())["dependencies"]
    shown = dict(re.findall(r"^\| (\S+) ([\d.]+) \|", DOCUMENT, re.MULTILINE))
    assert shown == pinned
    for module in (test_moto, test_kombu):
        assert f"{module.PASSED} of {module.PASSED + len(module.LEFT_OUT)} pass" in DOCUMENT
