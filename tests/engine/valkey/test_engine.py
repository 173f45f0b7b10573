"""Front ends over a real server: they have the queues in common, and wake each other's consumers."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from tests.engine.fronts import ask as ask_engine
from tests.engine.valkey.relay import relaying
from tests.engine.valkey.servers import Server
from tests.engine.valkey.serving import empty, engine_url, front_ends, with_engine
from tests.support.process import running_zapq
from tests.support.serving import serving
from tests.support.waiting import eventually
from tests.support.wire import Answer, ask, metrics
from zapq.core.queue_settings import QueueSettings
from zapq.engine.valkey.offers import WaitingOffer
from zapq.engine.valkey.open import open_engine
from zapq.errors import CannotStart, QueueFull
from zapq.service.operations import Configure, Enqueue, Put, Take, terms
from zapq.service.waiting import Want
from zapq.settings import Settings

JOBS = "/queues/jobs"


@pytest.fixture(autouse=True)
def _empty(valkey: Server) -> None:
    empty(valkey)


async def test_what_one_front_end_takes_in_another_gives_out(zapq_settings: Settings, valkey: Server) -> None:
    async with front_ends(zapq_settings, valkey, number=2) as [one, other]:
        assert (await ask(one, "POST", f"{JOBS}/messages", b"hello")).status == 202
        got = await ask(other, "POST", f"{JOBS}/receive")
        assert got.body == b"hello"
        receipt = f"{JOBS}/receipts/{got.headers['zapq-receipt']}"
        assert (await ask(one, "DELETE", receipt)).status == 204
        assert (await ask(other, "DELETE", receipt)).status == 204
        assert (await ask(other, "POST", f"{JOBS}/receive")).headers["zapq-empty"] == "empty"


@pytest.mark.parametrize("asked", [0.0, None])
async def test_leases_of_no_time_at_all_have_receipts_of_their_own(
    zapq_settings: Settings, valkey: Server, asked: float | None
) -> None:
    async with open_engine(with_engine(zapq_settings, valkey)) as engine:
        await ask_engine(engine, Configure("jobs", QueueSettings(visibility=0.0)))
        now = trio.current_time()
        with engine.turn():
            engine.perform(Enqueue("jobs", b"x"), now)
            takes = [engine.perform(Take("jobs", Want(limit, True, asked)), now) for limit in (1, 1, 5, 5, 1)]
        given = [(await each.wait()).given[0] for each in takes]
    assert {each.id for each in given} == {1}
    assert len({each.receipt for each in given}) == 5


async def test_consumers_of_a_queue_without_visibility_are_all_told_that_it_is_empty(
    zapq_settings: Settings, valkey: Server
) -> None:
    async with open_engine(with_engine(zapq_settings, valkey)) as engine:
        await ask_engine(engine, Configure("jobs", QueueSettings(visibility=0.0)))
        now = trio.current_time()
        calls = engine.fleet.counts.calls
        with engine.turn():
            takes = [engine.perform(Take("jobs", Want(1, True)), now) for _ in range(20)]
        outcomes = [await each.wait() for each in takes]
        assert [each.why for each in outcomes] == ["empty"] * 20
        assert engine.fleet.counts.calls == calls + 1


@pytest.fixture
def asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Front ends do not ask again for a consumer that waits unless they hear of a message."""
    monkeypatch.setattr("zapq.engine.valkey.lines.RENEWAL_SECONDS", 60.0)


@pytest.mark.parametrize("hot_path", [True, False])
async def test_a_message_wakes_a_consumer_of_another_front_end(
    zapq_settings: Settings, valkey: Server, hot_path: bool, asked_once: None
) -> None:
    settings = replace(zapq_settings, hot_path=hot_path)
    async with front_ends(settings, valkey, number=2) as [one, other]:
        for _ in range(3):
            answers: list[Answer] = []

            async def poll() -> None:
                answers.append(await ask(other, "POST", f"{JOBS}/receive?wait=20&ack=auto"))  # noqa: B023

            async with trio.open_nursery() as nursery:
                nursery.start_soon(poll)
                await eventually(lambda: joined(valkey, "jobs"), "the consumer to wait")
                assert (await ask(one, "POST", f"{JOBS}/messages", b"hello")).status == 202
            assert [answer.body for answer in answers] == [b"hello"]


