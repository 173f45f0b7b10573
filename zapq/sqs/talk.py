"""One request while its action asks for operations: an outcome to come, which its client is answered with.

On the fast road nothing waits. A talk performs what the action yields until an outcome is `Pending`, and goes on
when that is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from zapq.errors import ZapqError
from zapq.service.operations import Delivery, Operation
from zapq.service.pending import Pending, Told, give_back
from zapq.sqs.errors import SqsError
from zapq.sqs.model import Result
from zapq.sqs.steps import Steps

How = Mapping[type[Any], Callable[[Any, float], Any]]
"""What performs each kind of operation, as `Engine.how` has it."""


class Said(msgspec.Struct, frozen=True, gc=False):
    """What a client is answered, and the messages in it."""

    result: Result
    delivery: Delivery | None = None


def converse(
    steps: Steps, how: How, clock: Callable[[], float], now: float, *, patient: bool = False
) -> Said | Talk:
    """Perform what an action yields; return what its client is answered, or a talk that is to go on.

    Raises what refuses the request. `clock` tells the time of later operations. `patient` says that one of them
    may take long by its nature, although the first does not.
    """
    delivery: Delivery | None = None
    try:
        wanted = next(steps)
        while True:
            if isinstance(wanted, list):
                begun = [_begun(each, how, now) for each in wanted]
                if any(isinstance(each, Pending) for each in begun):
                    talk, delivery = Talk(steps, how, clock, delivery, patient=patient), None
                    return talk.wait_for(begun, now)
                wanted = steps.send(begun)
                continue
            try:
                outcome = how[wanted.__class__](wanted, now)
            except ZapqError as error:
                wanted = steps.throw(error.with_traceback(None))
                continue
            if isinstance(outcome, Pending):
                talk, delivery = Talk(steps, how, clock, delivery, patient=patient), None
                return talk.wait_for(outcome, now)
            if outcome.__class__ is Delivery:
                delivery = outcome
            wanted = steps.send(outcome)
    except StopIteration as end:
        return Said(end.value, delivery)
    except Exception:
        give_back(delivery)
        raise


def _begun(operation: Operation, how: How, now: float) -> object:
    """Return what comes of an operation, or what refuses it."""
    try:
        return how[operation.__class__](operation, now)
    except ZapqError as error:
        return error.with_traceback(None)


class Talk(Told[Said]):
    """What goes on with an action, once it has asked for something whose outcome is to come."""

    __slots__ = ("_abandoned", "_clock", "_delivery", "_how", "_inner", "_left", "_patient", "_steps")

    def __init__(
        self, steps: Steps, how: How, clock: Callable[[], float], delivery: Delivery | None, *, patient: bool
    ) -> None:
        super().__init__()
        self._steps = steps
        self._how = how
        self._clock = clock
        self._inner: list[object] = []
        """Outcomes that are known, and those that are to come; one, if one operation was asked for."""
        self._left = 0
        """How many of them are to come."""
        self._delivery = delivery
        self._patient = patient
        self._outcome = None
        self._error = None
        self._abandoned = False

    def wait_for(self, begun: Pending[Any] | list[object], now: float) -> Said | Talk:
        """Go on when all is known that has begun; return what is known then, or itself. Raises what refuses it."""
        alone = not isinstance(begun, list)
        self._inner = begun if isinstance(begun, list) else [begun]
        if not self._waits(alone=alone):
            self._resume(self._inner[0] if alone else self._inner, now)
        return self.result() if self.done else self

    @property
    def patient(self) -> bool:  # type: ignore[override]  # it depends on what is waited for
        """Whether it may take long by its nature."""
        return self._patient or any(isinstance(each, Pending) and each.patient for each in self._inner)

    @property
    def withdrawn(self) -> bool:  # type: ignore[override]  # the same
        """Whether it was withdrawn, and nothing has happened."""
        return any(isinstance(each, Pending) and each.withdrawn for each in self._inner)

    def _resume(self, outcome: object, now: float) -> None:
        """Go on with the outcome of what was yielded last, or with the error it was refused with."""
        try:
            wanted = self._send(outcome)
        except StopIteration as end:
            self._end(Said(end.value, self._delivery))
        except Exception as error:  # it must not end the step that has brought the news
            self._fail(error)
        else:
            self._go_on(wanted, now)

    def _send(self, outcome: object) -> Operation | Sequence[Operation]:
        if isinstance(outcome, Exception):
            return self._steps.throw(outcome)
        if isinstance(outcome, Delivery):
            self._delivery = outcome
        return self._steps.send(outcome)

    def _go_on(self, wanted: Operation | Sequence[Operation], now: float) -> None:
        """Perform what the action has yielded, until an outcome is to come, or it is answered."""
        try:
            while True:
                alone = not isinstance(wanted, Sequence)
                operations = [wanted] if not isinstance(wanted, Sequence) else wanted
                self._inner = [_begun(each, self._how, now) for each in operations]
                if self._waits(alone=alone):
                    return
                wanted = self._send(self._inner[0] if alone else self._inner)
        except StopIteration as end:
            self._end(Said(end.value, self._delivery))
        except Exception as error:
            self._fail(error)

    def _end(self, said: Said) -> None:
        self._outcome = said
        self._inner = []
        self._done = True

    def _fail(self, error: Exception) -> None:
        known = isinstance(error, (SqsError, ZapqError))
        self._error = error.with_traceback(None) if known else error  # what is unknown is logged with all of it
        given, self._delivery = self._delivery, None
        give_back(given)
        self._inner = []
        self._done = True

    def _waits(self, *, alone: bool) -> bool:
        """Whether an outcome is to come; then the talk goes on by itself when all are known."""
        self._left = 1  # so that it does not go on in the middle of this
        for at, each in enumerate(self._inner):
            if isinstance(each, Pending):
                self._left += 1
                each.when_done(partial(self._note, at, each, alone))
        self._left -= 1
        return self._left > 0

    def _note(self, at: int, pending: Pending[Any], alone: bool) -> None:
        self._left -= 1
        try:
            self._inner[at] = pending.result()
        except ZapqError as error:
            self._inner[at] = error.with_traceback(None)
        if self._left or self._abandoned:
            return
        inner, self._inner = self._inner, []
        self._resume(inner[0] if alone else inner, self._clock())
        if self._done:
            self.finish()

    def _give_up(self) -> None:
        self._abandoned = True
        for each in self._inner:
            if isinstance(each, Pending):
                each.abandon()
        # Also while it asks for more, with messages in its hands.
        give_back(self._delivery)
        self._steps.close()

    def withdraw(self) -> bool:
        """Undo the request if nothing has happened yet, and return whether that was so."""
        [*waited_for] = (each for each in self._inner if isinstance(each, Pending))
        return len(self._inner) == 1 and len(waited_for) == 1 and waited_for[0].withdraw()
