"""What mypy and pyright say of the three clients (scripts/lint): nothing here is run."""

from __future__ import annotations

import ssl
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, assert_type

import zapq
from zapq import Draft, Message, Placed, Settlement, ZapqError, client
from zapq.client import sync


async def verbs_of_tasks(c: client.Client, lease: client.Lease, context: ssl.SSLContext) -> None:
    assert_type(await c.put("q", b"x", priority=1, headers={"a": "1"}, on="replace", unique="u"), client.Stored)
    assert_type(await c.put_many("q", [b"x", Draft(body=b"y")]), client.StoredMany)
    assert_type(await c.enqueue("q", b"x"), int)
    assert_type(await c.enqueue_many("q", [b"x"]), int)
    assert_type(await c.enqueue_unique("q", b"x", "u"), Placed)
    assert_type(await c.receive("q", wait=20), client.Lease | None)
    assert_type(await c.receive_many("q", 10), list[client.Lease])
    assert_type(await c.dequeue("q"), Message | None)
    assert_type(await c.dequeue_many("q"), list[Message])
    assert_type(await c.settle("q", [Settlement(receipt=lease.receipt)]), list[ZapqError | None])
    assert_type(await c.peek("q", state="ready"), list[client.Seen])
    assert_type(await c.find("q", 1), client.Seen)
    assert_type(await c.list(prefix="a", sort="ready", limit=10), client.Page)
    assert_type(c.list_all(prefix="a"), AsyncIterator[dict[str, Any]])
    assert_type(await c.stats(), list[dict[str, Any]])
    assert_type(await c.stats("q"), dict[str, Any])
    assert_type(await c.describe("q"), dict[str, Any])
    assert_type(await c.purge("q"), int)
    assert_type(await c.redrive("q.dead"), client.Redriven)
    assert_type(await c.metrics(), dict[str, int | float | str])
    assert_type(c.producer("q"), AbstractAsyncContextManager[client.Producer])
    assert_type(c.consume("q"), AbstractAsyncContextManager[client.Consumer])
    async with client.open_client("http://localhost:8080", token="t", verify=context) as opened:
        assert_type(opened, client.Client)
    async with c.producer("q") as producer:
        assert_type(await producer.send(b"x", group="g"), int)
        assert_type(await producer.send_nowait(b"x").wait(), int)
        assert_type(producer.unsent, list[bytes | Draft])
    async with c.consume("q", concurrency=2) as leases:
        async for held in leases:
            assert_type(held, client.HeldLease)
            async with held as same:
                assert_type(same, client.HeldLease)
                await same.release(delay=1)

    async def handle(held: client.HeldLease) -> str:
        attributes(held)
        return "what it returns does not matter"

    await c.consume_with("q", handle, prefetch=1)
    c.put("q", "text")  # type: ignore[arg-type, unused-coroutine]  # pyright: ignore[reportArgumentType, reportUnusedCoroutine]
    await c.put("q", b"x", on="other")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await c.consume_with("q", print)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def verbs_of_threads(c: sync.Client, lease: client.Lease, context: ssl.SSLContext) -> None:
    assert_type(c.put("q", b"x", priority=1, headers={"a": "1"}, on="replace", unique="u"), client.Stored)
    assert_type(c.put_many("q", [b"x", Draft(body=b"y")]), client.StoredMany)
    assert_type(c.enqueue("q", b"x"), int)
    assert_type(c.enqueue_many("q", [b"x"]), int)
    assert_type(c.enqueue_unique("q", b"x", "u"), Placed)
    assert_type(c.receive("q", wait=20), client.Lease | None)
    assert_type(c.receive_many("q", 10), list[client.Lease])
    assert_type(c.dequeue("q"), Message | None)
    assert_type(c.dequeue_many("q"), list[Message])
    assert_type(c.settle("q", [Settlement(receipt=lease.receipt)]), list[ZapqError | None])
    assert_type(c.peek("q", state="ready"), list[client.Seen])
    assert_type(c.find("q", 1), client.Seen)
    assert_type(c.list(prefix="a", sort="ready", limit=10), client.Page)
    assert_type(c.list_all(prefix="a"), Iterator[dict[str, Any]])
    assert_type(c.stats(), list[dict[str, Any]])
    assert_type(c.stats("q"), dict[str, Any])
    assert_type(c.describe("q"), dict[str, Any])
    assert_type(c.purge("q"), int)
    assert_type(c.redrive("q.dead"), client.Redriven)
    assert_type(c.metrics(), dict[str, int | float | str])
    assert_type(c.producer("q"), AbstractContextManager[sync.Producer])
    assert_type(c.consume("q"), AbstractContextManager[sync.Consumer])
    with sync.open_client("http://localhost:8080", token="t", verify=context) as opened:
        assert_type(opened, sync.Client)
    with c.producer("q") as producer:
        assert_type(producer.send(b"x", group="g"), int)
        assert_type(producer.send_nowait(b"x").wait(), int)
        assert_type(producer.unsent, list[bytes | Draft])
    with c.consume("q", concurrency=2) as leases:
        for held in leases:
            assert_type(held, sync.HeldLease)
            with held as same:
                assert_type(same, sync.HeldLease)
                same.release(delay=1)

    def handle(held: sync.HeldLease) -> str:
        assert_type(held.cancelled, threading.Event)
        attributes(held)
        return "what it returns does not matter"

    c.consume_with("q", handle, prefetch=1, stop=threading.Event())
    c.put("q", "text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    c.put("q", b"x", on="other")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def attributes(lease: client.Lease | zapq.Lease | client.HeldLease | sync.HeldLease) -> None:
    """A worker moves from one kind of queue to another unchanged."""
    assert_type(lease.id, int)
    assert_type(lease.queue, str)
    assert_type(lease.receipt, str)
    assert_type(lease.receive_count, int)
    assert_type(lease.content_type, str)
    assert_type(lease.body, bytes)
    assert_type(lease.group, str)
    assert_type(lease.origin, str)
    headers: Mapping[str, str] = lease.headers
    assert headers is not None


def stored_values(one: client.Stored, many: client.StoredMany, page: client.Page) -> None:
    assert_type(one.id, int)
    assert_type(many.ids, Sequence[int])
    assert_type(page.next, str)
    for info in page:
        assert_type(info, dict[str, Any])
