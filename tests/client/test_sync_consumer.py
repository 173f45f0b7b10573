"""Consumers for threads against a real server: what they hold, what they tell, and what they leave behind."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest
import trio

import zapq.client.sync
from tests.client.doubles import answer_of
from tests.client.fault_proxy import Cut, Fault, FaultProxy, Hang, Once, Say, fault_proxy
from tests.client.interruption import interrupted_at
from tests.client.shells import no_thread_left
from tests.support.process import ENVIRON
from tests.support.waiting import eventually, eventually_sync
from zapq import errors
from zapq.client import sync_consumer
from zapq.client.holding import Held, Holding
from zapq.client.lease import Lease
from zapq.client.retry import Retry
from zapq.client.sync_consumer import Consumer, HeldLease
from zapq.client.threads import Flag
from zapq.core.stats import QueueStats
from zapq.service.named_queue import NamedQueue
from zapq.testing import ZapqServer

Client = zapq.client.sync.Client
InThread = Callable[[Callable[[Client], None]], Awaitable[None]]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    with no_thread_left():
        yield


@pytest.fixture
def emails(zapq_server: ZapqServer) -> NamedQueue:
    return zapq_server.service.queue("emails")


@pytest.fixture
async def proxy(zapq_server: ZapqServer) -> AsyncGenerator[FaultProxy, None]:
    async with fault_proxy(zapq_server.url) as proxy:
        yield proxy


async def with_client(url: str, work: Callable[[Client], None], **options: Any) -> None:
    """Do `work` with a client in a thread, while the server goes on."""

    def in_thread() -> None:
        with zapq.client.sync.open_client(url, random=lambda: 0.0, **options) as client:
            work(client)

    await trio.to_thread.run_sync(in_thread)


@pytest.fixture
def in_thread(zapq_server: ZapqServer) -> InThread:
    return partial(with_client, zapq_server.url)


def stats(queue: NamedQueue) -> QueueStats:
    return queue.info().stats


async def test_handlers_acknowledge_and_one_that_fails_has_its_message_again(
    in_thread: InThread, emails: NamedQueue, caplog: pytest.LogCaptureFixture
) -> None:
    await emails.enqueue_many([b"%d" % number for number in range(20)])
    seen: list[tuple[bytes, int]] = []
    stop = threading.Event()

    def handle(lease: HeldLease) -> None:
        seen.append((lease.body, lease.receive_count))
        if seen[-1] == (b"7", 1):
            raise ZeroDivisionError
        if len(seen) == 21:
            stop.set()

    await in_thread(lambda client: client.consume_with("emails", handle, concurrency=3, prefetch=2, stop=stop))
    assert sorted(seen) == sorted([(b"%d" % number, 1) for number in range(20)] + [(b"7", 2)])
    assert (stats(emails).acked, stats(emails).messages) == (20, 0)
    assert "the handler of message 8 of emails failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


async def test_of_a_group_one_message_is_worked_on_at_a_time_in_order_also_after_a_failure(
    in_thread: InThread, emails: NamedQueue
) -> None:
    for number in range(5):
        await emails.enqueue(b"%d" % number, group="a")
    stop = threading.Event()
    busy, together, done = list[bytes](), list[bytes](), list[bytes]()

    def handle(lease: HeldLease) -> None:
        together.extend(busy)
        busy.append(lease.body)
        lease.cancelled.wait(0.01)
        busy.remove(lease.body)
        if (lease.body, lease.receive_count) == (b"1", 1):
            raise ZeroDivisionError
        done.append(lease.body)
        if len(done) == 5:
            stop.set()

    await in_thread(lambda client: client.consume_with("emails", handle, stop=stop))
    assert (together, done) == ([], [b"0", b"1", b"2", b"3", b"4"])
    assert stats(emails).messages == 0


async def test_handlers_run_at_once_and_the_rest_waits(in_thread: InThread, emails: NamedQueue) -> None:
    await emails.enqueue_many([b"x"] * 9)
    together = threading.Barrier(5)
    stop = threading.Event()

    def handle(lease: HeldLease) -> None:
        together.wait()
        lease.cancelled.wait()
        raise ZeroDivisionError

    def work(client: Client) -> None:
        consumer = threading.Thread(
            target=client.consume_with, args=("emails", handle), kwargs={"concurrency": 4, "stop": stop}
        )
        consumer.start()
        together.wait()
        assert stats(emails).leased == 4
        stop.set()
        consumer.join()

    await in_thread(work)
    assert (stats(emails).ready, stats(emails).leased, stats(emails).released) == (9, 0, 4)


async def test_the_loop_can_be_in_your_hands(in_thread: InThread, emails: NamedQueue) -> None:
    await emails.enqueue_many([b"%d" % number for number in range(30)])
    seen: list[bytes] = []

    def work(client: Client) -> None:
        with client.consume("emails", concurrency=1, prefetch=9) as leases:
            for lease in leases:
                with lease as same:
                    assert same is lease
                    seen.append(lease.body)
                if len(seen) == 25:
                    break
        assert list(leases) == []

    await in_thread(work)
    assert seen == [b"%d" % number for number in range(25)]
    assert (stats(emails).acked, stats(emails).ready, stats(emails).leased) == (25, 5, 0)


async def test_threads_that_share_a_consumer_are_told_of_its_end(in_thread: InThread, emails: NamedQueue) -> None:
    ended: list[list[HeldLease]] = []

    def work(client: Client) -> None:
        with client.consume("emails") as leases:
            threads = [threading.Thread(target=lambda: ended.append(list(leases))) for _ in range(3)]
            for thread in threads:
                thread.start()
        for thread in threads:
            thread.join()

    await in_thread(work)
    assert ended == [[], [], []]


async def test_a_block_settles_its_lease_itself_or_by_how_it_ends(in_thread: InThread, emails: NamedQueue) -> None:
    await emails.enqueue_many([b"later", b"done", b"fails"])

    def fail(lease: HeldLease) -> None:
        with lease:
            raise ZeroDivisionError

    def work(client: Client) -> None:
        with client.consume("emails", concurrency=3) as leases:
            with next(leases) as lease:
                with pytest.raises(errors.InvalidParameter):
                    lease.release(delay=-1)
                lease.release(delay=60)
            with next(leases) as lease:
                lease.ack()
            with pytest.raises(ZeroDivisionError):
                fail(next(leases))
            with next(leases) as lease:
                assert (lease.body, lease.receive_count) == (b"fails", 2)
        with pytest.raises(errors.ReceiptExpired):
            lease.ack()

    await in_thread(work)
    assert (stats(emails).delayed, stats(emails).acked, stats(emails).released) == (1, 2, 2)


async def test_a_slow_handler_keeps_its_lease(
    in_thread: InThread, emails: NamedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zapq.client.holding.EXTENSIONS", 300)
    await emails.enqueue(b"slow")

    def due() -> float:
        [seen] = trio.from_thread.run(emails.peek, "leased")
        assert seen.due is not None
        return seen.due

    def work(client: Client) -> None:
        with client.consume("emails", visibility=30) as leases, next(leases) as lease:
            for _ in range(3):
                before = due()
                eventually_sync(lambda: due() > before, "it to be extended")  # noqa: B023
            assert not lease.cancelled.is_set()

    await in_thread(work)
    assert (stats(emails).acked, stats(emails).received, stats(emails).leases_expired) == (1, 1, 0)


async def test_a_lost_lease_is_told_to_its_handler(
    in_thread: InThread, emails: NamedQueue, caplog: pytest.LogCaptureFixture
) -> None:
    await emails.enqueue_many([b"lost", b"waits"])

    def work_until_cancelled(lease: HeldLease) -> None:
        with lease:
            assert not lease.lost
            trio.from_thread.run(emails.clear)
            assert lease.cancelled.wait(20)

    def work(client: Client) -> None:
        with client.consume("emails", concurrency=2, visibility=3) as leases:
            lease = next(leases)
            with pytest.raises(errors.ReceiptExpired):
                work_until_cancelled(lease)
            assert lease.lost
            with pytest.raises(errors.ReceiptExpired):
                work_until_cancelled(lease)
            others = leases._holding.held
            eventually_sync(lambda: not others, "the one that waits to be lost as well")
            trio.from_thread.run(emails.enqueue, b"next")
            with next(leases) as lease:
                assert lease.body == b"next"

    await in_thread(work)
    assert stats(emails).acked == 1
    assert "the lease of message 1 of emails is lost" in caplog.text


async def test_a_lease_is_lost_when_the_server_is_away_for_longer(proxy: FaultProxy, emails: NamedQueue) -> None:
    await emails.enqueue(b"hello")

    def work(client: Client) -> None:
        with client.consume("emails", visibility=2, concurrency=1) as leases:
            lease = next(leases)
            proxy.faults[:] = [Say(b"")] * 1000
            assert lease.cancelled.wait(20)
            proxy.faults.clear()
            with next(leases) as again:
                assert again.receive_count == 2

    await with_client(proxy.url, work)
    assert stats(emails).acked == 1


async def test_a_handler_that_does_not_end_has_its_message_released(
    in_thread: InThread, emails: NamedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_consumer, "HANDLER_SECONDS", 0.05)
    await emails.enqueue(b"hello")
    begun, stop, end = (threading.Event() for _ in range(3))
    held: list[HeldLease] = []

    def handle(lease: HeldLease) -> None:
        held.append(lease)
        begun.set()
        end.wait()

    def stop_when_begun() -> None:
        begun.wait()
        stop.set()

    def work(client: Client) -> None:
        threading.Thread(target=stop_when_begun).start()
        client.consume_with("emails", handle, concurrency=1, stop=stop)

    await in_thread(work)
    assert (stats(emails).ready, stats(emails).released) == (1, 1)
    assert held[0].lost
    assert held[0].cancelled.is_set()
    end.set()
    await eventually(lambda: threading.active_count() == 1 or not handlers(), "the handler to end")
    assert stats(emails).acked == 0


def handlers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("zapq handler")]


async def test_a_server_that_does_not_answer_holds_the_end_up_for_seconds_only(
    proxy: FaultProxy, emails: NamedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_consumer, "SETTLE_SECONDS", 0.2)
    await emails.enqueue_many([b"x"] * 3)

    def work(client: Client) -> None:
        proxy.faults[:] = [Once()]
        with client.consume("emails", concurrency=3) as leases:
            next(leases)
            proxy.faults[:] = [Hang()] * 10

    with trio.fail_after(20):
        await with_client(proxy.url, work)
    await eventually(lambda: not proxy.open, "its connections to be closed")


async def test_what_does_not_pass_is_raised(in_thread: InThread, emails: NamedQueue) -> None:
    stop = threading.Event()

    def work(client: Client) -> None:
        with client.consume("emails", visibility=1e9) as leases, pytest.raises(errors.InvalidParameter):
            next(leases)
        with pytest.raises(errors.InvalidParameter), client.consume("emails", visibility=1e9) as leases:
            leases._stop.wait()
        with pytest.raises(errors.InvalidParameter):
            client.consume_with("emails", print, visibility=1e9, stop=stop)
        for wrong in ({"concurrency": 0}, {"prefetch": -1}, {"visibility": 0}):
            with pytest.raises(errors.InvalidParameter), client.consume("emails", **wrong):
                pass

    await in_thread(work)
    assert stop.is_set()


async def test_what_ends_a_handlers_thread_ends_the_consumer(in_thread: InThread, emails: NamedQueue) -> None:
    await emails.enqueue(b"hello")

    def handle(lease: HeldLease) -> None:
        raise SystemExit(3)

    def work(client: Client) -> None:
        with pytest.raises(SystemExit):
            client.consume_with("emails", handle)

    await in_thread(work)
    assert (stats(emails).ready, stats(emails).leased) == (1, 0)


async def test_a_queue_that_is_not_there_is_waited_for(
    in_thread: InThread, zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_consumer, "NO_QUEUE_PAUSE", 0.01)

    def work(client: Client) -> None:
        with client.consume("later") as leases:
            client.put("later", b"hello")
            with next(leases) as lease:
                assert lease.body == b"hello"

    await in_thread(work)


async def test_a_consumer_goes_on_through_every_fault_and_loses_nothing(
    proxy: FaultProxy, emails: NamedQueue
) -> None:
    bodies = [b"%d" % number for number in range(60)]
    await emails.enqueue_many(bodies)
    handled: list[bytes] = []
    stop = threading.Event()
    faults: list[Fault] = [
        Cut(request=20),
        Cut(answer=0),
        Cut(answer=300, reset=True),
        Say(answer_of(502, b"<html>Bad Gateway")),
        Say(answer_of(503, fields={"Retry-After": "0"})),
        Once(then_listen=True),
    ]

    def handle(lease: HeldLease) -> None:
        handled.append(lease.body)
        # No connection is used twice, so that the next one is spoilt in any case.
        proxy.faults[:] = [faults[len(handled) % len(faults)], Once(), Once()]

    def work(client: Client) -> None:
        client.consume_with("emails", handle, concurrency=3, visibility=0.3, wait=0.1, stop=stop)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(with_client, proxy.url, work)
        await eventually(lambda: not stats(emails).messages, "all to be acknowledged")
        stop.set()
    assert stats(emails).acked == 60
    assert set(handled) == set(bodies)


async def test_a_process_that_was_forked_is_told_to_open_its_own(
    in_thread: InThread, emails: NamedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(client: Client) -> None:
        with client.consume("emails") as leases:
            here = os.getpid
            monkeypatch.setattr(os, "getpid", lambda: -1)
            with pytest.raises(RuntimeError, match="open one after the fork"):
                next(leases)
            leases.stop()
            monkeypatch.setattr(os, "getpid", here)

    await in_thread(work)


async def test_a_refused_acknowledgement_is_raised_or_logged(
    in_thread: InThread, emails: NamedQueue, caplog: pytest.LogCaptureFixture
) -> None:
    await emails.enqueue_many([b"raised", b"logged"])
    stop = threading.Event()

    def take_away(lease: Held) -> None:
        trio.from_thread.run(partial(emails.release, lease.receipt, delay=10_000))

    def handle(lease: HeldLease) -> None:
        taken.put(lease)
        done.wait()

    taken: queue.SimpleQueue[HeldLease] = queue.SimpleQueue()
    done = threading.Event()

    def work(client: Client) -> None:
        with client.consume("emails", concurrency=1) as leases:
            lease = next(leases)
            take_away(lease)
            with pytest.raises(errors.ReceiptExpired):
                lease.ack()
            assert not lease.lost
        consumer = threading.Thread(target=client.consume_with, args=("emails", handle), kwargs={"stop": stop})
        consumer.start()
        take_away(taken.get())
        stop.set()
        done.set()
        consumer.join()

    await in_thread(work)
    assert "message 2 of emails was not acknowledged" in caplog.text


async def test_a_server_that_is_away_is_waited_for(
    proxy: FaultProxy, emails: NamedQueue, caplog: pytest.LogCaptureFixture
) -> None:
    def work(client: Client) -> None:
        proxy.faults[:] = [Say(b"")] * 3
        with client.consume("emails") as leases:
            trio.from_thread.run(emails.enqueue, b"hello")
            next(leases).ack()

    await with_client(proxy.url, work, attempts=1)
    assert caplog.text.count("cannot receive from emails now: No answer arrived") == 3


INTERRUPTED = """
import sys, time
from zapq.client.sync import open_client

