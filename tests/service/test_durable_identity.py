"""Over a restart a message is what it was: where it was sent, how often it was leased, and when it arrived."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.service.asking import leased
from tests.support.disk import open_durable
from tests.support.waiting import eventually
from zapq.core.message import Origin, Properties
from zapq.core.queue_settings import QueueSettings
from zapq.engine.local import LocalEngine
from zapq.errors import MessageNotFound
from zapq.service.operations import Find, Offer, Terms
from zapq.store.check import check


async def test_who_a_message_is_is_on_the_disk(tmp_path: Path) -> None:
    async with open_durable(tmp_path) as service:
        await service.configure("work", QueueSettings(max_receives=1, dead_letter="dead"))
        work = service.queue("work")
        for body in (b"1", b"2"):
            await work.enqueue(body)
        for _ in range(2):
            await work.release((await leased(work)).receipt)
        assert (await service.queue("dead").redrive(limit=1)).moved == 1
        # Leased when the process ends: that counts.
        await leased(service.queue("dead"))
    assert check(str(tmp_path)).garbage == 0
    async with open_durable(tmp_path) as service:
        engine, now = LocalEngine(service), trio.current_time()
        back = engine.perform(Find("work", 1), now)
        assert (back.id, back.message.properties) == (3, Properties(origin=Origin("work", 1, 1)))
        with pytest.raises(MessageNotFound) as refusal:
            engine.perform(Find("work", 2), now)
        assert (refusal.value.members["now_in"], refusal.value.members["now_id"]) == ("dead", 2)
        lease = await leased(service.queue("dead"))
        assert (lease.id, lease.receives, lease.receive_count) == (2, 2, 3)
        await service.queue("dead").release(lease.receipt)


async def test_a_dead_letter_that_a_client_sends_on_is_found_there_as_well(tmp_path: Path) -> None:
    async with open_durable(tmp_path) as service:
        await service.configure("work", QueueSettings(max_receives=1, dead_letter="dead"))
        work = service.queue("work")
        for id, group in ((1, ""), (3, "g")):
            await work.put(Offer(b"x", Terms(Properties(group=group))))
            await work.release((await leased(work)).receipt)
            letter = await leased(service.queue("dead"))
            await work.put(Offer(letter.body, Terms(letter.message.moved("dead"))))
            await service.queue("dead").ack(letter.receipt)
            assert service.broker.whereabouts("work", id) == ("work", id + 1)
            await work.dequeue()


async def test_when_a_message_arrived_is_on_the_disk(tmp_path: Path) -> None:
    async with open_durable(tmp_path) as service:
        await service.configure("work", QueueSettings(retention=3600.0))
        work = service.queue("work")
        await work.enqueue(b"one", headers={"a": "1"})
        await work.enqueue_many([b"two", b"three"])
        begun = trio.current_time()
        before = [begun - seen.message.properties.arrived for seen in await work.peek("ready")]
    async with open_durable(tmp_path) as service:
        work = service.queue("work")
        passed = trio.current_time() - begun
        after = [begun + passed - seen.message.properties.arrived for seen in await work.peek("ready")]
        assert all(0 <= late - early < passed + 5 for early, late in zip(before, after, strict=True))
        await service.configure("work", QueueSettings(retention=0.001))
        await eventually(lambda: not work.info().stats.messages, "them to expire")
        assert work.info().stats.expired == 3
    assert [queue.ready for queue in check(str(tmp_path)).queues if queue.name == "work"] == [0]
