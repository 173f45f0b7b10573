"""The ready messages of one queue, in the order in which consumers get them: by priority, then by id.

Messages that only leave from the front stand in one deque for each priority: simple FIFO traffic touches one of
them, and entering and taking are O(1) at any depth. All others stand apart, where any of them is removed in a
step: messages with a ttl or a key, those that came back to a place among newer ones, and dead letters. There is a
line for each priority, and dead letters have lines of their own for each queue they failed in. Messages with a
group are in `groups.py`. Taking compares the heads.

In a fair queue groups take turns, and all messages without one are one group more. A dead letter keeps its group,
but here it is in none: what has failed is to be looked at, and holds up nothing.

Nothing here knows the time or what a message counts for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from heapq import heapify, heappop, heapreplace, merge
from itertools import chain, islice
from math import inf
from operator import attrgetter

from zapq.core.deadlines import Container, Deadlines, Entry
from zapq.core.groups import Groups
from zapq.core.message import Message, Properties
from zapq.core.runs import Run, Taken, flatten
from zapq.core.unwalked import unwalked
from zapq.limits import MAX_PRIORITY

Dropped = Container | deque[Message | Run]
"""What messages were kept in that are given up, for the caller to free."""
_rank = attrgetter("rank")
_ID = (1 << 56) - 1
"""The bits of a rank that are the message's id."""


Line = tuple[str, int]
"""Which line messages stand in that stand apart: of which queue they are dead letters, if they are, and their
priority. So the first of each line is its oldest."""


class ReadyQueue:
    """Ready messages of one priority, the oldest first: a deque of messages, and of runs of them."""

    __slots__ = ("items",)

    def __init__(self, messages: deque[Message | Run] | None = None) -> None:
        self.items: deque[Message | Run] = unwalked(deque() if messages is None else messages)
        """What is here; appending a message to it is all that adding one takes."""

    def __bool__(self) -> bool:
        return bool(self.items)

    def __iter__(self) -> Iterator[Message]:
        return flatten(self.items)

    def extend(
        self, first: int, bodies: Sequence[bytes], size: int, properties: Properties, packed: bytes = b""
    ) -> None:
        """Add messages with these bodies, that count `size` together, and ids from `first` on.

        `packed` is the array of msgpack they came as, in its shortest form.
        """
        apart = () if packed else unwalked(tuple(bodies))
        self.items.append(Run(first, len(bodies), size, properties, packed, apart))

    def head_rank(self) -> int:
        """Return the rank of the first message; there is one."""
        head = self.items[0]
        return head.rank if isinstance(head, Message) else head.first - (head.properties.priority << 56)

    def last_id(self) -> int:
        """Return the id of the last message, 0 if there is none."""
        return _last_id(self.items[-1]) if self.items else 0

    def pop(self) -> Message:
        """Remove and return the first message; there is one."""
        head = self.items[0]
        if isinstance(head, Message):
            self.items.popleft()
            return head
        message = head.pop()
        if not head.count:
            self.items.popleft()
        return message

    def pop_many(self, limit: int, max_bytes: int) -> tuple[Taken, int]:
        """Remove the first messages, at most `limit` and of `max_bytes` but at least one, and say of how many."""
        taken, items, size = Taken(), self.items, 0
        while items and len(taken) < limit:
            head = items[0]
            if isinstance(head, Message):
                more = head.size if head.properties.headers else len(head.body)
                if size + more > max_bytes and len(taken):
                    break
                items.popleft()
                size += more
                taken.add(head)
            elif head.count <= limit - len(taken) and size + head.size <= max_bytes:
                items.popleft()
                size += head.size
                taken.add(head)
            else:
                part = self._part(head, limit - len(taken), max_bytes - size, alone=not len(taken))
                if part is None:
                    break
                size += part.size
                taken.add(part)
        return taken, size

    def find(self, id: int) -> Message | None:
        """Return the message with this id, if it is here; O(log n) steps."""
        at = bisect_left(self.items, id, key=_last_id)
        if at == len(self.items) or self.items[at].id > id:
            return None
        item = self.items[at]
        return item if isinstance(item, Message) else item.at(id - item.first)

    def take_out(self, id: int) -> None:
        """Remove the message with this id; it is here. A run is parted by that."""
        at = bisect_left(self.items, id, key=_last_id)
        item = self.items[at]
        if isinstance(item, Run):
            before = item.take(id - item.first)
            item.pop()
            if before.count:
                self.items.insert(at, before)
                at += 1
            if item.count:
                return
        del self.items[at]

    def _part(self, head: Run, limit: int, room: int, *, alone: bool) -> Run | None:
        """Take the first of a run of which not all may be taken; None if that is none of them."""
        number, beside = 0, head.properties.size
        for body in islice(head.bodies(), limit):
            room -= len(body) + beside
            if room < 0 and (number or not alone):
                break
            number += 1
        if number == head.count:
            self.items.popleft()
            return head
        return head.take(number) if number else None


