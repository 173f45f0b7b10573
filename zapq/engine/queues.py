"""Queues behind an engine, for Trio programs: the verbs of `NamedQueue`, wherever the queues are.

Each verb is one operation of the port. The engine may be in this process, or speak to servers elsewhere.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio

from zapq.core.broker import Redriven
from zapq.core.message import OCTETS, Lease, Message, owned_body
from zapq.core.names import check_name
from zapq.core.queue_settings import QueueSettings
from zapq.core.stats import MessageView, State
from zapq.engine.engine import Engine
from zapq.errors import (
    Draining,
    MessageNotFound,
    OutcomeUnknown,
    QueueNotFound,
    ReceiptExpired,
    StorageUnavailable,
    ZapqError,
)
from zapq.limits import DEFAULT_QUEUE, MAX_BATCH, MAX_VISIBILITY, MAX_WAIT
from zapq.service.operations import (
    Accepted,
    ChangeSettings,
    Configure,
    Delete,
    Delivery,
    Describe,
    Durability,
    Enqueue,
    Find,
    List,
    Offer,
    Operation,
    Peek,
    Purge,
    Put,
    Redrive,
    SetPaused,
    Settle,
    Settlement,
    SettleOne,
    Stats,
    Take,
    check,
    checked_limit,
    owned,
    terms,
)
from zapq.service.pending import Pending
from zapq.service.queue_state import QueueInfo
from zapq.service.service_stats import ServiceStats
from zapq.service.verbs import Verbs
from zapq.service.waiting import Deliveries, Want


class EngineQueue(Verbs):
    """One queue of an engine, known by its name. Made by `Queues.queue`, never by hand.

    A queue that is not there is made by what stores a message; what looks for messages without a `wait` raises
    `QueueNotFound`. No cancellation loses a message: a cancelled call has changed nothing, or is waited for until
    it is known what it has changed. Where the engine is elsewhere, every verb may raise `StorageUnavailable`
    (nothing was changed) and, without a key, `OutcomeUnknown`.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self.name = check_name(name)

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
        get its `headers` with each delivery. In a `group` it waits until the earlier messages of that are done
        with. Raises `MessageTooLarge`, `QueueFull`, `Draining`, and `InvalidParameter` for a value out of range.
        """
        body = owned_body(body)
        how = terms(
            priority=priority,
            delay=delay,
            ttl=ttl,
            content_type=content_type,
            headers=headers,
            group=group,
            durability=durability,
        )
        if ttl is None and durability is None:
            accepted = await _do(self._engine, Enqueue(self.name, body, how.properties, delay))
        else:
            accepted = await self.put(Offer(body, how))
        return Message(accepted.id, body, how.lasting(trio.current_time()))

    async def put(self, offer: Offer) -> Accepted:
        """Store a message or a batch on the terms and under the key of `offer`, and say what came of it.

        With a `wait` in its terms (`terms(wait=20)`) it waits so long for room if the queue is full. Under the
        same key the same content is stored once. Raises `KeyReused`, and the errors of `enqueue`.
        """
        offer = owned(offer)
        return await _do(  # type: ignore[no-any-return]  # what comes of it is in `Operation`'s docstrings
            self._engine,
            Put(offer.content, offer.terms, offer.key, offer.packed, offer.exempt_from_drain, queue=self.name),
        )

    async def take(self, want: Want, *, wait: float = 0.0) -> Deliveries:
        """Return the messages wanted, waiting up to `wait` seconds for the first. See `dequeue` and `receive`."""
        check("wait", wait, 0, MAX_WAIT)
        outcome = await _do(self._engine, Take(self.name, want, wait))
        return outcome.given if isinstance(outcome, Delivery) else ()

    @asynccontextmanager
    async def lease(self, *, visibility: float | None = None) -> AsyncGenerator[Lease, None]:
        """Hold the first message for the length of the block: `async with queue.lease() as message:`.

        Waits until there is one. When the block ends, the message is acknowledged; if it raises or is cancelled,
        the message is released, and back at its place. The lease lasts for `visibility` seconds: a block that
        needs longer extends it. If the message was given out again by then, the end raises `ReceiptExpired`.
        """
        check("visibility", visibility, 0, MAX_VISIBILITY)
        lease = None
        while lease is None:
            lease = await self.receive(wait=MAX_WAIT, visibility=visibility)
        try:
            yield lease
        except BaseException:
            # The engine bounds it. If it fails, the lease ends by itself, later.
            known = (ReceiptExpired, QueueNotFound, StorageUnavailable, OutcomeUnknown, Draining)
            with suppress(*known), trio.CancelScope(shield=True):
                await self.release(lease.receipt)  # noqa: ASYNC102 - it is shielded, by the line above
            raise
        with trio.CancelScope(shield=True):
            await self.ack(lease.receipt)

    async def _settle_one(self, settlement: Settlement) -> Lease | None:
        lease: Lease | None = await _do(self._engine, SettleOne(self.name, settlement))
        return lease

    async def settle(self, settlements: Sequence[Settlement]) -> list[ZapqError | None]:
        """Acknowledge, release and extend, 1 to 1000 at once; for each, None or why it was refused."""
        errors: list[ZapqError | None] = await _do(self._engine, Settle(self.name, settlements))
        return errors

    async def peek(self, state: State = "ready", *, limit: int = 10) -> list[MessageView]:
        """Return the first messages in `state`, at most `limit` (1 to 1000), and change nothing."""
        views: list[MessageView] = await _do(self._engine, Peek(self.name, state, checked_limit(limit, "limit")))
        return views

    async def find(self, id: int) -> MessageView | None:
        """Return the message with this id if the queue holds it, and change nothing."""
        try:
            view: MessageView = await _do(self._engine, Find(self.name, id))
        except MessageNotFound:
            return None
        return view

    async def clear(self) -> int:
        """Drop every message, delayed and leased ones included, and return how many that were."""
        number: int = await _do(self._engine, Purge(self.name))
        return number

    async def pause(self) -> None:
        """Give nothing to consumers from now on; messages are still accepted, and leases still settled."""
        await _do(self._engine, SetPaused(self.name, True))

    async def resume(self) -> None:
        """Give messages to consumers again; those that wait are served at once."""
        await _do(self._engine, SetPaused(self.name, False))

    async def redrive(self, *, limit: int = MAX_BATCH) -> Redriven:
        """Move dead letters that are ready here to the end of the queues they failed in, at most `limit`."""
        redriven: Redriven = await _do(self._engine, Redrive(self.name, checked_limit(limit, "limit")))
        return redriven

    async def info(self) -> QueueInfo:
        """Return the queue's settings and statistics."""
        info: QueueInfo = await _do(self._engine, Describe(self.name))
        return info


