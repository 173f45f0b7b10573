"""The queue as a running service: one lock, one timer, and the hand-over to whoever waits.

Every state change is a synchronous method of the core, run while holding one `trio.Lock`, so the changes
form one sequence that every caller agrees on (linearizability). The async methods wait for the lock and hold it
while they change something. Their `*_nowait` twins do the same if nobody holds it: they contain no checkpoint,
so that no other task could see whether they had taken it, and taking it would be a third of their cost. Nobody
waits for anything while holding it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from zapq.core.message import Message
from zapq.core.queue import Queue, QueueStats
from zapq.errors import Draining, InvalidParameter, MessageTooLarge, QueueFull, SnapshotFailed, TooManyWaiters
from zapq.service import bulk
from zapq.service.step import Step
from zapq.service.waiting import Waiter, WaitingLine
from zapq.settings import MAX_WAIT, Settings
from zapq.store.snapshot import SnapshotStore, snapshot_name


@dataclass(frozen=True, slots=True)
class ServiceStats:
    """What the service holds and has done, as one consistent picture."""

    queue: QueueStats
    dequeues_empty: int
    waiting: int
    draining: bool
    delivery_uncertain: int


class QueueService:
    """A FIFO queue other tasks share. Made and started by `open_service`, never by hand."""

    def __init__(self, settings: Settings, snapshots: SnapshotStore) -> None:
        self._max_message_bytes = settings.max_message_bytes
        self._max_waiters = settings.max_waiters
        self._queue = Queue(max_messages=settings.max_msgs, max_bytes=settings.max_bytes)
        self._snapshots = snapshots
        self._waiting = WaitingLine()
        self._lock = trio.Lock()
        self._step = Step(self._lock)
        self._changed = trio.Event()
        self._draining = False
        self._dequeues_empty = 0
        self._delivery_uncertain = 0

    @property
    def draining(self) -> bool:
        """Whether `drain` was called."""
        return self._draining

    @property
    def empty(self) -> bool:
        """Whether there is no message."""
        return not len(self._queue)

    def enqueue_nowait(self, body: bytes, *, begun: bool = False) -> Message:
        """Store `body` at the end of the queue and return its message; atomic, without a checkpoint.

        `begun` says that receiving it began before `drain`, which then does not refuse it. Raises
        `MessageTooLarge`, `QueueFull` or `Draining`, and `trio.WouldBlock` while another task holds the lock;
        then nothing is stored.
        """
        if self._lock.locked():
            raise trio.WouldBlock
        return self._enqueue(body, begun)

    async def enqueue(self, body: bytes, *, begun: bool = False) -> Message:
        """Store `body` at the end of the queue and return its message.

        `begun` says that receiving it began before `drain`, which then does not refuse it. Raises
        `MessageTooLarge`, `QueueFull` or `Draining`. If cancelled, nothing is stored.
        """
        async with self._step:
            return self._enqueue(body, begun)

    def check_open(self) -> None:
        """Raise `Draining` if `drain` was called."""
        if self._draining:
            raise Draining

    def _enqueue(self, body: bytes, begun: bool) -> Message:
        if self._draining and not begun:
            raise Draining
        if len(body) > self._max_message_bytes:
            raise MessageTooLarge(max_message_bytes=self._max_message_bytes, current=len(body))
        message = self._queue.enqueue(body)
        if self._waiting:
            self._hand_out()
        return message

    def dequeue_nowait(self) -> Message | None:
        """Remove and return the oldest message, or None; atomic, without a checkpoint.

        Raises `Draining` if the service is draining and has nothing left to give, and `trio.WouldBlock`
        while another task holds the lock.
        """
        if self._lock.locked():
            raise trio.WouldBlock
        return self._dequeue()

    async def dequeue(self, *, wait: float = 0.0) -> Message | None:
        """Remove and return the oldest message, waiting up to `wait` seconds (0 to 60) for one; None if none came.

        Waiters are served first come, first served. Raises `Draining` if the service is draining and has
        nothing left to give, `TooManyWaiters`, `InvalidParameter` for a `wait` out of range. If cancelled,
        no message is lost: one that was handed over in the very tick is back at its place before we leave.
        """
        if not 0 <= wait <= MAX_WAIT:
            raise InvalidParameter(
                f"wait={wait} is out of range: give 0 to {MAX_WAIT:g} seconds.", parameter="wait"
            )
        async with self._step:
            if wait == 0 or len(self._queue):
                return self._dequeue()
            waiter = self._join(wait)
        try:
            await waiter.woken.wait()
        except BaseException:
            self._waiting.leave(waiter)
            if waiter.message is not None:
                self.put_back(waiter.message)
            raise
        return self._given(waiter.message)

    def _dequeue(self) -> Message | None:
        return self._given(self._queue.dequeue())

    def _given(self, message: Message | None) -> Message | None:
        if message is None:
            self.check_open()
            self._dequeues_empty += 1
        return message

    def _join(self, wait: float) -> Waiter:
        self.check_open()
        if len(self._waiting) >= self._max_waiters:
            raise TooManyWaiters(limit="max_waiters", current=len(self._waiting))
        before = self._waiting.next_deadline()
        waiter = self._waiting.join(trio.current_time() + wait)
        if waiter.deadline < before:
            self._changed.set()
        return waiter

    def put_back(self, message: Message) -> None:
        """Return a message whose hand-over failed to its original place; never refused, never waits.

        Callers are cleanup paths, which must not wait for a lock. They need not: the lock is only ever held
        over synchronous steps, so a task that runs now sees the queue between two of them.
        """
        self._queue.put_back(message)
        self._hand_out()

    def note_uncertain_delivery(self) -> None:
        """Count a message whose bytes may or may not have reached a client that vanished."""
        self._delivery_uncertain += 1

    def clear_nowait(self) -> int:
        """Drop every message and return how many that were; `trio.WouldBlock` while the lock is held."""
        if self._lock.locked():
            raise trio.WouldBlock
        return len(self._queue.clear())

    async def clear(self) -> int:
        """Drop every message and return how many that were.

        They are gone at once; a worker thread frees their memory, so that other tasks go on. If cancelled
        before they are gone, nothing is dropped.
        """
        async with self._step:
            dropped = self._queue.clear()
        number = len(dropped)
        await _free(dropped)
        return number

    async def snapshot(self, name: str) -> int:
        """Write the queue to the file `name` in the data directory and return the number of messages.

        The copy is taken in one step; encoding, writing and fsync happen in a worker thread, so other tasks
        go on. The file is replaced atomically. Raises `InvalidParameter` for an unsafe name, `SnapshotFailed`
        when it cannot be written. Then, and if cancelled, an older file of that name is as it was.
        """
        name = snapshot_name(name)
        async with self._step:
            bodies = self._queue.bodies()
        await trio.to_thread.run_sync(self._snapshots.save, name, bodies, bulk.cancellable_pause)
        return len(bodies)

    async def restore(self, name: str) -> int:
        """Replace the queue by the content of the file `name` and return the number of messages.

        All or nothing. Raises `InvalidParameter` for an unsafe name, `SnapshotFailed` when the file cannot
        be read, is corrupt or over a cap, and `Draining`. If cancelled, nothing is replaced.
        """
        name = snapshot_name(name)
        self.check_open()
        bodies = await trio.to_thread.run_sync(self._snapshots.load, name, bulk.cancellable_pause)
        async with self._step:
            first = self._queue.reserve(len(bodies))
        messages, size = await trio.to_thread.run_sync(bulk.make, bodies, first)
        number = len(messages)
        async with self._step:
            self.check_open()
            try:
                dropped = self._queue.replace(messages, size)
            except QueueFull as full:
                raise SnapshotFailed(f"{name} holds more than the queue may.", **full.members) from None
            self._hand_out()
        await _free(dropped)
        return number

    def stats(self) -> ServiceStats:
        """Report what the service holds and has done; O(1), never waits."""
        return ServiceStats(
            queue=self._queue.stats(),
            dequeues_empty=self._dequeues_empty,
            waiting=len(self._waiting),
            draining=self._draining,
            delivery_uncertain=self._delivery_uncertain,
        )

    def drain(self) -> None:
        """Refuse new messages from now on and answer everybody who waits; what is held can still be taken."""
        self._draining = True
        self._waiting.dismiss()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be the one timer: do what is due, sleep until the next deadline or a change. Ends when cancelled."""
        task_status.started()
        while True:
            self._waiting.expire(trio.current_time())
            self._changed = trio.Event()
            with trio.move_on_at(self._waiting.next_deadline()):
                await self._changed.wait()

    def _hand_out(self) -> None:
        """Match waiters with messages: the one place where waiting consumers are served."""
        while self._waiting and len(self._queue):
            message = self._queue.dequeue()
            if message is not None:
                self._waiting.serve(message)


async def _free(messages: deque[Message]) -> None:
    # Shielded: what was to be done is done, and a cancellation now must not say that it was not. Bounded by
    # the number of messages, at less than a microsecond each.
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(bulk.free, messages)


@asynccontextmanager
async def open_service(settings: Settings | None = None) -> AsyncGenerator[QueueService, None]:
    """Run a queue for the length of the block: `async with zapq.open_service() as queue:`.

    Opens the data directory (raises `CannotStart` if that is impossible) and starts the service's one timer.
    When the block ends, waiting consumers are answered and the queue, being memory, is gone.
    """
    settings = settings or Settings()
    with SnapshotStore(settings) as snapshots:
        service = QueueService(settings, snapshots)
        async with trio.open_nursery() as nursery:
            await nursery.start(service.run)
            try:
                yield service
            finally:
                service.drain()
                nursery.cancel_scope.cancel()
