"""Front ends in processes of their own, each with its tasks, sockets and TLS; the queues are here, or elsewhere.

This process holds the listening socket and hands it down, starts a front end again that dies, and stops them in
order. Front ends know it by a socket that was made for each of them: when that closes, they end.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
import trio

from zapq import logs
from zapq.engine.channel import Channel
from zapq.engine.hub import FrontEnd, Hub
from zapq.engine.wire import Order
from zapq.errors import CannotStart
from zapq.limits import MAX_RESTART_PAUSE, RESTART_PAUSE, WORKER_IS_WELL
from zapq.server.balance import Balance, balance_memory
from zapq.server.listeners import ListeningSocket
from zapq.settings import Settings, options


class Setup(msgspec.Struct):
    """What a front end is told as it starts."""

    settings: dict[str, Any]
    number: int
    """Which one it is, from 1."""
    clock_offset: float
    """What Trio's clock of the process with the queues shows more than `time.perf_counter`."""
    started: float
    """When the server started, by `time.monotonic`."""


class Workers:
    """The front ends of one server."""

    def __init__(
        self,
        settings: Settings,
        listening: ListeningSocket,
        hub: Hub,
        front_end: Callable[[Channel, Hub, Callable[[], object]], FrontEnd] = FrontEnd,
    ) -> None:
        """`front_end` makes what speaks to one of them; where the queues are in this process, a `Host`."""
        self._settings = settings
        self._listening = listening
        self._memory: int | None = None
        """The descriptor of what workers tell each other."""
        self._hub = hub
        self._front_end = front_end
        self._started = time.monotonic()
        self._clock_offset = trio.current_time() - time.perf_counter()
        self._stopped = trio.Event()
        self._failed: list[str] = []
        """Why some could not be started."""

    async def start(
        self, accepting: trio.Nursery, connections: trio.Nursery, reload_trigger: Callable[[], Awaitable[object]]
    ) -> None:
        """Start all of them, and return when each accepts clients; `connections` has the tasks that keep them.

        Raises `CannotStart` if one of them ends instead. Whenever `reload_trigger` returns, they read the token
        file and the certificates again.
        """
        await connections.start(self._keep_all)
        if self._failed:
            raise CannotStart(self._failed[0])
        accepting.start_soon(self._reload, reload_trigger)

    async def stop(self, deadline: float) -> None:
        """Let them end in order, until `deadline`; then they cut what is left."""
        self._stopped.set()
        for each in self._hub.front_ends:
            each.order(Order.STOP, max(deadline - trio.current_time(), 0.0))

    async def _reload(self, trigger: Callable[[], Awaitable[object]]) -> None:
        while True:
            await trigger()
            for each in self._hub.front_ends:
                each.order(Order.RELOAD)

    async def _keep_all(self, *, task_status: trio.TaskStatus[None]) -> None:
        with balance_memory(self._settings.workers) as self._memory:
            await self._hear_and_keep(task_status)

    async def _hear_and_keep(self, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as hearing:
            hearing.start_soon(self._hub.run)
            async with trio.open_nursery() as keeping:
                async with trio.open_nursery() as starting:
                    for number in range(1, self._settings.workers + 1):
                        starting.start_soon(keeping.start, self._keep, number)
                task_status.started()
            hearing.cancel_scope.cancel()

    async def _keep(self, number: int, *, task_status: trio.TaskStatus[None]) -> None:
        """Keep one front end running until they are stopped, with a pause between two starts that grows."""
        pause, was_ready = RESTART_PAUSE, False

        def note_ready() -> None:
            nonlocal was_ready
            if not was_ready:
                was_ready = True
                task_status.started()

        while True:
            begun = trio.current_time()
            status = await self._run(number, note_ready)
            if self._stopped.is_set():
                return
            if not was_ready:
                self._failed.append(
                    f"Worker {number} ended as it started, with status {status}. Its log says why."
                )
                task_status.started()
                return
            if trio.current_time() - begun > WORKER_IS_WELL:
                pause = RESTART_PAUSE
            logs.say(logging.ERROR, "worker ended", worker=number, status=status, restart_in=pause)
            with trio.move_on_after(pause):
                await self._stopped.wait()
                return
            pause = min(2 * pause, MAX_RESTART_PAUSE)

    async def _run(self, number: int, on_ready: Callable[[], object]) -> int:
        """Run one front end until it ends, and return its status."""
        ours, theirs = socket.socketpair()
        channel = Channel(ours)
        front_end = self._front_end(channel, self._hub, on_ready)
        front_end.greet(Setup(_plain(self._settings), number, self._clock_offset, self._started))
        try:
            async with trio.open_nursery() as nursery:
                with theirs:
                    handed = [theirs.fileno(), self._listening.sock.fileno()]
                    if self._memory is not None:
                        handed.append(self._memory)
                    command = [sys.executable, "-m", "zapq.server.worker", *map(str, handed)]
                    process: trio.Process = await nursery.start(
                        partial(
                            trio.run_process,
                            command,
                            pass_fds=handed,
                            stdin=subprocess.DEVNULL,
                            check=False,
                            deliver_cancel=_kill,
                        )
                    )
                await front_end.run()
        finally:
            channel.close()
            if self._memory is not None:
                Balance(self._memory).note_end(number)
        return process.returncode or 0


async def _kill(process: trio.Process) -> None:
    process.kill()


def _plain(settings: Settings) -> dict[str, Any]:
    """Return what a front end needs of the settings."""
    return {"token": settings.token, **{option.name: getattr(settings, option.name) for option in options()}}
