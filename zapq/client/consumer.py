"""Consuming: leases that are fetched ahead, kept while handlers work on them, and settled at their end.

Three tasks do it for all leases of a consumer. One asks for as many messages as there is room for; one extends the
leases that need it, and finds those that are lost; and a settler sends what is said of leases, many at a time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Protocol

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from zapq.client.grouping import ungrouped
from zapq.client.holding import Held, Holding, acknowledging, log, releasing
from zapq.client.lease import Lease
from zapq.client.retry import Retry, passes
from zapq.client.settling import Settler, Settles, Told
from zapq.client.tracing import Tracer
from zapq.core.settlement import Settlement
from zapq.errors import QueueNotFound, ReceiptExpired, ZapqError
from zapq.limits import FETCH_SECONDS, MAX_BATCH, MAX_RETRY_AFTER, NO_QUEUE_PAUSE, SETTLE_SECONDS


class Leases(Settles, Protocol):
    """What a consumer uses of a client. See `Client`, whose verbs these are."""

    @property
    def retry(self) -> Retry: ...
    async def receive_many(
        self, queue: str, limit: int = MAX_BATCH, *, wait: float = 0.0, visibility: float | None = None
    ) -> list[Lease]: ...


class HeldLease(Held):
    """A leased message that is kept until it is settled: at the end of its block, or by `ack` or `release`.

    `async with lease:` acknowledges the message when the block ends, and releases it if the block raises or is
    cancelled. If the lease is lost meanwhile, because the server was away for too long or the queue was
    deleted, the block is cancelled and `ReceiptExpired` raised: another consumer has the message, or will have it.
    """

    __slots__ = ("_block", "_consumer")

    def __init__(self, consumer: Consumer, lease: Lease) -> None:
        super().__init__(lease)
        self._block: anyio.CancelScope | None = None
        """The scope that is cancelled when the lease is lost."""
        self._consumer = consumer

    async def ack(self) -> None:
        """Let the message go for good: it was dealt with.

        Raises `ReceiptExpired` if the lease is over, and the errors of `Client.settle`; then the message comes
        back. If cancelled, it is still acknowledged: the work that is done should not be done again.
        """
        await self._settle(acknowledging(self))

    async def release(self, *, delay: float = 0.0) -> None:
        """Give the message back, at its original place, at once or after `delay` seconds (up to a year).

        Raises `ReceiptExpired` if the lease is over, and the errors of `Client.settle`; then the message comes
        back when its visibility is over. If cancelled, it is still released.
        """
        await self._settle(releasing(self, delay))

    def _finish(self) -> None:
        """Have the message acknowledged, unless it is settled or lost, without waiting for it."""
        if not (self._settling or self._lost):
            self._consumer._settle(self, acknowledging(self), partial(self._told, "acknowledged"))

    def _give_back(self) -> None:
        """Have the message released, unless it is settled or lost, without waiting for it."""
        if not (self._settling or self._lost):
            self._consumer._settle(self, releasing(self), partial(self._told, "released"))

    async def __aenter__(self) -> HeldLease:
        self._block = anyio.CancelScope()
        self._block.__enter__()
        if self._lost:
            self._block.cancel()
        tracer = self._consumer._tracer
        if tracer is not None and self._processing is None:
            tracer.begin(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._processing is not None:
            self._processing.end(error)
        block, self._block = self._block, None
        assert block is not None, "it was entered"
        try:
            caught = block.__exit__(kind, error, traceback)
        except BaseException:
            self._give_back()
            raise
        if error is not None and not caught:
            self._give_back()
        elif self._lost or not self._settling:
            await self.ack()  # noqa: ASYNC102 - the block ended well: cancelled here, the message comes back

    async def _settle(self, settlement: Settlement) -> None:
        if self._lost or self._consumer._closed:
            raise ReceiptExpired(queue=self.queue, message_id=self.id)
        done = anyio.Event()
        refusals: list[ZapqError] = []

        def told(error: ZapqError | None) -> None:
            if error is not None:
                refusals.append(error)
            self._consumer._forget(self)
            done.set()

        self._consumer._settle(self, settlement, told)
        await done.wait()
        if refusals:
            raise refusals[0].anew()

    def _told(self, done: str, error: ZapqError | None) -> None:
        if error is not None:
            log.warning("message %d of %s was not %s: %s", self.id, self.queue, done, error.detail)
        self._consumer._forget(self)


class Consumer:
    """The messages of a queue, one by one, for one task or several: `async for lease in leases:`.

    Made by `Client.consume`, never by hand.
    """

    def __init__(
        self,
        client: Leases,
        queue: str,
        concurrency: int,
        prefetch: int,
        visibility: float,
        wait: float,
        tracer: Tracer | None,
    ) -> None:
        self._holding = Holding[HeldLease](concurrency, prefetch, visibility)
        self._stopping = False
        """Whether nothing more is fetched or handed out ..."""
        self._closed = False
        """... and, after that, nothing more is settled."""
        self._client = client
        self._queue = queue
        self._wait = wait
        self._tracer = tracer
        self._settler = Settler(client, queue)
        self._idle: deque[anyio.Event] = deque()
        """Has an event for each task that waits for a message."""
        self._room: anyio.Event | None = None
        """Set when there is room for more, if that is waited for."""
        self._empty = anyio.Event()
        """Set, once the consumer ends, when nothing is held."""
        self._failed = anyio.Event()
        """Set when extending a lease has failed: it is to be tried again soon."""
        self._fetching, self._serving = anyio.CancelScope(), anyio.CancelScope(shield=True)
        self._asked = -math.inf
        """When it asked for messages, while it waits for the answer."""
        self._fetched = anyio.Event()
        """Set when no more messages will come."""

    def __aiter__(self) -> Consumer:
        return self

    async def __anext__(self) -> HeldLease:
        await anyio.lowlevel.checkpoint()
        return await self._take()

    def _stop_fetching(self) -> None:
        """Ask the server for no more messages; those that are here are still handed out, and kept."""
        self._fetching.cancel()

    async def _take(self) -> HeldLease:
        """Return the next message, of those that are here without a checkpoint; if cancelled, none is taken."""
        while True:
            if self._holding.ready and not self._stopping:
                held = self._holding.take()
                self._make_room()
                return held
            if self._closed:
                raise StopAsyncIteration
            turn = anyio.Event()
            self._idle.append(turn)
            try:
                await turn.wait()
            except BaseException:
                if turn.is_set():
                    self._wake(1)
                else:
                    self._idle.remove(turn)
                raise

    def _settle(self, held: HeldLease, settlement: Settlement, told: Told) -> None:
        """Have a lease settled; `told` hears what became of it, and calls `_forget`."""
        alone = self._holding.settle(held)
        self._settler.add(settlement, told)
        if alone:
            self._settler.hurry()

    def _forget(self, held: HeldLease) -> None:
        """Hold a lease no longer."""
        if self._holding.held.pop(held, held) is None:
            self._made_room()

    def _lose(self, held: HeldLease) -> None:
        """Take note that a lease is over, and cancel the block that works on it."""
        self._holding.lose(held)
        if held._block is not None:
            log.warning("the lease of message %d of %s is lost", held.id, held.queue)
            held._block.cancel()
        self._made_room()

    def _made_room(self) -> None:
        self._make_room()
        if not self._holding.held:
            self._empty.set()

    def start(self, group: TaskGroup) -> None:
        """Begin to fetch messages; the tasks of `group` do it until `stop`."""
        group.start_soon(self._fetch)
        group.start_soon(self._serve)

    async def stop(self) -> None:
        """Fetch nothing more, and release the messages that are not settled, within 5 s."""
        self._stopping = True
        try:
            with anyio.move_on_after(SETTLE_SECONDS, shield=True):
                with anyio.CancelScope(deadline=self._asked + FETCH_SECONDS):
                    await self._fetched.wait()
                self._fetching.cancel()
                await self._fetched.wait()
                self._holding.ready.clear()
                for held in list(self._holding.held):
                    if not held._settling:
                        self._abandon(held)
                self._settler.hurry()
                if self._holding.held:
                    self._empty = anyio.Event()
                    await self._empty.wait()
        finally:
            # Also if asyncio cancels us once more, which no shield keeps off.
            self._closed = True
            self._fetching.cancel()
            self._serving.cancel()
            self._settler.give_up()
            self._wake(len(self._idle))

    def _abandon(self, held: HeldLease) -> None:
        """Release a message; the block that works on it is cancelled."""
        held._give_back()
        held._lost = True
        if held._block is not None:
            held._block.cancel()

    async def _serve(self) -> None:
        # Blocks may go on while they are cancelled: until they end, their leases are kept.
        with self._serving:
            async with anyio.create_task_group() as group:
                group.start_soon(self._keep)
                group.start_soon(self._settler.run)

    async def _fetch(self) -> None:
        """Ask for as many messages as there is room for, through everything that passes."""
        failures = 0
        try:
            with self._fetching:
                while not self._stopping:
                    if self._holding.room() < 1:
                        self._room = anyio.Event()
                        await self._room.wait()
                        self._room = None
                    pause = 0.0
                    self._asked = anyio.current_time()
                    try:
                        leases = await self._client.receive_many(
                            self._queue,
                            self._holding.room(),
                            wait=self._wait,
                            visibility=self._holding.visibility,
                        )
                    except QueueNotFound:
                        # It was deleted while we waited.
                        pause = NO_QUEUE_PAUSE
                    except ZapqError as error:
                        if not passes(error):
                            raise
                        failures += 1
                        pause = min(self._client.retry.pause(error, failures), MAX_RETRY_AFTER)
                        log.warning("cannot receive from %s now: %s", self._queue, error.detail)
                    else:
                        failures = 0
                        self._hold(leases)
                        if leases:
                            continue
                    finally:
                        self._asked = -math.inf
                    await anyio.sleep(pause)
        finally:
            self._fetched.set()

    def _hold(self, leases: list[Lease]) -> None:
        now = anyio.current_time()
        for lease in leases:
            self._holding.add(HeldLease(self, lease), now)
        self._wake(len(leases))

    def _wake(self, number: int) -> None:
        for _ in range(min(number, len(self._idle))):
            self._idle.popleft().set()

    def _make_room(self) -> None:
        if self._room is not None and self._holding.room() > 0:
            self._room.set()

    async def _keep(self) -> None:
        """Extend each lease at a third of its visibility until it is settled, and take note of those lost."""
        while True:
            now = anyio.current_time()
            self._failed = anyio.Event()
            lost, extensions, next_look = self._holding.due(now)
            for held in lost:
                self._lose(held)
            for held, extension in extensions:
                self._settler.add(extension, partial(self._extended, held, now))
            with anyio.CancelScope(deadline=next_look):
                await self._failed.wait()

    def _extended(self, held: HeldLease, since: float, error: ZapqError | None) -> None:
        if self._holding.extended(held, since, anyio.current_time(), error, self._client.retry):
            self._lose(held)
        self._failed.set()


@asynccontextmanager
async def open_consumer(
    client: Leases,
    queue: str,
    concurrency: int,
    prefetch: int,
    visibility: float,
    wait: float,
    tracer: Tracer | None,
) -> AsyncGenerator[Consumer, None]:
    """Yield a consumer, see `Client.consume`; when the block ends, its tasks have ended and nothing is held."""
    consumer = Consumer(client, queue, concurrency, prefetch, visibility, wait, tracer)
    with ungrouped():
        async with anyio.create_task_group() as group:
            consumer.start(group)
            try:
                yield consumer
            finally:
                await consumer.stop()  # noqa: ASYNC102 - shielded and bounded inside


async def consume_with(
    client: Leases,
    queue: str,
    handler: Callable[[HeldLease], Awaitable[object]],
    concurrency: int,
    prefetch: int,
    visibility: float,
    wait: float,
    tracer: Tracer | None,
) -> None:
    """Run `handler` for every message until cancelled, see `Client.consume_with`."""
    handle = handler if tracer is None else tracer.around(handler)

    async def work() -> None:
        while True:
            # A scope for each message would cost more than all else: this one lasts until a lease is lost.
            with anyio.CancelScope() as scope:
                while not scope.cancel_called:
                    lease = await leases._take()
                    lease._block = scope
                    try:
                        await handle(lease)
                    except Exception:
                        log.exception("the handler of message %d of %s failed", lease.id, lease.queue)
                        lease._give_back()
                    except BaseException:
                        lease._give_back()
                        raise
                    else:
                        lease._finish()
                    lease._block = None

    async with open_consumer(client, queue, concurrency, prefetch, visibility, wait, tracer) as leases:
        with ungrouped():
            async with anyio.create_task_group() as group:
                for _ in range(concurrency):
                    group.start_soon(work)
