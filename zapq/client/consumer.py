"""Consuming: leases that are fetched ahead, kept while handlers work on them, and settled at their end.

Three tasks do it for all leases of a consumer. One asks for as many messages as there is room for; one extends the
leases that need it, and finds those that are lost; and a settler sends what is said of leases, many at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Protocol

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from zapq.client.grouping import ungrouped, uninterrupted
from zapq.client.holding import Held, Holding, acknowledging, log, releasing
from zapq.client.lease import Lease
from zapq.client.polls import Polls
from zapq.client.retry import Retry, passes
from zapq.client.settling import Settler, Settles, Told
from zapq.client.tracing import Tracer
from zapq.core.settlement import Settlement
from zapq.errors import QueueNotFound, ReceiptExpired, ZapqError
from zapq.limits import MAX_RETRY_AFTER, NO_QUEUE_PAUSE, POLL_END_SECONDS, SETTLE_SECONDS


class Leases(Settles, Protocol):
    """What a consumer uses of a client. See `Client`, whose verbs these are."""

    @property
    def retry(self) -> Retry: ...


class Stop(Protocol):
    """An Event of asyncio, Trio or anyio."""

    def wait(self) -> Awaitable[object]:
        """Wait until it is set."""


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
            self._consumer._forget(self, acknowledged=settlement.action == "ack" and error is None)
            done.set()

        self._consumer._settle(self, settlement, told)
        await done.wait()
        if refusals:
            raise refusals[0].anew()

    def _told(self, done: str, error: ZapqError | None) -> None:
        if error is not None:
            log.warning("message %d of %s was not %s: %s", self.id, self.queue, done, error.detail)
        self._consumer._forget(self, acknowledged=done == "acknowledged" and error is None)


class Consumer:
    """The messages of a queue, one by one, for one task or several: `async for lease in leases:`.

    Made by `Client.consume`, never by hand.
    """

    def __init__(
        self,
        client: Leases,
        polls: Polls,
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
        self._polls = polls
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
        # `stop` ends both. What cancels the block must not cut off a poll that may have been given messages.
        self._fetching, self._serving = (anyio.CancelScope(shield=True) for _ in range(2))
        self._fetched = anyio.Event()
        """Set when no more messages will come."""

    def __aiter__(self) -> Consumer:
        return self

    async def __anext__(self) -> HeldLease:
        await anyio.lowlevel.checkpoint()
        return await self._take()

    def stop_fetching(self) -> None:
        """Take no more messages, so that a program can end when the work it has begun is done.

        Loops over this consumer end. Messages that were not handed out yet are released at once; the others are
        kept until they are settled.
        """
        self._stopping = True
        if not self._polls.end():
            self._fetching.cancel()
        self._give_back_ready()
        self._wake(len(self._idle))

    async def _take(self) -> HeldLease:
        """Return the next message, of those that are here without a checkpoint; if cancelled, none is taken."""
        while True:
            if self._holding.ready and not self._stopping:
                held = self._holding.take()
                self._make_room()
                return held
            if self._stopping:
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

    def _forget(self, held: HeldLease, *, acknowledged: bool) -> None:
        """Hold a lease no longer."""
        if held in self._holding.held:
            self._release(self._holding.finish(held, acknowledged=acknowledged))
            self._wake(len(self._holding.ready))
            self._made_room()

    def _lose(self, held: HeldLease) -> None:
        """Take note that a lease is over, and cancel the block that works on it."""
        if held._settling:
            return
        behind = self._holding.lose(held)
        if held._block is not None:
            log.warning("the lease of message %d of %s is lost", held.id, held.queue)
            held._block.cancel()
        self._release(behind)
        self._made_room()

    def _release(self, waiting: list[HeldLease]) -> None:
        """Release messages that no task has."""
        for held in waiting:
            held._give_back()

    def _made_room(self) -> None:
        self._make_room()
        if not self._holding.held:
            self._empty.set()

    def start(self, group: TaskGroup) -> None:
        """Begin to fetch messages; the tasks of `group` do it until `stop`."""
        group.start_soon(uninterrupted(self._fetch))
        group.start_soon(uninterrupted(self._serve))

    async def stop(self) -> None:
        """Fetch nothing more, and release the messages that are not settled, within 5 s."""
        self._stopping = True
        answered = self._polls.end()
        try:
            with anyio.move_on_after(SETTLE_SECONDS, shield=True):
                if answered:
                    with anyio.move_on_after(POLL_END_SECONDS):
                        await self._fetched.wait()
                self._fetching.cancel()
                await self._fetched.wait()
                self._holding.take_back()
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
                group.start_soon(uninterrupted(self._keep))
                group.start_soon(uninterrupted(self._settler.run))

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
                    try:
                        leases = await self._polls.receive_many(
                            self._queue,
                            self._holding.room(),
                            wait=self._wait,
                            visibility=self._holding.visibility,
                        )
                    except QueueNotFound:
                        # It was deleted while we waited.
                        pause = NO_QUEUE_PAUSE
                    except ZapqError as error:
                        if self._polls.ended:
                            return
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
                    if not self._polls.ended:
                        await anyio.sleep(pause)
        finally:
            self._fetched.set()
            self._polls.close()

    def _hold(self, leases: list[Lease]) -> None:
        now = anyio.current_time()
        for lease in leases:
            self._holding.add(HeldLease(self, lease), now)
        if self._stopping:
            self._give_back_ready()
        else:
            self._wake(len(leases))

    def _give_back_ready(self) -> None:
        """Release the messages that no task has."""
        self._release(self._holding.take_back())
        self._settler.hurry()

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
    polls: Polls,
    queue: str,
    concurrency: int,
    prefetch: int,
    visibility: float,
    wait: float,
    tracer: Tracer | None,
) -> AsyncGenerator[Consumer, None]:
    """Yield a consumer, see `Client.consume`; when the block ends, its tasks have ended and nothing is held."""
    consumer = Consumer(client, polls, queue, concurrency, prefetch, visibility, wait, tracer)
    with ungrouped():
        async with anyio.create_task_group() as group:
            consumer.start(group)
            try:
                yield consumer
            finally:
                await consumer.stop()  # noqa: ASYNC102 - shielded and bounded inside


async def consume_with(
    client: Leases,
    polls: Polls,
    queue: str,
    handler: Callable[[HeldLease], Awaitable[object]],
    concurrency: int,
    prefetch: int,
    visibility: float,
    wait: float,
    tracer: Tracer | None,
    stop: Stop | None,
) -> None:
    """Run `handler` for every message until cancelled or `stop` is set, see `Client.consume_with`."""
    handle = handler if tracer is None else tracer.around(handler)

    async def end_well(stop: Stop) -> None:
        await stop.wait()
        leases.stop_fetching()

    async def work() -> None:
        while True:
            # A scope for each message would cost more than all else: this one lasts until a lease is lost.
            with anyio.CancelScope() as scope:
                while not scope.cancel_called:
                    try:
                        lease = await leases._take()
                    except StopAsyncIteration:
                        return
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

    async with open_consumer(client, polls, queue, concurrency, prefetch, visibility, wait, tracer) as leases:
        with ungrouped():
            async with anyio.create_task_group() as watch:
                if stop is not None:
                    watch.start_soon(end_well, stop)
                with ungrouped():
                    async with anyio.create_task_group() as group:
                        for _ in range(concurrency):
                            group.start_soon(work)
                watch.cancel_scope.cancel()
