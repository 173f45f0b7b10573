"""Producers that wait for room, in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import zapq
from tests.support.waiting import eventually
from zapq.core.message import Draft
from zapq.core.queue_settings import QueueSettings
from zapq.engine.local import LocalEngine
from zapq.errors import Draining, KeyReused, QueueFull, QueueNotFound, TooManyWaiters, ZapqError
from zapq.limits import MAX_WAITING_BYTES
from zapq.service.named_queue import NamedQueue
from zapq.service.operations import Accepted, Offer, Put, Settlement, terms
from zapq.service.pending import Pending
from zapq.service.service import QueueService
from zapq.settings import Settings

PATIENT = terms(wait=60)


@pytest.fixture
def zapq_settings(zapq_settings: Settings) -> Settings:
    return replace(zapq_settings, max_msgs=4, max_bytes=1000, max_waiters=10)


@pytest.fixture
def full(zapq_service: QueueService) -> NamedQueue:
    """A queue with one message, which is all it may have."""
    zapq_service.broker.configure("full", QueueSettings(max_messages=1), 0)
    queue = zapq_service.queue("full")
    queue.enqueue_nowait(b"first")
    return queue


class Producer:
    """Puts an offer, and notes what comes of it and when."""

    def __init__(self, nursery: trio.Nursery, queue: NamedQueue, offer: Offer) -> None:
        self.outcome: Any = None
        self.scope = trio.CancelScope()
        self.seconds = 0.0
        nursery.start_soon(self._run, queue, offer)

    @property
    def waits(self) -> bool:
        """Whether nothing has come of it yet."""
        return self.outcome is None

    async def _run(self, queue: NamedQueue, offer: Offer) -> None:
        begun = trio.current_time()
        try:
            with self.scope:
                self.outcome = await queue.put(offer)
        except ZapqError as error:
            self.outcome = error
        self.seconds = round(trio.current_time() - begun, 3)


async def start(nursery: trio.Nursery, queue: NamedQueue, *offers: Offer) -> list[Producer]:
    """Let producers come one after the other."""
    producers = []
    for offer in offers:
        producers.append(Producer(nursery, queue, offer))
        await wait_all_tasks_blocked()
    return producers


async def drained(queue: NamedQueue) -> list[bytes]:
    """Take everything there is, and what comes into its place."""
    bodies = []
    while (message := await queue.dequeue()) is not None:
        bodies.append(message.body)
        await wait_all_tasks_blocked()
    return bodies


async def test_an_offer_waits_for_room_and_is_stored(
    zapq_service: QueueService, full: NamedQueue, nursery: trio.Nursery
) -> None:
    [producer] = await start(nursery, full, Offer(b"second", PATIENT))
    assert producer.waits
    assert zapq_service.stats().waiting == 1
    assert await full.dequeue() is not None
    await wait_all_tasks_blocked()
    assert producer.outcome == Accepted(2)
    assert zapq_service.stats().waiting == 0
    assert full.info().stats.refused == 0


async def test_at_the_end_of_its_wait_it_is_refused_as_without(
    zapq_service: QueueService, full: NamedQueue, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    with pytest.raises(QueueFull) as at_once:
        await full.put(Offer(b"second"))
    begun = trio.current_time()
    with pytest.raises(QueueFull) as later:
        await full.put(Offer(b"second", terms(wait=20)))
    assert trio.current_time() - begun == pytest.approx(20)
    assert later.value.members == at_once.value.members
    assert later.value.retry_after is not None
    assert full.info().stats.refused == 2
    assert zapq_service.stats().waiting == 0


async def test_first_come_first_served_and_none_overtakes(full: NamedQueue, nursery: trio.Nursery) -> None:
    await start(nursery, full, *(Offer(b"%d" % number, PATIENT) for number in range(5)))
    message = full.dequeue_nowait()
    assert message is not None
    # There is room now, but not for those that come now.
    with pytest.raises(QueueFull):
        full.enqueue_nowait(b"pushing")
    with pytest.raises(QueueFull):
        full.put_nowait(Offer([b"pushing"]))
    await wait_all_tasks_blocked()
    assert await drained(full) == [b"0", b"1", b"2", b"3", b"4"]
    full.enqueue_nowait(b"next")


async def test_a_queue_that_is_full_holds_up_no_other(
    zapq_service: QueueService, full: NamedQueue, nursery: trio.Nursery
) -> None:
    other = zapq_service.queue("other")
    for _ in range(3):
        await other.enqueue(b"x")  # the server is full now
    [blocked] = await start(nursery, full, Offer(b"blocked", PATIENT))
    [served] = await start(nursery, other, Offer(b"served", PATIENT))
    await other.dequeue()
    await wait_all_tasks_blocked()
    assert (blocked.waits, served.outcome) == (True, Accepted(4))


FREEING: dict[str, Callable[[QueueService, NamedQueue, str], Awaitable[object]]] = {
    "take": lambda service, full, receipt: service.default.dequeue(),
    "take many": lambda service, full, receipt: service.default.dequeue_many(10),
    "ack": lambda service, full, receipt: full.ack(receipt),
    "settle": lambda service, full, receipt: full.settle([Settlement(receipt=receipt)]),
    "purge": lambda service, full, receipt: full.clear(),
    "delete": lambda service, full, receipt: service.delete("other"),
    "load": lambda service, full, receipt: service.restore("empty.msgpack"),
    "load the default queue": lambda service, full, receipt: service.restore("empty.json"),
}


@pytest.mark.parametrize("how", FREEING)
async def test_whatever_frees_room_serves(zapq_service: QueueService, nursery: trio.Nursery, how: str) -> None:
    for name in ("empty.msgpack", "empty.json"):
        await zapq_service.snapshot(name)
    full, other = zapq_service.queue("full"), zapq_service.queue("other")
    await zapq_service.enqueue(b"default")
    await other.enqueue_many([b"other"] * 2)
    await full.enqueue(b"leased")
    lease = await full.receive(visibility=600)
    assert lease is not None
    target = zapq_service.queue("target")
    [producer] = await start(nursery, target, Offer(b"x" * 100, PATIENT))
    assert producer.waits
    await FREEING[how](zapq_service, full, lease.receipt)
    await wait_all_tasks_blocked()
    # Loading all queues has removed the one that this producer has.
    assert isinstance(producer.outcome, QueueNotFound if how == "load" else Accepted)


async def test_what_expires_makes_room(
    zapq_service: QueueService, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    await zapq_service.default.enqueue_many([Draft(body=b"x", ttl=30)] * 4)
    [producer] = await start(nursery, zapq_service.queue("other"), Offer(b"y", PATIENT))
    await trio.sleep(31)
    assert (producer.outcome, producer.seconds) == (Accepted(1), 30)


async def test_a_body_that_does_not_come_makes_room(zapq_service: QueueService, nursery: trio.Nursery) -> None:
    body = zapq_service.reservation("default")
    assert body.cover(1000)
    [producer] = await start(nursery, zapq_service.default, Offer(b"x", PATIENT))
    assert producer.waits
    body.release()
    await wait_all_tasks_blocked()
    assert producer.outcome == Accepted(1)


async def test_a_raised_cap_serves(zapq_service: QueueService, full: NamedQueue, nursery: trio.Nursery) -> None:
    [one, two] = await start(nursery, full, Offer(b"second", PATIENT), Offer([b"third"], PATIENT))
    await zapq_service.change_settings("full", max_messages=2)
    await wait_all_tasks_blocked()
    assert (one.outcome, two.waits) == (Accepted(2), True)
    await zapq_service.configure("full", QueueSettings())
    await wait_all_tasks_blocked()
    assert two.outcome == Accepted(3)


async def test_what_can_never_be_stored_does_not_wait(
    zapq_service: QueueService, full: NamedQueue, nursery: trio.Nursery
) -> None:
    with pytest.raises(QueueFull):
        await full.put(Offer([b"a", b"b"], PATIENT))
    with pytest.raises(QueueFull):
        await full.put(Offer([b"a"] * 5, PATIENT))
    await zapq_service.configure("full", QueueSettings(max_messages=3))
    await full.enqueue_many([b"x"] * 2)
    [two, one] = await start(nursery, full, Offer([b"a", b"b"], PATIENT), Offer(b"c", PATIENT))
    await zapq_service.configure("full", QueueSettings(max_messages=1))
    await wait_all_tasks_blocked()
    assert isinstance(two.outcome, QueueFull)
    assert one.waits


async def test_a_client_that_leaves_takes_no_place_and_stores_nothing(
    zapq_service: QueueService, full: NamedQueue, nursery: trio.Nursery
) -> None:
    producers = await start(nursery, full, Offer(b"leaves", PATIENT), Offer(b"stays", PATIENT))
    producers[0].scope.cancel()
    await wait_all_tasks_blocked()
    assert zapq_service.stats().waiting == 1
    assert await drained(full) == [b"first", b"stays"]


async def test_one_that_leaves_makes_way_for_those_behind(
    zapq_service: QueueService, nursery: trio.Nursery
) -> None:
    await zapq_service.default.enqueue_many([b"x"] * 3)
    large, small = await start(nursery, zapq_service.default, Offer([b"y"] * 2, PATIENT), Offer(b"z", PATIENT))
    assert small.waits
    large.scope.cancel()
    await wait_all_tasks_blocked()
    assert small.outcome == Accepted(4)


async def test_one_whose_time_is_up_makes_way_for_those_behind(
    zapq_service: QueueService, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    await zapq_service.default.enqueue_many([b"x"] * 3)
    large, small = await start(
        nursery, zapq_service.default, Offer([b"y"] * 2, terms(wait=5)), Offer(b"z", PATIENT)
    )
    await trio.sleep(10)
    assert isinstance(large.outcome, QueueFull)
    assert (small.outcome, small.seconds) == (Accepted(4), 5)


async def test_drain_answers_at_once(zapq_service: QueueService, full: NamedQueue, nursery: trio.Nursery) -> None:
    producers = await start(nursery, full, *[Offer(b"x", PATIENT)] * 10)
    zapq_service.drain()
    await wait_all_tasks_blocked()
    assert {type(each.outcome) for each in producers} == {Draining}
    assert zapq_service.stats().waiting == 0


async def test_as_many_wait_as_may_consumers_counted(
    zapq_service: QueueService, full: NamedQueue, nursery: trio.Nursery
) -> None:
    await start(nursery, full, *[Offer(b"x", PATIENT)] * 9)
    nursery.start_soon(partial(zapq_service.dequeue, wait=60))
    await wait_all_tasks_blocked()
    with pytest.raises(QueueFull):
        await full.put(Offer(b"x", PATIENT))
    with pytest.raises(TooManyWaiters):
        await zapq_service.dequeue(wait=60)


async def test_so_many_bytes_wait_as_may_and_go_back(zapq_service: QueueService, nursery: trio.Nursery) -> None:
    zapq_service.broker.max_bytes = 2 * MAX_WAITING_BYTES
    zapq_service.max_message_bytes = MAX_WAITING_BYTES
    queue = zapq_service.queue("large")
    zapq_service.broker.configure("large", QueueSettings(max_messages=1), 0)
    await queue.enqueue(b"first")
    large = bytes(MAX_WAITING_BYTES - 1000)
    [first] = await start(nursery, queue, Offer(large, PATIENT))
    with pytest.raises(QueueFull):
        await queue.put(Offer(bytes(1000), PATIENT))
    first.scope.cancel()
    await wait_all_tasks_blocked()
    [second] = await start(nursery, queue, Offer(large, PATIENT))
    assert second.waits


async def test_a_key_means_what_it_always_means(
    zapq_service: QueueService, full: NamedQueue, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    once = Offer(b"once", PATIENT, key="key")
    one, same, other = await start(nursery, full, once, once, Offer(b"other", PATIENT, key="key"))
    assert await full.dequeue() is not None
    await wait_all_tasks_blocked()
    assert one.outcome == Accepted(2)
    # Used for the same already: nothing is to be stored, so no room is needed.
    assert await full.put(once) == Accepted(2, replayed=True)
    await trio.sleep(61)
    assert same.outcome == Accepted(2, replayed=True)
    assert isinstance(other.outcome, KeyReused)
    assert full.info().stats.messages == 1


async def test_offers_for_a_queue_that_is_not_there_make_it(
    zapq_service: QueueService, nursery: trio.Nursery
) -> None:
    await zapq_service.default.enqueue_many([b"x"] * 4)
    queues = LocalEngine(zapq_service)
    pending = [queues.perform(Put(b"%d" % n, PATIENT, queue="new"), trio.current_time()) for n in range(2)]
    assert all(isinstance(each, Pending) for each in pending)
    assert "new" not in zapq_service.broker.queues
    await zapq_service.default.dequeue_many(4)
    await wait_all_tasks_blocked()
    assert [each.result() for each in pending] == [Accepted(1), Accepted(2)]


async def test_a_message_that_finds_a_waiting_consumer_makes_room_for_the_next(
    zapq_service: QueueService, full: NamedQueue, nursery: trio.Nursery
) -> None:
    got: list[bytes] = []

    async def consume() -> None:
        while (message := await full.dequeue(wait=60)) is not None:
            got.append(message.body)

    await start(nursery, full, *(Offer(b"%d" % number, PATIENT) for number in range(8)))
    nursery.start_soon(consume)
    await wait_all_tasks_blocked()
    assert got == [b"first", *(b"%d" % number for number in range(8))]
    nursery.cancel_scope.cancel()


async def test_drafts_wait_as_well(zapq_service: QueueService, nursery: trio.Nursery) -> None:
    await zapq_service.default.enqueue_many([b"x"] * 3)
    batch = [Draft(body=b"low"), Draft(body=b"high", priority=9)]
    [producer] = await start(nursery, zapq_service.default, Offer(batch, PATIENT))
    assert await drained(zapq_service.default) == [b"x", b"high", b"x", b"x", b"low"]
    assert producer.outcome == Accepted(4)


@pytest.mark.parametrize("how", ["ack", "purge"])
async def test_on_disk_there_is_room_when_it_is_written(tmp_path: Path, nursery: trio.Nursery, how: str) -> None:
    settings = Settings(data_dir=str(tmp_path), durable=True, max_msgs=1)
    async with zapq.open_service(settings) as service:
        jobs: Any = service.queue("jobs")
        await jobs.enqueue(b"first")
        [producer] = await start(nursery, jobs, Offer(b"second", PATIENT, key="key"))
        assert producer.waits
        if how == "purge":
            await jobs.clear()
        else:
            lease = await jobs.receive()
            await jobs.ack(lease.receipt)
        await eventually(lambda: producer.outcome is not None, "the message to be stored")
        assert producer.outcome == Accepted(2, durability="committed")
    async with zapq.open_service(settings) as service:
        assert [each.body for each in await service.queue("jobs").dequeue_many(5)] == [b"second"]


async def test_an_error_of_ours_is_what_comes_of_one_offer_and_no_end_of_the_timer(
    zapq_service: QueueService, full: NamedQueue, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.abc.Clock
) -> None:
    waits = LocalEngine(zapq_service).perform(Put(b"x", PATIENT, queue="full"), trio.current_time())
    monkeypatch.setattr(zapq_service.find_state("full"), "put", lambda *_: 1 / 0)
    await full.dequeue()
    with pytest.raises(ZeroDivisionError):
        await waits.wait()
    monkeypatch.undo()
    await full.enqueue(b"later", delay=1)
    assert (await full.dequeue(wait=2)) is not None