class Queues:
    """All queues of an engine. Made and started by `open_queues`, never by hand."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def queue(self, name: str = DEFAULT_QUEUE) -> EngineQueue:
        """Return a queue, which need not be there yet. Raises `InvalidParameter` for what can be no name."""
        return EngineQueue(self._engine, name)

    async def infos(self, pattern: str = "*") -> list[QueueInfo]:
        """Return settings and statistics of every queue whose name fits `pattern`."""
        infos: list[QueueInfo] = await _do(self._engine, List(pattern))
        return infos

    async def configure(self, name: str, settings: QueueSettings) -> bool:
        """Set everything that can be set for a queue, and return whether it was made for that."""
        made, _ = await _do(self._engine, Configure(name, settings))
        return bool(made)

    async def change_settings(self, name: str, /, **changes: object) -> None:
        """Set some of what can be set for a queue; None puts a setting back to its default."""
        await _do(self._engine, ChangeSettings(name, changes))

    async def delete(self, name: str) -> None:
        """Remove a queue with all it holds. Raises `QueueNotFound` and `QueueInUse`."""
        await _do(self._engine, Delete(name))

    async def stats(self) -> ServiceStats:
        """Return totals of all queues, and what waits here."""
        stats: ServiceStats = await _do(self._engine, Stats())
        return stats

    def drain(self) -> None:
        """Take nothing new here from now on, and answer all that wait here."""
        self._engine.drain()


async def _do(engine: Engine, operation: Operation) -> Any:
    """Have an operation done, and return its outcome or raise what refuses it."""
    await trio.lowlevel.checkpoint()
    outcome = engine.perform(operation, trio.current_time())
    return await outcome.wait() if isinstance(outcome, Pending) else outcome
