"""One queue as all tasks of a service share it: what can be done to it, each in one synchronous step.

Nothing here looks whether the lock is free: `QueueService.attempt` does that, and `NamedQueue` and `LocalEngine`
have these steps taken by it. Every step that makes messages ready ends in `hand_out`, the one place where waiting
consumers are served.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from math import inf
from typing import Protocol

import msgspec
import trio

from zapq.core.ages import Oldest, Spread
from zapq.core.attempts import Attempts, LeaseSeen
from zapq.core.broker import Broker, Redriven
from zapq.core.idempotency import Keys
from zapq.core.message import Draft, Lease, Message, Properties
from zapq.core.placed import Placed
from zapq.core.queue import Queue
from zapq.core.queue_settings import QueueSettings
from zapq.core.records import KeyPut, KeysForgotten
from zapq.core.runs import is_shortest
from zapq.core.stats import Figures, MessageView, QueueStats, State
from zapq.errors import (
    Draining,
    InvalidParameter,
    MessageTooLarge,
    NotDurable,
    QueueFull,
    QueueNotFound,
    ReceiptExpired,
    ZapqError,
)
from zapq.limits import IDEMPOTENCY_WINDOW, RECEIVE_BYTES
from zapq.service import bulk
from zapq.service.dispatch import Dispatcher
from zapq.service.fingerprint import fingerprint_of
from zapq.service.journal import Journal, OpenCommit
from zapq.service.memory_journal import MemoryJournal
from zapq.service.operations import (
    Accepted,
    Durability,
    Enqueue,
    Nothing,
    Offer,
    Recall,
    Remember,
    Settlement,
    Terms,
    checked_limit,
    terms,
)
from zapq.service.section import Section
from zapq.service.waiting import Deliveries, Waiter, WaitQueue, Want


class QueueInfo(msgspec.Struct, frozen=True, gc=False):
    """One queue as one consistent picture."""

    name: str
    settings: QueueSettings
    stats: QueueStats
    paused: bool
    waiting: int
    number: int = 0
    """In the order in which the queues were made; 0 where the engine does not know it."""
    oldest: Oldest | None = None
    """Since when the oldest message and lease are there, by Trio's clock; None where that is not known."""
    waits: Spread | None = None
    """How long messages had waited when they were first given to a consumer; None where that is not known."""


class Changing(Protocol):
    """What everything that changes queues uses of the service they belong to."""

    @property
    def section(self) -> Section: ...
    @property
    def exclusive(self) -> Section: ...
    @property
    def broker(self) -> Broker: ...
    @property
    def keys(self) -> Keys: ...
    @property
    def journal(self) -> Journal | MemoryJournal: ...
    @property
    def durable(self) -> bool: ...


class Shared(Changing, Protocol):
    """What a queue uses of the service it belongs to, and has in common with the other queues."""

    @property
    def dispatcher(self) -> Dispatcher: ...
    @property
    def attempts(self) -> Attempts: ...
    @property
    def max_message_bytes(self) -> int: ...
    def note_uncertain_delivery(self, number: int = 1) -> None: ...


