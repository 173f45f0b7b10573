"""What the endpoints share: the service they are about, roles, and bodies."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio
from quart import Request, request

from zapq import logs
from zapq.access.access import check
from zapq.core.message import Draft
from zapq.errors import InvalidParameter
from zapq.http import render, wire
from zapq.http.exchange import Exchange, declares_body
from zapq.http.metrics import ServerCounts
from zapq.service.named_queue import Accepted, Durability
from zapq.service.service import QueueService
from zapq.settings import Settings


@dataclass(frozen=True, slots=True)
class Api:
    """One service as HTTP shows it."""

    service: QueueService
    settings: Settings
    counts: ServerCounts
    throttle: logs.Throttle
    _large: trio.Lock = field(default_factory=trio.Lock)
    """Held by the request that makes a large answer next."""

    async def accept(self, queue: str, values: dict[str, str]) -> Accepted:
        """Store the request's body as a message of the queue of that name, which is made if there is none."""
        priority = wire.whole(values, "priority", 0)
        delay, ttl = wire.seconds(values, "delay", 0.0), wire.seconds(values, "ttl", None)
        key = wire.idempotency_key(request)
        content_type = wire.content_type(request)
        durability = wire.durability(values)
        body = await self.new_body(queue)
        reserved = exchange_of(request).body.reserved
        with self.service.provisional_queue(queue) as named:
            if key is not None:
                draft = Draft(body=body, priority=priority, delay=delay, ttl=ttl, content_type=content_type)
                return await named.enqueue_once(
                    key, draft, exempt_from_drain=True, durability=durability, reserved=reserved
                )
            message = await named.enqueue(
                body,
                priority=priority,
                delay=delay,
                ttl=ttl,
                content_type=content_type,
                exempt_from_drain=True,
                durability=durability,
                reserved=reserved,
            )
            return Accepted(message.id, replayed=False)

    async def accept_batch(
        self,
        queue: str,
        key: str | None,
        batch: Sequence[bytes | Draft],
        content_type: str,
        durability: Durability | None,
    ) -> Accepted:
        """Store a batch in the queue of that name, which is made if there is none."""
        reserved = exchange_of(request).body.reserved
        with self.service.provisional_queue(queue) as named:
            if key is not None:
                return await named.enqueue_many_once(
                    key,
                    batch,
                    content_type=content_type,
                    exempt_from_drain=True,
                    durability=durability,
                    reserved=reserved,
                )
            first = await named.enqueue_many(
                batch, content_type=content_type, exempt_from_drain=True, durability=durability, reserved=reserved
            )
            return Accepted(first, replayed=False)

    async def one_large_answer_at_a_time(self) -> None:
        """Return when it is this request's turn to make a large answer: that takes milliseconds, 8 MiB some ten.

        Otherwise many large answers requested together would all be built in one scheduler pass, and all other
        clients would wait for all of them.
        """
        async with self._large:
            await trio.lowlevel.checkpoint()

    def durability(self, asked: Durability | None) -> bytes:
        """Return the field that says what an accepted message survives, where that is a question."""
        if asked == "memory":
            return render.MEMORY
        return render.COMMITTED if self.service.durable else b""

    async def new_body(self, queue: str) -> bytes:
        """Return a body that is to be stored in the queue of that name.

        Refuses it unread if it is too long, there is no room for it, or we are draining.
        """
        wire.check_declared_length(request, self.settings.max_message_bytes)
        exchange = exchange_of(request)
        if not exchange.exempt_from_drain:
            self.service.check_open()
        if exchange.body.reserved is None and not exchange.body.whole:
            exchange.body.reserve(self.service.reservation(queue), request.content_length or 0)
        return await exchange.body.read()

    def check_queue(self, queue: str) -> None:
        """Raise `RoleMissing` unless an administrator may also change this queue."""
        grant = exchange_of(request).grant
        if grant is not None:
            check(grant, "admin", queue)

    def sees(self, queue: str) -> bool:
        """Whether the client may know of this queue."""
        grant = exchange_of(request).grant
        return grant is None or grant.covers(queue)

    def audit(self, action: str, **facts: object) -> None:
        """Log what an administrator has done: the action, its object, how much, and by which credential."""
        exchange = exchange_of(request)
        who = {} if exchange.grant is None else {"token": exchange.grant.name}
        self.throttle.say(
            logging.INFO, f"audit-{action}", "administered", action=action, **facts, peer=exchange.peer, **who
        )

    async def admin(self, *known: str) -> dict[str, str]:
        """Return the parameters of an administrator's request."""
        if request.method in {"PUT", "PATCH"}:
            return wire.parameters(request, *known)
        return await parameters_alone(request, *known)


def exchange_of(request: Request) -> Exchange:
    """Return the exchange Quart's request belongs to."""
    exchange: Exchange = request.scope["state"]["exchange"]
    return exchange


async def parameters_alone(request: Request, *known: str) -> dict[str, str]:
    """Return the query parameters of a request that takes no body.

    One that has a body nevertheless is `InvalidParameter`: its client believes that what it says there counts.
    """
    values = wire.parameters(request, *known)
    if declares_body(request.scope["headers"]) or request.http_version == "2":
        body = await exchange_of(request).body.read()
        if body:
            raise InvalidParameter(wire.why_no_body(body, request.mimetype, known), parameter="body")
    return values


async def read_unused_body(request: Request) -> None:
    """Read a body the original ignores, so that the connection can carry the next request."""
    if declares_body(request.scope["headers"]):
        await exchange_of(request).body.read()
