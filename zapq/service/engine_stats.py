"""What a front end has seen of an engine elsewhere."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counts of one front end since its start, and how its engine is now."""

    servers: str
    """The addresses of its masters."""
    durability: str
    """What a change has reached before it is answered."""
    masters: int
    reachable: float
    """The part of all queues whose masters are connected, from 0 to 1."""
    round_trips: int
    """Batches that were sent."""
    calls: int
    """Calls of functions in them ..."""
    operations: int
    """... which had merged so many operations."""
    wait_seconds: float
    """All round trips together."""
    refusals: int
    """Calls that a server has refused: moved, loading, full."""
    reconnects: int
    outcomes_unknown: int
    """Operations of which is not known whether they were done."""
    figures_age: float
    """Seconds since the engine was asked what the queues hold."""
