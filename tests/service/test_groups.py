"""Groups among consumers that ask at once, and for those that wait: one message of a group at a time."""

from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from zapq.core.message import Lease
from zapq.service.service import QueueService
from zapq.service.waiting import Want


async def test_several_consumers_that_want_one_message_each_get_one_of_a_group_together(
    zapq_service: QueueService,
) -> None:
    queue = zapq_service.queue("jobs")
    for body in (b"a1", b"a2", b"b1"):
        await queue.enqueue(body, group=body[:1].decode())
    given = queue._state.take_for_many(Want(3, lease=True), trio.current_time())
    assert [each.body for each in given] == [b"a1", b"b1"]
    assert queue.why_empty() == "blocked"


async def test_each_end_of_a_message_wakes_the_consumer_that_waits_for_the_next_one(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    queue = zapq_service.queue("jobs")
    for body in (b"1", b"2", b"3", b"4", b"5"):
        await queue.enqueue(body, group="a", ttl=10.0 if body == b"4" else None)
    given: list[tuple[float, bytes]] = []
    begun = trio.current_time()

    async def consume() -> None:
        while len(given) < 6:
            lease = await queue.receive(wait=60, visibility=20.0)
            assert lease is not None
            given.append((round(trio.current_time() - begun), lease.body))
            held.append(lease)

    held: list[Lease] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        await wait_all_tasks_blocked()
        await trio.sleep(1)
        await queue.ack(held[-1].receipt)  # 1
        await trio.sleep(1)
        await queue.release(held[-1].receipt, delay=3.0)  # 2 rests
        await trio.sleep(4)
        await queue.ack(held[-1].receipt)
        await trio.sleep(1)
        await queue.ack(held[-1].receipt)  # 3
        # 4 is leased until its ttl is over, and then gone.
    assert given == [(0, b"1"), (1, b"2"), (5, b"2"), (6, b"3"), (7, b"4"), (27, b"5")]
