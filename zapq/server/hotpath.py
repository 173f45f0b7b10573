"""The hot requests, bytes in and bytes out: enqueue, and dequeue that need not wait. No socket, no task.

Hypercorn and Quart can serve any request; the three that are the product need little of what they do. They are
answered here when they are written plainly, and here only what is certain is answered: a head that matches one
tight grammar in full, every field of which is known to make no difference, and a request that is complete. For
everything else the answer is "cold", nothing has been changed, and the same bytes go to h11, which decides.
So a mistake here can make a request slow, but not mean something else; a property test sends the same bytes
both ways and compares every byte of the answers (tests/server/test_equivalence.py).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from typing import Literal

import trio

from zapq import logs
from zapq.core.message import Message
from zapq.errors import Draining, QueueFull
from zapq.http import problems, tracing
from zapq.http.exchange import note_uncertain
from zapq.http.metrics import Traffic
from zapq.server.wire_guard import check_head
from zapq.service.service import QueueService
from zapq.settings import (
    HEADS_REMEMBERED,
    MAX_ANSWERS,
    MAX_ANSWERS_BYTES,
    MAX_HOT_FIELDS,
    MAX_HOT_HEAD_BYTES,
    MAX_WAIT,
    Settings,
)

_BEGINNINGS = (
    b"POST /enqueue HTTP/1.1\r\n",
    b"GET /dequeue HTTP/1.1\r\n",
    b"POST /dequeue HTTP/1.1\r\n",
    b"GET /dequeue?wait=",
    b"POST /dequeue?wait=",
)
_HEAD = re.compile(
    rb"(?:(POST /enqueue)|(?:GET|POST) /dequeue(?:\?wait=([0-9]{1,2}(?:\.[0-9]{1,3})?))?) HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e]*\r\n)+)\r\n"
)
_FIELD = re.compile(rb"([^:]+):[\t ]*(.*?)[\t ]*\r\n")
_HOST = re.compile(rb"(?:[0-9A-Za-z_-]{1,63}(?:\.[0-9A-Za-z_-]{1,63}){0,7}|\[[0-9a-f:]{2,39}\])(?::[0-9]{1,5})?")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,8}")
# These change how a request is read or answered: h11's business.
_COLD_FIELDS = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"te", b"trailer", b"http2-settings"})
_ONCE = (b"host", b"content-length", b"connection", b"x-trace-id")

Then = Literal["idle", "more", "head", "body", "cold", "close"]


@dataclass(frozen=True, slots=True)
class Head:
    """What a hot request's head says."""

    enqueue: bool
    length: int
    """Bytes of body behind it."""
    trace_id: bytes
    """The client's, or empty."""
    last: bool
    """Whether the client wants the connection closed after the answer."""
    waits: bool
    """Whether it is a long poll: hot only when there is a message."""


@lru_cache(maxsize=HEADS_REMEMBERED)
def parse_head(head: bytes) -> Head | None:
    """Return what a request's head (with its empty line) says, or None if it is not plainly hot.

    Remembered, because clients repeat their heads byte for byte: then it costs one look-up.
    """
    shape = _HEAD.fullmatch(head)
    if shape is None:
        return None
    fields = [(name.lower(), value) for name, value in _FIELD.findall(shape[3])]
    names = [name for name, _ in fields]
    values = dict(fields)
    if len(names) > MAX_HOT_FIELDS or not _COLD_FIELDS.isdisjoint(names):
        return None
    if any(names.count(name) > 1 for name in _ONCE):
        return None
    length = values.get(b"content-length", b"0")
    connection = values.get(b"connection", b"keep-alive").lower()
    enqueue, wait = shape[1] is not None, float(shape[2] or 0)
    if (
        not _HOST.fullmatch(values.get(b"host", b""))
        or not _LENGTH.fullmatch(length)
        or (length != b"0" and not enqueue)
        or connection not in {b"keep-alive", b"close"}
        or wait > MAX_WAIT
    ):
        return None
    trace_id = values.get(b"x-trace-id", b"")
    return Head(
        enqueue=enqueue,
        length=int(length),
        trace_id=trace_id if tracing.acceptable(trace_id) else b"",
        last=connection == b"close",
        waits=wait > 0,
    )


class Answers:
    """What `respond` did with the bytes it was given. What it does not set is as here."""

    data = b""
    """The answers, in order, to be written as they are."""
    used = 0
    """How many of the given bytes they answer."""
    requests = 0
    then: Then = "idle"
    """What the rest is. `idle`: there is none. `more`: call again with it. `head`, `body`: a hot request so far;
    call again once there are `needed` bytes. `cold`: for Hypercorn. `close`: of no interest, for the client wants
    the connection closed.
    """
    needed = 0
    taken: Sequence[tuple[int, int, Message, bytes]] = ()
    """The messages in `data`: where the body begins and ends, which it is, and the request's trace id."""


