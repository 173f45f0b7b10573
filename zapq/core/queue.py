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

The class is longer than others here. Its parts have a file each (`ready.py`, `leases.py`, `caps.py`, `stats.py`),
but the verbs stay together, and `enqueue`, `dequeue`, `receive` and `ack` are written out: they are done for each
message, and one more call costs a sixth of them.

`now` is any clock that does not go backwards; times are absolute, durations in seconds. Every take first
processes whatever is due; for messages that are not taken, the service calls `tick` when `alarm` is reached.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from copy import copy
from itertools import chain, islice
from math import inf
from operator import attrgetter, itemgetter
from typing import Protocol

import msgspec

from zapq.core.caps import Caps, Excess
from zapq.core.deadlines import Deadlines
from zapq.core.image import QueueImage, in_no_order
from zapq.core.leases import End, Lapses, Leases, backoff, counted
from zapq.core.message import DEFAULTS, Draft, Lease, Message, Properties
from zapq.core.queue_settings import QueueSettings
from zapq.core.ready import Dropped, Ready
from zapq.core.receipt import serial_of
from zapq.core.runs import Run, Taken
from zapq.core.stats import Counts, Figures, MessageView, QueueStats, State, values_of
from zapq.errors import QueueFull, ReceiptExpired
from zapq.limits import MAX_BATCH_BYTES, TICK_LIMIT

_rank = attrgetter("rank")
_second = itemgetter(1)


class Owner(Protocol):
    """What a queue knows of the others: what all of them hold, where to report, where to send dead letters."""

    messages: int
    bytes: int
    """Held, or set aside for messages that are being received."""
    max_messages: int
    max_bytes: int
    lease_slack: float
    """Seconds by which a lease lasts longer than its deadline says."""

    def serial(self) -> int:
        """Number a delivery."""

    def note_end(self, serial: int, end: End) -> None:
        """Remember how this delivery ended."""

    def end_of(self, serial: int) -> End:
        """Return how this delivery ended, as far as is remembered."""

    def watch(self, queue: Queue, time: float) -> None:
        """Note that `queue` has something to do at `time`, earlier than known before."""

    def dead_letter(self, queue: Queue, message: Message) -> None:
        """Take over a message that failed in `queue`."""


