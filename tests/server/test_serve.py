"""`zapq.serve` inside other people's Trio programs: addresses, isolation, TLS, and how connections end."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import ssl
import sys
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import h11
import pytest
import trio
import trustme
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded
from trio.testing import MockClock, wait_all_tasks_blocked

import zapq
from tests.support.serving import serving, with_tls
from tests.support.wire import ask, connect, open_client, until_shown
from zapq.errors import CannotStart, InvalidSetting
from zapq.service.open import open_service
from zapq.settings import Settings


@pytest.fixture
def tls(zapq_settings: Settings, tmp_path: Path) -> tuple[Settings, ssl.SSLContext]:
    return with_tls(zapq_settings, tmp_path)


@pytest.fixture
def tls_settings(tls: tuple[Settings, ssl.SSLContext]) -> Settings:
    return tls[0]


@pytest.fixture
def client_context(tls: tuple[Settings, ssl.SSLContext]) -> ssl.SSLContext:
    return tls[1]


async def test_two_servers_in_one_program_share_nothing(zapq_settings: Settings, tmp_path: Path) -> None:
    other = replace(zapq_settings, data_dir=str(tmp_path / "other"))
    async with serving(zapq_settings) as one, serving(other) as two:
        assert one != two
        await ask(one, "POST", "/enqueue", b"for one")
        assert (await ask(two, "GET", "/dequeue")).status == 204
        assert (await ask(one, "GET", "/dequeue")).body == b"for one"
        assert (await ask(two, "GET", "/metrics")).json["enqueues"] == 0


async def test_a_service_of_the_caller_is_served_and_stays_open(zapq_settings: Settings) -> None:
    async with open_service(zapq_settings) as service:
        async with serving(zapq_settings, service) as url:
            await ask(url, "POST", "/enqueue", b"over http")
        message = await service.dequeue()
        assert message is not None
        assert message.body == b"over http"
    assert service.stats().queue.enqueued == 1


async def test_a_shutdown_trigger_ends_serve_by_itself(zapq_settings: Settings) -> None:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        [url] = await nursery.start(partial(zapq.serve, zapq_settings, shutdown_trigger=stop.wait))
        async with open_client(url) as client:
            assert (await client.request("GET", "/health")).status == 200
            stop.set()
            assert await client.reads_eof()
    with pytest.raises(OSError, match="all attempts to connect"):
        await connect(url)


async def test_clients_in_full_swing_do_not_hold_up_a_shutdown(zapq_settings: Settings) -> None:
    """A request that arrives while the last answer goes out must not leave its connection waiting."""
    settings = replace(zapq_settings, grace=600.0)
    stop = trio.Event()
    answers = 0

    async def hammer(url: str) -> None:
        nonlocal answers
        async with open_client(url) as client:
            with contextlib.suppress(EOFError, trio.BrokenResourceError, h11.RemoteProtocolError):
                while True:
                    await client.request("GET", "/health")
                    answers += 1
                    if answers == 100:
                        stop.set()

    async with trio.open_nursery() as nursery:
        [url] = await nursery.start(partial(zapq.serve, settings, shutdown_trigger=stop.wait))
        for _ in range(10):
            nursery.start_soon(hammer, url)


@pytest.mark.parametrize("addr", ["127.0.0.1:0", "[::1]:0", ":0", "localhost:0"])
async def test_every_spelling_of_an_address_is_served(zapq_settings: Settings, addr: str) -> None:
    async with serving(replace(zapq_settings, addr=addr)) as url:
        assert (await ask(url, "GET", "/health")).body == b"ok"


async def test_a_unix_socket_is_served_and_its_file_removed(zapq_settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "zapq.sock"
    async with serving(replace(zapq_settings, addr=f"unix:{path}")) as url:
        assert url == f"unix:{path}"
        assert (await ask(url, "POST", "/clear")).status == 200
    assert not path.exists()


async def test_a_stale_socket_file_is_replaced_and_a_living_one_is_not(
    zapq_settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "zapq.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    settings = replace(zapq_settings, addr=f"unix:{path}")
    async with serving(settings) as url:
        with pytest.raises(CannotStart, match="in use"):
            await zapq.serve(settings)
        assert (await ask(url, "GET", "/health")).status == 200


async def test_a_file_in_the_way_of_a_unix_socket_is_left_alone(zapq_settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(CannotStart):
        await zapq.serve(replace(zapq_settings, addr=f"unix:{path}"))
    assert path.read_text() == "data"


async def test_an_inherited_descriptor_is_served(zapq_settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        descriptor = os.dup(inherited.fileno())
        os.set_inheritable(descriptor, True)
        async with serving(replace(zapq_settings, addr=f"fd://{descriptor}")) as url:
            assert url == f"http://127.0.0.1:{inherited.getsockname()[1]}"
            assert (await ask(url, "GET", "/health")).status == 200
            assert not os.get_inheritable(descriptor)


@pytest.mark.skipif(sys.platform != "linux", reason="unix sockets without a file are Linux's")
async def test_an_inherited_unix_socket_without_a_file_is_served(zapq_settings: Settings) -> None:
    name = f"zapq-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX) as inherited:
        inherited.bind(f"\0{name}")
        inherited.listen()
        async with serving(replace(zapq_settings, addr=f"fd://{os.dup(inherited.fileno())}")) as url:
            assert url == f"unix:@{name}"


@pytest.mark.parametrize(
    ("descriptor", "complaint"), [(0, "socket operation on non-socket"), (9999, "bad file descriptor")]
)
async def test_a_descriptor_that_is_no_socket_is_refused(
    zapq_settings: Settings, descriptor: int, complaint: str
) -> None:
    with pytest.raises(CannotStart, match=f"(?i)--addr 'fd://{descriptor}': {complaint}"):
        await zapq.serve(replace(zapq_settings, addr=f"fd://{descriptor}"))


@pytest.mark.parametrize(
    ("family", "kind", "complaint"),
    [
        (socket.AF_INET, socket.SOCK_DGRAM, "not a TCP or unix stream socket"),
        (socket.AF_UNIX, socket.SOCK_DGRAM, "not a TCP or unix stream socket"),
        (socket.AF_INET, socket.SOCK_STREAM, "not a listening socket"),
        (socket.AF_UNIX, socket.SOCK_STREAM, "not a listening socket"),
    ],
)
async def test_a_socket_of_another_kind_is_refused_and_left_open(
    zapq_settings: Settings, family: socket.AddressFamily, kind: socket.SocketKind, complaint: str
) -> None:
    with socket.socket(family, kind) as inherited:
        with pytest.raises(CannotStart, match=f"--addr 'fd://{inherited.fileno()}': {complaint}"):
            await zapq.serve(replace(zapq_settings, addr=f"fd://{inherited.fileno()}"))
        os.fstat(inherited.fileno())


async def test_a_connected_socket_is_refused(zapq_settings: Settings) -> None:
    inherited, other = socket.socketpair()
    with inherited, other, pytest.raises(CannotStart, match="not a listening socket"):
        await zapq.serve(replace(zapq_settings, addr=f"fd://{inherited.fileno()}"))


async def test_an_address_in_use_is_one_clear_refusal(zapq_settings: Settings) -> None:
    async with serving(zapq_settings) as url:
        addr = url.removeprefix("http://")
        with pytest.raises(CannotStart, match=r"--addr '127.0.0.1:\d+': Address already in use"):
            await zapq.serve(replace(zapq_settings, addr=addr))


async def test_https_is_served_over_http_1(tls_settings: Settings, client_context: ssl.SSLContext) -> None:
    async with serving(tls_settings) as url:
        assert url.startswith("https://")
        async with open_client(url, client_context) as client:
            assert (await client.request("POST", "/enqueue", b"secret")).status == 202
            assert (await client.request("GET", "/dequeue")).body == b"secret"


@pytest.mark.parametrize("rest", [b"", b"x" * 200_000], ids=["a head", "a long upload"])
async def test_plain_http_to_a_tls_port_is_told_so_and_logged(
    tls_settings: Settings, client_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture, rest: bytes
) -> None:
    async with serving(tls_settings) as url:
        async with open_client(url.replace("https:", "http:")) as client:
            head = b"POST /enqueue?a=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(rest)
            await client.stream.send_all(head + rest)
            answer = await client.answer_unasked()
            assert await client.reads_eof()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert (answer.json["type"], answer.json["instance"]) == (
            "/problems/bad-request",
            answer.headers["x-trace-id"],
        )
        assert answer.json["detail"].startswith("This port speaks HTTPS")
        metrics = (await ask(url, "GET", "/metrics", context=client_context)).json
        assert (metrics["wire_refusals"], metrics["connection_errors"]) == (1, 0)
    [line] = [vars(each)["fields"] for each in caplog.records if each.getMessage() == "refused"]
    assert {"method": "POST", "path": "/enqueue", "peer": "127.0.0.1", "status": 400}.items() <= line.items()


async def test_tls_before_1_2_is_refused(tls_settings: Settings, client_context: ssl.SSLContext) -> None:
    with warnings.catch_warnings(action="ignore"):
        client_context.minimum_version = ssl.TLSVersion.TLSv1
        client_context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with serving(tls_settings) as url:
        with pytest.raises(trio.BrokenResourceError):
            await connect(url, client_context)


@pytest.mark.parametrize(("http2", "protocol"), [(False, "http/1.1"), (True, "h2")])
async def test_http_2_is_offered_only_when_asked_for(
    tls_settings: Settings, client_context: ssl.SSLContext, http2: bool, protocol: str
) -> None:
    client_context.set_alpn_protocols(["h2", "http/1.1"])
    async with serving(replace(tls_settings, http2=http2)) as url:
        stream = await connect(url, client_context)
        assert isinstance(stream, trio.SSLStream)
        assert stream.selected_alpn_protocol() == protocol
        await trio.aclose_forcefully(stream)


async def test_http_2_carries_more_than_a_thousand_requests(
    tls_settings: Settings, client_context: ssl.SSLContext
) -> None:
    """Hypercorn's default drops request 1001 of each HTTP/2 connection."""
    client_context.set_alpn_protocols(["h2"])
    async with serving(replace(tls_settings, http2=True)) as url:
        stream = await connect(url, client_context)
        connection = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        connection.initiate_connection()
        head = [(":method", "POST"), (":path", "/enqueue"), (":scheme", "https"), (":authority", "localhost")]
        statuses: list[bytes] = []
        for _ in range(1005):
            number = connection.get_next_available_stream_id()
            connection.send_headers(number, head)
            connection.send_data(number, b"job", end_stream=True)
            ended = False
            while not ended:
                await stream.send_all(connection.data_to_send())
                for event in connection.receive_data(await stream.receive_some()):
                    if isinstance(event, ResponseReceived):
                        statuses += [value for name, value in event.headers or () if name == b":status"]
                    elif isinstance(event, DataReceived):
                        connection.acknowledge_received_data(event.flow_controlled_length, number)
                    elif isinstance(event, StreamEnded):
                        ended = True
        assert statuses == [b"202"] * 1005
        await trio.aclose_forcefully(stream)


