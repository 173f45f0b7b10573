"""Producers of tasks and of threads: what goes together, what is stored once, and what is known of the rest."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

import anyio
import msgspec
import pytest
import trio
import trio.testing
from trio.testing import MockClock

import zapq.client.sync
from tests.client.doubles import Request, Script, refusal, scripted
from tests.client.fault_proxy import Cut, FaultProxy, fault_proxy
from tests.client.shells import with_client
from tests.support.waiting import eventually
from zapq import Draft, errors
from zapq.client.batching import Batcher
from zapq.client.network import Place
from zapq.client.threads import ThreadNetwork
from zapq.http import render
from zapq.service.operations import Accepted
from zapq.testing import ZapqServer


def many(count: int, first: int) -> bytes:
    return render.enqueued_many(count, Accepted(first), b"")


class Storing:
    """A server that stores batches, each after `seconds`; a message that is `bad` is refused."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.batches: list[list[bytes]] = []
        self.keys: list[str] = []
        self.stored = 0

    async def __call__(self, request: Request) -> bytes:
        await trio.sleep(self.seconds)
        batch = msgspec.msgpack.decode(request.content)
        self.keys.append(request.headers["Idempotency-Key"])
        if b"bad" in batch:
            return refusal(errors.InvalidParameter("bad."))
        self.batches.append(batch)
        self.stored += len(batch)
        return many(len(batch), self.stored - len(batch) + 1)


class TestBatcher:
    """What goes together, as values."""

    def test_a_batch_is_due_when_it_lingered_or_is_full_or_hurried(self) -> None:
        batcher = Batcher(5.0, 2, 1000)
        assert batcher.due() is None
        batcher.hurry()
        first = batcher.add(b"one", 1.0)
        assert first is not None
        assert (first[1], batcher.due(), batcher.full) == (0, 6.0, False)
        batcher.hurry()
        assert batcher.due() == 1.0
        assert batcher.take() is first[0]
        assert batcher.unsent() == [b"one"]
        second = batcher.add(b"two", 2.0)
        assert second is not None
        assert second[0].key != first[0].key
        assert batcher.due() == 7.0
        assert batcher.add(Draft(body=b"three"), 3.0) == (second[0], 1)
        assert batcher.due() == 2.0
        assert batcher.add(b"four", 3.0) is None

    def test_bytes_are_bounded_but_one_message_always_fits(self) -> None:
        batcher = Batcher(5.0, 10, 200)
        assert batcher.add(bytes(1000), 0.0) is not None
        assert batcher.add(b"", 0.0) is None
        batcher.take()
        assert batcher.add(bytes(100), 0.0) is not None
        assert batcher.add(bytes(100), 0.0) is None
        assert batcher.due() == 0.0

    @pytest.mark.parametrize("wrong", [(1.0, 0, 1), (1.0, 1001, 1), (1.0, 1, 0), (-1.0, 1, 1)])
    def test_bounds_that_cannot_be_are_refused(self, wrong: tuple[float, int, int]) -> None:
        with pytest.raises(errors.InvalidParameter):
            Batcher(*wrong)


