"""Does it matter how deep the queue is: for time, for memory, for the event loop?

    scripts/bench depth

In one process, through the service: the cost of an enqueue and a dequeue at 10, 10^4, 10^6 and 10^7 messages
of 128 bytes, the resident bytes for each message beside Redis holding the same, and, ten million deep, the
longest time the event loop kept a timer waiting while messages moved and a full garbage collection ran, next to
the same for an empty queue. Ten million messages need 3 GB; `--deepest 1000000` does with less.
"""

from __future__ import annotations

import gc
import os
import subprocess
import time

import click
import trio

import zapq
from bench import rig
from zapq.service.service import QueueService

DEPTHS = (10, 10_000, 1_000_000, 10_000_000)
OPERATIONS = 100_000
BODY = b"x" * rig.MESSAGE


async def fill(queue: QueueService, depth: int) -> None:
    """Enqueue until there are `depth` messages, each with bytes of its own."""
    for number in range(queue.stats().queue.messages, depth):
        queue.enqueue_nowait(b"%0*d" % (rig.MESSAGE, number))
        if number % 10_000 == 0:
            await trio.lowlevel.checkpoint()


def cost(queue: QueueService) -> tuple[float, float]:
    """Return nanoseconds an enqueue and a dequeue, at the depth the queue has; best of five."""
    best = [float("inf"), float("inf")]
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(OPERATIONS):
            queue.enqueue_nowait(BODY)
        middle = time.perf_counter()
        for _ in range(OPERATIONS):
            queue.dequeue_nowait()
        done = time.perf_counter()
        best = [min(best[0], middle - begun), min(best[1], done - middle)]
    return best[0] / OPERATIONS * 1e9, best[1] / OPERATIONS * 1e9


async def longest_pause(queue: QueueService) -> tuple[float, float]:
    """Return the longest lateness of a 1 ms timer, in ms: while messages move, and with a full collection."""
    lateness: list[float] = []

    async def tick() -> None:
        while True:
            due = trio.current_time() + 0.001
            await trio.sleep_until(due)
            lateness.append((trio.current_time() - due) * 1000)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        for _ in range(2_000):
            for _ in range(50):
                queue.enqueue_nowait(BODY)
                queue.dequeue_nowait()
            await trio.lowlevel.checkpoint()
        moving, lateness = max(lateness), []
        gc.collect()
        await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    return moving, max(lateness)


def redis_bytes(messages: int) -> float:
    """Return the resident bytes Redis needs for each of so many messages in one list."""
    rig.install("redis-server", "redis-server")
    port = rig.free_port()
    with rig.running(["redis-server", "--port", str(port), "--save", "", "--appendonly", "no"], port) as pid:
        before = rig.resident_bytes(pid)
        push = ["redis-benchmark", "-p", str(port), "-n", str(messages), "-P", "64", "-q", "RPUSH", "queue"]
        subprocess.run([*push, "x" * rig.MESSAGE], check=True, stdout=subprocess.DEVNULL)
        return (rig.resident_bytes(pid) - before) / messages


async def measure(deepest: int) -> None:
    """Print everything."""
    print(rig.machine())
    depths = [depth for depth in DEPTHS if depth <= deepest]
    async with zapq.open_service(zapq.Settings(max_msgs=2 * deepest, max_bytes=2**40)) as queue:
        gc.collect()
        gc.freeze()  # as the command line does once it serves
        pauses = [("empty", await longest_pause(queue))]
        before = rig.resident_bytes(os.getpid())
        print(f"{'messages deep':>14}{'enqueue ns':>12}{'dequeue ns':>12}{'bytes each':>12}")
        for depth in depths:
            await fill(queue, depth)
            each = (rig.resident_bytes(os.getpid()) - before) / depth
            enqueue, dequeue = cost(queue)
            shown = f"{each:12.0f}" if depth >= 10_000 else f"{'':12}"
            print(f"{depth:14,}{enqueue:12.0f}{dequeue:12.0f}{shown}", flush=True)
        pauses.append((f"{depths[-1]:,} deep", await longest_pause(queue)))
        await queue.clear()
        await fill(queue, depths[-1])
        pauses.append(("cleared and refilled", await longest_pause(queue)))
    print(f"Redis, a list of {min(deepest, 1_000_000):,}: {redis_bytes(min(deepest, 1_000_000)):.0f} bytes each")
    for name, (moving, collected) in pauses:
        print(f"longest pause, {name:22}{moving:7.2f} ms as messages move, {collected:7.2f} ms in a collection")


@click.command(help=__doc__)
@click.option("--deepest", default=DEPTHS[-1], show_default=True, type=click.IntRange(DEPTHS[0]))
def main(deepest: int) -> None:
    """Measure and print."""
    trio.run(measure, deepest)


if __name__ == "__main__":
    main()
