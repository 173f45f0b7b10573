"""Who may do what through SQS: the access key id is a token of zapq's."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.http.test_access import line
from tests.sqs.clients import Boto, tell
from tests.support.serving import serving
from tests.support.waiting import eventually
from tests.support.wire import ask
from zapq.service.open import open_service
from zapq.settings import Settings
from zapq.sqs.credentials import shown
from zapq.testing import ZapqServer

ADMIN, PRODUCER, CONSUMER, METRICS, SLASH = "a" * 20, "p" * 20, "c" * 20, "m" * 20, "s/l/a/s/h" * 3


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(
        line("root", ADMIN, "admin")
        + line("shop", PRODUCER, "producer:jobs*")
        + line("mailer", CONSUMER, "consumer:jobs*")
        + line("graphs", METRICS, "metrics:jobs*")
        + line("slash", SLASH, "producer,consumer")
    )
    path.chmod(0o600)
    return path


@pytest.fixture
def with_tokens(zapq_settings: Settings, tokens: Path) -> Settings:
    return replace(zapq_settings, token_file=str(tokens))


async def test_roles_and_patterns_of_a_token_hold(with_tokens: Settings) -> None:
    async with serving(with_tokens) as url:
        admin, shop, mailer, graphs = (Boto(url, key=each) for each in (ADMIN, PRODUCER, CONSUMER, METRICS))
        jobs, other = await admin.make("jobs"), await admin.make("other")
        send: dict[str, Any] = {"MessageBody": "x"}
        await shop("send_message", QueueUrl=jobs, **send)
        got = await mailer.one(jobs)
        await mailer("delete_message", QueueUrl=jobs, ReceiptHandle=got["ReceiptHandle"])
        for each in (shop, mailer, graphs):
            assert (await each("list_queues"))["QueueUrls"] == [jobs]
            await each("get_queue_url", QueueName="jobs")
            await each.attributes(jobs)
        for refused in (
            await shop.refused("receive_message", QueueUrl=jobs),
            await mailer.refused("send_message", QueueUrl=jobs, **send),
            await shop.refused("send_message", QueueUrl=other, **send),
            await graphs.refused("get_queue_attributes", QueueUrl=other),
            await graphs.refused("create_queue", QueueName="jobs2"),
            await shop.refused("create_queue", QueueName="other2"),
            await shop.refused("purge_queue", QueueUrl=jobs),
            await mailer.refused("delete_queue", QueueUrl=jobs),
        ):
            assert (refused.code, refused.status) == ("AccessDenied", 403)
        for each in (shop, mailer):
            await each.make("jobs3")
        policy = f'{{"deadLetterTargetArn":"{(await admin.attributes(other))["QueueArn"]}","maxReceiveCount":1}}'
        attributes = {"RedrivePolicy": policy}
        refused = await shop.refused("create_queue", QueueName="jobs4", Attributes=attributes)
        assert refused.code == "AccessDenied"
        await admin("delete_queue", QueueUrl=jobs)


async def test_unknown_tokens_and_none_are_told_apart(with_tokens: Settings) -> None:
    async with serving(with_tokens) as url:
        refused = await Boto(url, key="nobody").refused("list_queues")
        assert (refused.code, refused.status) == ("InvalidClientTokenId", 403)
        answer = await tell(url, "ListQueues", {})
        assert answer.status == 403
        assert answer.headers["x-amzn-query-error"] == "MissingAuthenticationToken;Sender"
        assert (await tell(url, "ListQueues", {}, headers={"Authorization": f"Bearer {ADMIN}"})).status == 200


async def test_the_session_token_will_do_and_a_token_may_have_slashes(with_tokens: Settings) -> None:
    async with serving(with_tokens) as url:
        assert await Boto(url, key="anyone", session=ADMIN)("list_queues") == {}
        assert await Boto(url, key=ADMIN, session="anything")("list_queues") == {}
        assert await Boto(url, key=SLASH)("list_queues") == {}


async def test_a_poll_ends_when_its_token_does(with_tokens: Settings, tokens: Path) -> None:
    async with open_service(with_tokens) as service:
        reload, reloading = trio.open_memory_channel[None](1)
        async with reload, reloading, serving(with_tokens, service, reload_trigger=reloading.receive) as url:
            jobs = await Boto(url, key=ADMIN).make("jobs")
            refusals: list[str] = []

            async def poll() -> None:
                refused = await Boto(url, key=CONSUMER).refused(
                    "receive_message", QueueUrl=jobs, WaitTimeSeconds=20
                )
                refusals.append(refused.code)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(poll)
                while not service.stats().waiting:
                    await trio.sleep(0.01)
                tokens.write_text(line("root", ADMIN, "admin"))
                await reload.send(None)
    assert refusals == ["InvalidClientTokenId"]


async def test_without_tokens_any_key_works_and_only_this_machine_administers(zapq_server: ZapqServer) -> None:
    boto = Boto(zapq_server.url, key="whatever")
    url = await boto.make()
    await boto("send_message", QueueUrl=url, MessageBody="x")
    await boto("purge_queue", QueueUrl=url)  # from this machine


def test_a_credential_is_read_from_the_right() -> None:
    field = b"AWS4-HMAC-SHA256 Credential=a/b/20261129/eu-west-1/sqs/aws4_request, SignedHeaders=host, Signature=0"
    assert shown(field, b"") == ((b"Bearer a/b",), "eu-west-1")
    assert shown(field, b"session") == ((b"Bearer session", b"Bearer a/b"), "eu-west-1")
    assert shown(b"", b"", b"key/20261129/us-west-2/sqs/aws4_request") == ((b"Bearer key",), "us-west-2")
    assert shown(b"", b"", key=b"old") == ((b"Bearer old",), "us-east-1")
    assert shown(b"Bearer token", b"") == ((b"Bearer token",), "us-east-1")
    assert shown(b"Basic x", b"") == ((b"Basic x",), "us-east-1")
    assert shown(b"", b"") == ((), "us-east-1")


@pytest.mark.parametrize("path", ["/_localstack/health", "/health", "/moto-api/"])
async def test_health_checks_written_for_emulators_are_answered_without_a_token(
    zapq_settings: Settings, tokens: Path, path: str
) -> None:
    for settings in (zapq_settings, replace(zapq_settings, token_file=str(tokens))):
        async with serving(settings) as url:
            for method in ("GET", "HEAD"):
                assert (await ask(url, method, path)).status == 200
            body = (await ask(url, "GET", path)).body
            assert (b'"sqs": "running"' in body) == (path != "/health")
    async with serving(replace(zapq_settings, sqs=False)) as url:
        assert (await ask(url, "GET", path)).status == (200 if path == "/health" else 404)


async def test_to_cancel_a_task_needs_an_administrator_of_its_queue(
    zapq_settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "tokens"
    path.write_text(line("root", ADMIN, "admin") + line("shop", PRODUCER, "admin:shop*"))
    path.chmod(0o600)
    handle = b64encode(b'{"taskId":"x","sourceArn":"arn:aws:sqs:r:a:dead"}').decode()
    async with serving(replace(zapq_settings, token_file=str(path))) as url:
        refused = await Boto(url, key=PRODUCER).refused("cancel_message_move_task", TaskHandle=handle)
        assert refused.code == "AccessDenied"
        refused = await Boto(url, key=ADMIN).refused("cancel_message_move_task", TaskHandle=handle)
        assert refused.code == "ResourceNotFoundException"


async def test_to_move_dead_letters_back_needs_an_administrator_of_the_queues_they_came_from(
    zapq_settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "tokens"
    path.write_text(line("root", ADMIN, "admin") + line("dead", PRODUCER, "admin:*dead"))
    path.chmod(0o600)
    async with serving(replace(zapq_settings, token_file=str(path))) as url:
        root, other = Boto(url, key=ADMIN), Boto(url, key=PRODUCER)
        arns = {}
        for name in ("dead", "not-dead"):
            arns[name] = (await root.attributes(await root.make(name)))["QueueArn"]
        policy = f'{{"deadLetterTargetArn":"{arns["dead"]}","maxReceiveCount":1}}'
        await root.make("also-dead", RedrivePolicy=policy)
        jobs = await root.make("jobs", RedrivePolicy=policy)
        refused = await other.refused("start_message_move_task", SourceArn=arns["dead"])
        assert (refused.code, refused.status) == ("AccessDenied", 403)
        jobs_arn = (await root.attributes(jobs))["QueueArn"]
        refused = await other.refused("start_message_move_task", SourceArn=arns["dead"], DestinationArn=jobs_arn)
        assert refused.code == "AccessDenied"
        await other("start_message_move_task", SourceArn=arns["dead"], DestinationArn=arns["not-dead"])
        await root("delete_queue", QueueUrl=jobs)

        async def is_done() -> bool:
            tasks = await root("list_message_move_tasks", SourceArn=arns["dead"])
            return bool(tasks["Results"][0]["Status"] != "RUNNING")

        await eventually(is_done, "the task")
        await other("start_message_move_task", SourceArn=arns["dead"])
