"""What is sent again after which failure, and when: every call of the client against every way to fail."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import pytest
import trio
from trio.testing import MockClock

import zapq.client.talk
from tests.client.doubles import (
    DONE,
    ENQUEUED,
    FakeConnection,
    FakeNetwork,
    NotConnected,
    Request,
    Script,
    answer_of,
    in_process,
    refusal,
    request_in,
    scripted,
)
from zapq import errors
from zapq.client import Client, Lease, open_client
from zapq.client.network import Place
from zapq.http import render
from zapq.service.open import open_service
from zapq.service.operations import Accepted
from zapq.settings import Settings

LEASE = Lease("emails", 1, "tag-1", 1, "text/plain", b"hello")


@dataclass(frozen=True)
class Call:
    """Something a client can ask for, and the answer it hopes for."""

    make: Callable[[Client], Awaitable[object]]
    success: bytes
    harmless: bool = True
    """Whether it may happen twice."""


CALLS = {
    "enqueue": Call(lambda client: client.enqueue("emails", b"hello"), ENQUEUED),
    "enqueue_many": Call(
        lambda client: client.enqueue_many("emails", [b"one"]), render.enqueued_many(1, Accepted(7), b"")
    ),
    "receive": Call(lambda client: client.receive("emails", wait=20), DONE),
    "receive_many": Call(lambda client: client.receive_many("emails"), DONE),
    "ack": Call(lambda client: client.ack(LEASE), DONE),
    "release": Call(lambda client: client.release(LEASE), DONE),
    "extend": Call(lambda client: client.extend(LEASE), DONE),
    "stats": Call(lambda client: client.stats(), answer_of(200, b"[]", "application/json")),
    "dequeue": Call(lambda client: client.dequeue("emails"), DONE, harmless=False),
    "dequeue_many": Call(
        lambda client: client.dequeue_many("emails"), answer_of(200, b"[]", "application/json"), harmless=False
    ),
    "redrive": Call(
        lambda client: client.redrive("emails.dead"),
        answer_of(200, b'{"moved":1,"left":0}', "application/json"),
        harmless=False,
    ),
    "load_snapshot": Call(lambda client: client.load_snapshot("a.json"), answer_of(200), harmless=False),
    "configure": Call(
        lambda client: client.configure("emails", {"ttl": 3}), answer_of(200, b"{}", "application/json")
    ),
}
NOTHING_DONE: dict[str, Exception | bytes] = {
    "not connected": NotConnected("refused"),
    "queue full": refusal(errors.QueueFull()),
    "draining": refusal(errors.Draining()),
}
MAYBE_DONE: dict[str, Exception | bytes] = {
    "reset": ConnectionResetError(),
    "late": TimeoutError("it took too long"),
    "closed": b"",
    "unknown": refusal(errors.OutcomeUnknown()),
    # Of a proxy: the server may have acted before it went away.
    **{f"proxy's {status}": answer_of(status, b"<html>") for status in (429, 502, 503, 504)},
    "proxy's problem": answer_of(503, b'{"type":"about:blank"}', "application/problem+json"),
    "not a problem": answer_of(503, b'{"type":"/problems/draining"}', "application/json"),
}


def status_in(failure: Exception | bytes) -> int:
    return int(failure.split(b" ")[1]) if isinstance(failure, bytes) and failure else 504


@pytest.mark.parametrize("failure", [*NOTHING_DONE, *MAYBE_DONE])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_call_is_repeated_unless_it_must_happen_once_and_may_have_happened(
    call: Call, failure: str, autojump_clock: MockClock
) -> None:
    fails = (NOTHING_DONE | MAYBE_DONE)[failure]
    script = Script(fails, fails, call.success)
    async with scripted(script) as client:
        if call.harmless or failure in NOTHING_DONE:
            await call.make(client)
            asked = (
                1.0 if isinstance(fails, bytes) and b"/problems/" in fails and b"problem+json" in fails else 0.0
            )
            assert script.pauses() == [asked + 0.1, asked + 0.2]
            return
        with pytest.raises((errors.ServerError, errors.OutcomeUnknown, errors.NoAnswer)) as raised:
            await call.make(client)
    assert raised.value.status == status_in(fails)
    assert script.pauses() == []


async def test_pauses_double_up_to_a_cap_and_the_last_failure_is_raised(
    autojump_clock: MockClock,
) -> None:
    script = Script(NotConnected("first"), NotConnected("refused"))
    async with scripted(script, attempts=10) as client:
        with pytest.raises(errors.Unreachable, match="The server zapq:80 could not be reached: refused"):
            await client.enqueue("emails", b"")
    assert script.pauses() == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


async def test_five_attempts_are_the_default(autojump_clock: MockClock) -> None:
    script = Script(refusal(errors.Draining()))
    async with scripted(script) as client:
        with pytest.raises(errors.Draining):
            await client.receive("emails")
    assert len(script.requests) == 5


async def test_what_the_server_asks_for_is_the_least_pause(autojump_clock: MockClock) -> None:
    full = refusal(errors.QueueFull(current=3), **{"Retry-After": "7"})
    script = Script(full, answer_of(503, fields={"Retry-After": "2"}), ENQUEUED)
    async with scripted(script) as client:
        assert await client.enqueue("emails", b"") == 7
    assert script.pauses() == [7.1, 2.2]


async def test_nobody_pauses_for_longer_than_a_step_may_take(autojump_clock: MockClock) -> None:
    busy = refusal(errors.QueueFull(), **{"Retry-After": "31"})
    async with scripted(Script(busy)) as client:
        with pytest.raises(errors.QueueFull) as raised:
            await client.enqueue("emails", b"")
    assert raised.value.retry_after == 31
    script = Script(busy, ENQUEUED)
    async with scripted(script) as client:
        assert (await client.put("emails", b"", wait=1)).id == 7
    assert script.pauses() == [31.1]


async def test_what_may_be_stored_is_not_sent_again_when_its_key_is_forgotten(autojump_clock: MockClock) -> None:
    gone, busy = ConnectionResetError("gone"), refusal(errors.QueueFull(), **{"Retry-After": "301"})
    script = Script(gone, gone, busy, ENQUEUED)
    async with scripted(script, timeout=400) as client:
        with pytest.raises(errors.QueueFull):
            await client.enqueue("emails", b"")
        assert len(script.requests) == 3
    script = Script(busy, ENQUEUED)  # nothing was done: it is sent again whenever that is
    async with scripted(script, timeout=400) as client:
        assert await client.enqueue("emails", b"") == 7
    script = Script(gone, gone, busy, DONE)
    async with scripted(script, timeout=400) as client:
        await client.ack(LEASE)


class Slow:
    """A server that takes a message and says nothing; then nothing, or connecting, takes until its key is gone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, sleeps: bool) -> None:
        self.now = 0.0
        self.requests = 0
        self._sleeps = sleeps
        monkeypatch.setattr(zapq.client.talk, "_now", lambda: self.now)

    def connecting(self) -> None:
        if self.requests and not self._sleeps:
            self.now += 301.0

    async def __call__(self, request: Request) -> bytes:
        self.requests += 1
        if self._sleeps:
            self.now += 301.0
        raise ConnectionResetError("gone")


