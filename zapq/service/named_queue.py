"""One queue of a running service: its verbs, for Trio programs and for the HTTP side alike.

The async methods wait for the service's lock and hold it while they change something. Their `*_nowait` twins do
the same if no task holds it: they contain no checkpoint, so that no other task could see whether they had taken
it, and taking it would be a third of their cost. All logic is in the synchronous half.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from math import inf
from typing import Annotated, Literal, NamedTuple, Protocol

import msgspec
import trio

from zapq.core.broker import Broker, Redriven
from zapq.core.idempotency import Keys
from zapq.core.message import CONTENT_TYPE, DEFAULTS, OCTETS, Draft, Lease, Message, Properties
from zapq.core.queue import Queue
from zapq.core.queue_settings import QueueSettings
from zapq.core.runs import is_shortest
from zapq.core.stats import MessageView, QueueStats, State
from zapq.errors import (
    Draining,
    InvalidParameter,
    MessageTooLarge,
    NotDurable,
    QueueNotFound,
    ReceiptExpired,
    StorageUnavailable,
    ZapqError,
)
from zapq.limits import MAX_BATCH, MAX_DELAY, MAX_PRIORITY, MAX_VISIBILITY, MAX_WAIT, RECEIVE_BYTES
from zapq.service import bulk
from zapq.service.dispatch import Dispatcher
from zapq.service.reservation import Reservation
from zapq.service.section import Section
from zapq.service.waiting import Deliveries, Waiter, WaitQueue, Want

_CONTENT_TYPE = re.compile(CONTENT_TYPE)
Action = Literal["ack", "release", "extend"]
Durability = Literal["committed", "memory"]
"""Whether an accepted message survives a crash (`committed`) or not (`memory`)."""


class Settlement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One lease and what to do with it: acknowledge, release or extend. Durations are seconds."""

    receipt: str
    action: Action = "ack"
    delay: Annotated[float, msgspec.Meta(ge=0, le=MAX_DELAY)] = 0.0
    """For a release."""
    visibility: Annotated[float, msgspec.Meta(ge=0, le=MAX_VISIBILITY)] | None = None
    """For an extension; None: for as long as the lease was given."""


class Accepted(NamedTuple):
    """The answer to an enqueue."""

    id: int
    """The message's; of a batch, that of the first."""
    replayed: bool
    """Whether it was stored before, under the same key: then nothing was stored now."""


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """One queue as one consistent picture."""

    name: str
    settings: QueueSettings
    stats: QueueStats
    paused: bool
    waiting: int


class Shared(Protocol):
    """What a queue uses of the service it belongs to, and has in common with the other queues."""

    @property
    def lock(self) -> trio.Lock: ...
    @property
    def section(self) -> Section: ...
    @property
    def dispatcher(self) -> Dispatcher: ...
    @property
    def broker(self) -> Broker: ...
    @property
    def keys(self) -> Keys: ...
    @property
    def max_message_bytes(self) -> int: ...
    async def stored(self) -> None: ...
    def note_uncertain_delivery(self, number: int = 1) -> None: ...


