"""The composition root where the queues are in an engine elsewhere: front ends and no more, and their way down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from math import inf

import trio

from zapq.access.access import Access
from zapq.engine.hub import Hub
from zapq.engine.valkey.open import declare, open_engine
from zapq.http.metrics import ServerCounts, there_now
from zapq.server.in_order import Serving, closing_reserve, say_cut, serve_in_order
from zapq.server.listeners import ListeningSocket, open_listening_socket
from zapq.server.workers import Workers
from zapq.settings import Settings


async def run_with_engine(
    settings: Settings,
    *,
    shutdown_trigger: Callable[[], Awaitable[object]],
    reload_trigger: Callable[[], Awaitable[object]],
    task_status: trio.TaskStatus[list[str]],
) -> None:
    """Serve the queues of `settings.engine` until `shutdown_trigger` returns; see `zapq.serve`."""
    until = inf

    async def told_to_stop() -> float:
        nonlocal until
        await shutdown_trigger()
        until = trio.current_time() + settings.grace - closing_reserve(settings.grace)
        return until

    async def serve(front: Serving, listening: ListeningSocket, drain: Callable[[], object]) -> None:
        orderly = await serve_in_order(
            front,
            listening,
            reload_trigger=reload_trigger,
            on_ready=lambda: task_status.started([listening.url]),
            told_to_stop=told_to_stop,
            drain=drain,
        )
        if not orderly:
            say_cut(settings)

    access = Access(settings)
    with open_listening_socket(settings) as listening:
        async with open_engine(settings) as engine:
            await declare(engine, settings)
            if settings.workers == 1:
                # Here, for it imports Quart, which a process that serves no clients does not need.
                from zapq.server.front import Front

                front = Front(engine, settings, listening, access, ServerCounts())
                async with trio.open_nursery() as watching:

                    def drain() -> None:
                        watching.start_soon(engine.give_up_at, until)
                        engine.drain()

                    await serve(front, listening, drain)
                    watching.cancel_scope.cancel()
                return
            # All promise the same, also one that is started again when a replica has gone.
            settings = replace(settings, engine_durability=engine.durability)
        # By now the engine is known to be fit. Each front end has connections of its own to it.
        await serve(Workers(settings, listening, Hub(None, there_now)), listening, lambda: None)
