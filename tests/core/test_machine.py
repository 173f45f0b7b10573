"""The queues against a plain list: whatever is done, in whatever order and however slowly, both agree.

One file, although it is long: the rules share one model and its bundles.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from zapq.core.broker import Broker, Redriven
from zapq.core.deadlines import Entry
from zapq.core.headers import Headers
from zapq.core.message import DEFAULTS, Draft, Lease, Message, Origin, Properties
from zapq.core.placed import Placed
from zapq.core.queue import Queue
from zapq.core.queue_settings import QueueSettings
from zapq.core.ready import Dropped
from zapq.core.runs import Run
from zapq.core.stats import STATES
from zapq.errors import MessageLeased, QueueFull, ReceiptExpired
from zapq.limits import BACKOFF, RELEASES_AT_ONCE

MAX_MESSAGES = 8
MAX_BYTES = 30
OWN_MESSAGES = 4
"""The cap of the queue called work."""
MAX_RECEIVES = 2
VISIBILITY = 5.0
RATE = 0.5
BURST = 2
MAX_LEASED = 2
"""The limits of the queue called default, while it has any."""
NAMES = ("default", "work", "dead")
BODIES = st.binary(max_size=8)
HEADERS = st.sampled_from([(), (), (("a", "1"),), (("b", ""), ("a", "22"))])
SECONDS = st.sampled_from([0.0, 1.0, 2.0, 3.0, 10.0])
QUEUES = st.sampled_from(NAMES)


@dataclass(frozen=True)
class Held:
    """One message of the model, in exactly one queue and one state."""

    queue: str
    id: int
    body: bytes
    priority: int = 0
    expires: float = inf
    state: str = "ready"
    until: float = inf
    """When it is ready again."""
    receives: int = 0
    releases: int = 0
    failed_in: str = ""
    serial: int = 0
    lapsed: int = 0
    """The lease that expired before it came back, if it was not given out since."""
    headers: Headers = ()
    group: str = ""
    origin: Origin | None = None
    unique: str = ""
    """Its key, as long as it has that; or once had it, if it is a dead letter."""

    def moved(self, queue: str, id: int, failed_in: str = "") -> Held:
        """Return this message as it is in another queue, or in this one again."""
        first = self.origin or Origin(self.queue, self.id)
        origin = Origin(first.queue, first.id, first.receives + self.receives)
        return Held(
            queue,
            id,
            self.body,
            self.priority,
            failed_in=failed_in,
            headers=self.headers,
            group=self.group,
            origin=origin,
            unique=self.unique,
        )

    @property
    def held_in(self) -> tuple[str, str] | None:
        """The queue and the group in which it waits for others, and others for it."""
        return (self.queue, self.group) if self.group and not self.failed_in else None

    @property
    def size(self) -> int:
        return len(self.body) + sum(len(name) + len(value) for name, value in self.headers)

    @property
    def rank(self) -> tuple[int, int]:
        return (-self.priority, self.id)


def ids_in(dropped: list[Dropped]) -> set[int]:
    """The ids of the messages in what a queue gave up: alone, in runs, with a time, or in leases."""
    items = [item for part in dropped for item in (part.values() if isinstance(part, dict) else part)]
    # What a heap has are numbers.
    things = [item.value if isinstance(item, Entry) else item for item in items]
    messages = [message for thing in things for message in (thing if isinstance(thing, Run) else [thing])]
    return {each.id for each in messages if isinstance(each, Message | Lease)}


class QueuesAgainstList(RuleBasedStateMachine):
    """`held` is the model. `out` are messages dequeued and not put back, `leases` every lease ever given."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.broker = self.make_broker()
        self.settings = QueueSettings(
            max_messages=OWN_MESSAGES, max_receives=MAX_RECEIVES, dead_letter="dead", visibility=VISIBILITY
        )
        self.do_configure("work", self.settings)
        self.held: list[Held] = []
        self.out: list[tuple[str, Message]] = []
        self.leases: list[tuple[str, Lease]] = []
        self.acked: set[int] = set()
        self.paused: set[str] = set()
        self.newest: Counter[str] = Counter()
        self.counts: Counter[tuple[str, str]] = Counter()
        self.is_limited = False
        self.tokens = float(BURST)
        self.counted_at = self.now
        """When `tokens` was right."""
        self.places: dict[int, int] = {}
        """Which comes first, of leases that end at one time: by their serial."""
        self.over_before: dict[str, bool] = {}
        self.came_back = True

    def queue(self, name: str) -> Queue:
        self.catch_up()
        return self.broker.find(name)

    # What queues on disk do otherwise

    def catch_up(self) -> None:
        """Let what was done be written, unless the disk is slow."""

    def settle_up(self) -> None:
        """Let all that was done count, or be undone."""

    def known_leases(self) -> list[tuple[str, Lease]]:
        """The leases whose consumers were answered."""
        return self.leases

    def hold_on(self) -> None:
        """Let leases that are on their way to the disk go on, as no consumer was told of them."""

    def make_broker(self) -> Broker:
        return Broker(max_messages=MAX_MESSAGES, max_bytes=MAX_BYTES, max_queues=3, now=self.now)

    def do_configure(self, name: str, settings: QueueSettings) -> None:
        self.broker.configure(name, settings, self.now)

    def do_delete(self, name: str) -> None:
        self.broker.delete(name)

    def do_clear(self, name: str) -> list[Dropped]:
        return self.queue(name).clear().containers()

    def do_pause(self, name: str, paused: bool) -> None:
        self.queue(name).paused = paused

    def do_redrive(self, name: str, limit: int) -> Redriven:
        return self.broker.redrive(name, limit, self.now)

    def do_replace(self, name: str, messages: deque[Message], size: int) -> None:
        self.queue(name).replace(messages, size)

    # What the model says

    def of(self, name: str, *states: str) -> list[Held]:
        held = [each for each in self.held if each.queue == name and each.state in (states or STATES)]
        return sorted(held, key=lambda each: each.rank)

    def first_out(self, each: Held) -> bool:
        """Whether no message of its group that came before is leased or delayed."""
        before = (one for one in self.of(each.queue, "leased", "delayed") if one.id < each.id)
        return each.held_in is None or each.held_in not in {one.held_in for one in before}

    def next_of(self, name: str, limit: int = 99, *, together: bool = True) -> list[Held]:
        """What a consumer would get, or several that want one each."""
        ready = [] if name in self.paused else filter(self.first_out, self.of(name, "ready"))
        chosen: list[Held] = []
        for each in ready:
            if together or each.held_in is None or each.held_in not in {one.held_in for one in chosen}:
                chosen.append(each)
        return chosen[:limit]

    def fits(self, name: str, bodies: list[bytes], headers: Headers = ()) -> bool:
        size = sum(Held(name, 0, body, headers=headers).size for body in bodies)
        full = len(self.held) + len(bodies) > MAX_MESSAGES and bodies
        heavy = sum(each.size for each in self.held) + size > MAX_BYTES and size
        own = name == "work" and len(self.of(name)) + len(bodies) > OWN_MESSAGES and bodies
        return not (full or heavy or own)

    def allowed(self, name: str, limit: int, *, lease: bool) -> int:
        """How many messages the limits of a queue let through."""
        if name != "default" or not self.is_limited:
            return limit
        self.tokens = min(self.tokens + (self.now - self.counted_at) * RATE, BURST)
        self.counted_at = self.now
        room = MAX_LEASED - len(self.of(name, "leased")) if lease else limit
        return max(min(limit, int(self.tokens), room), 0)

    def spend(self, name: str, number: int) -> None:
        if name == "default" and self.is_limited:
            self.allowed(name, 0, lease=False)
            self.tokens = min(self.tokens - number, BURST)

    def change(self, old: Held, new: Held | None) -> None:
        self.held.remove(old)
        if new is not None:
            self.held.append(new)

    def new_id(self, name: str) -> int:
        self.newest[name] += 1
        return self.newest[name]

    def come_back(self, each: Held, delay: float = 0.0, lapsed: int = 0) -> None:
        """Let a lease of the model end."""
        if each.queue == "work" and each.receives >= MAX_RECEIVES:
            self.counts["work", "dead_lettered"] += 1
            self.change(each, self.dead(each))
        elif each.expires <= self.now:
            self.counts[each.queue, "expired"] += 1
            self.change(each, None)
        elif delay:
            until = min(self.now + delay, each.expires)
            self.change(each, replace(each, state="delayed", until=until, serial=0))
        else:
            self.change(each, replace(each, state="ready", until=inf, serial=0, lapsed=lapsed))

    def dead(self, each: Held) -> Held:
        return each.moved("dead", self.new_id("dead"), failed_in="work")

    def keys(self, name: str) -> dict[str, Held]:
        """The messages of a queue that have a key."""
        return {each.unique: each for each in self.of(name) if each.unique and not each.failed_in}

    def holder(self, name: str, lease: Lease) -> Held | None:
        holders = [each for each in self.held if each.serial == lease.serial and each.queue == name]
        return holders[0] if holders else None

    # What can be done

    @rule(
        name=QUEUES,
        body=BODIES,
        priority=st.sampled_from([0, 0, 0, 1, 9]),
        delay=st.sampled_from([0.0, 0.0, 2.0]),
        ttl=st.sampled_from([None, None, 1.0, 3.0]),
        headers=HEADERS,
        group=st.sampled_from(["", "", "a", "a", "b"]),
    )
    def enqueue(
        self, name: str, body: bytes, priority: int, delay: float, ttl: float | None, headers: Headers, group: str
    ) -> None:
        expires = inf if ttl is None else self.now + ttl
        priority = 0 if group else priority
        properties = DEFAULTS
        if priority or ttl or headers or group:
            properties = Properties(priority=priority, expires=expires, headers=headers, group=group)
        if not self.fits(name, [body], headers):
            with pytest.raises(QueueFull) as refusal:
                self.queue(name).enqueue(body, properties, delay=delay, now=self.now)
            assert 1 <= (refusal.value.retry_after or 0) <= 60
            self.counts[name, "refused"] += 1
            return
        message = self.queue(name).enqueue(body, properties, delay=delay, now=self.now)
        assert (message.id, message.body) == (self.new_id(name), body)
        self.counts[name, "enqueued"] += 1
        until, state = (min(self.now + delay, expires), "delayed") if delay else (inf, "ready")
        held = Held(name, message.id, body, priority, expires, state, until, headers=headers, group=group)
        self.held.append(held)

    @rule(
        name=QUEUES,
        body=BODIES,
        key=st.sampled_from("kkl"),
        replacing=st.booleans(),
        delay=st.sampled_from([0.0, 0.0, 2.0]),
        ttl=st.sampled_from([None, None, 3.0]),
        headers=HEADERS,
        group=st.sampled_from(["", "", "a"]),
    )
    def put_unique(
        self,
        name: str,
        body: bytes,
        key: str,
        replacing: bool,
        delay: float,
        ttl: float | None,
        headers: Headers,
        group: str,
    ) -> None:
        expires = inf if ttl is None else self.now + ttl
        properties = Properties(expires=expires, headers=headers, group=group, unique=key)
        there, new = self.keys(name).get(key), Held(name, 0, body, headers=headers)

        def put() -> Placed:
            return self.queue(name).enqueue_unique(body, properties, replace=replacing, delay=delay, now=self.now)

        if there is not None and not replacing:
            assert put() == Placed(there.id, "kept")
            return
        in_place = there is not None and there.state != "leased"
        if there is not None and in_place:
            more = new.size - there.size
            fits = more <= 0 or sum(each.size for each in self.held) + more <= MAX_BYTES
        else:
            fits = self.fits(name, [body], headers)
        if not fits:
            with pytest.raises(QueueFull):
                put()
            self.counts[name, "refused"] += 1
            return
        placed = put()
        if there is not None and in_place:
            assert placed == Placed(there.id, "replaced")
            until = min(self.now + delay if delay else there.until, expires) if there.until < inf else inf
            self.change(there, replace(there, body=body, headers=headers, expires=expires, until=until))
            there = self.keys(name)[key]
            self.change(there, replace(there, receives=0, releases=0, lapsed=0))
            return
        if there is not None:
            self.change(there, replace(there, unique=""))
        assert placed == Placed(self.new_id(name))
        self.counts[name, "enqueued"] += 1
        until, state = (min(self.now + delay, expires), "delayed") if delay else (inf, "ready")
        self.held.append(
            replace(new, id=placed.id, expires=expires, state=state, until=until, group=group, unique=key)
        )

    @rule(
        name=QUEUES,
        bodies=st.lists(BODIES, min_size=1, max_size=4),
        drafts=st.booleans(),
        headers=HEADERS,
        group=st.sampled_from(["", "", "a"]),
    )
    def enqueue_many(self, name: str, bodies: list[bytes], drafts: bool, headers: Headers, group: str) -> None:
        fits = self.fits(name, bodies, headers)
        try:
            if drafts:
                batch = [Draft(body=body, headers=dict(headers), group=group) for body in bodies]
                first = self.queue(name).enqueue_drafts(batch, now=self.now)
            else:
                properties = Properties(headers=headers, group=group) if headers or group else DEFAULTS
                first = self.queue(name).enqueue_bodies(bodies, properties, now=self.now)
        except QueueFull:
            assert not fits
            self.counts[name, "refused"] += 1
            return
        assert fits
        for number, body in enumerate(bodies):
            assert first + number == self.new_id(name)
            self.held.append(Held(name, first + number, body, headers=headers, group=group))
        self.counts[name, "enqueued"] += len(bodies)

    @rule(name=QUEUES, limit=st.sampled_from([1, 1, 2, 9]))
    def dequeue(self, name: str, limit: int) -> None:
        allowed = self.allowed(name, limit, lease=False)
        expected = self.next_of(name, allowed)
        self.spend(name, len(expected))
        if limit == 1:
            one = self.queue(name).dequeue(self.now)
            messages = [] if one is None else [one]
        else:
            messages = list(self.queue(name).dequeue_many(limit, self.now))
        assert [message.id for message in messages] == [each.id for each in expected]
        assert [(message.body, message.properties.headers) for message in messages] == [
            (each.body, each.headers) for each in expected
        ]
        for each, message in zip(expected, messages, strict=True):
            self.change(each, None)
            self.out.append((name, message))
        self.counts[name, "dequeued"] += len(messages)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        self.settle_up()
        if not self.out:
            return
        self.give_back(data.draw(st.integers(0, len(self.out) - 1)))

    def give_back(self, index: int) -> None:
        name, message = self.out.pop(index)
        properties = message.properties
        self.queue(name).put_back(message)
        self.spend(name, -1)
        self.counts[name, "returned"] += 1
        self.came_back = True
        receives, releases, failed_in = properties.receives, properties.releases, properties.failed_in
        self.held.append(
            Held(
                name,
                message.id,
                message.body,
                properties.priority,
                properties.expires,
                "ready",
                inf,
                receives,
                releases,
                failed_in,
                headers=properties.headers,
                group=properties.group,
                origin=properties.origin,
                unique="" if properties.unique in self.keys(name) and not failed_in else properties.unique,
            )
        )
        self.tick()

    @rule(
        name=QUEUES,
        limit=st.sampled_from([1, 1, 3]),
        visibility=st.sampled_from([None, 1.0, 4.0, inf]),
        together=st.booleans(),
    )
    def receive(self, name: str, limit: int, visibility: float | None, together: bool) -> None:
        allowed = self.allowed(name, limit, lease=True)
        expected = self.next_of(name, allowed, together=together)
        self.spend(name, len(expected))
        if limit == 1:
            one = self.queue(name).receive(visibility, self.now)
            leases = [] if one is None else [one]
        else:
            leases = self.queue(name).receive_many(limit, visibility, self.now, together=together)
        assert [lease.message.id for lease in leases] == [each.id for each in expected]
        seconds = self.queue(name).settings.visibility if visibility is None else visibility
        for each, lease in zip(expected, leases, strict=True):
            assert (lease.body, lease.receives) == (each.body, each.receives + 1)
            assert lease.deadline == self.now + seconds
            assert lease.receipt not in {old.receipt for _, old in self.leases}
            self.leases.append((name, lease))
            leased = replace(
                each,
                state="leased",
                until=lease.deadline,
                receives=lease.receives,
                serial=lease.serial,
                lapsed=0,
            )
            self.change(each, leased)
        self.counts[name, "received"] += len(leases)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        self.settle_up()
        if not self.leases:
            return
        name, lease = data.draw(st.sampled_from(self.leases))
        each = self.holder(name, lease)
        if each is None or each.until != lease.deadline:
            return  # only what was just given can fail to be handed over
        self.queue(name).take_back(lease)
        self.spend(name, -1)
        self.counts[name, "received"] -= 1
        self.counts[name, "returned"] += 1
        self.change(each, replace(each, state="ready", until=inf, receives=each.receives - 1, serial=0))
        self.tick()

    @precondition(lambda self: self.known_leases())
    @rule(data=st.data(), action=st.sampled_from(["ack", "release", "release later", "extend"]))
    def settle(self, data: st.DataObject, action: str) -> None:
        """With any receipt ever given: only that of a lease that goes on does anything."""
        name, lease = data.draw(st.sampled_from(self.known_leases()[-6:]))
        queue, each = self.queue(name), self.holder(name, lease)
        act: Callable[[], object] = {
            "ack": lambda: queue.ack(lease.receipt, self.now),
            "release": lambda: queue.release(lease.receipt, 0.0, self.now),
            "release later": lambda: queue.release(lease.receipt, 2.0, self.now),
            "extend": lambda: queue.extend(lease.receipt, 3.0, self.now),
        }[action]
        if each is None:
            late = [held for held in self.of(name, "ready") if held.lapsed == lease.serial]
            if action == "ack" and lease.serial in self.acked:
                act()  # a repeated acknowledgement is fine
            elif action == "ack" and late:
                act()
                self.acked.add(lease.serial)
                self.counts[name, "acked"] += 1
                self.change(late[0], None)
            else:
                with pytest.raises(ReceiptExpired):
                    act()
            return
        act()
        if action == "ack":
            self.acked.add(lease.serial)
            self.counts[name, "acked"] += 1
            self.change(each, None)
        elif action == "extend":
            self.change(each, replace(each, until=self.now + 3.0))
        else:
            self.counts[name, "released"] += 1
            delay = 2.0
            if action == "release":
                each_released = replace(each, releases=each.releases + 1)
                self.change(each, each_released)
                each = each_released
                rests = each.releases - RELEASES_AT_ONCE
                delay = BACKOFF * 2.0 ** (rests - 1) if rests > 0 else 0.0
            self.come_back(each, delay)

    @rule(name=QUEUES, data=st.data())
    def delete_one(self, name: str, data: st.DataObject) -> None:
        queue, held = self.queue(name), self.of(name)
        if not held:
            assert not queue.delete(self.newest[name] + 1, self.now)
            return
        each = data.draw(st.sampled_from(held))
        if each.state == "leased":
            with pytest.raises(MessageLeased):
                queue.delete(each.id, self.now)
            return
        assert queue.delete(each.id, self.now)
        self.counts[name, "cleared"] += 1
        self.change(each, None)

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.tick()

    def tick(self) -> None:
        self.catch_up()
        self.hold_on()
        while self.broker.tick(self.now) <= self.now:
            pass
        for each in [each for each in self.held if each.state == "leased" and each.until <= self.now]:
            self.counts[each.queue, "leases_expired"] += 1
        # In the order in which they are due, for dead letters are numbered in that order.
        for each in sorted(self.held, key=lambda each: (each.until, self.places.get(each.serial, 0))):
            if each.state == "leased" and each.until <= self.now:
                self.come_back(each, lapsed=each.serial)
            elif each.state == "delayed" and each.until <= self.now < each.expires:
                self.change(each, replace(each, state="ready", until=inf))
        for each in [each for each in self.held if each.state != "leased" and each.expires <= self.now]:
            self.counts[each.queue, "expired"] += 1
            self.change(each, None)

    @rule(name=QUEUES)
    def clear(self, name: str) -> None:
        dropped = self.do_clear(name)
        everything = self.of(name)
        # Some are kept in more than one place.
        assert ids_in(dropped) == {each.id for each in everything}
        self.counts[name, "cleared"] += len(everything)
        for each in everything:
            self.change(each, None)

    @rule(name=QUEUES)
    def pause_or_resume(self, name: str) -> None:
        self.paused ^= {name}
        self.do_pause(name, name in self.paused)

    @rule()
    def limit_or_not(self) -> None:
        self.is_limited = not self.is_limited
        self.tokens, self.counted_at = float(BURST), self.now
        limits = QueueSettings(rate=RATE, burst=BURST, max_leased=MAX_LEASED)
        self.do_configure("default", limits if self.is_limited else QueueSettings())

    @rule(limit=st.sampled_from([1, 9]))
    def redrive(self, limit: int) -> None:
        moved = 0
        for each in self.of("dead", "ready"):
            room = len(self.of("work")) < OWN_MESSAGES
            if each.failed_in == "work" and room and moved < limit:
                there = each.moved("work", self.new_id("work"))
                if each.unique in self.keys("work"):
                    there = replace(there, unique="")
                self.change(each, there)
                moved += 1
        redriven = self.do_redrive("dead", limit)
        assert (redriven.moved, redriven.left) == (moved, len(self.of("dead", "ready")))
        self.counts["dead", "redriven"] += moved

    @rule(bodies=st.lists(BODIES, max_size=3))
    def replace(self, bodies: list[bytes]) -> None:
        queue = self.queue("default")
        first = queue.reserve(len(bodies))
        self.newest["default"] += len(bodies)
        messages = deque(Message(first + number, body) for number, body in enumerate(bodies))
        others = [each for each in self.held if each.queue != "default"]
        size = sum(map(len, bodies))
        more_messages = len(others) + len(bodies) > max(MAX_MESSAGES, len(self.held))
        more_bytes = sum(each.size for each in others) + size > max(
            MAX_BYTES, sum(each.size for each in self.held)
        )
        try:
            self.do_replace("default", messages, size)
        except QueueFull:
            assert more_messages or more_bytes
            return
        assert not more_messages
        assert not more_bytes
        self.counts["default", "cleared"] += len(self.of("default"))
        self.held = others + [Held("default", first + number, body) for number, body in enumerate(bodies)]

    @precondition(lambda self: not self.out)
    @rule()
    def delete_and_make_again(self) -> None:
        """Receipts of the old queue are worth nothing in the new one."""
        self.settle_up()
        if self.out:
            return
        self.do_delete("work")
        self.held = [each for each in self.held if each.queue != "work"]
        self.do_configure("work", self.settings)
        for key in [key for key in self.counts if key[0] == "work"]:
            del self.counts[key]
        self.acked -= {lease.serial for name, lease in self.leases if name == "work"}
        self.paused.discard("work")
        self.newest["work"] = 0
        self.settle_up()

    def learn_places(self) -> None:
        """Take over which lease comes first, of those that end at one time."""
        for name in NAMES:
            serials = {each.id: each.serial for each in self.of(name, "leased")}
            seen = self.queue(name).peek("leased", 100)
            self.places |= {serials[one.message.id]: place for place, one in enumerate(seen)}

    # What must hold

    @invariant()
    def every_message_is_in_exactly_one_place(self) -> None:
        for name in NAMES:
            for state in STATES:
                seen = self.queue(name).peek(state, 100)
                expected = self.of(name, state)
                if state == "leased":
                    self.learn_places()
                if state != "ready":
                    expected.sort(key=lambda each: (each.until, self.places.get(each.serial, each.id)))
                assert [(one.message.id, one.message.body, one.message.properties.headers) for one in seen] == [
                    (each.id, each.body, each.headers) for each in expected
                ]
                assert [one.receives for one in seen] == [each.receives for each in expected]
                assert [one.message.properties.origin for one in seen] == [each.origin for each in expected]
                assert [one.due or inf for one in seen] == [each.until for each in expected]
                for each in expected:
                    found = self.queue(name).find(each.id)
                    assert found is not None
                    assert (found.message.body, found.state) == (each.body, each.state)
            assert self.queue(name).bodies() == [each.body for each in self.of(name)]
            assert self.queue(name).find(self.newest[name] + 1) is None
            ids = {key: each.id for key, each in self.keys(name).items()}
            assert (self.queue(name).held().unique or {}) == ids

    @invariant()
    def all_that_is_counted_is_right(self) -> None:
        for name in NAMES:
            stats, held = self.queue(name).stats(), self.of(name)
            assert (stats.messages, stats.bytes) == (len(held), sum(each.size for each in held))
            assert (stats.ready, stats.delayed, stats.leased) == tuple(len(self.of(name, one)) for one in STATES)
            for what in [
                "enqueued",
                "dequeued",
                "received",
                "acked",
                "released",
                "leases_expired",
                "expired",
                "dead_lettered",
                "redriven",
                "refused",
                "returned",
                "cleared",
            ]:
                assert getattr(stats, what) == self.counts[name, what], (name, what)
        totals = self.broker.totals()
        assert (totals.messages, totals.bytes) == (len(self.held), sum(each.size for each in self.held))
        assert (self.broker.messages, self.broker.bytes) == (totals.messages, totals.bytes)

    @invariant()
    def only_a_message_coming_back_takes_the_queues_beyond_a_cap(self) -> None:
        over = {"messages": len(self.held) > MAX_MESSAGES}
        over["bytes"] = sum(each.size for each in self.held) > MAX_BYTES
        over["own"] = len(self.of("work")) > OWN_MESSAGES
        if not self.came_back:
            assert all(self.over_before[what] for what in over if over[what])
        self.over_before, self.came_back = over, False

    @invariant()
    def a_consumer_who_gets_nothing_is_told_why(self) -> None:
        for name in NAMES:
            queue, waiting = self.queue(name), self.of(name, "delayed", "leased")
            until = min((each.until for each in waiting if self.first_out(each)), default=inf)
            if queue.why_empty() == "limited":
                # So a take was told. Since then only time has passed, which the queue is not told of here.
                assert name == "default"
                assert self.is_limited
                assert self.next_of(name)
                assert not queue.available
                continue
            assert queue.next_visible() == (inf if name in self.paused else until)
            until = min((each.until for each in waiting), default=inf)
            if name in self.paused:
                assert queue.why_empty() == "paused"
            elif not (self.next_of(name) or all(map(self.first_out, self.of(name, "ready")))):
                assert queue.why_empty() == "blocked"
            elif not waiting:
                assert queue.why_empty() == "empty"
            elif not self.next_of(name):
                assert queue.why_empty() in {each.state for each in waiting if each.until == until}
            assert queue.available == bool(self.next_of(name))

    @invariant()
    def a_message_that_changed_queues_is_found_by_its_first_id(self) -> None:
        for each in self.held:
            queue = self.queue(each.queue)
            if each.origin is not None:
                assert queue.find_from(each.origin.queue, each.origin.id) == each.id
            assert queue.find_from(each.queue, each.id) is None

    @invariant()
    def limits_hold_nothing_back_that_they_need_not(self) -> None:
        queue = self.queue("default")
        if self.is_limited and self.next_of("default"):
            allowed = self.allowed("default", 1, lease=True)
            queue.tick(self.now, 1000)
            assert queue.available or not allowed

    @invariant()
    def the_alarm_is_not_later_than_what_is_due_next(self) -> None:
        # `until` of what is ready is no time; of what is leased with a ttl, only the lease's end counts.
        due = [min(each.until, each.expires if each.state != "leased" else inf) for each in self.held]
        assert self.now < self.broker.tick(self.now) <= min(due, default=inf)


QueuesAgainstList.TestCase.settings = settings(stateful_step_count=40, deadline=None)
test_the_queues_agree_with_a_list = QueuesAgainstList.TestCase
