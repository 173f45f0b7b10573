"""Asks the library in a real server, through the codec, as a front end would: but one call after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from tests.engine.valkey.servers import Connection
from zapq.core.message import Lease
from zapq.core.queue_settings import QueueSettings
from zapq.engine.valkey import keys, procedures
from zapq.engine.valkey.bounds import MAX_WEIGHT, Caps, weight_of
from zapq.engine.valkey.call import AGAIN, Call, outbox_waits
from zapq.engine.valkey.codec import Codec, Waiting
from zapq.engine.valkey.procedures import Procedure
from zapq.errors import ZapqError
from zapq.service.operations import (
    Configure,
    Delivery,
    Durability,
    Enqueue,
    Operation,
    Settle,
    Settlement,
    SettleOne,
    Take,
)
from zapq.service.waiting import Deliveries, Want

PLENTY = Caps(10**6, 2**40, 10**6)
AHEAD = 1_000_000
"""Milliseconds for which the server's clock is ahead."""
LEASE = Want(1, True, 10.0)
MANY = Want(1000, True, 10.0)
EPOCH = b"\1\2\3\4\5\6"


class Swept(NamedTuple):
    """What comes of a sweep."""

    outboxes: list[str]
    """Queues with messages for other queues."""
    more: bool
    """Whether there is more to do now."""


def sweep(codec: Codec, shards: Sequence[int]) -> Procedure:
    """Do what is due in queues that no consumer waits in; returns `Swept`."""
    outcomes = yield [procedures.look_at_shard(codec, shard) for shard in shards]
    due = [name.decode() for [found] in outcomes if not isinstance(found, ZapqError) for name in found]
    more = any(not isinstance(found, ZapqError) and len(found) == procedures.SWEPT_AT_ONCE for [found] in outcomes)
    if not due:
        return Swept([], False)
    outcomes = yield [procedures.do_what_is_due(codec, name) for name in due]
    outboxes = []
    for name, [said] in zip(due, outcomes, strict=True):
        if not isinstance(said, ZapqError):
            more = more or said[2] == 1
            if said[1]:
                outboxes.append(name)
    return Swept(outboxes, more)


