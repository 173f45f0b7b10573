"""Clients that show certificates: who is served, what that is good for, and certificates that are replaced."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import h11
import pytest
import trio
import trustme

from tests.support.serving import serving
from tests.support.waiting import eventually
from tests.support.wire import ask, open_client
from zapq.access.token import digest
from zapq.errors import InvalidSetting
from zapq.settings import Settings

TOKEN = "t" * 20


class Shop:
    """Two authorities, ours and another, and the files of a server that trusts ours."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        self.directory = directory
        self.ours, self.other = trustme.CA(), trustme.CA()
        self.settings = replace(
            settings,
            tls_cert=str(directory / "cert.pem"),
            tls_key=str(directory / "key.pem"),
            tls_client_ca=str(directory / "clients.pem"),
        )
        self.issue(self.ours)
        self.ours.cert_pem.write_to_path(self.settings.tls_client_ca)

    def issue(self, authority: trustme.CA) -> None:
        """Give the server a new certificate."""
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        certificate.private_key_pem.write_to_path(self.settings.tls_key)
        Path(self.settings.tls_cert).write_bytes(b"".join(each.bytes() for each in certificate.cert_chain_pems))

    def client(
        self, *names: str, authority: trustme.CA | None = None, common_name: str | None = None
    ) -> ssl.SSLContext:
        """Return what a client with a certificate speaks, or one without if it has no names."""
        context = ssl.create_default_context()
        self.ours.configure_trust(context)
        if names:
            issuer = self.ours if authority is None else authority
            issuer.issue_cert(*names, common_name=common_name).configure_cert(context)
        return context


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Settings], Shop]:
    # Making keys takes a while.
    return lambda settings: Shop(tmp_path_factory.mktemp("shop"), settings)


@pytest.fixture
def shop(made: Callable[[Settings], Shop], zapq_settings: Settings) -> Shop:
    return made(zapq_settings)


@asynccontextmanager
async def served(settings: Settings) -> AsyncGenerator[tuple[str, trio.MemorySendChannel[None]], None]:
    """Serve, and read the files again whenever something is sent."""
    reload, asked = trio.open_memory_channel[None](0)
    async with serving(settings, reload_trigger=asked.receive) as url:
        yield url, reload


async def until_logged(caplog: pytest.LogCaptureFixture, word: str, times: int = 1) -> None:
    def logged() -> bool:
        return sum(word in each.getMessage() for each in caplog.records) >= times

    await eventually(logged, f"{word!r} in the log, {times} times")


async def is_turned_away(url: str, context: ssl.SSLContext) -> bool:
    try:
        await ask(url, "GET", "/health", context=context)
    except (trio.BrokenResourceError, h11.RemoteProtocolError):
        return True
    return False


async def test_only_clients_with_a_certificate_of_ours_are_served(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(shop.settings) as (url, _):
        good = shop.client("mailer.internal")
        assert (await ask(url, "POST", "/enqueue", b"x", context=good)).status == 202
        for bad in (shop.client(), shop.client("mailer.internal", authority=shop.other)):
            assert await is_turned_away(url, bad)
        assert (await ask(url, "GET", "/dequeue", context=good)).body == b"x"
        await until_logged(caplog, "refused", 2)
    reasons = [record.fields["reason"] for record in caplog.records if record.getMessage() == "refused"]  # type: ignore[attr-defined]
    assert len(reasons) == 2
    assert all(reason.startswith("The client certificate was refused: ") for reason in reasons)


@pytest.mark.parametrize("hot_path", [True, False])
async def test_what_a_certificate_says_is_good_for_what_the_file_says(
    shop: Shop, tmp_path: Path, hot_path: bool
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(
        "mailer:@DNS=mailer.internal:consumer:default\n"
        "ops:@CN=ops:admin\n"
        f"shop:{digest(TOKEN.encode()).hex()}:producer\n"
    )
    tokens.chmod(0o600)
    async with served(replace(shop.settings, token_file=str(tokens), hot_path=hot_path)) as (url, _):
        async with open_client(url, shop.client("mailer.internal")) as mailer:
            assert (await mailer.request("POST", "/dequeue")).status == 204
            assert (await mailer.request("POST", "/queues/other/receive")).status == 403
            assert (await mailer.request("POST", "/queues/default/receive")).status == 204
            # A token says more than the certificate it comes with.
            token = {"Authorization": f"Bearer {TOKEN}"}
            assert (await mailer.request("POST", "/queues/other/messages", headers=token)).status == 202
            assert (await mailer.request("POST", "/dequeue", headers=token)).status == 403
            assert (await mailer.request("POST", "/dequeue")).status == 204
        async with open_client(url, shop.client("x.internal", common_name="ops")) as ops:
            assert (await ops.request("POST", "/clear")).status == 200
            assert (await ops.request("GET", "/%6detrics")).json["hot_requests"] == (4 if hot_path else 0)
        async with open_client(url, shop.client("unknown.internal", common_name="DNS=mailer.internal")) as unknown:
            assert (await unknown.request("POST", "/dequeue")).status == 401
            assert (await unknown.request("GET", "/health")).status == 200


async def test_certificates_are_replaced_without_dropping_a_request(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "zapq")
    async with served(shop.settings) as (url, reload), open_client(url, shop.client("a.internal")) as early:
        assert (await early.request("POST", "/enqueue", b"x")).status == 202
        await early.stream.send_all(b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nha")
        shop.issue(shop.other)
        shop.other.cert_pem.write_to_path(shop.settings.tls_client_ca)
        await reload.send(None)
        await until_logged(caplog, "reloaded")
        # Who came before goes on, in the middle of a request, too; who comes now meets the new ones.
        await early.stream.send_all(b"lf")
        assert (await early.answer_unasked()).status == 202
        assert (await early.request("POST", "/enqueue", b"x")).status == 202
        late = ssl.create_default_context()
        shop.other.configure_trust(late)
        shop.other.issue_cert("b.internal").configure_cert(late)
        assert (await ask(url, "GET", "/health", context=late)).status == 200
        assert await is_turned_away(url, shop.client("a.internal"))


async def test_certificates_that_cannot_be_used_change_nothing(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "zapq")
    async with served(shop.settings) as (url, reload):
        Path(shop.settings.tls_key).write_text("nonsense")
        await reload.send(None)
        await until_logged(caplog, "not reloaded")
        assert (await ask(url, "GET", "/health", context=shop.client("a.internal"))).status == 200


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file"), ("", "no usable PEM"), ("x", "no usable PEM")]
)
async def test_authorities_that_cannot_be_used_are_one_line_and_nothing_is_bound(
    shop: Shop, content: str | None, said: str
) -> None:
    path = Path(shop.settings.tls_client_ca)
    path.unlink() if content is None else path.write_text(content)
    with pytest.RaisesGroup(pytest.RaisesExc(InvalidSetting, match=said)):
        async with served(shop.settings):
            raise AssertionError("it is served")
