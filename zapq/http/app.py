"""The Quart-Trio app, built from a running engine; it starts and stops nothing itself."""

from __future__ import annotations

# Werkzeug needs it for every request, and Python would load it at the first one, for which it must open files:
# without descriptors left, no request would be answered, unless one had been before.
import encodings.idna  # noqa: F401
import logging
import re
from functools import partial

from quart import Request, Response, request
from quart.wrappers.base import BaseRequestWebsocket
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.routing import MapAdapter

from zapq import logs
from zapq.engine.engine import Engine
from zapq.errors import ClientGone, Forbidden, RoleMissing, Unauthenticated, ZapqError
from zapq.http import page, problems, render
from zapq.http.answering import Answering, as_response, exchange_of, refused_now
from zapq.http.endpoints import ENDPOINTS, Endpoint
from zapq.http.exchange import HTTPConnection, shown_path
from zapq.http.guard import Guard, check_origin
from zapq.http.metrics import ServerCounts
from zapq.http.routing import nearest_path
from zapq.http.series import Series
from zapq.http.sqs import ANY, HEALTH, RULES, SqsRoad
from zapq.limits import DEFAULT_QUEUE, MAX_LOGGED_METHOD, MAX_LOGGED_PATH
from zapq.settings import Settings
from zapq.sqs.tasks import Tasks


def _no_endpoint(path: str) -> str:
    near = nearest_path(path)
    meant = f" Did you mean {near}?" if near else ""
    return (
        f"There is no endpoint with this path.{meant} GET /openapi.json and docs/reference/http.md list the"
        " endpoints. The page for browsers is /ui/."
    )


class App(QuartTrio):
    """Quart, but that routes do not depend on the Host field."""

    def create_url_adapter(self, request: BaseRequestWebsocket | None) -> MapAdapter | None:
        """Return what finds the route of `request`."""
        if request is None:
            return super().create_url_adapter(request)
        # Quart would bind the map to the request's host, and Werkzeug fails for one it cannot write in IDNA, such
        # as a..b. Whether we answer for a host is the guard's question.
        return self.url_map.bind(
            "zapq",
            request.root_path,
            url_scheme=request.scheme,
            default_method=request.method,
            path_info=request.path,
            query_args=request.query_string.decode(),
        )


