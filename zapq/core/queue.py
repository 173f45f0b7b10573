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

Order is (priority, id), and an id never changes. Each priority has a `ReadyQueue` (`ready.py`), so simple FIFO
traffic only touches one deque, and enqueue and dequeue are O(1) at any depth. Messages that come back wait in
a heap ordered by rank; since each of them may be older than the deques' head, taking compares the two heads: O(log
r) for r messages that came back. A message whose ttl ends in the middle of a deque stays there as a tombstone:
skipped when it comes up, swept when the tombstones are the majority.

`now` is any clock that does not go backwards; times are absolute, durations in seconds. Every take first
processes whatever is due; for messages that are not taken, the service calls `tick` when `alarm` is reached.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, merge
from itertools import chain, islice, repeat
from math import inf
from operator import attrgetter
from typing import Literal, Protocol

import msgspec

from zapq.core.deadlines import Deadlines, smallest
from zapq.core.drain_rate import DrainRate
from zapq.core.image import QueueImage
from zapq.core.leases import End, Lapses, Leases
from zapq.core.message import DEFAULTS, Draft, Lease, Message, Properties
from zapq.core.queue_settings import QueueSettings
from zapq.core.ready import ReadyQueue
from zapq.core.runs import Run, Taken
from zapq.errors import InvalidParameter, QueueFull, ReceiptExpired
from zapq.limits import (
    BACKOFF,
    MAX_BACKOFF,
    MAX_BATCH_BYTES,
    MAX_PRIORITY,
    RELEASES_AT_ONCE,
    TICK_LIMIT,
)

Dropped = deque[Message | Run]
"""What a queue has given up, for its caller to free."""
State = Literal["ready", "delayed", "leased"]
STATES: tuple[State, ...] = ("ready", "delayed", "leased")
_RECEIPT = re.compile(r"[0-9a-f]+-[0-9a-f]+-[0-9a-f]{1,16}")
_rank = attrgetter("rank")


@dataclass(frozen=True, slots=True)
class QueueStats:
    """What a queue holds and has done since it was made, as one consistent picture."""

    messages: int
    """Held in all: ready, delayed and leased. The caps count these."""
    bytes: int
    ready: int
    delayed: int
    leased: int
    enqueued: int
    dequeued: int
    received: int
    acked: int
    released: int
    leases_expired: int
    expired: int
    """Gone because their ttl was over."""
    dead_lettered: int
    redriven: int
    refused: int
    returned: int
    """Put back because they could not be handed over."""
    cleared: int


@dataclass(frozen=True, slots=True)
class MessageView:
    """A message as a peek shows it."""

    message: Message
    state: State
    receives: int
    due: float | None
    """When it will be ready again, if it is delayed or leased."""

    @property
    def id(self) -> int:
        """The message's id."""
        return self.message.id

    @property
    def body(self) -> bytes:
        """The message's bytes."""
        return self.message.body

    @property
    def content_type(self) -> str:
        """The Content-Type the message's producer gave."""
        return self.message.content_type

    @property
    def priority(self) -> int:
        """0 to 9; 9 is served first."""
        return self.message.priority

    @property
    def receive_count(self) -> int:
        """How often the message has been leased: `receives` by its name in HTTP."""
        return self.receives


