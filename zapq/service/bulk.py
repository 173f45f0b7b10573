"""Work on very many messages at once, for a worker thread: in slices, stepping aside after each.

A thread does not make long work harmless by itself. It takes Python's global lock from the event loop, for as
long as one step of it lasts, and again as soon as the loop makes a system call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import trio

from zapq.core.held import Held
from zapq.core.idempotency import Keys
from zapq.core.image import Image
from zapq.core.message import Message
from zapq.core.ready import Dropped
from zapq.core.replacement import Replacement
from zapq.core.runs import Run
from zapq.store.slices import yield_gil

T = TypeVar("T")

SLICE = 1024
"""Messages made or freed in one go: about 0.2 ms."""


def cancellable_yield() -> None:
    """Step aside for a moment; raise `trio.Cancelled` if the task that waits for this thread is cancelled."""
    trio.from_thread.check_cancelled()
    yield_gil()


def make(bodies: list[bytes], first_id: int) -> tuple[deque[Message], int]:
    """Return messages with these bodies and ids from `first_id` on, and their bytes together."""
    messages: deque[Message] = deque()
    size = 0
    for start in range(0, len(bodies), SLICE):
        part = bodies[start : start + SLICE]
        messages.extend(map(Message, range(first_id + start, first_id + start + len(part)), part))
        size += sum(map(len, part))
        cancellable_yield()
    return messages, size


def build(made: Replacement, image: Image, now: float) -> Keys:
    """Make the queues of `image`, and return its Idempotency-Keys."""
    for queue in image.queues:
        queue.others = _in_slices(queue.others)
        made.add(queue, now)
        # Freed here and not by the event loop.
        queue.others = ()
        cancellable_yield()
    made.finish(now)
    keys = Keys()
    keys.fill(_in_slices(image.keys), {name: queue.number for name, queue in made.queues.items()}, now)
    image.keys = ()
    return keys


def _in_slices(items: Iterable[T]) -> Iterator[T]:
    for number, item in enumerate(items, 1):
        yield item
        if number % SLICE == 0:
            cancellable_yield()


def free(dropped: list[Dropped]) -> None:
    """Give back the memory of messages that are held nowhere else."""
    freed = 0
    for items in dropped:
        while items:
            item = items.popitem() if isinstance(items, dict) else items.pop()
            freed += len(item) if isinstance(item, Run) else 1
            if freed >= SLICE:
                del item
                freed = 0
                yield_gil()


async def free_elsewhere(given_up: Sequence[Held]) -> None:
    """Free what queues held in a worker thread, so that other tasks go on.

    Shielded: what was to be done is done, and a cancellation now must not say that it was not. Bounded by the
    number of messages, at less than a microsecond each.
    """
    dropped = [container for held in given_up for container in held.containers()]
    if not dropped:
        return
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(free, dropped)
