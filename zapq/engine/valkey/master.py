"""One server of the engine: its connection, the batch that is under way to it, and the next one, which gathers.

At any time at most one batch is under way. What becomes of it is told by its replies, or by the end of the
connection: then what may be done twice is done again, and the rest is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import trio

from zapq import logs
from zapq.engine.valkey.asked import Asked
from zapq.engine.valkey.batch import Gathering, Key
from zapq.engine.valkey.call import AGAIN, Call
from zapq.engine.valkey.connection import Connection, ConnectionLost, Server
from zapq.engine.valkey.counts import Counts
from zapq.engine.valkey.failures import Failure, failure_of, redirected_to
from zapq.engine.valkey.poller import Poller
from zapq.engine.valkey.replies import no_memory
from zapq.engine.valkey.resp import ReplyError, pack
from zapq.errors import ZapqError
from zapq.limits import ENGINE_ANSWER_SECONDS, ENGINE_PAUSE, REPLICAS_SECONDS
from zapq.service.operations import Accepted, Delivery, Describe, Durability, Find, Nothing, Peek, Take
from zapq.service.pending import give_back

_ASKING = pack("ASKING")
_LOOKS = frozenset({Peek, Find, Describe})
_MILLISECONDS = int(REPLICAS_SECONDS * 1000)
WAITS: dict[str, list[bytes]] = {
    "memory": [],
    "replicated": [pack("WAIT", 1, _MILLISECONDS)],
    # WAITAOF alone takes a second: its first question to the replica goes out before that has synced.
    "committed": [pack("WAIT", 1, _MILLISECONDS), pack("WAITAOF", 1, 1, _MILLISECONDS)],
    "committed alone": [pack("WAITAOF", 1, 0, _MILLISECONDS)],
}
"""What is asked behind a batch that changes something, by what that must have reached."""


class Sent(NamedTuple):
    """A call that is under way."""

    call: Call
    asked: Sequence[Asked]
    at: int
    """Which reply of its batch is its."""
    key: Key


class Owner(Protocol):
    """What a master has done by the engine it belongs to."""

    @property
    def counts(self) -> Counts:
        """What is counted of all servers."""

    def calls(self, key: Key, asked: Sequence[Asked]) -> list[tuple[Call, Sequence[Asked]]]:
        """Return the calls that do what was asked, in order."""

    def route(self, key: Key, asked: Sequence[Asked], *, first: bool = False) -> None:
        """Have operations done by the server that has their shard now."""

    def redirect(self, slot: int, server: Server, *, for_good: bool) -> Master:
        """Take note that a slot is at `server`, and return that."""

    def note_trouble(self) -> None:
        """Take note that servers may have changed their parts."""

    def note_reply(self, call: Call, reply: Any) -> None:
        """Take note of what a reply says beside the outcomes."""

    def note_empty(self) -> None:
        """Count a consumer that gets nothing."""

    def note_uncertain(self, number: int) -> None:
        """Count messages that were given for good, and may not have arrived."""


class Master:
    """A server that has shards."""

    def __init__(
        self, server: Server, owner: Owner, poller: Poller, durability: str, on_lost: Callable[[], object]
    ) -> None:
        self.server = server
        self.gathering = Gathering()
        self.connection: Connection | None = None
        self.problem = "it is not connected yet"
        self.durability = durability
        self._owner = owner
        self._counts = owner.counts
        self._on_lost = on_lost
        self._poller = poller
        self._epoch = b""
        self._sent: list[Sent] = []
        self._expected = 0
        self._waits = 0
        """How many of the expected replies are to what waits for replicas."""
        self._replies: list[Any] = []
        self._sent_at = 0.0
        self._refused = ""
        """Why it did nothing of the last batch for now, as one that is loading."""
        self._rests_until = 0.0

    @property
    def busy(self) -> bool:
        """Whether something is under way, or gathers."""
        return bool(self._sent or self.gathering)

    def use(self, connection: Connection, epoch: bytes) -> None:
        """Send batches over this connection from now on; `epoch` tells runs of the server's data apart."""
        self.connection = connection
        self.problem = ""
        self._epoch = epoch
        self.flush()

    def flush(self) -> None:
        """Send the next batch, unless one is under way."""
        if self._sent or not self.gathering or self.connection is None:
            return
        now = trio.current_time()
        if now < self._rests_until:
            return
        connection, data = self.connection, []
        at, changes = 0, False
        for key, group in self.gathering.cut():
            try:
                calls = self._owner.calls(key, group)
            except Exception as error:
                self._fail(group, error)
                continue
            for call, asked in calls:
                if asked[0].asking:
                    data.append(_ASKING)
                    at += 1
                data.append(call.packed(self._epoch))
                self._sent.append(Sent(call, asked, at, key))
                at += 1
                self._counts.operations += len(asked)
                changes = changes or _changes(asked[0].operation)
        if not self._sent:
            return
        waits = WAITS[self.durability] if changes else []
        data += waits
        self._waits = len(waits)
        self._expected = at + len(waits)
        self._sent_at = now
        self._counts.round_trips += 1
        self._counts.calls += len(self._sent)
        try:
            connection.send(b"".join(data))
        except ConnectionLost as error:
            self.lose(str(error))
            return
        if connection.stuck:
            self._poller.note_stuck(connection)

    def receive(self) -> None:
        """Take in what has arrived, and have everything done whose outcome is known by that."""
        connection = self.connection
        if connection is None:
            return
        try:
            if connection.stuck:
                connection.flush()
                self._poller.note_stuck(connection)
            self._replies += connection.receive()
        except ConnectionLost as error:
            self.lose(str(error))
            return
        if len(self._replies) < self._expected:
            return
        if len(self._replies) > self._expected:
            # Which of them answers which call is not known.
            self._replies = []
            self.lose("it answers more than it was asked")
        elif self._sent:
            sent, replies = self._sent, self._replies
            first_wait = self._expected - self._waits
            self._sent, self._replies, self._expected, self._refused = [], [], 0, ""
            self._counts.wait_seconds += trio.current_time() - self._sent_at
            self._settle_all(sent, replies, _reached(replies[first_wait:], self.durability))

    def lose(self, reason: str) -> None:
        """Give the connection up: what was sent is done again, if it may be, or not known."""
        connection, self.connection = self.connection, None
        if connection is None:
            return
        self._poller.discard(connection)
        self.problem = reason
        self._on_lost()
        sent, replies = self._sent, self._replies
        self._sent, self._replies, self._expected = [], [], 0
        answered = [each for each in sent if each.at < len(replies)]
        # In front of what gathers, in their order: so the last first.
        for each in reversed(sent[len(answered) :]):
            self._repeat(each.key, each.asked, reason)
        self._settle_all(answered, replies, not self._waits)
        self._owner.note_trouble()

    def look(self, now: float) -> None:
        """See to what has waited for too long."""
        if self._sent and now > self._sent_at + ENGINE_ANSWER_SECONDS:
            self.lose(f"it did not answer within {ENGINE_ANSWER_SECONDS:g} s")
        if self.gathering:
            reason = self.problem or self._refused or "it does not keep up"
            for asked in self.gathering.drop(lambda each: now > each.until):
                self._counts.give_up(asked, f"{self.server}: {reason}")
            self.flush()

    def _settle_all(self, sent: Sequence[Sent], replies: Sequence[Any], reached: bool) -> None:
        again: list[tuple[Key, list[Asked]]] = []
        for each in sent:
            reply = replies[each.at]
            if isinstance(reply, ReplyError):
                self._refuse(each, reply)
                continue
            try:
                outcomes = each.call.outcomes(reply, self._sent_at)
                if isinstance(each.asked[0].operation, Call):
                    outcomes = [outcomes]
                if len(outcomes) != len(each.asked):
                    raise ValueError(f"{len(outcomes)} outcomes of {len(each.asked)} operations")
                self._owner.note_reply(each.call, reply)
            except Exception as error:
                self._fail(each.asked, error)
                continue
            later: list[Asked] = []
            for asked, outcome in zip(each.asked, outcomes, strict=True):
                if outcome is AGAIN:
                    later.append(asked)
                elif outcome.__class__ is Accepted and reached:
                    asked.complete(outcome)
                elif reached or not _counts(asked.operation, outcome):
                    if outcome.__class__ is Nothing and not asked.operation.wait:
                        self._owner.note_empty()
                    asked.settle(outcome)
                else:
                    self._not_replicated(each.key, asked, outcome)
            if later:
                again.append((each.key, later))
        for key, some in reversed(again):
            self.gathering.put_back(key, some)

    def _refuse(self, sent: Sent, error: ReplyError) -> None:
        """See to calls that were refused before they did anything."""
        failure = failure_of(error)
        self._counts.refusals += 1
        owner = self._owner
        reason = f"{self.server}: {error.code}"
        match failure:
            case Failure.MOVED | Failure.ASK:
                slot, host, port = redirected_to(error, self.server.host)
                moved = failure is Failure.MOVED
                master = owner.redirect(slot, Server(host, port), for_good=moved)
                for asked in sent.asked:
                    asked.asking = not moved
                if moved:
                    self._try_again(sent, reason)
                else:
                    # The server it is asked now says where it is the next time.
                    live = self._live(sent.asked, reason)
                    if live:
                        master.gathering.put_back((*sent.key[:2], "asking"), live)
                        master.flush()
            case Failure.LATER:
                self._refused = error.code
                self.rest()
                owner.note_trouble()
                self._try_again(sent, reason)
            case Failure.LOST | Failure.LIBRARY:
                self._try_again(sent, reason)
                self.lose(str(error))
            case Failure.FULL:
                for asked in sent.asked:
                    asked.fail(no_memory())
            case Failure.BROKEN:
                logs.log.error("engine failed", exc_info=error)
                for asked in sent.asked:
                    self._counts.leave_unknown(asked, f"{self.server}: the function failed")

    def _try_again(self, sent: Sent, reason: str) -> None:
        self._owner.route(sent.key, self._live(sent.asked, reason), first=True)

    def _repeat(self, key: Key, asked: Sequence[Asked], reason: str) -> None:
        """Do again what was sent without an answer, as far as that does no harm."""
        again: list[Asked] = []
        now = trio.current_time()
        for each in asked:
            each.maybe_done = True
            if each.repeatable and now < each.repeat_until:
                again.append(each)
                continue
            operation = each.operation
            if isinstance(operation, Take) and not operation.want.lease:
                self._owner.note_uncertain(operation.want.limit)
            self._counts.leave_unknown(each, f"{self.server}: {reason}")
        if again:
            self._owner.route(key, again, first=True)

    def rest(self) -> None:
        """Send nothing for a moment."""
        self._rests_until = trio.current_time() + ENGINE_PAUSE

    def _not_replicated(self, key: Key, asked: Asked, outcome: object) -> None:
        """See to something that was done, and has not reached the replicas it must reach."""
        if isinstance(outcome, Delivery):
            # A consumer can have it once it is where it was.
            give_back(outcome)
        alone = self.durability == "committed alone"
        reason = f"{self.server}: {'its disk has not confirmed it' if alone else 'too few replicas have it'}"
        if asked.repeatable and trio.current_time() < asked.until:
            asked.maybe_done = True
            self.rest()
            self._owner.route(key, [asked], first=True)
        else:
            self._counts.leave_unknown(asked, reason)

    def _live(self, asked: Sequence[Asked], reason: str) -> list[Asked]:
        """Return those for which there is time to try again; the others are given up."""
        now = trio.current_time()
        live: list[Asked] = []
        for each in asked:
            if now < each.until:
                live.append(each)
            else:
                self._counts.give_up(each, reason)
        return live

    def _fail(self, asked: Sequence[Asked], error: Exception) -> None:
        """Let operations fail that we could not say, or whose answer we could not read."""
        logs.log.error("engine failed", exc_info=error)
        for each in asked:
            if isinstance(error, ZapqError):
                each.fail(error)
            else:
                self._counts.leave_unknown(each, "its answer could not be read")


def _changes(operation: object) -> bool:
    """Whether an operation may do something that must reach the replicas before it is answered.

    So must a lease: if it were lost in a failover, another consumer would get the message within it.
    """
    if isinstance(operation, Call):
        return not operation.looks
    return operation.__class__ not in _LOOKS


def _counts(operation: object, outcome: object) -> bool:
    """Whether something was changed that must have reached the replicas."""
    return not isinstance(outcome, ZapqError | Nothing) and _changes(operation)


def _reached(replies: Sequence[Any], durability: str) -> bool:
    """Whether what is behind a batch says that enough have it."""
    for each in replies:
        numbers = each if isinstance(each, list) else [each]
        if durability == "committed alone":
            numbers = numbers[:1]  # the second one counts replicas
        if not numbers or not all(isinstance(number, int) and number >= 1 for number in numbers):
            return False
    return True


def durability_said(durability: str) -> Durability:
    """Return what is said of a message that was accepted."""
    return "committed" if durability.startswith("committed") else durability  # type: ignore[return-value]