def handle(lease):
    print(lease.body.decode(), flush=True)
    if lease.body == b"looks":
        lease.cancelled.wait()
    else:
        time.sleep(1000)

with open_client(sys.argv[1]) as client:
    client.consume_with("emails", handle, concurrency=2)
"""


async def test_ctrl_c_releases_what_is_not_acknowledged(zapq_server: ZapqServer, emails: NamedQueue) -> None:
    await emails.enqueue_many([b"looks", b"sleeps", b"waits"])
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", INTERRUPTED, zapq_server.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRON,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    said = b""
    while said.count(b"\n") < 2:
        said += await process.stdout.receive_some()
    process.send_signal(signal.SIGINT)
    told = b""
    while more := await process.stderr.receive_some():
        told += more
    await process.wait()
    assert told.rstrip().endswith(b"KeyboardInterrupt")
    await eventually(lambda: stats(emails).ready == 2, "what is not acknowledged to be released")
    assert (stats(emails).acked, stats(emails).leased) == (1, 0)
    assert stats(emails).leases_expired == 0


async def test_a_thread_that_is_interrupted_as_a_message_comes_leaves_it_to_another(
    in_thread: InThread, emails: NamedQueue
) -> None:
    def work(client: Client) -> None:
        with client.consume("emails") as leases:
            taken: list[HeldLease] = []
            interrupted(leases)
            thread = threading.Thread(target=lambda: taken.append(next(leases)))
            thread.start()
            trio.from_thread.run(emails.enqueue, b"hello")
            thread.join()
            taken[0].ack()

    await in_thread(work)
    assert stats(emails).acked == 1


def interrupted(leases: Consumer) -> None:
    """Wait for a message until a signal comes, as the main thread would."""

    def interrupt(flag: object) -> bool:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Flag, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            next(leases)


async def test_an_interruption_at_any_point_of_taking_and_settling_leaves_nothing(
    in_thread: InThread, emails: NamedQueue
) -> None:
    def work(client: Client) -> None:
        for number in range(60):
            trio.from_thread.run(emails.enqueue, b"hello")
            with client.consume("emails", concurrency=1) as leases, interrupted_at(number):
                next(leases).ack()
            assert stats(emails).leased == 0

    await in_thread(work)


class TestHolding:
    """What is held, as values."""

    @staticmethod
    def holding(*ids: int, limit: int = 4) -> tuple[Holding[Held], list[Held]]:
        holding = Holding[Held](limit, 0, 30.0)
        every = [Held(Lease("q", id, f"r{id}", 1, "text/plain", b"")) for id in ids]
        for held in every:
            holding.add(held, 0.0)
        return holding, every

    def test_it_asks_for_more_when_half_of_what_is_ready_is_taken(self) -> None:
        holding, _ = self.holding(1, 2, 3, 4)
        assert holding.room() == 0
        holding.take()
        holding.held.popitem()
        assert (len(holding.ready), holding.room()) == (3, 0)
        holding.take()
        assert holding.room() == 1

    @staticmethod
    def of_group(*ids: int) -> tuple[Holding[Held], list[Held]]:
        holding = Holding[Held](9, 0, 30.0)
        every = [Held(Lease("q", id, f"r{id}", 1, "text/plain", b"", group="a")) for id in ids]
        for held in every:
            holding.add(held, 0.0)
        return holding, every

    def test_of_a_group_only_the_first_is_ready_and_the_next_when_that_is_acknowledged(self) -> None:
        holding, [one, two] = self.of_group(1, 2)
        assert (list(holding.ready), holding.room()) == ([one], 1)
        assert holding.take() is one
        holding.settle(one)
        assert not holding.ready
        assert holding.finish(one, acknowledged=True) == []
        assert holding.take() is two
        holding.settle(two)
        assert holding.finish(two, acknowledged=True) == []
        assert not holding.held
        assert not holding.ready
        assert not holding._lines

    def test_what_is_behind_one_of_its_group_that_goes_back_or_is_lost_goes_back(self) -> None:
        holding, [one, two, three] = self.of_group(1, 2, 3)
        holding.take()
        holding.settle(one)
        assert holding.finish(one, acknowledged=False) == [two, three]
        assert (not holding.ready, not holding._lines) == (True, True)
        holding, [one, two, three, four] = self.of_group(1, 2, 3, 4)
        assert holding.lose(three) == [four]
        assert holding.lose(one) == [two]
        assert not holding.ready
        holding, [one, two, three] = self.of_group(1, 2, 3)
        holding.take()
        assert holding.take_back() == [two, three]
        assert holding.finish(one, acknowledged=True) == []

    def test_each_is_extended_at_a_third_and_over_at_its_end(self) -> None:
        holding, [one, two] = self.holding(1, 2)
        assert holding.due(9.9) == ([], [], 10.0)
        holding.settle(two)
        lost, extensions, again = holding.due(10.0)
        assert ([held for held, _ in extensions], lost, again) == ([one], [], 20.0)
        assert not holding.extended(one, 10.0, 11.0, None, Retry(5, lambda: 0.0))
        assert holding.due(11.0) == ([], [], 20.0)
        assert holding.due(40.0)[0] == [one]

    def test_extending_is_tried_again_while_there_is_a_lease_whatever_the_server_asks_for(self) -> None:
        holding, [one] = self.holding(1)
        holding.due(10.0)
        busy = errors.Draining()
        busy.retry_after = 1000
        assert not holding.extended(one, 10.0, 10.0, busy, Retry(5, lambda: 0.0))
        assert holding.due(10.0)[2] == 20.0
        assert holding.extended(one, 20.0, 20.0, errors.ReceiptExpired(), Retry(5, lambda: 0.0))
        holding.settle(one)
        assert not holding.extended(one, 20.0, 20.0, errors.ReceiptExpired(), Retry(5, lambda: 0.0))
