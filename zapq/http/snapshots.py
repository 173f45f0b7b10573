"""The endpoint that lists the snapshots in the data directory. Saving and loading are drop-in endpoints."""

from __future__ import annotations

from datetime import UTC, datetime

from quart import Blueprint, Response

from zapq.http import respond
from zapq.http.api import Api
from zapq.service.snapshots import SnapshotFile


def create_routes(api: Api) -> Blueprint:
    """Return the endpoint for snapshots."""
    routes = Blueprint("snapshots", __name__)

    @routes.get("/snapshots")
    async def show_all() -> Response:
        await api.admin()
        files = await api.service.snapshots.files()
        api.audit("list-snapshots", files=len(files))
        return respond.with_json([_describe(file) for file in files])

    return routes


def _describe(file: SnapshotFile) -> dict[str, object]:
    modified = datetime.fromtimestamp(file.modified, UTC)
    described: dict[str, object] = {
        "name": file.name,
        "format": file.name.rpartition(".")[2],
        "bytes": file.bytes,
        "modified": modified.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    if file.totals is not None:
        described |= {"queues": file.totals.queues, "messages": file.totals.messages}
    return described
