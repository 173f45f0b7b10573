"""One queue of a running service: its verbs, for the Trio programs it is embedded in.

Every verb is a step of `QueueState`. The async ones wait where they must: for the service's lock, for a message,
for the disk. Their `*_nowait` twins raise `trio.WouldBlock` where they would have to wait for the lock or for a
lease that is being settled; they contain no checkpoint, and return before a durable service has written what they
did.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from math import inf
from typing import Protocol, TypeVar

import trio

from zapq.core.broker import Redriven
from zapq.core.message import OCTETS, Draft, Lease, Message, owned_body
from zapq.core.stats import MessageView, State
from zapq.errors import Draining, QueueNotFound, ReceiptExpired, StorageUnavailable, ZapqError
from zapq.limits import MAX_BATCH, MAX_WAIT
from zapq.service.dispatch import Dispatcher
from zapq.service.operations import (
    Accepted,
    Delivery,
    Durability,
    Nothing,
    Offer,
    Settlement,
    check,
    checked_limit,
    checked_want,
    owned,
    terms,
)
from zapq.service.pending import Pending
from zapq.service.queue_state import QueueInfo, QueueState
from zapq.service.room import Putting
from zapq.service.verbs import Verbs
from zapq.service.waiting import Deliveries, Want

T = TypeVar("T")


class Doing(Protocol):
    """What a queue's verbs use of the service."""

    @property
    def dispatcher(self) -> Dispatcher: ...
    def attempt(self, step: Callable[[float], Pending[T] | T], now: float) -> Pending[T] | T: ...
    def attempt_nowait(self, step: Callable[[float], T], now: float) -> T: ...
    def take_from(
        self, state: QueueState, want: Want, wait: float, now: float
    ) -> Pending[Delivery | Nothing] | Delivery | Nothing: ...
    def attempt_waiting(
        self, name: str, put: Putting, offer: Offer, now: float
    ) -> Pending[Accepted] | Accepted: ...


