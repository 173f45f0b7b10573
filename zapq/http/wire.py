"""What requests may say: parameters, fields and bodies, turned into values or refused.

Both roads read requests with these functions, so that a request means the same on either.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from typing import Annotated, TypeVar
from urllib.parse import parse_qsl, urlencode

import msgspec

from zapq.core.complaints import plainly
from zapq.core.message import CONTENT_TYPE, OCTETS, Draft
from zapq.core.queue_settings import DURATIONS, QueueSettings, not_settings
from zapq.core.stats import STATES, State
from zapq.errors import InvalidParameter, NotAcceptable, UnsupportedType
from zapq.http.plan import BodyEncoding
from zapq.http.render import JSON, MSGPACK, NDJSON
from zapq.limits import MAX_BATCH
from zapq.quantities import parse_duration
from zapq.service.operations import Durability, Settlement

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
_CHANGES = msgspec.json.Decoder(dict[str, object])
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not what they should be."""

_CONTENT_TYPE = re.compile(CONTENT_TYPE)
_DIGITS = re.compile(r"[0-9]+(\.[0-9]+)?[smhd]?", re.ASCII)
_EXPONENT = re.compile(r"[+-]?[0-9.]+[eE][+-]?[0-9]+[smhd]?", re.ASCII)
_BYTE = re.compile(r"\(byte ([0-9]+)\)\Z", re.ASCII)
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def parameters(query: str, known: Sequence[str]) -> dict[str, str]:
    """Return the query parameters; unknown and repeated ones are `InvalidParameter`, for they are typos."""
    values: dict[str, str] = {}
    repeated: dict[str, int] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        repeated[name] = repeated.get(name, 0) + 1
        values.setdefault(name, value)
    for name in values:
        if name not in known:
            takes = f"only {', '.join(known)}" if known else "none"
            raise InvalidParameter(f"Unknown query parameter. This endpoint takes {takes}.", parameter=name[:100])
        if repeated[name] > 1:
            raise InvalidParameter(f"{name} is given {repeated[name]} times. Give it once.", parameter=name)
    return values


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
    """Return the parameter `name`, a duration such as `20`, `0.5`, `30s` or `5m`, in seconds."""
    text = values.get(name)
    if text is None:
        return default
    try:
        return parse_duration(text)
    except ValueError:
        hint = ""
        if _EXPONENT.fullmatch(text):
            hint = " Exponents are not taken: write 0.001 and not 1e-3."
        elif _DIGITS.fullmatch(text):
            hint = " Give at most 20 digits on each side of the point."
        raise InvalidParameter(
            f"{name} must be seconds, or a number with s, m, h or d behind it, such as 20, 0.5 or 5m.{hint}",
            parameter=name,
        ) from None


def whole(values: dict[str, str], name: str, default: int, *, digits: int = 9) -> int:
    """Return the parameter `name` as a whole number."""
    text = values.get(name)
    if text is None:
        return default
    if len(text) > digits or not re.fullmatch(r"[0-9]+", text, re.ASCII):
        raise InvalidParameter(f"{name} must be a whole number, such as 5.", parameter=name)
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


def kept_type(text: str) -> str:
    """Return `text` if it can stand in an answer as it is, else the type of bytes of which nothing is known."""
    return text if _CONTENT_TYPE.fullmatch(text) else OCTETS


def check_key(key: str) -> str:
    """Return an Idempotency-Key if it is one."""
    if not _KEY.fullmatch(key):
        raise InvalidParameter(
            "Idempotency-Key must be given once, as 1 to 255 visible ASCII characters without spaces.",
            parameter="Idempotency-Key",
        )
    return key


