"""What a front end and the process that has the queues say to each other: operations one way, outcomes the other.

A frame is a list of columns: what many requests have in common is said once, and what differs is a list. Decoding
one column of 32 messages costs a tenth of decoding 32 operations. Both sides count the operations of a connection,
in the order they were sent; that number is how an outcome says whose it is. Times are those of Trio's clock, which
front ends have from the process that has the queues.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any

import msgspec

from zapq.core.broker import Redriven
from zapq.core.message import DEFAULTS, Lease, Message, Origin, Properties
from zapq.core.runs import Run, Taken
from zapq.core.stats import MessageView
from zapq.errors import BY_PROBLEM, ZapqError
from zapq.service import operations
from zapq.service.history import Samples
from zapq.service.operations import Operation
from zapq.service.paging import Page
from zapq.service.queue_state import QueueInfo
from zapq.service.service_stats import ServiceStats
from zapq.service.snapshots import SnapshotFile


class Ask(IntEnum):
    """What a column of requests holds. All but the first four have no outcome, and no number."""

    ENQUEUE = 0
    """Bodies; in common: the queue, properties and delay."""
    TAKE = 1
    """How many times; in common: the queue, limit, whether to lease, visibility, wait."""
    ACK = 2
    """Receipts; in common: the queue."""
    OTHER = 3
    """Operations; in common: their kind."""
    GIVE_UP = 4
    """Numbers of operations whose clients have left."""
    RETURN_MESSAGES = 5
    """Messages that could not be handed over; in common: the queue and its tag."""
    RETURN_LEASES = 6
    """Leases on such messages; in common: the queue, its tag, and for how long."""
    UNCERTAIN = 7
    """How many messages may or may not have been handed over; in common: the queue."""
    COUNTS = 8
    """What the front end has counted, in one element."""
    READY = 9
    """That it accepts clients; no elements."""
    FIGURES = 10
    """That it wants to know what all others have counted; no elements."""


class Tell(IntEnum):
    """What a column of outcomes holds."""

    ACCEPTED = 0
    """Ids; in common: what the messages survive."""
    MESSAGE = 1
    """Messages given for good; in common: their queue and its tag."""
    LEASE = 2
    """Leased messages; in common: their queue, its tag, and for how long."""
    SETTLED = 3
    """How many leases are over."""
    BATCH = 4
    """Lists of messages; in common: their queue, its tag, and for how long, or None if for good."""
    NOTHING = 5
    """Why a consumer gets nothing, and until when."""
    REFUSED = 6
    """Errors."""
    OTHER = 7
    """Outcomes, as the operation has them."""
    COUNTS = 8
    """No outcome: the front end is asked for what it has counted."""
    ORDER = 9
    """No outcome: the front end is to do something. In common: an `Order`; the element says more."""
    FIGURES = 10
    """What all others have counted, in one element: so many it is told of as it has asked for, in order."""


class Order(IntEnum):
    """What a front end can be told to do."""

    STOP = 0
    """Answer what has been asked, and end, within so many seconds."""
    RELOAD = 1
    """Read the token file and the certificates again."""


_MOSTLY = Properties.__struct_fields__.index("headers")
"""How many fields of properties are sent if those behind them are empty."""
Figures = dict[str, int]
"""What a process has counted, by the names of the metrics."""


def added(some: Mapping[str, int], others: Mapping[str, int]) -> Figures:
    """Return the sum of what two processes have counted."""
    return {name: some.get(name, 0) + others.get(name, 0) for name in some.keys() | others.keys()}


Column = tuple[int, Any, Any, list[Any]]
"""Its kind; what its elements have in common, or the number of the first; more of that; the elements."""
Requests = msgspec.msgpack.Decoder(tuple[int, list[Column]])
"""The last frame of outcomes that the front end has dealt with, and columns: kind, queue, in common, elements."""
Outcomes = msgspec.msgpack.Decoder(tuple[int, bool, bool, list[Column]])
"""The frame's number, whether it is the reply to one of requests, whether new messages are refused, and columns:
kind, number of the first operation, in common, elements."""
encode: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode

KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in Operation.__args__}
"""Operations by name."""
OUTCOMES: dict[type[Any], Any] = {
    operations.Put: operations.Accepted,
    operations.Remove: bool,
    operations.Hide: bool,
    operations.Recall: list[Lease],
    operations.Peek: list[MessageView],
    operations.Find: MessageView,
    operations.Describe: QueueInfo,
    operations.Look: operations.Looked,
    operations.List: list[QueueInfo],
    operations.ListPage: Page,
    operations.History: Samples,
    operations.Configure: tuple[bool, QueueInfo],
    operations.ChangeSettings: QueueInfo,
    operations.Purge: int,
    operations.Redrive: Redriven,
    operations.Stats: ServiceStats,
    operations.Save: int,
    operations.Load: int,
    operations.ListSnapshots: list[SnapshotFile],
    operations.SettleOne: Lease | None,
}
"""What comes of each kind of operation that is told as `Tell.OTHER`; of the others nothing does."""


def pack_properties(properties: Properties) -> tuple[Any, ...] | None:
    """Return properties as a column has them."""
    if properties is DEFAULTS or properties == DEFAULTS:
        return None
    known = msgspec.structs.astuple(properties)
    return known[:_MOSTLY] if properties.is_short else known


def unpack_properties(packed: Sequence[Any] | None) -> Properties:
    """Return properties from what a column has of them."""
    if packed is None:
        return DEFAULTS
    properties = Properties(*packed)
    if len(packed) == _MOSTLY:
        return properties
    # Arrays come as lists.
    origin = None if properties.origin is None else Origin(*properties.origin)
    return msgspec.structs.replace(properties, headers=tuple(map(tuple, properties.headers)), origin=origin)


def pack_message(message: Message) -> tuple[Any, ...]:
    """Return a message as a column has it."""
    if message.properties is DEFAULTS:
        return message.id, message.body
    return message.id, message.body, pack_properties(message.properties)


def unpack_message(packed: Sequence[Any]) -> Message:
    """Return a message from what a column has of it."""
    if len(packed) == 2:
        return Message(packed[0], packed[1])
    return Message(packed[0], packed[1], unpack_properties(packed[2]))


def pack_lease(lease: Lease) -> tuple[Any, ...]:
    """Return a lease as a column has it, without what those of one queue have in common."""
    return (lease.serial, lease.receives, lease.deadline, *pack_message(lease.message))


def pack_leases(leases: Sequence[Lease]) -> list[tuple[Any, ...]]:
    """Return leases as a column has them."""
    # As `pack_lease`, without the calls: this is done for each message leased.
    return [
        (lease.serial, lease.receives, lease.deadline, message.id, message.body)
        if (message := lease.message).properties is DEFAULTS
        else pack_lease(lease)
        for lease in leases
    ]


def unpack_lease(packed: Sequence[Any], common: Sequence[Any]) -> Lease:
    """Return a lease from what a column has of it; `common` is the queue, the tag, and for how long."""
    queue, tag, visibility = common
    return Lease(unpack_message(packed[3:]), packed[0], packed[1], packed[2], tag, visibility, queue)


def pack_taken(taken: Taken) -> list[Any]:
    """Return messages taken together, their runs as they came."""
    return [
        [part.first, part.count, part.size, pack_properties(part.properties), part.packed, part.apart]
        if isinstance(part, Run)
        else pack_message(part)
        for part in taken.parts
    ]


def unpack_taken(packed: Sequence[Any]) -> Taken:
    """Return messages taken together."""
    taken = Taken()
    for part in packed:
        if len(part) == 6:
            first, count, size, properties, together, apart = part
            taken.add(Run(first, count, size, unpack_properties(properties), together, tuple(apart)))
        else:
            taken.add(unpack_message(part))
    return taken


def pack_error(error: ZapqError) -> tuple[Any, ...]:
    """Return an error as a column has it."""
    return error.problem, error.detail, error.members, error.retry_after


def unpack_error(packed: Sequence[Any]) -> ZapqError:
    """Return an error from what a column has of it."""
    problem, detail, members, retry_after = packed
    error = BY_PROBLEM.get(problem, ZapqError)(detail, **members)
    error.retry_after = retry_after
    return error


def pack_settled(errors: Sequence[ZapqError | None]) -> list[Any]:
    """Return what came of settlements, one by one."""
    return [None if error is None else pack_error(error) for error in errors]


def unpack_settled(packed: Sequence[Any]) -> list[ZapqError | None]:
    """Return what came of settlements, one by one."""
    return [None if error is None else unpack_error(error) for error in packed]