class NamedQueue(Verbs):
    """One queue of a service, until it is deleted. Made by `QueueService.queue`, never by hand.

    All verbs raise `QueueNotFound` once it is deleted, also if a new one has its name by then. None of them lets a
    cancellation lose a message: a cancelled call has changed nothing, unless its docstring says otherwise. On a
    durable service every verb that changes something also raises `StorageUnavailable`; the `*_nowait` ones return
    before the change is written, and it may still be undone: `QueueService.stored` waits for it, and says so.
    """

    def __init__(self, service: Doing, state: QueueState) -> None:
        self._service = service
        self._state = state

    @property
    def name(self) -> str:
        """The queue's name."""
        return self._state.name

    @property
    def available(self) -> bool:
        """Whether a consumer would get a message now."""
        return self._state.core.available

    def enqueue_nowait(
        self,
        body: bytes,
        *,
        priority: int = 0,
        delay: float = 0.0,
        ttl: float | None = None,
        content_type: str = OCTETS,
        headers: Mapping[str, str] | None = None,
        group: str | None = None,
    ) -> Message:
        """Store a message and return it; atomic, without a checkpoint. See `enqueue`.

        Also raises `trio.WouldBlock` while another task holds the lock; then nothing is stored.
        """
        return self._do_nowait(self._storing(body, priority, delay, ttl, content_type, headers, group))

    async def enqueue(
        self,
        body: bytes,
        *,
        priority: int = 0,
        delay: float = 0.0,
        ttl: float | None = None,
        content_type: str = OCTETS,
        headers: Mapping[str, str] | None = None,
        group: str | None = None,
        durability: Durability | None = None,
    ) -> Message:
        """Store a message at the end of its priority (9 is served first) and return it.

        It is ready after `delay` seconds, and gone after `ttl` seconds unless a consumer has it then. Consumers
        get its `headers` with each delivery: at most 16 and 8 KiB together, names without regard to case, values
        of visible ASCII. In a `group`, a key of 1 to 128 visible ASCII characters, it has no priority and waits
        until the group's earlier messages are done with. With `durability="memory"` a durable service does not
        wait for the disk. Raises `MessageTooLarge`, `QueueFull`, `Draining`, `InvalidParameter` for a value out of
        range, and `NotDurable` for `durability="committed"` in memory. If cancelled, nothing is stored.
        """
        return await self._do(self._storing(body, priority, delay, ttl, content_type, headers, group, durability))

    def _storing(
        self,
        body: bytes,
        priority: int,
        delay: float,
        ttl: float | None,
        content_type: str,
        headers: Mapping[str, str] | None,
        group: str | None,
        durability: Durability | None = None,
    ) -> Callable[[float], Message]:
        if type(body) is not bytes:
            body = owned_body(body)
        how = terms(
            priority=priority, delay=delay, ttl=ttl, content_type=content_type, headers=headers, group=group
        )

        def store(now: float) -> Message:
            with self._state.asked_for(durability):
                return self._state.store_one(body, how.lasting(now), delay, now)

        return store

    def enqueue_many_nowait(self, batch: Sequence[bytes | Draft], *, content_type: str = OCTETS) -> int:
        """Store a batch as `enqueue_many` does; atomic, without a checkpoint. See `enqueue_nowait`."""
        return self.put_nowait(Offer(batch, terms(content_type=content_type))).id

    async def put(self, offer: Offer) -> Accepted:
        """Store a message or a batch on the terms and under the key of `offer`, and say what came of it.

        With a `wait` in its terms (`terms(wait=20)`) it waits so long for room, first come, first served, if the
        queue is full.
        A message whose terms have a `unique` key is not stored while one with that key is held; what is returned
        says whether that was `kept`, or `replaced` (`terms(unique="report-7", on="replace")`).
        A key that was used for the same content before is answered as it was then, and nothing is stored. It is
        kept for 300 s, or until 100,000 newer ones have come. Raises `KeyReused` if it was used for other content,
        `NotDurable` if the terms ask for a disk there is none of, and the errors of `enqueue`; then the key is as
        before. If cancelled, nothing is stored.
        """
        offer = owned(offer)
        put = partial(self._state.put, offer)
        if not offer.terms.wait:
            return await self._do(put)
        await trio.lowlevel.checkpoint()
        outcome = self._service.attempt_waiting(self.name, put, offer, trio.current_time())
        return await outcome.wait() if isinstance(outcome, Pending) else outcome

    def put_nowait(self, offer: Offer) -> Accepted:
        """Store an offer as `put` does; atomic, without a checkpoint.

        Also raises `trio.WouldBlock` where it would have to wait: for the lock, or for what the key was used for
        to be written.
        """
        return self._do_nowait(partial(self._state.put, owned(offer)))

    def dequeue_nowait(self) -> Message | None:
        """Remove and return the first message, or None; atomic, without a checkpoint.

        Raises `Draining` if the service is draining and has nothing to give, and `trio.WouldBlock` while another
        task holds the lock.
        """
        # Where nothing has a time, the time does not matter, and looking at the clock would be a third of it.
        now = trio.current_time() if self._state.core.alarm < inf else 0.0
        return self._service.attempt_nowait(self._dequeue, now)

    def _dequeue(self, now: float) -> Message | None:
        self._state.check_alive()
        message = self._state.core.dequeue(now)
        if message is None:
            self._state.nothing(now)
        elif self._service.dispatcher.offers:
            self._service.dispatcher.note_room()
        return message

    def receive_nowait(self, *, visibility: float | None = None) -> Lease | None:
        """Lease the first message, or return None; atomic, without a checkpoint. See `dequeue_nowait`."""
        want = checked_want(1, lease=True, visibility=visibility)

        def receive(now: float) -> Lease | None:
            given = self._state.take(want, now)
            if not given:
                self._state.nothing(now)
            return next((lease for lease in given if isinstance(lease, Lease)), None)

        return self._do_nowait(receive)

    async def take(self, want: Want, *, wait: float = 0.0) -> Deliveries:
        """Return the messages wanted, waiting up to `wait` seconds for the first. See `dequeue` and `receive`."""
        check("wait", wait, 0, MAX_WAIT)
        return await self._take(want, wait)

    async def _take(self, want: Want, wait: float) -> Deliveries:
        outcome: Delivery | Nothing = await self._do(partial(self._service.take_from, self._state, want, wait))
        return outcome.given if isinstance(outcome, Delivery) else ()

    @asynccontextmanager
    async def lease(self, *, visibility: float = inf) -> AsyncGenerator[Lease, None]:
        """Hold the first message for the length of the block: `async with queue.lease() as message:`.

        Waits until there is one. When the block ends, the message is acknowledged; if it raises or is cancelled,
        the message is released, and back at its place. By default the lease lasts as long as the block: in this
        process nothing can end without ending it. With a shorter `visibility` it may expire. If the message was
        given out again by then, the end of the block raises `ReceiptExpired`. On a durable service it may also
        raise `StorageUnavailable`: then the message is back at its place. Raises `Draining` while waiting.
        """
        check("visibility", visibility, 0, inf)
        lease = None
        while lease is None:
            given = await self._take(Want(lease=True, visibility=visibility), MAX_WAIT)
            lease = next((each for each in given if isinstance(each, Lease)), None)
        try:
            yield lease
        except BaseException:
            with suppress(ReceiptExpired, QueueNotFound, StorageUnavailable, Draining):
                release = Settlement(receipt=lease.receipt, action="release")
                await self._end(lease, release)  # noqa: ASYNC102 - in memory no wait, on disk shielded
            raise
        await self._end(lease, Settlement(receipt=lease.receipt))

    async def _end(self, lease: Lease, settlement: Settlement) -> None:
        """Settle the lease of a block that ends, even if its task is cancelled."""
        # In memory nothing is waited for. On disk the wait is bounded as `OpenCommit.wait` is.
        try:
            outcome = self._service.attempt(partial(self._state.settle_one, settlement), trio.current_time())
            if isinstance(outcome, Pending):
                with trio.CancelScope(shield=True):
                    await outcome.wait()
        except StorageUnavailable:
            # The lease may last for ever: its holder is gone.
            self._state.return_undelivered([lease])
            raise

    def ack_nowait(self, receipt: str) -> None:
        """Acknowledge a leased message; atomic, without a checkpoint. See `ack` and `dequeue_nowait`."""
        self.settle_nowait(Settlement(receipt=receipt))

    async def _settle_one(self, settlement: Settlement) -> Lease | None:
        return await self._do(partial(self._state.settle_one, settlement))

    async def settle(self, settlements: Sequence[Settlement]) -> list[ZapqError | None]:
        """Acknowledge, release and extend in one step, 1 to 1000 at once; for each, None or why it was refused."""
        return await self._do(partial(self._state.settle, settlements))

    def settle_nowait(self, settlement: Settlement) -> Lease | None:
        """Acknowledge, release or extend one lease, and return it if it goes on; atomic, without a checkpoint.

        Also raises `trio.WouldBlock`, and changes nothing, where it would have to wait: for the lock, or, on disk,
        for what an earlier call did to this lease. In memory neither ever happens.
        """
        return self._do_nowait(partial(self._state.settle_one, settlement))

    def return_undelivered(self, given: Deliveries) -> None:
        """Put messages that could not be handed over at their original places, as if never taken.

        Never refused, and never waits. While a purge or a redrive is being written, they come back right after it.
        """
        self._state.return_undelivered(given)

    async def peek(self, state: State = "ready", *, limit: int = 10) -> list[MessageView]:
        """Return the first messages in `state`, at most `limit` (1 to 1000), and change nothing."""
        checked_limit(limit, "limit")
        return await self._do(lambda now: self._state.peek(state, limit))

    async def find(self, id: int) -> MessageView | None:
        """Return the message with this id if the queue holds it, and change nothing."""
        return await self._do(lambda now: self._state.find(id))

    async def clear(self) -> int:
        """Drop every message, delayed and leased ones included, and return how many that were.

        They are gone at once; a worker thread frees their memory, so that other tasks go on. If cancelled
        before they are gone, nothing is dropped.
        """
        return await self._state.clear()

    async def pause(self) -> None:
        """Give nothing to consumers from now on; messages are still accepted, and leases still settled."""
        await self._state.set_paused(True)

    async def resume(self) -> None:
        """Give messages to consumers again; those that wait are served at once."""
        await self._state.set_paused(False)

    async def redrive(self, *, limit: int = MAX_BATCH) -> Redriven:
        """Move dead letters that are ready here to the end of the queues they failed in, at most `limit` of them.

        Only as many as there is room for there; the others stay at their place. They begin anew: received never,
        without a ttl.
        """
        return await self._state.redrive(checked_limit(limit, "limit"))

    def info(self) -> QueueInfo:
        """Return the queue's settings and statistics; never waits."""
        return self._state.info()

    def why_empty(self) -> str:
        """Say why a consumer gets nothing: `paused`, `limited`, `blocked`, ... or `empty`. See `Nothing`."""
        return self._state.core.why_empty()

    def next_visible_in(self) -> float:
        """Return the seconds until a consumer may get a message, if nothing happens before. See `Nothing`."""
        return self._state.next_visible_in(trio.current_time())

    async def _do(self, step: Callable[[float], Pending[T] | T]) -> T:
        await trio.lowlevel.checkpoint()
        outcome = self._service.attempt(step, trio.current_time())
        return await outcome.wait() if isinstance(outcome, Pending) else outcome

    def _do_nowait(self, step: Callable[[float], T]) -> T:
        return self._service.attempt_nowait(step, trio.current_time())
