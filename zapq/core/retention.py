"""How long a queue keeps messages, counted from when they arrived.

No message has a timer. Messages of a queue stand in the order in which they arrived, so only the first of each
line is looked at. That is done when a consumer asks, and when the first one will have been there too long. One
that arrived before its queue had a retention does not say when: it counts from when the queue was given one.
"""

from __future__ import annotations

import msgspec

from zapq.core.message import Properties
from zapq.core.queue_settings import QueueSettings


class Retention:
    """The retention of one queue."""

    __slots__ = ("_before", "_noted", "seconds", "since")

    def __init__(self, seconds: float, since: float) -> None:
        self.seconds = seconds
        self.since = since
        """When messages arrived of which that is not known."""
        self._before = self._noted = Properties()
        """The last properties in which an arrival was noted, before and after: many messages share theirs."""

    @classmethod
    def of(cls, settings: QueueSettings, before: Retention | None, now: float) -> Retention | None:
        """Return the retention that `settings` give a queue that had the one `before`; None if they give none."""
        if settings.retention is None:
            return None
        return cls(settings.retention, now if before is None else before.since)

    def noted(self, properties: Properties, now: float) -> Properties:
        """Return these properties of a message that arrives now, with that noted in them."""
        if properties is self._before and self._noted.arrived == now:
            return self._noted
        self._before = properties
        self._noted = noted = msgspec.structs.replace(properties, arrived=now)
        return noted

    def end_of(self, properties: Properties) -> float:
        """Return when a message has been held too long."""
        return (properties.arrived or self.since) + self.seconds
