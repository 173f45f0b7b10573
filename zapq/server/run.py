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
from zapq.access.access import Access
from zapq.errors import InvalidSetting, SnapshotFailed
from zapq.http.app import create_app
from zapq.http.guard import Guard
from zapq.http.hosts import Hosts
from zapq.http.metrics import ServerCounts
from zapq.http.tracing import TraceIds
from zapq.limits import ACCEPT_PAUSE, ACCEPTS, CLOSING_RESERVE, ENDING_RESERVE, MAX_HEAD_BYTES, SAVING_RESERVE
from zapq.server.connection import Connection
from zapq.server.hotpath import HotPath
from zapq.server.listeners import ListeningSocket, open_listening_socket
from zapq.server.lobby import Lobby
from zapq.server.site import NoResources, Site
from zapq.server.stream import ClientStream
from zapq.service.open import open_service
from zapq.service.queues import Queues
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
            if service is None:
                service = await stack.enter_async_context(open_service(settings))
            counts, trace_ids, refusals = ServerCounts(), TraceIds(), logs.Throttle()
            guard = Guard(settings, Hosts(settings, listening.bound), access)
            queues = Queues(service)
            app = ASGIWrapper(create_app(queues, settings, counts, refusals, guard))
            hot = HotPath(queues, settings, counts, trace_ids, refusals, guard) if settings.hot_path else None
            site = Site(app, _config(settings), settings, counts=counts, trace_ids=trace_ids, hot=hot)
            orderly = False
            with trio.CancelScope() as budget:
                async with _abandoning_storage(service, budget), trio.open_nursery() as connections:
                    async with trio.open_nursery() as accepting:
                        if hot is not None and Lobby.possible():
                            accepting.start_soon(Lobby(listening, site, hot, connections).run)
                        else:
                            accepting.start_soon(_accept, listening, site, connections)
                        accepting.start_soon(_reload, reload_trigger, access, listening)
                        task_status.started([listening.url])
                        await shutdown_trigger()
                        await site.stop()
                        accepting.cancel_scope.cancel()
                    listening.sock.close()
                    budget.deadline = trio.current_time() + settings.grace
                    reserve = min(1.0, settings.grace * CLOSING_RESERVE)
                    if ours:
                        service.close_by = budget.deadline - reserve * ENDING_RESERVE
                    if saves:
                        reserve = max(reserve, settings.grace * SAVING_RESERVE)
                    connections.cancel_scope.deadline = budget.deadline - reserve
                    service.drain()
                orderly = not connections.cancel_scope.cancelled_caught
                if saves:
                    # Here and not as the service is closed, for it is to be done within the grace.
                    try:
                        await service.snapshots.save_at_exit()
                    except SnapshotFailed as error:
                        failed = error
            if not orderly:
                logs.say(logging.WARNING, "grace ran out; connections were cut", grace=settings.grace)
            if saves and budget.cancelled_caught:
                service.snapshots.at_exit = ""
                failed = SnapshotFailed(
                    f"{settings.snapshot_on_exit} could not be written because the grace ran out. Raise --grace."
                )
            if ours and failed is None:
                _warn_of_losses(service, settings)
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
        " --snapshot-on-exit NAME.msgpack and"
        " --load-on-start NAME.msgpack."
    )
    if settings.snapshot_on_exit:
        reason = (
            f"{settings.snapshot_on_exit} keeps the default queue only. To keep all queues, start with --durable,"
            " or give a file that ends in .msgpack."
        )
    logs.say(logging.WARNING, "messages lost", messages=messages, queues=queues, reason=reason)


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


def _config(settings: Settings) -> Config:
    """Return Hypercorn's configuration; every number in it that matters is ours, and is set here."""
    config = Config()
    config.accesslog = None  # it costs 25 us a request, and prints paths a client can forge lines with
    config.errorlog = logs.log
    config.include_server_header = False
    config.keep_alive_max_requests = 2**62  # at its limit HTTP/2 loses a request
    config.h2_max_header_list_size = MAX_HEAD_BYTES
    return config


async def _reload(trigger: Callable[[], Awaitable[object]], access: Access, listening: ListeningSocket) -> None:
    """Read the token file and the certificates again whenever `trigger` returns; if they are bad, change nothing.

    In a thread, for a disk may be slow. Requests and connections under way go on as they began.
    """
    while True:
        await trigger()
        try:
            # Both or neither: what belongs together is changed together.
            credentials = await trio.to_thread.run_sync(access.read)
            context = None if listening.tls is None else await trio.to_thread.run_sync(listening.tls.read)
        except InvalidSetting as error:
            logs.say(
                logging.ERROR, "not reloaded; credentials and certificates are as before", reason=error.detail
            )
            continue
        access.use(credentials)
        if listening.tls is not None and context is not None:
            listening.tls.use(context)
        logs.say(logging.INFO, "reloaded", credentials=access.number, certificates=context is not None)


async def _accept(listening: ListeningSocket, site: Site, connections: trio.Nursery) -> None:
    """Start a task for each connection until cancelled; running out of descriptors is a pause, not an end."""
    while True:
        # Not Trio's own accept, which lets others run before it raises.
        await trio.lowlevel.wait_readable(listening.sock)
        try:
            entered = site.accept(listening)
        except BlockingIOError:
            continue
        except NoResources as shortage:
            # If they were so many, there may be more.
            await trio.sleep(0 if shortage.turned_away == ACCEPTS else ACCEPT_PAUSE)
            continue
        if entered is None:
            continue
        sock, network = entered
        stream = ClientStream(listening.guard(sock))
        connections.start_soon(Connection(site, stream, network=network).run)
