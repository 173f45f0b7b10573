"""What requests may say: parameters, bodies and peers, turned into values or refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from itertools import accumulate
from typing import Annotated, TypeVar
from urllib.parse import parse_qsl, urlencode

import msgspec
from quart import Request

from zapq.core.complaints import plainly
from zapq.core.message import CONTENT_TYPE, OCTETS, Draft
from zapq.core.queue_settings import QueueSettings
from zapq.core.stats import STATES, MessageView, State
from zapq.errors import BatchTooLarge, InvalidParameter, MessageTooLarge, NotAcceptable, UnsupportedType
from zapq.http.render import JSON, MSGPACK
from zapq.limits import MAX_BATCH, MAX_BATCH_BYTES
from zapq.service.named_queue import Durability, QueueInfo, Settlement
from zapq.settings import parse_seconds

NDJSON = "application/x-ndjson"
_FORM = "application/x-www-form-urlencoded"
_LONGEST_GUESS = 4096
"""Bytes of a misplaced body that are looked at, to say where its parameters belong."""

T = TypeVar("T")
_Batch = Annotated[list[T], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]
_MSGPACK_BODIES = msgspec.msgpack.Decoder(_Batch[bytes])
_MSGPACK_MESSAGES = msgspec.msgpack.Decoder(_Batch[bytes | Draft])
_JSON_MESSAGES = msgspec.json.Decoder(_Batch[bytes | Draft | None])
_JSON_LINE = msgspec.json.Decoder(msgspec.Raw)
_JSON_SETTLEMENTS = msgspec.json.Decoder(_Batch[Settlement])
_MSGPACK_SETTLEMENTS = msgspec.msgpack.Decoder(_Batch[Settlement])
_SETTINGS = msgspec.json.Decoder(QueueSettings)
_CHANGES = msgspec.json.Decoder(dict[str, object])
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not what they should be."""

_CONTENT_TYPE = re.compile(CONTENT_TYPE)
_DIGITS = re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)
_EXPONENT = re.compile(r"[+-]?[0-9.]+[eE][+-]?[0-9]+", re.ASCII)
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def parameters(request: Request, *known: str) -> dict[str, str]:
    """Return the query parameters; unknown and repeated ones are `InvalidParameter`, for they are typos."""
    for name, values in request.args.lists():
        if name not in known:
            takes = f"only {', '.join(known)}" if known else "none"
            raise InvalidParameter(f"Unknown query parameter. This endpoint takes {takes}.", parameter=name[:100])
        if len(values) > 1:
            raise InvalidParameter(f"{name} is given {len(values)} times. Give it once.", parameter=name)
    return request.args.to_dict()


def why_no_body(body: bytes, media_type: str, known: Sequence[str]) -> str:
    """Return why a body is refused where parameters are all there is, and where to put what it says."""
    meant = _members(body, media_type)
    misplaced = {
        name: str(value)
        for name in known
        if isinstance(value := meant.get(name), str | int | float) and not isinstance(value, bool)
    }
    if misplaced:
        names = " and ".join(misplaced)
        return f"This request takes no body; put {names} in the query string: ?{urlencode(misplaced)[:200]}"
    if known:
        return f"This request takes no body; its parameters ({', '.join(known)}) belong in the query string."
    return "This request takes no body and no parameters. Send it without them."


def _members(body: bytes, media_type: str) -> dict[str, object]:
    """Return what a body that was sent in the place of parameters names, as far as that can be read."""
    if media_type == _FORM:
        return dict(parse_qsl(body.decode("latin-1")[:_LONGEST_GUESS]))
    try:
        return _CHANGES.decode(body[:_LONGEST_GUESS])
    except _UNDECODABLE:
        return {}


def seconds(values: dict[str, str], name: str, default: T) -> float | T:
    """Return the parameter `name` as decimal seconds."""
    text = values.get(name)
    if text is None:
        return default
    try:
        return parse_seconds(text)
    except ValueError:
        hint = ""
        if _EXPONENT.fullmatch(text):
            hint = " Exponents are not taken: write 0.001 and not 1e-3."
        elif _DIGITS.fullmatch(text):
            hint = " Give at most 20 digits on each side of the point."
        raise InvalidParameter(
            f"{name} must be seconds as a decimal number, such as 20 or 0.5.{hint}", parameter=name
        ) from None


