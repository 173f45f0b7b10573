"""Servers that are none: a queue without a socket, and a script that answers as it is told, in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import trio

from zapq import errors
from zapq.client import open_client
from zapq.http import problems, render
from zapq.http.metrics import ServerCounts
from zapq.http.plan import Frame, Plan
from zapq.service.operations import Accepted, Enqueue, Nothing
from zapq.service.service import QueueService

Handler = Callable[[httpx2.Request], Awaitable[httpx2.Response]]


def response(raw: bytes) -> httpx2.Response:
    """The server's own bytes as the client's library has them."""
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields if field)
    return httpx2.Response(int(status.split()[1]), headers=headers, content=body)


def enqueued_in(queue: str, id: int) -> bytes:
    operation = Enqueue(queue, b"")
    return render.enqueued_in(Plan(operation), operation, Accepted(id), Frame(b"", 0.0, 0.0, ServerCounts()))


def refusal(error: errors.ZapqError, **headers: str) -> httpx2.Response:
    return httpx2.Response(
        error.status,
        headers={"Content-Type": problems.MEDIA_TYPE, **headers},
        content=problems.render_error(error, "trace-1"),
    )


def in_process(service: QueueService) -> Handler:
    """Answers for `service` without a socket, so that virtual time passes only when everybody waits for it."""

    async def act(request: httpx2.Request) -> bytes:
        _, _, name, *path = request.url.path.split("/")
        values = {key: float(text) for key, text in request.url.params.items()}
        queue = service.find(name)
        match request.method, path:
            case "POST", ["messages"]:
                message = await queue.enqueue(request.content)
                return enqueued_in(name, message.id)
            case "POST", ["receive"]:
                lease = await queue.receive(**values)
                return (
                    render.nothing(Nothing("empty", 0.0), b"") if lease is None else render.received(lease, 0, b"")
                )
            case "DELETE", ["receipts", receipt]:
                await queue.ack(receipt)
            case "POST", ["receipts", receipt, "release"]:
                await queue.release(receipt, **values)
            case "POST", ["receipts", receipt, "extend"]:
                await queue.extend(receipt, **values)
            case _:
                raise AssertionError(request)
        return render.empty(b"")

    async def answer(request: httpx2.Request) -> httpx2.Response:
        try:
            return response(await act(request))
        except errors.ZapqError as error:
            after = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
            return refusal(error, **after)

    return answer


class Script:
    """Answers requests with what was given, in turn, the last for ever, and notes when and what was asked."""

    def __init__(self, *turns: httpx2.Response | Exception) -> None:
        self.turns = list(turns)
        self.times: list[float] = []
        self.requests: list[httpx2.Request] = []

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.times.append(trio.current_time())
        self.requests.append(request)
        turn = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        if isinstance(turn, Exception):
            raise turn
        return turn

    def pauses(self) -> list[float]:
        return [round(later - earlier, 3) for earlier, later in zip(self.times, self.times[1:], strict=False)]


def scripted(script: Handler, **options: Any) -> Any:
    transport = httpx2.MockTransport(script)  # type: ignore[arg-type]  # any awaitable will do
    return open_client("http://zapq", transport=transport, random=lambda: 1.0, **options)


ENQUEUED = response(enqueued_in("emails", 7))
DONE = response(render.empty(b""))
