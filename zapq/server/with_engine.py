"""The composition root where the queues are in an engine elsewhere: a front end and no more, and its way down."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from zapq import logs
from zapq.access.access import Access
from zapq.engine.valkey.engine import ValkeyEngine
from zapq.engine.valkey.open import open_engine
from zapq.http.metrics import ServerCounts
from zapq.limits import CLOSING_RESERVE
from zapq.server.front import Front
from zapq.server.listeners import open_listening_socket
from zapq.service.operations import Configure
from zapq.service.pending import Pending
from zapq.settings import Settings


async def run_with_engine(
    settings: Settings,
    *,
    shutdown_trigger: Callable[[], Awaitable[object]],
    reload_trigger: Callable[[], Awaitable[object]],
    task_status: trio.TaskStatus[list[str]],
) -> None:
    """Serve the queues of `settings.engine` until `shutdown_trigger` returns; see `zapq.serve`."""
    access = Access(settings)
    with open_listening_socket(settings) as listening:
        async with open_engine(settings) as engine:
            for name, about in settings.queues.items():
                made = engine.perform(Configure(name, about), trio.current_time())
                if isinstance(made, Pending):
                    await made.wait()
            front = Front(engine, settings, listening, access, ServerCounts())
            async with trio.open_nursery() as watching:
                async with trio.open_nursery() as connections:
                    async with trio.open_nursery() as accepting:
                        await front.start(accepting, connections, reload_trigger)
                        task_status.started([listening.url])
                        await shutdown_trigger()
                        deadline = trio.current_time() + settings.grace
                        reserve = min(1.0, settings.grace * CLOSING_RESERVE)
                        await front.stop(deadline - reserve)
                        accepting.cancel_scope.cancel()
                    listening.sock.close()
                    connections.cancel_scope.deadline = deadline - reserve
                    watching.start_soon(_give_up_at, deadline - reserve, engine)
                    engine.drain()
                if connections.cancel_scope.cancelled_caught:
                    logs.say(logging.WARNING, "grace ran out; connections were cut", grace=settings.grace)
                watching.cancel_scope.cancel()


async def _give_up_at(deadline: float, engine: ValkeyEngine) -> None:
    """Wait for the engine no longer than until `deadline`: a wait for what may have happened is shielded."""
    await trio.sleep_until(deadline)
    engine.give_up()