def joined(valkey: Server, queue: str) -> bool:
    """Whether a front end is in the engine's line for a queue."""
    connection = valkey.connect()
    try:
        found = connection.call("KEYS", f"*:q:{queue}:w")
        return bool(found) and connection.call("ZCARD", found[0]) > 0
    finally:
        connection.close()


async def test_messages_of_one_producer_stay_in_order_whatever_it_sends(
    zapq_settings: Settings, valkey: Server
) -> None:
    async with front_ends(zapq_settings, valkey) as [url]:
        host, port = url.removeprefix("http://").split(":")
        stream = await trio.open_tcp_stream(host, int(port))
        requests = [
            b"POST /queues/jobs/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n%b\r\n%04d"
            % (b"Idempotency-Key: k%d\r\n" % number if number % 3 == 0 else b"", number)
            for number in range(200)
        ]
        async with stream:
            await stream.send_all(b"".join(requests))
            received = b""
            while received.count(b"HTTP/1.1 202") < len(requests):
                received += await stream.receive_some()
        got = await ask(url, "POST", f"{JOBS}/receive/batch?max=1000", headers={"Accept": "application/msgpack"})
        assert [each["body"] for each in msgspec.msgpack.decode(got.body)] == [
            b"%04d" % number for number in range(200)
        ]


async def test_batches_of_many_clients_are_stored_each_at_once(zapq_settings: Settings, valkey: Server) -> None:
    async with front_ends(replace(zapq_settings, max_msgs=10**6), valkey) as [url]:
        firsts: list[int] = []

        async def send(number: int) -> None:
            body = msgspec.msgpack.encode([b"%d.%d" % (number, place) for place in range(900)])
            sent = await ask(url, "POST", f"{JOBS}/messages/batch", body, {"Content-Type": "application/msgpack"})
            assert sent.status == 202
            firsts.append(sent.json["first_id"])

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(send, number)
        assert sorted(firsts) == [1 + 900 * place for place in range(10)]


async def test_a_front_end_that_stops_answers_its_consumers(zapq_settings: Settings, valkey: Server) -> None:
    stop = trio.Event()
    answers: list[Answer] = []
    settings = with_engine(zapq_settings, valkey)
    async with trio.open_nursery() as nursery:

        async def poll(url: str) -> None:
            answers.append(await ask(url, "POST", f"{JOBS}/receive?wait=20"))

        async with serving(settings, shutdown_trigger=stop.wait) as url:
            nursery.start_soon(poll, url)  # noqa: ASYNC111 - it is answered in this block
            await eventually(lambda: joined(valkey, "jobs"), "the consumer to wait")
            stop.set()
            await eventually(lambda: len(answers) == 1, "an answer")
    assert answers[0].status == 503
    assert answers[0].json["type"] == "/problems/draining"


