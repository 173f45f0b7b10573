"""The messages of one queue that belong to a group: within it, each waits until all earlier ones are done with.

           head < out, or nothing is out             head > out
    ready ---------> OPEN: `pop` gives its head    BLOCKED: gives nothing
                       |                              ^
                       +-- its head is leased --------+
                       ^                              |
                       +-- `let_go` of what was out --+

`head` is a group's first ready message, and `out` its first one that is leased, or rests until a delay is over. A
group without either is forgotten. The ids of its other ready messages are in a list whose first places are spent,
and, if they did not come in order, in a binary heap; those of the others that are out are in a heap. What is gone
from these stays there until it comes up, or is the majority. So each step costs O(log n) at most, and within a
group O(1) while messages come and go in order; a group of one message is one object of 96 bytes and three entries
in dictionaries.

Among the open groups, the one whose head came first is served first; in a fair queue they take turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush, merge
from itertools import chain, islice
from typing import Any

import msgspec

from zapq.core.deadlines import smallest
from zapq.core.message import Message, Properties
from zapq.limits import GROUPS_LOOKED_AT

_STALE_ALLOWED = 64
"""Entries of things gone that are never worth a rebuild."""
_SPENT_ALLOWED = 32
"""Places of a list that were taken and are never worth moving the others forward."""


class Group(msgspec.Struct, gc=False):
    """One group that has messages. `gc=False`: it can be part of no cycle, and there may be very many."""

    properties: Properties
    """Those of one of its messages; the others share them if theirs are the same."""
    head: int = 0
    """The id of its first ready message, 0 if there is none."""
    out: int = 0
    """The id of the first that is leased or delayed, 0 if there is none."""
    place: int = 0
    """Where it stands among the open groups, while it is one of them."""
    ready: list[int] | None = None
    """The ids of the other ready messages that came in order, from `at` on, and of some that are gone."""
    at: int = 0
    late: list[int] | None = None
    """A heap of the ids of those that did not come in order, and of some that are gone."""
    gone: int = 0
    """How many of both are gone, about."""
    also_out: list[int] | None = None
    """A heap of the ids of the others that are leased or delayed, and of some that are not any more."""
    out_gone: int = 0


class Groups:
    """Ready messages by group, and which groups are held up by messages that are leased or delayed."""

    __slots__ = (
        "_also_out",
        "_at",
        "_blocked",
        "_fair",
        "_groups",
        "_late",
        "_places",
        "_turn",
        "messages",
        "open",
    )

    def __init__(self, *, fair: bool = False) -> None:
        self.messages: dict[int, Message] = {}
        """Those that are ready, by id. To be read only."""
        self.open: dict[int, Group] = {}
        """The groups that can give a message, by their places. To be read only."""
        self._places: list[int] = []
        """The places of open groups that came in order, from `_at` on, and some at which none stands any more."""
        self._at = 0
        self._late: list[int] = []
        """A heap of the places that did not come in order, and of some at which none stands any more."""
        self._blocked: dict[int, Group] = {}
        """The groups that have ready messages and can give none, by their heads."""
        self._groups: dict[str, Group] = {}
        self._also_out: set[int] = set()
        """What is in one of the heaps called so, and is out."""
        self._fair = fair
        self._turn = 0

    def __bool__(self) -> bool:
        """Whether some message is in a group, ready or not."""
        return bool(self._groups)

    @property
    def blocked(self) -> bool:
        """Whether there are ready messages that wait for earlier ones."""
        return bool(self._blocked)

    @property
    def fair(self) -> bool:
        """Whether groups take turns."""
        return self._fair

    @fair.setter
    def fair(self, fair: bool) -> None:
        if fair == self._fair:
            return
        self._fair = fair
        groups = sorted(self.open.values(), key=_head)
        self.open, self._places, self._at, self._late = {}, [], 0, []
        for group in groups:
            self._open(group)

    def take_turn(self) -> int:
        """Return a place behind all open groups of a fair queue."""
        self._turn += 1
        return self._turn

    def shared(self, properties: Properties) -> Properties:
        """Return these properties: if others of the group have the same, as the same object."""
        group = self._groups.get(properties.group)
        return group.properties if group is not None and group.properties == properties else properties

    def add(self, id: int, body: bytes, properties: Properties) -> Message:
        """Make, enter and return a message that is ready, and the last of all; O(1) unless its group is new.

        As `shared` and `enter` do, but this is done for each message.
        """
        group = self._groups.get(properties.group)
        if group is None:
            self.messages[id] = message = Message(id, body, properties)
            place = self.take_turn() if self._fair else id
            self._groups[properties.group] = self.open[place] = Group(properties, id, 0, place)
            places = self._places
            if not places or places[-1] < place:
                places.append(place)
            else:
                heappush(self._late, place)
            return message
        if group.properties is not properties and group.properties == properties:
            properties = group.properties
        self.messages[id] = message = Message(id, body, properties)
        if not group.head:
            self._stand(group, id, group.out)
        elif group.ready is None:
            group.ready = [id]
        else:
            group.ready.append(id)
        return message

    def enter(self, message: Message) -> None:
        """Enter a message that is ready and was not out; O(1) if it is the last of its group."""
        id, properties = message.id, message.properties
        self.messages[id] = message
        group = self._groups.get(properties.group)
        if group is None:
            group = self._groups[properties.group] = Group(properties, id)
            self._open(group)
        else:
            self._enter(message, group)

    def _enter(self, message: Message, group: Group) -> None:
        id, head = message.id, group.head
        if not head:
            self._stand(group, id, group.out)
            return
        later = max(id, head)
        if group.ready is None:
            group.ready = [later]
        elif not group.ready or group.ready[-1] < later:
            group.ready.append(later)
        elif group.late is None:
            group.late = [later]
        else:
            heappush(group.late, later)
        if id < head:
            self._stand(group, id, group.out)

    def come_back(self, message: Message) -> None:
        """Enter a message that is ready and may have been out."""
        self.let_go(message)
        self.enter(message)

    def hold(self, message: Message) -> None:
        """Let a message that is not ready hold up the later ones of its group; it may do so already."""
        id, properties = message.id, message.properties
        group = self._groups.get(properties.group)
        if group is None:
            self._groups[properties.group] = Group(properties, 0, id)
        elif not group.out:
            self._stand(group, group.head, id)
        elif id != group.out and id not in self._also_out:
            later = max(id, group.out)
            self._also_out.add(later)
            if group.also_out is None:
                group.also_out = [later]
            else:
                heappush(group.also_out, later)
            if id < group.out:
                self._stand(group, group.head, id)

    def let_go(self, message: Message) -> None:
        """Let a message hold up others no longer, if it did; enter or forget it elsewhere."""
        id = message.id
        group = self._groups.get(message.properties.group)
        if group is None:
            return
        if id == group.out:
            head = group.head
            if group.also_out is not None or 0 < head < id:
                self._stand(group, head, self._next_out(group))
                return
            group.out = 0
            if head:
                del self._blocked[head]
                # As `_open` does, but this is done for each message.
                place = group.place = self.take_turn() if self._fair else head
                self.open[place] = group
                places = self._places
                if not places or places[-1] < place:
                    places.append(place)
                else:
                    heappush(self._late, place)
            else:
                del self._groups[group.properties.group]
        elif id in self._also_out:
            self._also_out.remove(id)
            heap = group.also_out
            assert heap is not None
            group.out_gone += 1
            if group.out_gone > len(heap) // 2 + _STALE_ALLOWED:
                group.also_out, group.out_gone = [each for each in heap if each in self._also_out], 0
                heapify(group.also_out)

    def first(self) -> int:
        """Return the place of the first open group; there is one."""
        places, late = self._places, self._late
        while late and late[0] not in self.open:
            heappop(late)
        while self._at < len(places) and places[self._at] not in self.open:
            self._at += 1
        if self._at == len(places):
            return late[0]
        return min(places[self._at], late[0]) if late else places[self._at]

    def head(self) -> Message:
        """Return the head of the first open group; there is one."""
        return self.messages[self.open[self.first()].head]

    def oldest(self) -> int:
        """Return the id of the oldest message at the head of an open group; there is one.

        If the groups take turns, only the next ones are looked at.
        """
        if self._fair:
            return min(map(_head, islice(self.open.values(), GROUPS_LOOKED_AT)))
        return self.first()

    def pop(self) -> Message:
        """Remove and return the head of the first open group; there is one."""
        group = self._next_group()
        message = self.messages.pop(group.head)
        head, out = 0 if group.ready is None else self._next_head(group), group.out
        group.head = head
        if head and (not out or head < out):
            self._open(group)
        elif head:
            self._blocked[head] = group
        elif not out:
            del self._groups[group.properties.group]
        return message

    def pop_held(self) -> Message:
        """Remove and return what `pop` does, and let it hold up those behind it, as `hold` does."""
        # As `_next_group` does, and `_next_head` below, but this is done for each message; they look after their
        # lists every now and then.
        places, at = self._places, self._at
        group = None
        if at % _SPENT_ALLOWED and not self._late and at < len(places):
            group = self.open.pop(places[at], None)
            self._at = at + 1
        if group is None:
            group = self._next_group()
        id = group.head
        message = self.messages.pop(id)
        if group.out:
            self._also_out.add(group.out)
            if group.also_out is None:
                group.also_out = [group.out]
            else:
                heappush(group.also_out, group.out)
        group.out = id
        ready = group.ready
        if ready is None:
            group.head = 0
            return message
        at = group.at
        if at % _SPENT_ALLOWED and not group.gone and not group.late and at < len(ready):
            head = ready[at]
            group.at = at + 1
        else:
            head = self._next_head(group)
        group.head = head
        if head:
            self._blocked[head] = group
        return message

    def remove(self, id: int) -> Message | None:
        """Remove and return a ready message that is not given to a consumer now, or None if it is not here."""
        message = self.messages.pop(id, None)
        if message is None:
            return None
        group = self._groups[message.properties.group]
        if id == group.head:
            self._stand(group, 0 if group.ready is None else self._next_head(group), group.out)
            return message
        group.gone += 1
        ready, late = group.ready or [], group.late or []
        if 2 * group.gone > len(ready) + len(late) - group.at + _STALE_ALLOWED:
            left = {each for each in chain(islice(ready, group.at, None), late) if each in self.messages}
            left.discard(group.head)  # it may have been here twice
            group.ready, group.at, group.late, group.gone = sorted(left), 0, None, 0
        return message

    def is_first_out(self, message: Message) -> bool:
        """Whether a message that is leased or delayed is held up by none: when it is back, it can be given."""
        group = self._groups.get(message.properties.group)
        return group is None or group.out == message.id or bool(message.properties.failed_in)

    def __iter__(self) -> Iterator[Message]:
        """Yield every ready message in the order of their ids.

        What it costs depends on how far it is walked through, and on how many groups are blocked: 30 ns for each.
        """
        pending: list[tuple[int, Iterator[int]]] = []
        for head in self._heads():
            yield from self._up_to(head, pending)
            message = self.messages[head]
            yield message
            _push(pending, self._others(self._groups[message.properties.group]))
        yield from self._up_to(None, pending)

    def _heads(self) -> Iterator[int]:
        """Yield the heads of all groups in order."""
        heads = [*self._blocked]
        if self._fair:
            heads += map(_head, self.open.values())
        heapify(heads)
        if self._fair or not self.open:
            yield from smallest(heads)
            return
        last = 0
        places = islice(self._places, self._at, None)
        for head in merge(smallest(heads), places, smallest(self._late)):
            # Places may be empty, or in the heap more than once.
            if head != last and (head in self.open or head in self._blocked):
                last = head
                yield head

    def _up_to(self, end: int | None, pending: list[tuple[int, Iterator[int]]]) -> Iterator[Message]:
        while pending and (end is None or pending[0][0] < end):
            id, others = heappop(pending)
            yield self.messages[id]
            _push(pending, others)

    def _others(self, group: Group) -> Iterator[int]:
        """Yield the ids of a group's ready messages behind its head, in order."""
        last = group.head
        for id in merge(islice(group.ready or [], group.at, None), smallest(group.late or [])):
            if id != last and id in self.messages:
                last = id
                yield id

    def _open(self, group: Group) -> None:
        place = group.place = self.take_turn() if self._fair else group.head
        self.open[place] = group
        places = self._places
        if not places or places[-1] < place:
            places.append(place)
        else:
            heappush(self._late, place)

    def _next_group(self) -> Group:
        """Take the first open group from its place; there is one."""
        places, late, at, pop = self._places, self._late, self._at, self.open.pop
        group = None
        while group is None:
            if late and (at == len(places) or late[0] < places[at]):
                group = pop(heappop(late), None)
            else:
                group = pop(places[at], None)
                at += 1
        if not at % _SPENT_ALLOWED and 2 * at > len(places):
            del places[:at]
            at = 0
        self._at = at
        return group

    def _stand(self, group: Group, head: int, out: int) -> None:
        """Let a group have this head, and this first message that is out, and stand where that puts it."""
        before, was_out, open = group.head, group.out, self.open
        group.head, group.out = head, out
        is_open = head > 0 and (not out or head < out)
        if before:
            if was_out and was_out < before:
                del self._blocked[before]
            elif is_open and (self._fair or before == head):
                return
            else:
                del open[group.place]
                if len(self._places) - self._at + len(self._late) > 2 * len(open) + _STALE_ALLOWED:
                    self._places, self._at, self._late = sorted(open), 0, []
        if is_open:
            self._open(group)
        elif head:
            self._blocked[head] = group
        elif not out:
            del self._groups[group.properties.group]

    def _next_head(self, group: Group) -> int:
        """Take the first ready message out of the others of a group, and return its id; 0 if there is none."""
        ready, late, at = group.ready, group.late, group.at
        assert ready is not None
        while late or at < len(ready):
            if late and (at == len(ready) or late[0] < ready[at]):
                id = heappop(late)
            else:
                id = ready[at]
                at += 1
            if id in self.messages:
                break
            group.gone -= 1
        else:
            id = 0
        if at > _SPENT_ALLOWED and 2 * at > len(ready):
            del ready[:at]
            at = 0
        group.at = at
        return id

    def _next_out(self, group: Group) -> int:
        """Take the first message out of the others that are out, and return its id; 0 if there is none."""
        heap = group.also_out
        while heap:
            id = heappop(heap)
            if id in self._also_out:
                self._also_out.remove(id)
                return id
            group.out_gone -= 1
        group.also_out, group.out_gone = None, 0
        return 0

    def clear(self) -> list[dict[Any, Any] | list[Any]]:
        """Hold nothing, and return what messages were kept in, for the caller to free; O(1)."""
        dropped: list[dict[Any, Any] | list[Any]] = [each for each in (self.messages, self._groups) if each]
        self.messages, self.open, self._blocked, self._groups = {}, {}, {}, {}
        self._places, self._at, self._late, self._also_out = [], 0, [], set()
        return dropped


def _head(group: Group) -> int:
    return group.head


def _push(pending: list[tuple[int, Iterator[int]]], ids: Iterator[int]) -> None:
    for id in ids:
        heappush(pending, (id, ids))
        return
