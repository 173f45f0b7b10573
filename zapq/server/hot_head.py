"""What a plainly written request says: the one tight grammar of the heads that are answered without h11.

A head is plain if it matches from the first byte to the last, and every field in it is known to make no difference
to how the request is read. For everything else the answer is None, and h11 decides. So a mistake here can make a
request slow, but not mean something else. What the request line may ask for is in `zapq/http/endpoints.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any

import msgspec

from zapq.core.headers import header_in
from zapq.errors import InvalidParameter, ZapqError
from zapq.http import tracing, wire
from zapq.http.endpoints import ENDPOINTS, Endpoint, Fill
from zapq.http.headers import headers_of
from zapq.http.plan import Asked, Frame, Plan
from zapq.http.plans import with_headers
from zapq.http.routing import Route, find_route
from zapq.limits import HEADS_REMEMBERED, MAX_HOT_FIELDS, MAX_HOT_HEAD_BYTES
from zapq.server.wire_guard import check_head
from zapq.service.operations import Operation

_LINE = re.compile(r"(GET|POST|DELETE) (/[0-9A-Za-z._/-]*)(?:\?([0-9A-Za-z._=&-]*))? HTTP/1\.1", re.ASCII)
_BEGINNINGS = tuple({
    b"POST / HTTP/1.1\r\n",  # of SQS
    *(f"{each.method} {each.path.partition('{')[0]}".encode() for each in ENDPOINTS if each.fast),
})
_BLOCK = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e]*\r\n)+\r\n")
FIELD = re.compile(rb"([^:]+):[\t ]*(.*?)[\t ]*\r\n")
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
    # Plain where they are: `cut_varying` takes them out.
    b"idempotency-key",
    b"x-trace-id",
})
_SINGLE_FIELDS = (b"host", b"content-length", b"connection", b"content-type", b"accept", b"authorization")
_ARGUMENT = re.compile(
    rb"/(?:receipts/([0-9A-Za-z-]{1,64})(?=[/? ])|messages/([0-9]{1,18})(?=[/? ])"
    rb"|messages\?(?:[0-9A-Za-z._=&-]*&)?"
    rb"(?:group=([0-9A-Za-z._:@/,~-]{1,128})|unique=([0-9A-Za-z._:@/,~-]{1,128}))(?=[& ]))"
)
_KEY = 4
"""Which of its groups is the key of a message."""
_CUT = {"", "-", "0"}
"""What `cut_argument` leaves in the place of what it cuts out. What it finds too odd to cut out is not plain."""
_VARYING = re.compile(
    # Where case makes no difference is said as narrowly as can be: each character there takes ten times as long.
    rb"\r\n(?:((?i:idempotency-key|x-trace-id)):[\t ]*([\x21-\x7e]{1,255})"
    rb"|((?i:traceparent|tracestate|baggage)|(?i:ce|zapq-header)-[!#$%&'*+.^_`|~0-9A-Za-z-]+):"
    rb"[\t ]*+((?:[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)?))[\t ]*(?=\r\n)"
)
"""What is cut out: a key or trace id, or a field that carries a header of a message."""


class Fields(msgspec.Struct, frozen=True):
    """What the fields of a plain head say."""

    length: int
    last: bool
    host: bytes
    """The host the client asks for."""
    authorization: bytes
    """The client's credential, or empty."""
    content_type: str
    accept: str


class Head(msgspec.Struct, frozen=True):
    """What the head of a plain request says."""

    endpoint: Endpoint
    queue: str
    length: int
    """Bytes of body behind it."""
    last: bool
    """Whether the client wants the connection closed after the answer."""
    plan: Plan
    """`REFUSED` if it is refused: `fill` raises why."""
    operation: Operation | None
    """What is to be done, if nothing in it differs from request to request."""
    stored: bool
    """Whether its body becomes messages."""
    fill: Fill | None
    render: Callable[[Plan, Any, Any, Frame], bytes]
    single: bool
    """Whether the answer is one message as it is."""
    large: bool
    """Whether it may take milliseconds."""
    trace: bytes = b""
    """The field with the client's trace id, or empty."""
    key: str = ""
    """The Idempotency-Key."""


REFUSED = Plan(None)


class Line(msgspec.Struct, frozen=True):
    """What the first line and the fields of a plain head say, before it is known whether it is let in."""

    route: Route
    query: str
    fields: Fields


def may_be_hot(start: bytes) -> bool:
    """Whether the begin of a request, its head not complete, is the begin of a plain one as far as one can see."""
    return (
        len(start) < MAX_HOT_HEAD_BYTES
        and any(line.startswith(start) or start.startswith(line) for line in _BEGINNINGS)
        and check_head(start) is None
    )


def cut_argument(head: bytes) -> tuple[bytes, str]:
    """Cut a receipt, message id, group or key out of a head; return the rest, which clients repeat, and it."""
    match = _ARGUMENT.search(head, 0, head.find(b"\r\n"))
    if match is None:
        return head, ""
    found = match.lastindex
    assert found is not None
    if found == _KEY and head.find(b"group=", 0, match.endpos) > 0:
        return head, ""  # of a message in a group, that would be taken for what was cut out
    start, end = match.span(found)
    return b"%b%b%b" % (head[:start], b"-" if found == 1 else b"0", head[end:]), match[found].decode()