@pytest.mark.parametrize("sleeps", [True, False])
async def test_time_that_passes_unseen_or_in_connecting_counts_for_its_key(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, sleeps: bool
) -> None:
    slow = Slow(monkeypatch, sleeps=sleeps)
    async with scripted(slow, slow.connecting) as client:
        with pytest.raises(errors.NoAnswer, match="may or may not have taken effect"):
            await client.put("emails", b"")
    assert slow.requests == 1


class Kept(FakeConnection):
    """A connection that is kept, on which the first request is answered, and the second one is not."""

    def is_stale(self) -> bool:
        return False

    async def receive(self, patience: float) -> bytes:
        data, self.sent = self.sent, b""
        return await self.answer(request_in(data))


@pytest.mark.parametrize("then", ["refused", "late"])
async def test_what_a_kept_connection_may_have_brought_is_not_denied_when_there_is_no_other(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """As when a server is killed before it answers."""
    script, now = Script(ENQUEUED, b""), 0.0
    monkeypatch.setattr(zapq.client.talk, "_now", lambda: now)

    class Network(FakeNetwork):
        async def connect(self, place: Place, patience: float) -> FakeConnection:
            nonlocal now
            if script.requests and then == "refused":
                raise NotConnected("refused")
            if script.requests:
                now += 301.0
            return Kept(self.answer)

    async with open_client("http://zapq", network=Network(script), random=lambda: 0.0) as client:
        await client.put("emails", b"")
        with pytest.raises(errors.NoAnswer, match="may or may not have taken effect"):
            await client.put("emails", b"")
    assert len(script.requests) == 2


async def test_what_may_have_been_done_is_not_denied_by_the_failure_after_it(autojump_clock: MockClock) -> None:
    for first in (ConnectionResetError("gone"), answer_of(502, b"<html>")):
        async with scripted(Script(first, NotConnected("refused"))) as client:
            with pytest.raises(errors.NoAnswer, match=r"may or may not .* could not be reached: refused"):
                await client.put("emails", b"")


async def test_a_producer_does_not_sleep_long_behind_the_room_it_waits_for(
    zapq_settings: Settings, autojump_clock: MockClock
) -> None:
    async with (
        open_service(replace(zapq_settings, max_msgs=1)) as service,
        scripted(in_process(service)) as client,
    ):
        emails = service.queue("emails")
        await emails.enqueue(b"first")
        room: list[float] = []

        async def make_room() -> None:
            await trio.sleep(0.5)
            assert await emails.dequeue() is not None
            room.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(make_room)
            await client.enqueue("emails", b"second")
            assert trio.current_time() - room[0] < 1.1
        assert emails.info().stats.refused == 1


@pytest.mark.parametrize("name", ["enqueue", "enqueue_many"])
async def test_every_attempt_has_the_same_key_and_every_message_or_batch_another(
    name: str, autojump_clock: MockClock
) -> None:
    call = CALLS[name]
    script = Script(ConnectionResetError(), call.success)
    async with scripted(script) as client:
        await call.make(client)
        await call.make(client)
    first, again, other = [request.headers["Idempotency-Key"] for request in script.requests]
    assert first == again != other
    assert len(first) == 32
