"""Results of tasks, in one of Django's caches: the server keeps none, for it is a queue."""

from __future__ import annotations

from django.core.cache import caches

from zapq.contrib.django.framework import TaskError, TaskResult, TaskResultDoesNotExist, TaskResultStatus
from zapq.contrib.django.message import StrangeMessage, task_named

_KEPT = ("enqueued_at", "started_at", "finished_at", "last_attempted_at", "args", "kwargs", "worker_ids")


class Results:
    """What became of tasks, for `seconds` after their last change."""

    def __init__(self, cache: str, seconds: float) -> None:
        self._cache = cache
        self._seconds = seconds

    def keep(self, result: TaskResult) -> None:
        """Keep what is known of a task now."""
        task = result.task
        kept = {name: getattr(result, name) for name in _KEPT}
        kept |= {
            "task": task.module_path,
            "terms": {"priority": task.priority, "queue_name": task.queue_name, "backend": task.backend},
            "status": result.status.value,
            "errors": [(error.exception_class_path, error.traceback) for error in result.errors],
            "value": result._return_value,
        }
        caches[self._cache].set(_key(result.id), kept, self._seconds)

    def find(self, id: str) -> TaskResult:
        """Return what is known of a task; raises `TaskResultDoesNotExist`."""
        kept = caches[self._cache].get(_key(id))
        if kept is None:
            raise TaskResultDoesNotExist(id)
        try:
            task = task_named(kept["task"]).using(**kept["terms"])
        except StrangeMessage as error:
            raise TaskResultDoesNotExist(id) from error
        result = TaskResult(
            task=task,
            id=id,
            status=TaskResultStatus(kept["status"]),
            backend=task.backend,
            errors=[TaskError(exception_class_path=path, traceback=text) for path, text in kept["errors"]],
            **{name: kept[name] for name in _KEPT},
        )
        object.__setattr__(result, "_return_value", kept["value"])
        return result


def _key(id: str) -> str:
    return f"zapq.task.{id}"
