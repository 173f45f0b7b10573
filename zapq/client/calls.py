"""Every verb as a value: the request's bytes, and how to read the answer. Nothing here waits or has a socket."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from math import isfinite
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

from zapq.client.answers import MSGPACK, decoded, field, headers_in, how, number, result_of
from zapq.client.lease import Lease, Page, Redriven, Seen, Stored, StoredMany
from zapq.client.tracing import Tracer
from zapq.client.wire import Answer, Writer, in_path
from zapq.core.headers import checked_headers, field_of
from zapq.core.message import OCTETS, Draft, Message, Properties
from zapq.core.names import check_name
from zapq.core.settlement import Settlement
from zapq.core.stats import State
from zapq.errors import InvalidParameter, ServerError, ZapqError
from zapq.limits import SNAPSHOT_TIMEOUT

T = TypeVar("T")

Durability = Literal["memory", "committed"]
_MSGPACK_SENT = {"Content-Type": MSGPACK}
_MSGPACK_WANTED = {"Accept": MSGPACK}
_Info = dict[str, Any]
_checked_name = lru_cache(1024)(check_name)


class Call(NamedTuple, Generic[T]):
    """One request, and what its answer means."""

    data: bytes
    read: Callable[[Answer], T]
    """Gets an answer of 2xx; raises `ServerError` if it is not zapq's."""
    wait: float = 0.0
    """The seconds the server may take for it beside those for any request."""
    repeatable: bool = True
    """Whether it does no harm if the server acts on it twice."""
    keyed: bool = False
    """Whether that is so by an Idempotency-Key, which the server forgets after a while."""


class _Batch(msgspec.Struct):
    """What the server says of a batch it has stored."""

    count: int
    first_id: int
    ids: list[int] = []
    unique: list[str] = []


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


class _Given(msgspec.Struct):
    """One message of a batch that is given for good."""

    id: int
    content_type: str
    body: bytes
    priority: int = 0
    headers: dict[str, str] = {}
    group: str = ""


class _Result(msgspec.Struct):
    """What became of one settlement."""

    receipt: str
    result: str


class _Purged(msgspec.Struct):
    purged: int


