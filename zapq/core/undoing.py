"""How the steps of a queue are undone: each of these is entered with what it undoes, in `queue.py`.

Steps back run in reverse order, so each finds exactly what its verb left.
"""

from __future__ import annotations

from collections.abc import Sequence

from zapq.core.holding import Holding
from zapq.core.leases import End
from zapq.core.message import Lease, Message
from zapq.core.records import MAX_ID


class Undoing(Holding):
    """Steps back of one queue."""

    __slots__ = ()

    def _undo_enqueue(self, message: Message) -> None:
        self._take_out(message)
        self._counts.enqueued -= 1
        self._hold(-1, -message.size)

    def _undo_enqueuing(self, first: int, number: int, size: int, priority: int) -> None:
        self._ready.withdraw(first, number, priority)
        self._counts.enqueued -= number
        self._hold(-number, -size)

    def _undo_next(self, row: int, bodies: Sequence[bytes]) -> None:
        self._undo_enqueuing(row & MAX_ID, len(bodies), sum(map(len, bodies)), 0)

    def _undo_arrival(self, message: Message) -> None:
        self._take_out(message)
        self._counts.arrived -= 1
        self._hold(-1, -message.size)

    def _undo_move(self, letter: Message) -> None:
        self._hold(1, letter.size)
        self._become_ready(letter)

    def _undo_redrive(self, number: int) -> None:
        self._counts.redriven -= number

    def _undo_take(self, messages: Sequence[Message]) -> None:
        self._counts.dequeued -= len(messages)
        self._give_back(len(messages))
        for message in messages:
            self._hold(1, message.size)
            self._become_ready(message)

    def _undo_grant(self, lease: Lease) -> None:
        self._granting.discard(lease.serial)
        self._leases.pop(lease.serial)
        self._counts.received -= 1
        self._give_back(1)
        self._become_ready(lease.message)

    def _undo_ack(self, serial: int, message: Message, lease: Lease | None) -> None:
        self._counts.acked -= 1
        self._hold(1, message.size)
        if lease is not None:
            self._lease_again(lease)
        else:
            self._become_ready(message)
            self._undo_close(serial, message)

    def _undo_remove(self, message: Message, due: float | None) -> None:
        self._counts.acked -= 1
        self._hold(1, message.size)
        self._wait_again(message, due)

    def _undo_delete(self, message: Message, due: float | None) -> None:
        self._counts.cleared -= 1
        self._hold(1, message.size)
        self._wait_again(message, due)

    def _undo_hide(self, message: Message, due: float | None) -> None:
        self._take_out(message)
        self._wait_again(message, due)

    def _wait_again(self, message: Message, due: float | None) -> None:
        """Put a message where it waited: among the ready ones, or until `due`."""
        if due is None:
            self._become_ready(message)
        else:
            self._delayed.put(message.id, due, message)
            self.note_origin(message)
            if message.properties.group:
                self._ready.hold(message)
            self._watch(due)

    def _undo_release(self, lease: Lease) -> None:
        self._counts.released -= 1
        self._lease_again(lease)

    def _undo_lapse(self, lease: Lease) -> None:
        self._counts.leases_expired -= 1
        self._lease_again(lease)

    def _undo_return(self, message: Message) -> None:
        self._lapses.pop(message.id)
        self._take_out(message)

    def _undo_fail(self, message: Message) -> None:
        self._counts.dead_lettered -= 1
        self._hold(1, message.size)

    def _undo_expire(self, message: Message) -> None:
        self._counts.expired -= 1
        self._hold(1, message.size)

    def _undo_close(self, serial: int, message: Message) -> None:
        self._owner.note_end(serial, End.EXPIRED)
        self._lapses.put(serial, message)

    def _lease_again(self, lease: Lease) -> None:
        """Let a lease go on whose end is undone."""
        self._owner.note_end(lease.serial, End.UNKNOWN)
        self._leases.put(lease)
        self.note_origin(lease.message)
        if lease.message.properties.group:
            self._ready.hold(lease.message)
        self._watch(lease.deadline + self._leases.slack)
