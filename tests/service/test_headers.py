"""Headers of messages in a running service: what producers in this process say, and what is kept of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.service.asking import leased
from tests.support.disk import open_durable
from zapq.core.message import Draft
from zapq.core.queue_settings import QueueSettings
from zapq.errors import InvalidParameter, KeyReused
from zapq.service.fingerprint import fingerprint_of
from zapq.service.open import open_service
from zapq.service.operations import Offer, terms
from zapq.service.service import QueueService
from zapq.settings import Settings

HEADERS = {"order": "17", "traceparent": "00-1"}


async def test_each_way_to_take_a_message_gives_its_headers(zapq_service: QueueService) -> None:
    await zapq_service.enqueue(b"a", headers={"Order": "17", "traceparent": "00-1"})
    zapq_service.enqueue_nowait(b"b", headers=HEADERS)
    await zapq_service.default.put(Offer(b"c", terms(headers=HEADERS)))
    await zapq_service.default.put(Offer([b"d"], terms(headers=HEADERS)))
    await zapq_service.default.enqueue_many([Draft(body=b"e", headers=HEADERS)])
    lease = await leased(zapq_service.default)
    assert (lease.body, lease.headers) == (b"a", HEADERS)
    message = await zapq_service.dequeue()
    assert message is not None
    assert (message.body, message.headers) == (b"b", HEADERS)
    assert [each.headers for each in await zapq_service.default.dequeue_many(9)] == [HEADERS] * 3


async def test_messages_without_their_own_have_those_of_the_batch(zapq_service: QueueService) -> None:
    batch: list[bytes | Draft] = [b"a", Draft(body=b"b"), Draft(body=b"c", headers={"C": "3"})]
    await zapq_service.default.put(Offer(batch, terms(headers={"of": "all"})))
    assert [each.headers for each in await zapq_service.default.dequeue_many(9)] == [
        {"of": "all"},
        {"of": "all"},
        {"c": "3"},
    ]


async def test_bad_ones_are_refused_and_nothing_is_stored(zapq_service: QueueService) -> None:
    bad = {"a": "x\n"}
    with pytest.raises(InvalidParameter):
        await zapq_service.enqueue(b"a", headers=bad)
    with pytest.raises(InvalidParameter):
        zapq_service.enqueue_nowait(b"a", headers=bad)
    with pytest.raises(InvalidParameter):
        await zapq_service.default.enqueue_many([b"a", Draft(body=b"b"), Draft(body=b"c", headers=bad)])
    assert zapq_service.stats().queue.enqueued == 0


async def test_a_key_is_for_the_headers_as_well(zapq_service: QueueService) -> None:
    queue = zapq_service.default
    contents: list[bytes | list[bytes | Draft]] = [b"x", [b"x"], [Draft(body=b"x", headers={"own": "1"}), b"y"]]
    for content in contents:
        key = repr(content)
        first = await queue.put(Offer(content, terms(headers={"order": "17", "traceparent": "00-1"}), key))
        again = await queue.put(Offer(content, terms(headers={"order": "17", "traceparent": "00-2"}), key))
        assert (again.id, again.replayed) == (first.id, True)
        with pytest.raises(KeyReused):
            await queue.put(Offer(content, terms(headers={"order": "18"}), key))
        with pytest.raises(KeyReused):
            await queue.put(Offer(content, terms(), key))


def test_the_fingerprint_of_what_has_no_headers_is_what_it_was_before_there_were_any() -> None:
    offers = [
        Offer(b"x", terms(priority=3, delay=1.5, content_type="text/plain")),
        Offer([b"x", Draft(body=b"y", ttl=5.0)], terms(content_type="a/b")),
    ]
    assert [fingerprint_of(offer).hex() for offer in offers] == [
        "8d9f3154c8280c297a428bf07d487134",
        "3267cabeaf6bcb6ca3867e0f2c976835",
    ]


async def test_an_offer_that_waits_for_room_waits_for_that_of_its_headers(
    zapq_settings: Settings, autojump_clock: MockClock
) -> None:
    async with open_service(replace(zapq_settings, max_bytes=10)) as service:
        await service.enqueue(b"12345")
        stored = trio.Event()

        async def put() -> None:
            offer = Offer([b"1", Draft(body=b"2")], terms(headers={"a": "1"}, wait=60))
            await service.default.put(offer)
            stored.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(put)
            await wait_all_tasks_blocked()
            assert not stored.is_set()
            await service.dequeue()
            await stored.wait()
        assert service.stats().queue.bytes == 6


async def test_they_are_there_after_a_restart(tmp_path: Path) -> None:
    async with open_durable(tmp_path) as service:
        await service.configure("dead", QueueSettings())
        await service.configure("work", QueueSettings(max_receives=1, dead_letter="dead"))
        work = service.queue("work")
        await work.enqueue(b"plain")
        await work.enqueue_many([b"many 1", b"many 2"])
        await work.put(Offer([b"run 1", b"run 2"], terms(headers=HEADERS)))
        for body, more in (
            (b"failed", {"priority": 9}),
            (b"late", {"delay": 1000.0}),
            (b"mortal", {"ttl": 1000.0}),
        ):
            await work.enqueue(body, headers={"of": body.decode()}, **more)
        lease = await leased(work)
        await work.release(lease.receipt)
        size = service.stats().queue.bytes
    for _ in range(2):
        async with open_durable(tmp_path) as service:
            shown = {
                each.message.body: each.message.headers
                for queue in service.queues()
                for state in ("ready", "delayed")
                for each in await queue.peek(state)
            }
            assert shown == {
                b"plain": {},
                b"many 1": {},
                b"many 2": {},
                b"run 1": HEADERS,
                b"run 2": HEADERS,
                b"failed": {"of": "failed"},
                b"late": {"of": "late"},
                b"mortal": {"of": "mortal"},
            }
            assert service.stats().queue.bytes == size
    async with open_durable(tmp_path) as service:
        assert (await service.queue("dead").redrive()).moved == 1
        assert (await leased(service.queue("work"))).headers == {"of": "failed"}


async def test_a_snapshot_keeps_them(zapq_service: QueueService, zapq_settings: Settings) -> None:
    await zapq_service.enqueue(b"a", headers=HEADERS)
    await zapq_service.default.put(Offer([b"b", b"c"], terms(headers=HEADERS)))
    await zapq_service.enqueue(b"d")
    await zapq_service.snapshot("a.msgpack")
    async with open_service(zapq_settings) as other:
        await other.restore("a.msgpack")
        assert other.stats().queue.bytes == zapq_service.stats().queue.bytes
        assert [each.headers for each in await other.default.dequeue_many(9)] == [HEADERS] * 3 + [{}]
