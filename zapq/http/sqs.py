"""The road of SQS: finds out which of its protocols a request speaks, has its action done, and answers in it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import parse_qsl

import trio
from quart import Response, request
from werkzeug.exceptions import NotFound

from zapq.access.grant import Grant
from zapq.errors import ZapqError
from zapq.http import render
from zapq.http.answering import Answering, exchange_of, refused_now
from zapq.http.endpoints import Body, Endpoint
from zapq.http.exchange import Exchange, declares_body, shown_path
from zapq.http.guard import Guard
from zapq.http.plan import Plan
from zapq.limits import MAX_HOT_SQS_BYTES, MAX_LOGGED_METHOD, MAX_LOGGED_PATH
from zapq.service.operations import Operation
from zapq.service.pending import Pending
from zapq.settings import Settings
from zapq.sqs import json_protocol, query_protocol
from zapq.sqs.actions import Action, queues_of
from zapq.sqs.answer import Answer
from zapq.sqs.credentials import Shown, shown
from zapq.sqs.errors import NOT_SERIALIZED, SqsError, as_sqs, problem_of
from zapq.sqs.model import Request as SqsRequest
from zapq.sqs.model import Result
from zapq.sqs.names import Place
from zapq.sqs.steps import Caller, Steps
from zapq.sqs.tasks import Tasks

RULES = ("/", "/<int(fixed_digits=12):account>/<queue>", "/queue/<queue>")
"""Where SDKs send requests: to the endpoint, or to the queue's URL; and the older form of that."""
ANY = Endpoint("sqs", "POST", "/", lambda asked: Plan(None), render.nothing_said, scope="server", body=Body.SQS)
"""Any of its actions, as far as the table of endpoints would know it: all else is said by the request's body."""
_HEALTHY = b'{"services": {"sqs": "running"}, "edition": "zapq"}'
"""As LocalStack writes it, blanks included: health checks look for a part of it as text."""
HEALTH = [
    Endpoint(
        "health",
        "GET",
        path,
        lambda asked: Plan(None),
        lambda plan, operation, outcome, frame: render.text(_HEALTHY, frame.tail, render.JSON),
        scope="server",
        body=Body.IGNORED,
        changes=False,
        fast=False,
    )
    for path in ("/_localstack/health", "/moto-api/")
]
"""Where health checks written for emulators ask (LocalStack and moto; ElasticMQ and goaws have /health)."""
_FORM = "application/x-www-form-urlencoded"
_MOST_PARAMETERS = 10_000


