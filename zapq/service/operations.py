"""What can be asked of the queues, and what comes of it: one frozen value for each.

Every dialect turns a request into one of these operations, has `Engine.perform` do it, and turns the outcome into
its answer. So what a request means is separate from how it is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from zapq.core.complaints import unit_of, written
from zapq.core.headers import checked_headers
from zapq.core.message import CONTENT_TYPE, DEFAULTS, GROUP, OCTETS, UNIQUE, Draft, Properties, owned_bodies
from zapq.core.placed import How, Placed
from zapq.core.queue_settings import QueueSettings
from zapq.core.settlement import Action as Action
from zapq.core.settlement import Settlement as Settlement
from zapq.core.stats import State
from zapq.errors import InvalidParameter
from zapq.limits import DEFAULT_QUEUE, MAX_BATCH, MAX_DELAY, MAX_PRIORITY, MAX_VISIBILITY, MAX_WAIT, PEEK
from zapq.service.reservation import Reservation
from zapq.service.waiting import ONE, Deliveries, Lender, Want

_CONTENT_TYPE = re.compile(CONTENT_TYPE)
_GROUP = re.compile(GROUP)
_UNIQUE = re.compile(UNIQUE)
Durability = Literal["committed", "replicated", "memory"]
"""What an accepted message survives: a crash (`committed`), the loss of one machine (`replicated`), or neither
(`memory`)."""


class Terms(msgspec.Struct, frozen=True):
    """On what terms a producer sends: what the messages of many requests have in common. Durations are seconds."""

    properties: Properties = DEFAULTS
    """Of a batch: those of messages that do not bring their own."""
    delay: float = 0.0
    ttl: float | None = None
    durability: Durability | None = None
    """What a message must survive before it is answered for; None: what the service is set to."""
    wait: float = 0.0
    """How long to wait for room, if the queue is full."""
    replace: bool = False
    """Whether a message with a key takes the place of the one that is held with that, which otherwise is kept."""

    def lasting(self, now: float) -> Properties:
        """Return the properties of a message that is sent now."""
        if self.ttl is None:
            return self.properties
        return msgspec.structs.replace(self.properties, expires=now + self.ttl)


PLAIN = Terms()


class Offer(msgspec.Struct, frozen=True):
    """What a producer asks for, as `Want` is what a consumer asks for."""

    content: bytes | Sequence[bytes | Draft]
    """One message, or a batch of 1 to 1000 that is stored whole or not at all."""
    terms: Terms = PLAIN
    key: str = ""
    """Under the same key the same content is stored once."""
    packed: bytes = b""
    """The batch as it came, if that was as msgpack."""
    exempt_from_drain: bool = False
    """Whether receiving it began before `drain`, which then does not refuse it."""
    reserved: Reservation | None = None
    """Room that was kept for it while it was being received; storing it releases that."""


class Put(Offer, frozen=True):
    """Store what is offered; a queue that is not there is made."""

    queue: str = DEFAULT_QUEUE
    any_content: bool = False
    """Whether other content under the same key is taken for a repetition as well, and not refused."""


def owned(offer: Offer) -> Offer:
    """Return an offer with bodies that nothing changes later; raises `TypeError` unless they are bytes."""
    content = owned_bodies(offer.content)
    return offer if content is offer.content else msgspec.structs.replace(offer, content=content)


class Enqueue(msgspec.Struct, frozen=True, gc=False):
    """Store one message without further terms: a `Put` in its commonest form, which costs half as much to make."""

    queue: str
    body: bytes
    properties: Properties = DEFAULTS
    delay: float = 0.0

    def as_put(self) -> Put:
        """Return the same in the longer form."""
        return Put(self.body, Terms(self.properties, self.delay), queue=self.queue)


class Take(msgspec.Struct, frozen=True):
    """Give or lease messages, after waiting for the first one for up to `wait` seconds."""

    queue: str
    want: Want
    wait: float = 0.0


class Settle(msgspec.Struct, frozen=True):
    """End or extend many leases, each by itself."""

    queue: str
    settlements: Sequence[Settlement]


class SettleOne(msgspec.Struct, frozen=True):
    """End or extend one lease, or refuse."""

    queue: str
    settlement: Settlement


class Remove(msgspec.Struct, frozen=True):
    """Let a message go that has been leased before, whether its lease goes on or is over; or do nothing."""

    queue: str
    id: int


class Hide(msgspec.Struct, frozen=True):
    """Keep a message from consumers that has been leased before, whether its lease goes on or is over."""

    queue: str
    id: int
    visibility: float


class Remember(msgspec.Struct, frozen=True):
    """Take note of what was received under an attempt id: each message's id, and the receipt."""

    queue: str
    attempt: str
    leases: Sequence[tuple[int, str]]