class Varying(msgspec.Struct, frozen=True):
    """The fields of a head that differ from request to request."""

    key: bytes = b""
    """The Idempotency-Key."""
    trace_id: bytes = b""
    headers: Sequence[tuple[bytes, bytes]] = ()
    """Those that carry headers of a message, their names in lower case."""


_NOTHING = Varying()


def cut_varying(head: bytes) -> tuple[bytes, Varying] | None:
    """Take out the fields that differ from request to request; return the rest, and the fields.

    None if one of them is there twice: that is not plain.
    """
    parts = _VARYING.split(head)
    if len(parts) == 1:
        return head, _NOTHING
    key = trace_id = b""
    headers: dict[bytes, bytes] = {}
    # Between two pieces of the rest are the four groups of what was there, two of them None.
    for at in range(1, len(parts), _VARYING.groups + 1):
        once, text, carrier, value = parts[at : at + _VARYING.groups]
        if carrier:
            if carrier.lower() in headers:
                return None
            headers[carrier.lower()] = value
        elif once.lower() == b"x-trace-id":
            if trace_id:
                return None
            trace_id = text
        elif key:
            return None
        else:
            key = text
    return b"".join(parts[:: _VARYING.groups + 1]), Varying(key, trace_id, tuple(headers.items()))


def parse_head(head: bytes) -> Line | None:
    """Return what a request's head (with its empty line) says, or None if it is not plain.

    It is to be given without receipt, message id, group, key, and the fields that `cut_varying` takes out.
    """
    line, _, block = head.partition(b"\r\n")
    match = _LINE.fullmatch(line.decode("latin-1"))
    fields = parse_fields(block)
    if match is None or fields is None:
        return None
    route = find_route(match[1], match[2])
    if route is None or not route.endpoint.fast or route.argument not in _CUT:
        return None
    return Line(route, match[3] or "", fields)


def plan_head(line: Line, queues: str) -> Head:
    """Return what is to be done for a request that is let in; its client may know of the queues `queues`."""
    endpoint, fields = line.route.endpoint, line.fields
    plan, refuse = REFUSED, partial(_plan, line, queues)
    # It is raised anew for each request: an error holds what it was raised from.
    with suppress(ZapqError):
        plan = refuse()
    operation = plan.operation if endpoint.fill is None else None
    return Head(
        endpoint,
        line.route.queue,
        fields.length,
        fields.last,
        plan,
        operation,
        endpoint.body.stored,
        endpoint.fill if plan is not REFUSED else _raising(refuse),
        endpoint.render,
        not (endpoint.large or plan.asks_for_json),
        endpoint.large,
    )


def _raising(refuse: Callable[[], object]) -> Fill:
    def fill(*_: object, **__: object) -> Operation:
        refuse()
        raise AssertionError  # it was refused before

    return fill


def _plan(line: Line, queues: str) -> Plan:
    endpoint, fields = line.route.endpoint, line.fields
    values = wire.parameters(line.query, endpoint.takes)
    return endpoint.plan(Asked(line.route.queue, values, fields.content_type, fields.accept, queues=queues))


@lru_cache(maxsize=HEADS_REMEMBERED)
def parse_fields(block: bytes) -> Fields | None:
    """Return what the fields of a head (with its empty line) say, or None if they are not plain."""
    if not _BLOCK.fullmatch(block):
        return None
    fields = [(name.lower(), value) for name, value in FIELD.findall(block)]
    names = [name for name, _ in fields]
    values = dict(fields)
    if len(names) > MAX_HOT_FIELDS or not _COLD_FIELDS.isdisjoint(names):
        return None
    if any(header_in(name.decode()) is not None for name in names):
        return None  # `cut_varying` has found it too odd
    if any(names.count(name) > 1 for name in _SINGLE_FIELDS):
        return None
    host = values.get(b"host", b"")
    length = values.get(b"content-length", b"0")
    connection = values.get(b"connection", b"keep-alive").lower()
    if not _HOST.fullmatch(host) or not _LENGTH.fullmatch(length) or connection not in {b"keep-alive", b"close"}:
        return None
    return Fields(
        length=int(length),
        last=connection == b"close",
        host=host,
        authorization=values.get(b"authorization", b""),
        content_type=values.get(b"content-type", b"").decode(),
        accept=values.get(b"accept", b"").decode(),
    )


def vary(head: Head, varying: Varying) -> Head | None:
    """Return what a head says that has these fields as well; None if it is refused: the other road says why."""
    plan = head.plan
    if varying.headers and head.stored and plan is not REFUSED:
        try:
            plan = with_headers(plan, headers_of(varying.headers))
        except InvalidParameter:
            return None
    key = varying.key.decode() if head.endpoint.keyed else ""
    trace_id = varying.trace_id if tracing.acceptable(varying.trace_id) else b""
    if not trace_id:
        for name, value in varying.headers:
            if name == tracing.PARENT:
                trace_id = tracing.trace_of(value)
    trace = tracing.FIELD + trace_id if trace_id else b""
    return msgspec.structs.replace(head, plan=plan, key=key, trace=trace)
