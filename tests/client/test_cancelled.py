"""Cancelled wherever it waits, each verb leaves a server that is in order and a client that goes on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio

from tests.client.fault_proxy import FaultProxy, fault_proxy
from tests.client.shells import with_client
from tests.support.waiting import eventually
from zapq.client import HeldLease, Producer
from zapq.core.stats import QueueStats
from zapq.testing import ZapqServer

Step = Callable[[int], Awaitable[None]]


@pytest.fixture
async def proxy(zapq_server: ZapqServer) -> AsyncGenerator[FaultProxy, None]:
    async with fault_proxy(zapq_server.url) as proxy:
        yield proxy
        await eventually(lambda: not proxy.open, "every connection to be closed")


@pytest.fixture
def stats(zapq_server: ZapqServer) -> Callable[[], QueueStats]:
    queue = zapq_server.service.queue("q")
    return lambda: queue.info().stats


@pytest.fixture(params=["before", "while", "asyncio"])
def how(request: pytest.FixtureRequest) -> str:
    """Trio: cancelled before a task goes on, or while it waits. asyncio knows only the latter."""
    return str(request.param)


@pytest.fixture(params=[True, False], ids=["kept", "anew"])
def kept(request: pytest.FixtureRequest) -> bool:
    """Whether the connection is kept, or every request needs a new one."""
    return bool(request.param)


class TrioSteps(trio.abc.Instrument):
    """Cancels a scope at a step of those tasks that are below one."""

    def __init__(self, how: str, step: int, scope: trio.CancelScope) -> None:
        self.steps = 0
        self._step = step
        self._scope = scope
        self._main = trio.lowlevel.current_task()
        if how == "before":
            self.before_task_step = self._count  # type: ignore[method-assign]
        else:
            self.after_task_step = self._count  # type: ignore[method-assign]

    def _count(self, task: trio.lowlevel.Task) -> None:
        above: trio.lowlevel.Task | None = task
        while above is not self._main:
            if above is None or above.parent_nursery is None:
                return
            above = above.parent_nursery.parent_task
        self.steps += 1
        if self.steps == self._step:
            self._scope.cancel()


class Counted(Coroutine[Any, Any, Any]):
    """A coroutine that tells each time it waits."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits: Callable[[], None]) -> None:
        self._coroutine = coroutine
        self._waits = waits

    def send(self, value: Any) -> Any:
        result = self._coroutine.send(value)
        self._waits()
        return result

    def throw(self, *error: Any) -> Any:
        result = self._coroutine.throw(*error)
        self._waits()
        return result

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise AssertionError("a task runs it")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)


async def cancelled_on_trio(how: str, step: int, work: Callable[[], Awaitable[None]]) -> bool:
    """Cancel some work at one of its steps; return whether it has so many."""
    with trio.CancelScope() as scope:
        steps = TrioSteps(how, step, scope)
        trio.lowlevel.add_instrument(steps)
        try:
            await work()
        finally:
            trio.lowlevel.remove_instrument(steps)
    return steps.steps >= step


