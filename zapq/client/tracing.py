"""What a client that traces does beside its work: the port, for most clients trace nothing and have none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from zapq.client.holding import Held, Processing
from zapq.core.message import Draft

H = TypeVar("H", bound=Held)


class Tracer(Protocol):
    """Makes the spans of what a client's producers and consumers do."""

    def marked(self, message: bytes | Draft) -> bytes | Draft:
        """Return a message that carries the context of the task or thread that sends it."""

    def begin(self, held: Held) -> Processing:
        """Begin the span around the work on a message, and make it the current one of this task or thread."""

    def around(self, handler: Callable[[H], Awaitable[object]]) -> Callable[[H], Awaitable[object]]:
        """Return a handler that does the same within such a span ..."""

    def around_in_thread(self, handler: Callable[[H], object]) -> Callable[[H], Any]:
        """... and one for threads."""
