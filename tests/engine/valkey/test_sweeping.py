"""What is done without being asked for, and by the engine itself: what is due, what is counted, how it ends."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

import msgspec
import pytest
import trio
from click.testing import CliRunner

from tests.engine.valkey.scripted import HANG_UP, Scripted, error, raw, scripted
from tests.engine.valkey.servers import Server
from tests.engine.valkey.serving import empty, engine_url, with_engine
from tests.support.serving import serving
from tests.support.waiting import eventually
from tests.support.wire import ask
from zapq.command.commands import Commands
from zapq.core.queue_settings import QueueSettings
from zapq.engine.valkey import procedures
from zapq.engine.valkey.check import repair
from zapq.engine.valkey.engine import ValkeyEngine
from zapq.engine.valkey.open import open_engine
from zapq.errors import Draining, MessageTooLarge
from zapq.service.operations import Accepted, Configure, Delivery, Enqueue, List, Operation, Stats, Take
from zapq.service.pending import Pending
from zapq.service.waiting import ONE
from zapq.settings import Settings

pytestmark = pytest.mark.slow  # it starts servers, and the gate runs it

JOBS = "/queues/jobs"
DUE = "FCALL zapq_1_due"


@pytest.fixture
async def server(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Scripted, None]:
    """A server that is swept all the time."""
    empty(valkey)
    monkeypatch.setattr("zapq.engine.valkey.sweep.SWEEP_SECONDS", 0.05)
    monkeypatch.setattr("zapq.engine.valkey.asked.ENGINE_RETRY_SECONDS", 30.0)  # for a busy machine
    monkeypatch.setattr(procedures, "CLAIM_SECONDS", 0.05)
    async with scripted(valkey) as fake:
        yield fake


async def done(engine: ValkeyEngine, operation: Operation) -> Any:
    outcome = engine.perform(operation, trio.current_time())
    return await outcome.wait() if isinstance(outcome, Pending) else outcome


async def test_very_much_that_is_due_is_done_without_being_asked_for(
    server: Scripted, zapq_settings: Settings, valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zapq.engine.valkey.sweep._ROUNDS", 2)  # the next sweep goes on
    async with serving(server.engine(zapq_settings)) as url:
        body = msgspec.msgpack.encode([{"body": b"x", "ttl": 0.2}] * 1000)
        for _ in range(3):
            target, kind = f"{JOBS}/messages/batch", {"Content-Type": "application/msgpack"}
            assert (await ask(url, "POST", target, body, kind)).status == 202
        await eventually(lambda: messages(valkey) == 0, "the messages to expire")
        assert server.seen(DUE) >= 3  # each a thousand


def messages(valkey: Server) -> int:
    """Return how many messages of the queue are to end, without a function: one would do what is due."""
    connection = valkey.connect()
    try:
        [ends] = connection.call("KEYS", "*:q:jobs:m") or [b"none"]
        return int(connection.call("ZCARD", ends))
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (DUE, [1, 0, b"missing"]),
        (DUE, error("ERR user_script:7: attempt to index a nil value")),
        (DUE, raw(HANG_UP)),
        ("FCALL zapq_1_sweep", error("LOADING Valkey is loading the dataset in memory")),
        ("FCALL zapq_1_sweep", 7),
        ("FCALL zapq_1_sweep", raw(HANG_UP)),
        ("ZCOUNT", raw(HANG_UP)),
        ("TIME", raw(HANG_UP)),
        ("TIME", b"late"),
        ("ZCARD", error("LOADING Valkey is loading the dataset in memory")),
        ("ZCARD", 0),
        ("ZADD", raw(HANG_UP)),
    ],
)
async def test_a_sweep_that_fails_is_followed_by_another(
    server: Scripted, zapq_settings: Settings, valkey: Server, command: str, answer: object
) -> None:
    async with serving(server.engine(zapq_settings)) as url:
        server.answer(command, answer, times=1)
        assert (await ask(url, "POST", f"{JOBS}/messages?ttl=0.1", b"x")).status == 202
        await eventually(lambda: messages(valkey) == 0, "the message to expire")
        await eventually(lambda: server.used_up, "the failure")
        assert (await ask(url, "POST", f"{JOBS}/messages", b"x")).status == 202


async def test_all_queues_are_asked_for_once_in_a_while(
    server: Scripted, zapq_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zapq.engine.valkey.tasks.LISTING_SECONDS", 60.0)
    server.answer("FCALL zapq_1_figures", [1, 0, [], b""])
    async with open_engine(server.engine(zapq_settings)) as engine:
        for _ in range(3):
            assert [each.name for each in await done(engine, List())] == ["default"]
        assert server.seen("FCALL zapq_1_figures") == 4096


async def test_a_step_that_is_refused_refuses_all_of_it(server: Scripted, zapq_settings: Settings) -> None:
    async with serving(server.engine(zapq_settings)) as url:
        server.answer("FCALL zapq_1_configure", error("OOM command not allowed"), times=1)
        refused = await ask(url, "PUT", JOBS, b"{}")
        assert (refused.status, refused.json["type"]) == (429, "/problems/queue-full")
        server.answer("FCALL zapq_1_figures", [1, 0, [], b""])
        server.answer("FCALL zapq_1_figures", error("ERR it is broken"), times=1)
        listed = await ask(url, "GET", "/queues")
        assert (listed.status, listed.json["type"]) == (503, "/problems/outcome-unknown")
        assert (await ask(url, "GET", "/queues")).status == 200


async def test_messages_that_may_have_arrived_are_counted_for_all_front_ends(
    zapq_settings: Settings, valkey: Server
) -> None:
    empty(valkey)
    async with open_engine(with_engine(zapq_settings, valkey)) as engine:
        assert await done(engine, Enqueue("jobs", b"x")) == Accepted(1)
        delivery = await done(engine, Take("jobs", ONE))
        assert isinstance(delivery, Delivery)
        delivery.queue.note_uncertain_delivery(1)
    async with open_engine(with_engine(zapq_settings, valkey)) as another:
        assert (await done(another, Stats())).delivery_uncertain == 1


async def test_what_was_asked_for_before_the_end_is_still_done(server: Scripted, zapq_settings: Settings) -> None:
    async with open_engine(server.engine(zapq_settings)) as engine:
        assert await done(engine, Enqueue("jobs", b"x")) == Accepted(1)
        delivery = await done(engine, Take("jobs", ONE))
        assert isinstance(delivery, Delivery)
        delivery.queue.return_undelivered(delivery.given)
    with pytest.raises(Draining):
        await done(engine, List())
    async with open_engine(server.engine(zapq_settings)) as another:
        again = await done(another, Take("jobs", ONE))
        assert [each.body for each in again.given] == [b"x"]


async def test_a_message_that_is_too_large_is_refused_here(server: Scripted, zapq_settings: Settings) -> None:
    async with open_engine(server.engine(zapq_settings)) as engine:
        with pytest.raises(MessageTooLarge):
            await done(engine, Enqueue("jobs", b"x" * (zapq_settings.max_message_bytes + 1)))
        assert server.seen("FCALL zapq_1_put") == 0


async def test_a_queue_that_is_deleted_while_all_are_repaired_is_passed_over(
    server: Scripted, zapq_settings: Settings
) -> None:
    async with open_engine(server.engine(zapq_settings)) as engine:
        for queue in ("a", "b"):
            await done(engine, Enqueue(queue, b"x"))
    server.answer("FCALL zapq_1_repair", [1, 0, b"missing"], queue="a")
    server.answer("FCALL zapq_1_repair", [1, 0, 3, 0, 0, 0, 0], queue="b")
    found = await trio.to_thread.run_sync(partial(repair, server.engine(zapq_settings), mend=False))
    assert [(queue, each) for queue, each in found if queue != "default"] == [("b", (3, 0, 0, 0, False))]


def test_a_queue_too_large_to_be_repaired_is_named_and_the_others_are_repaired(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty(valkey)
    url = engine_url(valkey)

    async def fill() -> None:
        async with open_engine(Settings(engine=url)) as engine:
            await done(engine, Configure("empty", QueueSettings()))
            for _ in range(3):
                await done(engine, Enqueue("large", b"x"))

    trio.run(fill)
    monkeypatch.setattr(procedures, "MOST_REPAIRED", 2)
    commands = Commands(lambda **flags: 0)
    repaired = CliRunner().invoke(commands, ["engine", "repair", url, "--mend"], standalone_mode=False)
    assert repaired.return_value == 1
    told, last = repaired.output.splitlines()
    assert re.match(
        r"large: The queue large has [0-9]+ entries, too many for one step\. Have consumers empty", told
    )
    assert last == "1 queue is not in order"
    repaired = CliRunner().invoke(commands, ["engine", "repair", url, "--mend", "--json"], standalone_mode=False)
    [found] = json.loads(repaired.output)
    assert repaired.return_value == 1
    assert found["queue"] == "large"
    assert "too many for one step" in found["error"]