class Calls:
    """The calls of one server, by the names that the clients' verbs have; see those for what they promise."""

    tracer: Tracer | None = None
    """What makes the spans of producers and consumers, if the program traces."""

    def __init__(self, writer: Writer) -> None:
        self._request = writer.request

    def put(
        self,
        queue: str,
        body: bytes,
        *,
        priority: int,
        delay: float,
        ttl: float | None,
        content_type: str,
        headers: Mapping[str, str] | None,
        group: str | None,
        unique: str | None,
        on: Literal["keep", "replace"],
        durability: Durability | None,
        wait: float,
        key: str | None,
    ) -> Call[Stored]:
        values: dict[str, str] = {}
        if priority:
            values["priority"] = str(priority)
        if delay:
            values["delay"] = _seconds(delay)
        if ttl is not None:
            values["ttl"] = _seconds(ttl)
        if group is not None:
            values["group"] = group
        if unique is not None:
            values["unique"], values["on"] = unique, on
        if durability is not None:
            values["durability"] = durability
        if wait:
            values["wait"] = _waiting(wait)
        fields = _keyed(key, headers, {} if content_type == OCTETS else {"Content-Type": content_type})
        data = self._request("POST", f"/queues/{_checked_name(queue)}/messages", values, fields, body)
        return Call(data, _stored, wait, keyed=True)

    def put_many(
        self,
        queue: str,
        messages: Sequence[bytes | Draft],
        *,
        headers: Mapping[str, str] | None,
        durability: Durability | None,
        wait: float,
        key: str | None,
    ) -> Call[StoredMany]:
        values: dict[str, str] = {}
        if durability is not None:
            values["durability"] = durability
        if wait:
            values["wait"] = _waiting(wait)
        try:
            body = msgspec.msgpack.encode(messages)
        except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
            raise InvalidParameter(f"The messages cannot be sent: {error}.", parameter="messages") from error
        fields = _keyed(key, headers, _MSGPACK_SENT)
        data = self._request("POST", f"/queues/{_checked_name(queue)}/messages/batch", values, fields, body)
        return Call(data, partial(_stored_many, len(messages)), wait, keyed=True)

    def dequeue(self, queue: str, *, wait: float) -> Call[Message | None]:
        values = {"ack": "auto"} | _taking(wait, None)
        data = self._request("POST", f"/queues/{_checked_name(queue)}/receive", values)
        return Call(data, _message, wait, repeatable=False)

    def dequeue_many(self, queue: str, limit: int, *, wait: float) -> Call[list[Message]]:
        values = {"ack": "auto", "max": str(limit)} | _taking(wait, None)
        # In msgpack plain messages come without their ids.
        fields = {"Accept": "application/json"}
        data = self._request("POST", f"/queues/{_checked_name(queue)}/receive/batch", values, fields)
        return Call(data, _messages, wait, repeatable=False)

    def receive(self, queue: str, *, wait: float, visibility: float | None) -> Call[Lease | None]:
        data = self._request("POST", f"/queues/{_checked_name(queue)}/receive", _taking(wait, visibility))
        return Call(data, partial(_lease, queue), wait)

    def receive_many(self, queue: str, limit: int, *, wait: float, visibility: float | None) -> Call[list[Lease]]:
        values = {"max": str(limit)} | _taking(wait, visibility)
        data = self._request("POST", f"/queues/{_checked_name(queue)}/receive/batch", values, _MSGPACK_WANTED)
        return Call(data, partial(_leases, queue), wait)

    def ack(self, lease: Lease) -> Call[None]:
        return Call(self._request("DELETE", _receipt(lease)), _nothing)

    def release(self, lease: Lease, *, delay: float) -> Call[None]:
        values = {"delay": _seconds(delay)} if delay else None
        return Call(self._request("POST", f"{_receipt(lease)}/release", values), _nothing)

    def extend(self, lease: Lease, *, visibility: float | None) -> Call[None]:
        values = None if visibility is None else {"visibility": _seconds(visibility)}
        return Call(self._request("POST", f"{_receipt(lease)}/extend", values), _nothing)

    def settle(self, queue: str, settlements: Sequence[Settlement]) -> Call[list[ZapqError | None]]:
        body = msgspec.msgpack.encode(settlements)
        data = self._request("POST", f"/queues/{_checked_name(queue)}/settle", None, _MSGPACK_SENT, body)
        return Call(data, partial(_settled, queue, settlements))

    def peek(self, queue: str, state: State, limit: int) -> Call[list[Seen]]:
        values = {"state": state, "limit": str(limit)}
        return self._get(f"/queues/{_checked_name(queue)}/messages", list[Seen], values)

    def find(self, queue: str, id: int) -> Call[Seen]:
        return self._get(f"/queues/{_checked_name(queue)}/messages/{int(id)}", Seen)

    def describe(self, queue: str) -> Call[_Info]:
        return self._get(f"/queues/{_checked_name(queue)}", _Info)

    def list_(self, prefix: str, queue: str, sort: str, limit: int | None, after: str) -> Call[Page]:
        values = {"prefix": prefix, "sort": sort, "after": after}
        if queue != "*":
            values["queue"] = queue
        if limit is not None:
            values["limit"] = str(limit)
        data = self._request("GET", "/queues", {name: value for name, value in values.items() if value})
        return Call(data, _page)

    def configure(self, queue: str, settings: Mapping[str, object]) -> Call[_Info]:
        return self._settings("PUT", queue, settings)

    def change_settings(self, queue: str, changes: Mapping[str, object]) -> Call[_Info]:
        return self._settings("PATCH", queue, changes)

    def delete(self, queue: str) -> Call[None]:
        return Call(self._request("DELETE", f"/queues/{_checked_name(queue)}"), _nothing)

    def purge(self, queue: str) -> Call[int]:
        return Call(self._request("POST", f"/queues/{_checked_name(queue)}/purge"), _purged)

    def pause(self, queue: str) -> Call[None]:
        return Call(self._request("POST", f"/queues/{_checked_name(queue)}/pause"), _nothing)

    def resume(self, queue: str) -> Call[None]:
        return Call(self._request("POST", f"/queues/{_checked_name(queue)}/resume"), _nothing)

    def redrive(self, queue: str, limit: int) -> Call[Redriven]:
        data = self._request("POST", f"/queues/{_checked_name(queue)}/redrive", {"limit": str(limit)})
        return Call(data, partial(_read, Redriven), repeatable=False)

    def redrive_message(self, queue: str, id: int) -> Call[Redriven]:
        data = self._request("POST", f"/queues/{_checked_name(queue)}/redrive", {"id": str(id)})
        return Call(data, partial(_read, Redriven))

    def delete_message(self, queue: str, id: int) -> Call[None]:
        return Call(self._request("DELETE", f"/queues/{_checked_name(queue)}/messages/{int(id)}"), _nothing)

    def history(self, queue: str) -> Call[_Info]:
        return self._get("/stats/history", _Info, {"queue": queue})

    def refusals(self, limit: int | None) -> Call[list[_Info]]:
        return self._get("/refusals", _Infos, None if limit is None else {"limit": str(limit)})

    def whoami(self) -> Call[_Info]:
        return self._get("/whoami", _Info)

    def drain(self) -> Call[None]:
        return Call(self._request("POST", "/drain"), _nothing)

    def ready(self) -> Call[None]:
        return Call(self._request("GET", "/readyz"), _nothing)

    def metrics(self, queue: str | None) -> Call[dict[str, int | float | str]]:
        values = None if queue is None else {"queue": _checked_name(queue)}
        return self._get("/metrics", _Metrics, values)

    def snapshots(self) -> Call[list[_Info]]:
        return self._get("/snapshots", _Infos)

    def save_snapshot(self, name: str) -> Call[None]:
        return Call(self._request("POST", "/persist", {"file": name}), _nothing, SNAPSHOT_TIMEOUT)

    def load_snapshot(self, name: str) -> Call[None]:
        data = self._request("POST", "/load", {"file": name})
        return Call(data, _nothing, SNAPSHOT_TIMEOUT, repeatable=False)

    def _get(self, path: str, kind: type[T], values: Mapping[str, str] | None = None) -> Call[T]:
        return Call(self._request("GET", path, values), partial(_read, kind))

    def _settings(self, method: str, queue: str, settings: Mapping[str, object]) -> Call[_Info]:
        body = msgspec.json.encode(dict(settings))
        fields = {"Content-Type": "application/json"}
        data = self._request(method, f"/queues/{_checked_name(queue)}", None, fields, body)
        return Call(data, partial(_read, _Info))


