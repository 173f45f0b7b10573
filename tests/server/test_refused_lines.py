"""A line in the log about a refusal says what was asked of which queue, and by whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.wire import ask, connection
from zapq.http.exchange import peer_of, shown_path
from zapq.settings import Settings
from zapq.testing import ZapqServer

COLD = {"TE": "trailers"}


@pytest.fixture
def zapq_settings(zapq_settings: Settings) -> Settings:
    # All interfaces: an IPv4 client is then one of IPv6 to the socket.
    return replace(zapq_settings, addr=":0", max_msgs=1)


@pytest.fixture(autouse=True)
def all_lines(caplog: pytest.LogCaptureFixture) -> None:
    # What is not there is told as INFO.
    caplog.set_level("INFO", logger="zapq")


def refused(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(each)["fields"] for each in caplog.records if each.getMessage() == "refused"]


@pytest.mark.parametrize("cold", [{}, COLD], ids=["hot", "cold"])
async def test_a_refusal_names_method_path_queue_and_peer(
    zapq_server: ZapqServer, caplog: pytest.LogCaptureFixture, cold: dict[str, str]
) -> None:
    await zapq_server.service.queue("emails").enqueue(b"x")
    rows = [
        ("POST", "/enqueue", 429, "default"),
        ("POST", "/queues/emails/messages", 429, "emails"),
        ("DELETE", "/queues/emails/receipts/abc-1-1", 409, "emails"),
        ("POST", "/queues/emials/receive", 404, "emials"),
        ("GET", "/nothing", 404, None),
        ("GET", "/queues/emails/receive", 405, None),
    ]
    for method, target, status, _ in rows:
        answer = await ask(zapq_server.url.replace("[::]", "127.0.0.1"), method, target, b"", cold)
        assert answer.status in {status, 404}
    told = [(each["method"], each["path"], each.get("queue"), each["peer"]) for each in refused(caplog)]
    assert told == [(method, target.partition("?")[0], queue, "127.0.0.1") for method, target, _, queue in rows]


async def test_what_is_refused_before_it_is_parsed_is_named_as_far_as_it_can_be(
    zapq_server: ZapqServer, caplog: pytest.LogCaptureFixture
) -> None:
    for head in (
        b"POST /enqueue?secret=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    ):
        async with connection(zapq_server.url) as stream:
            await stream.send_all(head)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 400 ")
    told = [(each.get("method"), each.get("path"), each["peer"]) for each in refused(caplog)]
    assert told == [("POST", "/enqueue", "127.0.0.1")] * 2 + [(None, None, "127.0.0.1")]


async def test_a_path_is_bounded_and_escaped(zapq_server: ZapqServer, caplog: pytest.LogCaptureFixture) -> None:
    await ask(zapq_server.url.replace("[::]", "127.0.0.1"), "GET", "/%0A%E2%80%AE" + "x" * 1000)
    [line] = refused(caplog)
    assert line["path"].startswith("/%0A%E2%80%AExxx")
    assert len(line["path"]) == 200


async def test_a_target_that_is_a_whole_url_is_logged_without_its_credentials(
    zapq_server: ZapqServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with connection(zapq_server.url) as stream:
        await stream.send_all(b"GET http://u:pass@localhost/nothing HTTP/1.1\r\nHost: u:pass@localhost\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 4")
    [line] = refused(caplog)
    assert line["path"] == "/nothing"
    assert "pass" not in str(line)
    assert shown_path(b"http://user:pass@localhost/nothing") == "/nothing"
    assert shown_path(b"/a://b/c") == "/a://b/c"


@pytest.mark.parametrize(
    ("client", "peer"),
    [
        (None, "unix"),
        (("10.99.9.2", 1), "10.99.9.2"),
        (("::ffff:10.99.9.2", 1), "10.99.9.2"),
        (("::1", 1), "::1"),
        (("2001:db8::ffff:1", 1), "2001:db8::ffff:1"),
    ],
)
def test_an_ipv4_peer_is_written_as_such(client: tuple[str, int] | None, peer: str) -> None:
    assert peer_of(client) == peer