class Owner(Protocol):
    """What a queue knows of the others: what all of them hold, where to report, where to send dead letters."""

    messages: int
    bytes: int
    """Held, or set aside for messages that are being received."""
    max_messages: int
    max_bytes: int

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
        "_acked",
        "_arrived",
        "_by_priority",
        "_capped",
        "_cleared",
        "_dead_lettered",
        "_delayed",
        "_dequeued",
        "_drain_rate",
        "_enqueued",
        "_expired",
        "_expiring",
        "_given_before",
        "_lapses",
        "_leases",
        "_leases_expired",
        "_next_id",
        "_owner",
        "_paused",
        "_put_back",
        "_ready",
        "_received",
        "_redriven",
        "_refused",
        "_released",
        "_returned",
        "_settings",
        "_simple",
        "_tag",
        "_tombstones",
        "_top",
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
        self._paused = False
        self.alarm = inf
        """When `tick` is to be called next; later is harmless, but expired messages then live on."""
        self._owner = owner
        self._tag = tag
        self._by_priority = [ReadyQueue() for _ in range(MAX_PRIORITY + 1)]
        self._top = 0
        """No line above this one has a message in it."""
        self._simple = True
        """Whether the first line is all there is to look at; if not, `_pop` finds out when that is so again."""
        self._returned: list[tuple[int, Message]] = []
        self._ready = 0
        self._tombstones: set[int] = set()
        """Ids of messages in `_by_priority` and `_returned` that are gone."""
        self._expiring: Deadlines[Message] = Deadlines()
        """Ready messages with a ttl."""
        self._delayed: Deadlines[Message] = Deadlines()
        self._leases = Leases()
        self._lapses = Lapses()
        """Those that expired; their messages have come back, and are in `_returned`."""
        self._next_id = 1
        self._given_before = 0
        """Ids below this one were given before a snapshot was loaded, which may hold messages with the same."""
        self._drain_rate = DrainRate(now)
        self._arrived = 0
        self._enqueued = self._dequeued = self._received = self._acked = self._released = 0
        self._leases_expired = self._expired = self._dead_lettered = self._redriven = 0
        self._refused = self._put_back = self._cleared = 0
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
        return self._paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._paused = paused
        self._simple = False

    def configure(self, settings: QueueSettings) -> None:
        """Let `settings` hold from now on; what is held already stays, also beyond a new cap."""
        self._settings = settings
        self._capped = settings.max_messages is not None or settings.max_bytes is not None

    @property
    def available(self) -> bool:
        """Whether a consumer would get a message now."""
        return self._ready > 0 and not self.paused

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
        self._enqueued += 1
        # As `_hold` does, but this and `dequeue` are done for each message.
        self.messages += 1
        self.bytes += size
        owner.messages += 1
        owner.bytes += size
        if delay or (properties is not DEFAULTS and (properties.priority or properties.expires < inf)):
            self._place(message, delay, now)
        else:
            self._by_priority[0].items.append(message)
            self._ready += 1
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
        self._enqueued += len(bodies)
        self._hold(len(bodies), size)
        self._place_bodies(first, bodies, properties, size, packed)
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
        message = self._pop(now)
        if message is not None:
            if self._lapses:
                self._note_given(message.id)
            size, owner = len(message.body), self._owner
            self.messages -= 1
            self.bytes -= size
            owner.messages -= 1
            owner.bytes -= size
            self._dequeued += 1
        return message

    def dequeue_many(self, limit: int, now: float = 0.0) -> Taken:
        """Remove and return the first ready messages, at most `limit` and of `MAX_BATCH_BYTES` together."""
        taken, size = self._pop_many(limit, now)
        if self._lapses:
            for id in taken.ids():
                self._note_given(id)
        self._hold(-len(taken), -size)
        self._dequeued += len(taken)
        return taken

    def put_back(self, message: Message) -> None:
        """Return a dequeued message to its original place.

        Never refused, even if newer messages have filled its room meanwhile: it was accepted once, and an
        accepted message is not dropped. The caps refuse newcomers until the excess is gone.
        """
        self._put_back += 1
        # Taken before a snapshot was loaded, it may have been in it, or another one with its id.
        if message.id < self._given_before and (there := self.find(message.id)) is not None:
            if there.message.body != message.body:
                self.accept_moved(message, message.properties)
            return
        self._hold(1, len(message.body))
        self._become_ready(message)

    def receive(self, visibility: float | None = None, now: float = 0.0) -> Lease | None:
        """Lease the first ready message for `visibility` seconds (None: as this queue is set), or return None."""
        message = self._pop(now)
        return None if message is None else self._lease(message, visibility, now)

    def receive_many(self, limit: int, visibility: float | None = None, now: float = 0.0) -> list[Lease]:
        """Lease the first ready messages, at most `limit` and of `MAX_BATCH_BYTES` together."""
        return [self._lease(message, visibility, now) for message in self._pop_many(limit, now)[0]]

    def take_back(self, lease: Lease) -> None:
        """End a lease that could not be handed over: the message is at its place, as if it had not been leased."""
        if self._leases.pop(lease.serial) is not None:
            self._received -= 1
            self._put_back += 1
            self._become_ready(lease.message)

    def ack(self, receipt: str, now: float) -> None:
        """Let the message go for good. Repeating it is fine, and so is coming late if the message is still here.

        `ReceiptExpired` if the lease was released, or has expired and the message was given out again.
        """
        serial = self._serial(receipt)
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
        owner.note_end(serial, End.ACKED)
        # As `_hold` does, for the same reason as in `enqueue`.
        size = len(message.body)
        self.messages -= 1
        self.bytes -= size
        owner.messages -= 1
        owner.bytes -= size
        self._acked += 1

    def release(self, receipt: str, delay: float, now: float) -> None:
        """Give the message back, ready at its original place, or after `delay` seconds.

        Given back without a delay time and again, it rests for a while each time, so that it does not spin at the
        head of the queue. At `max_receives` it goes to the dead-letter queue instead. Raises `ReceiptExpired`.
        """
        serial = self._serial(receipt)
        lease = self._pop_lease(serial, now)
        if lease is None:
            raise self._over(serial)
        self._released += 1
        self._owner.note_end(serial, End.RELEASED)
        delay, releases = backoff(lease.message.properties.releases, delay)
        self._end(lease, counted(lease, releases), delay, now)

    def extend(self, receipt: str, visibility: float | None, now: float) -> Lease:
        """Let the lease last until `visibility` seconds from now, and return it. Raises `ReceiptExpired`.

        By default for as long as it was given.
        """
        serial = self._serial(receipt)
        lease = self._pop_lease(serial, now)
        if lease is None:
            raise self._over(serial)
        seconds = lease.visibility if visibility is None else visibility
        lease = msgspec.structs.replace(lease, deadline=now + seconds)
        self._leases.put(lease)
        self._watch(lease.deadline)
        return lease

    def accept_moved(self, message: Message, properties: Properties) -> Message:
        """Take over a message another queue has held: at the end, with an id of this queue. Never refused."""
        mine = Message(self._next_id, message.body, properties)
        self._next_id += 1
        self._arrived += 1
        self._hold(1, len(message.body))
        self._place(mine, 0.0, 0.0)
        return mine

    def has_room_for(self, size: int, messages: int = 1) -> bool:
        """Whether messages of `size` bytes that some queue holds already fit under this queue's own caps."""
        settings = self._settings
        return (settings.max_messages is None or self.messages + messages <= settings.max_messages) and (
            settings.max_bytes is None or self.bytes + size <= settings.max_bytes
        )

    def note_redriven(self, number: int) -> None:
        """Count messages that went back from here to where they had failed."""
        self._redriven += number

    def pop_ready(self, now: float) -> Iterator[Message]:
        """Take ready messages out one by one; the caller gives each to `note_moved` or `keep_here`."""
        while (message := self._pop(now)) is not None:
            yield message

    def note_moved(self, message: Message) -> None:
        """Hold a message no more that was taken out by `pop_ready`."""
        if self._lapses:
            self._note_given(message.id)
        self._hold(-1, -len(message.body))

    def keep_here(self, message: Message) -> None:
        """Put a message that was taken out by `pop_ready` at its place again."""
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
        dead = self._expiring.due(now, limit)
        for message in dead:
            self._tombstones.add(message.id)
            self._ready -= 1
            self._expire(message)
        self._sweep()
        self.alarm = min(self._leases.next(), self._delayed.next(), self._expiring.next())
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

        O(1) except for messages that are delayed, leased or came back: freeing millions takes long, and the caller
        may do it elsewhere.
        """
        dropped = [ready_queue.items for ready_queue in self._by_priority if ready_queue]
        rest: Dropped = deque(message for _, message in self._returned)
        rest.extend(self._delayed.clear())
        rest.extend(lease.message for lease in self._leases.clear())
        if rest:
            dropped.append(rest)
        self._expiring.clear()
        self._lapses = Lapses()
        self._by_priority = [ReadyQueue() for _ in range(MAX_PRIORITY + 1)]
        self._returned = []
        self._tombstones = set()
        self._top = self._ready = 0
        self.alarm = inf
        self._cleared += self.messages
        self._hold(-self.messages, -self.bytes)
        return dropped

    def bodies(self) -> list[bytes]:
        """The bodies held, in order; a copy of references, not of the bytes."""
        if self.messages == self._ready and not (self._top or self._returned or self._tombstones):
            return [message.body for message in self._by_priority[0]]
        return [message.body for message in sorted(self._held(), key=_rank)]

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
        self._check_caps(messages - self.messages, size - self.bytes, 0)

    def swap(self, messages: deque[Message], size: int) -> list[Dropped]:
        """Hold exactly `messages`, whatever the caps say; `replace` tells the rest."""
        dropped = self.clear()
        self._by_priority[0] = ReadyQueue(messages)
        self._ready = len(messages)
        self._arrived += len(messages)
        self._hold(len(messages), size)
        return dropped

    def fill(self, image: QueueImage, now: float) -> list[Message]:
        """Hold what `image` holds; this queue is new. Never refuses: all of it was accepted once.

        Returns the messages that have been delivered as often as they may be, for the caller to dead-letter; they
        count as held until then. Raises nothing, and O(log n) for each message that is not plain.
        """
        self.configure(image.settings)
        self._next_id = image.next_id
        self._by_priority[0] = ReadyQueue(image.in_order)  # type: ignore[arg-type]  # it takes both
        number = size = 0
        for item in image.in_order:
            number += len(item) if isinstance(item, Run) else 1
            size += item.size if isinstance(item, Run) else len(item.body)
        self._ready = number
        failed: list[Message] = []
        limit = image.settings.max_receives
        for message, due in image.others:
            number += 1
            size += len(message.body)
            if limit is not None and message.properties.receives >= limit:
                failed.append(message)
            elif due > now:
                self._place(message, due - now, now)
            else:
                self._become_ready(message)
        self._arrived += number
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
        self._drain_rate = old._drain_rate
        self._arrived += old._arrived
        self._cleared = old._cleared + old.messages
        self._enqueued, self._dequeued, self._received = old._enqueued, old._dequeued, old._received
        self._acked, self._released, self._leases_expired = old._acked, old._released, old._leases_expired
        self._expired, self._dead_lettered = old._expired, old._dead_lettered
        self._redriven, self._refused, self._put_back = old._redriven, old._refused, old._put_back

    def image(self) -> QueueImage:
        """Return what is to be kept of this queue, which goes on; `fill` makes a queue of it.

        One pass over references, some 20 ns each, and no more: whatever takes longer is done when the image is
        read, which may be elsewhere.
        """
        first, *others = (_copied(ready_queue.items) for ready_queue in self._by_priority)
        # Only where something has a ttl can anything in the first line have one.
        if self._expiring.entries or self._tombstones:
            others.append(deque(item for item in first if item.properties.expires < inf))
            first = deque(item for item in first if item.properties.expires == inf)
        return QueueImage(
            name=self.name,
            settings=self._settings,
            paused=self._paused,
            next_id=self._next_id,
            in_order=first,
            others=_others(
                [items for items in others if items],
                self._tombstones.copy(),
                self._returned.copy(),
                self._delayed.entries.copy(),
                list(self._leases.values()),
            ),
        )

    def peek(self, state: State, limit: int) -> list[MessageView]:
        """Return the first `limit` messages in `state`, the next one first; changes nothing.

        What it costs depends on `limit` and not on the depth, except for tombstones.
        """
        match state:
            case "ready":
                ready_queues = chain.from_iterable(reversed(self._by_priority))
                ready = merge((message for _, message in smallest(self._returned)), ready_queues, key=_rank)
                living = (message for message in ready if message.id not in self._tombstones)
                return [_view(message) for message in islice(living, limit)]
            case "delayed":
                return [_view(message, time) for time, message in self._delayed.first(limit)]
            case "leased":
                return [_leased(lease) for lease in self._leases.first(limit)]

    def find(self, id: int) -> MessageView | None:
        """Return the message with this id, or None if it is not held; changes nothing.

        O(log n) for one that is ready for the first time, O(n) among those leased or come back.
        """
        delayed = self._delayed.entry(id)
        if delayed is not None:
            return _view(delayed[1], delayed[0])
        for lease in self._leases.values():
            if lease.message.id == id:
                return _leased(lease)
        if id in self._tombstones:
            return None
        for ready_queue in self._by_priority:
            message = ready_queue.find(id)
            if message is not None:
                return _view(message)
        return next((_view(message) for _, message in self._returned if message.id == id), None)

    def stats(self) -> QueueStats:
        """Report counts and sizes in O(1)."""
        return QueueStats(
            messages=self.messages,
            bytes=self.bytes,
            ready=self._ready,
            delayed=len(self._delayed),
            leased=len(self._leases),
            enqueued=self._enqueued,
            dequeued=self._dequeued,
            received=self._received,
            acked=self._acked,
            released=self._released,
            leases_expired=self._leases_expired,
            expired=self._expired,
            dead_lettered=self._dead_lettered,
            redriven=self._redriven,
            refused=self._refused,
            returned=self._put_back,
            cleared=self._cleared,
        )

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

    def _place_bodies(
        self, first: int, bodies: Sequence[bytes], properties: Properties, size: int, packed: bytes = b""
    ) -> None:
        """Put new messages that are not delayed where they belong."""
        if properties.expires < inf:
            for message in map(Message, range(first, first + len(bodies)), bodies, repeat(properties)):
                self._place(message, 0.0, 0.0)
            return
        self._simple &= not properties.priority
        self._by_priority[properties.priority].extend(first, bodies, size, properties, packed)
        self._top = max(self._top, properties.priority)
        self._ready += len(bodies)

    def _place(self, message: Message, delay: float, now: float) -> None:
        """Put a new message where it belongs."""
        properties = message.properties
        if delay > 0:
            # Gone when its ttl is over, even if it was never ready.
            time = min(now + delay, properties.expires)
            self._delayed.put(message.id, time, message)
            self._watch(time)
            return
        self._simple = False
        self._by_priority[properties.priority].items.append(message)
        self._top = max(self._top, properties.priority)
        self._ready += 1
        self._mind(message)

    def _become_ready(self, message: Message) -> None:
        """Make a message ready that was not new: at the place its rank gives it."""
        heappush(self._returned, (message.rank, message))
        self._simple = False
        self._ready += 1
        self._mind(message)

    def _mind(self, message: Message) -> None:
        """Note when a ready message will be gone."""
        if message.properties.expires < inf:
            self._expiring.put(message.id, message.properties.expires, message)
            self._watch(message.properties.expires)

    def _pop(self, now: float) -> Message | None:
        """Remove the first ready message from its line; it is still held."""
        if now >= self.alarm:
            self.tick(now, TICK_LIMIT)
        if self._simple:
            items = self._by_priority[0].items
            if not items:
                return None
            self._ready -= 1
            message = items[0]
            if message.__class__ is Message:
                return items.popleft()  # type: ignore[return-value]  # as we have just seen
            return self._by_priority[0].pop()
        self._simple = self._is_simple()
        if self._paused:
            return None
        while self._ready:
            ready_queue = self._by_priority[self._top]
            while not ready_queue.items and self._top:
                self._top -= 1
                ready_queue = self._by_priority[self._top]
            if self._returned and not (ready_queue.items and ready_queue.head_rank() < self._returned[0][0]):
                message = heappop(self._returned)[1]
            else:
                message = ready_queue.pop()
            if self._tombstones and message.id in self._tombstones:
                self._tombstones.discard(message.id)
                continue
            self._ready -= 1
            if not self._expiring.entries or self._expiring.pop(message.id) is None:
                return message
            if message.properties.expires > now:
                return message
            self._expire(message)
        return None

    def _pop_many(self, limit: int, now: float) -> tuple[Taken, int]:
        """Remove the first ready messages, at most `limit` and of `MAX_BATCH_BYTES`, and say of how many."""
        if now >= self.alarm:
            self.tick(now, TICK_LIMIT)
        if self._simple or self._is_simple():
            taken, size = self._by_priority[0].pop_many(limit, MAX_BATCH_BYTES)
            self._ready -= len(taken)
            return taken, size
        taken, size = Taken(), 0
        while len(taken) < limit and (message := self._pop(now)) is not None:
            size += len(message.body)
            if size > MAX_BATCH_BYTES and len(taken):
                self._become_ready(message)
                return taken, size - len(message.body)
            taken.add(message)
        return taken, size

    def _is_simple(self) -> bool:
        return not (self._top or self._returned or self._tombstones or self._expiring.entries or self._paused)

    def _lease(self, message: Message, visibility: float | None, now: float) -> Lease:
        if self._lapses:
            self._note_given(message.id)
        seconds = self._settings.visibility if visibility is None else visibility
        deadline = now + seconds
        lease = Lease(
            message, self._owner.serial(), message.properties.receives + 1, deadline, self._tag, seconds, self.name
        )
        self._leases.put(lease)
        if deadline < self.alarm:
            self._watch(deadline)
        self._received += 1
        return lease

    def _serial(self, receipt: str) -> int:
        tag, _, number = receipt.rpartition("-")
        if tag == self._tag and len(number) <= 16:
            try:
                serial = int(number, 16)
            except ValueError:
                serial = -1
            # `int` takes other spellings as well.
            if f"{serial:x}" == number:
                return serial
        if not _RECEIPT.fullmatch(receipt):
            raise InvalidParameter("The receipt is not valid. Send it as zapq gave it.", parameter="receipt")
        raise ReceiptExpired(
            "The receipt is from another queue, or from before the server restarted. Nothing was changed; receive"
            " the message again.",
            parameter="receipt",
        )

    def _pop_lease(self, serial: int, now: float) -> Lease | None:
        """Take a lease out of its holder's hands and return it; None if it is over: one whose time has come is."""
        lease = self._leases.pop(serial)
        if lease is None or lease.deadline > now:
            return lease
        self._lapse(lease, now)
        return None

    def _lapse(self, lease: Lease, now: float) -> None:
        """End a lease whose time is over. Until its message is given out again, its holder may acknowledge it."""
        self._leases_expired += 1
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
            self._place(message, delay, now)
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
        self._expiring.pop(message.id)
        self._tombstones.add(message.id)
        self._simple = False
        self._ready -= 1
        self._sweep()

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
        self._dead_lettered += 1
        self._owner.dead_letter(self, message)

    def _expire(self, message: Message) -> None:
        if self._lapses and (serial := self._lapses.pop(message.id)) is not None:
            self._owner.note_end(serial, End.OUTLIVED)
        self._hold(-1, -len(message.body))
        self._expired += 1

    def _watch(self, time: float) -> None:
        if time < self.alarm:
            self.alarm = time
            self._owner.watch(self, time)

    def _sweep(self) -> None:
        """Free what tombstones still hold, if that is worth it."""
        tombstones = self._tombstones
        if not tombstones:
            return
        for ready_queue in self._by_priority:
            # Mostly the oldest go first, and they stand in front.
            ready_queue.drop_first(tombstones)
        if len(tombstones) > self._ready:
            for ready_queue in self._by_priority:
                ready_queue.keep(lambda message: message.id not in tombstones)
            self._returned = [entry for entry in self._returned if entry[1].id not in tombstones]
            heapify(self._returned)
            tombstones.clear()

    def refuse_unread(self, size: int, now: float) -> QueueFull:
        """Count a message that is refused before it is read, for want of room for `size` bytes, and say so."""
        owner = self._owner
        self._refused += 1
        return self._full("max_bytes", owner.bytes, size, owner.max_bytes, {"max_bytes": owner.max_bytes}, now)

    def count_refused(self, number: int) -> None:
        """Count so many more refusals, or fewer if one was none after all."""
        self._refused += number

    def _check_room(self, messages: int, size: int, now: float) -> None:
        owner = self._owner
        if not (
            self._capped or owner.messages + messages > owner.max_messages or owner.bytes + size > owner.max_bytes
        ):
            return
        try:
            self._check_caps(messages, size, now)
        except QueueFull:
            self._refused += 1
            raise

    def _check_caps(self, messages: int, size: int, now: float) -> None:
        """Raise `QueueFull` if that many more messages, of together `size` more bytes, would be over a cap."""
        owner, own = self._owner, self._settings
        for limit, current, more, most, facts in (
            ("max_msgs", owner.messages, messages, owner.max_messages, {"max_messages": owner.max_messages}),
            ("max_bytes", owner.bytes, size, owner.max_bytes, {"max_bytes": owner.max_bytes}),
            ("max_messages", self.messages, messages, own.max_messages, {"max_messages": own.max_messages}),
            ("max_bytes", self.bytes, size, own.max_bytes, {"max_bytes": own.max_bytes}),
        ):
            if most is not None and current + more > most and more > 0:
                # Made elsewhere: an error that a frame of its traceback has a name for is a cycle, and all that
                # the frames know, the whole request, would stay until the garbage collector comes.
                raise self._full(limit, current, more, most, facts, now)

    def _full(
        self, limit: str, current: int, more: int, most: int, facts: Mapping[str, object], now: float
    ) -> QueueFull:
        excess: float = current + more - most
        if limit == "max_bytes":
            excess /= max(self.bytes / max(self.messages, 1), 1)
        gone = self._enqueued + self._arrived - self.messages
        full = QueueFull(None, queue=self.name, limit=limit, current=current, **facts)
        full.retry_after = self._drain_rate.retry_after(excess, gone, now)
        return full

    def _held(self) -> Iterator[Message]:
        ready = chain(chain.from_iterable(self._by_priority), (message for _, message in self._returned))
        return chain(
            (message for message in ready if message.id not in self._tombstones),
            self._delayed.values(),
            (lease.message for lease in self._leases.values()),
        )


