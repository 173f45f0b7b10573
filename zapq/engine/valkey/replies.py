"""What the library's answers hold: messages, leases, figures and refusals, from the values it sends."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import inf
from typing import Any

import msgspec

from zapq.core.ages import Oldest
from zapq.core.headers import Headers
from zapq.core.leases import End
from zapq.core.message import DEFAULTS, OCTETS, Lease, Message, Origin, Properties
from zapq.core.placed import How, Placed
from zapq.core.queue_settings import QueueSettings
from zapq.core.receipt import not_given
from zapq.core.stats import STATES, MessageView, QueueStats
from zapq.errors import (
    KeyReused,
    MessageNotFound,
    QueueFull,
    ReceiptExpired,
    TooManyQueues,
    ZapqError,
    leased_for,
)
from zapq.service.operations import Accepted, Durability, Put
from zapq.service.queue_state import QueueInfo

_DOUBLE = struct.Struct(">d")
_HEADS = {2: 12, 3: 14, 4: 15, 5: 16}
"""The length of the head of a value without what has another length each time, by its first byte."""
_OF_ANOTHER, _REPLACED = 9, 10
_HOW: Sequence[How] = ("", "kept", "replaced")
"""What became of a message, by the number that the library has for it."""
_pack: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode
_settings: Callable[[bytes], QueueSettings] = msgspec.msgpack.Decoder(QueueSettings).decode


def no_memory() -> QueueFull:
    """Return what to tell a client of a server without memory."""
    return QueueFull("Valkey has no memory left for the message. Nothing was stored. Send it again later.")


def wrong_receipt(receipt: str) -> ZapqError:
    """Return what refuses a receipt that the queue has not given; those of messages in groups have a g."""
    return not_given(receipt.replace("g", "-", 1))


def too_many_queues(said: Sequence[Any]) -> TooManyQueues:
    return TooManyQueues(limit="max_queues", current=said[1], max_queues=said[2])


def refusal(queue: str, said: Sequence[Any]) -> ZapqError:
    if said[0] == b"reused":
        return KeyReused(parameter="Idempotency-Key")
    _, limit, cap, current, most, retry_after = said
    full = QueueFull(None, queue=queue, limit=limit.decode(), current=current, **{cap.decode(): most})
    full.retry_after = retry_after
    return full


def placed_in(said: Sequence[Any], asked: Put, durability: Durability | None) -> Accepted:
    """Return what came of messages of which some have keys."""
    placed = [Placed(int(id), _HOW[how]) for id, how in zip(said[1::2], said[2::2], strict=True)]
    # What it rests on may be lost, and then so is this.
    survives = durability or asked.terms.durability
    if isinstance(asked.content, bytes):
        [alone] = placed
        return Accepted(alone.id, False, survives, alone.how)
    return Accepted(placed[0].id, False, survives, placed=tuple(placed))


@lru_cache(1024)
def _typed(kind: bytes, receives: int, releases: int) -> Properties:
    return Properties(kind.decode() or OCTETS, receives=receives, releases=releases)


def properties_of(value: bytes, receives: int, releases: int, ours: float) -> tuple[Properties, bytes]:
    """Return what the head of a value says, with `ours` seconds for which our clock is ahead, and the body."""
    form = value[0]
    if form == 0:
        body = value[1:]
        return (_typed(b"", receives, releases) if receives or releases else DEFAULTS), body
    if form == 1:
        last = 2 + value[1]
        return _typed(value[2:last], receives, releases), value[last:]
    priority = value[1]
    [expires] = _DOUBLE.unpack_from(value, 2)
    first = _HEADS[form]
    middle = first + value[10]
    last = middle + value[11]
    headers: Headers = ()
    group = unique = ""
    end = last
    if form > 2:
        names = end = last + int.from_bytes(value[12:14], "big")
        if form > 3:
            end = names + value[14]
            group = value[names:end].decode()
        if form == 5:
            behind, end = end, end + value[15]
            unique = value[behind:end].decode()
        if names > last:
            headers, end = _headers_in(value, value[last:names], end)
    failed_in, _, origin = value[middle:last].decode().partition("/")
    properties = Properties(
        value[first:middle].decode() or OCTETS,
        priority,
        expires / 1000 + ours if expires else inf,
        receives,
        releases,
        failed_in,
        headers,
        group,
        unique=unique,
        origin=_origin_in(origin),
    )
    return properties, value[end:]


def _origin_in(text: str) -> Origin | None:
    """Return the origin of a message, without the queue it failed in: the library has not always kept one."""
    if not text:
        return None
    queue, id, receives = text.split("/")
    return Origin(queue, int(id), int(receives))


def origin_text(failed_in: str, origin: tuple[str, int, int] | None) -> str:
    """Return the origin of a message as the library keeps it."""
    return failed_in if origin is None else "/".join((failed_in, *map(str, origin)))


def shape_of(headers: Headers) -> str:
    """Return how long the names and values of headers are, as the library keeps it: 14 bits each, in ASCII.

    What it unpacks may be text, but not bytes.
    """
    return "".join(chr(len(text) >> 7) + chr(len(text) & 127) for header in headers for text in header)


def with_headers(headers: Headers, body: bytes) -> bytes:
    """Return a body with the names and values of headers before it, as the library keeps it."""
    if not headers:
        return body
    return b"".join([*(text.encode() for header in headers for text in header), body])


def _headers_in(value: bytes, shape: bytes, at: int) -> tuple[Headers, int]:
    """Return the headers whose names and values begin at `at`, and where the body begins behind them."""
    texts: list[str] = []
    for high, low in zip(shape[::2], shape[1::2], strict=True):
        end = at + (high << 7 | low)
        texts.append(value[at:end].decode())
        at = end
    return tuple(zip(texts[::2], texts[1::2], strict=True)), at


def milliseconds(seconds: float) -> int:
    """Return so many seconds in milliseconds; a duration is never cut to nothing."""
    return max(round(seconds * 1000), 1) if seconds > 0 else 0


def about(id: int, properties: Properties, now: float) -> tuple[Any, ...]:
    """Return what is to be known of a message that goes back."""
    left = milliseconds(max(properties.expires - now, 0.001)) if properties.expires < inf else 0
    kind = "" if properties.content_type == OCTETS else properties.content_type
    return (
        id,
        properties.priority,
        properties.receives,
        properties.releases,
        left,
        kind,
        origin_text(properties.failed_in, properties.origin),
        shape_of(properties.headers),
        properties.group,
        properties.unique,
    )


def message_of(id: bytes, value: bytes, note: Sequence[int] | None, ours: float) -> tuple[Message, int]:
    """Return a message, and how often it was leased before."""
    if note is None:
        if value[0] == 0:
            return Message(int(id), value[1:]), 0
        properties, body = properties_of(value, 0, 0, ours)
        return Message(int(id), body, properties), 0
    _, receives, releases = note
    properties, body = properties_of(value, receives, releases, ours)
    return Message(int(id), body, properties), receives


def lease_of(
    id: bytes, value: bytes, note: Sequence[int] | None, ours: float, how: tuple[str, float, float, str]
) -> Lease:
    common, deadline, visibility, queue = how
    if note is None and value[0] == 0:
        # As below, for most: this is done for each message leased.
        number, size = int(id), len(value) - 1
        return Lease(Message(number, value[1:]), size, 1, deadline, f"90{number:012x}-{common}", visibility, queue)
    message, receives = message_of(id, value, note, ours)
    properties = message.properties
    is_mortal = 1 if properties.expires < inf else 0
    is_grouped = properties.group and not properties.failed_in
    tag = f"{9 - properties.priority}{is_mortal}{message.id:012x}{'g' if is_grouped else '-'}{common}"
    return Lease(message, message.size, receives + 1, deadline, tag, visibility, queue)


def settled_one(queue: str, receipt: str, code: Any, ours: float) -> ZapqError | Lease | None:
    if code == 0:
        return None
    if code == _OF_ANOTHER:
        return wrong_receipt(receipt)
    if code == _REPLACED:
        code = End.REPLACED + 1
    if isinstance(code, int):
        return ReceiptExpired(End(code - 1).sentence, parameter="receipt")
    ends, value, receives, releases = code
    tag, _, size = receipt.rpartition("-")
    properties, body = properties_of(value, receives, releases, ours)
    message = Message(int(tag[2:14], 16), body, properties)
    visibility = int(tag[35:], 16) / 1000
    return Lease(message, int(size, 16), receives + 1, ends / 1000 + ours, tag, visibility, queue)


def erased(queue: str, id: int, said: Any, now: int) -> ZapqError | None:
    """Return what came of deleting a message, at the time `now` of the server."""
    if isinstance(said, list):
        return leased_for(max(said[0] - now, 0) / 1000 if said[0] else inf, id)
    return None if said else MessageNotFound(queue=queue, message_id=id)


def view_of(said: Sequence[Any], ours: float) -> MessageView:
    id, value, receives, releases, state, at = said
    properties, body = properties_of(value, receives, releases, ours)
    message = Message(int(id), body, properties)
    name = STATES[state]
    return MessageView(message, name, receives + (name == "leased"), at / 1000 + ours if at else None)


def settings_of(packed: bytes) -> QueueSettings:
    """Return settings from what the library keeps of them: those that are not the default."""
    return _settings(packed) if packed else QueueSettings()


def pack_settings(settings: QueueSettings) -> bytes:
    """Return settings as the library keeps them."""
    defaults = msgspec.to_builtins(QueueSettings())
    others = {name: value for name, value in msgspec.to_builtins(settings).items() if value != defaults.get(name)}
    return _pack(others) if others else b""


def stats_of(row: Sequence[int]) -> QueueStats:
    """Return the statistics of a queue, or of many, from their figures."""
    messages, size, delayed, leased = row[:4]
    return QueueStats(messages, size, messages - delayed - leased, delayed, leased, *row[6:18])


def info_of(queue: str, row: Sequence[int], packed: bytes, ours: float) -> QueueInfo:
    """Return what there is to know of a queue, from its figures and what it has of its settings."""
    return QueueInfo(queue, settings_of(packed), stats_of(row), bool(row[4]), 0, oldest=oldest_at(row[-1], ours))


def oldest_at(arrived: int, ours: float) -> Oldest | None:
    """Return since when the oldest message is there that arrived then; 0 for none, less if that is not known."""
    return None if arrived < 0 else Oldest(arrived / 1000 + ours if arrived else inf, None)
