"""The hot requests, bytes in and bytes out: messages sent, taken and acknowledged. No socket, no task.

Hypercorn and Quart can serve any request; the few that are the product need little of what they do. They are
answered here when they are written plainly (`zapq/server/plain.py`) and complete, and only if nobody has to wait
for it. For everything else the answer is "cold", nothing has been changed, and the same bytes go to h11, which
decides. A property test sends the same bytes both ways and compares every byte of the answers
(tests/server/test_equivalence.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from email.utils import formatdate
from functools import lru_cache
from typing import Literal

import trio

from zapq import logs
from zapq.access.certificate import NOBODY, Identities
from zapq.access.grant import Role
from zapq.errors import (
    Draining,
    InvalidParameter,
    MessageTooLarge,
    QueueFull,
    QueueNotFound,
    ReceiptExpired,
    StorageUnavailable,
    ZapqError,
)
from zapq.http import answers as render
from zapq.http import problems, tracing, wire
from zapq.http.exchange import note_uncertain
from zapq.http.guard import Guard
from zapq.http.metrics import Traffic
from zapq.limits import (
    HEADS_REMEMBERED,
    MAX_ANSWERS,
    MAX_ANSWERS_BYTES,
    MAX_BATCH_BYTES,
    MAX_HOT_HEAD_BYTES,
    STEP_BYTES,
)
from zapq.server.plain import Head, Verb, cut_receipt, may_become_plain, parse_head
from zapq.service.journal import OpenBatch
from zapq.service.queue import NamedQueue
from zapq.service.reservation import Reservation
from zapq.service.service import QueueService
from zapq.service.waiting import Given
from zapq.settings import Settings

_D = ord("D")
_EFFECT: dict[Verb, str] = {
    "enqueue": "put",
    "put": "put",
    "put many": "put",
    "dequeue": "take",
    "receive": "take",
    "receive many": "take",
    "ack": "settle",
}
"""Requests with the same one do not care whether those before them are written yet."""
_ROLE: dict[str, Role] = {"put": "producer", "take": "consumer", "settle": "consumer"}
"""What it takes to ask for one with this effect; zapq/http/needs.py says it for every endpoint."""
Then = Literal["idle", "more", "head", "body", "cold", "close"]


class Answers:
    """What `respond` did with the bytes it was given. What it does not set is as here."""

    data = b""
    """The answers, in order, to be written as they are."""
    used = 0
    """How many of the given bytes they answer."""
    requests = 0
    work = 0
    """What it was to answer them, with a small request as the measure."""
    then: Then = "idle"
    """What the rest is. `idle`: there is none. `more`: call again with it. `head`, `body`: a hot request so far;
    call again once there are `needed` bytes. `cold`: for Hypercorn. `close`: of no interest, for the client wants
    the connection closed.
    """
    needed = 0
    begun: Head | None = None
    """Of `body`: the head."""
    taken: Sequence[tuple[int, int, NamedQueue, Given, bytes]] = ()
    """The messages in `data`: where the body begins and ends, their queue, which, and the request's trace id."""
    batch: OpenBatch | None = None
    """What must be on the disk before they are written; then `HotPath.confirm` has the last word on them."""
    parts: Sequence[bytes] = ()
    changed: Sequence[tuple[int, Head]] = ()
    """Which of `parts` are about changes in `batch`."""


