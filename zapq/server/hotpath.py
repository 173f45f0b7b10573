"""The hot requests, bytes in and bytes out: messages sent, taken and acknowledged. No socket, no task.

Hypercorn and Quart can serve any request; the few that are the product need little of what they do. They are
answered here when they are written plainly (`zapq/server/hot_head.py`) and complete, and only if no client has to
wait for it. For everything else the answer is "cold", nothing has been changed, and the same bytes go to h11,
which decides. A property test sends the same bytes both ways and compares every byte of the answers
(tests/server/test_equivalence.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from email.utils import formatdate
from functools import lru_cache, partial
from typing import Literal

import msgspec
import trio

from zapq import logs
from zapq.access.certificate import NOBODY, Identities
from zapq.access.grant import Role
from zapq.core.message import Draft, Message
from zapq.errors import (
    Draining,
    InvalidParameter,
    KeyReused,
    MessageTooLarge,
    QueueFull,
    QueueNotFound,
    ReceiptExpired,
    StorageUnavailable,
    ZapqError,
)
from zapq.http import problems, render, tracing, wire
from zapq.http.exchange import note_uncertain, shown_path
from zapq.http.guard import Guard
from zapq.http.metrics import ServerCounts
from zapq.limits import (
    BYTES_PER_COST,
    HEADS_REMEMBERED,
    MAX_ANSWERS,
    MAX_ANSWERS_BYTES,
    MAX_BATCH_BYTES,
    MAX_HOT_HEAD_BYTES,
)
from zapq.server.hot_head import Head, Verb, cut_key, cut_receipt, may_be_hot, parse_head
from zapq.server.peer_network import Socket, peer_of_socket
from zapq.service.journal import OpenGroup
from zapq.service.named_queue import Accepted, NamedQueue
from zapq.service.reservation import Reservation
from zapq.service.service import QueueService
from zapq.service.waiting import Deliveries, Waiter
from zapq.settings import Settings

_FIRST_BYTE_OF_DELETE = ord("D")
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
"""What it takes to ask for one with this effect; zapq/http/permissions.py says it for every endpoint."""
Then = Literal["idle", "more", "head", "body", "wait", "cold", "close"]


class Parked:
    """A long poll that stands in line for a message, without a task that waits."""

    __slots__ = ("head", "over", "queue", "waiter")

    waiter: Waiter

    def __init__(self, head: Head, queue: NamedQueue) -> None:
        self.head = head
        self.queue = queue
        self.over = False
        """Whether it is to be answered."""

    def outcome(self) -> Deliveries:
        """Return what came of it, once it is over; raises what refuses it."""
        # It knows what to wake, and so this: together they would stay until the garbage collector comes.
        waiter = self.waiter
        del self.waiter
        return self.queue.outcome(waiter)

    def leave(self) -> None:
        """Step out of line: what was given already goes back to its place."""
        waiter = self.waiter
        del self.waiter
        self.queue.leave(waiter)


class Answers:
    """What `respond` did with the bytes it was given. What it does not set is as here."""

    data = b""
    """The answers, in order, to be written as they are."""
    used = 0
    """How many of the given bytes they answer."""
    requests = 0
    cost = 0
    """What it was to answer them, with a small request as the measure."""
    then: Then = "idle"
    """What the rest is. `idle`: there is none. `more`: call again with it. `head`, `body`: a hot request so far;
    call again once there are `needed` bytes. `wait`: for later, after a long poll, which is `parked`. `cold`: for
    Hypercorn. `close`: of no interest, for the client wants the connection closed.
    """
    needed = 0
    announced: Head | None = None
    """Of `body`: the head."""
    parked: Parked | None = None
    """Of `wait`: to be answered by `finish` when it is over."""
    taken: Sequence[tuple[int, int, NamedQueue, Deliveries, bytes]] = ()
    """The messages in `data`: where the body begins and ends, their queue, which, and the request's trace id."""
    batch: OpenGroup | None = None
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
        counts: ServerCounts,
        trace_ids: tracing.TraceIds,
        throttle: logs.Throttle,
        guard: Guard,
    ) -> None:
        self._service = service
        self._default = service.default
        self.journal = service.journal
        self._durability = render.COMMITTED if service.durable else b""
        self._max_message_bytes = settings.max_message_bytes
        self._traffic = counts
        self._trace_ids = iter(trace_ids)
        self._throttle = throttle
        # Clients repeat their heads byte for byte: what one means, and whether it is let in, is one look-up.
        self._remember = lru_cache(maxsize=HEADS_REMEMBERED)(self._admit)
        self._admits = lru_cache(maxsize=HEADS_REMEMBERED)(guard.admits)
        self._access = guard.access
        self._access.on_change.append(self._forget)
        self._second = -1
        self._date = self._last = b""
        self._now = self._clock_offset = 0.0
        self._verbs: dict[Verb, Callable[[Head, bytes, Answers, int], bytes]] = {
            "enqueue": self._enqueue,
            "dequeue": self._dequeue,
            "put": self._put,
            "put many": self._put_many,
            "receive": self._receive,
            "receive many": self._receive,
            "ack": self._ack,
        }

    def set_time(self, wall: float, now: float) -> None:
        """Let it be `wall`, in seconds since the epoch, and `now` by Trio's clock, in the answers from here on."""
        self._now = now
        self._clock_offset = wall - now
        if int(wall) != self._second:
            self._second = int(wall)
            self._access.expire(wall)
            self._date = b"\r\nDate: %b\r\n" % formatdate(self._second, usegmt=True).encode()
            self._last = self._date + b"Connection: close\r\n"

    def respond(
        self,
        data: bytes,
        identities: Identities = NOBODY,
        wake: Callable[[Parked], object] | None = None,
        sock: Socket | None = None,
    ) -> Answers:
        """Answer the hot requests that `data` begins with; no checkpoint.

        `identities` is what the client's certificate says, and `sock` its connection, for the log. The number of
        requests is bounded, so that no client keeps the others waiting. The caller writes the answers, or tells
        `reconcile` how much it could not write. A long poll is parked if `wake` says how to tell its end, and
        otherwise cold.
        """
        answers = Answers()
        parts: list[bytes] = []
        changed: list[tuple[int, Head]] = []
        journal = self.journal
        changes = None if journal is None else journal.batch.changes
        before = 0 if changes is None else len(changes)
        at = size = 0
        length = len(data)
        while at < length:
            if size >= MAX_ANSWERS_BYTES or len(parts) == MAX_ANSWERS:
                answers.then = "more"
                break
            end = data.find(b"\r\n\r\n", at, at + MAX_HOT_HEAD_BYTES) + 4
            if end < 4:
                answers.then = "head" if may_be_hot(data[at:]) else "cold"
                answers.needed = length - at + 1
                break
            text = data[at:end]
            # Acknowledgements (DELETE) differ in nothing but their receipts.
            text, receipt = cut_receipt(text) if text[0] == _FIRST_BYTE_OF_DELETE else (text, b"")
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
                answers.announced = head
                break
            try:
                part = self._verbs[head.verb](head, receipt or data[end:stop], answers, size)
            except (QueueFull, ReceiptExpired) as error:
                part = self._refusal(error, head, sock, receipt)
            except (
                Draining,
                QueueNotFound,
                MessageTooLarge,
                InvalidParameter,
                KeyReused,
                StorageUnavailable,
                trio.WouldBlock,
            ):
                # Nothing was changed: it is refused, or must wait, for a message or for the lock.
                answers.then = "cold"
                # Much that is pipelined behind it is kept, and counted, by the long way.
                if head.wait and wake is not None and length - stop <= MAX_HOT_HEAD_BYTES:
                    if parts:
                        answers.then = "more"  # so that it stands alone
                    elif (parked := self._park(head, wake)) is not None:
                        answers.then, answers.parked, at = "wait", parked, stop
                break
            if changes is not None and len(changes) > before:
                before = len(changes)
                changed.append((len(parts), head))
            parts.append(part)
            size += len(part)
            at = stop
            if head.last:
                answers.then = "close"
                break
        answers.used = at
        answers.requests = number = len(parts)
        answers.cost = number + (at + size) // BYTES_PER_COST
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

    def confirm(self, answers: Answers, sock: Socket | None = None) -> None:
        """Replace the answers to what could not be written by refusals; nothing of them has been sent."""
        batch, answers.batch = answers.batch, None
        if batch is None or not batch.failure:
            return
        parts = list(answers.parts)
        refusal = batch.refusal()
        for at, head in answers.changed:
            parts[at] = self._refusal(refusal, head, sock)
        answers.data = b"".join(parts)
        # They are back already: whatever was taken was a change.
        answers.taken = ()

    def reconcile(self, answers: Answers, sent: int) -> None:
        """Take note that only the first `sent` bytes of the answers reached the kernel. No checkpoint.

        At most once is the promise: a message of which no byte was written goes back to its place; one some
        byte of which may have been read is never given again, but counted if it is not whole. A lease on it runs
        out.
        """
        for start, end, queue, given, trace_id in answers.taken:
            if sent <= start:
                queue.return_undelivered(given)
            elif sent < end:
                note_uncertain(queue, given, trace_id.decode())

    def finish(
        self, parked: Parked, *, draining: bool = False, left: bool = False, sock: Socket | None = None
    ) -> Answers:
        """Answer a long poll that is over; or, if it is not, because we are draining, or as the client has left.

        The client may have closed only its own half: then it gets the answer that there is nothing for it.
        """
        answers, head, queue = Answers(), parked.head, parked.queue
        given: Deliveries = ()
        try:
            if left:
                parked.leave()
            elif draining and not parked.over:
                parked.leave()
                raise Draining
            else:
                given = parked.outcome()
        except ZapqError as error:
            answers.data = self._refusal(error, head, sock)
        else:
            answers.data = self._hand_over(head, queue, given, answers, 0)
        answers.then = "close" if left or head.last else "idle"
        answers.requests = 1
        answers.cost = 1 + len(answers.data) // BYTES_PER_COST
        self._traffic.hot_requests += 1
        return answers

    def _park(self, head: Head, wake: Callable[[Parked], object]) -> Parked | None:
        """Have a long poll stand in line; None if it cannot, which is the long way's to say."""
        try:
            queue = self._service.find(head.queue)
            parked = Parked(head, queue)
            parked.waiter = queue.wait_nowait(head.want, head.wait, partial(wake, parked))
        except (ZapqError, trio.WouldBlock):
            return None
        return parked

    def _admit(self, text: bytes, identities: Identities) -> Head | None:
        """Return what a plain head says; None if it is not plain, or refused, which is the long way's to say."""
        bare, key = cut_key(text)
        if key:
            head = self._remember(bare, identities)
            if head is None or head.key or _EFFECT[head.verb] != "put":
                return None
            return msgspec.structs.replace(head, key=key)
        head = parse_head(text)
        if head is None:
            return None
        fields, role = head.fields, _ROLE[_EFFECT[head.verb]]
        return head if self._admits(fields.host, fields.authorization, identities, role, head.queue) else None

    def _forget(self) -> None:
        """Forget which heads are let in: the credentials have changed, or one has ended."""
        self._remember.cache_clear()
        self._admits.cache_clear()

    def _enqueue(self, head: Head, body: bytes, answers: Answers, before: int) -> bytes:
        if head.key:
            id, replayed = self._accept_once(self._default, head, body)
        else:
            id, replayed = self._default.accept_nowait(body, head.properties, self._now).id, False
        trace_id = head.trace_id or next(self._trace_ids)
        tail = b"X-Trace-Id: " + trace_id + (self._last if head.last else self._date)
        return render.enqueued(id, tail, replayed=replayed, durability=self._durability)

    def _put(self, head: Head, body: bytes, answers: Answers, before: int) -> bytes:
        queue = self._service.find(head.queue)
        if head.key:
            id, replayed = self._accept_once(queue, head, body)
        else:
            id, replayed = queue.accept_nowait(body, head.properties, self._now).id, False
        tail = self._tail(head, head.trace_id or next(self._trace_ids))
        return render.enqueued_in(head.queue, id, tail, replayed=replayed, durability=self._durability)

    def _accept_once(self, queue: NamedQueue, head: Head, body: bytes) -> Accepted:
        draft = Draft(body=body, content_type=head.properties.content_type)
        return queue.enqueue_once_nowait(head.key, draft, now=self._now)

    def _put_many(self, head: Head, body: bytes, answers: Answers, before: int) -> bytes:
        queue = self._service.find(head.queue)
        batch = wire.decode_batch(head.media_type, body)
        content_type = wire.type_in_batch(head.media_type)
        packed = body if head.media_type == render.MSGPACK else b""
        if head.key:
            first, replayed = queue.enqueue_many_once_nowait(
                head.key, batch, now=self._now, content_type=content_type, packed=packed
            )
        else:
            first = queue.enqueue_many_nowait(batch, content_type=content_type, packed=packed, now=self._now)
            replayed = False
        tail = self._tail(head, head.trace_id or next(self._trace_ids))
        return render.enqueued_many(len(batch), first, tail, replayed=replayed, durability=self._durability)

    def _dequeue(self, head: Head, body: bytes, answers: Answers, before: int) -> bytes:
        message = self._default.dequeue_nowait(now=self._now, waits=head.wait > 0)
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
        given = queue.take_nowait(head.want, now=self._now, waits=head.wait > 0)
        return self._hand_over(head, queue, given, answers, before)

    def _hand_over(self, head: Head, queue: NamedQueue, given: Deliveries, answers: Answers, before: int) -> bytes:
        """Return the answer to what was asked for by `head`, and note what it gives, behind so many bytes."""
        trace_id = head.trace_id or next(self._trace_ids)
        tail = b"X-Trace-Id: " + trace_id + (self._last if head.last else self._date)
        if not given:
            if head.verb == "dequeue":
                return render.empty(tail)
            return render.nothing(queue.why_empty(), queue.next_visible_in(self._now), tail)
        if head.verb == "receive many":
            part = render.received_many(head.media_type, given, self._clock_offset, tail)
            size = len(part) - part.index(b"\r\n\r\n") - 4
        else:
            first = given[0]
            if head.verb == "dequeue" and isinstance(first, Message):
                part = render.dequeued(first, tail)
            else:
                part = render.received(first, self._clock_offset, tail)
            size = len(first.body)
        end = before + len(part)
        # An empty message is complete with its head, so for that one the head already counts as its body.
        answers.taken = (*answers.taken, (end - size if size else before, end, queue, given, trace_id))
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

    def _refusal(self, error: ZapqError, head: Head, sock: Socket | None, receipt: bytes = b"") -> bytes:
        trace_id = head.trace_id or next(self._trace_ids)
        body = problems.render_error(error, trace_id.decode())
        self._throttle.say(
            logging.WARNING,
            error.problem,
            "refused",
            trace_id=trace_id.decode(),
            status=error.status,
            method=head.method,
            path=shown_path(head.path.encode() + receipt),
            queue=head.queue,
            **peer_of_socket(sock),
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
