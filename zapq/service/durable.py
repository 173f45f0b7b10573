"""The service whose queues are on disk: what it does otherwise than the one in memory.

The steps are the same: the core's queues enter their changes in a journal by themselves (`journal.py`), and the
outcome of a step that changed something is a `Commit`, known when it is written. Here is what is about a queue as
a whole, which happens while nothing else may change, and the hand-over to waiting consumers, which must also wait
for the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import trio

from zapq.core.broker import Broker, Redriven
from zapq.core.idempotency import Claim, Keys
from zapq.core.image import Image
from zapq.core.journaled import JournaledQueue, StillSettling
from zapq.core.journaled_broker import JournaledBroker
from zapq.core.leases import End
from zapq.core.queue import Queue
from zapq.core.queue_settings import QueueSettings
from zapq.core.records import Entry, EpochDropped, KeyPut, PutMany, Staged, row_of
from zapq.errors import QueueFull, ReceiptExpired, SnapshotFailed, StorageUnavailable, ZapqError
from zapq.limits import IDEMPOTENCY_WINDOW, MAX_BATCH
from zapq.service import bulk
from zapq.service.journal import ExclusiveSection, Journal, JournaledSection, QuiescentSection
from zapq.service.operations import (
    Accepted,
    Delivery,
    Durability,
    Enqueue,
    Nothing,
    Offer,
    Settlement,
    Take,
    checked_limit,
)
from zapq.service.pending import Commit, Pending
from zapq.service.queue_state import QueueState
from zapq.service.service import QueueService, as_put
from zapq.service.waiting import Deliveries, Waiter, WaitQueue
from zapq.settings import Settings
from zapq.store.database import Contents, Database
from zapq.store.snapshot import MSGPACK, SnapshotStore, snapshot_name

T = TypeVar("T")


@dataclass(slots=True)
class _Claimed:
    """A key that was used, if what it was used for is written."""

    keys: Keys
    pending: set[tuple[int, str]]
    entries: Sequence[Entry]
    queue: int
    key: str

    def commit(self) -> None:
        self.pending.discard((self.queue, self.key))

    def revert(self) -> None:
        self.pending.discard((self.queue, self.key))
        self.keys.release(self.queue, self.key)


class _StillWriting(Exception):
    """What the step builds on is being written: it is to be taken again when that is known."""


class DurableQueueState(QueueState):
    """One queue of a service on disk: its steps enter in the journal what they change."""

    _service: DurableService
    core: JournaledQueue
    durability: Durability | None = "committed"

    def asked_for(self, durability: Durability | None) -> AbstractContextManager[None]:
        """Do in this block what a producer asks for."""
        return self._service.journal.relaxed() if durability == "memory" else nullcontext()

    def _replay(self, offer: Offer, id: int) -> Accepted:
        if (self.core.number, offer.key) in self._service.pending_keys:
            raise _StillWriting
        return super()._replay(offer, id)

    def _claim(self, key: str, fingerprint: bytes, id: int, now: float) -> None:
        super()._claim(key, fingerprint, id, now)
        number = self.core.number
        entry = KeyPut(number, key, fingerprint, id, now + IDEMPOTENCY_WINDOW)
        self._service.pending_keys.add((number, key))
        claimed = _Claimed(self._service.keys, self._service.pending_keys, [entry], number, key)
        self._service.journal.add(claimed)

    async def clear(self) -> int:
        """Drop every message. See `NamedQueue.clear`."""
        async with self._service.exclusive:
            self.check_alive()
            number = len(self.core)
            change = self._service.broker.begin_clearing(self.core)
            self._service.journal.add(change)
        await bulk.free_elsewhere(change.dropped)
        return number

    async def set_paused(self, paused: bool) -> None:
        """Stop or go on giving messages to consumers."""
        async with self._service.exclusive:
            self.check_alive()
            self._service.journal.check()
            self._service.journal.add(self.core.begin_setting(paused=paused))

    async def redrive(self, limit: int) -> Redriven:
        """Send dead letters back to the queues they failed in. See `NamedQueue.redrive`."""
        async with self._service.exclusive:
            self.check_alive()
            change, redriven = self._service.broker.begin_redriving(self.name, limit, trio.current_time())
            self._service.journal.add(change)
        return redriven

    def return_undelivered(self, given: Deliveries) -> None:
        """Put messages that could not be handed over at their original places. See `QueueState`.

        While a purge or a redrive is being written, they come back right after it.
        """
        if self._service.lock.locked():
            self._service.journal.when_resolved(partial(super().return_undelivered, given))
        else:
            super().return_undelivered(given)

    def settle(self, settlements: Sequence[Settlement], now: float) -> list[ZapqError | None]:
        """Acknowledge, release and extend, 1 to 1000 at once; for each, None or why it was refused."""
        if any(self.core.is_settling(settlement.receipt) for settlement in settlements):
            raise StillSettling
        checked_limit(len(settlements), "settlements")
        results: list[ZapqError | None] = []
        ended: dict[str, End] = {}
        for settlement in settlements:
            try:
                [result] = super().settle([settlement], now)
            except StillSettling:
                # By this very call: what is acknowledged may be so again, what is released is over.
                end = ended[settlement.receipt]
                again = settlement.action == "ack" and end is End.ACKED
                result = None if again else ReceiptExpired(end.sentence, parameter="receipt")
            results.append(result)
            if result is None and settlement.action != "extend":
                ended.setdefault(settlement.receipt, End.ACKED if settlement.action == "ack" else End.RELEASED)
        return results

    def hand_out(self) -> bool:
        """Match waiting consumers with messages; while the disk is unavailable they wait on."""
        try:
            return super().hand_out()
        except StorageUnavailable:
            return True

    def _deliver(self, waiter: Waiter, given: Deliveries) -> None:
        self._dispatcher.waiting_room.leave(waiter)
        group = self._service.journal.batch

        def deliver() -> None:
            if waiter.gone:
                # If it could not be written, it is back already.
                if not group.failure:
                    self.return_undelivered(given)
                return
            if group.failure:
                waiter.refusal = group.refusal()
            else:
                waiter.given, waiter.lender = given, self
            waiter.wake()

        group.after.append(deliver)


class DurableService(QueueService):
    """Queues on disk that other tasks share. Made and started by `open_service`, never by hand."""

    broker: JournaledBroker

    def __init__(
        self, settings: Settings, snapshots: SnapshotStore, database: Database, contents: Contents
    ) -> None:
        self._journal = Journal(database, self._note_resolved)
        self.pending_keys: set[tuple[int, str]] = set()
        """Keys whose first use is being written."""
        self._contents = contents
        super().__init__(settings, snapshots)
        self.section = JournaledSection(self.lock, self.journal)
        self.exclusive = ExclusiveSection(self.lock, self.journal, self.hand_out)
        self.quiescent = QuiescentSection(self.lock, self.journal)
        clock_offset = database.clock() - trio.current_time()
        for kept in contents.keys:
            claim = Claim(kept.fingerprint, kept.id, kept.until - clock_offset)
            self.keys.restore(kept.queue, kept.key, claim)
        del self._contents

    @property
    def journal(self) -> Journal:
        """Where changes wait for the disk."""
        return self._journal

    @property
    def durable(self) -> bool:
        """Whether messages are on the disk before they are acknowledged."""
        return True

    def attempt_nowait(self, step: Callable[[float], T], now: float) -> T:
        """Take one synchronous step now, or raise `trio.WouldBlock`; what it changes may still be undone."""
        try:
            return super().attempt_nowait(step, now)
        except (StillSettling, _StillWriting):
            raise trio.WouldBlock from None

    def take_step(self, step: Callable[[float], Pending[T] | T], now: float) -> Pending[T] | T:
        """Take one synchronous step. What it changes counts when it is written, so its outcome is known then."""
        journal = self.journal
        entered = journal.entered
        try:
            outcome = step(now)
        except (StillSettling, _StillWriting):
            return self._defer(step)
        if isinstance(outcome, Pending) or journal.entered == entered:
            return outcome
        return Commit(journal.batch, outcome)

    async def resolved(self) -> None:
        """Wait until every change begun so far is written, or has failed. Raises nothing."""
        await self.journal.resolved()

    def when_resolved(self, call: Callable[[], object]) -> None:
        """Call `call` once the step that is being taken is known to be written, or to have failed."""
        if self.journal.batch.changes:
            self.journal.batch.after.append(call)
        else:
            call()

    def attempt_enqueuing(self, asked: Enqueue, now: float) -> Pending[Accepted] | Accepted:
        """Store one message. See `QueueService.attempt_putting`."""
        state = self._states.get(asked.queue)
        if state is None or state.provisional or self.lock.locked():
            return self.attempt_putting(as_put(asked), now)
        return self.take_step(partial(state.enqueue, asked), now)

    def attempt_taking(self, asked: Take, now: float) -> Pending[Delivery | Nothing] | Delivery | Nothing:
        """Take messages from a queue. See `QueueService.attempt_taking`."""
        return self.attempt(partial(self._take, asked), now)

    def _release(self, state: QueueState) -> None:
        if self.lock.locked():
            # It may be about to become the dead-letter queue of another.
            self.journal.when_resolved(partial(super()._release, state))
        else:
            super()._release(state)

    def check_storage(self) -> None:
        """Raise `StorageUnavailable` if changes cannot be written at the moment."""
        self.journal.check()

    async def stored(self) -> None:
        """Wait until every change begun so far is on the disk. Raises `StorageUnavailable`."""
        batch = self.journal.batch
        if batch:
            self.journal.flush()
            await batch.wait()
        else:
            await self.resolved()

    def abandon_storage(self) -> None:
        """Wait for the disk no longer."""
        self.journal.abandon()

    async def configure(self, name: str, settings: QueueSettings) -> bool:
        """Let `settings` hold for the queue called `name`, and return whether it was made for that."""
        async with self.exclusive:
            change, made = self.broker.begin_configuring(name, settings, trio.current_time())
            self.journal.add(change)
        return made

    async def change_settings(self, name: str, /, **changes: object) -> None:
        """Change those settings of the queue called `name` that are given. See `QueueService.change_settings`."""
        async with self.exclusive:
            settings = self.broker.changed_settings(name, changes)
            change, _ = self.broker.begin_configuring(name, settings, trio.current_time())
            self.journal.add(change)

    async def restore(self, name: str) -> int:
        """Replace the default queue by the content of the file `name`. See `QueueService.restore`.

        All of it is on the disk before the queue changes, and the change is one small write.
        """
        name = snapshot_name(name)
        if name.endswith(MSGPACK):
            self.journal.check()
            return await super().restore(name)
        self.check_open()
        self.journal.check()
        bodies = await trio.to_thread.run_sync(self.snapshots.store.load, name, bulk.cancellable_yield)
        core = self.broker.default
        async with self.section:
            first, epoch = core.reserve(len(bodies)), self.broker.next_epoch()
        used = False
        try:
            messages, size = await trio.to_thread.run_sync(bulk.make, bodies, first)
            number = len(messages)
            for start in range(0, number, MAX_BATCH):
                part = bodies[start : start + MAX_BATCH]
                async with self.section:
                    self.journal.add(Staged([PutMany(row_of(epoch, first + start), part)]))
            async with self.exclusive:
                self.check_open()
                try:
                    change = core.begin_replacing(epoch, messages, size)
                except QueueFull as full:
                    raise SnapshotFailed(
                        f"{name} holds more than {full.members['limit']} allows. The queue is as it was. Raise"
                        " the cap, and load the file again.",
                        **full.members,
                    ) from None
                self.journal.add(change)
            used = True
        finally:
            if not used:
                self.journal.note(EpochDropped(epoch))
        await bulk.free_elsewhere(change.dropped)
        return number

    async def replace_all(self, image: Image) -> int:
        """Replace every queue by what `image` holds. See `QueueService.replace_all`.

        All of it is on the disk before the queues change, and the change is one small write.
        """
        now = trio.current_time()
        async with self.section:
            made = self.broker.prepare(each.name for each in image.queues)
        used = False
        try:
            keys = await trio.to_thread.run_sync(bulk.build, made, image, now)
            for queue in made.queues.values():
                for entries in queue.rows():
                    async with self.section:
                        self.journal.add(Staged(entries))
            async with self.exclusive:
                self.check_open()
                names = {queue.number: name for name, queue in made.queues.items()}
                change = self.broker.begin_swapping(made, keys.image(names))
                self.journal.add(change)
                batch = self.journal.batch
                batch.after.append(lambda: None if batch.failure else self._rebind(keys))
            used = True
            number = self.broker.messages
        finally:
            if not used:
                for epoch in made.epochs.values():
                    self.journal.note(EpochDropped(epoch))
        await bulk.free_queues_elsewhere(change.former)
        return number

    async def delete(self, name: str) -> None:
        """Remove the queue called `name` with all it holds; waiting consumers get `QueueNotFound`."""
        async with self.exclusive:
            state = self.find_state(name)
            change = self.broker.begin_deleting(name)
            self.journal.add(change)
            batch = self.journal.batch
            batch.after.append(lambda: None if batch.failure else self._forget(name, state))
        await bulk.free_elsewhere(change.dropped)

    def _forget(self, name: str, state: QueueState) -> None:
        self._states.pop(name, None)
        state.end()

    def _note_resolved(self) -> None:
        if not self.lock.locked():
            self.hand_out()
        self.dispatcher.note_room()

    def _make_broker(self, **options: Any) -> Broker:
        contents = self._contents
        return JournaledBroker(
            journal=self.journal,
            kept=contents.queues,
            epoch=contents.epoch,
            clock=trio.current_time,
            **options,
        )

    def _make_state(self, core: Queue, wait_queue: WaitQueue) -> QueueState:
        return DurableQueueState(self, core, wait_queue)
