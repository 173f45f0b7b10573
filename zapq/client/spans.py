"""Spans of OpenTelemetry, by its semantic conventions for messaging. Imported only by clients that trace.

    send q -- PRODUCER: its context goes with the message, as the header `traceparent`
       +-- process q -- CONSUMER: a child of it in the consumer, and linked to it
    receive q, ack q, release q, extend q, settle q -- CLIENT

A batch that is sent is one span. Each of its messages carries the batch's context, or that of the task that gave
it to a producer. A receive that brings nothing has no span: it says nothing but that time has passed.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from opentelemetry import context, propagate, trace
from opentelemetry.trace import Link, Span, SpanKind, StatusCode
from opentelemetry.util.types import AttributeValue

from zapq.client.calls import Call, Calls, Durability
from zapq.client.holding import Held
from zapq.client.lease import Lease, Stored, StoredMany
from zapq.client.network import Network, Place
from zapq.client.talk import Talk
from zapq.client.tracing import H
from zapq.client.wire import Writer
from zapq.core.headers import size_of
from zapq.core.message import Draft, Message
from zapq.core.settlement import Settlement
from zapq.errors import ZapqError
from zapq.limits import MAX_MESSAGE_HEADERS, MAX_MESSAGE_HEADERS_BYTES

T = TypeVar("T")
Attributes = dict[str, AttributeValue]
_MOST_LINKS = 128
"""As many as the SDK keeps of a span by default."""


class Operation:
    """The span of one request. One that sends begins at once, for its context goes with the messages."""

    def __init__(self, spans: Spans, name: str, kind: str, queue: str, attributes: Attributes) -> None:
        self.span: Span | None = None
        self._spans = spans
        self._name = name
        self._queue = queue
        self._attributes = spans.attributes(name, kind, queue) | attributes
        self._began = time.time_ns()

    def begin(self, kind: SpanKind = SpanKind.CLIENT, links: Sequence[Link] = ()) -> Span:
        """Begin the span, as of when the operation was made."""
        self.span = self._spans.tracer.start_span(
            f"{self._name} {self._queue}",
            kind=kind,
            attributes=self._attributes,
            links=links,
            start_time=self._began,
        )
        return self.span

    def end(self, outcome: object, error: BaseException | None) -> None:
        """End the span, with what the operation has come to."""
        if self.span is None:
            received = _messages_in(outcome)
            if self._name == "receive" and not received and error is None:
                return
            span = self.begin(links=_links(message.headers for message in received))
            if received:
                span.set_attribute("messaging.batch.message_count", len(received))
        else:
            span = self.span
            if isinstance(outcome, Stored):
                span.set_attribute("messaging.message.id", str(outcome.id))
        _end(span, error)


class Spans:
    """Makes the spans of one client; see `Tracer`."""

    def __init__(self, place: Place) -> None:
        self.tracer = trace.get_tracer("zapq.client")
        address = place.address
        self._server: Attributes = (
            {"server.address": address}
            if isinstance(address, str)
            else {"server.address": address[0], "server.port": address[1]}
        )

    def attributes(self, name: str, kind: str, queue: str) -> Attributes:
        """Return those that every span of ours has."""
        return {
            "messaging.system": "zapq",
            "messaging.operation.name": name,
            "messaging.operation.type": kind,
            "messaging.destination.name": queue,
            **self._server,
        }

    def marked(self, message: bytes | Draft) -> bytes | Draft:
        """See `Tracer`."""
        own = {} if isinstance(message, bytes) else message.headers or {}
        headers = carrying(own, context.get_current())
        if headers == own:
            return message
        if isinstance(message, bytes):
            return Draft(body=message, headers=headers)
        return msgspec.structs.replace(message, headers=headers)

    def begin(self, held: Held) -> Process:
        """See `Tracer`."""
        lease = held.lease
        sent = propagate.extract(lease.headers)
        attributes = self.attributes("process", "process", lease.queue) | {
            "messaging.message.id": str(lease.id),
            "messaging.message.body.size": len(lease.body),
            "messaging.zapq.message.receive_count": lease.receive_count,
        }
        span = self.tracer.start_span(
            f"process {lease.queue}",
            context=sent,
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=_links([lease.headers]),
        )
        process = held._processing = Process(span, trace.set_span_in_context(span, sent))
        return process

    def around(self, handler: Callable[[H], Awaitable[object]]) -> Callable[[H], Awaitable[object]]:
        """See `Tracer`."""

        async def traced(held: H) -> None:
            process = self.begin(held)
            try:
                await handler(held)
            except BaseException as error:
                process.end(error)
                raise
            process.end(None)

        return traced

    def around_in_thread(self, handler: Callable[[H], object]) -> Callable[[H], Any]:
        """See `Tracer`."""

        def traced(held: H) -> None:
            process = self.begin(held)
            try:
                handler(held)
            except BaseException as error:
                process.end(error)
                raise
            process.end(None)

        return traced


class Process:
    """See `Processing`."""

    def __init__(self, span: Span, within: context.Context) -> None:
        self._span = span
        self._token: object | None = context.attach(within)

    def end(self, error: BaseException | None) -> None:
        """See `Processing`."""
        if self._token is not None:
            context.detach(self._token)  # type: ignore[arg-type]  # it is what attach returned
            self._token = None
            _end(self._span, error)


class TracedCall(Call[T]):
    """A call with its span."""

    operation: Operation


class TracedTalk(Talk):
    """Sends calls, and ends their spans."""

    def over(self, network: Network) -> TracedTalk:
        """See `Talk`."""
        return TracedTalk(network, self._place, self._timeout, self.retry)

    async def do(self, call: Call[T]) -> T:
        """See `Talk`."""
        operation = call.operation if isinstance(call, TracedCall) else None
        try:
            outcome = await super().do(call)
        except BaseException as error:
            if operation is not None:
                operation.end(None, error)
            raise
        if operation is not None:
            operation.end(outcome, None)
        return outcome


class TracedCalls(Calls):
    """Calls with their spans. Those of operators have none."""

    def __init__(self, writer: Writer, spans: Spans) -> None:
        super().__init__(writer)
        self._spans = spans
        self.tracer = spans

    def put(self, queue: str, body: bytes, *, headers: Mapping[str, str] | None, **terms: Any) -> Call[Stored]:
        """See `Client.put`."""
        operation = self._operation("send", "send", queue, {"messaging.message.body.size": len(body)})
        carried = self._begun(operation, headers)
        return self._traced(operation, lambda: super(TracedCalls, self).put(queue, body, headers=carried, **terms))

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
        """See `Client.put_many`."""
        operation = self._operation("send", "send", queue, {"messaging.batch.message_count": len(messages)})
        carried = self._begun(operation, headers, _own_headers(messages))
        assert operation.span is not None, "it has begun"
        within = trace.set_span_in_context(operation.span)
        # The fields of the request are for messages that bring no headers.
        marked = [
            msgspec.structs.replace(message, headers=carrying(message.headers, within))
            if isinstance(message, Draft) and message.headers
            else message
            for message in messages
        ]
        return self._traced(
            operation,
            lambda: super(TracedCalls, self).put_many(
                queue, marked, headers=carried, durability=durability, wait=wait, key=key
            ),
        )

    def receive(self, queue: str, *, wait: float, visibility: float | None) -> Call[Lease | None]:
        """See `Client.receive`."""
        operation = self._operation("receive", "receive", queue)
        return self._traced(
            operation, lambda: super(TracedCalls, self).receive(queue, wait=wait, visibility=visibility)
        )

    def receive_many(self, queue: str, limit: int, *, wait: float, visibility: float | None) -> Call[list[Lease]]:
        """See `Client.receive_many`."""
        operation = self._operation("receive", "receive", queue)
        return self._traced(
            operation,
            lambda: super(TracedCalls, self).receive_many(queue, limit, wait=wait, visibility=visibility),
        )

    def dequeue(self, queue: str, *, wait: float) -> Call[Message | None]:
        """See `Client.dequeue`."""
        operation = self._operation("receive", "receive", queue)
        return self._traced(operation, lambda: super(TracedCalls, self).dequeue(queue, wait=wait))

    def dequeue_many(self, queue: str, limit: int, *, wait: float) -> Call[list[Message]]:
        """See `Client.dequeue_many`."""
        operation = self._operation("receive", "receive", queue)
        return self._traced(operation, lambda: super(TracedCalls, self).dequeue_many(queue, limit, wait=wait))

    def ack(self, lease: Lease) -> Call[None]:
        """See `Client.ack`."""
        operation = self._settling("ack", lease)
        return self._traced(operation, lambda: super(TracedCalls, self).ack(lease))

    def release(self, lease: Lease, *, delay: float) -> Call[None]:
        """See `Client.release`."""
        operation = self._settling("release", lease)
        return self._traced(operation, lambda: super(TracedCalls, self).release(lease, delay=delay))

    def extend(self, lease: Lease, *, visibility: float | None) -> Call[None]:
        """See `Client.extend`."""
        operation = self._settling("extend", lease)
        return self._traced(operation, lambda: super(TracedCalls, self).extend(lease, visibility=visibility))

    def settle(self, queue: str, settlements: Sequence[Settlement]) -> Call[list[ZapqError | None]]:
        """See `Client.settle`."""
        operation = self._operation("settle", "settle", queue, {"messaging.batch.message_count": len(settlements)})
        return self._traced(operation, lambda: super(TracedCalls, self).settle(queue, settlements))

    def _operation(self, name: str, kind: str, queue: str, attributes: Attributes | None = None) -> Operation:
        return Operation(self._spans, name, kind, queue, attributes or {})

    def _settling(self, name: str, lease: Lease) -> Operation:
        return self._operation(name, "settle", lease.queue, {"messaging.message.id": str(lease.id)})

    def _begun(
        self, operation: Operation, headers: Mapping[str, str] | None, others: Iterable[Mapping[str, str]] = ()
    ) -> dict[str, str]:
        """Begin the span of an operation that sends, and return headers that carry its context."""
        span = operation.begin(SpanKind.PRODUCER, _links(others))
        return carrying(headers or {}, trace.set_span_in_context(span))

    def _traced(self, operation: Operation, make: Callable[[], Call[T]]) -> TracedCall[T]:
        try:
            call = TracedCall(*make())
        except BaseException as error:
            operation.end(None, error)
            raise
        call.operation = operation
        return call


def carrying(headers: Mapping[str, str], within: context.Context) -> dict[str, str]:
    """Return headers with those that carry a context, except where they carry one already, or have no room."""
    carried = dict(headers)
    names = {name.lower() for name in carried}
    if "traceparent" not in names:
        carrier: dict[str, str] = {}
        propagate.inject(carrier, within)
        for name, value in carrier.items():
            more = carried | {name: value}
            fits = len(more) <= MAX_MESSAGE_HEADERS and size_of(tuple(more.items())) <= MAX_MESSAGE_HEADERS_BYTES
            if fits and name.lower() not in names and value.isascii() and value.isprintable():
                carried = more
    return carried


def _own_headers(messages: Iterable[bytes | Draft]) -> Iterable[Mapping[str, str]]:
    return (each.headers for each in messages if isinstance(each, Draft) and each.headers)


def _links(headers: Iterable[Mapping[str, str]]) -> list[Link]:
    """Return a link to each context that messages carry."""
    links: dict[tuple[int, int], Link] = {}
    for each in headers:
        if "traceparent" in each and len(links) < _MOST_LINKS:
            # Into nothing: else it would be the current one if it is none.
            sent = trace.get_current_span(propagate.extract(each, context.Context())).get_span_context()
            if sent.is_valid:
                links[sent.trace_id, sent.span_id] = Link(sent)
    return list(links.values())


def _messages_in(outcome: object) -> list[Lease | Message]:
    found = outcome if isinstance(outcome, list) else [outcome]
    return [each for each in found if isinstance(each, (Lease, Message))]


def _end(span: Span, error: BaseException | None) -> None:
    if error is not None:
        kind = error.problem if isinstance(error, ZapqError) else type(error).__qualname__
        span.set_attribute("error.type", kind)
        span.set_status(StatusCode.ERROR, str(error))
    span.end()
