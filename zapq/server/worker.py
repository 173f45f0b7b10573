"""The process of one front end: `python -m zapq.server.worker SOCKET LISTENING [MEMORY]`, started by `workers.py`.

The arguments are descriptors: of the socket to the process that started it, which has the queues unless they are
in an engine elsewhere; of the one to accept clients from; and of memory in which workers tell each other how many
connections they have. The first of them also brings orders, and this process ends when it closes.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from math import ceil
from typing import NamedTuple

import msgspec
import trio

from zapq import logs
from zapq.access.access import Access
from zapq.allocator import settle_in
from zapq.engine.channel import Channel, ChannelClosed
from zapq.engine.engine import Engine
from zapq.engine.parent import Parent
from zapq.engine.remote import RemoteEngine
from zapq.engine.wire import Figures, Order, added
from zapq.errors import ZapqError
from zapq.http.metrics import ServerCounts, grown, there_now
from zapq.limits import MAX_OTHER_BODIES_BYTES, WORKER_RESERVE
from zapq.server.balance import Balance
from zapq.server.front import Front
from zapq.server.in_order import closing_reserve, say_cut, serve_in_order
from zapq.server.listeners import open_listening_socket
from zapq.server.workers import Setup
from zapq.service.reservation import Budget
from zapq.settings import Settings


class SharedClock(trio.abc.Clock):
    """Shows what Trio's clock of another process of this machine shows."""

    def __init__(self, offset: float) -> None:
        self._offset = offset

    def start_clock(self) -> None:
        """Do nothing: it runs."""

    def current_time(self) -> float:
        """Return the time."""
        return self._offset + time.perf_counter()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return the seconds until `deadline`."""
        return deadline - self.current_time()


class Orders:
    """What the process that started this one wants it to do."""

    def __init__(self, reserve: Callable[[float], float]) -> None:
        """`reserve` is asked how many of so many seconds that a stop may take connections must not use."""
        self._reserve = reserve
        self._stop = trio.Event()
        self._until = 0.0
        self._reload = trio.Event()

    def obey(self, order: int, seconds: float) -> None:
        """Take note of an `Order`."""
        if order == Order.STOP:
            self._until = trio.current_time() + seconds - self._reserve(seconds)
            self._stop.set()
        else:
            self._reload.set()

    async def to_stop(self) -> float:
        """Wait for the order to stop, and return the time by which connections must have ended."""
        await self._stop.wait()
        return self._until

    async def to_reload(self) -> None:
        """Wait for the order to read again what the operator may have changed."""
        await self._reload.wait()
        self._reload = trio.Event()


class Behind(NamedTuple):
    """What is behind the front end of this process."""

    engine: Engine
    say_ready: Callable[[], object]
    orders: Orders
    drain: Callable[[float], object]
    """Has all answered that wait; connections must have ended by the time it is given."""


def main(arguments: list[str]) -> None:
    """Serve until told to stop, or until the process that started this one is no more."""
    # It is stopped by what it is told: on a terminal, the same signal is for the process that tells it.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    descriptor, listening, *memory = map(int, arguments)
    sock = socket.socket(fileno=descriptor)
    setup = msgspec.msgpack.decode(_receive_first(sock), type=Setup)
    settings = Settings(**setup.settings)
    with logs.written_aside(settings):
        balance = Balance(memory[0], setup.number) if memory else None
        clock = SharedClock(setup.clock_offset)
        well = trio.run(_run, setup, settings, Channel(sock), listening, balance, clock=clock)
    if not well:
        sys.exit(1)


def _receive_first(sock: socket.socket) -> bytes:
    sock.setblocking(True)
    with sock.dup().makefile("rb", buffering=0) as file:
        return file.read(int.from_bytes(file.read(4) or b"", "big")) or b""


async def _run(
    setup: Setup, settings: Settings, channel: Channel, listening: int, balance: Balance | None
) -> bool:
    """Serve, and return whether it ended because it was told to."""
    try:
        await _serve(setup, settings, channel, listening, balance)
        return True
    except* ChannelClosed:
        # What was asked may or may not have happened; clients learn that from connections without an answer.
        logs.say(logging.ERROR, "worker ended, for the server is no more", worker=setup.number)
    except* ZapqError as refused:
        for reason in _reasons(refused):
            logs.say(logging.ERROR, "worker cannot serve", worker=setup.number, reason=reason)
    return False


def _reasons(group: BaseExceptionGroup[ZapqError]) -> list[str]:
    return [
        reason
        for each in group.exceptions
        for reason in (_reasons(each) if isinstance(each, BaseExceptionGroup) else [each.detail])
    ]


async def _serve(
    setup: Setup, settings: Settings, channel: Channel, listening: int, balance: Balance | None
) -> None:
    share = settings.workers
    counts = ServerCounts(started=setup.started, other_bodies=Budget(MAX_OTHER_BODIES_BYTES // share))
    open_behind = _open_elsewhere if settings.engine else _open_remote
    async with open_behind(settings, channel, counts) as behind:
        limited = replace(
            settings,
            max_connections=ceil(settings.max_connections / share),
            max_connections_per_address=ceil(settings.max_connections_per_address / share),
        )
        with open_listening_socket(replace(limited, addr=f"fd://{listening}")) as door:
            front = Front(behind.engine, limited, door, Access(limited), counts, share=share, balance=balance)
            until = 0.0

            async def told_to_stop() -> float:
                nonlocal until
                until = await behind.orders.to_stop()
                return until

            def accepts() -> None:
                behind.say_ready()
                settle_in()

            orderly = await serve_in_order(
                front,
                door,
                reload_trigger=behind.orders.to_reload,
                on_ready=accepts,
                told_to_stop=told_to_stop,
                drain=lambda: behind.drain(until),
            )
        if not orderly:
            say_cut(settings)


@asynccontextmanager
async def _open_remote(settings: Settings, channel: Channel, counts: ServerCounts) -> AsyncGenerator[Behind, None]:
    """Have the queues of the process that started this one behind the front end, for the length of the block."""
    orders = Orders(lambda seconds: seconds * WORKER_RESERVE)
    engine = RemoteEngine(
        channel,
        max_body_bytes=settings.max_bytes // settings.workers,
        counts=lambda: (grown(counts), there_now(counts)),
        on_order=orders.obey,
    )
    async with trio.open_nursery() as life:
        life.start_soon(engine.run)  # noqa: ASYNC113 - it may begin later
        yield Behind(engine, engine.say_ready, orders, lambda until: engine.drain())
        engine.close()
        life.cancel_scope.cancel()


@asynccontextmanager
async def _open_elsewhere(
    settings: Settings, channel: Channel, counts: ServerCounts
) -> AsyncGenerator[Behind, None]:
    """Have the queues of `settings.engine` behind the front end, for the length of the block."""
    # Here, for it is a part that most servers do without.
    from zapq.engine.valkey.open import open_engine

    orders = Orders(lambda seconds: seconds * WORKER_RESERVE + closing_reserve(seconds))
    async with open_engine(settings, share=settings.workers) as engine, trio.open_nursery() as life:

        def count() -> tuple[Figures, Figures]:
            ever, now = engine.figures()
            return added(grown(counts), ever), added(there_now(counts), now)

        def drain(until: float) -> None:
            life.start_soon(engine.give_up_at, until)
            engine.drain()

        parent = Parent(channel, counts=count, on_order=orders.obey)
        engine.figures_of_others = parent.figures_of_others
        life.start_soon(parent.run)
        yield Behind(engine, parent.say_ready, orders, drain)
        life.cancel_scope.cancel()


if __name__ == "__main__":
    main(sys.argv[1:])
