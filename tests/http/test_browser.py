"""A web page in somebody's browser gets nothing, under a name of its own as little as from its own origin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio

import zapq
from tests.support.wire import Answer, ask, connect, open_client
from zapq.core.message import Lease
from zapq.http.endpoints import ENDPOINTS
from zapq.settings import Settings
from zapq.testing import ZapqServer

# Those that the hot path would answer, and others.
REQUESTS = [
    "POST /enqueue",
    "GET /dequeue",
    "POST /dequeue?wait=1",
    "POST /queues/default/messages",
    "POST /queues/default/receive",
    "POST /queues/default/receive/batch?ack=auto",
    "DELETE /queues/default/receipts/{receipt}",
    "POST /queues/default/receipts/{receipt}/release",
    "POST /clear",
    "PUT /queues/new",
    "GET /queues/default/messages",
    "GET /metrics",
    "GET /health",
    "HEAD /health",
    "OPTIONS /enqueue",
    "GET /enqueue",
    "GET /nothing",
    "GET //nothing",
]
FOREIGN = [
    {"Origin": "https://attacker.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:3000"},
    {"Origin": ""},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": ""},
    {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "https://attacker.example", "Sec-Fetch-Site": "same-origin"},
]
OURS = [{"Origin": "http://localhost"}, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "same-origin"}]


@pytest.fixture
async def leased(zapq_server: ZapqServer) -> Lease:
    """The first message, while the second is ready."""
    queue = zapq_server.service.default
    for body in (b"leased", b"ready"):
        await queue.enqueue(body)
    lease = await queue.receive(visibility=600)
    assert lease is not None
    return lease


def state(server: ZapqServer) -> object:
    """All that a request could change."""
    service = server.service
    bodies = {name: queue.bodies() for name, queue in service.broker.queues.items()}
    return (
        bodies,
        msgspec.structs.astuple(service.stats().queue),
        service.stats().dequeues_empty,
        service.stats().waiting,
    )


def assert_refused(answer: Answer, status: int, problem: str) -> None:
    assert answer.status == status
    if answer.body:  # there is none for HEAD
        assert answer.json["type"] == f"/problems/{problem}"
        assert answer.json["detail"]
    assert_no_cors(answer)


def assert_no_cors(answer: Answer) -> None:
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("request_", REQUESTS)
async def test_a_host_that_is_not_ours_is_refused_before_anything_else(
    zapq_server: ZapqServer, leased: Lease, request_: str
) -> None:
    before = state(zapq_server)
    method, target = request_.format(receipt=leased.receipt).split()
    body = b"x" if method in {"POST", "PUT"} else b""
    answer = await ask(zapq_server.url, method, target, body, {"Host": "Attacker.Example:8080"})
    assert_refused(answer, 421, "host-not-allowed")
    assert method == "HEAD" or answer.json["detail"] == (
        'zapq does not answer to "attacker.example"; start it with --allowed-host attacker.example'
    )
    assert state(zapq_server) == before
    assert (await ask(zapq_server.url, "GET", "/metrics")).json["hot_requests"] == 0


async def test_a_body_for_a_host_that_is_not_ours_is_not_waited_for(zapq_server: ZapqServer) -> None:
    for target in ("/enqueue", "/queues/default/messages"):
        async with open_client(zapq_server.url) as client:
            head = f"POST {target} HTTP/1.1\r\nHost: x.example\r\nContent-Length: 9\r\n\r\n"
            await client.stream.send_all(head.encode())
            answer = bytes(await client.stream.receive_some())
        assert answer.startswith(b"HTTP/1.1 421 Misdirected Request\r\n")
        assert b"Connection: close" in answer


async def test_hot_requests_stay_hot_for_every_host_that_is_ours(zapq_server: ZapqServer) -> None:
    for host in ("localhost", "127.0.0.1:8080", "[::1]", "queue.localhost", "zapq:8080", "Zapq.Prod.svc"):
        async with open_client(zapq_server.url) as client:
            for _ in range(2):
                assert (await client.request("POST", "/enqueue", b"x", {"Host": host})).status == 202
            assert (await client.request("GET", "/dequeue", headers={"Host": host})).status == 200
    assert (await ask(zapq_server.url, "GET", "/metrics")).json["hot_requests"] == 18


async def test_a_page_whose_name_was_made_to_mean_our_address_gets_nothing(
    zapq_server: ZapqServer, leased: Lease
) -> None:
    """DNS rebinding: the browser takes us for the page's own server, and keeps nothing from the page."""
    before = state(zapq_server)
    page = f"attacker.example:{zapq_server.url.rpartition(':')[2]}"
    headers = {
        "Host": page,
        "Origin": f"http://{page}",
        "Referer": f"http://{page}/",
        "Sec-Fetch-Site": "same-origin",
    }
    async with open_client(zapq_server.url) as client:
        for method, target in (
            ("GET", "/queues/default/messages?state=ready"),
            ("GET", "/dequeue"),
            ("POST", "/dequeue"),
            ("POST", "/clear"),
            ("POST", "/persist?file=a.json"),
            ("DELETE", f"/queues/default/receipts/{leased.receipt}"),
        ):
            answer = await client.request(method, target, headers=headers)
            assert_refused(answer, 421, "host-not-allowed")
            assert b"ready" not in answer.body
    assert state(zapq_server) == before
    assert (await ask(zapq_server.url, "GET", "/dequeue")).body == b"ready"


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_another_sites_page_changes_nothing_by_any_endpoint(
    zapq_server: ZapqServer, leased: Lease, headers: dict[str, str]
) -> None:
    before = state(zapq_server)
    changing = [each for each in ENDPOINTS if each.method != "GET" or each.path == "/dequeue"]
    assert len(changing) > 20
    for each in changing:
        target = each.path.format(queue="default", receipt=leased.receipt, id=leased.id)
        answer = await ask(zapq_server.url, each.method, target, b"x" if each.method == "PUT" else b"", headers)
        assert_refused(answer, 403, "cross-site")
    assert state(zapq_server) == before


