"""Operations to calls of the library, and its answers to outcomes: pure, without input or output.

Operations of one kind on one queue become one `Call`, and its answer one outcome for each of them. What concerns
more than one queue is a `Procedure` (procedures.py): it yields calls, and is sent what came of them.

Caps: `max_msgs` and `max_bytes` of the server hold for each queue by itself, beside those of the queue. All four
hold exactly, for a queue is in one shard, and the step that stores a message looks at them. What all queues hold
together is in many shards, and only the memory limit of Valkey bounds it: beyond it, Valkey refuses producers
and serves consumers. `max_queues` holds approximately: each shard may have twice its even share.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache, partial
from math import inf
from typing import Any, NamedTuple, TypeAlias

import msgspec

from zapq.core.message import DEFAULTS, OCTETS, Draft, Lease, Message, Properties
from zapq.core.names import check_name
from zapq.core.runs import Taken
from zapq.core.stats import STATES
from zapq.engine.valkey import keys
from zapq.engine.valkey.bounds import Caps
from zapq.engine.valkey.call import AGAIN, Call
from zapq.engine.valkey.replies import (
    about,
    erased,
    info_of,
    lease_of,
    message_of,
    milliseconds,
    origin_text,
    placed_in,
    refusal,
    settled_one,
    shape_of,
    too_many_queues,
    view_of,
    with_headers,
    wrong_receipt,
)
from zapq.errors import (
    MessageNotFound,
    MessageTooLarge,
    NotDurable,
    QueueNotFound,
    ZapqError,
)
from zapq.service.fingerprint import fingerprint_of
from zapq.service.operations import (
    Accepted,
    DeleteMessage,
    Delivery,
    Describe,
    Durability,
    Enqueue,
    Find,
    Hide,
    Nothing,
    Operation,
    Peek,
    Purge,
    Put,
    Remove,
    SetPaused,
    Settle,
    Settlement,
    SettleOne,
    Take,
    checked_limit,
)
from zapq.service.queue_state import QueueInfo, check_batch_key, draft_of, has_keys, terms_of
from zapq.service.waiting import Deliveries, Lender, Want

_fits = re.compile("[0-9][01][0-9a-f]{12}[-g][0-9a-f]{28}-[0-9a-f]{1,8}").fullmatch
"""Tells a receipt from what is none."""
_ACTIONS = {"ack": 0, "release": 1, "extend": 2}
_pack: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode


class Waiting(NamedTuple):
    """Consumers of this front end that wait for messages of a queue."""

    consumers: int
    """Those of the call included."""
    since: int = 0
    """The server's time in the answer to the first call that had some; 0: from now on."""


class Run(NamedTuple):
    """What operations of one call have in common."""

    kind: str
    queue: str
    more: Hashable = None


_Decode: TypeAlias = Callable[[list[Any], float], Any]
How: TypeAlias = "tuple[Any, ...]"
"""What messages to store have in common: priority, delay, ttl, type, and the shape of their headers, their group
and their origin, if any."""
Parts: TypeAlias = "list[tuple[Any, ...]]"
"""Of messages to store: how many, and what they have in common."""


def _random() -> int:
    return secrets.randbits(48)


def _planned(settlement: Settlement) -> tuple[int, int]:
    """Return what is to be done with a lease, and for how many milliseconds; -1: as the queue is set."""
    action = _ACTIONS[settlement.action]
    seconds = settlement.delay if action == 1 else settlement.visibility
    return action, -1 if seconds is None else milliseconds(seconds)


