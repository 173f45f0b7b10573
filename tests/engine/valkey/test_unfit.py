"""Servers that an engine cannot be opened with: the operator is told why, what to do, and nothing stays open."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.engine.valkey.scripted import HANG_UP, SILENCE, Scripted, error, raw, scripted
from tests.support.certificates import authority, write_certificate
from tests.support.waiting import eventually
from zapq.engine.valkey import open as opening
from zapq.engine.valkey.connection import Login
from zapq.engine.valkey.open import open_engine
from zapq.engine.valkey.poller import Poller
from zapq.errors import CannotStart, InvalidSetting
from zapq.settings import Settings

SETTINGS = Settings(addr="127.0.0.1:0")


@pytest.fixture
async def server() -> AsyncGenerator[Scripted, None]:
    async with scripted() as fake:
        yield fake


async def refusal(server: Scripted, **changes: str) -> str:
    """Return why an engine is not opened, once nothing of it is open any more."""
    with pytest.raises(CannotStart) as refused:
        async with open_engine(replace(server.engine(SETTINGS), **changes)):  # type: ignore[arg-type] # text
            raise AssertionError("it was opened")
    await eventually(lambda: server.open == 0, "all connections to be closed")
    return refused.value.detail


@pytest.mark.parametrize(
    ("command", "answer", "said"),
    [
        pytest.param(
            "HELLO", error("WRONGPASS invalid username-password pair"), "--engine-password-file", id="pw"
        ),
        pytest.param("HELLO", error("NOAUTH HELLO must be called with ..."), "--engine-password-file", id="no-pw"),
        pytest.param(
            "HELLO",
            error("ERR unknown command `HELLO`, with args beginning with: `2`, `AUTH`, `default`, `password`"),
            "Use Valkey 8 or later, or Redis 7.0 or later",
            id="very-old",
        ),
        pytest.param("HELLO", error("ERR max number of clients reached"), "maxclients", id="full"),
        pytest.param(
            "HELLO", error("DENIED Valkey is running in protected mode because ..."), "protected", id="mode"
        ),
        pytest.param("HELLO", error("NOPROTO unsupported protocol version"), "(NOPROTO)", id="no-hello"),
        pytest.param("HELLO", raw(HANG_UP), "has closed the connection", id="hangs-up"),
        pytest.param("HELLO", raw(b"*2\r\n$5\r\npro" + HANG_UP), "has closed the connection", id="in-an-answer"),
        pytest.param(
            "HELLO", raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "does not speak Valkey's protocol", id="http"
        ),
        pytest.param(
            "INFO repl", error("NOPERM no permissions to run the 'info' command"), "INFO: NOPERM", id="info"
        ),
        pytest.param("INFO repl", b"role:slave\r\n", "it is a replica", id="replica"),
        pytest.param("INFO repl", 7, "INFO", id="not-text"),
        pytest.param(
            "INFO repl", b"role:master\r\nconnected_slaves:many\r\n", "cannot be read", id="not-a-number"
        ),
        pytest.param("INFO repl", b"role:master\r\nmaster_replid:none\r\n", "its master_replid", id="no-epoch"),
        pytest.param("COMMAND INFO", [None, None, None], "Use Valkey 8 or later, or Redis 7.0 or later", id="old"),
        pytest.param("COMMAND INFO", error("ERR unknown command"), "Use Valkey 8 or later", id="no-command"),
        pytest.param("FCALL", error("LOADING Valkey is loading the dataset in memory"), "LOADING", id="loading"),
        pytest.param(
            "SSUBSCRIBE", error("NOPERM no permissions to access a channel"), "allchannels", id="unheard"
        ),
        pytest.param("SPUBLISH", error("NOPERM no permissions to access a channel"), "allchannels", id="unsaid"),
        pytest.param("GET {zapq}", error("NOPERM no permissions to access a key"), "NOPERM", id="layout"),
        pytest.param("GET {zapq}", b"4096 shards, layout 2", "Use that version, or another engine", id="layout-2"),
    ],
)
async def test_the_operator_is_told_what_is_wrong_and_what_to_do(
    server: Scripted, command: str, answer: object, said: str
) -> None:
    server.answer(command, answer)
    told = await refusal(server)
    assert said in told
    assert told.startswith("--engine: ")


async def test_an_old_server_is_named_with_its_version(server: Scripted) -> None:
    server.answer("INFO server", b"redis_version:6.2.14\r\n")
    server.answer("COMMAND INFO", [None, None, None])
    assert "Redis 6.2.14 has no functions." in await refusal(server)


async def test_a_server_that_cannot_commit_is_refused_only_where_that_is_asked_for(server: Scripted) -> None:
    server.answer("COMMAND INFO", [[b"fcall"], None, [b"spublish"]])
    told = await refusal(server, engine_durability="committed")
    assert "has no WAITAOF, which --engine-durability committed needs" in told
    async with open_engine(server.engine(SETTINGS)):
        pass


@pytest.mark.parametrize(
    ("version", "loading", "said"),
    [
        (error("NOPERM User zapq has no permissions to run the 'fcall' command"), b"zapq_1", "NOPERM"),
        (error("ERR Function not found"), error("ERR Error compiling function"), "Error compiling"),
        (0, error("OOM command not allowed when used memory > 'maxmemory'"), "OOM"),
    ],
)
async def test_a_server_that_refuses_the_library_is_refused(
    server: Scripted, version: object, loading: object, said: str
) -> None:
    server.answer("FCALL zapq_1_version", version)
    server.answer("FUNCTION LOAD", loading)
    told = await refusal(server)
    assert f"{server.server}: the library cannot be " in told
    assert said in told


async def test_an_older_library_is_replaced_and_a_newer_one_stays(server: Scripted) -> None:
    server.answer("FUNCTION LOAD", b"zapq_1")
    server.answer("FCALL zapq_1_version", 0, times=1)
    async with open_engine(server.engine(SETTINGS)):
        assert server.seen("FUNCTION LOAD REPLACE") == 1
    server.answer("FCALL zapq_1_version", 99)
    async with open_engine(server.engine(SETTINGS)):
        assert server.seen("FUNCTION LOAD REPLACE") == 1


async def test_what_a_server_does_not_tell_is_left_to_the_operator(
    server: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer("CONFIG", error("NOPERM no permissions to run the 'config|get' command"))
    async with open_engine(server.engine(SETTINGS)):
        pass
    told = [record.fields.get("reason", "") for record in caplog.records if hasattr(record, "fields")]
    assert "CONFIG GET is not allowed: see to maxmemory-policy noeviction and appendonly yourself." in told


async def test_a_server_that_says_nothing_is_given_up(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zapq.engine.valkey.connection.ENGINE_CONNECT_SECONDS", 0.05)
    server.answer("HELLO", raw(SILENCE))
    assert "the server did not answer within 0.05 s" in await refusal(server)


async def test_a_server_that_stops_in_the_middle_is_given_up(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zapq.engine.valkey.connection.ENGINE_CONNECT_SECONDS", 0.05)
    server.answer("CONFIG GET", raw(b"*2\r\n$16\r\nmaxmemory"))
    assert "the server did not answer within 0.05 s" in await refusal(server)


@pytest.mark.parametrize("command", ["HELLO", "INFO cluster", "COMMAND INFO", "GET {zapq}", "FCALL"])
async def test_an_opening_that_is_cancelled_leaves_nothing_open(server: Scripted, command: str) -> None:
    server.answer(command, raw(SILENCE))
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def cancel() -> None:
                await eventually(lambda: server.seen(command), "the command")
                scope.cancel()

            nursery.start_soon(cancel)
            async with open_engine(server.engine(SETTINGS)):
                raise AssertionError("it was opened")
    assert scope.cancelled_caught
    await eventually(lambda: server.open == 0, "all connections to be closed")


async def test_servers_are_asked_in_turn_and_what_is_wrong_with_each_is_said(server: Scripted) -> None:
    async with scripted() as other:
        server.answer("INFO repl", error("LOADING Valkey is loading the dataset in memory"))
        both = f"{server.url},127.0.0.1:{other.port}"
        async with open_engine(replace(SETTINGS, engine=both)):
            assert other.seen("FCALL")
        other.answer("INFO repl", b"role:slave\r\n")
        with pytest.raises(CannotStart) as refused:
            async with open_engine(replace(SETTINGS, engine=both)):
                raise AssertionError("it was opened")
        assert f"{server.server}: INFO: LOADING" in refused.value.detail
        assert f"{other.server}: it is a replica" in refused.value.detail


async def test_a_host_that_cannot_be_a_name_is_said(server: Scripted) -> None:
    with pytest.raises(CannotStart, match="Check that the servers run, and that the URL is right"):
        async with open_engine(replace(SETTINGS, engine="valkey://a..b:6379")):
            raise AssertionError("it was opened")


def node(role: bytes, port: int, health: bytes = b"online") -> list[object]:
    return [b"id", b"n", b"port", port, b"ip", b"127.0.0.1", b"role", role, b"health", health]


@pytest.mark.parametrize(
    ("shards", "said"),
    [
        (error("NOPERM no permissions to run the 'cluster|shards' command"), "CLUSTER SHARDS: NOPERM"),
        ([], "a part of the slots has no server"),
        ([[b"slots", [0, 16383], b"nodes", [node(b"master", 1, b"fail")]]], "a part of the slots has no server"),
        ([[b"slots", [], b"nodes", [node(b"master", 1)]]], "a part of the slots has no server"),
        ([[b"slots", [0, 16383]]], "what CLUSTER SHARDS says cannot be read"),
        (7, "what CLUSTER SHARDS says cannot be read"),
    ],
)
async def test_a_cluster_that_is_not_whole_is_refused(server: Scripted, shards: object, said: str) -> None:
    server.answer("INFO cluster", b"cluster_enabled:1\r\n")
    server.answer("CLUSTER SHARDS", shards)
    assert said in await refusal(server)


async def test_a_server_with_tls_is_not_taken_for_one_without_it(server: Scripted, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(ca)
    tls = f"valkeys://127.0.0.1:{server.port}"
    told = await refusal(server, engine=tls, engine_ca=str(ca))
    assert "Check that the servers run, and that the URL is right" in told


async def test_a_certificate_that_does_not_fit_is_said_with_the_reason(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            async with stream:
                await stream.receive_some()
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_ssl_over_tcp, serve, 0, context, host="127.0.0.1"))
        port = listener.transport_listener.socket.getsockname()[1]
        with pytest.raises(CannotStart) as refused:
            async with open_engine(replace(SETTINGS, engine=f"valkeys://localhost:{port}")):
                raise AssertionError("it was opened")
        nursery.cancel_scope.cancel()
    assert "certificate verify failed: unable to get local issuer certificate" in refused.value.detail
    assert "--engine-ca" in refused.value.detail


async def test_a_handshake_that_is_cancelled_leaves_nothing_open(server: Scripted, tmp_path: Path) -> None:
    server.frozen = True
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def cancel() -> None:
                await eventually(lambda: server.accepted, "a connection")
                scope.cancel()

            nursery.start_soon(cancel)
            async with open_engine(replace(SETTINGS, engine=f"valkeys://127.0.0.1:{server.port}")):
                raise AssertionError("it was opened")
    assert scope.cancelled_caught
    server.frozen = False
    await eventually(lambda: server.open == 0, "all connections to be closed")


@pytest.mark.parametrize(
    ("changes", "setting", "said"),
    [
        (
            {"engine": "valkey://:a@127.0.0.1:1", "engine_password_file": "x"},
            "engine_password_file",
            "one of them",
        ),
        ({"engine_password_file": "missing"}, "engine_password_file", "No such file"),
        ({"engine_password_file": "binary"}, "engine_password_file", "it is not text"),
        ({"engine": "valkeys://127.0.0.1:1", "engine_ca": "missing"}, "engine_ca", "No such file"),
        ({"engine": "valkeys://127.0.0.1:1", "engine_ca": "binary"}, "engine_ca", "binary"),
        ({"engine_ca": "missing"}, "engine_ca", "write valkeys://"),
    ],
)
async def test_settings_that_do_not_fit_together_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], setting: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    settings = replace(SETTINGS, **{"engine": "valkey://127.0.0.1:1", **changes})  # type: ignore[arg-type] # text
    with pytest.raises(InvalidSetting, match=said) as refused:
        async with open_engine(settings):
            raise AssertionError("it was opened")
    assert refused.value.members["setting"] == setting


async def test_where_no_selector_can_be_polled_there_is_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Poller, "possible", lambda: False)
    with pytest.raises(CannotStart, match="epoll or kqueue"):
        async with opening.open_engine(SETTINGS):
            raise AssertionError("it was opened")


def test_a_login_does_not_show_its_password() -> None:
    assert "s3cret" not in repr(Login(user="zapq", password="s3cret"))