class Recall(msgspec.Struct, frozen=True):
    """Give what was received under an attempt id once more, by the same receipts, and let each lease begin anew.

    Nothing is given unless every lease is as it was: not over, not settled and not extended.
    """

    queue: str
    attempt: str
    visibility: float | None = None
    """Seconds each lease lasts from now; None: as long as it was given for."""


class Peek(msgspec.Struct, frozen=True):
    """Show the first messages in a state."""

    queue: str
    state: State = "ready"
    limit: int = PEEK


class Find(msgspec.Struct, frozen=True):
    """Show one message."""

    queue: str
    id: int = 0


class Describe(msgspec.Struct, frozen=True):
    """Show the settings and statistics of one queue."""

    queue: str


class Look(msgspec.Struct, frozen=True, gc=False):
    """Show what is set for one queue, and no more: that costs a fraction of a `Describe`."""

    queue: str


class List(msgspec.Struct, frozen=True):
    """Show those of every queue whose name fits `pattern`."""

    pattern: str = "*"


class ListPage(msgspec.Struct, frozen=True):
    """Show a page of those of the queues whose name fits both patterns and begins with `prefix`, in order."""

    pattern: str = "*"
    """Of the queues the client may know of."""
    like: str = "*"
    """Of those it asks for."""
    prefix: str = ""
    sort: str = "name"
    """A key of `paging.SORTS`, with a minus in front of it for the other way round."""
    limit: int = MAX_BATCH
    after: str = ""
    """Where the page before ended: its `Page.next`."""


class History(msgspec.Struct, frozen=True):
    """Show what the queues whose name fits `pattern` and one of `wanted` held and did in the last minutes."""

    pattern: str = "*"
    wanted: tuple[str, ...] = ("*",)
    """Patterns."""
    limit: int = MAX_BATCH


class Configure(msgspec.Struct, frozen=True):
    """Set everything that can be set for a queue; one that is not there is made."""

    queue: str
    settings: QueueSettings


class ChangeSettings(msgspec.Struct, frozen=True):
    """Set some of what can be set for a queue; None puts one setting back to its default."""

    queue: str
    changes: dict[str, object]


class Delete(msgspec.Struct, frozen=True):
    """Remove a queue with all it holds."""

    queue: str


class DeleteMessage(msgspec.Struct, frozen=True):
    """Let one message go that no consumer holds."""

    queue: str
    id: int = 0


class Purge(msgspec.Struct, frozen=True):
    """Drop every message of a queue."""

    queue: str


class SetPaused(msgspec.Struct, frozen=True):
    """Stop or go on giving messages to consumers."""

    queue: str
    paused: bool


class Redrive(msgspec.Struct, frozen=True):
    """Send dead letters back to the queues they failed in."""

    queue: str
    limit: int = MAX_BATCH
    id: int = 0
    """The one to send back; 0: the first ones, at most `limit`."""


class Drain(msgspec.Struct, frozen=True):
    """Accept no new messages from now on."""


class Advance(msgspec.Struct, frozen=True):
    """Move the time of the queues on."""

    seconds: float


class Stats(msgspec.Struct, frozen=True):
    """Count what the service holds and has done."""

    sums: bool = True
    """Whether to add up all queues, which takes as long as there are queues. If not, the sums may be empty."""


class Ready(msgspec.Struct, frozen=True):
    """Tell whether messages can be accepted now."""


class Save(msgspec.Struct, frozen=True):
    """Write a snapshot."""

    file: str


class Load(msgspec.Struct, frozen=True):
    """Replace the queues by a snapshot."""

    file: str


class ListSnapshots(msgspec.Struct, frozen=True):
    """Show the snapshots in the data directory."""


