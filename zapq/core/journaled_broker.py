"""Every queue on disk by its name: what was kept of them, and what is about a queue as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import msgspec

from zapq.core.broker import Broker, Redriven
from zapq.core.changes import Move, Redriving
from zapq.core.image import KeyImage, QueueImage
from zapq.core.journaled import Cleared, JournaledQueue, Setting
from zapq.core.message import Message, Properties
from zapq.core.queue import Queue
from zapq.core.queue_settings import QueueSettings
from zapq.core.ready import Dropped
from zapq.core.records import ID_BITS, Change, Entry, Journal, KeyPut, KeysCleared, QueueDeleted, row_of
from zapq.core.replacement import Replacement

_EPOCHS = 2 ** (63 - ID_BITS)


class KeptQueue(msgspec.Struct, frozen=True):
    """One queue as the disk keeps it."""

    number: int
    epoch: int
    image: QueueImage


class JournaledBroker(Broker):
    """Holds the queues that `journal` keeps; `kept` are those it had kept before, and `epoch` the last one used.

    `clock` says the time that `now` is from: it is asked when something is written that waits for the disk.
    Making one of them cannot be refused: they, and what they hold, were accepted once.
    """

    queues: dict[str, JournaledQueue]  # type: ignore[assignment]  # it makes no others
    default: JournaledQueue

    def __init__(
        self,
        *,
        journal: Journal,
        kept: Sequence[KeptQueue] = (),
        epoch: int = 0,
        clock: Callable[[], float] = lambda: 0.0,
        now: float = 0.0,
        **named: Any,
    ) -> None:
        self.clock = clock
        self._journal = journal
        self._epoch = epoch
        self._kept = {each.image.name: each for each in kept}
        super().__init__(now=now, **named)
        self._numbers = count(max((each.number for each in kept), default=0) + 1 + ("default" not in self._kept))
        failed: list[tuple[JournaledQueue, Message]] = []
        for each in kept:
            queue = self.queues.get(each.image.name)
            if queue is None:
                queue = self.queues[each.image.name] = self._make(each.image.name, now)
            failed += ((queue, message) for message in queue.fill(each.image, now))
            queue.note_kept(each.image.next_id)
        self._kept = {}
        for queue, message in failed:
            queue.fail(message)

    def next_epoch(self) -> int:
        """Return an epoch no queue has had, or at least not lately."""
        used = {queue.epoch for queue in self.queues.values()}
        while True:
            self._epoch = self._epoch % (_EPOCHS - 1) + 1
            if self._epoch not in used:
                return self._epoch

    def begin_configuring(self, name: str, settings: QueueSettings, now: float) -> tuple[Setting, bool]:
        """Begin to let `settings` hold, and say whether the queue was made for that. Raises as `configure` does.

        A queue made for it stays, should it not be written.
        """
        self._journal.check()
        wanted = self._check_settings(name, settings)
        for each in wanted:
            self.open(each, now)
        return self.queues[name].begin_setting(settings), name in wanted

    def begin_clearing(self, queue: Queue) -> Cleared:
        """Begin to drop every message of `queue`."""
        self._journal.check()
        assert isinstance(queue, JournaledQueue)
        return queue.begin_clearing(self.next_epoch())

    def begin_deleting(self, name: str) -> Deleted:
        """Begin to remove the queue called `name`. Raises as `delete` does."""
        self._journal.check()
        queue = self._check_deletable(name)
        return Deleted(self, name, [QueueDeleted(queue.number)], [])

    def begin_redriving(self, name: str, limit: int, now: float) -> tuple[Redriving, Redriven]:
        """Begin to move dead letters, and say how many. See `redrive`."""
        self._journal.check()
        source = self.queues[self.find(name).name]
        pairs: list[tuple[Message, Move]] = []
        for letter, target in self._take_letters(source, limit, now):
            properties = Properties(letter.content_type, letter.priority)
            pairs.append((letter, self.queues[target.name].prepare_move(letter, properties)))
        return Redriving(source, row_of(source.epoch, 0), pairs), Redriven(len(pairs), source.stats().ready)

    def prepare(self, names: Iterable[str]) -> JournaledReplacement:
        """Return what queues can be made in that are to replace all there are. See `Broker.prepare`."""
        self._journal.check()
        numbers = super().prepare(names).numbers
        epochs = {name: self.next_epoch() for name in numbers}
        return JournaledReplacement(numbers, self._tag, self.lease_slack, epochs)

    def begin_swapping(self, made: JournaledReplacement, keys: Iterable[KeyImage]) -> Swapped:
        """Begin to let the queues that were made be all there are; their rows are written already."""
        self._journal.check()
        entries: list[Entry] = [
            QueueDeleted(queue.number) for name, queue in self.queues.items() if name not in made.queues
        ]
        for queue in made.queues.values():
            queue.set_ids_aside()
            entries.append(queue.kept())
        entries.append(KeysCleared())
        for key in keys:
            number = made.queues[key.queue].number
            entries.append(KeyPut(number, key.key, key.fingerprint, key.id, key.until))
        return Swapped(self, made, entries, [])

    def swap(self, made: JournaledReplacement) -> list[Queue]:
        """Let the queues that were made be all there are, and return the former ones for the caller to free."""
        for queue in made.queues.values():
            queue.use_journal(self._journal)
        return self.replace(made)

    def delete(self, name: str) -> list[Dropped]:
        """Remove a queue that was never used."""
        number = self.find(name).number
        dropped = super().delete(name)
        self._journal.note(QueueDeleted(number))
        return dropped

    def prepare_dead_letter(self, queue: JournaledQueue, message: Message) -> Move:
        """Return what dead-letters a message that failed in `queue`, once that is written."""
        letter, properties = self._dead_letter_queue(queue, message)
        assert isinstance(letter, JournaledQueue)
        return letter.prepare_move(message, properties)

    def _make(self, name: str, now: float) -> JournaledQueue:
        kept = self._kept.get(name)
        if kept is None:
            self._journal.check()
        number = next(self._numbers) if kept is None else kept.number
        epoch = self.next_epoch() if kept is None else kept.epoch
        tag = f"{self._tag}-{number:x}"
        queue = JournaledQueue(
            name, owner=self, number=number, tag=tag, now=now, journal=self._journal, epoch=epoch
        )
        if kept is None:
            self._journal.note(queue.kept())
        return queue


@dataclass(slots=True)
class Deleted:
    """A queue that is removed."""

    broker: JournaledBroker
    name: str
    entries: Sequence[Entry]
    dropped: list[Dropped]
    """What it held, for the caller to free."""

    def commit(self) -> None:
        """Forget the queue."""
        self.dropped = Broker.delete(self.broker, self.name)

    def revert(self) -> None:
        """Go on as before."""


class _NoJournal:
    """Where queues enter changes that are written in another way: with all they hold, once they are made."""

    def check(self) -> None:
        pass

    def add(self, change: Change) -> None:
        raise AssertionError("queues that are being made change nothing")

    def note(self, entry: Entry) -> None:
        pass


class JournaledReplacement(Replacement):
    """New queues on disk, and the room they have until they take over."""

    queues: dict[str, JournaledQueue]  # type: ignore[assignment]  # it makes no others

    def __init__(
        self, numbers: Mapping[str, int], tag: str, lease_slack: float, epochs: Mapping[str, int]
    ) -> None:
        super().__init__(numbers, tag, lease_slack)
        self.clock: Callable[[], float] = lambda: 0.0
        self.epochs = epochs
        """Which rows each queue will have."""

    def prepare_dead_letter(self, queue: JournaledQueue, message: Message) -> Move:
        """Nothing is settled here."""
        raise AssertionError("queues that are being made give nothing")

    def _make(self, name: str, number: int, tag: str, now: float) -> JournaledQueue:
        journal, epoch = _NoJournal(), self.epochs[name]
        return JournaledQueue(name, owner=self, number=number, tag=tag, now=now, journal=journal, epoch=epoch)


@dataclass(slots=True)
class Swapped:
    """Queues that are replaced by others, all together."""

    broker: JournaledBroker
    made: JournaledReplacement
    entries: Sequence[Entry]
    former: list[Queue]
    """Those there were, for the caller to free."""

    def commit(self) -> None:
        """Let the new ones take over."""
        self.former = self.broker.swap(self.made)

    def revert(self) -> None:
        """Go on as before."""
