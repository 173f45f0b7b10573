"""The noun everything else is about."""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message: its place in line and the bytes somebody entrusted to us.

    `gc=False`: a message can be part of no reference cycle, and a deque of ten million tracked objects
    would turn every full garbage collection into a pause that clients feel.
    """

    id: int
    """Its sequence number: grows by one for each message accepted, never reused while the process lives."""
    body: bytes
