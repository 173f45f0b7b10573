"""The composition root: settings to a served queue, and an orderly way back down.

Nesting is the dependency graph: listener, then service, then connections, then the accepting. On the way
down the innermost ends first, and one cancel scope is the budget for all of it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config

from zapq import logs
from zapq.errors import SnapshotFailed
from zapq.http.app import create_app
from zapq.http.hosts import Hosts
from zapq.http.metrics import Traffic
from zapq.http.tracing import TraceIds
from zapq.limits import ACCEPT_PAUSE, CLOSING_RESERVE, MAX_HEAD_BYTES, SAVING_RESERVE
from zapq.server.connection import Connection, Host, Stream
from zapq.server.hotpath import HotPath
from zapq.server.listeners import OUT_OF_RESOURCES, Listener, open_door
from zapq.server.lobby import Lobby
from zapq.service.service import QueueService, open_service
from zapq.settings import Settings


async def run_server(
    settings: Settings,
    *,
    service: QueueService | None,
    shutdown_trigger: Callable[[], Awaitable[object]],
    task_status: trio.TaskStatus[list[str]],
) -> None:
    """Serve until `shutdown_trigger` returns; `zapq.serve` is its public face and says the rest."""
    failed: SnapshotFailed | None = None
    with open_door(settings) as door:
        async with AsyncExitStack() as stack:
            saves = service is None and settings.snapshot_on_exit != ""
            if service is None:
                service = await stack.enter_async_context(open_service(settings))
            traffic, trace_ids, refusals = Traffic(), TraceIds(), logs.Throttle()
            hosts = Hosts(settings, door.bound)
            app = ASGIWrapper(create_app(service, settings, traffic, refusals, hosts))
            hot = HotPath(service, settings, traffic, trace_ids, refusals, hosts) if settings.hot_path else None
            host = Host(app, _config(settings), settings, traffic=traffic, trace_ids=trace_ids, hot=hot)
            with trio.CancelScope() as budget:
                async with _give_up_storing(service, budget), trio.open_nursery() as connections:
                    async with trio.open_nursery() as accepting:
                        if hot is not None and door.tls is None and Lobby.possible():
                            accepting.start_soon(Lobby(door.sock, host, hot, connections).run)
                        else:
                            accepting.start_soon(_accept, door.listener(), host, connections)
                        task_status.started([door.url])
                        await shutdown_trigger()
                        await host.stop()
                        accepting.cancel_scope.cancel()
                    door.sock.close()
                    budget.deadline = trio.current_time() + settings.grace
                    reserve = min(1.0, settings.grace * CLOSING_RESERVE)
                    if saves:
                        reserve = max(reserve, settings.grace * SAVING_RESERVE)
                    connections.cancel_scope.deadline = budget.deadline - reserve
                    service.drain()
                if connections.cancel_scope.cancelled_caught:
                    logs.say(logging.WARNING, "grace ran out; connections were cut", grace=settings.grace)
                if saves:
                    # Here and not as the service is closed, for it is to be done within the grace.
                    try:
                        await service.snapshots.save_at_exit()
                    except SnapshotFailed as error:
                        failed = error
            if saves and budget.cancelled_caught:
                service.snapshots.at_exit = ""
                failed = SnapshotFailed(f"{settings.snapshot_on_exit} could not be written: the grace ran out.")
    if failed is not None:
        raise failed


@asynccontextmanager
async def _give_up_storing(service: QueueService, budget: trio.CancelScope) -> AsyncGenerator[None, None]:
    """Let nobody in the block wait for the disk when `budget` is over: that wait is shielded."""

    async def watch() -> None:
        try:
            await trio.sleep_forever()
        finally:
            if budget.cancel_called:
                service.give_up_storing()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        yield
        nursery.cancel_scope.cancel()


def _config(settings: Settings) -> Config:
    """Return Hypercorn's configuration; every number in it that matters is ours, and is set here."""
    config = Config()
    config.accesslog = None  # it costs 25 us a request, and prints paths a client can forge lines with
    config.errorlog = logs.log
    config.include_server_header = False
    config.keep_alive_max_requests = 2**62  # at its limit HTTP/2 loses a request
    config.h2_max_header_list_size = MAX_HEAD_BYTES
    return config


async def _accept(listener: Listener, host: Host, connections: trio.Nursery) -> None:
    """Start a task for each connection until cancelled; running out of descriptors is a pause, not an end."""
    while True:
        try:
            stream: Stream = await listener.accept()
        except OSError as error:
            if error.errno not in OUT_OF_RESOURCES:
                raise
            host.note_no_resources(error)
            await trio.sleep(ACCEPT_PAUSE)
            continue
        if not host.has_room():
            await trio.aclose_forcefully(stream)
            continue
        host.traffic.connections += 1
        connections.start_soon(Connection(host, stream).run)