def whole(values: dict[str, str], name: str, default: int) -> int:
    """Return the parameter `name` as a whole number."""
    text = values.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII):
        raise InvalidParameter(f"{name} must be a whole number, such as 10.", parameter=name)
    return int(text)


def state(values: dict[str, str]) -> State:
    """Return the parameter `state`; ready messages are what is meant if it is not given."""
    text = values.get("state", "ready")
    for known in STATES:
        if text == known:
            return known
    raise InvalidParameter(f"state must be one of {', '.join(STATES)}.", parameter="state")


def leases(values: dict[str, str]) -> bool:
    """Whether messages are to be leased: always, unless `ack=auto` says that giving them is enough."""
    if values.get("ack", "auto") != "auto":
        raise InvalidParameter(
            "ack must be auto. Leave it out to acknowledge each message yourself.", parameter="ack"
        )
    return "ack" not in values


def durability(values: dict[str, str]) -> Durability | None:
    """Return what a producer asks a message to survive before it is answered; None if it does not say."""
    match values.get("durability"):
        case None:
            return None
        case "memory":
            return "memory"
        case "committed":
            return "committed"
    raise InvalidParameter("durability must be memory or committed.", parameter="durability")


def content_type(request: Request) -> str:
    """Return the type to be stored with a message: the producer's if it is plain and of 1 to 255 characters."""
    return kept_type(request.headers.get("Content-Type", ""))


def kept_type(text: str) -> str:
    """Return `text` if it can stand in an answer as it is, else the type of bytes of which nothing is known."""
    return text if _CONTENT_TYPE.fullmatch(text) else OCTETS


def idempotency_key(request: Request) -> str | None:
    """Return the Idempotency-Key, if there is one."""
    keys = request.headers.getlist("Idempotency-Key")
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        raise InvalidParameter(
            "Idempotency-Key must be given once, as 1 to 255 visible ASCII characters without spaces.",
            parameter="Idempotency-Key",
        )
    return keys[0]


def batch_format(request: Request) -> str:
    """Return the media type of a batch that is sent."""
    if request.mimetype not in {MSGPACK, JSON, NDJSON}:
        raise UnsupportedType(
            f"A batch cannot have this Content-Type. Send {MSGPACK}, {JSON} or {NDJSON}.", parameter="Content-Type"
        )
    return request.mimetype


def answer_format(request: Request) -> str:
    """Return the media type the client wants: JSON or msgpack, JSON if it does not mind."""
    wanted = request.accept_mimetypes
    best = wanted.best_match([JSON, MSGPACK]) if wanted else JSON
    if best is None:
        raise NotAcceptable(f"The Accept header must allow {JSON} or {MSGPACK}.", parameter="Accept")
    return best


def decode_batch(media_type: str, data: bytes) -> Sequence[bytes | Draft]:
    """Return the messages of a batch; `InvalidParameter` says what is wrong with it, and where."""
    try:
        if media_type == MSGPACK:
            try:
                return _MSGPACK_BODIES.decode(data)
            except msgspec.ValidationError:
                return _MSGPACK_MESSAGES.decode(data)
        if media_type == JSON:
            return [b"" if each is None else each for each in _JSON_MESSAGES.decode(data)]
        lines: list[bytes] = [bytes(line) for line in _JSON_LINE.decode_lines(data)]
    except _UNDECODABLE as error:
        raise InvalidParameter(f"The batch is not valid: {_why(error)}.", parameter="body") from None
    if not 1 <= len(lines) <= MAX_BATCH:
        raise InvalidParameter(
            f"A batch must have 1 to {MAX_BATCH} lines. This one has {len(lines)}.", parameter="body"
        )
    return lines


