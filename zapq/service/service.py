"""The queues as a running service: one lock, and the verbs about all of them.

Every change is one synchronous step, taken while no other task holds one `trio.Lock`, so the changes form one
sequence that every caller agrees on (linearizability). What a step changed counts when the journal has it written,
so its outcome is a `Commit`. Only what exchanges all a queue holds keeps the lock until that is so. The steps of a
queue are in `queue_state.py`, its verbs for programs in `named_queue.py`, hand-over and timer in `dispatch.py`;
`open.py` starts it all.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from math import inf
from typing import Any, TypeVar

import trio

from zapq.core.attempts import Attempts
from zapq.core.broker import Broker
from zapq.core.held import Held
from zapq.core.idempotency import Claim, Keys
from zapq.core.image import Image
from zapq.core.names import check_name
from zapq.core.queue import Queue
from zapq.core.queue_settings import QueueSettings
from zapq.core.records import EpochDropped, rows_of
from zapq.core.stats import QueueStats
from zapq.errors import (
    Draining,
    KeyReused,
    QueueFull,
    QueueNotFound,
    ReceiptExpired,
)
from zapq.limits import DEFAULT_QUEUE, MAX_TURN
from zapq.movable_clock import move_on
from zapq.service import bulk
from zapq.service.dispatch import Dispatcher
from zapq.service.history import History
from zapq.service.journal import ExclusiveSection, Journal, QuiescentSection, WrittenSection
from zapq.service.large_puts import LargePuts
from zapq.service.memory_journal import MemoryJournal
from zapq.service.named_queue import NamedQueue
from zapq.service.operations import Accepted, Delivery, Enqueue, Nothing, Offer, Put, Take
from zapq.service.pending import Commit, Ending, Later, Pending, Poll, Refusal
from zapq.service.queue_state import QueueState
from zapq.service.reservation import Reservation
from zapq.service.room import Putting, Room
from zapq.service.section import Section, Turns
from zapq.service.service_stats import ServiceStats
from zapq.service.snapshots import Snapshots
from zapq.service.waiting import ONE, Waiter, WaitingRoom, WaitQueue, Want
from zapq.settings import Settings
from zapq.store.port import Contents
from zapq.store.snapshot import SnapshotStore

T = TypeVar("T")

_RESTING = (KeyReused, QueueNotFound, ReceiptExpired)
"""Refusals that may rest on what another client has done and is not on the disk yet."""


class QueueService:
    """Queues other tasks share. Made and started by `open_service`, never by hand.

    `service.queue("emails")` is one of them. The service's own verbs, of the same names, are those of the default
    queue.
    """

    def __init__(
        self,
        settings: Settings,
        snapshots: SnapshotStore,
        journal: Journal | None = None,
        contents: Contents | None = None,
    ) -> None:
        self.lock = trio.Lock()
        self.dispatcher = Dispatcher(self.lock, settings.max_waiters)
        self.durable = journal is not None
        """Whether messages are on the disk before they are acknowledged."""
        self.journal: Journal | MemoryJournal = MemoryJournal() if journal is None else journal
        """Where changes wait for the disk."""
        self.section = WrittenSection(self.lock, self.journal, self.dispatcher.note_room)
        self.exclusive = ExclusiveSection(self.lock, self.journal, self._note_exclusive)
        """For a step after which other queues are there."""
        self.quiescent = QuiescentSection(self.lock, self.journal, self._note_exclusive)
        """For a step that looks at everything: while it lasts, nothing is on its way to the disk."""
        self.turns = Turns()
        """For what takes milliseconds."""
        self._large_puts = LargePuts(self, self._attempt_putting)
        self.room = Room(self)
        self.keys = Keys(settings.max_deduplication_ids)
        self.max_message_bytes = settings.max_message_bytes
        self.snapshots = Snapshots(self, snapshots, settings.snapshot_on_exit)
        self.broker = Broker(
            journal=journal,
            kept=() if contents is None else contents.queues,
            epoch=0 if contents is None else contents.epoch,
            clock=trio.current_time,
            max_messages=settings.max_msgs,
            max_bytes=settings.max_bytes,
            max_queues=settings.max_queues,
            # Tells receipts of this run from those of others.
            tag=secrets.token_hex(3),
            on_earlier=self.dispatcher.wake_by,
            lease_slack=MAX_TURN,
            now=trio.current_time(),
        )
        self.test_clock = settings.test_clock
        """Whether `advance` may be asked for."""
        self.attempts = Attempts()
        self.history = History()
        """Of the last minutes, where samples are taken: in a server."""
        self._delivery_uncertain = 0
        self.close_by = inf
        """When, by Trio's clock, the disk is waited for no longer as the service ends."""
        self._states: dict[str, QueueState] = {}
        self._expected: dict[str, WaitQueue] = {}
        """Consumers that wait for the first message of a queue that is not there yet, by its name."""
        self._tasks: trio.Nursery | None = None
        if contents is not None and journal is not None:
            clock_offset = journal.clock_offset
            for kept in contents.keys:
                self.keys.restore(
                    kept.queue, kept.key, Claim(kept.fingerprint, kept.id, kept.until - clock_offset)
                )
        self.default = self.queue(DEFAULT_QUEUE)
        self.enqueue, self.enqueue_nowait = self.default.enqueue, self.default.enqueue_nowait
        self.dequeue, self.dequeue_nowait = self.default.dequeue, self.default.dequeue_nowait
        self.clear = self.default.clear

    def queue(self, name: str = DEFAULT_QUEUE) -> NamedQueue:
        """Return the queue called `name`, made now if there was none.

        Raises `InvalidParameter` for a name that is not 1 to 80 letters, digits, dots, dashes and underscores, or
        begins with a dot, and `TooManyQueues`.
        """
        state = self.state(name)
        state.provisional = False
        return NamedQueue(self, state)

    def find(self, name: str) -> NamedQueue:
        """Return the queue called `name` if there is one; raises `QueueNotFound`."""
        return NamedQueue(self, self.find_state(name))

    def state(self, name: str) -> QueueState:
        """Return the state of the queue called `name`, made now if there was none. Raises as `queue` does."""
        state = self._states.get(name)
        if state is None:
            core = self.broker.open(name, trio.current_time())
            state = self._states[name] = QueueState(self, core, self._expected.pop(name, WaitQueue()))
            if state.wait_queue:
                self.dispatcher.note_crowded(state)
            self.room.tell(name)
        return state

    def find_state(self, name: str) -> QueueState:
        """Return the state of the queue called `name`; raises `QueueNotFound`."""
        state = self._states.get(name)
        if state is None:
            # Dead-letter queues are made by the core.
            if name in self.broker.queues:
                return self.state(name)
            raise QueueNotFound(queue=check_name(name))
        return state

    def at_hand(self, name: str) -> QueueState | None:
        """Return the state of the queue called `name` if its steps can be taken now, and count at once; else None.

        Then `attempt` adds nothing to the step.
        """
        if self.lock.locked() or self.journal.commit is not None:
            return None
        state = self._states.get(name)
        return None if state is None or state.provisional else state

    def attempt(self, step: Callable[[float], Pending[T] | T], now: float) -> Pending[T] | T:
        """Take one synchronous step: `now` if no task holds the lock, else as soon as none does.

        The step gets the time at which it is taken. Returns its outcome, or `Pending` where that has to be waited
        for, and raises what it raises.
        """
        return self._defer(step) if self.lock.locked() else self.take_step(step, now)

    def attempt_nowait(self, step: Callable[[float], T], now: float) -> T:
        """Take one synchronous step now, or raise `trio.WouldBlock`; on disk it may still be undone."""
        if self.lock.locked():
            raise trio.WouldBlock
        return step(now)

    def _defer(self, step: Callable[[float], Pending[T] | T]) -> Later[T]:
        """Take a step as soon as the lock is free."""
        later: Later[T] = Later()
        self._start(self._attempt_when_free, step, later)
        return later

    async def _attempt_when_free(self, step: Callable[[float], Pending[T] | T], later: Later[T]) -> None:
        with Ending(later):
            await self.resolved()
            async with Section(self.lock):
                outcome = self.take_step(step, trio.current_time()) if later.wanted else None
            later.complete(outcome)  # type: ignore[arg-type]  # it is none if no task wants it

    def do_in_task(self, work: Callable[[], Awaitable[Pending[T] | T]]) -> Later[T]:
        """Do something that waits, or takes milliseconds, in a task of the service's own, when it is its turn."""
        later: Later[T] = Later(begun=True)
        self._start(self._work, work, later)
        return later

    async def _work(self, work: Callable[[], Awaitable[Pending[T] | T]], later: Later[T]) -> None:
        with Ending(later):
            await self.turns.take()
            later.complete(await work())

    def _start(self, task: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        if self._tasks is None:
            raise Draining
        self._tasks.start_soon(task, *arguments)

    def attempt_enqueuing(self, asked: Enqueue, now: float) -> Pending[Accepted] | Accepted:
        """Store one message. See `attempt_putting`."""
        state = self._states.get(asked.queue)
        if state is None or state.provisional or self.lock.locked():
            return self.attempt_putting(asked.as_put(), now)
        if state.refuse_behind is not None or self.dispatcher.draining or len(asked.body) > self.max_message_bytes:
            return self.take_step(partial(state.enqueue, asked), now)
        # As that does; without the call, for this is done for each message.
        message = state.core.enqueue(asked.body, asked.properties, delay=asked.delay, now=now)
        if state.wait_queue:
            state.hand_out()
        commit = self.journal.commit
        return Accepted(message.id) if commit is None else Commit(commit, Accepted(message.id, False, "committed"))

    def attempt_putting(self, asked: Put, now: float) -> Pending[Accepted] | Accepted:
        """Store an offer; a queue that is made for that goes again if nothing is stored.

        If it is full, the offer may wait for room as long as its terms say. Raises the errors of `QueueState.put`
        and of `queue`.
        """
        if asked.key and (later := self._large_puts.begin(asked)) is not None:
            return later
        return self._attempt_putting(asked, b"", now)

    def _attempt_putting(self, asked: Put, fingerprint: bytes, now: float) -> Pending[Accepted] | Accepted:
        put = partial(self._put, asked, fingerprint)
        if asked.terms.wait:
            return self.attempt_waiting(asked.queue, put, asked, now)
        return self.attempt(put, now)

    def attempt_waiting(self, name: str, put: Putting, offer: Offer, now: float) -> Pending[Accepted] | Accepted:
        """Store an offer by `put`; if the queue called `name` is full, let it wait for room as its terms say."""
        return self.attempt(partial(self.room.put, name, put, offer), now)

    def take_step(self, step: Callable[[float], Pending[T] | T], now: float) -> Pending[T] | T:
        """Take one synchronous step while no other task holds the lock. Returns and raises as `attempt` does.

        What it changes counts when it is written, so its outcome is known then; and so is a refusal that may rest
        on what is not written yet.
        """
        journal = self.journal
        entered = journal.entered
        try:
            outcome = step(now)
        except _RESTING as error:
            commit = journal.unresolved
            if commit is None:
                raise
            return Refusal(commit, error.with_traceback(None))
        if journal.entered == entered or isinstance(outcome, Pending):
            return outcome
        commit = journal.unresolved
        return outcome if commit is None else Commit(commit, outcome)

    def let_wait_behind(self, name: str, refusal: Callable[[], QueueFull] | None) -> None:
        """Let the queue called `name`, if it is there, refuse what would overtake offers; None: none wait."""
        state = self._states.get(name)
        if state is not None:
            state.refuse_behind = refusal

    def _put(self, asked: Put, fingerprint: bytes, now: float) -> Pending[Accepted] | Accepted:
        state = self._states.get(asked.queue)
        if state is not None and not state.provisional:
            return state.put(asked, now, fingerprint)
        made = asked.queue not in self.broker.queues
        if made and self.draining and not asked.exempt_from_drain:
            raise Draining  # before there is a queue that would have to go again
        state = self.state(asked.queue)
        state.provisional |= made
        state.users += 1
        entered = self.journal.entered
        try:
            return state.put(asked, now, fingerprint)
        finally:
            if self.journal.entered == entered:
                self._release(state)
            else:
                self.journal.when_resolved(lambda _: self._release(state))

    def _release(self, state: QueueState) -> None:
        state.users -= 1
        if not state.provisional or state.users:
            return
        state.provisional = False
        if state.unused and self._states.get(state.name) is state:
            # Consumers wait for the first message of this name as they did before.
            waiting, state.wait_queue = state.wait_queue, WaitQueue()
            del self._states[state.name]
            self.broker.drop_unused(state.name)
            state.drop()
            if waiting:
                self._expected[state.name] = waiting

    def attempt_taking(self, asked: Take, now: float) -> Pending[Delivery | Nothing] | Delivery | Nothing:
        """Take messages from a queue; with a `wait`, have the consumer stand in line if there are none.

        A queue that is not there yet is waited for as well. Raises `QueueNotFound`, `Draining`, `TooManyWaiters`.
        """
        if asked.want is ONE and not self.lock.locked():
            # What `/dequeue` asks for, without two calls.
            state = self._states.get(asked.queue)
            message = None if state is None else state.core.dequeue(now)
            if state is not None and message is not None:
                if self.dispatcher.offers:
                    self.dispatcher.note_room()
                delivery = Delivery(state, (message,))
                commit = self.journal.commit
                return delivery if commit is None else Commit(commit, delivery)
        return self.attempt(partial(self._take, asked), now)

    def _take(self, asked: Take, now: float) -> Pending[Delivery | Nothing] | Delivery | Nothing:
        state = self._states.get(asked.queue)
        if state is None:
            if asked.wait and asked.queue not in self.broker.queues:
                return self._expect(asked.queue, asked.want, asked.wait)
            state = self.find_state(asked.queue)
        return self.take_from(state, asked.want, asked.wait, now)

    def take_from(
        self, state: QueueState, want: Want, wait: float, now: float
    ) -> Pending[Delivery | Nothing] | Delivery | Nothing:
        """Take messages from this very queue: the step of `attempt_taking`."""
        given = state.take(want, now)
        if given:
            return Delivery(state, given)
        if not wait:
            return state.nothing(now)
        poll = self._join(state.name, state.wait_queue, want, wait)
        self.dispatcher.note_crowded(state)
        return poll

    def _expect(self, queue: str, want: Want, wait: float) -> Poll:
        wait_queue = self._expected.get(check_name(queue), WaitQueue())
        poll = self._join(queue, wait_queue, want, wait)
        self._expected[queue] = wait_queue
        return poll

    def _join(self, queue: str, wait_queue: WaitQueue, want: Want, wait: float) -> Poll:
        self.check_open()
        poll = Poll(self, queue)
        poll.waiter = self.dispatcher.join(wait_queue, want, wait, poll.finish)
        return poll

    def leave(self, queue: str, waiter: Waiter) -> None:
        """Let a consumer out of its line: messages given already go back to their places. Never waits."""
        self.waiting_room.leave(waiter)
        waiter.gone = True
        if waiter.lender is not None:
            waiter.lender.return_undelivered(waiter.given)
        self._expect_no_longer(queue)

    def nothing(self, queue: str) -> Nothing:
        """Count a consumer that has waited in vain, and say why it gets nothing. Raises `Draining`."""
        state = self._states.get(queue)
        if state is not None:
            return state.nothing(trio.current_time())
        self._expect_no_longer(queue)
        self.check_open()
        self.dispatcher.note_empty()
        return Nothing("empty", inf)

    def _expect_no_longer(self, queue: str) -> None:
        """Forget the line in front of a queue that is not there, once no consumer stands in it."""
        if not self._expected.get(queue, True):
            del self._expected[queue]

    def queues(self) -> list[NamedQueue]:
        """Return every queue, by name."""
        return [self.queue(name) for name in sorted(self.broker.queues)]

    async def configure(self, name: str, settings: QueueSettings) -> bool:
        """Let `settings` hold for the queue called `name`, and return whether it was made for that.

        Raises `InvalidParameter` for settings that contradict each other, and `TooManyQueues`; then nothing has
        changed. Messages that are held already stay, also beyond a new cap.
        """
        async with self.section:
            made = self.broker.configure(name, settings, trio.current_time())
            self.hand_out()
        return made

    async def change_settings(self, name: str, /, **changes: object) -> None:
        """Change those settings of the queue called `name` that are given; None puts one back to its default.

        Raises `QueueNotFound`, and what `configure` raises; then nothing has changed. Two changes at once are both
        made.
        """
        async with self.section:
            settings = self.broker.changed_settings(name, changes)
            self.broker.configure(name, settings, trio.current_time())
            self.hand_out()

    async def delete(self, name: str) -> None:
        """Remove the queue called `name` with all it holds; waiting consumers are answered with `QueueNotFound`.

        Raises `QueueNotFound`, and `QueueInUse` for the default queue and for one that dead letters go to.
        """
        async with self.exclusive:
            held = self._delete(name)
        await bulk.free_elsewhere([held])

    def _delete(self, name: str) -> Held:
        state = self.find_state(name)
        held = self.broker.delete(name)
        del self._states[name]
        self.journal.enter(None, self._undo_delete, state)
        state.end()
        return held

    def _undo_delete(self, state: QueueState) -> None:
        newer = self._states.get(state.name)
        self._states[state.name] = state
        if newer is not None:
            newer.drop()

    @property
    def waiting_room(self) -> WaitingRoom:
        """The consumers that wait, in all queues."""
        return self.dispatcher.waiting_room

    @property
    def draining(self) -> bool:
        """Whether `drain` was called."""
        return self.dispatcher.draining

    def check_open(self) -> None:
        """Raise `Draining` if `drain` was called."""
        self.dispatcher.check_open()

    def hand_out(self) -> None:
        """Serve every waiting consumer that can be served, after a change that may have made messages ready."""
        if self._expected:
            # For queues the core has made.
            for name in self._expected.keys() & self.broker.queues.keys():
                self.state(name)
        self.dispatcher.hand_out()

    def reservation(self, queue: str) -> Reservation:
        """Return a reservation, of no bytes yet, for a message that is being received for the queue `queue`.

        Reserved bytes count against `max_bytes` as held ones do.
        """
        return Reservation(self, partial(self._refuse_unread, queue))

    def reserve(self, size: int) -> bool:
        """Set `size` bytes aside for a message that is being received, and return whether there was room."""
        return self.broker.reserve(size)

    def release(self, size: int) -> None:
        """Set so many bytes aside no longer."""
        self.broker.release(size)
        self.dispatcher.note_room()

    def _refuse_unread(self, name: str, size: int) -> QueueFull:
        # A queue that is not there yet would have no drain rate.
        queue = self.broker.queues.get(name, self.broker.default)
        full = queue.refuse_unread(size, trio.current_time())
        full.members["queue"] = name
        return full

    def note_uncertain_delivery(self, number: int = 1) -> None:
        """Count messages whose bytes may or may not have reached a client that vanished."""
        self._delivery_uncertain += number

    async def snapshot(self, name: str) -> int:
        """Write the file `name` in the data directory and return the number of messages in it.

        `*.msgpack` holds every queue with its settings, and all there is to know of each message and each
        Idempotency-Key; messages that are leased count as delivered, and come back ready. `*.json` holds the
        bodies of the default queue, delayed and leased ones included, in order. The picture is taken in one step;
        encoding, writing and fsync happen in a worker thread, so other tasks go on. The file is replaced
        atomically. Raises `InvalidParameter` for an unsafe name, `SnapshotFailed` when it cannot be written. Then,
        and if cancelled, an older file of that name is as it was.
        """
        return await self.snapshots.save(name)

    async def restore(self, name: str) -> int:
        """Replace the queues by the content of the file `name` and return the number of messages.

        `*.msgpack` replaces all queues: those not in it are removed, and consumers that wait there get
        `QueueNotFound`; consumers of the others wait on, or are served. `*.json` replaces what the default queue
        holds. All or nothing, in one step. Raises `InvalidParameter` for an unsafe name, `SnapshotNotFound` when
        there is no such file, `SnapshotFailed` when it cannot be read, is damaged or over a cap, and `Draining`.
        If cancelled, nothing is replaced.
        """
        return await self.snapshots.load(name)

    async def replace_all(self, image: Image) -> int:
        """Replace every queue by what `image` holds, in one step, and return the number of messages.

        The image is used up by it. Raises `Draining`. If cancelled, nothing is replaced.
        """
        now = trio.current_time()
        async with self.section:
            made = self.broker.prepare(each.name for each in image.queues)
        try:
            keys = await trio.to_thread.run_sync(bulk.build, made, image, now)
            if self.durable:
                # All of it is on the disk before the queues change, and that change is one small write.
                for queue in made.queues.values():
                    for records in rows_of(queue.image(), queue.epoch):
                        async with self.section:
                            for record in records:
                                self.journal.stage(record)
            async with self.exclusive:
                self.check_open()
                names = {queue.number: name for name, queue in made.queues.items()}
                former = self.broker.replace(made, keys.image(names))
                keys.max_promises = self.keys.max_promises
                self._rebind(keys)
                number = self.broker.messages
                self.hand_out()
        except BaseException:
            self.drop_rows(*made.epochs.values())
            raise
        await bulk.free_elsewhere([queue.held() for queue in former])
        return number

    def drop_rows(self, *epochs: int) -> None:
        """Have rows removed that were written for queues that were not made."""
        if isinstance(self.journal, Journal):
            for epoch in epochs:
                self.journal.note(EpochDropped(epoch))

    def _rebind(self, keys: Keys) -> None:
        """Use the queues the broker has now."""
        self.journal.enter(None, self._undo_rebind, self.keys, dict(self._states))
        self.keys = keys
        for name, state in list(self._states.items()):
            if name in self.broker.queues:
                state.rebind(self.broker.queues[name])
            else:
                del self._states[name]
                state.end()

    def _undo_rebind(self, keys: Keys, states: dict[str, QueueState]) -> None:
        # The broker's own step back comes after this one.
        self.keys, self._states = keys, states

    def fingerprint(self) -> object:
        """Return what is no longer equal once anything has changed that a snapshot shows, except for times."""
        queues = self.broker.queues.values()
        return (self.broker.totals(), [(queue.name, queue.settings, queue.paused) for queue in queues])

    def stats(self, *, sums: bool = True) -> ServiceStats:
        """Return the service's statistics; never waits. With `sums`, its cost grows with the number of queues.

        Without, nothing is told of all queues together.
        """
        return ServiceStats(
            queue=self.broker.totals() if sums else QueueStats(),
            queues=len(self.broker.queues),
            max_messages=self.broker.max_messages,
            max_bytes=self.broker.max_bytes,
            dequeues_empty=self.dispatcher.dequeues_empty,
            waiting=self.dispatcher.waiting,
            draining=self.draining,
            delivery_uncertain=self._delivery_uncertain,
            bytes_reserved=self.broker.reserved,
            snapshots_written=self.snapshots.written,
            snapshots_failed=self.snapshots.failed,
            journal=self.journal.stats(),
            deleted=self.broker.past,
            oldest=self.broker.oldest() if sums else None,
            lease_times=self.broker.lease_times.spread(),
            deleted_waits=self.broker.past_waits,
        )

    def sampled(self) -> Mapping[str, Queue]:
        """Return every queue by its name, for samples of what they hold."""
        return self.broker.queues

    def check_storage(self) -> None:
        """Raise `StorageUnavailable` if changes cannot be written at the moment."""
        self.journal.check()

    async def resolved(self) -> None:
        """Wait until all that was begun is written, or has failed; in memory, do nothing. Raises nothing."""
        await self.journal.resolved()

    async def stored(self) -> None:
        """Wait until every change begun so far, by a `*_nowait` method too, is on the disk; in memory, do nothing.

        Raises `StorageUnavailable` if it is not; then the change has been undone.
        """
        await self.journal.stored()

    def abandon_storage(self) -> None:
        """Wait for the disk no longer: the tasks that do are told that it does not answer."""
        self.journal.abandon()

    def _note_exclusive(self) -> None:
        self.hand_out()
        self.dispatcher.note_room()

    def note_resolved(self) -> None:
        """Go on with what waited for the disk: consumers, producers and the timer."""
        if not self.lock.locked():
            self.hand_out()
        self.dispatcher.note_room()
        self.dispatcher.wake_by(self.broker.alarm)

    def drain(self) -> None:
        """Refuse new messages from now on, and answer all that wait; messages held can still be taken."""
        self.dispatcher.drain()
        self.room.dismiss()

    async def advance(self, seconds: float) -> None:
        """Move the time of this run of Trio on, and return once all that is due by then has happened."""
        move_on(seconds)
        await self.dispatcher.catch_up()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the one timer: do what is due, sleep until the next deadline or a change. Ends when cancelled."""
        async with trio.open_nursery() as self._tasks:
            try:
                await self.dispatcher.run(self._tick, self.hand_out, task_status=task_status)
            finally:
                self._tasks = None

    def _tick(self, now: float) -> float:
        """Do a bounded part of what is due by `now`, and return when to come back."""
        due = inf
        if not self.journal.reason:  # else nothing could be written of it; `note_resolved` wakes the timer
            if self.broker.alarm <= now:
                self.dispatcher.note_room()
            due = self.broker.tick(now)
        return min(due, self.room.tick(now)) if self.dispatcher.offers else due
