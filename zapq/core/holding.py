"""What one queue holds: its messages, its settings, what it counts, and its place on the disk.

Here is the queue as a whole: its caps, what is kept of it, what it shows, and how all it holds is replaced. The
verbs for messages are in `queue.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from copy import copy
from heapq import merge
from itertools import chain, islice
from math import inf
from operator import attrgetter, itemgetter

import msgspec

from zapq.core.aged import Aged
from zapq.core.caps import Caps, Excess
from zapq.core.deadlines import Deadlines
from zapq.core.held import Held
from zapq.core.image import QueueImage, in_no_order
from zapq.core.journal import Journal
from zapq.core.leases import Lapses, Leases
from zapq.core.message import Message, Properties
from zapq.core.origins import Origins
from zapq.core.owner import Owner
from zapq.core.pace import CountedLeases, Pace
from zapq.core.queue_settings import QueueSettings
from zapq.core.ready import Ready
from zapq.core.records import (
    IdsReserved,
    QueuePut,
    Record,
)
from zapq.core.retention import Retention
from zapq.core.runs import Run
from zapq.core.stats import Counts, Figures, MessageView, QueueStats, State, values_of
from zapq.errors import QueueFull
from zapq.limits import BLOCKERS_LOOKED_AT, IDS_AT_ONCE

_rank = attrgetter("rank")
_first = itemgetter(0)


class Holding(Aged):
    """Holds messages within its own caps and those of `owner`."""

    # With so many attributes, ordinary ones would be looked up in a dictionary each time.
    __slots__ = (
        "_capped",
        "_caps",
        "_checks",
        "_counts",
        "_delayed",
        "_given_before",
        "_granting",
        "_ids_kept",
        "_journal",
        "_lapses",
        "_late",
        "_leases",
        "_next_id",
        "_origins",
        "_outranked",
        "_owner",
        "_pace",
        "_ready",
        "_retention",
        "_settings",
        "_stamps",
        "_unique",
        "alarm",
        "bytes",
        "epoch",
        "messages",
        "name",
        "number",
        "tag",
    )

    def __init__(
        self,
        name: str,
        *,
        owner: Owner,
        number: int,
        tag: str,
        now: float,
        journal: Journal | None = None,
        epoch: int = 0,
    ) -> None:
        super().__init__()
        self.name = name
        self.number = number
        self.epoch = epoch
        """Which rows on the disk are its messages."""
        self.messages = 0
        """How many are held: ready, delayed and leased."""
        self.bytes = 0
        self.alarm = inf
        """When `tick` is to be called next; later is harmless, but expired messages then live on."""
        self.tag = tag
        """What its receipts begin with."""
        self._owner = owner
        self._ready = Ready()
        self._late = False
        """Whether nothing is given until `tick`: more messages have outlived their ttl than one step removes, or
        the queue's limits hold takes back."""
        self._delayed: Deadlines[Message] = Deadlines(plain=True)
        self._leases = Leases(owner.lease_slack)
        self._lapses = Lapses()
        """Those that expired; their messages have come back, and are ready."""
        self._next_id = 1
        self._origins: Origins | None = None
        """Of the messages that came from other queues, if any ever did."""
        self._given_before = 0
        """Ids below this one were given before a snapshot was loaded, which may hold messages with the same."""
        self._counts = Counts()
        self._caps = Caps(name, now)
        self._journal = journal
        self._ids_kept = IDS_AT_ONCE
        """Ids below this one are set aside on the disk."""
        self._pace: Pace | None = None
        """The limits within which messages are given, if there are any."""
        self._retention: Retention | None = None
        """How long messages are held, if the queue is set to drop those that are old."""
        self._unique: dict[str, int] | None = None
        """Which message has which key: its id. None if no message has had one; see `unique.py`."""
        self._outranked: dict[str, int] = {}
        """Messages that had their key until it was undone that a newer one was gone. Hardly ever there are any."""
        self._granting: set[int] = set()
        """Serials of leases whose consumers are not answered yet: their grant is on its way to the disk."""
        self._apply(QueueSettings())

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
        before, self._ready.paused = self.paused, paused
        if self._journal is not None:
            self._journal.enter(self.kept(), self._undo_pause, before)

    def configure(self, settings: QueueSettings, now: float = 0.0) -> None:
        """Let `settings` hold from now on; what is held already stays, also beyond a new cap.

        Only messages that are older than a new retention are dropped.
        """
        before, pace, retention = self._settings, self._pace, self._retention
        self._apply(settings, now)
        self._watch(self._first_end())
        if self._journal is not None:
            self._journal.enter(self.kept(), self._undo_configure, before, pace, retention)

    def kept(self) -> QueuePut:
        """Return the record that keeps this queue on the disk."""
        return QueuePut(
            number=self.number,
            name=self.name,
            epoch=self.epoch,
            next_id=self._ids_kept,
            settings=self._settings,
            paused=self.paused,
        )

    def _apply(self, settings: QueueSettings, now: float = 0.0) -> None:
        self._settings = settings
        self._retention = Retention.of(settings, self._retention, now)
        # Looked at for each message.
        self._stamps = settings.ttl is not None or self._retention is not None
        self._caps.configure(settings)
        # Looked at for each message.
        self._capped = self._caps.limited
        self._pace = Pace.of(settings, self._pace)
        self._ready.paced = self._checks = self._pace is not None or self._retention is not None
        self._leases = self._counted(self._leases)
        self._ready.groups.fair = settings.fair
        self._late = False

    def _counted(self, leases: Leases) -> Leases:
        """Return the same leases, as the queue needs them: those that are limited are told of when they end."""
        if self._settings.max_leased is not None:
            return CountedLeases(leases, self._let_through)
        if isinstance(leases, CountedLeases):
            others = Leases()
            others.take_over(leases)
            return others
        return leases

    def _let_through(self) -> None:
        """Let takes that were held back try again: a lease has ended, or a token has come back."""
        pace = self._pace
        if pace is not None and pace.is_shut:
            pace.open()
            self._late = False
            # The timer serves consumers that wait.
            self._watch(-inf)

    def _give_back(self, number: int) -> None:
        """Put tokens back for messages that were not given after all."""
        if self._pace is not None:
            self._pace.give_back(number)
            self._let_through()

    @property
    def available(self) -> bool:
        """Whether a consumer would get a message now."""
        return self._ready.available and not self._ready.paused and not self._late

    def has_room_for(self, size: int, messages: int = 1) -> bool:
        """Whether messages of `size` bytes that some queue holds already fit under this queue's own caps."""
        return self._caps.leave_room(self, messages, size)

    def next_visible(self) -> float:
        """Return when a consumer may get a message that is not given now, if nothing happens before.

        That is when the next message that is delayed or leased will be there, and is not held up by others of its
        group; or, if the queue's limits hold ready ones back, when they let one through. Among very many that are
        held up it may be found too early, and never too late.
        """
        if self.paused:
            return inf
        if self._is_limited:
            pace = self._pace
            assert pace is not None
            return max(pace.opens, self._leases.next()) if pace.is_full else pace.opens
        soonest = min(self._delayed.next(), self._leases.next())
        if soonest == inf or not self._ready.groups:
            return soonest
        slack, at_first = self._leases.slack, self._ready.groups.is_first_out
        ends = ((lease.deadline + slack, lease.message) for lease in self._leases.in_order())
        looked_at = 0
        for time, message in islice(merge(ends, self._delayed.in_order(), key=_first), BLOCKERS_LOOKED_AT):
            if at_first(message):
                return time
            looked_at += 1
        # Of fewer, all wait for a lease that never ends, which has no time.
        return soonest if looked_at == BLOCKERS_LOOKED_AT else inf

    @property
    def _is_limited(self) -> bool:
        """Whether it is the queue's limits that hold ready messages back."""
        return self._pace is not None and self._pace.is_shut and self._ready.available

    def why_empty(self) -> str:
        """Say why a consumer gets nothing: paused, limited, blocked, leased, delayed or empty.

        Blocked means that messages are ready, and wait for earlier ones of their groups. Of leased and delayed it
        is the one that ends first.
        """
        if self.paused:
            return "paused"
        if self._is_limited:
            return "limited"
        if self._ready.groups.blocked:
            return "blocked"
        if not self._leases and not self._delayed:
            return "empty"
        return "leased" if self._leases.next() < self._delayed.next() or not self._delayed else "delayed"

    def clear(self) -> Held:
        """Hold nothing, and return what was held for the caller to free; leases on it are over.

        O(1): freeing millions takes long, and the caller may do it elsewhere.
        """
        self._check_journal()
        return self._clear(0 if self._journal is None else self._owner.next_epoch())

    def _clear(self, epoch: int) -> Held:
        held = self.held()
        self._ready = Ready(paused=held.ready.paused, fair=self._settings.fair)
        self._ready.paced = held.ready.paced
        self._delayed, self._lapses = Deadlines(plain=True), Lapses()
        self._leases = self._counted(Leases(self._leases.slack))
        self._late, self._unique = False, None
        if self._pace is not None:
            self._pace.open()
        self.alarm = inf
        self._counts.cleared += held.messages
        self._hold(-held.messages, -held.bytes)
        self.epoch = epoch
        self._enter(None if self._journal is None else self.kept(), self._undo_clear, held)
        return held

    def held(self) -> Held:
        """Return all that is held, to be put back, or freed once the queue is given up."""
        return Held(
            self._ready,
            self._delayed,
            self._leases,
            self._lapses,
            self.messages,
            self.bytes,
            self.epoch,
            self._unique,
        )

    def bodies(self) -> list[bytes]:
        """Return the bodies held, in order; a copy of references, not of the bytes."""
        if self.messages == self._ready.count and self._ready.all_plain:
            return [message.body for message in self._ready]
        held = chain(self._ready, self._delayed.values(), (lease.message for lease in self._leases.values()))
        return [message.body for message in sorted(held, key=_rank)]

    def reserve(self, number: int, now: float | None = None) -> int:
        """Set `number` ids aside for messages made elsewhere, and return the first."""
        first, self._next_id = self._next_id, self._next_id + number
        now = self._owner.clock() if now is None else now
        if now >= self._arrivals.due:
            self._note_arrival(first, now)
        if self._journal is not None and self._next_id > self._ids_kept:
            self._note_ids()
        return first

    def replace(self, messages: deque[Message], size: int, epoch: int = 0) -> Held:
        """Hold exactly `messages`, of together `size` bytes, and return what was held, as `clear` does.

        They are plain, their ids are reserved ones, in order; on the disk they are rows of `epoch` already.
        `QueueFull` changes nothing. O(1) like `clear`.
        """
        self._check_journal()
        excess = self._caps.excess(self, self._owner, len(messages) - self.messages, size - self.bytes)
        if excess is not None:
            raise self._caps.refusal(excess, self, self._gone, 0.0)
        held = self._clear(epoch)
        self._ready.fill(messages)  # type: ignore[arg-type]  # a deque of messages and no runs
        self._counts.arrived += len(messages)
        self._hold(len(messages), size)
        retention = self._retention
        if retention is not None:
            # They do not say when they arrived, and nothing else is here.
            self._retention = Retention(retention.seconds, self._owner.clock())
            self._watch(self._first_end())
        self._enter(None, self._undo_replace, len(messages), size, retention)
        return held

    def fill(self, image: QueueImage, now: float) -> list[Message]:
        """Hold what `image` holds; this queue is new. Never refuses: all of it was accepted once.

        Returns the messages that have been delivered as often as they may be, for the caller to dead-letter; they
        count as held until then. Raises nothing, and O(log n) for each message that is not plain.
        """
        self._apply(image.settings, now)
        self._next_id = self._ids_kept = image.next_id
        # Of messages that do not say when they arrived, those that kept them did not know.
        self._arrivals.fill([(first, min(time, now)) for first, time in image.arrived] or [(1, now)])
        number = size = 0
        for item in image.in_order:
            number += len(item) if isinstance(item, Run) else 1
            size += item.size
            if item.properties.origin is not None:
                self._note_origins(item)
            if item.properties.unique and not isinstance(item, Run):
                self._note_key(item)
        self._ready.fill(image.in_order)
        failed: list[Message] = []
        limit = image.settings.max_receives
        for message, due in image.others:
            number += 1
            size += message.size
            self.note_origin(message)
            if message.properties.group:
                message = Message(message.id, message.body, self._ready.groups.shared(message.properties))
            if message.properties.unique:
                self._note_key(message)
            if limit is not None and message.properties.receives >= limit:
                failed.append(message)
            elif due > now:
                self._add(message, due - now, now)
            else:
                self._become_ready(message)
        self._counts.arrived += number
        self._hold(number, size)
        self._ready.paused = image.paused
        self._watch(self._first_end())
        return failed

    def _note_key(self, message: Message) -> None:
        """Let a message that was kept have its key, unless a newer one has it; see `unique.py`."""
        key = message.properties.unique
        if not message.properties.failed_in:
            self._unique = self._unique or {}
            self._unique[key] = max(self._unique.get(key, 0), message.id)

    def succeed(self, owner: Owner, old: Holding | None, journal: Journal | None = None) -> None:
        """Stand in `owner` from now on, in the place of `old`: its counts go on, its ids are not given again.

        O(1). What `old` held counts as cleared; it is its caller's to free, and counts nowhere any more.
        """
        self._owner.messages -= self.messages
        self._owner.bytes -= self.bytes
        self.come_back(owner)
        self._journal = journal
        if old is not None:
            self._next_id = max(self._next_id, old._next_id)
            self._given_before = old._next_id
            self._caps.succeed(old._caps)
            arrived = self._counts.arrived
            # A copy, for this may be undone.
            self._counts = copy(old._counts)
            self._counts.arrived += arrived
            self._counts.cleared += old.messages
            self._waits.take_over(old._waits)
        # More than were given: with a margin for those given before the next of these notes.
        self._ids_kept = self._next_id + IDS_AT_ONCE

    def leave(self) -> None:
        """Count nowhere from now on: another queue has this one's place."""
        self._owner.messages -= self.messages
        self._owner.bytes -= self.bytes

    def come_back(self, owner: Owner) -> None:
        """Count in `owner` what is held."""
        self._owner = owner
        owner.messages += self.messages
        owner.bytes += self.bytes

    def image(self) -> QueueImage:
        """Return what is to be kept of this queue, which goes on; `fill` makes a queue of it.

        One pass over references, some 20 ns each, and no more: longer work is done when the image is read, which
        may be elsewhere.
        """
        plain, others, apart = self._ready.copies()
        return QueueImage(
            name=self.name,
            settings=self._settings,
            paused=self.paused,
            next_id=self._next_id,
            arrived=self._arrivals.entries(),
            in_order=plain,
            others=in_no_order(others, apart, self._delayed.entries(), list(self._leases.values())),
        )

    def peek(self, state: State, limit: int) -> list[MessageView]:
        """Return the first `limit` messages in `state`, the next one first; changes nothing.

        Ready ones are in order of priority and arrival, whether or not their group is blocked. What it costs
        depends on `limit` and not on the depth, except for 30 ns for each group that is blocked or takes turns.
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

    def find_from(self, queue: str, id: int) -> int | None:
        """Return the id here of the message whose producer was told that it is `id` in `queue`; O(log n)."""
        here = None if self._origins is None else self._origins.find(queue, id)
        seen = None if here is None else self.find(here)
        origin = None if seen is None else seen.message.properties.origin
        return here if origin is not None and (origin.queue, origin.id) == (queue, id) else None

    def _note_origins(self, item: Message | Run) -> None:
        for message in item if isinstance(item, Run) else (item,):
            self.note_origin(message)

    def note_origin(self, message: Message) -> None:
        """Have a message that is here found by where it was sent to, if it has changed queues."""
        origin = message.properties.origin
        if origin is None:
            return
        if self._origins is None:
            self._origins = Origins()
        self._origins.note(origin, message.id, self._holds)

    def _holds(self, id: int) -> bool:
        return self.find(id) is not None

    def stats(self) -> QueueStats:
        """Report counts and sizes in O(1): 2 us."""
        return QueueStats(*self.figures())

    def figures(self) -> Figures:
        """Return the values of `stats`, for adding up."""
        ready, delayed, leased = self._ready.count, len(self._delayed), len(self._leases)
        return (self.messages, self.bytes, ready, delayed, leased, *values_of(self._counts))

    def _hold(self, messages: int, size: int) -> None:
        owner = self._owner
        self.messages += messages
        self.bytes += size
        owner.messages += messages
        owner.bytes += size

    def _as_set(self, properties: Properties, now: float) -> Properties:
        """Give a new message the ttl this queue is set to, if its producer gave none, and note when it arrived."""
        ttl = self._settings.ttl
        if ttl is not None and properties.expires == inf:
            properties = msgspec.structs.replace(properties, expires=now + ttl)
        if self._retention is not None:
            self._watch(now + self._retention.seconds)
            properties = self._retention.noted(properties, now)
        return properties

    def _has_outlived(self, properties: Properties, now: float) -> bool:
        """Whether a message is to be dropped: its ttl is over, or it is older than this queue holds messages."""
        retention = self._retention
        return properties.expires <= now or (retention is not None and retention.end_of(properties) <= now)

    def _arrived(self, properties: Properties) -> Properties:
        """Return these properties of a message that another queue held, with when it arrived if that matters."""
        retention = self._retention
        if retention is None:
            return properties
        if not properties.arrived:
            properties = retention.noted(properties, self._owner.clock())
        self._watch(retention.end_of(properties))
        return properties

    def _first_end(self) -> float:
        """Return when the first message of a line will have been held too long."""
        retention = self._retention
        return inf if retention is None else min(map(retention.end_of, self._ready.heads()), default=inf)

    def _add(self, message: Message, delay: float, now: float) -> None:
        """Put a new message where it belongs."""
        expires = message.properties.expires
        if delay > 0:
            # Gone when its ttl is over, even if it was never ready.
            time = min(now + delay, expires)
            if message.properties.group:
                self._ready.hold(message)
            self._delayed.put(message.id, time, message)
            self._watch(time)
            return
        self._ready.append(message)
        if expires < self.alarm:
            self._watch(expires)

    def _become_ready(self, message: Message) -> None:
        """Make a message ready that was not new: at the place its rank gives it."""
        self._ready.put_back(message)
        self.note_origin(message)
        self._watch(message.properties.expires)
        if self._retention is not None:
            self._watch(self._retention.end_of(message.properties))

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

    def _check_journal(self) -> None:
        """Raise `StorageUnavailable` if what the caller is about to do cannot be written."""
        if self._journal is not None:
            self._journal.check()

    def _enter(self, record: Record | None, undo: Callable[..., object], *args: object) -> None:
        if self._journal is not None:
            self._journal.enter(record, undo, *args)

    def _note_ids(self) -> None:
        # Many at once: the highest in use is not worth a write for each message.
        self._ids_kept = self._next_id + IDS_AT_ONCE
        assert self._journal is not None
        self._journal.note(IdsReserved(self.number, self._ids_kept))

    def _undo_pause(self, paused: bool) -> None:
        self._ready.paused = paused
        self._keep_again()

    def _undo_configure(self, settings: QueueSettings, pace: Pace | None, retention: Retention | None) -> None:
        self._pace, self._retention = pace, retention
        self._apply(settings)
        self._watch(self._first_end())
        self._keep_again()

    def _keep_again(self) -> None:
        """Enter what is kept as it is after this step back; one before may have entered it otherwise."""
        if self._journal is not None:
            self._journal.note(self.kept())

    def _take_out(self, message: Message) -> None:
        """Take a message out of wherever it waits."""
        if self._delayed.pop(message.id) is None:
            self._ready.withdraw(message.id, 1, message.priority)
        elif message.properties.group:
            self._ready.let_go(message)

    def _undo_clear(self, held: Held) -> None:
        self._ready, self._delayed, self._leases, self._lapses = held.ready, held.delayed, held.leases, held.lapses
        self.epoch, self._unique = held.epoch, held.unique
        self._keep_again()
        self._counts.cleared -= held.messages
        self._hold(held.messages, held.bytes)
        self._watch(min(self._leases.next(), self._delayed.next(), self._ready.expiring.next()))
        self._watch(self._first_end())

    def _undo_replace(self, messages: int, size: int, retention: Retention | None) -> None:
        self._retention = retention
        self._counts.arrived -= messages
        self._hold(-messages, -size)
