"""The three clients have the same surface, and say the same to a real server over each kind of connection."""

from __future__ import annotations

import asyncio
import inspect
import ssl
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

import zapq.client.sync
import zapq.client.sync_verbs
import zapq.client.verbs
from tests.client.shells import SHELLS, SHELLS_AND_UVLOOP, with_client
from tests.client.sync_verbs import made
from tests.support.ports import free_ports
from tests.support.serving import with_tls
from zapq import Draft, Settlement, errors
from zapq.client import Client, HeldLease, open_client
from zapq.client.lease import Lease, Redriven, Stored
from zapq.core.placed import Placed
from zapq.http.endpoints import ENDPOINTS
from zapq.settings import Settings
from zapq.testing import ZapqServer


def surface(kind: type) -> dict[str, tuple[str, str]]:
    """The public names of a client, with their parameters and docstrings."""
    return {
        name: (str(inspect.signature(verb)).replace("AsyncIterator", "Iterator"), inspect.getdoc(verb) or "")
        for name, verb in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


OWN_WORDS = {"producer", "consume", "consume_with"}


def test_threads_have_the_same_verbs_with_the_same_words() -> None:
    ours, theirs = surface(Client), surface(zapq.client.sync.Client)
    assert ours.keys() == theirs.keys()
    for name, verb in theirs.items():
        assert verb == ours[name] or name in OWN_WORDS
        assert verb[1], name
    given, taken = (inspect.signature(each).parameters for each in (open_client, zapq.client.sync.open_client))
    assert list(given) == list(taken)


def parameters(function: Callable[..., object]) -> dict[str, object]:
    return {name: each.default for name, each in inspect.signature(function).parameters.items()}


def test_what_differs_has_the_same_parameters() -> None:
    for name in OWN_WORDS:
        ours, theirs = (getattr(kind, name) for kind in (Client, zapq.client.sync.Client))
        assert parameters(theirs) == parameters(ours)


def attributes(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_a_lease_has_the_same_attributes_wherever_it_comes_from() -> None:
    lease = attributes(Lease)
    assert lease == {
        "body", "content_type", "group", "headers", "id", "origin", "queue", "receipt", "receive_count",
    }  # fmt: skip
    assert attributes(HeldLease) - lease == {"ack", "release", "lease", "lost"}
    assert attributes(zapq.client.sync.HeldLease) - lease == {"ack", "release", "lease", "lost", "cancelled"}
    assert attributes(zapq.Lease) >= lease
    for held in (HeldLease, zapq.client.sync.HeldLease):
        assert attributes(held) >= lease


def test_consumers_of_threads_have_the_same_verbs() -> None:
    consumers = attributes(zapq.client.Consumer), attributes(zapq.client.sync.Consumer)
    assert consumers[0] <= consumers[1]
    for name in ("ack", "release"):
        ours, theirs = (getattr(kind, name) for kind in (HeldLease, zapq.client.sync.HeldLease))
        assert parameters(theirs) == parameters(ours)


def test_what_is_made_from_the_others_is_up_to_date() -> None:
    for path, text in made().items():
        assert path.read_text() == text, "run scripts/sync-verbs"


def test_there_is_a_verb_for_everything_the_server_does() -> None:
    called = {
        "put": "put",
        "put many": "put_many",
        "take": "receive",
        "take many": "receive_many",
        "change-settings": "change_settings",
        "persist": "save_snapshot",
        "load": "load_snapshot",
        "list-snapshots": "snapshots",
        "clear": "purge",
        "delete-message": "delete_message",
        "stats": "metrics",
        "tell of refusals": "refusals",
    }
    # For other programs than ours: probes of a supervisor, Prometheus, a person who reads, tests.
    for_others = {"health", "scrape", "explain", "explain all", "show the page", "tell of refusals"}
    for_others |= {"advance", "openapi"}
    verbs = surface(Client)
    for endpoint in ENDPOINTS:
        assert endpoint.action in for_others or called.get(endpoint.action, endpoint.action) in verbs


@pytest.mark.parametrize("module", ["zapq.client", "zapq.client.sync"])
def test_a_program_imports_what_it_needs(module: str) -> None:
    code = f"import sys, {module}; {module}.open_client, {module}.Client\n"
    others = {"trio", "asyncio", "anyio", "h11", "click", "quart", "hypercorn", "django", "opentelemetry"}
    code += f"print(*{others | {'zapq.service'}} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "\n", "")


@pytest.fixture(params=["tcp", "unix", "tls"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def trusting(kind: str, tmp_path: Path) -> tuple[Settings, ssl.SSLContext]:
    """Settings of a server that is reached in this way, and whom its clients trust."""
    settings = Settings(addr=f"unix:{tmp_path}/s" if kind == "unix" else "127.0.0.1:0", data_dir=str(tmp_path))
    settings = replace(settings, grace=1.0, admin_from="any")
    return with_tls(settings, tmp_path) if kind == "tls" else (settings, ssl.create_default_context())


class TestVerbs:
    """Each once, by each of the three."""

    @pytest.fixture
    def zapq_settings(self, trusting: tuple[Settings, ssl.SSLContext]) -> Settings:
        return trusting[0]

    @pytest.mark.parametrize("shell", SHELLS_AND_UVLOOP)
    async def test_they_do_what_they_say(
        self, shell: str, zapq_server: ZapqServer, trusting: tuple[Settings, ssl.SSLContext]
    ) -> None:
        await with_client(shell, zapq_server.url, everything, verify=trusting[1])


@pytest.mark.parametrize("shell", SHELLS_AND_UVLOOP)
async def test_a_server_is_found_by_its_name(shell: str, zapq_server: ZapqServer) -> None:
    async def put(client: Any) -> None:
        assert (await client.put("q", b"x")).id == 1

    await with_client(shell, zapq_server.url.replace("127.0.0.1", "localhost"), put)


async def everything(client: Any) -> None:
    assert await client.put("q", b"a", headers={"A": "1"}, content_type="text/plain", ttl=60) == Stored(1)
    assert await client.put("q", b"a", key="k", wait=1, durability="memory") == Stored(2, durability="memory")
    assert await client.put("q", b"a", key="k", wait=1, durability="memory") == Stored(2, "", True, "memory")
    assert (await client.put("q", b"u", unique="u")).id == 3
    assert await client.put("q", b"v", unique="u", on="replace", delay=0.001) == Stored(3, "replaced")
    assert await client.enqueue("q", b"e", priority=9) == 4
    assert await client.enqueue_unique("q", b"w", "u") == Placed(3, "kept")
    stored = await client.put_many("q", [b"x", Draft(body=b"y", group="g")], wait=1)
    assert (list(stored.ids), list(stored.how), stored.replayed) == ([5, 6], [], False)
    stored = await client.put_many("q", [Draft(body=b"w", unique="u"), b"z"], key="l")
    assert (list(stored.ids), list(stored.how)) == ([3, 7], ["kept", ""])
    assert (await client.put_many("q", [Draft(body=b"w", unique="u"), b"z"], key="l")).replayed
    assert await client.enqueue_many("q", [b"1", b"2"]) == 8

    [seen, *_] = await client.peek("q", limit=2)
    assert (seen.id, seen.body, seen.priority, seen.state) == (4, b"e", 9, "ready")
    seen = await client.find("q", 1)
    assert (seen.body, seen.content_type, seen.headers, seen.receive_count) == (b"a", "text/plain", {"a": "1"}, 0)
    assert 0 < seen.expires_in <= 60
    with pytest.raises(errors.MessageNotFound):
        await client.find("q", 99)

    message = await client.dequeue("q", wait=1)
    assert (message.id, message.body) == (4, b"e")
    lease = await client.receive("q", visibility=60)
    assert (lease.id, lease.body, lease.headers, lease.receive_count) == (1, b"a", {"a": "1"}, 1)
    assert hash(lease) == hash(replace_body(lease))
    await client.extend(lease, visibility=100)
    await client.extend(lease)
    await client.release(lease, delay=100)
    [second, third] = await client.receive_many("q", 2, wait=1)
    await client.ack(second)
    release = Settlement(receipt=third.receipt, action="release")
    results = await client.settle("q", [Settlement(receipt=second.receipt), release, release])
    assert [type(each) for each in results] == [type(None), type(None), errors.ReceiptExpired]
    given = await client.dequeue_many("q", 3)
    assert [(each.id, each.body) for each in given] == [(3, b"v"), (5, b"x"), (6, b"y")]
    assert given[2].group == "g"
    with pytest.raises(errors.QueueNotFound):
        await client.receive("other")

    described = await client.describe("q")
    assert (described["ready"], described["delayed"]) == (3, 1)
    assert described.keys() == (await client.stats("q")).keys()
    assert [each["name"] for each in await client.list()] == ["default", "q"]
    page = await client.list(sort="ready", limit=1)
    assert ([each["name"] for each in page], page.total) == (["q"], 2)
    page = await client.list(sort="ready", limit=1, after=page.next)
    assert ([each["name"] for each in page], page.next) == (["default"], "")
    assert (await client.list(prefix="q", queue="*")).total == 1
    assert await client.list(queue="r*") == []
    assert [each["name"] for each in await every(client.list_all(sort="-name"))] == ["q", "default"]
    with pytest.raises(errors.InvalidParameter):
        await client.list(limit=0)
    assert (await client.metrics())["queues"] == 2
    assert (await client.metrics("q"))["queue_length"] == 4
    assert await client.purge("q") == 4
    assert await client.receive("q") is None
    assert await client.receive_many("q") == []
    assert await client.dequeue("q") is None
    assert await client.dequeue_many("q") == []

    configured = await client.configure("q", {"max_receives": 1, "dead_letter": "q.dead"})
    assert configured["settings"]["dead_letter"] == "q.dead"
    assert (await client.change_settings("q", {"ttl": "1h"}))["settings"]["ttl"] == 3600
    await client.put("q", b"bad")
    lease = await client.receive("q")
    await client.release(lease)
    assert (await client.find("q.dead", 1)).failed_in == "q"
    assert await client.redrive("q.dead") == Redriven(1, 0)
    lease = await client.receive("q")
    assert lease.origin.startswith("q/")
    await client.release(lease)
    [dead] = await client.peek("q.dead")
    assert (await client.redrive_message("q.dead", dead.id)).moved == 1
    [back] = await client.peek("q")
    await client.delete_message("q", back.id)
    with pytest.raises(errors.MessageNotFound):
        await client.delete_message("q", back.id)
    assert (await client.history("q"))["left_out"] == 0
    assert "admin" in (await client.whoami())["roles"]
    [refused] = await client.refusals(1)
    assert refused["problem"] == "message-not-found"
    await client.pause("q")
    assert (await client.describe("q"))["paused"]
    await client.resume("q")
    await client.configure("q", {})
    await client.put("r", b"x")
    await client.delete("r")
    with pytest.raises(errors.QueueNotFound):
        await client.delete("r")

    await client.save_snapshot("a.msgpack")
    assert [each["name"] for each in await client.snapshots()] == ["a.msgpack"]
    await client.load_snapshot("a.msgpack")
    with pytest.raises(errors.SnapshotNotFound):
        await client.load_snapshot("b.msgpack")
    await client.put("q", bytes(100_000))
    with pytest.raises(errors.MessageTooLarge):
        await client.put("q", bytes(300_000))
    await client.ready()
    await client.drain()
    client.retry  # noqa: B018 - it is there


async def every(iterable: Any) -> list[Any]:
    if not hasattr(iterable, "__aiter__"):
        return list(await iterable)
    return [each async for each in iterable]


def replace_body(lease: Lease) -> Lease:
    return msgspec.structs.replace(lease, body=b"")


@pytest.mark.parametrize("shell", SHELLS)
async def test_all_queues_are_gone_through_page_by_page(
    shell: str, zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (zapq.client.verbs, zapq.client.sync_verbs):
        monkeypatch.setattr(module, "MAX_BATCH", 2)
    for number in range(5):
        zapq_server.service.queue(f"q{number}")

    async def ask(client: Any) -> None:
        listed = await every(client.list_all(prefix="q"))
        assert [each["name"] for each in listed] == [f"q{number}" for number in range(5)]

    await with_client(shell, zapq_server.url, ask)


@pytest.mark.parametrize("shell", SHELLS)
async def test_a_server_that_is_not_there_is_unreachable(shell: str, tmp_path: Path) -> None:
    [port] = free_ports(1)

    async def ask(client: Any) -> None:
        with pytest.raises(errors.Unreachable, match=r"could not be reached"):
            await client.enqueue_many("emails", [b"hello"])

    for url in (f"http://127.0.0.1:{port}", f"unix:{tmp_path}/nothing", f"https://localhost:{port}/behind"):
        await with_client(shell, url, ask, attempts=2, random=lambda: 0.0)


async def test_a_timeout_of_asyncio_ends_a_consumer_and_releases_its_messages(zapq_server: ZapqServer) -> None:
    queue = zapq_server.service.queue("q")
    await queue.enqueue_many([b"x"] * 5)

    async def work(client: Any) -> None:
        async def handle(lease: HeldLease) -> None:
            if lease.id < 3:
                await asyncio.sleep(0.01)
                return
            await asyncio.sleep(60)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await client.consume_with("q", handle, concurrency=2, prefetch=1)

    await with_client("asyncio", zapq_server.url, work)
    stats = queue.info().stats
    assert (stats.acked, stats.ready, stats.leased, stats.leases_expired) == (2, 3, 0, 0)


@pytest.mark.parametrize("shell", ["trio", "asyncio"])
async def test_consumers_run_on_both_loops_and_release_what_is_left(shell: str, zapq_server: ZapqServer) -> None:
    queue = zapq_server.service.queue("q")
    await queue.enqueue_many([b"%d" % number for number in range(20)])
    seen: list[bytes] = []

    async def work(client: Any) -> None:
        async def handle(lease: HeldLease) -> None:
            if lease.body == b"19":
                group.cancel_scope.cancel()
                await anyio.sleep_forever()
            seen.append(lease.body)
            if lease.body == b"7" and lease.receive_count == 1:
                raise ZeroDivisionError

        async with anyio.create_task_group() as group:
            await client.consume_with("q", handle, concurrency=2)
        async with client.consume("q", concurrency=2) as leases, await anext(leases) as lease:
            seen.append(lease.body)

    await with_client(shell, zapq_server.url, work)
    stats = queue.info().stats
    assert sorted(seen) == sorted([b"%d" % number for number in range(20)] + [b"7"])
    assert (stats.acked, stats.messages) == (20, 0)
