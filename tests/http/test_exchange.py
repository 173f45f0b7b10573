"""At most once, honestly: what becomes of a message whose answer could not be written."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import inf

import pytest
import trio

from zapq.access.certificate import NOBODY, Identities
from zapq.core.message import Message
from zapq.errors import ClientGone, MessageTooLarge, RequestTimedOut
from zapq.http.exchange import Exchange, RequestBody
from zapq.service.reservation import Budget, Reservation
from zapq.service.service import QueueService


@dataclass
class FakeLink:
    written: int = 0
    broken: bool = False
    body_deadline: float | None = None
    identities: Identities = NOBODY
    reserved: Reservation | None = None

    def holding(self, size: int) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass
class Case:
    """An exchange that carries the only message of a queue."""

    service: QueueService
    transport: FakeLink
    exchange: Exchange

    @property
    def fate(self) -> str:
        stats = self.service.stats()
        if stats.queue.messages:
            return "put back"
        return "uncertain" if stats.delivery_uncertain else "delivered"


def new_body(limit: int, deadline: float) -> RequestBody:
    return RequestBody(limit, deadline, others=Budget(limit))


@pytest.fixture
def transport() -> FakeLink:
    return FakeLink()


async def hand_over(service: QueueService, transport: FakeLink, body: bytes = b"job") -> Case:
    await service.enqueue(body)
    message = await service.dequeue()
    assert isinstance(message, Message)
    exchange = Exchange(trace_id="t", transport=transport, body=new_body(10, inf))
    exchange.hand_over(service.state("default"), (message,))
    return Case(service, transport, exchange)


async def test_an_answer_written_whole_is_delivered(zapq_service: QueueService, transport: FakeLink) -> None:
    case = await hand_over(zapq_service, transport)
    transport.written = 100
    case.exchange.head_sent(written_before=0)
    transport.written = 103
    case.exchange.answered = True
    case.exchange.reconcile()
    assert case.fate == "delivered"


async def test_a_handler_that_never_answered_puts_it_back(zapq_service: QueueService, transport: FakeLink) -> None:
    case = await hand_over(zapq_service, transport)
    case.exchange.reconcile()
    assert case.fate == "put back"


async def test_a_head_alone_puts_it_back(zapq_service: QueueService, transport: FakeLink) -> None:
    case = await hand_over(zapq_service, transport)
    transport.written = 100
    case.exchange.head_sent(written_before=0)
    transport.broken = True
    case.exchange.answered = True
    case.exchange.reconcile()
    assert case.fate == "put back"


async def test_one_byte_of_the_body_makes_it_uncertain(zapq_service: QueueService, transport: FakeLink) -> None:
    case = await hand_over(zapq_service, transport)
    transport.written = 100
    case.exchange.head_sent(written_before=0)
    transport.written, transport.broken = 101, True
    case.exchange.reconcile()
    assert case.fate == "uncertain"


async def test_an_empty_message_goes_out_with_its_head(zapq_service: QueueService, transport: FakeLink) -> None:
    case = await hand_over(zapq_service, transport, body=b"")
    transport.written = 100
    case.exchange.head_sent(written_before=0)
    transport.broken = True
    case.exchange.reconcile()
    assert case.fate == "uncertain"


async def test_a_half_closed_client_that_got_all_of_it_was_served(
    zapq_service: QueueService, transport: FakeLink
) -> None:
    case = await hand_over(zapq_service, transport)
    case.exchange.client_left()
    transport.written = 100
    case.exchange.head_sent(written_before=0)
    transport.written = 103
    case.exchange.answered = True
    case.exchange.reconcile()
    assert case.fate == "delivered"


async def test_a_stream_that_was_reset_before_the_body_puts_it_back(
    zapq_service: QueueService, transport: FakeLink
) -> None:
    case = await hand_over(zapq_service, transport)
    case.exchange.client_left()
    case.exchange.head_sent(written_before=0)
    case.exchange.answered = True
    case.exchange.reconcile()
    assert case.fate == "put back"


async def test_a_client_that_leaves_ends_only_what_waits_for_it(
    transport: FakeLink, autojump_clock: trio.testing.MockClock
) -> None:
    exchange = Exchange(trace_id="t", transport=transport, body=new_body(10, inf))
    async with trio.open_nursery() as nursery:

        async def leave() -> None:
            await trio.sleep(1)
            exchange.client_left()

        nursery.start_soon(leave)
        with exchange.ends_with_client():
            await trio.sleep(10)
        assert trio.current_time() == pytest.approx(1)
        await trio.sleep(1)
        with exchange.ends_with_client():
            await trio.sleep(10)
        assert trio.current_time() == pytest.approx(2)


async def test_a_body_is_whole_too_large_late_or_abandoned(autojump_clock: trio.testing.MockClock) -> None:
    deadline = trio.current_time() + 1
    whole = new_body(3, deadline)
    whole.feed(b"ab", more=True)
    whole.feed(b"c", more=False)
    assert await whole.read() == b"abc"

    large = new_body(3, deadline)
    large.feed(b"abcd", more=True)
    with pytest.raises(MessageTooLarge):
        await large.read()

    late = new_body(3, deadline)
    late.feed(b"ab", more=True)
    with pytest.raises(RequestTimedOut):
        await late.read()

    abandoned = new_body(3, deadline)
    abandoned.end()
    with pytest.raises(ClientGone):
        await abandoned.read()
