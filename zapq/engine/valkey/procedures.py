"""What concerns more than one queue or shard, as steps: each yields calls, and is sent what came of them.

Two slots cannot be changed in one step. So every procedure may end between any two of its steps, and what is left
then is seen to by the next one, or by the sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from fnmatch import fnmatchcase
from math import inf
from typing import Any, NamedTuple, TypeAlias

import msgspec

from zapq.core.ages import Oldest
from zapq.core.broker import Redriven
from zapq.core.queue_settings import QueueSettings, changed, check_settings, in_a_circle
from zapq.core.stats import MessageView, QueueStats
from zapq.engine.valkey import attempts, keys, replies
from zapq.engine.valkey.call import Call
from zapq.engine.valkey.codec import Codec
from zapq.errors import (
    MessageNotFound,
    QueueFull,
    QueueInUse,
    QueueNotFound,
    ZapqError,
    leased_for,
    no_letter,
    no_queue_to_go_to,
)
from zapq.limits import DEFAULT_QUEUE
from zapq.service.operations import (
    ChangeSettings,
    Configure,
    Delete,
    List,
    Operation,
    Recall,
    Redrive,
    Remember,
    Stats,
    checked_limit,
)
from zapq.service.queue_state import QueueInfo

Procedure: TypeAlias = Generator[list[Call], list[list[Any]], Any]
"""Yields calls to be made at once, and is sent a list of outcomes for each."""

_pack: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode
_Entry: TypeAlias = tuple[int, bytes, int, bytes]
"""Of an outbox: number, the queue it is for, priority, and the message as that queue keeps it."""

SHARDS_AT_ONCE = 128
"""Shards asked at once: some 2 ms of a single server, and as long here, in which no request is answered."""
QUEUES_AT_ONCE = 500
"""Queues of one shard listed at once: some 5 ms."""
SWEPT_AT_ONCE = 100
"""Queues of one shard looked at in one sweep; the others come in the next one."""
CLAIM_SECONDS = 2
"""Seconds for which a sweep has the queues it found to itself."""
MOVED_AT_ONCE = 1000
"""Messages that change queues at once."""
MAX_CHAIN = 100
"""Queues whose dead letters go from one to the next: more are taken for a circle."""
MOST_REPAIRED = 200_000
"""Messages of a queue that can be repaired: some 0.5 s, in which the server serves no one else."""
ATTEMPTS = 10
"""Times a change is tried while others change the same."""


class Sums(NamedTuple):
    """What comes of `Stats`."""

    stats: QueueStats
    """All queues together, deleted ones included."""
    queues: int
    outbox: int
    """Messages on their way from one queue to another."""
    uncertain: int
    """Messages that may or may not have been handed over."""
    oldest: Oldest
    """Since when the oldest message is there."""


class Repaired(NamedTuple):
    """What a repair of a queue has found, and mended if it was to."""

    lost: int
    """Messages that were nowhere; they are ready again."""
    strays: int
    """Entries without a message; they are removed."""
    doubles: int
    """Entries of messages that were elsewhere as well; they are removed."""
    notes: int
    """Notes of messages that are gone; they are removed."""
    figures: bool
    """Whether the figures of the queue were wrong; they are right now."""


def of(codec: Codec, operation: Operation) -> Procedure:
    """Return the steps of an operation that is more than one call."""
    match operation:
        case Configure(queue, settings):
            return configure(codec, queue, settings)
        case ChangeSettings(queue, changes):
            return change_settings(codec, queue, changes)
        case Delete(queue):
            return delete(codec, queue)
        case Redrive(queue, limit, id):
            if id:
                return redrive_one(codec, queue, id)
            return redrive(codec, queue, checked_limit(limit, "limit"))
        case Remember():
            return _alone(attempts.remember(codec, operation))
        case Recall():
            return _alone(attempts.recall(codec, operation))
        case List(pattern):
            return list_queues(codec, pattern)
        case _:
            assert isinstance(operation, Stats)
            return sums(codec)


def _alone(call: Call) -> Procedure:
    return _only((yield [call]))


def _only(outcomes: list[list[Any]]) -> Any:
    """Return the one outcome of one call; raises it if it is an error."""
    [[outcome]] = outcomes
    if isinstance(outcome, ZapqError):
        raise outcome
    return outcome


def _check_settings(codec: Codec, queue: str, settings: QueueSettings) -> Procedure:
    """Raise `InvalidParameter` unless `settings` can hold for a queue."""
    check_settings(settings)
    seen, after = {queue}, settings.dead_letter
    while after is not None:
        if after in seen or len(seen) > MAX_CHAIN:
            raise in_a_circle()
        seen.add(after)
        [[there]] = yield [codec.describe(after)]
        after = None if isinstance(there, ZapqError) else replies.settings_of(there[1]).dead_letter


def _configured(codec: Codec, queue: str, settings: QueueSettings, before: bytes | None) -> Procedure:
    """Set all that can be set; None if others than `before` were there. Returns whether the queue was made."""
    most = codec.caps.queues_of_shard
    dead_letter = settings.dead_letter
    if dead_letter is not None:
        # First there, so that no dead letter is ever sent to a queue that may be deleted.
        _only((yield [feed(codec, dead_letter, queue, True)]))
    arguments = [b"%d" % most, replies.pack_settings(settings)]
    if before is not None:
        arguments.append(before)
    said = _only((yield [codec.step(b"configure", queue, *arguments, decode=_made)]))
    if said is None:
        return None
    is_made, former = said
    old = replies.settings_of(former).dead_letter
    if old is not None and old != dead_letter:
        yield [feed(codec, old, queue, False)]
    return is_made


def _made(reply: list[Any]) -> Any:
    if isinstance(reply[2], list):
        return replies.too_many_queues(reply[2])
    if reply[2] == b"changed":
        return None
    return bool(reply[2]), reply[3]


def feed(codec: Codec, queue: str, other: str, comes: bool) -> Call:
    """Return the call that notes at `queue` that dead letters of `other` come to it, or no longer do."""

    def decode(reply: list[Any]) -> Any:
        return replies.too_many_queues(reply[2]) if isinstance(reply[2], list) else None

    return codec.step(b"feed", queue, _pack((codec.caps.queues_of_shard, other, comes)), decode=decode)


def configure(codec: Codec, queue: str, settings: QueueSettings) -> Procedure:
    """Set everything that can be set; returns whether the queue was made for that, and what there is to know."""
    yield from _check_settings(codec, queue, settings)
    is_made = yield from _configured(codec, queue, settings, None)
    info, _ = _only((yield [codec.describe(queue)]))
    return is_made, info


def change_settings(codec: Codec, queue: str, changes: dict[str, object]) -> Procedure:
    """Set some of what can be set; two changes at once are both made. Returns what there is to know."""
    for _ in range(ATTEMPTS):
        _, packed = _only((yield [codec.describe(queue)]))
        settings = changed(replies.settings_of(packed), changes)
        yield from _check_settings(codec, queue, settings)
        if (yield from _configured(codec, queue, settings, packed)) is not None:
            info, _ = _only((yield [codec.describe(queue)]))
            return info
    raise QueueInUse("Others change the settings of this queue all the time. Try again later.", queue=queue)


def delete(codec: Codec, queue: str) -> Procedure:
    """Remove a queue with all it holds. Raises `QueueNotFound` and `QueueInUse`."""
    if queue == DEFAULT_QUEUE:
        raise QueueInUse(f"The queue {queue} cannot be deleted. Purge it instead.", queue=queue)
    wrong: list[str] = []
    shard = keys.shard_of(queue)
    further = keys.past_key(shard), keys.given_key(queue)
    _, packed = _only((yield [codec.describe(queue)]))
    for _ in range(ATTEMPTS):
        said = _only((yield [codec.step(b"delete", queue, _pack(wrong), further=further)]))
        if said[2] == b"done":
            dead_letter = replies.settings_of(packed).dead_letter
            if dead_letter is not None:
                yield [feed(codec, dead_letter, queue, False)]
            return None
        if said[2] == b"outbox":
            yield from flush_outbox(codec, queue)
            continue
        # A front end may have ended between noting that and setting it.
        feeders = sorted(name.decode() for name in said[3])
        outcomes = yield [codec.describe(name) for name in feeders]
        for name, [there] in zip(feeders, outcomes, strict=True):
            if not isinstance(there, ZapqError) and replies.settings_of(there[1]).dead_letter == queue:
                raise QueueInUse(
                    f"{queue} is the dead-letter queue of {name}. Change the settings of {name} first.",
                    queue=queue,
                )
            wrong.append(name)
    raise QueueInUse("Messages on their way to other queues arrive all the time. Try again later.", queue=queue)


def redrive(codec: Codec, queue: str, limit: int) -> Procedure:
    """Send dead letters back to the queues they failed in, as many as there is room for; returns `Redriven`."""
    said = _only((yield [codec.step(b"letters", queue)]))
    origins = [name.decode() for name in said[2] if name.decode() != queue]
    outcomes = yield [codec.step(b"room", name) for name in origins]
    rooms: list[Any] = []
    for name, [room] in zip(origins, outcomes, strict=True):
        if not isinstance(room, ZapqError):
            rooms += (name, room[2], room[3])
    said = _only((yield [codec.step(b"redrive", queue, _pack((limit, rooms, 0)))]))
    if said[2]:
        yield from flush_outbox(codec, queue)
    return Redriven(said[2], said[3])


def redrive_one(codec: Codec, queue: str, id: int) -> Procedure:
    """Send one dead letter back to the queue it failed in; returns `Redriven`. Refuses as `Broker.redrive_one`."""

    def seen(reply: list[Any]) -> tuple[MessageView, float] | None:
        return None if reply[2] == 0 else (replies.view_of(reply[2], 0.0), reply[0] / 1000)

    found = _only((yield [codec.step(b"find", queue, b"%d" % id, decode=seen)]))
    if found is None:
        raise MessageNotFound(queue=queue, message_id=id)
    letter, now = found
    failed_in = letter.message.properties.failed_in
    if letter.state == "leased":
        raise leased_for(max(letter.due - now, 0.0) if letter.due is not None else inf, id)
    if letter.state != "ready" or not failed_in:
        raise no_letter()
    [[room]] = yield [codec.step(b"room", failed_in)]
    if isinstance(room, QueueNotFound) or failed_in == queue:
        raise no_queue_to_go_to(failed_in)
    if isinstance(room, ZapqError):
        raise room
    said = _only((yield [codec.step(b"redrive", queue, _pack((1, (failed_in, room[2], room[3]), id)))]))
    if not said[2]:
        # If another client has just taken it, the next attempt says so.
        raise QueueFull(queue=failed_in)
    yield from flush_outbox(codec, queue)
    return Redriven(said[2], said[3])


def flush_outbox(codec: Codec, queue: str) -> Procedure:
    """Move what is in the outbox of a queue to the queues it is for; returns how many messages that were."""
    moved = 0
    while True:
        [[said]] = yield [codec.step(b"outbox", queue, b"%d" % MOVED_AT_ONCE)]
        if isinstance(said, QueueNotFound) or not said[3]:
            return moved
        born = said[2]
        entries: list[_Entry] = said[3]
        by_target: dict[str, list[_Entry]] = {}
        for entry in entries:
            by_target.setdefault(entry[1].decode(), []).append(entry)
        # This is never refused: they were accepted once.
        yield [_adopt(codec, target, f"{queue}:{born}", theirs) for target, theirs in by_target.items()]
        last = entries[-1][0]
        yield [codec.step(b"done", queue, b"%d" % born, b"%d" % last)]
        moved += len(entries)


def _adopt(codec: Codec, target: str, source: str, entries: Sequence[_Entry]) -> Call:
    plan: list[Any] = [source]
    for number, _, priority, _ in entries:
        plan += (number, priority)
    values = [value for _, _, _, value in entries]
    return codec.step(b"adopt", target, _pack(plan), *values, further=(keys.given_key(target),))


def list_queues(codec: Codec, pattern: str) -> Procedure:
    """Return what there is to know of each queue whose name fits `pattern`, by name."""
    infos: dict[str, QueueInfo] = {}

    def page(reply: list[Any], now: float) -> bytes:
        for name, row, packed in reply[2]:
            queue = name.decode()
            infos[queue] = replies.info_of(queue, row, packed, now - reply[0] / 1000)
        return bytes(reply[3])

    yield from _all_shards(codec, b"figures", page)
    if DEFAULT_QUEUE not in infos:
        # It is always there, also if nothing was ever asked of it.
        nothing = Oldest(lease=None)
        infos[DEFAULT_QUEUE] = QueueInfo(DEFAULT_QUEUE, QueueSettings(), QueueStats(), False, 0, oldest=nothing)
    return [infos[name] for name in sorted(infos) if fnmatchcase(name, pattern)]


def sums(codec: Codec) -> Procedure:
    """Return what all queues hold and have done together."""
    total: list[int] = [0] * 20
    queues, ready = 0, inf

    def page(reply: list[Any], now: float) -> bytes:
        nonlocal queues, ready
        if reply[5]:
            ready = min(ready, reply[5] / 1000 + now - reply[0] / 1000)
        for place, number in enumerate(reply[2]):
            total[place] += number
        queues += reply[3]
        return bytes(reply[4])

    yield from _all_shards(codec, b"sums", page)
    return Sums(replies.stats_of(total), queues, total[5], total[19], Oldest(ready, None))


def _all_shards(codec: Codec, name: bytes, page: Callable[[list[Any], float], bytes]) -> Procedure:
    """Ask all shards page by page; `page` takes one, and returns the name after which the next one begins."""
    for first in range(0, keys.SHARDS, SHARDS_AT_ONCE):
        asked = dict.fromkeys(range(first, min(first + SHARDS_AT_ONCE, keys.SHARDS)), b"")
        while asked:
            steps = [
                codec.shard_step(
                    name, shard, after, b"%d" % QUEUES_AT_ONCE, decode=page, further=keys.past_key(shard)
                )
                for shard, after in asked.items()
            ]
            outcomes = yield steps
            afters = {shard: _only([outcome]) for shard, outcome in zip(asked, outcomes, strict=True)}
            asked = {shard: after for shard, after in afters.items() if after}


def look_at_shard(codec: Codec, shard: int, most: int | None = None) -> Call:
    """Return the call that finds queues of a shard in which something is due, and claims them for a while.

    No more than `SWEPT_AT_ONCE`, nor than `most`.
    """
    number = SWEPT_AT_ONCE if most is None else min(most, SWEPT_AT_ONCE)
    claim = b"%d" % (1000 * CLAIM_SECONDS)
    return codec.shard_step(b"sweep", shard, b"%d" % number, claim, decode=lambda reply, now: reply[2])


def do_what_is_due(codec: Codec, queue: str) -> Call:
    """Return the call that does what is due in a queue; its answer says whether there is more."""
    return codec.step(b"due", queue)


def repair(codec: Codec, queue: str, *, mend: bool) -> Procedure:
    """Compare what a queue says with what it holds, and mend it if `mend`; returns `Repaired`.

    Raises `QueueInUse` for a queue of more than `MOST_REPAIRED` messages, for that is one step of the server.
    """
    said = _only(
        (yield [codec.step(b"repair", queue, b"1" if mend else b"0", b"%d" % MOST_REPAIRED)]),
    )
    if said[2] == b"large":
        raise QueueInUse(
            f"The queue {queue} has {said[3]} entries, too many for one step. Have consumers empty it first.",
            queue=queue,
        )
    lost, strays, doubles, notes, figures = said[2:]
    return Repaired(lost, strays, doubles, notes, bool(figures))