_Infos = list[_Info]
_Metrics = dict[str, int | float | str]


def _keyed(key: str | None, headers: Mapping[str, str] | None, fields: Mapping[str, str]) -> dict[str, str]:
    """Return the fields of a request that stores messages; raises `InvalidParameter`."""
    sent = {"Idempotency-Key": key or secrets.token_hex(16), **fields}
    if headers:
        for name, value in checked_headers(headers.items()):
            sent[field_of(name)] = value
    return sent


def _taking(wait: float, visibility: float | None) -> dict[str, str]:
    values = {}
    if wait:
        values["wait"] = _waiting(wait)
    if visibility is not None:
        values["visibility"] = _seconds(visibility)
    return values


def _receipt(lease: Lease) -> str:
    return f"/queues/{_checked_name(lease.queue)}/receipts/{in_path(lease.receipt)}"


def _seconds(value: float) -> str:
    """Return seconds as the server reads them: decimal, never in powers of ten."""
    try:
        finite = isfinite(value)
    except TypeError:
        raise TypeError(f"A time is a number of seconds, not {value!r}.") from None
    if not finite:
        raise InvalidParameter(f"{value} is no number of seconds.")
    return f"{value:.3f}"


def _waiting(wait: float) -> str:
    """Return how long a request may take; raises `InvalidParameter` for less than nothing."""
    text = _seconds(wait)
    if wait < 0:
        raise InvalidParameter("wait must be 0 or more.", parameter="wait")
    return text


def _nothing(answer: Answer) -> None:
    return None


def _read(kind: type[T], answer: Answer) -> T:
    return decoded(answer, kind)


def _page(answer: Answer) -> Page:
    page = Page(decoded(answer, _Infos))
    page.next = answer.fields.get("zapq-next", "")
    page.total = number(answer, "Zapq-Total") if "zapq-total" in answer.fields else len(page)
    return page


def _stored(answer: Answer) -> Stored:
    fields = answer.fields
    return Stored(
        number(answer, "Zapq-Message-Id"),
        how(fields.get("zapq-unique")),
        "idempotency-replayed" in fields,
        fields.get("zapq-durability", ""),
    )


def _stored_many(count: int, answer: Answer) -> StoredMany:
    batch, fields = decoded(answer, _Batch), answer.fields
    if batch.count != count or len(batch.ids) not in {0, count}:
        raise ServerError(
            "The answer did not come from zapq: it tells of too few messages or too many.", status=answer.status
        )
    return StoredMany(
        batch.ids or range(batch.first_id, batch.first_id + batch.count),
        [how(each) for each in batch.unique],
        "idempotency-replayed" in fields,
        fields.get("zapq-durability", ""),
    )


def _message(answer: Answer) -> Message | None:
    if answer.status == 204:
        return None
    headers, group = tuple(headers_in(answer).items()), answer.fields.get("zapq-group", "")
    properties = Properties(field(answer, "Content-Type"), headers=headers, group=group)
    return Message(number(answer, "Zapq-Message-Id"), answer.body, properties)


def _messages(answer: Answer) -> list[Message]:
    return [
        Message(
            each.id,
            each.body,
            Properties(each.content_type, each.priority, headers=tuple(each.headers.items()), group=each.group),
        )
        for each in decoded(answer, list[_Given])
    ]


def _lease(queue: str, answer: Answer) -> Lease | None:
    if answer.status == 204:
        return None
    fields = answer.fields
    return Lease(
        queue,
        number(answer, "Zapq-Message-Id"),
        field(answer, "Zapq-Receipt"),
        number(answer, "Zapq-Receive-Count"),
        field(answer, "Content-Type"),
        answer.body,
        headers_in(answer),
        fields.get("zapq-group", ""),
        fields.get("zapq-origin", ""),
    )


def _leases(queue: str, answer: Answer) -> list[Lease]:
    if answer.status == 204:
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
        for each in decoded(answer, list[_Delivery])
    ]


def _settled(queue: str, settlements: Sequence[Settlement], answer: Answer) -> list[ZapqError | None]:
    results = decoded(answer, list[_Result])
    if len(results) != len(settlements):
        raise ServerError("The answer did not come from zapq: its results are too few or too many.", status=200)
    return [result_of(each.result, queue, each.receipt) for each in results]


def _purged(answer: Answer) -> int:
    return decoded(answer, _Purged).purged
