"""Several front ends: the order of their consumers, clients that leave, and a front end that dies."""

from __future__ import annotations

from itertools import count
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests import linearizability
from tests.engine.fronts import FrontEnd, ask, front_ends
from zapq.core.message import Draft, Lease, Properties
from zapq.core.queue_settings import QueueSettings
from zapq.engine.wire import Order
from zapq.errors import ClientGone, Draining, InvalidParameter, NoAnswer, QueueFull
from zapq.service.operations import (
    Accepted,
    Delivery,
    Enqueue,
    Nothing,
    Put,
    Settlement,
    SettleOne,
    Stats,
    Take,
    Terms,
)
from zapq.service.pending import Pending
from zapq.service.service import QueueService
from zapq.service.service_stats import ServiceStats
from zapq.service.waiting import ONE, Want

POLL = Take("default", ONE, 60.0)
LEASE = Take("default", Want(lease=True, visibility=30.0))


def asked(front: FrontEnd, operation: Any) -> Pending[Any]:
    pending = front.engine.perform(operation, trio.current_time())
    assert isinstance(pending, Pending)
    return pending


def body(pending: Pending[Any]) -> bytes:
    outcome = pending.result()
    assert isinstance(outcome, Delivery)
    [given] = outcome.given
    return given.body


async def test_consumers_of_all_front_ends_stand_in_one_line(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    async with front_ends(zapq_service, 3) as fronts:
        polls = []
        for turn in range(6):
            polls.append(asked(fronts[turn % 3], POLL))
            await wait_all_tasks_blocked()
        for number in range(6):
            await ask(fronts[0].engine, Enqueue("default", b"%d" % number))
        await wait_all_tasks_blocked()
        assert [body(poll) for poll in polls] == [b"0", b"1", b"2", b"3", b"4", b"5"]


@pytest.mark.parametrize("seed", range(8))
async def test_four_front_ends_have_one_line_whatever_comes_and_goes(
    zapq_service: QueueService, autojump_clock: MockClock, seed: int
) -> None:
    choose = Random(seed)
    async with front_ends(zapq_service, 4) as fronts:
        line: list[Pending[Any]] = []
        served: list[tuple[Pending[Any], bytes]] = []
        for step in range(100):
            kind = choose.choice(("poll", "poll", "lease", "leave", "enqueue"))
            front = choose.choice(fronts)
            if kind == "leave":
                if line:
                    line.pop(choose.randrange(len(line))).abandon()
            elif kind == "enqueue":
                if line:
                    name = b"%d" % step
                    await ask(front.engine, Enqueue("default", name))
                    served.append((line.pop(0), name))
            else:
                want = ONE if kind == "poll" else Want(lease=True, visibility=600.0)
                line.append(asked(front, Take("default", want, 60.0)))
            await wait_all_tasks_blocked()
        assert [body(poll) for poll, _ in served] == [name for _, name in served]
        assert not any(poll.done for poll in line)
        assert zapq_service.stats().waiting == len(line)


async def test_what_is_asked_in_one_turn_is_one_frame(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    async with front_ends(zapq_service) as [front]:
        sent: list[bytes] = []
        send = front.channel.send

        def note(frame: bytes) -> None:
            sent.append(frame)
            send(frame)

        front.channel.send = note  # type: ignore[method-assign]
        with front.engine.turn():
            pendings = [asked(front, Enqueue("default", b"%d" % number)) for number in range(100)]
            assert not sent
        later = asked(front, LEASE)
        assert len(sent) == 1  # the other one waits until the first has its reply
        await wait_all_tasks_blocked()
        assert len(sent) == 2
        assert [pending.result() for pending in pendings] == [Accepted(id) for id in range(1, 101)]
        assert body(later) == b"0"


@pytest.mark.parametrize("late", [False, True])
async def test_a_consumer_that_leaves_loses_no_message(
    zapq_service: QueueService, autojump_clock: MockClock, late: bool
) -> None:
    async with front_ends(zapq_service, 2) as [front, other]:
        poll = asked(front, POLL)
        await wait_all_tasks_blocked()
        if late:
            # Its message is on its way when it leaves.
            zapq_service.enqueue_nowait(b"m")
        poll.abandon()
        await wait_all_tasks_blocked()
        if not late:
            assert zapq_service.stats().waiting == 0
            zapq_service.enqueue_nowait(b"m")
        assert body_of(await ask(other.engine, Take("default", ONE))) == b"m"
        assert zapq_service.stats().queue.messages == 0


def body_of(outcome: object) -> bytes:
    assert isinstance(outcome, Delivery)
    return outcome.given[0].body


async def test_what_could_not_be_handed_over_goes_back(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    zapq_service.enqueue_nowait(b"a")
    zapq_service.enqueue_nowait(b"b")
    async with front_ends(zapq_service) as [front]:
        for take in (Take("default", ONE), LEASE):
            outcome = await ask(front.engine, take)
            assert isinstance(outcome, Delivery)
            outcome.queue.return_undelivered(outcome.given)
            await wait_all_tasks_blocked()
            assert zapq_service.default.info().stats.ready == 2
        assert body_of(await ask(front.engine, Take("default", ONE))) == b"a"


async def test_a_queue_that_is_gone_takes_nothing_back(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    zapq_service.queue("jobs").enqueue_nowait(b"a")
    async with front_ends(zapq_service) as [front]:
        outcome = await ask(front.engine, Take("jobs", ONE))
        assert isinstance(outcome, Delivery)
        await zapq_service.delete("jobs")
        outcome.queue.return_undelivered(outcome.given)
        await wait_all_tasks_blocked()
        assert [queue.name for queue in zapq_service.queues()] == ["default"]


@pytest.mark.parametrize("lease", [False, True], ids=["given", "leased"])
async def test_what_goes_back_does_not_go_to_a_new_queue_of_that_name(
    zapq_service: QueueService, autojump_clock: MockClock, lease: bool
) -> None:
    take = Take("jobs", Want(lease=lease))
    async with front_ends(zapq_service) as [front]:
        zapq_service.queue("jobs").enqueue_nowait(b"former")
        former = await ask(front.engine, take)
        await zapq_service.delete("jobs")
        jobs = zapq_service.queue("jobs")
        jobs.enqueue_nowait(b"new")
        new = await ask(front.engine, take)
        assert isinstance(former, Delivery)
        assert isinstance(new, Delivery)
        former.queue.return_undelivered(former.given)
        await wait_all_tasks_blocked()
        assert jobs.info().stats.ready == 0
        new.queue.return_undelivered(new.given)
        await wait_all_tasks_blocked()
        assert body_of(await ask(front.engine, take)) == b"new"


async def test_one_that_dies_loses_no_message_that_has_not_been_sent_to_it(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    # Whether it is found dead before or after the message is sent to it, is up to the scheduler.
    for number in range(20):
        async with front_ends(zapq_service) as [front]:
            poll = asked(front, POLL)
            await wait_all_tasks_blocked()
            front.die()
            zapq_service.enqueue_nowait(b"%d" % number)
            await wait_all_tasks_blocked()
            assert isinstance(outcome_of(poll), NoAnswer)
        stats = zapq_service.stats()
        assert (stats.delivery_uncertain, stats.queue.ready) == (0, 1)
        await zapq_service.dequeue()


async def test_one_that_dies_loses_nothing_that_is_leased(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    for message in (b"leased", b"given", b"handed"):
        zapq_service.enqueue_nowait(message)
    async with front_ends(zapq_service, 2) as [front, other]:
        assert body_of(await ask(front.engine, LEASE)) == b"leased"
        assert body_of(await ask(front.engine, Take("default", ONE))) == b"given"
        await trio.sleep(1.0)  # by now it has said that it has dealt with those
        waiting = asked(front, Take("jobs", ONE, 60.0))
        poll = asked(front, POLL)
        await wait_all_tasks_blocked()
        assert body(poll) == b"handed"
        front.die()
        await wait_all_tasks_blocked()
        assert isinstance(outcome_of(waiting), NoAnswer)
        assert zapq_service.stats().waiting == 0
        # What was handed out last may or may not have reached its client; the lease runs out.
        assert zapq_service.stats().delivery_uncertain == 1
        assert body_of(await ask(other.engine, POLL)) == b"leased"


async def test_what_is_asked_of_a_process_that_has_died_has_no_answer(zapq_service: QueueService) -> None:
    async with front_ends(zapq_service) as [front]:
        front.die()
        enqueuing = asked(front, Put((b"x",)))
        await wait_all_tasks_blocked()
        assert isinstance(outcome_of(enqueuing), NoAnswer)


async def test_a_producer_that_leaves_while_it_waits_for_room_has_sent_nothing(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    async with front_ends(zapq_service) as [front]:
        while True:
            try:
                await ask(front.engine, Put((b"x" * 100_000,) * 80))
            except QueueFull:
                break
        pending = asked(front, Put((b"y" * 100_000,) * 80, Terms(wait=60.0)))
        await wait_all_tasks_blocked()
        assert zapq_service.stats().waiting == 1
        # That nothing has happened is known from the other process only.
        with trio.move_on_after(1.0) as scope, pytest.raises(ClientGone):
            await pending.wait()
        assert not scope.cancelled_caught
        assert pending.withdrawn
        assert zapq_service.stats().waiting == 0


def outcome_of(pending: Pending[Any]) -> object:
    try:
        return pending.result()
    except Exception as error:
        return error


async def test_each_knows_what_all_have_counted(zapq_service: QueueService, autojump_clock: MockClock) -> None:
    async with front_ends(zapq_service, 3) as [one, two, three]:

        async def elsewhere(front: FrontEnd) -> dict[str, int]:
            stats = await ask(front.engine, Stats())
            assert isinstance(stats, ServiceStats)
            return stats.elsewhere

        assert await elsewhere(one) == {"requests": 5, "tasks": 1050}
        assert await elsewhere(three) == {"requests": 3, "tasks": 1030}
        two.die()
        await wait_all_tasks_blocked()
        # What only grows stays, what is there now goes.
        assert await elsewhere(one) == {"requests": 5, "tasks": 1030}


async def test_sums_over_queues_are_told_if_they_are_asked_for(zapq_service: QueueService) -> None:
    zapq_service.queue("jobs").enqueue_nowait(b"x")
    async with front_ends(zapq_service) as [front]:
        for sums, held in ((True, 1), (False, 0)):
            stats = await ask(front.engine, Stats(sums=sums))
            assert isinstance(stats, ServiceStats)
            assert (stats.queue.messages, stats.queues) == (held, 2)
            assert (stats.oldest is not None) is sums


async def test_one_that_hangs_does_not_hide_what_the_others_have_counted(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    async with front_ends(zapq_service, 3) as [one, two, three]:
        await ask(one.engine, Stats())
        with two.engine.watched(), three.engine.watched():  # by no one
            stats = await ask(one.engine, Stats())
        assert isinstance(stats, ServiceStats)
        assert stats.elsewhere == {"requests": 5, "tasks": 1050}  # as they said before


async def test_asking_for_counts_leaves_no_task_behind(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    async with front_ends(zapq_service, 3) as [one, *_]:
        before = trio.lowlevel.current_statistics().tasks_living
        for _ in range(10):
            await ask(one.engine, Stats())
        # Not a second later: `/metrics` would count them.
        await wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == before


async def test_orders_arrive_and_draining_is_known(zapq_service: QueueService, autojump_clock: MockClock) -> None:
    async with front_ends(zapq_service) as [front]:
        front.host.order(Order.RELOAD)
        front.host.order(Order.STOP, 2.5)
        await wait_all_tasks_blocked()
        assert front.orders == [(Order.RELOAD, 0.0), (Order.STOP, 2.5)]
        zapq_service.drain()
        with pytest.raises(Draining):
            await ask(front.engine, Enqueue("default", b"x"))
        with pytest.raises(Draining):
            front.engine.check_open()


async def test_more_than_the_socket_takes_arrives(zapq_service: QueueService, autojump_clock: MockClock) -> None:
    async with front_ends(zapq_service, 2) as [front, other]:
        large = [bytes([number]) * 100_000 for number in range(80)]
        for _ in range(3):
            await ask(front.engine, Put(tuple(large)))
        outcome = await ask(other.engine, Take("default", Want(200)))
        assert isinstance(outcome, Delivery)
        assert [each.body for each in outcome.given] == (large * 3)[: len(outcome.given)]


async def test_receipts_are_good_at_every_front_end(zapq_service: QueueService, autojump_clock: MockClock) -> None:
    zapq_service.enqueue_nowait(b"m")
    async with front_ends(zapq_service, 2) as [front, other]:
        outcome = await ask(front.engine, LEASE)
        assert isinstance(outcome, Delivery)
        receipt = outcome.given[0].receipt  # type: ignore[union-attr]  # it is a lease
        extended = await ask(
            other.engine, SettleOne("default", Settlement(receipt=receipt, action="extend", visibility=60.0))
        )
        assert extended is not None
        assert await ask(other.engine, SettleOne("default", Settlement(receipt=receipt))) is None
        assert isinstance(await ask(front.engine, Take("default", ONE)), Nothing)


async def test_requests_of_one_kind_that_travel_together_are_each_answered_by_themselves(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    await zapq_service.configure("jobs", QueueSettings(max_messages=3))
    async with front_ends(zapq_service) as [front]:
        with front.engine.turn():
            puts = [asked(front, Enqueue("jobs", b"%d" % number)) for number in range(5)]
        await wait_all_tasks_blocked()
        assert [type(outcome_of(put)) for put in puts] == [Accepted] * 3 + [QueueFull] * 2
        with front.engine.turn():
            takes = [asked(front, Take("jobs", Want(lease=True))) for _ in range(5)]
        await wait_all_tasks_blocked()
        assert [body(take) for take in takes[:3]] == [b"0", b"1", b"2"]
        assert [type(outcome_of(take)) for take in takes[3:]] == [Nothing] * 2
        receipts = [take.result().given[0].receipt for take in takes[:3]]
        receipts.insert(1, "no receipt")
        with front.engine.turn():
            acks = [asked(front, SettleOne("jobs", Settlement(receipt=receipt))) for receipt in receipts]
        await wait_all_tasks_blocked()
        assert [type(outcome_of(ack)) for ack in acks] == [type(None), InvalidParameter, type(None), type(None)]
        assert zapq_service.find("jobs").info().stats.messages == 0


async def test_a_lease_of_no_time_is_over_before_the_next_consumer_is_served(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    zapq_service.enqueue_nowait(b"first")
    zapq_service.enqueue_nowait(b"second")
    async with front_ends(zapq_service) as [front]:
        with front.engine.turn():
            takes = [asked(front, Take("default", Want(lease=True, visibility=0.0))) for _ in range(2)]
        await wait_all_tasks_blocked()
        assert [body(take) for take in takes] == [b"first", b"first"]


async def test_each_producer_finds_its_messages_in_its_order(
    zapq_service: QueueService, autojump_clock: MockClock
) -> None:
    async with front_ends(zapq_service, 4) as fronts, trio.open_nursery() as nursery:

        async def produce(number: int) -> None:
            for each in range(25):
                await ask(fronts[(number + each) % 4].engine, Enqueue("default", b"%d %d" % (number, each)))

        for number in range(4):
            nursery.start_soon(produce, number)
    taken = [message.body.split() for message in await zapq_service.default.dequeue_many(1000)]
    for number in range(4):
        assert [int(each) for producer, each in taken if int(producer) == number] == list(range(25))


@pytest.mark.parametrize("seed", range(8))
async def test_four_front_ends_are_one_queue(
    zapq_service: QueueService, autojump_clock: MockClock, seed: int
) -> None:
    history: list[linearizability.Operation] = []
    times = count()

    async def play(client: int, front: FrontEnd) -> None:
        choose, held = Random(seed * 100 + client), list[str]()
        for step in range(12):
            await trio.sleep(choose.choice((0.0, 0.001)))
            kind = choose.choice(("enqueue", "dequeue", "receive", "ack", "release"))
            name, begun = f"{client}.{step}", next(times)
            call: linearizability.Call
            result: linearizability.Result
            if kind == "enqueue":
                outcome = await ask(front.engine, Enqueue("default", name.encode()))
                assert isinstance(outcome, Accepted)
                call, result = linearizability.Enqueue(name), outcome.id
            elif kind == "dequeue":
                outcome = await ask(front.engine, Take("default", ONE))
                call, result = linearizability.Dequeue(), None
                if isinstance(outcome, Delivery):
                    result = outcome.given[0].body.decode()
            elif kind == "receive":
                outcome = await ask(front.engine, Take("default", Want(lease=True, visibility=600.0)))
                call, result = linearizability.Receive(name), None
                if isinstance(outcome, Delivery):
                    [lease] = outcome.given
                    assert isinstance(lease, Lease)
                    call, result = linearizability.Receive(lease.receipt), lease.body.decode()
                    held.append(lease.receipt)
            elif not held:
                continue
            else:
                receipt = held.pop()
                settlement = Settlement(receipt=receipt, action="ack" if kind == "ack" else "release")
                await ask(front.engine, SettleOne("default", settlement))
                call = linearizability.Ack(receipt) if kind == "ack" else linearizability.Release(receipt)
                result = True
            history.append(linearizability.Operation(client, call, result, begun, next(times)))

    async with front_ends(zapq_service, 4) as fronts, trio.open_nursery() as nursery:
        for client in range(4):
            nursery.start_soon(play, client, fronts[client])
    assert linearizability.check(history) is not None, linearizability.describe(history)
    # A lease that goes on although it was acknowledged shows in no history.
    came = [each for each in history if isinstance(each.call, linearizability.Enqueue)]
    gone = [
        each
        for each in history
        if isinstance(each.call, linearizability.Ack)
        or (isinstance(each.call, linearizability.Dequeue) and each.result is not None)
    ]
    assert zapq_service.stats().queue.messages == len(came) - len(gone)


async def test_headers_cross_the_line_both_ways(zapq_service: QueueService, autojump_clock: MockClock) -> None:
    headers = (("order", "17"), ("empty", ""))
    properties = Properties("text/plain", headers=headers)
    async with front_ends(zapq_service) as [front]:

        async def given(operation: Take) -> Delivery:
            outcome = await ask(front.engine, operation)
            assert isinstance(outcome, Delivery)
            return outcome

        await ask(front.engine, Enqueue("default", b"a", properties))
        await ask(front.engine, Put([b"b", b"c"], Terms(properties)))
        await ask(front.engine, Put([Draft(body=b"d", headers={"Order": "17", "empty": ""})]))
        await ask(front.engine, Enqueue("default", b"e"))
        leased = await given(LEASE)
        assert leased.given[0].headers == dict(headers)
        many = await given(Take("default", Want(9)))
        assert [each.headers for each in many.given] == [*[dict(headers)] * 3, {}]
        # What could not be handed over goes back with them.
        leased.queue.return_undelivered(leased.given)
        many.queue.return_undelivered(many.given)
        await wait_all_tasks_blocked()
        held = [each.message for each in zapq_service.broker.default.peek("ready", 9)]
        assert [(message.body, message.properties.headers) for message in held] == [
            (b"a", headers),
            (b"b", headers),
            (b"c", headers),
            (b"d", headers),
            (b"e", ()),
        ]
