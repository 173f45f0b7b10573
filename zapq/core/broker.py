"""Every queue by its name: what they hold together, which is due first, and where messages change queues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from itertools import count
from math import inf

from zapq.core.ages import Oldest, Spread, Times, oldest_of, spread_of
from zapq.core.deadlines import Deadlines
from zapq.core.held import Held
from zapq.core.image import KeptQueue, KeyImage
from zapq.core.journal import Journal
from zapq.core.leases import End
from zapq.core.message import Message
from zapq.core.names import check_name
from zapq.core.queue import Queue
from zapq.core.queue_settings import QueueSettings, changed, check_settings, in_a_circle
from zapq.core.records import ID_BITS, KeyPut, KeysCleared, QueueDeleted, Record
from zapq.core.replacement import Replacement
from zapq.core.stats import QueueStats, total
from zapq.errors import (
    QueueFull,
    QueueInUse,
    QueueNotFound,
    TooManyQueues,
    no_queue_to_go_to,
)
from zapq.limits import ACKS_REMEMBERED, DEFAULT_QUEUE, REDRIVE_LOOKS, TICK_LIMIT

_EPOCHS = 2 ** (63 - ID_BITS)


@dataclass(frozen=True, slots=True)
class Redriven:
    """What a redrive did."""

    moved: int
    left: int
    """Ready messages still in the dead-letter queue."""


class Broker:
    """Holds the queues, within caps that count what all of them hold. It is the `Owner` of its queues.

    `tag` tells this run from others in receipts. `on_earlier` is called with a time when something has become due
    earlier than `alarm` said. A lease ends `lease_slack` seconds after the deadline its consumer is told.

    With a `journal`, the queues are on the disk: `kept` are those that are there already, and `epoch` is the last
    one used. Making them cannot be refused, for they and what they hold were accepted once. `clock` says the time
    that `now` is from.
    """

    def __init__(
        self,
        *,
        max_messages: int,
        max_bytes: int,
        max_queues: int,
        tag: str = "0",
        on_earlier: Callable[[float], None] = lambda time: None,
        lease_slack: float = 0.0,
        now: float = 0.0,
        journal: Journal | None = None,
        kept: Sequence[KeptQueue] = (),
        epoch: int = 0,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.messages = self.bytes = 0
        self.reserved = 0
        """How many of `bytes` are not held yet, but set aside for messages that are being received."""
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.max_queues = max_queues
        self.lease_slack = lease_slack
        self.lease_times = Times()
        self.queues: dict[str, Queue] = {}
        self.clock = clock
        self._journal = journal
        self._epoch = epoch
        self._tag = tag
        self._on_earlier = on_earlier
        self._numbers = count(max((each.number for each in kept), default=0) + 1)
        self._serials = count(1)
        self._last_serial = 0
        self._ends = bytearray(ACKS_REMEMBERED)
        self._alarms: Deadlines[Queue] = Deadlines()
        self.alarm = inf
        """When `tick` is to be called next."""
        self.past = QueueStats()
        """What queues that are no more have done, ..."""
        self.past_waits = Spread()
        """... and how long messages had waited that they gave."""
        self._fill(kept, now)
        self.default = self.open(DEFAULT_QUEUE, now)

    def _fill(self, kept: Sequence[KeptQueue], now: float) -> None:
        """Make the queues that were kept, with all they held."""
        failed: list[tuple[Queue, Message]] = []
        for number, epoch, image in kept:
            queue = self.queues[image.name] = self._new(image.name, number, epoch, now)
            failed += ((queue, message) for message in queue.fill(image, now))
        for queue, message in failed:
            queue.give_up(message)

    def open(self, name: str, now: float) -> Queue:
        """Return the queue called `name`, made now if there was none.

        Raises `InvalidParameter` for a name no queue can have, and `TooManyQueues`.
        """
        queue = self.queues.get(name)
        if queue is None:
            check_name(name)
            if len(self.queues) >= self.max_queues:
                raise TooManyQueues(limit="max_queues", current=len(self.queues), max_queues=self.max_queues)
            self._check_journal()
            queue = self.queues[name] = self._new(name, next(self._numbers), self.next_epoch(), now)
            if self._journal is not None:
                self._journal.note(queue.kept())
        return queue

    def _check_journal(self) -> None:
        """Raise `StorageUnavailable` if what the caller is about to do cannot be written."""
        if self._journal is not None:
            self._journal.check()

    def _new(self, name: str, number: int, epoch: int, now: float) -> Queue:
        return Queue(
            name,
            owner=self,
            number=number,
            tag=f"{self._tag}-{number:x}",
            now=now,
            journal=self._journal,
            epoch=epoch,
        )

    def next_epoch(self) -> int:
        """Return an epoch no queue has had, or at least not lately; 0 in memory."""
        if self._journal is None:
            return 0
        used = {queue.epoch for queue in self.queues.values()}
        while True:
            self._epoch = self._epoch % (_EPOCHS - 1) + 1
            if self._epoch not in used:
                return self._epoch

    def find(self, name: str) -> Queue:
        """Return the queue called `name`; raises `QueueNotFound`, or `InvalidParameter` for an impossible name."""
        queue = self.queues.get(name)
        if queue is None:
            raise QueueNotFound(queue=check_name(name))
        return queue

    def whereabouts(self, name: str, id: int) -> tuple[str, int] | None:
        """Return where a message is that was `id` in the queue called `name`, and left it; None if it is gone.

        That is a queue, and the id it has there: one its dead letters go to, or the same, if it was sent back.
        """
        after: str | None = name
        while after is not None and after in self.queues:
            queue = self.queues[after]
            here = queue.find_from(name, id)
            if here is not None:
                return after, here
            after = queue.settings.dead_letter
        return None

    def configure(self, name: str, settings: QueueSettings, now: float) -> bool:
        """Let `settings` hold for the queue called `name`, and return whether it was made for that.

        Raises `InvalidParameter` for settings that contradict each other, and `TooManyQueues`; then nothing has
        changed.
        """
        self._check_journal()
        wanted = self._check_settings(name, settings)
        for each in wanted:
            self.open(each, now)
        self.queues[name].configure(settings, now)
        return name in wanted

    def changed_settings(self, name: str, changes: Mapping[str, object]) -> QueueSettings:
        """Return what the settings of the queue called `name` become by `changes`; changes nothing itself.

        Raises `QueueNotFound`, and `InvalidParameter` for changes that are none of settings.
        """
        return changed(self.find(name).settings, changes)

    def _check_settings(self, name: str, settings: QueueSettings) -> list[str]:
        """Return the names of queues that are to be made if `settings` are to hold; raises if they cannot."""
        check_name(name)
        check_settings(settings)
        dead_letter = settings.dead_letter
        seen, after = {name}, dead_letter
        while after is not None:
            if after in seen:
                raise in_a_circle()
            seen.add(after)
            after = self.queues[after].settings.dead_letter if after in self.queues else None
        wanted = [each for each in (name, dead_letter) if each is not None and each not in self.queues]
        if len(self.queues) + len(wanted) > self.max_queues:
            raise TooManyQueues(limit="max_queues", current=len(self.queues), max_queues=self.max_queues)
        return wanted

    def delete(self, name: str) -> Held:
        """Remove the queue called `name`; what it held is gone, and returned for the caller to free.

        Raises `QueueNotFound`, and `QueueInUse` for the default queue and for one that dead letters go to.
        """
        self._check_journal()
        queue = self._check_deletable(name)
        held = queue.clear()
        del self.queues[name]
        self._alarms.pop(queue.number)
        past, waits = self.past, self.past_waits
        self._note_past(queue.stats(), queue.waits())
        if self._journal is not None:
            self._journal.enter(QueueDeleted(queue.number), self._undo_delete, queue, past, waits)
        return held

    def _note_past(self, stats: QueueStats, waits: Spread) -> None:
        self.past = total([self.past, stats])
        self.past_waits = spread_of([self.past_waits, waits])

    def _undo_delete(self, queue: Queue, past: QueueStats, waits: Spread) -> None:
        newer = self.queues.get(queue.name)
        self.queues[queue.name] = queue
        self.past, self.past_waits = past, waits
        if newer is not None and self._journal is not None:
            # One of that name was made meanwhile. Its record takes this one's place on the disk, until the next
            # step back, that from `clear`, enters this one again.
            self._alarms.pop(newer.number)
            self._journal.note(QueueDeleted(newer.number))

    def drop_unused(self, name: str) -> None:
        """Remove a queue that was made for a request and was not used; nothing is in it."""
        queue = self.queues.pop(name)
        self._alarms.pop(queue.number)
        self._note_past(queue.stats(), queue.waits())
        if self._journal is not None:
            self._journal.note(QueueDeleted(queue.number))

    def _check_deletable(self, name: str) -> Queue:
        queue = self.find(name)
        if queue is self.default:
            raise QueueInUse(f"The queue {name} cannot be deleted. Purge it instead.", queue=name)
        if feeders := [each.name for each in self.queues.values() if each.settings.dead_letter == name]:
            other = min(feeders)
            raise QueueInUse(
                f"{name} is the dead-letter queue of {other}. Change the settings of {other} first.",
                queue=name,
            )
        return queue

    def prepare(self, names: Iterable[str]) -> Replacement:
        """Return what queues of these names, and the default one, can be made in, to replace all there are.

        A queue that takes the place of another will be known by its number.
        """
        if self._journal is not None:
            self._journal.check_room()
        numbers = {name: queue.number for name, queue in self.queues.items()}
        wanted = {DEFAULT_QUEUE, *names}
        return Replacement(
            {name: numbers.get(name) or next(self._numbers) for name in wanted},
            {name: self.next_epoch() for name in wanted},
            self._tag,
            self.lease_slack,
        )

    def replace(self, made: Replacement, keys: Iterable[KeyImage] = ()) -> list[Queue]:
        """Let the queues that were made be all there are, and return the former ones for the caller to free.

        One step, however much they hold: O(1) for each queue. The default queue is among those made; on the disk
        the rows of all are written already. `keys` are those that are known from now on.
        """
        self._check_journal()
        former, past, waits = self.queues, self.past, self.past_waits
        for each in former.values():
            if each.name not in made.queues:
                self._note_past(each.stats().emptied(), each.waits())
        for name, queue in made.queues.items():
            queue.succeed(self, former.get(name), self._journal)
        for queue in former.values():
            self._alarms.pop(queue.number)
            queue.leave()
        self._install(made.queues)
        if self._journal is not None:
            self._journal.enter(None, self._undo_replace, former, past, waits)
            self._enter_replaced(former, made.queues, keys, self._journal)
        return list(former.values())

    def _install(self, queues: dict[str, Queue]) -> None:
        self.queues, self.default = queues, queues[DEFAULT_QUEUE]
        for queue in queues.values():
            if queue.alarm < inf:
                self.watch(queue, queue.alarm)

    def _undo_replace(self, former: dict[str, Queue], past: QueueStats, waits: Spread) -> None:
        for queue in self.queues.values():
            self._alarms.pop(queue.number)
            queue.leave()
        for queue in former.values():
            queue.come_back(self)
        self.past, self.past_waits = past, waits
        self._install(former)

    def _enter_replaced(
        self, former: Mapping[str, Queue], made: Mapping[str, Queue], keys: Iterable[KeyImage], journal: Journal
    ) -> None:
        records: list[Record] = [QueueDeleted(queue.number) for name, queue in former.items() if name not in made]
        records += (queue.kept() for queue in made.values())
        records += (queue.kept_arrivals() for queue in made.values() if queue.messages)
        records.append(KeysCleared())
        records += (KeyPut(made[key.queue].number, key.key, key.fingerprint, key.id, key.until) for key in keys)
        for record in records:
            journal.enter(record, _nothing)

    def reserve(self, size: int) -> bool:
        """Set `size` bytes aside for a message that is being received, and return whether there was room."""
        if self.bytes + size > self.max_bytes:
            return False
        self.bytes += size
        self.reserved += size
        return True

    def release(self, size: int) -> None:
        """Set so many bytes aside no longer."""
        self.bytes -= size
        self.reserved -= size

    def redrive(self, name: str, limit: int, now: float) -> Redriven:
        """Move dead letters that are ready in the queue called `name` to the end of where they failed.

        At most `limit` of them, the first first, and only as many as there is room for: the others stay at their
        place, and so do those behind one that stays in its group. They begin anew there: received never, without a
        ttl, with their headers and in their groups. How many stay does not matter to the cost.
        """
        self._check_journal()
        source = self.find(name)
        letters = self._letters_with_room(source, limit, now)
        for letter, target in letters:
            source.move(letter, target, letter.moved(name))
        source.note_redriven(len(letters))
        return Redriven(len(letters), source.stats().ready)

    def redrive_one(self, name: str, id: int, now: float) -> Redriven:
        """Move the dead letter with this id to the end of where it failed, also before others of its group.

        Raises what `Queue.letter` does, `QueueNotFound` if the queue it failed in is no more, and `QueueFull` if
        there is no room; then it stays.
        """
        self._check_journal()
        source = self.find(name)
        letter = source.letter(id, now)
        failed_in = letter.properties.failed_in
        target = self.queues.get(failed_in)
        if target is None or target is source:
            raise no_queue_to_go_to(failed_in)
        if not target.has_room_for(letter.size):
            raise QueueFull(queue=failed_in)
        source.move(letter, target, letter.moved(name))
        source.note_redriven(1)
        return Redriven(1, source.stats().ready)

    def _letters_with_room(self, source: Queue, limit: int, now: float) -> list[tuple[Message, Queue]]:
        """Return dead letters that can go back, at most `limit`, each with the queue it failed in."""
        # It is for consumers that a queue is paused.
        heads: list[tuple[int, Message, Queue, Iterator[Message]]] = []
        for name, letters in source.letters(now).items():
            target = self.queues.get(name)
            if target is not None and target is not source and target.has_room_for(1):
                letter = next(letters)
                heads.append((letter.rank, letter, target, letters))
        heapify(heads)
        taken: list[tuple[Message, Queue]] = []
        coming: Counter[tuple[str, str]] = Counter()
        passed_over: set[tuple[str, str]] = set()
        """Groups of which one letter stays: those behind it must not overtake it."""
        for _ in range(REDRIVE_LOOKS):
            if not heads or len(taken) == limit:
                break
            _, letter, target, letters = heads[0]
            number, size = coming[target.name, "messages"], coming[target.name, "bytes"]
            group = letter.properties.group
            if group and (target.name, group) in passed_over:
                pass
            elif target.has_room_for(size + letter.size, number + 1):
                taken.append((letter, target))
                coming[target.name, "messages"] += 1
                coming[target.name, "bytes"] += letter.size
            elif not target.has_room_for(size + 1, number + 1):
                heappop(heads)
                continue
            elif group:
                passed_over.add((target.name, group))
            after = next(letters, None)
            if after is None:
                heappop(heads)
            else:
                heapreplace(heads, (after.rank, after, target, letters))
        return taken

    def tick(self, now: float) -> float:
        """Do a bounded part of what is due by `now`, and return when to come back: at once, if there is more."""
        for queue in self._alarms.due(now, 1):
            queue.tick(now, TICK_LIMIT)
            if queue.alarm < inf:
                self._alarms.put(queue.number, queue.alarm, queue)
        self.alarm = self._alarms.next()
        return self.alarm

    def totals(self) -> QueueStats:
        """Return what all queues hold and have done, those that are no more included."""
        return total([self.past, *(queue.figures() for queue in self.queues.values())])

    def oldest(self) -> Oldest:
        """Say since when the oldest message and the oldest lease of all queues are there."""
        return oldest_of(queue.oldest() for queue in self.queues.values())

    def serial(self) -> int:
        """Number a delivery."""
        self._last_serial = serial = next(self._serials)
        self._ends[serial % ACKS_REMEMBERED] = 0
        return serial

    def note_end(self, serial: int, end: End) -> None:
        """Remember how this delivery ended, unless very many have followed it."""
        if serial > self._last_serial - ACKS_REMEMBERED:
            self._ends[serial % ACKS_REMEMBERED] = end

    def end_of(self, serial: int) -> End:
        """Return how this delivery ended, as far as is remembered."""
        recent = self._last_serial - ACKS_REMEMBERED < serial <= self._last_serial
        return End(self._ends[serial % ACKS_REMEMBERED]) if recent else End.UNKNOWN

    def watch(self, queue: Queue, time: float) -> None:
        """Note that `queue` has something to do at `time`, earlier than known before."""
        self._alarms.put(queue.number, time, queue)
        if time < self.alarm:
            self.alarm = time
            self._on_earlier(time)


def _nothing() -> None:
    """What undoes records whose change another step undoes."""
