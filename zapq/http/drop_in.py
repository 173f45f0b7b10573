"""The drop-in endpoints, which are about the default queue, and the probes: parse, call, render."""

from __future__ import annotations

import msgspec
from quart import Blueprint, Response, request

from zapq.errors import InvalidParameter
from zapq.http import render, respond, wire
from zapq.http.api import Api, exchange_of, read_unused_body
from zapq.http.metrics import as_json


def create_routes(api: Api) -> Blueprint:
    """Return the drop-in endpoints and the probes."""
    routes = Blueprint("zapq", __name__)
    service = api.service

    @routes.post("/enqueue")
    async def enqueue() -> Response:
        values = wire.parameters(request, "durability")
        accepted = await api.accept(service.default.name, values)
        durability = api.durability(wire.durability(values))
        return respond.with_bytes(
            render.enqueued(accepted.id, b"", replayed=accepted.replayed, durability=durability)
        )

    @routes.route("/dequeue", methods=["GET", "POST"])
    async def dequeue() -> Response:
        wait = wire.seconds(wire.parameters(request, "wait"), "wait", 0.0)
        await read_unused_body(request)
        exchange = exchange_of(request)
        message = None
        with exchange.ends_with_client():
            message = await service.dequeue(wait=wait)
        if message is None:
            return respond.with_bytes(render.empty(b""))
        exchange.hand_over(service.default, (message,))
        return respond.with_bytes(render.dequeued(message, b""))

    @routes.post("/clear")
    async def clear() -> Response:
        await _parameters()
        cleared = await service.clear()
        api.audit("clear", queue=service.default.name, cleared=cleared)
        return respond.with_nothing(200)

    @routes.post("/persist")
    async def persist() -> Response:
        file = _file(await _parameters("file"))
        api.audit("persist", file=file, messages=await service.snapshot(file))
        return respond.with_nothing(200)

    @routes.post("/load")
    async def load() -> Response:
        file = _file(await _parameters("file"))
        api.audit("load", file=file, messages=await service.restore(file))
        return respond.with_nothing(200)

    @routes.post("/drain")
    async def drain() -> Response:
        await api.admin()
        service.drain()
        api.audit("drain")
        return respond.with_json({"draining": True})

    @routes.get("/metrics")
    async def metrics() -> Response:
        body = msgspec.json.encode(as_json(service.stats(), api.counts))
        return Response(body, content_type=render.JSON, headers=respond.NO_STORE)

    @routes.get("/health")
    @routes.get("/livez")
    async def health() -> Response:
        return Response(b"ok", content_type="text/plain; charset=utf-8", headers=respond.NO_STORE)

    @routes.get("/readyz")
    async def ready() -> Response:
        service.check_open()
        service.check_storage()
        return await health()

    return routes


async def _parameters(*known: str) -> dict[str, str]:
    """Return the query parameters of a request that may have a body, which the original ignores."""
    values = wire.parameters(request, *known)
    await read_unused_body(request)
    return values


def _file(values: dict[str, str]) -> str:
    if "file" not in values:
        raise InvalidParameter("file is missing. Give ?file=NAME.json or ?file=NAME.msgpack.", parameter="file")
    return values["file"]
