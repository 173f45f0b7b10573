"""Which failures pass, and how long to pause before the next attempt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zapq.errors import OutcomeUnknown, ServerError, ZapqError
from zapq.limits import CLIENT_BACKOFF, CLIENT_MAX_BACKOFF

_REFUSING = {429, 503}
"""Answers of a server that has not acted on the request, if they are zapq's; `Unreachable` counts as one."""
_PASSING = _REFUSING | {502, 504}
"""Answers that may be others in a moment; `NoAnswer` counts as one."""


def passes(error: ZapqError) -> bool:
    """Whether the same request may succeed in a moment."""
    return error.status in _PASSING


def nothing_done(error: ZapqError) -> bool:
    """Whether the server has not acted on the request.

    Only zapq can say so. A proxy may answer 503 because the server went away after it had acted.
    """
    return error.status in _REFUSING and not isinstance(error, (ServerError, OutcomeUnknown))


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a request is sent, and how long the pauses between are."""

    attempts: int
    random: Callable[[], float]
    """Gives numbers from 0 to 1."""

    def allows(self, error: ZapqError, failures: int, *, repeatable: bool) -> bool:
        """Whether to send a request again that has failed `failures` times, now with `error`.

        `repeatable` says that it does no harm if the server has acted on it before.
        """
        return failures < self.attempts and (nothing_done(error) or (repeatable and passes(error)))

    def pause(self, error: ZapqError, failures: int) -> float:
        """Return the seconds to pause after `failures` failures, the last being `error`.

        Full jitter (uniform from 0 to a limit that doubles) keeps clients that failed together from coming back
        together. The server's Retry-After is the least, and the jitter comes on top of it.
        """
        # Bounded, for a power of two outgrows every float.
        limit = min(CLIENT_BACKOFF * 2.0 ** min(failures - 1, 30), CLIENT_MAX_BACKOFF)
        return (error.retry_after or 0) + limit * self.random()
