"""One attempt at a task, and what is to become of its message."""

from __future__ import annotations

import logging
from traceback import format_exception
from typing import Literal

from django.db import close_old_connections
from django.utils import timezone

from zapq.contrib.django.backend import ZapqBackend
from zapq.contrib.django.framework import (
    TaskContext,
    TaskError,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    normalize_json,
    task_finished,
    task_started,
)

log = logging.getLogger("zapq.django")
Outcome = Literal["done", "again", "failed"]


class WorkerLost(Exception):
    """The workers that had the task ended before it did, each time."""


def attempt(backend: ZapqBackend, result: TaskResult, worker: str, attempts: int, left: int) -> Outcome:
    """Run a task in this thread, and say whether its message is done with, comes again, or has failed for good.

    It is the attempt with the number `attempts`, and `left` more may follow; less than 0 if this one is too many.
    Database connections that are too old, or broken, are closed before and after.
    """
    _recall(backend, result, attempts)
    now = timezone.now()
    _set(result, status=TaskResultStatus.RUNNING, started_at=result.started_at or now, last_attempted_at=now)
    result.worker_ids.append(worker)
    close_old_connections()
    try:
        _keep(backend, result)
        task_started.send(type(backend), task_result=result)
        try:
            if left < 0:
                raise WorkerLost(f"The task was given to workers {attempts - 1} times, and none has ended it.")
            value = _call(result)
        except BaseException as error:
            return _fail(backend, result, error, last=left <= 0)
        _set(result, status=TaskResultStatus.SUCCESSFUL, finished_at=timezone.now(), _return_value=value)
        _keep(backend, result)
        task_finished.send(type(backend), task_result=result)
        return "done"
    finally:
        close_old_connections()


def _call(result: TaskResult) -> object:
    task = result.task
    context = [TaskContext(task_result=result)] if task.takes_context else []
    return normalize_json(task.call(*context, *result.args, **result.kwargs))


def _fail(backend: ZapqBackend, result: TaskResult, error: BaseException, *, last: bool) -> Outcome:
    kind = type(error)
    path = f"{kind.__module__}.{kind.__qualname__}"
    result.errors.append(TaskError(exception_class_path=path, traceback="".join(format_exception(error))))
    if last:
        _set(result, status=TaskResultStatus.FAILED, finished_at=timezone.now())
        _keep(backend, result)
        task_finished.send(type(backend), task_result=result)
        return "failed"
    _set(result, status=TaskResultStatus.READY)
    _keep(backend, result)
    log.warning("task %s (%s) failed, and is tried again", result.id, result.task.module_path, exc_info=error)
    return "again"


def _recall(backend: ZapqBackend, result: TaskResult, attempts: int) -> None:
    """Take over what is known of earlier attempts: all, if results are kept; else how many there were."""
    if attempts > 1 and backend.results is not None:
        try:
            earlier = backend.results.find(result.id)
        except TaskResultDoesNotExist:
            pass
        except Exception:
            log.exception("what is known of task %s was not read from the cache of results", result.id)
        else:
            _set(result, started_at=earlier.started_at)
            result.errors.extend(earlier.errors)
            result.worker_ids.extend(earlier.worker_ids[: attempts - 1])
    result.worker_ids.extend(["unknown"] * (attempts - 1 - len(result.worker_ids)))


def _keep(backend: ZapqBackend, result: TaskResult) -> None:
    """Keep the result if there is a cache for it; one that fails must not have the task run again."""
    if backend.results is not None:
        try:
            backend.results.keep(result)
        except Exception:
            log.exception("the result of task %s was not written to the cache of results", result.id)


def _set(result: TaskResult, **values: object) -> None:
    """Change a result, which is frozen for everybody else."""
    for name, value in values.items():
        object.__setattr__(result, name, value)
