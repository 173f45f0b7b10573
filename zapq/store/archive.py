"""Snapshot files `*.msgpack`: every queue with all it holds, in a form that cannot be damaged unnoticed.

    head:   "zapq" CR LF SUB LF | version | number of this file | when it was written | checksum
    blocks: kind | length | checksum | msgpack ...       one after the other, until
    end:    kind E | 24 | checksum | how many queues, messages, bytes

    Q   a queue: what it is set to                        then, for this queue,
    P   ready messages with nothing special about them    in order of their ids: [id of the first, what is known of
    O   the others                                        all of them, when they are ready, their bodies], ...
    K   Idempotency-Keys

Numbers are big-endian. A checksum is the CRC-32 of the file's number, of where the block begins, of its kind and
length, and of what is in it. A block that is changed, cut, moved, or from another file does not match, and one
that is missing is missed at the end. Times are those of the wall clock, in seconds since 1970, for no other
outlives a process; the caller says by `clock_offset` how far it is ahead of its own clock.

Everything here is synchronous, meant for a worker thread, and done block by block. Every version begins with the
same head. In version 1 nothing was known of messages behind the queue they failed in, and up to version 2 nothing
of when messages arrived; both are read as they are.
"""

from __future__ import annotations

import secrets
import struct
from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from math import inf
from typing import Annotated, Any, BinaryIO, NamedTuple
from zlib import crc32

import msgspec

from zapq.core.ages import MAX_NOTES
from zapq.core.headers import HEADER_NAME, HEADER_VALUE, size_of
from zapq.core.idempotency import ANY_CONTENT
from zapq.core.image import Image, KeyImage, QueueImage
from zapq.core.message import CONTENT_TYPE, OCTETS, Message, Origin, Properties
from zapq.core.queue_settings import QueueSettings
from zapq.core.runs import Run
from zapq.core.unwalked import unwalked
from zapq.errors import SnapshotFailed
from zapq.limits import (
    DEFAULT_QUEUE,
    MAX_BLOCK_BYTES,
    MAX_DEDUPLICATION_IDS,
    MAX_KEYS,
    MAX_MESSAGE_HEADERS,
    MAX_MESSAGE_HEADERS_BYTES,
    MAX_PRIORITY,
    QUEUE_NAME,
)
from zapq.store import slices

VERSION = 3
_MAGIC = b"zapq\r\n\x1a\n"
"""Not text, and no longer the same after a program has treated it as text."""
_HEAD = struct.Struct(">8sH8sdI")
_BLOCK = struct.Struct(">cII")
_TOTALS = struct.Struct(">QQQ")
_END_BYTES = _BLOCK.size + _TOTALS.size
_ENCODER = msgspec.msgpack.Encoder()
QUEUE, ORDERED, OTHERS, KEYS, _END = b"Q", b"P", b"O", b"K", b"E"

# No float is exact enough for these to be whole beyond it, and none of them ever gets there.
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Id = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
_Time = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
_HeaderName = Annotated[str, msgspec.Meta(pattern=rf"^{HEADER_NAME}\Z")]
_HeaderValue = Annotated[str, msgspec.Meta(pattern=rf"^{HEADER_VALUE}\Z", max_length=MAX_MESSAGE_HEADERS_BYTES)]
_Label = Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]{0,128}\Z")]
_Name = Annotated[str, msgspec.Meta(pattern=rf"^{QUEUE_NAME}\Z")]


class Totals(NamedTuple):
    """What an archive holds."""

    queues: int
    messages: int
    bytes: int


class Block(NamedTuple):
    """One block as it is to be written."""

    kind: bytes
    content: object
    messages: int
    bytes: int


class QueueRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A queue without its messages, as it is written."""

    name: _Name
    settings: QueueSettings
    paused: bool
    next_id: _Id
    arrived: Annotated[list[tuple[_Id, _Time]], msgspec.Meta(max_length=MAX_NOTES)] = []
    """When ids were given, as far as is known: some of them, in order."""


class OriginRecord(NamedTuple):
    """What messages were before they changed queues, as it is written."""

    queue: _Name
    id: _Id
    receives: _Count = 0


class PropertiesRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is known of messages besides their bytes, as it is written."""

    content_type: Annotated[str, msgspec.Meta(pattern=rf"^{CONTENT_TYPE}\Z")] = OCTETS
    priority: Annotated[int, msgspec.Meta(ge=0, le=MAX_PRIORITY)] = 0
    expires: _Time | None = None
    receives: _Count = 0
    releases: _Count = 0
    failed_in: Annotated[str, msgspec.Meta(pattern=rf"^({QUEUE_NAME})?\Z")] = ""
    headers: Annotated[
        tuple[tuple[_HeaderName, _HeaderValue], ...], msgspec.Meta(max_length=MAX_MESSAGE_HEADERS)
    ] = ()
    group: _Label = ""
    unique: _Label = ""
    arrived: _Time = 0.0
    """0 if it is not known."""
    origin: OriginRecord | None = None

    @property
    def size(self) -> int:
        """The bytes that each of the messages counts beside its body."""
        return size_of(self.headers) if self.headers else 0