def media_type(content_type: str) -> str:
    """Return the type a Content-Type field names, without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def batch_format(content_type: str) -> str:
    """Return the media type of a batch that is sent."""
    named = media_type(content_type)
    if named not in {MSGPACK, JSON, NDJSON}:
        raise UnsupportedType(
            f"A batch cannot have this Content-Type. Send {MSGPACK}, {JSON} or {NDJSON}.", parameter="Content-Type"
        )
    return named


def settlements_format(content_type: str) -> str:
    """Return the media type of settlements that are sent."""
    named = media_type(content_type)
    if named not in {MSGPACK, JSON}:
        raise UnsupportedType(
            f"Settlements cannot have this Content-Type. Send {JSON} or {MSGPACK}.", parameter="Content-Type"
        )
    return named


def best_of(accept: str, offered: Sequence[str]) -> str | None:
    """Return which of the types `offered` an Accept field likes best; the first one if it does not mind."""
    if accept in {"", "*/*"}:
        return offered[0]
    if accept in offered:
        return accept
    # Imported here: programs that embed queues, and the command line, do without.
    from werkzeug.datastructures import MIMEAccept
    from werkzeug.http import parse_accept_header

    best: str | None = parse_accept_header(accept, MIMEAccept).best_match(list(offered))
    return best


def answer_format(accept: str) -> str:
    """Return the media type the client wants a batch in: JSON, msgpack or NDJSON; JSON if it does not mind."""
    best = best_of(accept, [JSON, MSGPACK, NDJSON])
    if best is None:
        raise NotAcceptable(f"The Accept header must allow {JSON}, {MSGPACK} or {NDJSON}.", parameter="Accept")
    return best


def body_encoding(values: dict[str, str], default: BodyEncoding) -> BodyEncoding:
    """Return the parameter `body`: how a message's body is written in JSON."""
    match values.get("body"):
        case None:
            return default
        case "base64":
            return "base64"
        case "text":
            return "text"
        case "json":
            return "json"
    raise InvalidParameter("body must be base64, text or json.", parameter="body")


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
        why = _why(error, Draft.__struct_fields__)
        if media_type == NDJSON and (place := _BYTE.search(why)):
            # People look for a line by its number.
            number = bytes(data[: int(place[1])]).count(b"\n") + 1
            why = f"line {number}: {why}"
        raise InvalidParameter(f"The batch is not valid: {why}.", parameter="body") from None
    if not 1 <= len(lines) <= MAX_BATCH:
        raise InvalidParameter(
            f"A batch must have 1 to {MAX_BATCH} lines. This one has {len(lines)}.", parameter="body"
        )
    return lines


def decode_settlements(media_type: str, data: bytes) -> list[Settlement]:
    """Return what is to become of which lease; `InvalidParameter` says what is wrong."""
    decoder = _MSGPACK_SETTLEMENTS if media_type == MSGPACK else _JSON_SETTLEMENTS
    try:
        return decoder.decode(data)
    except _UNDECODABLE as error:
        raise InvalidParameter(
            f"The settlements are not valid: {_why(error, Settlement.__struct_fields__)}.", parameter="body"
        ) from None


def decode_settings(data: bytes) -> QueueSettings:
    """Return the settings of a queue, those not named at their defaults."""
    if not data:
        raise InvalidParameter(
            "The body is empty: send the settings as a JSON object; {} puts all of them back to their defaults.",
            parameter="body",
        )
    try:
        return msgspec.convert(_decode_changes(data), QueueSettings)
    except msgspec.ValidationError as error:
        raise _not_settings(error) from None


def decode_changes(data: bytes) -> dict[str, object]:
    """Return which settings of a queue are to change, and to what; None stands for the default."""
    if not data:
        raise InvalidParameter(
            "The body is empty: send what is to change as a JSON object; {} changes nothing.", parameter="body"
        )
    return _decode_changes(data)


def _decode_changes(data: bytes) -> dict[str, object]:
    """Return settings by name; durations may be written as in a query, such as `"5m"`."""
    try:
        changes = _CHANGES.decode(data)
    except _UNDECODABLE as error:
        raise _not_settings(error) from None
    for name in DURATIONS & changes.keys():
        text = changes[name]
        if isinstance(text, str):
            changes[name] = seconds({name: text}, name, None)
    return changes


def _not_settings(error: Exception) -> InvalidParameter:
    if isinstance(error, msgspec.ValidationError):
        return not_settings(str(error))
    return InvalidParameter(f"The settings are not valid: {_why(error)}.", parameter="body")


def type_in_batch(media_type: str) -> str:
    """Return the type of the messages of a batch that do not name their own."""
    return JSON if media_type == NDJSON else OCTETS


def is_local(client: tuple[str, int] | None) -> bool:
    """Whether the peer is on this machine: a loopback address, or a unix socket (which has no address)."""
    if client is None:
        return True
    address = ip_address(client[0].partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback


def _why(error: Exception, known: Sequence[str] = ()) -> str:
    match error:
        case UnicodeDecodeError():
            return "its text is not UTF-8"
        case RecursionError():
            return "it is nested too deeply"
        case _:
            return plainly(str(error), known)[:200]
