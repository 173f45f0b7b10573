"""Django's tasks over zapq: sent, run, tried again, given up, and given to another worker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import trio
from trio.testing import MockClock

from tests.support.process import ENVIRON
from tests.support.waiting import eventually
from zapq.testing import ZapqServer

django = pytest.importorskip("django")
if django.VERSION < (6, 0):
    pytest.importorskip("django_tasks")
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.contrib.project.settings"
django.setup()

from django.core.cache import caches  # noqa: E402
from django.core.checks import run_checks  # noqa: E402
from django.core.exceptions import ImproperlyConfigured  # noqa: E402
from django.core.management import CommandError, call_command  # noqa: E402
from django.db import transaction  # noqa: E402
from django.test import override_settings  # noqa: E402

from tests.contrib.project import settings, tasks  # noqa: E402
from zapq.client import Client  # noqa: E402
from zapq.contrib.django.apps import framework_is_there  # noqa: E402
from zapq.contrib.django.backend import ZapqBackend, _client  # noqa: E402
from zapq.contrib.django.framework import (  # noqa: E402
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_backends,
)
from zapq.contrib.django.management.commands import zapq_worker  # noqa: E402
from zapq.contrib.django.message import priority_of  # noqa: E402
from zapq.contrib.django.worker import Worker  # noqa: E402
from zapq.core.queue_settings import QueueSettings  # noqa: E402
from zapq.core.settlement import Settlement  # noqa: E402
from zapq.errors import Forbidden, Unauthenticated, Unreachable  # noqa: E402

DUMMY = f"{'django.tasks' if django.VERSION >= (6, 0) else 'django_tasks'}.backends.dummy.DummyBackend"
ROOT = Path(__file__).parents[2]
SETTINGS = "tests.contrib.project.settings"


@contextmanager
def project(server: ZapqServer, **options: object) -> Iterator[ZapqBackend]:
    """Have the project's tasks go to a server."""
    with override_settings(TASKS=settings.tasks(server.url, **options)):
        yield task_backends["default"]


@asynccontextmanager
async def working(backend: ZapqBackend, *queues: str, **options: Any) -> AsyncGenerator[Worker, None]:
    """Have a worker run for the length of the block."""
    async with trio.open_nursery() as nursery:
        worker = Worker(backend, queues or ("default",), **options)
        nursery.start_soon(worker.run)
        yield worker
        worker.stop()


