"""How tests ask a service: by operations, and by the verbs of its queues."""

from __future__ import annotations

from typing import Any

import trio

from zapq.core.message import Lease
from zapq.engine.local import LocalEngine
from zapq.service.named_queue import NamedQueue
from zapq.service.operations import Accepted, Delivery, Nothing, Offer, Operation, Put, Take
from zapq.service.pending import Pending, Poll
from zapq.service.service import QueueService
from zapq.service.waiting import ONE, Want


def perform(service: QueueService, operation: Operation) -> Any:
    return LocalEngine(service).perform(operation, trio.current_time())


def asked(service: QueueService, operation: Operation) -> Pending[Any]:
    pending = perform(service, operation)
    assert isinstance(pending, Pending)
    return pending


def put(service: QueueService, offer: Offer, queue: str = "new") -> Accepted | Pending[Accepted]:
    asked = Put(offer.content, offer.terms, offer.key, exempt_from_drain=offer.exempt_from_drain, queue=queue)
    outcome: Accepted | Pending[Accepted] = LocalEngine(service).perform(asked, trio.current_time())
    return outcome


async def surely_put(service: QueueService, offer: Offer, queue: str = "new") -> Accepted:
    outcome = put(service, offer, queue)
    return await outcome.wait() if isinstance(outcome, Pending) else outcome


def wait_for(service: QueueService, queue: str = "new", want: Want = ONE, wait: float = 60.0) -> Poll:
    poll = LocalEngine(service).perform(Take(queue, want, wait), trio.current_time())
    assert isinstance(poll, Poll)
    return poll


def got(poll: Pending[Delivery | Nothing]) -> list[bytes]:
    outcome = poll.result()
    assert isinstance(outcome, Delivery)
    return [each.body for each in outcome.given]


async def taken(queue: NamedQueue) -> list[bytes]:
    return [message.body for message in await queue.dequeue_many(1000)]


async def leased(queue: NamedQueue, visibility: float = 60.0) -> Lease:
    lease = await queue.receive(visibility=visibility)
    assert lease is not None
    return lease
