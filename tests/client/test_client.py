"""The client against a real server, and, where time matters, against a queue or a script in virtual time."""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx2
import pytest
import trio
import trio.testing
import trustme

from zapq import errors
from zapq.client import Client, HeldLease, Lease, open_client
from zapq.client.answers import error_of
from zapq.http import problems, render
from zapq.service.named_queue import NamedQueue
from zapq.service.open import open_service
from zapq.service.service import QueueService
from zapq.settings import Settings
from zapq.testing import ZapqServer

Handler = Callable[[httpx2.Request], Awaitable[httpx2.Response]]


def response(raw: bytes) -> httpx2.Response:
    """The server's own bytes as the client's library has them."""
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields if field)
    return httpx2.Response(int(status.split()[1]), headers=headers, content=body)


def refusal(error: errors.ZapqError, **headers: str) -> httpx2.Response:
    return httpx2.Response(
        error.status,
        headers={"Content-Type": problems.MEDIA_TYPE, **headers},
        content=problems.render_error(error, "trace-1"),
    )


def in_process(service: QueueService) -> Handler:
    """Answers for `service` without a socket, so that virtual time passes only when everybody waits for it."""

    async def act(request: httpx2.Request) -> bytes:
        _, _, name, *path = request.url.path.split("/")
        values = {key: float(text) for key, text in request.url.params.items()}
        queue = service.find(name)
        match request.method, path:
            case "POST", ["messages"]:
                message = await queue.enqueue(request.content)
                return render.enqueued_in(name, message.id, b"")
            case "POST", ["receive"]:
                lease = await queue.receive(**values)
                return answers.nothing("empty", 0, b"") if lease is None else answers.received(lease, 0, b"")
            case "DELETE", ["receipts", receipt]:
                await queue.ack(receipt)
            case "POST", ["receipts", receipt, "release"]:
                await queue.release(receipt, **values)
            case "POST", ["receipts", receipt, "extend"]:
                await queue.extend(receipt, **values)
            case _:
                raise AssertionError(request)
        return answers.empty(b"")

    async def answer(request: httpx2.Request) -> httpx2.Response:
        try:
            return response(await act(request))
        except errors.ZapqError as error:
            after = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
            return refusal(error, **after)

    return answer


class Script:
    """Answers requests with what was given, in turn, the last for ever, and notes when and what was asked."""

    def __init__(self, *turns: httpx2.Response | Exception) -> None:
        self.turns = list(turns)
        self.times: list[float] = []
        self.requests: list[httpx2.Request] = []

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.times.append(trio.current_time())
        self.requests.append(request)
        turn = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        if isinstance(turn, Exception):
            raise turn
        return turn

    def pauses(self) -> list[float]:
        return [round(later - earlier, 3) for earlier, later in zip(self.times, self.times[1:], strict=False)]


def scripted(script: Handler, **options: Any) -> Any:
    transport = httpx2.MockTransport(script)  # type: ignore[arg-type]  # any awaitable will do
    return open_client("http://zapq", transport=transport, random=lambda: 1.0, **options)


async def hold(lease: HeldLease) -> None:
    async with lease:
        await trio.sleep_forever()


LEASE = Lease("emails", 1, "tag-1", 1, "text/plain", b"hello")
ENQUEUED = response(answers.enqueued_in("emails", 7, b""))
DONE = response(answers.empty(b""))
BUSY = refusal(errors.Draining())

Call = Callable[[Client], Awaitable[object]]
CALLS: dict[str, tuple[Call, httpx2.Response]] = {
    "enqueue": (lambda client: client.enqueue("emails", b"hello"), ENQUEUED),
    "receive": (lambda client: client.receive("emails", wait=20), DONE),
    "receive_many": (lambda client: client.receive_many("emails"), DONE),
    "ack": (lambda client: client.ack(LEASE), DONE),
    "release": (lambda client: client.release(LEASE), DONE),
    "extend": (lambda client: client.extend(LEASE), DONE),
    "enqueue_many": (
        lambda client: client.enqueue_many("emails", [b"one"]),
        response(answers.enqueued_many(1, 7, b"")),
    ),
    "stats": (lambda client: client.stats(), httpx2.Response(200, json=[])),
}
ONCE: dict[str, tuple[Call, httpx2.Response]] = {
    "dequeue": (lambda client: client.dequeue("emails"), DONE),
}


