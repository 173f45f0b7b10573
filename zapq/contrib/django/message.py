"""A task as a message: JSON that names the task's function and has its arguments."""

from __future__ import annotations

import json
from bisect import bisect
from datetime import datetime
from typing import Any

import msgspec
from django.utils.module_loading import import_string

from zapq.contrib.django.framework import Task, TaskResult, TaskResultStatus

CONTENT_TYPE = "application/json"
_LOWEST = (-49, -24, -9, 0, 1, 10, 25, 50, 75)
"""Of Django's priorities, -100 to 100, the first one that is 1, 2, ... 9 in zapq: 0 is 4."""


class StrangeMessage(Exception):
    """The message is no task, or one that this program does not have."""


class _Body(msgspec.Struct):
    """What a message says of a task."""

    id: str
    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    priority: int
    enqueued_at: datetime


def priority_of(priority: int) -> int:
    """Return zapq's priority, 0 to 9, for one of Django's: finest around 0, where most are."""
    return bisect(_LOWEST, priority)


def written(result: TaskResult) -> bytes:
    """Return the body of the message that carries a task."""
    task = result.task
    body = {
        "id": result.id,
        "task": task.module_path,
        "args": result.args,
        "kwargs": result.kwargs,
        "priority": task.priority,
        "enqueued_at": result.enqueued_at.isoformat(),
    }
    return json.dumps(body, separators=(",", ":")).encode()


def read(body: bytes, alias: str, queue: str) -> TaskResult:
    """Return the task that a message carries, as one that is ready; raises `StrangeMessage`."""
    try:
        said = msgspec.convert(json.loads(body), _Body)
        task = task_named(said.task).using(priority=said.priority, queue_name=queue, backend=alias)
        return TaskResult(
            task=task,
            id=said.id,
            status=TaskResultStatus.READY,
            enqueued_at=said.enqueued_at,
            started_at=None,
            finished_at=None,
            last_attempted_at=None,
            args=said.args,
            kwargs=said.kwargs,
            backend=alias,
            errors=[],
            worker_ids=[],
        )
    except StrangeMessage:
        raise
    except Exception as error:
        raise StrangeMessage(f"it is not a task: {error!r}") from error


def task_named(path: str) -> Task:
    """Return the task at `path`; raises `StrangeMessage` if there is none."""
    try:
        found = import_string(path)
    except ImportError as error:
        raise StrangeMessage(f"there is no task {path} here: {error}") from error
    if not isinstance(found, Task):
        raise StrangeMessage(f"{path} is not a task")
    return found
