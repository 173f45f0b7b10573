"""The fast road: plainly written requests, bytes in and bytes out. No socket, no task.

Hypercorn and Quart can serve any request; those of the message API need little of what they do. They are answered
here when they are written plainly (`zapq/server/hot_head.py`). For everything else the answer is "cold", nothing
has been changed, and the same bytes go to h11, which decides. A property test sends the same bytes both ways and
compares every byte of the answers (tests/server/test_equivalence.py).
"""

from __future__ import annotations

from email.utils import formatdate
from functools import lru_cache
from typing import Any, Literal

import msgspec

from zapq import logs
from zapq.access.certificate import NOBODY, Identities
from zapq.engine.engine import Engine
from zapq.errors import ClientGone, Draining, ReceivingTooMuch, ZapqError
from zapq.http import render, tracing
from zapq.http.endpoints import Body
from zapq.http.exchange import note_uncertain, shown_path
from zapq.http.guard import Guard
from zapq.http.metrics import ServerCounts
from zapq.http.plan import Frame
from zapq.http.refused import Refused
from zapq.http.sqs import ANY
from zapq.limits import (
    BYTES_PER_COST,
    FINGERPRINT_SLICE,
    HEADS_REMEMBERED,
    MAX_ANSWERS,
    MAX_ANSWERS_BYTES,
    MAX_BATCH_BYTES,
    MAX_HOT_HEAD_BYTES,
    MAX_LOGGED_PATH,
    SMALL_BODY_BYTES,
)
from zapq.server.hot_head import (
    REFUSED,
    Head,
    cut_argument,
    cut_varying,
    may_be_hot,
    parse_head,
    plan_head,
    vary,
)
from zapq.server.peer_network import Socket, peer_of_socket
from zapq.server.sqs_hot import START as TO_SQS
from zapq.server.sqs_hot import SqsHot, delivery_of
from zapq.service.operations import Accepted, Delivery, Enqueue, Put, Settle, SettleOne, Take
from zapq.service.pending import Commit, Group, Later, Pending, give_back
from zapq.service.reservation import Reservation
from zapq.service.waiting import Deliveries, Lender
from zapq.settings import Settings
from zapq.sqs.errors import problem_of
from zapq.sqs.talk import Said

_EFFECT: dict[type[Any], str] = {Put: "put", Enqueue: "put", Take: "take", Settle: "settle", SettleOne: "settle"}
"""Operations with the same one do not care whether those before them are written yet."""
_E = ord("e")
_SHORTEST = len("GET / HTTP/1.1")
Then = Literal["idle", "more", "large", "head", "body", "wait", "cold", "close"]


class Unfinished(msgspec.Struct, frozen=True):
    """A request whose answer is not known yet."""

    at: int
    """Which of `Answers.parts` is its place."""
    pending: Pending[Any]
    head: Head
    operation: Any
    argument: str


class Handed(msgspec.Struct, frozen=True):
    """Messages in an answer: where its body begins and ends, and the queue that gets them back."""

    start: int
    end: int
    queue: Lender
    given: Deliveries
    trace: bytes
    """The field with the request's trace id."""


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
    """What the rest is. `idle`: there is none. `more`: call again with it. `large`: it may take
    milliseconds; call again, with `large`, when it is its turn. `head`, `body`: a hot request so far;
    call again once there are `needed` bytes. `wait`: for later, after a long poll, which is `pending`. `cold`: for
    Hypercorn. `close`: of no interest, for the connection is to be closed.
    """
    needed = 0
    announced: Head | None = None
    """Of `body`: the head."""
    pending: Pending[Any] | None = None
    """When it is done, and none is `awaited`, `HotPath.complete` makes `data` out of `parts`."""
    group: Group | None = None
    """What all outcomes that are not known yet depend on: if it does not fail, `data` is what to send."""
    waiting_head = b""
    """The head of the request that may wait long."""
    whole = False
    """Whether its body is behind that."""
    parts: list[bytes]
    unfinished: list[Unfinished]
    """In order; each may be done before the one in front of it."""
    taken: tuple[Handed, ...] = ()
    """The messages in `data`."""
    noted: Any = None
    """What the access log, if there is one, has noted of the requests."""

    def awaited(self) -> Pending[Any] | None:
        """Return one of the outcomes that are not known yet, or None; from then on that is `pending`."""
        for unfinished in self.unfinished:
            if not unfinished.pending.done:
                self.pending = unfinished.pending
                return self.pending
        return None


