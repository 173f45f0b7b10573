"""The service whose queues are on disk: what it does otherwise than the one in memory.

The verbs are the same, for the core's queues enter their changes in a journal by themselves, and the step they run
in waits for it (`journal.py`). Here is what is about a queue as a whole, which happens while nothing else may
change, and the hand-over to waiting consumers, which must also wait for the disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from zapq.core.broker import Broker, Redriven
from zapq.core.idempotency import Claim, Keys
from zapq.core.image import Image
from zapq.core.journaled import JournaledQueue, StillSettling
from zapq.core.journaled_broker import JournaledBroker
from zapq.core.leases import End
from zapq.core.message import Lease
from zapq.core.queue import Queue
from zapq.core.queue_settings import QueueSettings
from zapq.core.records import Entry, EpochDropped, KeyPut, PutMany, Staged, row_of
from zapq.errors import QueueFull, ReceiptExpired, SnapshotFailed, StorageUnavailable, ZapqError
from zapq.limits import IDEMPOTENCY_WINDOW, MAX_BATCH
from zapq.service import bulk
from zapq.service.journal import ExclusiveSection, Journal, JournaledSection, QuiescentSection
from zapq.service.named_queue import Accepted, Action, Durability, NamedQueue, Settlement, checked_limit
from zapq.service.service import QueueService
from zapq.service.waiting import Deliveries, Waiter
from zapq.settings import Settings
from zapq.store.database import Contents, Database
from zapq.store.snapshot import MSGPACK, SnapshotStore, snapshot_name


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


class DurableQueue(NamedQueue):
    """One queue of a service on disk. Every verb that changes something also raises `StorageUnavailable`.

    The `*_nowait` methods return before the change is written, and it may still be undone: `QueueService.stored`
    waits for it, and says so.
    """

    _service: DurableService
    _core: JournaledQueue

    def _once_nowait(
        self,
        key: str,
        fingerprint: bytes,
        store: Callable[[float], int],
        now: float,
        durability: Durability | None = None,
    ) -> Accepted:
        accepted = super()._once_nowait(key, fingerprint, store, now, durability)
        if accepted.replayed and (self._core.number, key) in self._service.pending_keys:
            raise trio.WouldBlock
        return accepted

    async def _once(
        self, key: str, fingerprint: bytes, store: Callable[[float], int], durability: Durability | None
    ) -> Accepted:
        while True:
            with suppress(trio.WouldBlock):
                return await super()._once(key, fingerprint, store, durability)
            # The first one's answer is also this one's; if it comes to nothing, this one is the first.
            await self._service.journal.resolved()

    def _asked_for(self, durability: Durability | None) -> AbstractContextManager[None]:
        return self._service.journal.relaxed() if durability == "memory" else nullcontext()

    async def clear(self) -> int:
        """Drop every message, delayed and leased ones included, and return how many that were."""
        async with self._service.exclusive:
            self._check_alive()
            number = len(self._core)
            change = self._service.broker.begin_clearing(self._core)
            self._service.journal.add(change)
        await bulk.free_elsewhere(change.dropped)
        return number

    async def pause(self) -> None:
        """Give nothing to consumers from now on; messages are still accepted, and leases still settled."""
        await self._set_paused(True)

    async def resume(self) -> None:
        """Give messages to consumers again; those that wait are served at once."""
        await self._set_paused(False)

    async def redrive(self, *, limit: int = MAX_BATCH) -> Redriven:
        """Move dead letters that are ready here to the end of the queues they failed in. See `NamedQueue`."""
        checked_limit(limit, "limit")
        async with self._service.exclusive:
            self._check_alive()
            change, redriven = self._service.broker.begin_redriving(self.name, limit, trio.current_time())
            self._service.journal.add(change)
        return redriven

    async def settle(self, settlements: Sequence[Settlement]) -> list[ZapqError | None]:
        """Acknowledge, release and extend in one step. See `NamedQueue.settle`."""
        while True:
            try:
                return await super().settle(settlements)
            except StillSettling:
                await self._service.journal.resolved()

    def ack_nowait(self, receipt: str, *, now: float | None = None) -> None:
        """Let a leased message go for good; atomic, without a checkpoint."""
        try:
            super().ack_nowait(receipt, now=now)
        except StillSettling:
            raise trio.WouldBlock from None

    async def _end_block(self, lease: Lease, action: Action) -> None:
        try:
            # Bounded as `OpenGroup.wait` is. In a section, for a purge or a redrive that is being written must not
            # meet the end of a lease.
            with trio.CancelScope(shield=True):
                await self._settle_one(Settlement(receipt=lease.receipt, action=action))
        except StorageUnavailable:
            # The lease may last for ever: its holder is gone.
            self.return_undelivered([lease])
            raise

    async def _set_paused(self, paused: bool) -> None:
        async with self._service.exclusive:
            self._check_alive()
            self._service.journal.check()
            self._service.journal.add(self._core.begin_setting(paused=paused))

    async def _settle_one(self, settlement: Settlement) -> Lease | None:
        while True:
            try:
                async with self._section:
                    return super().settle_nowait(settlement)
            except StillSettling:
                await self._service.journal.resolved()

    def settle_nowait(self, settlement: Settlement) -> Lease | None:
        """Acknowledge, release or extend one lease. See `NamedQueue.settle_nowait`.

        Raises `trio.WouldBlock`, and changes nothing, while a purge or a redrive is being written, or what an
        earlier call did to this lease.
        """
        if self._lock.locked():
            raise trio.WouldBlock
        try:
            return super().settle_nowait(settlement)
        except StillSettling:
            raise trio.WouldBlock from None

    def return_undelivered(self, given: Deliveries) -> None:
        """Put messages that could not be handed over at their original places. See `NamedQueue`.

        While a purge or a redrive is being written, they come back right after it.
        """
        if self._lock.locked():
            self._service.journal.when_resolved(partial(super().return_undelivered, given))
        else:
            super().return_undelivered(given)

    def _settle_all(self, settlements: Sequence[Settlement]) -> list[ZapqError | None]:
        if any(self._core.is_settling(settlement.receipt) for settlement in settlements):
            raise StillSettling
        results: list[ZapqError | None] = []
        ended: dict[str, End] = {}
        for settlement in settlements:
            try:
                [result] = super()._settle_all([settlement])
            except StillSettling:
                # By this very call: what is acknowledged may be so again, what is released is over.
                end = ended[settlement.receipt]
                again = settlement.action == "ack" and end is End.ACKED
                result = None if again else ReceiptExpired(end.sentence, parameter="receipt")
            results.append(result)
            if result is None and settlement.action != "extend":
                ended.setdefault(settlement.receipt, End.ACKED if settlement.action == "ack" else End.RELEASED)
        return results

    def _claim(self, key: str, fingerprint: bytes, id: int, now: float) -> None:
        super()._claim(key, fingerprint, id, now)
        number = self._core.number
        entry = KeyPut(number, key, fingerprint, id, now + IDEMPOTENCY_WINDOW)
        self._service.pending_keys.add((number, key))
        claimed = _Claimed(self._service.keys, self._service.pending_keys, [entry], number, key)
        self._service.journal.add(claimed)

    def _hand_out(self) -> None:
        try:
            super()._hand_out()
        except StorageUnavailable:
            # They wait on, and are served when it is back.
            return

    def _deliver(self, waiter: Waiter, given: Deliveries) -> None:
        self._waiting_room.leave(waiter)
        batch = self._service.journal.batch

        def deliver() -> None:
            if waiter.gone:
                # If it could not be written, it is back already.
                if not batch.failure:
                    self.return_undelivered(given)
                return
            if batch.failure:
                waiter.refusal = batch.refusal()
            else:
                waiter.given = given
            waiter.wake()

        batch.after.append(deliver)


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
        for queue in self._queues.values():
            queue.use_section(self.section)
        clock_offset = time.time() - trio.current_time()
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
            await self.journal.resolved()

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
            queue = self.find(name)
            change = self.broker.begin_deleting(name)
            self.journal.add(change)
            batch = self.journal.batch
            batch.after.append(lambda: None if batch.failure else self._forget(name, queue))
        await bulk.free_elsewhere(change.dropped)

    def _forget(self, name: str, queue: NamedQueue) -> None:
        self._queues.pop(name, None)
        queue.end()

    def _note_resolved(self) -> None:
        if not self.lock.locked():
            self.hand_out()

    def _make_broker(self, **options: Any) -> Broker:
        contents = self._contents
        return JournaledBroker(
            journal=self.journal,
            kept=contents.queues,
            epoch=contents.epoch,
            clock=trio.current_time,
            **options,
        )

    def _make_queue(self, core: Queue) -> NamedQueue:
        return DurableQueue(self, core)