async def test_the_authority_of_an_http_2_request_is_its_host(
    tls_settings: Settings, client_context: ssl.SSLContext
) -> None:
    client_context.set_alpn_protocols(["h2"])
    async with serving(replace(tls_settings, http2=True, allowed_host="queue.example")) as url:
        stream = await connect(url, client_context)
        connection = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        connection.initiate_connection()
        for fields, expected in (
            ([(":authority", "attacker.example")], b"421"),
            ([("host", "attacker.example")], b"421"),
            ([(":authority", "queue.example:8443")], b"200"),
            ([("host", "Localhost")], b"200"),
            ([(":authority", "queue.example"), ("origin", "https://queue.example")], b"200"),
            ([(":authority", "queue.example"), ("origin", "http://queue.example")], b"403"),
        ):
            number = connection.get_next_available_stream_id()
            pseudo = [field for field in fields if field[0].startswith(":")]
            line = [(":method", "POST"), (":path", "/clear"), (":scheme", "https")]
            connection.send_headers(
                number, [*line, *pseudo, *(f for f in fields if f not in pseudo)], end_stream=True
            )
            status = b""
            while not status:
                await stream.send_all(connection.data_to_send())
                for event in connection.receive_data(await stream.receive_some()):
                    if isinstance(event, ResponseReceived):
                        [status] = [value for name, value in event.headers or () if name == b":status"]
            assert status == expected, fields
        await trio.aclose_forcefully(stream)


