"""The queues of this process as an engine: for each kind of operation, the step or task that does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from zapq.engine.engine import Outcomes
from zapq.errors import MessageNotFound, NoTestClock, moved_on
from zapq.limits import LISTED_AT_ONCE, MAX_DELAY
from zapq.service.history import Samples
from zapq.service.journal import Journal
from zapq.service.operations import (
    Advance,
    ChangeSettings,
    Configure,
    Delete,
    DeleteMessage,
    Describe,
    Drain,
    Enqueue,
    Find,
    Hide,
    History,
    List,
    ListPage,
    ListSnapshots,
    Load,
    Look,
    Looked,
    Operation,
    Peek,
    Purge,
    Put,
    Ready,
    Recall,
    Redrive,
    Remember,
    Remove,
    Save,
    SetPaused,
    Settle,
    SettleOne,
    Stats,
    Take,
    check,
    checked_limit,
)
from zapq.service.paging import Page, by_name, page_of, wanted
from zapq.service.pending import Pending
from zapq.service.queue_state import QueueInfo, QueueState
from zapq.service.service import QueueService
from zapq.wakeup import Wakeup


class LocalEngine:
    """The queues of one service, asked by values."""

    def __init__(self, service: QueueService) -> None:
        self.service = service
        self.check_open = service.check_open
        self.drain = service.drain
        self.reservation = service.reservation
        self.nothing = service.nothing
        journal = service.journal
        self._journal = journal if isinstance(journal, Journal) else None

        def step(take: Callable[[QueueState, Any, float], object]) -> Callable[[Any, float], Any]:
            """Return what has `take` done to the queue that is asked for, when no task holds the lock."""
            return lambda asked, now: service.attempt(partial(take, service.find_state(asked.queue), asked), now)

        self.how: dict[type[Any], Callable[[Any, float], Any]] = {
            Put: service.attempt_putting,
            Enqueue: service.attempt_enqueuing,
            Take: service.attempt_taking,
            Settle: self._settle,
            SettleOne: self._settle_one,
            Remove: step(lambda state, asked, now: state.remove(asked.id, now)),
            Hide: step(lambda state, asked, now: state.hide(asked.id, asked.visibility, now)),
            Remember: step(QueueState.remember),
            Recall: step(QueueState.recall),
            Peek: self._peek,
            Find: self._find,
            Describe: lambda asked, now: service.find_state(asked.queue).info(),
            Look: lambda asked, now: Looked(service.find_state(asked.queue).core.settings),
            List: self._list,
            ListPage: self._list_page,
            History: self._history,
            Configure: self._configure,
            ChangeSettings: self._change_settings,
            Delete: lambda asked, now: service.do_in_task(partial(service.delete, asked.queue)),
            DeleteMessage: self._delete_message,
            Purge: lambda asked, now: service.do_in_task(service.find_state(asked.queue).clear),
            SetPaused: self._set_paused,
            Redrive: self._redrive,
            Drain: lambda asked, now: service.drain(),
            Advance: self._advance,
            Stats: lambda asked, now: service.stats(sums=asked.sums),
            Ready: self._check_ready,
            Save: lambda asked, now: service.do_in_task(partial(service.snapshot, asked.file)),
            Load: lambda asked, now: service.do_in_task(partial(service.restore, asked.file)),
            ListSnapshots: lambda asked, now: service.do_in_task(service.snapshots.files),
        }

    def perform(self, operation: Operation, now: float) -> Any:
        """Do what is asked at the time `now` of Trio's clock; return the outcome, or `Pending` if that is to come.

        Raises what refuses it, a `ZapqError`; then nothing has changed. No checkpoint.
        """
        return self.how[operation.__class__](operation, now)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Have everything that is changed in this block written in one go, at its end."""
        journal = self._journal
        if journal is None:
            yield
            return
        journal.corked = True
        try:
            yield
        finally:
            journal.corked = False
            journal.flush_and_see()

    @contextmanager
    def watched(self) -> Iterator[Outcomes | None]:
        """Have the caller be woken for commits: that is two of Trio's turns faster than Trio's own way."""
        journal = self._journal
        if journal is None:
            yield None
            return
        wakeup = Wakeup(journal.collect)
        try:
            with journal.roused_by(wakeup.wake):
                yield wakeup
        finally:
            wakeup.close()

    def _settle(self, asked: Settle, now: float) -> Any:
        state = self.service.find_state(asked.queue)
        return self.service.attempt(partial(state.settle, asked.settlements), now)

    def _settle_one(self, asked: SettleOne, now: float) -> Any:
        state = self.service.find_state(asked.queue)
        return self.service.attempt(partial(state.settle_one, asked.settlement), now)

    def _peek(self, asked: Peek, now: float) -> Any:
        state = self.service.find_state(asked.queue)
        limit = checked_limit(asked.limit, "limit")
        return self.service.attempt(lambda now: state.peek(asked.state, limit), now)

    def _find(self, asked: Find, now: float) -> Any:
        state = self.service.find_state(asked.queue)

        def find(now: float) -> object:
            seen = state.find(asked.id)
            if seen is not None:
                return seen
            at = self.service.broker.whereabouts(asked.queue, asked.id)
            if at is not None and at[0] == asked.queue and (seen := state.find(at[1])) is not None:
                return seen
            raise _not_here(asked.queue, asked.id, at)

        return self.service.attempt(find, now)

    def _delete_message(self, asked: DeleteMessage, now: float) -> Any:
        state = self.service.find_state(asked.queue)

        def delete(now: float) -> None:
            if not state.delete(asked.id, now):
                at = self.service.broker.whereabouts(asked.queue, asked.id)
                raise _not_here(asked.queue, asked.id, at)

        return self.service.attempt(delete, now)

    def _list(self, asked: List, now: float) -> Pending[list[QueueInfo]] | list[QueueInfo]:
        names = sorted(self.service.broker.queues)
        if len(names) <= LISTED_AT_ONCE:
            return self._infos(names, asked.pattern)
        return self.service.do_in_task(partial(self._list_in_slices, names, asked.pattern))

    def _list_page(self, asked: ListPage, now: float) -> Pending[Page] | Page:
        names = wanted(self.service.broker.queues, asked)
        shown = by_name(names, asked)
        if shown is not None:
            return page_of(self._infos(shown, "*"), asked, len(names))
        if len(names) <= LISTED_AT_ONCE:
            return page_of(self._infos(names, "*"), asked)

        async def list_page() -> Page:
            return page_of(await self._list_in_slices(names, "*"), asked)

        return self.service.do_in_task(list_page)

    async def _list_in_slices(self, names: list[str], pattern: str) -> list[QueueInfo]:
        infos: list[QueueInfo] = []
        for start in range(0, len(names), LISTED_AT_ONCE):
            await self.service.turns.take()
            infos += self._infos(names[start : start + LISTED_AT_ONCE], pattern)
        return infos

    def _infos(self, names: list[str], pattern: str) -> list[QueueInfo]:
        """Return what there is to know of those of the queues that fit, and are still there."""
        there, service = self.service.broker.queues, self.service
        shown = names if pattern == "*" else [name for name in names if fnmatchcase(name, pattern)]
        return [service.state(name).info() for name in shown if name in there]

    def _history(self, asked: History, now: float) -> Pending[Samples] | Samples:
        history = self.service.history
        steps = history.find(asked.pattern, asked.wanted)
        try:
            next(steps)
        except StopIteration as end:
            return history.tell(end.value, asked.limit, now)

        async def tell() -> Samples:
            while True:
                await self.service.turns.take()
                try:
                    next(steps)
                except StopIteration as end:
                    return history.tell(end.value, asked.limit, now)

        return self.service.do_in_task(tell)

    def _configure(self, asked: Configure, now: float) -> Pending[tuple[bool, QueueInfo]]:
        async def configure() -> tuple[bool, QueueInfo]:
            made = await self.service.configure(asked.queue, asked.settings)
            return made, self.service.find_state(asked.queue).info()

        return self.service.do_in_task(configure)

    def _change_settings(self, asked: ChangeSettings, now: float) -> Pending[QueueInfo]:
        async def change() -> QueueInfo:
            await self.service.change_settings(asked.queue, **asked.changes)
            return self.service.find_state(asked.queue).info()

        return self.service.do_in_task(change)

    def _set_paused(self, asked: SetPaused, now: float) -> Any:
        state = self.service.find_state(asked.queue)
        return self.service.do_in_task(partial(state.set_paused, asked.paused))

    def _redrive(self, asked: Redrive, now: float) -> Any:
        state = self.service.find_state(asked.queue)
        return self.service.do_in_task(partial(state.redrive, checked_limit(asked.limit, "limit"), asked.id))

    def _advance(self, asked: Advance, now: float) -> Any:
        if not self.service.test_clock:
            raise NoTestClock
        check("seconds", asked.seconds, 0, MAX_DELAY)
        return self.service.do_in_task(partial(self.service.advance, asked.seconds))

    def _check_ready(self, asked: Ready, now: float) -> None:
        self.service.check_open()
        self.service.check_storage()


def _not_here(queue: str, id: int, at: tuple[str, int] | None) -> MessageNotFound:
    return MessageNotFound(queue=queue, message_id=id) if at is None else moved_on(queue, id, *at)