class NamedQueue:
    """One queue of a service, until it is deleted. Made by `QueueService.queue`, never by hand.

    All verbs raise `QueueNotFound` once it is deleted, also if a new one has its name by then. None of them lets a
    cancellation lose a message: a cancelled call has changed nothing, unless its docstring says otherwise.
    """

    def __init__(self, service: Shared, core: Queue) -> None:
        self._service = service
        self._core = core
        self._wait_queue = WaitQueue()
        self._lock = service.lock
        self._section = service.section
        self._max_message_bytes = service.max_message_bytes
        self._dispatcher = service.dispatcher
        self._waiting_room = service.dispatcher.waiting_room
        self._deleted = False
        self.users = 0
        """Blocks of `QueueService.provisional_queue` it is open in."""
        self.provisional = False
        """Whether it was made for such a block, and is to go if it stays unused."""

    @property
    def name(self) -> str:
        """The queue's name."""
        return self._core.name

    def use_section(self, section: Section) -> None:
        """Change things in `section` from now on."""
        self._section = section

    @property
    def available(self) -> bool:
        """Whether a consumer would get a message now."""
        return self._core.available

    def enqueue_nowait(
        self,
        body: bytes,
        *,
        priority: int = 0,
        delay: float = 0.0,
        ttl: float | None = None,
        content_type: str = OCTETS,
        exempt_from_drain: bool = False,
    ) -> Message:
        """Store a message and return it; atomic, without a checkpoint. See `enqueue`.

        Also raises `trio.WouldBlock` while another task holds the lock; then nothing is stored.
        """
        now = trio.current_time()
        properties = _properties(now, priority, delay, ttl, content_type)
        if self._lock.locked():
            raise trio.WouldBlock
        return self._enqueue(body, properties, delay, exempt_from_drain, now)

    async def enqueue(
        self,
        body: bytes,
        *,
        priority: int = 0,
        delay: float = 0.0,
        ttl: float | None = None,
        content_type: str = OCTETS,
        exempt_from_drain: bool = False,
        durability: Durability | None = None,
        reserved: Reservation | None = None,
    ) -> Message:
        """Store a message at the end of its priority (9 is served first) and return it.

        It is ready after `delay` seconds, and gone after `ttl` seconds unless a consumer has it then.
        `exempt_from_drain` says that receiving it began before `drain`, which then does not refuse it. Storing it
        releases what was `reserved` for it meanwhile. With `durability="memory"` a durable service does
        not wait for the disk, as it does otherwise. Raises `MessageTooLarge`, `QueueFull`, `Draining`,
        `InvalidParameter` for a value out of range, and `NotDurable` for `durability="committed"` in memory. If
        cancelled, nothing is stored.
        """
        now = trio.current_time()
        properties = _properties(now, priority, delay, ttl, content_type)
        async with self._section:
            with self._asked_for(durability):
                _release(reserved)
                return self._enqueue(body, properties, delay, exempt_from_drain, now)

    async def enqueue_once(
        self,
        key: str,
        draft: Draft,
        *,
        exempt_from_drain: bool = False,
        durability: Durability | None = None,
        reserved: Reservation | None = None,
    ) -> Accepted:
        """Store a message unless `key` was used for it before; then return the id it had.

        A key is kept for 300 s, or until 100,000 newer ones have come. Raises `KeyReused` if it was used for
        another message, and the errors of `enqueue`; then the key is as before.
        """

        def store(now: float) -> int:
            _release(reserved)
            return self._enqueue_draft(draft, exempt_from_drain, now)

        return await self._once(key, _fingerprint(draft), store, durability)

    def enqueue_once_nowait(self, key: str, draft: Draft, *, now: float | None = None) -> Accepted:
        """Store a message unless `key` was used for it before; atomic, without a checkpoint. See `enqueue_once`.

        `now` is Trio's time, for callers that know it. Also raises `trio.WouldBlock` where it would have to wait:
        for the lock, or for what the key was used for to be written.
        """
        if self._lock.locked():
            raise trio.WouldBlock
        now = trio.current_time() if now is None else now
        return self._once_nowait(key, _fingerprint(draft), lambda now: self._enqueue_draft(draft, False, now), now)

    async def enqueue_many_once(
        self,
        key: str,
        batch: Sequence[bytes | Draft],
        *,
        content_type: str = OCTETS,
        exempt_from_drain: bool = False,
        durability: Durability | None = None,
        reserved: Reservation | None = None,
    ) -> Accepted:
        """Store a batch as `enqueue_many` does unless `key` was used for it before; then return its first id.

        A key is for one message or for one batch, and kept as `enqueue_once` says. Raises the errors of
        `enqueue_once`.
        """

        def store(now: float) -> int:
            _release(reserved)
            return self._enqueue_many(batch, content_type, exempt_from_drain, now)

        return await self._once(key, _fingerprint((content_type, list(batch))), store, durability)

    def enqueue_many_once_nowait(
        self,
        key: str,
        batch: Sequence[bytes | Draft],
        *,
        content_type: str = OCTETS,
        packed: bytes = b"",
        now: float | None = None,
    ) -> Accepted:
        """Store a batch unless `key` was used for it before, as `enqueue_once_nowait` does a message."""
        if self._lock.locked():
            raise trio.WouldBlock
        now = trio.current_time() if now is None else now

        def store(now: float) -> int:
            return self._enqueue_many(batch, content_type, False, now, packed)

        return self._once_nowait(key, _fingerprint((content_type, list(batch))), store, now)

    async def _once(
        self, key: str, fingerprint: bytes, store: Callable[[float], int], durability: Durability | None
    ) -> Accepted:
        """Call `store`, which returns an id, unless `key` was used for this content before."""
        async with self._section:
            return self._once_nowait(key, fingerprint, store, trio.current_time(), durability)

    def _once_nowait(
        self,
        key: str,
        fingerprint: bytes,
        store: Callable[[float], int],
        now: float,
        durability: Durability | None = None,
    ) -> Accepted:
        self._check_alive()
        id = self._service.keys.find(self._core.number, key, fingerprint, now)
        if id is not None:
            return Accepted(id, replayed=True)
        with self._asked_for(durability):
            id = store(now)
            self._claim(key, fingerprint, id, now)
        return Accepted(id, replayed=False)

    def _enqueue_draft(self, draft: Draft, exempt_from_drain: bool, now: float) -> int:
        properties = _properties(now, draft.priority, draft.delay, draft.ttl, draft.content_type)
        return self._enqueue(draft.body, properties, draft.delay, exempt_from_drain, now).id

    def _asked_for(self, durability: Durability | None) -> AbstractContextManager[None]:
        """Do in this block what a producer asks for, or raise `NotDurable`."""
        if durability == "committed":
            raise NotDurable(parameter="durability")
        return nullcontext()

    def _claim(self, key: str, fingerprint: bytes, id: int, now: float) -> None:
        self._service.keys.claim(self._core.number, key, fingerprint, id, now)

    def accept_nowait(self, body: bytes, properties: Properties, now: float) -> Message:
        """Store a message of which all is known: `enqueue_nowait` after it has looked at its arguments."""
        if self._lock.locked():
            raise trio.WouldBlock
        return self._enqueue(body, properties, 0.0, False, now)

    def enqueue_many_nowait(
        self,
        batch: Sequence[bytes | Draft],
        *,
        content_type: str = OCTETS,
        exempt_from_drain: bool = False,
        packed: bytes = b"",
        now: float | None = None,
    ) -> int:
        """Store a batch of 1 to 1000, all or nothing, and return the first id; atomic, without a checkpoint.

        `packed` is the batch as it came, if that was as msgpack; `now` is Trio's time, for callers that know it.
        """
        if self._lock.locked():
            raise trio.WouldBlock
        return self._enqueue_many(
            batch, content_type, exempt_from_drain, trio.current_time() if now is None else now, packed
        )

    async def enqueue_many(
        self,
        batch: Sequence[bytes | Draft],
        *,
        content_type: str = OCTETS,
        exempt_from_drain: bool = False,
        durability: Durability | None = None,
        reserved: Reservation | None = None,
    ) -> int:
        """Store a batch of 1 to 1000, all or nothing, in order, and return the first id; the others follow it.

        `content_type` is that of bare bodies; drafts have their own. Raises the errors of `enqueue`; if one
        of the messages is refused, or if cancelled, none is stored.
        """
        async with self._section:
            with self._asked_for(durability):
                _release(reserved)
                return self._enqueue_many(batch, content_type, exempt_from_drain, trio.current_time())

    def dequeue_nowait(self, *, now: float | None = None, waits: bool = False) -> Message | None:
        """Remove and return the first message, or None; atomic, without a checkpoint.

        `now` is Trio's time, for callers that know it. A caller that would wait for a message passes `waits`, and
        gets `trio.WouldBlock` if there is none. Raises `Draining` if the service is draining and has nothing to
        give, and `trio.WouldBlock` while another task holds the lock.
        """
        if self._lock.locked():
            raise trio.WouldBlock
        if self._deleted:
            raise QueueNotFound(queue=self.name)
        core = self._core
        if now is None:
            # Where nothing has a time, the time does not matter, and looking at the clock would be a third of it.
            now = trio.current_time() if core.alarm < inf else 0.0
        message = core.dequeue(now)
        if message is None:
            self._note_empty(waits)
        return message

    async def dequeue(self, *, wait: float = 0.0) -> Message | None:
        """Remove and return the first message, waiting up to `wait` seconds (0 to 60) for one; None if none came.

        At most once: the message is gone from the queue, even if the consumer fails. Waiters are served first
        come, first served. Raises `Draining` if the service is draining and has nothing to give, `TooManyWaiters`,
        `InvalidParameter` for a `wait` out of range. If cancelled, no message is lost: one that was handed over in
        the very tick is back at its place before we leave.
        """
        messages = await self.dequeue_many(1, wait=wait)
        return messages[0] if messages else None

    async def dequeue_many(self, limit: int, *, wait: float = 0.0) -> list[Message]:
        """Remove and return the first messages, at most `limit` (1 to 1000) and 8 MiB, as `dequeue` does."""
        given = await self.take(Want(limit), wait=wait)
        return [message for message in given if isinstance(message, Message)]

    def receive_nowait(self, *, visibility: float | None = None, now: float | None = None) -> Lease | None:
        """Lease the first message, or return None; atomic, without a checkpoint. See `dequeue_nowait`."""
        leases = self.take_nowait(Want(1, lease=True, visibility=visibility), now=now)
        return leases[0] if leases else None  # type: ignore[return-value]  # a lease was wanted

    def take_nowait(self, want: Want, *, now: float | None = None, waits: bool = False) -> Deliveries:
        """Return the messages wanted that are ready; atomic, without a checkpoint. See `dequeue_nowait`."""
        if self._lock.locked():
            raise trio.WouldBlock
        if self._deleted:
            raise QueueNotFound(queue=self.name)
        given = self._take(want, trio.current_time() if now is None else now)
        if not given:
            self._note_empty(waits)
        return given

    async def receive(self, *, wait: float = 0.0, visibility: float | None = None) -> Lease | None:
        """Lease the first message, waiting up to `wait` seconds (0 to 60) for one; None if none came.

        At least once: the message is invisible for `visibility` seconds (0 to 43200; by default as the queue is
        set), and comes back then, at its place, unless it is acknowledged by the lease's `receipt`. Waiters are
        served first come, first served. Raises as `dequeue` does. If cancelled, the message was not leased, and
        its receive count is as before.
        """
        leases = await self.receive_many(1, wait=wait, visibility=visibility)
        return leases[0] if leases else None

    async def receive_many(self, limit: int, *, wait: float = 0.0, visibility: float | None = None) -> list[Lease]:
        """Lease the first messages, at most `limit` (1 to 1000) and 8 MiB, as `receive` does."""
        given = await self.take(Want(limit, lease=True, visibility=visibility), wait=wait)
        return [lease for lease in given if isinstance(lease, Lease)]

    async def take(self, want: Want, *, wait: float = 0.0) -> Deliveries:
        """Return the messages wanted, waiting up to `wait` seconds for the first. See `dequeue` and `receive`."""
        _check("wait", wait, 0, MAX_WAIT)
        _check("visibility", want.visibility, 0, MAX_VISIBILITY)
        checked_limit(want.limit)
        return await self._receive(want, wait)

    def wait_nowait(self, want: Want, wait: float, wake: Callable[[], object]) -> Waiter:
        """Stand in line for messages, for `wait` seconds at most, without a task that waits.

        `wake` is called when that is over, in the middle of another task's step: it must neither wait nor raise.
        Then `outcome` returns the messages; a caller that goes earlier calls `leave`. Raises as `dequeue` does,
        and `trio.WouldBlock` while another task holds the lock.
        """
        if self._lock.locked():
            raise trio.WouldBlock
        self._check_alive()
        self._dispatcher.check_open()
        return self._dispatcher.join(self, self._wait_queue, want, wait, wake)

    def outcome(self, waiter: Waiter) -> Deliveries:
        """Return the messages a waiter was given, or none. Raises as `dequeue` does."""
        if waiter.refusal is not None:
            raise waiter.refusal
        if not waiter.given:
            self._note_empty()
        return waiter.given

    def leave(self, waiter: Waiter) -> None:
        """Step out of line: messages given already go back to their places. Never waits."""
        self._waiting_room.leave(waiter)
        waiter.gone = True
        self.return_undelivered(waiter.given)

    @asynccontextmanager
    async def lease(self, *, visibility: float = inf) -> AsyncGenerator[Lease, None]:
        """Hold the first message for the length of the block: `async with queue.lease() as message:`.

        Waits until there is one. When the block ends, the message is acknowledged; if it raises or is cancelled,
        the message is released, and back at its place. By default the lease lasts as long as the block: in this
        process nothing can end without ending it. With a shorter `visibility` it may expire. If the message was
        given out again by then, the end of the block raises `ReceiptExpired`. On a durable service it may also
        raise `StorageUnavailable`: then the message is back at its place. Raises `Draining` while waiting.
        """
        _check("visibility", visibility, 0, inf)
        lease = None
        while lease is None:
            given = await self._receive(Want(lease=True, visibility=visibility), MAX_WAIT)
            lease = next((each for each in given if isinstance(each, Lease)), None)
        try:
            yield lease
        except BaseException:
            with suppress(ReceiptExpired, QueueNotFound, StorageUnavailable):
                await self._end_block(lease, "release")  # noqa: ASYNC102 - in memory no wait, on disk shielded
            raise
        await self._end_block(lease, "ack")

    async def _end_block(self, lease: Lease, action: Action) -> None:
        """Settle the lease of a block that ends, even if its task is cancelled."""
        self.settle_nowait(Settlement(receipt=lease.receipt, action=action))

    def ack_nowait(self, receipt: str, *, now: float | None = None) -> None:
        """Acknowledge a leased message; atomic, without a checkpoint. See `ack` and `dequeue_nowait`."""
        if self._lock.locked():
            raise trio.WouldBlock
        if self._deleted:
            raise QueueNotFound(queue=self.name)
        self._core.ack(receipt, trio.current_time() if now is None else now)

    async def ack(self, receipt: str) -> None:
        """Acknowledge a leased message: it is removed for good. Repeating it is harmless.

        So is doing it late: after the lease has expired, as long as the message was not given out again. Raises
        `ReceiptExpired` if it was, or if it was released.
        """
        await self._settle_one(Settlement(receipt=receipt))

    async def release(self, receipt: str, *, delay: float = 0.0) -> None:
        """Give a leased message back: at its original place, at once or after `delay` seconds (up to a year).

        The fourth time that happens without a delay it rests for a second, then for two, and so on to 60, so that
        it does not spin. At the queue's `max_receives` it goes to the dead-letter queue. Raises `ReceiptExpired`.
        """
        _check("delay", delay, 0, MAX_DELAY)
        await self._settle_one(Settlement(receipt=receipt, action="release", delay=delay))

    async def extend(self, receipt: str, *, visibility: float | None = None) -> Lease:
        """Let a lease last until `visibility` seconds from now, and return it. Raises `ReceiptExpired`.

        By default it lasts for as long again as it was given.
        """
        _check("visibility", visibility, 0, MAX_VISIBILITY)
        lease = await self._settle_one(Settlement(receipt=receipt, action="extend", visibility=visibility))
        assert lease is not None
        return lease

    async def settle(self, settlements: Sequence[Settlement]) -> list[ZapqError | None]:
        """Acknowledge, release and extend in one step, 1 to 1000 at once; for each, None or why it was refused."""
        checked_limit(len(settlements), "settlements")
        async with self._section:
            self._check_alive()
            results = self._settle_all(settlements)
            self._dispatcher.hand_out()
        return results

    def settle_nowait(self, settlement: Settlement) -> Lease | None:
        """Acknowledge, release or extend one lease, and return it if it goes on; never waits.

        For cleanup, which must not wait for a lock. In memory it need not: the lock is only ever held over
        synchronous steps, so a task that runs now sees the queue between two of them.
        """
        self._check_alive()
        lease = self._settle(settlement)
        self._dispatcher.hand_out()
        return lease

    def return_undelivered(self, given: Deliveries) -> None:
        """Put messages that could not be handed over at their original places, as if never taken.

        Never refused, and never waits.
        """
        if self._deleted:
            return
        for each in given:
            if isinstance(each, Lease):
                self._core.take_back(each)
            else:
                self._core.put_back(each)
        self._hand_out()

    async def peek(self, state: State = "ready", *, limit: int = 10) -> list[MessageView]:
        """Return the first messages in `state`, at most `limit` (1 to 1000), and change nothing."""
        checked_limit(limit, "limit")
        async with self._section:
            self._check_alive()
            return self._core.peek(state, limit)

    async def find(self, id: int) -> MessageView | None:
        """Return the message with this id if the queue holds it, and change nothing."""
        async with self._section:
            self._check_alive()
            return self._core.find(id)

    async def clear(self) -> int:
        """Drop every message, delayed and leased ones included, and return how many that were.

        They are gone at once; a worker thread frees their memory, so that other tasks go on. If cancelled
        before they are gone, nothing is dropped.
        """
        async with self._section:
            self._check_alive()
            number = len(self._core)
            dropped = self._core.clear()
        await bulk.free_elsewhere(dropped)
        return number

    async def pause(self) -> None:
        """Give nothing to consumers from now on; messages are still accepted, and leases still settled."""
        async with self._section:
            self._check_alive()
            self._core.paused = True

    async def resume(self) -> None:
        """Give messages to consumers again; those that wait are served at once."""
        async with self._section:
            self._check_alive()
            self._core.paused = False
            self._hand_out()

    async def redrive(self, *, limit: int = MAX_BATCH) -> Redriven:
        """Move dead letters that are ready here to the end of the queues they failed in, at most `limit` of them.

        Only as many as there is room for there; the others stay at their place. They begin anew: received never,
        without a ttl.
        """
        checked_limit(limit, "limit")
        async with self._section:
            self._check_alive()
            redriven = self._service.broker.redrive(self.name, limit, trio.current_time())
            self._dispatcher.hand_out()
        return redriven

    def info(self) -> QueueInfo:
        """Return the queue's settings and statistics; never waits."""
        core = self._core
        return QueueInfo(core.name, core.settings, core.stats(), core.paused, len(self._wait_queue))

    @property
    def unused(self) -> bool:
        """Whether nothing was ever sent to it, no consumer waits, and nothing is set."""
        stats = self._core.stats()
        untouched = self._core.settings == QueueSettings() and not self._core.paused
        return untouched and not self._wait_queue and not stats.messages and not stats.enqueued

    def why_empty(self) -> str:
        """Say why a consumer gets nothing: `paused`, `leased`, `delayed` (whichever ends first) or `empty`."""
        return self._core.why_empty()

    def next_visible_in(self, now: float | None = None) -> float:
        """Seconds until a message that is delayed or leased will be ready, if nothing happens before."""
        return max(self._core.next_visible() - (trio.current_time() if now is None else now), 0.0)

    def end(self) -> None:
        """Take note that the queue is deleted, and answer waiting consumers with `QueueNotFound`."""
        self._deleted = True
        self._waiting_room.refuse(self._wait_queue, QueueNotFound(queue=self.name))

    def rebind(self, core: Queue) -> None:
        """Use `core` from now on, which has taken the place of the former one; waiting consumers wait on."""
        self._core = core
        self.provisional = False

    def hand_out(self) -> bool:
        """Match waiters with messages, the one place where they are served; whether some still wait."""
        self._hand_out()
        return len(self._wait_queue) > 0

    def note_uncertain_delivery(self, number: int) -> None:
        """Count messages whose bytes may or may not have reached a client that vanished."""
        self._service.note_uncertain_delivery(number)

    def _check_alive(self) -> None:
        if self._deleted:
            raise QueueNotFound(queue=self.name)

    def _enqueue(
        self, body: bytes, properties: Properties, delay: float, exempt_from_drain: bool, now: float
    ) -> Message:
        if self._dispatcher.draining and not exempt_from_drain:
            raise Draining
        if len(body) > self._max_message_bytes:
            self._check_size(len(body))
        if self._deleted:
            raise QueueNotFound(queue=self.name)
        message = self._core.enqueue(body, properties, delay=delay, now=now)
        if self._wait_queue:
            self._hand_out()
        return message

    def _enqueue_many(
        self,
        batch: Sequence[bytes | Draft],
        content_type: str,
        exempt_from_drain: bool,
        now: float,
        packed: bytes = b"",
    ) -> int:
        if self._dispatcher.draining and not exempt_from_drain:
            raise Draining
        checked_limit(len(batch), "messages")
        self._check_alive()
        try:
            size = _size_together(batch, little=0 < len(packed) < RECEIVE_BYTES)
        except TypeError:
            drafts = [
                each if isinstance(each, Draft) else Draft(body=each, content_type=content_type) for each in batch
            ]
            self._check_size(max(len(draft.body) for draft in drafts))
            for draft in drafts:
                _properties(now, draft.priority, draft.delay, draft.ttl, draft.content_type)
            first = self._core.enqueue_drafts(drafts, now=now)
        else:
            bodies: Sequence[bytes] = batch  # type: ignore[assignment]  # the same
            if size > self._max_message_bytes:
                self._check_size(max(map(len, bodies)))
            properties = _properties(now, 0, 0.0, None, content_type)
            # In a longer form of the same it is not kept: it would be given out as it came.
            packed = packed if packed and is_shortest(packed, bodies, size) else b""
            first = self._core.enqueue_bodies(bodies, properties, size=size, packed=packed, now=now)
        if self._wait_queue:
            self._hand_out()
        return first

    def _check_size(self, size: int) -> None:
        if size > self._max_message_bytes:
            raise MessageTooLarge(max_bytes=self._max_message_bytes, current=size)

    async def _receive(self, want: Want, wait: float) -> Deliveries:
        async with self._section:
            self._check_alive()
            given = self._take(want, trio.current_time())
            if given:
                return given
            if wait == 0:
                self._note_empty()
                return given
            self._dispatcher.check_open()
            woken = trio.Event()
            waiter = self._dispatcher.join(self, self._wait_queue, want, wait, woken.set)
        try:
            await woken.wait()
        except BaseException:
            self.leave(waiter)
            raise
        return self.outcome(waiter)

    def _note_empty(self, waits: bool = False) -> None:
        if waits:
            raise trio.WouldBlock
        self._dispatcher.check_open()
        self._dispatcher.note_empty()

    def _take(self, want: Want, now: float) -> Deliveries:
        core = self._core
        if want.lease:
            if want.limit == 1:
                lease = core.receive(want.visibility, now)
                return () if lease is None else (lease,)
            return core.receive_many(want.limit, want.visibility, now)
        if want.limit == 1:
            message = core.dequeue(now)
            return () if message is None else (message,)
        return core.dequeue_many(want.limit, now)

    def _hand_out(self) -> None:
        while self._wait_queue and self._core.available:
            waiter = next(iter(self._wait_queue.values()))
            given = self._take(waiter.want, trio.current_time())
            if given:
                self._deliver(waiter, given)

    def _deliver(self, waiter: Waiter, given: Deliveries) -> None:
        self._waiting_room.serve(waiter, given)

    async def _settle_one(self, settlement: Settlement) -> Lease | None:
        async with self._section:
            return self.settle_nowait(settlement)

    def _settle_all(self, settlements: Sequence[Settlement]) -> list[ZapqError | None]:
        results: list[ZapqError | None] = []
        for settlement in settlements:
            try:
                self._settle(settlement)
            except (ReceiptExpired, InvalidParameter) as error:
                results.append(error)
            else:
                results.append(None)
        return results

    def _settle(self, settlement: Settlement) -> Lease | None:
        now = trio.current_time()
        match settlement.action:
            case "ack":
                self._core.ack(settlement.receipt, now)
            case "release":
                self._core.release(settlement.receipt, settlement.delay, now)
            case "extend":
                return self._core.extend(settlement.receipt, settlement.visibility, now)
        return None


