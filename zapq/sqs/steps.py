"""How an action is written: as a generator that yields operations and is sent their outcomes. It never waits.

    outcome = yield Look("emails")                  raises here what refuses it
    outcomes = yield [Enqueue(...), Enqueue(...)]   all in one go; what refuses one is its outcome

What it returns is the answer. The caller performs what is yielded, on the road that the request came by.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from zapq.service.operations import Operation
from zapq.sqs.model import Result
from zapq.sqs.names import Place
from zapq.sqs.tasks import Tasks

Steps = Generator[Operation | Sequence[Operation], Any, Result]


@dataclass(frozen=True, slots=True)
class Caller:
    """The client that asks, and what else the answer depends on besides the request."""

    place: Place
    max_message_bytes: int
    """What the server takes."""
    tasks: Tasks
    queues: str = "*"
    """A pattern: the queues the client may know of."""
