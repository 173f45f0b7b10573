"""Consumers against a queue in virtual time, without a socket.

One file, although it is long: the cases share the queue that a consumer is shown.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from tests.client.doubles import NotConnected, Request, Script, in_process, refusal, scripted
from tests.support.waiting import eventually
from zapq import Settlement, errors
from zapq.client import Client, HeldLease, open_client
from zapq.client.grouping import uninterrupted
from zapq.client.settling import Settler
from zapq.service.named_queue import NamedQueue
from zapq.service.open import open_service
from zapq.service.service import QueueService
from zapq.settings import Settings
from zapq.testing import ZapqServer


async def hold(lease: HeldLease) -> None:
    async with lease:
        await trio.sleep_forever()


class TestConsume:
    """Against a queue in virtual time."""

    @pytest.fixture
    def emails(self, zapq_service: QueueService) -> NamedQueue:
        return zapq_service.queue("emails")

    @pytest.fixture
    def down(self) -> list[bool]:
        """Put something in, and the server is away."""
        return []

    @pytest.fixture
    async def client(self, zapq_service: QueueService, down: list[bool]) -> Any:
        def connect_if_up() -> None:
            if down:
                raise NotConnected("away")

        async with scripted(in_process(zapq_service), connect_if_up) as client:
            yield client

    async def test_the_end_of_a_block_acknowledges(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue_many([b"one", b"two", b"three"])
        seen = []
        async with client.consume("emails", concurrency=2) as leases:
            async for lease in leases:
                async with lease as same:
                    assert same is lease
                    seen.append((lease.id, lease.queue, lease.receive_count, lease.content_type, lease.body))
                if len(seen) == 3:
                    break
        assert seen == [
            (id, "emails", 1, "application/octet-stream", body)
            for id, body in ((1, b"one"), (2, b"two"), (3, b"three"))
        ]
        assert (emails.info().stats.acked, emails.info().stats.messages) == (3, 0)

    async def test_of_a_group_one_message_is_worked_on_at_a_time_in_order_also_after_a_failure(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        for number in range(4):
            for group in ("a", "b"):
                await emails.enqueue(b"%d" % number, group=group)
        await emails.enqueue(b"alone")
        busy: list[str] = []
        together: list[str] = []
        done: dict[str, list[bytes]] = {"a": [], "b": [], "": []}
        stop = trio.Event()

        async def handle(lease: HeldLease) -> None:
            together.extend(each for each in busy if each == lease.group)
            busy.append(lease.group)
            await trio.sleep(1)
            busy.remove(lease.group)
            if (lease.group, lease.body, lease.receive_count) == ("a", b"1", 1):
                raise ZeroDivisionError
            done[lease.group].append(lease.body)
            if sum(map(len, done.values())) == 9:
                stop.set()

        await client.consume_with("emails", handle, concurrency=16, stop=stop)
        assert together == []
        assert done == {"a": [b"0", b"1", b"2", b"3"], "b": [b"0", b"1", b"2", b"3"], "": [b"alone"]}
        assert trio.current_time() == pytest.approx(5, abs=0.5), "groups go on side by side"
        assert emails.info().stats.messages == 0

    async def test_no_more_than_concurrency_are_held_and_what_is_left_is_released(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue_many([b"x"] * 10)
        async with client.consume("emails", concurrency=3):
            await trio.sleep(1)
            assert emails.info().stats.leased == 3
        stats = emails.info().stats
        assert (stats.leased, stats.ready, stats.released, stats.received) == (0, 10, 3, 3)

    async def test_an_error_in_the_block_releases_and_comes_out_as_it_is(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue(b"hello")

        async def consume_and_fail() -> None:
            async with client.consume("emails") as leases:
                async for lease in leases:
                    async with lease:
                        raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await consume_and_fail()
        assert (emails.info().stats.ready, emails.info().stats.leased) == (1, 0)

    async def test_a_cancelled_consumer_releases_everything(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue_many([b"x"] * 5)
        with trio.move_on_after(40) as scope:
            async with client.consume("emails", concurrency=4) as leases:
                async for lease in leases:
                    async with lease:
                        await trio.sleep_forever()
        assert scope.cancelled_caught
        stats = emails.info().stats
        assert (stats.leased, stats.ready, stats.released, stats.leases_expired) == (0, 5, 4, 0)

    async def test_a_slow_block_keeps_its_lease_and_so_do_those_who_wait_for_it(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue_many([b"slow", b"waits"])
        async with client.consume("emails", concurrency=2, visibility=30) as leases:
            for _ in range(2):
                async with await anext(leases) as lease:
                    await trio.sleep(1000)
                    assert lease.receive_count == 1
        stats = emails.info().stats
        assert (stats.acked, stats.received, stats.leases_expired) == (2, 2, 0)

    async def test_a_block_that_outlasts_a_cancellation_is_kept_and_acknowledged(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue_many([b"last", b"not begun"])
        with trio.move_on_after(1):
            async with client.consume("emails", concurrency=2, visibility=30) as leases:
                async for lease in leases:
                    async with lease:
                        with trio.CancelScope(shield=True):
                            await trio.sleep(1000)
        stats = emails.info().stats
        assert (stats.acked, stats.ready, stats.leased, stats.leases_expired) == (1, 1, 0, 0)

    async def test_a_block_may_settle_its_lease_itself(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue_many([b"later", b"done"])

        async def acknowledge_and_fail(lease: HeldLease) -> None:
            async with lease:
                await lease.ack()
                raise ZeroDivisionError

        async with client.consume("emails", concurrency=1) as leases:
            async with await anext(leases) as lease:
                await lease.release(delay=60)
            with pytest.raises(ZeroDivisionError):
                await acknowledge_and_fail(await anext(leases))
        stats = emails.info().stats
        assert (stats.delayed, stats.acked, stats.released) == (1, 1, 1)

    async def test_a_lost_lease_cancels_its_block(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue(b"hello")
        async with client.consume("emails") as leases:
            lease = await anext(leases)
            await emails.clear()
            with pytest.raises(errors.ReceiptExpired):
                await hold(lease)
            assert lease.lost
            with pytest.raises(errors.ReceiptExpired):
                await lease.ack()

    async def test_a_lease_is_lost_when_the_server_is_away_for_longer(
        self, client: Client, emails: NamedQueue, down: list[bool], autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue(b"hello")
        async with client.consume("emails", visibility=30) as leases:
            lease = await anext(leases)
            start = trio.current_time()
            down.append(True)
            with pytest.raises(errors.ReceiptExpired):
                await hold(lease)
            assert trio.current_time() - start == pytest.approx(30)
            down.clear()
            async with await anext(leases) as lease:
                assert lease.receive_count == 2

    async def test_a_lease_lost_before_anybody_took_it_is_given_to_nobody(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue(b"hello")
        async with client.consume("emails", concurrency=1, visibility=30) as leases:
            await trio.sleep(1)
            await emails.clear()
            await trio.sleep(30)
            await emails.enqueue(b"other")
            async with await anext(leases) as lease:
                assert lease.body == b"other"

    async def test_a_short_absence_of_the_server_is_survived(
        self,
        client: Client,
        emails: NamedQueue,
        down: list[bool],
        caplog: pytest.LogCaptureFixture,
        autojump_clock: trio.testing.MockClock,
    ) -> None:
        await emails.enqueue(b"hello")
        async with client.consume("emails", visibility=30) as leases, await anext(leases):
            down.append(True)
            await trio.sleep(25)
            down.clear()
            await trio.sleep(100)
        assert (emails.info().stats.acked, emails.info().stats.leases_expired) == (1, 0)
        assert "not extended: The server zapq:80 could not be reached: away." in caplog.text
        assert "cannot receive from emails now" in caplog.text

    async def test_a_queue_that_is_not_there_is_waited_for(
        self,
        client: Client,
        emails: NamedQueue,
        zapq_service: QueueService,
        autojump_clock: trio.testing.MockClock,
    ) -> None:
        async with client.consume("later") as leases:
            await trio.sleep(100)
            await zapq_service.queue("later").enqueue(b"hello")
            async with await anext(leases) as lease:
                assert lease.body == b"hello"

    async def test_what_does_not_pass_cancels_the_block_and_is_raised_as_it_is(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with scripted(Script(refusal(errors.InvalidParameter("wait is wrong.")))) as client:

            async def consume() -> None:
                async with client.consume("emails"):
                    await trio.sleep_forever()

            with pytest.raises(errors.InvalidParameter, match="wait is wrong"):
                await consume()

    async def test_nobody_holds_a_lease_for_longer_than_its_consumer_is_open(
        self, client: Client, emails: NamedQueue, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue(b"hello")
        ended = trio.Event()

        async def expect_the_end(lease: HeldLease) -> None:
            with pytest.raises(errors.ReceiptExpired):
                await hold(lease)
            ended.set()

        async with client.consume("emails") as leases:
            nursery.start_soon(expect_the_end, await anext(leases))
            await trio.testing.wait_all_tasks_blocked()
        await ended.wait()
        assert (emails.info().stats.ready, emails.info().stats.released) == (1, 1)

    async def test_a_cancellation_while_acknowledging_does_not_undo_the_work(
        self, zapq_service: QueueService, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue(b"hello")
        answer, scope = in_process(zapq_service), trio.CancelScope()

        async def answer_slowly(request: Request) -> bytes:
            if request.path.endswith("/settle"):
                scope.cancel()
                await trio.sleep(1)
            return await answer(request)

        async with scripted(answer_slowly) as client:
            with scope:
                async with client.consume("emails") as leases, await anext(leases):
                    pass
        assert scope.cancelled_caught
        assert (emails.info().stats.acked, emails.info().stats.messages) == (1, 0)

    async def test_a_server_that_is_gone_holds_a_cancellation_up_for_seconds_only(
        self,
        client: Client,
        emails: NamedQueue,
        down: list[bool],
        caplog: pytest.LogCaptureFixture,
        autojump_clock: trio.testing.MockClock,
    ) -> None:
        await emails.enqueue_many([b"x"] * 5)
        start = trio.current_time()
        with trio.move_on_after(1):
            async with client.consume("emails", concurrency=4) as leases, await anext(leases):
                down.append(True)
                await trio.sleep_forever()
        assert trio.current_time() - start <= 1 + 2 * 5
        assert "was not released" in caplog.text

    async def test_one_request_fetches_for_all_slots_and_one_settles(
        self, zapq_service: QueueService, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue_many([b"%d" % number for number in range(1000)])
        answer, requests, seen = in_process(zapq_service), list[str](), list[bytes]()

        async def count(request: Request) -> bytes:
            requests.append(request.path)
            return await answer(request)

        async def handle(lease: HeldLease) -> None:
            seen.append(lease.body)
            await trio.sleep(0.1)

        async with scripted(count) as client:
            with trio.move_on_after(3):
                await client.consume_with("emails", handle, concurrency=100)
        assert seen == [b"%d" % number for number in range(1000)]
        assert emails.info().stats.acked == 1000
        # The first one asks for a single message, and the last one waits for more.
        assert len(requests) == 2 * 10 + 2

    async def test_leases_are_extended_together(
        self, zapq_service: QueueService, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue_many([b"x"] * 50)
        answer, settlements = in_process(zapq_service), list[Any]()

        async def note(request: Request) -> bytes:
            if request.path.endswith("/settle"):
                settlements.append((trio.current_time(), msgspec.msgpack.decode(request.content)))
            return await answer(request)

        start = trio.current_time()
        async with scripted(note) as client, client.consume("emails", concurrency=50, visibility=30):
            await trio.sleep(25)
        assert [(round(at - start), len(batch), batch[0]["action"]) for at, batch in settlements] == [
            (10, 50, "extend"),
            (20, 50, "extend"),
            (25, 50, "release"),
        ]
        assert emails.info().stats.ready == 50

    async def test_a_block_that_begins_after_its_lease_was_lost_is_cancelled(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue(b"hello")
        async with client.consume("emails", visibility=30) as leases:
            lease = await anext(leases)
            await emails.release(lease.receipt, delay=10_000)
            await trio.sleep(11)
            assert lease.lost
            with pytest.raises(errors.ReceiptExpired):
                await hold(lease)

    async def test_tasks_that_wait_for_a_message_are_told_of_the_end(
        self, client: Client, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
    ) -> None:
        ended = trio.Event()

        async def iterate() -> None:
            async for _ in leases:
                raise AssertionError("there is none")
            ended.set()

        async with client.consume("emails") as leases:
            nursery.start_soon(iterate)
            await trio.testing.wait_all_tasks_blocked()
        await ended.wait()

    async def test_what_settles_a_message_waits_for_others_for_5_ms(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue_many([b"long", b"one", b"two"])
        async with client.consume("emails", concurrency=3) as leases, await anext(leases):
            start = trio.current_time()
            async with await anext(leases):
                pass
            assert trio.current_time() - start == pytest.approx(0.005)
        async with client.consume("emails", concurrency=3) as leases:
            start = trio.current_time()
            await (await anext(leases)).ack()
            # Nothing else was under way, so that did not wait.
            assert trio.current_time() == start

    async def test_what_it_has_just_asked_for_is_waited_for_and_released(
        self, zapq_service: QueueService, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue(b"x")
        answer, asked = in_process(zapq_service), trio.Event()

        async def answer_late(request: Request) -> bytes:
            answered = await answer(request)
            if request.path.endswith("/batch"):
                asked.set()
                # The server has given the messages away: that the client sends no more changes nothing.
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.4)
            return answered

        async with scripted(answer_late) as client, client.consume("emails", concurrency=3):
            await asked.wait()
        stats = emails.info().stats
        assert (stats.ready, stats.leased, stats.released) == (1, 0, 1)

    async def test_prefetched_messages_are_held_too_and_handed_out_in_order(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue_many([b"%d" % number for number in range(30)])
        seen = []
        async with client.consume("emails", concurrency=1, prefetch=9) as leases:
            async for lease in leases:
                async with lease:
                    seen.append(lease.body)
                    if len(seen) == 2:
                        await trio.sleep(1)
                        assert emails.info().stats.leased == 9
                if len(seen) == 30:
                    break
        assert seen == [b"%d" % number for number in range(30)]

    async def test_a_task_that_is_cancelled_as_a_message_comes_leaves_it_to_another(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        taken: list[bytes] = []

        async def take(scope: trio.CancelScope) -> None:
            with scope:
                async with await anext(leases) as lease:
                    taken.append(lease.body)

        first, second, third = (trio.CancelScope() for _ in range(3))
        async with client.consume("emails") as leases, trio.open_nursery() as nursery:
            for scope in (first, second, third):
                nursery.start_soon(take, scope)
                await trio.testing.wait_all_tasks_blocked()
            second.cancel()
            await trio.testing.wait_all_tasks_blocked()
            leases._wake(1)
            first.cancel()
            await trio.testing.wait_all_tasks_blocked()
            await emails.enqueue(b"hello")
        assert taken == [b"hello"]

    @pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"prefetch": -1}, {"visibility": 0}])
    async def test_what_makes_no_sense_is_refused(self, client: Client, wrong: dict[str, int]) -> None:
        with pytest.raises(errors.InvalidParameter):
            async with client.consume("emails", **wrong):
                pass

    async def test_a_release_that_is_wrong_spoils_no_other(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue(b"hello")
        async with client.consume("emails") as leases, await anext(leases) as lease:
            with pytest.raises(errors.InvalidParameter, match="delay"):
                await lease.release(delay=-1)
        assert emails.info().stats.acked == 1

    async def test_a_refused_acknowledgement_raises(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue(b"hello")
        async with client.consume("emails") as leases:
            lease = await anext(leases)
            await emails.release(lease.receipt, delay=10_000)
            with pytest.raises(errors.ReceiptExpired):
                await lease.ack()
            assert not lease.lost

    async def test_an_error_while_its_block_is_cancelled_comes_out(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        await emails.enqueue(b"hello")

        async def fail(lease: HeldLease) -> None:
            async with lease, trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                try:
                    await trio.sleep_forever()
                finally:
                    raise ZeroDivisionError

        async with client.consume("emails") as leases:
            lease = await anext(leases)
            await emails.release(lease.receipt, delay=10_000)
            with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
                await fail(lease)

    async def test_a_server_that_does_not_answer_holds_the_end_up_for_5_s(
        self,
        zapq_service: QueueService,
        emails: NamedQueue,
        caplog: pytest.LogCaptureFixture,
        autojump_clock: trio.testing.MockClock,
    ) -> None:
        await emails.enqueue_many([b"x"] * 3)
        answer = in_process(zapq_service)

        async def hang_at_the_end(request: Request) -> bytes:
            if request.path.endswith("/settle"):
                await trio.sleep_forever()
            return await answer(request)

        async def acknowledge(lease: HeldLease) -> None:
            with pytest.raises(errors.NoAnswer):
                await lease.ack()

        async with scripted(hang_at_the_end) as client, trio.open_nursery() as nursery:
            async with client.consume("emails", concurrency=3) as leases:
                lease = await anext(leases)
                nursery.start_soon(acknowledge, lease)
                await trio.sleep(1)
                start = trio.current_time()
            assert trio.current_time() - start == pytest.approx(5)
        assert caplog.text.count("was not released: The consumer ended before the server answered.") == 2

    async def test_wherever_it_is_cancelled_no_message_stays_leased(
        self, client: Client, emails: NamedQueue, autojump_clock: trio.testing.MockClock
    ) -> None:
        async def handle(lease: HeldLease) -> None:
            await trio.lowlevel.checkpoint()
            if lease.body == b"2":
                raise ZeroDivisionError

        async def consume(step: int) -> bool:
            """Cancel at one of its steps, if it has so many, or when all is done."""
            with trio.CancelScope() as scope:
                cancel = CancelAt(step, scope)
                trio.lowlevel.add_instrument(cancel)
                try:
                    await client.consume_with("emails", handle, concurrency=2, prefetch=1)
                finally:
                    trio.lowlevel.remove_instrument(cancel)
            return cancel.steps == step

        for step in range(1, 120):
            await emails.enqueue_many([b"1", b"2", b"3"])
            assert await consume(step)
            stats = emails.info().stats
            assert (stats.leased, stats.messages + stats.acked + stats.dequeued) == (0, 3 * step), step
            while await emails.dequeue() is not None:
                pass


class CancelAt(trio.abc.Instrument):
    """Cancels a scope at a step of the tasks, counted from when it is added."""

    def __init__(self, step: int, scope: trio.CancelScope) -> None:
        self.steps = 0
        self._step = step
        self._scope = scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.steps < self._step:
            self.steps += 1
            if self.steps == self._step:
                self._scope.cancel()


class TestSettler:
    """What is settled together."""

    async def test_it_sends_a_thousand_at_most_and_tells_each(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        sent: list[int] = []
        told: list[tuple[int, str]] = []

        class Counting:
            async def settle(self, queue: str, settlements: Sequence[Settlement]) -> list[errors.ZapqError | None]:
                sent.append(len(settlements))
                if len(sent) == 2:
                    raise errors.QueueNotFound(queue=queue)
                return [None] * len(settlements)

        def tell(number: int, error: errors.ZapqError | None) -> None:
            told.append((number, "" if error is None else error.problem))

        settler = Settler(Counting(), "emails")
        for number in range(1500):
            settler.add(Settlement(receipt=str(number)), partial(tell, number))
        with trio.move_on_after(1):
            await settler.run()
        assert sent == [1000, 500]
        assert [number for number, _ in told] == list(range(1500))
        assert told[999:1001] == [(999, ""), (1000, "queue-not-found")]
        settler.add(Settlement(receipt="late"), partial(tell, 1500))
        settler.give_up()
        assert told[-1] == (1500, "no-answer")


class TestConsumeWith:
    """Handlers, against a real server and in virtual time."""

    async def test_it_acknowledges_what_its_handler_dealt_with_and_sends_the_rest_again(
        self, zapq_server: ZapqServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        emails = zapq_server.service.queue("emails")
        await emails.enqueue_many([b"%d" % number for number in range(20)])
        seen: list[tuple[bytes, int]] = []
        async with open_client(zapq_server.url) as client, trio.open_nursery() as nursery:

            async def handle(lease: HeldLease) -> None:
                seen.append((lease.body, lease.receive_count))
                if lease.body == b"7" and lease.receive_count == 1:
                    raise ZeroDivisionError

            nursery.start_soon(client.consume_with, "emails", handle)
            await eventually(lambda: emails.info().stats.acked == 20, "all messages to be acknowledged")
            nursery.cancel_scope.cancel()
        assert sorted(seen) == sorted([(b"%d" % number, 1) for number in range(20)] + [(b"7", 2)])
        assert emails.info().stats.messages == 0
        assert "the handler of message 8 of emails failed" in caplog.text
        assert "ZeroDivisionError" in caplog.text

    async def test_once_it_is_told_to_stop_it_ends_what_it_has_begun_and_releases_the_rest(
        self, zapq_service: QueueService, autojump_clock: trio.testing.MockClock
    ) -> None:
        emails, stop, finish = zapq_service.queue("emails"), trio.Event(), trio.Event()
        await emails.enqueue_many([b"begun", b"waits", b"waits"])

        async def handle(lease: HeldLease) -> None:
            await finish.wait()

        async with scripted(in_process(zapq_service)) as client, trio.open_nursery() as nursery:
            consume = partial(client.consume_with, concurrency=1, prefetch=2, visibility=9, stop=stop)
            nursery.start_soon(consume, "emails", handle)
            await eventually(lambda: emails.info().stats.leased == 3, "work on the first of three")
            stop.set()
            await eventually(lambda: emails.info().stats.ready == 2, "the others to be released")
            await trio.sleep(60)
            assert emails.info().stats.leased == 1
            finish.set()
        stats = emails.info().stats
        assert (stats.acked, stats.ready, stats.leased) == (1, 2, 0)

    async def test_what_ends_the_program_comes_out_as_it_is(
        self, zapq_service: QueueService, autojump_clock: trio.testing.MockClock
    ) -> None:
        async def handle(lease: HeldLease) -> None:
            raise KeyboardInterrupt

        emails = zapq_service.queue("emails")
        await emails.enqueue(b"x")
        async with scripted(in_process(zapq_service)) as client:
            with pytest.raises(KeyboardInterrupt):
                await client.consume_with("emails", handle)
        assert emails.info().stats.ready == 1

    async def test_told_to_stop_while_it_waits_it_ends_at_once(
        self, zapq_service: QueueService, autojump_clock: trio.testing.MockClock
    ) -> None:
        stop = trio.Event()

        async def handle(lease: HeldLease) -> None: ...

        async with scripted(in_process(zapq_service)) as client, trio.open_nursery() as nursery:
            nursery.start_soon(partial(client.consume_with, "emails", handle, wait=20, stop=stop))
            await trio.testing.wait_all_tasks_blocked()
            stop.set()
            before = trio.current_time()
        assert trio.current_time() - before < 3

    async def test_it_runs_as_many_handlers_as_it_is_told_and_releases_when_cancelled(
        self, zapq_service: QueueService, autojump_clock: trio.testing.MockClock
    ) -> None:
        emails = zapq_service.queue("emails")
        await emails.enqueue_many([b"x"] * 9)
        running = 0

        async def handle(lease: HeldLease) -> None:
            nonlocal running
            running += 1
            await trio.sleep_forever()

        async with scripted(in_process(zapq_service)) as client:
            with trio.move_on_after(100):
                await client.consume_with("emails", handle, concurrency=4, visibility=10, wait=5)
        stats = emails.info().stats
        assert running == 4
        assert (stats.ready, stats.leased, stats.released, stats.leases_expired) == (9, 0, 4, 0)

    async def test_a_lost_lease_cancels_its_handler_and_the_next_one_runs(
        self,
        zapq_service: QueueService,
        caplog: pytest.LogCaptureFixture,
        autojump_clock: trio.testing.MockClock,
    ) -> None:
        emails = zapq_service.queue("emails")
        await emails.enqueue(b"lost")
        ended: list[bytes] = []

        async def handle(lease: HeldLease) -> None:
            try:
                if lease.body == b"lost":
                    await emails.release(lease.receipt, delay=10_000)
                    await trio.sleep_forever()
            finally:
                ended.append(lease.body)

        async with scripted(in_process(zapq_service)) as client, trio.open_nursery() as nursery:
            nursery.start_soon(partial(client.consume_with, "emails", handle, concurrency=1, visibility=30))
            await trio.sleep(11)
            assert ended == [b"lost"]
            await emails.enqueue_many([b"next", b"last"])
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert ended == [b"lost", b"next", b"last"]
        assert emails.info().stats.acked == 2
        assert "the lease of message 1 of emails is lost" in caplog.text

    async def test_a_handler_may_settle_its_message_and_one_that_is_refused_is_logged(
        self,
        zapq_service: QueueService,
        caplog: pytest.LogCaptureFixture,
        autojump_clock: trio.testing.MockClock,
    ) -> None:
        emails = zapq_service.queue("emails")
        await emails.enqueue_many([b"later", b"gone"])

        async def handle(lease: HeldLease) -> None:
            if lease.body == b"later":
                await lease.release(delay=1000)
            else:
                await emails.release(lease.receipt, delay=10_000)

        async with scripted(in_process(zapq_service)) as client:
            with trio.move_on_after(1):
                await client.consume_with("emails", handle, concurrency=1)
        assert (emails.info().stats.released, emails.info().stats.acked) == (2, 0)
        assert "message 2 of emails was not acknowledged" in caplog.text

    async def test_what_does_not_pass_is_raised_as_it_is(self, autojump_clock: trio.testing.MockClock) -> None:
        async def handle(lease: HeldLease) -> None:
            raise AssertionError

        async with scripted(Script(refusal(errors.Forbidden()))) as client:
            with pytest.raises(errors.Forbidden):
                await client.consume_with("emails", handle)


@pytest.mark.parametrize("at", ["/batch", "/settle"])
def test_ctrl_c_while_a_task_of_the_consumer_runs_goes_to_the_program(at: str, zapq_settings: Settings) -> None:
    interrupted: list[str] = []

    async def main() -> None:
        async with open_service(zapq_settings) as service:
            emails = service.queue("emails")
            await emails.enqueue_many([b"1", b"2"])
            answer = in_process(service)

            async def interrupting(request: Request) -> bytes:
                if request.path.endswith(at) and not interrupted:
                    interrupted.append(at)
                    signal.raise_signal(signal.SIGINT)
                return await answer(request)

            async def handle(lease: HeldLease) -> None: ...

            async with scripted(interrupting) as client:
                with pytest.raises(KeyboardInterrupt):
                    await client.consume_with("emails", handle)
            assert emails.info().stats.leased == 0

    trio.run(main)
    assert interrupted == [at]


def test_a_program_need_not_have_trio(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[bool] = []

    async def task() -> None:
        done.append(True)

    monkeypatch.delitem(sys.modules, "trio")
    asyncio.run(uninterrupted(task)())
    assert done == [True]
