"""What the actions on messages need to know of a queue, read from its settings once."""

from __future__ import annotations

import re
import zlib
from binascii import b2a_base64
from hashlib import blake2b
from typing import NamedTuple

from zapq.core.queue_settings import QueueSettings
from zapq.sqs.attributes import PURGED, is_fifo, number, text_of
from zapq.sqs.errors import bad_receipt
from zapq.sqs.names import CREATED
from zapq.sqs.noted import SCOPE

_HANDLE = re.compile(r"([0-9a-f]{8})\.([0-9a-f]{1,16})\.([0-9A-Za-z-]{1,64})", re.ASCII)
_LOW = (1 << 48) - 1
_REMEMBERED = 4096
"""Queues of which it is remembered."""


class Handle(NamedTuple):
    """What a receipt handle says."""

    id: int
    receipt: str


class QueueTerms(NamedTuple):
    """On what terms a queue takes and gives messages, and how it calls them."""

    delay: float
    wait: float
    most: int
    """Bytes of a message."""
    start: str
    """What the ids of its messages begin with."""
    fifo: bool
    by_content: bool
    """Whether a FIFO queue takes messages with the same body for duplicates."""
    key: str
    """What the keys of messages of a FIFO queue begin with."""
    by_group: bool
    """Whether each group of a FIFO queue has duplicates of its own."""
    check: str
    """What its handles begin with: so those of other queues, and of a namesake before it, are told apart."""

    def key_of(self, group: str, deduplication: str) -> str:
        """Return the key under which a message is stored once."""
        text = f"{self.key}{group} {deduplication}" if self.by_group else f"{self.key}{deduplication}"
        # A digest, as very many are known at once. No producer of the other dialect can give a key with a blank.
        digest = blake2b(text.encode(), digest_size=16).digest()
        return f"sqs {b2a_base64(digest)[:22].decode()}"

    def sequence_of(self, id: int) -> str | None:
        """Return the SequenceNumber of the message with this id; None in a standard queue."""
        return f"{id:020d}" if self.fifo else None

    def limit(self, max_message_bytes: int) -> int:
        """Return the bytes a message may have where the server takes so many."""
        return min(self.most, max_message_bytes)

    def message_id(self, id: int) -> str:
        """Return the MessageId of the message with this id: shaped like a UUID, and always the same."""
        return f"{self.start}000-{id:012x}" if id <= _LOW else f"{self.start}{id >> 48:03x}-{id & _LOW:012x}"

    def handle(self, id: int, receipt: str) -> str:
        """Return the receipt handle of a delivery: its receipt, the message's id, and a check."""
        return f"{self.check}.{id:x}.{receipt}"

    def parse_handle(self, text: str) -> Handle:
        """Return what a receipt handle says; `SqsError` if it is none, or of another queue."""
        match = _HANDLE.fullmatch(text)
        if match is None or match[1] != self.check:
            raise bad_receipt(text)
        return Handle(int(match[2], 16), match[3])


_known: dict[str, tuple[QueueSettings, QueueTerms]] = {}


def terms_of(queue: str, settings: QueueSettings) -> QueueTerms:
    """Return the terms of the queue with these settings."""
    known = _known.get(queue)
    if known is not None and (known[0] is settings or known[0] == settings):
        return known[1]
    digest = blake2b(f"{queue}\0{settings.notes.get(CREATED, '')}".encode(), digest_size=8).hexdigest()
    terms = QueueTerms(
        float(number(settings, "DelaySeconds")),
        float(number(settings, "ReceiveMessageWaitTimeSeconds")),
        number(settings, "MaximumMessageSize"),
        f"{digest[:8]}-{digest[8:12]}-4{digest[12:15]}-8",
        is_fifo(queue),
        text_of(settings, "ContentBasedDeduplication") == "true",
        f"sqs {settings.notes.get(PURGED, '')} ",
        settings.notes.get(SCOPE) == "messageGroup",
        f"{zlib.crc32(digest.encode()):08x}",
    )
    if len(_known) >= _REMEMBERED:
        _known.clear()
    _known[queue] = settings, terms
    return terms