@dataclass(frozen=True, slots=True)
class SqsRoad:
    """Answers the requests of one server that speak SQS."""

    answering: Answering
    guard: Guard
    settings: Settings
    tasks: Tasks

    async def answer(self, account: int = 0, queue: str = "") -> Response:
        """Answer a request; `queue` is from its path. Raises `NotFound` for what does not speak SQS."""
        exchange = exchange_of(request)
        target = request.headers.get("X-Amz-Target", "")
        protocol = json_protocol if target else query_protocol
        request_id = str(uuid.uuid4())
        try:
            if target:
                credential = _credential({})
                action = json_protocol.find(target)
                self._authenticate(exchange, credential)
                asked = action.read(await self._body(exchange))
            else:
                parameters = _parameters(await self._body(exchange))
                if "Action" not in parameters:
                    raise NotFound
                credential = _credential(parameters)
                action = query_protocol.find(parameters)
                self._authenticate(exchange, credential)
                if queue:
                    parameters.setdefault("QueueUrl", queue)
                asked = query_protocol.read(action, parameters)
            if self.settings.access_log:
                named = (getattr(asked, "queue_url", None) or "").rpartition("/")[2][:MAX_LOGGED_PATH]
                exchange.told = {"action": action.name} | ({"queue": named} if named else {})
            result = await self._do(exchange, action, asked, credential)
            return as_response(protocol.answer(action, result, request_id), request_id)
        except (SqsError, ZapqError) as error:
            exchange.take_back()
            return self.refuse(error, request_id)
        except Exception:
            exchange.take_back()
            raise

    def refuse(self, error: SqsError | ZapqError, request_id: str = "") -> Response:
        """Answer a request that is refused."""
        protocol = json_protocol if "X-Amz-Target" in request.headers else query_protocol
        refused = as_sqs(error) if isinstance(error, ZapqError) else error
        request_id = request_id or str(uuid.uuid4())
        response = as_response(protocol.refusal(refused, request_id), request_id)
        if refused.retry_after is not None:
            response.headers["Retry-After"] = str(refused.retry_after)
        trace_id = exchange_of(request).trace_id
        self.answering.counts.note_refusal(refused_now(trace_id, problem_of(error), refused.kind.status))
        self.answering.throttle.say(
            logging.WARNING if refused.kind.sender else logging.ERROR,
            refused.kind.code,
            "refused",
            status=refused.kind.status,
            method=request.method[:MAX_LOGGED_METHOD],
            path=shown_path(request.scope["raw_path"]),
            action=request.headers.get("X-Amz-Target", "")[:MAX_LOGGED_PATH],
            peer=exchange_of(request).peer,
            reason=refused.message[:MAX_LOGGED_PATH],
        )
        return response

    def _authenticate(self, exchange: Exchange, credential: Shown) -> None:
        """Let the exchange know what the client may do, now and while it waits. Raises `Unauthenticated`."""
        exchange.admit = partial(self.guard.identify, credential.authorizations, exchange.identities)
        exchange.grant = exchange.admit()

    async def _do(self, exchange: Exchange, action: Action, asked: SqsRequest, credential: Shown) -> Result:
        may_administer = self.guard.may_administer(request.scope["client"])
        identify = exchange.admit

        def admit() -> Grant | None:
            grant = None if identify is None else identify()
            action.admit(asked, grant, may_administer=may_administer)
            return grant

        exchange.admit = admit
        exchange.grant = grant = admit()
        caller = Caller(
            Place(self._url(), self.settings.sqs_account, credential.region),
            self.settings.max_message_bytes,
            self.tasks,
            "*" if grant is None else grant.queues,
        )
        result = await self._run(exchange, action.run(asked, caller))
        if action.need == "admin":
            self._audit(exchange, action, asked)
        return result

    async def _body(self, exchange: Exchange) -> bytes:
        announced = declares_body(request.scope["headers"]) or request.http_version == "2"
        body = await exchange.body.read() if announced else b""
        if len(body) > MAX_HOT_SQS_BYTES:
            await self.answering.turn()
        return body

    def _url(self) -> str:
        """Return the URL of this server as the client knows it, or as it is set."""
        if self.settings.sqs_url:
            return self.settings.sqs_url.rstrip("/")
        host = next((value for name, value in request.scope["headers"] if name == b"host"), b"")
        return f"{request.scheme}://{host.decode('latin-1') or 'localhost'}"

    async def _run(self, exchange: Exchange, steps: Steps) -> Result:
        """Perform what `steps` yields, and return what it returns."""
        try:
            wanted = next(steps)
            while True:
                try:
                    outcome = await self._perform(exchange, wanted)
                except ZapqError as error:
                    wanted = steps.throw(error)
                else:
                    wanted = steps.send(outcome)
        except StopIteration as end:
            result: Result = end.value
            return result

    async def _perform(self, exchange: Exchange, wanted: Operation | Sequence[Operation]) -> object:
        if not isinstance(wanted, Sequence):
            return await self.answering.perform(exchange, wanted)
        begun: list[object] = []
        engine = self.answering.engine
        with engine.turn():
            for operation in wanted:
                try:
                    begun.append(engine.perform(operation, trio.current_time()))
                except ZapqError as error:
                    begun.append(error.with_traceback(None))
        return [await _outcome(each) for each in begun]

    def _audit(self, exchange: Exchange, action: Action, asked: SqsRequest) -> None:
        """Log what an administrator has done."""
        queues = queues_of(asked)
        who = {} if exchange.grant is None else {"token": exchange.grant.name}
        self.answering.throttle.say(
            logging.INFO,
            f"audit-{action.name}",
            "administered",
            action=action.name,
            queue=queues[0][:MAX_LOGGED_PATH] if queues else "",
            peer=exchange.peer,
            **who,
        )


async def _outcome(begun: object) -> object:
    if not isinstance(begun, Pending):
        return begun
    try:
        return await begun.wait()
    except ZapqError as error:
        return error.with_traceback(None)


def _parameters(body: bytes) -> dict[str, str]:
    """Return the parameters of a form, and of the query; raises `SqsError`."""
    text = request.query_string.decode("latin-1")
    if body and request.headers.get("Content-Type", "").partition(";")[0].strip().lower() == _FORM:
        text = f"{text}&{body.decode('latin-1')}" if text else body.decode("latin-1")
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS, errors="strict"))
    except ValueError:
        raise SqsError(NOT_SERIALIZED, "The request is not a valid form.") from None


def _credential(parameters: dict[str, str]) -> Shown:
    """Return the credential a request shows, in its fields or in its query."""
    return shown(
        request.headers.get("Authorization", "").encode("latin-1"),
        request.headers.get("X-Amz-Security-Token", parameters.get("X-Amz-Security-Token", "")).encode(),
        parameters.get("X-Amz-Credential", "").encode(),
        parameters.get("AWSAccessKeyId", "").encode(),
    )


def as_response(answer: Answer, request_id: str) -> Response:
    """Return an answer of the dialect as Quart sends it."""
    response = Response(answer.body, status=answer.status)
    response.headers.clear()
    response.headers["Content-Type"] = answer.content_type
    response.headers["x-amzn-RequestId"] = request_id
    for name, value in answer.fields.items():
        response.headers[name] = value
    response.headers["Content-Length"] = str(len(answer.body))
    return response
