"""One queue as a state machine: nothing here waits, reads a clock or touches a disk.

               enqueue                     dequeue, or the ttl is over
    (producer) ----+------------> READY ------------------------------> gone
                   |               ^ |
      with a delay |   at its own  | | receive
                   v      place    | v              ack
                DELAYED ---------> + LEASED ------------------------------> gone
                   ^     when due  | |
                   |               | | release, or the lease expires
                   +---------------+-+-------------> the dead-letter queue
                    with a delay       at max_receives

Order is (priority, id), and an id never changes; `ready.py` tells how ready messages are kept in it. Simple FIFO
traffic costs O(1) at any depth.

The parts have a file each (`ready.py`, `leases.py`, `caps.py`, `stats.py`), and `holding.py` has what is about all
of a queue. `enqueue`, `dequeue`, `receive` and `ack` are written out: they are done for each message, and one more
call costs a sixth of them. That makes this file longer than others; how steps are undone is in `undoing.py`.

`now` is any clock that does not go backwards; times are absolute, durations in seconds. Every take first
processes all that is due; for messages that are not taken, the service calls `tick` when `alarm` is reached.

A queue on the disk has a journal (`journal.py`). Each verb changes memory, and then enters its record and how to
step back. Steps back run in reverse order, so each finds exactly what its verb left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from math import inf
from operator import itemgetter

import msgspec

from zapq.core.ages import QUICK
from zapq.core.journal import Journal
from zapq.core.leases import End, backoff, counted
from zapq.core.message import DEFAULTS, Draft, Lease, Message, Properties
from zapq.core.pace import Pace
from zapq.core.receipt import serial_of
from zapq.core.records import (
    ID_BITS,
    MessagesDeleted,
    MessageState,
    Put,
    PutMany,
    row_of,
)
from zapq.core.runs import Run, Taken
from zapq.core.unique import Unique
from zapq.errors import MessageNotFound, ReceiptExpired, StorageUnavailable, leased_for, no_letter
from zapq.limits import MAX_BATCH_BYTES, MAX_TURN, TICK_BYTES, TICK_LIMIT

_second = itemgetter(1)


class Queue(Unique):
    """Gives messages first in, first out within a priority, to one consumer each."""

    __slots__ = ()

    def enqueue(
        self, body: bytes, properties: Properties = DEFAULTS, *, delay: float = 0.0, now: float = 0.0
    ) -> Message:
        """Add a message, ready or after `delay` seconds; `QueueFull` changes nothing but the count of refusals."""
        journal = self._journal
        if journal is not None:
            journal.check_room()
        owner, size = self._owner, len(body)
        if properties.headers:
            size += properties.size
        if owner.messages >= owner.max_messages or owner.bytes + size > owner.max_bytes or self._capped:
            self._check_room(1, size, now)
        if self._stamps:
            properties = self._as_set(properties, now)
        id = self._next_id
        self._next_id = id + 1
        if now >= self._arrivals.due:
            self._note_arrival(id, now)
        self._counts.enqueued += 1
        # As `_hold` does, but this and `dequeue` are done for each message.
        self.messages += 1
        self.bytes += size
        owner.messages += 1
        owner.bytes += size
        if properties is not DEFAULTS and properties.group and not delay and properties.expires == inf:
            ready = self._ready
            ready.count += 1
            ready.simple = False
            message = ready.groups.add(id, body, properties)
        else:
            message = Message(id, body, properties)
            if delay or (
                properties is not DEFAULTS
                and (properties.priority or properties.unique or properties.expires < inf)
            ):
                self._add(message, delay, now)
            else:
                ready = self._ready
                ready.plain.append(message)
                ready.count += 1
                if journal is not None and not properties.headers:
                    # As below, for most messages.
                    if id >= self._ids_kept:
                        self._note_ids()
                    journal.enter_next(self.epoch << ID_BITS | id, body, properties, self._undo_next)
                    return message
        if journal is not None:
            if id >= self._ids_kept:
                self._note_ids()
            due = now + delay if delay > 0 else 0.0
            journal.enter(Put(self.epoch << ID_BITS | id, body, properties, due), self._undo_enqueue, message)
        return message

    def enqueue_bodies(
        self,
        bodies: Sequence[bytes],
        properties: Properties = DEFAULTS,
        *,
        size: int | None = None,
        packed: bytes = b"",
        now: float = 0.0,
    ) -> int:
        """Add a message for each body, all or none, and return the first id; the others follow it.

        `size` is that of all bodies together, and `packed` all of them as msgpack in its shortest form, for
        callers that have them.
        """
        if self._journal is not None:
            self._journal.check_room()
        size = sum(map(len, bodies)) if size is None else size
        if properties.headers:
            size += len(bodies) * properties.size
        self._check_room(len(bodies), size, now)
        if self._stamps:
            properties = self._as_set(properties, now)
        first = self.reserve(len(bodies), now)
        self._counts.enqueued += len(bodies)
        self._hold(len(bodies), size)
        self._ready.extend(first, bodies, properties, size, packed)
        self._watch(properties.expires)
        if self._journal is not None:
            record = PutMany(row_of(self.epoch, first), bodies, properties, packed)
            self._journal.enter(record, self._undo_enqueuing, first, len(bodies), size, properties.priority)
        return first

    def enqueue_drafts(self, drafts: Sequence[Draft], *, now: float) -> int:
        """Add a message for each draft, all or none, and return the first id; the others follow it."""
        if self._journal is not None:
            self._journal.check_room()
        self._check_room(len(drafts), sum(draft.size for draft in drafts), now)
        first = self._next_id
        for draft in drafts:
            self.enqueue(draft.body, draft.properties(now), delay=draft.delay, now=now)
        return first

    def dequeue(self, now: float = 0.0) -> Message | None:
        """Remove and return the first ready message, or None."""
        journal = self._journal
        if journal is not None and (self._ready.count or now >= self.alarm):
            journal.check()
        if now >= self.alarm:
            self.tick(now, TICK_LIMIT)
        ready = self._ready
        message = ready.pop_plain() if ready.simple else self._pop_fit(now)
        if message is not None:
            if self._lapses.serials:
                self._close_lapse(message.id, End.GIVEN)
            if journal is not None:
                journal.enter(MessagesDeleted((self.epoch << ID_BITS | message.id,)), self._undo_take, (message,))
            if self._unique is not None:
                self._free(message)
            size, owner = len(message.body), self._owner
            if message.properties.headers:
                size = message.size
            self.messages -= 1
            self.bytes -= size
            owner.messages -= 1
            owner.bytes -= size
            self._counts.dequeued += 1
            waits = self._waits
            if now < waits.until and waits.low <= message.id < waits.high and not message.properties.receives:
                waits.alike += 1
            else:
                self._note_first(message, now)
        return message

    def dequeue_many(self, limit: int, now: float = 0.0) -> Taken:
        """Remove and return the first ready messages, at most `limit` and of `MAX_BATCH_BYTES` together."""
        if self._ready.count or now >= self.alarm:
            self._check_journal()
        taken, size = self._pop_fit_many(limit, now)
        if self._lapses.serials:
            for id in taken.ids():
                self._close_lapse(id, End.GIVEN)
        self._hold(-len(taken), -size)
        self._counts.dequeued += len(taken)
        # As `dequeue` does: a call for each message would take longer than to take it.
        waits = self._waits
        for part in taken.parts:
            if now < waits.until and waits.low <= part.id < waits.high and not part.properties.receives:
                waits.alike += part.count if type(part) is Run else 1
            else:
                self._note_first(part, now)
        if self._journal is not None and len(taken):
            base = row_of(self.epoch, 0)
            self._journal.enter(MessagesDeleted([base | id for id in taken.ids()]), self._undo_take, taken)
        for message in taken if self._unique is not None else ():
            self._free(message)
        return taken

    def put_back(self, message: Message) -> None:
        """Return a dequeued message to its original place.

        Never refused, even if newer messages have filled its room meanwhile: it was accepted once, and an
        accepted message is not dropped. The caps refuse newcomers until the excess is gone.
        """
        self._counts.returned += 1
        # Taken before a snapshot was loaded, it may have been in it, or another one with its id.
        if message.id < self._given_before and (there := self.find(message.id)) is not None:
            if there.message.body != message.body:
                self.accept_moved(message, message.properties)
            return
        message = self._claim_if_free(message)
        self._hold(1, message.size)
        self._become_ready(message)
        self._give_back(1)
        if self._journal is not None:
            # A consumer that did not get it can be given no refusal: this stays done, whatever the disk does.
            self._journal.note(Put(row_of(self.epoch, message.id), message.body, message.properties))

    def receive(self, visibility: float | None = None, now: float = 0.0) -> Lease | None:
        """Lease the first ready message for `visibility` seconds (None: as this queue is set), or return None."""
        journal = self._journal
        if journal is not None and (self._ready.count or now >= self.alarm):
            journal.check()
        if now >= self.alarm:
            self.tick(now, TICK_LIMIT)
        ready = self._ready
        if ready.simple:
            message = ready.pop_plain()
        elif not self._checks:
            # As `_pop_fit` does, without the calls: messages of groups come this way.
            message = ready.pop(hold=True)
            if message is not None and (message.properties.receives or message.properties.expires < inf):
                message = self._first_living(message, now, hold=True)
        else:
            message = self._pop_fit(now, lease=True)
        if message is None:
            return None
        lease = self._lease(message, visibility, now)
        if journal is not None:
            self._enter_grant((lease,), journal)
        return lease

    def receive_many(
        self, limit: int, visibility: float | None = None, now: float = 0.0, *, together: bool = True
    ) -> list[Lease]:
        """Lease the first ready messages, at most `limit` and of `MAX_BATCH_BYTES` together.

        If they are for one consumer, `together`, several may be of one group, in order; otherwise one of each.
        """
        if self._ready.count or now >= self.alarm:
            self._check_journal()
        hold_later = together and bool(self._ready.groups)
        taken, _ = self._pop_fit_many(limit, now, lease=True, hold=not together)
        leases = [self._lease(message, visibility, now) for message in taken]
        for lease in leases if hold_later else ():
            if lease.message.properties.group:
                self._ready.hold(lease.message)
        if self._journal is not None and leases:
            self._enter_grant(leases, self._journal)
        return leases

    def take_back(self, lease: Lease) -> None:
        """End a lease that could not be handed over: the message is at its place, as if it had not been leased."""
        held = self._leases.pop(lease.serial)
        if held is not None:
            message = held.message
            self._counts.received -= 1
            self._counts.returned += 1
            self._become_ready(message)
            self._give_back(1)
            if self._journal is not None:
                # As in `put_back`.
                self._journal.note(MessageState(row_of(self.epoch, message.id), message.properties))

    def ack(self, receipt: str, now: float) -> None:
        """Let the message go for good. Repeating it is fine, and so is coming late if the message is still here.

        `ReceiptExpired` if the lease was released, or has expired and the message was given out again.
        """
        journal = self._journal
        if journal is not None:
            journal.check()
        serial = serial_of(receipt, self.tag)
        lease = self._pop_lease(serial, now)
        owner = self._owner
        if lease is None:
            message = self._lapses.find(serial)
            if message is None:
                if owner.end_of(serial) is not End.ACKED:
                    raise self._over(serial)
                if journal is not None:
                    journal.rely()
                return
            # It came back, and no consumer has been given it since.
            self._lapses.pop(message.id)
            self._ready.remove(message)
        else:
            times, seconds = owner.lease_times, now - self._leases.last_begin
            if seconds <= QUICK:
                times.quick += 1
                times.quick_seconds += seconds
            else:
                times.note(seconds)
            message = lease.message
            if message.properties.group:
                ready = self._ready
                ready.simple = False
                ready.groups.let_go(message)
        size = len(message.body)
        if message.properties.headers:
            size = message.size
        owner.note_end(serial, End.ACKED)
        self.messages -= 1
        self.bytes -= size
        owner.messages -= 1
        owner.bytes -= size
        self._counts.acked += 1
        if journal is not None:
            record = MessagesDeleted((self.epoch << ID_BITS | message.id,))
            journal.enter(record, self._undo_ack, serial, message, lease)
        if self._unique is not None:
            self._free(message)

    def remove(self, id: int, now: float) -> bool:
        """Let a message go for good that has been leased before, and return whether it was here.

        Whether a consumer holds it now, or it waits for the next one, does not matter. One that no consumer has
        been given stays.
        """
        self._check_journal()
        lease = self._leases.find(id)
        serial = self._lapses.serials.get(id) if lease is None else lease.serial
        if serial is not None:
            self.ack(f"{self.tag}-{serial:x}", now)
            return True
        message, due = self._returned(id)
        if message is None:
            return False
        self._take_out(message)
        self._counts.acked += 1
        self._lose(message, self._undo_remove, due)
        return True

    def delete(self, id: int, now: float) -> bool:
        """Let a message go for good that no consumer holds, and return whether it was here.

        One that is leased stays: `MessageLeased`. It counts as cleared.
        """
        self._check_journal()
        if now >= self.alarm:
            self.tick(now, TICK_LIMIT)
        self._check_not_leased(id, now)
        delayed = self._delayed.entry(id)
        if delayed is None:
            due, message = None, self._ready.take_out(id)
        else:
            due, message = delayed
            self._take_out(message)
        if message is None:
            return False
        if self._lapses.serials:
            self._close_lapse(id, End.DELETED)
        self._counts.cleared += 1
        self._lose(message, self._undo_delete, due)
        return True

    def _check_not_leased(self, id: int, now: float) -> None:
        lease = self._leases.find(id)
        if lease is not None:
            raise leased_for(max(lease.deadline - now, 0.0), id)

    def hide(self, id: int, visibility: float, now: float) -> bool:
        """Keep a message that has been leased before from consumers for `visibility` seconds from now.

        Its lease, if a consumer holds one, lasts until then. Return whether the message was here.
        """
        self._check_journal()
        lease = self._leases.find(id)
        if lease is not None:
            with suppress(ReceiptExpired):  # it may just have ended
                self.extend(lease.receipt, visibility, now)
                return True
        message, was_due = self._returned(id)
        if message is None:
            return False
        if was_due is None:
            self._close_lapse(id, End.GIVEN)
        self._take_out(message)
        due = 0.0
        if visibility > 0:
            due = now + visibility
            self._add(message, visibility, now)
        else:
            self._become_ready(message)
        state = MessageState(row_of(self.epoch, id), message.properties, due)
        self._enter(state, self._undo_hide, message, was_due)
        return True

    def _returned(self, id: int) -> tuple[Message | None, float | None]:
        """Return a message that has come back from a lease, if it is here, and until when it rests, if it does."""
        delayed = self._delayed.entry(id)
        message = self._ready.find(id) if delayed is None else delayed[1]
        if message is None or not message.properties.receives:
            return None, None
        return message, None if delayed is None else delayed[0]

    def release(self, receipt: str, delay: float, now: float) -> None:
        """Give the message back, ready at its original place, or after `delay` seconds.

        Given back without a delay time and again, it rests for a while each time, so that it does not spin at the
        head of the queue. At `max_receives` it goes to the dead-letter queue instead. Raises `ReceiptExpired`.
        """
        self._check_journal()
        serial = serial_of(receipt, self.tag)
        lease = self._pop_lease(serial, now)
        if lease is None:
            raise self._over(serial)
        self._counts.released += 1
        self._owner.note_end(serial, End.RELEASED)
        self._enter(None, self._undo_release, lease)
        delay, releases = backoff(lease.message.properties.releases, delay)
        message = counted(lease, releases)
        if self._end(lease, message, delay, now) is End.EXPIRED:
            due = now + delay if delay > 0 else 0.0
            state = MessageState(row_of(self.epoch, message.id), message.properties, due)
            self._enter(state, self._take_out, message)

    def extend(self, receipt: str, visibility: float | None, now: float) -> Lease:
        """Let the lease last until `visibility` seconds from now, and return it. Raises `ReceiptExpired`.

        By default for as long as it was given. Leases end with the process, so the disk is not told.
        """
        serial = serial_of(receipt, self.tag)
        lease = self._pop_lease(serial, now)
        if lease is None:
            raise self._over(serial)
        seconds = lease.visibility if visibility is None else visibility
        # To extend it by nothing gives the message back at once.
        deadline = now + seconds if seconds else now - self._leases.slack
        return self._lease_until(lease, deadline)

    def accept_moved(self, message: Message, properties: Properties) -> Message:
        """Take over a message another queue has held: at the end, with an id of this queue. Never refused."""
        mine = self._claim_if_free(Message(self.reserve(1), message.body, self._arrived(properties)))
        self._counts.arrived += 1
        self._hold(1, mine.size)
        self._ready.append(mine)
        self.note_origin(mine)
        record = Put(row_of(self.epoch, mine.id), mine.body, mine.properties)
        self._enter(record, self._undo_arrival, mine)
        return mine

    def note_redriven(self, number: int) -> None:
        """Count messages that went back from here to where they had failed; fewer, if it is undone."""
        self._counts.redriven += number
        self._enter(None, self._undo_redrive, number)

    def letters(self, now: float) -> dict[str, Iterator[Message]]:
        """Return the dead letters that are ready, the first first, by the name of the queue they failed in.

        To be looked at; `pop_letter` takes one.
        """
        if now >= self.alarm:
            self.tick(now, TICK_LIMIT)
        return self._ready.letters()

    def letter(self, id: int, now: float) -> Message:
        """Return the dead letter with this id, which is ready. To be looked at, as `letters` are.

        Raises `MessageNotFound`, `MessageLeased`, and `InvalidParameter` for a message that is not one.
        """
        if now >= self.alarm:
            self.tick(now, TICK_LIMIT)
        self._check_not_leased(id, now)
        letter = self._ready.find(id)
        if letter is None or not letter.properties.failed_in:
            if self.find(id) is None:
                raise MessageNotFound(queue=self.name, message_id=id)
            raise no_letter()
        return letter

    def move(self, letter: Message, target: Queue, properties: Properties) -> None:
        """Give one of `letters` to another queue."""
        self._ready.remove(letter)
        if self._lapses.serials:
            self._close_lapse(letter.id, End.GIVEN)
        self._hold(-1, -letter.size)
        self._enter(MessagesDeleted((row_of(self.epoch, letter.id),)), self._undo_move, letter)
        target.accept_moved(letter, properties)

    def give_up(self, message: Message) -> None:
        """Send a message that is held, but not ready, to the dead-letter queue: it failed too often when kept."""
        self._enter(None, self._become_ready, message)
        self._fail(message)

    def tick(self, now: float, limit: int) -> bool:
        """Do what is due by `now`, at most `limit` of each kind, and set `alarm`; whether more is due at once."""
        least = self.bytes - TICK_BYTES
        for lease in self._leases.due(now, limit):
            if self.bytes > least:
                self._lapse(lease, now)
            else:
                self._leases.put(lease)
        for message in self._delayed.due(now, limit):
            if self._has_outlived(message.properties, now):
                if message.properties.group:
                    self._ready.let_go(message)
                self._expire_ready(message)
            else:
                self._become_ready(message)
        for message in self._ready.outlived(now, limit):
            self._expire_ready(message)
        retention = self._retention
        if retention is not None:
            for message in self._ready.pop_old(retention.end_of, now, limit):
                self._expire_ready(message)
        self._late = False
        self.alarm = min(self._leases.next(), self._delayed.next(), self._ready.expiring.next(), self._first_end())
        if self._pace is not None:
            self._reopen(self._pace, now)
        return self.alarm <= now

    def _reopen(self, pace: Pace, now: float) -> None:
        """Let takes that were held back try again, unless a token is to come first."""
        if now < pace.opens:
            self._late = True
            self.alarm = min(self.alarm, pace.opens)
        else:
            pace.open()

    def _pop_fit(self, now: float, *, lease: bool = False) -> Message | None:
        """Remove the first ready message that may be given, if the queue's limits let it."""
        pace = self._pace
        if pace is not None and not self._allowed(1, now, lease=lease):
            return None
        message = self._first_living(self._ready.pop(hold=lease), now, hold=lease)
        if pace is not None and message is not None:
            pace.spend(1, now)
        return message

    def _pop_fit_many(
        self, limit: int, now: float, *, lease: bool = False, hold: bool = False
    ) -> tuple[Taken, int]:
        """Remove the first ready messages, as `_pop_many` does, and as many as the queue's limits let."""
        pace = self._pace
        if pace is None:
            return self._pop_many(limit, now, hold=hold)
        if now >= self.alarm:
            self.tick(now, TICK_LIMIT)
        limit = self._allowed(limit, now, lease=lease)
        if not limit:
            return Taken(), 0
        taken, size = self._pop_many(limit, now, hold=hold)
        pace.spend(len(taken), now)
        return taken, size

    def _allowed(self, limit: int, now: float, *, lease: bool) -> int:
        """Return how many messages the limits of the queue let through, at most `limit`; 0 holds takes back."""
        pace, leased = self._pace, len(self._leases) if lease else None
        assert pace is not None
        limit = pace.allowed(limit, leased, now)
        if not limit and self._ready.available and not self.paused:
            opens = pace.shut(leased, now)
            self._late = True
            if opens > now:
                self._watch(opens)
        return limit

    def _first_living(self, message: Message | None, now: float, *, hold: bool) -> Message | None:
        """Return `message`, just taken out of its line, if it may be given; else drop it, and look at the next."""
        ready, most, dropped = self._ready, self._settings.max_receives, 0
        while message is not None:
            properties = message.properties
            if (
                properties.expires > now
                and (most is None or properties.receives < most)
                and (self._retention is None or not self._has_outlived(properties, now))
            ):
                return message
            self._drop_unfit(message, now)
            if hold and properties.group:
                ready.let_go(message)
            dropped += 1
            if dropped == TICK_LIMIT:
                self._leave_rest(now)
                return None
            message = ready.pop(hold=hold)
        return None

    def _leave_rest(self, now: float) -> None:
        """Give nothing until `tick` has come to the other messages that are not to be given."""
        self._late = True
        self._watch(now)

    def _pop_many(self, limit: int, now: float, *, hold: bool = False) -> tuple[Taken, int]:
        """Remove the first ready messages, at most `limit` and of `MAX_BATCH_BYTES`, and say of how many."""
        if now >= self.alarm:
            self.tick(now, TICK_LIMIT)
        ready = self._ready
        at_once = ready.pop_many(limit, MAX_BATCH_BYTES)
        if at_once is not None:
            return at_once
        taken, size, dropped = Taken(), 0, 0
        for message in ready.pop_each(hold=hold):
            if self._drop_unfit(message, now):
                if hold and message.properties.group:
                    ready.let_go(message)
                dropped += 1
                if dropped == TICK_LIMIT:
                    if not len(taken):
                        self._leave_rest(now)
                    break
                continue
            size += message.size
            if size > MAX_BATCH_BYTES and len(taken):
                self._become_ready(message)
                return taken, size - message.size
            taken.add(message)
            if len(taken) == limit:
                break
        return taken, size

    def _lease(self, message: Message, visibility: float | None, now: float) -> Lease:
        if self._lapses.serials:
            self._close_lapse(message.id, End.GIVEN)
        seconds = self._settings.visibility if visibility is None else visibility
        # One that is asked for no time at all is over at once.
        deadline = now + seconds if seconds else now - self._leases.slack
        lease = Lease(
            message, self._owner.serial(), message.properties.receives + 1, deadline, self.tag, seconds, self.name
        )
        leases = self._leases
        if now >= leases.begins.due:
            leases.begins.note(lease.serial, now)
        leases.put(lease)
        if deadline < self.alarm:
            self._watch(deadline + leases.slack)
        self._counts.received += 1
        waits = self._waits
        if now < waits.until and waits.low <= message.id < waits.high and not message.properties.receives:
            waits.alike += 1
        else:
            self._note_first(message, now)
        return lease

    def _note_first(self, given: Message | Run, now: float) -> None:
        """Note how long messages have waited that are given now, if it is for the first time."""
        if not given.properties.receives:
            number = given.count if isinstance(given, Run) else 1
            self._waits.note_given(given.id, self._arrivals, self._next_id, now, number)

    def _lease_until(self, lease: Lease, deadline: float) -> Lease:
        """Let a lease last until `deadline`, and return it."""
        lease = msgspec.structs.replace(lease, deadline=deadline)
        self._leases.put(lease)
        self._watch(deadline + self._leases.slack)
        return lease

    def _pop_lease(self, serial: int, now: float) -> Lease | None:
        """Take a lease out of its holder's hands and return it; None if it is over: one whose time has come is."""
        lease = self._leases.pop(serial)
        if lease is None or lease.deadline > now or lease.deadline + self._leases.slack > now:
            return lease
        try:
            self._check_journal()
        except StorageUnavailable:
            self._leases.put(lease)
            raise
        self._lapse(lease, now)
        return None

    def _lapse(self, lease: Lease, now: float) -> None:
        """End a lease whose time is over. Until its message is given out again, its holder may acknowledge it."""
        if lease.serial in self._granting:
            # The disk is slow. What the lease is to last counts from when its consumer is answered.
            self._lease_until(lease, now + max(lease.visibility, 1.0))
            return
        self._counts.leases_expired += 1
        message = counted(lease)
        self._enter(None, self._undo_lapse, lease)
        end = self._end(lease, message, 0.0, now)
        self._owner.note_end(lease.serial, end)
        if end is End.EXPIRED:
            self._lapses.put(lease.serial, message)
            self._enter(None, self._undo_return, message)

    def _end(self, lease: Lease, message: Message, delay: float, now: float) -> End:
        """Send the message of a lease that was not acknowledged where it belongs, and say what became of it."""
        limit = self._settings.max_receives
        failed = limit is not None and lease.receives >= limit
        if failed or self._has_outlived(message.properties, now):
            if message.properties.group:
                self._ready.let_go(message)
            if failed:
                self._fail(message)
                return End.DEAD_LETTERED
            self._expire(message)
            return End.OUTLIVED
        if delay > 0:
            self._add(message, delay, now)
        else:
            self._become_ready(message)
        return End.EXPIRED

    def _close_lapse(self, id: int, end: End) -> None:
        """Let a lease of a message that expired before be over for good, because of what `end` says."""
        serial = self._lapses.serials.get(id)
        if serial is not None:
            message = self._lapses.find(serial)
            self._lapses.pop(id)
            self._owner.note_end(serial, end)
            self._enter(None, self._undo_close, serial, message)

    def _over(self, serial: int) -> ReceiptExpired:
        """Return the refusal for a lease that is over: it says how it ended."""
        return ReceiptExpired(self._owner.end_of(serial).sentence, parameter="receipt")

    def _fail(self, message: Message) -> None:
        """Give a message up to the dead-letter queue, without a ttl."""
        target = self._settings.dead_letter
        assert target is not None
        self._counts.dead_lettered += 1
        self._lose(message, self._undo_fail)
        self._owner.queues[target].accept_moved(message, message.moved(self.name, self.name))

    def _drop_unfit(self, message: Message, now: float) -> bool:
        """Let a message go that was just taken out of its line, if it is not to be given; return whether."""
        properties, most = message.properties, self._settings.max_receives
        if properties.expires <= now or (self._retention is not None and self._has_outlived(properties, now)):
            self._expire_ready(message)
        elif most is not None and properties.receives >= most:
            # It came back before the setting was lowered. A restart gives it up as well.
            self._enter(None, self._become_ready, message)
            if self._lapses.serials:
                self._close_lapse(message.id, End.DEAD_LETTERED)
            self._fail(message)
        else:
            return False
        return True

    def _expire_ready(self, message: Message) -> None:
        """Let a message go that was just taken out of its line, for it has been held long enough."""
        self._enter(None, self._become_ready, message)
        self._expire(message)

    def _expire(self, message: Message) -> None:
        if self._lapses.serials:
            self._close_lapse(message.id, End.OUTLIVED)
        self._counts.expired += 1
        self._lose(message, self._undo_expire)

    def _lose(self, message: Message, undo: Callable[..., object], *args: object) -> None:
        """Hold a message no more; `undo(message, *args)` is the step back."""
        self._hold(-1, -message.size)
        self._enter(MessagesDeleted((row_of(self.epoch, message.id),)), undo, message, *args)
        self._free(message)

    def _enter_grant(self, leases: Sequence[Lease], journal: Journal) -> None:
        base = row_of(self.epoch, 0)
        self._granting.update(lease.serial for lease in leases)
        for lease in leases:
            message = counted(lease)
            journal.enter(MessageState(base | message.id, message.properties), self._undo_grant, lease)
        journal.when_written(self._note_granted, leases)

    def _note_granted(self, leases: Sequence[Lease]) -> None:
        """Let leases go on; those whose grant was on its way for long begin now, as they are answered."""
        now = self._owner.clock()
        for lease in leases:
            self._granting.discard(lease.serial)
            if now - (lease.deadline - lease.visibility) > MAX_TURN / 2:
                current = self._leases.get(lease.serial)
                if current is not None:
                    self._lease_until(current, now + lease.visibility if lease.visibility else lease.deadline)
