"""The one order in which serving begins and ends, in every process that serves clients or has others do it.

What accepts is nested in what has the connections. So on the way down the door closes first, then connections end
with the request they are at, and what the caller has around that ends last.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from zapq import logs
from zapq.limits import CLOSING_RESERVE
from zapq.server.listeners import ListeningSocket
from zapq.settings import Settings


class Serving(Protocol):
    """Serves the clients of one listening socket, in this process or in others."""

    async def start(
        self, accepting: trio.Nursery, connections: trio.Nursery, reload_trigger: Callable[[], Awaitable[object]]
    ) -> None:
        """Accept clients in `accepting` until that is cancelled; `connections` has what must end in order."""

    async def stop(self, deadline: float) -> None:
        """Let every connection end with the request it is at, by `deadline`."""


async def serve_in_order(
    front: Serving,
    listening: ListeningSocket,
    *,
    reload_trigger: Callable[[], Awaitable[object]],
    on_ready: Callable[[], object],
    told_to_stop: Callable[[], Awaitable[float]],
    drain: Callable[[], object],
) -> bool:
    """Serve until `told_to_stop` returns the time by which connections must have ended; return whether they did.

    `on_ready` is called once clients are accepted, and `drain` when none is any more, to have those answered that
    wait. Connections that have not ended by the time are cut.
    """
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            await front.start(accepting, connections, reload_trigger)
            on_ready()
            deadline = await told_to_stop()
            await front.stop(deadline)
            accepting.cancel_scope.cancel()
        listening.sock.close()
        connections.cancel_scope.deadline = deadline
        drain()
    return not connections.cancel_scope.cancelled_caught


def say_cut(settings: Settings) -> None:
    """Log that connections had not ended in time."""
    logs.say(logging.WARNING, "grace ran out; connections were cut", grace=settings.grace)


def closing_reserve(grace: float) -> float:
    """Return how many seconds of the grace are kept for closing what did not end by itself."""
    return min(1.0, grace * CLOSING_RESERVE)
