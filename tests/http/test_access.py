"""Tokens over HTTP: who is refused and with which word, and what an administrator leaves in the log."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import zapq
from bench.torture import auth
from tests.support.serving import until_waiting
from tests.support.waiting import eventually
from tests.support.wire import Answer, ask, open_client
from zapq.access.access import Access
from zapq.access.grant import Grant
from zapq.access.token import digest
from zapq.http.endpoints import ENDPOINTS
from zapq.service.service import QueueService
from zapq.settings import Settings
from zapq.testing import ZapqServer

ADMIN, PRODUCER, EMAILS = "a" * 20, "p" * 20, "e" * 20
COLD = {"TE": "trailers"}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def line(name: str, token: str, rest: str) -> str:
    return f"{name}:{digest(token.encode()).hex()}:{rest}\n"


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(
        line("root", ADMIN, "admin")
        + line("shop", PRODUCER, "producer")
        + line("mailer", EMAILS, "consumer,metrics,admin:emails*")
    )
    path.chmod(0o600)
    return path


@pytest.fixture
def zapq_settings(zapq_settings: Settings, tokens: Path) -> Settings:
    return replace(zapq_settings, token_file=str(tokens))


def fields(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = getattr(record, "fields", {})
    return found


def audited(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [fields(each) for each in caplog.records if each.getMessage() == "administered"]


def test_what_only_administrators_may_do_is_logged() -> None:
    assert {each.action for each in ENDPOINTS if each.role == "admin"} == {
        each.action for each in ENDPOINTS if each.audit is not None
    }


async def test_every_endpoint_method_and_credential_gets_what_it_should() -> None:
    # All of them: python -m bench.torture auth.
    report = await auth.run(seed=1, scale=0.03)
    assert report.failures == []


@pytest.mark.parametrize("cold", [{}, COLD], ids=["hot", "cold"])
async def test_refusals_say_what_is_missing(zapq_server: ZapqServer, cold: dict[str, str]) -> None:
    async def send(headers: dict[str, str], target: str = "/enqueue") -> Answer:
        body = b"x" if target == "/enqueue" else b""
        return await ask(zapq_server.url, "POST", target, body, cold | headers)

    nobody = await send({})
    assert (nobody.status, nobody.headers["www-authenticate"]) == (401, 'Bearer realm="zapq"')
    assert nobody.json["type"] == "/problems/unauthenticated"
    wrong = await send(bearer("w" * 20))
    assert (wrong.status, wrong.headers["www-authenticate"]) == (401, 'Bearer realm="zapq", error="invalid_token"')
    other = await send(bearer(EMAILS))
    assert (other.status, other.json["role"]) == (403, "producer")
    assert 'error="insufficient_scope", scope="producer"' in other.headers["www-authenticate"]
    assert (await send(bearer(PRODUCER))).status == 202
    assert (await send(bearer(ADMIN))).status == 202
    elsewhere = await send(bearer(EMAILS), "/queues/payments/receive")
    assert (elsewhere.status, elsewhere.json["role"]) == (403, "consumer")
    assert "payments" not in elsewhere.body.decode()
    assert (await send(bearer(EMAILS), "/queues/emails.eu/receive")).status == 404
    assert zapq_server.service.stats().queue.messages == 2


async def test_probes_need_nothing_and_loopback_is_no_reason_any_more(zapq_server: ZapqServer) -> None:
    for target in ("/health", "/livez", "/readyz"):
        assert (await ask(zapq_server.url, "GET", target)).status == 200
    assert (await ask(zapq_server.url, "POST", "/clear")).status == 401
    assert (await ask(zapq_server.url, "GET", "/nothing")).status == 404
    assert (await ask(zapq_server.url, "GET", "/enqueue")).status == 405
    assert (await ask(zapq_server.url, "OPTIONS", "/enqueue")).status == 200


async def test_who_is_refused_is_refused_before_the_body_is_there(zapq_server: ZapqServer) -> None:
    async with open_client(zapq_server.url) as client:
        head = b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
        await client.stream.send_all(head + b"x" * 10)
        answer = await client.answer_unasked()
        assert (answer.status, answer.headers["connection"]) == (401, "close")


async def test_what_the_hot_path_remembers_ends_when_credentials_are_read_again(
    zapq_settings: Settings,
    zapq_service: QueueService,
    tokens: Path,
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "zapq")
    ask_to_reload, asked = trio.open_memory_channel[None](0)
    serve = partial(zapq.serve, zapq_settings, service=zapq_service, reload_trigger=asked.receive)
    [url] = await nursery.start(serve)

    async def reload() -> None:
        logged = len(caplog.records)
        await ask_to_reload.send(None)
        await eventually(
            lambda: any("reload" in each.getMessage() for each in caplog.records[logged:]), "the log to tell of it"
        )

    async with open_client(url) as client:
        for _ in range(3):
            assert (await client.request("POST", "/enqueue", b"x", bearer(PRODUCER))).status == 202
        assert (await ask(url, "GET", "/metrics", headers=bearer(ADMIN))).json["hot_requests"] == 3
        tokens.write_text("nonsense")
        await reload()
        assert (await client.request("POST", "/enqueue", b"x", bearer(PRODUCER))).status == 202
        tokens.write_text(line("root", ADMIN, "admin"))
        await reload()
        assert (await client.request("POST", "/enqueue", b"x", bearer(PRODUCER))).status == 401
    assert [each.levelname for each in caplog.records if "reload" in each.getMessage()] == ["ERROR", "INFO"]
    assert zapq_service.stats().queue.enqueued == 4


@pytest.mark.parametrize(
    ("kept", "status"),
    [("", 401), (line("mailer", EMAILS, "producer"), 403), (line("mailer", EMAILS, "consumer"), 200)],
    ids=["revoked", "another role", "the same"],
)
async def test_a_long_poll_ends_with_the_credential_it_began_with(
    zapq_settings: Settings,
    zapq_service: QueueService,
    tokens: Path,
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
    kept: str,
    status: int,
) -> None:
    caplog.set_level(logging.INFO, "zapq")
    ask_to_reload, asked = trio.open_memory_channel[None](0)
    serve = partial(zapq.serve, zapq_settings, service=zapq_service, reload_trigger=asked.receive)
    [url] = await nursery.start(serve)
    zapq_service.queue("emails")
    async with open_client(url) as client:
        await client.send("POST", "/queues/emails/receive?wait=60", b"", COLD | bearer(EMAILS))
        await until_waiting(zapq_service)
        tokens.write_text(line("root", ADMIN, "admin") + kept)
        await ask_to_reload.send(None)
        if status == 200:
            await eventually(
                lambda: any("reload" in each.getMessage() for each in caplog.records), "the log to tell of it"
            )
            await zapq_service.queue("emails").enqueue(b"hello")
        answer = await client.answer()
        assert answer.status == status
    assert zapq_service.stats().waiting == 0


async def test_a_long_poll_ends_when_its_credential_expires(
    zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = Grant("mailer", frozenset({"consumer"}), expires=time.time() + 0.2)
    monkeypatch.setattr(Access, "who", lambda *_: soon)
    answer = await ask(zapq_server.url, "POST", "/queues/emails/receive?wait=60", headers=COLD | bearer(EMAILS))
    assert (answer.status, answer.json["detail"]) == (401, "The credential has expired. Get a new one.")
    assert zapq_server.service.stats().waiting == 0


async def test_a_long_poll_whose_client_leaves_is_no_error(
    zapq_server: ZapqServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_client(zapq_server.url) as client:
        await client.send("POST", "/queues/emails/receive?wait=60", b"", COLD | bearer(EMAILS))
        await until_waiting(zapq_server.service)
    await eventually(lambda: not zapq_server.service.stats().waiting, "the consumer to be gone")
    async with open_client(zapq_server.url) as client:
        await client.send("POST", "/queues/emails/receive?wait=60", b"", COLD | bearer(EMAILS))
        await until_waiting(zapq_server.service)
        await client.stream.send_eof()
        assert (await client.answer()).status == 204
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR] == []


async def test_what_an_administrator_does_is_one_line_with_who_and_how_much(
    zapq_server: ZapqServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "zapq")
    for _ in range(3):
        await zapq_server.service.enqueue(b"x")
        await zapq_server.service.queue("emails").enqueue(b"x")
    actions: list[tuple[str, str, bytes, dict[str, object]]] = [
        ("POST", "/persist?file=a.json", b"", {"action": "persist", "file": "a.json", "messages": 3}),
        ("GET", "/snapshots", b"", {"action": "list-snapshots", "files": 1}),
        ("POST", "/clear", b"", {"action": "clear", "queue": "default", "cleared": 3}),
        ("POST", "/load?file=a.json", b"", {"action": "load", "file": "a.json", "messages": 3}),
        ("PUT", "/queues/new", b"{}", {"action": "configure", "queue": "new", "made": True}),
        (
            "PATCH",
            "/queues/new",
            b'{"ttl":5,"max_bytes":null}',
            {"action": "change-settings", "queue": "new", "settings": ["max_bytes", "ttl"]},
        ),
        ("POST", "/queues/new/pause", b"", {"action": "pause", "queue": "new"}),
        ("POST", "/queues/new/resume", b"", {"action": "resume", "queue": "new"}),
        ("POST", "/queues/new/redrive", b"", {"action": "redrive", "queue": "new", "moved": 0, "left": 0}),
        (
            "DELETE",
            "/queues/emails/messages/2",
            b"",
            {"action": "delete-message", "queue": "emails", "message_id": 2},
        ),
        ("POST", "/queues/emails/purge", b"", {"action": "purge", "queue": "emails", "purged": 2}),
        ("DELETE", "/queues/emails", b"", {"action": "delete", "queue": "emails"}),
        ("POST", "/drain", b"", {"action": "drain"}),
    ]
    for method, target, body, _ in actions:
        answer = await ask(zapq_server.url, method, target, body, bearer(ADMIN))
        assert answer.status < 300, (target, answer)
    who = {"token": "root", "peer": "127.0.0.1"}
    assert audited(caplog) == [action | who for _, _, _, action in actions]
    # Time is moved on by tests only: tests/http/test_advance.py.
    assert {said["action"] for *_, said in actions} | {"advance"} == {
        each.action for each in ENDPOINTS if each.audit
    }


async def test_a_refused_credential_is_one_line_with_its_name_and_never_with_itself(
    zapq_server: ZapqServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "zapq")
    for token in ("w" * 20, EMAILS):
        await ask(zapq_server.url, "POST", "/enqueue", b"x", bearer(token))
    refused = [fields(each) for each in caplog.records if each.getMessage() == "refused"]
    assert [(each["status"], each.get("token"), each["peer"]) for each in refused] == [
        (401, None, "127.0.0.1"),
        (403, "mailer", "127.0.0.1"),
    ]
    for token in (ADMIN, PRODUCER, EMAILS, "w" * 20):
        assert token not in caplog.text
        assert not any(token in str(fields(each)) for each in caplog.records)


async def test_no_secret_is_in_logs_answers_metrics_or_reprs(
    zapq_settings: Settings, zapq_service: QueueService, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = replace(zapq_settings, token="t" * 20)
    secrets = (ADMIN, PRODUCER, EMAILS, "t" * 20, "w" * 20)
    [url] = await nursery.start(partial(zapq.serve, settings, service=zapq_service))
    seen: list[object] = [settings, Access(settings), vars(Access(settings))]
    for secret in secrets:
        for method, target in (
            ("POST", "/enqueue"),
            ("GET", "/metrics"),
            ("PUT", "/queues/a:b"),
            ("GET", "/queues"),
        ):
            seen.append(await ask(url, method, target, b"x", bearer(secret)))
    seen += [(each.getMessage(), vars(each)) for each in caplog.records]
    hidden = [secret for secret in secrets if any(secret in repr(each) for each in seen)]
    assert hidden == []
    # What cannot be hidden is said.
    guide = (Path(__file__).parents[2] / "docs/how-to/access.md").read_text()
    assert "/proc/PID/environ" in guide


async def test_somebody_who_tries_again_and_again_does_not_fill_the_log(
    zapq_server: ZapqServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "zapq")
    begun = trio.current_time()
    async with open_client(zapq_server.url) as client:
        for _ in range(100):
            assert (await client.request("GET", "/metrics", b"", bearer("w" * 20))).status == 401
    refused = [each for each in caplog.records if each.getMessage() == "refused"]
    assert 10 <= len(refused) <= 10 * (2 + trio.current_time() - begun)


async def test_a_pattern_of_queues_is_all_its_holder_sees_and_settles(zapq_server: ZapqServer) -> None:
    for queue in ("emails", "payments"):
        await zapq_server.service.queue(queue).enqueue(b"x")
    listed = await ask(zapq_server.url, "GET", "/queues", headers=bearer(EMAILS))
    assert [each["name"] for each in listed.json] == ["emails"]
    assert (await ask(zapq_server.url, "GET", "/queues/payments", headers=bearer(EMAILS))).status == 403
    assert (await ask(zapq_server.url, "GET", "/metrics", headers=bearer(EMAILS))).status == 403
    away = b'{"max_receives":1,"dead_letter":"payments"}'
    refused = await ask(zapq_server.url, "PUT", "/queues/emails", away, bearer(EMAILS))
    assert (refused.status, refused.json["role"]) == (403, "admin")
    refused = await ask(zapq_server.url, "PATCH", "/queues/emails", away, bearer(EMAILS))
    assert (refused.status, refused.json["role"]) == (403, "admin")
    near = b'{"max_receives":1,"dead_letter":"emails.dead"}'
    assert (await ask(zapq_server.url, "PUT", "/queues/emails", near, bearer(EMAILS))).status == 200


def test_a_secret_is_not_in_a_repr_nor_in_a_complaint(zapq_settings: Settings) -> None:
    settings = replace(zapq_settings, token="t" * 20)
    assert "t" * 20 not in repr(settings)
    access = Access(settings)
    assert "t" * 20 not in repr(vars(access))
    with pytest.raises(zapq.ZapqError) as refused:
        replace(zapq_settings, token="short-secret")
    assert "short-secret" not in str(refused.value)
