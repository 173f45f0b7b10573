"""taskiq over zapq: tasks are sent with their terms, run, tried again, and given to another worker."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.process import ENVIRON
from tests.support.waiting import eventually
from zapq.errors import InvalidParameter
from zapq.testing import ZapqServer

pytest.importorskip("taskiq")
from taskiq import AsyncTaskiqDecoratedTask, InMemoryBroker, SimpleRetryMiddleware, SmartRetryMiddleware
from taskiq.exceptions import SendTaskError
from taskiq.receiver import Receiver
from taskiq.result_backends.dummy import DummyResultBackend

from zapq.contrib.taskiq import ZapqBroker

ROOT = Path(__file__).parents[2]
ANSWER_SECONDS = 30.0
Counted = Coroutine[Any, Any, tuple[int, int]]


async def on_asyncio(work: Callable[[], Awaitable[None]]) -> None:
    """Do `work` on asyncio, in a thread; the server is in this one."""

    async def leaving_no_task() -> None:
        await work()
        assert len(asyncio.all_tasks()) == 1

    await trio.to_thread.run_sync(lambda: asyncio.run(leaving_no_task()))


@asynccontextmanager
async def working(broker: ZapqBroker) -> AsyncGenerator[None, None]:
    """Have a worker run for the length of the block, as `taskiq worker` has one."""
    broker.is_worker_process = True
    # Results stay here: the worker is in this process.
    broker.with_result_backend(InMemoryBroker().result_backend)
    stop = asyncio.Event()
    receiver = Receiver(broker, max_async_tasks=10, wait_tasks_timeout=ANSWER_SECONDS)
    listening = asyncio.create_task(receiver.listen(stop))
    try:
        while broker._leases is None:
            await asyncio.sleep(0.005)
        yield
    finally:
        stop.set()
        await listening  # noqa: ASYNC102 - it is told to end
        await broker.shutdown()  # noqa: ASYNC102 - the same


def counting(broker: ZapqBroker, fails: int, **labels: object) -> AsyncTaskiqDecoratedTask[[int], Counted]:
    """Return a task that fails `fails` times before it returns twice its argument and the number of attempts."""
    attempts = []

    @broker.task(task_name="count", **labels)
    async def count(number: int) -> tuple[int, int]:
        attempts.append(number)
        if len(attempts) <= fails:
            raise ConnectionError(f"attempt {len(attempts)}")
        return 2 * number, len(attempts)

    return count


async def test_a_task_is_run_and_acknowledged(zapq_server: ZapqServer) -> None:
    async def work() -> None:
        broker = ZapqBroker(zapq_server.url)
        task = counting(broker, 0)
        async with working(broker):
            sent = await task.kiq(21)
            result = await sent.wait_result(timeout=ANSWER_SECONDS)
            assert result.return_value == (42, 1)

    await on_asyncio(work)
    stats = zapq_server.service.queue("taskiq").info().stats
    assert (stats.acked, stats.messages) == (1, 0)


@pytest.mark.parametrize("middleware", [SimpleRetryMiddleware(), SmartRetryMiddleware(default_delay=0.01)])
async def test_a_task_that_fails_is_tried_again_also_if_it_is_unique(
    middleware: SimpleRetryMiddleware, zapq_server: ZapqServer
) -> None:
    async def work() -> None:
        broker = ZapqBroker(zapq_server.url)
        broker.add_middlewares(middleware)
        task = counting(broker, 2, retry_on_error=True, unique="only", group="one")
        async with working(broker):
            sent = await task.kiq(21)
            result = await sent.wait_result(timeout=ANSWER_SECONDS)
            assert result.return_value == (42, 3)

    await on_asyncio(work)
    assert zapq_server.service.queue("taskiq").info().stats.acked == 3


async def test_its_labels_are_the_terms_of_a_message(zapq_server: ZapqServer) -> None:
    async def work() -> None:
        broker = ZapqBroker(zapq_server.url, "jobs")
        task = counting(broker, 0, priority=3)
        await broker.startup()
        await task.kiq(1)
        await task.kicker().with_labels(delay=60, ttl=90, unique=7).kiq(2)
        await task.kicker().with_labels(unique=7).kiq(3)
        await task.kicker().with_labels(priority=0, group="g").kiq(4)
        with pytest.raises(SendTaskError) as caught:
            await task.kicker().with_labels(priority=10).kiq(5)
        assert isinstance(caught.value.__cause__, InvalidParameter)
        await broker.shutdown()

    await on_asyncio(work)
    queue = zapq_server.service.queue("jobs")
    ready, [delayed] = await queue.peek(), await queue.peek("delayed")
    assert [(seen.message.priority, seen.message.group) for seen in ready] == [(3, ""), (0, "g")]
    assert (delayed.message.priority, delayed.message.properties.unique) == (3, "7")
    assert delayed.message.properties.expires < float("inf")


async def test_tasks_not_run_when_a_worker_ends_are_released(zapq_server: ZapqServer) -> None:
    async def work() -> None:
        broker = ZapqBroker(zapq_server.url)
        broker.is_worker_process = True
        await broker.startup()
        await counting(broker, 0).kiq(1)
        async for _ in broker.listen():
            break
        assert zapq_server.service.queue("taskiq").info().stats.leased == 1
        await broker.shutdown()

    await on_asyncio(work)
    assert zapq_server.service.queue("taskiq").info().stats.ready == 1


async def test_a_task_whose_lease_is_lost_is_not_acknowledged(
    zapq_server: ZapqServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        broker = ZapqBroker(zapq_server.url)
        task = counting(broker, 0)

        async with working(broker):
            broker.with_result_backend(Deleting())
            await task.kiq(21)
            while "may be given to another worker" not in caplog.text:
                await asyncio.sleep(0.005)

    token = trio.lowlevel.current_trio_token()
    delete = partial(trio.from_thread.run, zapq_server.service.delete, "taskiq", trio_token=token)

    class Deleting(DummyResultBackend[object]):
        async def set_result(self, task_id: str, result: object) -> None:
            await asyncio.to_thread(delete)

    await on_asyncio(work)


async def test_a_broker_that_is_not_open_says_so() -> None:
    async def work() -> None:
        broker = ZapqBroker("nonsense")
        with pytest.raises(SendTaskError) as caught:
            await counting(broker, 0).kiq(1)
        assert "broker.startup()" in str(caught.value.__cause__)
        with pytest.raises(RuntimeError, match="Only workers listen"):
            await anext(broker.listen())
        with pytest.raises(ValueError, match="nonsense"):
            await broker.startup()

    await on_asyncio(work)


@pytest.mark.slow
@pytest.mark.once
async def test_a_task_whose_worker_is_killed_is_given_to_another(zapq_server: ZapqServer, tmp_path: Path) -> None:
    environ = {"PYTHONPATH": str(ROOT), "PROJECT_URL": zapq_server.url}
    arguments = ["worker", "tests.contrib.taskiq_app:broker", "--workers", "1", "--shutdown-timeout", "1"]
    command = [sys.executable, "-m", "taskiq", *arguments]

    async def send() -> None:
        broker = ZapqBroker(zapq_server.url, "jobs")
        await broker.startup()
        task = broker.register_task(lambda place, seconds: None, "tests.contrib.taskiq_app:hang")
        await task.kiq(str(tmp_path), 60.0)
        await broker.shutdown()

    def attempts() -> list[str]:
        file = tmp_path / "attempts"
        return file.read_text().split() if file.exists() else []

    await trio.to_thread.run_sync(lambda: asyncio.run(send()))
    process = await trio.lowlevel.open_process(
        command, env=ENVIRON | environ, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        await eventually(attempts, "the task to run")
        # taskiq starts another worker in its place.
        os.kill(int(attempts()[0]), signal.SIGKILL)
        queue = zapq_server.service.queue("jobs")
        await eventually(lambda: queue.info().stats.acked == 1, "the task to be done")
        assert len(set(attempts())) == 2
        process.send_signal(signal.SIGTERM)
        await process.wait()
    finally:
        process.kill()
        await process.wait()  # noqa: ASYNC102 - it was killed
