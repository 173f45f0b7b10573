"""The composition root: settings to a served queue, and an orderly way back down.

Nesting is the dependency graph: listener, then service, then what `serve_in_order` has. On the way down the
innermost ends first, and one cancel scope is the budget for all of it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from math import inf

import trio

from zapq import logs
from zapq.access.access import Access
from zapq.engine.host import Host
from zapq.engine.hub import Hub
from zapq.engine.local import LocalEngine
from zapq.errors import SnapshotFailed
from zapq.http.metrics import ServerCounts, there_now
from zapq.limits import ENDING_RESERVE, SAVING_RESERVE
from zapq.server.in_order import Serving, closing_reserve, say_cut, serve_in_order
from zapq.server.listeners import open_listening_socket
from zapq.server.workers import Workers
from zapq.service.history import take_samples
from zapq.service.open import open_service
from zapq.service.service import QueueService
from zapq.settings import Settings


async def run_server(
    settings: Settings,
    *,
    service: QueueService | None,
    shutdown_trigger: Callable[[], Awaitable[object]],
    reload_trigger: Callable[[], Awaitable[object]],
    task_status: trio.TaskStatus[list[str]],
) -> None:
    """Serve until `shutdown_trigger` returns; `zapq.serve` is its public face and says the rest."""
    failed: SnapshotFailed | None = None
    access = Access(settings)
    with open_listening_socket(settings) as listening:
        async with AsyncExitStack() as stack:
            ours = service is None
            saves = ours and settings.snapshot_on_exit != ""
            queues = await stack.enter_async_context(open_service(settings)) if service is None else service
            engine = LocalEngine(queues)
            front: Serving
            if settings.workers == 1:
                # Here, for it imports Quart, which the process that only has the queues does not need.
                from zapq.server.front import Front

                front = Front(engine, settings, listening, access, ServerCounts())
            else:
                front = Workers(
                    settings,
                    listening,
                    Hub(engine, there_now),
                    lambda channel, hub, on_ready: Host(channel, engine, queues, hub, on_ready),
                )
            await stack.enter_async_context(_sampling(queues))
            orderly = False
            deadline = inf

            async def told_to_stop() -> float:
                nonlocal deadline
                await shutdown_trigger()
                deadline = trio.current_time() + settings.grace
                reserve = closing_reserve(settings.grace)
                if ours:
                    queues.close_by = deadline - reserve * ENDING_RESERVE
                if saves:
                    reserve = max(reserve, settings.grace * SAVING_RESERVE)
                return deadline - reserve

            def drain() -> None:
                budget.deadline = deadline
                queues.drain()

            with trio.CancelScope() as budget:
                async with _abandoning_storage(queues, budget):
                    orderly = await serve_in_order(
                        front,
                        listening,
                        reload_trigger=reload_trigger,
                        on_ready=lambda: task_status.started([listening.url]),
                        told_to_stop=told_to_stop,
                        drain=drain,
                    )
                if saves:
                    # Here and not as the service is closed, for it is to be done within the grace.
                    try:
                        await queues.snapshots.save_at_exit()
                    except SnapshotFailed as error:
                        failed = error
            if not orderly:
                say_cut(settings)
            if saves and budget.cancelled_caught:
                queues.snapshots.at_exit = ""
                failed = SnapshotFailed(
                    f"{settings.snapshot_on_exit} could not be written because the grace ran out. Raise --grace."
                )
            if ours and failed is None:
                _warn_of_losses(queues, settings)
    if failed is not None:
        raise failed


def _warn_of_losses(service: QueueService, settings: Settings) -> None:
    """Log how many messages end with the service, if any do, and how to keep them."""
    if service.durable or settings.snapshot_on_exit.endswith(".msgpack"):
        return
    messages, queues = service.snapshots.unsaved()
    if not messages:
        return
    reason = (
        "They were in memory only. To keep messages over the next stop, start with --durable, or with"
        " --snapshot-on-exit NAME.msgpack and --load-on-start NAME.msgpack."
    )
    if settings.snapshot_on_exit:
        reason = (
            f"{settings.snapshot_on_exit} keeps the default queue only. To keep all queues, start with --durable,"
            " or give a file that ends in .msgpack."
        )
    logs.say(logging.WARNING, "messages lost", messages=messages, queues=queues, reason=reason)


@asynccontextmanager
async def _sampling(service: QueueService) -> AsyncGenerator[None, None]:
    """Have samples taken of what the queues hold, for `/stats/history`."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_samples, service)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _abandoning_storage(service: QueueService, budget: trio.CancelScope) -> AsyncGenerator[None, None]:
    """Let no task in the block wait for the disk when `budget` is over: that wait is shielded."""

    async def watch() -> None:
        try:
            await trio.sleep_forever()
        finally:
            if budget.cancel_called:
                service.abandon_storage()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        yield
        nursery.cancel_scope.cancel()
