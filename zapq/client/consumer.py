"""Consuming: leases that are fetched ahead, kept while handlers work on them, and settled at their end.

Three tasks do it for all leases of a consumer. One asks for as many messages as there is room for; one extends the
leases that need it, and finds those that are lost; and a settler sends what is said of leases, many at a time.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Protocol

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from zapq.client.grouping import ungrouped
from zapq.client.lease import Lease
from zapq.client.retry import Retry, passes
from zapq.client.settling import Settler, Settles, Told
from zapq.core.settlement import Settlement
from zapq.errors import InvalidParameter, QueueNotFound, ReceiptExpired, ZapqError
from zapq.limits import EXTENSIONS, MAX_BATCH, MAX_DELAY, NO_QUEUE_PAUSE, SETTLE_SECONDS

log = logging.getLogger("zapq.client")


class Leases(Settles, Protocol):
    """What a consumer uses of a client. See `Client`, whose verbs these are."""

    @property
    def retry(self) -> Retry: ...
    async def receive_many(
        self, queue: str, limit: int = MAX_BATCH, *, wait: float = 0.0, visibility: float | None = None
    ) -> list[Lease]: ...


class HeldLease:
    """A leased message that is kept until it is settled: at the end of its block, or by `ack` or `release`.

    `async with lease:` acknowledges the message when the block ends, and releases it if the block raises or is
    cancelled. If the lease is lost meanwhile, because the server was away for too long or the queue was
    deleted, the block is cancelled and `ReceiptExpired` raised: another consumer has the message, or will have it.
    """

    __slots__ = (
        "_again",
        "_block",
        "_consumer",
        "_deadline",
        "_failures",
        "_handed",
        "_settling",
        "lease",
        "lost",
    )

    def __init__(self, consumer: Consumer, lease: Lease) -> None:
        self.lease = lease
        self.lost = False
        """Whether the lease ended before it was settled."""
        self._settling = False
        """Whether it is being settled, or is: then it needs no more extending."""
        self._handed = False
        """Whether a task has it."""
        self._block: anyio.CancelScope | None = None
        """The scope that is cancelled when the lease is lost."""
        self._again = self._deadline = math.inf
        """When it is to be extended, and when it is over if it was not."""
        self._failures = 0
        """How often extending it has failed in a row."""
        self._consumer = consumer

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

        Raises `ReceiptExpired` if the lease is over, and the errors of `Client.settle`; then the message comes
        back. If cancelled, it is still acknowledged: the work that is done should not be done again.
        """
        await self._settle(Settlement(receipt=self.lease.receipt))

    async def release(self, *, delay: float = 0.0) -> None:
        """Give the message back, at its original place, at once or after `delay` seconds (up to a year).

        Raises `ReceiptExpired` if the lease is over, and the errors of `Client.settle`; then the message comes
        back when its visibility is over. If cancelled, it is still released.
        """
        # A batch with one that is wrong is refused as a whole.
        if not 0 <= delay <= MAX_DELAY:
            raise InvalidParameter(f"delay must be 0 to {MAX_DELAY:.0f} seconds.", parameter="delay")
        await self._settle(Settlement(receipt=self.lease.receipt, action="release", delay=delay))

    def _finish(self) -> None:
        """Have the message acknowledged, unless it is settled or lost, without waiting for it."""
        if not (self._settling or self.lost):
            settlement = Settlement(receipt=self.lease.receipt)
            self._consumer._settle(self, settlement, partial(self._told, "acknowledged"))

    def _give_back(self) -> None:
        """Have the message released, unless it is settled or lost, without waiting for it."""
        if not (self._settling or self.lost):
            settlement = Settlement(receipt=self.lease.receipt, action="release")
            self._consumer._settle(self, settlement, partial(self._told, "released"))

    async def __aenter__(self) -> HeldLease:
        self._block = anyio.CancelScope()
        self._block.__enter__()
        if self.lost:
            self._block.cancel()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        block, self._block = self._block, None
        assert block is not None, "it was entered"
        try:
            caught = block.__exit__(kind, error, traceback)
        except BaseException:
            self._give_back()
            raise
        if error is not None and not caught:
            self._give_back()
        elif self.lost or not self._settling:
            await self.ack()  # noqa: ASYNC102 - the block ended well: cancelled here, the message comes back

    async def _settle(self, settlement: Settlement) -> None:
        if self.lost or self._consumer._closed:
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
        self, client: Leases, queue: str, concurrency: int, prefetch: int, visibility: float, wait: float
    ) -> None:
        if concurrency < 1 or prefetch < 0:
            raise InvalidParameter(
                "concurrency must be 1 or more, and prefetch 0 or more.", parameter="concurrency"
            )
        if not visibility > 0:
            raise InvalidParameter("visibility must be more than 0.", parameter="visibility")
        self._closed = False
        self._client = client
        self._queue = queue
        self._visibility = visibility
        self._wait = wait
        self._limit = concurrency + prefetch
        self._settler = Settler(client, queue)
        self._held: dict[HeldLease, None] = {}
        """Those that are neither settled nor lost, in the order in which they came."""
        self._ready: deque[HeldLease] = deque()
        """Those of them that no task has yet."""
        self._idle: deque[anyio.Event] = deque()
        """Has an event for each task that waits for a message."""
        self._busy = 0
        """How many leases tasks have that are neither being settled nor lost."""
        self._room: anyio.Event | None = None
        """Set when there is room for more, if that is waited for."""
        self._empty = anyio.Event()
        """Set, once the consumer ends, when nothing is held."""
        self._failed = anyio.Event()
        """Set when extending a lease has failed: it is to be tried again soon."""
        self._fetching, self._serving = anyio.CancelScope(), anyio.CancelScope(shield=True)
        self._fetched = anyio.Event()
        """Set when no more messages will come."""

    def __aiter__(self) -> Consumer:
        return self

    async def __anext__(self) -> HeldLease:
        await anyio.lowlevel.checkpoint()
        return await self._take()

    async def _take(self) -> HeldLease:
        """Return the next message, of those that are here without a checkpoint; if cancelled, none is taken."""
        while True:
            if self._ready:
                held = self._ready.popleft()
                held._handed = True
                self._busy += 1
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
        if not held._settling:
            held._settling = True
            self._busy -= held._handed
        self._settler.add(settlement, told)
        # Nothing that could go with it is under way.
        if not self._busy:
            self._settler.hurry()

    def _forget(self, held: HeldLease) -> None:
        """Hold a lease no longer."""
        if self._held.pop(held, held) is None:
            self._make_room()
            if not self._held:
                self._empty.set()

    def _lose(self, held: HeldLease) -> None:
        """Take note that a lease is over, and cancel the block that works on it."""
        held.lost = True
        if held._handed:
            self._busy -= 1
        else:
            self._ready.remove(held)
        if held._block is not None:
            log.warning("the lease of message %d of %s is lost", held.id, held.queue)
            held._block.cancel()
        self._forget(held)

    def start(self, group: TaskGroup) -> None:
        """Begin to fetch messages; the tasks of `group` do it until `stop`."""
        group.start_soon(self._fetch)
        group.start_soon(self._serve)

    async def stop(self) -> None:
        """Fetch nothing more, and release the messages that are not settled, within 5 s."""
        self._fetching.cancel()
        try:
            with anyio.move_on_after(SETTLE_SECONDS, shield=True):
                await self._fetched.wait()
                self._ready.clear()
                for held in list(self._held):
                    if not held._settling:
                        self._abandon(held)
                self._settler.hurry()
                if self._held:
                    self._empty = anyio.Event()
                    await self._empty.wait()
        finally:
            # Also if asyncio cancels us once more, which no shield keeps off.
            self._closed = True
            self._serving.cancel()
            self._settler.give_up()
            self._wake(len(self._idle))

    def _abandon(self, held: HeldLease) -> None:
        """Release a message; the block that works on it is cancelled."""
        held._give_back()
        held.lost = True
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
                while True:
                    if not self._has_room():
                        self._room = anyio.Event()
                        await self._room.wait()
                        self._room = None
                    pause = 0.0
                    try:
                        limit = min(self._limit - len(self._held), MAX_BATCH)
                        leases = await self._client.receive_many(
                            self._queue, limit, wait=self._wait, visibility=self._visibility
                        )
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
                        failures = 0
                        self._hold(leases)
                        if leases:
                            continue
                    await anyio.sleep(pause)
        finally:
            self._fetched.set()

    def _hold(self, leases: list[Lease]) -> None:
        now = anyio.current_time()
        for lease in leases:
            held = HeldLease(self, lease)
            held._again, held._deadline = now + self._visibility / EXTENSIONS, now + self._visibility
            self._held[held] = None
            self._ready.append(held)
        self._wake(len(leases))

    def _wake(self, number: int) -> None:
        for _ in range(min(number, len(self._idle))):
            self._idle.popleft().set()

    def _has_room(self) -> bool:
        # One that is taken from many that are ready is no reason to ask for one more.
        return len(self._held) < self._limit and len(self._ready) <= self._limit // 2

    def _make_room(self) -> None:
        if self._room is not None and self._has_room():
            self._room.set()

    async def _keep(self) -> None:
        """Extend each lease at a third of its visibility until it is settled, and take note of those lost."""
        while True:
            now = anyio.current_time()
            # What comes meanwhile need not be extended before.
            next_look = now + self._visibility / EXTENSIONS
            self._failed = anyio.Event()
            for held in list(self._held):
                if held._settling:
                    continue
                if held._deadline <= now:
                    self._lose(held)
                    continue
                if held._again <= now:
                    held._again = math.inf
                    extension = Settlement(receipt=held.receipt, action="extend", visibility=self._visibility)
                    self._settler.add(extension, partial(self._extended, held, now))
                next_look = min(next_look, held._again, held._deadline)
            with anyio.CancelScope(deadline=next_look):
                await self._failed.wait()

    def _extended(self, held: HeldLease, since: float, error: ZapqError | None) -> None:
        if held._settling or held.lost:
            return
        if error is None:
            held._failures = 0
            held._again, held._deadline = since + self._visibility / EXTENSIONS, since + self._visibility
        elif passes(error):
            held._failures += 1
            held._again = anyio.current_time() + self._client.retry.pause(error, held._failures)
            log.warning("message %d of %s was not extended: %s", held.id, held.queue, error.detail)
        else:
            self._lose(held)
        self._failed.set()


@asynccontextmanager
async def open_consumer(
    client: Leases, queue: str, concurrency: int, prefetch: int, visibility: float, wait: float
) -> AsyncGenerator[Consumer, None]:
    """Yield a consumer, see `Client.consume`; when the block ends, its tasks have ended and nothing is held."""
    consumer = Consumer(client, queue, concurrency, prefetch, visibility, wait)
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
) -> None:
    """Run `handler` for every message until cancelled, see `Client.consume_with`."""

    async def work() -> None:
        while True:
            # A scope for each message would cost more than all else: this one lasts until a lease is lost.
            with anyio.CancelScope() as scope:
                while not scope.cancel_called:
                    lease = await leases._take()
                    lease._block = scope
                    try:
                        await handler(lease)
                    except Exception:
                        log.exception("the handler of message %d of %s failed", lease.id, lease.queue)
                        lease._give_back()
                    except BaseException:
                        lease._give_back()
                        raise
                    else:
                        lease._finish()
                    lease._block = None

    async with open_consumer(client, queue, concurrency, prefetch, visibility, wait) as leases:
        with ungrouped():
            async with anyio.create_task_group() as group:
                for _ in range(concurrency):
                    group.start_soon(work)