@asynccontextmanager
async def process(server: ZapqServer, *arguments: str) -> AsyncGenerator[trio.Process, None]:
    """Have `manage.py zapq_worker` run for the length of the block."""
    command = [sys.executable, "-m", "django", "zapq_worker", "--settings", SETTINGS, *arguments]
    environ = {"PYTHONPATH": str(ROOT), "PROJECT_URL": server.url, "PROJECT_PLACE": str(settings.PLACE)}
    process = await trio.lowlevel.open_process(command, stdout=subprocess.DEVNULL, env=ENVIRON | environ, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        await process.wait()  # noqa: ASYNC102 - it was killed


async def enqueue(task: Any, *args: Any, **kwargs: Any) -> TaskResult:
    # The server is in this thread.
    result: TaskResult = await trio.to_thread.run_sync(lambda: task.enqueue(*args, **kwargs))
    return result


def found(result: TaskResult) -> TaskResult:
    result.refresh()
    return result


def acked(server: ZapqServer) -> int:
    return server.service.queue("default").info().stats.acked


async def until_finished(result: TaskResult) -> TaskResult:
    await eventually(lambda: found(result).is_finished, "the task to be finished")
    return result


async def test_a_task_is_run_and_its_result_found(zapq_server: ZapqServer) -> None:
    with project(zapq_server) as backend:
        async with working(backend):
            result = await enqueue(tasks.add, 2, second=3)
            assert result.status == TaskResultStatus.READY
            await until_finished(result)
            assert (result.return_value, result.attempts, result.errors) == (5, 1, [])
            assert result.enqueued_at <= result.started_at <= result.finished_at
            assert tasks.add.get_result(result.id).return_value == 5
        await eventually(lambda: acked(zapq_server) == 1, "its ack")


async def test_a_task_whose_results_cannot_be_kept_is_run_once(
    zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*args: object) -> None:
        raise ConnectionError("no cache")

    with project(zapq_server) as backend:
        result = await enqueue(tasks.fail_until, 2)
        monkeypatch.setattr(backend.results, "keep", fails)
        monkeypatch.setattr(backend.results, "find", fails)
        async with working(backend):
            await eventually(lambda: acked(zapq_server) == 1, "its ack")
    said = {line.getMessage() for line in caplog.records if line.levelname == "ERROR"}
    assert said == {
        f"the result of task {result.id} was not written to the cache of results",
        f"what is known of task {result.id} was not read from the cache of results",
    }


async def test_a_coroutine_is_sent_from_one_and_run(zapq_server: ZapqServer) -> None:
    with project(zapq_server) as backend:
        async with working(backend, "emails"):
            # Django's own is asyncio.
            sent = await trio.to_thread.run_sync(lambda: asyncio.run(tasks.say.aenqueue("hello")))
            assert (await until_finished(sent)).return_value == "HELLO"


async def test_its_terms_go_with_a_task(zapq_server: ZapqServer) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    with project(zapq_server, prefix="site."):
        await enqueue(tasks.say, "ready")
        await enqueue(tasks.say.using(run_after=soon, priority=-100), "later")
    [ready] = await zapq_server.service.queue("site.emails").peek("ready")
    [later] = await zapq_server.service.queue("site.emails").peek("delayed")
    assert (ready.message.priority, later.message.priority) == (8, 0)
    assert ready.message.content_type == "application/json"
    body = json.loads(ready.message.body)
    assert (body["task"], body["args"]) == ("tests.contrib.project.tasks.say", ["ready"])


def test_priorities_keep_their_order_and_are_finest_around_zero() -> None:
    ours = [priority_of(each) for each in range(-100, 101)]
    assert ours == sorted(ours)
    assert set(ours) == set(range(10))
    assert [priority_of(each) for each in (-100, -1, 0, 1, 100)] == [0, 3, 4, 5, 9]


async def test_a_task_that_fails_is_tried_again_and_knows_its_attempt(zapq_server: ZapqServer) -> None:
    for results in ("default", None):
        with project(zapq_server, results=results) as backend:
            async with working(backend):
                result = await enqueue(tasks.fail_until, 3)
                if results:
                    await until_finished(result)
                    assert result.return_value == [3, result.id]
                    assert [error.exception_class for error in result.errors] == [ConnectionError] * 2
                    assert "attempt 2" in result.errors[1].traceback
                else:
                    await eventually(lambda: acked(zapq_server) == 2, "the task to be done")
                    with pytest.raises(NotImplementedError):
                        result.refresh()


async def test_a_task_that_fails_each_time_has_failed(
    zapq_server: ZapqServer, caplog: pytest.LogCaptureFixture
) -> None:
    with project(zapq_server, attempts=2) as backend:
        async with working(backend):
            failed = await until_finished(await enqueue(tasks.fail, "no"))
            left = await until_finished(await enqueue(tasks.leave))
        assert (failed.status, failed.attempts) == (TaskResultStatus.FAILED, 2)
        assert failed.errors[-1].exception_class is ValueError
        assert left.errors[-1].exception_class is SystemExit
        assert not zapq_server.service.queue("default").info().stats.messages
    assert [record.levelname for record in caplog.records if record.name == "django.tasks"].count("ERROR") == (
        2 if django.VERSION >= (6, 0) else 0
    )


async def test_a_task_that_fails_as_often_as_its_queue_allows_is_a_dead_letter(zapq_server: ZapqServer) -> None:
    await zapq_server.service.configure("default", QueueSettings(max_receives=2, dead_letter="dead"))
    with project(zapq_server) as backend:
        async with working(backend):
            result = await until_finished(await enqueue(tasks.fail, "no"))
            assert (result.status, result.attempts) == (TaskResultStatus.FAILED, 2)
            dead = zapq_server.service.queue("dead")
            await eventually(lambda: dead.info().stats.ready == 1, "the dead letter")
            await dead.redrive()
            await eventually(lambda: found(result).attempts == 4, "it to be tried twice more")
            await until_finished(result)
            await eventually(lambda: dead.info().stats.ready == 1, "it to be a dead letter again")


async def test_a_task_that_kills_its_workers_has_failed(zapq_server: ZapqServer) -> None:
    with project(zapq_server, attempts=1) as backend:
        result = await enqueue(tasks.add, 1)
        # As a worker leaves it that dies.
        queue = zapq_server.service.queue("default")
        lease = queue.receive_nowait()
        assert lease is not None
        queue.settle_nowait(Settlement(receipt=lease.receipt, action="release"))
        async with working(backend):
            await until_finished(result)
        assert (result.status, result.worker_ids[0]) == (TaskResultStatus.FAILED, "unknown")
        assert result.errors[0].exception_class.__name__ == "WorkerLost"


@pytest.mark.parametrize(
    "change", [{"task": "os.getcwd"}, {"task": "no.such"}, {"args": 3}, {"enqueued_at": None}]
)
async def test_a_message_that_is_no_task_comes_again(
    change: dict[str, object], zapq_server: ZapqServer, caplog: pytest.LogCaptureFixture
) -> None:
    queue = zapq_server.service.queue("default")
    said = {"id": "x", "task": "tests.contrib.project.tasks.add", "args": [], "kwargs": {}, "priority": 0}
    said |= {"enqueued_at": "2026-01-01T00:00:00+00:00"}
    await queue.enqueue(json.dumps(said | change).encode())
    with project(zapq_server, backoff=60.0) as backend:
        async with working(backend):
            await eventually(lambda: queue.info().stats.delayed == 1, "the message to be given back")
    assert "cannot run message 1 of default" in caplog.text


async def test_the_task_of_a_lease_that_is_lost_goes_on_and_counts_for_nothing(
    zapq_server: ZapqServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with project(zapq_server, results=None) as backend:
        async with working(backend, "emails", visibility=0.5):
            await enqueue(tasks.hang.using(queue_name="emails"), str(tmp_path))
            await eventually((tmp_path / "attempts").exists, "the task to run")
            await zapq_server.service.delete("emails")
            await eventually(lambda: "message 1 of emails is lost" in caplog.text, "the lease to be lost")
            assert "its lease is over" not in caplog.text
            (tmp_path / "end").touch()
            await eventually(lambda: "its lease is over" in caplog.text, "the task to end")
    assert zapq_server.service.stats().queues == 1


async def test_a_worker_that_is_stopped_twice_gives_up_what_runs(zapq_server: ZapqServer, tmp_path: Path) -> None:
    queue = zapq_server.service.queue("default")
    with project(zapq_server, results=None) as backend:
        async with working(backend) as worker:
            await enqueue(tasks.hang, str(tmp_path))
            await eventually((tmp_path / "attempts").exists, "the task to run")
            worker.stop()
        assert worker.running == 1
        assert queue.info().stats.ready == 1
        (tmp_path / "end").touch()
        await eventually(lambda: not worker.running, "the thread to end")


async def test_a_worker_goes_on_with_its_own_number_of_attempts_if_it_may_not_see_the_settings(
    zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def describe(self: Client, queue: str) -> dict[str, Any]:
        raise Forbidden(queue=queue)

    monkeypatch.setattr(Client, "describe", describe)
    with project(zapq_server, attempts=1) as backend:
        async with working(backend):
            await until_finished(await enqueue(tasks.fail, "no"))
    assert "cannot look at the settings of default" in caplog.text


async def test_a_task_runs_within_the_trace_that_sent_it(
    zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    monkeypatch.setattr(sys.modules["opentelemetry.trace"], "_TRACER_PROVIDER", sdk.TracerProvider())
    _client.cache_clear()
    tracer = sdk.TracerProvider().get_tracer("of the application")
    with project(zapq_server) as backend, tracer.start_as_current_span("request") as span:
        async with working(backend):
            result = await until_finished(await enqueue(tasks.trace_id))
    assert result.return_value == span.get_span_context().trace_id
    _client.cache_clear()


async def test_connections_to_the_database_are_closed_around_a_task(zapq_server: ZapqServer) -> None:
    with project(zapq_server) as backend:
        async with working(backend, concurrency=1):
            await until_finished(await enqueue(tasks.fail_until, 1))
            assert not (await until_finished(await enqueue(tasks.connections))).return_value


async def test_a_task_is_sent_when_its_transaction_is_committed(zapq_server: ZapqServer) -> None:
    queue = zapq_server.service.queue("default")

    def work() -> None:
        with transaction.atomic():
            transaction.on_commit(partial(tasks.add.enqueue, 1))
            assert not queue.info().stats.messages
        with transaction.atomic():
            transaction.on_commit(partial(tasks.add.enqueue, 2))
            transaction.set_rollback(True)
        transaction.get_connection().close()

    with project(zapq_server):
        await trio.to_thread.run_sync(work)
    [only] = await queue.peek()
    assert json.loads(only.message.body)["args"] == [1]


def test_enqueuing_raises_if_there_is_no_server() -> None:
    with pytest.raises(Unreachable), override_settings(TASKS=settings.tasks("unix:/nowhere", attempts=1)):
        tasks.add.enqueue(1)


def test_options_and_names_that_are_wrong_are_said_so() -> None:
    with pytest.raises(ImproperlyConfigured, match="the zapq backend has no option colour"):
        ZapqBackend("default", {"OPTIONS": {"colour": "red"}})
    [error] = ZapqBackend("default", {"QUEUES": ["good", "not good"]}).check()
    assert error.id == "zapq.E001"
    [error] = ZapqBackend("default", {"OPTIONS": {"attempts": 0}}).check()
    assert (error.id, error.msg) == ("zapq.E004", "TASKS['default']: attempts must be a whole number, 1 or more.")


LOCAL = {"local": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}, **settings.CACHES}


@pytest.mark.parametrize(("cache", "said"), [("local", ["zapq.W001"]), ("gone", ["zapq.E002"]), ("default", [])])
def test_a_cache_that_workers_and_views_do_not_share_is_said_so_by_checks(cache: str, said: list[str]) -> None:
    with override_settings(CACHES=LOCAL, TASKS=settings.tasks("unix:/nowhere", results=cache)):
        assert [each.id for each in run_checks() if each.id.startswith("zapq")] == said


def test_without_a_framework_of_tasks_checks_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("django.tasks", "django_tasks"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "zapq.contrib.django.framework")
    monkeypatch.delattr("zapq.contrib.django.framework")
    [error] = framework_is_there()
    assert (error.id, "pip install django-tasks" in error.msg) == ("zapq.E003", True)
    # Django runs its checks once the command is there: that alone must not need the framework.
    command = "zapq.contrib.django.management.commands.zapq_worker"
    for name in (command, "zapq.contrib.django.worker", "zapq.contrib.django.backend"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, command, import_module(command))


def test_a_result_that_is_not_there_is_said_so() -> None:
    with override_settings(TASKS=settings.tasks("unix:/nowhere")):
        backend = task_backends["default"]
        with pytest.raises(TaskResultDoesNotExist):
            backend.get_result("nothing")
        result = backend._made(tasks.add, [], {})
        backend.results.keep(result)
        assert backend.get_result(result.id).status == TaskResultStatus.READY
        caches["default"].set(f"zapq.task.{result.id}", {"task": "tests.contrib.project.tasks.gone"})
        with pytest.raises(TaskResultDoesNotExist):
            backend.get_result(result.id)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"backend": "other"}, "is no backend of zapq"),
        ({"backend": "misspelt"}, "TASKS has no 'misspelt'. It has: default, other."),
        ({"queue": ["letters"]}, "has no queue letters"),
        ({"concurrency": 0}, "must be more than 0"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(options: dict[str, Any], complaint: str) -> None:
    dummy = {"other": {"BACKEND": DUMMY}}
    refusal = pytest.raises(CommandError, match=complaint)
    with override_settings(TASKS=settings.tasks("unix:/nowhere") | dummy), refusal:
        call_command("zapq_worker", **options)


@pytest.mark.slow
@pytest.mark.once
async def test_a_task_whose_worker_dies_is_given_to_another(zapq_server: ZapqServer, tmp_path: Path) -> None:
    with project(zapq_server) as backend:
        result = await enqueue(tasks.hang, str(tmp_path))
        attempts = tmp_path / "attempts"
        async with process(zapq_server, "--visibility", "5") as worker:
            await eventually(attempts.exists, "the task to run")
            worker.kill()
            await worker.wait()
        async with working(backend):
            await until_finished(result)
    assert (result.return_value, result.attempts) == (2, 2)
    assert attempts.read_text().split()[0] == str(worker.pid)


def test_the_command_says_what_a_server_refuses_and_ends_with_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(self: Worker) -> None:
        raise ExceptionGroup("of two queues", [Unauthenticated(), Unauthenticated()])

    async def stopped(self: Worker) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await self._stopping.wait()

    with override_settings(TASKS=settings.tasks("unix:/nowhere")):
        monkeypatch.setattr(Worker, "run", refused)
        with pytest.raises(CommandError, match="credential"):
            call_command("zapq_worker")
        monkeypatch.setattr(Worker, "run", stopped)
        call_command("zapq_worker", queue=["emails"])


async def test_two_signals_at_once_stop_a_worker_once(autojump_clock: MockClock) -> None:
    stops = list[float]()

    async def signals() -> AsyncIterator[signal.Signals]:
        for pause in (0, 0.05, 0.2):
            await trio.sleep(pause)
            yield signal.SIGTERM

    await zapq_worker._watch(signals(), Mock(stop=lambda: stops.append(trio.current_time())))
    assert stops == pytest.approx([0.0, 0.25])


@pytest.mark.slow
async def test_sigterm_ends_a_worker_when_its_tasks_have_ended(zapq_server: ZapqServer, tmp_path: Path) -> None:
    with project(zapq_server):
        result = await enqueue(tasks.hang, str(tmp_path))
        async with process(zapq_server) as worker:
            await eventually((tmp_path / "attempts").exists, "the task to run")
            worker.send_signal(signal.SIGTERM)
            (tmp_path / "end").touch()
            assert await worker.wait() == 0
        result.refresh()
    assert result.return_value == 1


@pytest.mark.slow
@pytest.mark.once
async def test_a_task_that_does_not_end_in_time_is_given_up(zapq_server: ZapqServer, tmp_path: Path) -> None:
    with project(zapq_server) as backend:
        result = await enqueue(tasks.hang, str(tmp_path))
        async with process(zapq_server, "--grace", "0") as worker:
            await eventually((tmp_path / "attempts").exists, "the task to run")
            worker.send_signal(signal.SIGTERM)
            assert await worker.wait() == 1
        assert zapq_server.service.queue("default").info().stats.ready == 1
        async with working(backend):
            assert (await until_finished(result)).return_value == 2
