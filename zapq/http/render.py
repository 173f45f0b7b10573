"""The answers of the message endpoints as bytes: what goes onto the wire, whichever way the request came.

The hot path writes them as they are, with `tail`, the fields every answer ends with; Quart's side takes them apart
again (`zapq/http/respond.py`), for there Hypercorn adds those. So there is one place that knows what an answer
looks like.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import lru_cache

import msgspec

from zapq.core.message import Lease, Message
from zapq.core.runs import Taken

MSGPACK = "application/msgpack"
JSON = "application/json"


_REPLAYED = b"Idempotency-Replayed: true\r\n"
COMMITTED = b"Zapq-Durability: committed\r\n"
MEMORY = b"Zapq-Durability: memory\r\n"
"""What a message that was accepted survives. Said by servers with --durable, and to producers that ask."""


class Delivery(msgspec.Struct, frozen=True, omit_defaults=True):
    """One leased message of a batch."""

    id: int
    receipt: str
    receive_count: int
    content_type: str
    body: bytes
    priority: int = 0


def enqueued(id: int, tail: bytes, *, replayed: bool = False, durability: bytes = b"") -> bytes:
    """The drop-in answer to a message that was accepted, or had been, under the same key."""
    return (
        b"HTTP/1.1 202 Accepted\r\nCache-Control: no-store\r\nZapq-Message-Id: %d\r\n"
        b"%b%bContent-Length: 0\r\n%b\r\n" % (id, _REPLAYED if replayed else b"", durability, tail)
    )


def enqueued_in(queue: str, id: int, tail: bytes, *, replayed: bool = False, durability: bytes = b"") -> bytes:
    """The answer to a message that was accepted by a named queue."""
    return (
        b"HTTP/1.1 202 Accepted\r\nCache-Control: no-store\r\nZapq-Message-Id: %d\r\n"
        b"Location: /queues/%b/messages/%d\r\n%b%bContent-Length: 0\r\n%b\r\n"
        % (id, queue.encode(), id, _REPLAYED if replayed else b"", durability, tail)
    )


def enqueued_many(
    count: int, first: int, tail: bytes, *, replayed: bool = False, durability: bytes = b""
) -> bytes:
    """The answer to a batch that was accepted, or had been, under the same key."""
    body = b'{"count":%d,"first_id":%d}' % (count, first)
    return (
        b"HTTP/1.1 202 Accepted\r\nCache-Control: no-store\r\nContent-Type: application/json\r\n"
        b"%b%bContent-Length: %d\r\n%b\r\n%b" % (_REPLAYED if replayed else b"", durability, len(body), tail, body)
    )


def dequeued(message: Message, tail: bytes) -> bytes:
    """The drop-in answer that gives a message away."""
    body = message.body
    return (
        b"HTTP/1.1 200 OK\r\nZapq-Message-Id: %d\r\nX-Content-Type-Options: nosniff\r\n"
        b"Cache-Control: no-store\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n%b\r\n%b"
        % (message.id, len(body), tail, body)
    )


def _taken(message: Message, tail: bytes) -> bytes:
    """The answer that gives a message away, with its type."""
    body = message.body
    return (
        b"HTTP/1.1 200 OK\r\nZapq-Message-Id: %d\r\nX-Content-Type-Options: nosniff\r\n"
        b"Cache-Control: no-store\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n%b"
        % (message.id, message.properties.content_type.encode(), len(body), tail, body)
    )


def received(given: Message | Lease, clock_offset: float, tail: bytes) -> bytes:
    """The answer that gives or leases a message; Trio's clock and `clock_offset` make Unix time."""
    if isinstance(given, Message):
        return _taken(given, tail)
    message, lease = given.message, given
    body = message.body
    return (
        b"HTTP/1.1 200 OK\r\nZapq-Message-Id: %d\r\nZapq-Receipt: %b\r\nZapq-Receive-Count: %d\r\n"
        b"Zapq-Visible-Until: %b\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n"
        b"Content-Type: %b\r\nContent-Length: %d\r\n%b\r\n%b"
        % (
            message.id,
            lease.receipt.encode(),
            lease.receives,
            rfc3339(lease.deadline + clock_offset),
            message.properties.content_type.encode(),
            len(body),
            tail,
            body,
        )
    )


def received_many(
    media_type: str, given: Sequence[Message] | Sequence[Lease], clock_offset: float, tail: bytes
) -> bytes:
    """The answer that gives a batch, as bodies, or leases it, as deliveries; there is at least one."""
    encode = msgspec.msgpack.encode if media_type == MSGPACK else msgspec.json.encode
    visible = b""
    if isinstance(given, Taken):
        body = given.packed() if media_type == MSGPACK else encode(given.bodies)
    elif isinstance(given[0], Lease):
        body = encode([_delivery(each) for each in given if isinstance(each, Lease)])
        visible = b"Zapq-Visible-Until: %b\r\n" % rfc3339(given[0].deadline + clock_offset)
    else:
        body = encode([each.body for each in given])
    head = (
        b"HTTP/1.1 200 OK\r\n%bX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nContent-Type: %b\r\n"
        b"Content-Length: %d\r\n%b\r\n" % (visible, media_type.encode(), len(body), tail)
    )
    # It may be megabytes, which % would copy more than once.
    return head + body


def extended(lease: Lease, clock_offset: float, tail: bytes) -> bytes:
    """The answer to a consumer that keeps a message longer."""
    # A program that embeds zapq may hold a lease that never ends.
    ends = lease.deadline < math.inf
    visible = b"Zapq-Visible-Until: %b\r\n" % rfc3339(lease.deadline + clock_offset) if ends else b""
    return b"HTTP/1.1 204 No Content\r\nCache-Control: no-store\r\n%b%b\r\n" % (visible, tail)


def empty(tail: bytes) -> bytes:
    """The answer of an empty queue; also the answer where there is nothing to say."""
    return b"HTTP/1.1 204 No Content\r\nCache-Control: no-store\r\n%b\r\n" % tail


def nothing(why: str, next_visible_in: float, tail: bytes) -> bytes:
    """The answer to a consumer that gets nothing, and when it may be worth asking again."""
    soon = b""
    if next_visible_in < math.inf:
        # Rounded up, so that a consumer that waits for so long finds something.
        soon = b"Zapq-Next-Visible-In: %.1f\r\n" % (math.ceil(next_visible_in * 10) / 10)
    return b"HTTP/1.1 204 No Content\r\nCache-Control: no-store\r\nZapq-Empty: %b\r\n%b%b\r\n" % (
        why.encode(),
        soon,
        tail,
    )


@lru_cache(maxsize=64)  # What is leased in one turn is mostly visible again at one time.
def rfc3339(seconds: float) -> bytes:
    """A time of the world's clock, to the millisecond (RFC 3339)."""
    whole = math.floor(seconds)
    return b"%b.%03dZ" % (_whole_second(whole), (seconds - whole) * 1000)


@lru_cache(maxsize=256)
def _whole_second(seconds: int) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode()


def _delivery(lease: Lease) -> Delivery:
    message = lease.message
    properties = message.properties
    return Delivery(
        message.id, lease.receipt, lease.receives, properties.content_type, message.body, properties.priority
    )