async def test_a_deleted_queue_has_no_consumers_anywhere(zapq_settings: Settings, valkey: Server) -> None:
    async with front_ends(zapq_settings, valkey, number=2) as [one, other]:
        await ask(one, "POST", f"{JOBS}/messages", b"x")
        await ask(one, "POST", f"{JOBS}/receive?ack=auto")
        answers: list[Answer] = []

        async def poll() -> None:
            answers.append(await ask(other, "POST", f"{JOBS}/receive?wait=20"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            await eventually(lambda: joined(valkey, "jobs"), "the consumer to wait")
            assert (await ask(one, "DELETE", JOBS)).status == 204
        assert answers[0].status == 404


async def test_dead_letters_arrive_though_no_consumer_asks(zapq_settings: Settings, valkey: Server) -> None:
    async with front_ends(zapq_settings, valkey) as [url]:
        made = await ask(url, "PUT", JOBS, b'{"max_receives": 1, "dead_letter": "dead"}')
        assert made.status == 201
        await ask(url, "POST", f"{JOBS}/messages", b"poison")
        await ask(url, "POST", f"{JOBS}/receive?visibility=0.1")
        got = await ask(url, "POST", "/queues/dead/receive?wait=20")
        assert got.body == b"poison"


async def test_consumers_that_wait_at_a_queue_with_limits_are_served(
    zapq_settings: Settings, valkey: Server, asked_once: None
) -> None:
    async with front_ends(zapq_settings, valkey, number=2) as [one, other]:
        assert (await ask(one, "PUT", JOBS, b'{"max_leased": 1}')).status == 201
        for body in (b"1", b"2", b"3"):
            await ask(one, "POST", f"{JOBS}/messages", body)
        first = await ask(one, "POST", f"{JOBS}/receive")
        answers: list[Answer] = []

        async def poll() -> None:
            answers.append(await ask(other, "POST", f"{JOBS}/receive?wait=20"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            await eventually(lambda: joined(valkey, "jobs"), "the consumer to wait")
            receipt = first.headers["zapq-receipt"]
            assert (await ask(one, "DELETE", f"{JOBS}/receipts/{receipt}")).status == 204
        assert answers[0].body == b"2"
        assert (await ask(one, "PUT", JOBS, b'{"rate": 20, "burst": 1}')).status == 200
        assert (await ask(one, "POST", f"{JOBS}/receive")).body == b"3"
        await ask(one, "POST", f"{JOBS}/messages", b"4")
        assert (await ask(other, "POST", f"{JOBS}/receive?wait=20")).body == b"4"


async def test_a_producer_waits_for_room(zapq_settings: Settings, valkey: Server) -> None:
    async with front_ends(replace(zapq_settings, max_msgs=1), valkey, number=2) as [one, other]:
        assert (await ask(one, "POST", f"{JOBS}/messages", b"x")).status == 202
        full = await ask(one, "POST", f"{JOBS}/messages?wait=0.1", b"y")
        assert (full.status, full.json["type"]) == (429, "/problems/queue-full")
        answers: list[Answer] = []

        async def send() -> None:
            answers.append(await ask(one, "POST", f"{JOBS}/messages?wait=20", b"y"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.sleep(0.1)
            assert (await ask(other, "POST", f"{JOBS}/receive?ack=auto")).body == b"x"
        assert [answer.status for answer in answers] == [202]


async def test_what_comes_behind_a_producer_that_waits_counts_with_its_bytes(
    zapq_settings: Settings, valkey: Server
) -> None:
    empty(valkey)
    settings = with_engine(replace(zapq_settings, max_msgs=1), valkey)
    async with open_engine(settings) as engine:
        await engine.perform(Enqueue("jobs", b"x"), trio.current_time()).wait()
        first = engine.perform(Put(b"y", terms(wait=60), queue="jobs"), trio.current_time())
        behind = engine.perform(Enqueue("jobs", b"z" * 1000), trio.current_time())
        assert isinstance(behind, WaitingOffer)
        assert behind.held > 1000
        with pytest.raises(QueueFull):
            await behind.wait()
        first.abandon()


async def test_producers_of_one_front_end_are_served_in_order(zapq_settings: Settings, valkey: Server) -> None:
    async with front_ends(replace(zapq_settings, max_msgs=1), valkey, number=2) as [one, other]:
        assert (await ask(one, "POST", f"{JOBS}/messages", b"0")).status == 202

        async def send(body: bytes) -> None:
            assert (await ask(one, "POST", f"{JOBS}/messages?wait=20", body)).status == 202

        async with trio.open_nursery() as nursery:
            for number in range(1, 6):
                nursery.start_soon(send, b"%d" % number)

                async def waits(number: int = number) -> bool:
                    return (await metrics(one))["waiting"] == number

                await eventually(waits, "it to wait")
            # One that does not wait has no place before them, whichever front end makes room.
            for number, consumer in enumerate((one, other, one, one, other)):
                taken = await ask(consumer, "POST", f"{JOBS}/receive?ack=auto&wait=20")
                assert taken.body == b"%d" % number
                assert (await ask(one, "POST", f"{JOBS}/messages", b"late")).status == 429
        assert (await ask(one, "POST", f"{JOBS}/receive?ack=auto")).body == b"5"


async def test_a_message_whose_consumer_has_left_goes_back(zapq_settings: Settings, valkey: Server) -> None:
    async with front_ends(zapq_settings, valkey, number=2) as [one, other]:
        stream = await trio.open_tcp_stream("127.0.0.1", int(other.rpartition(":")[2]))
        await stream.send_all(b"POST /queues/jobs/receive?wait=20&ack=auto HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await eventually(lambda: joined(valkey, "jobs"), "the consumer to wait")
        await stream.aclose()
        await eventually(lambda: not joined(valkey, "jobs"), "the front end to leave")
        await ask(one, "POST", f"{JOBS}/messages", b"x")
        assert (await ask(one, "POST", f"{JOBS}/receive?wait=20")).body == b"x"


@pytest.mark.parametrize("hot_path", [True, False], ids=["hot", "long"])
async def test_a_group_is_in_order_and_its_next_message_goes_to_whoever_waits(
    zapq_settings: Settings, valkey: Server, hot_path: bool
) -> None:
    batch = msgspec.msgpack.encode([b"2", {"body": b"a3", "group": "a"}])
    async with front_ends(replace(zapq_settings, hot_path=hot_path), valkey, number=2) as [one, other]:
        assert (await ask(one, "PUT", JOBS, b'{"fair": true}')).status == 201
        for fields in ({}, {"Idempotency-Key": "k"}, {"Idempotency-Key": "k"}):
            assert (await ask(one, "POST", f"{JOBS}/messages?group=a", b"a1", fields)).status == 202
        msgpack = {"Content-Type": "application/msgpack"}
        assert (await ask(other, "POST", f"{JOBS}/messages/batch", batch, msgpack)).status == 202
        assert (await ask(other, "POST", f"{JOBS}/receive")).body == b"2"
        first = await ask(one, "POST", f"{JOBS}/receive")
        assert (first.body, first.headers["zapq-group"]) == (b"a1", "a")
        nothing = await ask(other, "POST", f"{JOBS}/receive")
        assert (nothing.status, nothing.headers["zapq-empty"]) == (204, "blocked")
        answers: list[Answer] = []

        async def poll() -> None:
            answers.append(await ask(other, "POST", f"{JOBS}/receive/batch?max=9&wait=20"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            await eventually(lambda: joined(valkey, "jobs"), "the consumer to wait")
            receipt = first.headers["zapq-receipt"]
            assert (await ask(one, "DELETE", f"{JOBS}/receipts/{receipt}")).status == 204
        assert [(b64decode(each["body"]), each["group"]) for each in answers[0].json] == [
            (b"a1", "a"),
            (b"a3", "a"),
        ]


async def test_a_server_that_is_not_there_is_said_at_the_start(zapq_settings: Settings) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(CannotStart, match="No such file"), flatten_subgroups=True):
        async with serving(replace(zapq_settings, engine="valkey+unix:/nowhere/s", data_dir=".")):
            pass


@pytest.mark.parametrize("wanted", ["replicated"])
async def test_what_a_server_cannot_promise_is_said_at_the_start(
    zapq_settings: Settings, valkey: Server, wanted: str
) -> None:
    settings = replace(with_engine(zapq_settings, valkey), engine_durability=wanted)
    with pytest.RaisesGroup(pytest.RaisesExc(CannotStart, match="needs a replica"), flatten_subgroups=True):
        async with serving(settings):
            pass


async def test_a_front_end_that_is_killed_keeps_no_message_from_the_others(
    zapq_settings: Settings, valkey: Server, tmp_path: Path
) -> None:
    flags = ("--engine", engine_url(valkey), "--data-dir", ".")
    async with front_ends(zapq_settings, valkey) as [url], running_zapq(tmp_path, *flags) as doomed:
        assert (await ask(url, "POST", f"{JOBS}/messages", b"leased")).status == 202
        assert (await ask(doomed.url, "POST", f"{JOBS}/receive?visibility=1")).body == b"leased"
        stream = await trio.open_tcp_stream("127.0.0.1", int(doomed.addr.rpartition(":")[2]))
        await stream.send_all(b"POST /queues/other/receive?wait=20 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await eventually(lambda: joined(valkey, "other"), "the consumer to wait")
        doomed.process.kill()
        await stream.aclose()
        answers: list[Answer] = []

        async def poll(queue: str) -> None:
            answers.append(await ask(url, "POST", f"/queues/{queue}/receive?wait=20&ack=auto"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll, "jobs")
            nursery.start_soon(poll, "other")
            await trio.sleep(0.1)
            assert (await ask(url, "POST", "/queues/other/messages", b"new")).status == 202
        # What it had leased comes back when the lease is over.
        assert sorted(answer.body for answer in answers) == [b"leased", b"new"]


async def test_a_server_started_by_the_command_stops_in_order(valkey: Server, tmp_path: Path) -> None:
    flags = ("--engine", engine_url(valkey), "--data-dir", ".")
    async with running_zapq(tmp_path, *flags) as server:
        assert (await ask(server.url, "POST", f"{JOBS}/messages", b"x")).status == 202
        await server.stop()
        assert await server.process.wait() == 0
        assert [said["msg"] for said in server.messages()][-1] == "bye"


async def test_metrics_tell_of_the_engine(zapq_settings: Settings, valkey: Server, tmp_path: Path) -> None:
    async with relaying(tmp_path, valkey) as (relay, server), front_ends(zapq_settings, server) as [url]:

        async def figures() -> dict[str, Any]:
            metrics: dict[str, Any] = (await ask(url, "GET", "/metrics")).json
            return {name: value for name, value in metrics.items() if name.startswith("engine")}

        before = await figures()
        assert before["engine"] == f"unix:{relay.address}"
        assert before["engine_durability"] == "memory"
        assert (before["engine_masters"], before["engine_reachable"]) == (1, 1)
        assert before["engine_figures_age_sec"] < 1
        await ask(url, "POST", f"{JOBS}/messages", b"x")
        # It knows no ages of leases.
        metrics = (await ask(url, "GET", "/metrics")).json
        assert metrics["oldest_ready_age_seconds"] >= 0
        assert "oldest_lease_age_seconds" not in metrics
        described = (await ask(url, "GET", JOBS)).json
        assert described["oldest_ready_age_seconds"] >= 0
        assert "oldest_lease_age_seconds" not in described
        scraped = (await ask(url, "GET", "/metrics/prometheus")).body
        assert b'\nzapq_queue_oldest_ready_age_seconds{queue="jobs"} ' in scraped
        assert b"\nzapq_queue_oldest_lease_age_seconds{" not in scraped
        after = await figures()
        assert after["engine_operations"] > before["engine_operations"]
        assert after["engine_round_trips"] > before["engine_round_trips"]
        assert after["engine_wait_seconds"] > before["engine_wait_seconds"]
        assert (after["engine_reconnects"], after["engine_outcomes_unknown"]) == (0, 0)

        async def is_reachable() -> bool:
            return bool((await figures())["engine_reachable"])

        # What the front end asks by itself may be the first to lose its answer, and the message is then not sent.
        while True:
            relay.deaf = True
            answer = await ask(url, "POST", f"{JOBS}/messages", b"y")
            assert answer.status == 503
            if answer.json["type"].endswith("outcome-unknown"):
                break
            relay.deaf = False
            await eventually(is_reachable, "the engine to be connected")
        relay.refusing = True
        relay.hang_up()
        # What the queues hold is not known, and what was last known is said.
        down = await figures()
        assert (down["engine_reachable"], down["engine_outcomes_unknown"]) == (0, 1)
        told = (await ask(url, "GET", "/metrics/prometheus")).body
        assert b"\nzapq_engine_reachable 0" in told
        assert b"zapq_queue_messages{" not in told
        relay.refusing = relay.deaf = False

        async def is_back() -> bool:
            # Requests are served again before the last of its connections is open.
            return bool((await figures())["engine_reconnects"] > down["engine_reconnects"])

        await eventually(is_back, "the engine to be connected")
        assert (await ask(url, "GET", "/readyz")).status == 200