class Ready:
    """The ready messages of one queue. `count` says how many; callers that append to `plain` count it up."""

    __slots__ = (
        "_apart",
        "_by_priority",
        "_paced",
        "_paused",
        "_top",
        "_turn",
        "count",
        "expiring",
        "groups",
        "plain",
        "simple",
    )

    def __init__(self, *, paused: bool = False, fair: bool = False) -> None:
        self.count = 0
        self._paused = paused
        self._paced = False
        self.groups = Groups(fair=fair)
        """Those that are in a group."""
        self._turn = 0
        """When messages without a group have their turn, in a fair queue."""
        self._reset()

    def _reset(self) -> None:
        self._by_priority = [unwalked(ReadyQueue()) for _ in range(MAX_PRIORITY + 1)]
        self.plain = self._by_priority[0].items
        """Messages of priority 0 that only leave from the front."""
        self._top = 0
        """No priority above this one has a message in its deque."""
        self._apart: dict[Line, Deadlines[Message]] = {}
        """The others by rank."""
        self.expiring: Deadlines[Message] = Deadlines(plain=True)
        """Those with a ttl, by when it is over."""
        self.simple = not (self._paused or self._paced)
        """Whether `plain` is all there is to look at; if not, `pop` finds out when that is so again."""

    @property
    def paused(self) -> bool:
        """Whether nothing is given to consumers."""
        return self._paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._paused = paused
        self.simple = False

    @property
    def paced(self) -> bool:
        """Whether there are limits to be asked before anything is given: then nothing is simple."""
        return self._paced

    @paced.setter
    def paced(self, paced: bool) -> None:
        self._paced = paced
        self.simple = False

    @property
    def available(self) -> bool:
        """Whether a consumer would get a message, unless it is paused: some have no group, or one that is open."""
        return self.count > len(self.groups.messages) or bool(self.groups.open)

    def append(self, message: Message) -> None:
        """Enter a message that is new, at the place its rank gives it."""
        properties = message.properties
        if properties.group and not properties.failed_in:
            self.count += 1
            self.simple = False
            self.groups.enter(message)
            if properties.expires < inf:
                self.expiring.put(message.id, properties.expires, message)
            return
        ready_queue = self._by_priority[properties.priority]
        # It may have been overtaken by one whose producer asked for less than to have it written.
        apart = properties.expires < inf or properties.failed_in or properties.unique
        if apart or ready_queue.last_id() > message.id:
            self.put_back(message)
            return
        self.count += 1
        ready_queue.items.append(message)
        if properties.priority:
            self.simple = False
            self._top = max(self._top, properties.priority)

    def put_back(self, message: Message) -> None:
        """Enter a message at the place its rank gives it, from where `remove` takes it."""
        self.count += 1
        self.simple = False
        properties = message.properties
        if properties.group and not properties.failed_in:
            self.groups.come_back(message)
        else:
            name = (properties.failed_in, properties.priority)
            line = self._apart.get(name)
            if line is None:
                line = self._apart[name] = Deadlines(plain=True)
            line.put(message.id, message.rank, message)
        if properties.expires < inf:
            self.expiring.put(message.id, properties.expires, message)

    def hold(self, message: Message) -> None:
        """Let a message with a group, which is leased or delayed, hold up those behind it."""
        if not message.properties.failed_in:
            self.groups.hold(message)

    def let_go(self, message: Message) -> None:
        """Let a message with a group, which is leased or delayed no more, hold up those behind it no longer."""
        self.simple = False
        self.groups.let_go(message)

    def extend(
        self, first: int, bodies: Sequence[bytes], properties: Properties, size: int, packed: bytes = b""
    ) -> None:
        """Enter messages that have everything but their bodies in common, as `ReadyQueue.extend` does."""
        ready_queue = self._by_priority[properties.priority]
        special = properties.expires < inf or properties.failed_in or properties.group or properties.unique
        if special or ready_queue.last_id() > first:
            for id, body in enumerate(bodies, first):
                self.append(Message(id, body, properties))
            return
        ready_queue.extend(first, bodies, size, properties, packed)
        self.count += len(bodies)
        if properties.priority:
            self.simple = False
            self._top = max(self._top, properties.priority)

    def pop_plain(self) -> Message | None:
        """Remove and return the first message, or None; only while `simple` is true."""
        items = self.plain
        if not items:
            return None
        self.count -= 1
        message = items[0]
        if message.__class__ is Message:
            return items.popleft()  # type: ignore[return-value]  # as we have just seen
        return self._by_priority[0].pop()

    def pop(self, *, hold: bool = False) -> Message | None:
        """Remove and return the first message that can be given, or None.

        `hold` lets it hold up those of its group, as the method called so does.
        """
        if self.simple:
            return self.pop_plain()
        groups = self.groups
        if groups.open and self.count == len(groups.messages) and not self._paused:
            # As `_taken_from_group` does, but this is done for each message.
            self.count -= 1
            message = groups.pop_held() if hold else groups.pop()
            if message.properties.expires < inf:
                self.expiring.pop(message.id)
            return message
        self._look()
        if self._paused or not self.available:
            return None
        if groups.open and groups.fair and groups.first() <= self._turn:
            return self._taken_from_group(hold=hold)
        ready_queue = self._first_queue()
        rank = ready_queue.head_rank() if ready_queue.items else inf
        line = min(self._apart.values(), key=Deadlines.next) if self._apart else None
        if groups.open:
            if groups.fair:
                self._turn = groups.take_turn()
            elif groups.first() < (rank if line is None else min(rank, line.next())):
                return self._taken_from_group(hold=hold)
        self.count -= 1
        if line is None or rank < line.next():
            return ready_queue.pop()
        return self._taken(line)

    def pop_many(self, limit: int, max_bytes: int) -> tuple[Taken, int] | None:
        """Remove the first messages, at most `limit` and of `max_bytes`, and say of how many bytes.

        None if they are to be taken one by one, with `pop_each`.
        """
        if not self.simple:
            self._look()
            if not self.simple:
                return None
        taken, size = self._by_priority[0].pop_many(limit, max_bytes)
        self.count -= len(taken)
        return taken, size

    def pop_each(self, *, hold: bool = False) -> Iterator[Message]:
        """Remove and yield the first message as `pop` does, time and again; the caller enters none in between."""
        self._look()
        if self._paused:
            return
        groups = self.groups
        heads = [(line.next(), name) for name, line in self._apart.items()]
        heapify(heads)
        while self.available:
            alone = self.count == len(groups.messages)
            if alone or (groups.open and groups.fair and groups.first() <= self._turn):
                yield self._taken_from_group(hold=hold)
                continue
            ready_queue = self._first_queue()
            if groups.open:
                rank = ready_queue.head_rank() if ready_queue.items else inf
                if groups.fair:
                    self._turn = groups.take_turn()
                elif groups.first() < (min(rank, heads[0][0]) if heads else rank):
                    yield self._taken_from_group(hold=hold)
                    continue
            self.count -= 1
            if not heads or (ready_queue.items and ready_queue.head_rank() < heads[0][0]):
                yield ready_queue.pop()
                continue
            name = heads[0][1]
            line = self._apart[name]
            message = self._taken(line)
            if line:
                heapreplace(heads, (line.next(), name))
            else:
                heappop(heads)
            yield message

    def remove(self, message: Message) -> None:
        """Take a message that stands apart out of its line, or one out of its group."""
        if self._pop_apart(message) is not None:
            self.expiring.pop(message.id)
            self.count -= 1

    def take_out(self, id: int) -> Message | None:
        """Remove and return the message with this id, wherever it stands, or None.

        What stands in a deque is not meant to leave from its middle: what that costs grows with the depth, by some
        0.2 ms for 100,000 messages.
        """
        message = self.find(id)
        if message is None:
            return None
        properties = message.properties
        line = self._apart.get((properties.failed_in, properties.priority))
        in_group = properties.group and not properties.failed_in
        if in_group or (line is not None and id in line):
            self.remove(message)
        else:
            self._by_priority[properties.priority].take_out(id)
            self.count -= 1
        return message

    def find_removable(self, id: int) -> Message | None:
        """Return the message with this id, if it is where `remove` takes messages from; O(1)."""
        message = self.groups.messages.get(id)
        if message is not None:
            return message
        for priority in range(MAX_PRIORITY + 1):
            line = self._apart.get(("", priority))
            entry = None if line is None else line.entry(id)
            if entry is not None:
                return entry[1]
        return None

    def exchange(self, message: Message) -> None:
        """Put a message in the place of one that `find_removable` finds: of the same id, priority and group."""
        properties = message.properties
        if properties.group:
            self.groups.messages[message.id] = message
        else:
            self._apart["", properties.priority].exchange(message.id, message)
        if properties.expires < inf:
            self.expiring.put(message.id, properties.expires, message)
        else:
            self.expiring.pop(message.id)

    def withdraw(self, first: int, number: int, priority: int) -> None:
        """Take out messages that came together, wherever they stand; `first` is the id of the first.

        To undo that they came. What it costs depends on how many have come since.
        """
        left = number
        for id in range(first, first + number) if self.groups.messages else ():
            if self.groups.remove(id) is not None:
                self.expiring.pop(id)
                left -= 1
        for line in self._apart.values():
            for id in range(first, first + number) if line else ():
                if line.pop(id) is not None:
                    self.expiring.pop(id)
                    left -= 1
        items = self._by_priority[priority].items
        since: list[Message | Run] = []
        while left and items and _last_id(items[-1]) >= first:
            item = items.pop()
            if item.id < first + number:
                left -= len(item) if isinstance(item, Run) else 1
            else:
                since.append(item)
        items.extend(reversed(since))
        self.count -= number - left

    def outlived(self, now: float, limit: int) -> list[Message]:
        """Remove and return messages whose ttl is over by `now`, at most `limit`."""
        over = self.expiring.due(now, limit)
        for message in over:
            self._pop_apart(message)
        self.count -= len(over)
        return over

    def heads(self) -> Iterator[Properties]:
        """Yield what is known of the first message of each line, and of the groups that are open."""
        for ready_queue in self._by_priority:
            if ready_queue.items:
                yield ready_queue.items[0].properties
        for line in self._apart.values():
            for message in islice(line, 1):
                yield message.properties
        if self.groups.open:
            yield self.groups.head().properties

    def oldest(self) -> int:
        """Return the id of the oldest message that can be given, 0 if there is none.

        Those that wait for others of their group are none. Of a fair queue with very many groups, one may be found
        that is not the oldest.
        """
        if not self.simple:
            self._look()
        if self.simple:
            return self.plain[0].id if self.plain else 0
        ids = [ready_queue.items[0].id for ready_queue in self._by_priority if ready_queue.items]
        ids += [int(line.next()) & _ID for line in self._apart.values() if line]
        if self.groups.open:
            ids.append(self.groups.oldest())
        return min(ids, default=0)

    def pop_old(self, end_of: Callable[[Properties], float], now: float, limit: int) -> list[Message]:
        """Remove and return those at the heads of their lines whose end has come, at most `limit` of each."""
        old: list[Message] = []
        for ready_queue in self._by_priority:
            for _ in range(limit):
                if not ready_queue.items or end_of(ready_queue.items[0].properties) > now:
                    break
                old.append(ready_queue.pop())
        for line in self._apart.values():
            for _ in range(limit):
                if not line or end_of(next(iter(line)).properties) > now:
                    break
                old.append(self._taken(line))
        self.count -= len(old)
        for _ in range(limit):
            if not self.groups.open or end_of(self.groups.head().properties) > now:
                break
            old.append(self._taken_from_group(hold=False))
        return old

    def letters(self) -> dict[str, Iterator[Message]]:
        """Return the dead letters, the first first, by the name of the queue they failed in."""
        lines: dict[str, list[Deadlines[Message]]] = {}
        for (failed_in, _), line in self._apart.items():
            if failed_in and line:
                lines.setdefault(failed_in, []).append(line)
        return {name: iter(merge(*each, key=_rank)) for name, each in lines.items()}

    def find(self, id: int) -> Message | None:
        """Return the message with this id, or None; O(log n)."""
        if id in self.groups.messages:
            return self.groups.messages[id]
        for line in self._apart.values():
            entry = line.entry(id)
            if entry is not None:
                return entry[1]
        for ready_queue in self._by_priority:
            message = ready_queue.find(id)
            if message is not None:
                return message
        return None

    @property
    def all_plain(self) -> bool:
        """Whether every message is in `plain`."""
        return not (self._top or self.groups.messages or any(self._apart.values()))

    def __iter__(self) -> Iterator[Message]:
        """Yield every message in order; what it costs depends on how far it is walked through alone."""
        plain = chain.from_iterable(reversed(self._by_priority))
        return merge(plain, *self._apart.values(), *([self.groups] if self.groups.messages else []), key=_rank)

    def fill(self, items: deque[Message | Run]) -> None:
        """Hold `items`, in the order of their ids: plain, or with a group, a key or a failure; nothing is here."""
        special = [item for item in items if _is_special(item.properties)]
        if special:
            items = deque(item for item in items if not _is_special(item.properties))
        self._by_priority[0] = unwalked(ReadyQueue(items))
        self.plain = items
        self.count = sum(len(item) if isinstance(item, Run) else 1 for item in items)
        for message in flatten(special):
            self.append(message)

    def clear(self) -> list[Dropped]:
        """Hold nothing, and return what messages were kept in, for the caller to free; O(1)."""
        dropped: list[Dropped] = [each.items for each in self._by_priority if each]
        for line in self._apart.values():
            dropped += line.clear()
        dropped += self.expiring.clear()
        dropped += self.groups.clear()
        self.count = 0
        self._reset()
        return dropped

    def copies(self) -> tuple[deque[Message | Run], list[deque[Message | Run]], list[Entry[Message]]]:
        """Return copies of `plain`, of the other deques, and of what stands apart, in no order.

        Of references, and of the runs, which can be taken from.
        """
        plain, *others = (_copied(ready_queue.items) for ready_queue in self._by_priority)
        apart = list(chain.from_iterable(line.entries() for line in self._apart.values()))
        others.append(deque(self.groups.messages.values()))
        return plain, [items for items in others if items], apart

    def _pop_apart(self, message: Message) -> Message | None:
        properties = message.properties
        if properties.group and not properties.failed_in:
            return self.groups.remove(message.id)
        return self._apart[properties.failed_in, properties.priority].pop(message.id)

    def _taken_from_group(self, *, hold: bool) -> Message:
        self.count -= 1
        message = self.groups.pop_held() if hold else self.groups.pop()
        if message.properties.expires < inf:
            self.expiring.pop(message.id)
        return message

    def _taken(self, line: Deadlines[Message]) -> Message:
        message = line.pop_first()
        assert message is not None
        if message.properties.expires < inf:
            self.expiring.pop(message.id)
        return message

    def _first_queue(self) -> ReadyQueue:
        """Return the deque of the highest priority that has messages in one; an empty one if there are none."""
        ready_queue = self._by_priority[self._top]
        while not ready_queue.items and self._top:
            self._top -= 1
            ready_queue = self._by_priority[self._top]
        return ready_queue

    def _look(self) -> None:
        if self._apart:
            for name in [name for name, line in self._apart.items() if not line]:
                del self._apart[name]
        self.simple = not (self._top or self._apart or self._paused or self._paced or self.groups.open)


def _is_special(properties: Properties) -> bool:
    return bool(properties.failed_in or properties.group or properties.unique)


def _last_id(item: Message | Run) -> int:
    return item.id if isinstance(item, Message) else item.first + item.count - 1


def _copied(items: deque[Message | Run]) -> deque[Message | Run]:
    if Run not in map(type, items):
        return items.copy()
    return deque(copy(item) if isinstance(item, Run) else item for item in items)