class TestProducer:
    """In virtual time, without a socket."""

    async def test_messages_of_many_tasks_go_together(self, autojump_clock: MockClock) -> None:
        server, ids = Storing(), dict[bytes, int]()

        async def send(body: bytes) -> None:
            ids[body] = await producer.send(body)

        async with (
            scripted(server) as client,
            client.producer("q", linger=2) as producer,
            trio.open_nursery() as nursery,
        ):
            for number in range(10):
                nursery.start_soon(send, b"%d" % number)
        [batch] = server.batches
        assert sorted(batch) == [b"%d" % number for number in range(10)]
        assert {body: ids[body] for body in batch} == dict(zip(batch, range(1, 11), strict=True))
        assert trio.current_time() == pytest.approx(2)

    async def test_a_full_batch_goes_out_at_once_and_the_rest_waits_for_room(
        self, autojump_clock: MockClock
    ) -> None:
        server = Storing(seconds=1.0)
        async with (
            scripted(server) as client,
            client.producer("q", linger=100, max_messages=2) as producer,
            trio.open_nursery() as nursery,
        ):
            for _ in range(6):
                nursery.start_soon(producer.send, b"x")
            await trio.testing.wait_all_tasks_blocked()
            assert len(producer.unsent) == 4
            with pytest.raises(BlockingIOError):
                producer.send_nowait(b"y")
        assert [len(batch) for batch in server.batches] == [2, 2, 2]
        assert trio.current_time() == pytest.approx(3)
        assert producer.unsent == []

    async def test_flush_sends_what_there_is_and_so_does_the_end(self, autojump_clock: MockClock) -> None:
        server = Storing(seconds=1.0)
        async with scripted(server) as client, client.producer("q", linger=100) as producer:
            await producer.flush()
            sent = producer.send_nowait(b"one", priority=3)
            await producer.flush()
            assert await sent.wait() == 1
            assert trio.current_time() == pytest.approx(1)
            sent = producer.send_nowait(b"two")
        assert trio.current_time() == pytest.approx(2)
        assert await sent.wait() == 2
        with pytest.raises(RuntimeError, match="closed"):
            await producer.send(b"three")

    async def test_an_error_is_raised_for_the_message_it_is_about(self, autojump_clock: MockClock) -> None:
        server = Storing()
        async with scripted(server) as client, client.producer("q") as producer:
            good, bad = producer.send_nowait(b"good"), producer.send_nowait(b"bad")
            assert await good.wait() == 1
            with pytest.raises(errors.InvalidParameter, match=r"bad\."):
                await bad.wait()
            with pytest.raises(errors.InvalidParameter, match=r"bad\."):
                await producer.flush()
            await producer.flush()
            with pytest.raises(errors.InvalidParameter, match=r"bad\."):
                await producer.send(b"bad")
        key = server.keys[0]
        assert server.keys[1:3] == [f"{key}-0", f"{key}-1"]

    async def test_a_server_that_fails_fails_the_batch(self, autojump_clock: MockClock) -> None:
        async with scripted(Script(refusal(errors.Draining())), attempts=1) as client:

            async def produce() -> None:
                async with client.producer("q") as producer:
                    with pytest.raises(errors.Draining):
                        await producer.send(b"one")
                    producer.send_nowait(b"two")

            with pytest.raises(errors.Draining):
                await produce()

    @pytest.mark.parametrize("wrong", [{"group": "\ud800"}, {"priority": object()}])
    async def test_a_message_that_cannot_be_written_is_refused_and_the_others_are_stored(
        self, autojump_clock: MockClock, nursery: trio.Nursery, wrong: dict[str, Any]
    ) -> None:
        server = Storing()
        async with scripted(server) as client, client.producer("q") as producer:
            nursery.start_soon(producer.send, b"one")
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(errors.InvalidParameter, match="cannot be sent"):
                await producer.send(b"x", **wrong)
        assert server.batches == [[b"one"]]

    async def test_an_answer_about_another_number_of_messages_is_none(self, autojump_clock: MockClock) -> None:
        for count in (0, 2, 10**17):
            async with scripted(Script(many(count, 1))) as client:
                with pytest.raises(errors.ServerError, match="too few messages or too many"):
                    await client.put_many("q", [b"one"])

    async def test_what_a_cancellation_leaves_is_known(
        self, autojump_clock: MockClock, nursery: trio.Nursery
    ) -> None:
        told: list[type[Exception]] = []

        async def send(producer: Any, body: bytes) -> None:
            try:
                await producer.send(body)
            except (errors.NoAnswer, errors.Unreachable, RuntimeError) as error:
                told.append(type(error))

        async def flush(producer: Any) -> None:
            with pytest.raises(errors.NoAnswer, match="may be stored"):
                await producer.flush()
            flushed.set()

        flushed = trio.Event()
        async with scripted(Storing(seconds=10.0)) as client:
            with trio.move_on_after(5) as scope:
                async with client.producer("q", linger=1, max_messages=1) as producer:
                    for body in (b"on its way", b"not begun", b"without room"):
                        nursery.start_soon(send, producer, body)
                        await trio.testing.wait_all_tasks_blocked()
                    nursery.start_soon(flush, producer)
                    await trio.sleep_forever()
            assert scope.cancelled_caught
            assert producer.unsent == [b"on its way", b"not begun"]
            await eventually(lambda: len(told) == 3, "every task to be told")
            await flushed.wait()
            await flush(producer)
        assert sorted(map(str, told)) == sorted(map(str, [errors.NoAnswer, errors.Unreachable, RuntimeError]))


@pytest.fixture
async def proxy(zapq_server: ZapqServer) -> AsyncGenerator[FaultProxy, None]:
    async with fault_proxy(zapq_server.url) as proxy:
        yield proxy


