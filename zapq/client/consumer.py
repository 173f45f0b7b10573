"""Consuming: leases that are fetched ahead, kept while a handler works on them, and settled at its end.

Each of a consumer's slots holds one message at a time: it fetches it, offers it to the task that iterates, and
extends its lease until it is settled. So as many messages are held as there are slots, and no slot knows of the
others.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from zapq.client.grouping import ungrouped
from zapq.client.lease import Lease
from zapq.client.retry import Retry, passes
from zapq.errors import QueueNotFound, ReceiptExpired, ZapqError
from zapq.limits import EXTENSIONS, NO_QUEUE_PAUSE, SETTLE_SECONDS

log = logging.getLogger("zapq.client")


class Leases(Protocol):
    """What a consumer uses of a client. See `Client`, whose verbs these are."""

    @property
    def retry(self) -> Retry: ...
    async def receive(self, queue: str, *, wait: float = 0.0, visibility: float | None = None) -> Lease | None: ...
    async def ack(self, lease: Lease) -> None: ...
    async def release(self, lease: Lease, *, delay: float = 0.0) -> None: ...
    async def extend(self, lease: Lease, *, visibility: float | None = None) -> None: ...


class HeldLease:
    """A leased message that is kept until it is settled: at the end of its block, or by `ack` or `release`.

    `async with lease:` acknowledges the message when the block ends, and releases it if the block raises or is
    cancelled. If the lease is lost meanwhile, because the server was away for too long or the queue was
    deleted, the block is cancelled and `ReceiptExpired` raised: another consumer has the message, or will have it.
    """

    def __init__(self, client: Leases, lease: Lease) -> None:
        self.lease = lease
        self.lost = False
        """Whether the lease ended before it was settled."""
        self.settling = anyio.Event()
        """Set when a task begins to settle it: then it needs no more extending."""
        self.over = anyio.Event()
        """Set when nothing more will happen to it here."""
        self._client = client
        self._block = anyio.CancelScope()
        self._handling = self._handled()

    @property
    def id(self) -> int:
        """The message's id."""
        return self.lease.id

    @property
    def queue(self) -> str:
        """The queue it came from."""
        return self.lease.queue

    @property
    def receipt(self) -> str:
        """The handle by which the server knows the lease."""
        return self.lease.receipt

    @property
    def receive_count(self) -> int:
        """How often the message has been leased, this time included."""
        return self.lease.receive_count

    @property
    def content_type(self) -> str:
        """The Content-Type its producer gave."""
        return self.lease.content_type

    @property
    def headers(self) -> Mapping[str, str]:
        """What its producer said of it, by name in lower case."""
        return self.lease.headers

    @property
    def group(self) -> str:
        """The group within which messages are delivered in strict order; empty if it is in none."""
        return self.lease.group

    @property
    def origin(self) -> str:
        """The queue its producer sent it to, and its id there: `queue/id`, if it has changed queues since."""
        return self.lease.origin

    @property
    def body(self) -> bytes:
        """The message's bytes."""
        return self.lease.body

    async def ack(self) -> None:
        """Let the message go for good: it was dealt with.

        Raises `ReceiptExpired` if the lease is over, and the errors of `Client.ack`; then the message comes back.
        If cancelled, it goes on for up to 5 s: the work that is done should not be done again.
        """
        self._settle()
        try:
            await self._client.ack(self.lease)
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(SETTLE_SECONDS, shield=True), suppress(ZapqError):
                await self._client.ack(self.lease)
            raise
        finally:
            self.over.set()

    async def release(self, *, delay: float = 0.0) -> None:
        """Give the message back, at its original place, at once or after `delay` seconds (up to a year).

        Raises `ReceiptExpired` if the lease is over, and the errors of `Client.release`; then, as when cancelled,
        the message comes back when its visibility is over.
        """
        self._settle()
        try:
            await self._client.release(self.lease, delay=delay)
        finally:
            self.over.set()

    async def end(self) -> None:
        """Release the message if it is not settled, within 5 s; the block that works on it is cancelled."""
        if self.settling.is_set() or self.lost:
            self.over.set()
            return
        self.lose()
        with anyio.move_on_after(SETTLE_SECONDS, shield=True):
            try:
                await self._client.release(self.lease)
            except ZapqError as error:
                log.warning("message %d of %s was not released: %s", self.id, self.queue, error.detail)
        self.over.set()

    def lose(self) -> None:
        """Take note that the lease is over, unless it is being settled, and cancel the block that works on it."""
        if not self.settling.is_set():
            self.lost = True
            self._block.cancel()

    def __aenter__(self) -> Awaitable[HeldLease]:
        return self._handling.__aenter__()

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Awaitable[bool | None]:
        return self._handling.__aexit__(kind, error, traceback)

    @asynccontextmanager
    async def _handled(self) -> AsyncGenerator[HeldLease, None]:
        try:
            with self._block:
                yield self
        except BaseException:
            with anyio.move_on_after(SETTLE_SECONDS, shield=True):
                await self.end()
            raise
        if not self.settling.is_set():
            await self.ack()

    def _settle(self) -> None:
        if self.lost:
            self.over.set()
            raise ReceiptExpired(queue=self.queue, message_id=self.id)
        self.settling.set()


