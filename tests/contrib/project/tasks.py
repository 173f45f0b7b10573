"""The project's tasks."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from django.db import connection

from zapq.contrib.django.framework import TaskContext

try:
    from django.tasks import task
except ImportError:
    from django_tasks import task


@task
def add(first: int, second: int = 1) -> int:
    return first + second


@task(queue_name="emails", priority=50)
async def say(word: str) -> str:
    await asyncio.sleep(0)
    return word.upper()


@task
def fail(word: str) -> None:
    raise ValueError(word)


@task
def leave() -> None:
    raise SystemExit(3)


@task(takes_context=True)
def fail_until(context: TaskContext, attempt: int) -> list[Any]:
    """Fail, but not in this attempt; use the database in each."""
    with connection.cursor() as cursor:
        cursor.execute("select 1")
    if context.attempt < attempt:
        raise ConnectionError(f"attempt {context.attempt}")
    return [context.attempt, context.task_result.id]


@task
def connections() -> bool:
    """Whether this thread has a connection to the database that an earlier task has left open."""
    return connection.connection is not None


@task
def trace_id() -> int:
    from opentelemetry import trace

    return trace.get_current_span().get_span_context().trace_id


@task
def hang(place: str) -> int:
    """Leave a file that says which process it is in, and wait for a file `end`; a second attempt ends at once."""
    file, end = Path(place) / "attempts", Path(place) / "end"
    before = file.read_text().split() if file.exists() else []
    file.write_text(" ".join([*before, str(os.getpid())]))
    while not (before or end.exists()):
        time.sleep(0.005)
    return len(before) + 1