def backoff(releases: int, delay: float) -> tuple[float, int]:
    """How long a message rests that is released, and how often it then was given back without a delay."""
    if delay > 0:
        return delay, releases
    releases += 1
    if releases > RELEASES_AT_ONCE:
        delay = min(BACKOFF * 2.0 ** (releases - RELEASES_AT_ONCE - 1), MAX_BACKOFF)
    return delay, releases


def counted(lease: Lease, releases: int) -> Message:
    """Return the message of a lease that is over, the delivery counted."""
    message = lease.message
    properties = msgspec.structs.replace(message.properties, receives=lease.receives, releases=releases)
    return Message(message.id, message.body, properties)


def _copied(items: deque[Message | Run]) -> deque[Message | Run]:
    """Return the same messages, and copies of the runs, which can be taken from."""
    if Run not in map(type, items):
        return items.copy()
    return deque(copy(item) if isinstance(item, Run) else item for item in items)


def _others(
    ready_queues: list[deque[Message | Run]],
    tombstones: set[int],
    returned: list[tuple[int, Message]],
    delayed: dict[int, tuple[float, Message]],
    leases: list[Lease],
) -> Iterator[tuple[Message, float]]:
    """Yield messages with when they are ready, those that are gone left out."""
    in_order = chain.from_iterable(item if isinstance(item, Run) else (item,) for item in chain(*ready_queues))
    for message in chain(in_order, (message for _, message in returned)):
        if message.id not in tombstones:
            yield message, 0.0
    for due, message in delayed.values():
        yield message, due
    for lease in leases:
        message = lease.message
        properties = msgspec.structs.replace(message.properties, receives=lease.receives)
        yield Message(message.id, message.body, properties), 0.0


def _view(message: Message, due: float | None = None) -> MessageView:
    return MessageView(message, "ready" if due is None else "delayed", message.properties.receives, due)


def _leased(lease: Lease) -> MessageView:
    return MessageView(lease.message, "leased", lease.receives, lease.deadline)
