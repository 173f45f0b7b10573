"""What a connection can be at, in the lobby and in a task of its own: two tables, and the pictures of them.

In the lobby (`Guest`), where every state may also end in GONE:

    HANDSHAKE -> IDLE
    IDLE      -> HEAD BODY MORE PARKED COMMIT
    HEAD      -> IDLE BODY MORE PARKED COMMIT
    BODY      -> IDLE HEAD MORE PARKED COMMIT
    MORE      -> IDLE HEAD BODY PARKED COMMIT
    PARKED    -> IDLE
    COMMIT    -> IDLE

In a task (`Connection`), where every state may also end in BROKEN, and then in CLOSED:

    HANDSHAKE -> IDLE LINGERING
    FINISHING -> IDLE RETURNING LINGERING
    IDLE      -> HEAD BUSY RETURNING LINGERING
    HEAD      -> IDLE BUSY LINGERING
    BUSY      -> IDLE LINGERING
    RETURNING -> RETURNED LINGERING
    LINGERING ->
    RETURNED  ->

Where both meet, the lobby gives a guest that is GONE to a task, with what it has received (`Handoff`). A
connection that is RETURNED is a guest again, IDLE or with MORE to answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class GuestState(Enum):
    """What a connection in the lobby is at."""

    HANDSHAKE = "TLS is being agreed on."
    IDLE = "It is between two requests."
    HEAD = "Its client has sent a part of a head."
    BODY = "Its client has sent a head and a part of the body."
    MORE = "Its client has sent more than was answered in one go: the rest has its turn when it can take answers."
    PARKED = "A long poll of its client stands in line."
    COMMIT = "Its answers wait for the disk."
    GONE = "It is closed, or has a task."

    # Enum's own is written in Python, and states are looked up for each request.
    __hash__ = object.__hash__


class ConnectionState(Enum):
    """What a connection with a task is at."""

    HANDSHAKE = "TLS is being agreed on."
    FINISHING = "Answers that its client did not take in at once, or that wait for the disk, are being sent."
    IDLE = "It is between two requests; in HTTP/2, it has no open stream."
    HEAD = "Its client has sent a part of a head."
    BUSY = "A request is being received or answered."
    RETURNING = "It is between two requests, and goes back to the lobby as soon as its task reads no more."
    RETURNED = "The lobby has it."
    LINGERING = "Nothing more is sent; it is read from for a moment, so that its client gets no reset."
    BROKEN = "An answer could not be sent: the client will read neither that nor another."
    CLOSED = "It is closed."


_G, _C = GuestState, ConnectionState

GUEST: Mapping[GuestState, frozenset[GuestState]] = {
    _G.HANDSHAKE: frozenset({_G.IDLE, _G.GONE}),
    _G.IDLE: frozenset({_G.HEAD, _G.BODY, _G.MORE, _G.PARKED, _G.COMMIT, _G.GONE}),
    _G.HEAD: frozenset({_G.IDLE, _G.BODY, _G.MORE, _G.PARKED, _G.COMMIT, _G.GONE}),
    _G.BODY: frozenset({_G.IDLE, _G.HEAD, _G.MORE, _G.PARKED, _G.COMMIT, _G.GONE}),
    _G.MORE: frozenset({_G.IDLE, _G.HEAD, _G.BODY, _G.PARKED, _G.COMMIT, _G.GONE}),
    _G.PARKED: frozenset({_G.IDLE, _G.GONE}),
    _G.COMMIT: frozenset({_G.IDLE, _G.GONE}),
    _G.GONE: frozenset(),
}
"""What a guest's state may become."""

CONNECTION: Mapping[ConnectionState, frozenset[ConnectionState]] = {
    _C.HANDSHAKE: frozenset({_C.IDLE, _C.LINGERING, _C.BROKEN, _C.CLOSED}),
    _C.FINISHING: frozenset({_C.IDLE, _C.RETURNING, _C.LINGERING, _C.BROKEN, _C.CLOSED}),
    _C.IDLE: frozenset({_C.HEAD, _C.BUSY, _C.RETURNING, _C.LINGERING, _C.BROKEN, _C.CLOSED}),
    _C.HEAD: frozenset({_C.IDLE, _C.BUSY, _C.LINGERING, _C.BROKEN, _C.CLOSED}),
    _C.BUSY: frozenset({_C.IDLE, _C.LINGERING, _C.BROKEN, _C.CLOSED}),
    _C.RETURNING: frozenset({_C.LINGERING, _C.RETURNED, _C.BROKEN, _C.CLOSED}),
    _C.LINGERING: frozenset({_C.BROKEN, _C.CLOSED}),
    _C.RETURNED: frozenset(),
    _C.BROKEN: frozenset({_C.CLOSED}),
    _C.CLOSED: frozenset(),
}
"""What a connection's state may become."""
