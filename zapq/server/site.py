"""What the connections of one server share: the application, limits, counts, open connections."""

from __future__ import annotations

import logging
import socket
import ssl
from typing import Protocol

import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper

from zapq import logs
from zapq.http.access_log import AccessLog
from zapq.http.metrics import ServerCounts
from zapq.http.tracing import TraceIds
from zapq.limits import PIECES_AT_ONCE, REQUESTS_AT_ONCE
from zapq.server.balance import Balance
from zapq.server.hotpath import HotPath
from zapq.server.listeners import CHANGED_THEIR_MIND, OUT_OF_RESOURCES, ListeningSocket
from zapq.server.peer_network import Socket, peer_network, peer_of_socket
from zapq.server.unsent import Unsent
from zapq.service.section import Gate
from zapq.settings import Settings


class Closable(Protocol):
    """A connection that has a task."""

    def close_if_idle(self) -> None:
        """End unless a request is under way or begun."""


class NoResources(Exception):
    """Clients cannot be accepted for a while; `turned_away` of them were, None if they have to wait."""

    def __init__(self, turned_away: int | None) -> None:
        self.turned_away = turned_away


class Site:
    """What the connections of one server share."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        settings: Settings,
        *,
        counts: ServerCounts,
        trace_ids: TraceIds,
        unsent: Unsent,
        throttle: logs.Throttle,
        hot: HotPath | None = None,
        balance: Balance | None = None,
        access_log: AccessLog | None = None,
    ) -> None:
        self.app = app
        self.config = config
        self.settings = settings
        self.counts = counts
        self.trace_ids = trace_ids
        self.hot = hot
        self.balance = balance
        self.access_log = access_log
        if balance is not None:
            balance.note(0)
        self.context = WorkerContext(None)
        self.throttle = throttle
        self._shortage = logs.Throttle(logs.STATE_LINES_PER_SECOND)
        self._networks: dict[str, int] = {}
        """Open connections by where they come from, as far as that is capped."""
        self.connections: set[Closable] = set()
        self.unsent = unsent
        self.handshakes = trio.Lock()
        """Held for one step of a handshake: of those that tasks do, each turn of Trio's has one."""
        self.receiving = Gate(PIECES_AT_ONCE)
        """For each piece of a request that a task takes in."""
        self.handling = Gate(REQUESTS_AT_ONCE)
        """For each request that Quart is to answer."""

    def accept(self, listening: ListeningSocket) -> tuple[socket.socket, str] | None:
        """Accept a client, and return its socket and where it comes from; None if it has left, or may not be open.

        Raises BlockingIOError if no client waits, and `NoResources` if none can be accepted for a while.
        """
        try:
            sock, address = listening.sock.accept()
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno in CHANGED_THEIR_MIND:
                return None
            if error.errno not in OUT_OF_RESOURCES:
                raise
            # At once: if others ran in between, there might be descriptors again.
            turned_away = listening.reserve_descriptor.turn_away(listening.sock)
            self.note_no_resources(error, turned_away)
            raise NoResources(turned_away) from None
        network = peer_network(address)
        if not self.enter(network):
            sock.close()
            return None
        sock.setblocking(False)
        return sock, network

    def enter(self, network: str) -> bool:
        """Count one more connection from `network` and return True, or count and log that it may not be open."""
        if self.counts.connections >= self.settings.max_connections:
            self._turn_away(network, "max_connections", self.settings.max_connections)
            return False
        most = self.settings.max_connections_per_address
        if most and network:
            number = self._networks.get(network, 0)
            if number >= most:
                self._turn_away(network, "max_connections_per_address", most)
                return False
            self._networks[network] = number + 1
        self._count(1)
        return True

    def leave(self, network: str) -> None:
        """Note that a connection from `network` is closed."""
        self._count(-1)
        number = self._networks.get(network)
        if number is not None:
            if number > 1:
                self._networks[network] = number - 1
            else:
                del self._networks[network]

    def _count(self, change: int) -> None:
        self.counts.connections += change
        if self.balance is not None:
            self.balance.note(self.counts.connections)

    def _turn_away(self, network: str, cap: str, limit: int) -> None:
        self.counts.connections_refused += 1
        self.throttle.say(logging.WARNING, cap, "connection refused", cap=cap, limit=limit, peer=network or "unix")

    def note_no_resources(self, error: OSError, turned_away: int | None) -> None:
        """Log why clients cannot be accepted, and count those that were turned away; None: they have to wait."""
        self.counts.connections_refused += turned_away or 0
        # Whether a client waits is seen only by accepting.
        if turned_away != 0:
            self._shortage.say(logging.WARNING, "accept", "cannot accept connections", reason=error.strerror)

    def note_failure(self, error: BaseException) -> None:
        """Count and log an error of ours that ended one connection."""
        self.counts.connection_errors += 1
        self.throttle.say(logging.ERROR, "connection-error", "connection failed", error=repr(error))
        logs.log.debug("connection failed", exc_info=error)

    def note_handshake_failed(self, error: OSError, sock: Socket) -> None:
        """Log a handshake that failed; if that was the client's certificate, so that the operator sees it."""
        logs.say(logging.DEBUG, "client gone before its first request", error=repr(error))
        reason = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
        if self.settings.tls_client_ca and "CERTIFICATE" in reason:
            self.throttle.say(
                logging.WARNING,
                "client-certificate",
                "refused",
                reason=f"The client certificate was refused: {reason.replace('_', ' ').lower()}.",
                **peer_of_socket(sock),
            )

    async def stop(self) -> None:
        """Let every connection end with the request it is at; those between requests end now."""
        await self.context.terminated.set()
        for connection in list(self.connections):
            connection.close_if_idle()
