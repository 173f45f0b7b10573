"""A queue as one would write it in an afternoon: a raw ASGI app, no framework, for uvicorn."""

from __future__ import annotations

import secrets
from collections import deque
from itertools import count
from typing import Any

QUEUE: deque[bytes] = deque()
COUNTER = count(1)
SERVER = secrets.token_hex(3).encode()


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer `POST /enqueue` and `GET /dequeue`, with a trace id, as zapq does."""
    headers = [(b"x-trace-id", b"%d-%b" % (next(COUNTER), SERVER)), (b"cache-control", b"no-store")]
    status, body = 404, b""
    if scope["path"] == "/enqueue":
        while True:
            event = await receive()
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        QUEUE.append(body)
        status, body = 202, b""
    elif scope["path"] == "/dequeue":
        status, body = (200, QUEUE.popleft()) if QUEUE else (204, b"")
    if status != 204:
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
