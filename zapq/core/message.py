"""The nouns: a message, what its producer asked for, and the lease a consumer holds on it.

A message counts in the caps with its body and its headers: `Message.size`, and `Properties.size` for the part that
is not its body. The verbs that are done for each message write that out, and look at the headers first.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from math import inf
from typing import Annotated, Literal, NamedTuple

import msgspec

from zapq.core.headers import Headers, checked_headers, size_of
from zapq.limits import MAX_DELAY, MAX_PRIORITY

OCTETS = "application/octet-stream"
"""The type of a message whose producer named none."""


class Origin(NamedTuple):
    """What a message was where its producer sent it: that stays so, however often it changes queues."""

    queue: str
    id: int
    """The id its producer was told."""
    receives: int = 0
    """How often it was leased in the queues it has left."""

    def __str__(self) -> str:
        """Return where it was as answers say it: no name of a queue has a slash."""
        return f"{self.queue}/{self.id}"


class Properties(msgspec.Struct, frozen=True, gc=False):
    """All that is known of a message besides its bytes. Most messages have it in common with many others."""

    content_type: str = OCTETS
    priority: int = 0
    """0 to 9; 9 is served first."""
    expires: float = inf
    """When it is gone if no consumer has taken it by then, as a time of the clock `now` is read from."""
    receives: int = 0
    """How often it has been leased in its queue, and has come back."""
    releases: int = 0
    """How often it was given back without a delay."""
    failed_in: str = ""
    """The queue it failed in, if it is a dead letter."""
    headers: Headers = ()
    """What its producer said of it, by name in lower case, in the order given. Consumers get them as they are."""
    group: str = ""
    """The group within which messages are delivered in strict order; empty if it is in none."""
    unique: str = ""
    """The key that at most one message of its queue has at a time; empty if it has none."""
    arrived: float = 0.0
    """When it arrived, as a time of the clock `now` is read from; 0 if no queue it was in has a retention."""
    origin: Origin | None = None
    """What it was where it came from, if it has changed queues."""

    @property
    def size(self) -> int:
        """The bytes that each message with these properties counts beside its body: those of its headers."""
        return size_of(self.headers) if self.headers else 0

    @property
    def received_before(self) -> int:
        """How often it was leased in the queues it has left."""
        return self.origin.receives if self.origin is not None else 0

    @property
    def is_short(self) -> bool:
        """Whether there are no headers, nor anything that stands behind them here: most need not be written."""
        return not (self.headers or self.group or self.unique or self.arrived or self.origin)


DEFAULTS = Properties()

CONTENT_TYPE = r"[\x21-\x7e][\x20-\x7e]{0,254}"
"""What a stored Content-Type looks like: it can stand in the head of an answer as it is."""
GROUP = r"[\x21-\x7e]{1,128}"
"""What the key of a group looks like: it can stand in the head of an answer as well."""
UNIQUE = GROUP
"""What the key of a message that is unique looks like."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message: its place in line and its producer's bytes.

    `gc=False`: a message can be part of no reference cycle, and a deque of ten million tracked objects
    would turn every full garbage collection into a pause that clients feel.
    """

    id: int
    """Its sequence number: grows by one for each message a queue accepts, never reused while the queue exists."""
    body: bytes
    properties: Properties = DEFAULTS

    @property
    def about(self) -> Properties:
        """Return `properties`, under the name it had before 1.0.0; deprecated."""
        warnings.warn("Message.about is now Message.properties.", DeprecationWarning, stacklevel=2)
        return self.properties

    @property
    def content_type(self) -> str:
        """The Content-Type its producer gave."""
        return self.properties.content_type

    @property
    def priority(self) -> int:
        """0 to 9; 9 is served first."""
        return self.properties.priority

    @property
    def headers(self) -> dict[str, str]:
        """What its producer said of it, by name in lower case."""
        return dict(self.properties.headers)

    @property
    def group(self) -> str:
        """The group within which messages are delivered in strict order; empty if it is in none."""
        return self.properties.group

    @property
    def size(self) -> int:
        """The bytes it counts in the caps: body and headers."""
        return len(self.body) + self.properties.size

    def moved(self, queue: str, failed_in: str = "") -> Properties:
        """Return what is known of a message that goes from `queue` to another one; its origin stays the same.

        The deliveries it may have begin anew there, and it has no ttl. A dead letter names the queue in which it
        failed, and has arrived when it did there; one that is sent back arrives anew.
        """
        properties = self.properties
        origin = properties.origin or Origin(queue, self.id)
        return Properties(
            properties.content_type,
            properties.priority,
            failed_in=failed_in,
            headers=properties.headers,
            group=properties.group,
            unique=properties.unique,
            arrived=properties.arrived if failed_in else 0.0,
            origin=origin._replace(receives=origin.receives + properties.receives),
        )

    @property
    def rank(self) -> int:
        """Its place in the order of its queue, smaller first: by priority, then by id."""
        return self.id - (self.properties.priority << 56)


def owned_body(body: object) -> bytes:
    """Return a body as bytes of its own, which nothing changes later; raises `TypeError` unless it is bytes.

    Text is an easy mistake, and would be found out much later.
    """
    if isinstance(body, bytes):
        return body
    if not isinstance(body, bytearray | memoryview):
        raise TypeError(f"A body is bytes, not {type(body).__name__}: of text, send text.encode().")
    # A view may have items of several bytes: what `len` says of it is not how long it is.
    return bytes(body)


def owned_bodies(content: bytes | Sequence[bytes | Draft]) -> bytes | Sequence[bytes | Draft]:
    """Return what was offered with each body as `owned_body` does: bytes, or a sequence of bytes and drafts."""
    if isinstance(content, bytes | bytearray | memoryview | str) or not isinstance(content, Sequence):
        return owned_body(content)
    if _PLAIN.issuperset(map(type, content)):
        return content
    return [_owned(each) for each in content]


def _owned(each: object) -> bytes | Draft:
    if not isinstance(each, Draft):
        return owned_body(each)
    body = owned_body(each.body)
    return each if body is each.body else msgspec.structs.replace(each, body=body)


_PLAIN = {bytes}


class Draft(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """A message to be stored, as its producer asks for it. Durations are seconds."""

    body: bytes
    priority: Annotated[int, msgspec.Meta(ge=0, le=MAX_PRIORITY)] = 0
    delay: Annotated[float, msgspec.Meta(ge=0, le=MAX_DELAY)] = 0.0
    ttl: Annotated[float, msgspec.Meta(gt=0, le=MAX_DELAY)] | None = None
    content_type: Annotated[str, msgspec.Meta(pattern=rf"^{CONTENT_TYPE}\Z")] = OCTETS
    headers: dict[str, str] | None = None
    """At most 16, of at most 8 KiB together; names are without regard to case."""
    group: Annotated[str, msgspec.Meta(pattern=rf"^(?:{GROUP})?\Z")] = ""
    """The group it belongs to; a message of a group has no priority."""
    unique: Annotated[str, msgspec.Meta(pattern=rf"^(?:{UNIQUE})?\Z")] = ""
    """The key that at most one message of its queue has at a time."""
    on: Literal["keep", "replace"] = "keep"
    """`keep` stores nothing if a message with this key is held; `replace` gives that one the new content."""

    def properties(self, now: float) -> Properties:
        """Return all that is to be known of the message besides its bytes, if it is sent now.

        Raises `InvalidParameter`.
        """
        expires = inf if self.ttl is None else now + self.ttl
        headers = checked_headers(self.headers.items()) if self.headers else ()
        return Properties(
            self.content_type, self.priority, expires, headers=headers, group=self.group, unique=self.unique
        )

    @property
    def size(self) -> int:
        """The bytes the message will count in the caps."""
        return len(self.body) + (size_of(tuple(self.headers.items())) if self.headers else 0)


class Lease(msgspec.Struct, frozen=True, gc=False):
    """One delivery of a message to one consumer, which alone may acknowledge it until `deadline`."""

    message: Message
    serial: int
    """The delivery's number, unique in the process."""
    receives: int
    """How often the message has been leased in its queue, this time included."""
    deadline: float
    """When the message goes back, as a time of the clock `now` is read from."""
    tag: str
    """Which queue of which process gave it."""
    visibility: float = 0.0
    """For how many seconds it was given; an extension lasts as long unless its holder says otherwise."""
    queue: str = ""
    """The name of the queue it came from."""

    @property
    def id(self) -> int:
        """The message's id."""
        return self.message.id

    @property
    def receive_count(self) -> int:
        """How often the message has been leased, this time included, in this queue and in those it has left."""
        return self.receives + self.message.properties.received_before

    @property
    def content_type(self) -> str:
        """The Content-Type the message's producer gave."""
        return self.message.properties.content_type

    @property
    def headers(self) -> dict[str, str]:
        """What the message's producer said of it, by name in lower case."""
        return dict(self.message.properties.headers)

    @property
    def group(self) -> str:
        """The group within which messages are delivered in strict order; empty if it is in none."""
        return self.message.properties.group

    @property
    def origin(self) -> str:
        """The queue its producer sent it to, and its id there: `queue/id`, if it has changed queues since."""
        return str(self.message.properties.origin or "")

    @property
    def receipt(self) -> str:
        """The handle by which its holder acknowledges, releases or extends it. A handle, not a secret."""
        return f"{self.tag}-{self.serial:x}"

    @property
    def body(self) -> bytes:
        """The message's bytes."""
        return self.message.body
