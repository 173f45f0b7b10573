"""Which messages of a producer go together: values only, for producers of tasks and of threads alike."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Literal

from zapq.client.calls import Calls
from zapq.client.talk import Talk
from zapq.core.message import OCTETS, Draft, owned_body
from zapq.errors import InvalidParameter, MessageTooLarge, NoAnswer, Unreachable, ZapqError
from zapq.limits import MAX_BATCH

_MESSAGE_BYTES = 64
"""What a message takes beside its bytes, about."""


class Batch:
    """Messages that are sent together, under one Idempotency-Key."""

    __slots__ = ("key", "messages", "results", "since", "size", "told")

    def __init__(self, now: float) -> None:
        self.key = secrets.token_hex(16)
        self.messages: list[bytes | Draft] = []
        self.size = 0
        self.since = now
        """When its first message came."""
        self.results: list[int | ZapqError] = []
        """What became of each message, once that is known: its id, or why it was refused."""
        self.told = True
        """Whether every message has a task or thread that waits for it, and so is told of an error."""

    def result(self, place: int) -> int:
        """Return the id of a message, or raise the error that refused it."""
        result = self.results[place]
        if isinstance(result, ZapqError):
            raise result.anew() if len(self.results) > 1 else result
        return result

    @property
    def error(self) -> ZapqError | None:
        """The first of its errors."""
        return next((each for each in self.results if isinstance(each, ZapqError)), None)


class Batcher:
    """Fills one batch while another one is on its way. Never holds more than these two."""

    def __init__(self, linger: float, max_messages: int, max_bytes: int) -> None:
        if not 1 <= max_messages <= MAX_BATCH:
            raise InvalidParameter(f"max_messages must be 1 to {MAX_BATCH}.", parameter="max_messages")
        if max_bytes < 1 or linger < 0:
            raise InvalidParameter("max_bytes must be 1 or more, and linger 0 or more.", parameter="max_bytes")
        self._linger = linger
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._filling: Batch | None = None
        self._hurried = False
        self.sending: Batch | None = None
        """The one on its way."""

    def add(self, message: bytes | Draft, now: float, *, told: bool = True) -> tuple[Batch, int] | None:
        """Put a message into the batch that is being filled, and return its place; None if there is no room."""
        size = (len(message) if isinstance(message, bytes) else message.size) + _MESSAGE_BYTES
        batch = self._filling
        if batch is None:
            batch = self._filling = Batch(now)
        elif self.full or batch.size + size > self._max_bytes:
            self._hurried = True
            return None
        batch.messages.append(message)
        batch.size += size
        batch.told &= told
        return batch, len(batch.messages) - 1

    @property
    def full(self) -> bool:
        """Whether the batch that is being filled takes no more."""
        batch = self._filling
        return batch is not None and (len(batch.messages) >= self._max_messages or batch.size >= self._max_bytes)

    def hurry(self) -> None:
        """Have what there is sent without waiting for more."""
        self._hurried = self._filling is not None

    def due(self) -> float | None:
        """Return when the batch that is being filled is to be sent; None if there is none."""
        if self._filling is None:
            return None
        return self._filling.since + (0.0 if self._hurried or self.full else self._linger)

    def take(self) -> Batch:
        """Return the batch that is to be sent now; from here on the next one is filled."""
        assert self._filling is not None, "it is due"
        self.sending, self._filling, self._hurried = self._filling, None, False
        return self.sending

    def give_up(self) -> None:
        """Say of all messages that are not stored that they will not be sent any more."""
        if self._filling is not None:
            closed = Unreachable("The producer was closed before it sent this message.")
            self._filling.results = [closed] * len(self._filling.messages)
        if self.sending is not None:
            unknown = NoAnswer("The producer was closed while this message was on its way: it may be stored.")
            self.sending.results = [unknown] * len(self.sending.messages)

    def unsent(self) -> list[bytes | Draft]:
        """Return the messages of which it is not known that they are stored."""
        return [message for batch in self._unstored() for message in batch.messages]

    def lost(self) -> ZapqError | None:
        """Return what `give_up` said of the first of those, if there are any."""
        return next((batch.error for batch in self._unstored()), None)

    def _unstored(self) -> list[Batch]:
        return [batch for batch in (self.sending, self._filling) if batch is not None]


def message_of(
    body: bytes,
    priority: int,
    delay: float,
    ttl: float | None,
    content_type: str,
    headers: Mapping[str, str] | None,
    group: str,
    unique: str,
    on: Literal["keep", "replace"],
) -> bytes | Draft:
    """Return what a batch has of a message: its bytes, if they are all there is to say."""
    if type(body) is not bytes:
        body = owned_body(body)
    if priority or delay or ttl is not None or content_type is not OCTETS or headers or group or unique:
        return Draft(
            body=body,
            priority=priority,
            delay=delay,
            ttl=ttl,
            content_type=content_type,
            headers=dict(headers) if headers else None,
            group=group,
            unique=unique,
            on=on,
        )
    return body


async def store(talk: Talk, calls: Calls, queue: str, batch: Batch) -> None:
    """Send a batch until it is known what became of each of its messages.

    The server stores all or nothing. If a message is wrong, each is sent by itself, so that the others are stored.
    """
    messages = batch.messages
    try:
        call = calls.put_many(queue, messages, headers=None, durability=None, wait=0.0, key=batch.key)
        batch.results = [*(await talk.do(call)).ids]
    except (InvalidParameter, MessageTooLarge) as error:
        if len(messages) == 1:
            batch.results = [error]
            return
        results: list[int | ZapqError] = []
        for place, message in enumerate(messages):
            one = Batch(0.0)
            one.key, one.messages = f"{batch.key}-{place}", [message]
            await store(talk, calls, queue, one)
            results += one.results
        batch.results = results
    except ZapqError as error:
        batch.results = [error] * len(messages)