@pytest.mark.parametrize("shell", ["trio", "asyncio"])
async def test_batches_of_tasks_are_stored_once_wherever_they_are_cut(
    shell: str, proxy: FaultProxy, zapq_server: ZapqServer
) -> None:
    ids: list[int] = []

    async def work(client: Any) -> None:
        async with client.producer("q", linger=0.0, max_messages=10) as producer:

            async def send() -> None:
                ids.append(await producer.send(b"x", headers={"a": "1"}))

            for place in range(0, 240, 24):
                proxy.faults[:] = [Cut(request=place), Cut(answer=place)]
                async with anyio.create_task_group() as group:
                    for _ in range(25):
                        group.start_soon(send)

    await with_client(shell, proxy.url, work, random=lambda: 0.0)
    assert len(ids) == len(set(ids)) == zapq_server.service.queue("q").info().stats.messages == 250


class TestThreads:
    """The producer for threads, with a real server."""

    async def test_messages_of_many_threads_are_stored_once(
        self, proxy: FaultProxy, zapq_server: ZapqServer
    ) -> None:
        ids: list[int] = []

        def work() -> None:
            with (
                zapq.client.sync.open_client(proxy.url, random=lambda: 0.0) as client,
                client.producer("q", linger=0.001, max_messages=3) as producer,
            ):

                def send() -> None:
                    ids.extend(producer.send(b"x", group="g") for _ in range(10))

                threads = [threading.Thread(target=send) for _ in range(8)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                sent = producer.send_nowait(b"y")
                producer.flush()
                assert sent.wait() == 81

        proxy.faults[:] = [Cut(answer=place) for place in range(0, 200, 50)]
        await trio.to_thread.run_sync(work)
        assert sorted(ids) == list(range(1, 81))
        assert not [each for each in threading.enumerate() if "producer" in each.name]
        assert zapq_server.service.queue("q").info().stats.messages == 81

    async def test_errors_and_an_early_end_are_told(self, zapq_server: ZapqServer) -> None:
        def work() -> None:
            with zapq.client.sync.open_client(zapq_server.url) as client:
                with client.producer("q") as producer, pytest.raises(errors.InvalidParameter):
                    producer.send(b"x", priority=10)
                with pytest.raises(errors.InvalidParameter), client.producer("q") as producer:
                    producer.send_nowait(b"x", priority=10)
                left: list[Any] = []

                def leave() -> None:
                    with client.producer("q", linger=100, max_messages=2) as producer:
                        left.extend([producer, producer.send_nowait(b"left")])
                        raise ZeroDivisionError

                with pytest.raises(ZeroDivisionError):
                    leave()
                producer, sent = left
                assert producer.unsent == [b"left"]
                with pytest.raises(errors.Unreachable):
                    sent.wait()
                with pytest.raises(errors.Unreachable):
                    producer.flush()
                with pytest.raises(RuntimeError):
                    producer.send(b"too late")

        await trio.to_thread.run_sync(work)
        assert zapq_server.service.queue("q").info().stats.messages == 0

    async def test_a_process_that_was_forked_is_told_to_open_its_own(
        self, zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def work() -> None:
            with zapq.client.sync.open_client(zapq_server.url) as client:
                producing = client.producer("q", linger=100)
                producer = producing.__enter__()
                sent = producer.send_nowait(b"parent's")
                with monkeypatch.context() as child:
                    child.setattr(os, "getpid", lambda: -1)
                    for ask in (partial(producer.send, b"child's"), producer.flush, sent.wait):
                        with pytest.raises(RuntimeError, match="producer belongs to the process that opened it"):
                            ask()
                    with pytest.raises(RuntimeError, match="open one after the fork"):
                        producer.send_nowait(b"child's")
                    with pytest.raises(RuntimeError):
                        producing.__exit__(None, None, None)
                producer._line.flush()
                producer._line.close()

        await trio.to_thread.run_sync(work)
        assert zapq_server.service.queue("q").info().stats.messages == 1

    def test_what_ends_its_thread_is_told_to_all(self) -> None:
        """As `MemoryError` might: no thread waits for ever."""

        class Broken(ThreadNetwork):
            async def connect(self, place: Place, patience: float) -> Any:
                raise ZeroDivisionError

        def produce() -> None:
            with (
                zapq.client.sync.open_client("http://zapq", network=Broken()) as client,
                client.producer("q") as producer,
            ):
                with pytest.raises(errors.NoAnswer):
                    producer.send(b"one")
                assert producer.unsent == [b"one"]
                with pytest.raises(RuntimeError) as raised:
                    producer.send(b"two")
                assert isinstance(raised.value.__cause__, ZeroDivisionError)

        with pytest.raises(ZeroDivisionError):
            produce()
