"""The composition root where the queues are in an engine elsewhere: a front end and no more, and its way down."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from math import inf

import trio

from zapq import logs
from zapq.access.access import Access
from zapq.engine.valkey.engine import ValkeyEngine
from zapq.engine.valkey.open import open_engine
from zapq.http.metrics import ServerCounts
from zapq.server.front import Front
from zapq.server.in_order import closing_reserve, serve_in_order
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
            until = inf

            async def told_to_stop() -> float:
                nonlocal until
                await shutdown_trigger()
                until = trio.current_time() + settings.grace - closing_reserve(settings.grace)
                return until

            def drain() -> None:
                watching.start_soon(_give_up_at, until, engine)
                engine.drain()

            async with trio.open_nursery() as watching:
                orderly = await serve_in_order(
                    front,
                    listening,
                    reload_trigger=reload_trigger,
                    on_ready=lambda: task_status.started([listening.url]),
                    told_to_stop=told_to_stop,
                    drain=drain,
                )
                if not orderly:
                    logs.say(logging.WARNING, "grace ran out; connections were cut", grace=settings.grace)
                watching.cancel_scope.cancel()


async def _give_up_at(deadline: float, engine: ValkeyEngine) -> None:
    """Wait for the engine no longer than until `deadline`: a wait for what may have happened is shielded."""
    await trio.sleep_until(deadline)
    engine.give_up()
