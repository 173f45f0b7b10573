"""What a front end counts of its engine."""

from __future__ import annotations

from dataclasses import dataclass

from zapq.engine.valkey.asked import Asked, unknown


@dataclass(slots=True)
class Counts:
    """What only grows, of all servers together."""

    round_trips: int = 0
    calls: int = 0
    operations: int = 0
    wait_seconds: float = 0.0
    refusals: int = 0
    reconnects: int = 0
    outcomes_unknown: int = 0

    def give_up(self, asked: Asked, reason: str) -> None:
        """Let an operation be refused that was tried for long enough: it is not done, or that is not known."""
        self.outcomes_unknown += asked.maybe_done
        asked.give_up(reason)

    def leave_unknown(self, asked: Asked, reason: str) -> None:
        """Let it be said of an operation that it may or may not have been done."""
        self.outcomes_unknown += 1
        asked.fail(unknown(reason))
