"""What the client says to a real server, over each kind of connection, and what it makes of answers."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.client.doubles import ENQUEUED, Script, answer_of, refusal, scripted
from tests.support.ports import free_ports
from tests.support.serving import with_tls
from zapq import Draft, errors
from zapq.access.token import digest
from zapq.client import HeldLease, Lease, open_client
from zapq.client.answers import error_of
from zapq.client.wire import Reader
from zapq.core.placed import Placed
from zapq.http import problems, render
from zapq.service.service import QueueService
from zapq.settings import Settings
from zapq.testing import ZapqServer


@pytest.fixture(params=["tcp", "unix", "tls"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def trusting(kind: str, tmp_path: Path) -> tuple[Settings, ssl.SSLContext]:
    """Settings of a server that is reached in this way, and whom its clients trust."""
    addr = f"unix:{tmp_path}/s" if kind == "unix" else "127.0.0.1:0"
    settings = Settings(addr=addr, data_dir=str(tmp_path), grace=1.0)
    return with_tls(settings, tmp_path) if kind == "tls" else (settings, ssl.create_default_context())


class TestVerbs:
    """Over TCP, TLS and unix sockets, to a real server."""

    @pytest.fixture
    def zapq_settings(self, trusting: tuple[Settings, ssl.SSLContext]) -> Settings:
        return trusting[0]

    async def test_send_and_give_groups(
        self, zapq_server: ZapqServer, trusting: tuple[Settings, ssl.SSLContext]
    ) -> None:
        async with open_client(zapq_server.url, verify=trusting[1]) as client:
            for group in ("a&1", "b"):
                await client.enqueue("emails", group.encode(), group=group)
                await client.enqueue_many("emails", [Draft(body=b"2", group=group)])
            lease = await client.receive("emails")
            assert lease is not None
            assert (lease.body, lease.group) == (b"a&1", "a&1")
            [other] = await client.receive_many("emails", 1)
            assert (other.body, other.group) == (b"b", "b")
            assert await client.receive("emails") is None
            await client.ack(other)
            message = await client.dequeue("emails")
            assert message is not None
            assert (message.body, message.group) == (b"2", "b")

    async def test_send_what_is_unique_and_learn_what_became_of_it(
        self, zapq_server: ZapqServer, trusting: tuple[Settings, ssl.SSLContext]
    ) -> None:
        async with open_client(zapq_server.url, verify=trusting[1]) as client:
            assert await client.enqueue_unique("emails", b"1", "a&1", ttl=60) == Placed(1)
            assert await client.enqueue_unique("emails", b"2", "a&1") == Placed(1, "kept")
            batch: list[bytes | Draft] = [Draft(body=b"3", unique="a&1"), b"4"]
            assert await client.enqueue_many("emails", batch) == 1
            assert await client.enqueue_unique("emails", b"5", "a&1", on="replace") == Placed(1, "replaced")
            taken = [await client.dequeue("emails"), await client.dequeue("emails")]
            assert [message and (message.id, message.body) for message in taken] == [(1, b"5"), (2, b"4")]

    async def test_send_and_give_headers(
        self, zapq_server: ZapqServer, trusting: tuple[Settings, ssl.SSLContext]
    ) -> None:
        async with open_client(zapq_server.url, verify=trusting[1]) as client:
            headers = {"Order": "17", "traceparent": "00-1"}
            kept = {"order": "17", "traceparent": "00-1"}
            await client.enqueue("emails", b"a", headers=headers)
            await client.enqueue("emails", b"b", headers=headers)
            batch: list[bytes | Draft] = [b"c", Draft(body=b"d"), Draft(body=b"e", headers={"ce-id": "1"})]
            await client.enqueue_many("emails", batch, headers=headers)
            lease = await client.receive("emails")
            message = await client.dequeue("emails")
            assert lease is not None
            assert message is not None
            assert (lease.headers, message.headers) == (kept, kept)
            leases = await client.receive_many("emails")
            assert [each.headers for each in leases] == [kept, kept, {"ce-id": "1"}]
            with pytest.raises(errors.InvalidParameter, match="value of the header"):
                await client.enqueue("emails", b"x", headers={"a": "b\nc: d"})

    async def test_say_what_the_queues_verbs_say(
        self, zapq_server: ZapqServer, trusting: tuple[Settings, ssl.SSLContext]
    ) -> None:
        async with open_client(zapq_server.url, verify=trusting[1]) as client:
            assert await client.enqueue("emails", b"hello", content_type="text/plain", ttl=60) == 1
            assert await client.enqueue("emails", b"urgent", priority=9) == 2
            assert await client.enqueue("emails", b"later", delay=1_000_000.5) == 3
            assert await client.enqueue_many("emails", [b"one", b"\xff"]) == 4
            urgent = await client.receive("emails", visibility=60)
            assert urgent is not None
            assert (urgent.body, urgent.id, urgent.queue, urgent.receive_count) == (b"urgent", 2, "emails", 1)
            await client.extend(urgent, visibility=7200.5)
            await client.ack(urgent)
            await client.ack(urgent)
            hello = await client.receive("emails")
            assert hello is not None
            assert (hello.body, hello.content_type) == (b"hello", "text/plain")
            await client.release(hello)
            message = await client.dequeue("emails")
            assert message is not None
            assert (message.id, message.body, message.content_type) == (1, b"hello", "text/plain")
            leases = await client.receive_many("emails", 10, visibility=60)
            assert [(each.id, each.body, each.receive_count) for each in leases] == [
                (4, b"one", 1),
                (5, b"\xff", 1),
            ]
            await client.release(leases[0], delay=60)
            assert await client.receive("emails") is None
            assert await client.receive_many("emails") == []
            assert await client.dequeue("emails") is None
            stats = await client.stats("emails")
            assert (stats["delayed"], stats["leased"], stats["acked"]) == (2, 1, 1)
            assert [each["name"] for each in await client.stats()] == ["default", "emails"]

    async def test_refusals_are_the_exceptions_they_were(
        self, zapq_server: ZapqServer, trusting: tuple[Settings, ssl.SSLContext]
    ) -> None:
        async with open_client(zapq_server.url, verify=trusting[1]) as client:
            with pytest.raises(errors.QueueNotFound) as not_found:
                await client.receive("emails")
            assert not_found.value.members == {"queue": "emails"}
            with pytest.raises(errors.MessageTooLarge) as too_large:
                await client.enqueue("emails", bytes(200_000))
            assert too_large.value.members["max_bytes"] == 131_072
            with pytest.raises(errors.InvalidParameter, match=r"^priority"):
                await client.enqueue("emails", b"", priority=10)
            assert await client.enqueue("emails", b"hello", key="a") == 1
            assert await client.enqueue("emails", b"hello", key="a") == 1
            for key, batch in (("a", [b"hello"]), ("b", [b"one", b"other"])):
                assert await client.enqueue_many("emails", [b"one", b"two"], key="b") == 2
                with pytest.raises(errors.KeyReused):
                    await client.enqueue_many("emails", batch, key=key)
            with pytest.raises(errors.KeyReused):
                await client.enqueue("emails", b"other", key="a")
            lease = await client.receive("emails")
            assert lease is not None
            await client.release(lease)
            for settle in (client.ack, client.release, client.extend):
                with pytest.raises(errors.ReceiptExpired):
                    await settle(lease)


async def test_a_lease_has_the_same_attributes_as_one_in_the_servers_process(zapq_service: QueueService) -> None:
    queue = zapq_service.queue("emails")
    await queue.enqueue(b"hello", content_type="text/plain", priority=3)
    ours = await queue.receive()
    assert ours is not None
    async with scripted(Script(render.received(ours, 0, b""))) as client:
        theirs = await client.receive("emails")
        held = HeldLease(client, theirs)
    names = Lease.__struct_fields__
    assert "receive_count" in names
    for name in names:
        assert getattr(ours, name) == getattr(theirs, name) == getattr(held, name), name
    [seen] = await queue.peek("leased")
    for name in ("id", "body", "content_type", "receive_count", "priority"):
        assert getattr(seen, name) == getattr(ours if name != "priority" else ours.message, name), name


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.ZapqError) and kind is not errors.ZapqError
    ],
)
def test_a_refusal_is_read_as_what_it_was(kind: type[errors.ZapqError]) -> None:
    answer = Reader().feed(refusal(kind("It is so.")))
    assert answer is not None
    error = error_of(answer)
    assert type(error) is kind
    assert error.detail == "It is so."


async def test_waits_for_a_message_for_longer_than_the_timeout(
    zapq_server: ZapqServer, patient_clock: MockClock
) -> None:
    zapq_server.service.queue("emails")
    async with open_client(zapq_server.url, timeout=5) as client, trio.open_nursery() as nursery:

        async def send_late() -> None:
            await trio.sleep(15)
            assert zapq_server.service.stats().waiting == 1
            await zapq_server.service.queue("emails").enqueue(b"hello")

        nursery.start_soon(send_late)
        lease = await client.receive("emails", wait=20)
        assert lease is not None
        assert lease.body == b"hello"


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://localhost", "", "http://a..b", f"http://{'a' * 64}.com"])
async def test_a_url_of_another_form_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="give http://host:port"):
        async with open_client(url):
            pass


@pytest.mark.parametrize("queue", ["", "..", "a/b", "\xfc"])
async def test_a_name_no_queue_can_have_is_refused_without_asking(queue: str) -> None:
    script = Script(ENQUEUED)
    async with scripted(script) as client:
        with pytest.raises(errors.InvalidParameter, match="letters, digits"):
            await client.enqueue(queue, b"")
        with pytest.raises(errors.InvalidParameter, match="letters, digits"):
            await client.stats(queue)
    assert script.requests == []


async def test_a_server_that_is_not_there_is_unreachable() -> None:
    [port] = free_ports(1)
    async with open_client(f"http://127.0.0.1:{port}", attempts=2, random=lambda: 0.0) as client:
        with pytest.raises(errors.Unreachable, match=r"^The server 127\.0\.0\.1:[0-9]+ could not be reached"):
            await client.enqueue_many("emails", [b"hello"])


async def test_a_refusal_has_everything_the_server_said() -> None:
    error = errors.QueueFull("Full up.")
    error.members = {"current": 3, "self": "x"}
    full = refusal(error, **{"Retry-After": "7", "X-Trace-Id": "trace-1"})
    async with scripted(Script(full), attempts=1) as client:
        with pytest.raises(errors.QueueFull, match=r"^Full up\.") as raised:
            await client.enqueue("emails", b"")
    assert raised.value.members == {"current": 3, "self": "x"}
    assert raised.value.retry_after == 7
    assert raised.value.__notes__ == ["The server's trace id is trace-1."]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (answer_of(404, b"<html>"), 404),
        (answer_of(301, fields={"Location": "/elsewhere"}), 301),
        (answer_of(500, b"{", problems.MEDIA_TYPE), 500),
        (answer_of(500, b'{"\xff": 1}', problems.MEDIA_TYPE), 500),
        (answer_of(200, b'{"\xff": 1}', "application/json"), 200),
        (refusal(errors.ServerError()), 500),
        (answer_of(200, b"<html>"), 200),
        (answer_of(200, fields={"Zapq-Message-Id": "x"}), 200),
    ],
    ids=repr,
)
async def test_what_is_no_answer_of_zapqs_is_a_server_error(answer: bytes, status: int) -> None:
    async with scripted(Script(answer)) as client:
        for call in (client.receive("emails"), client.enqueue("emails", b""), client.stats("emails")):
            with pytest.raises(errors.ServerError) as raised:
                await call
            assert raised.value.status == status


async def test_what_cannot_be_said_in_http_is_refused() -> None:
    script = Script(ENQUEUED)
    async with scripted(script) as client:
        with pytest.raises(errors.InvalidParameter, match="Content-Type must be visible ASCII") as refused:
            await client.enqueue("emails", b"", content_type="a\nb")
        assert refused.value.members == {"parameter": "Content-Type"}
        with pytest.raises(errors.InvalidParameter, match="Idempotency-Key must be visible ASCII"):
            await client.enqueue("emails", b"", key="\xe4")
    assert script.requests == []
    with pytest.raises(errors.InvalidParameter, match="token must be visible ASCII"):
        async with scripted(script, token="a\r\nb"):
            raise AssertionError


class TestTokens:
    """Shown to a server that wants one."""

    token, line = "t" * 20, f"shop:{digest(b't' * 20).hex()}:producer"

    @pytest.fixture
    def zapq_settings(self, zapq_settings: Settings, tmp_path: Path) -> Settings:
        file = tmp_path / "tokens"
        file.write_text(self.line)
        file.chmod(0o600)
        return replace(zapq_settings, token_file=str(file))

    async def test_a_client_shows_it_with_each_request(self, zapq_server: ZapqServer) -> None:
        async with open_client(zapq_server.url, token=self.token) as client:
            assert await client.enqueue("q", b"x") == 1
            with pytest.raises(errors.RoleMissing, match="needs the role consumer") as refused:
                await client.receive("q")
            assert refused.value.members == {"role": "consumer"}
        async with open_client(zapq_server.url) as client:
            with trio.fail_after(10), pytest.raises(errors.Unauthenticated):
                await client.enqueue("q", b"x")
