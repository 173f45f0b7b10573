"""The endpoints: parse, call, render."""

from __future__ import annotations

import msgspec
from quart import Blueprint, Request, Response, request

from zapq.errors import Forbidden, InvalidParameter
from zapq.http import wire
from zapq.http.exchange import Exchange, declares_body
from zapq.http.metrics import Traffic, as_json
from zapq.service.service import QueueService
from zapq.settings import Settings

NO_STORE = {"Cache-Control": "no-store"}


def create_routes(service: QueueService, settings: Settings, traffic: Traffic) -> Blueprint:
    """Return the endpoints of `service`."""
    routes = Blueprint("zapq", __name__)

    @routes.post("/enqueue")
    async def enqueue() -> Response:
        wire.parameters(request)
        wire.check_declared_length(request, settings.max_message_bytes)
        exchange = exchange_of(request)
        if not exchange.begun:
            service.check_open()
        body = await exchange.body.read()
        message = await service.enqueue(body, begun=True)
        return empty(202, {"Zapq-Message-Id": str(message.id)})

    @routes.route("/dequeue", methods=["GET", "POST"])
    async def dequeue() -> Response:
        wait = wire.seconds(wire.parameters(request, "wait"), "wait", 0.0)
        await read_unused_body(request)
        exchange = exchange_of(request)
        message = None
        with exchange.ends_with_client():
            message = await service.dequeue(wait=wait)
        if message is None:
            return empty(204)
        exchange.hand_over(service, message)
        return Response(
            message.body,
            status=200,
            headers={"Zapq-Message-Id": str(message.id), "X-Content-Type-Options": "nosniff", **NO_STORE},
            content_type="application/octet-stream",
        )

    @routes.post("/clear")
    async def clear() -> Response:
        await admin()
        await service.clear()
        return empty(200)

    @routes.post("/persist")
    async def persist() -> Response:
        await service.snapshot(await admin_file())
        return empty(200)

    @routes.post("/load")
    async def load() -> Response:
        await service.restore(await admin_file())
        return empty(200)

    @routes.get("/metrics")
    async def metrics() -> Response:
        body = msgspec.json.encode(as_json(service.stats(), traffic))
        return Response(body, content_type="application/json", headers=NO_STORE)

    @routes.get("/health")
    async def health() -> Response:
        return Response(b"ok", content_type="text/plain; charset=utf-8", headers=NO_STORE)

    async def admin(*known: str) -> dict[str, str]:
        if settings.admin_from == "loopback" and not wire.is_local(request.scope["client"]):
            raise Forbidden(
                "Only this machine may clear, persist and load. Send the request from it, or start zapq with"
                " --admin-from any behind a firewall."
            )
        values = wire.parameters(request, *known)
        await read_unused_body(request)
        return values

    async def admin_file() -> str:
        values = await admin("file")
        if "file" not in values:
            raise InvalidParameter("file is missing: give ?file=name.json.", parameter="file")
        return values["file"]

    return routes


def exchange_of(request: Request) -> Exchange:
    """Return the exchange Quart's request belongs to."""
    exchange: Exchange = request.scope["state"]["exchange"]
    return exchange


async def read_unused_body(request: Request) -> None:
    """Read a body that has no meaning here, so that the connection can carry the next request."""
    if declares_body(request.scope["headers"]):
        await exchange_of(request).body.read()


def empty(status: int, headers: dict[str, str] | None = None) -> Response:
    """Return an answer without a body, and so without a type."""
    response = Response(b"", status=status, headers={**NO_STORE, **(headers or {})})
    del response.headers["Content-Type"]
    if status == 204:
        response.headers.pop("Content-Length", None)  # RFC 9110, 8.6: a 204 has none
    return response
