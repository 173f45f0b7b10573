"""The endpoints for the messages of a queue: sending, receiving, settling, looking on."""

from __future__ import annotations

import time

import trio
from quart import Blueprint, Response, request

from zapq.errors import MessageNotFound
from zapq.http import render, respond, wire
from zapq.http.api import Api, exchange_of, parameters_alone
from zapq.limits import MAX_BATCH, PEEK
from zapq.service.named_queue import NamedQueue, Settlement
from zapq.service.waiting import Deliveries, Want


def create_routes(api: Api) -> Blueprint:
    """Return the message endpoints of every queue."""
    routes = Blueprint("messages", __name__, url_prefix="/queues/<name>")
    service = api.service

    @routes.post("/messages")
    async def enqueue(name: str) -> Response:
        values = wire.parameters(request, "delay", "ttl", "priority", "durability")
        accepted = await api.accept(name, values)
        durability = api.durability(wire.durability(values))
        return respond.with_bytes(
            render.enqueued_in(name, accepted.id, b"", replayed=accepted.replayed, durability=durability)
        )

    @routes.post("/messages/batch")
    async def enqueue_many(name: str) -> Response:
        durability = wire.durability(wire.parameters(request, "durability"))
        media_type = wire.batch_format(request)
        key = wire.idempotency_key(request)
        batch = wire.decode_batch(media_type, await api.new_body(name))
        accepted = await api.accept_batch(name, key, batch, wire.type_in_batch(media_type), durability)
        return respond.with_bytes(
            render.enqueued_many(
                len(batch), accepted.id, b"", replayed=accepted.replayed, durability=api.durability(durability)
            )
        )

    @routes.post("/receive")
    async def receive(name: str) -> Response:
        values = await parameters_alone(request, "visibility", "wait", "ack")
        lease, visibility = wire.leases(values), wire.seconds(values, "visibility", None)
        queue, given = await _receive(name, Want(1, lease, visibility), wire.seconds(values, "wait", 0.0))
        if not given:
            return _nothing(queue)
        return respond.with_bytes(render.received(given[0], _clock_offset(), b""))

    @routes.post("/receive/batch")
    async def receive_many(name: str) -> Response:
        values = await parameters_alone(request, "max", "visibility", "wait", "ack")
        lease, visibility = wire.leases(values), wire.seconds(values, "visibility", None)
        media_type = wire.answer_format(request)
        want = Want(wire.whole(values, "max", MAX_BATCH), lease, visibility)
        queue, given = await _receive(name, want, wire.seconds(values, "wait", 0.0))
        if not given:
            return _nothing(queue)
        await api.one_large_answer_at_a_time()
        return respond.with_bytes(render.received_many(media_type, given, _clock_offset(), b""))

    async def _receive(name: str, want: Want, wait: float) -> tuple[NamedQueue, Deliveries]:
        queue, exchange = service.find(name), exchange_of(request)
        given: Deliveries = ()
        with exchange.ends_with_client():
            given = await queue.take(want, wait=wait)
        exchange.hand_over(queue, given)
        return queue, given

    @routes.delete("/receipts/<receipt>")
    async def ack(name: str, receipt: str) -> Response:
        await parameters_alone(request)
        await service.find(name).ack(receipt)
        return respond.with_bytes(render.empty(b""))

    @routes.post("/receipts/<receipt>/release")
    async def release(name: str, receipt: str) -> Response:
        delay = wire.seconds(await parameters_alone(request, "delay"), "delay", 0.0)
        await service.find(name).release(receipt, delay=delay)
        return respond.with_bytes(render.empty(b""))

    @routes.post("/receipts/<receipt>/extend")
    async def extend(name: str, receipt: str) -> Response:
        visibility = wire.seconds(await parameters_alone(request, "visibility"), "visibility", None)
        lease = await service.find(name).extend(receipt, visibility=visibility)
        return respond.with_bytes(render.extended(lease, _clock_offset(), b""))

    @routes.post("/settle")
    async def settle(name: str) -> Response:
        wire.parameters(request)
        wire.check_declared_length(request, api.settings.max_message_bytes)
        body = await exchange_of(request).body.read()
        settlements: list[Settlement] = wire.decode_settlements(request.mimetype, body)
        results = await service.find(name).settle(settlements)
        return respond.with_json([
            {"receipt": settlement.receipt, "result": "ok" if error is None else error.problem}
            for settlement, error in zip(settlements, results, strict=True)
        ])

    @routes.get("/messages")
    async def peek(name: str) -> Response:
        values = await parameters_alone(request, "state", "limit")
        state, limit = wire.state(values), wire.whole(values, "limit", PEEK)
        queue = service.find(name)
        await api.one_large_answer_at_a_time()
        seen = await queue.peek(state, limit=limit)
        now = trio.current_time()
        return respond.with_json([wire.describe_message(each, now) for each in wire.within_a_batch(seen)])

    @routes.get("/messages/<int:id>")
    async def find(name: str, id: int) -> Response:
        await parameters_alone(request)
        seen = await service.find(name).find(id)
        if seen is None:
            raise MessageNotFound(queue=name, message_id=id)
        return respond.with_json(wire.describe_message(seen, trio.current_time()))

    return routes


def _nothing(queue: NamedQueue) -> Response:
    return respond.with_bytes(render.nothing(queue.why_empty(), queue.next_visible_in(), b""))


def _clock_offset() -> float:
    """Return the seconds to add to Trio's clock to get Unix time."""
    return time.time() - trio.current_time()
