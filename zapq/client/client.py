"""The client: the verbs of the queues over HTTP, sent again where that does no harm."""

from __future__ import annotations

import random as random_numbers
import secrets
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal, TypeVar, overload

import httpx2
import msgspec
import trio

from zapq.client import consumer
from zapq.client.answers import error_of, field, headers_in, number
from zapq.client.lease import Lease
from zapq.client.retry import Retry
from zapq.core.broker import check_name
from zapq.core.headers import checked_headers, field_of
from zapq.core.message import OCTETS, Draft, Message, Properties
from zapq.core.unique import How, Placed
from zapq.errors import InvalidParameter, NoAnswer, ServerError, Unreachable, ZapqError
from zapq.limits import CLIENT_ATTEMPTS, CLIENT_TIMEOUT, MAX_BATCH

T = TypeVar("T")

_MSGPACK = "application/msgpack"
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)


class _Batch(msgspec.Struct):
    """What the server says of a batch it has stored."""

    first_id: int


class _Delivery(msgspec.Struct):
    """One leased message of a batch, as the server writes it."""

    id: int
    receipt: str
    receive_count: int
    content_type: str
    body: bytes
    headers: dict[str, str] = {}
    group: str = ""
    origin: str = ""


@asynccontextmanager
async def open_client(
    url: str,
    *,
    timeout: float = CLIENT_TIMEOUT,
    attempts: int = CLIENT_ATTEMPTS,
    token: str | None = None,
    verify: ssl.SSLContext | None = None,
    transport: httpx2.AsyncBaseTransport | None = None,
    random: Callable[[], float] = random_numbers.random,
) -> AsyncGenerator[Client, None]:
    """Yield a client of the server at `url`: `http://host:port`, `https://host:port` or `unix:/path`.

    Connects when it must, keeps connections for the next request, and closes them at the end of the block. Many
    tasks can share it. `timeout` is the seconds each step of a request may take (connecting, sending, waiting for
    the answer; a long poll's `wait` comes on top); a bound for all of it is a cancel scope around the call.
    `attempts` is how often a request is sent at most, see `Client`. `token` is sent with each request,
    readable on the way without `https`. `verify` says which authorities to trust with `https`, by default those
    this machine trusts, and which certificate to show. `transport` replaces the network and `random` the jitter,
    for tests. Raises ValueError for a `url` of another form.
    """
    limits = httpx2.Limits(max_connections=None)  # as many as there are tasks: every long poll holds one
    if url.startswith("unix:"):
        path, url = url.removeprefix("unix:"), "http://localhost"
        transport = transport or httpx2.AsyncHTTPTransport(uds=path, limits=limits)
    elif not url.startswith(("http://", "https://")):
        raise ValueError(f"url {url!r}: give http://host:port, https://host:port or unix:/path")
    async with httpx2.AsyncClient(
        base_url=url,
        timeout=timeout,
        limits=limits,
        transport=transport,
        verify=True if verify is None else verify,
        headers=None if token is None else {"Authorization": f"Bearer {token}"},
    ) as http:
        yield Client(http, timeout, Retry(attempts, random))