class QueueState:
    """One queue of a service, until it is deleted. All steps raise `QueueNotFound` after that.

    So they do if a new queue has its name by then.
    """

    def __init__(self, service: Shared, core: Queue, wait_queue: WaitQueue) -> None:
        self._service = service
        self.core = core
        self.tag = core.tag
        """What its receipts begin with. No other queue has it, not even an earlier one of the same name."""
        self.wait_queue = wait_queue
        self._journal = service.journal
        self.durability: Durability | None = "committed" if service.durable else None
        """What a message that was accepted survives; None in memory."""
        self._max_message_bytes = service.max_message_bytes
        self._dispatcher = service.dispatcher
        self._deleted = False
        self.refuse_behind: Callable[[], QueueFull] | None = None
        """Makes the refusal of a message that would overtake others, while there are some that wait for room."""
        self.users = 0
        """Requests under way that need it."""
        self.provisional = False
        """Whether it was made for one of them, and is to go if it stays unused."""
        self._told: QueueInfo | None = None
        """What `info` has returned last, and ..."""
        self._figures: Figures = ()
        """... the figures in it."""

    @property
    def name(self) -> str:
        """The queue's name."""
        return self.core.name

    def enqueue(self, asked: Enqueue, now: float) -> Accepted:
        """Store one message. See `put`."""
        return Accepted(self.store_one(asked.body, asked.properties, asked.delay, now).id, False, self.durability)

    def put(self, offer: Offer, now: float, fingerprint: bytes = b"") -> Accepted:
        """Store what is offered, unless its key was used for it before: then say what that led to.

        `fingerprint` is what tells it from others under its key, if that is known already.
        Raises `MessageTooLarge`, `QueueFull`, `Draining`, `KeyReused`, `NotDurable` for `durability="committed"`
        in memory, `InvalidParameter`; then nothing is stored, and the key is as before.
        """
        durability = offer.terms.durability
        if not offer.key and durability is None:
            return self._accepted(self._store(offer, now), self.durability)
        self.check_alive()
        if durability == "memory" and has_keys(offer):
            # What it rests on may have to be undone, and then so has this.
            durability = self.durability or durability
        doing = self.asked_for(durability)
        if offer.key:
            fingerprint = fingerprint or fingerprint_of(offer)
            id = self._service.keys.find(self.core.number, offer.key, fingerprint, now)
            if id is not None:
                # The first use may be on its way to the disk.
                self._journal.rely()
                return Accepted(id, True, durability or self.durability)
            self._service.keys.check_room(fingerprint, now)
        with doing:
            stored = self._store(offer, now)
            accepted = self._accepted(stored, durability or self.durability)
            if offer.key:
                self._claim(offer.key, fingerprint, accepted.id, now)
        return accepted

    def _accepted(self, stored: int | Placed | Sequence[Placed], durability: Durability | None) -> Accepted:
        if isinstance(stored, int):
            return Accepted(stored, False, durability)
        if isinstance(stored, Placed):
            return Accepted(stored.id, False, durability, stored.how)
        return Accepted(stored[0].id, False, durability, placed=tuple(stored))

    def asked_for(self, durability: Durability | None) -> AbstractContextManager[None]:
        """Return a block in which to do what a producer asks for. Raises `NotDurable`."""
        if durability == "memory":
            return self._journal.relaxed()
        if durability == "committed" and not self._service.durable:
            raise NotDurable(parameter="durability")
        return nullcontext()

    def _claim(self, key: str, fingerprint: bytes, id: int, now: float) -> None:
        keys, number = self._service.keys, self.core.number
        forgotten = keys.claim(number, key, fingerprint, id, now)
        if self._service.durable:
            if forgotten:
                self._journal.note(KeysForgotten(forgotten))
            record = KeyPut(number, key, fingerprint, id, now + IDEMPOTENCY_WINDOW)
            self._journal.enter(record, keys.release, number, key, fingerprint)

    def _store(self, offer: Offer, now: float) -> int | Placed | Sequence[Placed]:
        """Store what is offered; return the id of the first message, or what became of those that have keys."""
        content, how = offer.content, offer.terms
        if not isinstance(content, bytes):
            return self._store_many(content, offer, now)
        properties = how.properties if how.ttl is None else how.lasting(now)
        if offer.reserved is not None:
            # So that it is not counted twice.
            offer.reserved.release()
        if properties.unique:
            exempt = offer.exempt_from_drain
            return self.store_unique(content, properties, how.delay, now, replace=how.replace, exempt=exempt)
        message = self.store_one(content, properties, how.delay, now, offer.exempt_from_drain)
        if properties.origin is not None:
            # A client sends a dead letter on.
            self.core.note_origin(message)
        return message.id

    def store_one(
        self, body: bytes, properties: Properties, delay: float, now: float, exempt_from_drain: bool = False
    ) -> Message:
        """Store one message of which everything has been checked but its size, and return it."""
        if self._dispatcher.draining and not exempt_from_drain:
            raise Draining
        if len(body) > self._max_message_bytes:
            self._check_size(len(body))
        if self._deleted:
            raise QueueNotFound(queue=self.name)
        if self.refuse_behind is not None:
            raise self.refuse_behind()
        message = self.core.enqueue(body, properties, delay=delay, now=now)
        if self.wait_queue:
            self.hand_out()
        return message

    def store_unique(
        self, body: bytes, properties: Properties, delay: float, now: float, *, replace: bool, exempt: bool = False
    ) -> Placed:
        """Store one message that has a key, unless one with that is held. As `store_one` does else."""
        if self._dispatcher.draining and not exempt:
            raise Draining
        self._check_size(len(body))
        self.check_alive()
        core = self.core
        # What is kept overtakes none of those that wait for room.
        if self.refuse_behind is not None and (replace or not core.keeps(properties.unique, now)):
            raise self.refuse_behind()
        placed = core.enqueue_unique(body, properties, replace=replace, delay=delay, now=now)
        if self.wait_queue:
            self.hand_out()
        return placed

    def _store_many(self, batch: Sequence[bytes | Draft], offer: Offer, now: float) -> int | Sequence[Placed]:
        if self._dispatcher.draining and not offer.exempt_from_drain:
            raise Draining
        checked_limit(len(batch), "messages")
        self.check_alive()
        if offer.reserved is not None:
            offer.reserved.release()
        if self.refuse_behind is not None:
            raise self.refuse_behind()
        packed, properties = offer.packed, offer.terms.properties
        check_batch_key(properties.unique)
        try:
            size = _size_together(batch, little=0 < len(packed) < RECEIVE_BYTES)
        except TypeError:
            drafts = [draft_of(each, properties) for each in batch]
            self._check_size(max(len(draft.body) for draft in drafts))
            for draft in drafts:
                terms_of(draft)
            first: int | Sequence[Placed]
            if any(draft.unique for draft in drafts):
                first = self.core.enqueue_unique_drafts(drafts, now=now)
            else:
                first = self.core.enqueue_drafts(drafts, now=now)
        else:
            bodies: Sequence[bytes] = batch  # type: ignore[assignment]  # the same
            if size > self._max_message_bytes:
                self._check_size(max(map(len, bodies)))
            # In a longer form of the same it is not kept: it would be given out as it came.
            packed = packed if packed and is_shortest(packed, bodies, size) else b""
            first = self.core.enqueue_bodies(bodies, properties, size=size, packed=packed, now=now)
        if self.wait_queue:
            self.hand_out()
        return first

    def _check_size(self, size: int) -> None:
        if size > self._max_message_bytes:
            raise MessageTooLarge(max_bytes=self._max_message_bytes, current=size)

    def take(self, want: Want, now: float, *, together: bool = True) -> Deliveries:
        """Take the messages wanted that are ready; none if there are none. `together`: for one consumer."""
        if self._deleted:
            raise QueueNotFound(queue=self.name)
        if self._dispatcher.offers:
            self._dispatcher.note_room()
        core = self.core
        if want.lease:
            if want.limit == 1:
                lease = core.receive(want.visibility, now)
                return () if lease is None else (lease,)
            return core.receive_many(want.limit, want.visibility, now, together=together)
        if want.limit == 1:
            message = core.dequeue(now)
            return () if message is None else (message,)
        return core.dequeue_many(want.limit, now)

    def take_for_many(self, want: Want, now: float) -> Deliveries:
        """Take messages for `want.limit` consumers that want one each; those left over may get one by `take`."""
        if want.lease and not (self.core.settings.visibility if want.visibility is None else want.visibility):
            return ()  # such a lease is over at once, and its message is for the next one of them
        return self.take(want, now, together=False)

    def nothing(self, now: float) -> Nothing:
        """Count a consumer that gets nothing, and say why. Raises `Draining`."""
        self._dispatcher.check_open()
        self._dispatcher.note_empty()
        return Nothing(self.core.why_empty(), self.next_visible_in(now))

    def next_visible_in(self, now: float) -> float:
        """Return the seconds until a consumer may get a message, if nothing happens before. See `Nothing`."""
        return max(self.core.next_visible() - now, 0.0)

    def settle_one(self, settlement: Settlement, now: float) -> Lease | None:
        """Acknowledge, release or extend one lease, and return it if it goes on. Raises `ReceiptExpired`."""
        if self._deleted:
            raise QueueNotFound(queue=self.name)
        if self._dispatcher.offers:
            self._dispatcher.note_room()
        if settlement.action == "ack":
            self.core.ack(settlement.receipt, now)
            if self.wait_queue and self.core.available:
                self.hand_out()
            return None
        if settlement.action == "extend":
            return self.core.extend(settlement.receipt, settlement.visibility, now)
        self.core.release(settlement.receipt, settlement.delay, now)
        self._dispatcher.hand_out()
        return None

    def ack(self, receipt: str, now: float) -> None:
        """Acknowledge one lease. Raises `ReceiptExpired`. As `settle_one` does; this is done for each message."""
        if self._deleted:
            raise QueueNotFound(queue=self.name)
        if self._dispatcher.offers:
            self._dispatcher.note_room()
        self.core.ack(receipt, now)
        if self.wait_queue and self.core.available:
            self.hand_out()  # it held up others of its group

    def remove(self, id: int, now: float) -> bool:
        """Let a message go that has been leased before, and return whether it was here."""
        self.check_alive()
        if self._dispatcher.offers:
            self._dispatcher.note_room()
        removed = self.core.remove(id, now)
        if removed and self.wait_queue:
            self.hand_out()  # it may have held up others
        return removed

    def delete(self, id: int, now: float) -> bool:
        """Let a message go that no consumer holds, and return whether it was here. Raises `MessageLeased`."""
        self.check_alive()
        if self._dispatcher.offers:
            self._dispatcher.note_room()
        deleted = self.core.delete(id, now)
        if deleted and self.wait_queue:
            self.hand_out()  # it may have held up others
        return deleted

    def hide(self, id: int, visibility: float, now: float) -> bool:
        """Keep a message from consumers that has been leased before, and return whether it was here."""
        self.check_alive()
        hidden = self.core.hide(id, visibility, now)
        self._dispatcher.hand_out()
        return hidden

    def settle(self, settlements: Sequence[Settlement], now: float) -> list[ZapqError | None]:
        """Acknowledge, release and extend, 1 to 1000 at once; for each, None or why it was refused."""
        checked_limit(len(settlements), "settlements")
        self.check_alive()
        results: list[ZapqError | None] = []
        for settlement in settlements:
            try:
                self.settle_one(settlement, now)
            except (ReceiptExpired, InvalidParameter) as error:
                # With its traceback it would know this frame, which knows it: a thousand of those cycles, and the
                # garbage collector comes, for 30 ms.
                results.append(error.with_traceback(None))
            else:
                results.append(None)
        if any(results):
            # Leases may be over by what is on its way to the disk.
            self._journal.rely()
        return results

    def return_undelivered(self, given: Deliveries) -> None:
        """Put messages that could not be handed over at their places, as if never taken. Never refused.

        That stays done, also if the disk fails; so it is done when it is known that they were taken.
        """
        self._journal.when_resolved(partial(self._return, given))

    def _return(self, given: Deliveries, taken: bool) -> None:
        if self._deleted:
            return
        with self._journal.relaxed():
            for each in given:
                if isinstance(each, Lease):
                    self.core.take_back(each)
                elif taken or self.core.find(each.id) is None:  # else that it was taken is undone
                    self.core.put_back(each)
            self.hand_out()

    def note_uncertain_delivery(self, number: int) -> None:
        """Count messages whose bytes may or may not have reached a client that vanished."""
        self._service.note_uncertain_delivery(number)

    def remember(self, asked: Remember, now: float) -> None:
        """Take note of what was received under an attempt id."""
        held = [
            LeaseSeen(id, receipt, seen.due)
            for id, receipt in asked.leases
            if (seen := self.core.find(id)) is not None and seen.state == "leased" and seen.due is not None
        ]
        if len(held) == len(asked.leases):
            self._service.attempts.put(self.core.number, asked.attempt, held, now)

    def recall(self, asked: Recall, now: float) -> list[Lease]:
        """Give what was received under an attempt id once more, if each lease is as it was; else nothing."""
        self.check_alive()
        attempts, number = self._service.attempts, self.core.number
        held = attempts.find(number, asked.attempt, now)
        if not all(map(partial(self._goes_on, now=now), held)):
            attempts.pop(number, asked.attempt)
            return []
        leases = [self.core.extend(each.receipt, asked.visibility, now) for each in held]
        if leases:
            attempts.renew(
                number, asked.attempt, [LeaseSeen(each.id, each.receipt, each.deadline) for each in leases]
            )
        return leases

    def _goes_on(self, held: LeaseSeen, now: float) -> bool:
        # A later lease of the message would end later.
        seen = self.core.find(held.id)
        return seen is not None and seen.state == "leased" and now < held.deadline == seen.due

    def peek(self, state: State, limit: int) -> list[MessageView]:
        """Return the first messages in `state`, and change nothing."""
        self.check_alive()
        return self.core.peek(state, limit)

    def find(self, id: int) -> MessageView | None:
        """Return the message with this id if the queue holds it, and change nothing."""
        self.check_alive()
        return self.core.find(id)

    async def clear(self) -> int:
        """Drop every message. See `NamedQueue.clear`."""
        async with self._service.exclusive:
            self.check_alive()
            held = self.core.clear()
        await bulk.free_elsewhere([held])
        return held.messages

    async def set_paused(self, paused: bool) -> None:
        """Stop or go on giving messages to consumers."""
        async with self._service.section:
            self.check_alive()
            self._journal.check()
            self.core.paused = paused
            self.hand_out()

    async def redrive(self, limit: int, id: int = 0) -> Redriven:
        """Send dead letters back to where they failed, or the one with this id. See `NamedQueue.redrive`."""
        async with self._service.section:
            self.check_alive()
            broker, now = self._service.broker, trio.current_time()
            redriven = broker.redrive_one(self.name, id, now) if id else broker.redrive(self.name, limit, now)
            self._dispatcher.hand_out()
        return redriven

    def info(self) -> QueueInfo:
        """Return the queue's settings and statistics; never waits. As long as they stay, it is the same object."""
        core = self.core
        told, figures, paused = self._told, core.figures(), core.paused
        waiting, oldest, waits = len(self.wait_queue), core.oldest(), core.waits()
        if (
            self._figures == figures
            and told is not None
            and told.oldest is oldest
            and told.waits is waits
            and told.settings is core.settings
            and told.paused is paused
            and told.waiting == waiting
        ):
            return told
        self._figures = figures
        stats = QueueStats(*figures)
        self._told = QueueInfo(core.name, core.settings, stats, paused, waiting, core.number, oldest, waits)
        return self._told

    @property
    def unused(self) -> bool:
        """Whether nothing was ever sent to it, and nothing is set."""
        stats = self.core.stats()
        untouched = self.core.settings == QueueSettings() and not self.core.paused
        return untouched and not stats.messages and not stats.enqueued

    def end(self) -> None:
        """Take note that the queue is deleted: once that counts, its waiting consumers get `QueueNotFound`."""
        self._deleted = True
        self._journal.enter(None, self._undo_end)
        self._journal.when_resolved(self._dismiss)

    def _undo_end(self) -> None:
        self._deleted = False

    def _dismiss(self, deleted: bool) -> None:
        if deleted:
            self._dispatcher.waiting_room.refuse(self.wait_queue, partial(QueueNotFound, queue=self.name))

    def drop(self) -> None:
        """Take note that the queue, which was not used, is there no longer."""
        self._deleted = True

    def rebind(self, core: Queue) -> None:
        """Use `core` from now on, which has taken the place of the former one; waiting consumers wait on."""
        self._journal.enter(None, self._undo_rebind, self.core)
        self.core, self._told = core, None
        self.provisional = False

    def _undo_rebind(self, core: Queue) -> None:
        self.core, self._told = core, None

    def check_alive(self) -> None:
        """Raise `QueueNotFound` once it is deleted."""
        if self._deleted:
            raise QueueNotFound(queue=self.name)

    def hand_out(self) -> bool:
        """Match waiting consumers with messages; return whether some still wait.

        While the disk is unavailable they wait on.
        """
        if not self._deleted and not self._journal.reason:
            # A producer that is content with memory does not wait until its message is taken on the disk.
            with self._journal.for_others():
                self._hand_out()
        return len(self.wait_queue) > 0

    def _hand_out(self) -> None:
        while self.wait_queue and self.core.available:
            waiter = next(iter(self.wait_queue.values()))
            given = self.take(waiter.want, trio.current_time())
            if not given:
                continue
            commit = self._journal.commit
            if commit is None:
                self._dispatcher.waiting_room.serve(waiter, given, self)
            else:
                self._dispatcher.waiting_room.leave(waiter)
                self._journal.enter(None, self._undo_serve, waiter)
                commit.after.append(partial(self._deliver, waiter, given, commit))

    def _deliver(self, waiter: Waiter, given: Deliveries, commit: OpenCommit) -> None:
        """Hand messages to a consumer, for it is known now whether their taking is on the disk."""
        if commit.undone or (waiter.gone and commit.failure):
            return
        if waiter.gone:
            self.return_undelivered(given)
            return
        if commit.failure:
            waiter.refusal = commit.refusal()
        else:
            waiter.given, waiter.lender = given, self
        waiter.wake()

    def _undo_serve(self, waiter: Waiter) -> None:
        self._dispatcher.waiting_room.come_back(waiter)
        self._dispatcher.note_crowded(self)
        # A drain that came meanwhile has not seen it.
        self._dispatcher.wake_by(-inf if self._dispatcher.draining else waiter.deadline)


