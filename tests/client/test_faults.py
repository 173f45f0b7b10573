"""What a client makes of a network that fails: nothing is stored twice, nothing lost, and nothing left behind."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import trustme

from tests.client.doubles import answer_of
from tests.client.fault_proxy import Cut, Fault, FaultProxy, Hang, Once, Say, Trickle, fault_proxy
from tests.client.shells import SHELLS, no_thread_left, with_client
from tests.support.certificates import trusting, write_certificate
from tests.support.waiting import PATIENCE, eventually
from zapq import errors
from zapq.client import HeldLease
from zapq.testing import ZapqServer


@pytest.fixture
async def proxy(zapq_server: ZapqServer) -> AsyncGenerator[FaultProxy, None]:
    with no_thread_left():
        async with fault_proxy(zapq_server.url) as proxy:
            yield proxy
            await eventually(lambda: not proxy.open, "every connection to be closed")
            await eventually(lambda: not proxy.open, "no connection to be left")


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


QUICKLY = {"random": lambda: 0.0}


async def test_a_message_is_stored_once_wherever_its_connection_is_cut(
    shell: str, proxy: FaultProxy, zapq_server: ZapqServer
) -> None:
    queue = zapq_server.service.queue("q")
    step = 1 if shell == "trio" else 7
    places = range(0, 240, step)
    cuts = [Cut(request=place, reset=place % 2 == 0) for place in places]
    cuts += [Cut(answer=place, reset=place % 2 == 0) for place in places]
    ids: list[int] = []

    async def put(client: Any) -> None:
        for number, cut in enumerate(cuts):
            # No connection is used twice, so that the next one is cut in any case.
            proxy.faults[:] = [cut, Once(), Once()]
            if number % 2:
                ids.append(await client.put("q", b"%d" % number))
            else:
                ids.append((await client.put_many("q", [b"%d" % number])).ids[0])
            ids.append((await client.put("q", b"again %d" % number)).id)

    await with_client(shell, proxy.url, put, **QUICKLY)
    assert len(ids) == len(set(ids)) == queue.info().stats.messages == 2 * len(cuts)
    assert proxy.connections > 2 * len(cuts)


async def test_a_message_is_lost_nowhere_and_acknowledged_once_wherever_a_connection_is_cut(
    shell: str, proxy: FaultProxy, zapq_server: ZapqServer
) -> None:
    queue = zapq_server.service.queue("q")
    places = range(0, 400, 1 if shell == "trio" else 11)
    cuts = [Cut(request=place, reset=place % 2 == 0) for place in places]
    cuts += [Cut(answer=place, reset=place % 2 == 0) for place in places]
    # An answer that did not arrive leaves its message leased, for longer than this takes: the next one is given.
    every = 2 * len(cuts)
    for first in range(0, every, 1000):
        await queue.enqueue_many([b"x"] * min(every - first, 1000))
    acked: list[int] = []

    async def receive_and_ack(client: Any) -> None:
        for cut in cuts:
            proxy.faults[:] = [cut, Once(), Once()]
            lease = await client.receive("q", visibility=3600)
            proxy.faults[:] = [cut, Once(), Once()]
            await client.ack(lease)
            acked.append(lease.id)

    await with_client(shell, proxy.url, receive_and_ack, **QUICKLY)
    stats = queue.info().stats
    assert len(acked) == len(set(acked)) == stats.acked == len(cuts)
    assert stats.messages == stats.ready + stats.leased == every - len(cuts)
    assert (stats.leased > 0, stats.leases_expired) == (True, 0)


@pytest.mark.parametrize(
    "fault",
    [
        Cut(request=20),
        Cut(answer=0),
        Cut(answer=30, reset=True),
        Say(b""),
        Say(answer_of(502, b"<html>Bad Gateway")),
        Say(answer_of(503, fields={"Retry-After": "0"})),
        Say(answer_of(504)),
        Say(b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n<html>"),
        Hang(),
        Trickle(),
    ],
    ids=repr,
)
async def test_what_passes_is_survived_and_nothing_is_acknowledged_that_was_not(
    fault: Fault, shell: str, proxy: FaultProxy, zapq_server: ZapqServer
) -> None:
    queue = zapq_server.service.queue("q")

    async def work(client: Any) -> None:
        proxy.faults[:] = [fault]
        await client.put("q", b"hello")
        proxy.faults[:] = [Once(), fault]
        await client.describe("q")
        lease = await client.receive("q", visibility=0.001 if fault == Hang() else None)
        proxy.faults[:] = [fault, fault]
        if lease is not None:
            await client.ack(lease)

    await with_client(shell, proxy.url, work, timeout=0.2, **QUICKLY)
    stats = queue.info().stats
    assert stats.enqueued == 1
    assert stats.acked <= 1


@pytest.mark.parametrize("listens", [False, True], ids=["at once", "as a request comes"])
async def test_a_connection_that_was_closed_while_it_was_idle_is_no_failure(
    listens: bool, shell: str, proxy: FaultProxy, zapq_server: ZapqServer
) -> None:
    zapq_server.service.queue("q")

    async def work(client: Any) -> None:
        proxy.faults[:] = [Once(then_listen=listens)]
        assert await client.enqueue("q", b"one") == 1
        assert await client.enqueue("q", b"two") == 2

    await with_client(shell, proxy.url, work, attempts=1)
    assert proxy.connections == 2


async def test_a_certificate_that_is_not_trusted_is_noticed_by_the_next_connection(
    shell: str, nursery: trio.Nursery, tmp_path: Path
) -> None:
    """And one that is trusted is taken, without opening the client again."""
    trusted, other = (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2))
    trusted.load_cert_chain(*write_certificate(tmp_path))
    trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert("127.0.0.1").configure_cert(other)
    shown = trusted

    async def answer_once(stream: trio.SocketStream) -> None:
        secure = trio.SSLStream(stream, shown, server_side=True, https_compatible=True)
        try:
            if await secure.receive_some():
                await secure.send_all(answer_of(200, b"{}", "application/json"))
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async def ask(client: Any) -> None:
        nonlocal shown
        for shown in (trusted, other, trusted):
            if shown is trusted:
                assert await client.describe("q") == {}
            else:
                # The latter if the end of the kept connection is seen only once the request was sent.
                with pytest.raises((errors.Unreachable, errors.NoAnswer), match="certificate"):
                    await client.describe("q")

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, answer_once, [listener])
    url = f"https://127.0.0.1:{listener.socket.getsockname()[1]}"
    await with_client(shell, url, ask, verify=trusting(), attempts=2, **QUICKLY)
    nursery.cancel_scope.cancel()


async def test_what_must_not_be_done_twice_is_not_sent_again(
    shell: str, proxy: FaultProxy, zapq_server: ZapqServer
) -> None:
    async def work(client: Any) -> None:
        proxy.faults[:] = [Once(then_listen=True)]
        await client.put_many("q", [b"one", b"two"])
        with pytest.raises(errors.NoAnswer, match="closed"):
            await client.dequeue("q")
        assert (await client.dequeue("q")).body == b"one"

    await with_client(shell, proxy.url, work, **QUICKLY)


async def test_a_redirect_is_refused(shell: str, proxy: FaultProxy) -> None:
    proxy.faults[:] = [Say(answer_of(307, fields={"Location": "http://127.0.0.1:1/"}))]

    async def put(client: Any) -> None:
        with pytest.raises(errors.ServerError, match="307 Temporary Redirect"):
            await client.put("q", b"one")

    await with_client(shell, proxy.url, put)


async def test_an_answer_that_came_before_all_was_sent_is_read(shell: str, proxy: FaultProxy) -> None:
    said = answer_of(413, b'{"type":"/problems/message-too-large"}', "application/problem+json")
    proxy.faults[:] = [Say(said)] * 2

    async def put(client: Any) -> None:
        with pytest.raises((errors.MessageTooLarge, errors.NoAnswer)):
            await client.put("q", bytes(8_000_000))

    await with_client(shell, proxy.url, put, attempts=1)


async def test_a_cancelled_call_closes_its_connection(proxy: FaultProxy, zapq_server: ZapqServer) -> None:
    zapq_server.service.queue("q")

    async def wait(client: Any) -> None:
        with trio.move_on_after(0.05) as scope:
            await client.receive("q", wait=20)
        assert scope.cancelled_caught
        await eventually(lambda: not proxy.open, "the connection to be closed")

    await with_client("trio", proxy.url, wait)


async def test_wherever_a_call_is_cancelled_its_message_is_stored_at_most_once_and_the_next_call_works(
    proxy: FaultProxy, zapq_server: ZapqServer
) -> None:
    queue = zapq_server.service.queue("q")

    async def work(client: Any) -> None:
        done = False
        for schedule in range(1, 200):
            if done:
                break
            proxy.faults[:] = [Once()] * 2
            async with trio.open_nursery() as nursery:

                async def put(key: str) -> None:
                    nonlocal done
                    await client.put("q", b"x", key=key)
                    done = True

                nursery.start_soon(put, f"key-{schedule}")
                for _ in range(schedule):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            # The same message again, as a caller would send it that does not know.
            await client.put("q", b"x", key=f"key-{schedule}")
            assert queue.info().stats.messages == schedule
        assert done

    await with_client("trio", proxy.url, work, **QUICKLY)


@pytest.mark.parametrize("shell", ["trio", "asyncio"])
async def test_a_consumer_goes_on_through_every_fault_and_loses_nothing(
    shell: str, proxy: FaultProxy, zapq_server: ZapqServer
) -> None:
    queue = zapq_server.service.queue("q")
    bodies = [b"%d" % number for number in range(60)]
    await queue.enqueue_many(bodies)
    handled: list[bytes] = []
    faults: list[Fault] = [
        Cut(request=20),
        Cut(answer=0),
        Cut(answer=300, reset=True),
        Say(answer_of(502, b"<html>Bad Gateway")),
        Say(answer_of(503, fields={"Retry-After": "0"})),
        Once(then_listen=True),
    ]

    async def handle(lease: HeldLease) -> None:
        handled.append(lease.body)
        # No connection is used twice, so that the next one is spoilt in any case.
        proxy.faults[:] = [faults[len(handled) % len(faults)], Once(), Once()]

    async def work(client: Any) -> None:
        with anyio.move_on_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(
                    partial(client.consume_with, "q", handle, concurrency=3, visibility=0.3, wait=0.1)
                )
                while queue.info().stats.messages:
                    await anyio.sleep(0.01)
                group.cancel_scope.cancel()

    await with_client(shell, proxy.url, work, **QUICKLY)
    assert (queue.info().stats.messages, queue.info().stats.acked) == (0, 60)
    assert set(handled) == set(bodies)


async def test_a_second_cancellation_ends_a_consumer_at_once_whose_server_hangs(
    proxy: FaultProxy, zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zapq.client.consumer.SETTLE_SECONDS", 2 * PATIENCE)
    await zapq_server.service.queue("q").enqueue(b"hello")

    async def work(client: Any) -> None:
        begun = asyncio.Event()

        async def handle(lease: HeldLease) -> None:
            begun.set()
            await anyio.sleep_forever()

        proxy.faults[:] = [Once()]
        task = asyncio.create_task(client.consume_with("q", handle, concurrency=1))
        await begun.wait()
        proxy.faults[:] = [Hang()]
        task.cancel()
        while proxy.faults:
            await asyncio.sleep(0.01)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=PATIENCE)
        assert done
        assert task.cancelled()

    await with_client("asyncio", proxy.url, work)