class Client:
    """The queues of a server elsewhere. Made by `open_client`, never by hand.

    Refusals are the exceptions of `zapq.errors`, with the server's `detail`, `members` and `retry_after`. A
    request is sent up to `attempts` times in all: always again after 429, 503 and a connection that could not be
    made, for then nothing was done; after 502, 504 or no answer if repeating it is harmless. Between two
    attempts it pauses for the server's Retry-After and a random time on top, up to 0.1 s after the first
    failure, twice that after each further one, at most 10 s. The last failure is raised, `Unreachable` and
    `NoAnswer` if there was no answer to go by.

    Cancelling a call closes its connection. The request may have taken effect: a message may be stored, and one
    that was on its way here comes back when its visibility is over (`receive`) or is lost (`dequeue`).
    """

    def __init__(self, http: httpx2.AsyncClient, timeout: float, retry: Retry) -> None:
        self.retry = retry
        self._http = http
        self._timeout = timeout

    async def enqueue(
        self,
        queue: str,
        body: bytes,
        *,
        priority: int = 0,
        delay: float = 0.0,
        ttl: float | None = None,
        content_type: str = OCTETS,
        headers: Mapping[str, str] | None = None,
        group: str | None = None,
        key: str | None = None,
    ) -> int:
        """Store a message once and return its id; the first one makes the queue.

        `priority` is 0 to 9, 9 first; it is ready after `delay` seconds, and gone after `ttl` seconds unless
        a consumer has it then. Consumers get its `headers` with each delivery: at most 16 and 8 KiB together,
        names without regard to case, values of visible ASCII. In a `group`, a key of 1 to 128 visible ASCII
        characters, it has no priority and waits until the group's earlier messages are done with. `key` (by
        default a random one) makes it safe to send again: within 300 s the same message under the same key is
        stored once. Raises `MessageTooLarge`, `QueueFull`, `Draining`, `KeyReused`, `TooManyQueues`,
        `InvalidParameter`.
        """
        values = _how_offered(priority, delay, ttl, group)
        answer = await self._put(queue, body, values, content_type, headers, key)
        return number(answer, "Zapq-Message-Id")

    async def enqueue_unique(
        self,
        queue: str,
        body: bytes,
        unique: str,
        *,
        on: Literal["keep", "replace"] = "keep",
        priority: int = 0,
        delay: float = 0.0,
        ttl: float | None = None,
        content_type: str = OCTETS,
        headers: Mapping[str, str] | None = None,
        group: str | None = None,
        key: str | None = None,
    ) -> Placed:
        """Store a message under the key `unique`, unless one with that is held; return its id, and what was done.

        That is `how` of what is returned: empty if the message was stored, `kept` if one was held and nothing was
        stored, and with `on="replace"` `replaced` if that was given this one's body, headers, type and ttl. The
        key is 1 to 128 visible ASCII characters, and free again when its message is gone. The rest is as for
        `enqueue`, also what it raises.
        """
        values = _how_offered(priority, delay, ttl, group) | {"unique": unique, "on": on}
        answer = await self._put(queue, body, values, content_type, headers, key)
        return Placed(number(answer, "Zapq-Message-Id"), _how(answer))

    async def _put(
        self,
        queue: str,
        body: bytes,
        values: dict[str, str | None],
        content_type: str,
        headers: Mapping[str, str] | None,
        key: str | None,
    ) -> httpx2.Response:
        fields = {"Content-Type": content_type, **_sent(key, headers)}
        return await self._request("POST", queue, "/messages", values, content=body, headers=fields)

    async def enqueue_many(
        self,
        queue: str,
        bodies: Sequence[bytes | Draft],
        *,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> int:
        """Store 1 to 1000 messages once, all or nothing, in order, and return the first id; the others follow it.

        A `zapq.Draft` brings its own priority, group, unique key, delay, ttl, type and headers; `headers` are of
        every message that brings none. Where messages have unique keys, ids need not follow each other. `key`
        (by default a random one) makes it safe to send again, as with `enqueue`.
        Raises the errors of `enqueue`.
        """
        answer = await self._request(
            "POST",
            queue,
            "/messages/batch",
            content=msgspec.msgpack.encode(bodies),
            headers={"Content-Type": _MSGPACK, **_sent(key, headers)},
        )
        return _decoded(answer, _Batch).first_id

    async def dequeue(self, queue: str, *, wait: float = 0.0) -> Message | None:
        """Remove and return the first message, waiting up to `wait` seconds (0 to 60) for one; None if none came.

        At most once: it is lost if its answer does not arrive, so this is not tried again once the server may have
        acted: then it raises `NoAnswer`. Raises `QueueNotFound`, `TooManyWaiters`, `Draining`.
        """
        answer = await self._request(
            "POST", queue, "/receive", {"ack": "auto", "wait": _seconds(wait or None)}, wait=wait, repeatable=False
        )
        if answer.status_code == 204:
            return None
        group = answer.headers.get("Zapq-Group", "")
        properties = Properties(field(answer, "Content-Type"), headers=headers_in(answer), group=group)
        return Message(number(answer, "Zapq-Message-Id"), answer.content, properties)

    async def receive(self, queue: str, *, wait: float = 0.0, visibility: float | None = None) -> Lease | None:
        """Lease the first message, waiting up to `wait` seconds (0 to 60) for one; None if none came.

        At least once: it comes back after `visibility` seconds (0 to 43200; by default as the queue is set) unless
        it is acknowledged by then. So does a message whose answer did not arrive, with a higher count. Raises
        `QueueNotFound`, `TooManyWaiters`, `Draining`.
        """
        values = {"wait": _seconds(wait or None), "visibility": _seconds(visibility)}
        answer = await self._request("POST", queue, "/receive", values, wait=wait)
        if answer.status_code == 204:
            return None
        return Lease(
            queue,
            number(answer, "Zapq-Message-Id"),
            field(answer, "Zapq-Receipt"),
            number(answer, "Zapq-Receive-Count"),
            field(answer, "Content-Type"),
            answer.content,
            dict(headers_in(answer)),
            answer.headers.get("Zapq-Group", ""),
            answer.headers.get("Zapq-Origin", ""),
        )

    async def receive_many(
        self, queue: str, limit: int = MAX_BATCH, *, wait: float = 0.0, visibility: float | None = None
    ) -> list[Lease]:
        """Lease the first messages, at most `limit` (1 to 1000) and 8 MiB, as `receive` does."""
        values = {"max": str(limit), "wait": _seconds(wait or None), "visibility": _seconds(visibility)}
        answer = await self._request(
            "POST", queue, "/receive/batch", values, headers={"Accept": _MSGPACK}, wait=wait
        )
        if answer.status_code == 204:
            return []
        return [
            Lease(
                queue,
                each.id,
                each.receipt,
                each.receive_count,
                each.content_type,
                each.body,
                each.headers,
                each.group,
                each.origin,
            )
            for each in _decoded(answer, list[_Delivery])
        ]

    async def ack(self, lease: Lease) -> None:
        """Acknowledge a leased message: it is removed for good. Repeating it is harmless.

        So is doing it late: after the lease has expired, as long as the message was not given out again. Raises
        `ReceiptExpired` if it was, or if it was released.
        """
        await self._request("DELETE", lease.queue, _receipt(lease))

    async def release(self, lease: Lease, *, delay: float = 0.0) -> None:
        """Give a leased message back, at its original place, at once or after `delay` seconds (up to a year).

        Raises `ReceiptExpired` if the lease is over, also because an earlier attempt worked without an answer.
        """
        await self._request("POST", lease.queue, f"{_receipt(lease)}/release", {"delay": _seconds(delay or None)})

    async def extend(self, lease: Lease, *, visibility: float | None = None) -> None:
        """Let a lease last until `visibility` seconds from now (by default for as long as it was given).

        Raises `ReceiptExpired` if it is over.
        """
        await self._request("POST", lease.queue, f"{_receipt(lease)}/extend", {"visibility": _seconds(visibility)})

    @overload
    async def stats(self) -> list[dict[str, Any]]: ...

    @overload
    async def stats(self, queue: str) -> dict[str, Any]: ...

    async def stats(self, queue: str | None = None) -> list[dict[str, Any]] | dict[str, Any]:
        """Return the settings and statistics of a queue, or without a name of every queue.

        As the server tells it: `GET /queues/NAME`, `GET /queues`. Raises `QueueNotFound`.
        """
        answer = await self._request("GET", queue)
        return _decoded(answer, dict[str, Any]) if queue else _decoded(answer, list[dict[str, Any]])

    def consume(
        self, queue: str, *, concurrency: int = 8, visibility: float = 30.0, wait: float = 20.0
    ) -> AbstractAsyncContextManager[consumer.Consumer]:
        """Open a consumer: `async with client.consume("emails") as leases:`, then `async for lease in leases:`.

        It holds up to `concurrency` messages that are not settled, fetches them by long polls of `wait` seconds,
        and extends each at a third of its `visibility` (seconds) until it is settled. `async with lease:`
        acknowledges the message at the end of its block, and releases it if the block raises or is cancelled.
        Messages not settled when the consumer's own block ends are released, within 5 s. It waits for a queue that
        is not there, and for a server that is away, busy or draining; an error that does not pass, such as a wrong
        parameter, cancels the block and is raised.
        """
        return consumer.open_consumer(self, queue, concurrency, visibility, wait)

    async def consume_with(
        self,
        queue: str,
        handler: Callable[[consumer.HeldLease], Awaitable[object]],
        *,
        concurrency: int = 8,
        visibility: float = 30.0,
        wait: float = 20.0,
    ) -> None:
        """Run `handler` for every message, up to `concurrency` at once, until cancelled.

        When it returns, the message is acknowledged; when it raises an `Exception`, the message is released and
        the error logged. A handler whose lease is lost is cancelled. If cancelled, every handler is, and every
        message not acknowledged is released, within 5 s. Raises as `consume` does.
        """
        await consumer.consume_with(self, queue, handler, concurrency, visibility, wait)

    async def _request(
        self,
        method: str,
        queue: str | None,
        path: str = "",
        values: Mapping[str, str | None] | None = None,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        wait: float = 0.0,
        repeatable: bool = True,
    ) -> httpx2.Response:
        """Send a request until it is answered as wished, or trying again is of no use; see `Client`."""
        path = f"/queues/{check_name(queue)}{path}" if queue is not None else "/queues"
        request = self._http.build_request(
            method,
            path,
            params={name: text for name, text in (values or {}).items() if text is not None},
            content=content,
            headers=headers,
            timeout=httpx2.Timeout(self._timeout, read=self._timeout + wait),
        )
        failures = 0
        while True:
            try:
                return await self._attempt(request)
            except ZapqError as error:
                failures += 1
                if not self.retry.allows(error, failures, repeatable=repeatable):
                    raise
                pause = self.retry.pause(error, failures)
            await trio.sleep(pause)

    async def _attempt(self, request: httpx2.Request) -> httpx2.Response:
        try:
            answer = await self._http.send(request)
        except httpx2.LocalProtocolError as error:
            raise InvalidParameter(f"The request cannot be sent over HTTP: {error}.") from error
        except _NOT_SENT as error:
            raise Unreachable(f"The server {request.url.host} could not be reached: {_reason(error)}.") from error
        except httpx2.TransportError as error:
            raise NoAnswer(
                f"No answer arrived, so the request may or may not have taken effect: {_reason(error)}."
            ) from error
        if not answer.is_success:
            raise error_of(answer)
        return answer


def _sent(key: str | None, headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return the fields of a request that stores messages; raises `InvalidParameter`."""
    fields = {field_of(name): value for name, value in checked_headers(headers.items() if headers else ())}
    return {"Idempotency-Key": key or secrets.token_hex(16), **fields}


def _receipt(lease: Lease) -> str:
    return f"/receipts/{lease.receipt}"


def _how_offered(priority: int, delay: float, ttl: float | None, group: str | None) -> dict[str, str | None]:
    """Return the query parameters that say how a message is offered; None for what need not be said."""
    return {
        "priority": str(priority) if priority else None,
        "group": group,
        "delay": _seconds(delay or None),
        "ttl": _seconds(ttl),
    }


def _how(answer: httpx2.Response) -> How:
    """Return what an answer says became of a message with a key."""
    match answer.headers.get("Zapq-Unique"):
        case "kept":
            return "kept"
        case "replaced":
            return "replaced"
    return ""


def _seconds(value: float | None) -> str | None:
    """Return seconds as the server reads them: decimal, never in powers of ten."""
    return None if value is None else f"{value:.3f}"


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _decoded(answer: httpx2.Response, kind: type[T]) -> T:
    """Return what an answer's JSON or msgpack says; raises `ServerError` if it is not a `kind`."""
    try:
        if answer.headers.get("Content-Type") == _MSGPACK:
            return msgspec.msgpack.decode(answer.content, type=kind)
        return msgspec.json.decode(answer.content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ServerError(f"The answer did not come from zapq: {error}.", status=answer.status_code) from None