Operation = (
    Put
    | Enqueue
    | Take
    | Settle
    | SettleOne
    | Remove
    | Hide
    | Remember
    | Recall
    | Peek
    | Find
    | Describe
    | Look
    | List
    | ListPage
    | History
    | Configure
    | ChangeSettings
    | Delete
    | DeleteMessage
    | Purge
    | SetPaused
    | Redrive
    | Drain
    | Advance
    | Stats
    | Ready
    | Save
    | Load
    | ListSnapshots
)


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """What comes of an offer."""

    id: int
    """The message's; of a batch, that of the first."""
    replayed: bool = False
    """Whether it was stored before, under the same key: then nothing was stored now."""
    durability: Durability | None = None
    """What it survives, where that is a question."""
    unique: How = ""
    """Whether a message with its key was held: `kept`, and nothing was stored, or `replaced`."""
    placed: tuple[Placed, ...] = ()
    """What became of each message of a batch in which messages have keys; empty for others."""


class Looked(msgspec.Struct, frozen=True, gc=False):
    """What comes of a `Look`; an engine may give more."""

    settings: QueueSettings


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """What comes of taking, if there is something."""

    queue: Lender
    given: Deliveries
    """Messages if they are given for good, else leases; at least one."""


class Nothing(msgspec.Struct, frozen=True, gc=False):
    """What comes of taking, if there is nothing."""

    why: str
    """`paused`, `limited`, `blocked`, `leased`, `delayed` (the one of these two that ends first) or `empty`."""
    next_visible_in: float
    """Seconds until a message that is delayed or leased will be ready, or the queue's limits let one through, if
    nothing happens before."""


def terms(
    *,
    priority: int = 0,
    delay: float = 0.0,
    ttl: float | None = None,
    content_type: str = OCTETS,
    headers: Mapping[str, str] | None = None,
    group: str | None = None,
    unique: str | None = None,
    on: str | None = None,
    durability: Durability | None = None,
    wait: float = 0.0,
) -> Terms:
    """Return the terms of an offer; `InvalidParameter` for a value out of range."""
    check("priority", priority, 0, MAX_PRIORITY)
    check("delay", delay, 0, MAX_DELAY)
    check("ttl", ttl, 0, MAX_DELAY)
    check("wait", wait, 0, MAX_WAIT)
    if ttl == 0:
        raise InvalidParameter("ttl must be more than 0 seconds.", parameter="ttl")
    if group is not None:
        if not _GROUP.fullmatch(group):
            raise InvalidParameter("group must be 1 to 128 visible ASCII characters.", parameter="group")
        if priority:
            raise InvalidParameter(
                "A message of a group can have no priority: its group keeps the order in which messages came."
                " Leave out group or priority.",
                parameter="priority",
            )
    if unique is not None and not _UNIQUE.fullmatch(unique):
        raise InvalidParameter("unique must be 1 to 128 visible ASCII characters.", parameter="unique")
    if on is not None:
        if on not in {"keep", "replace"}:
            raise InvalidParameter("on must be keep or replace.", parameter="on")
        if unique is None:
            raise InvalidParameter(
                "on says what happens to the message that is held with the key of this one, which has no key."
                " Give it one with unique, or leave out on.",
                parameter="on",
            )
    if content_type == OCTETS and priority == 0 and not headers and not group and not unique:
        properties = DEFAULTS
    elif _CONTENT_TYPE.fullmatch(content_type):
        said = checked_headers(headers.items()) if headers else ()
        properties = Properties(content_type, priority, headers=said, group=group or "", unique=unique or "")
    else:
        raise InvalidParameter(
            "content_type must be 1 to 255 visible ASCII characters and spaces.", parameter="content_type"
        )
    return Terms(properties, delay, ttl, durability, wait, on == "replace")


def checked_want(limit: int, *, lease: bool, visibility: float | None = None) -> Want:
    """Return what a consumer asks for; `InvalidParameter` for a value out of range."""
    check("visibility", visibility, 0, MAX_VISIBILITY)
    if limit == 1 and not lease:
        return ONE
    return Want(checked_limit(limit), lease, visibility)


def checked_limit(limit: int, name: str = "max") -> int:
    """Return `limit` if it is 1 to 1000, else raise `InvalidParameter`."""
    check(name, limit, 1, MAX_BATCH)
    return limit


def check(name: str, value: float | None, low: float, high: float) -> None:
    """Raise `InvalidParameter` unless `value` is None or within `low` and `high`."""
    # Also what is not a number, which no comparison is true for.
    try:
        good = value is None or low <= value <= high
    except TypeError:
        raise TypeError(f"{name} is a number, not {value!r}.") from None
    if not good:
        assert value is not None
        raise InvalidParameter(
            f"{name}={written(value)} is out of range. Give {written(low)} to {written(high)}{unit_of(name)}.",
            parameter=name,
        )