class Codec:
    """Makes calls of operations, and outcomes of their answers, for one front end."""

    def __init__(
        self,
        *,
        front_end: str,
        caps: Caps,
        max_message_bytes: int,
        lender: Callable[[str], Lender],
        durability: Durability | None = None,
        random: Callable[[], int] = _random,
        clock: Callable[[], int] | None = None,
    ) -> None:
        """`front_end` is its name, `lender` returns what takes back messages of a queue.

        `durability` is what an accepted message survives, None if that is no question. `random` returns 48 random
        bits; receipts are made of them, so that those of a master that was lost fit no lease of the next one.
        `clock` tells the time in milliseconds to a library for tests.
        """
        self.front_end = front_end
        self.caps = caps
        self.durability = durability
        self._max_message_bytes = max_message_bytes
        self._lender = lender
        self._random = random
        self._clock = clock
        self._caps = caps.messages, caps.bytes, caps.queues_of_shard
        self._make: dict[str, Callable[..., Call]] = {
            "put": self._put,
            "unique": self._put,
            "take": self._take,
            "settle": self._settle,
            "remove": self._remove,
            "hide": self._hide,
            "erase": self._erase,
            "peek": self._peek,
            "find": self._find,
            "describe": self._describe,
            "pause": self._pause,
            "purge": self._purge,
        }

    # What operations need before they are asked

    def check(self, operation: Operation) -> None:
        """Raise the `ZapqError` that refuses an operation, where it need not be asked for that."""
        queue = getattr(operation, "queue", None)
        if queue is not None:
            _checked_name(queue)
        if isinstance(operation, Enqueue):
            self._check_size(len(operation.body))
        elif isinstance(operation, Put):
            self._check_put(operation)
        elif isinstance(operation, Peek):
            checked_limit(operation.limit, "limit")
        elif isinstance(operation, Settle):
            checked_limit(len(operation.settlements), "settlements")

    def _check_put(self, asked: Put) -> None:
        if asked.terms.durability == "committed" and self.durability != "committed":
            raise NotDurable(parameter="durability")
        content = asked.content
        if isinstance(content, bytes):
            self._check_size(len(content))
            return
        checked_limit(len(content), "messages")
        check_batch_key(asked.terms.properties.unique)
        self._check_size(max(len(each.body if isinstance(each, Draft) else each) for each in content))
        for each in content:
            if isinstance(each, Draft):
                terms_of(each)

    def _check_size(self, size: int) -> None:
        if size > self._max_message_bytes:
            raise MessageTooLarge(max_bytes=self._max_message_bytes, current=size)

    def run_of(self, operation: Operation) -> Run | None:
        """Return what operations have in common that can be one call; None if it is a procedure, or not ours."""
        match operation:
            case Put() if has_keys(operation):
                return Run("unique", operation.queue)
            case Enqueue() | Put():
                return Run("put", operation.queue)
            case Take():
                return Run("take", operation.queue)
            case SettleOne() | Settle():
                return Run("settle", operation.queue)
            case Remove():
                return Run("remove", operation.queue)
            case Hide():
                return Run("hide", operation.queue)
            case DeleteMessage():
                return Run("erase", operation.queue)
            case Peek():
                return Run("peek", operation.queue, (operation.state, operation.limit))
            case Find():
                return Run("find", operation.queue, operation.id)
            case Describe():
                return Run("describe", operation.queue)
            case SetPaused():
                return Run("pause", operation.queue, operation.paused)
            case Purge():
                return Run("purge", operation.queue)
            case _:
                return None

    def call(self, operations: Sequence[Operation], now: float, waiting: Waiting | None = None) -> Call:
        """Return the call for operations of one run, each of which was checked; at most `MAX_RUN` of them.

        `now` is the time of Trio's clock. With `waiting`, which only a run of `Take` may have, consumers of this
        front end wait if there is not something for each of them.
        """
        run = self.run_of(operations[0])
        assert run is not None
        if run.kind == "take":
            return self._take(run, operations, waiting)
        return self._make[run.kind](run, operations, now)

    def _asked(
        self,
        name: bytes,
        queue: str,
        arguments: Sequence[bytes],
        outcomes: Callable[[list[Any], float], list[Any]],
        *,
        further: Sequence[bytes] = (),
        repeatable: bool = True,
        number: int = 1,
    ) -> Call:
        return Call(
            name,
            shard=keys.shard_of(queue),
            keys=keys.queue_keys(queue),
            further=further,
            time=self.time,
            arguments=arguments,
            outcomes=outcomes,
            repeatable=repeatable,
            queue=queue,
            number=number,
        )

    @property
    def time(self) -> bytes:
        """The time to tell the library, if it is one for tests."""
        return b"" if self._clock is None else b"%d" % self._clock()

    # Producers

    def _put(self, run: Run, operations: Sequence[Any], now: float) -> Call:
        queue = run.queue
        requests: list[Any] = []
        bodies: list[bytes] = []
        further: list[bytes] = []
        numbers: list[int] = []
        """How many operations each request is for."""
        before: tuple[Any, ...] | None = None
        part: list[Any] = []
        for asked in operations:
            if isinstance(asked, Enqueue):
                properties, body = asked.properties, asked.body
                mine = properties, asked.delay, None
            else:
                terms, body = asked.terms, asked.content
                properties = terms.properties
                mine = properties, terms.delay, terms.ttl
                if asked.key or properties.unique or not isinstance(body, bytes):
                    before = None
                    requests.append(self._request(asked, self._how(*mine, now), bodies, further))
                    numbers.append(1)
                    continue
            bodies.append(with_headers(properties.headers, body) if properties.headers else body)
            if mine != before:
                # Mostly they are the same, and this is done for each message.
                before, part = mine, [0, *self._how(*mine, now)]
                requests.append((0, (part,), 0))
                numbers.append(0)
            part[0] += 1
            numbers[-1] += 1
        keyed = all(not isinstance(each, Enqueue) and each.key for each in operations)
        decode = partial(self._accepted, queue, operations, numbers)
        name = b"put_unique" if run.kind == "unique" else b"put"
        return self._asked(
            name, queue, [_pack((*self._caps, *requests)), *bodies], decode, further=further, repeatable=keyed
        )

    @staticmethod
    def _how(properties: Properties, delay: float, ttl: float | None, now: float) -> How:
        if properties is DEFAULTS and not delay and ttl is None:
            return _PLAINLY
        kind = "" if properties.content_type == OCTETS else properties.content_type
        if ttl is None and properties.expires < inf:
            ttl = max(properties.expires - now, 0.001)
        plain = properties.priority, milliseconds(delay), milliseconds(ttl or 0), kind
        if properties.origin is not None or properties.unique:
            said = shape_of(properties.headers), properties.group, origin_text("", properties.origin)
            return (*plain, *said, properties.unique) if properties.unique else (*plain, *said)
        if properties.group:
            return (*plain, shape_of(properties.headers), properties.group)
        return (*plain, shape_of(properties.headers)) if properties.headers else plain

    def _request(self, asked: Put, how: How, bodies: list[bytes], further: list[bytes]) -> tuple[Any, ...]:
        content = asked.content
        parts: Parts
        common = asked.terms.properties
        if isinstance(content, bytes):
            parts = [(1, *how, asked.terms.replace) if common.unique else (1, *how)]
            bodies.append(with_headers(common.headers, content))
        else:
            parts = []
            # Terms have no delay or ttl for a batch, and a priority only where no message brings its own.
            has_drafts = any(isinstance(each, Draft) for each in content)
            bare: How = (0 if has_drafts else how[0], 0, 0, *how[3:])
            for each in content:
                if isinstance(each, Draft):
                    draft = draft_of(each, common)
                    properties = draft.properties(0.0)
                    mine = self._how(properties, draft.delay, draft.ttl, 0.0)
                    mine = (*mine, draft.on == "replace") if draft.unique else mine
                    bodies.append(with_headers(properties.headers, draft.body))
                else:
                    mine = bare
                    bodies.append(with_headers(common.headers, each))
                if parts and parts[-1][1:] == mine:
                    parts[-1] = (parts[-1][0] + 1, *mine)
                else:
                    parts.append((1, *mine))
        if not asked.key:
            return 1, parts, 0
        name = keys.claim_key(asked.queue, asked.key)
        if name not in further:
            further.append(name)
        return 1, parts, further.index(name) + 1, fingerprint_of(asked).hex()

    def _accepted(
        self, queue: str, operations: Sequence[Any], numbers: list[int], reply: list[Any], now: float
    ) -> list[Any]:
        if isinstance(reply[2], list) and reply[2][0] == b"queues":
            return [too_many_queues(reply[2]) for _ in operations]
        outcomes: list[Any] = []
        for result, number in zip(reply[2:], numbers, strict=True):
            if isinstance(result, int):
                outcomes += self._ids(range(result, result + number), operations, len(outcomes))
            elif result[0] == b"each":
                for each in result[1:]:
                    outcomes += (
                        self._ids((each,), operations, len(outcomes))
                        if isinstance(each, int)
                        else [refusal(queue, each)]
                    )
            elif result[0] == b"placed":
                outcomes.append(placed_in(result, operations[len(outcomes)], self.durability))
            elif result[0] == b"replayed":
                asked = operations[len(outcomes)]
                outcomes.append(Accepted(int(result[1]), True, asked.terms.durability or self.durability))
            else:
                outcomes += (refusal(queue, result) for _ in range(number))
        return outcomes

    def _ids(self, ids: Sequence[int], operations: Sequence[Any], first: int) -> list[Accepted]:
        durability = self.durability
        return [
            Accepted(id, False, durability if isinstance(asked, Enqueue) else asked.terms.durability or durability)
            for id, asked in zip(ids, operations[first : first + len(ids)], strict=True)
        ]

    # Consumers

    def _take(self, run: Run, operations: Sequence[Any], waiting: Waiting | None) -> Call:
        requests: list[list[int]] = []
        last: Want | None = None
        for asked in operations:
            want = asked.want
            if want is last:
                requests[-1][0] += 1
                continue
            visibility = -1
            if want.visibility is not None:
                visibility = milliseconds(min(want.visibility, _LONGEST))
            how = [want.limit, int(want.lease), visibility]
            if requests and requests[-1][1:] == how:
                requests[-1][0] += 1
            else:
                requests.append([1, *how])
            last = want
        nonce = "%012x" % (self._random() & (2**48 - 1))
        line = (self.front_end, *waiting) if waiting else ("", 0, 0)
        decode = partial(self._given, run.queue, operations, requests)
        return self._asked(b"take", run.queue, [_pack((nonce, *line, *requests))], decode, repeatable=False)

    def _given(
        self, queue: str, operations: Sequence[Take], requests: list[list[int]], reply: list[Any], now: float
    ) -> list[Any]:
        if reply[2] == b"missing":
            return [Nothing("empty", inf) if asked.wait else QueueNotFound(queue=queue) for asked in operations]
        at, _, why, due, numbers, ids, values, notes, ends, lasts, common, looked = reply
        noted = {notes[place]: notes[place + 1 : place + 4] for place in range(0, len(notes), 4)}
        nothing = Nothing(why.decode(), max(due - at, 0) / 1000 if due else inf) if why else None
        ours = now - at / 1000
        outcomes: list[Any] = []
        place = 0
        common = common.decode()
        lender = self._lender(queue)
        for request, [number, limit, is_lease, _] in enumerate(requests):
            if request >= len(numbers):
                outcomes += [AGAIN] * number
                continue
            counts, length = numbers[request], lasts[request]
            how = f"{common}{length:08x}", ends[request] / 1000 + ours, length / 1000, queue
            for consumer in range(number):
                if len(outcomes) >= looked:
                    outcomes.append(AGAIN)
                    continue
                count = int(consumer < counts) if limit == 1 else counts[consumer]
                if not count:
                    outcomes.append(nothing)
                    continue
                last = place + count
                given: Any
                if is_lease and limit == 1:
                    given = (lease_of(ids[place], values[place], noted.get(last), ours, how),)
                elif is_lease:
                    places = range(place, last)
                    given = [lease_of(ids[each], values[each], noted.get(each + 1), ours, how) for each in places]
                elif limit == 1:
                    given = (message_of(ids[place], values[place], noted.get(place + 1), ours)[0],)
                else:
                    given = Taken()
                    for each in range(place, last):
                        given.add(message_of(ids[each], values[each], noted.get(each + 1), ours)[0])
                outcomes.append(Delivery(lender, given))
                place = last
        return outcomes

    def give_back(self, queue: str, given: Deliveries, now: float) -> Call:
        """Return the call that puts messages back at their places that could not be handed over."""
        receipts = [each.receipt for each in given if isinstance(each, Lease)]
        messages = [each for each in given if isinstance(each, Message)]
        described = [about(each.id, each.properties, now) for each in messages]
        bodies = [with_headers(each.properties.headers, each.body) for each in messages]
        # A message that is back may be given to another consumer before this is repeated, and then be there twice.
        return self._asked(
            b"give_back", queue, [_pack((0, receipts, described)), *bodies], _none, repeatable=not messages
        )

    def note_uncertain(self, queue: str, number: int) -> Call:
        """Return the call that counts messages that may or may not have been handed over."""
        return self._asked(b"give_back", queue, [_pack((number, (), ()))], _none, repeatable=False)

    def leave(self, queue: str) -> Call:
        """Return the call that takes this front end out of the line for consumers of a queue.

        If it was told of a message that it has no consumer for any more, the next front end is told instead.
        """
        return self._asked(b"leave", queue, [self.front_end.encode()], _none)

    def _settle(self, run: Run, operations: Sequence[Any], now: float) -> Call:
        settlements: list[Settlement] = []
        for asked in operations:
            if isinstance(asked, SettleOne):
                settlements.append(asked.settlement)
            else:
                settlements += asked.settlements
        receipts: list[bytes] = []
        wrong: dict[int, ZapqError] = {}
        for place, settlement in enumerate(settlements):
            receipt = settlement.receipt
            if _fits(receipt) is None:
                wrong[place] = wrong_receipt(receipt)
                receipt = ""
            receipts.append(receipt.encode())
        actions = {each.action for each in settlements}
        plan = () if actions == {"ack"} else [part for each in settlements for part in _planned(each)]
        decode = partial(self._settled, run.queue, operations, settlements, wrong)
        # A repeated acknowledgement is fine; a repeated release is told that the lease is over.
        return self._asked(
            b"settle",
            run.queue,
            [_pack(plan), *receipts],
            decode,
            number=len(operations),
            repeatable="release" not in actions,
        )

    def _settled(
        self,
        queue: str,
        operations: Sequence[Any],
        settlements: list[Settlement],
        wrong: dict[int, ZapqError],
        reply: list[Any],
        now: float,
    ) -> list[Any]:
        codes = reply[2]
        if codes == 0:
            return [
                None if isinstance(asked, SettleOne) else [None] * len(asked.settlements) for asked in operations
            ]
        ours = now - reply[0] / 1000
        results = [
            wrong.get(place) or settled_one(queue, settlement.receipt, code, ours)
            for place, (settlement, code) in enumerate(zip(settlements, codes, strict=True))
        ]
        outcomes: list[Any] = []
        place = 0
        for asked in operations:
            if isinstance(asked, SettleOne):
                outcomes.append(results[place])
                place += 1
            else:
                last = place + len(asked.settlements)
                outcomes.append([each if isinstance(each, ZapqError) else None for each in results[place:last]])
                place = last
        return outcomes

    def _remove(self, run: Run, operations: Sequence[Any], now: float) -> Call:
        return self._again(b"remove", run.queue, [asked.id for asked in operations], len(operations))

    def _hide(self, run: Run, operations: Sequence[Any], now: float) -> Call:
        plan = [part for asked in operations for part in (asked.id, milliseconds(asked.visibility))]
        return self._again(b"hide", run.queue, plan, len(operations))

    def _erase(self, run: Run, operations: Sequence[Any], now: float) -> Call:
        ids = [asked.id for asked in operations]

        def decode(reply: list[Any], now: float) -> list[Any]:
            return [erased(run.queue, id, said, reply[0]) for id, said in zip(ids, reply[2], strict=True)]

        # Repeated, it would tell a client that the message it has deleted was never there.
        return self._asked(b"erase", run.queue, [_pack(ids)], decode, number=len(ids), repeatable=False)

    def _again(self, name: bytes, queue: str, plan: list[int], number: int) -> Call:
        """Return a call about messages that have been leased before; each outcome is whether one was there."""
        return self._asked(name, queue, [_pack(plan)], lambda reply, now: list(map(bool, reply[2])), number=number)

    # Looking

    def _peek(self, run: Run, operations: Sequence[Any], now: float) -> Call:
        plan = _pack((STATES.index(operations[0].state), operations[0].limit))

        def decode(reply: list[Any], now: float) -> list[Any]:
            views = [view_of(each, now - reply[0] / 1000) for each in reply[2]]
            return [list(views) for _ in operations]

        return self._asked(b"peek", run.queue, [plan], decode, number=len(operations))

    def _find(self, run: Run, operations: Sequence[Any], now: float) -> Call:
        id = operations[0].id

        def decode(reply: list[Any], now: float) -> list[Any]:
            if reply[2] == 0:
                return [MessageNotFound(queue=run.queue, message_id=id) for _ in operations]
            return [view_of(reply[2], now - reply[0] / 1000) for _ in operations]

        return self._asked(b"find", run.queue, [b"%d" % id], decode, number=len(operations))

    def _describe(self, run: Run, operations: Sequence[Any], now: float) -> Call:
        def decode(reply: list[Any], now: float) -> list[Any]:
            return [_info_in(run.queue, reply, now)] * len(operations)

        return self._asked(b"describe", run.queue, [], decode, number=len(operations))

    # Operators

    def _pause(self, run: Run, operations: Sequence[Any], now: float) -> Call:
        return self._asked(
            b"pause",
            run.queue,
            [b"1" if operations[0].paused else b"0"],
            lambda reply, now: [None] * len(operations),
            number=len(operations),
        )

    def _purge(self, run: Run, operations: Sequence[Any], now: float) -> Call:
        def decode(reply: list[Any], now: float) -> list[Any]:
            return [reply[2], *([0] * (len(operations) - 1))]

        return self._asked(b"purge", run.queue, [], decode, number=len(operations), repeatable=False)

    # Steps of procedures

    def step(
        self,
        name: bytes,
        queue: str,
        *arguments: bytes,
        further: Sequence[bytes] = (),
        decode: Callable[[list[Any]], Any] = lambda reply: reply,
    ) -> Call:
        """Return a call of one outcome about a queue, which `decode` makes of the answer."""
        return self._asked(name, queue, arguments, lambda reply, now: [decode(reply)], further=further)

    def describe(self, queue: str) -> Call:
        """Return the call that shows a queue; its outcome is a `QueueInfo`, and its settings as they are kept."""
        return self._asked(b"describe", queue, (), lambda reply, now: [(_info_in(queue, reply, now), reply[3])])

    def shard_step(
        self, name: bytes, shard: int, *arguments: bytes, decode: _Decode, further: bytes = b""
    ) -> Call:
        """Return a call of one outcome about a shard, which `decode` makes of the answer and of our time then."""
        return Call(
            name,
            shard=shard,
            keys=keys.shard_keys(shard),
            further=[further] if further else (),
            time=self.time,
            arguments=arguments,
            outcomes=lambda reply, now: [decode(reply, now)],
        )


_PLAINLY = (0, 0, 0, "")
_LONGEST = 4e6
"""Seconds of a lease that is to last for ever: 46 days, as many as there is room for in a receipt."""


@lru_cache(4096)
def _checked_name(queue: str) -> str:
    return check_name(queue)


def _none(reply: list[Any], now: float) -> list[Any]:
    return [None]


def _info_in(queue: str, reply: list[Any], now: float) -> QueueInfo:
    return info_of(queue, reply[2], reply[3], now - reply[0] / 1000)
