"""What a plainly written request says: the one tight grammar of the heads that are answered without h11.

A head is plain if it matches from the first byte to the last, and every field in it is known to make no difference
to how the request is read. For everything else the answer is None, and h11 decides. So a mistake here can make a
request slow, but not mean something else.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

import msgspec

from zapq.core.message import DEFAULTS, OCTETS, Properties
from zapq.http import tracing
from zapq.http.render import JSON, MSGPACK
from zapq.http.wire import NDJSON, kept_type
from zapq.limits import (
    DEFAULT_QUEUE,
    HEADS_REMEMBERED,
    MAX_BATCH,
    MAX_HOT_FIELDS,
    MAX_HOT_HEAD_BYTES,
    MAX_VISIBILITY,
    MAX_WAIT,
    QUEUE_NAME,
)
from zapq.server.wire_guard import check_head
from zapq.service.waiting import ONE, Want

Verb = Literal["enqueue", "dequeue", "put", "put many", "receive", "receive many", "ack"]

_BEGINNINGS = (
    b"POST /enqueue HTTP/1.1\r\n",
    b"GET /dequeue HTTP/1.1\r\n",
    b"POST /dequeue HTTP/1.1\r\n",
    b"GET /dequeue?wait=",
    b"POST /dequeue?wait=",
    b"POST /queues/",
    b"DELETE /queues/",
)
_QUEUE = rb"/queues/(%b)" % QUEUE_NAME.encode()
_SECONDS = rb"[0-9]{1,5}(?:\.[0-9]{1,3})?"
_PARAMETER = rb"(?:ack=auto|(?:visibility|wait|max)=%b)" % _SECONDS
_DROP_IN = re.compile(rb"(?:(POST) /enqueue|(?:GET|POST) /dequeue(?:\?wait=(%b))?) HTTP/1\.1" % _SECONDS)
_PUT = re.compile(rb"POST %b/messages(/batch)? HTTP/1\.1" % _QUEUE)
_RECEIVE = re.compile(
    rb"POST %b/receive(/batch)?(?:\?(%b(?:&%b){0,3}))? HTTP/1\.1" % (_QUEUE, _PARAMETER, _PARAMETER)
)
_ACK = re.compile(rb"DELETE %b/receipts/ HTTP/1\.1" % _QUEUE)
_BLOCK = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e]*\r\n)+\r\n")
_FIELD = re.compile(rb"([^:]+):[\t ]*(.*?)[\t ]*\r\n")
_HOST = re.compile(rb"(?:[0-9A-Za-z_-]{1,63}(?:\.[0-9A-Za-z_-]{1,63}){0,7}|\[[0-9a-f:]{2,39}\])(?::[0-9]{1,5})?")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,8}")
# These change how a request is read or answered: h11's business, or Quart's.
_COLD_FIELDS = frozenset({
    b"transfer-encoding",
    b"expect",
    b"upgrade",
    b"te",
    b"trailer",
    b"http2-settings",
    # A browser's: what they mean is decided in one place.
    b"origin",
    b"sec-fetch-site",
    # Plain where it is: `cut_key` takes it out.
    b"idempotency-key",
})
_KEY = re.compile(rb"\r\nidempotency-key:[\t ]*([\x21-\x7e]{1,255})[\t ]*(?=\r\n)", re.IGNORECASE)
_SINGLE_FIELDS = (
    b"host",
    b"content-length",
    b"connection",
    b"x-trace-id",
    b"content-type",
    b"accept",
    b"authorization",
)


class Fields(msgspec.Struct, frozen=True):
    """What the fields of a plain head say."""

    length: int
    trace_id: bytes
    last: bool
    host: bytes
    """The host the client asks for."""
    authorization: bytes
    """The client's credential, or empty."""
    content_type: str
    accept: str


class Head(msgspec.Struct, frozen=True):
    """What the head of a plain request says."""

    verb: Verb
    method: str
    length: int
    """Bytes of body behind it."""
    trace_id: bytes
    """The client's, or empty."""
    last: bool
    """Whether the client wants the connection closed after the answer."""
    fields: Fields
    """What else decides whether it is answered."""
    queue: str = DEFAULT_QUEUE
    properties: Properties = DEFAULTS
    """What a new message is to be."""
    want: Want = ONE
    """What a consumer asks for."""
    wait: float = 0.0
    """Seconds to wait for a message, if it is a long poll."""
    media_type: str = ""
    """That of a batch, sent or wanted."""
    key: str = ""
    """The Idempotency-Key."""
    path: str = ""
    """Without the query, and without a receipt."""


def may_be_hot(start: bytes) -> bool:
    """Whether the begin of a request, its head not complete, is the begin of a plain one as far as one can see."""
    return (
        len(start) < MAX_HOT_HEAD_BYTES
        and any(line.startswith(start) or start.startswith(line) for line in _BEGINNINGS)
        and check_head(start) is None
    )


def cut_receipt(head: bytes) -> tuple[bytes, bytes]:
    """Take the receipt out of an acknowledgement's head; return the rest, which clients repeat, and the receipt.

    Of any other head something else is taken, or nothing: then the rest is no acknowledgement either.
    """
    end = head.find(b" HTTP/1.1\r\n")
    start = head.rfind(b"/", 0, end) + 1
    return head[:start] + head[end:], head[start:end]


