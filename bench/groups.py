"""What do groups cost, and does it matter how many there are and how deep?

    scripts/bench groups

In one process, in the core alone, without HTTP and without a disk: microseconds of a message that is put, received
and acknowledged, without a group and with one, beside messages that are there already; what each of those needs
of memory, its body of 128 bytes included; and how long a peek takes. Of many rounds, which take turns, the best
counts: a busy machine makes some of them slower, and none faster. Three times a million messages need 1.2 GB;
`--deepest 100000` does with less.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable

import click

from bench import rig
from zapq.core.broker import Broker
from zapq.core.message import Properties
from zapq.core.queue import Queue
from zapq.core.queue_settings import QueueSettings

SHAPES = (
    ("no group", 0, 0),
    ("each in a group of its own", 0, 1000),
    ("no group", 100_000, 0),
    ("1,000 groups", 100_000, 1000),
    ("no group", 1_000_000, 0),
    ("100,000 groups", 1_000_000, 100_000),
    ("one group", 1_000_000, 1),
)
"""What the messages have, how many are there already, and in how many groups."""
OPERATIONS = 500
ROUNDS = 40
BODY = b"x" * rig.MESSAGE


class Shape:
    """A queue of one shape, and what its operations have cost at best."""

    def __init__(self, name: str, depth: int, groups: int, *, fair: bool) -> None:
        self.name = f"{name}, turns" if fair and groups else name
        self.depth = depth
        self._kinds = [Properties("text/plain", group=f"tenant-{number}") for number in range(groups)]
        self._next = 0
        broker = Broker(max_messages=10**9, max_bytes=2**50, max_queues=2)
        broker.configure("bench", QueueSettings(fair=fair), 0.0)
        self.queue: Queue = broker.find("bench")
        before = rig.resident_bytes(os.getpid())
        for number in range(depth):
            self.queue.enqueue(b"%0*d" % (rig.MESSAGE, number), self._kind())
        self.bytes_each = (rig.resident_bytes(os.getpid()) - before) / max(depth, 1)
        self.best = [float("inf")] * 4

    def _kind(self) -> Properties:
        self._next += 1
        # As of a request: equal to others of the group, and not the same object.
        kind = self._kinds[self._next % len(self._kinds)] if self._kinds else Properties("text/plain")
        return Properties(kind.content_type, group="".join(kind.group))

    def run(self) -> None:
        """Put, receive and acknowledge, and keep what that took if it is the least so far."""
        queue, kinds = self.queue, [self._kind() for _ in range(OPERATIONS)]
        clock = time.perf_counter
        begun = clock()
        for kind in kinds:
            queue.enqueue(BODY, kind, now=1.0)
        put = clock()
        receipts = [lease.receipt for _ in kinds if (lease := queue.receive(30.0, 1.0)) is not None]
        received = clock()
        for receipt in receipts:
            queue.ack(receipt, 1.0)
        acked = clock()
        assert len(receipts) == OPERATIONS or len(self._kinds) == 1
        self._note(put - begun, received - put, acked - received)
        while len(receipts) < OPERATIONS:  # a group gives one message at a time
            lease = queue.receive(30.0, 1.0)
            assert lease is not None
            queue.ack(lease.receipt, 1.0)
            receipts.append(lease.receipt)

    def run_one_by_one(self) -> None:
        """Do the same message by message, which is all that one group allows."""
        queue, kinds = self.queue, [self._kind() for _ in range(OPERATIONS)]
        begun = time.perf_counter()
        for kind in kinds:
            queue.enqueue(BODY, kind, now=1.0)
            lease = queue.receive(30.0, 1.0)
            assert lease is not None
            queue.ack(lease.receipt, 1.0)
        self.best[3] = min(self.best[3], time.perf_counter() - begun)

    def _note(self, *seconds: float) -> None:
        if len(self._kinds) != 1:
            self.best = [min(pair) for pair in zip(self.best, (*seconds, sum(seconds)), strict=True)]

    def peek(self) -> float:
        """Return the microseconds of a look at the first messages, at best."""
        return 1e6 * best_of(20, lambda: self.queue.peek("ready", 10))


def best_of(rounds: int, do: Callable[[], object]) -> float:
    """Return the seconds the quickest of some rounds took."""
    best = float("inf")
    for _ in range(rounds):
        begun = time.perf_counter()
        do()
        best = min(best, time.perf_counter() - begun)
    return best


def shown(seconds: float) -> str:
    return f"{'':9}" if seconds == float("inf") else f"{seconds / OPERATIONS * 1e6:9.2f}"


@click.command(help=__doc__)
@click.option("--deepest", default=1_000_000, show_default=True, type=click.IntRange(0))
@click.option("--fair", is_flag=True, help="Let the groups take turns.")
def main(deepest: int, fair: bool) -> None:
    """Measure and print."""
    print(rig.machine())
    gc.collect()
    shapes = [Shape(*shape, fair=fair) for shape in SHAPES if shape[1] <= deepest]
    gc.collect()
    gc.freeze()  # as the command line does once it serves
    for _ in range(ROUNDS):
        for shape in shapes:
            if shape._kinds and len(shape._kinds) == 1:
                shape.run_one_by_one()
            else:
                shape.run()
    columns = f"{'put':>9}{'receive':>9}{'ack':>9}{'all, us':>9}{'x':>6}{'bytes':>7}{'peek us':>9}"
    print(f"{'messages':>10}  {'':26}{columns}")
    for shape in shapes:
        times = shape.best[3] / shapes[0].best[3]
        each = f"{shape.bytes_each:7.0f}" if shape.depth else f"{'':7}"
        costs = "".join(map(shown, shape.best))
        print(f"{shape.depth:10,}  {shape.name:26}{costs}{times:6.2f}{each}{shape.peek():9.1f}")


if __name__ == "__main__":
    main()
