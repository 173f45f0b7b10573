"""What clients do to a queue in the field, over real sockets: they vanish, dawdle, and come in crowds."""

from __future__ import annotations

import random
import socket
import tracemalloc
from contextlib import suppress
from dataclasses import replace

import pytest
import trio

from tests.support.serving import until_waiting
from tests.support.wire import ask, open_client, until_shown, vanish
from zapq.core.stats import STATES
from zapq.settings import Settings
from zapq.testing import ZapqServer

QUEUE = "/queues/emails"


def request(method: str, target: str, body: bytes = b"") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def connect(server: ZapqServer) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", int(server.url.rpartition(":")[2]))


class Both:
    """The hot path, and everything without it."""

    @pytest.fixture(params=[True, False], ids=["hot", "cold"])
    def zapq_settings(self, zapq_settings: Settings, request: pytest.FixtureRequest) -> Settings:
        return replace(zapq_settings, hot_path=request.param, max_msgs=1_000_000)


class TestClientsThatVanish(Both):
    async def test_an_abandoned_long_poll_does_not_eat_a_message(self, zapq_server: ZapqServer) -> None:
        service = zapq_server.service
        queue = service.queue("emails")
        for target in ("/dequeue?wait=60", f"{QUEUE}/receive?wait=60", f"{QUEUE}/receive/batch?wait=60&ack=auto"):
            for noticed in (True, False):
                stream = await connect(zapq_server)
                await stream.send_all(request("POST", target))
                await until_waiting(service)
                vanish(stream)
                if noticed:
                    await until_waiting(service, 0)
                where = service.default if target.startswith("/dequeue") else queue
                where.enqueue_nowait(b"job")  # in the tick of the reset, if it was not noticed
                await until_waiting(service, 0)
                [seen] = await where.peek()
                assert (seen.message.body, seen.receives) == (b"job", 0)
                assert await where.clear() == 1
        assert service.stats().delivery_uncertain == 0

    @pytest.mark.slow
    @pytest.mark.once
    async def test_of_a_thousand_that_vanish_at_random_none_takes_anything_along(
        self, zapq_server: ZapqServer
    ) -> None:
        """Enqueued is delivered or held: nothing is in two places, and nothing is given twice."""
        chance = random.Random(4711)
        service = zapq_server.service
        queues = {"default": service.default, "given": service.queue("given"), "leased": service.queue("leased")}
        seen: dict[str, list[int]] = {name: [] for name in queues}

        def pick() -> tuple[str, str, bytes]:
            return chance.choice([
                ("POST", "/enqueue", b"x" * chance.randrange(2000)),
                ("POST", "/queues/given/messages", b"x" * chance.randrange(2000)),
                ("POST", "/queues/leased/messages", b"x" * chance.randrange(2000)),
                ("GET", "/dequeue", b""),
                ("POST", "/queues/given/receive?ack=auto", b""),
                ("POST", "/queues/leased/receive?visibility=3600", b""),
                ("POST", "/queues/leased/receive/batch?max=3&visibility=3600", b""),
                ("GET", "/dequeue?wait=0.01", b""),
            ])

        async def vanishing_client() -> None:
            for _ in range(50):
                stream = await connect(zapq_server)
                script = b"".join(request(*pick()) for _ in range(chance.randrange(1, 5)))
                # All of it is small enough for the sockets to take at once.
                await stream.send_all(script[: chance.randrange(1, len(script) + 1)])
                # In steps, not seconds: how far the server gets meanwhile does not depend on the machine.
                await steps(chance.choice([0, 1, 2, 5, 10, 20, 40]))
                if chance.random() < 0.5:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(receive, stream, nursery.cancel_scope)
                        await steps(200)
                        nursery.cancel_scope.cancel()
                vanish(stream)

        async def receive(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
            with suppress(trio.BrokenResourceError):
                await stream.receive_some(chance.randrange(1, 500))
            scope.cancel()

        async def steps(number: int) -> None:
            for _ in range(number):
                await trio.lowlevel.checkpoint()

        async def good_client() -> None:
            async with open_client(zapq_server.url) as client:
                for _ in range(50):
                    method, target, body = pick()
                    answer = await client.request(method, target, body)
                    if "dequeue" in target or "ack=auto" in target:
                        if answer.status == 200:
                            name = "default" if "dequeue" in target else "given"
                            seen[name].append(int(answer.headers["zapq-message-id"]))
                    else:
                        assert answer.status in {200, 202, 204}

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(vanishing_client)
            for _ in range(3):
                nursery.start_soon(good_client)
        await until_shown(zapq_server.url, connections=1)
        for name, queue in queues.items():
            held = [each.message.id for state in STATES for each in await queue.peek(state, limit=1000)]
            stats = queue.info().stats
            assert len(held) == len(set(held)) == stats.messages
            assert len(seen[name]) == len(set(seen[name]))
            assert set(held).isdisjoint(seen[name])
            # No lease has ended: what was received, and could be handed over, is leased, and held.
            assert stats.received == stats.leased
            delivered = 0 if name == "leased" else stats.dequeued - stats.returned
            assert stats.enqueued == delivered + stats.messages
            # The others were written to somebody who had left, or left then.
            assert len(seen[name]) <= delivered
        assert service.stats().queue.returned > 0
        assert (await ask(zapq_server.url, "GET", "/metrics")).json["connection_errors"] == 0


class TestCrowds(Both):
    async def test_a_slow_reader_of_a_peek_stalls_nobody(self, zapq_server: ZapqServer) -> None:
        queue = zapq_server.service.queue("emails")
        for _ in range(64):
            await queue.enqueue(bytes(128 * 1024))
        slow = await connect(zapq_server)
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await slow.send_all(request("GET", f"{QUEUE}/messages?limit=1000"))
        begun = await slow.receive_some(1000)
        assert begun.startswith(b"HTTP/1.1 200")
        async with open_client(zapq_server.url) as client:
            for number in range(20):
                assert (await client.request("POST", f"{QUEUE}/messages", b"%d" % number)).status == 202
                got = await client.request("POST", f"{QUEUE}/receive?ack=auto")
                assert len(got.body) == 128 * 1024
        vanish(slow)

    async def test_a_backlog_of_half_a_million_is_received_from_like_any_other(
        self, zapq_server: ZapqServer
    ) -> None:
        """What a receive costs is counted in what it makes, not in seconds."""
        queue = zapq_server.service.queue("emails")
        async with open_client(zapq_server.url) as client:
            costs = []
            for backlog in (10, 500_000):
                while queue.info().stats.messages < backlog:
                    queue.enqueue_many_nowait([b"x"] * min(1000, backlog - queue.info().stats.messages))
                tracemalloc.start()
                got = await client.request("POST", f"{QUEUE}/receive")
                costs.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
                acked = await client.request("DELETE", f"{QUEUE}/receipts/{got.headers['zapq-receipt']}")
                assert (got.status, acked.status) == (200, 204)
        assert costs[1] < costs[0] + 100_000

    @pytest.mark.once
    async def test_memory_falls_back_after_a_drain(self, zapq_server: ZapqServer) -> None:
        queue = zapq_server.service.queue("emails")
        await queue.enqueue(b"warm")
        assert await queue.clear() == 1
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(50):
                queue.enqueue_many_nowait([bytes(200) for _ in range(1000)])
            assert tracemalloc.get_traced_memory()[0] - before > 10_000_000
            async with open_client(zapq_server.url) as client:
                while queue.info().stats.messages:
                    got = await client.request("POST", f"{QUEUE}/receive/batch?ack=auto")
                    assert got.status == 200
            assert tracemalloc.get_traced_memory()[0] - before < 2_000_000
        finally:
            tracemalloc.stop()
