"""The leases of a consumer as values: which wait, which are worked on, which are to be extended.

For consumers of tasks and of threads alike. Nothing here waits, has a clock or sends anything.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import Generic, Protocol, TypeVar

from zapq.client.lease import Lease
from zapq.client.retry import Retry, passes
from zapq.core.settlement import Settlement
from zapq.errors import InvalidParameter, ZapqError
from zapq.limits import EXTENSIONS, MAX_BATCH, MAX_DELAY

log = logging.getLogger("zapq.client")


class Processing(Protocol):
    """A span around the work on a message."""

    def end(self, error: BaseException | None) -> None:
        """End it, with what ended the work if it failed; the second time nothing happens."""


class Held:
    """A lease that is kept until it is settled, with the attributes of the lease."""

    __slots__ = ("_again", "_deadline", "_failures", "_handed", "_lost", "_processing", "_settling", "lease")

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self._lost = False
        self._settling = False
        """Whether it is being settled, or is: then it needs no more extending."""
        self._handed = False
        """Whether a task or thread has it."""
        self._again = self._deadline = math.inf
        """When it is to be extended, and when it is over if it was not."""
        self._failures = 0
        """How often extending it has failed in a row."""
        self._processing: Processing | None = None
        """The span around the work on it, if the program traces."""

    @property
    def lost(self) -> bool:
        """Whether the lease ended before it was settled."""
        return self._lost

    @property
    def id(self) -> int:
        """The message's id."""
        return self.lease.id

    @property
    def queue(self) -> str:
        """The queue it came from."""
        return self.lease.queue

    @property
    def receipt(self) -> str:
        """The handle by which the server knows the lease."""
        return self.lease.receipt

    @property
    def receive_count(self) -> int:
        """How often the message has been leased, this time included."""
        return self.lease.receive_count

    @property
    def content_type(self) -> str:
        """The Content-Type its producer gave."""
        return self.lease.content_type

    @property
    def headers(self) -> Mapping[str, str]:
        """What its producer said of it, by name in lower case."""
        return self.lease.headers

    @property
    def group(self) -> str:
        """The group within which messages are delivered in strict order; empty if it is in none."""
        return self.lease.group

    @property
    def origin(self) -> str:
        """The queue its producer sent it to, and its id there: `queue/id`, if it has changed queues since."""
        return self.lease.origin

    @property
    def body(self) -> bytes:
        """The message's bytes."""
        return self.lease.body


def acknowledging(held: Held) -> Settlement:
    """Return what acknowledges a message."""
    return Settlement(receipt=held.lease.receipt)


def releasing(held: Held, delay: float = 0.0) -> Settlement:
    """Return what gives a message back; raises `InvalidParameter`."""
    # A batch with one that is wrong is refused as a whole.
    if not 0 <= delay <= MAX_DELAY:
        raise InvalidParameter(f"delay must be 0 to {MAX_DELAY:.0f} seconds.", parameter="delay")
    return Settlement(receipt=held.lease.receipt, action="release", delay=delay)


H = TypeVar("H", bound=Held)


