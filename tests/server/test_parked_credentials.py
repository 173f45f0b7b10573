"""Long polls that wait in the lobby end with the credential they began with, as they do on the long way."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

import zapq
from tests.support.serving import plain_and_tls, until_waiting
from tests.support.waiting import eventually
from tests.support.wire import open_client
from zapq.access import token_file
from zapq.access.grant import Grant
from zapq.access.token import digest
from zapq.access.token_file import Credential
from zapq.service.service import QueueService
from zapq.settings import Settings

__all__ = ["plain_and_tls"]

TOKEN = "e" * 20
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def line(roles: str) -> str:
    return f"mailer:{digest(TOKEN.encode()).hex()}:{roles}\n"


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(line("consumer,producer"))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(("kept", "status"), [("", 401), (line("metrics"), 403), (line("consumer"), 200)])
async def test_it_is_refused_as_a_new_request_would_be(
    zapq_settings: Settings,
    zapq_service: QueueService,
    tokens: Path,
    nursery: trio.Nursery,
    kept: str,
    status: int,
) -> None:
    settings = replace(zapq_settings, token_file=str(tokens))
    ask_to_reload, asked = trio.open_memory_channel[None](0)
    serve = partial(zapq.serve, settings, service=zapq_service, reload_trigger=asked.receive)
    [url] = await nursery.start(serve)
    zapq_service.queue("emails")
    async with open_client(url) as client:
        await client.send("POST", "/queues/emails/receive?wait=60", b"", BEARER)
        await until_waiting(zapq_service)
        tokens.write_text(f"root:{digest(b'r' * 20).hex()}:admin\n{kept}")
        await ask_to_reload.send(None)
        if status == 200:
            # Once it is read, the next signal is waited for.
            await ask_to_reload.send(None)
            await trio.testing.wait_all_tasks_blocked()
            assert zapq_service.stats().waiting == 1
            await zapq_service.queue("emails").enqueue(b"hello")
        answer = await client.answer()
        assert answer.status == status
        assert zapq_service.stats().waiting == 0
        if status != 200:
            # The connection goes on, and nothing that comes now is for the one that waited.
            await zapq_service.queue("emails").enqueue(b"hello")
            assert (await client.request("GET", "/health")).status == 200
            assert zapq_service.queue("emails").info().stats.ready == 1


async def test_it_ends_when_its_credential_does(
    zapq_settings: Settings,
    zapq_service: QueueService,
    tokens: Path,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    soon = Grant("mailer", frozenset({"consumer"}), expires=time.time() + 1.0)
    monkeypatch.setattr(token_file, "read", lambda _: [Credential(soon, digest=digest(TOKEN.encode()))])
    settings = replace(zapq_settings, token_file=str(tokens))
    [url] = await nursery.start(partial(zapq.serve, settings, service=zapq_service))
    async with open_client(url) as client:
        await client.send("POST", "/queues/emails/receive?wait=60", b"", BEARER)
        answer = await client.answer()
        assert (answer.status, answer.json["detail"]) == (401, "The credential has expired. Get a new one.")
        assert zapq_service.stats().waiting == 0


async def test_of_one_that_waits_for_room_nothing_is_stored_and_its_body_is_no_request(
    zapq_settings: Settings, zapq_service: QueueService, tokens: Path, nursery: trio.Nursery
) -> None:
    settings = replace(zapq_settings, token_file=str(tokens))
    ask_to_reload, asked = trio.open_memory_channel[None](0)
    serve = partial(zapq.serve, settings, service=zapq_service, reload_trigger=asked.receive)
    [url] = await nursery.start(serve)
    await zapq_service.configure("emails", zapq.QueueSettings(max_messages=1))
    emails = zapq_service.queue("emails")
    await emails.enqueue(b"first")
    async with open_client(url) as client:
        health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        head = "POST /queues/emails/messages?wait=60 HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Authorization: Bearer {TOKEN}\r\nContent-Length: {len(health)}\r\n\r\n"
        await client.stream.send_all(head.encode() + health + health)
        await until_waiting(zapq_service)
        tokens.write_text(f"root:{digest(b'r' * 20).hex()}:admin\n")
        await ask_to_reload.send(None)
        received = b""
        while data := await client.stream.receive_some():
            received += data
        assert received.startswith(b"HTTP/1.1 401")
        assert received.count(b"HTTP/1.1") == 1
    await eventually(lambda: not zapq_service.stats().waiting, "the offer to be gone")
    await emails.clear()
    assert emails.info().stats.messages == 0