class HotPath:
    """Answers the hot requests of one server."""

    def __init__(
        self,
        service: QueueService,
        settings: Settings,
        traffic: Traffic,
        trace_ids: tracing.TraceIds,
        throttle: logs.Throttle,
        guard: Guard,
    ) -> None:
        self._service = service
        self._default = service.default
        self.journal = service.journal
        self._durability = render.COMMITTED if service.durable else b""
        self._max_message_bytes = settings.max_message_bytes
        self._traffic = traffic
        self._trace_ids = iter(trace_ids)
        self._throttle = throttle
        # Clients repeat their heads byte for byte: what one means, and whether it is let in, is one look-up.
        self._remember = lru_cache(maxsize=HEADS_REMEMBERED)(self._admit)
        self._admits = lru_cache(maxsize=HEADS_REMEMBERED)(guard.admits)
        self._access = guard.access
        self._access.on_change.append(self._forget)
        self._second = -1
        self._date = self._last = b""
        self._now = self._wall = 0.0
        self._verbs: dict[Verb, Callable[[Head, bytes, Answers, int], bytes]] = {
            "enqueue": self._enqueue,
            "dequeue": self._dequeue,
            "put": self._put,
            "put many": self._put_many,
            "receive": self._receive,
            "receive many": self._receive_many,
            "ack": self._ack,
        }

    def set_time(self, wall: float, now: float) -> None:
        """Let it be `wall`, in seconds since the epoch, and `now` by Trio's clock, in the answers from here on."""
        self._now = now
        self._wall = wall - now
        if int(wall) != self._second:
            self._second = int(wall)
            self._access.expire(wall)
            self._date = b"\r\nDate: %b\r\n" % formatdate(self._second, usegmt=True).encode()
            self._last = self._date + b"Connection: close\r\n"

    def respond(self, data: bytes, identities: Identities = NOBODY) -> Answers:
        """Answer the hot requests that `data` begins with; no checkpoint.

        `identities` is what the client's certificate says. A bounded number of them, so that nobody can keep the
        others waiting. The caller writes the answers, or
        tells `settle` how much of them it could not.
        """
        answers = Answers()
        parts: list[bytes] = []
        changed: list[tuple[int, Head]] = []
        journal = self.journal
        changes = None if journal is None else journal.batch.changes
        begun = 0 if changes is None else len(changes)
        at = size = 0
        length = len(data)
        while at < length:
            if size >= MAX_ANSWERS_BYTES or len(parts) == MAX_ANSWERS:
                answers.then = "more"
                break
            end = data.find(b"\r\n\r\n", at, at + MAX_HOT_HEAD_BYTES) + 4
            if end < 4:
                answers.then = "head" if may_become_plain(data[at:]) else "cold"
                answers.needed = length - at + 1
                break
            text = data[at:end]
            # Acknowledgements (DELETE) differ in nothing but their receipts.
            text, receipt = cut_receipt(text) if text[0] == _D else (text, b"")
            head = self._remember(text, identities)
            if head is None or (head.length > self._max_message_bytes and not self._fits_a_batch(head)):
                answers.then = "cold"
                break
            if changed and _EFFECT[head.verb] != _EFFECT[changed[0][1].verb]:
                # It is to see what the requests before it have done, which is not before that is written.
                answers.then = "more"
                break
            stop = end + head.length
            if stop > length:
                answers.then = "body"
                answers.needed = stop - at
                answers.begun = head
                break
            try:
                part = self._verbs[head.verb](head, receipt or data[end:stop], answers, size)
            except (QueueFull, ReceiptExpired) as error:
                part = self._refusal(error, head)
            except (
                Draining,
                QueueNotFound,
                MessageTooLarge,
                InvalidParameter,
                StorageUnavailable,
                trio.WouldBlock,
            ):
                # Nothing was changed: it is refused, or must wait, for a message or for the lock.
                answers.then = "cold"
                break
            if changes is not None and len(changes) > begun:
                begun = len(changes)
                changed.append((len(parts), head))
            parts.append(part)
            size += len(part)
            at = stop
            if head.last:
                answers.then = "close"
                break
        answers.used = at
        answers.requests = number = len(parts)
        answers.work = number + (at + size) // STEP_BYTES
        answers.data = b"".join(parts)
        self._traffic.hot_requests += number
        if changed and journal is not None:
            answers.batch, answers.parts, answers.changed = journal.batch, parts, changed
        return answers

    def reserve(self, head: Head) -> Reservation | None:
        """Reserve room for the message that `head` announces, while it is being received; None if there is none.

        Then h11 has the same bytes refused.
        """
        reservation = self._service.reservation(head.queue)
        return reservation if reservation.cover(head.length) else None

    @contextmanager
    def written_together(self) -> Iterator[None]:
        """Have everything that is changed in this block written in one go, at its end."""
        journal = self.journal
        if journal is None:
            yield
            return
        journal.corked = True
        try:
            yield
        finally:
            journal.corked = False
            journal.flush()

    def confirm(self, answers: Answers) -> None:
        """Replace the answers to what could not be written by refusals; nothing of them has been sent."""
        batch, answers.batch = answers.batch, None
        if batch is None or not batch.failure:
            return
        parts = list(answers.parts)
        refusal = StorageUnavailable(f"The disk takes no changes: {batch.failure}. Nothing was changed.")
        for at, head in answers.changed:
            parts[at] = self._refusal(refusal, head)
        answers.data = b"".join(parts)
        # They are back already: whatever was taken was a change.
        answers.taken = ()

    def settle(self, answers: Answers, sent: int) -> None:
        """Take note that only the first `sent` bytes of the answers reached the kernel. No checkpoint.

        At most once is the promise: a message of which no byte was written goes back to its place; one some
        byte of which may have been read is never given again, but counted if it is not whole. A lease on it runs
        out.
        """
        for start, end, queue, given, trace_id in answers.taken:
            if sent <= start:
                queue.take_back(given)
            elif sent < end:
                note_uncertain(queue, given, trace_id.decode())

    def _admit(self, text: bytes, identities: Identities) -> Head | None:
        """Return what a plain head says; None if it is not plain, or refused, which is the long way's to say."""
        head = parse_head(text)
        if head is None:
            return None
        fields, role = head.fields, _ROLE[_EFFECT[head.verb]]
        return head if self._admits(fields.host, fields.authorization, identities, role, head.queue) else None

    def _forget(self) -> None:
        """Ask again who is let in: the credentials have changed, or one has ended."""
        self._remember.cache_clear()
        self._admits.cache_clear()

    def _enqueue(self, head: Head, body: bytes, answers: Answers, before: int) -> bytes:
        message = self._default.accept_nowait(body, head.about, self._now)
        trace_id = head.trace_id or next(self._trace_ids)
        tail = b"X-Trace-Id: " + trace_id + (self._last if head.last else self._date)
        return render.enqueued(message.id, tail, durability=self._durability)

    def _put(self, head: Head, body: bytes, answers: Answers, before: int) -> bytes:
        message = self._service.find(head.queue).accept_nowait(body, head.about, self._now)
        tail = self._tail(head, head.trace_id or next(self._trace_ids))
        return render.enqueued_in(head.queue, message.id, tail, durability=self._durability)

    def _put_many(self, head: Head, body: bytes, answers: Answers, before: int) -> bytes:
        queue = self._service.find(head.queue)
        batch = wire.decode_batch(head.media_type, body)
        first = queue.enqueue_many_nowait(
            batch,
            content_type=wire.type_in_batch(head.media_type),
            packed=body if head.media_type == render.MSGPACK else b"",
        )
        tail = self._tail(head, head.trace_id or next(self._trace_ids))
        return render.enqueued_many(len(batch), first, tail, durability=self._durability)

    def _dequeue(self, head: Head, body: bytes, answers: Answers, before: int) -> bytes:
        message = self._default.dequeue_nowait(now=self._now, waits=head.waits)
        trace_id = head.trace_id or next(self._trace_ids)
        tail = b"X-Trace-Id: " + trace_id + (self._last if head.last else self._date)
        if message is None:
            return render.empty(tail)
        part = render.dequeued(message, tail)
        end = before + len(part)
        start = end - len(message.body) if message.body else before
        answers.taken = (*answers.taken, (start, end, self._default, (message,), trace_id))
        return part

    def _receive(self, head: Head, body: bytes, answers: Answers, before: int) -> bytes:
        queue = self._service.find(head.queue)
        given = queue.take_nowait(head.want, now=self._now, waits=head.waits)
        trace_id = head.trace_id or next(self._trace_ids)
        tail = b"X-Trace-Id: " + trace_id + (self._last if head.last else self._date)
        if not given:
            return render.nothing(queue.why_empty(), queue.next_visible_in(self._now), tail)
        part = render.received(given[0], self._wall, tail)
        end, size = before + len(part), len(given[0].body)
        # An empty message is complete with its head, so for that one the head already counts as its body.
        answers.taken = (*answers.taken, (end - size if size else before, end, queue, given, trace_id))
        return part

    def _receive_many(self, head: Head, body: bytes, answers: Answers, before: int) -> bytes:
        queue = self._service.find(head.queue)
        given = queue.take_nowait(head.want, now=self._now, waits=head.waits)
        trace_id = head.trace_id or next(self._trace_ids)
        tail = self._tail(head, trace_id)
        if not given:
            return render.nothing(queue.why_empty(), queue.next_visible_in(self._now), tail)
        part = render.received_many(head.media_type, given, self._wall, tail)
        end, size = before + len(part), len(part) - part.index(b"\r\n\r\n") - 4
        answers.taken = (*answers.taken, (end - size, end, queue, given, trace_id))
        return part

    def _ack(self, head: Head, receipt: bytes, answers: Answers, before: int) -> bytes:
        self._service.find(head.queue).ack_nowait(receipt.decode("latin-1"), now=self._now)
        trace_id = head.trace_id or next(self._trace_ids)
        return render.empty(b"X-Trace-Id: " + trace_id + (self._last if head.last else self._date))

    def _fits_a_batch(self, head: Head) -> bool:
        return head.verb == "put many" and head.length <= MAX_BATCH_BYTES

    def _tail(self, head: Head, trace_id: bytes) -> bytes:
        """The fields every answer ends with."""
        return b"X-Trace-Id: " + trace_id + (self._last if head.last else self._date)

    def _refusal(self, error: ZapqError, head: Head) -> bytes:
        trace_id = head.trace_id or next(self._trace_ids)
        body = problems.render_error(error, trace_id.decode())
        self._throttle.say(
            logging.WARNING,
            error.problem,
            "refused",
            trace_id=trace_id.decode(),
            status=error.status,
            method="DELETE" if head.verb == "ack" else "POST",
            reason=error.detail,
        )
        return (
            b"HTTP/1.1 %d %b\r\nCache-Control: no-store\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b%b\r\n%b"
            % (
                error.status,
                problems.PHRASES[error.status].encode(),
                problems.MEDIA_TYPE.encode(),
                len(body),
                b"" if error.retry_after is None else b"Retry-After: %d\r\n" % error.retry_after,
                self._tail(head, trace_id),
                body,
            )
        )
