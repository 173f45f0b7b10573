"""Messages on their way from a queue of dead letters: the tasks that move them, and where they are remembered.

A task is a generator, as an action is: it yields operations, and seconds to pause between them. It is known to the
process that was asked to begin it, for as long as that runs.
"""

from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from zapq.core.broker import Redriven
from zapq.core.message import Lease
from zapq.core.stats import MessageView
from zapq.errors import QueueFull, ZapqError
from zapq.limits import MAX_BATCH
from zapq.service.operations import (
    Delivery,
    Describe,
    Operation,
    Peek,
    Put,
    Redrive,
    Settle,
    Settlement,
    SettleOne,
    Take,
    Terms,
)
from zapq.service.waiting import Want
from zapq.sqs.errors import INVALID_PARAMETER_VALUE, RESOURCE_NOT_FOUND, SqsError, as_sqs
from zapq.sqs.names import Place, queue_of_arn

Status = Literal["RUNNING", "COMPLETED", "CANCELLED", "FAILED"]
MAX_TASKS = 1000
"""Tasks that are remembered, of all queues."""
_AT_ONCE = 10
"""Messages that are taken at once for another queue: while they are under way, consumers do not see them."""


@dataclass(slots=True)
class Task:
    """Messages on their way."""

    id: str
    source: str
    destination: str | None
    """None: where each message failed."""
    rate: int | None
    to_move: int
    started: int
    """In milliseconds since 1970."""
    status: Status = "RUNNING"
    moved: int = 0
    failure: str | None = None

    @property
    def running(self) -> bool:
        """Whether it goes on; a client may stop it."""
        return self.status == "RUNNING"

    def handle(self, place: Place) -> str:
        """Return what a client calls it."""
        text = msgspec.json.encode({"taskId": self.id, "sourceArn": place.arn_of(self.source)})
        return base64.b64encode(text).decode()

    def steps(self) -> Generator[Operation | float, Any, None]:
        """Move the messages: yield operations, whose outcomes are to be sent, and pauses in seconds."""
        try:
            while self.running:
                before = self.moved
                yield from self._back() if self.destination is None else self._over(self.destination)
                if self.moved == before:
                    yield from self._see_what_is_left()
                    self._complete()
                    return
                yield 0.0 if self.rate is None else (self.moved - before) / self.rate
        except ZapqError as error:
            self.status, self.failure = "FAILED", as_sqs(error).kind.code

    def _see_what_is_left(self) -> Generator[Operation | float, Any, None]:
        """Say why dead letters stay, if they go back and some do. Raises what refuses the first of them."""
        if self.destination is not None:
            return
        left: Sequence[MessageView] = yield Peek(self.source, "ready", 1)
        for view in left:
            failed_in = view.message.properties.failed_in
            if not failed_in:
                self.status, self.failure = "FAILED", "CouldNotDetermineMessageSource"
                return
            yield Describe(failed_in)
            raise QueueFull  # or it would have been moved

    def _complete(self) -> None:
        if self.running:
            self.status = "COMPLETED"

    def _back(self) -> Generator[Operation | float, Any, None]:
        redriven: Redriven = yield Redrive(self.source, min(self.rate or MAX_BATCH, MAX_BATCH))
        self.moved += redriven.moved

    def _over(self, destination: str) -> Generator[Operation | float, Any, None]:
        yield Describe(destination)  # storing a message would make a queue that is not there
        most = min(self.rate or _AT_ONCE, _AT_ONCE)
        outcome = yield Take(self.source, Want(most, lease=True))
        given = outcome.given if isinstance(outcome, Delivery) else ()
        leases = [lease for lease in given if isinstance(lease, Lease)]
        for at, lease in enumerate(leases):
            try:
                yield Put(lease.body, Terms(lease.message.moved(self.source)), queue=destination)
            except ZapqError:
                # Not only when their leases are over.
                left = [Settlement(receipt=each.receipt, action="release") for each in leases[at:]]
                yield Settle(self.source, left)
                raise
            yield SettleOne(self.source, Settlement(receipt=lease.receipt))
            self.moved += 1


class Tasks:
    """The tasks of this process. `begin` is called with each new one."""

    def __init__(self, begin: Callable[[Task], object] = lambda task: None) -> None:
        self.begin = begin
        self._tasks: OrderedDict[str, Task] = OrderedDict()

    def add(self, task: Task) -> None:
        """Remember a task, and have it begun; the oldest that are over are forgotten."""
        for id in [id for id, each in self._tasks.items() if not each.running]:
            if len(self._tasks) < MAX_TASKS:
                break
            del self._tasks[id]
        self._tasks[task.id] = task
        self.begin(task)

    def find(self, id: str) -> Task | None:
        """Return the task with this id, or None."""
        return self._tasks.get(id)

    def of(self, source: str) -> list[Task]:
        """Return the tasks that move messages from the queue `source`, the newest first."""
        return [each for each in reversed(self._tasks.values()) if each.source == source]


def _parts_of(handle: str) -> tuple[str, str]:
    """Return the task's id, and the queue its messages are moved from; raises `SqsError`."""
    try:
        said = msgspec.json.decode(base64.b64decode(handle, validate=True), type=dict[str, str])
        return said["taskId"], queue_of_arn(said.get("sourceArn", ""))
    except (ValueError, KeyError, msgspec.DecodeError, RecursionError):
        raise SqsError(INVALID_PARAMETER_VALUE, "Value for parameter TaskHandle is invalid.") from None


def source_of(handle: str) -> str:
    """Return the queue from which the task that a client means moves messages; raises `SqsError`."""
    return _parts_of(handle)[1]


def task_of(handle: str, tasks: Tasks) -> Task:
    """Return the task a client means; raises `SqsError`."""
    id, source = _parts_of(handle)
    task = tasks.find(id)
    # The queue in the handle is the one the client's rights were checked for.
    if task is None or task.source != source:
        raise SqsError(RESOURCE_NOT_FOUND, "Task does not exist.")
    return task
