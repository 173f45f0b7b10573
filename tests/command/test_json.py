"""--json: what a command prints, for programs."""

from __future__ import annotations

import base64
import inspect
import json
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from tests.support.typed import TypeIn, typed
from zapq.__main__ import _serve
from zapq.command.commands import Commands
from zapq.service.named_queue import NamedQueue
from zapq.service.open import open_service
from zapq.settings import Settings
from zapq.testing import ZapqServer

PRINT_NOTHING_OF_THEIR_OWN = {"serve", "completion", "forward", "snapshot save", "snapshot load"}


def commands() -> dict[str, click.Command]:
    """Return every command under its full name."""
    group = Commands(_serve)
    context = click.Context(group)
    found: dict[str, click.Command] = {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": each for inner, each in command.commands.items()}
        else:
            found[name] = command
    return found


def test_every_command_that_prints_has_it() -> None:
    with_json = {name for name, each in commands().items() if any(p.name == "as_json" for p in each.params)}
    assert with_json == commands().keys() - PRINT_NOTHING_OF_THEIR_OWN


def test_every_command_says_what_it_does() -> None:
    for name, command in commands().items():
        text = inspect.cleandoc(command.help or "")
        assert text.partition("\n")[0].endswith("."), name


def lines(done: subprocess.CompletedProcess[str]) -> list[Any]:
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_push_says_the_id(type_in: TypeIn, emails: NamedQueue) -> None:
    assert lines(await type_in("push", "emails", "x", "--json")) == [{"id": 1}]
    assert lines(await type_in("push", "emails", "--lines", "--json", stdin="a\nb\n")) == [{"id": 2}, {"id": 3}]
    pushed = [await type_in("push", "emails", "x", "--unique", "k", "--json") for _ in range(2)]
    assert [lines(each) for each in pushed] == [[{"id": 4}], [{"id": 4, "unique": "kept"}]]


@pytest.mark.parametrize("ack", [[], ["--ack"]], ids=repr)
async def test_pop_says_all_that_is_known(type_in: TypeIn, emails: NamedQueue, ack: list[str]) -> None:
    await emails.enqueue("h\u00f6\n".encode(), content_type="text/plain", headers={"order": "7"})
    await emails.enqueue(b"\xff")
    [found] = lines(await type_in("pop", "emails", "--json", *ack))
    assert (found["id"], found["body"], found["headers"]) == (1, "h\u00f6\n", {"order": "7"})
    assert ("receipt" in found) == bool(ack)
    [found] = lines(await type_in("pop", "emails", "--json", *ack))
    assert (base64.b64decode(found["body"]), found["body_encoding"]) == (b"\xff", "base64")
    done = await type_in("pop", "emails", "--json", *ack)
    assert (done.returncode, done.stdout) == (3, "")
    assert emails.info().stats.messages == 0


async def test_statistics_health_and_snapshots(type_in: TypeIn, zapq_server: ZapqServer, tmp_path: Path) -> None:
    await zapq_server.service.enqueue(b"hello")
    [found] = lines(await type_in("stats", "--json"))
    assert [(each["name"], each["ready"]) for each in found] == [("default", 1)]
    [found] = lines(await type_in("stats", "default", "--json"))
    assert found["settings"]["visibility"] == 30
    assert lines(await type_in("health", "--json")) == [{"ok": True}]
    await zapq_server.service.snapshot("a.msgpack")
    [found] = lines(await type_in("snapshot", "ls", "--json"))
    assert [(each["name"], each["messages"]) for each in found] == [("a.msgpack", 1)]
    [found] = lines(await type_in("snapshot", "show", str(tmp_path / "a.msgpack"), "--json"))
    assert found["written"].startswith("20")
    assert found["queues"]["default"] == {
        "paused": False,
        "messages": 1,
        "bytes": 5,
        "delayed": 0,
        "received": 0,
    }


async def test_a_database_and_a_token(tmp_path: Path) -> None:
    async with open_service(Settings(data_dir=str(tmp_path), durable=True)) as service:
        await service.enqueue(b"hello")
    [found] = lines(typed("check", str(tmp_path), "--json"))
    assert [(each["name"], each["ready"]) for each in found["queues"]] == [("default", 1)]
    assert (found["warning"], found["keys"]) == ("", 0)
    [found] = lines(typed("token", "new", "me", "--roles", "admin", "--json"))
    assert found["line"].startswith("me:")
    assert len(found["token"]) > 40