def create_app(
    engine: Engine,
    settings: Settings,
    counts: ServerCounts,
    throttle: logs.Throttle,
    guard: Guard,
    tasks: Tasks,
) -> QuartTrio:
    """Return the app that speaks HTTP for `engine`, for the requests that `guard` lets in.

    It counts in `counts` and logs through `throttle`; `tasks` are those that SQS clients begin.
    """
    app = App("zapq", static_folder=None, template_folder=None)
    app.asgi_http_class = HTTPConnection
    app.config["MAX_CONTENT_LENGTH"] = settings.max_message_bytes
    app.config["BODY_TIMEOUT"] = settings.body_timeout
    # A path means itself: `//metrics` and `/metrics/` are unknown, not redirected.
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = True
    answering = Answering(engine, settings, counts, throttle, Series(settings.metrics_queues))
    guard.access.on_change.append(answering.check_credentials)
    sqs = SqsRoad(answering, guard, settings, tasks)
    endpoints: dict[str, Endpoint] = {}
    for endpoint in (*ENDPOINTS, *(HEALTH if settings.sqs else ())):
        name = f"{endpoint.method} {endpoint.path}".replace(".", " ")
        endpoints[name] = endpoint
        app.add_url_rule(
            _as_rule(endpoint.path), name, partial(answering.answer, endpoint), methods=[endpoint.method]
        )
    if settings.sqs:
        for path in RULES:
            app.add_url_rule(path, ANY.action, sqs.answer, methods=["GET", "POST"])
        endpoints[ANY.action] = ANY
    for rule in app.url_map.iter_rules():
        # Werkzeug lets HEAD run the GET handler, and one of them takes a message away.
        if rule.methods is not None and endpoints[rule.endpoint].changes:
            rule.methods.discard("HEAD")

    @app.before_request
    async def let_in() -> Response | None:
        counts.cold_requests += 1
        guard.check_host(_field(request, b"host"))
        if page.is_wanted(
            request.method,
            request.scope["path"],
            request.scope["query_string"],
            request.headers.get("Accept", ""),
        ):
            return Response(b"", 302, {"Location": page.PATH, "Cache-Control": "no-store", "Vary": "Accept"})
        if request.scope["path"].startswith("//"):
            raise NotFound  # Werkzeug takes leading slashes for one
        if request.routing_exception is not None:
            raise request.routing_exception
        if request.method == "OPTIONS":
            return None  # it only says what there is
        endpoint, exchange = endpoints[str(request.endpoint)], exchange_of(request)
        if endpoint is ANY:
            check_page(endpoint)  # what the client may do depends on what it asks for
            return None
        exchange.admit = partial(
            guard.check_role,
            endpoint,
            (request.view_args or {}).get("queue", ""),
            request.scope["client"],
            # Two of them, one for us and one for a proxy, are two answers to one question: together they are none.
            b", ".join(value for name, value in request.scope["headers"] if name == b"authorization"),
            exchange.identities,
        )
        exchange.grant = exchange.admit()
        check_page(endpoint)
        return None

    def check_page(endpoint: Endpoint) -> None:
        check_origin(
            endpoint,
            request.scheme,
            _field(request, b"host") or b"",
            request.headers.getlist("Origin"),
            request.headers.getlist("Sec-Fetch-Site"),
        )

    @app.errorhandler(ZapqError)
    async def refuse(error: ZapqError) -> Response:
        if request.endpoint == ANY.action:
            return sqs.refuse(error)
        response = as_response(render.refused(error, exchange_of(request).trace_id, b""))
        if isinstance(error, Unauthenticated | RoleMissing | Forbidden):
            note(error.problem, error.status)
            log_intruder(error)
            return response
        level = logs.level_of(error.status)
        if isinstance(error, ClientGone):
            level = logging.DEBUG  # clients leave all the time
        else:
            note(error.problem, error.status)
        log_refusal(level, error.problem, error.status, error.detail)
        return response

    @app.errorhandler(HTTPException)
    async def refuse_http(error: HTTPException) -> Response:
        status = error.code or 500
        allowed = sorted(getattr(error, "valid_methods", None) or ())
        detail = error.description or "The server cannot answer this request."
        if status == 404:
            detail = _no_endpoint(request.path)
        if allowed:
            detail = _use(allowed, request.method)
        response = problem(status, problems.render_status(status, detail, exchange_of(request).trace_id))
        if allowed:
            response.headers["Allow"] = ", ".join(allowed)
        note(problems.name_of(status), status)
        log_refusal(logs.level_of(status), f"http-{status}", status, detail)
        return response

    @app.after_request
    async def untype(response: Response) -> Response:
        # Quart answers OPTIONS with an empty page of HTML.
        if request.method == "OPTIONS":
            response.headers.pop("Content-Type", None)
        return response

    @app.errorhandler(Exception)
    async def fail(error: Exception) -> Response:
        note(problems.name_of(500), 500)
        logs.log.error("request failed", exc_info=error)
        return as_response(render.failed(exchange_of(request).trace_id, b""))

    def note(problem: str, status: int) -> None:
        queue = queue_asked_for().get("queue", "")
        counts.note_refusal(refused_now(exchange_of(request).trace_id, problem, status, queue))

    def log_refusal(level: int, cause: str, status: int, detail: str, **who: str) -> None:
        throttle.say(
            level,
            cause,
            "refused",
            status=status,
            method=request.method[:MAX_LOGGED_METHOD],
            path=shown_path(request.scope["raw_path"]),
            **queue_asked_for(),
            peer=exchange_of(request).peer,
            reason=detail,
            **who,
        )

    def queue_asked_for() -> dict[str, str]:
        """Return the queue a request names, for the log; nothing if it names none."""
        endpoint = endpoints.get(str(request.endpoint))
        by_default = endpoint is not None and endpoint.scope == "default"
        name = DEFAULT_QUEUE if by_default else (request.view_args or {}).get("queue")
        return {} if name is None else {"queue": str(name)[:MAX_LOGGED_PATH]}

    def log_intruder(error: Unauthenticated | RoleMissing | Forbidden) -> None:
        token = getattr(error, "token", None)
        who = {} if token is None else {"token": token}
        log_refusal(logging.WARNING, error.problem, error.status, error.detail, **who)

    def problem(status: int, body: bytes) -> Response:
        headers = {"Cache-Control": "no-store"}
        return Response(body, status=status, content_type=problems.MEDIA_TYPE, headers=headers)

    return app


def _as_rule(path: str) -> str:
    """Return a path of the table as Werkzeug writes it."""
    return re.sub(r"\{(\w+)\}", lambda match: "<int:id>" if match[1] == "id" else f"<{match[1]}>", path)


def _field(request: Request, name: bytes) -> bytes | None:
    """Return a field as it was sent; Quart makes up a Host where there is none."""
    return next((value for each, value in request.scope["headers"] if each == name), None)


def _use(allowed: list[str], method: str) -> str:
    """Return which method to use instead of `method`."""
    *others, last = [each for each in allowed if each not in {"HEAD", "OPTIONS"}]
    wanted = f"{', '.join(others)} or {last}" if others else last
    return f"This endpoint does not take {method[:MAX_LOGGED_METHOD]}. Use {wanted}."
