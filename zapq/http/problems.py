"""Refusals as RFC 9457 problem details."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from http import HTTPStatus

import msgspec

from zapq.errors import (
    BY_PROBLEM,
    CannotStart,
    InvalidSetting,
    NoAnswer,
    ServerError,
    Unreachable,
    ZapqError,
)

MEDIA_TYPE = "application/problem+json"

# RFC 9110 renamed two; Python follows only from 3.13 on, and a problem's name must not depend on that.
PHRASES = {status.value: status.phrase for status in HTTPStatus} | {413: "Content Too Large", 414: "URI Too Long"}


class Meaning(msgspec.Struct, frozen=True):
    """What one problem means, for `GET /problems/NAME`."""

    type: str
    title: str
    status: int
    meaning: str
    """What is wrong, and what to do."""

    @classmethod
    def of(cls, name: str, status: int, meaning: str) -> Meaning:
        """Return the meaning of the problem called `name`."""
        return cls(f"/problems/{name}", _title(name), status, meaning)


_STATUSES = {
    400: "The request is not valid HTTP. The detail says what is wrong with it; correct the client that sent it.",
    404: "zapq has no such endpoint. docs/reference/http.md lists the endpoints.",
    405: "The endpoint does not take this method. Use one of those in the Allow field.",
    413: "The body is longer than this endpoint takes. Send less at once.",
    414: "The path and query of the request are too long. Shorten them.",
    431: "The request has too many header fields, or too long ones. Send fewer.",
    500: "zapq made a mistake. Its log tells more under the trace id of the answer; please report it.",
    501: "The request uses a method or a transfer coding zapq does not know. Use another.",
    505: "zapq does not speak this version of HTTP. Use HTTP/1.1, or HTTP/2 over TLS where --http2 is set.",
}
"""Statuses that have no class of their own, and what each means."""

_NEVER_SENT = {CannotStart, InvalidSetting, NoAnswer, ServerError, Unreachable}
"""Errors of the command line and the client: no answer of the server is one of them."""


def render(
    *, name: str, status: int, detail: str, trace_id: str, members: dict[str, object] | None = None
) -> bytes:
    """Return the problem document called `name`; `instance` is the trace id, to find the request in the log."""
    return msgspec.json.encode({
        "type": f"/problems/{name}",
        "title": _title(name),
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
    return render(name=name_of(status), status=status, detail=detail, trace_id=trace_id)


@cache
def meanings() -> Mapping[str, Meaning]:
    """Return what every problem the server answers with means, by its name."""
    found = {name_of(status): Meaning.of(name_of(status), status, text) for status, text in _STATUSES.items()}
    for name, error in BY_PROBLEM.items():
        if error not in _NEVER_SENT:
            found[name] = Meaning.of(name, error.status, " ".join((error.__doc__ or "").split()))
    return dict(sorted(found.items()))


def _title(name: str) -> str:
    return name.replace("-", " ").capitalize()


def name_of(status: int) -> str:
    """Return the name of the problem of a status that has no class."""
    return PHRASES.get(status, "refused").lower().replace(" ", "-")
