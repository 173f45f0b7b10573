"""What does the queue cost inside a Trio program, beside what else one could use there?

    scripts/bench service

One task sends and receives in turn, 128-byte messages, best of five: zapq's service (which counts bytes, has
caps, and would serve the same queue over HTTP), a Trio memory channel, and `queue.SimpleQueue`, which has no
async side. Then the same between two tasks, each message handed from one to the other.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Awaitable, Callable
from math import inf

import click
import trio

import zapq
from bench import rig

BODY = b"x" * rig.MESSAGE
OPERATIONS = 20_000


async def best(work: Callable[[], Awaitable[None]]) -> float:
    """Return microseconds a message, in the best of five."""
    shortest = inf
    for _ in range(5):
        begun = time.perf_counter()
        await work()
        shortest = min(shortest, time.perf_counter() - begun)
    return shortest / OPERATIONS * 1e6


async def measure() -> None:
    """Print everything."""
    print(rig.machine())
    simple: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    sender, receiver = trio.open_memory_channel[bytes](inf)

    async with zapq.open_service(zapq.Settings(max_msgs=10**6)) as service:

        async def service_nowait() -> None:
            for _ in range(OPERATIONS):
                service.enqueue_nowait(BODY)
                service.dequeue_nowait()

        async def service_async() -> None:
            for _ in range(OPERATIONS):
                await service.enqueue(BODY)
                await service.dequeue()

        async def channel_nowait() -> None:
            for _ in range(OPERATIONS):
                sender.send_nowait(BODY)
                receiver.receive_nowait()

        async def channel_async() -> None:
            for _ in range(OPERATIONS):
                await sender.send(BODY)
                await receiver.receive()

        async def simple_queue() -> None:
            for _ in range(OPERATIONS):
                simple.put(BODY)
                simple.get()

        async def between(
            send: Callable[[bytes], Awaitable[object]], take: Callable[[], Awaitable[object]]
        ) -> None:
            async def consume() -> None:
                for _ in range(OPERATIONS):
                    await take()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(consume)
                for _ in range(OPERATIONS):
                    await send(BODY)

        rows: dict[str, Callable[[], Awaitable[None]]] = {
            "zapq service, enqueue_nowait + dequeue_nowait": service_nowait,
            "zapq service, enqueue + dequeue": service_async,
            "trio memory channel, send_nowait + receive_nowait": channel_nowait,
            "trio memory channel, send + receive": channel_async,
            "queue.SimpleQueue, put + get": simple_queue,
            "zapq service, from task to waiting task": lambda: between(
                service.enqueue, lambda: service.dequeue(wait=10)
            ),
            "trio memory channel, from task to waiting task": lambda: between(sender.send, receiver.receive),
        }
        for name, work in rows.items():
            print(f"{name:52}{await best(work):8.2f} us a message", flush=True)


@click.command(help=__doc__)
def main() -> None:
    """Measure and print."""
    trio.run(measure)


if __name__ == "__main__":
    main()