def cut_key(head: bytes) -> tuple[bytes, str]:
    """Take the Idempotency-Key out of a head; return the rest, which clients repeat, and the key, or nothing."""
    match = _KEY.search(head)
    if match is None:
        return head, ""
    return head[: match.start()] + head[match.end() :], match[1].decode()


def parse_head(head: bytes) -> Head | None:
    """Return what a request's head (with its empty line) says, or None if it is not plain.

    That of an acknowledgement is to be given without its receipt.
    """
    line, _, block = head.partition(b"\r\n")
    fields = _parse_fields(block)
    if fields is None:
        return None
    for parse in (_parse_ack,) if line.startswith(b"DELETE") else (_parse_receive, _parse_put, _parse_drop_in):
        parsed = parse(line, fields)
        if parsed is not None:
            # Only messages have bodies.
            if parsed.length and parsed.verb not in {"enqueue", "put", "put many"}:
                return None
            path = line.split(b" ")[1].partition(b"?")[0].decode()
            return msgspec.structs.replace(parsed, path=path)
    return None


@lru_cache(maxsize=HEADS_REMEMBERED)
def _parse_fields(block: bytes) -> Fields | None:
    if not _BLOCK.fullmatch(block):
        return None
    fields = [(name.lower(), value) for name, value in _FIELD.findall(block)]
    names = [name for name, _ in fields]
    values = dict(fields)
    if len(names) > MAX_HOT_FIELDS or not _COLD_FIELDS.isdisjoint(names):
        return None
    if any(names.count(name) > 1 for name in _SINGLE_FIELDS):
        return None
    host = values.get(b"host", b"")
    length = values.get(b"content-length", b"0")
    connection = values.get(b"connection", b"keep-alive").lower()
    if not _HOST.fullmatch(host) or not _LENGTH.fullmatch(length) or connection not in {b"keep-alive", b"close"}:
        return None
    trace_id = values.get(b"x-trace-id", b"")
    return Fields(
        length=int(length),
        trace_id=trace_id if tracing.acceptable(trace_id) else b"",
        last=connection == b"close",
        host=host,
        authorization=values.get(b"authorization", b""),
        content_type=values.get(b"content-type", b"").decode(),
        accept=values.get(b"accept", b"*/*").decode(),
    )


def _parse_drop_in(line: bytes, fields: Fields) -> Head | None:
    match = _DROP_IN.fullmatch(line)
    if match is None:
        return None
    if match[1] is not None:
        properties = _properties(fields.content_type)
        return Head("enqueue", "POST", fields.length, fields.trace_id, fields.last, fields, properties=properties)
    wait = float(match[2] or 0)
    if wait > MAX_WAIT:
        return None
    method = "GET" if line.startswith(b"GET") else "POST"
    return Head("dequeue", method, fields.length, fields.trace_id, fields.last, fields, wait=wait)


def _parse_put(line: bytes, fields: Fields) -> Head | None:
    match = _PUT.fullmatch(line)
    if match is None:
        return None
    queue = match[1].decode()
    if match[2] is None:
        properties = _properties(fields.content_type)
        return Head("put", "POST", fields.length, fields.trace_id, fields.last, fields, queue, properties)
    if fields.content_type not in {MSGPACK, JSON, NDJSON}:
        return None
    media_type = fields.content_type
    return Head(
        "put many", "POST", fields.length, fields.trace_id, fields.last, fields, queue, media_type=media_type
    )


def _parse_receive(line: bytes, fields: Fields) -> Head | None:
    match = _RECEIVE.fullmatch(line)
    if match is None:
        return None
    pairs = [pair.split(b"=") for pair in (match[3] or b"").split(b"&") if pair]
    given = {name.decode(): value.decode() for name, value in pairs}
    many = match[2] is not None
    limit = given.get("max", str(MAX_BATCH) if many else "1")
    wait = float(given.get("wait", "0"))
    visibility = float(given["visibility"]) if "visibility" in given else None
    if (
        len(given) < len(pairs)
        or ("max" in given and not many)
        or not limit.isdecimal()
        or not 1 <= int(limit) <= MAX_BATCH
        or wait > MAX_WAIT
        or (visibility or 0) > MAX_VISIBILITY
    ):
        return None
    media_type = ""
    if many:
        if fields.accept not in {"*/*", JSON, MSGPACK}:
            return None
        media_type = MSGPACK if fields.accept == MSGPACK else JSON
    return Head(
        "receive many" if many else "receive",
        "POST",
        fields.length,
        fields.trace_id,
        fields.last,
        fields,
        match[1].decode(),
        want=Want(int(limit), "ack" not in given, visibility),
        wait=wait,
        media_type=media_type,
    )


def _parse_ack(line: bytes, fields: Fields) -> Head | None:
    match = _ACK.fullmatch(line)
    if match is None:
        return None
    return Head("ack", "DELETE", fields.length, fields.trace_id, fields.last, fields, match[1].decode())


def _properties(content_type: str) -> Properties:
    kept = kept_type(content_type)
    return DEFAULTS if kept == OCTETS else Properties(kept)
