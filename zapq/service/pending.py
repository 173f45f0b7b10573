"""An outcome that is not known yet: what an operation returns where it cannot be done at once.

It is completed exactly once, by what brings the news: a producer (a long poll), the disk (a commit), the task
that waited for the lock, the timer. A caller without a task says what to call then (`when_done`), and asks for
the `result`; a task waits for it (`wait`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import trio

from zapq.errors import Draining, ZapqError
from zapq.service.operations import Delivery, Nothing
from zapq.service.waiting import Waiter

T = TypeVar("T")


class Group(Protocol):
    """What is written together."""

    after: list[Callable[[], object]]
    """Called in order once it is known whether it is on the disk."""
    failure: str
    """Why it is not."""
    resolved: bool
    """Whether that is known."""

    def refusal(self) -> ZapqError:
        """Return what to tell a client whose change could not be written."""


class Pending(Generic[T]):
    """An outcome to come."""

    __slots__ = ("_call", "_done")

    patient = False
    """Whether it may take long by its nature, so that the caller should watch whether its client has left."""
    withdrawn = False
    """Whether it was withdrawn, and is done for that reason: nothing has happened."""

    def __init__(self) -> None:
        self._done = False
        self._call: Callable[[], object] | None = None

    @property
    def done(self) -> bool:
        """Whether the outcome is known."""
        return self._done

    def when_done(self, call: Callable[[], object]) -> None:
        """Have `call` called once, when the outcome is known, unless it was abandoned before.

        That is in the middle of another step, so it must not wait.
        """
        if self.done:
            call()
        else:
            self._call = call

    def finish(self) -> None:
        """Let the outcome be known."""
        self._done = True
        call, self._call = self._call, None
        if call is not None:
            call()

    def result(self) -> T:
        """Return the outcome, or raise what refuses it; only when it is known, and only once."""
        raise NotImplementedError

    def abandon(self) -> None:
        """Take note that the asker has left: messages it gets go back to their places. What it changed stays.

        In place of `result`, at any time.
        """
        # It may know us.
        self._call = None
        self._give_up()

    def _give_up(self) -> None:
        raise NotImplementedError

    async def wait(self) -> T:
        """Wait for the outcome, and return it or raise what refuses it.

        If cancelled, a long poll leaves its line, and what has not begun does not begin. What has begun is waited
        for all the same: a cancellation could not say whether it happened. The disk bounds that, or its end.
        """
        known = trio.Event()
        self.when_done(known.set)
        try:
            await known.wait()
        except trio.Cancelled:  # noqa: ASYNC103 - what has begun has an outcome, which is returned
            if self.withdraw():
                raise
            with trio.CancelScope(shield=True):
                await known.wait()
        return self.result()

    def withdraw(self) -> bool:
        """Undo the request if nothing has happened yet, and return whether that was so."""
        return False


class Hall(Protocol):
    """Where consumers stand in line."""

    def leave(self, queue: str, waiter: Waiter) -> None:
        """Let a consumer go; what it was given goes back to its place."""

    def nothing(self, queue: str) -> Nothing:
        """Count a consumer that gets nothing, and say why."""


class Poll(Pending[Delivery | Nothing]):
    """A consumer that stands in line for messages of one queue."""

    __slots__ = ("_hall", "_queue", "waiter")

    patient = True

    def __init__(self, hall: Hall, queue: str) -> None:
        super().__init__()
        self._hall = hall
        self._queue = queue
        self.waiter: Waiter | None = None

    def result(self) -> Delivery | Nothing:
        """Return the messages, or why there are none. Raises `QueueNotFound`, `Draining`, `StorageUnavailable`."""
        waiter = self._part()
        if waiter.refusal is not None:
            try:
                raise waiter.refusal
            finally:
                # An error that a frame of its own traceback knows stays until the garbage collector comes.
                waiter.refusal = None
        if waiter.lender is None:
            return self._hall.nothing(self._queue)
        return Delivery(waiter.lender, waiter.given)

    def _give_up(self) -> None:
        self._hall.leave(self._queue, self._part())

    def withdraw(self) -> bool:
        """Leave the line, and say that nothing has happened."""
        self.abandon()
        return True

    def _part(self) -> Waiter:
        # Each knows the other: together they would stay until the garbage collector comes.
        waiter, self.waiter = self.waiter, None
        assert waiter is not None
        return waiter


class Commit(Pending[T]):
    """Something that has been done in memory, and counts once `group` is on the disk."""

    __slots__ = ("expected", "group")

    def __init__(self, group: Group, expected: T) -> None:
        # Not by `super`, and not entered in `group`: this is made for each request, and mostly looked at together
        # with all others of its group.
        self._call = None
        self.group = group
        self.expected = expected
        """The outcome, if `group` does not fail."""

    @property
    def done(self) -> bool:
        """Whether the outcome is known."""
        return self.group.resolved

    def when_done(self, call: Callable[[], object]) -> None:
        """Have `call` called once, when the outcome is known, unless it was abandoned before."""
        if not self.group.resolved:
            self.group.after.append(self.finish)
        super().when_done(call)

    def result(self) -> T:
        """Return the outcome, or raise `StorageUnavailable`: then the change was undone."""
        if self.group.failure:
            raise self.group.refusal()
        return self.expected

    def _give_up(self) -> None:
        # Messages are given back once it is known that they were taken.
        if self.group.resolved:
            self._return()
        else:
            self.group.after.append(self._return)

    def _return(self) -> None:
        if not self.group.failure:
            give_back(self.expected)


class Refusal(Pending[T]):
    """A refusal that counts once `group` is on the disk: it may rest on what is in there."""

    __slots__ = ("_error", "_group")

    def __init__(self, group: Group, error: ZapqError) -> None:
        super().__init__()
        self._group = group
        self._error: ZapqError | None = error
        group.after.append(self.finish)

    def result(self) -> T:
        """Raise what refuses it: the refusal, or `StorageUnavailable`."""
        error, self._error = self._error, None
        if self._group.failure or error is None:
            raise self._group.refusal()
        try:
            raise error
        finally:
            # As in `Poll.result`.
            del error

    def _give_up(self) -> None:
        """Nothing was changed."""


class Told(Pending[T]):
    """Something whose outcome, or what refuses it, is told it when that is known."""

    __slots__ = ("_error", "_outcome")

    _error: Exception | None
    _outcome: T | None

    def result(self) -> T:
        """Return the outcome, or raise what refuses it."""
        error = self._error
        if error is not None:
            self._error = None
            try:
                raise error
            finally:
                # As in `Poll.result`.
                del error
        return self._outcome  # type: ignore[return-value] # by now there is one


class Later(Told[T]):
    """Something a task will do, or does."""

    __slots__ = ("_abandoned", "_begun", "_what_follows")

    patient = True

    def __init__(self, *, begun: bool = False) -> None:
        super().__init__()
        self._begun = begun
        """Whether something may have happened."""
        self._abandoned = False
        self._outcome = None
        self._error = None
        self._what_follows: Pending[T] | None = None

    @property
    def wanted(self) -> bool:
        """Whether it is to be begun."""
        return not self._abandoned

    @property
    def working(self) -> bool:
        """Whether the task is at it, or it has yet to begin."""
        return not self._done and self._what_follows is None

    def complete(self, outcome: Pending[T] | T) -> None:
        """Let this be the outcome; or what comes of another `Pending`."""
        self._begun = True
        if isinstance(outcome, Pending):
            self._what_follows = outcome
            if self._abandoned:
                outcome.abandon()
            else:
                outcome.when_done(self.finish)
            return
        self._outcome = outcome
        if self._abandoned:
            give_back(outcome)
        self.finish()

    def fail(self, error: Exception) -> None:
        """Let this be what refuses it."""
        if not self._abandoned:
            self._error = error
        self.finish()

    def result(self) -> T:
        """Return the outcome, or raise what refuses it."""
        if self._error is None and self._what_follows is not None:
            return self._what_follows.result()
        return super().result()

    def _give_up(self) -> None:
        self._abandoned = True
        self._error = None
        if self._what_follows is not None:
            self._what_follows.abandon()
        elif self.done:
            give_back(self._outcome)

    def withdraw(self) -> bool:
        """Do not begin it any more, unless it has begun."""
        if self._what_follows is not None:
            return self._what_follows.withdraw()
        if self._begun or self.done:
            return False
        self._abandoned = True
        return True


class Ending:
    """Lets an error in its block, or the block's cancellation, be what comes of `later`.

    A generator would not do: its frame keeps the error in a cycle with the error's own traceback.
    """

    def __init__(self, later: Later[Any]) -> None:
        self._later = later

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        """Note the error, which ends here unless it is a cancellation."""
        if isinstance(error, trio.Cancelled):
            self._later.fail(Draining())
        elif isinstance(error, Exception):
            self._later.fail(error)
            return True
        return False


def give_back(outcome: object) -> None:
    """Put messages that were taken, and reach no consumer, at their places."""
    if isinstance(outcome, Delivery):
        outcome.queue.return_undelivered(outcome.given)
