"""The backend for Django's `TASKS`: it sends each task as a message to a zapq server."""

from __future__ import annotations

import atexit
import ssl
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone
from django.utils.crypto import get_random_string

from zapq.client.sync import Client, open_client
from zapq.contrib.django.framework import BaseTaskBackend, Task, TaskResult, TaskResultStatus, task_enqueued
from zapq.contrib.django.message import CONTENT_TYPE, priority_of, written
from zapq.contrib.django.results import Results
from zapq.core.names import check_name
from zapq.errors import ZapqError

__all__ = ["ZapqBackend"]

_DEFAULTS: dict[str, Any] = {
    "url": "http://127.0.0.1:8080",
    "token": None,
    "verify": None,
    "prefix": "",
    "attempts": 5,
    "backoff": 5.0,
    "results": None,
    "results_seconds": 86400.0,
}
_MAX_BACKOFF = 3600.0
_OF_ONE_PROCESS = {
    "django.core.cache.backends.locmem.LocMemCache",
    "django.core.cache.backends.dummy.DummyCache",
}


class ZapqBackend(BaseTaskBackend):
    """Sends tasks to a zapq server; `manage.py zapq_worker` runs them, each at least once.

    Its `OPTIONS` are those of `docs/how-to/django.md`. A task's queue has the same name on the server, after the
    option `prefix`. Enqueuing raises the exceptions of `zapq.errors` if the server refuses, or does not answer.
    """

    supports_defer = True
    supports_async_task = True
    supports_priority = True

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)
        unknown = self.options.keys() - _DEFAULTS.keys()
        if unknown:
            raise ImproperlyConfigured(
                f"TASKS[{alias!r}]: the zapq backend has no option {', '.join(sorted(unknown))}."
                f" It has {', '.join(sorted(_DEFAULTS))}."
            )
        options = _DEFAULTS | self.options
        self.url: str = options["url"]
        self.token: str | None = options["token"]
        self.verify: ssl.SSLContext | None = options["verify"]
        self.prefix: str = options["prefix"]
        self.attempts: int = options["attempts"]
        """How often a task is tried, where its queue on the server does not say."""
        self.backoff: float = options["backoff"]
        """Seconds between the first attempt and the second; twice as many before each further one."""
        self.results = Results(options["results"], options["results_seconds"]) if options["results"] else None
        self.supports_get_result = self.results is not None

    def check(self, **kwargs: Any) -> Iterable[CheckMessage]:
        """Yield what is wrong with the names of its queues, and with its cache of results; see Django's checks."""
        for queue in sorted(self.queues):
            try:
                check_name(self.queue_on_server(queue))
            except ZapqError as error:
                yield Error(f"TASKS[{self.alias!r}]: {error.detail}", id="zapq.E001")
        if type(self.options.get("attempts", 1)) is not int or self.attempts < 1:
            yield Error(f"TASKS[{self.alias!r}]: attempts must be a whole number, 1 or more.", id="zapq.E004")
        cache = self.options.get("results")
        if cache and cache not in settings.CACHES:
            yield Error(f"TASKS[{self.alias!r}]: results is {cache!r}, which is not in CACHES.", id="zapq.E002")
        elif cache and settings.CACHES[cache].get("BACKEND") in _OF_ONE_PROCESS:
            yield Warning(
                f"TASKS[{self.alias!r}]: other processes do not see the results that a worker keeps in"
                f" CACHES[{cache!r}].",
                hint="Use a cache of files, a database, Redis, Valkey or Memcached.",
                id="zapq.W001",
            )

    def queue_on_server(self, queue: str) -> str:
        """Return the name that a queue of Django has on the server."""
        return self.prefix + queue

    def pause(self, attempts: int) -> float:
        """Return how many seconds a task rests after it has failed for the `attempts`-th time."""
        return min(self.backoff * 2.0 ** min(attempts - 1, 32), _MAX_BACKOFF)

    def enqueue(self, task: Task, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskResult:
        """Send a task, and return its result as it is now: ready."""
        result = self._made(task, args, kwargs)
        self._send(result)
        task_enqueued.send(type(self), task_result=result)
        return result

    async def aenqueue(self, task: Task, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskResult:
        """Do as `enqueue` does, without holding up the event loop."""
        result = self._made(task, args, kwargs)
        await sync_to_async(self._send, thread_sensitive=False)(result)
        await task_enqueued.asend(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> TaskResult:
        """Return what is known of a task, if the option `results` names a cache; else as Django's base does."""
        if self.results is None:
            return super().get_result(result_id)
        return self.results.find(result_id)

    def _made(self, task: Task, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskResult:
        self.validate_task(task)
        return TaskResult(
            task=task,
            id=get_random_string(32),
            status=TaskResultStatus.READY,
            enqueued_at=timezone.now(),
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )

    def _send(self, result: TaskResult) -> None:
        task = result.task
        delay = 0.0
        if task.run_after is not None:
            delay = max((task.run_after - _now_for(task.run_after)).total_seconds(), 0.0)
        body = written(result)
        # Before it is sent: a worker may be faster than we are.
        if self.results is not None:
            self.results.keep(result)
        _client(self.url, self.token, self.verify).put(
            self.queue_on_server(task.queue_name),
            body,
            priority=priority_of(task.priority),
            delay=delay,
            content_type=CONTENT_TYPE,
            key=result.id,
        )


def _now_for(moment: Any) -> Any:
    """Return the time as `moment` is written: with or without a time zone."""
    return timezone.now() if timezone.is_aware(moment) else timezone.make_naive(timezone.now())


@cache
def _client(url: str, token: str | None, verify: ssl.SSLContext | None) -> Client:
    """Return the one client of the process for a server: Django makes a backend for each thread."""
    opened = open_client(url, token=token, verify=verify)
    client = opened.__enter__()
    atexit.register(opened.__exit__, None, None, None)
    return client
