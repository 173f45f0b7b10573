"""What is on its way to the engine: what comes of it, how long it is tried, and what may be done again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zapq.errors import OutcomeUnknown, ReceiptExpired, StorageUnavailable, ZapqError
from zapq.limits import ENGINE_OPERATION_BYTES, ENGINE_REPEAT_SECONDS, ENGINE_RETRY_SECONDS
from zapq.service.operations import (
    Describe,
    Find,
    Hide,
    Peek,
    Put,
    Remove,
    SetPaused,
    Settle,
    Settlement,
    SettleOne,
    Take,
)
from zapq.service.pending import Told, give_back

_REPEATABLE = frozenset({Settle, SettleOne, Remove, Hide, Peek, Find, Describe, SetPaused})
"""Operations that may be done twice: the second time changes nothing, or what the first one set."""
PLAIN: dict[type[Any], bool] = {Take: False, SettleOne: True}
"""Operations of which nothing but the queue's name is to be checked, and whether they may be done twice."""


class Asked(Told[Any]):
    """An operation that travels, or one call of a function. It is completed once."""

    __slots__ = (
        "_abandoned",
        "asked_at",
        "asking",
        "maybe_done",
        "operation",
        "repeatable",
        "shard",
        "size",
    )

    def __init__(self, operation: Any, shard: int, size: int, now: float, *, repeatable: bool) -> None:
        # Not by `super`: this is done for each request.
        self._done = self._abandoned = False
        self._call: Callable[[], object] | None = None
        self._outcome = self._error = None
        self.operation = operation
        """What is asked: an operation, or a call as it is sent."""
        self.shard = shard
        self.size = size
        self.repeatable = repeatable
        self.maybe_done = False
        """Whether it has been sent without an answer."""
        self.asking = False
        """Whether the next server is asked although its queue is just being moved there."""
        self.asked_at = now

    @property
    def repeat_until(self) -> float:
        """How long it is repeated if it has been sent without an answer, as a time of Trio's clock."""
        return self.asked_at + ENGINE_REPEAT_SECONDS

    @property
    def until(self) -> float:
        """How long it is tried, as a time of Trio's clock."""
        return self.asked_at + (ENGINE_REPEAT_SECONDS if self.maybe_done else ENGINE_RETRY_SECONDS)

    def complete(self, outcome: object) -> None:
        """Let this be the outcome."""
        if self._abandoned:
            give_back(outcome)
        else:
            self._outcome = outcome
        # As `finish`, without the call.
        self._done = True
        call = self._call
        if call is not None:
            self._call = None
            call()

    def fail(self, error: Exception) -> None:
        """Let this be what refuses it."""
        if not self._abandoned:
            self._error = error
        self.finish()

    def settle(self, outcome: object) -> None:
        """Let this be what comes of it: an outcome, or the `ZapqError` that refuses it."""
        if self.maybe_done:
            outcome = _excused(self.operation, outcome)
        if isinstance(outcome, ZapqError):
            self.fail(outcome)
        else:
            self.complete(outcome)

    def give_up(self, reason: str) -> None:
        """Let it be refused: the engine has not done it, or has not said whether it has."""
        if self.maybe_done:
            self.fail(unknown(reason))
        else:
            self.fail(unavailable(reason))

    def withdraw(self) -> bool:
        """Undo the request, and return whether it is known already that nothing has happened."""
        if isinstance(self.operation, Take):
            self.abandon()  # what it is given goes back to its place
            return True
        return False

    def _give_up(self) -> None:
        if self.done:
            give_back(self._outcome)
            self._outcome = None
        self._abandoned = True


def _excused(operation: Any, outcome: Any) -> Any:
    """Return the outcome of something that was sent twice. A release that is over was ours, the first time."""
    if isinstance(operation, SettleOne):
        return None if _is_ours(operation.settlement, outcome) else outcome
    if isinstance(operation, Settle) and isinstance(outcome, list):
        return [
            None if _is_ours(settlement, each) else each
            for settlement, each in zip(operation.settlements, outcome, strict=True)
        ]
    return outcome


def _is_ours(settlement: Settlement, outcome: object) -> bool:
    return settlement.action == "release" and isinstance(outcome, ReceiptExpired)


def may_repeat(operation: Any) -> bool:
    """Whether an operation may be done twice without harm."""
    kind = operation.__class__
    return kind in _REPEATABLE or (kind is Put and operation.key != "")


def size_of(operation: Any) -> int:
    """Return the bytes an operation counts as."""
    kind = operation.__class__
    if kind is Put:
        content = operation.content
        if isinstance(content, bytes):
            return ENGINE_OPERATION_BYTES + len(content) + int(operation.terms.properties.size)
        return ENGINE_OPERATION_BYTES + sum(
            ENGINE_OPERATION_BYTES // 8 + (len(each) if isinstance(each, bytes) else each.size) for each in content
        )
    if kind is Settle:
        return ENGINE_OPERATION_BYTES + 64 * len(operation.settlements)
    return ENGINE_OPERATION_BYTES


def unavailable(reason: str) -> StorageUnavailable:
    """Return what a client is told of an engine that has done nothing."""
    return StorageUnavailable(
        f"The engine that has the queues cannot be used: {reason}. Nothing was changed. Send the request again"
        " after Retry-After seconds."
    )


def unknown(reason: str) -> OutcomeUnknown:
    """Return what a client is told of an engine that may have done what was asked."""
    return OutcomeUnknown(
        f"The engine that has the queues did not say whether it has done this ({reason}): it may or may not have"
        " taken effect. Send the request again with the same Idempotency-Key, or without one only if doing it"
        " twice is harmless."
    )
