"""What serves clients in this process: the fast road and Quart's, and the tasks that accept connections."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from copy import copy
from math import inf

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config

from zapq import logs
from zapq.access.access import Access
from zapq.engine.engine import Engine
from zapq.errors import InvalidSetting
from zapq.http.access_log import AccessLog
from zapq.http.app import create_app
from zapq.http.guard import Guard
from zapq.http.hosts import Hosts
from zapq.http.metrics import ServerCounts
from zapq.http.moving import Mover
from zapq.http.tracing import TraceIds
from zapq.limits import ACCEPT_PAUSE, ACCEPTS, MAX_HEAD_BYTES, MAX_UNSENT_BYTES, NAMES_SHOWN
from zapq.server.balance import Balance
from zapq.server.connection import Connection
from zapq.server.hot_log import LoggedHotPath
from zapq.server.hotpath import HotPath
from zapq.server.listeners import ListeningSocket
from zapq.server.lobby import Lobby
from zapq.server.site import NoResources, Site
from zapq.server.sqs_hot import SqsHot
from zapq.server.stream import ClientStream
from zapq.server.unsent import Unsent
from zapq.settings import Settings


class Front:
    """Serves the clients of one listening socket, and has `engine` do what they ask."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        listening: ListeningSocket,
        access: Access,
        counts: ServerCounts,
        *,
        share: int = 1,
        balance: Balance | None = None,
    ) -> None:
        """It is one of `share` that have what no limit of `settings` is about in common.

        `balance` tells it how many connections the others have.
        """
        if settings.test_clock:
            settings = _patient(settings)
        self._engine = engine
        self._listening = listening
        self._access = access
        self._shares_door = share > 1
        # What clients can have logged is bounded for all workers together; but each says something.
        rate = max(1, logs.LINES_PER_SECOND // share)
        trace_ids, refusals = TraceIds(), logs.Throttle(rate)
        self._mover = Mover(engine)
        guard = Guard(settings, Hosts(settings, listening.bound), access)
        app = ASGIWrapper(create_app(engine, settings, counts, refusals, guard, self._mover.tasks))
        sqs = None
        if settings.sqs:
            sqs = SqsHot(engine, settings, refusals, guard, self._mover.tasks, trio.current_time)
        self._hot = None
        access_log = AccessLog(settings.access_log) if settings.access_log else None
        if settings.hot_path:
            parts = (engine, settings, counts, trace_ids, refusals, guard, sqs)
            self._hot = HotPath(*parts) if access_log is None else LoggedHotPath(*parts, log=access_log)
        unsent = Unsent(MAX_UNSENT_BYTES // share)
        self._site = Site(
            app,
            _config(settings),
            settings,
            counts=counts,
            trace_ids=trace_ids,
            unsent=unsent,
            throttle=logs.Throttle(rate),
            hot=self._hot,
            balance=balance,
            access_log=access_log,
        )

    async def start(
        self, accepting: trio.Nursery, connections: trio.Nursery, reload_trigger: Callable[[], Awaitable[object]]
    ) -> None:
        """Accept clients in `accepting` until that is cancelled; `connections` has the tasks of some of them.

        Whenever `reload_trigger` returns, the token file and the certificates are read again.
        """
        if self._hot is not None and Lobby.possible():
            lobby = Lobby(
                self._listening, self._site, self._hot, self._engine, connections, shares_door=self._shares_door
            )
            accepting.start_soon(lobby.run)
        else:
            accepting.start_soon(_accept, self._listening, self._site, connections)
        accepting.start_soon(self._mover.run)
        _warn_of_useless(self._access)
        accepting.start_soon(_reload, reload_trigger, self._access, self._listening)

    async def stop(self, deadline: float) -> None:
        """Let every connection end with the request it is at; those between requests end now."""
        await self._site.stop()


def _config(settings: Settings) -> Config:
    """Return Hypercorn's configuration; every number in it that matters is ours, and is set here."""
    config = Config()
    config.accesslog = None  # ours knows more, and of the fast road too
    config.errorlog = logs.log
    config.include_server_header = False
    config.keep_alive_max_requests = 2**62  # at its limit HTTP/2 loses a request
    config.h2_max_header_list_size = MAX_HEAD_BYTES
    return config


def _patient(settings: Settings) -> Settings:
    """Return settings that no connection outlasts: one must not end because a test has moved the time on."""
    patient = copy(settings)
    for name in ("keep_alive", "head_timeout", "body_timeout", "send_timeout"):
        # Beyond what a setting may be, so not by `replace`.
        object.__setattr__(patient, name, inf)
    return patient


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
        _warn_of_useless(access)


def _warn_of_useless(access: Access) -> None:
    """Log which lines of the token file let no client in: an operator would look for the reason at the clients."""
    for message, names, remedy in access.useless():
        shown = ", ".join(names[:NAMES_SHOWN]) + (" ..." if len(names) > NAMES_SHOWN else "")
        logs.say(logging.WARNING, message, number=len(names), names=shown, remedy=remedy)


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
