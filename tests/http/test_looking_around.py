"""What an operator asks for who looks around: pages of queues, their history, one message, its own rights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

import zapq
from tests.support.wire import Answer, ask
from zapq.access.access import Access
from zapq.access.certificate import NOBODY
from zapq.access.token import digest
from zapq.core.queue_settings import QueueSettings
from zapq.errors import InvalidParameter, MessageLeased, MessageNotFound, QueueFull, QueueNotFound, ReceiptExpired
from zapq.http.endpoints import ENDPOINTS
from zapq.http.guard import Guard
from zapq.http.hosts import Hosts
from zapq.service.history import take_samples
from zapq.service.service import QueueService
from zapq.settings import Settings
from zapq.testing import ZapqServer

DEAD = "/queues/dead"


def assert_problem(answer: Answer, status: int, problem: str) -> None:
    assert (answer.status, answer.json["type"]) == (status, f"/problems/{problem}")


async def get(server: ZapqServer, target: str) -> Answer:
    return await ask(server.url, "GET", target)


class TestPages:
    async def test_without_parameters_the_answer_is_as_it_was(self, zapq_server: ZapqServer) -> None:
        await zapq_server.service.queue("b").enqueue(b"x")
        listed = await get(zapq_server, "/queues")
        assert [each["name"] for each in listed.json] == ["b", "default"]
        assert "zapq-total" not in listed.headers

    async def test_a_page_says_how_many_there_are_and_where_the_next_begins(self, zapq_server: ZapqServer) -> None:
        for number in range(150):
            queue = zapq_server.service.queue(f"q{number:03d}")
            await queue.enqueue_many([b"x"] * (1 + number % 3))
        first = await get(zapq_server, "/queues?sort=ready&limit=2&prefix=q")
        assert [each["name"] for each in first.json] == ["q002", "q005"]
        assert (first.headers["zapq-total"], first.headers["zapq-next"]) == ("150", "3:q005")
        second = await get(zapq_server, f"/queues?sort=ready&limit=1&prefix=q&after={first.headers['zapq-next']}")
        assert [each["name"] for each in second.json] == ["q008"]
        last = await get(zapq_server, "/queues?queue=q1*9&limit=5&after=q139")
        assert [each["name"] for each in last.json] == ["q149"]
        assert last.headers["zapq-total"] == "5"
        assert "zapq-next" not in last.headers

    @pytest.mark.parametrize(
        "query",
        [
            "sort=size",
            "limit=0",
            "limit=1001",
            "sort=ready&after=x",
            "sort=ready&after=nan:a",
            "sort=ready&after=1_0:a",
            "prefx=a",
        ],
    )
    async def test_what_makes_no_sense_is_refused(self, zapq_server: ZapqServer, query: str) -> None:
        assert_problem(await get(zapq_server, f"/queues?{query}"), 400, "invalid-parameter")


class TestHistory:
    async def test_it_tells_of_the_queues_that_are_asked_for(
        self, zapq_server: ZapqServer, nursery: trio.Nursery
    ) -> None:
        for name in ("a", "b", "c"):
            await zapq_server.service.queue(name).enqueue(b"x")
        nursery.start_soon(take_samples, zapq_server.service)
        await trio.testing.wait_all_tasks_blocked()
        told = (await get(zapq_server, "/stats/history?queue=a,c")).json
        assert told["seconds"] == 5
        assert list(told["queues"]) == ["a", "c"]
        assert told["queues"]["a"]["ready"][-1] == 1
        assert (await get(zapq_server, "/stats/history?limit=1")).json["left_out"] == 3
        nursery.cancel_scope.cancel()

    @pytest.mark.parametrize("query", ["limit=0", "limit=101", "queue=" + ",".join("a" * 101)])
    async def test_more_than_an_answer_tells_is_refused(self, zapq_server: ZapqServer, query: str) -> None:
        assert_problem(await get(zapq_server, f"/stats/history?{query}"), 400, "invalid-parameter")


@pytest.fixture
async def letter(zapq_service: QueueService) -> int:
    """The id of a dead letter, behind another one."""
    await zapq_service.configure("work", QueueSettings(max_receives=1, dead_letter="dead", max_messages=2))
    work = zapq_service.queue("work")
    for _ in range(2):
        await work.enqueue(b"x")
    for _ in range(2):
        lease = await work.receive()
        assert lease is not None
        await work.release(lease.receipt)
    return 2


class TestOneMessage:
    async def test_a_message_that_nobody_holds_is_deleted_for_good(self, zapq_server: ZapqServer) -> None:
        queue = zapq_server.service.queue("emails")
        await queue.enqueue_many([b"1", b"2", b"3"])
        await queue.enqueue(b"4", delay=60)
        for id in (2, 4):
            assert (await ask(zapq_server.url, "DELETE", f"/queues/emails/messages/{id}")).status == 204
        gone = await ask(zapq_server.url, "DELETE", "/queues/emails/messages/2")
        assert_problem(gone, 404, "message-not-found")
        assert [each.body for each in await queue.peek()] == [b"1", b"3"]
        stats = queue.info().stats
        assert (stats.messages, stats.cleared) == (2, 2)

    async def test_a_message_that_a_consumer_holds_stays(self, zapq_server: ZapqServer) -> None:
        queue = zapq_server.service.queue("emails")
        await queue.enqueue(b"1")
        lease = await queue.receive(visibility=60)
        assert lease is not None
        refused = await ask(zapq_server.url, "DELETE", "/queues/emails/messages/1")
        assert_problem(refused, 409, "message-leased")
        assert "another 59" in refused.json["detail"] or "another 60" in refused.json["detail"]
        await queue.ack(lease.receipt)

    async def test_one_that_failed_is_looked_for_where_it_is_now(
        self, zapq_server: ZapqServer, letter: int
    ) -> None:
        answer = await ask(zapq_server.url, "DELETE", "/queues/work/messages/1")
        assert (answer.status, answer.json["now_in"], answer.json["now_id"]) == (404, "dead", 1)

    async def test_a_deletion_lets_the_next_of_its_group_go(self, zapq_service: QueueService) -> None:
        await zapq_service.configure("emails", QueueSettings(max_messages=2))
        queue = zapq_service.queue("emails")
        await queue.enqueue(b"first", group="g", delay=60)
        await queue.enqueue(b"second", group="g")
        async with trio.open_nursery() as nursery:
            got: list[object] = []

            async def consume() -> None:
                got.append(await queue.dequeue(wait=60))

            nursery.start_soon(consume)
            await trio.testing.wait_all_tasks_blocked()
            zapq_service.attempt(lambda now: queue._state.delete(1, now), trio.current_time())
        [message] = got
        assert message is not None
        assert message.body == b"second"  # type: ignore[attr-defined]  # it is a message

    async def test_a_holder_that_comes_late_is_told(self, zapq_service: QueueService) -> None:
        queue = zapq_service.queue("emails")
        await queue.enqueue(b"x")
        lease = await queue.receive(visibility=0)
        assert lease is not None
        assert zapq_service.attempt(lambda now: queue._state.delete(1, now), trio.current_time())
        with pytest.raises(ReceiptExpired, match="deleted"):
            await queue.ack(lease.receipt)

    async def test_one_dead_letter_is_sent_back(self, zapq_server: ZapqServer, letter: int) -> None:
        redriven = await ask(zapq_server.url, "POST", f"{DEAD}/redrive?id={letter}")
        assert (redriven.status, redriven.json) == (200, {"moved": 1, "left": 1})
        [back] = await zapq_server.service.queue("work").peek()
        assert back.message.properties.origin is not None
        assert back.message.properties.origin.id == 2

    @pytest.mark.parametrize("query", ["id=0", "id=x", "id=1&limit=1", "id="])
    async def test_an_id_that_is_none_is_refused(self, zapq_server: ZapqServer, letter: int, query: str) -> None:
        refused = await ask(zapq_server.url, "POST", f"{DEAD}/redrive?{query}")
        assert_problem(refused, 400, "invalid-parameter")

    async def test_what_cannot_be_sent_back_stays(self, zapq_service: QueueService, letter: int) -> None:
        broker, now = zapq_service.broker, trio.current_time()
        await zapq_service.queue("dead").enqueue(b"no letter")
        with pytest.raises(InvalidParameter):
            broker.redrive_one("dead", 3, now)
        with pytest.raises(MessageNotFound):
            broker.redrive_one("dead", 4, now)
        await zapq_service.queue("work").enqueue_many([b"1", b"2"])
        with pytest.raises(QueueFull):
            broker.redrive_one("dead", letter, now)
        await zapq_service.delete("work")
        with pytest.raises(QueueNotFound):
            broker.redrive_one("dead", letter, now)
        assert await zapq_service.queue("dead").receive() is not None
        with pytest.raises(MessageLeased):
            broker.redrive_one("dead", 1, now)
        assert zapq_service.queue("dead").info().stats.redriven == 0


class TestWhoAmI:
    async def test_without_tokens_it_depends_on_the_address(self, zapq_server: ZapqServer) -> None:
        assert (await get(zapq_server, "/whoami")).json == {
            "name": None,
            "roles": ["producer", "consumer", "metrics", "admin"],
            "queues": "*",
        }

    async def test_a_credential_hears_what_it_may_do(
        self, zapq_settings: Settings, zapq_service: QueueService, nursery: trio.Nursery, tmp_path: Path
    ) -> None:
        tokens = tmp_path / "tokens"
        token = "c" * 20
        line = f"mailer:{digest(token.encode()).hex()}:consumer,metrics:emails*:2099-01-31\n"
        tokens.write_text(line)
        tokens.chmod(0o600)
        settings = replace(zapq_settings, token_file=str(tokens))
        [url] = await nursery.start(partial(zapq.serve, settings, service=zapq_service))
        said = await ask(url, "GET", "/whoami", headers={"Authorization": f"Bearer {token}"})
        assert said.json == {
            "name": "mailer",
            "roles": ["consumer", "metrics"],
            "queues": "emails*",
            "expires": "2099-02-01T00:00:00.000Z",
        }
        assert_problem(await ask(url, "GET", "/whoami"), 401, "unauthenticated")
        nursery.cancel_scope.cancel()


async def test_from_afar_nobody_administers_without_tokens() -> None:
    settings = Settings(addr="127.0.0.1:0")
    guard = Guard(settings, Hosts(settings, None), Access(settings))
    [whoami] = [each for each in ENDPOINTS if each.path == "/whoami"]
    grant = guard.check_role(whoami, "", ("192.0.2.1", 5), b"", NOBODY)
    assert grant is not None
    assert sorted(grant.roles) == ["consumer", "metrics", "producer"]
