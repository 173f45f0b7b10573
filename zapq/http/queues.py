"""The endpoints for queues as such: their settings and statistics, and what their administrator does."""

from __future__ import annotations

from quart import Blueprint, Response, request

from zapq.http import respond, wire
from zapq.http.api import Api, exchange_of, parameters_alone
from zapq.limits import MAX_BATCH


def create_routes(api: Api) -> Blueprint:
    """Return the endpoints for queues."""
    routes = Blueprint("queues", __name__, url_prefix="/queues")
    service = api.service

    @routes.get("")
    async def show_all() -> Response:
        await parameters_alone(request)
        return respond.with_json([
            wire.describe_queue(queue.info()) for queue in service.queues() if api.sees(queue.name)
        ])

    @routes.get("/<name>")
    async def show(name: str) -> Response:
        await parameters_alone(request)
        return respond.with_json(wire.describe_queue(service.find(name).info()))

    @routes.put("/<name>")
    async def configure(name: str) -> Response:
        await api.admin()
        settings = wire.decode_settings(await exchange_of(request).body.read())
        if settings.dead_letter is not None:
            api.check_queue(settings.dead_letter)
        made = await service.configure(name, settings)
        api.audit("configure", queue=name, made=made)
        return respond.with_json(wire.describe_queue(service.find(name).info()), 201 if made else 200)

    @routes.patch("/<name>")
    async def change(name: str) -> Response:
        await api.admin()
        changes = wire.decode_changes(await exchange_of(request).body.read())
        if isinstance(dead_letter := changes.get("dead_letter"), str):
            api.check_queue(dead_letter)
        await service.change_settings(name, **changes)
        api.audit("change-settings", queue=name, settings=sorted(changes))
        return respond.with_json(wire.describe_queue(service.find(name).info()))

    @routes.delete("/<name>")
    async def delete(name: str) -> Response:
        await api.admin()
        await service.delete(name)
        api.audit("delete", queue=name)
        return respond.with_nothing(204)

    @routes.post("/<name>/purge")
    async def purge(name: str) -> Response:
        await api.admin()
        purged = await service.find(name).clear()
        api.audit("purge", queue=name, purged=purged)
        return respond.with_json({"purged": purged})

    @routes.post("/<name>/pause")
    async def pause(name: str) -> Response:
        await api.admin()
        await service.find(name).pause()
        api.audit("pause", queue=name)
        return respond.with_json({"paused": True})

    @routes.post("/<name>/resume")
    async def resume(name: str) -> Response:
        await api.admin()
        await service.find(name).resume()
        api.audit("resume", queue=name)
        return respond.with_json({"paused": False})

    @routes.post("/<name>/redrive")
    async def redrive(name: str) -> Response:
        limit = wire.whole(await api.admin("limit"), "limit", MAX_BATCH)
        redriven = await service.find(name).redrive(limit=limit)
        api.audit("redrive", queue=name, moved=redriven.moved, left=redriven.left)
        return respond.with_json({"moved": redriven.moved, "left": redriven.left})

    return routes