async def test_a_ping_between_requests_is_no_slow_head(
    tls_settings: Settings, client_context: ssl.SSLContext, patient_clock: MockClock
) -> None:
    client_context.set_alpn_protocols(["h2"])
    settings = replace(tls_settings, http2=True, head_timeout=10, keep_alive=50)
    async with serving(settings) as url:
        stream = await connect(url, client_context)
        connection = H2Connection(H2Configuration(client_side=True))
        connection.initiate_connection()
        connection.ping(bytes(8))
        await stream.send_all(connection.data_to_send())
        begun = trio.current_time()
        with contextlib.suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                pass
        assert trio.current_time() - begun == pytest.approx(50, abs=1)
        await trio.aclose_forcefully(stream)


async def test_unusable_certificates_are_refused_before_anything_is_bound(
    tls_settings: Settings, tmp_path: Path
) -> None:
    stranger = tmp_path / "other.pem"
    stranger.write_bytes(trustme.CA().issue_cert("other").private_key_pem.bytes())
    (empty := tmp_path / "empty.pem").write_bytes(b"")
    (encrypted := tmp_path / "encrypted.pem").write_bytes(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nx\n")
    (broken := tmp_path / "broken.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\nx\n")
    own = tls_settings.tls_cert
    (public := tmp_path / "public.pem").write_bytes(Path(own).read_bytes().partition(b"-----BEGIN PRIVATE")[0])
    for wrong, said in (
        ({"tls_cert": str(tmp_path / "missing.pem")}, "--tls-cert .*: No such file"),
        ({"tls_key": str(tmp_path / "missing.pem")}, "--tls-key .*: No such file"),
        ({"tls_key": str(stranger)}, "--tls-key .* does not belong to --tls-cert"),
        ({"tls_cert": str(stranger)}, "--tls-cert .* has no certificate in PEM. It has a private key"),
        ({"tls_cert": str(empty)}, "--tls-cert .* has no certificate in PEM.$"),
        ({"tls_key": str(public)}, "--tls-key .* has no private key in PEM.$"),
        ({"tls_key": str(encrypted)}, "--tls-key .* is encrypted. Give one that is not: openssl pkey"),
        ({"tls_cert": str(broken)}, "OpenSSL cannot use them"),
    ):
        with pytest.raises(InvalidSetting, match=said):
            await zapq.serve(replace(tls_settings, **wrong))  # type: ignore[arg-type]


class TestClosing:
    """What stock Hypercorn under Quart-Trio gets wrong."""

    @pytest.fixture
    def zapq_settings(self, zapq_settings: Settings) -> Settings:
        return replace(zapq_settings, keep_alive=10, head_timeout=10, max_connections=3)

    @pytest.mark.parametrize("target", ["/health", "/dequeue", "/nothing"])
    async def test_connection_close_is_followed_by_eof(self, zapq_settings: Settings, target: str) -> None:
        settings = replace(zapq_settings, keep_alive=60.0)
        async with serving(settings) as url, open_client(url) as client:
            await client.request("GET", target, headers={"Connection": "close"})
            assert await client.reads_eof()

    async def test_what_follows_a_last_request_does_not_keep_the_connection(self, zapq_settings: Settings) -> None:
        settings = replace(zapq_settings, keep_alive=60.0)
        async with serving(settings) as url, open_client(url) as client:
            last = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            await client.stream.send_all(last + b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = b""
            while piece := await client.stream.receive_some():
                received += piece
            assert received.count(b"HTTP/1.1 200 OK") == 1
            await until_shown(url, connections=1)

    async def test_http_1_0_is_followed_by_eof(self, zapq_settings: Settings) -> None:
        async with serving(replace(zapq_settings, keep_alive=60.0)) as url:
            async with open_client(url) as client:
                await client.stream.send_all(b"GET /health HTTP/1.0\r\n\r\n")
                received = b""
                while piece := await client.stream.receive_some():
                    received += piece
            assert received.startswith(b"HTTP/1.1 200 OK\r\n")
            assert received.endswith(b"\r\n\r\nok")

    async def test_the_keep_alive_timeout_fires_after_a_request_too(
        self, zapq_settings: Settings, patient_clock: MockClock
    ) -> None:
        async with serving(zapq_settings) as url, open_client(url) as client:
            assert (await client.request("GET", "/health")).status == 200
            assert await client.reads_eof()

    async def test_a_head_that_was_begun_must_be_finished_in_time(
        self, zapq_settings: Settings, patient_clock: MockClock
    ) -> None:
        settings = replace(zapq_settings, keep_alive=60.0)
        async with serving(settings) as url, open_client(url) as client:
            await client.stream.send_all(b"GET /health HT")
            assert await client.reads_eof()

    async def test_a_long_poll_outlives_the_keep_alive_timeout(
        self, zapq_settings: Settings, patient_clock: MockClock
    ) -> None:
        async with serving(zapq_settings) as url, open_client(url) as client:
            assert (await client.request("GET", "/dequeue?wait=50")).status == 204

    async def test_connections_over_the_cap_are_closed_and_the_others_go_on(self, zapq_settings: Settings) -> None:
        async with (
            serving(replace(zapq_settings, keep_alive=60.0)) as url,
            open_client(url) as one,
            open_client(url) as two,
            open_client(url) as three,
        ):
            for client in (one, two, three):
                assert (await client.request("GET", "/health")).status == 200
            async with open_client(url) as four:
                assert await four.reads_eof()
            metrics = (await one.request("GET", "/metrics")).json
            assert (metrics["connections"], metrics["connections_refused"]) == (3, 1)

    async def test_a_half_closed_client_still_gets_its_answer(self, zapq_settings: Settings) -> None:
        async with serving(zapq_settings) as url, open_client(url) as client:
            assert isinstance(client.stream, trio.SocketStream)
            await client.stream.send_all(
                b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\njob"
            )
            await client.stream.send_eof()
            assert (await client.answer()).status == 202

    async def test_a_slow_body_is_408_and_stores_nothing(
        self, zapq_settings: Settings, patient_clock: MockClock
    ) -> None:
        async with serving(replace(zapq_settings, body_timeout=10)) as url, open_client(url) as client:
            await client.stream.send_all(
                b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\njo"
            )
            received = await client.stream.receive_some()
            assert received.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
            assert b"Connection: close\r\n" in received
            assert (await ask(url, "GET", "/%6detrics")).json["enqueues"] == 0


async def test_over_tls_hot_requests_are_hot_too_in_however_many_records_they_come(
    tls_settings: Settings, client_context: ssl.SSLContext
) -> None:
    request = b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n0123456789"
    async with serving(tls_settings) as url, open_client(url, client_context) as client:
        for pieces in ([request], [request[:30], request[30:]], [request[:-10], request[-10:-5], request[-5:]]):
            for piece in pieces:
                await client.stream.send_all(piece)
                await wait_all_tasks_blocked()
            assert (await client.stream.receive_some()).startswith(b"HTTP/1.1 202")
        assert (await client.request("GET", "/%68ealth")).status == 200
        assert (await client.request("GET", "/dequeue")).body == b"0123456789"
        counts = (await client.request("GET", "/%6detrics")).json
    assert (counts["hot_requests"], counts["cold_requests"]) == (4, 2)
