"""What the endpoints share: the service they are about, who may do what, and bodies."""

from __future__ import annotations

from dataclasses import dataclass

from quart import Request, request

from zapq.core.message import Draft
from zapq.errors import Forbidden
from zapq.http import answers, wire
from zapq.http.exchange import Exchange, declares_body
from zapq.http.metrics import Traffic
from zapq.service.queue import Accepted, Durability
from zapq.service.service import QueueService
from zapq.settings import Settings


@dataclass(frozen=True, slots=True)
class Api:
    """One service as HTTP shows it."""

    service: QueueService
    settings: Settings
    traffic: Traffic

    async def accept(self, queue: str, values: dict[str, str]) -> Accepted:
        """Store the request's body as a message of the queue of that name, which is made if there is none."""
        priority = wire.whole(values, "priority", 0)
        delay, ttl = wire.seconds(values, "delay", 0.0), wire.seconds(values, "ttl", None)
        key = wire.idempotency_key(request)
        content_type = wire.content_type(request)
        durability = wire.durability(values)
        body = await self.new_body()
        with self.service.made_if_used(queue) as named:
            if key is not None:
                draft = Draft(body=body, priority=priority, delay=delay, ttl=ttl, content_type=content_type)
                return await named.enqueue_once(key, draft, begun=True, durability=durability)
            message = await named.enqueue(
                body,
                priority=priority,
                delay=delay,
                ttl=ttl,
                content_type=content_type,
                begun=True,
                durability=durability,
            )
            return Accepted(message.id, replayed=False)

    def durability(self, asked: Durability | None) -> bytes:
        """Return the field that says what an accepted message survives, where that is a question."""
        if asked == "memory":
            return answers.MEMORY
        return answers.COMMITTED if self.service.durable else b""

    async def new_body(self) -> bytes:
        """Return a body that is to be stored; refuses it unread if it is too long or we are draining."""
        wire.check_declared_length(request, self.settings.max_message_bytes)
        exchange = exchange_of(request)
        if not exchange.begun:
            self.service.check_open()
        return await exchange.body.read()

    async def admin(self, *known: str) -> dict[str, str]:
        """Return the parameters of an administrator's request; raises `Forbidden` if it comes from elsewhere."""
        if self.settings.admin_from == "loopback" and not wire.is_local(request.scope["client"]):
            raise Forbidden(
                "Only this machine may administer queues and snapshots. Send the request from it, or start zapq"
                " with --admin-from any behind a firewall."
            )
        values = wire.parameters(request, *known)
        if request.method != "PUT":
            await read_unused_body(request)
        return values


def exchange_of(request: Request) -> Exchange:
    """Return the exchange Quart's request belongs to."""
    exchange: Exchange = request.scope["state"]["exchange"]
    return exchange


async def read_unused_body(request: Request) -> None:
    """Read a body that has no meaning here, so that the connection can carry the next request."""
    if declares_body(request.scope["headers"]):
        await exchange_of(request).body.read()
