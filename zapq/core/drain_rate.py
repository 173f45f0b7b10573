"""When a producer that was refused should come back: measured, not guessed."""

from __future__ import annotations

from math import ceil

from zapq.limits import DRAIN_WINDOW, MAX_RETRY_AFTER, MIN_RETRY_AFTER


class DrainRate:
    """How fast a queue gives its messages away, from what is known when a producer is refused.

    It is only asked then, and costs nothing while none is. What it compares with is how many messages had gone
    at an earlier refusal, or when the queue was made.
    """

    __slots__ = ("_at", "_base")

    def __init__(self, now: float) -> None:
        self._base = self._at = (now, 0)

    def retry_after(self, excess: float, gone: int, now: float) -> int:
        """Return the whole seconds in which `excess` more messages will have gone, if it goes on as lately.

        `gone` is how many have gone so far. Between `MIN_RETRY_AFTER` and `MAX_RETRY_AFTER`. When none has gone
        lately, no rate is known, and the answer is the former: there may be room in a moment, and a producer that
        sleeps for a minute then stalls; asking again is cheap.
        """
        if now - self._at[0] >= DRAIN_WINDOW:
            # The base moves on in strides, so that the rate is always over one to two of them.
            self._base, self._at = self._at, (now, gone)
        since, before = self._base
        seconds, messages = now - since, gone - before
        if messages <= 0:
            return MIN_RETRY_AFTER
        return min(max(ceil(excess * seconds / messages), MIN_RETRY_AFTER), MAX_RETRY_AFTER)
