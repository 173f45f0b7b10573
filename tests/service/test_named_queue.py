"""One queue of a running service, in virtual time: leases, waits, and what cancellation leaves behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from math import inf
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from zapq.core.message import Draft, Lease, Message
from zapq.core.queue_settings import QueueSettings
from zapq.errors import (
    Draining,
    InvalidParameter,
    KeyReused,
    MessageTooLarge,
    QueueFull,
    QueueNotFound,
    ReceiptExpired,
    TooManyQueues,
    TooManyWaiters,
)
from zapq.limits import MAX_TURN
from zapq.service.named_queue import NamedQueue
from zapq.service.open import open_service
from zapq.service.operations import Accepted, Offer, Settlement, terms
from zapq.service.service import QueueService
from zapq.service.waiting import Want
from zapq.settings import Settings


@pytest.fixture
async def queue(zapq_service: QueueService) -> NamedQueue:
    return zapq_service.queue("emails")


async def receive(queue: NamedQueue, *, wait: float = 0.0, visibility: float | None = None) -> Lease:
    lease = await queue.receive(wait=wait, visibility=visibility)
    assert lease is not None
    return lease


async def bodies(queue: NamedQueue) -> list[bytes]:
    return [message.body for message in await queue.dequeue_many(1000)]


async def test_a_lease_is_a_turn_that_ends(queue: NamedQueue, autojump_clock: MockClock) -> None:
    await queue.enqueue(b"job", content_type="text/plain")
    first = await receive(queue, visibility=5)
    assert (first.body, first.receives, first.message.content_type) == (b"job", 1, "text/plain")
    assert await queue.receive() is None
    assert queue.why_empty() == "leased"
    assert queue.next_visible_in() == pytest.approx(5 + MAX_TURN)
    await trio.sleep(5)
    assert await queue.receive() is None, "its consumer was answered a little later than the lease was made"
    await trio.sleep(MAX_TURN)
    second = await receive(queue)
    assert second.receives == 2
    with pytest.raises(ReceiptExpired):
        await queue.ack(first.receipt)
    await queue.ack(second.receipt)
    await queue.ack(second.receipt)
    assert queue.info().stats.messages == 0
    assert (queue.why_empty(), queue.next_visible_in()) == ("empty", inf)


@pytest.mark.parametrize("seconds", [0.5, 30.0])
async def test_a_lease_lasts_as_long_as_asked_from_when_its_answer_is_made(
    queue: NamedQueue, autojump_clock: MockClock, seconds: float
) -> None:
    """The time it counts from is that of the beginning of a turn, and the answer is made at its end."""
    await queue.enqueue(b"job")
    begun = trio.current_time()
    await trio.sleep(0.02)
    [lease] = queue._state.take(Want(1, lease=True, visibility=seconds), begun)
    await trio.sleep(0.02)
    answered = trio.current_time()
    assert isinstance(lease, Lease)
    assert lease.deadline == begun + seconds
    await trio.sleep_until(answered + seconds - 0.001)
    assert await queue.receive() is None
    await queue.ack(lease.receipt)
    assert queue.info().stats.leases_expired == 0


async def test_a_lease_of_no_time_is_over_at_once(queue: NamedQueue, autojump_clock: MockClock) -> None:
    await queue.enqueue(b"job")
    first = await receive(queue, visibility=0)
    second = await receive(queue, visibility=60)
    assert (first.receives, second.receives) == (1, 2)
    await queue.extend(second.receipt, visibility=0)
    assert (await receive(queue)).receives == 3


async def test_a_released_message_is_back_at_its_place(queue: NamedQueue, autojump_clock: MockClock) -> None:
    await queue.enqueue_many([b"a", b"b", b"c"])
    leases = await queue.receive_many(2)
    for lease in reversed(leases):
        await queue.release(lease.receipt)
    assert await bodies(queue) == [b"a", b"b", b"c"]


async def test_an_extended_lease_lasts_from_now_on(queue: NamedQueue, autojump_clock: MockClock) -> None:
    await queue.enqueue(b"job")
    lease = await receive(queue, visibility=5)
    await trio.sleep(4)
    longer = await queue.extend(lease.receipt, visibility=10)
    assert longer.deadline == trio.current_time() + 10
    await trio.sleep(9)
    assert await queue.receive() is None
    assert (await queue.extend(lease.receipt)).deadline == trio.current_time() + 5
    await queue.ack(lease.receipt)


async def test_many_are_settled_at_once_each_with_its_result(queue: NamedQueue, autojump_clock: MockClock) -> None:
    await queue.enqueue_many([b"a", b"b", b"c", b"d"])
    leases = await queue.receive_many(4, visibility=60)
    results = await queue.settle([
        Settlement(receipt=leases[0].receipt),
        Settlement(receipt=leases[1].receipt, action="release", delay=5),
        Settlement(receipt=leases[2].receipt, action="extend", visibility=99),
        Settlement(receipt=leases[1].receipt),
        Settlement(receipt="nonsense"),
        Settlement(receipt=leases[0].receipt),
    ])
    refused = [type(result) for result in results if result is not None]
    assert [result is None for result in results] == [True, True, True, False, False, True]
    assert refused == [ReceiptExpired, InvalidParameter]
    stats = queue.info().stats
    assert (stats.acked, stats.delayed, stats.leased) == (1, 1, 2)


async def wake_by_enqueue(service: QueueService, queue: NamedQueue) -> None:
    await queue.enqueue(b"job")


async def wake_by_a_batch(service: QueueService, queue: NamedQueue) -> None:
    await queue.enqueue_many([b"job"])


async def wake_when_a_delay_is_over(service: QueueService, queue: NamedQueue) -> None:
    await queue.enqueue(b"job", delay=5)


async def wake_when_a_lease_expires(service: QueueService, queue: NamedQueue) -> None:
    await queue.pause()
    await queue.enqueue(b"job")
    core = service.broker.find("emails")
    core.paused = False
    assert core.receive(3.0, trio.current_time()) is not None


async def wake_by_release(service: QueueService, queue: NamedQueue) -> None:
    await wake_when_a_lease_expires(service, queue)
    [seen] = await queue.peek("leased")
    lease = service.broker.find("emails")._leases.first(1)[0]
    assert seen.message == lease.message
    await queue.release(lease.receipt, delay=0)


async def wake_by_redrive(service: QueueService, queue: NamedQueue) -> None:
    await service.configure("emails", QueueSettings(max_receives=1, dead_letter="dead"))
    await queue.pause()
    await queue.enqueue(b"job")
    core = service.broker.find("emails")
    core.paused = False
    assert core.receive(1.0, trio.current_time()) is not None
    await trio.sleep(2)
    assert (await service.queue("dead").redrive()).moved == 1


async def wake_by_resume(service: QueueService, queue: NamedQueue) -> None:
    await queue.pause()
    await queue.enqueue(b"job")
    await wait_all_tasks_blocked()
    await queue.resume()


async def wake_by_a_message_that_could_not_be_handed_over(service: QueueService, queue: NamedQueue) -> None:
    core = service.broker.find("emails")
    message = core.enqueue(b"job")
    assert core.dequeue() is message
    queue.return_undelivered([message])


async def wake_by_a_settlement(service: QueueService, queue: NamedQueue) -> None:
    await wake_when_a_lease_expires(service, queue)
    lease = service.broker.find("emails")._leases.first(1)[0]
    assert await queue.settle([Settlement(receipt=lease.receipt, action="release")]) == [None]


@pytest.mark.parametrize(
    ("cause", "seconds"),
    [
        (wake_by_enqueue, 0),
        (wake_by_a_batch, 0),
        (wake_when_a_delay_is_over, 5),
        (wake_when_a_lease_expires, 3 + MAX_TURN),
        (wake_by_release, 0),
        (wake_by_a_settlement, 0),
        (wake_by_redrive, 2),
        (wake_by_resume, 0),
        (wake_by_a_message_that_could_not_be_handed_over, 0),
    ],
)
async def test_whatever_makes_a_message_ready_wakes_who_waits_at_once(
    zapq_service: QueueService,
    queue: NamedQueue,
    autojump_clock: MockClock,
    nursery: trio.Nursery,
    cause: Callable[[QueueService, NamedQueue], Awaitable[None]],
    seconds: float,
) -> None:
    got: list[tuple[bytes, float]] = []

    async def consumer() -> None:
        lease = await receive(queue, wait=60)
        got.append((lease.body, trio.current_time() - begun))

    nursery.start_soon(consumer)
    await wait_all_tasks_blocked()
    begun = trio.current_time()
    await cause(zapq_service, queue)
    await trio.sleep(6)  # by then whatever was put off is due
    [(body, after)] = got
    assert body == b"job"
    assert after == pytest.approx(seconds)


async def test_a_delayed_message_wakes_who_waits_exactly_when_it_is_due(
    queue: NamedQueue, autojump_clock: MockClock
) -> None:
    await queue.enqueue(b"later", delay=7.5)
    begun = trio.current_time()
    assert (await receive(queue, wait=60)).body == b"later"
    assert trio.current_time() - begun == pytest.approx(7.5)


async def test_a_lease_expires_with_no_other_traffic(
    zapq_service: QueueService, queue: NamedQueue, autojump_clock: MockClock
) -> None:
    await queue.enqueue(b"job")
    await receive(queue, visibility=3)
    await trio.sleep(3.5)
    stats = zapq_service.stats().queue  # which does nothing by itself
    assert (stats.ready, stats.leased, stats.leases_expired) == (1, 0, 1)


async def test_an_abandoned_wait_takes_nothing_and_counts_no_receive(
    queue: NamedQueue, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    scope = trio.CancelScope()

    async def consumer() -> None:
        with scope:
            await queue.receive(wait=60)

    nursery.start_soon(consumer)
    await wait_all_tasks_blocked()
    scope.cancel()
    message = queue.enqueue_nowait(b"job")  # no checkpoint between the two
    await wait_all_tasks_blocked()
    assert scope.cancelled_caught
    lease = await receive(queue)
    assert (lease.message, lease.receives) == (message, 1)
    stats = queue.info().stats
    assert (stats.received, stats.returned, stats.messages) == (1, 1, 1)


async def test_waiters_of_both_kinds_stand_in_one_line(
    queue: NamedQueue, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    got: list[tuple[str, list[bytes]]] = []

    async def consumer(name: str, want: Want) -> None:
        given = await queue.take(want, wait=30)
        got.append((name, [each.body for each in given]))

    for name, want in (
        ("dequeue", Want()),
        ("receive", Want(lease=True)),
        ("batch", Want(5)),
        ("lease batch", Want(2, lease=True)),
    ):
        nursery.start_soon(consumer, name, want)
        await wait_all_tasks_blocked()
    await queue.enqueue_many([b"%d" % number for number in range(9)])
    await wait_all_tasks_blocked()
    assert sorted(got) == [
        ("batch", [b"2", b"3", b"4", b"5", b"6"]),
        ("dequeue", [b"0"]),
        ("lease batch", [b"7", b"8"]),
        ("receive", [b"1"]),
    ]


async def test_a_queue_deleted_under_those_who_wait_and_made_again_serves_only_new_ones(
    zapq_service: QueueService, queue: NamedQueue, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    refused = 0

    async def consumer() -> None:
        nonlocal refused
        with pytest.raises(QueueNotFound):
            await queue.receive(wait=60)
        refused += 1

    for _ in range(3):
        nursery.start_soon(consumer)
    await wait_all_tasks_blocked()
    await zapq_service.delete("emails")
    again = zapq_service.queue("emails")
    await again.enqueue(b"new")
    await wait_all_tasks_blocked()
    assert refused == 3
    for verb in (
        lambda: queue.enqueue(b"x"),
        lambda: queue.receive(),
        lambda: queue.dequeue(),
        lambda: queue.peek(),
        lambda: queue.clear(),
        lambda: queue.enqueue_many([b"x"]),
        lambda: queue.pause(),
        lambda: queue.redrive(),
    ):
        with pytest.raises(QueueNotFound):
            await verb()
    assert (await receive(again)).body == b"new"


async def test_what_was_taken_from_a_deleted_queue_cannot_come_back(
    zapq_service: QueueService, queue: NamedQueue, autojump_clock: MockClock
) -> None:
    message = queue.enqueue_nowait(b"x")
    assert queue.dequeue_nowait() is message
    await zapq_service.delete("emails")
    queue.return_undelivered([message])
    assert zapq_service.stats().queue.messages == 0


async def test_enqueues_during_a_purge_survive(
    queue: NamedQueue, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    await queue.enqueue_many([b"old"] * 1000)

    async def purge() -> None:
        assert await queue.clear() >= 1000

    async def produce() -> None:
        for number in range(20):
            await queue.enqueue(b"%d" % number)

    nursery.start_soon(purge)
    nursery.start_soon(produce)
    await wait_all_tasks_blocked()
    left = await bodies(queue)
    assert b"old" not in left
    assert left == [b"%d" % number for number in range(20 - len(left), 20)]


async def test_purging_ends_leases_and_delays(queue: NamedQueue, autojump_clock: MockClock) -> None:
    await queue.enqueue_many([b"a", b"b"])
    await queue.enqueue(b"c", delay=5)
    lease = await receive(queue)
    assert await queue.clear() == 3
    with pytest.raises(ReceiptExpired):
        await queue.ack(lease.receipt)
    await trio.sleep(60)
    assert await queue.receive() is None


async def test_priority_goes_before_age_and_age_decides_within_it(
    queue: NamedQueue, autojump_clock: MockClock
) -> None:
    for body, priority in ((b"a", 0), (b"b", 9), (b"c", 5), (b"d", 9), (b"e", 0)):
        await queue.enqueue(body, priority=priority)
    lease = await receive(queue)
    await queue.release(lease.receipt)
    assert await bodies(queue) == [b"b", b"d", b"c", b"a", b"e"]


async def test_what_nobody_wanted_in_time_is_gone(queue: NamedQueue, autojump_clock: MockClock) -> None:
    await queue.enqueue(b"short", ttl=2)
    await queue.enqueue(b"taken in time", ttl=4)
    await queue.enqueue(b"stays")
    await trio.sleep(3)
    lease = await receive(queue, visibility=10)
    assert lease.body == b"taken in time"
    await trio.sleep(5)
    await queue.ack(lease.receipt)  # its ttl was over, but it was in good hands
    assert await bodies(queue) == [b"stays"]
    assert queue.info().stats.expired == 1


async def test_a_key_makes_sending_twice_harmless(queue: NamedQueue, autojump_clock: MockClock) -> None:
    offer = Offer(b"job", terms(priority=3), key="key")
    first = await queue.put(offer)
    again = await queue.put(offer)
    assert (first.replayed, again.replayed, again.id) == (False, True, first.id)
    with pytest.raises(KeyReused):
        await queue.put(Offer(b"job", terms(priority=4), key="key"))
    await trio.sleep(301)
    assert not (await queue.put(offer)).replayed
    assert queue.info().stats.enqueued == 2


async def test_a_key_makes_sending_a_batch_twice_harmless(queue: NamedQueue, autojump_clock: MockClock) -> None:
    batch: list[bytes | Draft] = [b"a", Draft(body=b"b", priority=3)]
    first = await queue.put(Offer(batch, key="key"))
    again = await queue.put(Offer(batch, key="key"))
    assert (first, again) == (Accepted(1), Accepted(1, replayed=True))
    others: list[list[bytes | Draft]] = [batch[:1], [b"a", Draft(body=b"b", priority=4)], batch[::-1]]
    for other in others:
        with pytest.raises(KeyReused):
            await queue.put(Offer(other, key="key"))
    with pytest.raises(KeyReused):
        await queue.put(Offer(batch, terms(content_type="text/plain"), key="key"))
    with pytest.raises(KeyReused):
        await queue.put(Offer(b"a", key="key"))
    await trio.sleep(301)
    assert await queue.put(Offer(batch, key="key")) == Accepted(3)
    assert queue.info().stats.enqueued == 4


async def test_a_refused_message_does_not_use_its_key_up(zapq_settings: Settings) -> None:
    async with open_service(replace(zapq_settings, max_msgs=1)) as service:
        queue = service.queue("emails")
        await queue.enqueue(b"in the way")
        with pytest.raises(QueueFull):
            await queue.put(Offer(b"job", key="key"))
        with pytest.raises(QueueFull):
            await queue.put(Offer([b"job"], key="key"))
        await queue.clear()
        assert not (await queue.put(Offer(b"another", key="key"))).replayed
        service.drain()
        assert (await queue.put(Offer(b"another", key="key"))).replayed
        with pytest.raises(Draining):
            await queue.put(Offer(b"another", key="new"))


async def test_a_block_that_ends_well_acknowledges(queue: NamedQueue, autojump_clock: MockClock) -> None:
    await queue.enqueue(b"job")
    async with queue.lease() as message:
        assert message.body == b"job"
        await trio.sleep(50_000)  # nobody else gets it for as long as the block lasts
        assert await queue.receive() is None
    assert queue.info().stats.acked == 1


async def test_a_block_that_raises_or_is_cancelled_releases(queue: NamedQueue, autojump_clock: MockClock) -> None:
    await queue.enqueue(b"job")
    with pytest.raises(ZeroDivisionError):
        async with queue.lease():
            raise ZeroDivisionError
    with trio.move_on_after(1) as scope:
        async with queue.lease() as message:
            assert message.receives == 2
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert (await receive(queue)).receives == 3


async def test_a_block_waits_for_a_message_however_long(
    queue: NamedQueue, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def produce_later() -> None:
        await trio.sleep(1000)
        await queue.enqueue(b"at last")

    nursery.start_soon(produce_later)
    async with queue.lease() as message:
        assert message.body == b"at last"


async def test_a_block_that_outlasts_its_lease_is_told(queue: NamedQueue, autojump_clock: MockClock) -> None:
    await queue.enqueue(b"job")
    with pytest.raises(ReceiptExpired):  # noqa: PT012 (it is the end of the block that raises)
        async with queue.lease(visibility=5):
            await trio.sleep(6)
            other = await receive(queue, visibility=20)
    assert other.receives == 2
    await trio.sleep(21)
    async with queue.lease(visibility=5) as message:
        await trio.sleep(6)
    # It is late, but the message is there.
    assert message.receives == 3
    assert queue.info().stats.acked == 1
    await queue.enqueue(b"job")
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 (what the block raises comes out as it is)
        async with queue.lease(visibility=5):
            await trio.sleep(31)
            raise ZeroDivisionError


async def test_a_paused_queue_takes_and_settles_but_does_not_give(
    queue: NamedQueue, autojump_clock: MockClock
) -> None:
    await queue.enqueue_many([b"a", b"b"])
    lease = await receive(queue)
    await queue.pause()
    await queue.enqueue(b"c")
    await queue.ack(lease.receipt)
    assert await queue.receive(wait=5) is None
    assert await queue.dequeue_many(5) == []
    assert (queue.why_empty(), queue.info().paused) == ("paused", True)
    await queue.resume()
    assert await bodies(queue) == [b"b", b"c"]


VERBS: dict[str, Callable[[NamedQueue, str], Awaitable[Any]]] = {
    "enqueue": lambda queue, _: queue.enqueue(b"x"),
    "enqueue once": lambda queue, _: queue.put(Offer(b"x", key="key")),
    "enqueue many": lambda queue, _: queue.enqueue_many([b"x"]),
    "enqueue many once": lambda queue, _: queue.put(Offer([b"x"], key="key")),
    "receive": lambda queue, _: queue.receive(),
    "receive and wait": lambda queue, _: queue.receive(wait=5),
    "receive many": lambda queue, _: queue.receive_many(5),
    "dequeue many": lambda queue, _: queue.dequeue_many(5),
    "ack": lambda queue, receipt: queue.ack(receipt),
    "release": lambda queue, receipt: queue.release(receipt),
    "extend": lambda queue, receipt: queue.extend(receipt, visibility=99),
    "settle": lambda queue, receipt: queue.settle([Settlement(receipt=receipt)]),
    "peek": lambda queue, _: queue.peek(),
    "find": lambda queue, _: queue.find(1),
    "clear": lambda queue, _: queue.clear(),
    "pause": lambda queue, _: queue.pause(),
    "resume": lambda queue, _: queue.resume(),
    "redrive": lambda queue, _: queue.redrive(),
    "lease": lambda queue, _: queue.lease().__aenter__(),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("moment", ["before it runs", "in line for the lock"])
async def test_every_verb_that_is_cancelled_changes_nothing(
    zapq_service: QueueService, verb: str, moment: str
) -> None:
    queue = zapq_service.queue("emails")
    await queue.enqueue_many([b"a", b"b"])
    lease = await receive(queue)
    before = (zapq_service.stats(), queue.info(), await queue.peek("leased"))
    scope = trio.CancelScope()

    async def caller() -> None:
        with scope:
            await VERBS[verb](queue, lease.receipt)

    if moment == "before it runs":
        scope.cancel()
        await caller()
    else:
        async with trio.open_nursery() as nursery, zapq_service.lock:
            nursery.start_soon(caller)
            await wait_all_tasks_blocked()
            assert zapq_service.lock.statistics().tasks_waiting
            scope.cancel()
            await wait_all_tasks_blocked()
    assert scope.cancelled_caught
    assert (zapq_service.stats(), queue.info(), await queue.peek("leased")) == before
    assert len(zapq_service.keys) == 0


@pytest.mark.parametrize(
    ("attempt", "parameter"),
    [
        (lambda queue: queue.enqueue(b"", priority=10), "priority"),
        (lambda queue: queue.enqueue(b"", priority=-1), "priority"),
        (lambda queue: queue.enqueue(b"", delay=-1), "delay"),
        (lambda queue: queue.enqueue(b"", delay=inf), "delay"),
        (lambda queue: queue.enqueue(b"", delay=float("nan")), "delay"),
        (lambda queue: queue.enqueue(b"", ttl=0), "ttl"),
        (lambda queue: queue.enqueue(b"", ttl=365 * 86_400 + 1), "ttl"),
        (lambda queue: queue.enqueue(b"", content_type="a\r\nb: c"), "content_type"),
        (lambda queue: queue.enqueue(b"", content_type=""), "content_type"),
        (lambda queue: queue.enqueue_many([b""], content_type="a\r\nb"), "content_type"),
        (lambda queue: queue.lease(visibility=-1).__aenter__(), "visibility"),
        (lambda queue: queue.enqueue_many([]), "messages"),
        (lambda queue: queue.enqueue_many([b""] * 1001), "messages"),
        (lambda queue: queue.enqueue_many([b"", Draft(body=b"", priority=99)]), "priority"),
        (lambda queue: queue.put(Offer(b"", terms(delay=-1), key="key")), "delay"),
        (lambda queue: queue.put(Offer([], key="key")), "messages"),
        (lambda queue: queue.receive(wait=61), "wait"),
        (lambda queue: queue.receive(visibility=43_201), "visibility"),
        (lambda queue: queue.receive(visibility=-1), "visibility"),
        (lambda queue: queue.receive_many(0), "max"),
        (lambda queue: queue.dequeue_many(1001), "max"),
        (lambda queue: queue.ack("nonsense"), "receipt"),
        (lambda queue: queue.release("nonsense", delay=-1), "delay"),
        (lambda queue: queue.extend("nonsense", visibility=inf), "visibility"),
        (lambda queue: queue.settle([]), "settlements"),
        (lambda queue: queue.peek(limit=0), "limit"),
        (lambda queue: queue.redrive(limit=1001), "limit"),
    ],
)
async def test_what_is_out_of_range_is_refused_by_name_and_changes_nothing(
    zapq_service: QueueService, attempt: Callable[[NamedQueue], Awaitable[object]], parameter: str
) -> None:
    queue = zapq_service.queue("emails")
    before = zapq_service.stats()
    with pytest.raises(InvalidParameter) as refusal:
        await attempt(queue)
    assert refusal.value.members["parameter"] == parameter
    assert zapq_service.stats() == before


async def test_limits_hold_for_every_way_in(zapq_settings: Settings, nursery: trio.Nursery) -> None:
    small = replace(zapq_settings, max_message_bytes=3, max_waiters=1, max_queues=2)
    async with open_service(small) as service:
        queue = service.queue("emails")
        for attempt in (
            lambda: queue.enqueue(b"1234"),
            lambda: queue.enqueue_many([b"1", b"1234"]),
            lambda: queue.enqueue_many([Draft(body=b"1234")]),
            lambda: queue.put(Offer(b"1234", key="key")),
        ):
            with pytest.raises(MessageTooLarge):
                await attempt()
        with pytest.raises(TooManyQueues):
            service.queue("third")

        async def wait_in_vain() -> None:
            with pytest.raises(Draining):
                await service.dequeue(wait=60)

        nursery.start_soon(wait_in_vain)
        await wait_all_tasks_blocked()
        with pytest.raises(TooManyWaiters):
            await queue.receive(wait=1)
        assert queue.info().stats.messages == 0


async def test_messages_of_a_batch_can_be_taken_back_one_by_one(
    queue: NamedQueue, autojump_clock: MockClock
) -> None:
    await queue.enqueue_many([b"%d" % number for number in range(5)])
    given = await queue.take(Want(3))
    assert [each.body for each in given] == [b"0", b"1", b"2"]
    queue.return_undelivered(given)
    taken = await queue.dequeue_many(9)
    assert [message.body for message in taken] == [b"%d" % number for number in range(5)]
    assert [message.id for message in taken] == [1, 2, 3, 4, 5]
    assert all(isinstance(message, Message) for message in taken)
