"""How a consumer ends while its long poll is under way: what the server gives it then is released at once."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
import trio

import zapq.client.sync
from tests.client.doubles import FakeNetwork, Request
from tests.client.shells import SHELLS_AND_UVLOOP, with_client
from tests.support.serving import with_tls
from tests.support.waiting import eventually
from zapq.client import open_client
from zapq.client.polls import Polls
from zapq.programs.forward import Forwarder
from zapq.programs.receiver import parse_target
from zapq.service.named_queue import NamedQueue
from zapq.settings import Settings
from zapq.testing import ZapqServer


@pytest.fixture
def emails(zapq_server: ZapqServer) -> NamedQueue:
    return zapq_server.service.queue("emails")


@asynccontextmanager
async def crossing(server: ZapqServer, emails: NamedQueue) -> AsyncGenerator[str, None]:
    """Yield the URL of a relay: when a client says that it sends no more, the server gives it a message first."""
    url = urlsplit(server.url)
    host, port = url.hostname, url.port
    assert host is not None
    assert port is not None

    async def relay(client: trio.SocketStream) -> None:
        async with await trio.open_tcp_stream(host, port) as behind, trio.open_nursery() as nursery:

            async def back() -> None:
                with suppress(trio.BrokenResourceError):  # the client may be gone
                    async for data in behind:
                        await client.send_all(data)
                    await client.send_eof()

            nursery.start_soon(back)
            with suppress(trio.BrokenResourceError):
                async for data in client:
                    await behind.send_all(data)
            if not emails.info().stats.enqueued:
                await emails.enqueue(b"late")
            await behind.send_eof()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, relay, 0, host="127.0.0.1"))
        yield f"{url.scheme}://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("shell", SHELLS_AND_UVLOOP)
class TestAConsumerThatEnds:
    """By each of the three, plain and over TLS."""

    @pytest.fixture(params=["plain", "tls"])
    def trusting(self, request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Settings, ssl.SSLContext]:
        settings = Settings(addr="127.0.0.1:0", data_dir=str(tmp_path), grace=1.0)
        return with_tls(settings, tmp_path) if request.param == "tls" else (settings, ssl.create_default_context())

    @pytest.fixture
    def zapq_settings(self, trusting: tuple[Settings, ssl.SSLContext]) -> Settings:
        return trusting[0]

    async def test_releases_a_message_that_crosses_its_end(
        self, zapq_server: ZapqServer, emails: NamedQueue, shell: str, trusting: tuple[Settings, ssl.SSLContext]
    ) -> None:
        parked, token = trio.Event(), trio.lowlevel.current_trio_token()

        async def consume(client: Any) -> None:
            async with client.consume("emails", wait=60):
                if shell == "trio":
                    await parked.wait()
                else:
                    await asyncio.to_thread(lambda: trio.from_thread.run(parked.wait, trio_token=token))

        def consume_in_thread(url: str) -> None:
            with (
                zapq.client.sync.open_client(url, verify=trusting[1]) as client,
                client.consume("emails", wait=60),
            ):
                trio.from_thread.run(parked.wait)

        async with crossing(zapq_server, emails) as url, trio.open_nursery() as nursery:
            if shell == "threads":
                nursery.start_soon(trio.to_thread.run_sync, consume_in_thread, url)
            else:
                nursery.start_soon(partial(with_client, shell, url, consume, verify=trusting[1]))
            await eventually(lambda: emails.info().waiting, "its poll to stand in line")
            parked.set()
        stats = emails.info().stats
        assert (stats.enqueued, stats.ready, stats.leased) == (1, 1, 0)

    async def test_can_send_nothing_more_on_the_connection_of_its_poll(
        self, zapq_server: ZapqServer, shell: str, trusting: tuple[Settings, ssl.SSLContext]
    ) -> None:
        async def finish(client: Any) -> None:
            talk = (client._client if shell == "threads" else client)._talk
            connection = await talk.network.connect(talk._place, 10)
            connection.finish()
            connection.finish()
            with pytest.raises(OSError):  # noqa: PT011, PT012 - which one differs, and so does when
                # The first may still be taken by TLS, which has a buffer of its own.
                for _ in range(3):
                    await connection.send(b"x" * 1000, 10)
                    await connection.receive(10)
            connection.close()
            connection.finish()

        await with_client(shell, zapq_server.url, finish, verify=trusting[1])


async def test_a_forwarder_that_is_stopped_gives_back_what_it_is_given_then(
    zapq_server: ZapqServer, emails: NamedQueue
) -> None:
    async with crossing(zapq_server, emails) as url, open_client(url) as client, trio.open_nursery() as nursery:
        forwarder = Forwarder(client, "emails", parse_target("http://127.0.0.1:9/"))
        nursery.start_soon(forwarder.run)
        await eventually(lambda: emails.info().waiting, "its poll to stand in line")
        forwarder.stop()
    stats = emails.info().stats
    assert (stats.enqueued, stats.ready, stats.leased) == (1, 1, 0)


@pytest.mark.parametrize("shell", SHELLS_AND_UVLOOP)
async def test_after_stop_fetching_what_is_worked_on_is_kept_and_the_rest_released(
    zapq_server: ZapqServer, emails: NamedQueue, shell: str
) -> None:
    await emails.enqueue_many([b"1", b"2", b"3"])
    token = trio.lowlevel.current_trio_token()

    def until(condition: Callable[[], bool], what: str) -> Callable[[], None]:
        return partial(trio.from_thread.run, eventually, condition, what, trio_token=token)

    fetched = until(lambda: emails.info().stats.leased == 3, "all to be fetched")
    released = until(lambda: emails.info().stats.released == 2, "the others to be released")

    def work_in_thread() -> None:
        with (
            zapq.client.sync.open_client(zapq_server.url) as client,
            client.consume("emails", concurrency=1, prefetch=2) as leases,
        ):
            for lease in leases:
                with lease:
                    fetched()
                    leases.stop_fetching()
                    released()
            assert list(leases) == []

    async def work(client: Any) -> None:
        wait = trio.to_thread.run_sync if shell == "trio" else asyncio.to_thread
        async with client.consume("emails", concurrency=1, prefetch=2) as leases:
            async for lease in leases:
                async with lease:
                    await wait(fetched)
                    leases.stop_fetching()
                    await wait(released)
            assert [lease async for lease in leases] == []

    if shell == "threads":
        await trio.to_thread.run_sync(work_in_thread)
    else:
        await with_client(shell, zapq_server.url, work)
    stats = emails.info().stats
    assert (stats.acked, stats.ready, stats.leased) == (1, 2, 0)


@pytest.mark.parametrize("shell", SHELLS_AND_UVLOOP)
async def test_after_stop_fetching_tasks_that_wait_are_told_and_late_messages_released(
    zapq_server: ZapqServer, emails: NamedQueue, shell: str
) -> None:
    token = trio.lowlevel.current_trio_token()

    def came_too_late() -> None:
        # The server takes it back itself if it sees the end before it has answered.
        wait = partial(eventually, lambda: emails.info().stats.ready == 1, "it to be back")
        trio.from_thread.run(wait, trio_token=token)

    def parked() -> None:
        wait = partial(eventually, lambda: emails.info().waiting, "its poll to stand in line")
        trio.from_thread.run(wait, trio_token=token)

    def work_in_thread(url: str) -> None:
        with zapq.client.sync.open_client(url) as client, client.consume("emails") as leases:
            with ThreadPoolExecutor() as pool:
                got = [pool.submit(list, leases) for _ in range(2)]
                parked()
                leases.stop_fetching()
            assert [each.result() for each in got] == [[], []]
            came_too_late()

    async def work(client: Any) -> None:
        async def iterate() -> None:
            assert [lease async for lease in leases] == []

        in_thread = trio.to_thread.run_sync if shell == "trio" else asyncio.to_thread
        async with client.consume("emails") as leases:
            async with anyio.create_task_group() as group:
                for _ in range(2):
                    group.start_soon(iterate)
                await in_thread(parked)
                leases.stop_fetching()
            await in_thread(came_too_late)

    async with crossing(zapq_server, emails) as url:
        if shell == "threads":
            await trio.to_thread.run_sync(work_in_thread, url)
        else:
            await with_client(shell, url, work)
    stats = emails.info().stats
    assert (stats.ready, stats.leased) == (1, 0)


async def test_polls_that_end_while_they_are_connected_send_nothing() -> None:
    asked: list[Request] = []

    async def answer(request: Request) -> bytes:
        asked.append(request)
        return b""

    ended: list[bool] = []
    network = FakeNetwork(answer, connecting=lambda: ended.append(polls.end()))
    async with open_client("http://zapq.test", network=network) as client:
        polls = Polls(client._talk, client._calls)
        with pytest.raises(zapq.errors.Unreachable):
            await polls.receive_many("emails", 1, wait=60)
    # No answer is to come.
    assert (ended, asked) == ([False], [])


async def test_polls_that_have_ended_ask_for_nothing_more(zapq_server: ZapqServer) -> None:
    async with open_client(zapq_server.url) as client:
        polls = Polls(client._talk, client._calls)
        assert not polls.end()
        assert await polls.receive_many("emails", 1, wait=60) == []
