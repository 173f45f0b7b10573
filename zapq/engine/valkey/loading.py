"""A snapshot put into an engine whose queues are empty: in small steps, each of which may be done again.

    begin --> take --> take ... --> ending --> end
                |                     |
                +--- fails: the queues of the file are paused; the same file may be loaded again

The key `LOADING` has the mark of the file until it is in the engine as a whole. Queues are paused as long, so that
no consumer is given what may be loaded once more, and messages come in their order. A load that ended half-way is
done again from its beginning: what is there already is not stored a second time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from zapq.core.message import OCTETS
from zapq.engine.valkey import keys, procedures
from zapq.engine.valkey.call import Call
from zapq.engine.valkey.codec import Codec
from zapq.engine.valkey.connection import ConnectionLost
from zapq.engine.valkey.fleet import Fleet
from zapq.engine.valkey.replies import (
    origin_text,
    pack_settings,
    settings_of,
    shape_of,
    too_many_queues,
    with_headers,
)
from zapq.engine.valkey.resp import ReplyError
from zapq.engine.valkey.tasks import Tasks
from zapq.errors import QueueInUse, ZapqError
from zapq.limits import IDEMPOTENCY_WINDOW, MAX_BATCH, MIB
from zapq.store.archive import KEYS, QUEUE, KeyRecord, MessageRecord, QueueRecord, Survey

_QUEUES_AT_ONCE = 100
_KEYS_AT_ONCE = 500
_pack: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode

Page = Sequence[tuple[bytes, str, Any]]
"""Some blocks of a file: the kind of each, the queue it belongs to, and its records."""


class Loading:
    """One load of the file `name`."""

    def __init__(self, codec: Codec, tasks: Tasks, fleet: Fleet, name: str, survey: Survey) -> None:
        self.begun = self.ending = False
        """Whether something may have changed, and whether all messages are in the engine."""
        self.stored = 0
        """Messages that were stored by this load."""
        self._codec = codec
        self._tasks = tasks
        self._fleet = fleet
        self._name = name
        self._survey = survey
        self._mark = survey.number.hex()
        self._masters: dict[int, bytes] = {}
        """Which run of which server has stored what is in each shard."""
        self._torn = False

    async def begin(self) -> None:
        """Note in the engine that the file is being loaded; `ending` says whether that was almost done before.

        Raises `QueueInUse` if the queues hold messages, or another file is being loaded.
        """
        noted = await self._command("GET")
        if noted is None:
            sums: procedures.Sums = await self._tasks.proceed(procedures.sums(self._codec))
            held = sums.stats.messages + sums.outbox
            if held:
                raise QueueInUse(
                    f"The engine holds {held} messages. With --engine, a snapshot is loaded only while all queues"
                    " are empty. Nothing was changed. Let consumers take the messages, or purge the queues, and"
                    " load the file again.",
                    current=held,
                )
            await self._command("SET", f"{self._mark} loading {self._name}", "NX")
            noted = await self._command("GET") or b""
        mark, phase, name = noted.decode().split(" ", 2)
        if mark != self._mark:
            raise QueueInUse(
                f"The file {name} is being loaded into the engine, or its load has ended half-way. Nothing was"
                f" changed. Load that file again first; or purge the queues, and remove the key"
                f" {keys.LOADING.decode()} from the engine."
            )
        self.begun, self.ending = True, phase == "ending"

    def begin_pass(self) -> None:
        """Begin to read the file from its beginning."""
        self._torn = False

    @property
    def complete(self) -> bool:
        """Whether all that was read is in the engine: else it is to be read again."""
        return not self._torn

    async def take(self, page: Page) -> None:
        """Store what is in a part of the file. Raises `ZapqError`."""
        await self._begin_queues([records for kind, _, records in page if kind == QUEUE])
        calls: list[Call] = []
        for kind, queue, records in page:
            if kind == KEYS:
                calls += self._key_calls(records)
            elif kind != QUEUE:
                calls += self._message_calls(queue, records)
        await self._store(calls)

    async def look_back(self) -> None:
        """See whether the masters that have stored what was read are still the same. Raises `ZapqError`."""
        one_of_shard = {keys.shard_of(name): name for name in self._survey.queues}
        names = list(one_of_shard.values())
        for first in range(0, len(names), _QUEUES_AT_ONCE):
            some = names[first : first + _QUEUES_AT_ONCE]
            await self._store([self._codec.step(b"import_some", name, _pack([self._mark])) for name in some])

    async def _store(self, calls: Sequence[Call]) -> None:
        for call, [said] in zip(calls, await self._tasks.send_all(calls), strict=True):
            if isinstance(said, ZapqError):
                raise said
            if said[2] == b"changed":
                self._torn = True  # the queue was purged or deleted, or a failover has lost its beginning
                continue
            self._note_master(call, said[2])
            self.stored += said[3]

    async def end(self) -> None:
        """Let consumers have what was loaded. Raises `ZapqError` and `ConnectionLost`."""
        await self._command("SET", f"{self._mark} ending {self._name}")
        self.ending = True
        queues = list(self._survey.queues.values())
        for first in range(0, len(queues), _QUEUES_AT_ONCE):
            await self._tasks.send_all([
                self._codec.step(b"import_end", each.name, self._mark.encode(), b"%d" % each.paused)
                for each in queues[first : first + _QUEUES_AT_ONCE]
            ])
        await self._command("DEL")

    async def _begin_queues(self, queues: Sequence[QueueRecord]) -> None:
        # First there, so that no dead letter is ever sent to a queue that may be deleted.
        feeds = [
            procedures.feed(self._codec, each.settings.dead_letter, each.name, True)
            for each in queues
            if each.settings.dead_letter is not None
        ]
        for [said] in await self._tasks.send_all(feeds):
            if isinstance(said, ZapqError):
                raise said
        calls = [self._begin_call(each) for each in queues]
        feeds = []
        for queue, call, [said] in zip(queues, calls, await self._tasks.send_all(calls), strict=True):
            if isinstance(said, ZapqError):
                raise said
            if said[2] == b"held":
                raise QueueInUse(
                    f"The queue {queue.name} was sent messages meanwhile. Stop the producers, and purge it.",
                    queue=queue.name,
                )
            self._note_master(call, said[2])
            former = settings_of(said[3]).dead_letter
            if former not in {None, queue.settings.dead_letter}:
                feeds.append(procedures.feed(self._codec, former, queue.name, False))
        await self._tasks.send_all(feeds)

    def _begin_call(self, queue: QueueRecord) -> Call:
        plan = _pack((self._mark, queue.next_id, self._codec.caps.queues_of_shard))
        return self._codec.step(b"import", queue.name, plan, pack_settings(queue.settings), decode=_begun)

    def _message_calls(self, queue: str, records: Sequence[MessageRecord]) -> Iterator[Call]:
        plan: list[Any] = [self._mark]
        bodies: list[bytes] = []
        size = 0
        for record in records:
            how = _how(record)
            part: list[Any] | None = None
            for id, body in enumerate(record.bodies, record.first):
                kept = with_headers(record.properties.headers, body)
                if bodies and (len(bodies) == MAX_BATCH or size + len(kept) > MIB):
                    yield self._codec.step(b"import_some", queue, _pack(plan), *bodies)
                    plan, bodies, size, part = [self._mark], [], 0, None
                if part is None:
                    part = [id, 0, *how]
                    plan.append(part)
                part[1] += 1
                bodies.append(kept)
                size += len(kept)
        yield self._codec.step(b"import_some", queue, _pack(plan), *bodies)

    def _key_calls(self, records: Sequence[KeyRecord]) -> Iterator[Call]:
        by_queue: dict[str, list[KeyRecord]] = {}
        for record in records:
            by_queue.setdefault(record.queue, []).append(record)
        for queue, theirs in by_queue.items():
            for first in range(0, len(theirs), _KEYS_AT_ONCE):
                some = [(each, _left(each.until)) for each in theirs[first : first + _KEYS_AT_ONCE]]
                going_on = [(each, min(left, int(IDEMPOTENCY_WINDOW * 1000))) for each, left in some if left > 0]
                plan = self._mark, *((each.fingerprint.hex(), each.id, left) for each, left in going_on)
                further = [keys.claim_key(queue, each.key) for each, _ in going_on]
                yield self._codec.step(
                    b"import_keys", queue, _pack(plan), further=further, decode=lambda reply: [*reply[:3], 0]
                )

    def _note_master(self, call: Call, master: bytes) -> None:
        # After a failover, what was stored in the last moments before may be gone.
        if self._masters.setdefault(call.shard, master) != master:
            self._masters[call.shard] = master
            self._torn = True

    async def _command(self, name: str, *arguments: str) -> Any:
        """Have a command about the key that says what is being loaded done. Raises `ConnectionLost`."""
        connection = await self._fleet.open_to(keys.LOADING)
        try:
            reply = await connection.call(name, keys.LOADING, *arguments)
        finally:
            connection.close()
        if isinstance(reply, ReplyError):
            raise ConnectionLost(f"{connection.server}: {reply}")
        return reply


def _begun(reply: list[Any]) -> Any:
    return too_many_queues(reply[2]) if isinstance(reply[2], list) else reply


def _how(record: MessageRecord) -> tuple[Any, ...]:
    """Return what messages have in common, as the library is told."""
    properties = record.properties
    return (
        properties.priority,
        max(_left(record.due), 0) if record.due else 0,
        0 if properties.expires is None else max(_left(properties.expires), 1),
        properties.receives,
        properties.releases,
        "" if properties.content_type == OCTETS else properties.content_type,
        origin_text(properties.failed_in, properties.origin),
        shape_of(properties.headers),
        properties.group,
        properties.unique,
    )


def _left(at: float) -> int:
    """Return the milliseconds until a time of the wall clock."""
    return round((at - time.time()) * 1000)