def terms_of(draft: Draft) -> Terms:
    """Return the terms of a message that brings its own; `InvalidParameter` for a value out of range."""
    return terms(
        priority=draft.priority,
        delay=draft.delay,
        ttl=draft.ttl,
        content_type=draft.content_type,
        headers=draft.headers,
        group=draft.group or None,
        unique=draft.unique or None,
        on="replace" if draft.on == "replace" else None,
    )


def has_keys(offer: Offer) -> bool:
    """Whether a message that is offered has a key."""
    content = offer.content
    if isinstance(content, bytes):
        return bool(offer.terms.properties.unique)
    return any(isinstance(each, Draft) and each.unique for each in content)


def check_batch_key(unique: str) -> None:
    """Raise `InvalidParameter` if a batch has a key in common."""
    if unique:
        raise InvalidParameter(
            "A key is for one message. Give each message of a batch its own: unique in a draft.",
            parameter="unique",
        )


def draft_of(each: bytes | Draft, properties: Properties) -> Draft:
    """Return a message of a batch as a draft; `properties` are those of messages that do not bring their own."""
    if not isinstance(each, Draft):
        return Draft(
            body=each,
            content_type=properties.content_type,
            headers=dict(properties.headers),
            group=properties.group,
        )
    if properties.headers and not each.headers:
        return msgspec.structs.replace(each, headers=dict(properties.headers))
    return each


def measured(offer: Offer) -> tuple[int, int]:
    """Return how many messages an offer has, and what they count together in the caps, in bytes."""
    content, properties = offer.content, offer.terms.properties
    if isinstance(content, bytes):
        return 1, len(content) + properties.size
    return len(content), sum(draft_of(each, properties).size for each in content)


def _size_together(batch: Sequence[bytes | Draft], *, little: bool) -> int:
    """Return the bytes of all bodies; TypeError if one is a draft, which is not bytes and has no length."""
    # Joining takes a third of the time, as long as it is little.
    return len(b"".join(batch)) if little else sum(map(len, batch))  # type: ignore[arg-type]
