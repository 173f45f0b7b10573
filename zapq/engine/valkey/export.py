"""All queues of an engine, page by page, as a snapshot keeps them.

They are read while they are in use, in short steps. What a queue has when its reading begins is in the pages if it
is still there when its turn comes; what the queue takes in later is not. A message on its way to its dead-letter
queue is in the pages once or twice, never nowhere: queues that dead letters go to are read after those that they
come from.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from graphlib import CycleError, TopologicalSorter
from heapq import merge
from itertools import islice
from typing import Any, NamedTuple

import msgspec
import trio

from zapq.core.image import KeyImage
from zapq.core.message import Message
from zapq.core.queue_settings import QueueSettings
from zapq.engine.valkey import keys, procedures
from zapq.engine.valkey.codec import Codec
from zapq.engine.valkey.connection import Connection, ConnectionLost
from zapq.engine.valkey.fleet import Fleet
from zapq.engine.valkey.replies import message_of, properties_of, settings_of
from zapq.engine.valkey.resp import ReplyError
from zapq.engine.valkey.tasks import Tasks
from zapq.errors import QueueNotFound, SnapshotFailed, ZapqError
from zapq.limits import MAX_KEYS, MIB
from zapq.store.archive import ORDERED, OTHERS, Block, key_blocks, message_blocks, queue_block

_QUEUES_AT_ONCE = 50
_SMALL, _SMALL_BYTES = b"200", b"65536"
"""What a queue has at most that is read in one step: 50 of them take some 20 ms of a server."""
_NONE = b"-1"
"""As few messages as no queue has."""
_MESSAGES_AT_ONCE = 1000
"""Of a larger queue: some 2 ms ..."""
_BYTES_AT_ONCE = b"%d" % MIB
"""... and no more bytes than this, or one message."""
_KEYS_AT_ONCE = 1000
_CLAIM_KEYS = b"{z????}:q:*:k:*"
_LISTED_AGAIN = 5
"""Times the ids of a queue are listed anew because its server has changed meanwhile."""
_pack: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode
_unpack_claim: Callable[[bytes], tuple[int, str, int, int]] = msgspec.msgpack.Decoder(
    tuple[int, str, int, int]
).decode


class _Found(NamedTuple):
    """A queue as the first step on it shows it."""

    name: str
    ahead: float
    """Seconds for which our clock is ahead of that of its server."""
    born: int
    next_id: int
    paused: bool
    settings: QueueSettings
    is_fed: bool
    """Whether dead letters come here."""
    moves: int
    """How often its messages have changed their places."""
    messages: tuple[Any, Any] | None
    """All of them, if they are few: the plain ones, and the others."""
    sends: bool
    """Whether messages for other queues wait in its outbox."""


class _Claim(NamedTuple):
    """An Idempotency-Key with when its queue was made."""

    until: float
    born: int
    image: KeyImage


class Export:
    """One reading of all queues. Times in the pages are those of Trio's clock and `clock_offset`."""

    def __init__(self, codec: Codec, tasks: Tasks, fleet: Fleet, clock_offset: float) -> None:
        self.messages = 0
        """How many are in the pages so far."""
        self.moved: list[str] = []
        """Queues whose messages were taken or settled while they were read."""
        self.keys_left_out = 0
        """Idempotency-Keys beyond those a snapshot may have."""
        self._codec = codec
        self._tasks = tasks
        self._fleet = fleet
        self._clock_offset = clock_offset
        self._targets: set[str | None] = {None}
        """Queues that dead letters of others go to."""
        self._targets_read: set[str | None] = {None}
        self._claims: dict[str, list[_Claim]] = {}
        self._kept: list[_Claim] = []

    async def pages(self) -> AsyncGenerator[list[Block], None]:
        """Yield the blocks of an archive. Raises `ZapqError` and `ConnectionLost`."""
        # First: so every key is one of a message that was there when its queue is read.
        await self._find_keys()
        await self._empty_outboxes()
        fed: dict[str, str | None] = {}
        async with aclosing(self._names()) as some:
            async for names in some:
                async with aclosing(self._read(names, fed)) as pages:
                    async for page in pages:
                        yield page  # noqa: ASYNC119 - `aclosing` closes it, here and below
        for name in _sources_first(fed):
            async with aclosing(self._read([name], None)) as pages:
                async for page in pages:
                    yield page  # noqa: ASYNC119
        if not self._targets <= self._targets_read:
            raise SnapshotFailed("Settings of queues were changed while they were read. Save the snapshot again.")
        self._kept.sort(key=lambda claim: claim.until)
        yield list(key_blocks((claim.image for claim in self._kept), self._clock_offset))

    # Queues

    async def _names(self) -> AsyncGenerator[list[str], None]:
        async with aclosing(self._listed()) as pages:
            async for rows in pages:
                for first in range(0, len(rows), _QUEUES_AT_ONCE):
                    yield [name.decode() for name, _, _ in rows[first : first + _QUEUES_AT_ONCE]]  # noqa: ASYNC119

    async def _listed(self) -> AsyncGenerator[list[Any], None]:
        """Yield names, figures and settings of queues, as the library tells them."""
        for first in range(0, keys.SHARDS, procedures.SHARDS_AT_ONCE):
            after = dict.fromkeys(range(first, min(first + procedures.SHARDS_AT_ONCE, keys.SHARDS)), b"")
            while after:
                outcomes = await self._tasks.send_all([
                    self._codec.shard_step(
                        b"figures",
                        shard,
                        last,
                        b"%d" % procedures.QUEUES_AT_ONCE,
                        decode=lambda reply, now: reply[2:4],
                        further=keys.past_key(shard),
                    )
                    for shard, last in after.items()
                ])
                yield [row for [[rows, _]] in outcomes for row in rows]
                after = {shard: last for shard, [[_, last]] in zip(after, outcomes, strict=True) if last}

    async def _empty_outboxes(self) -> None:
        """Have messages that were on their way between queues arrive."""
        async with aclosing(self._listed()) as pages:
            async for rows in pages:
                for name, row, _ in rows:
                    if row[5]:
                        await self._tasks.proceed(procedures.flush_outbox(self._codec, name.decode()))

    async def _read(
        self, names: Sequence[str], fed: dict[str, str | None] | None
    ) -> AsyncGenerator[list[Block], None]:
        """Yield pages of these queues; with `fed`, note those in it that dead letters come to, for later."""
        page: list[Block] = []
        for found in await self._look(names, _SMALL):
            if fed is not None and found.is_fed:
                fed[found.name] = found.settings.dead_letter
                continue
            self._keep_keys(found)
            self._targets.add(found.settings.dead_letter)
            if fed is None:
                self._targets_read.add(found.name)
            page.append(
                queue_block(found.name, found.settings, paused=found.paused, next_id=found.next_id),
            )
            if found.messages is not None:
                plain, others = found.messages
                page += self._blocks(found, plain, others)
                await trio.lowlevel.checkpoint()
            else:
                yield page
                page = []
                async with aclosing(self._read_large(found)) as pages:
                    async for each in pages:
                        yield each  # noqa: ASYNC119
            if found.sends:
                await self._tasks.proceed(procedures.flush_outbox(self._codec, found.name))
        yield page

    async def _look(self, names: Sequence[str], most: bytes) -> list[_Found]:
        """Return what there is to know of queues, and their messages if they are not more than `most`."""
        outcomes = await self._tasks.send_all([
            self._codec.step(b"export", name, most, _SMALL_BYTES) for name in names
        ])
        now = trio.current_time()
        looked: list[_Found] = []
        for name, [said] in zip(names, outcomes, strict=True):
            if isinstance(said, QueueNotFound):
                continue  # it was deleted meanwhile
            if isinstance(said, ZapqError):
                raise said
            at, out, born, next_id, paused, packed, is_fed, _, moves, plain, others = said
            looked.append(
                _Found(
                    name,
                    now - at / 1000,
                    born,
                    next_id,
                    bool(paused),
                    settings_of(packed),
                    bool(is_fed),
                    moves,
                    None if plain == 0 else (plain, others),
                    out > 0,
                )
            )
        return looked

    async def _read_large(self, found: _Found) -> AsyncGenerator[list[Block], None]:
        ids = await self._ids(found)
        others: array[int] = array("Q")
        async with aclosing(self._some(found, ids, in_full=False)) as pieces:
            async for plain, ids_of_others in pieces:
                yield self._blocks(found, plain, ())  # noqa: ASYNC119
                others.extend(map(int, ids_of_others))
        async with aclosing(self._some(found, iter(others), in_full=True)) as pieces:
            async for _, full in pieces:
                yield self._blocks(found, (), full)  # noqa: ASYNC119
        again = await self._look([found.name], _NONE)
        if not again or again[0].moves != found.moves:
            self.moved.append(found.name)
        if again and again[0].sends and not found.sends:
            await self._tasks.proceed(procedures.flush_outbox(self._codec, found.name))

    async def _some(
        self, found: _Found, ids: Iterator[int], *, in_full: bool
    ) -> AsyncGenerator[tuple[Sequence[Any], Sequence[Any]], None]:
        """Yield what there is of messages with these ids; nothing any more once the queue is deleted."""
        left: list[int] = []
        while left := [*left, *islice(ids, _MESSAGES_AT_ONCE - len(left))]:
            plan = _pack((int(in_full), *left))
            step = self._codec.step(b"export_some", found.name, b"%d" % found.born, _BYTES_AT_ONCE, plan)
            [[said]] = await self._tasks.send_all([step])
            if isinstance(said, QueueNotFound):
                return
            if isinstance(said, ZapqError):
                raise said
            plain, others, looked = said[2:]
            left = left[looked:]
            yield plain, others

    async def _ids(self, found: _Found) -> Iterator[int]:
        """Return the ids of all messages a queue has, in their order."""
        for _ in range(_LISTED_AGAIN):
            listed: list[array[int]] = []
            cursor, master = b"0", None
            while True:
                step = self._codec.step(
                    b"export_ids", found.name, b"%d" % found.born, b"%d" % found.next_id, cursor
                )
                [[said]] = await self._tasks.send_all([step])
                if isinstance(said, QueueNotFound):
                    return iter(())
                if isinstance(said, ZapqError):
                    raise said
                epoch, cursor, some = said[2:]
                master = master or epoch
                if epoch != master:
                    break  # a cursor of another server means nothing there
                listed.append(array("Q", sorted(some)))
                if cursor == b"0":
                    return _in_order(listed)
        raise SnapshotFailed("The servers of the engine change all the time. Save the snapshot again later.")

    def _blocks(self, found: _Found, plain: Sequence[Any], others: Sequence[Any]) -> list[Block]:
        ahead = found.ahead
        in_order = ((message_of(plain[at], plain[at + 1], None, ahead)[0], 0.0) for at in range(0, len(plain), 2))
        blocks = [
            *message_blocks(ORDERED, in_order, self._clock_offset),
            *message_blocks(OTHERS, _full(others, ahead), self._clock_offset),
        ]
        self.messages += sum(block.messages for block in blocks)
        return blocks

    # Idempotency-Keys

    def _keep_keys(self, found: _Found) -> None:
        """Keep the keys of a queue that is in the pages; others are those of an earlier queue of its name."""
        self._kept += [claim for claim in self._claims.pop(found.name, ()) if claim.born == found.born]

    async def _find_keys(self) -> None:
        claims: list[_Claim] = []
        for server in self._fleet.servers:
            connection = await self._fleet.open(server)
            try:
                async with aclosing(_claims_of(connection)) as pages:
                    async for page in pages:
                        claims += page
                        if len(claims) > 2 * MAX_KEYS:
                            self._leave_out(claims)
            finally:
                connection.close()
        self._leave_out(claims)
        for claim in claims:
            self._claims.setdefault(claim.image.queue, []).append(claim)

    def _leave_out(self, claims: list[_Claim]) -> None:
        """Leave out those whose time is over first, if there are too many."""
        beyond = len(claims) - MAX_KEYS
        if beyond > 0:
            claims.sort(key=lambda claim: -claim.until)
            del claims[MAX_KEYS:]
            self.keys_left_out += beyond