class Queue:
    """Holds messages within its own caps and those of `owner`, first in first out within a priority."""

    # With so many attributes, ordinary ones would be looked up in a dictionary each time.
    __slots__ = (
        "_capped",
        "_caps",
        "_counts",
        "_delayed",
        "_given_before",
        "_lapses",
        "_late",
        "_leases",
        "_next_id",
        "_owner",
        "_ready",
        "_settings",
        "_tag",
        "alarm",
        "bytes",
        "messages",
        "name",
        "number",
    )

    def __init__(self, name: str, *, owner: Owner, number: int, tag: str, now: float) -> None:
        self.name = name
        self.number = number
        self.messages = 0
        """How many are held: ready, delayed and leased."""
        self.bytes = 0
        self.alarm = inf
        """When `tick` is to be called next; later is harmless, but expired messages then live on."""
        self._owner = owner
        self._tag = tag
        self._ready = Ready()
        self._late = False
        """Whether more messages have outlived their ttl than one step removes."""
        self._delayed: Deadlines[Message] = Deadlines()
        self._leases = Leases(owner.lease_slack)
        self._lapses = Lapses()
        """Those that expired; their messages have come back, and are ready."""
        self._next_id = 1
        self._given_before = 0
        """Ids below this one were given before a snapshot was loaded, which may hold messages with the same."""
        self._counts = Counts()
        self._caps = Caps(name, now)
        self.configure(QueueSettings())

    def __len__(self) -> int:
        return self.messages

    @property
    def settings(self) -> QueueSettings:
        """What is set for this queue."""
        return self._settings

    @property
    def paused(self) -> bool:
        """Whether nothing is given to consumers."""
        return self._ready.paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._ready.paused = paused

    def configure(self, settings: QueueSettings) -> None:
        """Let `settings` hold from now on; what is held already stays, also beyond a new cap."""
        self._settings = settings
        self._caps.configure(settings)
        # Looked at for each message.
        self._capped = self._caps.limited

    @property
    def available(self) -> bool:
        """Whether a consumer would get a message now."""
        ready = self._ready
        return ready.count > 0 and not ready.paused and not self._late

    def enqueue(
        self, body: bytes, properties: Properties = DEFAULTS, *, delay: float = 0.0, now: float = 0.0
    ) -> Message:
        """Add a message, ready or after `delay` seconds; `QueueFull` changes nothing but the count of refusals."""
        owner, size = self._owner, len(body)
        if owner.messages >= owner.max_messages or owner.bytes + size > owner.max_bytes or self._capped:
            self._check_room(1, size, now)
        if self._settings.ttl is not None:
            properties = self._expiring_as_set(properties, now)
        message = Message(self._next_id, body, properties)
        self._next_id += 1
        self._counts.enqueued += 1
        # As `_hold` does, but this and `dequeue` are done for each message.
        self.messages += 1
        self.bytes += size
        owner.messages += 1
        owner.bytes += size
        if delay or (properties is not DEFAULTS and (properties.priority or properties.expires < inf)):
            self._add(message, delay, now)
        else:
            ready = self._ready
            ready.plain.append(message)
            ready.count += 1
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

        `size` is that of all together, and `packed` all of them as msgpack in its shortest form, for callers that
        have them.
        """
        size = sum(map(len, bodies)) if size is None else size
        self._check_room(len(bodies), size, now)
        properties = self._expiring_as_set(properties, now)
        first = self.reserve(len(bodies))
        self._counts.enqueued += len(bodies)
        self._hold(len(bodies), size)
        self._add_bodies(first, bodies, properties, size, packed)
        return first

    def enqueue_drafts(self, drafts: Sequence[Draft], *, now: float) -> int:
        """Add a message for each draft, all or none, and return the first id; the others follow it."""
        self._check_room(len(drafts), sum(len(draft.body) for draft in drafts), now)
        first = self._next_id
        for draft in drafts:
            self.enqueue(draft.body, draft.properties(now), delay=draft.delay, now=now)
        return first

    def dequeue(self, now: float = 0.0) -> Message | None:
        """Remove and return the first ready message, or None."""
        # As `_pop` does.
        if now >= self.alarm:
            self.tick(now, TICK_LIMIT)
        ready = self._ready
        message = ready.pop_plain() if ready.simple else self._pop_living(now)
        if message is not None:
            if self._lapses.serials:
                self._note_given(message.id)
            size, owner = len(message.body), self._owner
            self.messages -= 1
            self.bytes -= size
            owner.messages -= 1
            owner.bytes -= size
            self._counts.dequeued += 1
        return message

    def dequeue_many(self, limit: int, now: float = 0.0) -> Taken:
        """Remove and return the first ready messages, at most `limit` and of `MAX_BATCH_BYTES` together."""
        taken, size = self._pop_many(limit, now)
        if self._lapses.serials:
            for id in taken.ids():
                self._note_given(id)
        self._hold(-len(taken), -size)
        self._counts.dequeued += len(taken)
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
        self._hold(1, len(message.body))
        self._become_ready(message)

    def receive(self, visibility: float | None = None, now: float = 0.0) -> Lease | None:
        """Lease the first ready message for `visibility` seconds (None: as this queue is set), or return None."""
        # As `_pop` does.
        if now >= self.alarm:
            self.tick(now, TICK_LIMIT)
        ready = self._ready
        message = ready.pop_plain() if ready.simple else self._pop_living(now)
        return None if message is None else self._lease(message, visibility, now)

    def receive_many(self, limit: int, visibility: float | None = None, now: float = 0.0) -> list[Lease]:
        """Lease the first ready messages, at most `limit` and of `MAX_BATCH_BYTES` together."""
        return [self._lease(message, visibility, now) for message in self._pop_many(limit, now)[0]]

    def take_back(self, lease: Lease) -> None:
        """End a lease that could not be handed over: the message is at its place, as if it had not been leased."""
        if self._leases.pop(lease.serial) is not None:
            self._counts.received -= 1
            self._counts.returned += 1
            self._become_ready(lease.message)

    def ack(self, receipt: str, now: float) -> None:
        """Let the message go for good. Repeating it is fine, and so is coming late if the message is still here.

        `ReceiptExpired` if the lease was released, or has expired and the message was given out again.
        """
        serial = serial_of(receipt, self._tag)
        lease = self._pop_lease(serial, now)
        owner = self._owner
        if lease is None:
            message = self._lapses.find(serial)
            if message is None:
                self._check_acked(serial)
                return
            self._withdraw(message)
        else:
            message = lease.message
        # As `_note_acked` does, for the same reason as in `enqueue`.
        size = len(message.body)
        owner.note_end(serial, End.ACKED)
        self.messages -= 1
        self.bytes -= size
        owner.messages -= 1
        owner.bytes -= size
        self._counts.acked += 1

    def release(self, receipt: str, delay: float, now: float) -> None:
        """Give the message back, ready at its original place, or after `delay` seconds.

        Given back without a delay time and again, it rests for a while each time, so that it does not spin at the
        head of the queue. At `max_receives` it goes to the dead-letter queue instead. Raises `ReceiptExpired`.
        """
        serial = serial_of(receipt, self._tag)
        lease = self._pop_lease(serial, now)
        if lease is None:
            raise self._over(serial)
        self._counts.released += 1
        self._owner.note_end(serial, End.RELEASED)
        delay, releases = backoff(lease.message.properties.releases, delay)
        self._end(lease, counted(lease, releases), delay, now)

    def extend(self, receipt: str, visibility: float | None, now: float) -> Lease:
        """Let the lease last until `visibility` seconds from now, and return it. Raises `ReceiptExpired`.

        By default for as long as it was given.
        """
        serial = serial_of(receipt, self._tag)
        lease = self._pop_lease(serial, now)
        if lease is None:
            raise self._over(serial)
        seconds = lease.visibility if visibility is None else visibility
        # To extend it by nothing gives the message back at once.
        deadline = now + seconds if seconds else now - self._leases.slack
        return self._lease_until(lease, deadline)

    def accept_moved(self, message: Message, properties: Properties) -> Message:
        """Take over a message another queue has held: at the end, with an id of this queue. Never refused."""
        mine = Message(self._next_id, message.body, properties)
        self._next_id += 1
        self._counts.arrived += 1
        self._hold(1, len(message.body))
        self._ready.append(mine)
        return mine

    def has_room_for(self, size: int, messages: int = 1) -> bool:
        """Whether messages of `size` bytes that some queue holds already fit under this queue's own caps."""
        return self._caps.leave_room(self, messages, size)

    def note_redriven(self, number: int) -> None:
        """Count messages that went back from here to where they had failed."""
        self._counts.redriven += number

    def letters(self, now: float) -> dict[str, Iterator[Message]]:
        """Return the dead letters that are ready, the first first, by the name of the queue they failed in.

        To be looked at; `pop_letter` takes one.
        """
        if now >= self.alarm:
            self.tick(now, TICK_LIMIT)
        return self._ready.letters()

    def pop_letter(self, letter: Message) -> None:
        """Take one of `letters` out of line; the caller gives it to `note_moved` or `keep_here`."""
        self._ready.remove(letter)

    def note_moved(self, message: Message) -> None:
        """Hold a message no more that was taken out of line."""
        if self._lapses.serials:
            self._note_given(message.id)
        self._hold(-1, -len(message.body))

    def keep_here(self, message: Message) -> None:
        """Put a message that was taken out of line at its place again."""
        self._become_ready(message)

    def tick(self, now: float, limit: int) -> bool:
        """Do what is due by `now`, at most `limit` of each kind, and set `alarm`; whether more is due at once."""
        ended = self._leases.due(now, limit)
        for lease in ended:
            self._lapse(lease, now)
        awake = self._delayed.due(now, limit)
        for message in awake:
            if message.properties.expires <= now:
                self._expire(message)
            else:
                self._become_ready(message)
        for message in self._ready.outlived(now, limit):
            self._expire(message)
        self._late = False
        self.alarm = min(self._leases.next(), self._delayed.next(), self._ready.expiring.next())
        return self.alarm <= now

    def next_visible(self) -> float:
        """When the next message that is delayed or leased will be there, if nothing happens before."""
        return inf if self.paused else min(self._delayed.next(), self._leases.next())

    def why_empty(self) -> str:
        """Say why a consumer gets nothing: paused, leased, delayed (whichever ends first) or empty."""
        if self.paused:
            return "paused"
        if not self._leases and not self._delayed:
            return "empty"
        return "leased" if self._leases.next() < self._delayed.next() or not self._delayed else "delayed"

    def clear(self) -> list[Dropped]:
        """Hold nothing, and return what was held for the caller to free; leases on it are over.

        O(1): freeing millions takes long, and the caller may do it elsewhere.
        """
        dropped = [*self._ready.clear(), *self._delayed.clear(), *self._leases.clear()]
        self._lapses = Lapses()
        self._late = False
        self.alarm = inf
        self._counts.cleared += self.messages
        self._hold(-self.messages, -self.bytes)
        return dropped

    def bodies(self) -> list[bytes]:
        """The bodies held, in order; a copy of references, not of the bytes."""
        if self.messages == self._ready.count and self._ready.all_plain:
            return [message.body for message in self._ready]
        held = chain(self._ready, self._delayed.values(), (lease.message for lease in self._leases.values()))
        return [message.body for message in sorted(held, key=_rank)]

    def reserve(self, number: int) -> int:
        """Set `number` ids aside for messages made elsewhere, and return the first."""
        first, self._next_id = self._next_id, self._next_id + number
        return first

    def replace(self, messages: deque[Message], size: int) -> list[Dropped]:
        """Hold exactly `messages`, of together `size` bytes, and return what was held, as `clear` does.

        They are plain, their ids are reserved ones, in order. `QueueFull` changes nothing. O(1) like `clear`.
        """
        self.check_replacement(len(messages), size)
        return self.swap(messages, size)

    def check_replacement(self, messages: int, size: int) -> None:
        """Raise `QueueFull` if so many messages, of `size` bytes, instead of those held would be over a cap."""
        excess = self._caps.excess(self, self._owner, messages - self.messages, size - self.bytes)
        if excess is not None:
            raise self._caps.refusal(excess, self, self._gone, 0.0)

    def swap(self, messages: deque[Message], size: int) -> list[Dropped]:
        """Hold exactly `messages`, whatever the caps say; `replace` tells the rest."""
        dropped = self.clear()
        self._ready.fill(messages)  # type: ignore[arg-type]  # a deque of messages and no runs
        self._counts.arrived += len(messages)
        self._hold(len(messages), size)
        return dropped

    def fill(self, image: QueueImage, now: float) -> list[Message]:
        """Hold what `image` holds; this queue is new. Never refuses: all of it was accepted once.

        Returns the messages that have been delivered as often as they may be, for the caller to dead-letter; they
        count as held until then. Raises nothing, and O(log n) for each message that is not plain.
        """
        self.configure(image.settings)
        self._next_id = image.next_id
        number = size = 0
        for item in image.in_order:
            number += len(item) if isinstance(item, Run) else 1
            size += item.size if isinstance(item, Run) else len(item.body)
        self._ready.fill(image.in_order)
        failed: list[Message] = []
        limit = image.settings.max_receives
        for message, due in image.others:
            number += 1
            size += len(message.body)
            if limit is not None and message.properties.receives >= limit:
                failed.append(message)
            elif due > now:
                self._add(message, due - now, now)
            else:
                self._become_ready(message)
        self._counts.arrived += number
        self._hold(number, size)
        self.paused = image.paused
        return failed

    def succeed(self, owner: Owner, old: Queue | None) -> None:
        """Stand in `owner` from now on, in the place of `old`: its counts go on, its ids are not given again.

        O(1). What `old` held counts as cleared; it is its caller's to free, and counts nowhere any more.
        """
        self._owner.messages -= self.messages
        self._owner.bytes -= self.bytes
        self._owner = owner
        owner.messages += self.messages
        owner.bytes += self.bytes
        if old is None:
            return
        self._next_id = max(self._next_id, old._next_id)
        self._given_before = old._next_id
        self._caps.succeed(old._caps)
        arrived = self._counts.arrived
        # A copy, for `old` goes on counting: it will be cleared.
        self._counts = copy(old._counts)
        self._counts.arrived += arrived
        self._counts.cleared += old.messages

    def image(self) -> QueueImage:
        """Return what is to be kept of this queue, which goes on; `fill` makes a queue of it.

        One pass over references, some 20 ns each, and no more: whatever takes longer is done when the image is
        read, which may be elsewhere.
        """
        plain, others, apart = self._ready.copies()
        return QueueImage(
            name=self.name,
            settings=self._settings,
            paused=self.paused,
            next_id=self._next_id,
            in_order=plain,
            others=in_no_order(others, apart, self._delayed.entries(), list(self._leases.values())),
        )

    def peek(self, state: State, limit: int) -> list[MessageView]:
        """Return the first `limit` messages in `state`, the next one first; changes nothing.

        What it costs depends on `limit` and not on the depth.
        """
        match state:
            case "ready":
                return [MessageView.waiting(message) for message in islice(self._ready, limit)]
            case "delayed":
                return [MessageView.waiting(message, time) for time, message in self._delayed.first(limit)]
            case "leased":
                return [MessageView.leased(lease) for lease in self._leases.first(limit)]

    def find(self, id: int) -> MessageView | None:
        """Return the message with this id, or None if it is not held; changes nothing.

        O(log n).
        """
        delayed = self._delayed.entry(id)
        if delayed is not None:
            return MessageView.waiting(delayed[1], delayed[0])
        lease = self._leases.find(id)
        if lease is not None:
            return MessageView.leased(lease)
        message = self._ready.find(id)
        return None if message is None else MessageView.waiting(message)

    def stats(self) -> QueueStats:
        """Report counts and sizes in O(1): 2 us."""
        return QueueStats(*self.figures())

    def figures(self) -> Figures:
        """The values of `stats`, for adding up."""
        ready, delayed, leased = self._ready.count, len(self._delayed), len(self._leases)
        return (self.messages, self.bytes, ready, delayed, leased, *values_of(self._counts))

    def _hold(self, messages: int, size: int) -> None:
        owner = self._owner
        self.messages += messages
        self.bytes += size
        owner.messages += messages
        owner.bytes += size

    def _expiring_as_set(self, properties: Properties, now: float) -> Properties:
        """Give a message the ttl this queue is set to, if its producer gave none."""
        ttl = self._settings.ttl
        return (
            properties
            if ttl is None or properties.expires < inf
            else msgspec.structs.replace(properties, expires=now + ttl)
        )

    def _add(self, message: Message, delay: float, now: float) -> None:
        """Put a new message where it belongs."""
        expires = message.properties.expires
        if delay > 0:
            # Gone when its ttl is over, even if it was never ready.
            time = min(now + delay, expires)
            self._delayed.put(message.id, time, message)
            self._watch(time)
            return
        self._ready.append(message)
        if expires < self.alarm:
            self._watch(expires)

    def _add_bodies(
        self, first: int, bodies: Sequence[bytes], properties: Properties, size: int, packed: bytes = b""
    ) -> None:
        """Put new messages that are not delayed where they belong."""
        self._ready.extend(first, bodies, properties, size, packed)
        self._watch(properties.expires)

    def _become_ready(self, message: Message) -> None:
        """Make a message ready that was not new: at the place its rank gives it."""
        self._ready.put_back(message)
        self._watch(message.properties.expires)

    def _pop(self, now: float) -> Message | None:
        """Remove the first ready message from its line; it is still held."""
        if now >= self.alarm:
            self.tick(now, TICK_LIMIT)
        ready = self._ready
        return ready.pop_plain() if ready.simple else self._pop_living(now)

    def _pop_living(self, now: float) -> Message | None:
        """Remove the first ready message whose ttl is not over: one that `tick` has not come to is gone now."""
        for _ in range(TICK_LIMIT):
            message = self._ready.pop()
            if message is None or message.properties.expires > now:
                return message
            self._expire(message)
        self._late = True
        return None

    def _pop_many(self, limit: int, now: float) -> tuple[Taken, int]:
        """Remove the first ready messages, at most `limit` and of `MAX_BATCH_BYTES`, and say of how many."""
        if now >= self.alarm:
            self.tick(now, TICK_LIMIT)
        ready = self._ready
        at_once = ready.pop_many(limit, MAX_BATCH_BYTES)
        if at_once is not None:
            return at_once
        taken, size, outlived = Taken(), 0, 0
        for message in ready.pop_each():
            if message.properties.expires <= now:
                self._expire(message)
                outlived += 1
                if outlived == TICK_LIMIT:
                    self._late = not len(taken)
                    break
                continue
            size += len(message.body)
            if size > MAX_BATCH_BYTES and len(taken):
                self._become_ready(message)
                return taken, size - len(message.body)
            taken.add(message)
            if len(taken) == limit:
                break
        return taken, size

    def _lease(self, message: Message, visibility: float | None, now: float) -> Lease:
        if self._lapses.serials:
            self._note_given(message.id)
        seconds = self._settings.visibility if visibility is None else visibility
        # One that is asked for no time at all is over at once.
        deadline = now + seconds if seconds else now - self._leases.slack
        lease = Lease(
            message, self._owner.serial(), message.properties.receives + 1, deadline, self._tag, seconds, self.name
        )
        self._leases.put(lease)
        if deadline < self.alarm:
            self._watch(deadline + self._leases.slack)
        self._counts.received += 1
        return lease

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
        self._lapse(lease, now)
        return None

    def _lapse(self, lease: Lease, now: float) -> None:
        """End a lease whose time is over. Until its message is given out again, its holder may acknowledge it."""
        self._counts.leases_expired += 1
        message = counted(lease, lease.message.properties.releases)
        end = self._end(lease, message, 0.0, now)
        self._owner.note_end(lease.serial, end)
        if end is End.EXPIRED:
            self._lapses.put(lease.serial, message)

    def _end(self, lease: Lease, message: Message, delay: float, now: float) -> End:
        """Send the message of a lease that was not acknowledged where it belongs, and say what became of it."""
        if self._has_failed(lease):
            self._fail(message)
            return End.DEAD_LETTERED
        if message.properties.expires <= now:
            self._expire(message)
            return End.OUTLIVED
        if delay > 0:
            self._add(message, delay, now)
        else:
            self._become_ready(message)
        return End.EXPIRED

    def _note_given(self, id: int) -> None:
        """Note that a message was given out: a lease of it that expired before is over for good."""
        serial = self._lapses.pop(id)
        if serial is not None:
            self._owner.note_end(serial, End.GIVEN)

    def _withdraw(self, message: Message) -> None:
        """Take a message that came back out of its line: the holder of its expired lease acknowledges it."""
        self._lapses.pop(message.id)
        self._ready.remove(message)

    def _note_acked(self, serial: int, message: Message) -> None:
        """Hold a message no more that was acknowledged."""
        self._owner.note_end(serial, End.ACKED)
        self._hold(-1, -len(message.body))
        self._counts.acked += 1

    def _check_acked(self, serial: int) -> None:
        """Raise `ReceiptExpired` unless the lease, which is over, was acknowledged."""
        if self._owner.end_of(serial) is not End.ACKED:
            raise self._over(serial)

    def _over(self, serial: int) -> ReceiptExpired:
        """Return the refusal for a lease that is over: it says how it ended."""
        return ReceiptExpired(self._owner.end_of(serial).sentence, parameter="receipt")

    def _has_failed(self, lease: Lease) -> bool:
        """Whether the message, if this delivery of it fails too, has been delivered as often as it may be."""
        limit = self._settings.max_receives
        return limit is not None and lease.receives >= limit

    def _fail(self, message: Message) -> None:
        """Give a message up to the dead-letter queue."""
        self._hold(-1, -len(message.body))
        self._counts.dead_lettered += 1
        self._owner.dead_letter(self, message)

    def _expire(self, message: Message) -> None:
        if self._lapses and (serial := self._lapses.pop(message.id)) is not None:
            self._owner.note_end(serial, End.OUTLIVED)
        self._hold(-1, -len(message.body))
        self._counts.expired += 1

    def _watch(self, time: float) -> None:
        if time < self.alarm:
            self.alarm = time
            self._owner.watch(self, time)

    def refuse_unread(self, size: int, now: float) -> QueueFull:
        """Count a message that is refused before it is read, for want of room for `size` bytes, and say so."""
        owner = self._owner
        self._counts.refused += 1
        excess = Excess("max_bytes", "max_bytes", owner.bytes, size, owner.max_bytes)
        return self._caps.refusal(excess, self, self._gone, now)

    @property
    def _gone(self) -> int:
        """How many messages have left, so far."""
        return self._counts.enqueued + self._counts.arrived - self.messages

    def count_refused(self, number: int) -> None:
        """Count so many more refusals, or fewer if one was none after all."""
        self._counts.refused += number

    def _check_room(self, messages: int, size: int, now: float) -> None:
        """Raise `QueueFull` if so many more messages, of `size` bytes together, would be over a cap."""
        owner = self._owner
        if not (
            self._capped or owner.messages + messages > owner.max_messages or owner.bytes + size > owner.max_bytes
        ):
            return
        excess = self._caps.excess(self, owner, messages, size)
        if excess is not None:
            self._counts.refused += 1
            raise self._caps.refusal(excess, self, self._gone, now)
