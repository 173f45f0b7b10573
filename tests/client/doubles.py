"""Servers that are none: a queue without a socket, and a script that answers as it is told, in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import trio

from zapq import errors
from zapq.client import open_client
from zapq.client.network import Place
from zapq.core.settlement import Settlement
from zapq.http import problems, render
from zapq.http.metrics import ServerCounts
from zapq.http.plan import Frame, Plan
from zapq.service.operations import Accepted, Enqueue, Settle
from zapq.service.service import QueueService


@dataclass(frozen=True)
class Request:
    """What a client sent."""

    method: str
    path: str
    values: dict[str, str]
    headers: dict[str, str]
    content: bytes


def request_in(data: bytes) -> Request:
    head, _, content = data.partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    method, target, _ = first.split(" ")
    parts = urlsplit(target)
    headers = dict(field.split(": ", 1) for field in fields)
    return Request(method, parts.path, dict(parse_qsl(parts.query)), headers, content)


Handler = Callable[[Request], Awaitable[bytes]]


class FakeNetwork:
    """Hands what is sent to `answer`; each request has a connection of its own, before which `connecting` runs."""

    def __init__(self, answer: Handler, connecting: Callable[[], None] = lambda: None) -> None:
        self.answer = answer
        self.connecting = connecting

    async def connect(self, place: Place, patience: float) -> FakeConnection:
        self.connecting()
        return FakeConnection(self.answer)

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def close(self) -> None:
        pass


class FakeConnection:
    """Answers one request."""

    def __init__(self, answer: Handler) -> None:
        self.answer = answer
        self.sent = b""
        self._answering = trio.CancelScope()

    async def send(self, data: bytes, patience: float) -> None:
        self.sent += data

    async def receive(self, patience: float) -> bytes:
        with self._answering:
            return await self.answer(request_in(self.sent))
        return b""

    def is_stale(self) -> bool:
        return True

    def finish(self) -> None:
        self._answering.cancel()

    def close(self) -> None:
        pass


def answer_of(
    status: int, body: bytes = b"", media_type: str = "text/html", fields: Mapping[str, str] | None = None
) -> bytes:
    """An answer as a proxy makes it, or a server."""
    every = {"Content-Type": media_type, "Content-Length": str(len(body)), **(fields or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in every.items())
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{head}\r\n".encode() + body


def enqueued_in(queue: str, id: int) -> bytes:
    operation = Enqueue(queue, b"")
    return render.enqueued_in(Plan(operation), operation, Accepted(id), Frame(b"", 0.0, 0.0, ServerCounts()))


def refusal(error: errors.ZapqError, **headers: str) -> bytes:
    return answer_of(error.status, problems.render_error(error, "trace-1"), problems.MEDIA_TYPE, headers)


def in_process(service: QueueService) -> Handler:
    """Answers for `service` without a socket, so that virtual time passes only when everybody waits for it."""

    async def act(request: Request) -> bytes:
        _, _, name, *path = request.path.split("/")
        values = {key: float(text) for key, text in request.values.items()}
        limit = int(values.pop("max", 0))
        queue = service.find(name)
        match request.method, path:
            case "POST", ["messages"]:
                message = await queue.enqueue(request.content)
                return enqueued_in(name, message.id)
            case "POST", ["receive", "batch"]:
                leases = await queue.receive_many(limit, **values)
                return render.received_many(render.MSGPACK, leases, "text", 0, b"")
            case "POST", ["settle"]:
                operation = Settle(name, msgspec.msgpack.decode(request.content, type=list[Settlement]))
                results = await queue.settle(operation.settlements)
                return render.settled(Plan(operation), operation, results, Frame(b"", 0.0, 0.0, ServerCounts()))
            case _:
                raise AssertionError(request)

    async def answer(request: Request) -> bytes:
        try:
            return await act(request)
        except errors.ZapqError as error:
            after = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
            return refusal(error, **after)

    return answer


class NotConnected(OSError):
    """A connection could not be made."""


class Script:
    """Answers requests with what was given, in turn, the last for ever, and notes when and what was asked."""

    def __init__(self, *turns: bytes | Exception) -> None:
        self.turns = list(turns)
        self.times: list[float] = []
        self.requests: list[Request] = []

    def connecting(self) -> None:
        if isinstance(self.turns[0], NotConnected):
            self.times.append(trio.current_time())
            turn = self._turn()
            assert isinstance(turn, NotConnected)
            raise turn

    async def __call__(self, request: Request) -> bytes:
        self.times.append(trio.current_time())
        self.requests.append(request)
        turn = self._turn()
        if isinstance(turn, Exception):
            raise turn
        return turn

    def pauses(self) -> list[float]:
        return [round(later - earlier, 3) for earlier, later in zip(self.times, self.times[1:], strict=False)]

    def _turn(self) -> bytes | Exception:
        return self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]


def scripted(script: Handler, connecting: Callable[[], None] = lambda: None, **options: Any) -> Any:
    network = FakeNetwork(script, script.connecting if isinstance(script, Script) else connecting)
    return open_client("http://zapq", network=network, random=lambda: 1.0, **options)


ENQUEUED = enqueued_in("emails", 7)
DONE = render.empty(b"")