async def _claims_of(connection: Connection) -> AsyncGenerator[list[_Claim], None]:
    """Yield the Idempotency-Keys a server knows. Raises `ConnectionLost`."""
    cursor = b"0"
    while True:
        found = await connection.call("SCAN", cursor, "MATCH", _CLAIM_KEYS, "COUNT", _KEYS_AT_ONCE)
        if isinstance(found, ReplyError):
            raise ConnectionLost(f"SCAN: {found}")
        cursor, names = found
        if names:
            time, *values = await connection.call_all([("TIME",), *(("GET", name) for name in names)])
            ahead = trio.current_time() - int(time[0]) - int(time[1]) / 1e6
            yield [
                _claim_of(name, value, ahead)
                for name, value in zip(names, values, strict=True)
                if isinstance(value, bytes)  # else its time was over, or its slot has just moved
            ]
        if cursor == b"0":
            return


def _claim_of(name: bytes, value: bytes, ahead: float) -> _Claim:
    born, fingerprint, id, until = _unpack_claim(value)
    _, _, queue, _, key = name.decode().split(":", 4)
    image = KeyImage(queue, key, bytes.fromhex(fingerprint), id, until / 1000 + ahead)
    return _Claim(image.until, born, image)


def _in_order(listed: Sequence[Iterable[int]]) -> Iterator[int]:
    """Yield ids in their order, each once; to sort a million at once would hold up everything else."""
    last = 0
    for id in merge(*listed):
        if id != last:
            yield id
        last = id


def _full(others: Iterable[Sequence[Any]], ahead: float) -> Iterator[tuple[Message, float]]:
    for id, value, receives, releases, due in others:
        properties, body = properties_of(value, receives, releases, ahead)
        yield Message(int(id), body, properties), due / 1000 + ahead if due else 0.0


def _sources_first(fed: dict[str, str | None]) -> list[str]:
    """Return the names in `fed`, each before the queue that its dead letters go to."""
    graph: dict[str, set[str]] = {name: set() for name in fed}
    for name, target in fed.items():
        if target in graph:
            graph[target].add(name)
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError:
        return list(fed)  # settings were changed meanwhile