class Consumer:
    """The messages of a queue, one by one, for one task or several: `async for lease in leases:`.

    Made by `Client.consume`, never by hand.
    """

    def __init__(self, client: Leases, queue: str, concurrency: int, visibility: float, wait: float) -> None:
        self._client = client
        self._queue = queue
        self._visibility = visibility
        self._wait = wait
        self._scopes = [anyio.CancelScope() for _ in range(concurrency)]
        self._failed = False
        # Never holds more than there are slots.
        self._offer, self._offered = anyio.create_memory_object_stream[HeldLease](math.inf)

    def __aiter__(self) -> Consumer:
        return self

    async def __anext__(self) -> HeldLease:
        while True:
            try:
                held = await self._offered.receive()
            except (anyio.EndOfStream, anyio.ClosedResourceError):
                raise StopAsyncIteration from None
            if not held.lost:
                return held
            held.over.set()

    def start(self, group: TaskGroup) -> None:
        """Begin to fetch messages; the tasks of `group` do it until `stop`."""
        for scope in self._scopes:
            group.start_soon(self._run_slot, scope)

    def stop(self) -> None:
        """Fetch nothing more, and release the messages that are not settled."""
        for scope in self._scopes:
            scope.cancel()

    def close(self) -> None:
        """Let tasks that still wait for a message know that none will come."""
        self._offer.close()
        self._offered.close()

    async def _run_slot(self, scope: anyio.CancelScope) -> None:
        with scope:
            while True:
                try:
                    held = HeldLease(self._client, await self._receive())
                except ZapqError:
                    # Every slot is refused the same; once is enough.
                    if self._failed:
                        return
                    self._failed = True
                    raise
                self._offer.send_nowait(held)
                # The task that works on it may be cancelled with us, and settle it in a while: until then we keep
                # it.
                scope.shield = True
                try:
                    await self._keep(held)
                    await held.over.wait()
                finally:
                    with anyio.move_on_after(SETTLE_SECONDS, shield=True):
                        await held.end()
                scope.shield = False

    async def _receive(self) -> Lease:
        """Wait for a message for as long as it takes, through everything that passes."""
        failures = 0
        while True:
            try:
                lease = await self._client.receive(self._queue, wait=self._wait, visibility=self._visibility)
            except QueueNotFound:
                # It was deleted while we waited.
                pause = NO_QUEUE_PAUSE
            except ZapqError as error:
                if not passes(error):
                    raise
                failures += 1
                pause = self._client.retry.pause(error, failures)
                log.warning("cannot receive from %s now: %s", self._queue, error.detail)
            else:
                if lease is not None:
                    return lease
                failures, pause = 0, 0.0
            await anyio.sleep(pause)

    async def _keep(self, held: HeldLease) -> None:
        """Extend a lease until a task begins to settle it, or until it is lost."""
        failures, now = 0, anyio.current_time()
        again, deadline = now + self._visibility / EXTENSIONS, now + self._visibility
        while anyio.current_time() < deadline:
            with anyio.CancelScope(deadline=min(again, deadline)):
                await held.settling.wait()
                return
            now = anyio.current_time()
            with anyio.CancelScope(deadline=deadline):
                try:
                    await self._client.extend(held.lease, visibility=self._visibility)
                except ZapqError as error:
                    if not passes(error):
                        break
                    failures += 1
                    again = anyio.current_time() + self._client.retry.pause(error, failures)
                    log.warning("message %d of %s was not extended: %s", held.id, held.queue, error.detail)
                else:
                    failures = 0
                    again, deadline = now + self._visibility / EXTENSIONS, now + self._visibility
        held.lose()


@asynccontextmanager
async def open_consumer(
    client: Leases, queue: str, concurrency: int, visibility: float, wait: float
) -> AsyncGenerator[Consumer, None]:
    """Yield a consumer, see `Client.consume`; when the block ends, its tasks have ended and nothing is held."""
    consumer = Consumer(client, queue, concurrency, visibility, wait)
    try:
        with ungrouped():
            async with anyio.create_task_group() as group:
                consumer.start(group)
                try:
                    yield consumer
                finally:
                    consumer.stop()
    finally:
        consumer.close()


async def consume_with(
    client: Leases,
    queue: str,
    handler: Callable[[HeldLease], Awaitable[object]],
    concurrency: int,
    visibility: float,
    wait: float,
) -> None:
    """Run `handler` for every message until cancelled, see `Client.consume_with`."""

    async def work(leases: Consumer) -> None:
        async for lease in leases:
            try:
                async with lease:
                    await handler(lease)
            except Exception:
                log.exception("the handler of message %d of %s failed", lease.id, lease.queue)

    async with open_consumer(client, queue, concurrency, visibility, wait) as leases:
        with ungrouped():
            async with anyio.create_task_group() as group:
                for _ in range(concurrency):
                    group.start_soon(work, leases)
