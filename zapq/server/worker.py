"""The process of one front end: `python -m zapq.server.worker SOCKET LISTENING`, started by `workers.py` only.

The two arguments are descriptors: of the socket to the process that has the queues, and of the one to accept
clients from. The first of them also brings its orders, and it ends when that closes.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
import time
from dataclasses import replace
from math import ceil

import msgspec
import trio

from zapq import logs
from zapq.access.access import Access
from zapq.allocator import settle_in
from zapq.engine.channel import Channel, ChannelClosed
from zapq.engine.remote import RemoteEngine
from zapq.engine.wire import Order
from zapq.http.metrics import ServerCounts, grown, there_now
from zapq.limits import MAX_OTHER_BODIES_BYTES, WORKER_RESERVE
from zapq.server.front import Front
from zapq.server.in_order import serve_in_order
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


def main(arguments: list[str]) -> None:
    """Serve until told to stop, or until the process that has the queues is no more."""
    # It is stopped by what it is told: on a terminal, the same signal is for the process that tells it.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    descriptor, listening = map(int, arguments)
    sock = socket.socket(fileno=descriptor)
    setup = msgspec.msgpack.decode(_receive_first(sock), type=Setup)
    settings = Settings(**setup.settings)
    with logs.written_aside(settings):
        trio.run(_run, setup, settings, Channel(sock), listening, clock=SharedClock(setup.clock_offset))


def _receive_first(sock: socket.socket) -> bytes:
    sock.setblocking(True)
    with sock.dup().makefile("rb", buffering=0) as file:
        return file.read(int.from_bytes(file.read(4) or b"", "big")) or b""


async def _run(setup: Setup, settings: Settings, channel: Channel, listening: int) -> None:
    try:
        await _serve(setup, settings, channel, listening)
    except* ChannelClosed:
        # What was asked may or may not have happened; clients learn that from connections without an answer.
        logs.say(logging.ERROR, "worker ended, for the server is no more", worker=setup.number)


async def _serve(setup: Setup, settings: Settings, channel: Channel, listening: int) -> None:
    share = settings.workers
    counts = ServerCounts(started=setup.started, other_bodies=Budget(MAX_OTHER_BODIES_BYTES // share))
    stop, reload, until = trio.Event(), trio.Event(), 0.0

    def obey(order: int, seconds: float) -> None:
        nonlocal until
        if order == Order.STOP:
            until = trio.current_time() + seconds * (1 - WORKER_RESERVE)
            stop.set()
        else:
            reload.set()

    async def told_to_stop() -> float:
        await stop.wait()
        return until

    async def told_to_reload() -> None:
        nonlocal reload
        await reload.wait()
        reload = trio.Event()

    def accepts() -> None:
        engine.say_ready()
        settle_in()

    engine = RemoteEngine(
        channel,
        max_body_bytes=settings.max_bytes // share,
        counts=lambda: (grown(counts), there_now(counts)),
        on_order=obey,
    )
    settings = replace(
        settings,
        max_connections=ceil(settings.max_connections / share),
        max_connections_per_address=ceil(settings.max_connections_per_address / share),
    )
    with open_listening_socket(replace(settings, addr=f"fd://{listening}")) as door:
        front = Front(engine, settings, door, Access(settings), counts, share=share)
        async with trio.open_nursery() as life:
            life.start_soon(engine.run)
            await serve_in_order(
                front,
                door,
                reload_trigger=told_to_reload,
                on_ready=accepts,
                told_to_stop=told_to_stop,
                drain=engine.drain,
            )
            engine.close()
            life.cancel_scope.cancel()


if __name__ == "__main__":
    main(sys.argv[1:])
