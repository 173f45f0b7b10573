"""The Quart-Trio app, built from a running service; it starts and stops nothing itself."""

from __future__ import annotations

import logging

from quart import Request, Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, NotFound

from zapq import logs
from zapq.errors import ClientGone, CrossSite, HostNotAllowed, ZapqError
from zapq.http import messages, problems, queues, routes, snapshots
from zapq.http.api import Api, exchange_of
from zapq.http.exchange import HTTPConnection
from zapq.http.hosts import Hosts, is_same_origin, named_by
from zapq.http.metrics import Traffic
from zapq.http.respond import NO_STORE
from zapq.service.service import QueueService
from zapq.settings import Settings

_DETAILS = {
    404: "zapq has no such endpoint.",
    405: "This endpoint does not take this method; the Allow field lists those it takes.",
}


_SAFE = {"GET", "HEAD", "OPTIONS"}
"""Methods that change nothing ..."""
_GET_CHANGES = {("GET", "zapq.dequeue")}
"""... but for this."""


def create_app(
    service: QueueService, settings: Settings, traffic: Traffic, refusals: logs.Throttle, hosts: Hosts
) -> QuartTrio:
    """Return the app that speaks HTTP for `service`, to who calls it by one of `hosts`.

    It counts in `traffic` and logs through `refusals`.
    """
    app = QuartTrio("zapq", static_folder=None, template_folder=None)
    app.asgi_http_class = HTTPConnection
    app.config["MAX_CONTENT_LENGTH"] = settings.max_message_bytes
    app.config["BODY_TIMEOUT"] = settings.body_timeout
    # A path means itself: `//metrics` and `/metrics/` are unknown, not redirected.
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = True
    api = Api(service, settings, traffic)
    for part in (routes, messages, queues, snapshots):
        app.register_blueprint(part.create_routes(api))
    for rule in app.url_map.iter_rules():
        # Werkzeug lets HEAD run the GET handler, and this one takes a message away.
        if rule.endpoint == "zapq.dequeue" and rule.methods is not None:
            rule.methods.discard("HEAD")

    @app.before_request
    async def admit() -> None:
        traffic.cold_requests += 1
        _check_host(request, hosts)
        _check_route(request)
        _check_origin(request)

    @app.errorhandler(ZapqError)
    async def refuse(error: ZapqError) -> Response:
        response = problem(error.status, problems.render_error(error, exchange_of(request).trace_id))
        if error.retry_after is not None:
            response.headers["Retry-After"] = str(error.retry_after)
        level = logging.ERROR if error.status == 500 else logging.WARNING
        if isinstance(error, ClientGone):
            level = logging.DEBUG  # clients leave all the time
        log_refusal(level, error.problem, error.status, error.detail)
        return response

    @app.errorhandler(HTTPException)
    async def refuse_http(error: HTTPException) -> Response:
        status = error.code or 500
        detail = _DETAILS.get(status) or error.description or "The request cannot be answered."
        response = problem(status, problems.render_status(status, detail, exchange_of(request).trace_id))
        allowed = getattr(error, "valid_methods", None)
        if allowed:
            response.headers["Allow"] = ", ".join(sorted(allowed))
        log_refusal(logging.WARNING, f"http-{status}", status, detail)
        return response

    @app.after_request
    async def untype(response: Response) -> Response:
        # Quart answers OPTIONS with an empty page of HTML.
        if request.method == "OPTIONS":
            response.headers.pop("Content-Type", None)
        return response

    @app.errorhandler(Exception)
    async def fail(error: Exception) -> Response:
        logs.log.error("request failed", exc_info=error)
        detail = "zapq made a mistake; the log tells more under this trace id."
        return problem(500, problems.render_status(500, detail, exchange_of(request).trace_id))

    def log_refusal(level: int, cause: str, status: int, detail: str) -> None:
        refusals.say(level, cause, "refused", status=status, method=request.method, reason=detail)

    def problem(status: int, body: bytes) -> Response:
        return Response(body, status=status, content_type=problems.MEDIA_TYPE, headers=NO_STORE)

    return app


def _check_host(request: Request, hosts: Hosts) -> None:
    """Refuse a request that is meant for a host we are not."""
    host = _field(request, b"host")
    # HTTP/1.0 does not ask for one, and browsers do not speak it.
    if host is not None and not hosts.allow(host):
        raise HostNotAllowed(
            "This server does not answer for the host the request names. If that is a name of its, start zapq with"
            f" --allowed-host {named_by(host)}."
        )


def _check_route(request: Request) -> None:
    """Refuse what is no endpoint of ours, or not with this method."""
    if request.scope["path"].startswith("//"):
        raise NotFound  # Werkzeug takes leading slashes for one
    if request.routing_exception is not None:
        raise request.routing_exception


def _check_origin(request: Request) -> None:
    """Refuse to change anything for a web page that is not ours: browsers say where a page is from, programs do not.

    Nothing ever allows a page to read an answer (no CORS fields), so what changes nothing needs no check.
    """
    if request.method in _SAFE and (request.method, request.endpoint) not in _GET_CHANGES:
        return
    host = (_field(request, b"host") or b"").decode("latin-1")
    foreign = [
        each for each in request.headers.getlist("Origin") if not is_same_origin(each, request.scheme, host)
    ]
    related = set(request.headers.getlist("Sec-Fetch-Site"))
    if foreign or not related <= {"same-origin", "none"}:
        raise CrossSite


def _field(request: Request, name: bytes) -> bytes | None:
    """Return a field as it was sent; Quart makes up a Host where there is none."""
    return next((value for each, value in request.scope["headers"] if each == name), None)
