"""Front ends of one service, all in the process of the test: only sockets are between them."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio
import trio.testing

from zapq.engine.channel import Channel, ChannelClosed
from zapq.engine.engine import Engine
from zapq.engine.host import Host
from zapq.engine.hub import Hub
from zapq.engine.local import LocalEngine
from zapq.engine.remote import RemoteEngine
from zapq.service.operations import Operation
from zapq.service.pending import Pending
from zapq.service.service import QueueService


@dataclass
class FrontEnd:
    """One front end: its engine, and how it ends."""

    engine: RemoteEngine
    host: Host
    channel: Channel
    orders: list[tuple[int, float]] = field(default_factory=list)

    def die(self) -> None:
        """End without a word."""
        self.channel.sock.shutdown(socket.SHUT_RDWR)


@asynccontextmanager
async def front_ends(service: QueueService, number: int = 1) -> AsyncGenerator[list[FrontEnd], None]:
    """Run so many front ends of `service`."""
    local = LocalEngine(service)
    hub = Hub(local, lambda: {"tasks": 1000})
    fronts: list[FrontEnd] = []
    sockets: list[socket.socket] = []
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub.run)
            for each in range(1, number + 1):
                ours, theirs = socket.socketpair()
                sockets += (ours, theirs)
                host = Host(Channel(ours), local, service, hub)
                orders: list[tuple[int, float]] = []
                channel = Channel(theirs)
                engine = RemoteEngine(
                    channel,
                    max_body_bytes=1000,
                    counts=partial(_counted, each),
                    on_order=lambda *order, orders=orders: orders.append(order),
                )
                nursery.start_soon(_until_closed, engine)
                nursery.start_soon(host.run)
                fronts.append(FrontEnd(engine, host, channel, orders))
            await trio.testing.wait_all_tasks_blocked()
            yield fronts
            nursery.cancel_scope.cancel()
    finally:
        for sock in sockets:
            sock.close()


async def _until_closed(engine: RemoteEngine) -> None:
    try:
        await engine.run()
    except* ChannelClosed:
        pass


def _counted(number: int) -> tuple[dict[str, int], dict[str, int]]:
    return {"requests": number}, {"tasks": 10 * number}


async def ask(engine: Engine, operation: Operation) -> object:
    """Return what comes of `operation`, or raise what refuses it."""
    outcome = engine.perform(operation, trio.current_time())
    return await outcome.wait() if isinstance(outcome, Pending) else outcome