@pytest.fixture(params=["tcp", "unix", "tls"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def trusting(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], ssl.SSLContext]:
    """Settings of a server with a certificate, and whom its clients trust."""
    directory = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return {"tls_cert": str(directory / "cert.pem"), "tls_key": str(directory / "key.pem")}, context


class TestVerbs:
    """Over TCP, TLS and unix sockets, to a real server."""

    @pytest.fixture
    def zapq_settings(
        self, kind: str, tmp_path_factory: pytest.TempPathFactory, trusting: tuple[dict[str, str], ssl.SSLContext]
    ) -> Settings:
        directory = tmp_path_factory.mktemp("zapq")
        addr = f"unix:{directory}/s" if kind == "unix" else "127.0.0.1:0"
        tls: Any = trusting[0] if kind == "tls" else {}
        return Settings(addr=addr, data_dir=str(directory), grace=1.0, **tls)

    async def test_say_what_the_queues_verbs_say(
        self, zapq_server: ZapqServer, trusting: tuple[dict[str, str], ssl.SSLContext]
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
        self, zapq_server: ZapqServer, trusting: tuple[dict[str, str], ssl.SSLContext]
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
    async with scripted(Script(response(render.received(ours, 0, b"")))) as client:
        theirs = await client.receive("emails")
        held = HeldLease(client, theirs)
    names = [field.name for field in dataclasses.fields(Lease)]
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
    error = error_of(refusal(kind("It is so.")))
    assert type(error) is kind
    assert error.detail == "It is so."


async def test_waits_for_a_message_for_longer_than_the_timeout(zapq_server: ZapqServer) -> None:
    zapq_server.service.queue("emails")
    async with open_client(zapq_server.url, timeout=0.2) as client, trio.open_nursery() as nursery:

        async def send_when_somebody_waits() -> None:
            while not zapq_server.service.stats().waiting:
                await trio.sleep(0.01)
            await zapq_server.service.queue("emails").enqueue(b"hello")

        nursery.start_soon(send_when_somebody_waits)
        lease = await client.receive("emails", wait=20)
        assert lease is not None
        assert lease.body == b"hello"


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://localhost", ""])
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
    with trio.socket.socket() as sock:
        await sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    async with open_client(f"http://127.0.0.1:{port}", attempts=2, random=lambda: 0.0) as client:
        with pytest.raises(errors.Unreachable, match=r"^The server 127\.0\.0\.1 could not be reached"):
            await client.enqueue_many("emails", [b"hello"])


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "failure",
    [httpx2.ConnectError(""), httpx2.ReadError(""), httpx2.ReadTimeout("")]
    + [httpx2.Response(status, text="<html>") for status in (429, 502, 503, 504)],
    ids=repr,
)
async def test_what_is_harmless_is_repeated_after_everything_that_passes(
    name: str, failure: Exception | httpx2.Response, autojump_clock: trio.testing.MockClock
) -> None:
    call, success = CALLS[name]
    script = Script(failure, failure, success)
    async with scripted(script) as client:
        await call(client)
    assert script.pauses() == [0.1, 0.2]


@pytest.mark.parametrize("name", ONCE)
@pytest.mark.parametrize(
    "failure",
    [httpx2.ConnectError(""), httpx2.PoolTimeout(""), httpx2.Response(429), httpx2.Response(503)],
    ids=repr,
)
async def test_what_must_happen_once_is_repeated_if_nothing_can_have_happened(
    name: str, failure: Exception | httpx2.Response, autojump_clock: trio.testing.MockClock
) -> None:
    call, success = ONCE[name]
    script = Script(failure, failure, success)
    async with scripted(script) as client:
        await call(client)
    assert script.pauses() == [0.1, 0.2]


@pytest.mark.parametrize("name", ONCE)
@pytest.mark.parametrize(
    "failure", [httpx2.ReadError(""), httpx2.WriteTimeout(""), httpx2.Response(504)], ids=repr
)
async def test_what_must_happen_once_is_not_repeated_if_it_may_have_happened(
    name: str, failure: Exception | httpx2.Response, autojump_clock: trio.testing.MockClock
) -> None:
    call, success = ONCE[name]
    script = Script(failure, success)
    async with scripted(script) as client:
        with pytest.raises(errors.NoAnswer if isinstance(failure, Exception) else errors.ServerError) as raised:
            await call(client)
    assert raised.value.status == 504
    assert script.pauses() == []


async def test_pauses_double_up_to_a_cap_and_the_last_failure_is_raised(
    autojump_clock: trio.testing.MockClock,
) -> None:
    script = Script(httpx2.ConnectError("first"), httpx2.ConnectError("refused"))
    async with scripted(script, attempts=10) as client:
        with pytest.raises(errors.Unreachable, match="The server zapq could not be reached: refused"):
            await client.enqueue("emails", b"")
    assert script.pauses() == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


async def test_five_attempts_are_the_default(autojump_clock: trio.testing.MockClock) -> None:
    script = Script(BUSY)
    async with scripted(script) as client:
        with pytest.raises(errors.Draining):
            await client.receive("emails")
    assert len(script.requests) == 5


async def test_what_the_server_asks_for_is_the_least_pause(autojump_clock: trio.testing.MockClock) -> None:
    full = refusal(errors.QueueFull(current=3), **{"Retry-After": "7"})
    script = Script(full, httpx2.Response(503, headers={"Retry-After": "2"}), ENQUEUED)
    async with scripted(script) as client:
        assert await client.enqueue("emails", b"") == 7
    assert script.pauses() == [7.1, 2.2]


async def test_a_producer_does_not_sleep_long_behind_the_room_it_waits_for(
    zapq_settings: Settings, autojump_clock: trio.testing.MockClock
) -> None:
    async with (
        open_service(replace(zapq_settings, max_msgs=1)) as service,
        scripted(in_process(service)) as client,
    ):
        emails = service.queue("emails")
        await emails.enqueue(b"first")
        room: list[float] = []

        async def make_room() -> None:
            await trio.sleep(0.5)
            assert await emails.dequeue() is not None
            room.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(make_room)
            await client.enqueue("emails", b"second")
            assert trio.current_time() - room[0] < 1.1
        assert emails.info().stats.refused == 1


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
        (httpx2.Response(404, html="<html>"), 404),
        (httpx2.Response(301, headers={"Location": "/elsewhere"}), 301),
        (httpx2.Response(500, headers={"Content-Type": problems.MEDIA_TYPE}, content=b"{"), 500),
        (httpx2.Response(500, headers={"Content-Type": problems.MEDIA_TYPE}, content=b'{"\xff": 1}'), 500),
        (httpx2.Response(200, content=b'{"\xff": 1}'), 200),
        (refusal(errors.ServerError()), 500),
        (httpx2.Response(200, html="<html>"), 200),
        (httpx2.Response(200, headers={"Zapq-Message-Id": "x"}), 200),
    ],
    ids=repr,
)
async def test_what_is_no_answer_of_zapqs_is_a_server_error(answer: httpx2.Response, status: int) -> None:
    async with scripted(Script(answer)) as client:
        for call in (client.receive("emails"), client.enqueue("emails", b""), client.stats("emails")):
            with pytest.raises(errors.ServerError) as raised:
                await call
            assert raised.value.status == status


