"""The endpoints behind the `type` of every refusal: what a problem means, and what to do about it.

They tell what the documentation tells, so they take no credentials.
"""

from __future__ import annotations

from html import escape

import msgspec
from quart import Blueprint, Response, request

from zapq.errors import ProblemNotFound
from zapq.http.api import Api, parameters_alone
from zapq.http.problems import Meaning, meanings
from zapq.http.render import JSON
from zapq.http.respond import NO_STORE

_PAGE = '<!doctype html><html lang="en"><title>zapq</title><pre style="white-space: pre-wrap">{}</pre>'
_TEXT, _HTML = "text/plain", "text/html"


def create_routes(_api: Api) -> Blueprint:
    """Return the endpoints for problems."""
    routes = Blueprint("problems", __name__, url_prefix="/problems")
    known = meanings()

    @routes.get("")
    async def explain_all() -> Response:
        await parameters_alone(request)
        return _render(list(known.values()), "\n\n".join(map(_as_text, known.values())))

    @routes.get("/<problem>")
    async def explain(problem: str) -> Response:
        await parameters_alone(request)
        if problem not in known:
            raise ProblemNotFound
        return _render(known[problem], _as_text(known[problem]))

    return routes


def _as_text(each: Meaning) -> str:
    return f"{each.title} ({each.type}, status {each.status})\n{each.meaning}"


def _render(value: Meaning | list[Meaning], text: str) -> Response:
    """Return `value` as the client likes it: text for curl, HTML for browsers, or JSON."""
    best = request.accept_mimetypes.best_match([_TEXT, _HTML, JSON]) if request.accept_mimetypes else _TEXT
    if best == JSON:
        body, media_type = msgspec.json.encode(value), JSON
    elif best == _HTML:
        body, media_type = _PAGE.format(escape(text)).encode(), f"{_HTML}; charset=utf-8"
    else:
        body, media_type = f"{text}\n".encode(), f"{_TEXT}; charset=utf-8"
    return Response(body, content_type=media_type, headers={**NO_STORE, "Vary": "Accept"})
