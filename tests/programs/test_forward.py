"""`zapq forward` delivers each message, and loses none of those that cannot be delivered."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from standardwebhooks.webhooks import Webhook
from trio.testing import MockClock

from tests.programs.receiving import Got, Web, web
from tests.programs.test_webhook import SECRET
from tests.support.ports import free_ports
from tests.support.process import assert_one_line
from tests.support.typed import typed
from tests.support.waiting import eventually
from zapq.client import open_client
from zapq.client.network import is_readable
from zapq.core.queue_settings import QueueSettings
from zapq.limits import MIB
from zapq.programs.forward import Forwarder, ReceiverGone
from zapq.programs.receiver import NotDelivered, Receiver, _reason, parse_target
from zapq.programs.webhook import parse_secrets
from zapq.service.named_queue import NamedQueue
from zapq.testing import ZapqServer


@pytest.fixture
def receiver() -> Iterator[Web]:
    with web() as found:
        yield found


@pytest.fixture
def emails(zapq_server: ZapqServer) -> NamedQueue:
    return zapq_server.service.queue("emails")


@asynccontextmanager
async def forwarding(url: str, target: str, said: list[str], **how: Any) -> AsyncGenerator[Forwarder, None]:
    async with open_client(url) as client, trio.open_nursery() as nursery:
        forwarder = Forwarder(client, "emails", parse_target(target), say=said.append, **how)
        nursery.start_soon(forwarder.run)
        yield forwarder
        nursery.cancel_scope.cancel()


async def test_messages_are_posted_signed_and_acknowledged(
    zapq_server: ZapqServer, emails: NamedQueue, receiver: Web
) -> None:
    for number in range(20):
        await emails.enqueue(json.dumps(number).encode(), content_type="application/json", headers={"n": "1"})
    said: list[str] = []
    async with forwarding(zapq_server.url, receiver.url, said, secrets=parse_secrets(SECRET), concurrency=4):
        await eventually(lambda: emails.info().stats.acked == 20, "all to be delivered")
    assert not said
    assert sorted(Webhook(SECRET).verify(got.body, got.headers) for got in receiver.got) == [*range(20)]
    assert {got.path for got in receiver.got} == {"/hook"}
    assert {got.headers["Zapq-Header-N"] for got in receiver.got if "Zapq-Header-N" in got.headers} | {
        got.headers["zapq-header-n"] for got in receiver.got if "zapq-header-n" in got.headers
    } == {"1"}
    assert len({got.peer for got in receiver.got}) <= 4  # connections are used again


async def test_what_is_not_taken_is_delivered_again_under_the_same_id(
    zapq_server: ZapqServer, emails: NamedQueue, receiver: Web
) -> None:
    # On a connection that was used before, a request without an answer is sent once more: that one may have been
    # closed before it came.
    answers = [(500, {}), (302, {"Location": "/elsewhere"}), (0, {}), (0, {}), (200, {"Connection": "close"})]
    receiver.answer = lambda got: answers.pop(0)
    await emails.enqueue(b"x")
    said: list[str] = []
    async with forwarding(zapq_server.url, receiver.url, said):
        await eventually(lambda: emails.info().stats.acked == 1, "it to be delivered")
    assert [got.headers["Zapq-Receive-Count"] for got in receiver.got] == ["1", "2", "3", "3", "4"]
    assert {got.path for got in receiver.got} == {"/hook"}
    assert len({got.headers["webhook-id"] for got in receiver.got}) == 1
    assert [each.partition(": ")[2].partition(":")[0] for each in said] == [
        f"message 1, attempt {number}" for number in (1, 2, 3)
    ]


async def test_an_answer_before_the_last_is_not_the_answer(
    zapq_server: ZapqServer, emails: NamedQueue, receiver: Web
) -> None:
    answers = [500, 200]

    def hint_first(got: Got) -> tuple[int, dict[str, str]]:
        got.say(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")
        got.say(b"HTTP/1.1 102 Processing\r\n\r\n")
        return answers.pop(0), {}

    receiver.answer = hint_first
    await emails.enqueue(b"x")
    said: list[str] = []
    async with forwarding(zapq_server.url, receiver.url, said, concurrency=1):
        await eventually(lambda: emails.info().stats.acked == 1, "it to be delivered")
    assert said == ["emails: message 1, attempt 1: status 500"]
    assert receiver.got[0].peer == receiver.got[1].peer


async def test_what_comes_unasked_on_a_kept_connection_is_no_answer(receiver: Web) -> None:
    posting = Receiver(parse_target(receiver.url), concurrency=1, timeout=30.0)
    assert (await posting.post(b"1", {"Content-Length": "1"})).status == 200
    receiver.got[0].say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    [kept] = posting._idle
    await eventually(lambda: is_readable(kept.sock.fileno()), "it to arrive")
    receiver.answer = lambda got: (500, {})
    assert (await posting.post(b"2", {"Content-Length": "1"})).status == 500
    assert receiver.got[0].peer != receiver.got[1].peer
    posting.close()


@pytest.mark.parametrize("chunk", [b"-1", b"-5", b"zz"])
async def test_an_answer_that_is_none_is_not_read_on_and_ends_nothing(chunk: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    sent = 0

    async def answer(stream: trio.SocketStream) -> None:
        nonlocal sent
        await stream.receive_some()
        with suppress(trio.BrokenResourceError):
            await stream.send_all(head + chunk + b"\r\n")
            while sent < 64 * MIB:
                await stream.send_all(bytes(MIB))
                sent += MIB

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        posting = Receiver(parse_target(f"http://127.0.0.1:{port}/"), concurrency=1, timeout=30.0)
        with suppress(NotDelivered):
            await posting.post(b"1", {"Content-Length": "1"})
        posting.close()
        nursery.cancel_scope.cancel()
    assert sent < 32 * MIB


async def test_retry_after_is_obeyed_for_all_messages(
    zapq_server: ZapqServer, emails: NamedQueue, receiver: Web
) -> None:
    receiver.answer = lambda got: (503, {"Retry-After": "1000"})
    await emails.enqueue(b"x")
    await emails.enqueue(b"y")
    said: list[str] = []
    async with forwarding(zapq_server.url, receiver.url, said, concurrency=1):
        await eventually(lambda: emails.info().stats.delayed == 1, "the first to be put off")
    assert emails.next_visible_in() > 900
    assert len(receiver.got) == 1


async def test_410_ends_it_and_the_message_stays(
    zapq_server: ZapqServer, emails: NamedQueue, receiver: Web
) -> None:
    receiver.answer = lambda got: (410, {})
    await emails.enqueue(b"x")
    async with open_client(zapq_server.url) as client:
        forwarder = Forwarder(client, "emails", parse_target(receiver.url), say=lambda line: None)
        with pytest.raises(ReceiverGone):
            await forwarder.run()
    stats = emails.info().stats
    assert (stats.messages, stats.leased) == (1, 0)


async def test_a_stop_lets_what_is_under_way_end(
    zapq_server: ZapqServer, emails: NamedQueue, receiver: Web
) -> None:
    receiver.answer = receiver.held
    for _ in range(3):
        await emails.enqueue(b"x")
    async with forwarding(zapq_server.url, receiver.url, [], concurrency=1) as forwarder:
        await eventually(lambda: receiver.got, "the first to be under way")
        forwarder.stop()
        receiver.released.set()
        await eventually(lambda: emails.info().stats.acked == 1, "it to be acknowledged")
        await eventually(lambda: emails.info().stats.leased == 0, "what was fetched to be given back")
    assert (emails.info().stats.messages, len(receiver.got)) == (2, 1)


async def test_a_stop_releases_at_once_what_waits_for_a_delivery_or_a_rest_to_end(
    zapq_server: ZapqServer, emails: NamedQueue, receiver: Web
) -> None:
    def answer(got: Got) -> tuple[int, dict[str, str]]:
        return receiver.held(got) if len(receiver.got) == 1 else (503, {"Retry-After": "1000"})

    receiver.answer = answer
    await emails.enqueue(b"1")
    async with forwarding(zapq_server.url, receiver.url, [], concurrency=3) as forwarder:
        await eventually(lambda: receiver.got, "the first to be under way")
        await emails.enqueue(b"2")
        await eventually(lambda: emails.info().stats.delayed == 1, "the second to be put off")
        await emails.enqueue_many([b"3", b"4", b"5"])
        await eventually(lambda: emails.info().stats.leased == 3, "two to wait for the end of the rest")
        assert len(receiver.got) == 2
        forwarder.stop()
        await eventually(lambda: emails.info().stats.ready == 3, "all but the first to be back")
        assert emails.info().stats.leased == 1
        receiver.released.set()
        await eventually(lambda: emails.info().stats.acked == 1, "the first to be acknowledged")


async def test_a_lease_that_is_lost_in_a_rest_is_said_and_its_message_not_posted(
    zapq_server: ZapqServer, emails: NamedQueue, receiver: Web
) -> None:
    receiver.answer = lambda got: (503, {"Retry-After": "1000"})
    said: list[str] = []
    await emails.enqueue_many([b"1", b"2"])
    async with forwarding(zapq_server.url, receiver.url, said, concurrency=1, visibility=1.0):
        await eventually(lambda: emails.info().stats.delayed, "the first to be put off")
        await eventually(lambda: emails.info().stats.leased, "the second to wait")
        await emails.clear()
        await eventually(lambda: len(said) == 2, "it to be said")
    assert said[1] == "emails: message 2: its lease was lost, so it is delivered again"
    assert len(receiver.got) == 1


async def test_a_receiver_that_does_not_answer_is_not_waited_for(
    zapq_server: ZapqServer, emails: NamedQueue, receiver: Web
) -> None:
    receiver.answer = receiver.held
    await emails.enqueue(b"x")
    said: list[str] = []
    async with forwarding(zapq_server.url, receiver.url, said, timeout=0.1):
        await eventually(lambda: said, "it to be given up")
    assert "no answer within 0.1 s" in said[0] or "timed out" in said[0]
    assert emails.info().stats.messages == 1


async def test_nobody_listens(zapq_server: ZapqServer, emails: NamedQueue) -> None:
    [port] = free_ports(1)
    for _ in range(10):
        await emails.enqueue(b"x")
    said: list[str] = []
    async with forwarding(zapq_server.url, f"http://127.0.0.1:{port}/", said, concurrency=2) as forwarder:
        await eventually(lambda: forwarder._failures > 4, "it to be noticed")
    assert said[0].endswith("attempt 1: Connection refused")
    stats = emails.info().stats
    assert (stats.messages, stats.leased) == (10, 0)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"),
            "Does the receiver speak",
        ),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (http.client.BadStatusLine("x"), "x"),
        (OSError(), "OSError"),
    ],
)
def test_why_a_receiver_did_not_answer_is_said_in_words(error: Exception, said: str) -> None:
    assert said in _reason(error)
    assert "_ssl.c" not in _reason(error)


def test_a_certificate_that_is_not_accepted_is_called_that() -> None:
    error = ssl.SSLCertVerificationError(1, "...")
    error.verify_message = "certificate has expired"
    assert _reason(error) == "its certificate is not accepted: certificate has expired"


async def test_all_rest_the_longer_the_more_deliveries_fail_in_a_row(autojump_clock: MockClock) -> None:
    client: Any = None
    forwarder = Forwarder(client, "emails", parse_target("http://example.com"), concurrency=2)
    rests = []
    for _ in range(40):
        forwarder._rest(0.0)
        rests.append(round(forwarder._rests_until - trio.current_time(), 3))
        await trio.sleep_until(forwarder._rests_until)
    assert rests[:6] == [0.0, 0.0, 0.2, 0.4, 0.8, 1.6]
    assert rests[-1] == 10.0
    forwarder._rest(60.0)
    assert forwarder._rests_until == trio.current_time() + 60


async def test_a_lease_that_is_lost_is_said(zapq_server: ZapqServer, emails: NamedQueue, receiver: Web) -> None:
    def purge(got: Got) -> tuple[int, dict[str, str]]:
        trio.from_thread.run(emails.clear, trio_token=token)
        return 200, {}

    token = trio.lowlevel.current_trio_token()
    receiver.answer = purge
    await emails.enqueue(b"x")
    said: list[str] = []
    async with forwarding(zapq_server.url, receiver.url, said):
        await eventually(lambda: said, "it to be said")
    assert said[0].startswith("emails: message 1: ")


async def test_what_fails_too_often_becomes_a_dead_letter(
    zapq_server: ZapqServer, emails: NamedQueue, receiver: Web
) -> None:
    receiver.answer = lambda got: (400, {})
    await zapq_server.service.configure("emails", QueueSettings(max_receives=2, dead_letter="dead"))
    await emails.enqueue(b"x")
    async with forwarding(zapq_server.url, receiver.url, []):
        await eventually(lambda: emails.info().stats.dead_lettered == 1, "it to be given up")
    assert len(receiver.got) == 2


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["ftp://example.com"], "give http://host/path"),
        (["http://me:pw@example.com"], "no password"),
        (["http://example.com", "--secret-file", "missing"], "does not exist"),
        (["http://example.com", "--concurrency", "0"], "concurrency"),
    ],
)
def test_wrong_usage_is_one_line(words: list[str], complaint: str) -> None:
    assert_one_line(typed("forward", "emails", *words), 2, complaint)


def test_a_wrong_secret_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    wrong = typed("forward", "emails", "http://example.com", "--secret-file", str(tmp_path / "binary"))
    assert_one_line(wrong, 2, "binary: a secret must begin with whsec_")
    wrong = typed("forward", "emails", "http://example.com", environ={"ZAPQ_WEBHOOK_SECRET": "hunter2"})
    assert_one_line(wrong, 2, "ZAPQ_WEBHOOK_SECRET: a secret must begin with whsec_")