@pytest.mark.parametrize("name", ["enqueue", "enqueue_many"])
async def test_every_attempt_has_the_same_key_and_every_message_or_batch_another(
    name: str, autojump_clock: trio.testing.MockClock
) -> None:
    call, success = CALLS[name]
    script = Script(httpx2.ReadError(""), success)
    async with scripted(script) as client:
        await call(client)
        await call(client)
    first, again, other = [request.headers["Idempotency-Key"] for request in script.requests]
    assert first == again != other
    assert len(first) == 32


async def test_what_cannot_be_said_in_http_is_refused() -> None:
    async with scripted(Script(httpx2.LocalProtocolError("Illegal header value"))) as client:
        with pytest.raises(errors.InvalidParameter, match="Illegal header value"):
            await client.enqueue("emails", b"", content_type="a\nb")


class TestConsume:
    """Against a queue in virtual time."""

    @pytest.fixture
    def emails(self, zapq_service: QueueService) -> NamedQueue:
        return zapq_service.queue("emails")

    @pytest.fixture
    def down(self) -> list[bool]:
        """Put something in, and the server is away."""
        return []

    @pytest.fixture
    async def client(self, zapq_service: QueueService, down: list[bool]) -> Any:
        answer = in_process(zapq_service)

        async def answer_if_up(request: httpx2.Request) -> httpx2.Response:
            if down:
                raise httpx2.ConnectError("away")
            return await answer(request)

        async with scripted(answer_if_up) as client:
            yield client

    async def test_the_end_of_a_block_acknowledges(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue_many([b"one", b"two", b"three"])
        seen = []
        async with client.consume("emails", concurrency=2) as leases:
            async for lease in leases:
                async with lease as same:
                    assert same is lease
                    seen.append((lease.id, lease.queue, lease.receive_count, lease.content_type, lease.body))
                if len(seen) == 3:
                    break
        assert seen == [
            (id, "emails", 1, "application/octet-stream", body)
            for id, body in ((1, b"one"), (2, b"two"), (3, b"three"))
        ]
        assert (emails.info().stats.acked, emails.info().stats.messages) == (3, 0)

    async def test_no_more_than_concurrency_are_held_and_what_is_left_is_released(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue_many([b"x"] * 10)
        async with client.consume("emails", concurrency=3):
            await trio.sleep(1)
            assert emails.info().stats.leased == 3
        stats = emails.info().stats
        assert (stats.leased, stats.ready, stats.released, stats.received) == (0, 10, 3, 3)

    async def test_an_error_in_the_block_releases_and_comes_out_as_it_is(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue(b"hello")

        async def consume_and_fail() -> None:
            async with client.consume("emails") as leases:
                async for lease in leases:
                    async with lease:
                        raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await consume_and_fail()
        assert (emails.info().stats.ready, emails.info().stats.leased) == (1, 0)

    async def test_a_cancelled_consumer_releases_everything(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue_many([b"x"] * 5)
        with trio.move_on_after(40) as scope:
            async with client.consume("emails", concurrency=4) as leases:
                async for lease in leases:
                    async with lease:
                        await trio.sleep_forever()
        assert scope.cancelled_caught
        stats = emails.info().stats
        assert (stats.leased, stats.ready, stats.released, stats.leases_expired) == (0, 5, 4, 0)

    async def test_a_slow_block_keeps_its_lease_and_so_do_those_who_wait_for_it(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue_many([b"slow", b"waits"])
        async with client.consume("emails", concurrency=2, visibility=30) as leases:
            for _ in range(2):
                async with await anext(leases) as lease:
                    await trio.sleep(1000)
                    assert lease.receive_count == 1
        stats = emails.info().stats
        assert (stats.acked, stats.received, stats.leases_expired) == (2, 2, 0)

    async def test_a_block_that_outlasts_a_cancellation_is_kept_and_acknowledged(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue_many([b"last", b"not begun"])
        with trio.move_on_after(1):
            async with client.consume("emails", concurrency=2, visibility=30) as leases:
                async for lease in leases:
                    async with lease:
                        with trio.CancelScope(shield=True):
                            await trio.sleep(1000)
        stats = emails.info().stats
        assert (stats.acked, stats.ready, stats.leased, stats.leases_expired) == (1, 1, 0, 0)

    async def test_a_block_may_settle_its_lease_itself(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue_many([b"later", b"done"])

        async def acknowledge_and_fail(lease: HeldLease) -> None:
            async with lease:
                await lease.ack()
                raise ZeroDivisionError

        async with client.consume("emails", concurrency=1) as leases:
            async with await anext(leases) as lease:
                await lease.release(delay=60)
            with pytest.raises(ZeroDivisionError):
                await acknowledge_and_fail(await anext(leases))
        stats = emails.info().stats
        assert (stats.delayed, stats.acked, stats.released) == (1, 1, 1)

    async def test_a_lost_lease_cancels_its_block(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue(b"hello")
        async with client.consume("emails") as leases:
            lease = await anext(leases)
            await emails.clear()
            with pytest.raises(errors.ReceiptExpired):
                await hold(lease)
            assert lease.lost
            with pytest.raises(errors.ReceiptExpired):
                await lease.ack()

    async def test_a_lease_is_lost_when_the_server_is_away_for_longer(
        self, client: Client, emails: NamedQueue, down: list[bool], autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue(b"hello")
        async with client.consume("emails", visibility=30) as leases:
            lease = await anext(leases)
            start = trio.current_time()
            down.append(True)
            with pytest.raises(errors.ReceiptExpired):
                await hold(lease)
            assert trio.current_time() - start == pytest.approx(30)
            down.clear()
            async with await anext(leases) as lease:
                assert lease.receive_count == 2

    async def test_a_lease_lost_before_anybody_took_it_is_given_to_nobody(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue(b"hello")
        async with client.consume("emails", concurrency=1, visibility=30) as leases:
            await trio.sleep(1)
            await emails.clear()
            await trio.sleep(30)
            await emails.enqueue(b"other")
            async with await anext(leases) as lease:
                assert lease.body == b"other"

    async def test_a_short_absence_of_the_server_is_survived(
        self,
        client: Client,
        emails: NamedQueue,
        down: list[bool],
        caplog: pytest.LogCaptureFixture,
        autojump_clock: trio.testing.MockClock,
    ) -> None:
        await emails.enqueue(b"hello")
        async with client.consume("emails", visibility=30) as leases, await anext(leases):
            down.append(True)
            await trio.sleep(25)
            down.clear()
            await trio.sleep(100)
        assert (emails.info().stats.acked, emails.info().stats.leases_expired) == (1, 0)
        assert "not extended: The server zapq could not be reached: away." in caplog.text
        assert "cannot receive from emails now" in caplog.text

    async def test_a_queue_that_is_not_there_is_waited_for(
        self,
        client: Client,
        emails: NamedQueue,
        zapq_service: QueueService,
        autojump_clock: trio.testing.MockClock,
    ) -> None:
        async with client.consume("later") as leases:
            await trio.sleep(1000)
            await zapq_service.queue("later").enqueue(b"hello")
            async with await anext(leases) as lease:
                assert lease.body == b"hello"

    async def test_what_does_not_pass_cancels_the_block_and_is_raised_as_it_is(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with scripted(Script(refusal(errors.InvalidParameter("wait is wrong.")))) as client:

            async def consume() -> None:
                async with client.consume("emails"):
                    await trio.sleep_forever()

            with pytest.raises(errors.InvalidParameter, match="wait is wrong"):
                await consume()

    async def test_nobody_holds_a_lease_for_longer_than_its_consumer_is_open(
        self, client: Client, emails: NamedQueue, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue(b"hello")
        ended = trio.Event()

        async def expect_the_end(lease: HeldLease) -> None:
            with pytest.raises(errors.ReceiptExpired):
                await hold(lease)
            ended.set()

        async with client.consume("emails") as leases:
            nursery.start_soon(expect_the_end, await anext(leases))
            await trio.testing.wait_all_tasks_blocked()
        await ended.wait()
        assert (emails.info().stats.ready, emails.info().stats.released) == (1, 1)

    async def test_a_cancellation_while_acknowledging_does_not_undo_the_work(
        self, zapq_service: QueueService, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue(b"hello")
        answer, scope = in_process(zapq_service), trio.CancelScope()

        async def answer_slowly(request: httpx2.Request) -> httpx2.Response:
            if request.method == "DELETE":
                scope.cancel()
                await trio.sleep(1)
            return await answer(request)

        async with scripted(answer_slowly) as client:
            with scope:
                async with client.consume("emails") as leases, await anext(leases):
                    pass
        assert scope.cancelled_caught
        assert (emails.info().stats.acked, emails.info().stats.messages) == (1, 0)

    async def test_a_server_that_is_gone_holds_a_cancellation_up_for_seconds_only(
        self,
        client: Client,
        emails: NamedQueue,
        down: list[bool],
        caplog: pytest.LogCaptureFixture,
        autojump_clock: trio.testing.MockClock,
    ) -> None:
        await emails.enqueue_many([b"x"] * 5)
        start = trio.current_time()
        with trio.move_on_after(1):
            async with client.consume("emails", concurrency=4) as leases, await anext(leases):
                down.append(True)
                await trio.sleep_forever()
        assert trio.current_time() - start <= 1 + 2 * 5
        assert "was not released" in caplog.text


class TestConsumeWith:
    """Handlers, against a real server and in virtual time."""

    async def test_it_acknowledges_what_its_handler_dealt_with_and_sends_the_rest_again(
        self, zapq_server: ZapqServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        emails = zapq_server.service.queue("emails")
        await emails.enqueue_many([b"%d" % number for number in range(20)])
        seen: list[tuple[bytes, int]] = []
        async with open_client(zapq_server.url) as client, trio.open_nursery() as nursery:

            async def handle(lease: HeldLease) -> None:
                seen.append((lease.body, lease.receive_count))
                if lease.body == b"7" and lease.receive_count == 1:
                    raise ZeroDivisionError

            nursery.start_soon(client.consume_with, "emails", handle)
            while emails.info().stats.acked < 20:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert sorted(seen) == sorted([(b"%d" % number, 1) for number in range(20)] + [(b"7", 2)])
        assert emails.info().stats.messages == 0
        assert "the handler of message 8 of emails failed" in caplog.text
        assert "ZeroDivisionError" in caplog.text

    async def test_it_runs_as_many_handlers_as_it_is_told_and_releases_when_cancelled(
        self, zapq_service: QueueService, autojump_clock: trio.testing.MockClock
    ) -> None:
        emails = zapq_service.queue("emails")
        await emails.enqueue_many([b"x"] * 9)
        running = 0

        async def handle(lease: HeldLease) -> None:
            nonlocal running
            running += 1
            await trio.sleep_forever()

        async with scripted(in_process(zapq_service)) as client:
            with trio.move_on_after(100):
                await client.consume_with("emails", handle, concurrency=4, visibility=10, wait=5)
        stats = emails.info().stats
        assert running == 4
        assert (stats.ready, stats.leased, stats.released, stats.leases_expired) == (9, 0, 4, 0)

    async def test_what_does_not_pass_is_raised_as_it_is(self, autojump_clock: trio.testing.MockClock) -> None:
        async def handle(lease: HeldLease) -> None:
            raise AssertionError

        async with scripted(Script(refusal(errors.Forbidden()))) as client:
            with pytest.raises(errors.Forbidden):
                await client.consume_with("emails", handle)
