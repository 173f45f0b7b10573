"""Whether what concurrent clients saw of a queue could be seen of one that does a single thing at a time.

A history is linearizable (Herlihy & Wing, "Linearizability: A Correctness Condition for Concurrent Objects",
1990) if each operation can be given an instant between its call and its answer, such that a sequential queue
that does them in the order of these instants gives the same answers. An operation without an answer may have
happened at any time after its call, or never.

Finding that order is a search (Wing & Gong, "Testing and Verifying Concurrent Objects", 1993): next may be what
was called before the first answer of those left, if the sequential queue answers it as it was answered. Two
orders of the same operations that leave the queue in the same state have the same future, so one of them is
enough (Lowe, "Testing for Linearizability", 2017). That makes a history of a few dozen operations a matter of
milliseconds. And a history of several queues is linearizable if that of each queue is: each is checked by
itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import NamedTuple


@dataclass(frozen=True)
class Enqueue:
    """Results in the id of the message. Values are unique in a history.

    If one with its key is held: in the id below zero if that is kept, and in `id>value` if that is replaced.
    """

    value: str
    group: str = ""
    unique: str = ""
    replace: bool = False


@dataclass(frozen=True)
class Dequeue:
    """Results in the value, or in None if the queue is empty."""


@dataclass(frozen=True)
class Receive:
    """Results in the value, or in None if the queue is empty.

    Which receipt a delivery has is the queue's choice. Here it is part of the call, as if the client had made it
    up, so that a call has one result only. It is unique in a history, and means nothing if the result is None.
    """

    receipt: str


@dataclass(frozen=True)
class Ack:
    """Results in True, or in False if the lease is over."""

    receipt: str


@dataclass(frozen=True)
class Release:
    """Results in True, or in False if the lease is over. Nobody releases one message more than three times."""

    receipt: str


Call = Enqueue | Dequeue | Receive | Ack | Release
Result = int | str | None


@dataclass(frozen=True)
class Operation:
    """What one client asked for, what it was answered, and when, by one clock for all clients."""

    client: int
    call: Call
    result: Result
    invoked: int
    responded: int | None
    """None: there was no answer, and `result` means nothing."""

    @property
    def end(self) -> float:
        """By when it has happened, if it has."""
        return inf if self.responded is None else self.responded

    def __str__(self) -> str:
        answer = f"{self.responded:4}: {self.result!r}" if self.responded is not None else "   ?: no answer"
        return f"{self.invoked:4} to {answer} to client {self.client} for {self.call}"


class Place(NamedTuple):
    """A message and its place in line."""

    id: int
    value: str
    group: str = ""
    unique: str = ""
    """Its key, while it has it."""


class SequentialQueue(NamedTuple):
    """The specification: first in, first out, with leases that do not expire. A value: it never changes.

    A message of a group is passed over while an earlier one of it is leased.
    """

    newest: int = 0
    ready: tuple[Place, ...] = ()
    leased: frozenset[tuple[str, Place]] = frozenset()
    """By receipt."""
    acked: frozenset[str] = frozenset()

    def perform(self, call: Call) -> tuple[Result, SequentialQueue]:
        """Return the result of `call`, and the queue after it."""
        match call:
            case Enqueue(value, group, unique, replace):
                last = Place(self.newest + 1, value, group, unique)
                new = self._replace(newest=last.id, ready=(*self.ready, last))
                there = self.holder(unique) if unique else None
                if there is None:
                    return last.id, new
                if not replace:
                    return -there.id, self
                if there in self.ready:
                    changed = there._replace(value=value)
                    ready = tuple(changed if place == there else place for place in self.ready)
                    return f"{there.id}>{value}", self._replace(ready=ready)
                without = there._replace(unique="")
                leased = frozenset((each, without if place == there else place) for each, place in self.leased)
                return last.id, new._replace(leased=leased)
            case Dequeue() | Receive():
                first = self.first()
                if first is None:
                    return None, self
                left = self._replace(ready=tuple(place for place in self.ready if place != first))
                if isinstance(call, Dequeue):
                    return first.value, left
                return first.value, left._replace(leased=self.leased | {(call.receipt, first)})
            case Ack(receipt) | Release(receipt):
                place = dict(self.leased).get(receipt)
                if place is None:
                    return isinstance(call, Ack) and receipt in self.acked, self
                others = self.leased - {(receipt, place)}
                if isinstance(call, Ack):
                    return True, self._replace(leased=others, acked=self.acked | {receipt})
                return True, self._replace(leased=others, ready=tuple(sorted((*self.ready, place))))

    def holder(self, unique: str) -> Place | None:
        """Return the message that has this key."""
        held = (*self.ready, *(place for _, place in self.leased))
        return next((place for place in held if place.unique == unique), None)

    def first(self) -> Place | None:
        """Return what a consumer would get."""
        leased = [place for _, place in self.leased if place.group]
        for place in self.ready:
            if not any(other.group == place.group and other.id < place.id for other in leased):
                return place
        return None


def check(history: Iterable[Operation]) -> list[Operation] | None:
    """Return an order in which a sequential queue answers all that was answered alike, or None: there is none.

    Operations without an answer are in it if they must have happened.
    """
    operations = sorted(history, key=lambda operation: operation.end)
    # Each path: what was done, as a set of bits, the queue after that, and in which order.
    paths: list[tuple[int, SequentialQueue, tuple[int, ...]]] = [(0, SequentialQueue(), ())]
    seen: set[tuple[int, SequentialQueue]] = set()
    while paths:
        done, queue, order = paths.pop()
        left = [index for index in range(len(operations)) if not done >> index & 1]
        # They are sorted: if the first of those left has no answer, none has.
        if not left or operations[left[0]].responded is None:
            return [operations[index] for index in order]
        # The last one pushed is tried first: what was answered early has probably happened early, and what was
        # not answered need only have happened if there is no other way.
        for index in reversed(left):
            operation = operations[index]
            if operation.invoked > operations[left[0]].end:
                continue
            result, after = queue.perform(operation.call)
            if result != operation.result and operation.responded is not None:
                continue
            reached = (done | 1 << index, after)
            if reached not in seen:
                seen.add(reached)
                paths.append((*reached, (*order, index)))
    return None


def describe(history: Iterable[Operation]) -> str:
    """Return the history as text, a line for each operation, in the order of the calls."""
    return "\n".join(map(str, sorted(history, key=lambda operation: operation.invoked)))