def _fingerprint(content: object) -> bytes:
    """Return what tells `content` apart from other content under one key; it does not withstand a forger."""
    return hashlib.blake2b(msgspec.msgpack.encode(content), digest_size=16).digest()


def _release(reserved: Reservation | None) -> None:
    """Give back what was reserved for a message that is about to be stored, so that it is not counted twice."""
    if reserved is not None:
        reserved.release()


def _size_together(batch: Sequence[bytes | Draft], *, little: bool) -> int:
    """Return the bytes of all bodies; TypeError if one is a draft, which is not bytes and has no length."""
    # Joining takes a third of the time, as long as it is little.
    return len(b"".join(batch)) if little else sum(map(len, batch))  # type: ignore[arg-type]


def _properties(now: float, priority: int, delay: float, ttl: float | None, content_type: str) -> Properties:
    if priority == 0 and ttl is None and delay == 0 and content_type == OCTETS:
        return DEFAULTS
    _check("priority", priority, 0, MAX_PRIORITY)
    _check("delay", delay, 0, MAX_DELAY)
    if not _CONTENT_TYPE.fullmatch(content_type):
        raise InvalidParameter(
            "content_type must be 1 to 255 visible ASCII characters and spaces.", parameter="content_type"
        )
    if ttl is None:
        return Properties(content_type, priority)
    _check("ttl", ttl, 0, MAX_DELAY)
    if ttl == 0:
        raise InvalidParameter("ttl must be more than 0 seconds.", parameter="ttl")
    return Properties(content_type, priority, now + ttl)


def _check(name: str, value: float | None, low: float, high: float) -> None:
    # Also what is not a number, which no comparison is true for.
    if value is not None and not low <= value <= high:
        raise InvalidParameter(f"{name}={value} is out of range. Give {low:g} to {high:g}.", parameter=name)


def checked_limit(limit: int, name: str = "max") -> int:
    """Return `limit` if it is 1 to 1000, else raise `InvalidParameter`."""
    _check(name, limit, 1, MAX_BATCH)
    return limit
