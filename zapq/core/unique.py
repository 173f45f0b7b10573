"""Unique while held: of messages that have the same key, a queue holds one.

A producer that gives a message a key either keeps the message that is held with it, or replaces that where it
stands. One that is leased is not replaced: its consumer works on the old body, so the new one is a message of its
own, and takes over the key. So of messages that were given the same key it is always the newest that has it.
`_unique` says which has which; it is None as long as none has had one, and that is all that other queues pay.

A key is free as soon as its message is not held here any more, for any reason. A dead letter remembers its
key, but has it no more. On the disk there are only the messages, from which `_unique` is made anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from zapq.core.leases import End, counted
from zapq.core.message import DEFAULTS, Draft, Message, Properties
from zapq.core.placed import Placed
from zapq.core.records import MessagesDeleted, MessageState, Put, row_of
from zapq.core.undoing import Undoing
from zapq.limits import TICK_LIMIT

if TYPE_CHECKING:
    from zapq.core.message import Lease


class _Held(NamedTuple):
    """A message that has its key, and is held."""

    id: int
    message: Message | None
    """None if it is leased."""
    due: float | None
    """Until when it is delayed; None if it is not."""


class Unique(Undoing):
    """Knows which message of a queue has which key."""

    __slots__ = ()

    if TYPE_CHECKING:
        # What `Queue` has.
        def enqueue(
            self, body: bytes, properties: Properties = DEFAULTS, *, delay: float = 0.0, now: float = 0.0
        ) -> Message: ...
        def tick(self, now: float, limit: int) -> bool: ...
        def _close_lapse(self, id: int, end: End) -> None: ...
        def _expire_ready(self, message: Message) -> None: ...

    def keeps(self, key: str, now: float) -> bool:
        """Whether a message with this key is held."""
        self._check_journal()
        return self._holder(key, now) is not None

    def enqueue_unique(
        self, body: bytes, properties: Properties, *, replace: bool, delay: float = 0.0, now: float
    ) -> Placed:
        """Add a message with a key, unless one with this key is held: keep that, or `replace` it where it stands.

        It then has the body, headers, type and ttl of the new one, and no deliveries so far. Its id, priority and
        group are its place and stay; so does when it is ready, unless it is delayed and there is a new delay. One
        that is leased is left alone and loses its key. `QueueFull` changes nothing; what is kept needs no room.
        """
        self._check_journal()
        held = self._holder(properties.unique, now)
        return self._place(held, body, properties, delay, now, replace=replace)

    def enqueue_unique_drafts(self, drafts: Sequence[Draft], *, now: float) -> list[Placed]:
        """Do for each draft what it asks for, in order, all or none, and say what became of each."""
        self._check_journal()
        messages = size = 0
        sizes: dict[str, int] = {}
        """Of the messages of this batch that others of it may replace."""
        for draft in drafts:
            key, more = draft.unique, draft.size
            if key in sizes:
                size += more - sizes[key] if draft.on == "replace" else 0
                sizes[key] = more if draft.on == "replace" else sizes[key]
                continue
            held = self._holder(key, now) if key else None
            if held is not None and draft.on == "keep":
                continue
            if key:
                sizes[key] = more
            if held is None or held.message is None:
                messages += 1
            else:
                more -= held.message.size
            size += more
        if self._journal is not None and (messages or size):
            self._journal.check_room()
        self._check_room(messages, size, now)
        placed: list[Placed] = []
        for draft in drafts:
            properties = draft.properties(now)
            if draft.unique:
                # Nothing that is due now may happen any more: what there is room for has been decided.
                held = self._find_holder(draft.unique)
                replace = draft.on == "replace"
                placed.append(self._place(held, draft.body, properties, draft.delay, now, replace=replace))
            else:
                placed.append(Placed(self.enqueue(draft.body, properties, delay=draft.delay, now=now).id))
        return placed

    def _place(
        self, held: _Held | None, body: bytes, properties: Properties, delay: float, now: float, *, replace: bool
    ) -> Placed:
        if held is not None and not replace:
            if self._journal is not None:
                # It may be on its way to the disk.
                self._journal.rely()
            return Placed(held.id, "kept")
        if held is not None and held.message is not None:
            self._replace(held.message, held.due, body, properties, delay, now)
            return Placed(held.id, "replaced")
        id = self.enqueue(body, properties, delay=delay, now=now).id
        if held is not None:
            lease = self._leases.find(held.id)
            assert lease is not None
            self._take_key(lease)
        self._claim(properties.unique, id)
        return Placed(id)

    def _replace(
        self, old: Message, due: float | None, body: bytes, properties: Properties, delay: float, now: float
    ) -> None:
        journal, place = self._journal, old.properties
        if journal is not None:
            journal.check_room()
        properties = msgspec.structs.replace(
            self._as_set(properties, now), priority=place.priority, group=place.group, origin=place.origin
        )
        message = Message(old.id, body, properties)
        more = message.size - old.size
        self._check_room(0, more, now)
        if self._lapses.serials:
            # A consumer that comes late has worked on the old body.
            self._close_lapse(old.id, End.REPLACED)
        self._hold(0, more)
        until = due
        if due is not None:
            until = min(now + delay if delay > 0 else due, properties.expires)
        self._exchange(message, until)
        if journal is not None:
            row = row_of(self.epoch, old.id)
            # Both, so that it is known that there may be a row on the disk already.
            journal.enter(MessagesDeleted((row,)), self._hold, 0, -more)
            journal.enter(Put(row, body, properties, until or 0.0), self._undo_exchange, old, due)

    def _exchange(self, message: Message, due: float | None) -> None:
        """Put a message in the place of the one that has its id: ready, or delayed until `due`."""
        if due is None:
            self._ready.exchange(message)
            self._watch(message.properties.expires)
        else:
            self._delayed.put(message.id, due, message)
            self._watch(due)

    def _undo_exchange(self, message: Message, due: float | None) -> None:
        if due is not None and message.id not in self._delayed:
            # It has become ready in the meantime.
            self._ready.take_out(message.id)
            self._wait_again(message, due)
        else:
            self._exchange(message, due)

    def _take_key(self, lease: Lease) -> None:
        """Let a message that is leased have no key any more: a newer one has it."""
        message = lease.message
        properties = msgspec.structs.replace(message.properties, unique="")
        message = Message(message.id, message.body, properties)
        without = msgspec.structs.replace(lease, message=message)
        self._leases.put(without)
        state = MessageState(row_of(self.epoch, message.id), counted(without).properties)
        self._enter(state, self._undo_take_key, lease.serial, lease.message)

    def _holder(self, key: str, now: float) -> _Held | None:
        """Return the message that has this key, if it is still held once all is done that is due by `now`."""
        if not self._unique:
            return None
        if now >= self.alarm:
            self.tick(now, TICK_LIMIT)
        held = self._find_holder(key)
        if held is None or held.message is None or not self._has_outlived(held.message.properties, now):
            return held
        self._take_out(held.message)
        self._expire_ready(held.message)
        return None

    def _find_holder(self, key: str) -> _Held | None:
        id = (self._unique or {}).get(key)
        if id is None:
            return None
        delayed = self._delayed.entry(id)
        if delayed is not None:
            return _Held(id, delayed[1], delayed[0])
        return _Held(id, self._ready.find_removable(id), None)

    def _claim(self, key: str, id: int) -> None:
        """Let the message with this id have the key."""
        if self._unique is None:
            self._unique = {}
        before = self._unique.get(key, 0)
        self._unique[key] = id
        self._enter(None, self._undo_claim, key, id, before)

    def _claim_if_free(self, message: Message) -> Message:
        """Let a message that comes from elsewhere have its key, or return it without: another one has that."""
        properties = message.properties
        if not properties.unique or properties.failed_in:
            return message
        if self._unique and properties.unique in self._unique:
            properties = msgspec.structs.replace(properties, unique="")
            return Message(message.id, message.body, properties)
        self._claim(properties.unique, message.id)
        return message

    def _free(self, message: Message) -> None:
        """Free the key of a message that is held no more, if it has one."""
        key, unique = message.properties.unique, self._unique
        if key and unique and unique.get(key) == message.id:
            del unique[key]
            self._enter(None, self._undo_free, key, message.id)

    def _undo_take_key(self, serial: int, message: Message) -> None:
        lease = self._leases.get(serial)
        if lease is not None:
            self._leases.put(msgspec.structs.replace(lease, message=message))
        elif self._unique is not None and self._unique.get(message.properties.unique) == message.id:
            # It was given back meanwhile without its key, and that stays.
            del self._unique[message.properties.unique]

    def _undo_claim(self, key: str, id: int, before: int) -> None:
        unique = self._unique
        assert unique is not None
        del unique[key]
        outranked = self._outranked.pop(key, 0)
        seen = self.find(outranked) if outranked else None
        if before:
            unique[key] = before
        elif seen is not None and seen.message.properties.unique == key:
            unique[key] = seen.message.id

    def _undo_free(self, key: str, id: int) -> None:
        unique = self._unique
        assert unique is not None
        # One that was given back meanwhile, and stays, may have it; it is older.
        if key in unique:
            self._outranked[key] = unique[key]
        unique[key] = id