async def cancelled_on_asyncio(step: int, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
    loop = asyncio.get_running_loop()
    steps = 0

    def waits() -> None:
        nonlocal steps
        steps += 1
        if steps == step:
            loop.call_soon(task.cancel)

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(Counted(coroutine, waits), loop=loop, **options)

    loop.set_task_factory(factory)
    try:
        task = asyncio.create_task(work())
        await asyncio.wait([task])
    finally:
        loop.set_task_factory(None)
    if not task.cancelled():
        task.result()
    return steps >= step


async def everywhere(
    how: str, prepare: Step, work: Callable[[int], Coroutine[Any, Any, None]], check: Step
) -> int:
    """Do some work again and again, cancelled at one step after the other; return how many it has."""
    for step in range(1, 1000):
        await prepare(step)
        if how == "asyncio":
            as_long = await cancelled_on_asyncio(step, partial(work, step))
        else:
            as_long = await cancelled_on_trio(how, step, partial(work, step))
        await check(step)
        if not as_long:
            return step
    raise AssertionError("it does not end")


async def nothing(step: int) -> None:
    pass


def begin(client: Any, kept: bool) -> None:
    if not kept:
        client._talk._pool._close_idle()


async def run(how: str, proxy: FaultProxy, work: Callable[[Any], Awaitable[None]]) -> None:
    shell = "asyncio" if how == "asyncio" else "trio"
    await with_client(shell, proxy.url, work, random=lambda: 0.0)


@pytest.mark.parametrize("many", [False, True], ids=["put", "put_many"])
async def test_a_message_is_stored_once_when_it_is_sent_again(
    how: str, kept: bool, many: bool, proxy: FaultProxy, stats: Callable[[], QueueStats]
) -> None:
    async def work(client: Any) -> None:
        async def put(step: int) -> None:
            begin(client, kept)
            if many:
                await client.put_many("q", [b"x", b"y"], key=f"key-{step}")
            else:
                await client.put("q", b"x", key=f"key-{step}")

        async def check(step: int) -> None:
            # As a caller would that does not know.
            await put(step)
            assert stats().messages == step * (1 + many)

        assert await everywhere(how, nothing, put, check) >= (2 if kept else 3)

    await run(how, proxy, work)


async def test_a_message_that_is_received_is_held_or_still_there(
    how: str, kept: bool, proxy: FaultProxy, stats: Callable[[], QueueStats]
) -> None:
    async def work(client: Any) -> None:
        async def prepare(step: int) -> None:
            await client.put("q", b"x")

        async def receive(step: int) -> None:
            begin(client, kept)
            lease = await client.receive("q", wait=1)
            assert lease.body == b"x"

        async def check(step: int) -> None:
            assert (stats().messages, stats().ready + stats().leased) == (1, 1)
            assert await client.purge("q") == 1

        assert await everywhere(how, prepare, receive, check) >= (2 if kept else 3)

    await run(how, proxy, work)


async def test_a_message_is_acknowledged_once(
    how: str, kept: bool, proxy: FaultProxy, stats: Callable[[], QueueStats]
) -> None:
    async def work(client: Any) -> None:
        leases: dict[int, Any] = {}

        async def prepare(step: int) -> None:
            await client.put("q", b"x")
            leases[step] = await client.receive("q")

        async def ack(step: int) -> None:
            begin(client, kept)
            await client.ack(leases[step])

        async def check(step: int) -> None:
            await ack(step)
            assert (stats().acked, stats().messages) == (step, 0)

        assert await everywhere(how, prepare, ack, check) >= (2 if kept else 3)

    await run(how, proxy, work)


async def bodies(client: Any) -> Counter[bytes]:
    return Counter([each.body for each in await client.peek("q", limit=1000)])


async def test_a_producer_goes_on_when_one_that_sends_is_cancelled(
    how: str, kept: bool, proxy: FaultProxy, stats: Callable[[], QueueStats]
) -> None:
    async def work(client: Any) -> None:
        async with client.producer("q", linger=0.0) as producer:

            async def send(step: int) -> None:
                begin(client, kept)
                await producer.send(b"%d" % step)

            async def check(step: int) -> None:
                await producer.flush()
                assert set((await bodies(client)).values()) <= {1}

            await everywhere(how, nothing, send, check)
            assert await producer.send(b"last") == stats().enqueued
        assert producer.unsent == []

    await run(how, proxy, work)


async def test_a_producer_that_is_cancelled_knows_what_it_did_not_send(
    how: str, kept: bool, proxy: FaultProxy, stats: Callable[[], QueueStats]
) -> None:
    async def work(client: Any) -> None:
        given: list[bytes] = []
        producers: list[Producer] = []

        async def produce(step: int) -> None:
            begin(client, kept)
            given.clear()
            async with client.producer("q", linger=0.0, max_messages=2) as producer:
                producers.append(producer)
                for body in (b"1", b"2", b"3"):
                    try:
                        producer.send_nowait(body)
                    except BlockingIOError:
                        await producer.flush()
                        continue
                    given.append(body)

        async def check(step: int) -> None:
            stored = await bodies(client)
            assert set(stored.values()) <= {1}
            if producers:
                assert {*given} <= {*stored, *producers.pop().unsent}
            await client.purge("q")

        await client.put("q", b"0")
        await client.purge("q")
        assert await everywhere(how, nothing, produce, check) >= (2 if kept else 3)

    await run(how, proxy, work)


async def test_a_consumer_loses_nothing(how: str, proxy: FaultProxy, stats: Callable[[], QueueStats]) -> None:
    async def work(client: Any) -> None:
        before = 0
        await client.put("q", b"0")
        await client.purge("q")

        async def prepare(step: int) -> None:
            nonlocal before
            before = stats().acked
            await client.put_many("q", [b"1", b"2", b"3"])

        async def consume(step: int) -> None:
            left = 3

            async def handle(lease: HeldLease) -> None:
                nonlocal left
                await anyio.lowlevel.checkpoint()
                if lease.body == b"2" and lease.receive_count == 1:
                    raise ZeroDivisionError
                left -= 1
                if not left:
                    group.cancel_scope.cancel()

            async with anyio.create_task_group() as group:
                await client.consume_with("q", handle, concurrency=2, prefetch=1)

        async def check(step: int) -> None:
            # What it said at the end may still be on its way.
            purged = await client.purge("q")
            assert stats().acked - before + purged == 3

        assert await everywhere(how, prepare, consume, check) > 10

    await run(how, proxy, work)