class Driver:
    """One front end, in the time that `clock` says, in seconds."""

    def __init__(
        self,
        connection: Connection,
        clock: Callable[[], float],
        *,
        caps: Caps = PLENTY,
        max_message_bytes: int = 2**24,
        name: str = "f1",
        durability: Durability | None = None,
    ) -> None:
        self.connection = connection
        self.clock = clock
        self.epoch = EPOCH
        self.replies: list[Any] = []
        """The latest."""
        self.flushes = True
        """Whether what waits in outboxes is moved after each step."""
        self.is_alone = False
        """Whether there are no queues but those this one has asked about. Then it lists the queues of one shard
        without any, and takes the answer for that of the thousands of others."""
        self._shards: set[int] = set()
        """Those of the queues it has asked about."""
        self._bits = 0
        self.outboxes: dict[str, None] = {}
        """Queues with messages for other queues."""
        self.codec = Codec(
            front_end=name,
            caps=caps,
            max_message_bytes=max_message_bytes,
            lender=lambda queue: Lent(self, queue),
            durability=durability,
            random=self._random,
            # The server's clock is another one.
            clock=lambda: round(self.clock() * 1000) + AHEAD,
        )

    def _random(self) -> int:
        self._bits += 1
        return self._bits

    def connection_of(self, call: Call) -> Connection:
        """Return the connection that a call is made on."""
        return self.connection

    def make(self, call: Call) -> list[Any]:
        """Make one call and return its outcomes."""
        [outcomes] = self.make_all([call])
        return outcomes

    def make_all(self, calls: Sequence[Call]) -> list[list[Any]]:
        """Send all calls, and return the outcomes of each: a list of all queues takes thousands."""
        self._shards.update(call.shard for call in calls if call.queue)
        asked = {self._alike(call): call for call in calls}
        answered: dict[int, Any] = {}
        for connection, run in groupby(asked.items(), lambda each: self.connection_of(each[1])):
            some = dict(run)
            connection.send(*(call.command(self.epoch) for call in some.values()))
            for each in some:
                answered[each] = connection.receive()
        replies = [answered[self._alike(call)] for call in calls]
        self.replies = replies[-1] if replies else []
        for call, reply in zip(calls, replies, strict=True):
            if call.queue and outbox_waits(reply):
                self.outboxes[call.queue] = None
        return [call.outcomes(reply, self.clock()) for call, reply in zip(calls, replies, strict=True)]

    def _alike(self, call: Call) -> int:
        """Return what those calls of one step have in common of which one answer is that of all."""
        return 0 if self.is_alone and call.looks and call.shard not in self._shards else id(call)

    def run(self, steps: Procedure) -> Any:
        """Take all steps of a procedure and return its outcome, or raise what refuses it."""
        try:
            asked = next(steps)
            while True:
                asked = steps.send(self.make_all(asked))
        except StopIteration as end:
            return end.value

    def ask(self, operations: Sequence[Operation], waiting: Waiting | None = None) -> list[Any]:
        """Return what comes of operations on one queue, each an outcome or the error that refuses it."""
        outcomes: list[Any] = [None] * len(operations)
        left = []
        for place, operation in enumerate(operations):
            try:
                self.codec.check(operation)
            except ZapqError as error:
                outcomes[place] = error
            else:
                left.append(place)
        if left and self.codec.run_of(operations[0]) is None:
            for place in left:
                try:
                    outcomes[place] = self.run(procedures.of(self.codec, operations[place]))
                except ZapqError as error:
                    outcomes[place] = error
            left = []

        def common(place: int) -> object:
            operation = operations[place]
            return self.codec.run_of(operation), place if weight_of(operation) >= MAX_WEIGHT else -1

        for _, run in groupby(left, common):
            alike = list(run)
            while alike:
                call = self.codec.call([operations[place] for place in alike], self.clock(), waiting)
                for place, outcome in zip(alike, self.make(call), strict=True):
                    outcomes[place] = outcome
                alike = [place for place in alike if outcomes[place] is AGAIN]
        self.flush()
        return outcomes

    def one(self, operation: Operation) -> Any:
        """Return what comes of one operation, or raise what refuses it."""
        [outcome] = self.ask([operation])
        if isinstance(outcome, ZapqError):
            raise outcome
        return outcome

    def flush(self) -> None:
        """Move what waits in outboxes."""
        while self.outboxes and self.flushes:
            queue, _ = self.outboxes.popitem()
            self.run(procedures.flush_outbox(self.codec, queue))

    def sweep(self, queues: Iterable[str]) -> None:
        """Do all that is due in these queues, and move what waits in their outboxes."""
        for _ in range(100):
            swept: Swept = self.run(sweep(self.codec, sorted({keys.shard_of(each) for each in queues})))
            self.outboxes.update(dict.fromkeys(swept.outboxes))
            self.flush()
            if not swept.more and not swept.outboxes:
                return
        raise AssertionError("there is always more to do")


class Lent:
    """A queue as the lender of messages."""

    def __init__(self, driver: Driver, name: str) -> None:
        self.name = name
        self._driver = driver

    def return_undelivered(self, given: Deliveries) -> None:
        """Put messages back at their places."""
        self._driver.make(self._driver.codec.give_back(self.name, given, self._driver.clock()))
        self._driver.flush()

    def note_uncertain_delivery(self, number: int) -> None:
        """Count messages that may or may not have been handed over."""
        self._driver.make(self._driver.codec.note_uncertain(self.name, number))


class Clock:
    """The time of a test, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def bodies_of(outcome: Any) -> list[bytes]:
    assert isinstance(outcome, Delivery)
    return [each.body for each in outcome.given]


def lease(driver: Driver, queue: str = "a") -> Lease:
    delivery = driver.one(Take(queue, LEASE))
    assert isinstance(delivery, Delivery)
    [given] = delivery.given
    assert isinstance(given, Lease)
    return given


def ack(receipt: str, queue: str = "a") -> SettleOne:
    return SettleOne(queue, Settlement(receipt=receipt))


def letters_of(driver: Driver, number: int = 3) -> None:
    """Have so many messages of `a` fail, so that they are in its outbox."""
    driver.one(Configure("a", QueueSettings(max_receives=1, dead_letter="dead")))
    driver.ask([Enqueue("a", b"%d" % each) for each in range(number)])
    [delivery] = driver.ask([Take("a", MANY)])
    releases = [Settlement(receipt=each.receipt, action="release") for each in delivery.given]
    driver.make(driver.codec.call([Settle("a", releases)], driver.clock()))
