"""The port every dialect speaks to: operations go in, their outcomes come out, and nothing blocks.

The caller does not know where the queues are: in this process, or in another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from zapq.service.operations import Nothing, Operation
from zapq.service.reservation import Reservation


class Outcomes(Protocol):
    """How outcomes arrive that were `Pending`."""

    def fileno(self) -> int:
        """Return the descriptor that is readable when there are some."""

    def answer(self) -> None:
        """Have every `Pending` done whose outcome has arrived; no checkpoint."""


class Engine(Protocol):
    """Queues, asked by values."""

    @property
    def how(self) -> Mapping[type[Any], Callable[[Any, float], Any]]:
        """What `perform` calls for each kind of operation.

        Looking it up is half the price of calling `perform`, and the fast road does that for each request.
        """

    def perform(self, operation: Operation, now: float) -> Any:
        """Do what is asked at the time `now` of Trio's clock; return the outcome, or `Pending` if that is to come.

        Raises what refuses it, a `ZapqError`; then nothing has changed. No checkpoint.
        """

    def turn(self) -> AbstractContextManager[None]:
        """Have all that is asked in this block travel, or be written, together at its end."""

    def watched(self) -> AbstractContextManager[Outcomes | None]:
        """Have the caller see to outcomes in this block; None if all of them arrive by themselves."""

    def check_open(self) -> None:
        """Raise `Draining` if new messages are refused, as far as that is known here."""

    def drain(self) -> None:
        """Refuse new messages from now on, and answer all that wait."""

    def reservation(self, queue: str) -> Reservation:
        """Return a reservation, of no bytes yet, for a message that is being received for the queue `queue`."""

    def nothing(self, queue: str) -> Nothing:
        """Count a consumer that has left its line, and say why it gets nothing. Raises `Draining`."""
