"""What clients were told, and whether what is there after a crash agrees with it.

A request that was answered binds the server: a message it accepted is there, with all that was said about it,
until somebody was told that it is gone; then it never comes back. A request without an answer binds it to nothing
but wholeness: it happened or it did not. `Ledger` is written by the clients; `Ledger.audit` compares.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Held(NamedTuple):
    """A message as it was found after a restart."""

    queue: str
    id: int
    body: bytes
    priority: int
    content_type: str
    receives: int


@dataclass
class Sent:
    """A message somebody sent; its body is its name."""

    queue: str
    body: bytes
    priority: int = 0
    content_type: str = "application/octet-stream"
    group: str = ""
    """The batch it was part of: all or nothing."""
    id: int | None = None
    """What its sender was told; None: nothing."""
    answered: bool = False
    receives: int = 0
    """How many deliveries of it were answered."""
    maybe_gone: bool = False
    """Somebody asked for it to be gone, and got no answer."""
    gone: bool = False
    """Somebody was told that it is gone."""


@dataclass
class Ledger:
    """What was said to and by the clients of one server, over all its runs."""

    sent: dict[bytes, Sent] = field(default_factory=dict)
    unknown_takes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """By queue: how many messages may have been removed by requests without an answer."""
    unknown_receives: int = 0
    """Deliveries that may have been counted without anybody being told."""
    purged: set[str] = field(default_factory=set)
    """Queues that a purge without an answer may have emptied."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    answered: int = 0
    """Requests that were answered."""

    def add(self, *batch: Sent) -> None:
        """Take note of messages that are about to be sent; from any thread."""
        with self.lock:
            self.sent.update((sent.body, sent) for sent in batch)

    def forget(self, *batch: Sent) -> None:
        """Take note that they were refused; from any thread."""
        with self.lock:
            for sent in batch:
                del self.sent[sent.body]

    def audit(self, ready: list[Held], delayed: Sequence[Held] = ()) -> list[str]:
        """Return what is wrong with what was found, ready messages in their order; nothing, if nothing is."""
        found = [*ready, *delayed]
        wrong = [*self._wrong_with_each(found), *self._wrong_order(ready), *self._missing(found)]
        return [*wrong, *self._halves(found)]

    def settle(self, found: list[Held]) -> None:
        """Take what was found as known from now on: unknown no more."""
        there = {held.body: held for held in found}
        for body, sent in self.sent.items():
            held = there.get(body)
            if held is None:
                sent.gone = True
            else:
                sent.answered, sent.id, sent.maybe_gone = True, held.id, False
                sent.receives = held.receives
        self.unknown_takes.clear()
        self.unknown_receives = 0
        self.purged.clear()

    def _wrong_with_each(self, found: list[Held]) -> list[str]:
        wrong = []
        seen: set[bytes] = set()
        ids: set[tuple[str, int]] = set()
        for held in found:
            sent = self.sent.get(held.body)
            if sent is None:
                wrong.append(f"nobody sent {held}")
                continue
            if held.body in seen or (held.queue, held.id) in ids:
                wrong.append(f"there twice: {held}")
            seen.add(held.body)
            ids.add((held.queue, held.id))
            if sent.gone:
                wrong.append(f"came back: {held}, {sent}")
            if sent.id is not None and sent.id != held.id:
                wrong.append(f"has another id: {held}, {sent}")
            if (held.queue, held.priority, held.content_type) != (sent.queue, sent.priority, sent.content_type):
                wrong.append(f"is not what was sent: {held}, {sent}")
            if not sent.receives <= held.receives <= sent.receives + self.unknown_receives:
                wrong.append(f"was not received so often: {held}, {sent}")
        return wrong

    def _wrong_order(self, found: list[Held]) -> list[str]:
        last: dict[str, tuple[int, int]] = {}
        wrong = []
        for held in found:
            rank = (-held.priority, held.id)
            if rank < last.get(held.queue, rank):
                wrong.append(f"is not in order: {held}")
            last[held.queue] = rank
        return wrong

    def _missing(self, found: list[Held]) -> list[str]:
        there = {held.body for held in found}
        missing: dict[str, list[Sent]] = defaultdict(list)
        for sent in self.sent.values():
            if sent.answered and not (sent.gone or sent.maybe_gone or sent.body in there):
                missing[sent.queue].append(sent)
        return [
            f"lost: {sent}"
            for queue, all_of in missing.items()
            if queue not in self.purged and len(all_of) > self.unknown_takes[queue]
            for sent in all_of
        ]

    def _halves(self, found: list[Held]) -> list[str]:
        there = {held.body for held in found}
        groups: dict[str, set[bool]] = defaultdict(set)
        for sent in self.sent.values():
            if sent.group and not (sent.answered or sent.receives or sent.gone or sent.maybe_gone):
                groups[sent.group].add(sent.body in there)
        return [f"half of a batch is there: {group}" for group, states in groups.items() if len(states) > 1]
