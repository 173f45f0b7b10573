"""Refusals as RFC 9457 problem details."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from zapq.errors import ZapqError

MEDIA_TYPE = "application/problem+json"

# RFC 9110 renamed two; Python follows only from 3.13 on, and a problem's name must not depend on that.
PHRASES = {status.value: status.phrase for status in HTTPStatus} | {413: "Content Too Large", 414: "URI Too Long"}


def render(
    *, name: str, status: int, detail: str, trace_id: str, members: dict[str, object] | None = None
) -> bytes:
    """Return the problem document called `name`; `instance` is the trace id, to find the request in the log."""
    return msgspec.json.encode({
        "type": f"/problems/{name}",
        "title": name.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
        "instance": trace_id,
        **(members or {}),
    })


def render_error(error: ZapqError, trace_id: str) -> bytes:
    """Return the problem document of one of zapq's own refusals."""
    return render(
        name=error.problem, status=error.status, detail=error.detail, trace_id=trace_id, members=error.members
    )


def render_status(status: int, detail: str, trace_id: str) -> bytes:
    """Return the problem document of an HTTP status that has no class: its phrase is its name."""
    name = PHRASES.get(status, "refused").lower().replace(" ", "-")
    return render(name=name, status=status, detail=detail, trace_id=trace_id)
