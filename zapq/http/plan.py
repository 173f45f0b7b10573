"""The values that go from step to step while a request is answered; `zapq/http/endpoints.py` has the steps."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from zapq.access.grant import Grant
from zapq.http.metrics import ServerCounts
from zapq.http.series import Series
from zapq.limits import DEFAULT_QUEUE
from zapq.service.operations import Enqueue, Operation

BodyEncoding = Literal["base64", "text", "json"]
"""How a message's body is written in JSON."""


class Asked(msgspec.Struct, frozen=True):
    """A request as far as clients repeat it: all but its body, its key, its receipt or message id."""

    queue: str = DEFAULT_QUEUE
    values: dict[str, str] = {}
    """The query parameters."""
    content_type: str = ""
    accept: str = ""
    name: str = ""
    """What the path names that is no queue: a problem, or a file of the page."""
    queues: str = "*"
    """The queues the client may know of, as a pattern."""
    known: str = ""
    """The ETags of what the client has already."""
    grant: Grant | None = None
    """What the client may do, as far as that was asked of its credential."""


class Frame(msgspec.Struct):
    """What every answer of one moment has in common."""

    tail: bytes
    """The fields every answer ends with."""
    now: float
    """Of Trio's clock."""
    clock_offset: float
    """Seconds to add to it to get Unix time."""
    counts: ServerCounts


class InPieces(NamedTuple):
    """A large answer, which is nowhere put together."""

    head: bytes
    body: Sequence[bytes]


Steps = Generator[Operation | None, Any, InPieces]
"""Yields operations and is sent their outcomes, or None where others are to have a turn; returns the answer."""


class Plan(msgspec.Struct, frozen=True):
    """What is to be done, and how the answer is to look."""

    operation: Operation | None
    """Complete except for what `Endpoint.fill` adds; None if there is nothing to do."""
    media_type: str = ""
    """That of a batch that is sent, or of the answer."""
    encoding: BodyEncoding = "base64"
    asks_for_json: bool = False
    """Whether the client named the type of the answer."""
    name: str = ""
    known: str = ""
    """The ETags of what the client has already."""
    grant: Grant | None = None
    """What is told of the client itself."""
    limit: int = 0
    """How many are shown at most, if that is not for the operation to say."""
    simple: Enqueue | None = None
    """The same except for the body, if it needs no `Put` as long as there is no key."""
    steps: Callable[[Frame, Series], Steps] | None = None
    """What is done instead, if it takes more than one operation: only the complete server does that.

    Gets the frame, and what is written of queues in scrapes.
    """
    shared: Hashable = None
    """Clients that ask for `steps` at the same time are given the same answer, if this is the same."""
