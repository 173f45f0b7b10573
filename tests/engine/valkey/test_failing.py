"""A server that fails while it is used: what clients are told, what is done again, and that all goes on after."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import replace

import msgspec
import pytest
import trio

from tests.engine.valkey.scripted import HANG_UP, SILENCE, Scripted, error, raw, scripted
from tests.engine.valkey.servers import Server
from tests.engine.valkey.serving import empty
from tests.support.serving import serving
from tests.support.waiting import eventually
from tests.support.wire import Answer, ask, metrics, open_client
from zapq.engine.valkey.connection import Connection, Login, open_connection
from zapq.engine.valkey.connection import Server as Where
from zapq.engine.valkey.fleet import Fleet
from zapq.engine.valkey.open import open_engine
from zapq.limits import MAX_BATCH_BYTES
from zapq.service.operations import Enqueue, Take
from zapq.service.waiting import ONE
from zapq.settings import Settings

JOBS = "/queues/jobs"
PUT, TAKE = "FCALL zapq_1_put", "FCALL zapq_1_take"
NOT_READ = "its answer could not be read"


@pytest.fixture
async def server(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Scripted, None]:
    empty(valkey)
    monkeypatch.setattr("zapq.engine.valkey.asked.ENGINE_RETRY_SECONDS", 30.0)  # for a busy machine
    monkeypatch.setattr("zapq.engine.valkey.asked.ENGINE_REPEAT_SECONDS", 30.0)
    async with scripted(valkey) as fake:
        yield fake


@pytest.fixture
async def url(server: Scripted, zapq_settings: Settings) -> AsyncGenerator[str, None]:
    """A front end whose queues are in that server."""
    settings = replace(zapq_settings, max_msgs=10**6, max_message_bytes=2**21)
    async with serving(server.engine(settings)) as found:
        yield found


async def put(url: str, body: bytes = b"x", key: str = "", queue: str = "jobs") -> Answer:
    return await ask(url, "POST", f"/queues/{queue}/messages", body, {"Idempotency-Key": key} if key else {})


async def bodies(url: str, queue: str = "jobs") -> list[bytes]:
    """Take all that is there."""
    target = f"/queues/{queue}/receive/batch?max=1000&ack=auto"
    got = await ask(url, "POST", target, headers={"Accept": "application/msgpack"})
    return list(msgspec.msgpack.decode(got.body)) if got.status == 200 else []


async def connected(url: str) -> bool:
    return (await ask(url, "GET", "/readyz")).status == 200


def is_unknown(answer: Answer, why: str) -> bool:
    assert (answer.status, answer.json["type"]) == (503, "/problems/outcome-unknown")
    assert why in answer.json["detail"]
    assert "the same Idempotency-Key" in answer.json["detail"]
    return True


def is_refused(answer: Answer, why: str) -> bool:
    assert (answer.status, answer.json["type"]) == (503, "/problems/storage-unavailable")
    assert why in answer.json["detail"]
    assert "Nothing was changed" in answer.json["detail"]
    return True


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        pytest.param(raw(HANG_UP), "has closed the connection", id="cut-before"),
        pytest.param(raw(b"*3\r\n:17\r\n:" + HANG_UP), "has closed the connection", id="cut-inside"),
        pytest.param(raw(b"?what\r\n"), "does not speak Valkey's protocol", id="no-resp"),
        pytest.param(error("ERR user_script:7: attempt to index a nil value"), "the function failed", id="broken"),
        pytest.param(error("WRONGTYPE Operation against a key"), "the function failed", id="wrong-type"),
        pytest.param(7, NOT_READ, id="a-number"),
        pytest.param(None, NOT_READ, id="nothing"),
        pytest.param([1, 0], NOT_READ, id="too-short"),
        pytest.param(error("MOVED"), "the function failed", id="moved-nowhere"),
        pytest.param(error("MOVED many there:port"), "the function failed", id="moved-to-no-port"),
        pytest.param(raw(b":1\r\n:2\r\n"), "more than it was asked", id="more-answers-than-questions"),
    ],
)
async def test_a_message_whose_answer_says_nothing_may_have_been_stored(
    server: Scripted, url: str, answer: object, why: str
) -> None:
    server.answer(PUT, answer, times=1)
    assert is_unknown(await put(url, b"lost"), why)
    await eventually(lambda: connected(url), "the engine to be connected")
    assert (await put(url, b"next")).status == 202
    assert await bodies(url) == [b"next"]


@pytest.mark.parametrize("answer", [raw(HANG_UP), raw(b"*3\r\n:17\r\n" + HANG_UP), raw(b"no\r\n")])
async def test_with_a_key_it_is_sent_again_on_another_connection(
    server: Scripted, url: str, answer: object
) -> None:
    server.answer(PUT, answer, times=2)
    assert (await put(url, key="k")).status == 202
    assert await bodies(url) == [b"x"]


@pytest.mark.parametrize(
    "code",
    ["LOADING", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "MISCONF", "NOREPLICAS", "READONLY", "UNBLOCKED"],
)
async def test_what_passes_soon_is_not_noticed(server: Scripted, url: str, code: str) -> None:
    server.answer(PUT, error(f"{code} it cannot do this now"), times=2)
    assert (await put(url)).status == 202
    assert server.seen(PUT) == 3
    assert await bodies(url) == [b"x"]


@pytest.mark.parametrize("code", ["LOADING", "MISCONF", "NOPERM", "READONLY"])
async def test_what_does_not_pass_is_said_and_nothing_was_changed(
    server: Scripted, url: str, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr("zapq.engine.valkey.asked.ENGINE_RETRY_SECONDS", 0.2)
    server.answer(PUT, error(f"{code} it cannot do this"))
    assert is_refused(await put(url), code)
    # It is asked again after a pause, and is not stormed.
    assert server.seen(PUT) < 10


async def pipelined(url: str, *queues: str) -> list[Answer]:
    """Send messages to these queues, named like them, in one turn: they are one batch."""
    requests = [
        b"POST /queues/%b/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b"
        % (queue.encode(), len(queue), queue.encode())
        for queue in queues
    ]
    async with open_client(url) as client:
        await client.stream.send_all(b"".join(requests))
        return [await client.answer_unasked() for _ in queues]


async def test_a_server_without_memory_refuses_each_of_a_batch(server: Scripted, url: str) -> None:
    server.answer(PUT, error("OOM command not allowed when used memory > 'maxmemory'."), times=1)
    answers = await pipelined(url, "a", "a", "b")
    assert [answer.status for answer in answers] == [429, 429, 202]
    for refused in answers[:2]:
        assert refused.json["type"] == "/problems/queue-full"
        assert "Nothing was stored" in refused.json["detail"]


async def test_what_was_answered_before_the_end_of_a_connection_is_known(server: Scripted, url: str) -> None:
    server.answer(PUT, raw(HANG_UP), queue="b", times=1)
    first, second, third = await pipelined(url, "a", "b", "c")
    assert first.status == 202
    assert is_unknown(second, "has closed the connection")
    assert is_unknown(third, "has closed the connection")
    await eventually(lambda: connected(url), "the engine to be connected")
    assert await bodies(url, "a") == [b"a"]


async def test_a_server_that_does_not_answer_is_given_up(
    server: Scripted, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer(PUT, raw(SILENCE), times=1)
    with monkeypatch.context() as patch:
        patch.setattr("zapq.engine.valkey.master.ENGINE_ANSWER_SECONDS", 0.1)
        assert is_unknown(await put(url), "it did not answer within 0.1 s")
    await eventually(lambda: connected(url), "the engine to be connected")
    assert (await put(url)).status == 202


async def test_what_nothing_was_asked_for_is_no_answer_to_what_is_asked_next(server: Scripted, url: str) -> None:
    for _ in range(3):
        await server.say(b":7\r\n")
        answer = await put(url, key="k")
        assert answer.status == 202
        await eventually(lambda: connected(url), "the engine to be connected")
    assert await bodies(url) == [b"x"]


async def test_messages_that_were_given_for_good_and_may_not_have_arrived_are_counted(
    server: Scripted, url: str
) -> None:
    assert (await put(url)).status == 202
    server.answer(TAKE, raw(HANG_UP), times=1)
    assert is_unknown(await ask(url, "POST", f"{JOBS}/receive?ack=auto"), "has closed the connection")
    await eventually(lambda: connected(url), "the engine to be connected")
    server.answer("FCALL zapq_1_sums", [1, 0, [0] * 20, 0, b"", 0])  # to ask all shards takes a while
    assert (await metrics(url))["delivery_uncertain"] == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "", "?"])
async def test_an_operation_follows_its_queue_to_another_server(
    server: Scripted, valkey: Server, url: str, host: str
) -> None:
    async with scripted(valkey) as other:
        server.answer(PUT, error(f"MOVED 7 {host}:{other.port}"), times=1)
        server.answer("INFO repl", error("LOADING it is not asked meanwhile"))
        assert (await put(url)).status == 202
        assert other.seen(PUT) + server.seen(PUT) == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "", "?"])
async def test_a_queue_that_is_just_being_moved_is_asked_for_where_it_goes(
    server: Scripted, valkey: Server, url: str, host: str
) -> None:
    async with scripted(valkey) as other:
        other.answer("ASKING", b"OK")
        server.answer(PUT, error(f"ASK 7 {host}:{other.port}"), times=1)
        assert (await put(url)).status == 202
        assert (other.seen("ASKING"), other.seen(PUT), server.seen(PUT)) == (1, 1, 1)
        # The slot is not there yet: the next one is asked for where it was.
        assert (await put(url, b"y")).status == 202
        assert server.seen(PUT) == 2
        assert await bodies(url) == [b"x", b"y"]


async def test_what_is_too_late_to_follow_its_queue_is_given_up_quietly(
    server: Scripted, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("zapq.engine.valkey.asked.ENGINE_RETRY_SECONDS", 0.0)
    server.answer(PUT, error(f"ASK 7 127.0.0.1:{server.port}"), times=1)
    assert is_refused(await put(url), "ASK")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_server_that_does_not_keep_up_is_asked_for_no_more(
    server: Scripted, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zapq.engine.valkey.engine.MIB", 1000)
    monkeypatch.setattr("zapq.engine.valkey.engine.ENGINE_WAITING_BYTES", 3000)
    answers: list[Answer] = []

    async def send() -> None:
        answers.append(await put(url, b"x" * 1000))

    async with trio.open_nursery() as nursery:
        server.frozen = True
        for _ in range(8):
            nursery.start_soon(send)
        await eventually(lambda: answers, "a refusal")
        server.frozen = False
    refused = [answer for answer in answers if answer.status != 202]
    assert refused
    assert all(is_refused(answer, "it does not keep up") for answer in refused)
    assert await bodies(url) == [b"x" * 1000] * (8 - len(refused))


async def test_a_message_larger_than_what_sockets_hold_arrives_whole(
    server: Scripted, zapq_settings: Settings
) -> None:
    body = bytes(range(256)) * 2**15
    settings = replace(zapq_settings, max_message_bytes=2**24, max_msgs=10**6)
    async with serving(server.engine(settings)) as url, trio.open_nursery() as nursery:
        answers: list[Answer] = []

        async def send() -> None:
            answers.append(await put(url, body))

        server.frozen = True
        nursery.start_soon(send)
        await eventually(lambda: server.held, "the first bytes")
        server.frozen = False
        await eventually(lambda: answers, "an answer")
        assert [answer.status for answer in answers] == [202]
        got = await ask(url, "POST", f"{JOBS}/receive?ack=auto")
        assert got.body == body


@pytest.mark.parametrize(
    ("durability", "command", "answer", "why"),
    [
        ("replicated", "WAIT", 0, "too few replicas have it"),
        (
            "replicated",
            "WAIT",
            error("ERR WAIT cannot be used with replica instances"),
            "too few replicas have it",
        ),
        ("committed", "WAITAOF", [1, 0], "too few replicas have it"),
        ("committed", "WAITAOF", [], "too few replicas have it"),
        ("committed alone", "WAITAOF", [0, 0], "its disk has not confirmed it"),
        ("committed alone", "WAITAOF", [], "its disk has not confirmed it"),
        (
            "committed alone",
            "WAITAOF",
            error("ERR WAITAOF cannot be used when ..."),
            "its disk has not confirmed it",
        ),
    ],
)
async def test_what_is_not_as_safe_as_was_promised_is_not_known(
    server: Scripted, zapq_settings: Settings, durability: str, command: str, answer: object, why: str
) -> None:
    alone = durability.endswith("alone")
    said = b"role:master\r\nconnected_slaves:%d\r\nmaster_replid:0123456789abcdef\r\n" % (not alone)
    server.answer("INFO repl", said)
    server.answer("CONFIG GET appendonly", [b"appendonly", b"yes"])
    server.answer("WAIT", 1)
    server.answer("WAITAOF", [1, 1])
    settings = replace(server.engine(zapq_settings), engine_durability=durability.split()[0])
    async with serving(settings) as url:
        safe = await put(url, b"safe")
        assert (safe.status, safe.headers.get("zapq-durability")) == (202, settings.engine_durability), safe
        server.answer(command, answer, times=1)
        assert is_unknown(await put(url, b"not safe"), why)
        # What may be done twice is, until it is safe.
        server.answer(command, answer, times=2)
        assert (await put(url, b"repeated", "k")).status == 202
        assert await bodies(url) == [b"safe", b"not safe", b"repeated"]


async def test_a_server_that_may_not_be_listened_to_is_connected_to_again_after_pauses(
    server: Scripted, url: str
) -> None:
    begun, before = time.monotonic(), server.seen("SSUBSCRIBE")
    server.answer("SSUBSCRIBE", error("NOPERM no permissions to access a channel"))
    answers: list[Answer] = []

    async def poll() -> None:
        answers.append(await ask(url, "POST", f"{JOBS}/receive?wait=20&ack=auto"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll)
        await eventually(lambda: server.seen("SSUBSCRIBE") >= before + 4, "some tries")
        assert time.monotonic() - begun > 0.05 + 0.1 + 0.2
        # Its consumers are served all the same.
        assert (await put(url)).status == 202
    assert [answer.body for answer in answers] == [b"x"]


async def test_a_front_end_outlives_a_server_that_is_busy_with_another_client(
    server: Scripted, zapq_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zapq.engine.valkey.sweep.SWEEP_SECONDS", 0.02)
    async with serving(server.engine(zapq_settings)) as url:
        server.answer("TIME", error("BUSY Valkey is busy running a script."), times=30)
        seen = server.seen("TIME")
        await eventually(lambda: server.seen("TIME") > seen + 20, "sweeps")
        assert (await put(url)).status == 202
        server.answer("ZCOUNT", error("BUSY Valkey is busy running a script."))
        seen = server.seen("ZCOUNT")
        await eventually(lambda: server.seen("ZCOUNT") > seen, "a sweep")
        assert await bodies(url) == [b"x"]


async def asked_in_one_turn(url: str, *targets: str) -> list[Answer]:
    """Send requests without bodies in one write, so that they are one batch."""
    requests = [
        f"{target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nAccept: application/msgpack\r\n\r\n"
        for target in targets
    ]
    async with open_client(url) as client:
        await client.stream.send_all("".join(requests).encode())
        return [await client.answer_unasked() for _ in targets]


async def test_consumers_for_whom_a_call_was_too_long_are_served_by_the_next_one(
    server: Scripted, zapq_settings: Settings
) -> None:
    number = MAX_BATCH_BYTES // 10**6 + 3
    settings = server.engine(replace(zapq_settings, max_message_bytes=2**21))
    async with open_engine(settings) as engine:
        now = trio.current_time()
        for place in range(number):
            await engine.perform(Enqueue("jobs", b"%2d" % place + b"x" * 10**6), now).wait()
        asked = [engine.perform(Take("jobs", ONE), now) for _ in range(number)]
        given = [(await each.wait()).given for each in asked]
        assert [int(message.body[:2]) for [message] in given] == list(range(number))
        assert server.seen(TAKE) == 2  # what one call gives is bounded


async def test_a_connection_that_opens_as_a_front_end_stops_is_closed(
    server: Scripted, zapq_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Connection] = []
    stopping = trio.Event()

    async def open_late(server: Where, login: Login) -> Connection:
        connection = await open_connection(server, login)
        opened.append(connection)
        if len(opened) == 3:  # the one that listens: requests are served without it
            with trio.CancelScope(shield=True):
                await stopping.wait()
        return connection

    def give_up(fleet: Fleet) -> None:
        stop(fleet)
        stopping.set()

    stop = Fleet.give_up
    monkeypatch.setattr("zapq.engine.valkey.fleet.open_connection", open_late)
    monkeypatch.setattr(Fleet, "give_up", give_up)
    async with open_engine(server.engine(zapq_settings)):
        await eventually(lambda: len(opened) == 3, "the last connection to open")
    assert [connection.sock.fileno() for connection in opened] == [-1, -1, -1]


async def test_questions_that_differ_each_have_their_own_answer(url: str) -> None:
    await pipelined(url, "jobs", "jobs", "jobs")
    looks = [f"GET {JOBS}/messages?limit={limit}" for limit in (1, 2, 2, 3)]
    answers = await asked_in_one_turn(url, *looks, f"GET {JOBS}/messages/2")
    assert [len(answer.json) for answer in answers[:4]] == [1, 2, 2, 3]
    assert answers[4].status == 200


async def test_a_queue_is_set_in_the_order_of_the_requests(server: Scripted, url: str) -> None:
    await put(url)
    sets = [f"POST {JOBS}/{what}" for what in ("pause", "pause", "resume", "purge")]
    assert [answer.status // 100 for answer in await asked_in_one_turn(url, *sets)] == [2] * 4
    about = (await ask(url, "GET", JOBS)).json
    assert (about["paused"], about["ready"]) == (False, 0)
