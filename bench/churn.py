"""Does the database stay small, whatever goes through it?

    scripts/bench churn --messages 10000000

Sends messages through a queue on disk in batches, in this process, with a message that nobody takes at its head,
and looks at the size of the directory: at its largest, and at the end. What is live is at most `--depth` messages;
the files are to stay within twice that and 64 MiB. Ends with one line of JSON.
"""

from __future__ import annotations

import os
import tempfile
import time

import click
import msgspec
import trio
from tqdm import tqdm

import zapq
from bench import rig
from zapq.limits import MAX_BATCH, MIB


def size_of(directory: str) -> int:
    """Return the bytes of all files in `directory`."""
    return sum(os.path.getsize(os.path.join(directory, name)) for name in os.listdir(directory))


async def churn(directory: str, messages: int, depth: int) -> dict[str, float]:
    """Send so many messages through, at most `depth` of them there at once, and return the sizes."""
    settings = zapq.Settings(
        data_dir=directory, durable=True, max_msgs=depth + 2 * MAX_BATCH, max_bytes=1024 * MIB
    )
    batch = [bytes(rig.MESSAGE)] * MAX_BATCH
    largest = 0
    begun = time.perf_counter()
    async with zapq.open_service(settings) as service:
        old = service.queue("work")
        await old.enqueue(b"year-old")
        kept = await old.receive(visibility=43_200)
        assert kept is not None
        for sent in tqdm(range(0, messages, MAX_BATCH), unit_scale=MAX_BATCH, mininterval=5):
            await old.enqueue_many(batch)
            if sent >= depth:
                await old.dequeue_many(MAX_BATCH)
            if sent % (100 * MAX_BATCH) == 0:
                largest = max(largest, size_of(directory))
        while await old.dequeue_many(MAX_BATCH):
            pass
        seconds = time.perf_counter() - begun
        drained = size_of(directory)
        # It gives space back when it has nothing else to do.
        settled = drained
        with trio.move_on_after(30):
            while settled > 64 * MIB:
                await trio.sleep(0.1)
                settled = size_of(directory)
        await old.release(kept.receipt)
    async with zapq.open_service(settings) as service:
        [held] = await service.queue("work").dequeue_many(10)
        assert held.body == b"year-old"
    return {
        "messages": messages,
        "messages_per_second": round(2 * messages / seconds),
        "live_mib": round(depth * rig.MESSAGE / MIB, 1),
        "largest_mib": round(largest / MIB, 1),
        "drained_mib": round(drained / MIB, 1),
        "settled_mib": round(settled / MIB, 1),
        "closed_mib": round(size_of(directory) / MIB, 1),
    }


@click.command(help=__doc__)
@click.option("--messages", default=10_000_000, show_default=True)
@click.option("--depth", default=100_000, show_default=True, help="Messages there at once.")
@click.option("--dir", "directory", default=".", show_default=True, help="Where: the disk that counts.")
def main(messages: int, depth: int, directory: str) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(dir=directory) as place:
        print(msgspec.json.encode(trio.run(churn, place, messages, depth)).decode())


if __name__ == "__main__":
    main()
