"""`zapq bench`: what a server does for producers and consumers in this process, and what they need themselves."""

from __future__ import annotations

import math
import struct
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio

from zapq.client import Client
from zapq.core.settlement import Settlement
from zapq.limits import BENCH_AHEAD, BENCH_DRAIN_SECONDS

_STAMP = struct.Struct("<d")
PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of the server."""

    producers: int = 8
    consumers: int = 8
    """None of them: then nothing is taken."""
    seconds: float = 5.0
    size: int = 128
    """Bytes of a message."""
    batch: int = 1
    """Messages in a request."""


@dataclass(slots=True)
class Measured:
    """What came of it."""

    sent: int = 0
    taken: int = 0
    """Received and acknowledged."""
    seconds: float = 0.0
    """For which messages were sent."""
    drained: float = 0.0
    """Seconds until all of them were taken."""
    cpu: float = 0.0
    """Of this process."""
    puts: array[float] = field(default_factory=lambda: array("f"))
    """Seconds of each request that sent."""
    ways: array[float] = field(default_factory=lambda: array("f"))
    """Seconds of each message from before it was sent until it was received."""


async def measure(
    client: Client, queue: str, load: Load, *, note: Callable[[float], object] = lambda seconds: None
) -> Measured:
    """Send and take messages for `load.seconds`, and take those that are left; `note` hears of the time.

    Producers wait for consumers that are behind: how long a message is on its way would else only say how many are
    before it. Raises what refuses a request.
    """
    found = Measured()
    began, cpu = time.perf_counter(), time.process_time()
    until = began + load.seconds
    padding = bytes(load.size - _STAMP.size)
    producing = load.producers
    most = load.consumers * load.batch * BENCH_AHEAD
    taken = trio.Event()

    async def produce() -> None:
        nonlocal producing
        at = time.perf_counter()
        while not found.puts or at < until:
            if most and found.sent - found.taken >= most:
                await taken.wait()
                at = time.perf_counter()
                continue
            body = _STAMP.pack(at) + padding
            if load.batch == 1:
                await client.put(queue, body)
            else:
                await client.put_many(queue, [body] * load.batch)
            sent_at = time.perf_counter()
            found.puts.append(sent_at - at)
            found.sent += load.batch
            at = sent_at
        producing -= 1
        found.seconds = found.drained = time.perf_counter() - began

    async def consume() -> None:
        nonlocal taken
        while producing or (found.taken < found.sent and time.perf_counter() < until + BENCH_DRAIN_SECONDS):
            leases = await client.receive_many(queue, load.batch, wait=1.0)
            if not leases:
                continue
            now = time.perf_counter()
            for lease in leases:
                found.ways.append(now - _STAMP.unpack_from(lease.body)[0])
            if load.batch == 1:
                await client.ack(leases[0])
            else:
                await client.settle(queue, [Settlement(receipt=each.receipt) for each in leases])
            found.taken += len(leases)
            taken.set()
            taken = trio.Event()
        found.drained = time.perf_counter() - began

    async def tell() -> None:
        while producing:
            note(min(time.perf_counter() - began, load.seconds))
            await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        for _ in range(load.producers):
            nursery.start_soon(produce)
        for _ in range(load.consumers):
            nursery.start_soon(consume)
        nursery.start_soon(tell)
    found.cpu = time.process_time() - cpu
    return found


def percentiles(values: Sequence[float]) -> list[float]:
    """Return those of `PERCENTILES`; zeros if there is no value."""
    if not values:
        return [0.0] * len(PERCENTILES)
    ordered = sorted(values)
    return [ordered[max(math.ceil(round(each * len(ordered) / 100, 6)) - 1, 0)] for each in PERCENTILES]