class MessageRecord(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Messages with consecutive ids that have everything but their bodies in common, as they are written."""

    first: _Id
    properties: PropertiesRecord
    due: _Time
    """When they are ready; 0 for at once."""
    bodies: Annotated[list[bytes], msgspec.Meta(min_length=1, max_length=slices.SLICE_MESSAGES)]


class KeyRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An Idempotency-Key, as it is written."""

    queue: _Name
    key: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    fingerprint: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    id: _Id
    until: _Time


_Messages = Annotated[list[MessageRecord], msgspec.Meta(min_length=1, max_length=slices.SLICE_MESSAGES)]
_Keys = Annotated[list[KeyRecord], msgspec.Meta(min_length=1, max_length=slices.SLICE_MESSAGES)]
_DECODERS: dict[bytes, msgspec.msgpack.Decoder[Any]] = {
    QUEUE: msgspec.msgpack.Decoder(QueueRecord),
    ORDERED: msgspec.msgpack.Decoder(_Messages),
    OTHERS: msgspec.msgpack.Decoder(_Messages),
    KEYS: msgspec.msgpack.Decoder(_Keys),
}

# Writing


def encode(image: Image, clock_offset: float, written: float) -> Iterator[bytes | bytearray]:
    """Yield the file that keeps `image`, in pieces, each to be used before the next one is made.

    What was yielded is taken out of the image, so that messages that nothing else holds by then are also freed
    piece by piece.
    """
    return encode_blocks(_blocks(image, clock_offset), written)


def encode_blocks(blocks: Iterable[Block], written: float) -> Iterator[bytes | bytearray]:
    """Yield the file that has `blocks`, in pieces, each to be used before the next one is made."""
    number = secrets.token_bytes(8)
    head = _HEAD.pack(_MAGIC, VERSION, number, written, 0)[:-4]
    # Blocks are made where they are written from: copying them would cost more than all the rest.
    piece = bytearray(head + crc32(head).to_bytes(4, "big"))
    before = steps = queues = messages = total = 0
    for kind, value, count, weight in blocks:
        queues += kind == QUEUE
        messages += count
        total += weight
        begin = len(piece)
        piece += bytes(_BLOCK.size)
        _ENCODER.encode_into(value, piece, len(piece))
        _seal(piece, begin, number, before, kind)
        steps += slices.SLICE_MESSAGES if kind == KEYS else count + 1
        if len(piece) >= slices.SLICE_BYTES or steps >= slices.SLICE_MESSAGES:
            yield piece
            before += len(piece)
            steps = 0
            del piece[:]
    begin = len(piece)
    piece += bytes(_BLOCK.size) + _TOTALS.pack(queues, messages, total)
    _seal(piece, begin, number, before, _END)
    yield piece


def _seal(piece: bytearray, begin: int, number: bytes, before: int, kind: bytes) -> None:
    """Write the head of the block that takes up `piece` from `begin` on, `before` bytes into the file."""
    with memoryview(piece) as view, view[begin + _BLOCK.size :] as content:
        checksum = _checksum(number, before + begin, kind, content)
        _BLOCK.pack_into(view, begin, kind, len(content), checksum)


def _checksum(number: bytes, place: int, kind: bytes, content: bytes | memoryview) -> int:
    return crc32(content, crc32(struct.pack(">8sQcI", number, place, kind, len(content))))


def _blocks(image: Image, clock_offset: float) -> Iterator[Block]:
    for queue in image.queues:
        arrived = [(id, max(time + clock_offset, 0.0)) for id, time in queue.arrived]
        yield queue_block(queue.name, queue.settings, paused=queue.paused, next_id=queue.next_id, arrived=arrived)
        in_order = ((message, 0.0) for message in _emptied(queue.in_order))
        yield from message_blocks(ORDERED, in_order, clock_offset)
        yield from message_blocks(OTHERS, queue.others, clock_offset)
    yield from key_blocks(image.keys, clock_offset)


def queue_block(
    name: str,
    settings: QueueSettings,
    *,
    paused: bool,
    next_id: int,
    arrived: Sequence[tuple[int, float]] = (),
) -> Block:
    """Return the block that a queue begins with; `arrived` says when ids were given, as Unix times."""
    record = QueueRecord(name=name, settings=settings, paused=paused, next_id=next_id, arrived=list(arrived))
    return Block(QUEUE, record, 0, 0)


def message_blocks(kind: bytes, messages: Iterable[tuple[Message, float]], clock_offset: float) -> Iterator[Block]:
    """Yield blocks of messages, each with when it is ready, 0 for at once; `kind` is ORDERED or OTHERS."""
    records: list[MessageRecord] = []
    count = size = next_id = 0
    last: tuple[Properties, float] | None = None
    for message, due in messages:
        alike = (message.properties, due)
        if message.id == next_id and alike == last:
            records[-1].bodies.append(message.body)
        else:
            time = due + clock_offset if due > 0 else 0.0
            records.append(
                MessageRecord(
                    message.id, _properties_record(message.properties, clock_offset), time, [message.body]
                )
            )
        last, next_id = alike, message.id + 1
        count += 1
        size += message.size
        if count == slices.SLICE_MESSAGES or size >= slices.SLICE_BYTES:
            yield Block(kind, records, count, size)
            records, count, size, last = [], 0, 0, None
    if records:
        yield Block(kind, records, count, size)


def key_blocks(image: Iterable[KeyImage], clock_offset: float) -> Iterator[Block]:
    """Yield blocks of Idempotency-Keys."""
    keys: list[KeyRecord] = []
    for key in image:
        keys.append(KeyRecord(key.queue, key.key, key.fingerprint, key.id, key.until + clock_offset))
        if len(keys) == slices.SLICE_MESSAGES:
            yield Block(KEYS, keys, 0, 0)
            keys = []
    if keys:
        yield Block(KEYS, keys, 0, 0)


def _emptied(items: deque[Message | Run]) -> Iterator[Message]:
    while items:
        item = items.popleft()
        if isinstance(item, Run):
            yield from item
        else:
            yield item


def _properties_record(properties: Properties, clock_offset: float) -> PropertiesRecord:
    expires = None if properties.expires == inf else properties.expires + clock_offset
    return PropertiesRecord(
        properties.content_type,
        properties.priority,
        expires,
        properties.receives,
        properties.releases,
        properties.failed_in,
        properties.headers,
        properties.group,
        properties.unique,
        properties.arrived + clock_offset if properties.arrived else 0.0,
        None if properties.origin is None else OriginRecord(*properties.origin),
    )


# Reading


class Archive:
    """An archive that is open for reading, of `size` bytes; `name` is what complaints call it.

    Iterating over it yields where each block begins, its kind, and the records in it, and has verified every byte
    when it ends. All of it raises `SnapshotFailed`, with the place, for what is damaged, and OSError.
    """

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self._file = file
        self._size = size
        self._name = name
        head = self._take(0, _HEAD.size)
        magic, self.version, self.number, self.written, checksum = _HEAD.unpack(head)
        if magic != _MAGIC:
            raise self.damage(0, "the file is not a snapshot in this format")
        if crc32(head[:-4]) != checksum or not 0 <= self.written <= 1e12:
            raise self.damage(0, "the checksum does not match")
        if self.version > VERSION:
            raise SnapshotFailed(
                f"{name} was written by a newer zapq, in format {self.version}. This zapq reads formats up to"
                f" {VERSION}."
            )
        self.totals = Totals(0, 0, 0)
        """What was read so far."""
        self.longest = 0
        """Bytes of the longest body that was."""

    def __iter__(self) -> Iterator[tuple[int, bytes, Any]]:
        place = _HEAD.size
        while True:
            kind, content = self._next(place)
            following = place + _BLOCK.size + len(content)
            if kind == _END:
                break
            if kind not in _DECODERS:
                raise self.damage(place, f"there is no block of kind {kind!r}")
            try:
                records = _DECODERS[kind].decode(content)
            # msgspec goes into what it skips, and a name may be no UTF-8.
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                raise self.damage(place, f"{error}") from error
            self._count(kind, records)
            yield place, kind, records
            place = following
        if following != self._size:
            raise self.damage(following, "something follows the end")
        if len(content) != _TOTALS.size or Totals._make(_TOTALS.unpack(content)) != self.totals:
            raise self.damage(place, "it does not hold what its end says")

    def ending(self) -> Totals | None:
        """Return what its end says it holds, without looking at what is before; None if it ends otherwise."""
        place = self._size - _END_BYTES
        if place < _HEAD.size:
            return None
        self._file.seek(place)
        try:
            kind, content = self._next(place)
        except SnapshotFailed:
            return None
        return Totals._make(_TOTALS.unpack(content)) if kind == _END and len(content) == _TOTALS.size else None

    def damage(self, place: int, what: str) -> SnapshotFailed:
        """Return the error for damage at that byte."""
        return SnapshotFailed(f"{self._name}: damaged at byte {place}: {what}.", byte=place)

    def _next(self, place: int) -> tuple[bytes, bytes]:
        kind, length, checksum = _BLOCK.unpack(self._take(place, _BLOCK.size))
        # Looked at before so much is read, or memory is taken for it.
        if length > MAX_BLOCK_BYTES:
            raise self.damage(place, "the block is longer than zapq writes them")
        content = self._take(place, length, _BLOCK.size)
        if _checksum(self.number, place, kind, content) != checksum:
            raise self.damage(place, "the checksum does not match")
        return kind, content

    def _take(self, place: int, length: int, skip: int = 0) -> bytes:
        """Read exactly `length` bytes, `skip` bytes into what begins at `place`."""
        if place + skip + length > self._size:
            raise self.damage(place, "the file ends in the middle of a block")
        data = b""
        while len(data) < length:
            more = self._file.read(length - len(data))
            if not more:
                raise self.damage(place, "the file ends in the middle of a block")
            data += more
        return data

    def _count(self, kind: bytes, records: Any) -> None:
        queues, messages, size = self.totals
        if kind == QUEUE:
            queues += 1
        elif kind in {ORDERED, OTHERS}:
            lengths = [len(body) for record in records for body in record.bodies]
            messages += len(lengths)
            size += sum(lengths) + sum(len(record.bodies) * record.properties.size for record in records)
            self.longest = max(self.longest, *lengths)
        self.totals = Totals(queues, messages, size)


class Caps(NamedTuple):
    """What a server holds at most."""

    messages: int
    bytes: int
    message_bytes: int
    queues: int
    promises: int = MAX_DEDUPLICATION_IDS


class _KeyCount:
    """How many keys an archive has, of each kind."""

    def __init__(self, caps: Caps) -> None:
        self._keys, self._promises = MAX_KEYS, caps.promises

    def add(self, records: Sequence[KeyRecord], queues: Collection[str]) -> None:
        """Raise ValueError for more than a server has, or for those of a queue that is not in the file."""
        promises = sum(each.fingerprint == ANY_CONTENT for each in records)
        self._promises -= promises
        self._keys -= len(records) - promises
        if min(self._keys, self._promises) < 0 or not all(each.queue in queues for each in records):
            raise ValueError("there are too many keys, or keys of a queue that is not in the file")


class Survey(NamedTuple):
    """What there is to know of an archive before its messages are read."""

    number: bytes
    """Tells the file from all others."""
    messages: int
    queues: dict[str, QueueRecord]


def survey(archive: Archive, name: str, caps: Caps, checkpoint: slices.Checkpoint) -> Survey:
    """Verify every byte of an archive, and return what queues it holds, calling `checkpoint` after each block.

    The caps on messages and bytes hold for each queue by itself. Raises as `decode` does.
    """
    queues: dict[str, QueueRecord] = {}
    for kind, records, filling in _filled(archive, name, caps, 0.0, checkpoint, by_queue=True):
        filling.forget()
        if kind == QUEUE:
            queues[records.name] = records
    return Survey(archive.number, archive.totals.messages, queues)


def decode(archive: Archive, name: str, caps: Caps, clock_offset: float, checkpoint: slices.Checkpoint) -> Image:
    """Return the image an archive keeps, calling `checkpoint` after each block.

    Raises `SnapshotFailed` for what is damaged or over a cap, and OSError.
    """
    queues: list[QueueImage] = []
    keys: list[KeyImage] = []
    for kind, records, filling in _filled(archive, name, caps, clock_offset, checkpoint, by_queue=False):
        if kind == QUEUE:
            queues.append(filling.image)
        elif kind == KEYS:
            keys += (KeyImage(k.queue, k.key, k.fingerprint, k.id, k.until - clock_offset) for k in records)
    return Image(queues, keys)


def _filled(
    archive: Archive, name: str, caps: Caps, clock_offset: float, checkpoint: slices.Checkpoint, *, by_queue: bool
) -> Iterator[tuple[bytes, Any, _Filling]]:
    """Yield the kind and the records of each block that can be where it is, and the queue it was filled into.

    The caps on messages and bytes hold for all queues together, or `by_queue` for each by itself.
    """
    settings: dict[str, QueueSettings] = {}
    counted = _KeyCount(caps)
    filling: _Filling | None = None
    before = archive.totals
    for place, kind, records in archive:
        try:
            if kind == QUEUE:
                if records.name in settings:
                    raise ValueError(f"the queue {records.name} is there twice")
                filling = _Filling(records, clock_offset)
                settings[records.name] = records.settings
                before = archive.totals if by_queue else before
            elif kind == KEYS:
                counted.add(records, settings)
            elif filling is None:
                raise ValueError("there are messages before the first queue")
            else:
                filling.add(kind, records)
        except ValueError as error:
            raise archive.damage(place, str(error)) from None
        messages, size = archive.totals.messages - before.messages, archive.totals.bytes - before.bytes
        _check_caps(name, caps, Totals(len(settings), messages, size), archive.longest, DEFAULT_QUEUE in settings)
        assert filling is not None  # keys before the first queue are of none that is there
        yield kind, records, filling
        checkpoint()
    _check_dead_letters(name, settings)


def _check_caps(name: str, caps: Caps, totals: Totals, longest: int, has_default: bool) -> None:
    """Raise `SnapshotFailed` if there is more than the caps allow."""
    queues, messages, size = totals
    for what, count, cap in (
        ("queues", queues + (not has_default), caps.queues),  # the default queue is there in any case
        ("msgs", messages, caps.messages),
        ("bytes", size, caps.bytes),
        ("message_bytes", longest, caps.message_bytes),
    ):
        if count > cap:
            option = f"max_{what}"
            raise SnapshotFailed(
                f"{name} holds more than --{option.replace('_', '-')} allows. Raise it, and load the file again.",
                limit=option,
            )


def _check_dead_letters(name: str, settings: dict[str, QueueSettings]) -> None:
    """Raise `SnapshotFailed` unless dead letters of every queue have a place to go to, and an end."""
    for queue, own in settings.items():
        if (own.dead_letter is None) != (own.max_receives is None):
            raise SnapshotFailed(
                f"{name}: the queue {queue} has only one of max_receives and dead_letter, which belong together."
            )
        seen, after = {queue}, own.dead_letter
        while after is not None:
            if after not in settings or after in seen:
                raise SnapshotFailed(
                    f"{name}: the dead letters of {queue} would go to a queue that is not in the file, or in a"
                    " circle."
                )
            seen.add(after)
            after = settings[after].dead_letter


class _Filling:
    """One queue's image as its blocks are read; ValueError for messages that cannot be in it as they are."""

    def __init__(self, record: QueueRecord, clock_offset: float) -> None:
        self._clock_offset = clock_offset
        self._ordered: deque[Message | Run] = deque()
        self._others: list[tuple[Message, float]] = []
        self._ranges: list[tuple[int, int]] = []
        """The first and the last ids of what is in `_ordered`."""
        self._ids: set[int] = set()
        """Those of the others."""
        self._next_id = record.next_id
        self.image = QueueImage(
            name=record.name,
            settings=record.settings,
            paused=record.paused,
            next_id=record.next_id,
            arrived=[(id, time - clock_offset) for id, time in record.arrived],
            in_order=self._ordered,
            others=self._others,
        )

    def add(self, kind: bytes, records: list[MessageRecord]) -> None:
        """Take the messages of one block in."""
        for record in records:
            if record.first + len(record.bodies) > self._next_id:
                raise ValueError("a message has an id that its queue has not given yet")
            if kind == ORDERED:
                self._add_ordered(record)
            else:
                self._add_others(record)

    def forget(self) -> None:
        """Keep of the messages so far only their ids."""
        self._ordered.clear()
        self._others.clear()

    def _add_ordered(self, record: MessageRecord) -> None:
        properties, first, count = self._properties(record.properties), record.first, len(record.bodies)
        if self._ids or (self._ranges and first <= self._ranges[-1][1]):
            raise ValueError("the messages are not in the order of their ids")
        if properties.priority or properties.expires < inf or record.due:
            raise ValueError("a message has a priority, ttl or delay where none is allowed")
        self._ranges.append((first, first + count - 1))
        if count == 1:
            self._ordered.append(Message(first, record.bodies[0], properties))
        else:
            size = sum(map(len, record.bodies)) + count * properties.size
            self._ordered.append(Run(first, count, size, properties, apart=unwalked(tuple(record.bodies))))

    def _add_others(self, record: MessageRecord) -> None:
        properties = self._properties(record.properties)
        due = record.due - self._clock_offset if record.due else 0.0
        for id, body in enumerate(record.bodies, record.first):
            at = bisect_right(self._ranges, (id, inf))
            if id in self._ids or (at and self._ranges[at - 1][1] >= id):
                raise ValueError("two messages have the same id")
            self._ids.add(id)
            self._others.append((Message(id, body, properties), due))

    def _properties(self, record: PropertiesRecord) -> Properties:
        expires = inf if record.expires is None else record.expires - self._clock_offset
        return Properties(
            record.content_type,
            record.priority,
            expires,
            record.receives,
            record.releases,
            record.failed_in,
            record.headers,
            record.group,
            record.unique,
            record.arrived - self._clock_offset if record.arrived else 0.0,
            None if record.origin is None else Origin(*record.origin),
        )