class Holding(Generic[H]):
    """What a consumer holds: up to `concurrency` messages that are not settled, and `prefetch` more.

    The server gives several messages of a group at once only to one that deals with them in order. So of those
    that are held of a group, the first alone is ready. The next one follows when the first is acknowledged; if it
    is not, all behind it go back, to be given again after it.
    """

    def __init__(self, concurrency: int, prefetch: int, visibility: float) -> None:
        if concurrency < 1 or prefetch < 0:
            raise InvalidParameter(
                "concurrency must be 1 or more, and prefetch 0 or more.", parameter="concurrency"
            )
        if not visibility > 0:
            raise InvalidParameter("visibility must be more than 0.", parameter="visibility")
        self.visibility = visibility
        self._limit = concurrency + prefetch
        self.held: dict[H, None] = {}
        """Those that are neither settled nor lost, in the order in which they came."""
        self.ready: deque[H] = deque()
        """Those of them that a handler may have now."""
        self._lines: dict[str, deque[H]] = {}
        """Those of each group, in order: the first is ready, or a handler has it; the others wait for that."""
        self._grouped: bool | None = None
        """Whether messages of groups have come; None as long as none has come at all."""
        self.busy = 0
        """How many of them handlers have that are not being settled."""

    def room(self) -> int:
        """Return how many messages to ask for now."""
        # One that is taken from many that are ready is no reason to ask for one more.
        if len(self.ready) > self._limit // 2:
            return 0
        # One by one, the server itself gives none behind another one of its group; and what must go back, because
        # one before it failed, has been delivered once more for nothing.
        return min(self._limit - len(self.held), MAX_BATCH if self._grouped is False else 1)

    def add(self, held: H, now: float) -> None:
        """Hold one more, leased now."""
        held._again, held._deadline = now + self.visibility / EXTENSIONS, now + self.visibility
        self.held[held] = None
        self._grouped = self._grouped or bool(held.group)
        if held.group:
            line = self._lines.setdefault(held.group, deque())
            line.append(held)
            if len(line) > 1:
                return
        self.ready.append(held)

    def take(self) -> H:
        """Hand out the first one that is ready; there must be one."""
        held = self.ready.popleft()
        held._handed = True
        self.busy += 1
        return held

    def take_back(self) -> list[H]:
        """Return those that no handler has, which are to be released: none of them is handed out any more."""
        waiting = [*self.ready, *(held for line in self._lines.values() for held in islice(line, 1, None))]
        self.ready, self._lines = deque(), {}
        return waiting

    def settle(self, held: H) -> bool:
        """Take note that one is being settled; return whether nothing that could go with it is under way."""
        if not held._settling:
            held._settling = True
            self.busy -= held._handed
        return not self.busy

    def finish(self, held: H, *, acknowledged: bool) -> list[H]:
        """Hold one no longer that is settled; return those behind it, which are to be released if it goes back."""
        self.held.pop(held, None)
        line = self._lines.get(held.group)
        if not (acknowledged and line and line[0] is held):
            return self._cut_off(held)
        line.popleft()
        if line:
            self.ready.append(line[0])
        else:
            del self._lines[held.group]
        return []

    def lose(self, held: H) -> list[H]:
        """Take note that one is over, and hold it no longer; return those behind it, which are to be released."""
        held._lost = True
        if held._handed:
            self.busy -= 1
        elif held in self.ready:
            self.ready.remove(held)
        self.held.pop(held)
        return self._cut_off(held)

    def _cut_off(self, held: H) -> list[H]:
        """Take one out of the line of its group, with all behind it, and return these."""
        line = self._lines.get(held.group)
        if line is None or held not in line:
            return []
        behind: list[H] = []
        while (last := line.pop()) is not held:
            behind.append(last)
        if not line:
            del self._lines[held.group]
        return behind[::-1]

    def due(self, now: float) -> tuple[list[H], list[tuple[H, Settlement]], float]:
        """Return those that are over, those to be extended now and how, and when to look again.

        The first are to be given to `lose`, unless they are being settled by then, and what comes of the second to
        `extended`.
        """
        lost: list[H] = []
        extensions: list[tuple[H, Settlement]] = []
        # What comes meanwhile need not be extended before.
        next_look = now + self.visibility / EXTENSIONS
        for held in self.held:
            if held._settling:
                continue
            if held._deadline <= now:
                lost.append(held)
                continue
            if held._again <= now:
                held._again = math.inf
                extensions.append((
                    held,
                    Settlement(receipt=held.receipt, action="extend", visibility=self.visibility),
                ))
            next_look = min(next_look, held._again, held._deadline)
        return lost, extensions, next_look

    def extended(self, held: H, since: float, now: float, error: ZapqError | None, retry: Retry) -> bool:
        """Take note of what came of extending one at `since`, and return whether it is lost."""
        if held._settling or held._lost:
            return False
        if error is None:
            held._failures = 0
            held._again, held._deadline = since + self.visibility / EXTENSIONS, since + self.visibility
            return False
        if not passes(error):
            return True
        held._failures += 1
        # However long the server asks to wait: while there is a lease.
        held._again = now + min(retry.pause(error, held._failures), (held._deadline - now) / 2)
        log.warning("message %d of %s was not extended: %s", held.id, held.queue, error.detail)
        return False