def decode_settlements(media_type: str, data: bytes) -> list[Settlement]:
    """Return what is to become of which lease; `InvalidParameter` says what is wrong."""
    if media_type not in {MSGPACK, JSON}:
        raise UnsupportedType(
            f"Settlements cannot have this Content-Type. Send {JSON} or {MSGPACK}.", parameter="Content-Type"
        )
    decoder = _MSGPACK_SETTLEMENTS if media_type == MSGPACK else _JSON_SETTLEMENTS
    try:
        return decoder.decode(data)
    except _UNDECODABLE as error:
        raise InvalidParameter(f"The settlements are not valid: {_why(error)}.", parameter="body") from None


def decode_settings(data: bytes) -> QueueSettings:
    """Return the settings of a queue, those not named at their defaults."""
    if not data:
        raise InvalidParameter(
            "The body is empty: send the settings as a JSON object; {} puts all of them back to their defaults.",
            parameter="body",
        )
    return _decode_settings(_SETTINGS, data)


def decode_changes(data: bytes) -> dict[str, object]:
    """Return which settings of a queue are to change, and to what; None stands for the default."""
    if not data:
        raise InvalidParameter(
            "The body is empty: send what is to change as a JSON object; {} changes nothing.", parameter="body"
        )
    return _decode_settings(_CHANGES, data)


def _decode_settings(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except _UNDECODABLE as error:
        raise InvalidParameter(f"The settings are not valid: {_why(error)}.", parameter="body") from None


def type_in_batch(media_type: str) -> str:
    """Return the type of the messages of a batch that do not name their own."""
    return JSON if media_type == NDJSON else OCTETS


def within_a_batch(seen: list[MessageView]) -> list[MessageView]:
    """Return the first of `seen`, as many as have at most `MAX_BATCH_BYTES` together, but at least one."""
    sizes = accumulate(len(each.message.body) for each in seen)
    return [
        each
        for number, (each, size) in enumerate(zip(seen, sizes, strict=True))
        if not number or size <= MAX_BATCH_BYTES
    ]


def describe_queue(info: QueueInfo) -> dict[str, object]:
    """Return a queue as JSON shows it."""
    return {
        "name": info.name,
        "paused": info.paused,
        "waiting": info.waiting,
        **msgspec.to_builtins(info.stats),
        "settings": info.settings,
    }


def describe_message(seen: MessageView, now: float) -> dict[str, object]:
    """Return a message as a peek shows it."""
    properties = seen.message.properties
    described: dict[str, object] = {
        "id": seen.message.id,
        "state": seen.state,
        "priority": properties.priority,
        "receive_count": seen.receives,
        "content_type": properties.content_type,
        "body": seen.message.body,
    }
    if seen.due is not None and seen.due < float("inf"):
        described["visible_in"] = round(max(seen.due - now, 0.0), 3)
    if properties.expires < float("inf"):
        described["expires_in"] = round(max(properties.expires - now, 0.0), 3)
    if properties.failed_in:
        described["failed_in"] = properties.failed_in
    return described


def body_limit(path: str, max_message_bytes: int) -> tuple[int, type[MessageTooLarge]]:
    """How long the body of a request to `path` may be, and how a longer one is refused."""
    if path.endswith(("/batch", "/settle")):
        return MAX_BATCH_BYTES, BatchTooLarge
    return max_message_bytes, MessageTooLarge


def check_declared_length(request: Request, max_message_bytes: int) -> None:
    """Refuse a body that is announced too long, before any of it is read."""
    limit, refusal = body_limit(request.path, max_message_bytes)
    declared = request.content_length
    if declared is not None and declared > limit:
        raise refusal(max_bytes=limit, current=declared)


def is_local(client: tuple[str, int] | None) -> bool:
    """Whether the peer is on this machine: a loopback address, or a unix socket (which has no address)."""
    if client is None:
        return True
    address = ip_address(client[0].partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback


def _why(error: Exception) -> str:
    match error:
        case UnicodeDecodeError():
            return "its text is not UTF-8"
        case RecursionError():
            return "it is nested too deeply"
        case _:
            return plainly(str(error))[:200]