class HotPath:
    """Answers the hot requests of one server."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        counts: ServerCounts,
        trace_ids: tracing.TraceIds,
        throttle: logs.Throttle,
        guard: Guard,
        sqs: SqsHot | None = None,
    ) -> None:
        self._engine = engine
        self._how = engine.how if sqs is None else {**engine.how, **sqs.performs}
        self._sqs = sqs
        self._max_message_bytes = settings.max_message_bytes
        self._least_bytes = settings.max_message_bytes * MAX_ANSWERS_BYTES / MAX_BATCH_BYTES
        """So that answers which turn out larger than thought are no larger together than a batch can be."""
        self._usual_bytes = self._least_bytes
        """What a message is thought to need that is not there yet, by the size of those that came last.

        Were it thought the largest there may be, consumers that pipeline would be answered two by two."""
        self._counts = counts
        self._trace_ids = trace_ids.fields()
        self._throttle = throttle
        self._guard = guard
        # Clients repeat their heads byte for byte: what one means, and whether it is let in, is one look-up.
        self._remember = lru_cache(maxsize=HEADS_REMEMBERED)(self._read)
        self._remember_bare = lru_cache(maxsize=HEADS_REMEMBERED)(self._admit)
        self.access = guard.access
        self.access.on_change.append(self._forget)
        self._second = -1
        self._date = self._last = b""
        self._frame = Frame(b"", 0.0, 0.0, counts)
        self._slow: Later[Any] | None = None
        """What the last batch waits for whose fingerprint takes long to make."""

    def set_time(self, wall: float, now: float) -> None:
        """Let it be `wall`, in seconds since the epoch, and `now` by Trio's clock, in the answers from here on."""
        self._frame.now = now
        self._frame.clock_offset = wall - now
        if wall >= self.access.until:
            self.access.expire(wall)
        if int(wall) != self._second:
            self._second = int(wall)
            self._date = b"\r\nDate: %b\r\n" % formatdate(self._second, usegmt=True).encode()
            self._last = self._date + b"Connection: close\r\n"

    def respond(
        self, data: bytes, identities: Identities = NOBODY, sock: Socket | None = None, large: bool = True
    ) -> Answers:
        """Answer the hot requests that `data` begins with; no checkpoint.

        `identities` is what the client's certificate says, and `sock` its connection, for the log. The number of
        requests is bounded, so that no client keeps the others waiting. The caller writes the answers, or tells
        `reconcile` how much it could not write. If there is a `pending`, the caller calls `complete` when that is
        done. A request that may wait long stands alone, and so does one that may take milliseconds: that is only
        answered if `large`.
        """
        answers = Answers()
        parts: list[bytes] = []
        unfinished: list[Unfinished] = []
        group: Group | None = None
        frame = self._frame
        at = size = 0
        to_come = 0.0
        alone = False
        length = len(data)
        while at < length:
            if size + to_come >= MAX_ANSWERS_BYTES or len(parts) == MAX_ANSWERS:
                answers.then = "more"
                break
            end = data.find(b"\r\n\r\n", at, at + MAX_HOT_HEAD_BYTES) + 4
            if end < 4:
                answers.then = "head" if may_be_hot(data[at:]) else "cold"
                answers.needed = length - at + 1
                break
            text, argument = data[at:end], ""
            # Told by a byte: neither `POST /enqueue` nor `GET /dequeue` has any, nor a probe.
            head: Head | None
            if end - at > _SHORTEST and text[6] != _E:
                if self._sqs is not None and text.startswith(TO_SQS):
                    head = self._sqs.find(text, identities)
                else:
                    text, argument = cut_argument(text)
                    head = self._remember(text, identities)
            else:
                head = self._remember(text, identities)
            if head is None:
                answers.then = "cold"
                break
            stop = end + head.length
            if stop > length:
                answers.then = "body" if head.plan is not REFUSED else "cold"
                answers.needed = stop - at
                answers.announced = head
                break
            if head.key and head.length > FINGERPRINT_SLICE and (parts or length - stop > MAX_HOT_HEAD_BYTES):
                # It will be waited for, as below; but once begun it is not taken back.
                answers.then = "more" if parts else "cold"
                break
            if head.large:
                if parts or not large or self._holds_up(head):
                    answers.then = "more" if parts else "large"
                    break
                large = False
            if unfinished and _effect(head) != _effect(unfinished[0].head):
                # It is to see what the requests before it have done, which is not before that is written.
                answers.then = "more"
                break
            trace = head.trace or next(self._trace_ids)
            last = head.last
            frame.tail = trace + (self._last if last else self._date)
            outcome: Any = None
            commit: Commit[Any] | None = None
            try:
                operation = head.operation
                if head.fill is not None:
                    # A copy of megabytes takes milliseconds: what fills large ones takes any buffer.
                    body: Any = memoryview(data)[end:stop] if head.large else data[end:stop]
                    operation = head.fill(head.plan, body, argument, head.key)
                if operation is not None:
                    outcome = self._how[operation.__class__](operation, frame.now)
                kind = outcome.__class__
                if kind is Commit:
                    # It hardly ever fails: its answer is made now, and sent when it is known.
                    commit, outcome = outcome, outcome.expected
                    kind = outcome.__class__
                if kind is Accepted or kind is Delivery or not isinstance(outcome, Pending):
                    part = head.render(head.plan, operation, outcome, frame)
                else:
                    part = b""
            except Exception as error:
                if head.stored and isinstance(error, Draining):
                    answers.then = "cold"  # Quart's road knows whether it had begun before
                    break
                if commit is None:
                    give_back(delivery_of(outcome))
                else:
                    commit.abandon()
                    commit = None
                part = self._refusal(error, head, trace, sock, argument)
            else:
                if kind is Delivery:
                    body = outcome.given[0].body
                    if head.single and body:
                        # As `_handed`, without the call: this is done for each message taken.
                        until = size + len(part)
                        taken = Handed(until - len(body), until, outcome.queue, outcome.given, trace)
                    else:
                        taken = _handed(outcome, head, part, size, trace)
                    answers.taken = (*answers.taken, taken)
                elif kind is Said:
                    if outcome.delivery is not None:
                        taken = _handed(outcome.delivery, head, part, size, trace)
                        answers.taken = (*answers.taken, taken)
                elif not part:
                    if outcome.patient and (parts or length - stop > MAX_HOT_HEAD_BYTES):
                        # Much that is pipelined behind it is kept, and counted, by the other road.
                        outcome.abandon()
                        answers.then = "more" if parts else "cold"
                        break
                    unfinished.append(Unfinished(len(parts), outcome, head, operation, argument))
                    answers.pending, group = outcome, None
                    if head.large and head.key and isinstance(outcome, Later):
                        self._slow = outcome
                    if isinstance(operation, Take):
                        to_come += self._usual_bytes
                    alone = outcome.patient
                    if alone:
                        # Who may ask for what is said by the body in SQS, so that is kept.
                        answers.whole = head.endpoint is ANY
                        answers.waiting_head = data[at : stop if answers.whole else end]
            if commit is not None:
                group = commit.group if not unfinished or group is commit.group else None
                unfinished.append(Unfinished(len(parts), commit, head, operation, argument))
                answers.pending = commit
            parts.append(part)
            size += len(part)
            at = stop
            if last or alone:
                answers.then = "close" if last else "wait"
                break
        answers.used = at
        answers.requests = number = len(parts)
        answers.cost = number + (at + size) // BYTES_PER_COST
        self._counts.hot_requests += number
        if unfinished:
            answers.parts, answers.unfinished, answers.group = parts, unfinished, group
        if group is not None or not unfinished:
            answers.data = b"".join(parts)
        return answers

    def _holds_up(self, head: Head) -> bool:
        """Whether a batch waits for the fingerprint of the one before: decoded, it would take memory till then."""
        slow = self._slow
        if slow is None or not head.key or head.length <= FINGERPRINT_SLICE:
            return False
        if not slow.working:
            self._slow = None
        return slow.working

    def reserve(self, head: Head) -> Reservation | None:
        """Reserve room for the body that `head` announces, while it is being received; None if it is not to be.

        There is no room, or the server drains: only what began to be received before is stored all the same. Then
        h11 has the same bytes refused.
        """
        if head.stored:
            try:
                self._engine.check_open()
            except Draining:
                return None
            reservation = self._engine.reservation(head.queue)
        else:
            others = self._counts.other_bodies
            reservation = Reservation(others, lambda size: ReceivingTooMuch(), free=SMALL_BODY_BYTES)
        return reservation if reservation.cover(head.length) else None

    def complete(
        self, answers: Answers, sock: Socket | None = None, *, left: bool = False, draining: bool = False
    ) -> None:
        """Make the answers, now that the outcome of what they waited for is known; none of them has been sent.

        Or it is not known, and they are made all the same: because the client has left, or as we are draining. The
        client may have closed only its own half: then it gets the answer that there is nothing for it.
        """
        parts, frame = answers.parts, self._frame
        for each in answers.unfinished:
            head, operation = each.head, each.operation
            trace = head.trace or next(self._trace_ids)
            frame.tail = trace + (self._last if head.last else self._date)
            outcome: Any = None
            try:
                pending = each.pending
                if left or draining or pending.withdrawn:
                    outcome = self._outcome(pending, operation, left=left, draining=draining)
                else:
                    outcome = pending.result()
                part = head.render(head.plan, operation, outcome, frame)
            except Exception as error:
                give_back(delivery_of(outcome))
                outcome = None
                part = self._refusal(error, head, trace, sock, each.argument)
            at, kind = each.at, outcome.__class__
            before = sum(map(len, parts[:at])) if at else 0
            if answers.taken:
                answers.taken = _moved(answers.taken, before, len(parts[at]), len(part))
            parts[at] = part
            delivery = outcome if kind is Delivery else outcome.delivery if kind is Said else None
            if delivery is not None:
                self._usual_bytes = max(len(part), self._least_bytes, self._usual_bytes * 0.9)
                answers.taken = (*answers.taken, _handed(delivery, head, part, before, trace))
        if left:
            answers.then = "close"
        answers.pending = answers.group = None
        answers.data = parts[0] if len(parts) == 1 else b"".join(parts)
        answers.cost = 1 + len(answers.data) // BYTES_PER_COST
        del answers.parts, answers.unfinished

    def may_end(self, answers: Answers) -> bool:
        """Whether a request that waits can be answered before its outcome is known; then it is withdrawn.

        One that has begun to change something cannot: its client would take it for not done, and repeat it.
        """
        [unfinished] = answers.unfinished
        return isinstance(unfinished.operation, Take) or unfinished.pending.withdraw()

    def still_lets_in(self, answers: Answers, identities: Identities) -> bool:
        """Whether the request that waits would be let in now, as it was when it came."""
        if self._sqs is not None and answers.waiting_head.startswith(TO_SQS):
            [unfinished] = answers.unfinished
            head = answers.waiting_head[: answers.waiting_head.index(b"\r\n\r\n") + 4]
            return self._sqs.still_lets_in(head, identities, unfinished.operation)
        text, _ = cut_argument(answers.waiting_head)
        return self._remember(text, identities) is not None

    def _outcome(self, pending: Pending[Any], operation: object, *, left: bool, draining: bool) -> object:
        # What was taken goes back, even if that is known by now.
        if (left or draining) and ((left and isinstance(operation, Take)) or not pending.done):
            pending.abandon()
            if not left:
                raise Draining
            if isinstance(operation, Take):
                return self._engine.nothing(operation.queue)
            raise ClientGone
        if pending.withdrawn and not left:
            raise Draining  # which is why: else the lobby has had it refused
        return pending.result()

    def reconcile(self, answers: Answers, sent: int) -> None:
        """Take note that only the first `sent` bytes of the answers reached the kernel. No checkpoint.

        At most once is the promise: a message of which no byte was written goes back to its place; one some
        byte of which may have been read is never given again, but counted if it is not whole. A lease on it runs
        out.
        """
        for handed in answers.taken:
            if sent <= handed.start:
                handed.queue.return_undelivered(handed.given)
            elif sent < handed.end:
                note_uncertain(handed.queue, handed.given, tracing.id_in(handed.trace))

    def drop(self, answers: Answers) -> None:
        """Take note that answers which are not made yet will not be sent."""
        for unfinished in answers.unfinished:
            unfinished.pending.abandon()

    def _read(self, text: bytes, identities: Identities) -> Head | None:
        """Return what a plain head says; None if it is not plain, or not let in: the other road says why."""
        cut = cut_varying(text)
        if cut is None:
            return None
        bare, varying = cut
        head = self._remember_bare(bare, identities)
        return head if head is None or bare is text else vary(head, varying)

    def _admit(self, text: bytes, identities: Identities) -> Head | None:
        line = parse_head(text)
        if line is None:
            return None
        endpoint, fields, queue = line.route.endpoint, line.fields, line.route.queue
        # Without meaning, or too long: the other road refuses it, and reads on until the client has the answer.
        without = endpoint.body in {Body.NONE, Body.IGNORED}
        if fields.length > (0 if without else endpoint.body.limit(self._max_message_bytes)[0]):
            return None
        queues = self._guard.admits(fields.host, fields.authorization, identities, endpoint, queue)
        head = None if queues is None else plan_head(line, queues)
        return None if head is None or head.plan.steps is not None else head

    def _forget(self) -> None:
        self._remember.cache_clear()
        self._remember_bare.cache_clear()
        if self._sqs is not None:
            self._sqs.forget()

    def _refusal(self, error: Exception, head: Head, trace: bytes, sock: Socket | None, argument: str) -> bytes:
        answer = self._refuse(error, head, trace, sock, argument)
        endpoint = head.endpoint
        self._counts.note_refusal(
            Refused(
                self._frame.now,
                problem_of(error),
                int(answer[9:12]),
                tracing.id_in(trace),
                endpoint.method,
                endpoint.path,
                {"queue": head.queue, "id": argument[:MAX_LOGGED_PATH]},
                "" if endpoint.scope in {"server", "listed"} else head.queue,
            )
        )
        return answer

    def _refuse(self, error: Exception, head: Head, trace: bytes, sock: Socket | None, argument: str) -> bytes:
        if self._sqs is not None and head.endpoint is ANY:
            return self._sqs.refusal(error, trace, self._frame.tail, sock)
        trace_id = tracing.id_in(trace)
        if not isinstance(error, ZapqError):
            logs.current_trace_id.set(trace_id)
            logs.log.error("request failed", exc_info=error)
            return render.failed(trace_id, self._frame.tail)
        # Most that many clients cause are not let through.
        self._throttle.say_if_let_through(
            logs.level_of(error.status),
            error.problem,
            "refused",
            lambda: {
                "trace_id": trace_id,
                "status": error.status,
                "method": head.endpoint.method,
                "path": shown_path(_path(head, argument)),
                **({} if head.endpoint.scope in {"server", "listed"} else {"queue": head.queue}),
                **peer_of_socket(sock),
                "reason": error.detail,
            },
        )
        return render.refused(error, trace_id, self._frame.tail)


def _path(head: Head, argument: str) -> bytes:
    """Return the path that was asked for; `argument` is the receipt or message id in it."""
    path = head.endpoint.path.replace("{queue}", head.queue)
    return path.replace("{receipt}", argument).replace("{id}", argument).encode()


def _effect(head: Head) -> str:
    return _EFFECT.get(head.plan.operation.__class__, "look")


def _moved(taken: tuple[Handed, ...], start: int, size: int, new_size: int) -> tuple[Handed, ...]:
    """Return where messages are once the part at `start` is another one: those in it are not in the answers."""
    end, shift = start + size, new_size - size
    return tuple(
        each
        if each.start < start
        else msgspec.structs.replace(each, start=each.start + shift, end=each.end + shift)
        for each in taken
        if not start <= each.start < end
    )


def _handed(outcome: Delivery, head: Head, part: bytes, before: int, trace: bytes) -> Handed:
    """Return where in all answers the messages are; `part` is behind `before` bytes."""
    given = outcome.given
    first = given[0]
    size = len(first.body) if head.single else len(part) - part.index(b"\r\n\r\n") - 4
    end = before + len(part)
    # An empty message is complete with its head, so for that one the head already counts as its body.
    return Handed(end - size if size else before, end, outcome.queue, given, trace)