class HotPath:
    """Answers the hot requests of one server."""

    def __init__(
        self,
        service: QueueService,
        settings: Settings,
        traffic: Traffic,
        trace_ids: tracing.TraceIds,
        throttle: logs.Throttle,
    ) -> None:
        self._service = service
        self._max_message_bytes = settings.max_message_bytes
        self._traffic = traffic
        self._trace_ids = iter(trace_ids)
        self._throttle = throttle
        self._second = -1
        self._date = b""

    def set_time(self, now: float) -> None:
        """Date the answers from now on `now`, in seconds since the epoch."""
        if int(now) != self._second:
            self._second = int(now)
            self._date = formatdate(self._second, usegmt=True).encode()

    def respond(self, data: bytes) -> Answers:
        """Answer the hot requests that `data` begins with; no checkpoint.

        A bounded number of them, so that nobody can keep the others waiting. The caller writes the answers, or
        tells `settle` how much of them it could not.
        """
        answers = Answers()
        parts: list[bytes] = []
        at = size = 0
        length = len(data)
        while at < length:
            if size >= MAX_ANSWERS_BYTES or len(parts) == MAX_ANSWERS:
                answers.then = "more"
                break
            end = data.find(b"\r\n\r\n", at, at + MAX_HOT_HEAD_BYTES) + 4
            if end < 4:
                answers.then = "head" if _may_become_hot(data[at:]) else "cold"
                answers.needed = length - at + 1
                break
            head = parse_head(data[at:end])
            if head is None or head.length > self._max_message_bytes:
                answers.then = "cold"
                break
            stop = end + head.length
            if stop > length:
                answers.then = "body"
                answers.needed = stop - at
                break
            try:
                part = self._enqueue(head, data[end:stop]) if head.enqueue else self._dequeue(head, answers, size)
            except (Draining, trio.WouldBlock):
                # Nothing was changed: it is refused, or must wait, for a message or for the lock.
                answers.then = "cold"
                break
            parts.append(part)
            size += len(part)
            at = stop
            if head.last:
                answers.then = "close"
                break
        answers.used = at
        answers.requests = number = len(parts)
        answers.data = b"".join(parts)
        self._traffic.hot_requests += number
        return answers

    def settle(self, answers: Answers, sent: int) -> None:
        """Take note that only the first `sent` bytes of the answers reached the kernel. No checkpoint.

        At most once is the promise: a message of which no byte was written goes back to its place; one some
        byte of which may have been read is never given again, but counted if it is not whole.
        """
        for start, end, message, trace_id in answers.taken:
            if sent <= start:
                self._service.put_back(message)
            elif sent < end:
                note_uncertain(self._service, message, trace_id.decode())

    def _enqueue(self, head: Head, body: bytes) -> bytes:
        trace_id = head.trace_id or next(self._trace_ids)
        try:
            message = self._service.enqueue_nowait(body)
        except QueueFull as full:
            return self._refusal(full, head, trace_id)
        return (
            b"HTTP/1.1 202 Accepted\r\nCache-Control: no-store\r\nZapq-Message-Id: %d\r\nContent-Length: 0\r\n"
            b"X-Trace-Id: %b\r\nDate: %b\r\n%b\r\n"
            % (message.id, trace_id, self._date, b"Connection: close\r\n" if head.last else b"")
        )

    def _dequeue(self, head: Head, answers: Answers, before: int) -> bytes:
        if head.waits and self._service.empty:
            raise trio.WouldBlock
        trace_id = head.trace_id or next(self._trace_ids)
        last = b"Connection: close\r\n" if head.last else b""
        message = self._service.dequeue_nowait()
        if message is None:
            return (
                b"HTTP/1.1 204 No Content\r\nCache-Control: no-store\r\nX-Trace-Id: %b\r\nDate: %b\r\n%b\r\n"
                % (trace_id, self._date, last)
            )
        body = message.body
        part = (
            b"HTTP/1.1 200 OK\r\nZapq-Message-Id: %d\r\nX-Content-Type-Options: nosniff\r\n"
            b"Cache-Control: no-store\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n"
            b"X-Trace-Id: %b\r\nDate: %b\r\n%b\r\n%b" % (message.id, len(body), trace_id, self._date, last, body)
        )
        end = before + len(part)
        # An empty message is complete with its head, so for that one the head already counts as its body.
        start = end - len(body) if body else before
        answers.taken = (*answers.taken, (start, end, message, trace_id))
        return part

    def _refusal(self, error: QueueFull, head: Head, trace_id: bytes) -> bytes:
        body = problems.render_error(error, trace_id.decode())
        self._throttle.say(
            logging.WARNING,
            error.problem,
            "refused",
            trace_id=trace_id.decode(),
            status=error.status,
            method="POST",
            reason=error.detail,
        )
        return (
            b"HTTP/1.1 %d %b\r\nCache-Control: no-store\r\nContent-Type: %b\r\nContent-Length: %d\r\n"
            b"Retry-After: %d\r\nX-Trace-Id: %b\r\nDate: %b\r\n%b\r\n%b"
            % (
                error.status,
                problems.PHRASES[error.status].encode(),
                problems.MEDIA_TYPE.encode(),
                len(body),
                error.retry_after or 0,
                trace_id,
                self._date,
                b"Connection: close\r\n" if head.last else b"",
                body,
            )
        )


def _may_become_hot(start: bytes) -> bool:
    """Whether the begin of a request, its head not complete, is the begin of a hot one as far as one can see."""
    return (
        len(start) < MAX_HOT_HEAD_BYTES
        and any(line.startswith(start) or start.startswith(line) for line in _BEGINNINGS)
        and check_head(start) is None
    )
