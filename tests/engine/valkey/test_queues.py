"""Queues of an engine in an embedding program: the same verbs, in this process or in Valkey."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

import zapq
from tests.engine.valkey.servers import Server
from tests.engine.valkey.serving import empty, engine_url
from tests.support.serving import serving
from tests.support.waiting import eventually
from tests.support.wire import ask
from zapq.core.queue_settings import QueueSettings
from zapq.engine.queues import EngineQueue, Queues
from zapq.errors import (
    Draining,
    InvalidParameter,
    InvalidSetting,
    KeyReused,
    QueueFull,
    QueueNotFound,
    ReceiptExpired,
)
from zapq.service.named_queue import NamedQueue
from zapq.service.operations import Offer, Settlement, terms
from zapq.settings import Settings


@pytest.fixture
def elsewhere(valkey: Server) -> Settings:
    empty(valkey)
    return Settings(addr="127.0.0.1:0", engine=engine_url(valkey))


@pytest.fixture(params=["here", "elsewhere"])
def settings(request: pytest.FixtureRequest, zapq_settings: Settings) -> Settings:
    if request.param == "here":
        return zapq_settings
    settings: Settings = request.getfixturevalue("elsewhere")
    return settings


@pytest.fixture
async def queues(settings: Settings) -> AsyncGenerator[Queues, None]:
    async with zapq.open_queues(settings) as queues:
        yield queues


@pytest.fixture
def jobs(queues: Queues) -> EngineQueue:
    return queues.queue("jobs")


def test_it_has_the_verbs_of_a_queue_in_this_process_with_the_same_parameters() -> None:
    for name, verb in inspect.getmembers(NamedQueue, inspect.isfunction):
        if name.startswith("_") or name.endswith("_nowait"):
            continue
        if name in {"return_undelivered", "why_empty", "next_visible_in"}:
            continue  # of what is at hand
        theirs = getattr(EngineQueue, name)
        mine = inspect.signature(verb).parameters
        assert inspect.signature(theirs).parameters.keys() == mine.keys(), name


async def test_messages_come_and_go(jobs: EngineQueue) -> None:
    first = await jobs.enqueue(b"a", content_type="text/plain")
    urgent = await jobs.enqueue(b"b", priority=5, ttl=60)
    assert (first.body, first.content_type, urgent.priority) == (b"a", "text/plain", 5)
    assert await jobs.enqueue_many([b"c", zapq.Draft(body=b"d", content_type="text/csv")]) == urgent.id + 1
    lease = await jobs.receive(visibility=60)
    assert lease is not None
    assert (lease.id, lease.body, lease.receive_count) == (urgent.id, b"b", 1)
    assert (await jobs.extend(lease.receipt, visibility=100)).deadline > lease.deadline + 30
    await jobs.ack(lease.receipt)
    taken = await jobs.dequeue()
    assert taken is not None
    assert (taken.id, taken.body) == (first.id, b"a")
    many = await jobs.receive_many(10)
    assert [each.body for each in many] == [b"c", b"d"]
    settled = await jobs.settle([
        Settlement(receipt=many[0].receipt),
        Settlement(receipt=many[1].receipt, action="release"),
        Settlement(receipt=many[1].receipt),
    ])
    assert settled[:2] == [None, None]
    assert isinstance(settled[2], ReceiptExpired)
    assert [each.body for each in await jobs.dequeue_many(10)] == [b"d"]
    assert await jobs.dequeue() is None


async def test_headers_come_with_the_message(jobs: EngineQueue) -> None:
    for ttl in (None, 60):
        await jobs.enqueue(b"a", headers={"trace": "7"}, ttl=ttl)
        lease = await jobs.receive()
        assert lease is not None
        assert dict(lease.message.properties.headers) == {"trace": "7"}


async def test_offers_with_keys(jobs: EngineQueue) -> None:
    first = await jobs.put(Offer(b"a", key="k"))
    again = await jobs.put(Offer(b"a", key="k"))
    assert (again.id, again.replayed) == (first.id, True)
    with pytest.raises(KeyReused):
        await jobs.put(Offer(b"b", key="k"))
    await jobs.put(Offer([b"c", b"d"], terms(ttl=60)))
    assert (await jobs.info()).stats.messages == 3


async def test_looking_on_and_administering(queues: Queues, jobs: EngineQueue) -> None:
    assert await queues.configure("jobs", QueueSettings(visibility=7.0)) is True
    assert await queues.configure("jobs", QueueSettings(visibility=8.0)) is False
    await queues.change_settings("jobs", visibility=9.0)
    message = await jobs.enqueue(b"a")
    assert [each.id for each in await jobs.peek()] == [message.id]
    found = await jobs.find(message.id)
    assert found is not None
    assert await jobs.find(message.id + 1) is None
    await jobs.pause()
    assert await jobs.receive() is None
    await jobs.resume()
    info = await jobs.info()
    assert (info.settings.visibility, info.stats.messages) == (9.0, 1)
    assert [each.name for each in await queues.infos("j*")] == ["jobs"]
    assert (await queues.stats()).queue.messages == 1
    assert await jobs.clear() == 1
    assert (await jobs.redrive()).moved == 0
    await queues.delete("jobs")
    with pytest.raises(QueueNotFound):
        await jobs.receive()
    with pytest.raises(InvalidParameter):
        queues.queue("no name")
    with pytest.raises(InvalidParameter):
        await jobs.receive(wait=61)


async def test_a_consumer_waits_for_a_message(jobs: EngineQueue) -> None:
    got: list[bytes] = []

    async def consume() -> None:
        async with jobs.lease() as message:
            got.append(message.body)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        await jobs.enqueue(b"a")
    assert got == [b"a"]
    assert (await jobs.info()).stats.acked == 1


async def test_a_block_that_raises_gives_its_message_back(jobs: EngineQueue) -> None:
    await jobs.enqueue(b"a")
    with pytest.raises(ZeroDivisionError):
        async with jobs.lease():
            raise ZeroDivisionError
    with trio.CancelScope() as scope:
        async with jobs.lease():
            scope.cancel()
            await trio.sleep_forever()
    lease = await jobs.receive()
    assert lease is not None
    assert lease.receive_count == 3


async def test_a_cancelled_consumer_loses_no_message(jobs: EngineQueue) -> None:
    with trio.move_on_after(0.05):
        await jobs.dequeue(wait=60)
    await jobs.enqueue(b"a")
    for _ in range(20):
        with trio.CancelScope() as scope:
            scope.cancel()
            await jobs.dequeue()
    for seconds in (0.0, 0.0002, 0.0005, 0.001):
        taken = None
        with trio.move_on_after(seconds):
            taken = await jobs.dequeue()
        if taken is not None:
            await jobs.enqueue(taken.body)

    async def is_there() -> bool:
        return (await jobs.info()).stats.ready == 1

    await eventually(is_there, "the message to be at its place")


async def test_what_goes_back_when_the_whole_block_is_cancelled_is_not_lost(elsewhere: Settings) -> None:
    async with serving(elsewhere) as url:
        assert (await ask(url, "POST", "/queues/jobs/messages", b"m")).status == 202
        for _ in range(5):
            taken: list[zapq.Message | None] = []

            async def take(queue: EngineQueue, taken: list[zapq.Message | None] = taken) -> None:
                taken.append(await queue.dequeue())

            with trio.CancelScope() as scope:
                async with zapq.open_queues(elsewhere) as queues, trio.open_nursery() as nursery:
                    nursery.start_soon(take, queues.queue("jobs"))
                    # Then it has been asked for, and most often not been answered.
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
            if not taken:
                left = await ask(url, "POST", "/queues/jobs/receive?ack=auto")
                assert left.body == b"m"
            assert (await ask(url, "POST", "/queues/jobs/messages", b"m")).status == 202


async def test_a_full_queue_lets_producers_wait(queues: Queues, jobs: EngineQueue) -> None:
    await queues.configure("jobs", QueueSettings(max_messages=1))
    await jobs.enqueue(b"a")
    with pytest.raises(QueueFull):
        await jobs.enqueue(b"b")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(jobs.put, Offer(b"c", terms(wait=20)))
        assert await jobs.dequeue(wait=20) is not None
    last = await jobs.dequeue()
    assert last is not None
    assert last.body == b"c"


async def test_draining_ends_waits_and_refuses(queues: Queues, jobs: EngineQueue) -> None:
    await jobs.enqueue(b"a")
    await jobs.dequeue()
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(Draining):
                await jobs.dequeue(wait=60)

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        queues.drain()
    with pytest.raises(Draining):
        await jobs.enqueue(b"b")


async def test_servers_and_programs_have_the_queues_in_common(elsewhere: Settings) -> None:
    async with serving(elsewhere) as url, zapq.open_queues(elsewhere) as queues:
        await queues.queue("jobs").enqueue(b"from a program")
        assert (await ask(url, "POST", "/queues/jobs/receive?ack=auto")).body == b"from a program"
        await ask(url, "POST", "/queues/jobs/messages", b"from a client")
        message = await queues.queue("jobs").dequeue(wait=20)
        assert message is not None
        assert message.body == b"from a client"


async def test_the_program_of_many_machines_runs(elsewhere: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[3] / "docs/how-to/many-machines.md").read_text()
    [program] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {"zapq": zapq}
    here = program.replace("valkey://127.0.0.1:6379", elsewhere.engine)
    exec("async def main():\n" + "".join(f"    {line}\n" for line in here.splitlines()), names)
    await names["main"]()
    assert capsys.readouterr().out == "b'invoice 7'\n"


async def test_declared_queues_are_made(settings: Settings) -> None:
    settings = replace(settings, queues={"declared": QueueSettings(visibility=5.0)})
    async with zapq.open_queues(settings) as queues:
        assert (await queues.queue("declared").info()).settings.visibility == 5


async def test_a_service_is_in_this_process(zapq_settings: Settings) -> None:
    with pytest.raises(InvalidSetting, match="open_queues"):
        async with zapq.open_service(Settings(engine="valkey://127.0.0.1:1")):
            pass
