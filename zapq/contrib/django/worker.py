"""What `manage.py zapq_worker` does: it takes tasks from queues, and runs them in threads.

A task's lease is extended while it runs. If the worker dies, the lease ends, and another worker is given the task.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from functools import partial

import anyio
import anyio.to_thread

from zapq.client import Client, Consumer, HeldLease, open_client
from zapq.contrib.django.backend import ZapqBackend
from zapq.contrib.django.message import StrangeMessage, read
from zapq.contrib.django.run import Outcome, attempt
from zapq.errors import ReceiptExpired, ZapqError

log = logging.getLogger("zapq.django")
_LIMIT_SECONDS = 30.0
"""How long what a queue's settings say of attempts is believed."""


class Worker:
    """Runs the tasks of some queues, up to `concurrency` of each at once, until it is stopped.

    Made where an event loop runs.
    """

    def __init__(
        self,
        backend: ZapqBackend,
        queues: Sequence[str],
        *,
        concurrency: int = 8,
        visibility: float = 30.0,
        grace: float = 30.0,
    ) -> None:
        self.running = 0
        """How many tasks run now, in threads."""
        self._backend = backend
        self._queues = queues
        self._concurrency = concurrency
        self._visibility = visibility
        self._grace = grace
        self._name = f"{socket.gethostname()}-{os.getpid()}"
        self._threads = anyio.CapacityLimiter(concurrency * len(queues))
        self._lock = threading.Lock()
        self._stopping = anyio.Event()
        self._consumers: set[Consumer] = set()
        """One for each queue that was reached."""
        self._busy: set[anyio.CancelScope] = set()
        """One for each slot that waits for its thread."""
        self._limits: dict[str, tuple[int, bool, float]] = {}
        """How often each queue's tasks are tried, if they become dead letters, and until when that is believed."""

    async def run(self) -> None:
        """Take tasks and run them. After `stop`, return when those that run have ended, or were given up."""
        backend = self._backend
        async with (
            open_client(backend.url, token=backend.token, verify=backend.verify) as client,
            anyio.create_task_group() as group,
        ):
            group.start_soon(self._end_in_time)
            async with anyio.create_task_group() as consumers:
                for queue in self._queues:
                    consumers.start_soon(self._consume, client, queue)
            group.cancel_scope.cancel()

    def stop(self) -> None:
        """Take no more tasks. The second call gives up those that run, as the end of `grace` does."""
        if self._stopping.is_set():
            self._give_up()
        self._stopping.set()
        for leases in self._consumers:
            leases.stop_fetching()

    def _give_up(self) -> None:
        """Wait for no thread any more: what they run is released."""
        for scope in self._busy:
            scope.cancel()

    async def _end_in_time(self) -> None:
        await self._stopping.wait()
        await anyio.sleep(self._grace)
        self._give_up()

    async def _consume(self, client: Client, queue: str) -> None:
        name = self._backend.queue_on_server(queue)
        async with (
            client.consume(name, concurrency=self._concurrency, visibility=self._visibility) as leases,
            anyio.create_task_group() as group,
        ):
            self._consumers.add(leases)
            if self._stopping.is_set():
                leases.stop_fetching()
            for _ in range(self._concurrency):
                group.start_soon(self._work, client, queue, leases)

    async def _work(self, client: Client, queue: str, leases: Consumer) -> None:
        async for lease in leases:
            try:
                async with lease:
                    await self._handle(client, queue, lease)
            except ReceiptExpired:
                log.warning("another worker may have message %d of %s: its lease is over", lease.id, lease.queue)
            except ZapqError as error:
                log.warning("message %d of %s comes again: %s", lease.id, lease.queue, error.detail)

    async def _handle(self, client: Client, queue: str, lease: HeldLease) -> None:
        """Try a task. Its message is acknowledged at the end of the block, unless it is released here."""
        backend = self._backend
        try:
            result = read(lease.body, backend.alias, queue)
        except StrangeMessage as error:
            log.error("cannot run message %d of %s: %s", lease.id, lease.queue, error)
            # A newer worker may know it.
            await lease.release(delay=backend.pause(lease.receive_count))
            return
        most, dead_letters = await self._limit(client, lease.queue)
        attempts = number = lease.receive_count
        if lease.origin:
            # It was a dead letter, and counts on: how often it was tried since can only be guessed.
            number = (attempts - 1) % most + 1
        run = partial(attempt, backend, result, self._name, attempts, most - number)
        match await self._in_thread(run):
            case "again":
                await lease.release(delay=backend.pause(number))
            case "failed" if dead_letters:
                # Given back for the last time, it becomes one.
                await lease.release()
            case None:
                await lease.release()

    async def _in_thread(self, run: Callable[[], Outcome]) -> Outcome | None:
        """Run an attempt, and return None if it was given up; a lease that is lost does not end it."""

        def counted() -> Outcome:
            try:
                return run()
            finally:
                with self._lock:
                    self.running -= 1

        with self._lock:
            self.running += 1
        with anyio.CancelScope(shield=True) as scope:
            self._busy.add(scope)
            try:
                return await anyio.to_thread.run_sync(counted, limiter=self._threads, abandon_on_cancel=True)
            finally:
                self._busy.discard(scope)
        return None

    async def _limit(self, client: Client, queue: str) -> tuple[int, bool]:
        """Return how often a task of a queue is tried, and whether it becomes a dead letter if all fail."""
        now = anyio.current_time()
        most, dead_letters, until = self._limits.get(queue, (0, False, now))
        if until <= now:
            most, dead_letters = self._backend.attempts, False
            try:
                described = await client.describe(queue)
            except ZapqError as error:
                log.warning("cannot look at the settings of %s: %s", queue, error.detail)
            else:
                # There is one if, and only if, there is the other.
                if described["settings"]["max_receives"] is not None:
                    most, dead_letters = described["settings"]["max_receives"], True
            self._limits[queue] = most, dead_letters, now + _LIMIT_SECONDS
        return most, dead_letters