async def test_another_sites_page_can_ask_but_is_allowed_to_read_nothing(
    zapq_server: ZapqServer, leased: Lease
) -> None:
    before = state(zapq_server)
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    for method, target in (
        ("OPTIONS", "/enqueue"),
        ("OPTIONS", "/dequeue"),
        ("GET", "/queues/default/messages"),
        ("GET", "/metrics"),
        ("HEAD", "/health"),
    ):
        answer = await ask(zapq_server.url, method, target, headers={**preflight, **FOREIGN[0]})
        assert answer.status == 200
        assert_no_cors(answer)
    assert state(zapq_server) == before


async def test_what_is_no_endpoint_is_said_before_where_the_page_is_from(zapq_server: ZapqServer) -> None:
    for headers in FOREIGN:
        assert (await ask(zapq_server.url, "POST", "/nothing", headers=headers)).status == 404
        assert (await ask(zapq_server.url, "DELETE", "/enqueue", headers=headers)).status == 405
        assert (await ask(zapq_server.url, "HEAD", "/dequeue", headers=headers)).status == 405


@pytest.mark.parametrize("headers", OURS, ids=str)
async def test_a_page_of_the_same_origin_and_people_themselves_may_change_things(
    zapq_server: ZapqServer, headers: dict[str, str]
) -> None:
    assert (await ask(zapq_server.url, "POST", "/enqueue", b"x", headers)).status == 202
    assert (await ask(zapq_server.url, "GET", "/dequeue", headers=headers)).body == b"x"
    answer = await ask(zapq_server.url, "POST", "/enqueue", b"x", {**headers, "Host": "127.0.0.1:1"})
    assert answer.status == (403 if "Origin" in headers else 202)


async def test_http_1_0_needs_no_host_but_if_it_names_one_that_counts(zapq_server: ZapqServer) -> None:
    for fields, status in (("", b"200"), ("Host: localhost\r\n", b"200"), ("Host: attacker.example\r\n", b"421")):
        stream = await connect(zapq_server.url)
        await stream.send_all(f"GET /health HTTP/1.0\r\n{fields}\r\n".encode())
        assert bytes(await stream.receive_some()).split()[1] == status
        await trio.aclose_forcefully(stream)


async def test_what_is_bound_decides_which_hosts_are_ours(
    zapq_settings: Settings, nursery: trio.Nursery, tmp_path: Path
) -> None:
    for addr, allowed_host, host, status in (
        (f"unix:{tmp_path}/s", "", "attacker.example", 202),
        (":0", "", "10.0.0.5:8080", 202),
        (":0", "", "queue.example", 421),
        (":0", "queue.example", "queue.example:8080", 202),
        ("127.0.0.1:0", "", "10.0.0.5", 421),
        ("127.0.0.1:0", "10.0.0.5", "10.0.0.5", 202),
        ("127.0.0.1:0", "*.example", "queue.example", 202),
        ("127.0.0.1:0", "*", "attacker.example", 202),
    ):
        [url] = await nursery.start(zapq.serve, replace(zapq_settings, addr=addr, allowed_host=allowed_host))
        for hot in ({}, {"Idempotency-Key": "a"}):
            answer = await ask(url, "POST", "/enqueue", b"x", {"Host": host, **hot})
            assert answer.status == status, (addr, allowed_host, host)
